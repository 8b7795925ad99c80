//! The shape of the whole: arrows are imports, and there are no others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::common::repository;

/// Every source file below a directory of `src`, or the one file.
fn sources(of: &str) -> Vec<(PathBuf, String)> {
    let path = repository().join("src").join(of);
    let mut found = Vec::new();
    collect(&path, &mut found);
    assert!(!found.is_empty(), "there is nothing at {of}");
    found
}

fn collect(path: &Path, found: &mut Vec<(PathBuf, String)>) {
    if path.is_dir() {
        let mut entries: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| collect(entry, found));
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push((path.to_owned(), code(&std::fs::read_to_string(path).unwrap())));
    }
}

/// A file without its comments.
fn code(text: &str) -> String {
    let without = |line: &str| line.split_once("//").map_or(line, |(code, _)| code).to_owned();
    text.lines().map(|line| if line.contains("://") { line.to_owned() } else { without(line) } + "\n").collect()
}

/// The modules of this crate that a text names: `crate::kernel::hub` names `kernel`, and so does `use crate::{kernel, ..}`.
fn named_modules(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let listed = rest.strip_prefix('{').map(|list| list.split('}').next().unwrap_or(list));
        let parts: Vec<_> = listed.map_or(vec![rest], |list| list.split(',').collect());
        for part in parts {
            let name: String = part.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() && name != "test" {
                names.insert(name);
            }
        }
    }
    names
}

fn assert_names_only(layer: &str, allowed: &[&str]) {
    for (path, text) in sources(layer) {
        for name in named_modules(&text) {
            assert!(allowed.contains(&name.as_str()), "{} names crate::{name}", path.display());
        }
    }
}

/// Whether a text names a crate: in a `use`, or with a path.
fn names_crate(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        let after = &text[at + name.len()..];
        !(before.is_alphanumeric() || before == '_' || before == ':') && after.starts_with("::")
    })
}

#[test]
fn the_kernel_names_nobody() {
    assert_names_only("kernel", &["kernel"]);
    for (path, text) in sources("kernel") {
        for outside in [
            "serde",
            "serde_json",
            "mlua",
            "warp",
            "sled",
            "hyper",
            "hyper_util",
            "http",
            "tungstenite",
            "base64",
            "sha2",
            "figment",
            "clap",
        ] {
            assert!(!names_crate(&text, outside), "{} names {outside}", path.display());
        }
        for word in ["std::fs", "std::net::Tcp", "tokio::net", "tokio::fs"] {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
}

#[test]
fn stores_plugins_and_edges_name_the_kernel_and_themselves() {
    for layer in ["stores", "plugins", "edges"] {
        assert_names_only(layer, &["kernel", layer]);
    }
}

#[test]
fn each_layer_alone_knows_its_outside() {
    for (layer, its_own) in [("stores", "sled"), ("plugins", "mlua"), ("edges", "tungstenite"), ("edges", "hyper")] {
        for other in ["kernel", "stores", "plugins", "edges", "config", "keys.rs", "banner.rs", "cli"] {
            // `aether pub` is a client of the hub like any other, scripts are clients of other servers, and both speak
            // HTTP with the library that is there.
            if other == layer || (its_own == "hyper" && ["cli", "plugins"].contains(&other)) {
                continue;
            }
            for (path, text) in sources(other) {
                assert!(!names_crate(&text, its_own), "{} names {its_own}", path.display());
            }
        }
    }
    // Whatever is unsafe is in one file, which says so.
    for (path, text) in sources("") {
        let here = path.ends_with("plugins/vm/watchdog.rs");
        assert!(here || !text.contains("unsafe "), "{} is unsafe", path.display());
    }
}

#[test]
fn only_the_server_names_several_layers() {
    let setting_up = ["banner", "cli", "config", "keys", "server"];
    let allowed: Vec<_> = setting_up.into_iter().chain(["kernel"]).collect();
    for file in ["config", "keys.rs", "banner.rs"] {
        assert_names_only(file, &allowed);
    }
    // The tools of a plugin's author need no hub.
    assert_names_only("cli", &[&allowed[..], &["plugins"]].concat());
    let of_server: BTreeSet<_> = sources("server").iter().flat_map(|(_, text)| named_modules(text)).collect();
    for layer in ["kernel", "stores", "plugins", "edges"] {
        assert!(of_server.contains(layer), "the server names {layer}");
    }
}

#[test]
fn every_queue_has_an_end_and_nothing_is_left_to_do() {
    for (path, _) in sources("") {
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["unbounded", "TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!("] {
            assert!(!text.contains(word), "{} says {word}", path.display());
        }
    }
}

#[test]
fn no_lock_is_waited_with() {
    // A guard that lives across an await would need tokio's own locks: there are none.
    for (path, text) in sources("") {
        for word in ["tokio::sync::Mutex", "tokio::sync::RwLock", "std::sync::Mutex", "std::sync::RwLock"] {
            assert!(!text.contains(word), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn every_file_begins_with_a_sentence_about_itself() {
    for (path, _) in sources("") {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{}", path.display());
    }
}
