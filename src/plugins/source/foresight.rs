//! Which scripts can wait, told from their text: whoever writes `aether.http`, `aether.memo`, `aether.errand` or
//! `aether.publish_now` can.
//!
//! Decided before anything runs, because a hook that waits has its place on other threads than one that does not. A
//! script that is wrongly taken for one that waits pays a hop between threads; one that hides it hears so when it calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use crate::plugins::{Entry, registry};

/// Modules of `aether` whose functions wait.
static WAITING: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
    let module = |entry: &Entry| entry.name.split('.').next().unwrap_or(entry.name);
    registry().filter(|entry| entry.may_wait).map(module).collect()
});

/// Whether `entry`, or a file that it requires, can wait.
pub fn can_wait(
    sources: &BTreeMap<String, String>,
    entry: &str,
    resolve: impl Fn(&str, &str) -> Option<String>,
) -> bool {
    let mut seen = BTreeSet::from([entry.to_owned()]);
    let mut next = vec![entry.to_owned()];
    while let Some(path) = next.pop() {
        let Some(source) = sources.get(&path) else { continue };
        let code = without_comments(source);
        if mentions(&code) {
            return true;
        }
        for wanted in required(&code) {
            match wanted.and_then(|wanted| resolve(&path, wanted)) {
                Some(path) if seen.insert(path.clone()) => next.push(path),
                Some(_) => {}
                // It says only when it runs which file it means.
                None => next.extend(sources.keys().filter(|path| seen.insert((*path).clone())).cloned()),
            }
        }
    }
    false
}

/// Lines without what follows `--`. A `--` in a string hides the rest of its line, which is seldom and is told.
fn without_comments(source: &str) -> String {
    source.lines().map(|line| line.split_once("--").map_or(line, |(code, _)| code)).collect::<Vec<_>>().join("\n")
}

fn mentions(code: &str) -> bool {
    WAITING.iter().any(|word| {
        code.match_indices(word).any(|(at, _)| {
            let (before, after) = (&code[..at], &code[at + word.len()..]);
            let begins = before.trim_end().ends_with('.') || before.ends_with("[\"") || before.ends_with("['");
            // `aether.http.route` registers and does not wait.
            let other = after.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            begins && !other && !after.starts_with(".route")
        })
    })
}

/// What follows each `require`: a path, or something that is only known when it runs.
fn required(code: &str) -> impl Iterator<Item = Option<&str>> {
    code.match_indices("require").map(|(at, word)| {
        let rest = code[at + word.len()..].trim_start().trim_start_matches('(').trim_start();
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        rest[1..].split_once(quote).map(|(path, _)| path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn can(files: &[(&str, &str)]) -> bool {
        let sources: BTreeMap<String, String> =
            files.iter().map(|(path, text)| ((*path).into(), (*text).into())).collect();
        can_wait(&sources, "main.lua", |_, wanted| {
            let path = format!("{}.lua", wanted.trim_start_matches("./"));
            sources.contains_key(&path).then_some(path)
        })
    }

    #[test]
    fn what_a_script_writes_says_whether_it_can_wait() {
        assert!(can(&[("main.lua", "local res = aether.http.get(url)")]));
        assert!(can(&[("main.lua", "local memo = aether.memo")]));
        assert!(can(&[("main.lua", "aether['http'].get(url)")]));
        assert!(!can(&[("main.lua", "-- unlike aether.http.get\nlocal url = 'http://x'")]));
        assert!(!can(&[("main.lua", "local http_only = aether.https")]));
        assert!(!can(&[("main.lua", "aether.http.route('GET', '/x', f)")]));
    }

    #[test]
    fn what_it_requires_counts_and_what_it_does_not_does_not() {
        let lib = ("lib/ask.lua", "return aether.http.get");
        assert!(can(&[("main.lua", "local ask = require('./lib/ask')"), lib]));
        assert!(!can(&[("main.lua", "return 1"), lib]));
        assert!(can(&[("main.lua", "require(name)"), lib]));
    }
}
