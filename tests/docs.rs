//! The documentation is true: what it names exists, what it shows can be read, and what exists is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use super::common::TempDir;
use super::page::Hub;

const PAGES: [&str; 8] = [
    "README.md",
    "CHANGELOG.md",
    "docs/protocol.md",
    "docs/plugins.md",
    "docs/operating.md",
    "docs/migrating.md",
    "docs/performance.md",
    "docs/faults.md",
];

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap_or(rest)).collect()
}

/// What stands between backticks in a line of text.
fn inline_code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The cells of a table's rows.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter_map(|line| Some(line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect()))
}

/// What is between two texts.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let rest = text.split_once(begin).unwrap_or_else(|| panic!("{begin:?} is gone")).1;
    rest.split_once(end).map_or(rest, |(inner, _)| inner)
}

#[test]
fn every_json_example_can_be_read() {
    let mut count = 0;
    for page in PAGES {
        for block in blocks(&read(page), "json") {
            for value in serde_json::Deserializer::from_str(block).into_iter::<serde_json::Value>() {
                value.unwrap_or_else(|error| panic!("{page}: {error} in\n{block}"));
                count += 1;
            }
        }
    }
    assert!(count > 20, "only {count} examples were found");
}

#[test]
fn every_error_code_and_its_status_is_in_the_protocol_and_in_the_table() {
    let wire = read("src/edges/wire.rs");
    let numbers = between(&wire, "fn numbers", "fn reason");
    let coded: BTreeMap<&str, &str> = numbers
        .split("=> (")
        .filter_map(|rest| rest.split_once(')')?.0.split_once(", "))
        .map(|(status, code)| (code, status))
        .collect();
    assert!(coded.len() > 15, "{coded:?}");

    let protocol = read("docs/protocol.md");
    let table = between(&protocol, "## Errors", "## ");
    let told: BTreeMap<&str, &str> = rows(table).filter(|row| row[0].len() == 5).map(|row| (row[0], row[1])).collect();
    assert_eq!(told.keys().collect::<Vec<_>>(), coded.keys().collect::<Vec<_>>());
    for (code, status) in &told {
        assert!(*status == "-" || *status == coded[code], "{code} has status {}, not {status}", coded[code]);
    }

    let reasons = between(&wire, "fn reason", "fn message");
    let known: BTreeSet<&str> = rows(table).flat_map(|row| row.get(2).map(|cell| cell.trim_matches('`'))).collect();
    for reason in
        reasons.lines().filter_map(|line| line.trim().strip_suffix("\",")?.rsplit_once('"').map(|(_, word)| word))
    {
        assert!(known.contains(reason), "the protocol does not know the reason {reason}");
    }
}

#[test]
fn every_error_code_that_a_page_mentions_exists() {
    let wire = read("src/edges/wire.rs");
    // Other hubs, from which people come, had others.
    for page in PAGES.into_iter().filter(|page| *page != "docs/migrating.md") {
        let text = read(page);
        let numbers = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() == 5);
        for code in numbers.filter(|word| word.starts_with(['4', '5']) && word.bytes().all(|b| b.is_ascii_digit())) {
            assert!(wire.contains(code), "{page} mentions {code}");
        }
    }
}

#[test]
fn every_close_code_is_in_the_protocol_and_in_the_table() {
    let wire = read("src/edges/wire.rs");
    let coded: BTreeSet<&str> = between(&wire, "fn code(self)", "fn reason")
        .split("Some(")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0))
        // A dialect has its own.
        .filter(|code| *code != "code")
        .collect();
    let protocol = read("docs/protocol.md");
    let told: BTreeSet<&str> = rows(between(&protocol, "## Close codes", "## "))
        .map(|row| row[0])
        .filter(|cell| cell.len() == 4 && *cell != "code")
        .collect();
    assert_eq!(told, coded);
}

#[test]
fn every_gap_cause_is_in_the_protocol() {
    let format = read("src/kernel/format.rs");
    let coded: BTreeSet<&str> = between(&format, "fn as_str", "}\n    }").split('"').skip(1).step_by(2).collect();
    let protocol = read("docs/protocol.md");
    let told: BTreeSet<&str> = rows(between(&protocol, "### Gaps", "## "))
        .map(|row| row[0].trim_matches('`'))
        .filter(|cell| *cell != "cause")
        .collect();
    assert_eq!(told, coded);
}

#[test]
fn every_command_and_flag_that_a_page_shows_exists() {
    let mut seen = BTreeSet::new();
    for page in ["README.md", "CHANGELOG.md", "docs/operating.md", "docs/performance.md"] {
        let text = read(page);
        let shell = blocks(&text, "sh").into_iter().flat_map(str::lines);
        for line in shell.chain(inline_code(&text)) {
            let Some((before, rest)) = line.split_once("aether ") else { continue };
            if !before.is_empty() && !before.ends_with(['/', '(', ' ']) {
                continue;
            }
            let words: Vec<&str> = rest.split_whitespace().map(|word| word.trim_end_matches(')')).collect();
            let verb = words[0].starts_with(|c: char| c.is_ascii_lowercase()).then_some(words[0]);
            let help =
                Command::new(env!("CARGO_BIN_EXE_aether")).args(verb).arg("--help").output().expect("aether runs");
            assert!(help.status.success(), "{page}: {line}");
            let help = String::from_utf8_lossy(&help.stdout);
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(flag), "{page}: {flag} in {line}");
            }
            seen.extend(verb.map(str::to_owned));
        }
    }
    assert!(["check", "token", "key"].iter().all(|verb| seen.contains(*verb)), "{seen:?}");
}

#[test]
fn every_link_leads_somewhere() {
    let heading = |line: &str| -> Option<String> {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        line.starts_with('#').then(|| kept.map(|c| if c == ' ' { '-' } else { c }).collect())
    };
    for page in PAGES {
        let text = read(page);
        let dir = std::path::Path::new(page).parent().expect("a page is in a directory");
        for link in text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.into() } else { dir.join(file) };
            assert!(target.is_file(), "{page}: {link}");
            if let Some(anchor) = anchor {
                let target = read(&target.display().to_string());
                assert!(target.lines().filter_map(heading).any(|known| known == anchor), "{page}: {link}");
            }
        }
    }
    let readme = read("README.md");
    let table = between(&readme, "## Where is ...?", "\n## ");
    assert!(rows(table).filter(|row| row[1].starts_with('[')).count() > 10);
}

#[test]
fn every_metric_is_in_the_guide_and_on_the_hub() {
    let served = Hub::start().get("/metrics");
    let served: BTreeSet<&str> =
        served.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let guide = read("docs/operating.md");
    let told: BTreeSet<&str> =
        inline_code(&guide).filter(|code| code.starts_with("aether_") || code.starts_with("process_")).collect();
    assert_eq!(told, served);
}

#[test]
fn every_setting_that_a_page_names_exists() {
    let formerly = read("src/config/first_aether.rs");
    let settings: toml_edit::DocumentMut = read("aether.toml").parse().expect("aether.toml is TOML");
    for page in PAGES {
        for code in inline_code(&read(page)) {
            let Some((section, key)) = code.split_once('.') else { continue };
            if let Some(table) = settings.get(section).and_then(|item| item.as_table())
                && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            {
                let formerly = formerly.contains(&format!("\"{code}\""));
                assert!(table.contains_key(key) || formerly, "{page}: {code}");
            }
        }
    }
}

#[test]
fn every_limit_is_told_with_its_default() {
    let settings: toml_edit::DocumentMut = read("aether.toml").parse().expect("aether.toml is TOML");
    let guide = read("docs/operating.md");
    let table = between(&guide, "## Limits, and what a client sees", "What no setting changes");
    let mut told = BTreeSet::new();
    for row in rows(table).filter(|row| row[0].starts_with('`')) {
        let name = row[0].trim_matches('`');
        let (section, key) = name.split_once('.').unwrap_or_else(|| panic!("{name} is no setting"));
        let default = settings[section][key].as_value().unwrap_or_else(|| panic!("{name} is no setting"));
        let default = default.as_str().map_or_else(|| default.clone().decorated("", "").to_string(), str::to_owned);
        assert_eq!(row[1].trim_matches('`'), default, "{name}");
        told.insert(name.to_owned());
    }
    for (key, _) in settings["limits"].as_table().expect("a table") {
        assert!(told.contains(&format!("limits.{key}")), "limits.{key} is not told");
    }
}

#[test]
fn the_plugin_that_the_guide_shows_passes_the_tests_that_it_shows() {
    let (guide, dir) = (read("docs/plugins.md"), TempDir::new());
    for name in ["room-acl", "team-jwt", "chat-lines"] {
        let named = format!("[plugin]\nname = {name:?}");
        let manifest = blocks(&guide, "toml").into_iter().find(|block| block.starts_with(&named));
        dir.write(&format!("plugins/{name}/plugin.toml"), manifest.expect("the guide shows a manifest"));
    }
    for block in blocks(&guide, "lua") {
        if let Some((path, code)) = block.strip_prefix("-- plugins/").and_then(|rest| rest.split_once('\n')) {
            dir.write(&format!("plugins/{path}"), code);
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_aether")).current_dir(dir.path()).arg("test").output();
    let output = output.expect("aether runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("\n9 passed, 0 failed"), "{said}");
    let used = blocks(&guide, "toml").into_iter().find(|block| block.contains("use = \"team-jwt\""));
    dir.write(
        "aether.toml",
        &format!("{}\n[secrets]\nsigning_key = \"{}\"\n", used.expect("it is used"), "k".repeat(32)),
    );
    let output =
        Command::new(env!("CARGO_BIN_EXE_aether")).current_dir(dir.path()).args(["check", "--strict"]).output();
    let output = output.expect("aether runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_reference_of_the_library_is_the_one_that_the_registry_makes() {
    let guide = read("docs/plugins.md");
    let renewed = aether::plugins::reference::renewed(&guide).expect("the guide has a place for it");
    assert!(guide == renewed, "it is old: cargo run -- plugin reference --into docs/plugins.md");
}

#[test]
fn every_function_of_the_library_is_in_the_guide() {
    let guide = read("docs/plugins.md");
    for entry in aether::plugins::registry().chain(aether::plugins::testing::registry()) {
        // `aether.log.info(..)` stands beside `aether.log.debug(..)`: the whole name, wherever it is.
        let name = format!("aether.{}", entry.name);
        let whole = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        assert!(guide.split(name.as_str()).skip(1).any(whole), "{name} is not in docs/plugins.md");
    }
}

#[test]
fn every_fault_has_a_command_that_plays_something() {
    let page = read("docs/faults.md");
    let mut played = 0;
    for row in rows(&page).filter(|row| row.get(1).is_some_and(|cell| cell.contains("cargo test"))) {
        let command = row[1].trim_matches('`');
        if let Some(filter) = command.strip_prefix("cargo test --lib ") {
            assert!(std::path::Path::new(&format!("src/plugins/tests/{filter}.rs")).is_file(), "{command}");
        } else {
            let filter = command.strip_prefix("cargo test --test main ").unwrap_or_else(|| panic!("{command}"));
            let (module, test) = filter.rsplit_once("::").unwrap_or_else(|| panic!("{command}"));
            let at = format!("tests/{}.rs", module.replace("::", "/"));
            let text =
                std::fs::read_to_string(&at).or_else(|_| std::fs::read_to_string(format!("tests/{module}/{test}.rs")));
            let text = text.unwrap_or_else(|_| panic!("{command}: there is no {at}"));
            assert!(module == "faults" || text.contains(&format!("fn {test}")), "{command}: no such test in {at}");
        }
        played += 1;
    }
    assert!(played > 12, "{played} commands were found");
}

#[test]
fn every_bug_that_can_be_planted_has_its_place() {
    let script = read("tests/planted.sh");
    let bugs: Vec<_> = between(&script, "<<'BUGS'\n", "\nBUGS\n").lines().collect();
    assert!(bugs.len() > 10, "only {} bugs were found", bugs.len());
    for bug in bugs {
        let [name, file, from, _] = bug.split('|').collect::<Vec<_>>()[..] else { panic!("four parts: {bug}") };
        let places = read(file).lines().filter(|line| line.contains(from)).count();
        assert_eq!(places, 1, "tests/planted.sh: {name}: {from} in {file}");
    }
}
