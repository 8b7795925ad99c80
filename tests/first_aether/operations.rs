//! Its endpoints for operators: health, metrics, the cache.

use crate::common::*;

#[tokio::test]
async fn health_and_readiness_are_json_and_open() {
    let hub = TestHub::start();
    for path in ["/healthz", "/readyz"] {
        let answer = hub.http_as(None).await.get(path).await;
        assert_eq!((answer.status, answer.text()), (200, "{\"status\":\"ok\"}\n"), "{path}");
    }
}

#[tokio::test]
async fn its_metrics_are_here_under_their_names_with_their_types_and_buckets() {
    let hub = TestHub::start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["a", "b"]).await;
    let mut other = hub.ws().await;
    other.subscribe(&["a"]).await;
    hub.publish_numbers("a", 1, 3).await;
    ws.read_to("a", 3).await;
    other.read_to("a", 3).await;
    // A delivery is counted when the socket has taken it: the reader may be quicker.
    until("all is counted", async || hub.metric("aether_messages_pushed_total").await >= 6.0).await;
    let page = hub.http_as(None).await.get("/metricsz").await;
    assert!(page.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let values = parse_metrics(page.text());
    for (name, kind, value) in [
        ("aether_connections_active", "gauge", 2.0),
        ("aether_channels_active", "gauge", 2.0),
        ("aether_messages_published_total", "counter", 3.0),
        ("aether_messages_pushed_total", "counter", 6.0),
    ] {
        assert!(page.text().contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        assert_eq!(values[name], value, "{name}");
    }
    for name in ["aether_publish_duration_seconds", "aether_storage_write_duration_seconds"] {
        assert!(page.text().contains(&format!("# TYPE {name} histogram\n")), "{name}");
        for bound in ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"] {
            assert!(values.contains_key(&format!("{name}_bucket{{le=\"{bound}\"}}")), "{name} {bound}");
        }
        assert!(values[&format!("{name}_count")] >= 1.0);
    }
    for name in
        ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"]
    {
        assert!(values[name] > 0.0, "{name}");
    }
}

/// Both were open to everybody there. Here they are for the machine itself, and for admin keys.
#[tokio::test]
async fn the_cache_says_how_often_a_key_was_known() {
    let hub = TestHub::start();
    for _ in 0..4 {
        hub.publish("a", json!(1)).await;
    }
    let answer = hub.http_as(None).await.get("/debug/cache").await.ok();
    let number = |name: &str| answer[name].as_f64().unwrap();
    assert_eq!((answer["ok"].as_bool(), number("cache_hits")), (Some(true), 3.0), "{answer}");
    assert_eq!((number("cache_misses"), number("hit_rate_pct")), (1.0, 75.0), "{answer}");
    let token = hub.token(&["*"]);
    assert_eq!(hub.http_as(Some(&token)).await.get("/debug/cache").await.error(), (403, 40302));
}
