//! One configured server, as all workers share it: how it is authenticated and how it fares.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::health::{Health, Rest};
use super::tls::{TlsError, TrustStores, client_config, server_name};
use crate::config::settings::Server;

/// A server with its TLS configuration and its health.
#[derive(Debug)]
pub struct UpstreamServer {
    settings: Server,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    health: Mutex<Health>,
}

impl UpstreamServer {
    /// Reads what authentication needs.
    ///
    /// # Errors
    /// If the server could not be authenticated with what is configured.
    pub fn new(settings: Server, stores: &mut TrustStores) -> Result<UpstreamServer, TlsError> {
        let (name, tls) = (server_name(&settings)?, client_config(&settings, stores)?);
        Ok(UpstreamServer { settings, name, tls, health: Mutex::default() })
    }

    /// The entry of the configuration.
    pub fn settings(&self) -> &Server {
        &self.settings
    }

    /// As the configuration writes it, for people.
    pub fn label(&self) -> &str {
        &self.settings.label
    }

    /// The name that its certificate must carry.
    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// Its TLS configuration.
    pub fn tls(&self) -> Arc<ClientConfig> {
        self.tls.clone()
    }

    /// Whether it rests after failures.
    pub fn rest(&self, now: Instant) -> Option<Rest> {
        self.with_health(|health| health.rest(now))
    }

    /// An attempt to connect failed for this reason.
    pub fn failed(&self, now: Instant, spread: u8, why: &dyn std::fmt::Display) {
        let failures = self.with_health(|health| health.failed(now, spread));
        let level = if failures == Some(1) { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "upstream {}: {why}", self.label());
    }

    /// Whether it has failed and not answered since.
    pub fn is_doubtful(&self) -> bool {
        self.with_health(|health| health.is_doubtful())
    }

    /// Whether a copy of a query may be sent to it, although it is doubtful, to find out.
    pub fn take_probe(&self, now: Instant, until: Instant) -> bool {
        self.with_health(|health| health.take_probe(now, until))
    }

    /// A connection ended, or was given up, with queries unanswered before it had answered any, or fell silent.
    pub fn barren(&self, now: Instant, spread: u8, why: &dyn std::fmt::Display) {
        if self.with_health(|health| health.barren()) {
            self.failed(now, spread, why);
        }
    }

    /// It answered the first query of a connection, or answered after all.
    pub fn answered(&self) {
        if self.with_health(Health::answered) {
            log::info!("upstream {}: answers again", self.label());
        }
    }

    fn with_health<T>(&self, change: impl FnOnce(&mut Health) -> T) -> T {
        // health is a few numbers: whatever a panicking thread left there is still usable
        change(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
