//! A certificate and its key from PEM files, whoever they are shown to: read at the start, before root's rights go, and
//! again at a reload, with the rights that are left.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Digest, SHA256, digest};
use rustls::InconsistentKeys;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// The largest file that is read.
const MAX_SIZE: u64 = 1024 * 1024;

/// With which rights a file is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Moment {
    /// Those that the process was started with.
    Start,
    /// Those that were left.
    Reload,
}

/// A file and the option that names it.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The option, as messages call it.
    pub option: &'a str,
    /// The file.
    pub path: &'a Path,
}

/// Why a file cannot be used.
#[derive(Debug)]
pub struct PemFault {
    option: String,
    path: PathBuf,
    why: String,
    /// Whether it is a matter of rights.
    denied: bool,
}

impl fmt::Display for PemFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: {}", self.option, self.path.display(), self.why)
    }
}

impl std::error::Error for PemFault {}

impl PemFault {
    /// Says what is wrong with a file.
    pub fn new(file: Named<'_>, why: impl Into<String>) -> PemFault {
        PemFault { option: file.option.to_owned(), path: file.path.to_owned(), why: why.into(), denied: false }
    }

    fn unreadable(file: Named<'_>, moment: Moment, error: &io::Error) -> PemFault {
        if error.kind() != io::ErrorKind::PermissionDenied {
            return PemFault::new(file, format!("cannot be read: {error}"));
        }
        let help = match moment {
            Moment::Start => "give the user or the group of the service the right to read it",
            Moment::Reload => {
                "give the group of the service the right to read it, or restart the service, which reads it before it gives \
                 root's rights up"
            }
        };
        PemFault { denied: true, ..PemFault::new(file, format!("permission denied; {help}")) }
    }
}

/// A certificate, those that issued it, and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    certified: Arc<CertifiedKey>,
    key_file: PathBuf,
    key_digest: Digest,
}

impl Pair {
    /// Reads both files and proves that they fit together; what else there is to say of them is added to `notes`.
    ///
    /// Where the key can no longer be read, but the certificate is the one of a pair in use, so is the key.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn read<'a>(
        certificate: Named<'_>,
        key: Named<'_>,
        moment: Moment,
        in_use: impl IntoIterator<Item = &'a Pair>,
        provider: &CryptoProvider,
        notes: &mut Vec<String>,
    ) -> Result<Pair, PemFault> {
        let chain = read_chain(certificate, moment)?;
        match read_key(key, moment, notes) {
            Ok((der, key_digest)) => {
                let certified = CertifiedKey::from_der(chain, der, provider);
                let certified = Arc::new(certified.map_err(|error| misfit(certificate, key, &error))?);
                Ok(Pair { certified, key_file: key.path.to_owned(), key_digest })
            }
            Err(fault) => {
                let known = in_use.into_iter().find(|known| known.key_file == key.path && known.chain() == chain);
                let Some(known) = known.filter(|_| fault.denied) else { return Err(fault) };
                notes.push(format!("{fault}; until then a renewed certificate is refused"));
                Ok(known.clone())
            }
        }
    }

    /// The certificate, then those that issued it.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// As the library takes it.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    /// Whether whoever is shown this pair sees the same as of the other one.
    pub fn is_as(&self, other: &Pair) -> bool {
        self.chain() == other.chain() && self.key_digest.as_ref() == other.key_digest.as_ref()
    }
}

/// Opens a file that can be read to its end.
///
/// # Errors
/// If there is none, or it may not be read.
pub fn open(file: Named<'_>, moment: Moment) -> Result<(File, Metadata), PemFault> {
    let unreadable = |error: io::Error| PemFault::unreadable(file, moment, &error);
    // a pipe is not waited for
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(file.path).map_err(unreadable)?;
    let found = opened.metadata().map_err(unreadable)?;
    if found.is_file() { Ok((opened, found)) } else { Err(PemFault::new(file, "not a regular file")) }
}

fn octets(file: Named<'_>, moment: Moment) -> Result<(Vec<u8>, Metadata), PemFault> {
    let (opened, found) = open(file, moment)?;
    let mut octets = Vec::new();
    opened.take(MAX_SIZE + 1).read_to_end(&mut octets).map_err(|error| PemFault::unreadable(file, moment, &error))?;
    if octets.len() as u64 > MAX_SIZE {
        return Err(PemFault::new(file, "larger than 1 MiB, which no PEM file of this kind is"));
    }
    Ok((octets, found))
}

fn read_chain(file: Named<'_>, moment: Moment) -> Result<Vec<CertificateDer<'static>>, PemFault> {
    let (pem, _) = octets(file, moment)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| PemFault::new(file, format!("not PEM: {error}")))?;
    if chain.is_empty() {
        let why = "no certificate in it; give a PEM file, the certificate first, then those that issued it";
        return Err(PemFault::new(file, why));
    }
    Ok(chain)
}

fn read_key(
    file: Named<'_>,
    moment: Moment,
    notes: &mut Vec<String>,
) -> Result<(PrivateKeyDer<'static>, Digest), PemFault> {
    let (pem, found) = octets(file, moment)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            PemFault::new(file, "no private key in it; give a PEM file with a key that is not encrypted")
        }
        error => PemFault::new(file, format!("not PEM: {error}")),
    })?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o006 != 0 {
        notes.push(format!(
            "{} {}: every user may read or change it (mode {mode:04o}); chmod o-rwx would do",
            file.option,
            file.path.display()
        ));
    }
    let key_digest = digest(&SHA256, key.secret_der());
    Ok((key, key_digest))
}

/// What to say of a certificate and a key that do not go together.
fn misfit(certificate: Named<'_>, key: Named<'_>, error: &rustls::Error) -> PemFault {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let certificate = certificate.path.display();
            PemFault::new(key, format!("is not the key of the certificate in {certificate}"))
        }
        rustls::Error::InvalidCertificate(_) => PemFault::new(certificate, error.to_string()),
        _ => PemFault::new(key, format!("cannot be used: {error}")),
    }
}
