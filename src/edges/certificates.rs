//! The hub's certificate and its key: read at the start, and again whenever their files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

pub struct Certificates {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
}

/// What tells that a file was replaced.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Certificates {
    /// The text of an error names the setting, the file and what is wrong with it.
    pub fn load(cert: &Path, key: &Path) -> Result<Certificates, String> {
        let current = RwLock::new(Arc::new(read(cert, key)?));
        Ok(Certificates { cert: cert.to_owned(), key: key.to_owned(), current })
    }

    /// For the next connection.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.read().clone()
    }

    /// Follows the files until it is stopped. A pair that is no good, or half of a new one, changes nothing.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut known = self.stamp();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let pair = self.clone();
            // The stamp first: what is written while we read is another change.
            let look = tokio::task::spawn_blocking(move || {
                let stamp = pair.stamp();
                (stamp != known).then(|| (stamp, read(&pair.cert, &pair.key)))
            });
            match look.await {
                Ok(Some((stamp, Ok(new)))) => {
                    known = stamp;
                    *self.current.write() = Arc::new(new);
                    tracing::info!(file = %self.cert.display(), "new connections get the new certificate");
                }
                Ok(Some((stamp, Err(error)))) => {
                    known = stamp;
                    tracing::error!(%error, "the new certificate is no good; the old one stays");
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    fn stamp(&self) -> Stamp {
        [&self.cert, &self.key].map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }
}

fn read(cert: &Path, key: &Path) -> Result<ServerConfig, String> {
    let of = |setting: &str, file: &Path, what: &str| format!("server.{setting} {}: {what}", file.display());
    let unreadable = |error: pem::Error| match error {
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        pem::Error::NoItemsFound => "there is none in it, in PEM (-----BEGIN ...)".to_owned(),
        other => format!("is not PEM: {other}"),
    };
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| of("tls_cert", cert, &unreadable(error)))?;
    if chain.is_empty() {
        return Err(of("tls_cert", cert, &unreadable(pem::Error::NoItemsFound)));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| of("tls_key", key, &unreadable(error)))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(|error| error.to_string())?.with_no_client_auth();
    let mut config = builder.with_single_cert(chain, secret).map_err(|error| {
        of("tls_key", key, &format!("does not go with the certificate in {}: {error}", cert.display()))
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
