//! Who is behind a proxy: `X-Forwarded-For` and `Forwarded` (RFC 7239), believed only from proxies that the operator trusts.
//!
//! Anybody can send these headers. Each proxy appends the address that it saw, so they are read from the right, as far as
//! the trusted proxies go; the first address that is not one of them is the client, and what stands left of it is hearsay.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hyper::HeaderMap;

/// Whether an address is a proxy that the operator trusts.
pub type Trusted = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// What only a proxy's request has. Where one is, the client is somewhere else, whoever the peer is.
const SIGNS: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    pub ip: IpAddr,
    /// It did not come from there by itself.
    pub proxied: bool,
}

/// The two headers name different clients: one of them was made up by the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contradiction;

pub fn origin(peer: IpAddr, headers: &HeaderMap, trusted: &Trusted) -> Result<Origin, Contradiction> {
    if !trusted(peer.to_canonical()) {
        return Ok(Origin { ip: peer, proxied: SIGNS.iter().any(|name| headers.contains_key(*name)) });
    }
    let of = |name: &str, read: fn(&str) -> Option<IpAddr>| {
        headers.contains_key(name).then(|| client(peer, &entries(headers, name), read, trusted))
    };
    let ip = match (of("x-forwarded-for", address), of("forwarded", forwarded_for)) {
        // A proxy that writes one of them passes the other one on as its client sent it.
        (Some(one), Some(other)) if one != other => return Err(Contradiction),
        (Some(ip), _) | (None, Some(ip)) => ip,
        (None, None) => peer,
    };
    Ok(Origin { ip, proxied: true })
}

/// The entries of a list, which may stand in several lines.
fn entries(headers: &HeaderMap, name: &str) -> Vec<String> {
    let lines = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    lines.flat_map(|line| line.split(',').map(|entry| entry.trim().to_owned()).collect::<Vec<_>>()).collect()
}

fn client(peer: IpAddr, entries: &[String], read: fn(&str) -> Option<IpAddr>, trusted: &Trusted) -> IpAddr {
    let mut nearest = peer;
    for entry in entries.iter().rev() {
        // `unknown`, an obfuscated name or nonsense: nobody knows more than the proxy that wrote it.
        let Some(ip) = read(entry) else { break };
        nearest = ip;
        if !trusted(ip) {
            break;
        }
    }
    nearest
}

/// `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    Some(bare.parse().or_else(|_| with_port()).ok()?.to_canonical())
}

/// `for="[2001:db8::1]:80";proto=https`
fn forwarded_for(entry: &str) -> Option<IpAddr> {
    let pairs = entry.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    address(value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(peer: &str, lines: &[(&'static str, &str)]) -> Result<(String, bool), Contradiction> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let trusted: Trusted = Arc::new(|ip| ip.to_string().starts_with("10.") || ip.to_string() == "fd00::1");
        origin(peer.parse().unwrap(), &headers, &trusted).map(|origin| (origin.ip.to_string(), origin.proxied))
    }

    fn told(ip: &str, proxied: bool) -> Result<(String, bool), Contradiction> {
        Ok((ip.to_owned(), proxied))
    }

    #[test]
    fn a_stranger_is_not_believed_and_is_not_taken_for_local_either() {
        assert_eq!(ask("1.2.3.4", &[]), told("1.2.3.4", false));
        assert_eq!(ask("127.0.0.1", &[("x-forwarded-for", "9.9.9.9")]), told("127.0.0.1", true));
        assert_eq!(ask("127.0.0.1", &[("forwarded", "for=9.9.9.9")]), told("127.0.0.1", true));
    }

    #[test]
    fn the_rightmost_address_that_is_no_trusted_proxy_is_the_client() {
        for (line, expected) in [
            ("9.9.9.9", "9.9.9.9"),
            ("127.0.0.1, 9.9.9.9", "9.9.9.9"),
            ("8.8.8.8, 9.9.9.9, 10.0.0.7", "9.9.9.9"),
            ("9.9.9.9:4711,10.0.0.7", "9.9.9.9"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:9.9.9.9", "9.9.9.9"),
            ("10.0.0.9, 10.0.0.7", "10.0.0.9"),
            ("9.9.9.9, unknown, 10.0.0.7", "10.0.0.7"),
            ("9.9.9.9, ", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(ask("10.0.0.1", &[("x-forwarded-for", line)]), told(expected, true), "{line}");
        }
        let lines = [("x-forwarded-for", "8.8.8.8"), ("x-forwarded-for", "9.9.9.9")];
        assert_eq!(ask("10.0.0.1", &lines), told("9.9.9.9", true), "lines are one list");
        assert_eq!(ask("::ffff:10.0.0.1", &[("x-forwarded-for", "9.9.9.9")]), told("9.9.9.9", true));
        let line = "for=8.8.8.8, For=\"[2001:db8::1]:80\";proto=https, for=10.0.0.2;by=10.0.0.1";
        assert_eq!(ask("10.0.0.1", &[("forwarded", line)]), told("2001:db8::1", true));
    }

    #[test]
    fn a_proxy_without_a_word_is_a_proxy_and_two_stories_are_refused() {
        assert_eq!(ask("10.0.0.1", &[]), told("10.0.0.1", true));
        let same = [("x-forwarded-for", "9.9.9.9"), ("forwarded", "for=9.9.9.9")];
        assert_eq!(ask("10.0.0.1", &same), told("9.9.9.9", true));
        let differ = [("x-forwarded-for", "9.9.9.9"), ("forwarded", "for=1.1.1.1")];
        assert_eq!(ask("10.0.0.1", &differ), Err(Contradiction));
    }
}
