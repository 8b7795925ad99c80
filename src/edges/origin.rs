//! Which web pages may connect: a browser tells where a page came from, and a page from elsewhere is refused unless listed.

/// The operator's list. Empty: only pages that the hub's own host serves, and clients that are no browsers.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<String>);

/// As an entry: pages of the same host on whatever port, as of an application that has the hub beside it.
const SAME_HOST: &str = "same-host";

impl Origins {
    /// Entries are origins (`https://app.example`), globs with `*` for a part (`https://*.example`), `same-host`, or `*` for all.
    pub fn new(allowed: Vec<String>) -> Self {
        Origins(allowed)
    }

    /// `host` is the request's own `Host`.
    pub fn allows(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        self.trusts(origin, host) || origin.is_some_and(|origin| self.lists(origin) || self.is_beside(origin, host))
    }

    fn is_beside(&self, origin: &str, host: Option<&str>) -> bool {
        let theirs = origin.split_once("://").map(|(_, of)| without_port(of));
        self.0.iter().any(|entry| entry == SAME_HOST)
            && theirs.zip(host).is_some_and(|(theirs, host)| theirs.eq_ignore_ascii_case(without_port(host)))
    }

    /// Whether cookies that come with it are meant: `*` and `same-host` let pages in, and vouch for none.
    pub fn trusts(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let same =
            origin.split_once("://").is_some_and(|(_, of)| host.is_some_and(|host| of.eq_ignore_ascii_case(host)));
        let lower = origin.to_ascii_lowercase();
        same || self.0.iter().any(|pattern| pattern != "*" && glob(pattern, &lower))
    }

    /// Whether it is on the list, and not only of the same host.
    pub fn lists(&self, origin: &str) -> bool {
        self.0.iter().any(|pattern| glob(pattern, &origin.to_ascii_lowercase()))
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// A `*` stands for any run of characters but `/`; alone it is everything.
fn glob(pattern: &str, text: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let pattern = pattern.to_ascii_lowercase();
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    let mut rest = rest;
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        if rest[..at].contains('/') {
            return false;
        }
        rest = &rest[at + part.len()..];
    }
    rest.strip_suffix(last).is_some_and(|between| !between.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_only_the_same_host_and_clients_without_an_origin() {
        let none = Origins::default();
        assert!(none.allows(None, Some("hub:8080")));
        assert!(none.allows(Some("http://hub:8080"), Some("hub:8080")));
        assert!(!none.allows(Some("http://hub:8081"), Some("hub:8080")));
        assert!(!none.allows(Some("https://evil.example"), Some("hub:8080")));
        assert!(!none.allows(Some("null"), Some("hub:8080")));
        assert!(!none.allows(Some("https://evil.example"), None));
    }

    #[test]
    fn listed_origins_and_globs_are_let_in_and_nothing_beside_them() {
        let some = Origins::new(vec!["https://app.example".into(), "https://*.good.example:*".into()]);
        for good in ["https://app.example", "https://APP.example", "https://a.good.example:1"] {
            assert!(some.allows(Some(good), None), "{good}");
        }
        for bad in [
            "http://app.example",
            "https://app.example.evil",
            "https://evil/x.good.example:1",
            "https://good.example:1",
        ] {
            assert!(!some.allows(Some(bad), None), "{bad}");
        }
        assert!(some.trusts(Some("https://app.example"), None) && !some.trusts(Some("https://evil.example"), None));
        let beside = Origins::new(vec!["same-host".into()]);
        for (origin, host, is_let_in) in [
            ("https://hub.example", "hub.example:22280", true),
            ("http://HUB.example:8000", "hub.example", true),
            ("http://[::1]", "[::1]:22280", true),
            ("https://evil.example", "hub.example:22280", false),
            ("https://hub.example.evil", "hub.example:22280", false),
            ("https://hub.example:1@evil", "hub.example:22280", false),
            ("http://[::2]", "[::1]:22280", false),
            ("null", "hub.example", false),
        ] {
            assert_eq!(beside.allows(Some(origin), Some(host)), is_let_in, "{origin}");
            assert!(!beside.trusts(Some(origin), Some(host)), "{origin}");
        }
        assert!(!beside.allows(Some("https://hub.example"), None));
        let all = Origins::new(vec!["*".into()]);
        assert!(all.allows(Some("https://evil.example"), None) && !all.trusts(Some("https://evil.example"), None));
        assert!(all.trusts(None, None) && all.trusts(Some("http://hub"), Some("hub")));
    }
}
