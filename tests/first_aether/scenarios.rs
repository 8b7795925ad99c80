//! What its documentation says it is for, told whole: a shop's orders, and a field of devices. Each subscriber is counted on its own.

use futures_util::future::join_all;

use crate::common::*;

const STEPS: [&str; 4] = ["created", "paid", "shipped", "delivered"];
const ORDERS: usize = 20;

/// A customer's connection, with what it has seen of its order: each step with its number.
struct Customer {
    order: String,
    token: String,
    ws: WsClient,
    seen: Vec<(u64, String)>,
}

impl Customer {
    async fn arrive(hub: &TestHub, order: usize) -> Customer {
        let order = format!("order.{order}");
        let token = hub.token_for(&format!("customer of {order}"), &[&order], &[]);
        let mut ws = hub.ws_as(Some(&token)).await;
        ws.subscribe(&[&order]).await;
        Customer { order, token, ws, seen: Vec::new() }
    }

    async fn hear(&mut self, count: usize) {
        while self.seen.len() < count {
            let frame = self.ws.expect("message").await;
            assert_eq!(frame["channel"], self.order);
            let step = frame["payload"]["status"].as_str().unwrap().to_owned();
            self.seen.push((frame["seq_id"].as_u64().unwrap(), step));
        }
    }

    /// The phone was in a tunnel. It knows its last number, and nothing of epochs.
    async fn come_back(&mut self, hub: &TestHub) {
        self.ws = hub.ws_as(Some(&self.token)).await;
        let last = self.seen.last().map_or(0, |(seq, _)| *seq);
        let (order, after) = (&self.order, json!({&self.order: last}));
        self.ws.send(json!({"type": "subscribe", "channels": [order], "after_seq": after})).await;
        self.ws.expect("subscribed").await;
    }
}

#[tokio::test]
async fn each_customer_sees_each_step_of_its_own_order_once_and_in_order_and_nobody_elses() {
    let hub = TestHub::start();
    let made = hub.http().await.post("/api/v2/keys", r#"{"name":"shop","publish":["order.*"]}"#).await.ok();
    let mut shop = hub.http_as(made["key"].as_str()).await;
    let mut publish = async |order: usize, step: &str| {
        let channel = format!("order.{order}");
        let body =
            json!({"channel": channel, "payload": {"status": step}, "idempotency_key": format!("{channel}/{step}")});
        // The first answer may have been lost on the way: it says everything twice.
        let first = shop.post("/api/v1/publish", body.to_string()).await.ok();
        let second = shop.post("/api/v1/publish", body.to_string()).await.ok();
        assert_eq!(first["seq_id"], second["seq_id"]);
    };
    // A phone and a laptop for each order, and somebody in support who sees all of them.
    let mut customers: Vec<Customer> = join_all((0..2 * ORDERS).map(|n| Customer::arrive(&hub, n / 2))).await;
    let mut support = hub.ws_as(Some(&hub.token_for("support", &["order.*"], &[]))).await;
    let all: Vec<String> = (0..ORDERS).map(|order| format!("order.{order}")).collect();
    support.send(json!({"type": "subscribe", "channels": all})).await;
    assert_eq!(support.expect("subscribed").await["channels"], json!(all));
    // Somebody is curious.
    let curious = &mut customers[0].ws;
    curious.send(json!({"type": "subscribe", "channels": ["order.1", "order.*", "order"]})).await;
    for code in [40301, 40001, 40301] {
        assert_eq!(curious.expect("error").await["code"], code);
    }
    assert_eq!(curious.expect("subscribed").await["channels"], json!([]));

    for order in 0..ORDERS {
        publish(order, STEPS[0]).await;
        publish(order, STEPS[1]).await;
    }
    join_all(customers.iter_mut().map(|customer| customer.hear(2))).await;
    // The phones lose their connection, without a word.
    for phone in customers.iter_mut().step_by(2) {
        phone.ws = hub.ws().await;
    }
    for order in 0..ORDERS {
        publish(order, STEPS[2]).await;
    }
    join_all(customers.iter_mut().step_by(2).map(|phone| phone.come_back(&hub))).await;
    for order in 0..ORDERS {
        publish(order, STEPS[3]).await;
    }
    join_all(customers.iter_mut().map(|customer| customer.hear(4))).await;
    let whole: Vec<_> = STEPS.iter().enumerate().map(|(n, step)| (n as u64 + 1, step.to_string())).collect();
    for customer in &mut customers {
        assert_eq!(customer.seen, whole, "{}", customer.order);
        // A phone still has its `live`; nobody has another message.
        while let Ok(frame) = {
            customer.ws.send(json!({"type": "ping"})).await;
            customer.ws.next().await
        } {
            match frame["type"].as_str() {
                Some("pong") => break,
                Some("live") => {}
                _ => panic!("{} has {frame}", customer.order),
            }
        }
    }
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..ORDERS * STEPS.len() {
        let frame = support.expect("message").await;
        let seen = counts.entry(frame["channel"].as_str().unwrap().to_owned()).or_insert_with(Vec::new);
        seen.push((frame["seq_id"].as_u64().unwrap(), frame["payload"]["status"].as_str().unwrap().to_owned()));
    }
    assert_eq!(counts.len(), ORDERS);
    assert!(counts.values().all(|seen| *seen == whole), "{counts:?}");
    support.assert_silent().await;
    assert_eq!(hub.metric("aether_messages_published_total").await, (ORDERS * STEPS.len()) as f64);
}

const DEVICES: usize = 50;
const READINGS: usize = 60;
const KEPT: usize = 20;

/// Reads from a dashboard until each of its devices has said its last, and checks each device on its own.
async fn watch(mut ws: WsClient, devices: Vec<String>) -> WsClient {
    let mut readings: std::collections::BTreeMap<String, Vec<u64>> =
        devices.iter().map(|name| (name.clone(), Vec::new())).collect();
    for _ in 0..devices.len() * READINGS {
        let frame = ws.expect("message").await;
        let channel = frame["channel"].as_str().unwrap();
        let seen = readings.get_mut(channel).unwrap_or_else(|| panic!("{channel} was not asked for"));
        assert_eq!(frame["payload"]["n"], frame["seq_id"]);
        seen.push(frame["seq_id"].as_u64().unwrap());
    }
    let whole: Vec<_> = (1..=READINGS as u64).collect();
    for (device, seen) in &readings {
        assert!(*seen == whole, "{device}: {seen:?}");
    }
    ws.assert_silent().await;
    ws
}

#[tokio::test]
async fn each_dashboard_has_every_reading_of_its_devices_and_who_comes_late_is_told_what_is_gone() {
    let config = format!(
        "[retention]\neviction_interval = \"100ms\"\n[[retention.rules]]\npattern = \"iot.*\"\nttl = \"1h\"\nmax_count = {KEPT}"
    );
    let hub = TestHub::plan().toml(&config).start();
    let device = |n: usize| format!("iot.{n}.telemetry");
    let dashboard = async |devices: Vec<String>| {
        let mut ws = hub.ws_as(Some(&hub.token_for("dashboard", &["iot.*"], &[]))).await;
        for hundred in devices.chunks(100) {
            ws.send(json!({"type": "subscribe", "channels": hundred})).await;
            assert_eq!(ws.expect("subscribed").await["channels"], json!(hundred));
        }
        (ws, devices)
    };
    // Ten that watch five devices each, and a wall that watches all.
    let mut watching = Vec::new();
    for n in 0..10 {
        watching.push(dashboard((0..5).map(|k| device((7 * n + k) % DEVICES)).collect()).await);
    }
    watching.push(dashboard((0..DEVICES).map(device).collect()).await);
    let watched: Vec<_> = watching.into_iter().map(|(ws, devices)| tokio::spawn(watch(ws, devices))).collect();
    // Gateways send what five devices measured at once.
    let gateways = (0..DEVICES / 5).map(|gateway| {
        let hub = &hub;
        async move {
            let mut http = hub.http().await;
            for n in 1..=READINGS {
                let messages: Vec<_> = (0..5)
                    .map(|k| json!({"channel": device(5 * gateway + k), "payload": {"n": n, "celsius": 21.50}}))
                    .collect();
                let answer = http.post("/api/v2/publish/batch", json!({"messages": messages}).to_string()).await.ok();
                let results = answer["results"].as_array().unwrap();
                assert!(results.iter().all(|result| result["seq_id"] == n), "{answer}");
            }
        }
    });
    join_all(gateways).await;
    let mut still_open = Vec::new();
    for watcher in watched {
        still_open.push(watcher.await.unwrap());
    }

    let oldest = (READINGS - KEPT + 1) as u64;
    for n in 0..DEVICES {
        let query = format!("channel={}", device(n));
        until("the rule keeps twenty", async || hub.history(&query).await["first_seq"] == oldest).await;
    }
    for n in [0, DEVICES - 1] {
        let mut late = hub.ws_as(Some(&hub.token_for("late", &["iot.*"], &[]))).await;
        late.resume(&device(n), 1).await;
        let seen = late.read_to(&device(n), READINGS as u64).await;
        seen.assert_exactly(oldest, READINGS as u64);
        assert_eq!(seen.gaps.len(), 1);
        let gap = &seen.gaps[0];
        assert_eq!((&gap["requested_from_seq"], &gap["available_from_seq"]), (&json!(1), &json!(oldest)));
        assert_eq!(gap["message"], format!("gap: requested seq 1 but earliest available is {oldest}"));
    }
    assert_eq!(hub.metric("aether_messages_pushed_total").await, ((50 + DEVICES) * READINGS + 2 * KEPT) as f64);
    drop(still_open);
}
