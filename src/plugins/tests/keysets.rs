//! `aether.jwt.verifier{jwks = ..}`: an issuer's published keys, which come and go while nobody waits.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;

use super::backend::{Backend, Reply};
use super::waiting::config;
use super::*;

struct Issuer {
    backend: Backend,
    published: Arc<Mutex<String>>,
}

impl Issuer {
    fn publishing(keys: &[u8]) -> Issuer {
        let published = Arc::new(Mutex::new(set(keys)));
        let shown = published.clone();
        Issuer { backend: Backend::start(move |_| Reply::ok(shown.lock().clone())), published }
    }
}

fn signing(key: u8) -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[key; 32])
}

/// A set of public keys, and other keys beside them that are of no use here.
fn set(keys: &[u8]) -> String {
    let jwk = |key: &u8| {
        let x = BASE64.encode(signing(*key).verifying_key().as_bytes());
        serde_json::json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": format!("k{key}"), "x": x})
    };
    let mut all: Vec<_> = keys.iter().map(jwk).collect();
    all.push(
        serde_json::json!({"kty": "oct", "kid": "shared", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}),
    );
    all.push(serde_json::json!({"kty": "new", "kid": "unheard of"}));
    serde_json::json!({ "keys": all }).to_string()
}

fn token(key: u8, kid: Option<&str>) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
    let pem = signing(key).to_pkcs8_pem(LineEnding::LF).unwrap();
    let claims = serde_json::json!({"sub": "ann", "exp": 9_999_999_999u64});
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_pem(pem.as_bytes()).unwrap()).unwrap()
}

fn host(issuer: &Issuer, hand: &Hand) -> (Arc<Host>, Dir) {
    let code = format!(
        "local tokens = aether.jwt.verifier({{alg = {{'EdDSA', 'RS256'}}, jwks = '{}/jwks'}})
aether.on.connect(function(req)
	local claims, why = tokens:verify(req:bearer())
	if not claims then return false, why end
	return aether.allow({{user = claims.sub}})
end)",
        issuer.backend.url
    );
    script_with(&code, HostConfig { clock: hand.config().clock, ..config() })
}

#[test]
fn tokens_are_verified_with_published_keys_and_nobody_waits() {
    let (issuer, hand) = (Issuer::publishing(&[1, 2]), Hand::new());
    let (host, _dir) = host(&issuer, &hand);
    assert_eq!(issuer.backend.requests(), 1);
    for (key, kid) in [(1, "k1"), (2, "k2")] {
        assert_eq!(connect(&host, Some(&token(key, Some(kid)))).unwrap().user.as_deref(), Some("ann"));
    }
    let why = |token: &str| connect(&host, Some(token)).err().unwrap().why;
    assert_eq!(why(&token(1, Some("k2"))), "the signature does not fit");
    assert!(why(&token(1, None)).contains("does not say which key"));
    let secret = EncodingKey::from_secret(b"secretsecretsecretsecretsecretsecret");
    let header = Header { kid: Some("shared".into()), ..Header::new(Algorithm::HS256) };
    let forged = jsonwebtoken::encode(&header, &serde_json::json!({"exp": 9_999_999_999u64}), &secret).unwrap();
    assert_eq!(why(&forged), "the algorithm is not accepted");
    assert_eq!(issuer.backend.requests(), 1);
}

#[test]
fn a_new_key_is_looked_for_beside_everything_and_at_most_every_half_minute() {
    let (issuer, hand) = (Issuer::publishing(&[1]), Hand::new());
    let (host, _dir) = host(&issuer, &hand);
    *issuer.published.lock() = set(&[1, 3]);
    let new = token(3, Some("k3"));
    for _ in 0..10 {
        assert!(connect(&host, Some(&new)).err().unwrap().why.contains("not known (yet)"));
    }
    assert_eq!(issuer.backend.requests(), 1, "the first fetch was just now");
    hand.pass(31);
    until("the new key comes", || connect(&host, Some(&new)).is_ok());
    for n in 0..100 {
        let _ = connect(&host, Some(&token(4, Some(&format!("invented {n}")))));
    }
    assert_eq!(issuer.backend.requests(), 2);
}

#[test]
fn keys_that_were_withdrawn_end_and_an_issuer_that_is_away_takes_none_with_it() {
    let (issuer, hand) = (Issuer::publishing(&[1]), Hand::new());
    let (host, _dir) = host(&issuer, &hand);
    let old = token(1, Some("k1"));
    *issuer.published.lock() = "<html>".into();
    hand.pass(301);
    assert!(connect(&host, Some(&old)).is_ok());
    until("it is asked again", || issuer.backend.requests() >= 2);
    assert!(connect(&host, Some(&old)).is_ok(), "what is known stays");
    *issuer.published.lock() = set(&[2]);
    hand.pass(301);
    until("the old key ends", || {
        hand.pass(31);
        connect(&host, Some(&old)).is_err()
    });
}

#[test]
fn a_verifier_of_published_keys_that_makes_no_sense_is_refused() {
    for (options, why) in [
        ("alg = 'HS256', jwks = 'https://a/'", "take a shared secret"),
        ("alg = 'RS256', jwks = 'https://a/', key = 'x'", "one of them is enough"),
        ("alg = 'RS256', jwks = 'a'", "is not a URL"),
        ("alg = 'RS256', jwks = 7", "jwks: expected a URL"),
    ] {
        let errors = complaints(&format!("aether.jwt.verifier({{{options}}})"));
        assert!(errors[0].starts_with("rules.lua:1: jwt.verifier: ") && errors[0].contains(why), "{errors:?}");
    }
}

#[test]
fn the_shipped_plugin_lets_in_whom_a_published_key_vouches_for() {
    let issuer = Issuer::publishing(&[1]);
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/jwt-auth");
    let settings = serde_json::json!({"algorithms": ["EdDSA"], "jwks_url": format!("{}/jwks", issuer.backend.url)});
    let plugins = vec![plugin_use("jwt-auth", &dir, settings)];
    let host = Host::load(HostConfig { plugins, ..config() }).unwrap();
    assert_eq!(connect(&host, Some(&token(1, Some("k1")))).unwrap().user.as_deref(), Some("ann"));
    assert_eq!(connect(&host, Some(&token(2, Some("k1")))).err().unwrap().code, "bad_token");
}
