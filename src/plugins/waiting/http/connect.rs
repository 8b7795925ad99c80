//! Connections to the outside: the address that is connected to is the one that was judged.
//!
//! A name is resolved once and each address judged before it is connected to, so that a name which means something else
//! the next moment (DNS rebinding) reaches nothing.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::allow::is_public;

#[derive(Clone)]
pub struct Connector {
    /// Whether private addresses may be reached.
    pub private: bool,
    pub tls: Arc<ClientConfig>,
}

pub enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

/// The certificates that the system trusts. Without any, `https` fails and says so.
pub fn trust() -> Arc<ClientConfig> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!(
            "the system trusts no certificate: aether.http cannot speak https until SSL_CERT_FILE names some"
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    // ring knows the default versions; if it ever does not, TLS 1.2 and 1.3 are named one by one.
    let builder = versions.unwrap_or_else(|_| {
        ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
    });
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(connect(self.clone(), uri))
    }
}

async fn connect(connector: Connector, uri: Uri) -> io::Result<Stream> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![(ip, port).into()],
        Err(_) => lookup_host((host.as_str(), port))
            .await
            .map_err(|error| io::Error::other(format!("{host} cannot be resolved: {error}")))?
            .collect(),
    };
    let stream = reach(&host, &addresses, connector.private).await?;
    let _ = stream.set_nodelay(true);
    if !secure {
        return Ok(Stream::Plain(TokioIo::new(stream)));
    }
    let name =
        ServerName::try_from(host.clone()).map_err(|_| io::Error::other(format!("{host} is no name for TLS")))?;
    let stream = TlsConnector::from(connector.tls).connect(name, stream).await;
    let stream = stream.map_err(|error| io::Error::other(format!("TLS with {host}:{port} failed: {error}")))?;
    Ok(Stream::Tls(Box::new(TokioIo::new(stream))))
}

async fn reach(host: &str, addresses: &[SocketAddr], private: bool) -> io::Result<TcpStream> {
    let mut failed = format!("{host} has no address");
    for address in addresses {
        if !private && !is_public(address.ip()) {
            failed = format!(
                "{host} is {}, a private address: name that host in [permissions] http, or in plugins.private_http",
                address.ip()
            );
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = format!("cannot connect to {host} ({address}): {error}"),
        }
    }
    Err(io::Error::other(failed))
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
