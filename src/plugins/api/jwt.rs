//! `aether.jwt`: verifiers whose options are fixed while the file loads, and signing.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, Validation};
use mlua::{FromLua, Lua, MultiValue, Table, UserData, UserDataMethods, Value};
use serde_json::Value as Json;

use super::secret::Bytes;
use super::{Entry, Seat, function};
use crate::plugins::commons::Commons;
use crate::plugins::source::schema::{hint, read_duration};
use crate::plugins::vm::value::{describe, json_to_lua, lua_to_json, raise, to_number};
use crate::plugins::waiting::http::allow::Allow;
use crate::plugins::waiting::keysets::Keyset;

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "jwt.verifier",
        args: "{alg, key or jwks, iss?, aud?, leeway = \"30s\"?, require_exp = true?, min_key = 32?}",
        gives: "verifier",
        doc: "A verifier: verifier:verify(token) gives the claims, or nil and why. alg has no default. jwks is where the issuer publishes its keys; they are fetched beside everything, and verify never waits. min_key is how many bytes a secret of HS256, HS384 or HS512 must have.",
        kind: "(options: { [string]: any }) -> Verifier",
        may_wait: false,
        since: "0.1.0",
        example: r#"local tokens = aether.jwt.verifier({ alg = "HS256", key = aether.secret("signing_key"), iss = "shop" })
local claims, why = tokens:verify("not.a.token")
assert(claims == nil and why)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, seat, options: Table| {
                read_verifier(lua, seat, &options).map_err(|why| raise(lua, format!("jwt.verifier: {why}")))
            })
        },
    },
    Entry {
        name: "jwt.sign",
        args: "claims, {alg, key, min_key = 32?}",
        gives: "string",
        doc: "A signed token.",
        kind: "(claims: { [string]: any }, options: { alg: string, key: Data, min_key: number? }) -> string",
        may_wait: false,
        since: "0.1.0",
        example: r#"local token = aether.jwt.sign({ sub = "alice" }, { alg = "HS256", key = aether.secret("signing_key") })
assert(#token:split(".") == 3)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, (claims, options): (Table, Table)| {
                sign(lua, claims, &options).map_err(|why| raise(lua, format!("jwt.sign: {why}")))
            })
        },
    },
];

/// RFC 7518 asks HMAC keys to be at least as long as the hash; shorter ones are guessed offline from one token.
const MIN_HMAC_KEY: usize = 32;
const MAX_TOKEN: usize = 16 << 10;
const MAX_LEEWAY: Duration = Duration::from_secs(24 * 3600);

struct Verifier {
    keys: Keys,
    rules: Validation,
    /// Of them it is the clock that counts.
    commons: Arc<Commons>,
}

/// Where the key of a token comes from.
enum Keys {
    One(DecodingKey),
    Published(Arc<Keyset>),
}

impl UserData for Verifier {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("verify", |lua, verifier, token: Value| match verifier.verify(&token) {
            Ok(claims) => Ok(MultiValue::from_iter([json_to_lua(lua, &claims)?])),
            Err(why) => Ok(MultiValue::from_iter([Value::Nil, Value::String(lua.create_string(why)?)])),
        });
    }
}

impl Verifier {
    fn verify(&self, token: &Value) -> Result<Json, String> {
        let Value::String(token) = token else { return Err("the token is not a string".into()) };
        let token = token.as_bytes();
        if token.len() > MAX_TOKEN {
            return Err("the token is too long".into());
        }
        let data = match &self.keys {
            Keys::One(key) => jsonwebtoken::decode::<Json>(&*token, key, &self.rules),
            Keys::Published(set) => {
                let header = jsonwebtoken::decode_header(&*token).map_err(|error| explain(error.kind()))?;
                if !self.rules.algorithms.contains(&header.alg) {
                    return Err(explain(&ErrorKind::InvalidAlgorithm));
                }
                let key = set.find(&self.commons, header.kid.as_deref(), header.alg)?;
                // A key is for its own kind of signature and no other.
                let rules = Validation { algorithms: vec![header.alg], ..self.rules.clone() };
                jsonwebtoken::decode::<Json>(&*token, &key, &rules)
            }
        };
        let data = data.map_err(|error| explain(error.kind()))?;
        // We understand no extensions, and `crit` says that one must.
        if data.header.crit.is_some() {
            return Err("the token demands an extension that is not known here".into());
        }
        if !data.claims.is_object() {
            return Err("the claims are not an object".into());
        }
        self.is_the_time_for(&data.claims)?;
        Ok(data.claims)
    }
}

impl Verifier {
    fn is_the_time_for(&self, claims: &Json) -> Result<(), String> {
        let time = |claim: &str| match claims.get(claim) {
            None | Some(Json::Null) => Ok(None),
            Some(time) => time.as_f64().map(Some).ok_or_else(|| format!("the claim {claim} is malformed")),
        };
        let (now, leeway) = ((self.commons.now() / 1_000_000) as f64, self.rules.leeway as f64);
        // RFC 7519, 4.1.4: "on or after" that second it is not accepted. The connection that it opened ends then, too.
        if time("exp")?.is_some_and(|exp| exp.round() + leeway <= now) {
            return Err(explain(&ErrorKind::ExpiredSignature));
        }
        if time("nbf")?.is_some_and(|nbf| nbf.round() > now + leeway) {
            return Err(explain(&ErrorKind::ImmatureSignature));
        }
        Ok(())
    }
}

fn explain(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired".into(),
        ErrorKind::ImmatureSignature => "the token is not valid yet".into(),
        ErrorKind::InvalidSignature => "the signature does not fit".into(),
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => "the algorithm is not accepted".into(),
        ErrorKind::InvalidIssuer => "the issuer is not accepted".into(),
        ErrorKind::InvalidAudience => "the token is for another audience".into(),
        ErrorKind::MissingRequiredClaim(claim) => format!("the claim {claim} is missing"),
        ErrorKind::InvalidClaimFormat(claim) => format!("the claim {claim} is malformed"),
        _ => "not a valid token".into(),
    }
}

/// One key, or wherever the issuer publishes its own.
fn read_keys(lua: &Lua, seat: &Seat, options: &Table, algorithms: &[Algorithm]) -> Result<Keys, String> {
    let url = match get(options, "jwks")? {
        Value::Nil => return read_one_key(lua, options, algorithms).map(Keys::One),
        Value::String(url) => url.to_string_lossy(),
        other => return Err(format!("jwks: expected a URL, got {}", describe(&other))),
    };
    if !get(options, "key")?.is_nil() {
        return Err("key and jwks: one of them is enough".into());
    }
    if algorithms.iter().any(|algorithm| algorithm.family() == AlgorithmFamily::Hmac) {
        return Err("alg: HS256, HS384 and HS512 take a shared secret, and jwks publishes keys".into());
    }
    let (commons, unit) = (&seat.program.commons, seat.unit());
    let allow = unit
        .http
        .clone()
        .unwrap_or_else(|| Arc::new(Allow { at: format!("{}/plugin.toml", unit.root), ..Allow::default() }));
    commons.keysets.open(commons, &unit.name, &allow, &url).map(Keys::Published).map_err(|why| format!("jwks: {why}"))
}

fn read_one_key(lua: &Lua, options: &Table, algorithms: &[Algorithm]) -> Result<DecodingKey, String> {
    let family = algorithms[0].family();
    if algorithms.iter().any(|algorithm| algorithm.family() != family) {
        // One key for two families is the classic confusion: a public key taken for a shared secret.
        return Err("alg: algorithms of different kinds cannot share a key".into());
    }
    let key = read_key(lua, options)?;
    match family {
        AlgorithmFamily::Hmac => Ok(DecodingKey::from_secret(hmac_key(&key, options)?)),
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(&key),
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(&key),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(&key),
    }
    .map_err(|_| format!("key: not a public key in PEM for {}", name(algorithms[0])))
}

fn read_verifier(lua: &Lua, seat: &Seat, options: &Table) -> Result<Verifier, String> {
    only_known(options, &["alg", "key", "jwks", "iss", "aud", "leeway", "require_exp", "min_key"])?;
    let algorithms = read_algorithms(&get(options, "alg")?)?;
    let keys = read_keys(lua, seat, options, &algorithms)?;
    let mut rules = Validation::new(algorithms[0]);
    rules.algorithms = algorithms;
    // By the hub's clock, which is not always the system's.
    rules.validate_exp = false;
    rules.required_spec_claims.clear();
    match get(options, "require_exp")? {
        Value::Nil | Value::Boolean(true) => rules.required_spec_claims.extend(["exp".to_owned()]),
        Value::Boolean(false) => {}
        other => return Err(format!("require_exp: expected true or false, got {}", describe(&other))),
    }
    rules.leeway = match get(options, "leeway")? {
        Value::Nil => 30,
        given => {
            let leeway =
                lua_to_json(&given).ok().and_then(|json| read_duration(&json)).filter(|leeway| *leeway <= MAX_LEEWAY);
            leeway
                .ok_or_else(|| format!("leeway: expected a duration of at most a day, got {}", describe(&given)))?
                .as_secs()
        }
    };
    let issuers = read_strings(&get(options, "iss")?).map_err(|why| format!("iss: {why}"))?;
    if !issuers.is_empty() {
        rules.set_issuer(&issuers);
        rules.required_spec_claims.insert("iss".into());
    }
    let audience = read_strings(&get(options, "aud")?).map_err(|why| format!("aud: {why}"))?;
    rules.validate_aud = !audience.is_empty();
    if !audience.is_empty() {
        rules.set_audience(&audience);
        rules.required_spec_claims.insert("aud".into());
    }
    Ok(Verifier { keys, rules, commons: seat.program.commons.clone() })
}

fn sign(lua: &Lua, claims: Table, options: &Table) -> Result<String, String> {
    only_known(options, &["alg", "key", "min_key"])?;
    let algorithms = read_algorithms(&get(options, "alg")?)?;
    let [algorithm] = algorithms[..] else { return Err("alg: expected one algorithm".into()) };
    let key = read_key(lua, options)?;
    let key = match algorithm.family() {
        AlgorithmFamily::Hmac => Ok(EncodingKey::from_secret(hmac_key(&key, options)?)),
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(&key),
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(&key),
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(&key),
    }
    .map_err(|_| format!("key: not a private key in PEM for {}", name(algorithm)))?;
    let claims = lua_to_json(&Value::Table(claims)).map_err(|why| format!("claims: {why}"))?;
    jsonwebtoken::encode(&Header::new(algorithm), &claims, &key)
        .map_err(|_| "the key does not fit the algorithm".into())
}

/// `min_key` lets in secrets that another system chose, while its tokens are still out there.
fn hmac_key<'a>(key: &'a [u8], options: &Table) -> Result<&'a [u8], String> {
    let least = match get(options, "min_key")? {
        Value::Nil => MIN_HMAC_KEY,
        given => match to_number(&given) {
            Some(least) if least.fract() == 0.0 && (1.0..=1024.0).contains(&least) => least as usize,
            _ => return Err(format!("min_key: expected a number of bytes, 1 to 1024, got {}", describe(&given))),
        },
    };
    if key.len() < least {
        return Err(format!("key: {} bytes are too few, it takes at least {least}", key.len()));
    }
    Ok(key)
}

const ALGORITHMS: [&str; 12] =
    ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

fn name(algorithm: Algorithm) -> String {
    format!("{algorithm:?}")
}

fn read_algorithms(value: &Value) -> Result<Vec<Algorithm>, String> {
    let names = read_strings(value).map_err(|why| format!("alg: {why}"))?;
    if names.is_empty() {
        return Err("alg is missing: name what you accept, like \"HS256\"".into());
    }
    let read = |name: &String| {
        let known = ALGORITHMS.contains(&name.as_str());
        Algorithm::from_str(name).ok().filter(|_| known).ok_or_else(|| {
            format!("alg: {name:?} is not known here{}; there are {}", hint(name, ALGORITHMS), ALGORITHMS.join(" "))
        })
    };
    names.iter().map(read).collect()
}

fn read_key(lua: &Lua, options: &Table) -> Result<Vec<u8>, String> {
    match get(options, "key")? {
        Value::Nil => Err("key is missing: is its secret set?".into()),
        value => Bytes::from_lua(value.clone(), lua)
            .map(|bytes| bytes.0)
            .map_err(|_| format!("key: expected a secret, got {}", value.type_name())),
    }
}

/// A string or a list of them; nil is none.
fn read_strings(value: &Value) -> Result<Vec<String>, String> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.to_string_lossy()),
        other => Err(format!("expected a string or a list of strings, got {}", describe(other))),
    };
    match value {
        Value::Nil => Ok(Vec::new()),
        Value::Table(items) => {
            items.sequence_values::<Value>().map(|item| text(&item.map_err(|e| e.to_string())?)).collect()
        }
        one => Ok(vec![text(one)?]),
    }
}

fn get(options: &Table, key: &str) -> Result<Value, String> {
    options.raw_get(key).map_err(|e| e.to_string())
}

fn only_known(options: &Table, known: &[&str]) -> Result<(), String> {
    for pair in options.pairs::<Value, Value>() {
        let (key, _) = pair.map_err(|e| e.to_string())?;
        let key = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_else(|| describe(&key));
        if !known.contains(&key.as_str()) {
            return Err(format!("{key} is not known here{}", hint(&key, known)));
        }
    }
    Ok(())
}
