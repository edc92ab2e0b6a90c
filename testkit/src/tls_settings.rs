//! The server's side of TLS: everything a test can turn, and the rustls configuration made from it.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::{
    NoClientAuth, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier,
};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::pki::Identity;

/// Which versions of TLS the server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// TLS 1.2 only.
    Tls12,
    /// TLS 1.3 only.
    Tls13,
    /// Both.
    #[default]
    Both,
}

static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

impl Versions {
    pub(crate) fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Tls12 => TLS12,
            Self::Tls13 => TLS13,
            Self::Both => rustls::ALL_VERSIONS,
        }
    }
}

/// All settings of the server's TLS.
#[derive(Clone)]
pub(crate) struct TlsSettings {
    pub(crate) identity: Identity,
    pub(crate) versions: Versions,
    pub(crate) alpn: Vec<Vec<u8>>,
    /// A protocol to select although nobody offered it.
    pub(crate) forged_alpn: Option<Vec<u8>>,
    pub(crate) tickets: usize,
    pub(crate) groups: Option<Vec<&'static dyn SupportedKxGroup>>,
    pub(crate) client_roots: Option<Arc<RootCertStore>>,
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl TlsSettings {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            versions: Versions::default(),
            alpn: vec![b"dot".to_vec()],
            forged_alpn: None,
            tickets: 2,
            groups: None,
            client_roots: None,
            ticketer: Ticketer::new().expect("a ticketer"),
            sessions: ServerSessionMemoryCache::new(1024),
        }
    }

    /// New ticket keys: what was issued before is worth nothing.
    pub(crate) fn forget_sessions(&mut self) {
        self.ticketer = Ticketer::new().expect("a ticketer");
        self.sessions = ServerSessionMemoryCache::new(1024);
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        let mut provider: CryptoProvider = default_provider();
        if let Some(groups) = &self.groups {
            provider.kx_groups.clone_from(groups);
        }
        let provider = Arc::new(provider);
        let versions = if self.forged_alpn.is_some() { Versions::Tls12 } else { self.versions };
        let client_verifier = match &self.client_roots {
            None => Arc::new(NoClientAuth),
            Some(roots) => WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
                .build()
                .expect("a client verifier"),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions.list())
            .expect("versions the provider knows")
            .with_client_cert_verifier(client_verifier)
            .with_single_cert(self.identity.chain.clone(), self.identity.key.clone_key())
            .expect("a key that fits its certificate");
        config.alpn_protocols = if self.forged_alpn.is_some() { Vec::new() } else { self.alpn.clone() };
        config.send_tls13_tickets = self.tickets;
        config.max_early_data_size = 0;
        config.session_storage = Arc::clone(&self.sessions);
        // a ticketer makes the tickets stateless, and with it TLS 1.2 gives tickets too; no tickets wanted: no ticketer
        if self.tickets > 0 {
            config.ticketer = Arc::clone(&self.ticketer);
        }
        Arc::new(config)
    }
}
