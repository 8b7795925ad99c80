//! The library's reference as a page shows it, made from the registry.

use crate::plugins::{Entry, registry};

const BEGIN: &str = "<!-- The reference: made by `aether plugin reference --into docs/plugins.md`. -->\n";
const END: &str = "<!-- The reference ends. -->\n";

/// A table of every name, and an example of each.
pub fn reference() -> String {
    let mut text = String::from("| call | gives | | since |\n|---|---|---|---|\n");
    for entry in registry() {
        let Entry { name, args, gives, doc, may_wait, since, .. } = entry;
        let call =
            if entry.kind.starts_with('(') { format!("aether.{name}({args})") } else { format!("aether.{name}") };
        let gives = if gives.is_empty() { String::new() } else { format!("{gives} ") };
        let waits = if *may_wait { " Only in hooks that wait." } else { "" };
        text.push_str(&format!("| `{call}` | {gives}| {doc}{waits} | {since} |\n"));
    }
    text.push_str("\nAn example of each:\n");
    let mut module = "";
    for entry in registry() {
        let of = entry.name.split('.').next().unwrap_or(entry.name);
        if of != module {
            text.push_str(&format!("{}\n```lua\n", if module.is_empty() { "" } else { "```\n" }));
        } else if entry.example.contains('\n') {
            text.push('\n');
        }
        module = of;
        text.push_str(&format!("{}\n", entry.example));
    }
    text.push_str("```\n");
    text
}

/// `page` with the reference as it is now in the place of the one that it has; none if it has no place for one.
pub fn renewed(page: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some([before, BEGIN, "\n", &reference(), "\n", END, after].concat())
}
