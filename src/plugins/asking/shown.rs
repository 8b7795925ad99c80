//! What somebody has shown to be let in, so that it can be kept out of whatever is written down.

use std::borrow::Cow;

use crate::kernel::hooks::ConnectRequest;

#[derive(Clone, Copy)]
pub enum Shown<'a> {
    Nothing,
    /// A new credential on an open connection.
    Token(&'a str),
    Request(&'a ConnectRequest),
}

/// A cookie shorter than this is a setting and no credential; hiding it would only blot out words.
const SHORTEST: usize = 8;

impl<'a> Shown<'a> {
    pub fn is_credential(self) -> bool {
        match self {
            Shown::Nothing => false,
            Shown::Token(_) => true,
            Shown::Request(request) => request.bearer.is_some(),
        }
    }

    /// The text, without any credential that it repeats.
    pub fn hide(self, text: &str) -> Cow<'_, str> {
        let mut text = Cow::Borrowed(text);
        let mut secrets = self.secrets();
        // One may be a part of another.
        secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in secrets {
            if !secret.is_empty() && text.contains(secret) {
                text = text.replace(secret, "<secret>").into();
            }
        }
        text
    }

    /// A rule may read all of them, also those that others came before.
    fn secrets(self) -> Vec<&'a str> {
        let request = match self {
            Shown::Nothing => return Vec::new(),
            Shown::Token(token) => return vec![token],
            Shown::Request(request) => request,
        };
        let header =
            |name: &'static str| request.headers.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str());
        let mut secrets: Vec<&str> = request.bearer.as_deref().into_iter().collect();
        secrets.extend(header("authorization").map(|all| all.split_once(' ').map_or(all, |(_, rest)| rest.trim())));
        let offers = header("sec-websocket-protocol").flat_map(|all| all.split(','));
        secrets.extend(offers.filter_map(|offer| offer.trim().strip_prefix("bearer.")));
        secrets.extend(request.query.iter().filter(|(name, _)| name == "token").map(|(_, value)| value.as_str()));
        let cookies = header("cookie").flat_map(|all| all.split(';'));
        let values = cookies.map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value).trim().trim_matches('"'));
        secrets.extend(values.filter(|value| value.len() >= SHORTEST));
        secrets
    }
}
