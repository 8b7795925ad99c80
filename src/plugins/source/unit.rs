//! A plugin, or one file of the operator's scripts: its sources, what it may, and its settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::foresight::can_wait;
use super::manifest::Manifest;
use super::schema::{self, Setting};
use crate::kernel::pattern::{Pattern, Patterns};
use crate::plugins::PluginUse;
use crate::plugins::answering::route::PathPattern;
use crate::plugins::waiting::http::allow::{Allow, UrlPattern};

/// A plugin, or one file of the operator's scripts.
pub struct Unit {
    pub name: String,
    pub version: String,
    /// Its directory, as messages show it.
    pub root: String,
    pub entry: String,
    /// Every Lua file below `root`, by its path there. `require` finds files here and nowhere else.
    pub sources: Arc<BTreeMap<String, String>>,
    /// Where it may register hooks; scripts may everywhere.
    pub may: Option<Patterns>,
    /// Where its hooks run, if the operator narrowed it.
    pub only: Option<Patterns>,
    /// The secrets it may read; scripts may all.
    pub secrets: Option<Vec<String>>,
    /// The stores on disk and the shared tables it may open; scripts may all.
    pub kv: Option<Vec<String>>,
    pub shared: Option<Vec<String>>,
    /// Whom it may ask over HTTP; none: it has no `aether.http`.
    pub http: Option<Arc<Allow>>,
    /// Its code has functions that wait.
    pub waits: bool,
    /// The paths that it may answer; scripts may all.
    pub routes: Option<Vec<PathPattern>>,
    /// What it may of `list`, `kick` and `announce`.
    pub sessions: Option<Vec<String>>,
    /// The dialects that it may speak; scripts may any.
    pub dialects: Option<Vec<String>>,
    /// Whether it may have listeners of its own.
    pub listens: bool,
    pub config: BTreeMap<String, Setting>,
}

impl Unit {
    pub fn plugin(used: &PluginUse, private: &[UrlPattern]) -> Result<Unit, Vec<String>> {
        let root = used.dir.display().to_string();
        let manifest =
            Manifest::read(&used.dir.join("plugin.toml"), &format!("{root}/plugin.toml")).map_err(|wrong| {
                if used.dir.is_dir() {
                    wrong
                } else {
                    {
                        let hint =
                            "start aether where plugins/ and scripts/ are, or set plugins.dir and plugins.scripts";
                        vec![format!("{}: there is no plugin in {root}: {hint}", used.at)]
                    }
                }
            })?;
        let mut errors = Vec::new();
        if manifest.name != used.name {
            errors.push(format!("{}: the plugin in {root} calls itself {}, not {}", used.at, manifest.name, used.name));
        }
        let only =
            used.channels.as_ref().map(|texts| narrow(texts, &manifest.permissions.channels, &used.at, &mut errors));
        let mut wrong = Vec::new();
        let config = schema::check(&manifest.config, &used.config, "", &mut wrong);
        errors.extend(wrong.into_iter().map(|why| format!("{}: {why}", used.place_of(&why))));
        let sources = read_sources(&used.dir).map_err(|why| vec![why])?;
        let entry = ["main.lua", "main.luau"].into_iter().find(|entry| sources.contains_key(*entry));
        if entry.is_none() {
            errors.push(format!("{root}/main.lua is missing"));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let waits = Unit::can_wait(&root, &sources, entry.unwrap_or_default());
        let (patterns, private) = (manifest.permissions.http, private.to_vec());
        let http = Allow { everybody: false, patterns, private, at: format!("{root}/plugin.toml") };
        Ok(Unit {
            name: manifest.name,
            version: manifest.version,
            root,
            entry: entry.unwrap_or_default().to_owned(),
            sources: Arc::new(sources),
            may: Some(manifest.permissions.channels),
            only,
            secrets: Some(manifest.permissions.secrets),
            kv: Some(manifest.permissions.kv),
            shared: Some(manifest.permissions.shared),
            http: Some(http).filter(|http| !http.patterns.is_empty()).map(Arc::new),
            waits,
            routes: Some(manifest.permissions.routes),
            sessions: Some(manifest.permissions.sessions),
            dialects: Some(manifest.permissions.dialects),
            listens: manifest.permissions.listen,
            config,
        })
    }

    /// Every file directly in `dir` is a unit of its own; what lies deeper is there to be required.
    pub fn scripts(dir: &Path, private: &[UrlPattern]) -> Result<Vec<Unit>, String> {
        let root = dir.display().to_string();
        let http = Allow { everybody: true, private: private.to_vec(), ..Allow::default() };
        let http = Some(Arc::new(http));
        let sources = Arc::new(read_sources(dir)?);
        let unit = |entry: &String| Unit {
            name: entry.rsplit_once('.').map_or(entry.as_str(), |(name, _)| name).to_owned(),
            version: String::new(),
            root: root.clone(),
            entry: entry.clone(),
            sources: sources.clone(),
            may: None,
            only: None,
            secrets: None,
            kv: None,
            shared: None,
            http: http.clone(),
            waits: Unit::can_wait(&root, &sources, entry),
            routes: None,
            sessions: None,
            dialects: None,
            listens: true,
            config: BTreeMap::new(),
        };
        Ok(sources.keys().filter(|path| !path.contains('/')).map(unit).collect())
    }

    /// One file of tests, below `tests/` of `dir`. It may what the plugin may that it tests, so that both see the same.
    pub fn tests(dir: &Path, entry: &str, tested: Option<Manifest>) -> Result<Unit, String> {
        let mut sources = read_sources(dir)?;
        let root = dir.canonicalize().map_err(|e| format!("{}: {e}", dir.display()))?;
        collect(&root, &dir.join("tests"), "tests", MAX_DEPTH, &mut sources)?;
        let may = tested.as_ref().map(|tested| &tested.permissions);
        Ok(Unit {
            secrets: may.map(|may| may.secrets.clone()),
            kv: may.map(|may| may.kv.clone()),
            shared: may.map(|may| may.shared.clone()),
            routes: may.map(|may| may.routes.clone()),
            sessions: may.map(|may| may.sessions.clone()),
            dialects: may.map(|may| may.dialects.clone()),
            listens: may.is_none_or(|may| may.listen),
            name: tested.map_or_else(|| "tests".to_owned(), |tested| tested.name),
            version: String::new(),
            root: dir.display().to_string(),
            entry: entry.to_owned(),
            sources: Arc::new(sources),
            may: None,
            only: None,
            // A test asks the rules; it speaks to nobody itself.
            http: None,
            waits: false,
            config: BTreeMap::new(),
        })
    }

    /// What it may beside what every unit may, as `(kind, permission)`; none of a script, which may everything.
    pub fn permissions(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        let channels = self.may.iter().flat_map(|may| may.iter()).map(|pattern| ("channels", pattern.to_string()));
        let lists = [
            ("secrets", &self.secrets),
            ("kv", &self.kv),
            ("shared", &self.shared),
            ("sessions", &self.sessions),
            ("dialects", &self.dialects),
        ];
        let named = lists
            .into_iter()
            .flat_map(|(kind, list)| list.iter().flatten().map(move |permission| (kind, permission.clone())));
        let http = self.may.is_some().then_some(self.http.as_ref()).flatten();
        let urls = http.into_iter().flat_map(|http| http.patterns.iter().map(|url| ("http", url.as_str().to_owned())));
        let routes = self.routes.iter().flatten().map(|path| ("routes", path.to_string()));
        let listen = (self.is_plugin() && self.listens).then(|| ("listen", "true".to_owned()));
        channels.chain(named).chain(routes).chain(urls).chain(listen)
    }

    pub fn is_plugin(&self) -> bool {
        self.may.is_some()
    }

    pub fn may_register(&self, pattern: &Pattern) -> bool {
        self.may.as_ref().is_none_or(|may| may.covers(pattern))
    }

    /// The name that messages show for one of its files.
    pub fn shown(&self, path: &str) -> String {
        format!("{}/{path}", self.root)
    }

    fn can_wait(root: &str, sources: &BTreeMap<String, String>, entry: &str) -> bool {
        can_wait(sources, entry, |from, wanted| resolve(root, sources, from, wanted).ok().map(str::to_owned))
    }

    /// The file that `require(wanted)` means in the file `from`, both as paths below the root.
    pub fn resolve(&self, from: &str, wanted: &str) -> Result<&str, String> {
        resolve(&self.root, &self.sources, from, wanted)
    }
}

fn resolve<'a>(root: &str, sources: &'a BTreeMap<String, String>, from: &str, wanted: &str) -> Result<&'a str, String> {
    {
        if !wanted.starts_with("./") && !wanted.starts_with("../") {
            return Err(format!(
                "require takes a path that begins with ./, or a plugin's name as @name, got {wanted:?}"
            ));
        }
        let mut path: Vec<&str> = from.split('/').collect();
        path.pop();
        for part in wanted.split('/') {
            match part {
                "." | "" => {}
                ".." => {
                    path.pop().ok_or_else(|| format!("require({wanted:?}) leaves {root}"))?;
                }
                part => path.push(part),
            }
        }
        let path = path.join("/");
        ["", ".lua", ".luau", "/init.lua", "/init.luau"]
            .iter()
            .find_map(|end| sources.get_key_value(&format!("{path}{end}")))
            .map(|(path, _)| path.as_str())
            .ok_or_else(|| format!("there is no {root}/{path} (.lua or .luau)"))
    }
}

/// The operator's list, which may only narrow what the manifest asks for.
fn narrow(texts: &[String], may: &Patterns, at: &str, errors: &mut Vec<String>) -> Patterns {
    let mut narrowed = Patterns::default();
    for text in texts {
        match Pattern::parse(text) {
            Ok(pattern) if may.covers(&pattern) => narrowed.extend([pattern]),
            Ok(pattern) => {
                errors.push(format!("{at}: channels: {pattern} is wider than the plugin's own [permissions] channels"))
            }
            Err(error) => errors.push(format!("{at}: channels: {error}")),
        }
    }
    narrowed
}

const MAX_DEPTH: usize = 8;
const MAX_FILE: u64 = 1 << 20;

fn read_sources(dir: &Path) -> Result<BTreeMap<String, String>, String> {
    let root = dir.canonicalize().map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut sources = BTreeMap::new();
    collect(&root, dir, "", MAX_DEPTH, &mut sources)?;
    Ok(sources)
}

fn collect(
    root: &Path,
    dir: &Path,
    below: &str,
    depth: usize,
    sources: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    let failed = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    for entry in std::fs::read_dir(dir).map_err(|e| failed(dir, e))? {
        let path: PathBuf = entry.map_err(|e| failed(dir, e))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.starts_with('.') || (below.is_empty() && name == "tests") {
            continue;
        }
        let lua = name.ends_with(".lua") || name.ends_with(".luau");
        // A link may point about inside the directory (mounted config maps do), but not out of it.
        let Ok(real) = path.canonicalize() else { continue };
        if !real.starts_with(root) {
            continue;
        }
        let inner = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        if real.is_dir() {
            if depth > 0 {
                collect(root, &path, &inner, depth - 1, sources)?;
            }
        } else if lua {
            if real.metadata().map_err(|e| failed(&path, e))?.len() > MAX_FILE {
                return Err(format!("{}: a script is at most {MAX_FILE} bytes", path.display()));
            }
            let text = std::fs::read(&real).map_err(|e| failed(&path, e))?;
            let text = String::from_utf8(text).map_err(|_| format!("{}: not a text in UTF-8", path.display()))?;
            sources.insert(inner, text);
        }
    }
    Ok(())
}
