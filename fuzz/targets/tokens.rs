//! Credentials: tokens of subscribers and keys of back ends, through the plugins that judge them.

#![no_main]

use std::sync::{Arc, OnceLock};

use aether::kernel::hooks::{ConnectRequest, Hooks};
use aether::plugins::Host;
use aether_fuzz::{Open, Stand, host, not_broken};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    static HOST: OnceLock<Arc<Host>> = OnceLock::new();
    let host = HOST.get_or_init(|| host(&[("jwt-auth", json!({})), ("api-keys", json!({}))], None));
    thread_local! {
        static STAND: Stand = Stand::new(Arc::new(Open));
    }
    let transport = *["ws", "sse", "http", "poll"].get(usize::from(first % 4)).expect("one of four");
    let bearer = Some(text.to_owned());
    let request = ConnectRequest { dialect: "native", transport, method: "GET".into(), bearer, ..Default::default() };
    let identity = STAND.with(|stand| not_broken(stand.drive(host.connect(&request)), rest));
    // Nobody guesses a signature: who is let in with rights has a token of the corpus.
    if let Some(identity) = identity {
        let is_signed = text.split('.').count() == 3;
        assert!(is_signed || identity.user.is_none(), "{text} is {:?}", identity.user);
    }
});
