//! Who may come in, how many of them, and who is believed to be somebody else.

use crate::common::*;

/// Nobody gets in, and hears from where the rules take them to come.
const SAYS_IP: &str = r#"aether.on.connect(function(req) return aether.deny("ip", req.ip) end)"#;

#[tokio::test]
async fn beyond_the_most_connections_one_more_is_told_so_and_room_comes_back() {
    let hub = TestHub::plan().toml("[limits]\nconnections = 5").start();
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut ws = hub.ws().await;
        ws.subscribe(&["c"]).await;
        held.push(ws);
    }
    let mut last = hub.http().await;
    assert_eq!(last.get("/healthz").await.status, 200);
    let mut one_more = hub.http().await;
    // A request of some size that nobody reads must not cost the client its answer.
    let body = "x".repeat(30_000);
    let refused = one_more.post("/api/v1/publish", &body).await;
    assert_eq!((refused.error(), refused.header("retry-after")), ((503, 50303), Some("1")));
    assert_eq!(refused.json()["error"]["reason"], "too_many_connections");
    assert!(one_more.is_closed().await);
    assert!(last.get("/metrics").await.text().contains("\naether_connections_refused_total 1\n"));
    held.pop();
    until("there is room again", async || {
        let mut http = hub.http().await;
        http.try_send("GET", "/healthz", &[], b"").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
}

#[tokio::test]
async fn one_address_may_not_take_all_the_places() {
    let hub = TestHub::plan().toml("[limits]\nconnections_per_ip = 3").start();
    let held = [hub.ws().await, hub.ws().await, hub.ws().await];
    assert_eq!(hub.http().await.get("/healthz").await.error(), (503, 50303));
    drop(held);
    until("there is room again", async || {
        hub.http().await.try_send("GET", "/healthz", &[], b"").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_handshakes_is_held_to_its_rate_and_those_inside_notice_nothing() {
    let hub = TestHub::plan().toml("[limits]\nhandshakes_per_second = 5").start();
    let mut inside = hub.http().await;
    inside.get("/healthz").await;
    let mut refused = 0;
    for _ in 0..30 {
        if hub.http().await.get("/healthz").await.status == 503 {
            refused += 1;
        }
    }
    assert!((10..=26).contains(&refused), "{refused} of 30");
    assert_eq!(inside.get("/healthz").await.status, 200);
    until("the next second has room", async || hub.http().await.get("/healthz").await.status == 200).await;
}

#[tokio::test]
async fn who_asks_in_vain_without_end_is_sent_away_for_a_while_and_costs_no_rule_meanwhile() {
    let rules =
        "aether.on.connect(function() return true end)\naether.on.subscribe('no.*', function() return false, 'no' end)";
    let hub = TestHub::plan().toml("[limits]\nrefusals_per_minute = 50").rules(rules).start();
    for flood in [
        json!({"type": "subscribe", "channels": ["no.1"]}),
        json!({"type": "subscribe", "channels": (0..100).map(|n| format!("no.{n}")).collect::<Vec<_>>()}),
        json!({"type": "subscribe", "channels": (0..100).map(|n| format!("no.{n}")).collect::<Vec<_>>(), "dry_run": true}),
        json!({"type": "publish", "channel": "no.1", "payload": 1}),
        json!({"type": "history", "channel": "no.1"}),
        json!({"type": "what?"}),
        json!(["no object"]),
    ] {
        let mut ws = hub.ws_as(None).await;
        let before = hub.metric("aether_rules_denied_total").await;
        // As fast as it can, and without ever listening.
        let began = std::time::Instant::now();
        ws.send_at_once(&flood.to_string(), 60).await;
        let mut refusals = 0u64;
        let last = loop {
            match ws.next().await.unwrap_or_else(|end| panic!("{end:?} after {refusals}, {flood}")) {
                frame if frame["code"] == 42901 => break frame,
                frame if frame["type"] == "error" => refusals += 1,
                frame => assert!(["subscribed"].contains(&frame["type"].as_str().unwrap()), "{frame}"),
            }
        };
        assert_eq!(last["reason"], "too_many_refusals");
        // A dry run says its refusals in one frame, which is not sent any more.
        // Where the machine is slow, the minute gives some back meanwhile.
        let most = 51 + began.elapsed().as_secs();
        assert!((50..=most).contains(&refusals) || flood["dry_run"] == true, "{refusals} of {most}: {flood}");
        let bye = ws.expect("bye").await;
        assert_eq!(
            (&bye["code"], bye["retry_ms"].as_u64().is_some_and(|ms| ms >= 10_000)),
            (&json!(4429), true),
            "{bye}"
        );
        assert!(matches!(ws.end().await, End::Closed(4429, _)));
        let asked = hub.metric("aether_rules_denied_total").await - before;
        assert!(asked <= most as f64 + 1.0, "{asked} decisions for {flood}");
    }
    let mut patient = hub.ws_as(None).await;
    for _ in 0..40 {
        patient.send(json!({"type": "subscribe", "channels": ["no.1"]})).await;
        patient.expect("error").await;
        patient.expect("subscribed").await;
    }
    patient.assert_silent().await;
}

async fn ip_of(http: &mut Http, headers: &[(&str, &str)]) -> String {
    let refused = http.send("POST", "/api/v1/publish", headers, br#"{"channel":"c","payload":1}"#).await;
    assert_eq!(refused.status, 401, "{}", refused.text());
    refused.json()["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn only_a_trusted_proxy_says_who_its_client_is() {
    let anybody = TestHub::plan().rules(SAYS_IP).with(|config| config.plugin.clear()).start();
    let mut http = anybody.http_as(None).await;
    assert!(ip_of(&mut http, &[("x-forwarded-for", "9.9.9.9")]).await.contains("127.0.0.1"));

    let trusting = TestHub::plan()
        .toml("plugin = []\n[server]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]")
        .rules(SAYS_IP)
        .start();
    let mut http = trusting.http_as(None).await;
    assert!(ip_of(&mut http, &[("x-forwarded-for", "1.1.1.1, 9.9.9.9, 10.0.0.3")]).await.contains("9.9.9.9"));
    assert!(ip_of(&mut http, &[("forwarded", "for=\"[2001:db8::7]:1\";proto=https")]).await.contains("2001:db8::7"));
    let body = br#"{"channel":"c","payload":1}"#;
    let two_stories = [("x-forwarded-for", "9.9.9.9"), ("forwarded", "for=8.8.8.8")];
    assert_eq!(http.send("POST", "/api/v1/publish", &two_stories, body).await.error(), (400, 40003));
}

#[tokio::test]
async fn what_comes_through_a_proxy_is_not_local() {
    let hub = TestHub::start();
    for header in ["x-forwarded-for", "forwarded", "x-real-ip", "via"] {
        for path in ["/metrics", "/status"] {
            let mut http = hub.http_as(None).await;
            assert_eq!(http.get(path).await.status, 200);
            assert_eq!(http.send("GET", path, &[(header, "127.0.0.1")], b"").await.error(), (401, 40101), "{header}");
        }
    }
    let hub = TestHub::plan().toml("[server]\ntrusted_proxies = [\"127.0.0.1\"]").start();
    assert_eq!(hub.http_as(None).await.get("/metrics").await.error(), (401, 40101), "even if it says nothing");
    assert_eq!(hub.http().await.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn the_clients_of_a_proxy_are_counted_one_by_one() {
    let hub =
        TestHub::plan().toml("[limits]\nconnections_per_ip = 2\n[server]\ntrusted_proxies = [\"127.0.0.1\"]").start();
    let path = format!("/ws?token={}", hub.token(&["*"]));
    let open = async |client: &str| WsClient::open(hub.address, &path, &[("x-forwarded-for", client)], None).await;
    let mut held = Vec::new();
    for client in ["1.1.1.1", "1.1.1.1", "2.2.2.2", "2.2.2.2"] {
        held.push(open(client).await.unwrap_or_else(|error| panic!("{client}: {error}")));
    }
    let error = open("1.1.1.1").await.err().expect("the third of one address").to_string();
    assert!(error.contains("503"), "{error}");
    let mut http = hub.http().await;
    let refused = http.send("GET", "/api/v1/channels", &[("x-forwarded-for", "2.2.2.2")], b"").await;
    assert_eq!(refused.error(), (503, 50303));
    assert_eq!(http.send("GET", "/api/v1/channels", &[("x-forwarded-for", "3.3.3.3")], b"").await.status, 200);
    held.remove(0);
    until("there is room for that client", async || open("1.1.1.1").await.is_ok()).await;
}
