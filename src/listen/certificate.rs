//! What the proxy shows clients on TLS, and what they must show: certificate, key and CA of the clients, read at the start
//! before root's rights go, and again at a reload.
//!
//! All workers share one TLS configuration. It stays the same, and the session tickets with it, for as long as its
//! files say the same: a session that began under another certificate or another CA of clients is not taken up again.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::aws_lc_rs::digest::{Digest, SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, InconsistentKeys, RootCertStore, ServerConfig};

use crate::config::options::{Opt, TLS_CERTIFICATE, TLS_CLIENT_CA, TLS_KEY};
use crate::config::settings::ClientTls;
use crate::upstream::tls::read_ca_file;

/// The largest file that is read.
const MAX_SIZE: u64 = 1024 * 1024;

/// When the files are read.
#[derive(Clone, Copy)]
pub enum Occasion<'a> {
    /// With the rights that the process was started with.
    Start,
    /// With those that were left, when this was in use.
    Reload(Option<&'a Certificate>),
}

/// Why TLS cannot be served with the files that are configured.
#[derive(Debug)]
pub struct CertificateFault {
    option: &'static Opt,
    path: PathBuf,
    why: String,
    /// Whether it is a matter of rights.
    denied: bool,
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: {}", self.option.path(), self.path.display(), self.why)
    }
}

impl std::error::Error for CertificateFault {}

impl CertificateFault {
    fn new(option: &'static Opt, path: &Path, why: impl Into<String>) -> CertificateFault {
        CertificateFault { option, path: path.to_owned(), why: why.into(), denied: false }
    }

    fn unreadable(option: &'static Opt, path: &Path, occasion: Occasion<'_>, error: &io::Error) -> CertificateFault {
        if error.kind() != io::ErrorKind::PermissionDenied {
            return CertificateFault::new(option, path, format!("cannot be read: {error}"));
        }
        let help = match occasion {
            Occasion::Start => "give the user or the group of the service the right to read it",
            Occasion::Reload(_) => {
                "give the group of the service the right to read it, or restart the service, which reads it before it gives \
                 root's rights up"
            }
        };
        let fault = CertificateFault::new(option, path, format!("permission denied; {help}"));
        CertificateFault { denied: true, ..fault }
    }
}

/// A certificate with its key.
#[derive(Clone)]
struct Pair {
    certified: Arc<CertifiedKey>,
    key_digest: Digest,
}

/// What clients on TLS are served with.
pub struct Certificate {
    key_file: PathBuf,
    pair: Pair,
    roots: Option<Arc<RootCertStore>>,
    config: Arc<ServerConfig>,
}

impl Certificate {
    /// Reads the files and proves that they fit together; gives also what there is to say of them.
    ///
    /// Where the key can no longer be read, but the certificate is the one in use, so is the key.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn read(settings: &ClientTls, occasion: Occasion<'_>) -> Result<(Certificate, Vec<String>), CertificateFault> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let known = match occasion {
            Occasion::Start => None,
            Occasion::Reload(known) => known,
        };
        let mut notes = Vec::new();
        let chain = read_chain(&settings.certificate, occasion)?;
        notes.extend(validity(&chain, &provider).map(|state| format!("{} {state}", described(settings))));
        let pair = match read_key(&settings.key, occasion, &mut notes) {
            Ok((key, key_digest)) => {
                let certified = CertifiedKey::from_der(chain, key, &provider);
                Pair { certified: Arc::new(certified.map_err(|error| misfit(settings, &error))?), key_digest }
            }
            Err(fault) => match known {
                Some(known) if fault.denied && known.key_file == settings.key && known.chain() == chain => {
                    notes.push(format!("{fault}; until then a renewed certificate is refused"));
                    known.pair.clone()
                }
                _ => return Err(fault),
            },
        };
        let roots = match &settings.client_ca {
            Some(path) => {
                // for what is said of a file that may not be read
                open(&TLS_CLIENT_CA, path, occasion)?;
                let fault = |error| CertificateFault::new(&TLS_CLIENT_CA, path, format!("{error}"));
                Some(Arc::new(read_ca_file(path).map_err(fault)?))
            }
            None => None,
        };
        let config = match known.filter(|known| known.shows(&pair, roots.as_deref())) {
            Some(known) => known.config.clone(),
            None => server_config(provider, &pair, roots.clone())
                .map_err(|why| CertificateFault::new(&TLS_CERTIFICATE, &settings.certificate, why))?,
        };
        Ok((Certificate { key_file: settings.key.clone(), pair, roots, config }, notes))
    }

    /// The TLS configuration that all workers share.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    fn chain(&self) -> &[CertificateDer<'static>] {
        &self.pair.certified.cert
    }

    /// Whether this is what clients see and are asked for.
    fn shows(&self, pair: &Pair, roots: Option<&RootCertStore>) -> bool {
        self.chain() == pair.certified.cert
            && self.pair.key_digest.as_ref() == pair.key_digest.as_ref()
            && self.roots.as_ref().map(|store| &store.roots) == roots.map(|store| &store.roots)
    }
}

fn described(settings: &ClientTls) -> String {
    format!("{} {}", TLS_CERTIFICATE.path(), settings.certificate.display())
}

fn open(option: &'static Opt, path: &Path, occasion: Occasion<'_>) -> Result<(File, Metadata), CertificateFault> {
    let unreadable = |error: io::Error| CertificateFault::unreadable(option, path, occasion, &error);
    // a pipe is not waited for
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if found.is_file() { Ok((file, found)) } else { Err(CertificateFault::new(option, path, "not a regular file")) }
}

fn octets(option: &'static Opt, path: &Path, occasion: Occasion<'_>) -> Result<(Vec<u8>, Metadata), CertificateFault> {
    let (file, found) = open(option, path, occasion)?;
    let mut octets = Vec::new();
    file.take(MAX_SIZE + 1)
        .read_to_end(&mut octets)
        .map_err(|error| CertificateFault::unreadable(option, path, occasion, &error))?;
    if octets.len() as u64 > MAX_SIZE {
        return Err(CertificateFault::new(option, path, "larger than 1 MiB, which no PEM file of this kind is"));
    }
    Ok((octets, found))
}

fn read_chain(path: &Path, occasion: Occasion<'_>) -> Result<Vec<CertificateDer<'static>>, CertificateFault> {
    let (pem, _) = octets(&TLS_CERTIFICATE, path, occasion)?;
    let fault = |why: String| CertificateFault::new(&TLS_CERTIFICATE, path, why);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| fault(format!("not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(fault("no certificate in it; give a PEM file, the server's certificate first".to_owned()));
    }
    Ok(chain)
}

fn read_key(
    path: &Path,
    occasion: Occasion<'_>,
    notes: &mut Vec<String>,
) -> Result<(PrivateKeyDer<'static>, Digest), CertificateFault> {
    let (pem, found) = octets(&TLS_KEY, path, occasion)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => CertificateFault::new(
            &TLS_KEY,
            path,
            "no private key in it; give a PEM file with a key that is not encrypted",
        ),
        error => CertificateFault::new(&TLS_KEY, path, format!("not PEM: {error}")),
    })?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o006 != 0 {
        notes.push(format!(
            "{} {}: every user may read or change it (mode {mode:04o}); chmod o-rwx would do",
            TLS_KEY.path(),
            path.display()
        ));
    }
    let key_digest = digest(&SHA256, key.secret_der());
    Ok((key, key_digest))
}

/// What to say of a certificate and a key that do not go together.
fn misfit(settings: &ClientTls, error: &rustls::Error) -> CertificateFault {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let certificate = settings.certificate.display();
            CertificateFault::new(
                &TLS_KEY,
                &settings.key,
                format!("is not the key of the certificate in {certificate}"),
            )
        }
        rustls::Error::InvalidCertificate(_) => {
            CertificateFault::new(&TLS_CERTIFICATE, &settings.certificate, error.to_string())
        }
        _ => CertificateFault::new(&TLS_KEY, &settings.key, format!("cannot be used: {error}")),
    }
}

/// What is wrong with the time for which the first certificate is valid; clients judge it, so this only warns.
fn validity(chain: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Option<String> {
    let (certificate, issuers) = chain.split_first()?;
    // the time is looked at before the issuer, so that any anchor will do
    let mut anchors = RootCertStore::empty();
    anchors.add(certificate.clone()).ok()?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(anchors), provider.clone()).build().ok()?;
    let name = ServerName::from(IpAddr::from([127, 0, 0, 1]));
    let days = |from: UnixTime, to: UnixTime| {
        let hours = to.as_secs().saturating_sub(from.as_secs()) / 3600;
        humantime::format_duration(Duration::from_secs(hours * 3600)).to_string()
    };
    let error = verifier.verify_server_cert(certificate, issuers, &name, &[], UnixTime::now()).err()?;
    match error {
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => {
            Some(format!("has expired {} ago: clients will refuse it", days(not_after, time)))
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            Some(format!("is valid in {} only: clients will refuse it until then", days(time, not_before)))
        }
        _ => None,
    }
}

fn server_config(
    provider: Arc<CryptoProvider>,
    pair: &Pair,
    roots: Option<Arc<RootCertStore>>,
) -> Result<Arc<ServerConfig>, String> {
    let verifier = match roots {
        Some(roots) => WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| error.to_string())?,
        None => Arc::new(NoClientAuth),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair.certified.clone())));
    // a client that offers protocols and not this one is refused (RFC 8310 §9, RFC 9325 §3.8)
    config.alpn_protocols = vec![b"dot".to_vec()];
    // its keys change every six hours (RFC 9325 §3.4)
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| error.to_string())?;
    // a query in the first flight could be replayed (RFC 8446 §8)
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod certificate_tests;
