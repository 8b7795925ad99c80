//! What rules change in a message, line by line, without the values.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::mask;
use crate::kernel::message::{Media, Message};

/// Lines of either side that are compared; of longer ones all are told as changed.
const COMPARED: usize = 500;
const TOLD: usize = 200;

/// The lines of both as JSON, with `-` and `+` before those that only one has.
pub fn lines(before: &Message, after: &Message) -> Vec<String> {
    let parsed = |message: &Message| match message.media {
        Media::Json => serde_json::from_slice(&message.payload).ok(),
        _ => None,
    };
    let (before, after) = match (parsed(before), parsed(after)) {
        (Some(before), Some(after)) => pair(&before, &after, mask::DEPTH),
        _ => told_apart(mask::payload(before), mask::payload(after), before.payload != after.payload),
    };
    let text = |json: &Json| serde_json::to_string_pretty(json).unwrap_or_default();
    let (before, after) = (text(&before), text(&after));
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let mut told = compare(&before, &after);
    if told.len() > TOLD {
        let more = told.len() - TOLD;
        told.truncate(TOLD);
        told.push(format!("  .. and {more} lines more"));
    }
    told
}

/// Both without values; where that would hide a difference it is named.
fn pair(before: &Json, after: &Json, depth: usize) -> (Json, Json) {
    match (before, after) {
        (Json::Object(a), Json::Object(b)) if depth > 0 && a.len().max(b.len()) <= mask::ITEMS => {
            let (mut left, mut right) = (Map::new(), Map::new());
            for name in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let (x, y) = match (a.get(name), b.get(name)) {
                    (Some(x), Some(y)) => {
                        let (x, y) = pair(x, y, depth - 1);
                        (Some(x), Some(y))
                    }
                    (x, y) => (x.map(|x| mask::value(x, depth - 1)), y.map(|y| mask::value(y, depth - 1))),
                };
                left.extend(x.map(|x| (name.clone(), x)));
                right.extend(y.map(|y| (name.clone(), y)));
            }
            (left.into(), right.into())
        }
        (Json::Array(a), Json::Array(b)) if depth > 0 && a.len() == b.len() && a.len() <= mask::ITEMS => {
            let (left, right): (Vec<_>, Vec<_>) = a.iter().zip(b).map(|(x, y)| pair(x, y, depth - 1)).unzip();
            (left.into(), right.into())
        }
        _ => told_apart(mask::value(before, depth), mask::value(after, depth), before != after),
    }
}

fn told_apart(before: Json, after: Json, differ: bool) -> (Json, Json) {
    let after = match after {
        Json::String(tag) if differ && before == tag => format!("{}, another>", tag.trim_end_matches('>')).into(),
        other => other,
    };
    (before, after)
}

fn compare(before: &[&str], after: &[&str]) -> Vec<String> {
    let all =
        |sign: &'static str, lines: &[&str]| lines.iter().map(|line| format!("{sign} {line}")).collect::<Vec<_>>();
    if before.len().max(after.len()) > COMPARED {
        return [all("-", before), all("+", after)].concat();
    }
    // The longest common lines of what begins at i and at j.
    let width = after.len() + 1;
    let mut common = vec![0u16; (before.len() + 1) * width];
    for i in (0..before.len()).rev() {
        for j in (0..after.len()).rev() {
            common[i * width + j] = match before[i] == after[j] {
                true => common[(i + 1) * width + j + 1] + 1,
                false => common[(i + 1) * width + j].max(common[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j, mut told) = (0, 0, Vec::new());
    while i < before.len() && j < after.len() {
        if before[i] == after[j] {
            told.push(format!("  {}", before[i]));
            (i, j) = (i + 1, j + 1);
        } else if common[(i + 1) * width + j] >= common[i * width + j + 1] {
            told.push(format!("- {}", before[i]));
            i += 1;
        } else {
            told.push(format!("+ {}", after[j]));
            j += 1;
        }
    }
    told.extend(all("-", &before[i..]));
    told.extend(all("+", &after[j..]));
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_change_is_told_without_the_values() {
        let of = |payload: &str| Message { payload: Bytes::from(payload.to_owned()), ..Message::default() };
        let told = lines(&of(r#"{"a":"four","gone":1,"same":2}"#), &of(r#"{"a":"FOUR","same":2,"new":[true]}"#));
        let expected = [
            "  {",
            r#"-   "a": "<string of 4>","#,
            r#"-   "gone": "<number>","#,
            r#"+   "a": "<string of 4, another>","#,
            r#"+   "new": ["#,
            r#"+     "<boolean>""#,
            r#"+   ],"#,
            r#"    "same": "<number>""#,
            "  }",
        ];
        assert_eq!(told, expected);
    }
}
