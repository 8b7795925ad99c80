//! What a hub prints when it is ready: where it listens, and two ways to see it work.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// The first minute with Aether, ready to copy. The admin key stays in its file: this may end in a journal.
/// Both places are a scheme and an address; the console's is the hub's own if the operator has no listener apart.
pub fn banner(hub: (&str, SocketAddr), console: (&str, SocketAddr), keys: &Path, demo_token: &str) -> String {
    let keys = keys.display();
    let addr = hub.1;
    let url_of = |(scheme, addr): (&str, SocketAddr)| format!("{scheme}://{}", reachable(addr));
    let (url, console) = (url_of(hub), url_of(console));
    format!(
        "aether listens on {addr}\n\
         \n\
         Publish something:\n\
         \x20 curl -H \"Authorization: Bearer $(cat {keys}/admin_key)\" -d '{{\"channel\":\"demo.hello\",\"payload\":{{\"text\":\"hello\"}}}}' \\\n\
         \x20      {url}/api/v1/publish\n\
         \n\
         Watch it arrive:\n\
         \x20 {console}/#token={demo_token}\n"
    )
}

/// An address that listens everywhere is no address to go to.
pub fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_can_be_copied_line_by_line() {
        let hub = ("http", SocketAddr::from(([0, 0, 0, 0], 8080)));
        let text = banner(hub, hub, Path::new("data/keys"), "tok");
        assert!(text.starts_with("aether listens on 0.0.0.0:8080\n"));
        assert!(
            text.contains(
                "curl -H \"Authorization: Bearer $(cat data/keys/admin_key)\" -d '{\"channel\":\"demo.hello\","
            )
        );
        assert!(text.contains("http://127.0.0.1:8080/api/v1/publish\n"));
        assert!(text.contains("  http://127.0.0.1:8080/#token=tok\n"));
    }
}
