//! `aether.retention`: asking the retention hooks again.

use mlua::Value;

use super::pattern::read_pattern;
use super::{Entry, function};
use crate::kernel::pattern::Patterns;
use crate::plugins::vm::value::raise;
use crate::plugins::why::trace;

pub const ENTRIES: &[Entry] = &[Entry {
    name: "retention.refresh",
    args: "pattern",
    gives: "",
    doc: "Asks the retention hooks again about the channels in use that match, soon after.",
    kind: "(pattern: string | Pattern) -> ()",
    may_wait: false,
    since: "0.1.0",
    example: r#"aether.on.publish("admin.plan.{team}", function(s, ch)
	aether.retention.refresh(aether.pattern("team.{}.*", ch.team))
	return nil
end)"#,
    make: |lua, seat| {
        function(lua, seat, |lua, seat, pattern: Value| {
            if seat.loading.get() {
                return Err(raise(
                    lua,
                    "retention.refresh is for hooks: while a file loads there is nothing to refresh",
                ));
            }
            let pattern = read_pattern(&pattern).map_err(|why| raise(lua, format!("retention.refresh: {why}")))?;
            if !seat.unit().may_register(&pattern) {
                let why = format!("retention.refresh: {pattern} is not within [permissions] channels of plugin.toml");
                return Err(raise(lua, why));
            }
            let acts = trace::acts(|| format!("retention.refresh {pattern}"));
            if let Some(world) = seat.program.commons.world.get().filter(|_| acts) {
                world.policies_changed(Patterns::from_iter([pattern]));
            }
            Ok(())
        })
    },
}];
