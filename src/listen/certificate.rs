//! What the proxy shows clients on TLS, and what they must show: certificate, key and CA of the clients, read at the start
//! before root's rights go, and again at a reload.
//!
//! All workers share one TLS configuration. It stays the same, and the session tickets with it, for as long as its
//! files say the same: a session that began under another certificate or another CA of clients is not taken up again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, RootCertStore, ServerConfig};

use crate::config::options::{Opt, TLS_CERTIFICATE, TLS_CLIENT_CA, TLS_KEY};
use crate::config::settings::ClientTls;
use crate::pem_pair::{self, Moment, Named, Pair, PemFault};
use crate::upstream::tls::read_ca_file;

/// When the files are read.
#[derive(Clone, Copy)]
pub enum Occasion<'a> {
    /// With the rights that the process was started with.
    Start,
    /// With those that were left, when this was in use.
    Reload(Option<&'a Certificate>),
}

/// What clients on TLS are served with.
pub struct Certificate {
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
    pub fn read(settings: &ClientTls, occasion: Occasion<'_>) -> Result<(Certificate, Vec<String>), PemFault> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (moment, known) = match occasion {
            Occasion::Start => (Moment::Start, None),
            Occasion::Reload(known) => (Moment::Reload, known),
        };
        let options = [&TLS_CERTIFICATE, &TLS_KEY, &TLS_CLIENT_CA].map(Opt::path);
        let certificate = Named { option: &options[0], path: &settings.certificate };
        let key = Named { option: &options[1], path: &settings.key };
        let mut notes = Vec::new();
        let in_use = known.map(|known| &known.pair);
        let pair = Pair::read(certificate, key, moment, in_use, &provider, &mut notes)?;
        let described = || format!("{} {}", certificate.option, certificate.path.display());
        notes.extend(validity(pair.chain(), &provider).map(|state| format!("{} {state}", described())));
        let roots = match &settings.client_ca {
            Some(path) => {
                let file = Named { option: &options[2], path };
                // for what is said of a file that may not be read
                pem_pair::open(file, moment)?;
                Some(Arc::new(read_ca_file(path).map_err(|error| PemFault::new(file, error.to_string()))?))
            }
            None => None,
        };
        let config = match known.filter(|known| known.shows(&pair, roots.as_deref())) {
            Some(known) => known.config.clone(),
            None => server_config(provider, &pair, roots.clone()).map_err(|why| PemFault::new(certificate, why))?,
        };
        Ok((Certificate { pair, roots, config }, notes))
    }

    /// The TLS configuration that all workers share.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Whether this is what clients see and are asked for.
    fn shows(&self, pair: &Pair, roots: Option<&RootCertStore>) -> bool {
        self.pair.is_as(pair) && self.roots.as_ref().map(|store| &store.roots) == roots.map(|store| &store.roots)
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
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair.certified())));
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
