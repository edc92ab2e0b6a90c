//! How a server is authenticated: the TLS client configuration of one upstream entry (RFC 7858 §4, RFC 8310 §8).
//!
//! One configuration, shared by all workers, belongs to one entry: its verifier is part of what a session ticket is
//! bound to, so that a changed name, pin, CA or client certificate ends resumption, and an unchanged one does not.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, NamedGroup, RootCertStore, SignatureScheme};

use super::refused::{NotDesignated, NotPinned, Refusal};
use super::tickets::Tickets;
use crate::clock;
use crate::config::options::{CLIENT_CERTIFICATE, CLIENT_KEY};
use crate::config::settings::{Authentication, ClientCertificate, Pin, Profile, Roots, Server, TlsTerms};
use crate::pem_pair::{Moment, Named, Pair, PemFault};

/// Why an upstream entry cannot be used.
#[derive(Debug)]
pub enum TlsError {
    /// The CA file cannot be read or has no certificate.
    Roots(PathBuf, String),
    /// The system's trust store is empty.
    NoSystemRoots(String),
    /// The certificate that the resolver is to be shown cannot be used.
    Client(String, PemFault),
    /// The library refused the entry.
    Refused(String, String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Roots(path, why) => {
                write!(out, "ca file {}: {why}; give a PEM file with at least one CA certificate", path.display())
            }
            TlsError::NoSystemRoots(why) => write!(
                out,
                "the system's trust store has no usable certificate{why}; install the package ca-certificates, or set \
                 upstream.ca-file, or give the servers pins"
            ),
            TlsError::Client(server, fault) => write!(out, "upstream {server}: {fault}"),
            TlsError::Refused(server, why) => write!(out, "upstream {server}: {why}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// The files that entries name, each read once.
pub struct Sources {
    moment: Moment,
    stores: Vec<(Roots, Arc<RootCertStore>)>,
    pairs: Vec<(ClientCertificate, Arc<Pair>)>,
    /// Pairs in use, to go on with where a key can no longer be read.
    in_use: Vec<Arc<Pair>>,
    notes: Vec<String>,
}

impl Sources {
    /// Sources that are read now, while these pairs are in use.
    pub fn new(moment: Moment, in_use: Vec<Arc<Pair>>) -> Sources {
        let (stores, pairs, notes) = Default::default();
        Sources { moment, stores, pairs, in_use, notes }
    }

    /// What there is to say of files that can be used all the same.
    pub fn into_notes(self) -> Vec<String> {
        self.notes
    }

    fn store(&mut self, roots: &Roots) -> Result<Arc<RootCertStore>, TlsError> {
        if let Some((_, store)) = self.stores.iter().find(|(known, _)| known == roots) {
            return Ok(store.clone());
        }
        let store = Arc::new(match roots {
            Roots::File(path) => read_ca_file(path)?,
            Roots::System => read_system_roots()?,
        });
        self.stores.push((roots.clone(), store.clone()));
        Ok(store)
    }

    fn pair(&mut self, files: &ClientCertificate) -> Result<Arc<Pair>, PemFault> {
        if let Some((_, pair)) = self.pairs.iter().find(|(known, _)| known == files) {
            return Ok(pair.clone());
        }
        let certificate = Named { option: CLIENT_CERTIFICATE.key, path: &files.certificate };
        let key = Named { option: CLIENT_KEY.key, path: &files.key };
        let in_use = self.in_use.iter().map(|pair| &**pair);
        let provider = aws_lc_rs::default_provider();
        let pair = Arc::new(Pair::read(certificate, key, self.moment, in_use, &provider, &mut self.notes)?);
        self.pairs.push((files.clone(), pair.clone()));
        Ok(pair)
    }
}

/// The CA certificates in a PEM file.
///
/// # Errors
/// If it cannot be read, or has none, or one of unknown form.
pub fn read_ca_file(path: &Path) -> Result<RootCertStore, TlsError> {
    let fault = |why: String| TlsError::Roots(path.to_owned(), why);
    let unreadable = |error: pem::Error| {
        let missing = matches!(&error, pem::Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound);
        // set by systemd, whose unit shows the service a part of the machine only
        let hint = match std::env::var_os("INVOCATION_ID") {
            Some(_) if missing => {
                " (the unit of the service may show it only what is below /etc and /usr, see dot-proxy.toml(5))"
            }
            _ => "",
        };
        fault(format!("{error}{hint}"))
    };
    let certificates = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| fault(error.to_string()))?;
        store.add(certificate).map_err(|error| fault(error.to_string()))?;
    }
    if store.is_empty() { Err(fault("no certificate in it".to_owned())) } else { Ok(store) }
}

/// The system's trust store: single unusable certificates are common there and cost only themselves.
fn read_system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (added, ignored) = store.add_parsable_certificates(found.certs);
    log::debug!(
        "system trust store: {added} certificates, {ignored} of unknown form, {} unreadable",
        found.errors.len()
    );
    if store.is_empty() {
        let why = found.errors.first().map_or(String::new(), |error| format!(" ({error})"));
        return Err(TlsError::NoSystemRoots(why));
    }
    Ok(store)
}

/// The provider, with the key exchanges of this entry and AES-128 before AES-256, which costs more and protects
/// nothing better here.
fn provider(post_quantum: bool) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() == CipherSuite::TLS13_AES_256_GCM_SHA384);
    if !post_quantum {
        provider
            .kx_groups
            .retain(|group| matches!(group.name(), NamedGroup::X25519 | NamedGroup::secp256r1 | NamedGroup::secp384r1));
    }
    Arc::new(provider)
}

/// The name that the certificate must carry, which is also the server name indication unless it is an address.
pub fn server_name(server: &Server, terms: &TlsTerms) -> Result<ServerName<'static>, TlsError> {
    match &terms.authentication {
        Authentication::Name(name) | Authentication::NameAndPins(name, _) | Authentication::Designated(name, _) => {
            ServerName::try_from(name.clone())
                .map_err(|_| TlsError::Refused(server.label.clone(), format!("{name:?} is no host name")))
        }
        Authentication::Address | Authentication::Pins(_) => Ok(ServerName::from(server.address.ip())),
    }
}

/// Who may have issued an entry's certificate; `None` if its key alone decides.
///
/// # Errors
/// If the trust store cannot be read or is empty: that never means that any certificate will do (RFC 8310 §6.6).
pub fn roots_of(terms: &TlsTerms, sources: &mut Sources) -> Result<Option<Arc<RootCertStore>>, TlsError> {
    terms.issuers().map(|roots| sources.store(roots)).transpose()
}

/// What an entry's server is shown if it asks for a certificate.
///
/// # Errors
/// If the files cannot be read or do not fit together.
pub fn client_pair_of(server: &Server, terms: &TlsTerms, sources: &mut Sources) -> Result<Option<Arc<Pair>>, TlsError> {
    let read = |files| sources.pair(files).map_err(|fault| TlsError::Client(server.label.clone(), fault));
    terms.client.as_ref().map(read).transpose()
}

/// The TLS configuration of an entry, with what [`roots_of`] and [`client_pair_of`] say of it. What comes of
/// its handshakes stands in `authenticity`.
///
/// # Errors
/// If the library refuses it.
pub fn client_config(
    label: &str,
    terms: &TlsTerms,
    roots: Option<Arc<RootCertStore>>,
    client: Option<&Pair>,
    authenticity: Arc<Authenticity>,
    tickets: Arc<Tickets>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let refused = |why: String| TlsError::Refused(label.to_owned(), why);
    let provider = provider(terms.post_quantum);
    let chain = roots.map(|roots| WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build());
    let chain = chain.transpose().map_err(|error| refused(error.to_string()))?;
    let pins = match &terms.authentication {
        Authentication::Pins(pins) | Authentication::NameAndPins(_, pins) => pins.clone(),
        Authentication::Name(_) | Authentication::Address | Authentication::Designated(..) => Vec::new(),
    };
    let designator = match &terms.authentication {
        Authentication::Designated(_, resolver) => Some(*resolver),
        _ => None,
    };
    let judge = Judge { chain, pins, designator };
    let verifier = Arc::new(Verifier { judge, provider: provider.clone(), authenticity });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| refused(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match client {
        Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.certified()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"dot".to_vec()];
    config.resumption = Resumption::store(tickets);
    Ok(Arc::new(config))
}

/// What became of the authentication of a server, and whether that decides anything (RFC 8310 §5).
#[derive(Debug)]
pub struct Authenticity {
    label: String,
    profile: Profile,
    /// What came of its last full handshake; nothing before the first.
    outcome: Mutex<Option<Result<(), Refusal>>>,
    /// Whether a failure that decided nothing has been said.
    said: AtomicBool,
}

impl Authenticity {
    /// No handshake has been made yet.
    pub fn new(label: &str, profile: Profile) -> Authenticity {
        Authenticity { label: label.to_owned(), profile, outcome: Mutex::default(), said: AtomicBool::default() }
    }

    /// Whether the server was authenticated at its last full handshake, and if not, why; nothing before the first.
    pub fn outcome(&self) -> Option<Result<(), Refusal>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As [`Authenticity::outcome`], without the reason.
    pub fn is_authenticated(&self) -> Option<bool> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Result::is_ok)
    }

    /// Why the handshake that has just failed with this error did so, if the server was refused.
    pub fn refusal(&self, error: &rustls::Error) -> Option<Refusal> {
        if !matches!(error, rustls::Error::InvalidCertificate(_)) {
            return None;
        }
        match self.outcome() {
            // the last word of the opportunistic profile is never a refusal of the certificate
            Some(Err(refusal)) if self.profile == Profile::Strict => Some(refusal),
            _ => Some(Refusal::unproven(error)),
        }
    }

    /// Takes note of the outcome. One that is let pass all the same is said the first time.
    fn judged(&self, outcome: Result<(), Refusal>) -> bool {
        let passes = match (self.profile, &outcome) {
            (Profile::Opportunistic, Err(refusal)) => {
                if !self.said.swap(true, Ordering::Relaxed) {
                    let label = &self.label;
                    log::warn!(
                        "upstream {label}: not authenticated: {refusal}; it is used all the same (opportunistic)"
                    );
                }
                true
            }
            (_, outcome) => outcome.is_ok(),
        };
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        passes
    }
}

/// Judges the certificate that a server presents: by chain and name, by pin, or by both (RFC 8310 §6.4).
struct Judge {
    /// `None`: the pins alone decide (RFC 7858 §4.2).
    chain: Option<Arc<WebPkiServerVerifier>>,
    pins: Vec<Pin>,
    /// The plain resolver that designated the server: the certificate must be good for its address as well.
    designator: Option<IpAddr>,
}

impl Judge {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if let Some(chain) = &self.chain {
            // the clock may be one that is wrong at boot
            clock::FLOOR.judge(now, |time| {
                chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, time)
            })?;
        }
        if let (Some(chain), Some(address)) = (&self.chain, self.designator) {
            let verified = clock::FLOOR.judge(now, |time| {
                chain.verify_server_cert(end_entity, intermediates, &ServerName::from(address), ocsp_response, time)
            });
            verified.map_err(|_| NotDesignated(address).into_error())?;
        }
        if !self.pins.is_empty() {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            let found = Pin::of(parsed.subject_public_key_info().as_ref());
            if !self.pins.contains(&found) {
                return Err(NotPinned { found: found.to_string() }.into_error());
            }
        }
        Ok(())
    }
}

/// What the library asks. Whatever the profile, a server has the key of the certificate that it presents: the signature
/// over the handshake is never let pass.
struct Verifier {
    judge: Judge,
    provider: Arc<CryptoProvider>,
    /// Has the last word.
    authenticity: Arc<Authenticity>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Verifier({} pins)", self.judge.pins.len())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.judge.verify(end_entity, intermediates, server_name, ocsp_response, now);
        let refusal = |error: &rustls::Error| {
            let chain = std::iter::once(end_entity).chain(intermediates).map(|one| one.clone().into_owned());
            Refusal::new(error, chain.collect(), server_name)
        };
        let passes = self.authenticity.judged(verdict.as_ref().copied().map_err(refusal));
        // the library's own error tells the server by its alert what was wrong
        verdict.or_else(|error| if passes { Ok(()) } else { Err(error) })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
