//! The plugins that ship with the hub, and the library beneath them.

use serde_json::{Value as Json, json};

use super::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";
/// The vector of the seed: sub u1, channels order.*, exp in 2100, HS256 with KEY.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1MSIsImNoYW5uZWxzIjpbIm9yZGVyLioiXSwiZXhwIjo0MTAyNDQ0ODAwfQ.bGpaH2lyyywBrL0CajvbRm2Lf0-ZxHMaDWtyYTCfUCc";

/// The shipped plugins and rules, with these settings.
fn shipped(jwt: Json, keys: Json, admin: Option<&'static str>) -> Result<Arc<Host>, LoadError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Host::load(HostConfig {
        plugins: vec![
            plugin_use("jwt-auth", &root.join("plugins/jwt-auth"), jwt),
            plugin_use("api-keys", &root.join("plugins/api-keys"), keys),
        ],
        scripts: Some(root.join("scripts")),
        secrets: Arc::new(move |name| match name {
            "signing_key" => Some(KEY.to_owned()),
            "admin_key" => admin.map(str::to_owned),
            _ => None,
        }),
        ..calm()
    })
}

fn sign(algorithm: jsonwebtoken::Algorithm, claims: Json) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(KEY.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::new(algorithm), &claims, &key).unwrap()
}

fn hs256(claims: Json) -> String {
    sign(jsonwebtoken::Algorithm::HS256, claims)
}

#[test]
fn the_seeds_token_grants_what_is_below_order() {
    let host = shipped(json!({}), json!({}), None).unwrap();
    let identity = connect(&host, Some(TOKEN)).unwrap();
    assert_eq!((identity.user.as_deref(), identity.expires), (Some("u1"), Some((4_102_444_800 + 30) * 1_000_000)));
    for (channel, may) in [("order.1", true), ("order.1.x", true), ("order", false), ("orders.1", false)] {
        assert_eq!(identity.grants.subscribe.matches(channel), may, "{channel}");
        assert_eq!(identity.grants.history.matches(channel), may, "{channel}");
    }
    assert!(identity.grants.publish.is_empty() && !identity.grants.admin);
    let u1 = Client { identity, ..nobody() };
    let before = entries(&host);
    assert!(subscribe(&host, &u1, "order.1").is_ok() && subscribe(&host, &u1, "orders.1").is_err());
    assert_eq!(entries(&host), before, "a grant needs no Lua");
    assert!(subscribe(&host, &u1, "public.x").is_ok());
}

#[test]
fn tokens_that_are_not_right_are_refused_with_the_reason() {
    let host = shipped(json!({}), json!({}), None).unwrap();
    let in_2100 = 4_102_444_800_u64;
    let (head, rest) = TOKEN.split_once('.').unwrap();
    let (body, _) = rest.split_once('.').unwrap();
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let crit = {
        let header = jsonwebtoken::Header { crit: Some(vec!["b64".into()]), ..Default::default() };
        let key = jsonwebtoken::EncodingKey::from_secret(KEY.as_bytes());
        jsonwebtoken::encode(&header, &json!({"exp": in_2100}), &key).unwrap()
    };
    for (token, why) in [
        (format!("{TOKEN}x"), "signature does not fit"),
        (format!("{head}.{body}."), "signature does not fit"),
        (format!("{none}.{body}."), "not a valid token"),
        ("a.b.c".to_owned(), "not a valid token"),
        ("..".to_owned(), "not a valid token"),
        (sign(jsonwebtoken::Algorithm::HS384, json!({"exp": in_2100})), "algorithm is not accepted"),
        (hs256(json!({"sub": "x"})), "claim exp is missing"),
        (hs256(json!({"exp": "soon"})), "exp"),
        (hs256(json!({"exp": 1_000_000})), "has expired"),
        (hs256(json!({"exp": in_2100, "nbf": in_2100})), "not valid yet"),
        (hs256(json!({"exp": in_2100, "channels": "order.*"})), "lists of strings"),
        (hs256(json!({"exp": in_2100, "publish": [7]})), "lists of strings"),
        (hs256(json!({"exp": in_2100, "channels": {"a": "b"}})), "lists of strings"),
        (crit, "extension"),
    ] {
        let refusal = connect(&host, Some(&token)).map(drop).unwrap_err();
        assert_eq!(refusal.code, "bad_token", "{token}: {refusal}");
        assert!(refusal.why.contains(why), "{token}: {refusal}");
    }
}

#[test]
fn leeway_issuer_audience_tenant_and_missing_exp_are_the_operators() {
    let now = jsonwebtoken::get_current_timestamp();
    let host = shipped(json!({}), json!({}), None).unwrap();
    assert!(connect(&host, Some(&hs256(json!({"exp": now - 20})))).is_ok());
    assert!(connect(&host, Some(&hs256(json!({"exp": now - 40})))).is_err());
    let settings = json!({
        "issuer": "me", "audience": "hub", "require_exp": false, "leeway": "0s", "tenant_claim": "org", "attributes": ["role", "id"]
    });
    let host = shipped(settings, json!({}), None).unwrap();
    let claims = json!({"iss": "me", "aud": ["hub", "x"], "org": "t", "sub": 42, "role": "mod", "id": 9_007_199_254_740_993_u64});
    let identity = connect(&host, Some(&hs256(claims.clone()))).unwrap();
    assert_eq!((identity.user.as_deref(), identity.tenant.as_deref(), identity.expires), (Some("42"), Some("t"), None));
    let facts = identity.attrs.unwrap().downcast::<crate::plugins::Facts>().unwrap();
    assert_eq!(facts.attrs, json!({"role": "mod", "id": "9007199254740993"}));
    for (claim, other) in [("iss", json!("you")), ("iss", json!(null)), ("aud", json!("z")), ("aud", json!(null))] {
        let mut claims = claims.clone();
        claims[claim] = other;
        assert!(connect(&host, Some(&hs256(claims))).is_err(), "{claim}");
    }
}

#[test]
fn api_keys_are_known_by_their_hash() {
    let key = "aek_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    let keys = json!({"keys": [{
        "name": "shop",
        "sha256": "a367240204f98aaff0e54a180e09e2f1684df29d84649a4e4283ab413dc39285",
        "publish": ["order.*", "news"],
    }]});
    let host = shipped(json!({}), keys, Some("aek_admin")).unwrap();
    let shop = connect(&host, Some(key)).unwrap();
    assert_eq!(shop.user.as_deref(), Some("shop"));
    assert!(shop.grants.publish.matches("order.1") && !shop.grants.publish.matches("order"));
    assert!(shop.grants.subscribe.is_empty() && shop.grants.history.is_empty() && !shop.grants.admin);
    let admin = connect(&host, Some("aek_admin")).unwrap().grants;
    assert!(
        admin.admin
            && [admin.publish, admin.subscribe, admin.history]
                .iter()
                .all(|all| all.matches("any") && !all.matches("$u"))
    );
    let refusal = connect(&host, Some("aek_wrong")).map(drop).unwrap_err();
    assert_eq!((refusal.code.as_str(), refusal.why.as_str()), ("bad_key", "invalid or missing api key"));
    let hash = "0".repeat(64);
    for (key, why) in [
        (json!({"name": "x", "sha256": "AB"}), "keys[1]: x: sha256 is 64 lower-case hex digits"),
        (
            json!({"name": "x", "sha256": hash, "publish": ["$user.*"]}),
            "keys[1].publish[1]: x: \"$user.*\": names that begin with $ belong",
        ),
        (json!({"name": "x", "sha256": hash, "publish": [".*"]}), "aether.toml:41: keys[1].publish[1]: pattern \".*\""),
        (json!({"name": "x"}), "aether.toml:41: keys[1].sha256 is required"),
    ] {
        let error = shipped(json!({}), json!({ "keys": [key] }), None).err().unwrap();
        assert!(error.0[0].contains(why), "{error}");
    }
}

#[test]
fn without_a_credential_one_is_nobody_and_hears_what_is_public() {
    let host = shipped(json!({}), json!({}), None).unwrap();
    let anybody = Client { identity: connect(&host, None).unwrap(), ..nobody() };
    assert_eq!(anybody.identity.user, None);
    assert!(
        subscribe(&host, &anybody, "public.news").is_ok() && history(&host, &anybody, "public.news", false).is_ok()
    );
    assert!(publish(&host, &anybody, "public.news", "1").is_err());
    assert!(subscribe(&host, &anybody, "private").is_err() && history(&host, &anybody, "private", false).is_err());
}

#[test]
fn a_verifier_is_checked_when_it_is_made() {
    let load = |options: &str| complaints(&format!("local key = string.rep('k', 32)\naether.jwt.verifier({options})"));
    for (options, why) in [
        ("{ key = key }", "alg is missing"),
        ("{ alg = 'HS265', key = key }", "did you mean HS256?"),
        ("{ alg = 'none', key = key }", "\"none\" is not known here"),
        ("{ alg = { 'HS256', 'RS256' }, key = key }", "cannot share a key"),
        ("{ alg = 'HS256' }", "key is missing"),
        ("{ alg = 'HS256', key = 'short' }", "5 bytes are too few"),
        ("{ alg = 'RS256', key = key }", "not a public key in PEM for RS256"),
        ("{ alg = 'HS256', key = 'short', min_key = 6 }", "5 bytes are too few, it takes at least 6"),
        ("{ alg = 'HS256', key = '', min_key = 0 }", "min_key: expected a number of bytes, 1 to 1024, got the number 0"),
        ("{ alg = 'HS256', key = key, lee = 1 }", "lee is not known here"),
        ("{ alg = 'HS256', key = key, leeway = '2d' }", "at most a day"),
    ] {
        let errors = load(options);
        assert!(
            errors.len() == 1 && errors[0].starts_with("rules.lua:2: jwt.verifier: ") && errors[0].contains(why),
            "{options}: {errors:?}"
        );
    }
    assert!(load("{ alg = 'HS512', key = key }").is_empty());
    assert!(load("{ alg = 'HS256', key = 'short', min_key = 5 }").is_empty(), "a secret that another system chose");
}

#[test]
fn the_crypto_library_gives_the_published_values() {
    script(
        r#"
local c = aether.crypto
assert(c.sha256("aek_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8") == "a367240204f98aaff0e54a180e09e2f1684df29d84649a4e4283ab413dc39285")
assert(c.hmac_sha256(string.rep("0f", 32), '{"repo":"core","n":1}') == "e04956ce2ebd93e548bdd087bb01d1783364d5ea9b1b954d31aa7204fc715b5a")
assert(c.md5("") == "d41d8cd98f00b204e9800998ecf8427e" and c.md5("a", "b", "c") == "900150983cd24fb0d6963f7d28e17f72")
assert(c.base64.encode("a?>") == "YT8+" and c.base64.decode("YT8+") == "a?>" and c.base64.decode("*") == nil)
assert(c.base64.url_encode("a?>b") == "YT8-Yg" and c.base64.url_decode("YT8-Yg") == "a?>b")
assert(c.hex.encode("\0\255") == "00ff" and c.hex.decode("00FF") == "\0\255" and c.hex.decode("0") == nil and c.hex.decode("+1") == nil)
assert(c.equal("a", "a") and not c.equal("a", "b") and not c.equal("a", "ab"))
assert(#c.random(16) == 16 and c.random(16) ~= c.random(16) and not pcall(c.random, 0))
assert(string.match(c.uuid(), "^%x+%-%x+%-4%x+%-[89ab]%x+%-%x+$"))
local key = c.hex.decode("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
local signature = c.hex.decode("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b")
assert(c.ed25519_verify(key, "", signature) and not c.ed25519_verify(key, "x", signature) and not c.ed25519_verify("k", "", "s"))
local secret = string.rep("s", 32)
local token = aether.jwt.sign({ sub = "u", exp = 4102444800, list = { "a" } }, { alg = "HS256", key = secret })
local claims = aether.jwt.verifier({ alg = { "HS256" }, key = secret }):verify(token)
assert(claims.sub == "u" and claims.exp == 4102444800 and claims.list[1] == "a")
local none, why = aether.jwt.verifier({ alg = "HS256", key = string.rep("t", 32) }):verify(token)
assert(none == nil and why == "the signature does not fit")
assert(aether.now_ms() > 1.7e12)
assert(aether.pattern("a.{}", "b"):matches("a.b") and tostring(aether.patterns({ "x.*", "y" })) == "x.* y")
"#,
    );
}

/// Keys and a token that openssl made for this test.
const RSA_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAueTRRTPxrhfH5PAsI/y7\npxkoS54i2zpeqIJwWjmdBbBplLvh3xKFCOySod22fz/n5hbX8Mkt2Sf1TCEauc1v\nGLKXMcpkfLrUfVfmVL4w7IuEfgY3w898dZEKU+YciacmNqmkvAIxzPP2qupcXwLj\nMjfG0QE4gMIyiBxx4NGPSCka0axGIxZEXpOtkrZWc1L96cwvKrdCjUA7fopQYdNW\n9O4tg5HKp6AMOBzB8oZbXBR/JsZ6sGPrF2+W6sK7+L8cgzQn5OyglNyHPliqVq+/\n95xyIkKqjLIIP8YpUj0zpslY9mkWQRTvdP8NOkwdRILb97RVd2m4ZF5B9S7U5OSX\nHQIDAQAB\n-----END PUBLIC KEY-----\n";
const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1MSIsImV4cCI6NDEwMjQ0NDgwMH0.iseh08iVKVs5JykTZnsoCfWA9lu3NrNkqOZHFNvcHSzgPdu6AmQmp0Po-BwIjbJTrMcXkgVxmvKtMpLFw5YbbjBILqjAYDGl4yCu-LQ0ClCEgxdhFbwsmi8Bk49nUSTcKh7dXtiA9rbacujsZoxUH1op-EedIqCfMKsp5Wez4QgkdsCmH83jzAerPWXy30M18SmVjfZmkK-cqbvDdKY3hJXuzcC172wR_wreqivAI82szAqCSyq_lBz2PuTwLd1NF_IhiPh7ITAIRW7mkfki5kN71V6IGcgkPHlPwylYKU-IsVA0mC8whi4RWjkv9HiniDqzShPyd3VwvI94eljBaA";
const ED_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIF95g8mXWLLek/H06Jqd1Xp9fMt1Kaaww62d2LBIcIli\n-----END PRIVATE KEY-----\n";
const ED_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAb50iKGPH2UZVBW4NFmA/tdpgiELg2Hpl3hIKMB9VUW0=\n-----END PUBLIC KEY-----\n";
const EC_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgC7yhddRY5GxW9R6O\nRxJhF3frX3NIUU1nggXdgriVpKKhRANCAAT4RpVxa3ChfwClGto+ht592pMsdPgL\nfQrWN/lJFb3muA48Gkp9uzPcabqPq/U8rxB8IMt+dDsBhfBVSR+Z5R/8\n-----END PRIVATE KEY-----\n";
const EC_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE+EaVcWtwoX8ApRraPobefdqTLHT4\nC30K1jf5SRW95rgOPBpKfbsz3Gm6j6v1PK8QfCDLfnQ7AYXwVUkfmeUf/A==\n-----END PUBLIC KEY-----\n";

#[test]
fn public_keys_verify_and_are_never_taken_for_shared_secrets() {
    let key = jsonwebtoken::EncodingKey::from_secret(RSA_PUBLIC.as_bytes());
    let confused =
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &json!({"exp": 4_102_444_800_u64}), &key).unwrap();
    script(&format!(
        r#"
local rsa, ed, ed_public, ec, ec_public = [[{RSA_PUBLIC}]], [[{ED_PRIVATE}]], [[{ED_PUBLIC}]], [[{EC_PRIVATE}]], [[{EC_PUBLIC}]]
local jwt = aether.jwt
local verifier = jwt.verifier({{ alg = {{ "RS256", "RS512" }}, key = rsa }})
assert(verifier:verify("{RSA_TOKEN}").sub == "u1")
local claims, why = verifier:verify("{confused}")
assert(claims == nil and why == "the algorithm is not accepted")
for _, way in {{ {{ "EdDSA", ed, ed_public }}, {{ "ES256", ec, ec_public }} }} do
	local token = jwt.sign({{ sub = "me", exp = 4102444800 }}, {{ alg = way[1], key = way[2] }})
	local verifier = jwt.verifier({{ alg = way[1], key = way[3] }})
	assert(verifier:verify(token).sub == "me")
	claims, why = verifier:verify(string.sub(token, 1, -9) .. "AAAAAAAA")
	assert(claims == nil and why == "the signature does not fit")
	claims, why = verifier:verify("{RSA_TOKEN}")
	assert(claims == nil and why == "the algorithm is not accepted")
end
"#
    ));
}
