//! `aether.test`: lets time pass.

use mlua::Value;

use super::stage;
use crate::kernel::message::Micros;
use crate::plugins::Entry;
use crate::plugins::api::function;
use crate::plugins::source::schema::read_duration;
use crate::plugins::vm::value::{describe, lua_to_json, raise, to_number};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "test.clock.now",
        args: "",
        gives: "number",
        doc: "Milliseconds since the Unix epoch. Each case begins at 2026-01-01T00:00:00Z.",
        kind: "() -> number",
        may_wait: false,
        since: "0.1.0",
        example: "t.equal(t.clock.now(), 1767225600000)",
        make: |lua, seat| function(lua, seat, |lua, seat, ()| Ok(stage(lua, seat)?.now() as f64 / 1000.0)),
    },
    Entry {
        name: "test.clock.set",
        args: "ms",
        gives: "",
        doc: "Sets the clock, which everything of the plugin follows.",
        kind: "(ms: number) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.clock.set(1767312000000)
t.equal(aether.now_ms(), 1767312000000)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, ms: Value| {
                let ms = to_number(&ms).filter(|ms| ms.is_finite() && *ms >= 0.0);
                let ms = ms.ok_or_else(|| raise(lua, "t.clock.set: expected milliseconds since the Unix epoch"))?;
                let (stage, then) = (stage(lua, seat)?, (ms * 1000.0) as Micros);
                match then > stage.now() {
                    true => stage.pass_to(then).map_err(|why| raise(lua, why)),
                    false => {
                        stage.set_time(then);
                        Ok(())
                    }
                }
            })
        },
    },
    Entry {
        name: "test.clock.advance",
        args: "duration",
        gives: "",
        doc: "Lets time pass: \"5m\", or a number of seconds. Timers that are due meanwhile run, each at its time.",
        kind: "(time: Duration) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.clock.advance("30s")
t.equal(aether.now_ms(), 1767225630000)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, time: Value| {
                let passed = lua_to_json(&time).ok().and_then(|json| read_duration(&json)).ok_or_else(|| {
                    raise(lua, format!("t.clock.advance: expected a duration like \"5m\", got {}", describe(&time)))
                })?;
                let stage = stage(lua, seat)?;
                let then = stage.now().saturating_add(passed.as_micros().try_into().unwrap_or(Micros::MAX));
                stage.pass_to(then).map_err(|why| raise(lua, why))
            })
        },
    },
];
