//! The public keys that issuers of tokens publish (JWKS): fetched beside everything, known to all VMs.
//!
//! Nobody who verifies a token waits: what is known counts, and what is old or missing is fetched for the next one. Only
//! whoever names an issuer first, while its file loads, waits for the first answer.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, Method};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;
use serde_json::Value as Json;

use super::http::Asked;
use super::http::allow::Allow;
use crate::kernel::message::Micros;
use crate::plugins::commons::Commons;

/// Issuers; the next one is an error where it is named.
const MAX_SETS: usize = 64;
/// Keys of one issuer; further ones are left out.
const MAX_KEYS: usize = 100;
const MAX_BODY: usize = 256 << 10;
/// How old what is known may become before it is fetched again.
const FRESH: Duration = Duration::from_secs(300);
/// It is fetched at most this often, whatever keys tokens name: whoever invents names must not make us ask.
const PAUSE: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Default)]
pub struct Keysets(Mutex<FxHashMap<String, Arc<Keyset>>>);

pub struct Keyset {
    url: String,
    plugin: String,
    allow: Arc<Allow>,
    keys: ArcSwap<Vec<Key>>,
    state: Mutex<State>,
    tried: Condvar,
}

#[derive(Default)]
struct State {
    /// When it was asked for last, and when it came last.
    asked: Option<Micros>,
    came: Option<Micros>,
    under_way: bool,
}

struct Key {
    id: Option<String>,
    family: AlgorithmFamily,
    /// The one algorithm it is for, if it says so.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl Keysets {
    /// The keys at `url`. Whoever names it first waits for them, for a while.
    pub fn open(
        &self,
        commons: &Arc<Commons>,
        plugin: &str,
        allow: &Arc<Allow>,
        url: &str,
    ) -> Result<Arc<Keyset>, String> {
        let id = format!("{plugin} {url}");
        let mut sets = self.0.lock();
        if let Some(set) = sets.get(&id).filter(|set| set.allow == *allow) {
            return Ok(set.clone());
        }
        if sets.len() >= MAX_SETS && !sets.contains_key(&id) {
            return Err(format!("there are {MAX_SETS} of them already, which is as many as there may be"));
        }
        let set = Arc::new(Keyset {
            url: url.to_owned(),
            plugin: plugin.to_owned(),
            allow: allow.clone(),
            keys: ArcSwap::default(),
            state: Mutex::default(),
            tried: Condvar::new(),
        });
        sets.insert(id, set.clone());
        drop(sets);
        set.fetch(commons)?;
        let mut state = set.state.lock();
        if state.under_way {
            set.tried.wait_for(&mut state, TIMEOUT);
        }
        drop(state);
        Ok(set)
    }
}

impl Keyset {
    /// The key for a token that names `id` and `algorithm`.
    pub fn find(
        self: &Arc<Self>,
        commons: &Arc<Commons>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey, String> {
        self.refresh(commons, FRESH);
        let keys = self.keys.load();
        let fits = |key: &&Key| key.family == algorithm.family() && key.algorithm.is_none_or(|only| only == algorithm);
        let mut fitting = keys.iter().filter(fits).filter(|key| id.is_none() || key.id.as_deref() == id);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key.key.clone()),
            (Some(_), Some(_)) => Err("the token does not say which key it is signed with (kid)".into()),
            (None, _) => {
                self.refresh(commons, Duration::ZERO);
                Err(match keys.is_empty() {
                    true => format!("the keys of {} could not be fetched yet", self.url),
                    false => "its key is not known (yet): it is looked for".into(),
                })
            }
        }
    }

    /// Fetches them beside everything, if they are older than `age` and were not asked for just now.
    fn refresh(self: &Arc<Self>, commons: &Arc<Commons>, age: Duration) {
        let now = commons.now();
        let older = |at: Option<Micros>, than: Duration| {
            at.is_none_or(|at| now.saturating_sub(at) >= than.as_micros() as Micros)
        };
        let state = self.state.lock();
        let wanted = !state.under_way && older(state.came, age) && older(state.asked, PAUSE);
        drop(state);
        if wanted && let Err(why) = self.fetch(commons) {
            tracing::warn!(target: "aether::plugin", plugin = self.plugin, url = self.url, why, "keys cannot be fetched");
        }
    }

    fn fetch(self: &Arc<Self>, commons: &Arc<Commons>) -> Result<(), String> {
        let uri = self.allow.check(&self.url)?;
        let thread = commons.outside.thread()?;
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.under_way, true) {
            return Ok(());
        }
        state.asked = Some(commons.now());
        drop(state);
        let (method, headers, body) = (Method::GET, HeaderMap::new(), bytes::Bytes::new());
        let asked = Asked { method, uri, headers, body, timeout: TIMEOUT, max_body: MAX_BODY, follow: false };
        let (set, commons) = (self.clone(), commons.clone());
        thread.spawn(async move {
			let answered = commons.outside.ask(&set.plugin, set.allow.clone(), asked).await;
			let read = answered.and_then(|answered| match answered.status {
				200 => read(&answered.body),
				status => Err(format!("the answer has status {status}")),
			});
			let mut state = set.state.lock();
			state.under_way = false;
			match read {
				Ok(keys) => {
					set.keys.store(Arc::new(keys));
					state.came = Some(commons.now());
				}
				Err(why) => {
					tracing::warn!(target: "aether::plugin", plugin = set.plugin, url = set.url, why, "keys could not be fetched, those that are known stay");
				}
			}
			set.tried.notify_all();
		});
        Ok(())
    }
}

fn read(body: &[u8]) -> Result<Vec<Key>, String> {
    let json: Json = serde_json::from_slice(body).map_err(|error| format!("the answer is not JSON: {error}"))?;
    let keys = json.get("keys").and_then(Json::as_array).ok_or("the answer has no list `keys`")?;
    let keys: Vec<Key> = keys.iter().take(MAX_KEYS).filter_map(read_key).collect();
    if keys.is_empty() { Err("the answer has no key that verifies signatures".into()) } else { Ok(keys) }
}

/// None for what is not public, not for signatures or not known here.
fn read_key(json: &Json) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(json.clone()).ok()?;
    let family = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa,
        AlgorithmParameters::EllipticCurve(_) => AlgorithmFamily::Ec,
        AlgorithmParameters::OctetKeyPair(_) => AlgorithmFamily::Ed,
        // A shared secret that is published is none.
        _ => return None,
    };
    if jwk.common.public_key_use.as_ref().is_some_and(|used| *used != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match jwk.common.key_algorithm {
        Some(KeyAlgorithm::UNKNOWN_ALGORITHM) | None => None,
        Some(algorithm) => Some(algorithm.to_string().parse().ok()?),
    };
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { id: jwk.common.key_id, family, algorithm, key })
}
