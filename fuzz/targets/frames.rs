//! What clients of our own protocol say, and of the first Aether's: a frame a line, to a hub that lives in memory.

#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use aether::edges::line::{Dialect, Frame};
use aether::edges::native::{Limits, WsDialect};
use aether_fuzz::{Open, Stand, lines};
use libfuzzer_sys::fuzz_target;

/// Channels and names pile up in a hub: after so many inputs comes a new one.
const INPUTS: usize = 2000;

thread_local! {
    static STAND: RefCell<(usize, Option<Stand>)> = const { RefCell::new((0, None)) };
}

fuzz_target!(|bytes: &[u8]| {
    // The first byte says who speaks, and whether in text.
    let Some((first, rest)) = bytes.split_first() else { return };
    STAND.with_borrow_mut(|(inputs, stand)| {
        *inputs += 1;
        if *inputs % INPUTS == 0 {
            *stand = None;
        }
        hear(stand.get_or_insert_with(|| Stand::new(Arc::new(Open))), *first, rest);
    });
});

fn hear(stand: &Stand, first: u8, rest: &[u8]) {
    let limits = Limits { channels_per_request: 100, channels_per_connection: 8, refusals_per_minute: 0 };
    let native = WsDialect::new(limits, true);
    let is_ours = first & 1 == 0;
    let mut dialect = if is_ours { native } else { native.like_the_first() };
    let mut session = stand.session();
    let mut out = Vec::new();
    for line in lines(rest) {
        out.clear();
        let is_text = first & 2 == 0;
        // A transport hands on no text that is none.
        if is_text && std::str::from_utf8(&line).is_err() {
            continue;
        }
        let frame = if is_text { Frame::Text(line) } else { Frame::Binary(line) };
        let outcome = stand.drive(dialect.on_frame(&mut session, frame, &mut out));
        dialect.beat(&session, &mut out);
        assert!(outcome.is_err() || !out.is_empty());
        stand.written(&mut session);
        if outcome.is_err() {
            break;
        }
    }
    session.end();
}
