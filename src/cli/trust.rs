//! Which hub a client on the command line believes to be the one it asked for, when it comes with a certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Where systems keep the authorities that everybody trusts.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Flags that say whose certificates are good.
#[derive(Args)]
pub struct Trust {
    /// For https: a PEM file with the certificate of the hub, or of who signs it [default: those that this system trusts]
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// For https: any certificate will do. Whoever sits in between reads the credential and everything else
    #[arg(long)]
    insecure: bool,
}

impl Trust {
    /// For a hub somewhere.
    pub fn config(&self) -> anyhow::Result<Arc<ClientConfig>> {
        if self.insecure {
            return looked_at_by(Good::Any);
        }
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(file) => {
                let listed = certificates(file)?;
                for certificate in &listed {
                    roots.add(certificate.clone()).with_context(|| format!("--ca {}", file.display()))?;
                }
                let provider = Arc::new(ring::default_provider());
                let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
                return looked_at_by(Good::Listed { listed, signed });
            }
            None => {
                let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
                let bundle = named.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|file| file.is_file()));
                let bundle = bundle.context("this system has no list of authorities to trust: give --ca FILE")?;
                // Systems list some that nobody understands; the others do.
                roots.add_parsable_certificates(certificates(&bundle)?);
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions()?.with_root_certificates(roots);
        Ok(Arc::new(config.with_no_client_auth()))
    }

    /// For the hub of these settings: its certificate lies here, whatever name and authority it has.
    pub fn config_for_own(&self, certificate: &Path) -> anyhow::Result<Arc<ClientConfig>> {
        if self.insecure || self.ca.is_some() {
            return self.config();
        }
        let first = certificates(certificate)?.into_iter().next();
        looked_at_by(Good::This(first.context("there is no certificate")?))
    }
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.with_context(|| format!("{} cannot be read as certificates in PEM", file.display()))?;
    if read.is_empty() {
        bail!("{}: there is no certificate in it", file.display());
    }
    Ok(read)
}

fn looked_at_by(good: Good) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { good, provider }));
    Ok(Arc::new(config.with_no_client_auth()))
}

/// Whose certificates are good.
#[derive(Debug)]
enum Good {
    Any,
    /// This one, whatever name and authority it has.
    This(CertificateDer<'static>),
    /// What somebody listed has signed, or is listed itself: `openssl req -x509` makes certificates that say they are an
    /// authority, which no hub may show unless it is known.
    Listed {
        listed: Vec<CertificateDer<'static>>,
        signed: Arc<WebPkiServerVerifier>,
    },
}

/// Looks at the certificate. That the hub has its key is verified in any case.
#[derive(Debug)]
struct Verifier {
    good: Good,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.good {
            Good::This(only) if only != end_entity => Err(CertificateError::ApplicationVerificationFailure.into()),
            Good::Any | Good::This(_) => Ok(ServerCertVerified::assertion()),
            Good::Listed { listed, signed } => {
                match signed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
                    // Any other fault, such as its time being over, is one of a listed certificate too.
                    Err(Error::InvalidCertificate(CertificateError::Other(_))) if listed.contains(end_entity) => {
                        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                        Ok(ServerCertVerified::assertion())
                    }
                    outcome => outcome,
                }
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
