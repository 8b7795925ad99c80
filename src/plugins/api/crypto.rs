//! `aether.crypto`: digests and signatures over strings, buffers and secrets.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use md5::Md5;
use mlua::Variadic;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::secret::Bytes;
use super::{Entry, function};
use crate::plugins::vm::value::raise;

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "crypto.sha256",
        args: "data",
        gives: "string",
        doc: "SHA-256 in lower-case hex.",
        kind: "(data: Data) -> string",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.crypto.sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")"#,
        make: |lua, seat| function(lua, seat, |_, _, data: Bytes| Ok(hex(&Sha256::digest(&data.0)))),
    },
    Entry {
        name: "crypto.hmac_sha256",
        args: "key, data",
        gives: "string",
        doc: "HMAC with SHA-256, in lower-case hex.",
        kind: "(key: Data, data: Data) -> string",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(#aether.crypto.hmac_sha256(aether.secret("signing_key"), "body") == 64)"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, (key, data): (Bytes, Bytes)| {
                let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).map_err(|error| raise(lua, error))?;
                mac.update(&data.0);
                Ok(hex(&mac.finalize().into_bytes()))
            })
        },
    },
    Entry {
        name: "crypto.md5",
        args: "data, ..",
        gives: "string",
        doc: "MD5 in lower-case hex of one thing after the other, for old protocols; not safe against anybody.",
        kind: "(...Data) -> string",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.crypto.md5("") == "d41d8cd98f00b204e9800998ecf8427e")"#,
        make: |lua, seat| {
            function(lua, seat, |_, _, parts: Variadic<Bytes>| {
                let mut digest = Md5::new();
                parts.iter().for_each(|part| digest.update(&part.0));
                Ok(hex(&digest.finalize()))
            })
        },
    },
    Entry {
        name: "crypto.random",
        args: "n",
        gives: "string",
        doc: "n random bytes, 1 to 65536, fit for keys.",
        kind: "(n: number) -> string",
        may_wait: false,
        since: "0.1.0",
        example: "assert(#aether.crypto.random(16) == 16)",
        make: |lua, seat| {
            function(lua, seat, |lua, _, n: usize| {
                if !(1..=65536).contains(&n) {
                    return Err(raise(lua, format!("crypto.random gives 1 to 65536 bytes, not {n}")));
                }
                let bytes = random(n).map_err(|error| raise(lua, error))?;
                lua.create_string(bytes)
            })
        },
    },
    Entry {
        name: "crypto.uuid",
        args: "",
        gives: "string",
        doc: "A random UUID (version 4).",
        kind: "() -> string",
        may_wait: false,
        since: "0.1.0",
        example: "assert(#aether.crypto.uuid() == 36)",
        make: |lua, seat| {
            function(lua, seat, |lua, _, ()| {
                let mut bytes = random(16).map_err(|error| raise(lua, error))?;
                bytes[6] = bytes[6] & 0x0f | 0x40;
                bytes[8] = bytes[8] & 0x3f | 0x80;
                let text = hex(&bytes);
                Ok([&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-"))
            })
        },
    },
    Entry {
        name: "crypto.base64.encode",
        args: "data",
        gives: "string",
        doc: "Base64 with padding.",
        kind: "(data: Data) -> string",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.crypto.base64.encode("hi?>") == "aGk/Pg==")"#,
        make: |lua, seat| function(lua, seat, |_, _, data: Bytes| Ok(STANDARD.encode(data.0))),
    },
    Entry {
        name: "crypto.base64.decode",
        args: "text",
        gives: "string?",
        doc: "The bytes, or nil if it is no base64.",
        kind: "(text: string) -> string?",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.crypto.base64.decode("aGk/Pg==") == "hi?>")"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, text: Bytes| {
                STANDARD.decode(text.0).ok().map(|b| lua.create_string(b)).transpose()
            })
        },
    },
    Entry {
        name: "crypto.base64.url_encode",
        args: "data",
        gives: "string",
        doc: "Base64 for URLs, without padding.",
        kind: "(data: Data) -> string",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.crypto.base64.url_encode("hi?>") == "aGk_Pg")"#,
        make: |lua, seat| function(lua, seat, |_, _, data: Bytes| Ok(URL_SAFE_NO_PAD.encode(data.0))),
    },
    Entry {
        name: "crypto.base64.url_decode",
        args: "text",
        gives: "string?",
        doc: "The bytes of base64 for URLs, or nil.",
        kind: "(text: string) -> string?",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.crypto.base64.url_decode("aGk_Pg") == "hi?>")"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, text: Bytes| {
                URL_SAFE_NO_PAD.decode(text.0).ok().map(|b| lua.create_string(b)).transpose()
            })
        },
    },
    Entry {
        name: "crypto.hex.encode",
        args: "data",
        gives: "string",
        doc: "Lower-case hex.",
        kind: "(data: Data) -> string",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.crypto.hex.encode("hi") == "6869")"#,
        make: |lua, seat| function(lua, seat, |_, _, data: Bytes| Ok(hex(&data.0))),
    },
    Entry {
        name: "crypto.hex.decode",
        args: "text",
        gives: "string?",
        doc: "The bytes, or nil if it is no hex.",
        kind: "(text: string) -> string?",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.crypto.hex.decode("6869") == "hi")"#,
        make: |lua, seat| {
            function(lua, seat, |lua, _, text: Bytes| unhex(&text.0).map(|b| lua.create_string(b)).transpose())
        },
    },
    Entry {
        name: "crypto.equal",
        args: "a, b",
        gives: "boolean",
        doc: "Whether two are the same, in a time that does not tell where they differ.",
        kind: "(a: Data, b: Data) -> boolean",
        may_wait: false,
        since: "0.1.0",
        example: r#"assert(aether.crypto.equal("same", "same"))"#,
        make: |lua, seat| function(lua, seat, |_, _, (a, b): (Bytes, Bytes)| Ok(bool::from(a.0.ct_eq(&b.0)))),
    },
    Entry {
        name: "crypto.ed25519_verify",
        args: "public_key, data, signature",
        gives: "boolean",
        doc: "Whether an Ed25519 signature (64 bytes) by a public key (32 bytes) fits.",
        kind: "(public_key: Data, data: Data, signature: Data) -> boolean",
        may_wait: false,
        since: "0.1.0",
        example: r#"local key, signature = string.rep("k", 32), string.rep("s", 64)
assert(not aether.crypto.ed25519_verify(key, "data", signature))"#,
        make: |lua, seat| {
            function(lua, seat, |_, _, (key, data, signature): (Bytes, Bytes, Bytes)| {
                let key = <&[u8; 32]>::try_from(&key.0[..])
                    .ok()
                    .and_then(|key| ed25519_dalek::VerifyingKey::from_bytes(key).ok());
                let signature = ed25519_dalek::Signature::from_slice(&signature.0).ok();
                Ok(key.zip(signature).is_some_and(|(key, signature)| key.verify_strict(&data.0, &signature).is_ok()))
            })
        },
    },
];

fn random(n: usize) -> Result<Vec<u8>, getrandom::Error> {
    let mut bytes = vec![0; n];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let pair = |pair: &[u8]| u8::try_from(digit(pair[0])? * 16 + digit(*pair.get(1)?)?).ok();
    text.chunks(2).map(pair).collect()
}
