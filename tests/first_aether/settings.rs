//! Its settings and its environment: what they were called there they may be called here.

use crate::common::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const API_KEY: &str = "aek_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// Every key that it had, as a file of ours.
const FILE: &str = r#"
[server]
addr = ":8080"
tls_cert = ""
tls_key = ""
max_payload_size = 1024

[database]
dsn = "postgres://aether:hunter2@localhost:5432/aether?sslmode=disable"
max_open_conns = 25
max_idle_conns = 10
conn_max_idle_time = "5m"
conn_max_lifetime = "30m"

[auth]
jwt_signing_key = "0123456789abcdef0123456789abcdef"
jwt_clock_skew = "30s"
api_keys = [{ key = "aek_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", description = "shop" }]

[websocket]
ping_interval = "30s"
pong_timeout = "60s"
outbound_buffer = 256
max_message_size = 65536
allowed_origins = ["https://app.example.com"]

[retention]
default_ttl = "720h"
default_max_count = 10000
eviction_interval = "1s"
rules = [{ pattern = "iot.*", ttl = "1h", max_count = 5 }, { pattern = "audit", ttl = "8760h", max_count = 100000 }]

[shutdown]
timeout = "10s"

[log]
level = "info"
format = "json"
"#;

/// And every variable.
const ENVIRONMENT: [(&str, &str); 21] = [
    ("AETHER_SERVER_ADDR", ":8080"),
    ("AETHER_SERVER_TLS_CERT", ""),
    ("AETHER_SERVER_TLS_KEY", ""),
    ("AETHER_SERVER_MAX_PAYLOAD_SIZE", "1024"),
    ("AETHER_DATABASE_DSN", "postgres://aether:hunter2@localhost:5432/aether"),
    ("AETHER_DATABASE_MAX_OPEN_CONNS", "25"),
    ("AETHER_DATABASE_MAX_IDLE_CONNS", "10"),
    ("AETHER_DATABASE_CONN_MAX_IDLE_TIME", "5m"),
    ("AETHER_DATABASE_CONN_MAX_LIFETIME", "30m"),
    ("AETHER_AUTH_JWT_SIGNING_KEY", KEY),
    ("AETHER_AUTH_JWT_CLOCK_SKEW", "30s"),
    ("AETHER_WEBSOCKET_PING_INTERVAL", "30s"),
    ("AETHER_WEBSOCKET_PONG_TIMEOUT", "60s"),
    ("AETHER_WEBSOCKET_OUTBOUND_BUFFER", "256"),
    ("AETHER_WEBSOCKET_MAX_MESSAGE_SIZE", "65536"),
    ("AETHER_RETENTION_DEFAULT_TTL", "720h"),
    ("AETHER_RETENTION_DEFAULT_MAX_COUNT", "10000"),
    ("AETHER_RETENTION_EVICTION_INTERVAL", "5m"),
    ("AETHER_SHUTDOWN_TIMEOUT", "10s"),
    ("AETHER_LOG_LEVEL", "info"),
    ("AETHER_LOG_FORMAT", "json"),
];

fn claims(channels: &[&str]) -> String {
    let none: [&str; 0] = [];
    aether::keys::Claims::new("u", channels, &none, DEADLINE * 10).sign(KEY).unwrap()
}

#[tokio::test]
async fn a_file_with_every_key_of_it_starts_a_hub_that_does_what_they_say() {
    let dir = TempDir::new();
    dir.write("aether.toml", FILE);
    let mut hub = Spawned::start(dir.path());
    let mut ws = WsClient::connect(hub.address, Some(&claims(&["iot.*"]))).await;
    ws.subscribe(&["iot.1"]).await;
    let mut http = Http::connect(hub.address, Some(API_KEY)).await;
    for n in 1..=20 {
        http.post("/api/v1/publish", json!({"channel": "iot.1", "payload": n}).to_string()).await.ok();
    }
    ws.read_to("iot.1", 20).await.assert_exactly(1, 20);
    let rest = async |http: &mut Http| {
        let kept = http.get("/api/v1/history?channel=iot.1").await.ok();
        kept["messages"].as_array().unwrap().iter().map(|message| message["seq_id"].clone()).collect::<Vec<_>>()
    };
    let mut looking = Http::connect(hub.address, Some(API_KEY)).await;
    until("the rule keeps five", async || rest(&mut looking).await == [16, 17, 18, 19, 20]).await;
    let large = json!({"channel": "iot.1", "payload": "x".repeat(1024)}).to_string();
    assert_eq!(http.post("/api/v1/publish", large).await.error(), (413, 41301));
    // Each key of the settings was an admin's.
    let mut admin = Http::connect(hub.address, Some(API_KEY)).await;
    let keys = admin.get("/api/v2/keys").await.ok();
    assert!(keys["keys"].as_array().unwrap().iter().any(|key| key["name"] == "shop"), "{keys}");
    let path = format!("/ws?token={}", claims(&["*"]));
    assert!(WsClient::open(hub.address, &path, &[("origin", "https://app.example.com")], None).await.is_ok());
    assert_eq!(WsClient::refusal(hub.address, &path, &[("origin", "https://evil.example")]).await.0, 403);
    hub.signal("TERM");
    assert_eq!(hub.wait().await.code(), Some(0));
    let said = hub.stderr();
    for line in ["aether.toml:9:7: database.dsn does nothing here", "websocket.outbound_buffer does nothing here"] {
        assert!(said.contains(line), "{line}\nis not in\n{said}");
    }
    assert!(!said.contains("hunter2") && !said.contains(API_KEY) && !said.contains(KEY), "{said}");
}

#[tokio::test]
async fn its_environment_starts_a_hub_unchanged() {
    let dir = TempDir::new();
    let hub = Spawned::start_with(dir.path(), "127.0.0.1:0", &ENVIRONMENT);
    let mut ws = WsClient::connect(hub.address, Some(&claims(&["a"]))).await;
    ws.subscribe(&["a"]).await;
    let mut http = Http::connect(hub.address, Some(&hub.admin_key)).await;
    let large = json!({"channel": "a", "payload": "x".repeat(1024)}).to_string();
    assert_eq!(http.post("/api/v1/publish", large).await.error(), (413, 41301));
}

#[test]
fn check_says_what_does_nothing_and_strict_refuses_it() {
    let dir = TempDir::new();
    let plugins = repository().join("plugins");
    dir.write("aether.toml", &format!("{FILE}\n[plugins]\ndir = {:?}\n", plugins.display().to_string()));
    let said = crate::common::spawned::run(dir.path(), &["check"], &[]);
    let err = String::from_utf8(said.stderr).unwrap();
    assert!(said.status.success(), "{err}");
    assert_eq!(err.matches("does nothing here").count(), 6, "{err}");
    let strict = crate::common::spawned::run(dir.path(), &["check", "--strict"], &[]);
    assert_eq!(strict.status.code(), Some(1));
}
