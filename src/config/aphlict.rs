//! What Aphlict and gorge-notification were told, for the plugin `aphlict`: a file in JSON, and four variables.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value as Json;

use super::{Config, NoneOr};

/// Those of gorge-notification; the last one names the file.
const VARIABLES: [&str; 4] = ["CLIENT_PORT", "ADMIN_PORT", "LISTEN_ADDR", "APHLICT_CONFIG"];

/// Where something is wrong, and what.
type Wrong = (String, String);

pub fn knows(variable: &str) -> bool {
    VARIABLES.contains(&variable)
}

/// The variables that are set.
#[derive(Default)]
pub struct Aphlict(BTreeMap<String, String>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    servers: Vec<Server>,
    #[serde(default)]
    cluster: Vec<Peer>,
    #[serde(default, rename = "logs")]
    _logs: Vec<LogFile>,
    #[serde(rename = "pidfile")]
    _pidfile: String,
    #[serde(default, rename = "memory.hint")]
    _memory_hint: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    #[serde(rename = "type")]
    kind: Kind,
    port: u16,
    listen: Option<String>,
    #[serde(rename = "ssl.key")]
    key: Option<PathBuf>,
    #[serde(rename = "ssl.cert")]
    cert: Option<PathBuf>,
    #[serde(rename = "ssl.chain")]
    chain: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Client,
    Admin,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    host: String,
    port: u16,
    protocol: Protocol,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    Http,
    Https,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogFile {
    #[serde(rename = "path")]
    _path: String,
}

/// What the plugin is given of it.
#[derive(Default)]
struct Said {
    client: Vec<String>,
    admin: Vec<String>,
    peers: Vec<String>,
    /// The files of the certificate and of its key.
    tls: Option<(PathBuf, PathBuf)>,
}

impl Aphlict {
    pub fn variable(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// Gives the plugin what is its own, where the settings do not say it themselves.
    pub fn settle(self, config: &mut Config) -> Result<(), Wrong> {
        let Some(plugin) = config.plugin.iter_mut().find(|plugin| plugin.name == "aphlict") else { return Ok(()) };
        let named = plugin.config.get("config_file").and_then(Json::as_str).map(|path| {
            let at = plugin.places.get("config_file").cloned().unwrap_or_default();
            (path.to_owned(), at)
        });
        let of_gorge = named.is_none() && !self.0.is_empty();
        let variable = || Some((self.0.get("APHLICT_CONFIG")?.clone(), "APHLICT_CONFIG".to_owned()));
        let (said, at) = match named.or_else(variable) {
            Some((path, at)) => (read(&path, at)?, path),
            None if of_gorge => (self.ports()?, "the environment".to_owned()),
            None => (Said::default(), String::new()),
        };
        for (name, list) in [("client", said.client), ("admin", said.admin), ("peers", said.peers)] {
            if !list.is_empty() && !plugin.config.contains_key(name) {
                plugin.places.insert(name.to_owned(), at.clone());
                plugin.config.insert(name.to_owned(), list.into());
            }
        }
        if of_gorge {
            plugin.config.entry("gorge").or_insert(true.into());
        }
        // Nodes of a cluster are neighbours, and whoever lists them means them.
        let peers = plugin.config.get("peers").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
        config.plugins.private_http.extend(peers.map(|peer| format!("{}/*", peer.trim_end_matches('/'))));
        if let (Some((cert, key)), NoneOr(None), NoneOr(None)) =
            (said.tls, &config.server.tls_cert, &config.server.tls_key)
        {
            (config.server.tls_cert, config.server.tls_key) = (NoneOr(Some(cert)), NoneOr(Some(key)));
        }
        Ok(())
    }

    fn ports(&self) -> Result<Said, Wrong> {
        // There both listened everywhere; the admin server lets everybody publish, so here somebody must say so.
        let listen = self.0.get("LISTEN_ADDR").map_or("127.0.0.1", String::as_str);
        let address = |name: &str, default: u16| -> Result<Vec<String>, Wrong> {
            let port = self.0.get(name).map_or(Ok(default), |text| text.parse());
            let port = port.map_err(|_| (name.to_owned(), format!("expected a port, got {:?}", self.0[name])))?;
            let address = resolve(listen, port).map_err(|why| ("LISTEN_ADDR".to_owned(), why))?;
            Ok(vec![address.to_string()])
        };
        let (client, admin) = (address("CLIENT_PORT", 22280)?, address("ADMIN_PORT", 22281)?);
        if client == admin {
            return Err(("ADMIN_PORT".into(), format!("{} is the client's port too; each needs its own", admin[0])));
        }
        Ok(Said { client, admin, ..Said::default() })
    }
}

/// Reads the file; `at` is where it is named.
fn read(path: &str, at: String) -> Result<Said, Wrong> {
    let text = fs::read_to_string(path).map_err(|error| (at, format!("{path} cannot be read: {error}")))?;
    let file: File = serde_json::from_str(&text).map_err(|error| {
        let what = error.to_string();
        let what = what.rsplit_once(" at line ").map_or(&*what, |(what, _)| what);
        (format!("{path}:{}:{}", error.line(), error.column()), what.to_owned())
    })?;
    file.said().map_err(|what| (path.to_owned(), what))
}

impl File {
    fn said(&self) -> Result<Said, String> {
        let mut said = Said::default();
        for (index, server) in self.servers.iter().enumerate() {
            if let Some(other) = self.servers[..index].iter().position(|other| other.port == server.port) {
                let port = server.port;
                return Err(format!("servers[{other}] and servers[{index}] both have port {port}; each needs its own"));
            }
            let wrong = |what: &str| format!("servers[{index}] (port {}): {what}", server.port);
            let address = server.address().map_err(|why| wrong(&why))?;
            match (&server.cert, &server.key) {
                (None, None) if server.chain.is_some() => {
                    return Err(wrong("ssl.chain needs ssl.key and ssl.cert"));
                }
                (None, None) => {}
                (Some(_), Some(_)) if server.chain.is_some() => {
                    return Err(wrong("ssl.chain: append that file to ssl.cert and leave it out here"));
                }
                (Some(_), Some(_)) if address.ip().is_loopback() => {
                    return Err(wrong(
                        "on loopback the hub speaks no TLS: leave ssl.key and ssl.cert out, or listen elsewhere",
                    ));
                }
                (Some(cert), Some(key)) => {
                    let own = (cert.clone(), key.clone());
                    if said.tls.as_ref().is_some_and(|known| *known != own) {
                        return Err(wrong(
                            "the hub has one certificate: name the same ssl.key and ssl.cert everywhere",
                        ));
                    }
                    said.tls = Some(own);
                }
                _ => return Err(wrong("has only one of ssl.key and ssl.cert; name both, or neither")),
            }
            match server.kind {
                Kind::Client => said.client.push(address.to_string()),
                Kind::Admin => said.admin.push(address.to_string()),
            }
        }
        let bare = |server: &&Server| server.cert.is_none() && server.address().is_ok_and(|at| !at.ip().is_loopback());
        if let Some(server) = self.servers.iter().find(bare).filter(|_| said.tls.is_some()) {
            let port = server.port;
            return Err(format!(
                "the server on port {port} is reached from elsewhere, where the hub speaks TLS everywhere or nowhere: give it ssl.key and ssl.cert, or let it listen on 127.0.0.1"
            ));
        }
        for (none, kind, lacks) in [
            (said.client.is_empty(), "client", "no browser could connect"),
            (said.admin.is_empty(), "admin", "nobody could publish"),
        ] {
            if none {
                return Err(format!("servers has none of type \"{kind}\", so {lacks}"));
            }
        }
        for (index, peer) in self.cluster.iter().enumerate() {
            let same = |other: &Peer| (&other.host, other.port) == (&peer.host, peer.port);
            if let Some(other) = self.cluster[..index].iter().position(same) {
                let Peer { host, port, .. } = peer;
                return Err(format!(
                    "cluster[{other}] and cluster[{index}] are both {host}:{port}; name each peer once"
                ));
            }
            said.peers.push(peer.url());
        }
        Ok(said)
    }
}

impl Server {
    fn address(&self) -> Result<SocketAddr, String> {
        // There it was everywhere for both.
        let unsaid = if self.kind == Kind::Client { "0.0.0.0" } else { "127.0.0.1" };
        resolve(self.listen.as_deref().unwrap_or(unsaid), self.port)
    }
}

impl Peer {
    fn url(&self) -> String {
        let scheme = match self.protocol {
            Protocol::Http => "http",
            Protocol::Https => "https",
        };
        match self.host.parse() {
            Ok(IpAddr::V6(ip)) => format!("{scheme}://[{ip}]:{}", self.port),
            _ => format!("{scheme}://{}:{}", self.host, self.port),
        }
    }
}

fn resolve(listen: &str, port: u16) -> Result<SocketAddr, String> {
    let host = listen.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok((ip, port).into());
    }
    let found = (host, port).to_socket_addrs().ok().and_then(|mut all| all.next());
    found.ok_or_else(|| format!("listen: {listen:?} is no address of this machine"))
}

#[cfg(test)]
mod tests {
    use super::super::Sources;
    use super::*;

    const USE: &str = "[[plugin]]\nuse = \"aphlict\"\n[plugin.config]\n";

    fn with(file: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let file = Some(("aether.toml".to_owned(), format!("{USE}{file}")));
        Sources { file, env, ..Sources::default() }.read().map_err(|error| error.to_string())
    }

    /// With an `aphlict.json` of this text; in errors it is called by its name.
    fn with_json(name: &str, text: &str, more: &str) -> Result<Config, String> {
        let path = std::env::temp_dir().join(format!("aether-{}-{name}.json", std::process::id()));
        fs::write(&path, text).unwrap();
        let read = with(&format!("config_file = \"{}\"\n{more}", path.display()), &[("CLIENT_PORT", "1")]);
        fs::remove_file(&path).unwrap();
        read.map_err(|error| error.replace(&path.display().to_string(), "aphlict.json"))
    }

    fn setting<'a>(config: &'a Config, name: &str) -> &'a Json {
        config.plugin[0].config.get(name).unwrap_or(&Json::Null)
    }

    #[test]
    fn the_file_that_is_shipped_with_aphlict_does_here_what_it_did_there() {
        let shipped = r#"{
          "servers": [
            {"type": "client", "port": 22280, "listen": "0.0.0.0", "ssl.key": null, "ssl.cert": null, "ssl.chain": null},
            {"type": "admin", "port": 22281, "listen": "127.0.0.1", "ssl.key": null, "ssl.cert": null, "ssl.chain": null}
          ],
          "logs": [{"path": "/var/log/aphlict.log"}],
          "pidfile": "/var/tmp/aphlict/pid/aphlict.pid"
        }"#;
        let config = with_json("shipped", shipped, "").unwrap();
        assert_eq!(setting(&config, "client"), &serde_json::json!(["0.0.0.0:22280"]));
        assert_eq!(setting(&config, "admin"), &serde_json::json!(["127.0.0.1:22281"]));
        assert_eq!((setting(&config, "peers"), setting(&config, "gorge")), (&Json::Null, &Json::Null));
        assert!(config.server.tls_cert.0.is_none() && config.plugins.private_http.is_empty());
    }

    #[test]
    fn a_cluster_may_be_private_and_what_the_settings_say_comes_first() {
        let text = r#"{"pidfile": "x", "memory.hint": 256, "servers": [
            {"type": "client", "port": 1, "ssl.key": "k", "ssl.cert": "c"}, {"type": "client", "port": 2, "listen": "localhost"},
            {"type": "admin", "port": 3}],
          "cluster": [{"host": "10.0.0.2", "port": 22281, "protocol": "http"}, {"host": "::1", "port": 3, "protocol": "https"}]}"#;
        let config = with_json("cluster", text, "admin = [\"127.0.0.1:9\"]\n").unwrap();
        assert_eq!(setting(&config, "client"), &serde_json::json!(["0.0.0.0:1", "127.0.0.1:2"]));
        assert_eq!(setting(&config, "admin"), &serde_json::json!(["127.0.0.1:9"]));
        assert_eq!(setting(&config, "peers"), &serde_json::json!(["http://10.0.0.2:22281", "https://[::1]:3"]));
        assert_eq!(config.plugins.private_http, ["http://10.0.0.2:22281/*", "https://[::1]:3/*"]);
        assert_eq!(config.server.tls_cert.0.as_deref(), Some(std::path::Path::new("c")));
        assert_eq!(config.server.tls_key.0.as_deref(), Some(std::path::Path::new("k")));
    }

    #[test]
    fn what_aphlict_refused_is_refused_with_its_place() {
        let servers = |more: &str| format!(r#"{{"pidfile": "p", "servers": [{{"type":"client","port":1}}{more}"#);
        let whole = |more: &str| servers(&format!(r#",{{"type":"admin","port":2}}]{more}}}"#));
        for (text, told) in [
            ("{".to_owned(), "aphlict.json:1:1: EOF while parsing"),
            (r#"{"servers": []}"#.into(), "aphlict.json:1:15: missing field `pidfile`"),
            (r#"{"pidfile": "p", "servers": []}"#.into(), "aphlict.json: servers has none of type \"client\""),
            (servers("]}"), "servers has none of type \"admin\", so nobody could publish"),
            (
                servers(r#",{"type":"admin","port":1}]}"#),
                "servers[0] and servers[1] both have port 1; each needs its own",
            ),
            (servers(r#",{"type":"both","port":2}]}"#), "unknown variant `both`, expected `client` or `admin`"),
            (servers(r#",{"type":"admin","port":70000}]}"#), "invalid value: integer `70000`"),
            (servers(r#",{"type":"admin","port":2,"lissten":"x"}]}"#), "unknown field `lissten`"),
            (
                servers(r#",{"type":"admin","port":2,"ssl.key":"k"}]}"#),
                "servers[1] (port 2): has only one of ssl.key and ssl.cert",
            ),
            (servers(r#",{"type":"admin","port":2,"ssl.chain":"k"}]}"#), "ssl.chain needs ssl.key and ssl.cert"),
            (
                servers(r#",{"type":"admin","port":2,"listen":"0.0.0.0","ssl.key":"k","ssl.cert":"c"}]}"#),
                "the server on port 1 is reached from elsewhere",
            ),
            (
                servers(r#",{"type":"admin","port":2,"ssl.key":"k","ssl.cert":"c"}]}"#),
                "on loopback the hub speaks no TLS",
            ),
            (servers(r#",{"type":"admin","port":2,"listen":"no such host"}]}"#), "\"no such host\" is no address"),
            (
                whole(r#","cluster":[{"host":"a","port":1,"protocol":"ftp"}]"#),
                "unknown variant `ftp`, expected `http` or `https`",
            ),
            (
                whole(
                    r#","cluster":[{"host":"a","port":1,"protocol":"http"},{"host":"a","port":1,"protocol":"https"}]"#,
                ),
                "cluster[0] and cluster[1] are both a:1; name each peer once",
            ),
            (whole(r#","logs":[{"file":"x"}]"#), "unknown field `file`"),
        ] {
            let error = with_json("refused", &text, "").unwrap_err();
            assert!(error.starts_with("aphlict.json") && error.contains(told), "{text}: {error}");
        }
        let error = with("config_file = \"/nowhere/aphlict.json\"\n", &[]).unwrap_err();
        assert!(error.starts_with("aether.toml:4:1: /nowhere/aphlict.json cannot be read"), "{error}");
    }

    #[test]
    fn the_variables_of_gorge_count_where_the_plugin_is_in_use() {
        let config = with("", &[("CLIENT_PORT", "1"), ("LISTEN_ADDR", "0.0.0.0")]).unwrap();
        assert_eq!(setting(&config, "client"), &serde_json::json!(["0.0.0.0:1"]));
        assert_eq!(setting(&config, "admin"), &serde_json::json!(["0.0.0.0:22281"]));
        assert_eq!(setting(&config, "gorge"), &Json::Bool(true));
        let config = with("gorge = false\n", &[("ADMIN_PORT", "2")]).unwrap();
        assert_eq!(setting(&config, "client"), &serde_json::json!(["127.0.0.1:22280"]));
        assert_eq!(setting(&config, "admin"), &serde_json::json!(["127.0.0.1:2"]));
        assert_eq!(setting(&config, "gorge"), &Json::Bool(false));
        assert_eq!(setting(&with("", &[("CLIENT_PORT", "")]).unwrap(), "gorge"), &Json::Null, "empty is unset");
        for (env, told) in [
            (("CLIENT_PORT", "x"), "CLIENT_PORT: expected a port, got \"x\""),
            (("LISTEN_ADDR", "no such host"), "LISTEN_ADDR: listen: \"no such host\" is no address of this machine"),
            (("ADMIN_PORT", "22280"), "ADMIN_PORT: 127.0.0.1:22280 is the client's port too; each needs its own"),
            (("APHLICT_CONFIG", "/nowhere"), "APHLICT_CONFIG: /nowhere cannot be read: "),
        ] {
            assert!(with("", &[env]).unwrap_err().starts_with(told), "{env:?}");
        }
        let file = Some(("aether.toml".to_owned(), "[[plugin]]\nuse = \"limits\"\n".to_owned()));
        let env = vec![("CLIENT_PORT".to_owned(), "nonsense".to_owned())];
        let config = Sources { file, env, ..Sources::default() }.read().unwrap();
        assert!(config.plugin[0].config.is_empty());
    }
}
