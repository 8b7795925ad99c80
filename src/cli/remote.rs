//! A hub as its clients on the command line see it: where it is, what to show it, how to reach it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use http::Uri;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Settings;
use super::trust::Trust;
use crate::banner::reachable;
use crate::config::Config;
use crate::keys::Keys;

/// How long reaching a hub may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Flags that say which hub is meant.
#[derive(Args)]
pub struct Remote {
    /// The hub, as http://HOST:PORT or https://HOST [default: the one that the settings on this machine describe]
    #[arg(long, value_name = "URL", value_parser = Place::parse)]
    url: Option<Place>,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    settings: Settings,
}

impl Remote {
    pub fn place(&self) -> anyhow::Result<Place> {
        let Some(place) = &self.url else {
            let server = self.config()?.server;
            return self.own(reachable(server.addr), server.tls_cert.0);
        };
        let tls = place.secure.then(|| self.trust.config()).transpose()?;
        Ok(Place { tls, ..place.clone() })
    }

    /// Where the operator is answered, which may be a listener of its own.
    pub fn operators_place(&self) -> anyhow::Result<Place> {
        if self.url.is_none() {
            let server = self.config()?.server;
            if let Some(address) = server.admin_addr.0 {
                // On loopback that listener speaks no TLS.
                return self.own(reachable(address), server.tls_cert.0.filter(|_| !address.ip().is_loopback()));
            }
        }
        self.place()
    }

    fn own(&self, address: SocketAddr, certificate: Option<PathBuf>) -> anyhow::Result<Place> {
        let tls = certificate.map(|certificate| self.trust.config_for_own(&certificate)).transpose()?;
        let (host, port, secure) = (address.ip().to_string(), address.port(), tls.is_some());
        Ok(Place { host, port, base: String::new(), secure, tls })
    }

    /// A credential that the hub of this machine made. It is shown to this machine only: whoever sits at another address
    /// would be handed the keys of this hub.
    pub fn held(&self, place: &Place, name: &str) -> anyhow::Result<Option<String>> {
        if !place.is_here() {
            return Ok(None);
        }
        Ok(Keys::held(&self.config()?, name)?.map(|secret| secret.reveal().to_owned()))
    }

    /// Where that credential would be.
    pub fn keys(&self) -> String {
        self.config().map_or_else(|_| "data/keys".into(), |config| config.store.path.join("keys").display().to_string())
    }

    fn config(&self) -> anyhow::Result<Config> {
        Ok(self.settings.load(Vec::new())?)
    }
}

/// Where a hub listens, and the path below which a proxy shows it.
#[derive(Clone, Debug)]
pub struct Place {
    host: String,
    port: u16,
    base: String,
    secure: bool,
    /// Whom it trusts to be there, once that is known.
    tls: Option<Arc<ClientConfig>>,
}

/// A connection to a hub, through TLS or not.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Place {
    fn parse(text: &str) -> Result<Place, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{error}; write http://HOST:PORT or https://HOST"))?;
        let secure = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err("write http://HOST:PORT or https://HOST".into()),
        };
        if uri.query().is_some() {
            return Err("leave out what follows the ?; credentials have flags of their own".into());
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Place { host, port, base: uri.path().trim_end_matches('/').to_owned(), secure, tls: None })
    }

    pub fn authority(&self) -> String {
        let Place { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    pub fn path(&self, below: &str) -> String {
        format!("{}{below}", self.base)
    }

    fn is_here(&self) -> bool {
        let ip: Option<std::net::IpAddr> = self.host.parse().ok();
        self.host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) || self.is_own_address(ip)
    }

    /// A hub that listens on one address of this machine is reached under that address.
    fn is_own_address(&self, ip: Option<std::net::IpAddr>) -> bool {
        ip.is_some_and(|ip| std::net::UdpSocket::bind((ip, 0)).is_ok())
    }

    pub async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        let reached = tokio::time::timeout(CONNECT, TcpStream::connect((self.host.as_str(), self.port))).await;
        let stream = match reached {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no answer within {} s", CONNECT.as_secs())),
        };
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(self.host.clone()).map_err(|error| format!("{}: {error}", self.host))?;
        let shaken = tokio::time::timeout(CONNECT, TlsConnector::from(tls.clone()).connect(name, stream)).await;
        match shaken {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                Err(format!("no TLS: {error}; if this is the right hub, --ca FILE says whose certificate is good"))
            }
            Ok(Err(error)) => Err(format!("no TLS: {error}; does it speak https there?")),
            Err(_) => Err(format!("no TLS handshake within {} s", CONNECT.as_secs())),
        }
    }

    /// For one who was never there.
    pub fn unreachable(&self, why: &str) -> anyhow::Error {
        anyhow::anyhow!(
            "there is no hub at {}: {why}. Start it with `aether`, or say where it is with --url",
            self.authority()
        )
    }
}

/// What the hub says instead of what was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    pub status: u16,
    pub code: u64,
    /// When to come back, if the hub said so.
    pub retry: Option<Duration>,
    text: String,
}

#[derive(Deserialize)]
struct Envelope {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: u64,
    message: String,
    reason: String,
    #[serde(default)]
    decision: Option<String>,
    #[serde(default)]
    retry_ms: Option<u64>,
}

impl Refused {
    pub fn over_http(status: u16, body: &[u8]) -> Refused {
        match serde_json::from_slice::<Envelope>(body) {
            Ok(Envelope { error }) => Refused { status, ..Refused::of(error) },
            Err(_) => {
                let text = format!("this does not answer like Aether: HTTP status {status}; see that --url is right");
                Refused { status, code: 0, retry: None, text }
            }
        }
    }

    /// An `error` frame.
    pub fn in_frame(frame: &str) -> Refused {
        match serde_json::from_str(frame) {
            Ok(error) => Refused::of(error),
            Err(error) => {
                Refused { status: 0, code: 0, retry: None, text: format!("an error that cannot be read: {error}") }
            }
        }
    }

    fn of(error: ErrorBody) -> Refused {
        let ErrorBody { code, message, reason, decision, retry_ms } = error;
        let decision = decision.map_or(String::new(), |id| format!(". The hub's log says why, under decision {id}"));
        let text = format!("refused: {message} ({code} {reason}){decision}");
        Refused { status: 0, code, retry: retry_ms.map(Duration::from_millis), text }
    }

    /// Whether the same may be good a moment later.
    pub fn passes(&self) -> bool {
        self.status == 503 || matches!(self.code / 100, 429 | 503)
    }

    /// As an error for people. `credential`: the flag and the variable that show another one.
    pub fn explain(&self, credential: &str) -> anyhow::Error {
        let advice = match self.code / 100 {
            401 => format!(". Show a credential that is good here with {credential}"),
            403 => format!(". If you may do this, it is with another credential: {credential}"),
            _ => String::new(),
        };
        anyhow::anyhow!("{}{advice}", self.text)
    }
}

/// Doubles from a quarter of a second to ten, each a random time between its half and its whole: clients that lost their
/// hub together do not come back together.
#[derive(Default)]
pub struct Backoff(u32);

impl Backoff {
    pub fn next(&mut self) -> Duration {
        let whole = Duration::from_millis(250 << self.0.min(6)).min(Duration::from_secs(10));
        self.0 += 1;
        jitter(whole)
    }

    pub fn reset(&mut self) {
        self.0 = 0;
    }
}

fn jitter(whole: Duration) -> Duration {
    let mut random = [0; 2];
    let _ = getrandom::fill(&mut random);
    whole / 2 + whole / 2 * u32::from(u16::from_le_bytes(random)) / 65536
}

/// A credential of flag or environment; a variable that is set but empty is none.
pub fn given(credential: &Option<String>) -> anyhow::Result<Option<String>> {
    let Some(text) = credential.as_deref().map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.contains(|c: char| !c.is_ascii_graphic()) {
        bail!("the credential has blanks or odd characters in it; see that it was copied whole, on one line");
    }
    Ok(Some(text.to_owned()))
}

/// A runtime for one client.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("no threads to work with")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_url_without_a_query() {
        let place = |text| Place::parse(text).map(|place| (place.authority(), place.path("/ws")));
        assert_eq!(place("http://127.0.0.1:8080").unwrap(), ("127.0.0.1:8080".into(), "/ws".into()));
        assert_eq!(place("ws://hub.internal/push/").unwrap(), ("hub.internal:80".into(), "/push/ws".into()));
        assert_eq!(place("http://[::1]:9").unwrap().0, "[::1]:9");
        assert_eq!(place("https://hub.example").unwrap().0, "hub.example:443");
        assert_eq!(place("wss://hub.example:8443/push").unwrap().0, "hub.example:8443");
        for bad in ["hub", "ftp://hub", "https://hub?token=x", "http://hub?token=x", ""] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_shown_what_it_made() {
        for (url, here) in [("http://127.0.0.1:1", true), ("http://localhost", true), ("http://[::1]:2", true)] {
            assert_eq!(Place::parse(url).unwrap().is_here(), here, "{url}");
        }
        for url in ["http://192.0.2.7", "http://hub.example", "http://127.0.0.1.example"] {
            assert!(!Place::parse(url).unwrap().is_here(), "{url}");
        }
    }

    #[test]
    fn waits_grow_and_stay_within_their_bounds() {
        let mut backoff = Backoff::default();
        for whole in [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000] {
            let wait = backoff.next().as_millis();
            assert!((whole / 2..=whole).contains(&wait), "{wait} of {whole}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let body =
            br#"{"ok":false,"error":{"code":40301,"message":"no","reason":"not_allowed","decision":"kqg0p7cj"}}"#;
        let refused = Refused::over_http(403, body);
        let text = refused.explain("--key or AETHER_KEY").to_string();
        assert!(
            text.contains("no (40301 not_allowed)") && text.contains("kqg0p7cj") && text.contains("--key"),
            "{text}"
        );
        assert!(!refused.passes() && Refused::over_http(503, b"{}").passes());
        assert!(Refused::over_http(404, b"<html>").explain("").to_string().contains("--url"));
    }
}
