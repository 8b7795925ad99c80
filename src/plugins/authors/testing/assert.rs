//! The assertions of `aether.test`. Each failure has its line, what was expected and what there was.

use mlua::{Function, Table, Value};

use super::diff::{differences, show};
use crate::plugins::Entry;
use crate::plugins::api::function;
use crate::plugins::vm::value::{first_line, has_place, raise};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "test.allowed",
        args: "answer",
        gives: "answer",
        doc: "An answer is a yes. Gives it back.",
        kind: "(answer: Answer) -> Answer",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.allowed(t.publish("alice", "room.42", "hello"))"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, answer: Value| match answer.as_table() {
                Some(table) if table.raw_get::<Value>("allowed")?.as_boolean() == Some(true) => Ok(answer),
                _ => Err(raise(lua, format!("expected a yes, got {}", verdict(&answer)?))),
            })
        },
    },
    Entry {
        name: "test.denied",
        args: "answer, code?, why?",
        gives: "answer",
        doc: "An answer is a no with this code, and its sentence contains this text. A rule that broke is no denial. Gives it back.",
        kind: "(answer: Answer, code: string?, why: string?) -> Answer",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.denied(t.publish(nil, "room.42", "hello"), "sign_in", "sign in")"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, (answer, code, why): (Value, Option<String>, Option<String>)| {
                denied(&answer, code.as_deref(), why.as_deref()).map_err(|why| raise(lua, why))?;
                Ok(answer)
            })
        },
    },
    Entry {
        name: "test.equal",
        args: "got, expected, what?",
        gives: "",
        doc: "Two values are the same, to their last field; a failure lists where they differ.",
        kind: "(got: any, expected: any, what: string?) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.equal({ 1, { 2 } }, { 1, { 2 } }, "the lists")"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, (got, expected, what): (Value, Value, Option<String>)| {
                let found = differences(&got, &expected);
                if found.is_empty() {
                    return Ok(());
                }
                let what = what.map_or(String::new(), |what| format!("{what}: "));
                Err(raise(lua, format!("{what}not the same:\n  {}", found.join("\n  "))))
            })
        },
    },
    Entry {
        name: "test.matches",
        args: "text, pattern",
        gives: "",
        doc: "A text fits a Lua pattern somewhere.",
        kind: "(text: string?, pattern: string) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.matches("room.42", "^room%.%d+$")"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, (text, pattern): (Value, String)| {
                let Value::String(found) = &text else {
                    return Err(raise(lua, format!("expected a text that fits {pattern:?}, got {}", show(&text))));
                };
                let find: Function = lua.globals().get::<Table>("string")?.get("find")?;
                match find.call::<Value>((found, pattern.as_str()))? {
                    Value::Nil => {
                        Err(raise(lua, format!("expected a text that fits {pattern:?}, got {}", show(&text))))
                    }
                    _ => Ok(()),
                }
            })
        },
    },
    Entry {
        name: "test.raises",
        args: "fn(), text?",
        gives: "string",
        doc: "A function raises an error whose first line contains this text. Gives the line.",
        kind: "(body: () -> (), text: string?) -> string",
        may_wait: false,
        since: "0.1.0",
        example: r#"t.raises(function() aether.pattern("user.{}", "a.b") end, "separator")"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, (body, text): (Function, Option<String>)| match body.call::<()>(()) {
                Ok(()) => Err(raise(lua, "expected an error, and there was none")),
                Err(error) => {
                    let line = first_line(&error);
                    match text {
                        Some(text) if !line.contains(&text) => {
                            Err(raise(lua, format!("expected an error with {text:?}, got {line:?}")))
                        }
                        _ => Ok(line),
                    }
                }
            })
        },
    },
    Entry {
        name: "test.fail",
        args: "why",
        gives: "",
        doc: "Fails.",
        kind: "(why: string) -> ()",
        may_wait: false,
        since: "0.1.0",
        example: r#"if aether.plugin.name == "" then t.fail("it has no name") end"#,
        make: |lua, seat| function(lua, seat, |lua, _, why: String| Err::<(), _>(raise(lua, why))),
    },
];

fn denied(answer: &Value, code: Option<&str>, why: Option<&str>) -> Result<(), String> {
    let field = |name: &str| answer.as_table().and_then(|table| table.raw_get::<Option<String>>(name).ok().flatten());
    let expected = || match code {
        Some(code) => format!("expected the no {code}"),
        None => "expected a no".to_owned(),
    };
    let got = || verdict(answer).unwrap_or_default();
    let is_no =
        answer.as_table().is_some_and(|table| table.raw_get::<Option<bool>>("allowed").ok() == Some(Some(false)));
    if !is_no || (field("kind").as_deref() == Some("broken") && code != Some("rule_error")) {
        return Err(format!("{}, got {}", expected(), got()));
    }
    if code.is_some_and(|code| field("code").as_deref() != Some(code)) {
        return Err(format!("{}, got {}", expected(), got()));
    }
    match why {
        Some(why) if !field("why").unwrap_or_default().contains(why) => {
            Err(format!("expected a sentence with {why:?}, got {}", got()))
        }
        _ => Ok(()),
    }
}

/// An answer in one line.
fn verdict(answer: &Value) -> mlua::Result<String> {
    let Some(table) = answer.as_table() else { return Ok(show(answer)) };
    let field = |name: &str| table.raw_get::<Option<String>>(name).map(Option::unwrap_or_default);
    Ok(match table.raw_get::<Value>("allowed")? {
        Value::Boolean(true) => "a yes".into(),
        Value::Boolean(false) => {
            let (kind, code, reason, place) = (field("kind")?, field("code")?, field("reason")?, field("place")?);
            let reason = if reason.is_empty() { field("why")? } else { reason };
            let at = if place.is_empty() || has_place(&reason) { String::new() } else { format!(" ({place})") };
            if kind == "broken" {
                format!("a rule that broke: {reason}{at}")
            } else {
                format!("the no {code}: {reason}{at}")
            }
        }
        _ => show(answer),
    })
}
