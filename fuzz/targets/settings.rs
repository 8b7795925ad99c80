//! `aether.toml`: whatever it says, it is read, or every problem has a place and a sentence.

#![no_main]

use aether::config::Sources;
use aether::kernel::message::ChannelName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let sources = Sources { file: Some(("aether.toml".into(), text.into())), ..Sources::default() };
    match sources.read() {
        Ok(config) => {
            let _ = config.policy(&ChannelName::new("room.1").expect("a name"));
            let _ = config.rule_dirs();
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
