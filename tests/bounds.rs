//! Every queue, buffer and map has an end, and docs/bounds.md says which: what is added to the code and not to the page fails here.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::repository;

/// What holds as much as is put into it.
const GROWS: [&str; 16] = [
    "BinaryHeap<",
    "Bounded<",
    "BTreeMap<",
    "BTreeSet<",
    "BytesMut",
    "DashMap<",
    "DashSet<",
    "HashMap<",
    "HashSet<",
    "JoinSet<",
    "Mutex<Vec<",
    "RefCell<Vec<",
    "RwLock<Vec<",
    "Slab<",
    "VecDeque<",
    "ArcSwap<Vec<",
];

/// Parts of the source that are no part of a hub that runs: its command line, its settings, the tools of rules' authors.
const BESIDE: [&str; 6] = [
    "cli/",
    "config/",
    "plugins/authors/bench.rs",
    "plugins/authors/inspect/",
    "plugins/authors/testing/",
    "plugins/tests/",
];

/// A place that grows: the file below `src`, and the field, the static or the channel.
type Place = (String, String);

fn grows(file: &str, kind: &str) -> bool {
    // Where sessions, channels and sockets are, a plain list is one for each of many.
    let is_near = ["kernel/", "edges/", "stores/"].iter().any(|layer| file.starts_with(layer));
    let borrowed = kind.starts_with('&') || kind.contains("<&");
    GROWS.iter().any(|word| kind.contains(word)) || (is_near && kind.contains("Vec<") && !borrowed)
}

/// The places of one file. It is formatted by rustfmt, so that a field has a line of its own.
fn places(file: &str, text: &str) -> BTreeSet<Place> {
    let mut found = BTreeSet::new();
    let mut within: Option<String> = None;
    let word = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    for line in code.lines().map(|line| line.split(" //").next().unwrap_or(line).trim()) {
        if line.starts_with("//") || line.starts_with("use ") {
            continue;
        }
        let visible = match line.strip_prefix("pub(") {
            Some(rest) => rest.split_once(") ").map_or(line, |(_, rest)| rest),
            None => line.strip_prefix("pub ").unwrap_or(line),
        };
        if let Some(rest) = visible.strip_prefix("struct ") {
            let name = word(rest);
            if line.ends_with('{') {
                within = Some(name);
            } else if grows(file, rest) {
                found.insert((file.to_owned(), name));
            }
            continue;
        }
        if let Some(rest) = visible.strip_prefix("static ") {
            let kind = rest.split(" = ").next().unwrap_or(rest);
            if grows(file, kind) {
                found.insert((file.to_owned(), word(rest)));
            }
            continue;
        }
        if line == "}" {
            within = None;
        }
        if let Some(name) = &within
            && let Some((field, kind)) = visible.split_once(": ")
            && grows(file, kind)
        {
            found.insert((file.to_owned(), format!("{name}.{field}")));
        }
        for call in [
            "mpsc::channel",
            "mpsc::sync_channel",
            " sync_channel",
            "watch::channel",
            "broadcast::channel",
            "= channel",
        ] {
            if let Some((_, rest)) =
                line.split_once(&format!("{call}(")).or_else(|| line.split_once(&format!("{call}::<")))
            {
                let length = rest.rsplit_once('(').map_or(rest, |(_, rest)| rest);
                let length = length.split(')').next().unwrap_or_default();
                assert!(!length.is_empty(), "src/{file}: a channel without an end: {line}");
                found.insert((file.to_owned(), format!("channel({length})")));
                break;
            }
        }
    }
    found
}

fn collect(below: &Path, found: &mut BTreeSet<Place>) {
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        let file = path.strip_prefix(repository().join("src")).unwrap().to_str().unwrap().to_owned();
        if BESIDE.iter().any(|part| format!("{file}/").starts_with(part)) {
            continue;
        }
        if path.is_dir() {
            collect(&path, found);
        } else if file.ends_with(".rs") {
            found.extend(places(&file, &std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The page's rows: file, what, where it ends, and what happens there.
fn rows() -> Vec<[String; 4]> {
    let page = std::fs::read_to_string(repository().join("docs/bounds.md")).unwrap();
    let cells = |line: &str| -> Option<[String; 4]> {
        let cells: Vec<_> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").map(str::to_owned).collect();
        cells.try_into().ok()
    };
    page.lines().filter_map(cells).collect()
}

#[test]
fn whatever_can_grow_is_on_the_page_with_its_bound_and_what_is_on_the_page_is_there() {
    let mut there = BTreeSet::new();
    collect(&repository().join("src"), &mut there);
    assert!(there.len() > 90, "only {} places were found", there.len());
    let rows = rows();
    let mut listed = BTreeSet::new();
    for [file, what, bound, end] in &rows {
        let file = file.trim_end_matches('`').trim_start_matches("src/");
        assert!(
            !bound.trim().is_empty() && !end.trim().is_empty(),
            "{file} {what}: say where it ends, and what happens there"
        );
        for what in what.split(", ").map(|what| what.trim_matches('`')) {
            assert!(listed.insert((file.to_owned(), what.to_owned())), "{file} {what} is on the page twice");
        }
    }
    let missing: Vec<_> = there.difference(&listed).collect();
    assert!(
        missing.is_empty(),
        "these can grow: say in docs/bounds.md where they end, and what happens there: {missing:#?}"
    );
    let gone: Vec<_> = listed.difference(&there).collect();
    assert!(gone.is_empty(), "docs/bounds.md names what is not there: {gone:#?}");
}

#[test]
fn every_setting_that_the_page_names_is_one() {
    let page = std::fs::read_to_string(repository().join("docs/bounds.md")).unwrap();
    let settings = std::fs::read_to_string(repository().join("aether.toml")).unwrap();
    let mut count = 0;
    for name in page.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
        let Some((table, key)) = name.split_once('.').filter(|(table, _)| settings.contains(&format!("\n[{table}]")))
        else {
            continue;
        };
        let part = settings.split(&format!("\n[{table}]")).nth(1).unwrap().split("\n[").next().unwrap();
        assert!(part.lines().any(|line| line.starts_with(&format!("{key} = "))), "`{name}` is no setting");
        count += 1;
    }
    assert!(count > 10, "{count} settings were found");
}

#[test]
fn a_place_that_grows_is_found_however_it_is_written() {
    let text = "
pub(super) struct A {
    pub(crate) one: Mutex<HashMap<u8, u8>>,
    two: u8,
    pub three: VecDeque<u8>, // with words
    four: Vec<u8>,
}
struct B(Arc<Mutex<BTreeMap<u8, u8>>>);
thread_local! {
    static C: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
fn f(map: &HashMap<u8, u8>) {
    let (a, b) = mpsc::channel(QUEUE);
    let (a, b) = mpsc::sync_channel::<Job>(16);
    let (reply, answer) = oneshot::channel();
}
#[cfg(test)]
mod tests {
    struct D {
        map: HashMap<u8, u8>,
    }
}
";
    let names = |file: &str| places(file, text).into_iter().map(|(_, what)| what).collect::<Vec<_>>();
    assert_eq!(names("plugins/x.rs"), ["A.one", "A.three", "B", "C", "channel(16)", "channel(QUEUE)"]);
    assert!(names("kernel/x.rs").contains(&"A.four".to_owned()), "near the sessions a list counts too");
}
