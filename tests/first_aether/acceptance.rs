//! The list of what the first Aether, and its kind, got wrong (A1 to A20 and the faults that several share): where each is held
//! for this protocol, and the whole of the hardest for clients in the first Aether's own manner.

use crate::common::*;

/// What must hold, and the tests that hold it, by file and name.
const HELD: [(&str, &[(&str, &str)]); 17] = [
    (
        "1: 32 writers, one order",
        &[("order.rs", "under_32_writers_every_reader_sees_every_seq_once_and_in_the_same_order")],
    ),
    (
        "2: readers that resume under writers miss nothing; a long replay to a slow reader completes",
        &[
            (
                "resume.rs",
                "forty_readers_resuming_at_random_points_under_16_writers_miss_nothing_and_see_nothing_twice",
            ),
            ("resume.rs", "a_replay_of_100_000_messages_to_a_slow_reader_completes_while_the_channel_goes_on"),
            ("first_aether/acceptance.rs", "its_clients_resuming_at_random_points_under_16_writers_miss_nothing"),
        ],
    ),
    (
        "3: a repeat of a key is not delivered",
        &[("idempotency.rs", "a_repeat_answers_the_first_result_whatever_it_says_and_delivers_nothing")],
    ),
    (
        "4: one stuck reader holds up nobody",
        &[(
            "slow_readers.rs",
            "one_paused_reader_holds_up_neither_publishers_nor_others_and_is_alone_closed_with_1012",
        )],
    ),
    (
        "5: webhooks work from end to end",
        &[("plugins_webhooks.rs", "what_is_signed_and_sent_is_the_frame_that_subscribers_get")],
    ),
    (
        "6: a key's patterns are enforced",
        &[
            ("auth.rs", "a_keys_patterns_hold_on_publish_in_batches_for_history_and_for_streams"),
            ("plugins_webhooks.rs", "a_webhook_reaches_no_further_than_its_key_and_ends_with_it"),
        ],
    ),
    (
        "7: a revoked key opens nothing; a rotated one of the settings does not stop a start",
        &[
            ("plugins_api_keys.rs", "a_key_that_is_revoked_under_load_opens_nothing_from_the_answer_on"),
            (
                "plugins_api_keys.rs",
                "a_rotated_key_of_the_settings_stays_rotated_over_a_restart_and_ends_with_its_entry",
            ),
        ],
    ),
    (
        "8: a stop ends in time",
        &[("stopping.rs", "sigterm_with_100_paused_sockets_ends_in_time_and_who_has_room_gets_everything_then_1001")],
    ),
    (
        "9: numbers go on after eviction, and a stale one yields a gap",
        &[("first_aether/ws.rs", "numbers_go_on_when_everything_is_evicted_and_who_resumes_is_told")],
    ),
    (
        "10: who may connect by default",
        &[("origin.rs", "by_default_only_the_hubs_own_pages_and_clients_that_are_no_browser")],
    ),
    (
        "11: payloads are what they were",
        &[("payload.rs", "json_is_the_same_bytes_live_in_events_in_history_in_replay_and_in_batches")],
    ),
    ("12: gauges return", &[("metrics.rs", "after_1000_connects_and_disconnects_every_gauge_is_where_it_began")]),
    (
        "13: nothing that is said ends the process or deafens a socket",
        &[
            ("fuzz.rs", "whatever_a_websocket_says_it_is_heard_and_the_same_socket_still_answers_a_ping"),
            ("fuzz.rs", "whatever_bytes_a_websocket_is_made_of_the_hub_lives_and_ends_it_or_answers"),
        ],
    ),
    (
        "14: no payload begins a field of an event stream",
        &[("payload.rs", "no_text_can_begin_a_field_or_an_event_of_its_own")],
    ),
    (
        "18: hundreds at once, twenty times; a replayed signature",
        &[
            ("attacks.rs", "five_hundred_at_once_twenty_times_leave_nothing_behind"),
            ("plugins_webhooks.rs", "what_was_signed_for_a_moment_is_accepted_once_and_only_then"),
        ],
    ),
    (
        "19: one copy to who listens to several",
        &[("once.rs", "who_listens_to_both_gets_one_copy_and_a_word_about_the_other")],
    ),
    (
        "20: a publish after the stop began is refused at once",
        &[("stopping.rs", "a_publish_after_it_began_to_stop_hears_503_at_once_and_nobody_new_is_let_in")],
    ),
    // 15 (a mesh of nodes), 16 (tenants) and 17 (subscribers in a POST) are of other protocols: this one has one node, no
    // tenants in its names, and channels.
];

#[test]
fn each_of_them_is_held_by_tests_that_exist() {
    for (what, tests) in HELD {
        for (file, name) in tests {
            let text = std::fs::read_to_string(repository().join("tests").join(file)).unwrap();
            assert!(text.contains(&format!("fn {name}()")), "{what}: {file} has no {name}");
        }
    }
}

const MANY: u64 = 1600;

/// A client as it was told to be: a number, no epoch; it takes `subscribed` for the end of the replay.
async fn reader(hub: &TestHub, number: u64) -> Vec<(u64, String)> {
    let mut dice = Dice::new(number + 1);
    let mut all: Vec<(u64, String)> = Vec::new();
    let last = |all: &[(u64, String)]| all.last().map_or(0, |(seq, _)| *seq);
    while last(&all) < MANY {
        let mut ws = hub.ws().await;
        ws.send(json!({"type": "subscribe", "channels": ["r"], "after_seq": {"r": last(&all)}})).await;
        let until = (last(&all) + 1 + dice.below(120)).min(MANY);
        let mut subscribed = false;
        while last(&all) < until || (!subscribed && dice.below(4) > 0) {
            let frame = ws.next().await.unwrap();
            match frame["type"].as_str() {
                Some("message") => all.push((frame["seq_id"].as_u64().unwrap(), frame["payload"].to_string())),
                Some("subscribed") if !subscribed => subscribed = true,
                _ => panic!("{frame}"),
            }
        }
    }
    all
}

#[tokio::test]
async fn its_clients_resuming_at_random_points_under_16_writers_miss_nothing() {
    let config = "[websocket]\nfirst_aether = true\n[channels]\ntail_count = 64";
    let hub = TestHub::plan().toml(config).start();
    let writing = futures_util::future::join_all((0..16).map(|writer| {
        let hub = &hub;
        async move {
            let mut http = hub.http().await;
            for n in 0..MANY / 16 {
                http.post("/api/v1/publish", json!({"channel": "r", "payload": [writer, n]}).to_string()).await.ok();
            }
        }
    }));
    let reading = futures_util::future::join_all((0..40).map(|n| reader(&hub, n)));
    let (_, seen) = tokio::join!(writing, reading);
    let numbers: Vec<_> = seen[0].iter().map(|(seq, _)| *seq).collect();
    assert_eq!(numbers, (1..=MANY).collect::<Vec<_>>());
    assert!(seen.iter().all(|other| *other == seen[0]));
}
