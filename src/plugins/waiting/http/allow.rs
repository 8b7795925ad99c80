//! Where a plugin may send requests: URL patterns, and which addresses are nobody's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

/// How far a request may reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// To public addresses.
    Public,
    /// To any, because somebody wrote down that very host.
    Private,
}

/// What a plugin may ask.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Allow {
    /// A script may ask everybody in public.
    pub everybody: bool,
    pub patterns: Vec<UrlPattern>,
    /// Private addresses that the operator lets everybody ask who may ask them otherwise.
    pub private: Vec<UrlPattern>,
    /// Where the list stands, for messages.
    pub at: String,
}

impl Allow {
    pub fn reach(&self, uri: &Uri) -> Result<Reach, String> {
        let url = Target::of(uri)?;
        let mut allowed = self.everybody.then_some(Reach::Public);
        for pattern in self.patterns.iter().filter(|pattern| pattern.matches(&url)) {
            if pattern.names_host() {
                return Ok(Reach::Private);
            }
            allowed = Some(Reach::Public);
        }
        let opened = |pattern: &UrlPattern| pattern.names_host() && pattern.matches(&url);
        if allowed.is_some() && self.private.iter().any(opened) {
            return Ok(Reach::Private);
        }
        let shown = format!("{}://{}/*", url.scheme, uri.authority().map_or("", |authority| authority.as_str()));
        allowed.ok_or_else(|| format!("{} is not in [permissions] http of {}; add {shown:?} there", uri, self.at))
    }

    /// As `reach`, of a text.
    pub fn check(&self, url: &str) -> Result<Uri, String> {
        let uri: Uri = url.parse().map_err(|_| format!("{url:?} is not a URL"))?;
        self.reach(&uri).map(|_| uri)
    }
}

/// `https://auth.internal/*`, `https://*.example.com/api/*`, `http://127.0.0.1:9000/check`, `https://*/*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UrlPattern {
    text: String,
    scheme: String,
    host: String,
    /// None: any.
    port: Option<u16>,
    path: String,
}

struct Target<'a> {
    scheme: &'a str,
    host: String,
    port: u16,
    path: &'a str,
}

impl<'a> Target<'a> {
    fn of(uri: &'a Uri) -> Result<Target<'a>, String> {
        let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme));
        let (Some(scheme), Some(authority)) = (scheme, uri.authority()) else {
            return Err(format!("{uri} is not a URL that begins with http:// or https://"));
        };
        if authority.as_str().contains('@') {
            return Err("a name or password in a URL is sent to nobody: use the header authorization".into());
        }
        let path = uri.path();
        // Servers go up a path before they look at it, and a pattern's end must mean what it says.
        let plain =
            path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
        if plain.split('/').any(|part| part == "." || part == "..") {
            return Err(format!("{path:?} goes up or stands still; write the path that is meant"));
        }
        let port = uri.port_u16().unwrap_or(default_port(scheme));
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        Ok(Target { scheme, host, port, path })
    }
}

fn default_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

impl UrlPattern {
    pub fn parse(text: &str) -> Result<UrlPattern, String> {
        let wrong = |why: &str| format!("{text:?} {why}: expected something like \"https://auth.internal/*\"");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
        if !["http", "https"].contains(&scheme) {
            return Err(wrong("begins with neither http:// nor https://"));
        }
        let (authority, path) = rest.split_once('/').ok_or_else(|| wrong("has no path"))?;
        let brackets = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[brackets..].split_once(':') {
            None => (authority, Some(default_port(scheme))),
            Some((rest, "*")) => (&authority[..brackets + rest.len()], None),
            Some((rest, port)) => {
                let port = port.parse().map_err(|_| wrong("has a strange port"))?;
                (&authority[..brackets + rest.len()], Some(port))
            }
        };
        let plain = host.strip_prefix("*.").unwrap_or(host);
        if host != "*" && (plain.is_empty() || plain.contains(['*', '@'])) {
            return Err(wrong("has a strange host (a * stands alone or before the first dot)"));
        }
        if path.strip_suffix('*').unwrap_or(path).contains('*') {
            return Err(wrong("has a * before the end of its path"));
        }
        let (text, path) = (text.to_owned(), format!("/{path}"));
        Ok(UrlPattern { text, scheme: scheme.to_owned(), host: host.to_ascii_lowercase(), port, path })
    }

    pub fn covers(&self, uri: &Uri) -> bool {
        Target::of(uri).is_ok_and(|url| self.matches(&url))
    }

    fn matches(&self, url: &Target<'_>) -> bool {
        let host = match self.host.strip_prefix("*.") {
            _ if self.host == "*" => true,
            Some(domain) => url.host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            None => self.host == url.host,
        };
        let path = match self.path.strip_suffix('*') {
            Some(begin) => url.path.starts_with(begin),
            None => self.path == url.path,
        };
        host && path && self.scheme == url.scheme && self.port.is_none_or(|port| port == url.port)
    }

    /// Whether it means one host and no other.
    fn names_host(&self) -> bool {
        !self.host.starts_with('*')
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Whether an address is one of the internet at large, and not of this machine, this network or some special purpose.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special =
        ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_documentation();
    let carrier = a == 100 && (64..128).contains(&b);
    let protocols = a == 192 && b == 0 && c == 0;
    let benchmarks = a == 198 && (b == 18 || b == 19);
    !(special || carrier || protocols || benchmarks || a == 0 || a >= 240)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    // Addresses that carry one of version 4 are as public as that.
    if let Some(inner) = ip.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    let parts = ip.segments();
    if parts[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        let [.., a, b] = parts;
        return is_public_v4(Ipv4Addr::from((u32::from(a) << 16) | u32::from(b)));
    }
    let unicast = parts[0] & 0xe000 == 0x2000; // 2000::/3 is all that is handed out
    let tunnels = parts[0] == 0x2002 || (parts[0] == 0x2001 && parts[1] < 0x200);
    let documentation = (parts[0] == 0x2001 && parts[1] == 0xdb8) || parts[0] == 0x3fff;
    unicast && !tunnels && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(patterns: &[&str]) -> Allow {
        let patterns = patterns.iter().map(|text| UrlPattern::parse(text).unwrap()).collect();
        Allow { patterns, at: "p/plugin.toml".into(), ..Allow::default() }
    }

    fn reach(patterns: &[&str], url: &str) -> Option<Reach> {
        allow(patterns).reach(&url.parse().unwrap()).ok()
    }

    #[test]
    fn a_pattern_means_its_scheme_host_port_and_path() {
        let own = ["https://auth.internal/v1/*", "https://*.example.com/*", "http://127.0.0.1:9000/check"];
        assert_eq!(reach(&own, "https://auth.internal/v1/users?x=1"), Some(Reach::Private));
        assert_eq!(reach(&own, "https://AUTH.internal:443/v1/"), Some(Reach::Private));
        assert_eq!(reach(&own, "https://a.b.example.com/x"), Some(Reach::Public));
        assert_eq!(reach(&own, "http://127.0.0.1:9000/check?u=1"), Some(Reach::Private));
        for refused in [
            "http://auth.internal/v1/users",
            "https://auth.internal:8443/v1/users",
            "https://auth.internal/v2/users",
            "https://auth.internal/v1/../admin",
            "https://auth.internal/v1/%2e%2e/admin",
            "https://auth.internal/v1/..%2fadmin",
            "https://auth.internal.evil.com/v1/x",
            "https://example.com/x",
            "https://evilexample.com/x",
            "https://user@auth.internal/v1/x",
            "http://127.0.0.1:9000/check/more",
            "http://127.0.0.1/check",
            "ftp://auth.internal/v1/x",
            "/v1/x",
        ] {
            assert_eq!(reach(&own, refused), None, "{refused}");
        }
        let why = allow(&own).reach(&"https://other.internal/x".parse().unwrap()).unwrap_err();
        assert!(why.contains("p/plugin.toml; add \"https://other.internal/*\" there"), "{why}");
    }

    #[test]
    fn a_pattern_that_makes_no_sense_is_refused() {
        for text in [
            "auth.internal/*",
            "https://auth.internal",
            "ws://a/*",
            "https://a*b/*",
            "https://a/*/b",
            "https:///x",
            "https://a:b/x",
        ] {
            assert!(UrlPattern::parse(text).is_err(), "{text}");
        }
        for text in ["https://[::1]:8443/*", "http://*/*", "http://localhost:*/*"] {
            assert!(UrlPattern::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn addresses_of_the_house_are_not_public_however_they_are_written() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.8",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "::7f00:1",
            "fec0::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}
