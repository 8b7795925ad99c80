//! Declared views on any bytes, held against a tree that is cut by the book.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::value::RawValue;

use crate::plugins::asking::redact::{Act, Mask, Rule};
use crate::plugins::vm::scan;

fn rule(drop: &[&str], mask: &[(&str, Mask)], pick: &[&str]) -> Rule {
    let mut rule = Rule::default();
    drop.iter().for_each(|path| rule.add(path, Act::Drop).unwrap());
    mask.iter().for_each(|(path, how)| rule.add(path, Act::Mask(*how)).unwrap());
    pick.iter().for_each(|path| rule.add(path, Act::Pick).unwrap());
    rule
}

fn apply(rule: &Rule, payload: &str) -> Option<String> {
    let out = rule.apply(&Bytes::copy_from_slice(payload.as_bytes()), b"key")?;
    Some(String::from_utf8(out.to_vec()).unwrap())
}

#[test]
fn what_is_dropped_goes_with_one_comma_and_nothing_else_moves() {
    let drop = rule(&["a", "l.2", "o.*.x"], &[], &[]);
    for (before, after) in [
        (r#"{ "a" : 1 , "b" : 1.50e+3 }"#, r#"{ "b" : 1.50e+3 }"#),
        (r#"{"b":1, "a":2}"#, r#"{"b":1}"#),
        (r#"{"a":1,"a":2}"#, r#"{}"#),
        (r#"{"b":1,"a":1,"c":{"a":1},"a":3,"d":4}"#, r#"{"b":1,"c":{"a":1},"d":4}"#),
        (r#"{"\u0061":1,"b":"\u0061"}"#, r#"{"b":"\u0061"}"#),
        (r#"{"l":[1, 2 ,3],"m":[ ]}"#, r#"{"l":[1,3],"m":[ ]}"#),
        (r#"{"l":{"2":1,"1":2}}"#, r#"{"l":{"1":2}}"#),
        (r#"{"o":[{"x":1,"y":2},{"x":[{}]}, 7]}"#, r#"{"o":[{"y":2},{}, 7]}"#),
        (r#"{"o":{"k":{"x":1}}}"#, r#"{"o":{"k":{}}}"#),
        ("\t[1, {\"a\":2}]\n", "\t[1, {\"a\":2}]\n"),
        ("7", "7"),
    ] {
        assert_eq!(apply(&drop, before).as_deref(), Some(after), "{before}");
    }
}

#[test]
fn masks_hide_what_they_are_asked_to_and_no_less() {
    let all = rule(
        &[],
        &[("a", Mask::Last4), ("b", Mask::Stars), ("c", Mask::Null), ("h.*", Mask::Hash), ("h.s", Mask::Stars)],
        &[],
    );
    for (before, after) in [
        (r#"{"a":"0123456789"}"#, r#"{"a":"****6789"}"#),
        (r#"{"a":"1234567"}"#, r#"{"a":"****"}"#),
        (r#"{"a":4111111111111111}"#, r#"{"a":"****1111"}"#),
        (r#"{"a":"ää-öüäöü\"€"}"#, r#"{"a":"****öü\"€"}"#),
        (r#"{"a":{"x":"0123456789"},"b":[1],"c":false}"#, r#"{"a":"****","b":"***","c":null}"#),
        (r#"{"a":"\ud800 is no text"}"#, r#"{"a":"****"}"#),
        (r#"{"b":1,"b":"two"}"#, r#"{"b":"***","b":"***"}"#),
        (r#"{"h":{"s":"both say something"}}"#, r#"{"h":{"s":"***"}}"#),
    ] {
        assert_eq!(apply(&all, before).as_deref(), Some(after), "{before}");
    }
    let hash = apply(&all, r#"{"h":["same","s\u0061me","other"]}"#).unwrap();
    let hashes: Vec<&str> = hash.split('"').filter(|part| part.len() == 16).collect();
    assert!(hashes.len() == 3 && hashes[0] == hashes[1] && hashes[1] != hashes[2], "{hash}");
}

#[test]
fn only_what_is_picked_stays_and_drops_and_masks_still_hold_in_it() {
    let pick = rule(&["who.mail"], &[("who.phone", Mask::Stars)], &["id", "who", "items.*.name", "deep.er.one"]);
    for (before, after) in [
        (r#"{"id":1,"secret":2,"who":{"mail":3,"phone":4,"x":[5]}}"#, r#"{"id":1,"who":{"phone":"***","x":[5]}}"#),
        (r#"{"items":[{"name":"a","cost":1},7,{"cost":2}],"deep":1}"#, r#"{"items":[{"name":"a"},{}]}"#),
        (r#"{"deep":{"er":{"two":2,"one":1}},"secret":1}"#, r#"{"deep":{"er":{"one":1}}}"#),
        (r#"{"secret":1}"#, r#"{}"#),
    ] {
        assert_eq!(apply(&pick, before).as_deref(), Some(after), "{before}");
    }
    assert_eq!(apply(&pick, "\"secret\""), None);
}

#[test]
fn what_is_no_json_is_withheld() {
    let drop = rule(&["a"], &[], &[]);
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    for bad in [
        "",
        " ",
        "{",
        "{\"a\":1}}",
        "{\"a\":01}",
        "nul",
        "[1,]",
        "{\"a\" 1}",
        "\"\t\"",
        "\"\\x\"",
        "{a:1}",
        "1 2",
        "\u{feff}1",
    ] {
        assert_eq!(apply(&drop, bad), None, "{bad:?}");
    }
    assert_eq!(drop.apply(&Bytes::from_static(b"\"\xff\""), b""), None);
    assert_eq!(apply(&drop, &deep(128)), None);
    assert_eq!(apply(&drop, &deep(127)), Some(deep(127)));
    assert!(serde_json::from_str::<serde_json::Value>(&deep(127)).is_ok());
}

#[test]
fn a_path_says_what_is_wrong_with_it() {
    for bad in ["", "a..b", ".a", "a.", "a\\b"] {
        assert!(Rule::default().add(bad, Act::Drop).is_err(), "{bad}");
    }
    let odd = rule(&["a\\.b", "\\*"], &[], &[]);
    assert_eq!(apply(&odd, r#"{"a.b":1,"*":2,"a":{"b":3}}"#).as_deref(), Some(r#"{"a":{"b":3}}"#));
}

/// JSON with what a map of values would lose: the order, names that come twice, and how a number or a text is spelt.
#[derive(Clone, Debug)]
enum Tree {
    Leaf(&'static str),
    List(Vec<Tree>),
    Object(Vec<(&'static str, Tree)>),
}

const NAMES: [(&str, &str); 5] =
    [("a", "\"a\""), ("b", "\"b\""), ("a", "\"\\u0061\""), ("1", "\"1\""), ("é\"", "\"é\\\"\"")];
const LEAVES: [&str; 9] = [
    "1.50",
    "-0",
    "1E400",
    "true",
    "null",
    "\"\"",
    "\"x\\n\\ud83d\\ude00y{[,\"",
    "\"0123456789\"",
    "12345678901234567890",
];

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop::sample::select(LEAVES.to_vec()).prop_map(Tree::Leaf);
    leaf.prop_recursive(4, 40, 5, |inner| {
        let name = prop::sample::select(NAMES.map(|(_, spelt)| spelt).to_vec());
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Tree::List),
            prop::collection::vec((name, inner), 0..5).prop_map(Tree::Object),
        ]
    })
}

impl Tree {
    fn text(&self, space: &str) -> String {
        match self {
            Tree::Leaf(text) => (*text).to_owned(),
            Tree::List(items) => {
                let items: Vec<_> = items.iter().map(|item| format!("{space}{}{space}", item.text(space))).collect();
                format!("[{}]", items.join(","))
            }
            Tree::Object(members) => {
                let member =
                    |(key, value): &(&str, Tree)| format!("{space}{key}{space}:{space}{}{space}", value.text(space));
                format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
            }
        }
    }

    /// By the book: `on` are the rests of the paths that lead here.
    fn cut(&self, on: &[(&[&str], Act)], picked: bool) -> Tree {
        let fate = |names: &[&str], value: &Tree| -> Option<Tree> {
            let hit = |path: &&(&[&str], Act)| path.0[0] == "*" || names.contains(&path.0[0]);
            let (done, below): (Vec<_>, Vec<_>) = on.iter().filter(hit).partition(|path| path.0.len() == 1);
            let below: Vec<(&[&str], Act)> = below.into_iter().map(|(path, act)| (&path[1..], act)).collect();
            let picked = picked || done.iter().any(|path| path.1 == Act::Pick);
            let leads = below.iter().any(|path| path.1 == Act::Pick) && !matches!(value, Tree::Leaf(_));
            if done.iter().any(|path| path.1 == Act::Drop) || !(picked || leads) {
                return None;
            }
            let masked = done.iter().any(|path| matches!(path.1, Act::Mask(_)));
            Some(if masked { Tree::Leaf("\"***\"") } else { value.cut(&below, picked) })
        };
        match self {
            Tree::Leaf(text) => Tree::Leaf(text),
            Tree::List(items) => {
                let each = items.iter().enumerate();
                Tree::List(each.filter_map(|(at, item)| fate(&[&(at + 1).to_string()], item)).collect())
            }
            Tree::Object(members) => {
                let called = |spelt: &str| NAMES.iter().find(|(_, s)| *s == spelt).unwrap().0;
                let each = members.iter();
                Tree::Object(each.filter_map(|(key, value)| Some((*key, fate(&[called(key)], value)?))).collect())
            }
        }
    }
}

fn path() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "1", "2", "*", "é\""]), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_declared_view_cuts_by_the_book(
        tree in tree(),
        space in prop::sample::select(vec!["", " ", "\n\t "]),
        drops in prop::collection::vec(path(), 0..3),
        masks in prop::collection::vec(path(), 0..2),
        picks in prop::collection::vec(path(), 0..2),
    ) {
        let mut rule = Rule::default();
        let mut on: Vec<(&[&str], Act)> = Vec::new();
        on.extend(drops.iter().map(|path| (&path[..], Act::Drop)));
        on.extend(masks.iter().map(|path| (&path[..], Act::Mask(Mask::Stars))));
        on.extend(picks.iter().map(|path| (&path[..], Act::Pick)));
        on.iter().for_each(|(path, act)| rule.add(&path.join("."), *act).unwrap());
        let seen = apply(&rule, &tree.text(space));
        if !picks.is_empty() && matches!(tree, Tree::Leaf(_)) {
            prop_assert_eq!(seen, None);
        } else {
            let seen = seen.unwrap();
            prop_assert!(serde_json::from_str::<&RawValue>(&seen).is_ok(), "{}", seen);
            prop_assert_eq!(seen, tree.cut(&on, picks.is_empty()).text(space));
        }
    }

    #[test]
    fn one_value_is_found_where_whoever_builds_values_finds_it(tree in tree(), path in path()) {
        let text = tree.text(" ").replace("1E400", "14");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let found = path.iter().try_fold(&value, |at, step| match at {
            serde_json::Value::Object(map) => map.get(*step),
            serde_json::Value::Array(items) => items.get(step.parse::<usize>().ok()?.checked_sub(1)?),
            _ => None,
        });
        let seen = scan::find(text.as_bytes(), &path.join("."));
        let seen = seen.map(|place| serde_json::from_str::<serde_json::Value>(&text[place]).unwrap());
        prop_assert_eq!(seen.as_ref(), found);
    }

    #[test]
    fn whatever_the_bytes_are_nothing_breaks_and_only_json_comes_out(
        bytes in prop::collection::vec(prop::sample::select(b"{}[],:\"\\u0aeE+-.1tfn \xc3\xa9\x00".to_vec()), 0..40),
        any in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let cuts = rule(&["a", "*.*"], &[("1", Mask::Last4), ("*.0", Mask::Hash)], &[]);
        for bytes in [bytes, any] {
            let is_json = serde_json::from_slice::<&RawValue>(&bytes).is_ok();
            scan::find(&bytes, "a.1");
            match cuts.apply(&Bytes::from(bytes.clone()), b"key") {
                Some(seen) => {
                    prop_assert!(is_json);
                    prop_assert!(serde_json::from_slice::<&RawValue>(&seen).is_ok());
                }
                None => prop_assert!(!is_json, "{:?}", String::from_utf8_lossy(&bytes)),
            }
        }
    }
}
