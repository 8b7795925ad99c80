//! What the operator sees: gauges that are true, and not for everybody.

use crate::common::*;

#[tokio::test]
async fn after_1000_connects_and_disconnects_every_gauge_is_where_it_began() {
    let hub = TestHub::start();
    let mut kept = hub.ws().await;
    kept.subscribe(&["kept"]).await;
    let before = hub.metrics().await;
    for round in 0..20u32 {
        let opening = (0..50u32).map(|n| {
            let hub = &hub;
            async move {
                if n % 5 == 0 {
                    let mut stream = hub.sse("channel=a&channel=b", None).await;
                    stream.expect("subscribed").await;
                    return (None, Some(stream));
                }
                let mut ws = hub.ws().await;
                if n % 2 == 0 {
                    ws.subscribe(&["a", "c"]).await;
                }
                (Some(ws), None)
            }
        });
        let all = futures_util::future::join_all(opening).await;
        if round == 0 {
            // Who has only been let in may not be counted yet.
            until("all are counted", async || {
                let now = hub.metrics().await;
                now["aether_connections_active"] == 51.0
                    && now["aether_subscriptions_active"] == 1.0 + 20.0 + 40.0
                    && now["aether_channels_active"] == 4.0
            })
            .await;
        }
        for (n, (ws, _)) in all.into_iter().enumerate() {
            // Some say goodbye, the others break off.
            if let Some(ws) = ws.filter(|_| n % 3 == 0) {
                ws.close().await;
            }
        }
    }
    let gauges = ["aether_connections_active", "aether_channels_active", "aether_subscriptions_active"];
    until("all gauges are back", async || {
        let now = hub.metrics().await;
        for gauge in gauges {
            assert!(now[gauge] >= 0.0 && now[gauge] < 1e6, "{gauge} is {}", now[gauge]);
        }
        gauges.iter().all(|gauge| now[*gauge] == before[*gauge])
    })
    .await;
    kept.assert_silent().await;
}

#[tokio::test]
async fn the_page_has_the_first_aethers_names_and_is_well_formed() {
    let hub = TestHub::start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["c"]).await;
    hub.publish_numbers("c", 1, 10).await;
    ws.read_to("c", 10).await;
    let mut http = hub.http_as(None).await;
    let page = http.get("/metricsz").await;
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(http.get("/metrics").await.status, 200);
    let values = parse_metrics(page.text());
    assert_eq!(values["aether_connections_active"], 1.0);
    assert_eq!(values["aether_channels_active"], 1.0);
    assert_eq!(values["aether_messages_published_total"], 10.0);
    assert_eq!(values["aether_messages_pushed_total"], 10.0);
    for histogram in ["aether_publish_duration_seconds", "aether_storage_write_duration_seconds"] {
        let buckets = values.iter().filter(|(name, _)| name.starts_with(&format!("{histogram}_bucket")));
        let (count, most) = (buckets.clone().count(), buckets.map(|(_, value)| *value).fold(0.0, f64::max));
        assert!(count > 5 && most > 0.0);
        assert_eq!(
            (values[&format!("{histogram}_count")], values[&format!("{histogram}_bucket{{le=\"+Inf\"}}")]),
            (most, most)
        );
        assert!(values[&format!("{histogram}_sum")] > 0.0);
    }
    let named: Vec<_> = page.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    for line in page.text().lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(named.iter().any(|type_| type_.split(' ').next().is_some_and(|n| n == name || n == base)), "{line}");
    }
}

#[tokio::test]
async fn metrics_and_status_want_an_admin_key_unless_asked_from_the_machine_itself() {
    let hub = TestHub::start();
    let token = hub.token(&["*"]);
    for path in ["/metricsz", "/metrics", "/status"] {
        assert_eq!(hub.http_as(None).await.get(path).await.status, 200);
        assert_eq!(hub.http().await.get(path).await.status, 200);
        // A credential that is shown is looked at: a proxy on the machine makes nobody an operator.
        assert_eq!(hub.http_as(Some(&token)).await.get(path).await.error(), (403, 40302));
        assert_eq!(hub.http_as(Some("wrong")).await.get(path).await.error(), (401, 40101));
    }
    for path in ["/healthz", "/readyz"] {
        let answer = hub.http_as(Some("wrong")).await.get(path).await;
        assert_eq!((answer.status, answer.ok()), (200, json!({"status": "ok"})));
    }
    let status = hub.http().await.get("/status").await.ok();
    assert_eq!((&status["ok"], &status["ready"], &status["connections"]), (&json!(true), &json!(true), &json!(0)));
}
