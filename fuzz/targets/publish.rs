//! Bodies of HTTP publishes: one message or a batch, in JSON.

#![no_main]

use aether::edges::publish::Written;
use aether::edges::wire::object;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match object::<Written<'_>>(bytes).and_then(Written::draft) {
        Ok(draft) => {
            let payload = &draft.message.payload;
            // What goes out is what came in, byte for byte, and JSON it is.
            assert!(bytes.windows(payload.len()).any(|part| part == &payload[..]));
            assert!(serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok());
            assert!(!draft.channel.as_str().is_empty());
        }
        Err(fault) => {
            let (status, code) = fault.numbers();
            assert!((400..500).contains(&status) && code / 100 == u32::from(status), "{fault:?}");
        }
    }
});
