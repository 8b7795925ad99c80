//! Settings as people write them, and what they hear about the faulty ones.

use std::path::Path;

use super::*;
use crate::config::{Setting, Sources};

fn sources(file: &str) -> Sources {
    Sources { file: Some(("aether.toml".into(), file.into())), ..Sources::default() }
}

fn env(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Sources { env, ..Sources::default() }.read()
}

fn problems(file: &str) -> Vec<String> {
    sources(file).read().unwrap_err().problems.iter().map(Problem::to_string).collect()
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_key() {
    assert_eq!(
        problems("# one\n\n[websocket]\n  ping_intervall = \"30s\"\n"),
        ["aether.toml:4:3: websocket.ping_intervall is not known here; did you mean ping_interval?"]
    );
    assert_eq!(
        problems("[websockt]\nping_interval = \"30s\"\npong_timeout = \"1m\"\n"),
        ["aether.toml:1:2: websockt is not known here; did you mean websocket?"]
    );
    assert_eq!(problems("[stoer]\n"), ["aether.toml:1:2: stoer is not known here; did you mean store?"]);
    assert_eq!(
        problems("[[retention.rules]]\npattern = \"a\"\nttll = \"1h\"\n"),
        ["aether.toml:3:1: retention.rules[0].ttll is not known here; did you mean ttl?"]
    );
    assert_eq!(
        problems("[retention]\nrules = [{ pattern = \"a\" }, { pattern = \"b\", max = 3 }]\n"),
        ["aether.toml:2:46: retention.rules[1].max is not known here; known are pattern, ttl, max_count, max_bytes, \
          history, ack, lag, max_lag"]
    );
    assert_eq!(
        problems("[[plugin]]\nuse = \"a\"\nchanels = []\n"),
        ["aether.toml:3:1: plugin[0].chanels is not known here; did you mean channels?"]
    );
}

#[test]
fn all_faults_are_reported_at_once() {
    let found = problems(
        "[server]\naddr = \"nowhere\"\nmax_payload_size = \"64KB\"\nfront_workers = -1\n\
         [websocket]\nping_interval = 30\npong = 1\nallowed_origins = [\"https://a\", 5, \"b\"]\n\
         [log]\nlevel = \"infos\"\n[limits]\nconnections = 0\n[[retention.rules]]\nttl = \"1h\"\nack = \"sync\"\n",
    );
    let expected = [
        "aether.toml:2:8: server.addr must be an address and a port such as \"127.0.0.1:8080\"",
        "aether.toml:3:20: server.max_payload_size: \"64KB\" is not a size: write one such as 65536, \"64KiB\", \"1MiB\", \"2GiB\"",
        "aether.toml:4:17: server.front_workers must be a whole number, 0 or more, not -1",
        "aether.toml:6:17: websocket.ping_interval: 30 has no unit: write \"30s\" for seconds",
        "aether.toml:7:1: websocket.pong is not known here; known are ping_interval, pong_timeout, max_message_size, compression, compress_from, allowed_origins, first_aether",
        "aether.toml:8:33: websocket.allowed_origins[1] must be a string, not 5",
        "aether.toml:10:9: log.level must be one of error, warn, info, debug, trace, not \"infos\"; did you mean info?",
        "aether.toml:15:7: retention.rules[0].ack must be one of memory, written, synced, not \"sync\"",
        "aether.toml:12:15: limits.connections must be between 1 and 100000000, not 0",
        "aether.toml:13:1: retention.rules[0].pattern is missing: say which channels this rule is for",
    ];
    for line in expected {
        assert!(found.iter().any(|problem| problem == line), "{line}\n  is not among\n{}", found.join("\n"));
    }
    assert_eq!(found.len(), expected.len() + 1, "{}", found.join("\n"));
}

#[test]
fn what_does_not_go_together_is_reported_where_it_was_set() {
    assert_eq!(
        problems("[websocket]\nping_interval = \"2m\"\n"),
        ["aether.toml:2:17: websocket.pong_timeout must not be less than websocket.ping_interval (2m)"]
    );
    assert_eq!(
        problems("[[retention.rules]]\npattern = \"a\"\nhistory = false\nttl = \"1h\"\n"),
        [
            "aether.toml:4:7: retention.rules[0].ttl says how much to keep, but history = false keeps nothing: remove one of them"
        ]
    );
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_its_place() {
    assert!(problems("[server]\naddr = \n")[0].starts_with("aether.toml:2:8: this is not TOML: "));
    assert!(problems("[server]\naddr = \"a\"\naddr = \"b\"\n")[0].starts_with("aether.toml:3:"));
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let error = Config::load(Some(Path::new("/nowhere/aether.toml")), Vec::new()).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/aether.toml: cannot be read"), "{error}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let mut sources = sources("[server]\naddr = \"127.0.0.1:1\"\nfront_workers = 1\ndelivery_workers = 1\n");
    sources.env =
        vec![("AETHER_SERVER_FRONT_WORKERS".into(), "2".into()), ("AETHER_SERVER_DELIVERY_WORKERS".into(), "2".into())];
    sources.flags = vec![Setting { key: "server.delivery_workers", value: "3".into(), at: "--x" }];
    let server = sources.read().unwrap().server;
    assert_eq!((server.addr.port(), server.front_workers, server.delivery_workers), (1, 2, 3));
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest_one() {
    assert_eq!(
        env(&[("AETHER_WEBSOCKET_PING_INTERVALL", "1s")]).unwrap_err().to_string(),
        "AETHER_WEBSOCKET_PING_INTERVALL: is not known; did you mean AETHER_WEBSOCKET_PING_INTERVAL?"
    );
    assert_eq!(env(&[("AETHER_X", "1")]).unwrap_err().to_string(), "AETHER_X: is not known");
    assert_eq!(
        env(&[("AETHER_LOG_LEVEL", "loud")]).unwrap_err().to_string(),
        "AETHER_LOG_LEVEL: log.level must be one of error, warn, info, debug, trace, not \"loud\""
    );
    assert_eq!(
        env(&[("AETHER_PUBLISH_QUEUE", "0")]).unwrap_err().to_string(),
        "AETHER_PUBLISH_QUEUE: publish.queue must be between 1 and 1000000, not 0"
    );
}

#[test]
fn a_variable_takes_the_type_of_its_key() {
    let config = env(&[
        ("AETHER_STORE_PATH", "123"),
        ("AETHER_STORE_CACHE_SIZE", "8388608"),
        ("AETHER_PUBLISH_MAX_BATCH", "7"),
        ("AETHER_RETENTION_DEFAULT_MAX_COUNT", "none"),
        ("AETHER_WEBSOCKET_ALLOWED_ORIGINS", "https://a.example, https://b.example"),
        ("AETHER_SECRETS_API_TOKEN", "42"),
        ("AETHER_SERVER_ADDR", ""),
    ])
    .unwrap();
    assert_eq!(config.store.path, Path::new("123"));
    assert_eq!((config.store.cache_size.0, config.publish.max_batch), (8 << 20, 7));
    assert_eq!(config.retention.default_max_count.0, None);
    assert_eq!(config.websocket.allowed_origins, ["https://a.example", "https://b.example"]);
    assert_eq!(config.secrets["api_token"].reveal(), "42");
    assert_eq!(config.server.addr.port(), 8080);
}

#[test]
fn the_operators_listener_is_an_address_or_a_port_of_loopback() {
    let admin = |value: &str| env(&[("AETHER_SERVER_ADMIN_ADDR", value)]).unwrap().server.admin_addr.0;
    assert_eq!(admin("9090"), Some(([127, 0, 0, 1], 9090).into()));
    assert_eq!(admin("0.0.0.0:9090"), Some(([0, 0, 0, 0], 9090).into()));
    assert_eq!((admin("none"), admin("")), (None, None));
    let port = sources("[server]\nadmin_addr = 9090\n").read().unwrap().server.admin_addr.0;
    assert_eq!(port, admin("9090"));
    assert_eq!(
        problems("[server]\nadmin_addr = \"here\"\n"),
        [
            "aether.toml:2:14: server.admin_addr: \"here\" is no address: write \"127.0.0.1:9090\", a port such as 9090, or \"none\""
        ]
    );
    assert!(problems("[server]\nadmin_addr = 8080\n")[0].contains("is server.addr itself"));
}

#[test]
fn a_bad_secret_is_refused_without_being_shown() {
    let found = problems("[secrets]\na = 314159\nb = [\"hunter2\"]\nsigning_key = \"hunter2\"\n").join("\n");
    assert!(found.contains("secrets.a must be a string") && found.contains("at least 32 bytes"), "{found}");
    assert!(!found.contains("314159") && !found.contains("hunter2"), "{found}");
}

/// Every leaf of a tree of settings; lists are leaves.
fn leaves(tree: &Json) -> BTreeMap<String, Json> {
    let mut found = BTreeMap::new();
    for (section, keys) in tree.as_object().unwrap() {
        match keys {
            Json::Object(keys) => {
                found.extend(keys.iter().map(|(key, value)| (format!("{section}.{key}"), value.clone())));
            }
            value => drop(found.insert(section.clone(), value.clone())),
        }
    }
    found
}

#[test]
fn the_shipped_file_says_every_key_with_its_default() {
    let text = include_str!("../../../aether.toml");
    let mut reading = Reading::default();
    reading.file("aether.toml", text).unwrap();
    let said: Vec<_> = leaves(&reading.said).into_keys().collect();
    // Rules are shown by example only: an empty list of them could not be added to.
    let known: Vec<_> = leaves(&defaults()).into_keys().filter(|key| key != "retention.rules").collect();
    assert_eq!(said, known);
    let shipped = serde_json::to_value(sources(text).read().unwrap()).unwrap();
    for (key, default) in leaves(&defaults()) {
        assert_eq!(leaves(&shipped)[&key], default, "{key}");
    }
}

#[test]
fn what_the_shipped_file_shows_in_comments_can_be_switched_on() {
    // Examples are comments that begin with `#: `; switched on, they must be good.
    let text = include_str!("../../../aether.toml").replace("#: ", "").replace("#:\n", "\n");
    let config = sources(&text).read().unwrap();
    assert!(!config.retention.rules.is_empty() && config.plugin.len() > 2);
    let rule_keys = serde_json::to_value(super::super::Rule::default()).unwrap();
    for key in rule_keys.as_object().unwrap().keys() {
        assert!(include_str!("../../../aether.toml").contains(&format!("#: {key} = ")), "{key} has no example");
    }
}
