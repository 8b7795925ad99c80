//! What was wrong in xlvein (X1 to X9 of our list), each as a test that fails with the fault. What one frame does is in `hostile`.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn x2_a_stuck_user_holds_up_nobody_and_is_alone_sent_away() {
    let hub = plan("").start();
    let stuck = User::with(&hub, "test", &token_of("stuck"), Some(4096)).await.unwrap();
    let mut well = User::connect(&hub, "well").await;
    let mut http = hub.http_as(None).await;
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(60_000));
    let mut slowest = std::time::Duration::ZERO;
    for n in 0..400 {
        let began = Instant::now();
        assert_eq!(push(&mut http, "stuck", &large).await, 0);
        assert_eq!(push(&mut http, "well", &format!("{{\"n\":{n}}}")).await, 0);
        assert_eq!(well.frame().await["data"]["n"], n);
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < std::time::Duration::from_secs(5), "somebody waited for {slowest:?}");
    // Held, and not read.
    until("the stuck one has gone", async || hub.metric("aether_connections_active").await == 1.0).await;
    drop(stuck);
    well.assert_silent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x3_four_hundred_users_join_at_once_twenty_times() {
    let hub = std::sync::Arc::new(plan("").start());
    for round in 0..20 {
        let joins: Vec<_> = (0..400)
            .map(|n| {
                let (hub, account) = (hub.clone(), format!("u{}", n % 50));
                tokio::spawn(async move { User::connect(&hub, &account).await })
            })
            .collect();
        let mut users = Vec::new();
        for join in joins {
            users.push(join.await.unwrap());
        }
        let mut http = hub.http_as(None).await;
        assert_eq!(push(&mut http, "u7", &format!("{{\"round\":{round}}}")).await, 0);
        for user in users.iter_mut().skip(7).step_by(50) {
            assert_eq!(user.frame().await["data"]["round"], round);
        }
    }
    until("all have gone", async || hub.metric("aether_connections_active").await == 0.0).await;
}

#[tokio::test]
async fn x4_users_send_to_each_other_only_where_the_application_says_so() {
    let hub = TestHub::plan().toml(&settings("").replace("peer = true", "")).start();
    let (mut one, mut two) = (User::connect(&hub, "u1").await, User::connect(&hub, "u2").await);
    one.send(r#"{"to":"u2","event":1,"data":{"x":1}}"#).await;
    one.send(r#"{"to":"u2","event":0,"data":{"system":"obey"}}"#).await;
    one.assert_silent().await;
    two.assert_silent().await;
    assert_eq!(push(&mut hub.http_as(None).await, "u2", r#"{"t":1}"#).await, 0);
    let frame = two.frame().await;
    assert_eq!((&frame["data"], frame.get("from")), (&json!({"t": 1}), None));
}

#[tokio::test]
async fn x5_a_captured_push_is_refused_also_after_a_restart() {
    let mut hub = plan("").start();
    let body = signed_form("test", SECRET, "u1", r#"{"pay":1}"#, "captured");
    assert_eq!(post_form(&mut hub.http_as(None).await, &body).await.ok()["error"], 0);
    for _ in 0..2 {
        let mut user = User::connect(&hub, "u1").await;
        let answer = post_form(&mut hub.http_as(None).await, &body).await.ok();
        assert_eq!(answer, json!({"error": 1002, "message": "sign invalid: this nonce was used before"}));
        user.assert_silent().await;
        hub.restart();
    }
}

#[tokio::test]
async fn x5_of_many_that_send_the_same_push_at_once_one_is_accepted() {
    let hub = std::sync::Arc::new(plan("").start());
    let body = signed_form("test", SECRET, "u1", "{}", "same");
    let sent = (0..20).map(|_| {
        let (hub, body) = (hub.clone(), body.clone());
        tokio::spawn(async move { post_form(&mut hub.http_as(None).await, &body).await.ok()["error"].clone() })
    });
    let mut answers = Vec::new();
    for one in sent.collect::<Vec<_>>() {
        answers.push(one.await.unwrap());
    }
    assert_eq!(answers.iter().filter(|answer| **answer == 0).count(), 1, "{answers:?}");
}

#[tokio::test]
async fn x5_what_is_signed_can_be_split_in_one_way_only() {
    let hub = plan("").start();
    let mut http = hub.http_as(None).await;
    let mut victim = User::connect(&hub, "victim").await;
    // An account that its owner chose, and the signature that a back end made for it.
    let to = "eve&send_to=victim";
    let signature = sign("test", SECRET, to, "{}", "n1");
    let moved = [
        ("nonce", "n1&send_to=eve"),
        ("send_to", "victim"),
        ("message", "{}"),
        ("app_key", "test"),
        ("sign", &signature),
    ];
    assert_eq!(sign("test", SECRET, "victim", "{}", "n1&send_to=eve"), signature, "MD5 does not see the difference");
    assert_eq!(post_form(&mut http, &form(&moved)).await.ok()["error"], 1002);
    victim.assert_silent().await;
    assert_eq!(post_form(&mut http, &signed_form("test", SECRET, to, "{}", "n1")).await.ok()["error"], 0);
    victim.assert_silent().await;
}

#[tokio::test]
async fn x5_with_hmac_an_old_push_and_a_changed_one_are_refused() {
    let hub = plan("window = \"1m\"").start();
    let mut http = hub.http_as(None).await;
    let body = r#"{"app_key":"test","send_to":"u1","message":"{}","nonce":"n1"}"#;
    let send = async |http: &mut Http, time: String, signature: &str, body: &str| {
        let headers = [
            ("content-type", "application/json"),
            ("x-signature-timestamp", time.as_str()),
            ("x-signature-256", signature),
        ];
        http.send("POST", PUSH, &headers, body.as_bytes()).await.ok()["error"].as_i64().unwrap()
    };
    let at = now();
    let good = hmac(SECRET, at, body);
    for (time, signature, body) in [
        ((at - 120).to_string(), hmac(SECRET, at - 120, body), body),
        ((at + 120).to_string(), hmac(SECRET, at + 120, body), body),
        ((at + 1).to_string(), good.clone(), body),
        (String::new(), good.clone(), body),
        (format!("{at}.5"), good.clone(), body),
        (at.to_string(), "sha256=".into(), body),
        (at.to_string(), good.to_uppercase().replace('A', "B"), body),
        (at.to_string(), hmac("another secret", at, body), body),
        (at.to_string(), good.clone(), r#"{"app_key":"test","send_to":"u2","message":"{}","nonce":"n1"}"#),
    ] {
        assert_eq!(send(&mut http, time.clone(), &signature, body).await, 1002, "{time} {signature}");
    }
    assert_eq!(send(&mut http, at.to_string(), &good, body).await, 0);
    assert_eq!(send(&mut http, at.to_string(), &good, body).await, 1002, "and only once");
}

#[tokio::test]
async fn x5_an_application_that_signs_with_hmac_can_let_md5_go() {
    let hub = TestHub::plan().toml(&(settings("") + "md5 = false\n")).start();
    let body = signed_form("test", SECRET, "u1", "{}", "n1");
    assert_eq!(post_form(&mut hub.http_as(None).await, &body).await.ok()["error"], 1002);
}

#[tokio::test]
async fn x5_the_oldest_nonces_are_forgotten_only_when_there_are_more_than_may_be() {
    let hub = plan("max_nonces = 1000\nwindow = \"1s\"").start();
    let mut http = hub.http_as(None).await;
    let first = signed_form("test", SECRET, "u1", "{}", "first");
    assert_eq!(post_form(&mut http, &first).await.ok()["error"], 0);
    assert_eq!(post_form(&mut http, &first).await.ok()["error"], 1002);
    // Twice the window in which an HMAC could come again: within it none is forgotten, and what is too much is refused.
    let begun = Instant::now();
    let mut refused = 0;
    for _ in 0..1100 {
        match push(&mut http, "u1", "{}").await {
            0 => {}
            500 => refused += 1,
            other => panic!("{other}"),
        }
    }
    let took = begun.elapsed();
    assert!(refused > 0 || took > std::time::Duration::from_secs(2), "{refused} refused in {took:?}");
    until("there is room again", async || push(&mut http, "u1", "{}").await == 0).await;
}

#[tokio::test]
async fn x7_refusals_have_statuses_where_nobody_needs_200() {
    let hub = plan("compat = false").start();
    for (app, token, status, code) in
        [("", "", 400, 400), ("nobody", TOKEN, 404, 1001), ("test", "nonsense", 401, 1000)]
    {
        let refused = User::refused(&hub, app, token).await;
        assert_eq!((refused.0, refused.1["code"].as_u64()), (status, Some(code)));
    }
}

#[tokio::test]
async fn x8_a_push_that_nobody_will_get_is_not_said_to_be_accepted() {
    let rules = "aether.on.publish('xlvein.*', function(s, ch, msg)
        if msg:get('bad') then return aether.deny('no_bad') end
        return nil
    end)";
    let hub = plan("").rules(rules).start();
    let mut http = hub.http_as(None).await;
    let body = |message: &str| signed_form("test", SECRET, "u1", message, "n1");
    let answer = post_form(&mut http, &body(r#"{"bad":true}"#)).await;
    assert_eq!((answer.status, answer.text()), (200, r#"{"error":500,"message":"请稍后重试"}"#));
    // The nonce was not used up by it.
    assert_eq!(post_form(&mut http, &body("{}")).await.ok()["error"], 0);
}

#[tokio::test]
async fn x9_who_stops_the_hub_ends_connections_with_a_word_and_takes_no_push() {
    let mut hub = plan("").start();
    let mut user = User::connect(&hub, "u1").await;
    let mut http = hub.http_as(None).await;
    assert_eq!(push(&mut http, "u1", "{}").await, 0);
    assert_eq!(user.frame().await["to"], "u1");
    hub.ask_to_stop();
    assert!(matches!(user.next().await, Err(End::Closed(1001, _))));
    let body = signed_form("test", SECRET, "u1", "{}", "late");
    // Refused at once or not there any more; in no case accepted.
    if let Ok(answer) = http.try_send("POST", PUSH, &[], body.as_bytes()).await {
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    hub.stop();
}

#[tokio::test]
async fn x9_accounts_that_nobody_uses_cost_nothing() {
    let hub = TestHub::plan().toml(&(settings("") + "[channels]\nidle_after = \"100ms\"\n")).start();
    let mut http = hub.http_as(None).await;
    for n in 0..50 {
        drop(User::connect(&hub, &format!("u{n}")).await);
        assert_eq!(push(&mut http, &format!("u{n}"), "{}").await, 0);
    }
    let gauges = ["aether_connections_active", "aether_subscriptions_active", "aether_channels_in_memory"];
    until("nothing of them is left", async || {
        let metrics = hub.metrics().await;
        gauges.iter().all(|gauge| metrics[*gauge] == 0.0)
    })
    .await;
}
