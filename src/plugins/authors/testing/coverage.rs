//! Which lines of a plugin ran, as Luau counts them, and what of the library they used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mlua::{Function, Lua, Table};
use parking_lot::Mutex;

use crate::plugins::source::generation::{Event, Program};

const CHUNKS: &str = "coverage";

#[derive(Default)]
pub struct Coverage {
    /// By file: the lines that can run, and whether they did.
    files: Mutex<BTreeMap<String, BTreeMap<usize, bool>>>,
    /// Names of the registry.
    used: Mutex<BTreeSet<&'static str>>,
}

/// Everything that a case can use: each function, and each hook that a function has several of.
pub fn names() -> impl Iterator<Item = &'static str> {
    super::whole_library().map(|entry| entry.name).chain(Event::OF_DIALECT.map(Event::name))
}

/// One file of it.
pub struct Covered {
    pub file: String,
    pub lines: usize,
    pub ran: usize,
    /// As stretches: `12`, `15-17`.
    pub missed: Vec<String>,
}

impl Coverage {
    fn count(&self, file: &str, line: usize, ran: bool) {
        let mut files = self.files.lock();
        match files.get_mut(file) {
            Some(lines) => *lines.entry(line).or_default() |= ran,
            None => {
                files.insert(file.to_owned(), BTreeMap::from([(line, ran)]));
            }
        }
    }

    /// A function of the library was called, or a value of it read.
    pub fn touch(&self, name: &'static str) {
        // Registering a hook is not yet a use of it: what counts is that it ran.
        if !name.is_empty() && !name.starts_with("on.") {
            self.used.lock().insert(name);
        }
    }

    /// A hook ran.
    pub fn hook_ran(&self, event: Event) {
        self.used.lock().insert(event.name());
    }

    /// What of the library nothing has used.
    pub fn untouched(&self) -> Vec<&'static str> {
        let used = self.used.lock();
        names().filter(|name| !used.contains(name)).collect()
    }

    pub fn files(&self) -> Vec<Covered> {
        let files = self.files.lock();
        let covered = |(file, lines): (&String, &BTreeMap<usize, bool>)| Covered {
            file: file.clone(),
            lines: lines.len(),
            ran: lines.values().filter(|ran| **ran).count(),
            missed: stretches(lines),
        };
        files.iter().map(covered).collect()
    }
}

/// Lines that did not run; those between two of them that cannot run do not part them.
fn stretches(lines: &BTreeMap<usize, bool>) -> Vec<String> {
    let mut stretches: Vec<(usize, usize)> = Vec::new();
    let mut goes_on = false;
    for (&line, &ran) in lines {
        match stretches.last_mut() {
            Some(last) if !ran && goes_on => last.1 = line,
            _ if !ran => stretches.push((line, line)),
            _ => {}
        }
        goes_on = !ran;
    }
    let shown = |(from, to): (usize, usize)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    stretches.into_iter().map(shown).collect()
}

/// Has what this VM loads counted, if somebody wants to know it.
/// Whether somebody does: then what ran is to be `read` after each call.
pub fn begin(lua: &Lua, program: &Program) -> bool {
    let Some(coverage) = program.commons.witness.as_ref().and_then(|witness| witness.coverage.as_ref()) else {
        return false;
    };
    lua.set_compiler(mlua::chunk::Compiler::new().set_coverage_level(1));
    lua.set_app_data(coverage.clone());
    true
}

/// Remembers a file's function: its counters lie in it and in those that it made.
pub fn keep(lua: &Lua, file: impl FnOnce() -> String, function: &Function) {
    if lua.app_data_ref::<Arc<Coverage>>().is_none() {
        return;
    }
    let chunks = lua.named_registry_value::<Option<Table>>(CHUNKS).ok().flatten();
    let chunks = chunks.map_or_else(|| lua.create_table(), Ok);
    // A VM that is full loses its counters, and fails by itself.
    let _ = chunks.and_then(|chunks| {
        chunks.raw_set(file(), function)?;
        lua.set_named_registry_value(CHUNKS, chunks)
    });
}

/// Takes over what ran so far.
pub fn read(lua: &Lua) {
    let Some(coverage) = lua.app_data_ref::<Arc<Coverage>>() else { return };
    let chunks = lua.named_registry_value::<Option<Table>>(CHUNKS).ok().flatten();
    for (file, function) in chunks.iter().flat_map(Table::pairs::<String, Function>).flatten() {
        function.coverage(|info| {
            for (line, hits) in info.hits.iter().enumerate().filter(|(_, hits)| **hits >= 0) {
                coverage.count(&file, line, *hits > 0);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_lines_are_told_as_stretches() {
        let lines = [(1, true), (2, false), (4, false), (5, true), (7, false), (9, true)];
        assert_eq!(stretches(&lines.into()), ["2-4", "7"]);
        assert_eq!(stretches(&BTreeMap::new()), [""; 0]);
    }
}
