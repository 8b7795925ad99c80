//! `aether.metrics`: what a plugin counts and measures, on the page of metrics.

use std::rc::Rc;
use std::sync::Arc;

use mlua::{Lua, Table, UserData, UserDataMethods, Value};

use super::store::{fail, read_number};
use super::{Entry, Seat, function};
use crate::plugins::kept::tallies::{Kind, Tally};
use crate::plugins::source::schema::hint;
use crate::plugins::vm::value::{describe, raise, to_number};

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "metrics.counter",
        args: "name, {help, labels = {names}}?",
        gives: "counter",
        doc: "Something that only grows: counter:inc(n = 1, {label = value}?). On the page as aether_plugin_<plugin>_<name>.",
        kind: "(name: string, options: { help: string?, labels: { string }? }?) -> Counter",
        may_wait: false,
        since: "0.1.0",
        example: r#"local taken = aether.metrics.counter("taken_total", { help = "Orders taken", labels = { "shop" } })
taken:inc(1, { shop = "north" })"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| open(lua, seat, Kind::Counter, args)),
    },
    Entry {
        name: "metrics.gauge",
        args: "name, {help, labels = {names}}?",
        gives: "gauge",
        doc: "Something that goes up and down: gauge:set(n, {label = value}?), gauge:inc(n = 1, {label = value}?).",
        kind: "(name: string, options: { help: string?, labels: { string }? }?) -> Gauge",
        may_wait: false,
        since: "0.1.0",
        example: r#"local open = aether.metrics.gauge("open_orders")
open:set(3)"#,
        make: |lua, seat| function(lua, seat, |lua, seat, args| open(lua, seat, Kind::Gauge, args)),
    },
    Entry {
        name: "metrics.histogram",
        args: "name, {help, labels = {names}, buckets = {numbers}}?",
        gives: "histogram",
        doc: "How large things are: histogram:observe(n, {label = value}?); buckets are upper bounds, for seconds if not said.",
        kind: "(name: string, options: { help: string?, labels: { string }?, buckets: { number }? }?) -> Histogram",
        may_wait: false,
        since: "0.1.0",
        example: r#"local waits = aether.metrics.histogram("wait_seconds", { buckets = { 0.1, 1, 10 } })
waits:observe(0.3)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, args| open(lua, seat, Kind::Histogram(SECONDS.to_vec()), args))
        },
    },
];

const SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const MAX_NAME: usize = 64;
const MAX_LABELS: usize = 5;
const MAX_BUCKETS: usize = 30;

struct Metric(Arc<Tally>);

fn open(lua: &Lua, seat: &Rc<Seat>, kind: Kind, (name, options): (String, Option<Table>)) -> mlua::Result<Metric> {
    let word = kind.word();
    let opened = read(seat, kind, &name, options.as_ref());
    opened.map(Metric).map_err(|why| raise(lua, format!("metrics.{word}: {why}")))
}

fn read(seat: &Seat, mut kind: Kind, name: &str, options: Option<&Table>) -> Result<Arc<Tally>, String> {
    if !seat.loading.get() {
        return Err("metrics are made while the file loads; what varies is a label".into());
    }
    word_of(name).map_err(|why| format!("name: {why}"))?;
    let (mut labels, mut help) = (Vec::new(), String::new());
    let known: &[&str] = if kind.word() == "histogram" { &["help", "labels", "buckets"] } else { &["help", "labels"] };
    for pair in options.into_iter().flat_map(Table::pairs::<Value, Value>) {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        let wrong = |what: &str| format!("{key}: expected {what}, got {}", describe(&value));
        match (key.as_str(), &value, &mut kind) {
            ("help", Value::String(text), _) => help = text.to_string_lossy(),
            ("help", ..) => return Err(wrong("a text")),
            ("labels", Value::Table(list), _) => {
                for one in list.sequence_values::<String>() {
                    let one = one.map_err(|_| wrong("a list of names"))?;
                    word_of(&one).map_err(|why| format!("labels: {why}"))?;
                    labels.push(one);
                }
                labels.sort();
                labels.dedup();
                if labels.is_empty() || labels.len() > MAX_LABELS || labels.iter().any(|label| label == "le") {
                    return Err(wrong(&format!("one to {MAX_LABELS} names, none of them le")));
                }
            }
            ("labels", ..) => return Err(wrong("a list of names")),
            ("buckets", Value::Table(list), Kind::Histogram(bounds)) => {
                let numbers = list.sequence_values::<Value>().map(|one| one.ok().as_ref().and_then(to_number));
                let numbers: Option<Vec<f64>> = numbers.collect();
                let fits = |all: &Vec<f64>| {
                    (1..=MAX_BUCKETS).contains(&all.len())
                        && all.iter().all(|one| one.is_finite())
                        && all.windows(2).all(|two| two[0] < two[1])
                };
                *bounds = numbers.filter(fits).ok_or_else(|| wrong(&format!("up to {MAX_BUCKETS} growing numbers")))?;
            }
            ("buckets", _, Kind::Histogram(_)) => return Err(wrong("a list of numbers")),
            _ => return Err(format!("{key} is not known here{}", hint(&key, known))),
        }
    }
    let plugin = seat.unit().name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    seat.program.commons.tallies.open(&format!("aether_plugin_{plugin}_{name}"), kind, labels, &help)
}

fn word_of(name: &str) -> Result<(), String> {
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= MAX_NAME
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if fits { Ok(()) } else { Err(format!("{name:?} is not made of a-z, 0-9 and _, beginning with a letter")) }
}

impl Metric {
    /// The values of the labels, in their order; one that is not given is empty.
    fn labels(&self, given: Option<&Table>) -> Result<Vec<String>, String> {
        let mut values = vec![String::new(); self.0.labels.len()];
        for pair in given.into_iter().flat_map(Table::pairs::<Value, Value>) {
            let (key, value) = pair.map_err(|e| e.to_string())?;
            let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
            let Some(at) = self.0.labels.iter().position(|label| *label == key) else {
                return Err(format!("{key} is no label of this metric{}", hint(&key, &self.0.labels)));
            };
            values[at] = match &value {
                Value::String(text) => text.to_string_lossy(),
                Value::Boolean(flag) => flag.to_string(),
                value => to_number(value)
                    .map(|number| number.to_string())
                    .ok_or_else(|| format!("{key}: expected a text, got {}", describe(value)))?,
            };
        }
        Ok(values)
    }

    fn only(&self, method: &str, kinds: &[&str]) -> Result<(), String> {
        let word = self.0.kind.word();
        if kinds.contains(&word) { Ok(()) } else { Err(format!("a {word} has no {method}")) }
    }
}

impl UserData for Metric {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("inc", |lua, it, (n, labels): (Value, Option<Table>)| {
            let wrong = |why| fail(lua, "inc", why);
            it.only("inc", &["counter", "gauge"]).map_err(wrong)?;
            let n = read_number(&n, 1.0).map_err(wrong)?;
            if n < 0.0 && it.0.kind == Kind::Counter {
                return Err(wrong(format!("a counter only grows, got {n}")));
            }
            it.0.add(it.labels(labels.as_ref()).map_err(wrong)?, n);
            Ok(())
        });
        methods.add_method("set", |lua, it, (n, labels): (Value, Option<Table>)| {
            let wrong = |why| fail(lua, "set", why);
            it.only("set", &["gauge"]).map_err(wrong)?;
            let n = read_number(&n, 0.0).map_err(wrong)?;
            it.0.set(it.labels(labels.as_ref()).map_err(wrong)?, n);
            Ok(())
        });
        methods.add_method("observe", |lua, it, (n, labels): (Value, Option<Table>)| {
            let wrong = |why| fail(lua, "observe", why);
            it.only("observe", &["histogram"]).map_err(wrong)?;
            let n = read_number(&n, 0.0).map_err(wrong)?;
            it.0.observe(it.labels(labels.as_ref()).map_err(wrong)?, n);
            Ok(())
        });
    }
}
