//! One configured server, as all workers share it: how it is authenticated and how it fares.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::approach::Approach;
use super::health::{Health, Rest};
use super::lifetime::Lifetime;
use super::tally::Tally;
use super::tickets::Tickets;
use super::tls::{Authenticity, Sources, TlsError, client_config, client_pair_of, roots_of, server_name};
use crate::config::settings::{Member, Server, ServerGroup, TlsTerms};
use crate::pem_pair::{Moment, Pair};

/// Connections to a server that may be made at the same time for queries that are suspect.
const SIDE_TURNS: usize = 8;

/// A server with its TLS configuration and its health.
#[derive(Debug)]
pub struct UpstreamServer {
    settings: Server,
    /// What TLS takes; nothing for plain DNS.
    tls: Option<Tls>,
    health: Mutex<Health>,
    /// Whether its health says that it failed and has not answered since: while all is well, nobody takes the lock.
    doubtful: AtomicBool,
    last_failure: Mutex<Option<Failure>>,
    approach: Mutex<Approach>,
    lifetime: Mutex<Lifetime>,
    /// Whether its lifetime has said that it gives one answer on each connection, which need not hold any more.
    one_answer: AtomicBool,
    tally: Tally,
    /// The smoothed response time in microseconds, 0 as long as there is none.
    smoothed_us: AtomicU64,
    open: AtomicUsize,
    /// Rings for one of those who wait when a connection has ended.
    departed: Notify,
    /// Held while a connection is made: one at a time, whoever asks.
    gate: Semaphore,
    /// The same for connections of suspect queries, behind which nobody else shall wait.
    side_gate: Semaphore,
}

/// What TLS with a server takes.
#[derive(Debug)]
struct Tls {
    name: ServerName<'static>,
    /// Who may have issued its certificate; `None` if its key alone decides.
    roots: Option<Arc<RootCertStore>>,
    /// What it is shown if it asks for a certificate.
    client: Option<Arc<Pair>>,
    /// What became of its authentication.
    authenticity: Arc<Authenticity>,
    tickets: Arc<Tickets>,
    config: Arc<ClientConfig>,
}

impl Tls {
    fn new(server: &Server, terms: &TlsTerms, sources: &mut Sources) -> Result<Tls, TlsError> {
        let (name, roots) = (server_name(server, terms)?, roots_of(terms, sources)?);
        Tls::with(server, terms, name, roots, client_pair_of(server, terms, sources)?)
    }

    /// The same at another address, with a name and a memory of its own: no file is read for it.
    fn at(&self, server: &Server, terms: &TlsTerms) -> Result<Tls, TlsError> {
        Tls::with(server, terms, server_name(server, terms)?, self.roots.clone(), self.client.clone())
    }

    fn with(
        server: &Server,
        terms: &TlsTerms,
        name: ServerName<'static>,
        roots: Option<Arc<RootCertStore>>,
        client: Option<Arc<Pair>>,
    ) -> Result<Tls, TlsError> {
        let authenticity = Arc::new(Authenticity::new(&server.label, terms.profile));
        let tickets: Arc<Tickets> = Arc::default();
        let (trusted, shown) = (roots.clone(), client.as_deref());
        let config = client_config(&server.label, terms, trusted, shown, authenticity.clone(), tickets.clone())?;
        Ok(Tls { name, roots, client, authenticity, tickets, config })
    }

    /// Whether a session under one is as good as a session under the other, where the settings are the same.
    fn is_as(&self, other: &Tls) -> bool {
        let anchors = |tls: &Tls| tls.roots.as_ref().map(|store| store.roots.clone());
        let same_client = match (&self.client, &other.client) {
            (Some(one), Some(other)) => one.is_as(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        anchors(self) == anchors(other) && same_client
    }
}

/// When an attempt to use a server last failed, and why.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When.
    pub at: SystemTime,
    /// Why.
    pub why: String,
}

/// One connection to a server, from its first packet on, counted for as long as it is there.
pub struct OpenConnection(Arc<UpstreamServer>);

/// The right to make a connection to a server, which few have at the same time, and for most purposes nobody else.
pub struct Turn<'a>(#[expect(dead_code, reason = "it is given back when it is dropped")] Option<SemaphorePermit<'a>>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.departed();
    }
}

/// The servers of each group of a configuration.
pub type Servers = Vec<Vec<Arc<UpstreamServer>>>;

/// The servers of each group of a configuration, a source's pattern in its place, and what there is to say of their
/// files. At a reload those that are as they were in `running`, down to the content of the files, are taken over, with
/// their health and their session tickets; one that stands in two groups is one server.
///
/// # Errors
/// The first server that could not be authenticated, or could not authenticate us, with what is configured.
pub fn read_all<'a>(
    groups: impl Iterator<Item = &'a ServerGroup>,
    running: Option<&Servers>,
) -> Result<(Servers, Vec<String>), TlsError> {
    let mut known: Vec<Arc<UpstreamServer>> = running.into_iter().flatten().flatten().cloned().collect();
    let in_use = known.iter().filter_map(|server| server.tls.as_ref()?.client.clone()).collect();
    let mut sources = Sources::new(if running.is_some() { Moment::Reload } else { Moment::Start }, in_use);
    let mut read = Vec::new();
    for group in groups {
        let mut servers = Vec::new();
        for member in &group.members {
            let settings = match member {
                Member::Server(server) => server.clone(),
                Member::Source(source) => source.pattern(),
            };
            let new = UpstreamServer::new(settings, &mut sources)?;
            let server = known.iter().find(|known| known.is_as(&new)).cloned().unwrap_or_else(|| Arc::new(new));
            known.push(server.clone());
            servers.push(server);
        }
        read.push(servers);
    }
    Ok((read, sources.into_notes()))
}

impl UpstreamServer {
    /// Reads what authentication needs.
    ///
    /// # Errors
    /// If the server could not be authenticated with what is configured.
    pub fn new(settings: Server, sources: &mut Sources) -> Result<UpstreamServer, TlsError> {
        let tls = settings.tls().map(|terms| Tls::new(&settings, terms, sources)).transpose()?;
        Ok(UpstreamServer::with(settings, tls))
    }

    /// The server with these settings, which are those of this one but for the place and the name; what files say of it
    /// is known already.
    ///
    /// # Errors
    /// If the library refuses it.
    pub fn at(&self, settings: Server) -> Result<UpstreamServer, TlsError> {
        let tls = match (&self.tls, settings.tls()) {
            (Some(tls), Some(terms)) => Some(tls.at(&settings, terms)?),
            // never by accident: what is on TLS stays there
            (_, None) => None,
            (None, Some(_)) => {
                let why = "its pattern is in plain DNS".to_owned();
                return Err(TlsError::Refused(settings.label, why));
            }
        };
        Ok(UpstreamServer::with(settings, tls))
    }

    fn with(settings: Server, tls: Option<Tls>) -> UpstreamServer {
        let (health, doubtful, last_failure, approach) = Default::default();
        let (lifetime, one_answer, tally, smoothed_us, open, departed) = Default::default();
        let (gate, side_gate) = (Semaphore::new(1), Semaphore::new(SIDE_TURNS));
        UpstreamServer {
            settings,
            tls,
            health,
            doubtful,
            last_failure,
            approach,
            lifetime,
            one_answer,
            tally,
            smoothed_us,
            open,
            departed,
            gate,
            side_gate,
        }
    }

    /// Whether a connection to one is as good as a connection to the other.
    pub fn is_as(&self, other: &UpstreamServer) -> bool {
        let same_tls = match (&self.tls, &other.tls) {
            (Some(one), Some(other)) => one.is_as(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.settings == other.settings && same_tls
    }

    /// Counts one more connection for as long as the result is kept; `None` if there are as many as there may be.
    pub fn admit(self: &Arc<UpstreamServer>, most: usize) -> Option<OpenConnection> {
        let one_more = |open: usize| (open < most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(OpenConnection(self.clone()))
    }

    /// Waits until one of its connections has ended. One who waits is told of each.
    pub async fn departure(&self) {
        self.departed.notified().await;
    }

    /// A connection has ended, or whoever was told so does not want its place.
    pub fn departed(&self) {
        self.departed.notify_one();
    }

    /// Waits until nobody else is making a connection to it.
    pub async fn turn(&self) -> Turn<'_> {
        // the gate is never closed, so that there is always a permit
        Turn(self.gate.acquire().await.ok())
    }

    /// Waits until few others make a connection for a query that is a suspect.
    pub async fn side_turn(&self) -> Turn<'_> {
        // nor is this one
        Turn(self.side_gate.acquire().await.ok())
    }

    /// A turn beside that of others, for a server that takes a connection for each query.
    pub fn free_turn(&self) -> Turn<'_> {
        Turn(None)
    }

    /// What is counted for it.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// A worker has found that its answers take so long.
    pub fn answers_within(&self, smoothed: Duration) {
        let us = u64::try_from(smoothed.as_micros()).unwrap_or(u64::MAX);
        self.smoothed_us.store(us.max(1), Ordering::Relaxed);
    }

    /// How long its answers take, as the worker found that reported last.
    pub fn smoothed(&self) -> Option<Duration> {
        match self.smoothed_us.load(Ordering::Relaxed) {
            0 => None,
            us => Some(Duration::from_micros(us)),
        }
    }

    /// How long the next attempt to connect to it may take, where the configuration allows `most`.
    pub fn attempt_limit(&self, most: Duration) -> Duration {
        self.approach.lock().unwrap_or_else(PoisonError::into_inner).limit(most)
    }

    /// A connection to it was made within this time.
    pub fn connected(&self, took: Duration) {
        self.approach.lock().unwrap_or_else(PoisonError::into_inner).succeeded(took);
    }

    /// How long a connection may stay idle before we close it, as far as the server's own closes have taught.
    pub fn idle_limit(&self, now: Instant) -> Option<Duration> {
        self.lifetime.lock().unwrap_or_else(PoisonError::into_inner).limit(now)
    }

    /// It closed a connection that had been idle for so long.
    pub fn closed_idle(&self, idle: Duration, now: Instant) {
        self.lifetime.lock().unwrap_or_else(PoisonError::into_inner).closed_by_server(idle, now);
    }

    /// It ended a connection behind this many answers.
    pub fn closed_behind(&self, answers: u64, now: Instant) {
        let mut lifetime = self.lifetime.lock().unwrap_or_else(PoisonError::into_inner);
        if lifetime.closed_behind(answers, now) {
            log::info!("upstream {}: gives one answer on each connection; each query gets one", self.label());
        }
        self.one_answer.store(lifetime.gives_one_answer(now), Ordering::Relaxed);
    }

    /// Whether it gives one answer on each connection, as was seen not too long ago.
    pub fn gives_one_answer(&self, now: Instant) -> bool {
        // nobody takes the lock for a server that never did, or not of late
        if !self.one_answer.load(Ordering::Relaxed) {
            return false;
        }
        let lifetime = self.lifetime.lock().unwrap_or_else(PoisonError::into_inner);
        let gives_one = lifetime.gives_one_answer(now);
        // under the lock, as whoever learns it does
        self.one_answer.store(gives_one, Ordering::Relaxed);
        gives_one
    }

    /// The network is another one: failures and habits seen over the old one count no more, and nobody shall know us
    /// again.
    pub fn forget(&self) {
        if let Some(tls) = &self.tls {
            tls.tickets.drop_all();
        }
        self.with_health(|health| *health = Health::default());
        *self.approach.lock().unwrap_or_else(PoisonError::into_inner) = Approach::default();
        self.lifetime.lock().unwrap_or_else(PoisonError::into_inner).forget();
        self.one_answer.store(false, Ordering::Relaxed);
    }

    /// Whether an attempt has failed after `moment`, and none succeeded since.
    pub fn failed_after(&self, moment: Instant) -> bool {
        self.with_health(|health| health.failed_after(moment))
    }

    /// Connections to it that are open, those of all workers.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// When and why it last failed.
    pub fn last_failure(&self) -> Option<Failure> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The entry of the configuration.
    pub fn settings(&self) -> &Server {
        &self.settings
    }

    /// As the configuration writes it, for people.
    pub fn label(&self) -> &str {
        &self.settings.label
    }

    /// Its TLS configuration, and the name that its certificate must carry; nothing for a server in plain DNS.
    pub fn tls(&self) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        self.tls.as_ref().map(|tls| (tls.config.clone(), tls.name.clone()))
    }

    /// Whether it is asked in plain DNS, as only a route can say.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Whether it was authenticated at its last full handshake, if there was one. In plain DNS nobody ever is.
    pub fn authenticated(&self) -> Option<bool> {
        self.tls.as_ref().map_or(Some(false), |tls| tls.authenticity.is_authenticated())
    }

    /// What came of its authentication; nothing for plain DNS.
    pub fn authenticity(&self) -> Option<&Authenticity> {
        self.tls.as_ref().map(|tls| &*tls.authenticity)
    }

    /// Whether it rests after failures.
    pub fn rest(&self, now: Instant) -> Option<Rest> {
        if self.is_doubtful() { self.with_health(|health| health.rest(now)) } else { None }
    }

    /// It failed for this reason, over a connection that it had made: that says nothing about the next one.
    pub fn failed(&self, now: Instant, spread: u8, why: &dyn std::fmt::Display) {
        self.note_failure(self.with_health(|health| health.failed(now, now, spread)), why);
    }

    /// An attempt to connect, begun at `began`, failed for this reason.
    pub fn attempt_failed(&self, began: Instant, now: Instant, spread: u8, why: &dyn std::fmt::Display) {
        self.approach.lock().unwrap_or_else(PoisonError::into_inner).failed();
        self.note_failure(self.with_health(|health| health.failed(began, now, spread)), why);
    }

    /// An attempt to connect, begun at `began`, was refused: nobody listens there at present.
    pub fn attempt_refused(&self, began: Instant, now: Instant, spread: u8, why: &dyn std::fmt::Display) {
        self.note_failure(self.with_health(|health| health.refused(began, now, spread)), why);
    }

    /// Takes note of the reason; the first of a row of `failures` is told.
    fn note_failure(&self, failures: Option<u32>, why: &dyn std::fmt::Display) {
        let failure = Failure { at: SystemTime::now(), why: why.to_string() };
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        let level = if failures == Some(1) { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "upstream {}: {why}", self.label());
    }

    /// Whether it has failed and not answered since.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Relaxed)
    }

    /// Whether a copy of a query may be sent to it, although it is doubtful, to find out.
    pub fn take_probe(&self, now: Instant, until: Instant) -> bool {
        self.is_doubtful() && self.with_health(|health| health.take_probe(now, until))
    }

    /// A connection ended, or was given up, with queries unanswered before it had answered any, or fell silent.
    pub fn barren(&self, now: Instant, spread: u8, why: &dyn std::fmt::Display) {
        if self.with_health(|health| health.barren(now)) {
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
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut health);
        self.doubtful.store(health.is_doubtful(), Ordering::Relaxed);
        result
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::UpstreamServer;
    use crate::config::settings::{Server, Transport};
    use crate::pem_pair::Moment;
    use crate::upstream::tls::Sources;
    use std::time::{Duration, Instant};

    #[test]
    fn only_attempts_to_connect_say_how_long_one_may_take() {
        let most = Duration::from_secs(10);
        let (label, address) = ("192.0.2.1".to_owned(), "192.0.2.1:53".parse().unwrap());
        let settings = Server { label, address, transport: Transport::Plain };
        let server = UpstreamServer::new(settings, &mut Sources::new(Moment::Start, Vec::new())).unwrap();
        server.connected(Duration::from_millis(20));
        let (now, usual) = (Instant::now(), server.attempt_limit(most));
        assert!(usual < most);
        server.failed(now, 0, &"silent");
        assert_eq!(server.attempt_limit(most), usual);
        server.attempt_failed(now, now, 0, &"timed out");
        assert_eq!(server.attempt_limit(most), most);
    }
}
