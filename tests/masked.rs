//! **What a rule masks reaches nobody who may not see it**, on whatever way they ask; and rules change what is said and how
//! long it stays.

use crate::common::*;

const READERS: usize = 1000;
const MESSAGES: u64 = 5;
const SECRET: &str = "s3cret";

const RULES: &str = r#"
aether.on.view("room.{room}", "public", { drop = { "author.email" }, mask = { ["author.phone"] = "last4" } })
aether.on.view("room.{room}", "teaser", function(ch, msg)
	if msg:get("n") == 2 then return nil end
	return msg:with_json({ n = msg:get("n") })
end)

aether.on.subscribe("room.{room}", function(s)
	local views = { mod = "full", passer = "teaser" }
	return aether.allow({ view = views[s.user] or "public" })
end)
"#;

fn said(n: u64) -> Json {
    json!({"n": n, "author": {"email": format!("{SECRET}-{n}@example.org"), "phone": format!("{SECRET}-000{n}")}})
}

async fn say(hub: &TestHub) {
    for n in 1..=MESSAGES {
        hub.publish("room.1", said(n)).await;
    }
}

fn masked(n: u64) -> Json {
    json!({"n": n, "author": {"phone": format!("****000{n}")}})
}

/// Somebody who sees the public view.
fn guest(hub: &TestHub) -> String {
    hub.token_for("guest", &["room.*"], &[])
}

#[tokio::test]
async fn a_thousand_masked_readers_cost_one_rendering_and_one_encoding_a_message_and_see_no_masked_byte() {
    let hub = TestHub::plan().rules(RULES).start();
    let token = guest(&hub);
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut ws = hub.ws_as(Some(&token)).await;
        ws.subscribe(&["room.1"]).await;
        readers.push(ws);
    }
    let entries = hub.metric("aether_lua_entries_total").await;
    say(&hub).await;
    for ws in &mut readers {
        let mut seen = 0;
        while seen < MESSAGES {
            for frame in ws.next_text().await.lines() {
                seen += 1;
                assert!(!frame.contains(SECRET), "{frame}");
                let frame: Json = serde_json::from_str(frame).unwrap();
                assert_eq!((&frame["seq_id"], &frame["payload"]), (&json!(seen), &masked(seen)));
            }
        }
    }
    let metrics = hub.metrics().await;
    assert_eq!(metrics["aether_messages_encoded_total"], MESSAGES as f64);
    assert_eq!(metrics["aether_messages_rendered_total"], MESSAGES as f64);
    // A declared view runs no Lua. What does is the publisher's credential, once.
    assert!(metrics["aether_lua_entries_total"] - entries <= 3.0, "{metrics:?}");
}

#[tokio::test]
async fn no_masked_byte_leaves_by_history_resume_or_poll() {
    let hub = TestHub::plan().rules(RULES).start();
    let token = guest(&hub);
    let path = format!("/sse?channel=room.1&token={token}");
    let mut sse = SseClient::open(hub.address, &path, None).await.unwrap();
    let cursor = sse.expect("subscribed").await.id;
    say(&hub).await;
    let expected: Vec<Json> = (1..=MESSAGES).map(masked).collect();
    let payloads = |messages: &Json| -> Vec<Json> {
        assert!(!messages.to_string().contains(SECRET), "{messages}");
        messages.as_array().unwrap().iter().map(|message| message["payload"].clone()).collect()
    };

    let mut http = hub.http_as(Some(&token)).await;
    for query in ["after_seq=0", "before_seq=6"] {
        let page = http.get(&format!("/api/v1/history?channel=room.1&{query}")).await.ok();
        assert_eq!(payloads(&page["messages"]), expected);
    }

    let mut ws = hub.ws_as(Some(&token)).await;
    ws.send(json!({"type": "history", "channel": "room.1", "after_seq": 0})).await;
    assert_eq!(payloads(&ws.expect("history").await["messages"]), expected);
    ws.resume("room.1", 0).await;
    for n in 1..=MESSAGES {
        let frame = ws.expect("message").await;
        assert!(!frame.to_string().contains(SECRET) && frame["payload"] == masked(n), "{frame}");
    }

    // The first stream is live, the second resumes from where that one began.
    let mut back = SseClient::open(hub.address, &path, Some(&cursor)).await.unwrap();
    for stream in [&mut sse, &mut back] {
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            let event = stream.next().await.unwrap();
            assert!(!event.data.contains(SECRET), "{event:?}");
            if event.name == "message" {
                seen.push(event.json()["payload"].clone());
            }
        }
        assert_eq!(seen, expected);
    }

    let mut poller = hub.http_as(None).await;
    let answer = poller.get(&format!("/poll?token={token}&channel=room.1&cursor={cursor}")).await;
    let answer: Json = serde_json::from_str(answer.text()).unwrap();
    let messages = answer["messages"].as_array().unwrap().iter().filter(|message| message["type"] == "message");
    assert_eq!(payloads(&messages.cloned().collect()), expected);

    // A moderator and the operator see everything.
    let moderator = hub.token_for("mod", &["room.*"], &[]);
    let page = hub.http_as(Some(&moderator)).await.get("/api/v1/history?channel=room.1").await.ok();
    assert!(page["messages"][0].to_string().contains(SECRET), "{page}");
    assert!(hub.history("channel=room.1").await.to_string().contains(SECRET));
}

#[tokio::test]
async fn what_a_view_withholds_is_told_as_a_gap_and_named_in_the_history() {
    let hub = TestHub::plan().rules(RULES).start();
    let token = hub.token_for("passer", &["room.*"], &[]);
    let mut ws = hub.ws_as(Some(&token)).await;
    ws.subscribe(&["room.1"]).await;
    hub.publish("room.1", said(1)).await;
    hub.publish("room.1", said(2)).await;
    hub.publish("room.1", said(3)).await;
    assert_eq!(ws.next().await.unwrap()["payload"], json!({"n": 1}));
    let gap = ws.next().await.unwrap();
    assert_eq!((&gap["type"], &gap["cause"]), (&json!("gap"), &json!("denied")), "{gap}");
    assert_eq!(ws.next().await.unwrap()["payload"], json!({"n": 3}));
    let page = hub.http_as(Some(&token)).await.get("/api/v1/history?channel=room.1").await.ok();
    assert_eq!((&page["withheld"], page["messages"].as_array().unwrap().len()), (&json!([2]), 2), "{page}");
}

#[tokio::test]
async fn rules_change_what_is_said_how_long_it_stays_and_what_a_channel_keeps() {
    let hub = TestHub::plan()
        .rules(
            r#"
local limits = aether.shared("limits")
aether.on.transform("chat.*", function(ch, msg)
	if msg:get("rude") then return nil, "be kind" end
	return msg:with_json({ text = msg:get("text"), by = msg.sender }):with_event("said")
end)
aether.on.retain("chat.*", function(ch, msg) return msg:get("text") ~= "typing" end)
aether.on.retention("chat.*", function() return { count = limits:get("count") or 100 } end)
aether.on.publish("limit", function(s, ch, msg)
	limits:set("count", msg:json())
	aether.retention.refresh("chat.*")
	return true
end)
"#,
        )
        .start();
    let mut ws = hub.ws().await;
    ws.subscribe(&["chat.1"]).await;
    let mut http = hub.http().await;
    let rude = json!({"channel": "chat.1", "payload": {"text": "x", "rude": true}}).to_string();
    let refused = http.post("/api/v1/publish", rude).await.json();
    assert_eq!(
        (&refused["error"]["reason"], refused.to_string().contains("be kind")),
        (&json!("rejected"), true),
        "{refused}"
    );
    for text in ["hello", "typing", "bye"] {
        hub.publish("chat.1", json!({"text": text})).await;
        let frame = ws.expect("message").await;
        assert_eq!((&frame["payload"]["text"], &frame["event"]), (&json!(text), &json!("said")), "{frame}");
        assert!(frame["payload"]["by"].is_string(), "{frame}");
    }
    let kept = |page: &Json| -> Vec<String> {
        page["messages"].as_array().unwrap().iter().map(|m| m["payload"]["text"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kept(&hub.history("channel=chat.1").await), ["hello", "bye"]);
    hub.publish("limit", json!(1)).await;
    until("the channel keeps one", async || {
        hub.publish("chat.1", json!({"text": "more"})).await;
        kept(&hub.history("channel=chat.1").await) == ["more"]
    })
    .await;
}
