//! The keys that a hub needs, made at its first start and kept in `<store.path>/keys/`.
//!
//! What the operator set under `secrets` comes first and is written nowhere.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::config::{Config, SHORTEST_KEY, Secret};

/// Signs and verifies subscribers' tokens (HS256; the text's bytes are the key).
pub const SIGNING_KEY: &str = "signing_key";
/// A back end that shows this may do everything.
pub const ADMIN_KEY: &str = "admin_key";
/// What the first minute needs: a subscriber of `demo.*` and `public.*`.
pub const DEMO_TOKEN: &str = "demo_token";

/// What every generated API key begins with, so that a leaked one is recognised.
pub const API_KEY_PREFIX: &str = "aek_";

const DEMO_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// A demo token that ends sooner than this is made anew at the next start.
const DEMO_RENEWAL: Duration = Duration::from_secs(7 * 86_400);

/// The keys in use.
#[derive(Clone, Debug)]
pub struct Keys {
    named: BTreeMap<String, Secret>,
    demo_token: Secret,
    /// What the operator should mend; nothing that stops a start.
    pub warnings: Vec<String>,
}

/// Why there are no keys.
#[derive(Debug)]
pub enum KeysError {
    Random(String),
    File { path: PathBuf, error: io::Error },
    Spoilt { path: PathBuf },
    Signing(String),
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeysError::Random(error) => write!(f, "the system gives no random numbers: {error}"),
            KeysError::File { path, error } => write!(
                f,
                "the hub keeps its keys at {}, and cannot: {error}. See who may write there, or choose another place with --data \
                 or store.path",
                path.display()
            ),
            KeysError::Spoilt { path } => write!(
                f,
                "{}: this is no key of at least {SHORTEST_KEY} characters; restore the file, or remove it to have a new one made",
                path.display()
            ),
            KeysError::Signing(error) => write!(f, "the signing key signs nothing: {error}"),
        }
    }
}

impl std::error::Error for KeysError {}

impl Keys {
    /// Reads the keys, and makes those that are not there yet.
    pub fn prepare(config: &Config) -> Result<Keys, KeysError> {
        let dir = config.store.path.join("keys");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at(&dir))?;
        let mut keys = Keys::of(config);
        keys.warn_if_open(&dir, 0o700)?;
        for (name, make) in GENERATED {
            if !keys.named.contains_key(name) {
                let path = dir.join(name);
                if !path.exists() {
                    write_new(&path, &make()?)?;
                }
                keys.warn_if_open(&path, 0o600)?;
                keys.named.insert(name.into(), read(&path)?);
            }
        }
        keys.demo_token = keys.current_demo_token(&dir.join(DEMO_TOKEN))?;
        Ok(keys)
    }

    /// The same without writing anything: keys that are not there yet are made up.
    pub fn rehearse(config: &Config) -> Result<Keys, KeysError> {
        let dir = config.store.path.join("keys");
        let mut keys = Keys::of(config);
        for (name, make) in GENERATED {
            if !keys.named.contains_key(name) {
                let path = dir.join(name);
                let key = if path.exists() { read(&path)? } else { Secret::new(make()?) };
                keys.named.insert(name.into(), key);
            }
        }
        Ok(keys)
    }

    /// One of them as a hub with these settings has it, for its clients on the same machine; none if it never started.
    pub fn held(config: &Config, name: &str) -> Result<Option<Secret>, KeysError> {
        let path = config.store.path.join("keys").join(name);
        match config.secrets.get(name) {
            Some(secret) => Ok(Some(secret.clone())),
            None if !path.exists() => Ok(None),
            None => read(&path).map(Some),
        }
    }

    fn of(config: &Config) -> Keys {
        Keys { named: config.secrets.clone(), demo_token: Secret::default(), warnings: Vec::new() }
    }

    /// A secret by its name: the operator's, else a generated one.
    pub fn secret(&self, name: &str) -> Option<String> {
        self.named.get(name).map(|secret| secret.reveal().to_owned())
    }

    pub fn signing_key(&self) -> &str {
        self.named.get(SIGNING_KEY).map_or("", Secret::reveal)
    }

    pub fn admin_key(&self) -> &str {
        self.named.get(ADMIN_KEY).map_or("", Secret::reveal)
    }

    /// Lets whoever shows it read and write `demo.*` and `public.*`.
    pub fn demo_token(&self) -> &str {
        self.demo_token.reveal()
    }

    fn current_demo_token(&self, path: &Path) -> Result<Secret, KeysError> {
        let wanted = Claims::new("demo", &["demo.*", "public.*"], &["demo.*", "public.*"], DEMO_LIFE);
        if let Ok(text) = std::fs::read_to_string(path) {
            let held = Claims::verify(text.trim(), self.signing_key());
            let fresh_until = unix_now() + DEMO_RENEWAL.as_secs();
            if held.is_some_and(|held| held.same_rights(&wanted) && held.exp > fresh_until) {
                return Ok(Secret::new(text.trim()));
            }
        }
        let token = wanted.sign(self.signing_key())?;
        let fresh = Scratch::write(path, &token)?;
        std::fs::rename(&fresh.0, path).map_err(at(path))?;
        Ok(Secret::new(token))
    }

    fn warn_if_open(&mut self, path: &Path, mode: u32) -> Result<(), KeysError> {
        let open = std::fs::metadata(path).map_err(at(path))?.mode() & 0o077;
        if open != 0 {
            self.warnings.push(format!("others can reach {0}: run `chmod {mode:o} {0}`", path.display()));
        }
        Ok(())
    }
}

type Make = fn() -> Result<String, KeysError>;
const GENERATED: [(&str, Make); 2] = [(SIGNING_KEY, random_text), (ADMIN_KEY, new_api_key)];

/// 32 random bytes in 43 characters of base64url.
pub fn random_text() -> Result<String, KeysError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| KeysError::Random(error.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A fresh key for a back end.
pub fn new_api_key() -> Result<String, KeysError> {
    Ok(format!("{API_KEY_PREFIX}{}", random_text()?))
}

/// What a subscriber's token says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claims {
    pub sub: String,
    #[serde(default)]
    pub channels: Vec<String>,
    #[serde(default)]
    pub publish: Vec<String>,
    pub iat: u64,
    pub exp: u64,
}

impl Claims {
    pub fn new(sub: &str, channels: &[impl AsRef<str>], publish: &[impl AsRef<str>], life: Duration) -> Self {
        let iat = unix_now();
        Claims {
            sub: sub.to_owned(),
            channels: channels.iter().map(|pattern| pattern.as_ref().to_owned()).collect(),
            publish: publish.iter().map(|pattern| pattern.as_ref().to_owned()).collect(),
            iat,
            exp: iat + life.as_secs(),
        }
    }

    pub fn sign(&self, key: &str) -> Result<String, KeysError> {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), self, &EncodingKey::from_secret(key.as_bytes()))
            .map_err(|error| KeysError::Signing(error.to_string()))
    }

    fn verify(token: &str, key: &str) -> Option<Claims> {
        let key = DecodingKey::from_secret(key.as_bytes());
        jsonwebtoken::decode(token, &key, &Validation::new(Algorithm::HS256)).ok().map(|token| token.claims)
    }

    fn same_rights(&self, other: &Claims) -> bool {
        (&self.sub, &self.channels, &self.publish) == (&other.sub, &other.channels, &other.publish)
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> KeysError {
    let path = path.to_owned();
    move |error| KeysError::File { path, error }
}

fn read(path: &Path) -> Result<Secret, KeysError> {
    let text = std::fs::read_to_string(path).map_err(at(path))?;
    let key = text.trim();
    if key.len() < SHORTEST_KEY || key.contains(char::is_whitespace) {
        return Err(KeysError::Spoilt { path: path.to_owned() });
    }
    Ok(Secret::new(key))
}

/// Puts a whole file in place, or none; of two that try at once, the first wins and the other reads what it wrote.
fn write_new(path: &Path, text: &str) -> Result<(), KeysError> {
    let fresh = Scratch::write(path, text)?;
    match std::fs::hard_link(&fresh.0, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// A file beside its future place, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn write(path: &Path, text: &str) -> Result<Scratch, KeysError> {
        let scratch = path.with_extension(random_text()?);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&scratch)
            .map_err(at(&scratch))?;
        let scratch = Scratch(scratch);
        writeln!(file, "{text}").and_then(|()| file.sync_all()).map_err(at(&scratch.0))?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After a rename it is no longer there, and that is fine.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Dir {
            let dir = std::env::temp_dir().join(format!("aether-keys-{}", random_text().unwrap()));
            std::fs::create_dir(&dir).unwrap();
            Dir(dir)
        }
        fn config(&self) -> Config {
            let mut config = Config::default();
            config.store.path = self.0.join("data");
            config
        }
        fn key(&self, name: &str) -> PathBuf {
            self.0.join("data/keys").join(name)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn the_first_start_makes_keys_that_the_next_start_finds() {
        let dir = Dir::new();
        let first = Keys::prepare(&dir.config()).unwrap();
        assert_eq!((first.signing_key().len(), first.admin_key().len()), (43, 47));
        assert!(first.admin_key().starts_with("aek_") && first.warnings.is_empty());
        let again = Keys::prepare(&dir.config()).unwrap();
        assert_eq!(first.secret("signing_key"), again.secret("signing_key"));
        assert_eq!((first.admin_key(), first.demo_token()), (again.admin_key(), again.demo_token()));
        assert_eq!(again.secret("no_such_secret"), None);
        let claims = Claims::verify(first.demo_token(), first.signing_key()).unwrap();
        assert_eq!((claims.sub.as_str(), claims.exp - claims.iat), ("demo", 30 * 86_400));
        assert_eq!((claims.channels, claims.publish.len()), (vec!["demo.*".to_owned(), "public.*".to_owned()], 2));
    }

    #[test]
    fn only_their_owner_can_read_the_keys_and_nothing_else_lies_about() {
        let dir = Dir::new();
        Keys::prepare(&dir.config()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&dir.key("")), 0o700);
        let mut names: Vec<_> = std::fs::read_dir(dir.key("")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["admin_key", "demo_token", "signing_key"]);
        assert!(names.iter().all(|name| mode(&dir.key(name.to_str().unwrap())) == 0o600));
    }

    #[test]
    fn starts_at_the_same_moment_agree_on_the_keys() {
        let dir = Dir::new();
        let config = dir.config();
        let found: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| Keys::prepare(&config).unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(found.iter().all(|keys| keys.signing_key() == found[0].signing_key()));
        assert!(found.iter().all(|keys| keys.admin_key() == found[0].admin_key()));
    }

    #[test]
    fn the_operators_secrets_come_first_and_are_written_nowhere() {
        let dir = Dir::new();
        let mut config = dir.config();
        config.secrets.insert("signing_key".into(), Secret::new("s".repeat(40)));
        config.secrets.insert("mine".into(), Secret::new("x"));
        let keys = Keys::prepare(&config).unwrap();
        assert_eq!((keys.signing_key(), keys.secret("mine").as_deref()), ("s".repeat(40).as_str(), Some("x")));
        assert!(!dir.key("signing_key").exists());
        assert!(Claims::verify(keys.demo_token(), &"s".repeat(40)).is_some());
    }

    #[test]
    fn the_demo_token_is_made_anew_when_it_ends_soon_or_the_signing_key_has_changed() {
        let dir = Dir::new();
        let old = Keys::prepare(&dir.config()).unwrap();
        let soon = Claims::new("demo", &["demo.*", "public.*"], &["demo.*", "public.*"], Duration::from_secs(3600));
        std::fs::write(dir.key("demo_token"), soon.sign(old.signing_key()).unwrap()).unwrap();
        let renewed = Keys::prepare(&dir.config()).unwrap();
        assert!(Claims::verify(renewed.demo_token(), old.signing_key()).unwrap().exp > soon.exp);
        std::fs::remove_file(dir.key("signing_key")).unwrap();
        let rekeyed = Keys::prepare(&dir.config()).unwrap();
        assert!(Claims::verify(rekeyed.demo_token(), old.signing_key()).is_none());
        assert!(Claims::verify(rekeyed.demo_token(), rekeyed.signing_key()).is_some());
    }

    #[test]
    fn loose_permissions_are_a_warning() {
        let dir = Dir::new();
        Keys::prepare(&dir.config()).unwrap();
        std::fs::set_permissions(dir.key("admin_key"), std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::set_permissions(dir.key(""), std::fs::Permissions::from_mode(0o755)).unwrap();
        let warnings = Keys::prepare(&dir.config()).unwrap().warnings;
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("chmod 700") && warnings[1].contains("chmod 600"), "{warnings:?}");
    }

    #[test]
    fn a_key_file_that_was_cut_off_stops_the_start() {
        let dir = Dir::new();
        Keys::prepare(&dir.config()).unwrap();
        std::fs::write(dir.key("signing_key"), "").unwrap();
        let error = Keys::prepare(&dir.config()).unwrap_err().to_string();
        assert!(error.contains("signing_key") && error.contains("remove it"), "{error}");
    }

    #[test]
    fn a_rehearsal_writes_nothing() {
        let dir = Dir::new();
        let keys = Keys::rehearse(&dir.config()).unwrap();
        assert!(keys.signing_key().len() >= 43 && !dir.key("").exists());
    }
}
