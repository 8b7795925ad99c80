//! https and wss, by a TLS client that is not the hub's: the same hub behind it, and certificates that come and go.
//!
//! The clients of the other tests speak through a small tunnel that does the TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::common::spawned::run;
use crate::common::*;

/// A certificate for 127.0.0.1 that nobody else has signed, and its key.
fn write_pair(dir: &Path) -> CertificateDer<'static> {
    let pair = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    // The key first: in between, the hub meets a pair that does not belong together.
    std::fs::write(dir.join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.join("cert.pem"), pair.cert.pem()).unwrap();
    pair.cert.der().clone()
}

fn hub_with_tls(dir: &TempDir, more: &str) -> TestHub {
    let file = |name: &str| dir.path().join(name).display().to_string();
    let toml = format!("[server]\ntls_cert = {:?}\ntls_key = {:?}\n{more}", file("cert.pem"), file("key.pem"));
    TestHub::plan().toml(&toml).start()
}

async fn handshake(hub: SocketAddr, trusted: &CertificateDer<'static>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(versions.with_root_certificates(roots).with_no_client_auth()));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    connector.connect(name, TcpStream::connect(hub).await?).await
}

/// An address where the hub can be spoken to without TLS.
async fn tunnel(hub: SocketAddr, trusted: CertificateDer<'static>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let trusted = trusted.clone();
            tokio::spawn(async move {
                let mut far = handshake(hub, &trusted).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn everything_works_over_tls_and_nothing_without() {
    let dir = TempDir::new();
    let cert = write_pair(dir.path());
    let hub = hub_with_tls(&dir, "");
    let address = tunnel(hub.address, cert).await;
    let token = hub.token(&["*"]);
    let mut ws = WsClient::connect(address, Some(&token)).await;
    ws.subscribe(&["a", "b"]).await;
    let path = format!("/sse?channel=a&token={token}");
    let mut stream = SseClient::open(address, &path, None).await.unwrap_or_else(|refused| panic!("{refused:?}"));
    stream.expect("subscribed").await;

    let mut http = Http::connect(address, Some(hub.keys.admin_key())).await;
    let publish = async |http: &mut Http, payload: Json| {
        http.post("/api/v1/publish", json!({"channel": "a", "payload": payload}).to_string()).await.ok()
    };
    for n in 1..=200 {
        publish(&mut http, json!(n)).await;
    }
    ws.read_to("a", 200).await.assert_exactly(1, 200);
    stream.read_to("a", 200).await.assert_exactly(1, 200);

    // Far more than any buffer on the way, replayed at once.
    let large = "x".repeat(60_000);
    for _ in 0..100 {
        publish(&mut http, json!(large)).await;
    }
    ws.read_to("a", 300).await.assert_exactly(201, 300);
    stream.read_to("a", 300).await.assert_exactly(201, 300);
    let mut late = WsClient::connect(address, Some(&token)).await;
    late.resume("a", 0).await;
    late.read_to("a", 300).await.assert_exactly(1, 300);
    late.close().await;
    let page = http.get("/api/v1/history?channel=a&limit=50&after_seq=200").await.ok();
    assert_eq!(page["messages"].as_array().unwrap().len(), 50);
    ws.assert_silent().await;

    let mut plain = Http::connect(hub.address, None).await;
    assert!(plain.try_send("GET", "/healthz", &[], b"").await.is_err(), "no answer without TLS");
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_a_bad_one_changes_nothing() {
    let dir = TempDir::new();
    let old = write_pair(dir.path());
    let hub = hub_with_tls(&dir, "");
    let address = tunnel(hub.address, old.clone()).await;
    let mut inside = WsClient::connect(address, Some(&hub.token(&["*"]))).await;
    std::fs::write(dir.path().join("cert.pem"), "nonsense").unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    handshake(hub.address, &old).await.expect("the old one is still there");
    let new = write_pair(dir.path());
    until("new connections get the new certificate", async || handshake(hub.address, &new).await.is_ok()).await;
    assert!(handshake(hub.address, &old).await.is_err());
    inside.subscribe(&["c"]).await;
}

#[tokio::test]
async fn who_does_not_finish_its_handshake_or_sends_nothing_after_it_is_let_go() {
    let dir = TempDir::new();
    let cert = write_pair(dir.path());
    let hub = hub_with_tls(&dir, "header_timeout = \"5s\"\n[limits]\nconnections = 3");
    let began = Instant::now();
    let mut silent = TcpStream::connect(hub.address).await.unwrap();
    let mut half = TcpStream::connect(hub.address).await.unwrap();
    half.write_all(&[0x16, 3, 1, 0, 200, 1, 0]).await.unwrap();
    let mut shaken = handshake(hub.address, &cert).await.unwrap();
    assert!(handshake(hub.address, &cert).await.is_err(), "a fourth finds no place, and no handshake is spent on it");
    for (what, stream) in [("silent", &mut silent), ("half", &mut half)] {
        let end = within(DEADLINE, what, stream.read(&mut [0; 64])).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{what}: {end:?}");
    }
    let _ = within(DEADLINE, "shaken", shaken.read(&mut [0; 64])).await;
    assert!(began.elapsed() < 2 * DEADLINE, "{:?}", began.elapsed());
    until("there is room again", async || handshake(hub.address, &cert).await.is_ok()).await;
}

#[test]
fn a_pair_that_is_no_good_does_not_start_and_the_message_names_the_file() {
    let (dir, other) = (TempDir::new(), TempDir::new());
    write_pair(dir.path());
    write_pair(other.path());
    let check = |cert: &str, key: &str| {
        let env = [
            ("AETHER_SERVER_TLS_CERT", cert),
            ("AETHER_SERVER_TLS_KEY", key),
            ("AETHER_PLUGINS_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/plugins")),
        ];
        let output = run(dir.path(), &["check"], &env);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check("cert.pem", "key.pem"), (Some(0), String::new()));
    let foreign = other.path().join("key.pem").display().to_string();
    for (cert, key, words) in [
        ("cert.pem", "", "server.tls_cert is of no use without server.tls_key"),
        ("", "key.pem", "server.tls_key is of no use without server.tls_cert"),
        ("absent.pem", "key.pem", "server.tls_cert absent.pem: cannot be read"),
        ("cert.pem", "absent.pem", "server.tls_key absent.pem: cannot be read"),
        ("key.pem", "key.pem", "server.tls_cert key.pem: there is none in it"),
        ("cert.pem", "cert.pem", "server.tls_key cert.pem: there is none in it"),
        ("cert.pem", &foreign, "does not go with the certificate in cert.pem"),
    ] {
        let (code, said) = check(cert, key);
        assert!(code == Some(1) && said.contains(words), "{cert} {key}: {said}");
    }
}

#[tokio::test]
async fn the_clients_of_the_shell_speak_tls_and_only_to_whom_they_trust() {
    let dir = TempDir::new();
    write_pair(dir.path());
    dir.write("aether.toml", "[server]\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n");
    let hub = Spawned::start(dir.path());
    let url = format!("https://{}", hub.address);
    let ca = dir.path().join("cert.pem").display().to_string();
    let elsewhere = TempDir::new();
    let (key, token) = (hub.admin_key.clone(), hub.token(&["*"]));
    let env = [("AETHER_KEY", key.as_str()), ("AETHER_TOKEN", token.as_str())];
    let said = |at: &TempDir, arguments: &[&str]| {
        let output = run(at.path(), arguments, &env);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let trusting = [&["--url", &url, "--ca", &ca][..], &["--url", &url, "--insecure"]];
    for (n, trust) in (1..).zip(trusting) {
        let (code, out, err) = said(&elsewhere, &[&["pub", "a", &n.to_string()], trust].concat());
        assert!(code == Some(0) && out.contains(&format!("\"seq_id\":{n}")), "{trust:?}: {out}{err}");
        let count = n.to_string();
        let (code, out, err) = said(&elsewhere, &[&["sub", "a", "--since", "0", "--count", &count], trust].concat());
        assert!(code == Some(0) && out.lines().count() == n, "{trust:?}: {out}{err}");
    }
    // By `wss`, and where the hub's own settings say who it is; its certificate is for another name than its address.
    let wss = url.replace("https", "wss");
    assert_eq!(
        said(&elsewhere, &["sub", "a", "--since", "1", "--count", "1", "--url", &wss, "--ca", &ca]).1,
        "a 2 2\n"
    );
    let addr = format!("[server]\naddr = \"{}\"\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n", hub.address);
    dir.write("aether.toml", &addr);
    assert_eq!(said(&dir, &["sub", "a", "--since", "1", "--count", "1"]).1, "a 2 2\n");

    write_pair(elsewhere.path());
    let stranger = elsewhere.path().join("cert.pem").display().to_string();
    for (arguments, word) in [
        (&["--url", &url][..], "--ca FILE"),
        (&["--url", &url, "--ca", &stranger], "--ca FILE"),
        (&["--url", &url, "--ca", "absent.pem"], "absent.pem"),
    ] {
        for verb in [&["pub", "a", "1"][..], &["sub", "a"]] {
            let (code, out, err) = said(&elsewhere, &[verb, arguments].concat());
            assert!(code == Some(1) && out.is_empty() && err.contains(word), "{verb:?} {arguments:?}: {err}");
        }
    }
    let plain = Spawned::start(elsewhere.path());
    let (code, _, err) =
        said(&elsewhere, &["pub", "a", "1", "--url", &format!("https://{}", plain.address), "--insecure"]);
    assert!(code == Some(1) && err.contains("TLS"), "{err}");
}

#[tokio::test]
async fn a_certificate_that_says_it_is_an_authority_is_good_if_it_is_the_one_that_was_named() {
    let dir = TempDir::new();
    let key = rcgen::KeyPair::generate().unwrap();
    for (name, shown) in [("127.0.0.1", true), ("hub.example", false)] {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        dir.write("cert.pem", &params.self_signed(&key).unwrap().pem());
        dir.write("key.pem", &key.serialize_pem());
        dir.write("aether.toml", "[server]\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n");
        let hub = Spawned::start(dir.path());
        let url = format!("https://{}", hub.address);
        let env = [("AETHER_KEY", hub.admin_key.as_str())];
        let output = run(dir.path(), &["pub", "a", "1", "--url", &url, "--ca", "cert.pem"], &env);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), shown, "for {name}: {said}");
    }
}

#[tokio::test]
async fn the_operators_commands_go_to_the_operators_listener() {
    let dir = TempDir::new();
    write_pair(dir.path());
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for admin in [free(), SocketAddr::from(([0, 0, 0, 0], free().port()))] {
        let settings = format!("[server]\nadmin_addr = \"{admin}\"\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n");
        dir.write("aether.toml", &settings);
        let _hub = Spawned::start(dir.path());
        let output = run(dir.path(), &["reload"], &[]);
        assert!(output.status.success(), "{admin}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn a_listener_for_the_operator_that_others_can_reach_speaks_tls_too() {
    let dir = TempDir::new();
    let cert = write_pair(dir.path());
    // On all addresses: this machine reaches it by loopback, and so could others by theirs.
    let hub = hub_with_tls(&dir, "admin_addr = \"0.0.0.0:0\"\n");
    let admin = SocketAddr::from(([127, 0, 0, 1], hub.admin_address.port()));
    let mut plain = Http::connect(admin, Some(hub.keys.admin_key())).await;
    assert!(plain.try_send("GET", "/status", &[], b"").await.is_err(), "no answer without TLS");
    let address = tunnel(admin, cert).await;
    let mut operator = Http::connect(address, Some(hub.keys.admin_key())).await;
    assert_eq!(operator.get("/status").await.status, 200);
    assert_eq!(operator.get("/api/v1/channels").await.status, 200);

    let dir = TempDir::new();
    write_pair(dir.path());
    let hub = hub_with_tls(&dir, "admin_addr = 0\n");
    assert_eq!(
        Http::connect(hub.admin_address, None).await.get("/metrics").await.status,
        200,
        "on loopback it needs none"
    );
}
