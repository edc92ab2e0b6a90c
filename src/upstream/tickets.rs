//! The session tickets of one server entry, shared by all workers, and given up when the network changes: a ticket shown
//! from another place would tell the server that the two are one (RFC 8446 appendix C.4).

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Tickets kept for one server; the library keeps eight for each server name.
const SESSIONS: usize = 8;

/// What the library keeps of sessions with one server.
pub struct Tickets {
    kept: RwLock<Arc<ClientSessionMemoryCache>>,
}

impl Default for Tickets {
    fn default() -> Tickets {
        Tickets { kept: RwLock::new(Arc::new(ClientSessionMemoryCache::new(SESSIONS))) }
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Tickets")
    }
}

impl Tickets {
    /// Forgets them all.
    pub fn drop_all(&self) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        *kept = Arc::new(ClientSessionMemoryCache::new(SESSIONS));
    }

    fn kept(&self) -> Arc<ClientSessionMemoryCache> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.kept().set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept().set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept().tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.kept().remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.kept().insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().take_tls13_ticket(server_name)
    }
}
