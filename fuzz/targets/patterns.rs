//! Channel patterns: a line each, and on the last line a channel's name. What they say of each other must agree.

#![no_main]

use aether::kernel::message::ChannelName;
use aether::kernel::pattern::Pattern;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines: Vec<&str> = text.lines().take(6).collect();
    let name = lines.pop().unwrap_or_default();
    let patterns: Vec<Pattern> = lines.iter().filter_map(|line| Pattern::parse(line).ok()).collect();
    let name = ChannelName::new(name).ok();
    for one in &patterns {
        if let Some(example) = one.example() {
            assert!(one.matches(example.as_str()), "{one:?} gives {example} and does not match it");
        }
        assert!(one.covers(one), "{one:?} does not cover itself");
        if let Some(name) = &name {
            let name = name.as_str();
            assert_eq!(one.captures(name).is_some(), one.matches(name), "{one:?} of {name}");
            for other in &patterns {
                let (of_one, of_other) = (one.matches(name), other.matches(name));
                assert!(!(one.covers(other) && of_other && !of_one), "{one:?} covers {other:?}, and {name} tells");
                assert!(!(of_one && of_other) || one.meets(other), "{one:?} and {other:?} meet at {name}");
                assert_eq!(one.meets(other), other.meets(one), "{one:?} {other:?}");
            }
        }
    }
});
