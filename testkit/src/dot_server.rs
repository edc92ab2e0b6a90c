//! The scripted DNS-over-TLS server.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::thread;
use std::time::Duration;

use rustls::crypto::SupportedKxGroup;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::conversation::Conversation;
use crate::delay_line::DelayLine;
use crate::journal::{How, Journal, SharedJournal};
use crate::listening::{Listening, Port};
use crate::pki::Identity;
use crate::script::{Act, Received, Script};
use crate::stage::Stage;
use crate::tls_settings::{TlsSettings, Versions};
use crate::waker::waker;
use crate::wire::Wire;

type Change = Box<dyn FnOnce(&mut TlsSettings)>;

/// Makes a [`DotServer`].
pub struct DotServerBuilder {
    listen: SocketAddr,
    identity: Option<Identity>,
    script: Option<Script>,
    stage: Stage,
    changes: Vec<Change>,
}

impl DotServerBuilder {
    /// The server's certificate and key; there is no default.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Where to listen; 127.0.0.1 and a free port by default.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = address.parse().expect("ADDRESS:PORT");
        self
    }

    /// What to do with each message; answers with [`Act::Default`] by default.
    #[must_use]
    pub fn script(mut self, script: impl Fn(&Received) -> Vec<Act> + Send + Sync + 'static) -> Self {
        self.script = Some(Arc::new(script));
        self
    }

    /// Where to go wrong.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }

    /// Which versions of TLS to speak; both by default.
    #[must_use]
    pub fn tls_versions(self, versions: Versions) -> Self {
        self.change(move |settings| settings.versions = versions)
    }

    /// A server that speaks nothing newer than TLS 1.1; the same as [`Stage::Tls11ServerHello`].
    #[must_use]
    pub fn tls11_only(self) -> Self {
        self.stage(Stage::Tls11ServerHello)
    }

    /// The ALPN protocols; only "dot" by default. None: ALPN is ignored.
    #[must_use]
    pub fn alpn(self, protocols: &[&str]) -> Self {
        let protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self.change(move |settings| settings.alpn = protocols)
    }

    /// Selects this ALPN protocol although nobody offered it. Only TLS 1.2 can be forged, so the server speaks it only.
    #[must_use]
    pub fn select_unoffered_alpn(self, protocol: &str) -> Self {
        let protocol = protocol.as_bytes().to_vec();
        self.change(move |settings| settings.forged_alpn = Some(protocol))
    }

    /// How many TLS 1.3 tickets to send after a handshake; 2 by default, 0 turns resumption off for TLS 1.3.
    #[must_use]
    pub fn tickets(self, count: usize) -> Self {
        self.change(move |settings| settings.tickets = count)
    }

    /// The key exchange groups, from `rustls::crypto::aws_lc_rs::kx_group`; all by default.
    #[must_use]
    pub fn kx_groups(self, groups: &[&'static dyn SupportedKxGroup]) -> Self {
        let groups = groups.to_vec();
        self.change(move |settings| settings.groups = Some(groups))
    }

    /// Demands a client certificate that leads to one of these roots.
    #[must_use]
    pub fn require_client_certificate(self, roots: Arc<RootCertStore>) -> Self {
        self.change(move |settings| settings.client_roots = Some(roots))
    }

    fn change(mut self, change: impl FnOnce(&mut TlsSettings) + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Starts the server.
    pub fn start(self) -> DotServer {
        let mut settings = TlsSettings::new(self.identity.expect("an identity"));
        for change in self.changes {
            change(&mut settings);
        }
        let shared = Arc::new(Shared {
            script: RwLock::new(self.script),
            stage: Mutex::new(self.stage),
            config: RwLock::new(settings.config()),
            settings: Mutex::new(settings),
            seen: Mutex::new(HashMap::new()),
            journal: Arc::new(SharedJournal::default()),
            wires: Mutex::new(Vec::new()),
            delays: DelayLine::start(),
            threads: AtomicUsize::new(0),
        });
        let port = Port::reserve(self.listen);
        let server = DotServer { shared, port, listening: Mutex::new(Listening::Nothing) };
        server.set_stage(self.stage);
        server
    }
}

/// What the threads of one server share.
pub(crate) struct Shared {
    script: RwLock<Option<Script>>,
    stage: Mutex<Stage>,
    settings: Mutex<TlsSettings>,
    config: RwLock<Arc<ServerConfig>>,
    seen: Mutex<HashMap<String, usize>>,
    journal: Arc<SharedJournal>,
    wires: Mutex<Vec<Weak<Wire>>>,
    pub(crate) delays: DelayLine,
    threads: AtomicUsize,
}

impl Shared {
    /// The test's own script.
    pub(crate) fn script(&self) -> Option<Script> {
        self.script.read().unwrap().clone()
    }

    /// Counts one more message for this name.
    pub(crate) fn count(&self, name: &str) -> usize {
        let mut seen = self.seen.lock().unwrap();
        let count = seen.entry(name.to_ascii_lowercase()).or_default();
        *count += 1;
        *count
    }

    fn wires(&self) -> Vec<Arc<Wire>> {
        self.wires.lock().unwrap().iter().filter_map(Weak::upgrade).collect()
    }

    fn serve(self: &Arc<Self>, stream: TcpStream) {
        // a peer that is gone already has no address any more
        let Ok(peer) = stream.peer_addr() else { return };
        let _ = stream.set_nodelay(true);
        // a peer that never reads must not hold a thread for ever
        let _ = stream.set_write_timeout(Some(Duration::from_secs(10)));
        let stage = *self.stage.lock().unwrap();
        let (tls, forged) = if stage == Stage::PlainDns {
            (None, None)
        } else {
            let config = Arc::clone(&self.config.read().unwrap());
            let mut tls = ServerConnection::new(config).expect("a usable configuration");
            tls.set_buffer_limit(None);
            (Some(tls), self.settings.lock().unwrap().forged_alpn.clone())
        };
        let (waker, wakeup) = waker();
        let id = self.journal.accept(peer);
        let wire = Arc::new(Wire::new(id, stream, Arc::clone(&self.journal), tls, forged, waker));
        let mut wires = self.wires.lock().unwrap();
        wires.retain(|wire| wire.strong_count() > 0);
        wires.push(Arc::downgrade(&wire));
        drop(wires);
        let conversation = Conversation::new(wire, wakeup, Arc::clone(self), stage);
        let number = self.threads.fetch_add(1, Relaxed);
        let name = format!("testkit-conn-{number}");
        thread::Builder::new().name(name).spawn(move || conversation.run()).expect("a thread");
    }
}

/// A running DNS-over-TLS server that does what its script says; it ends when it is dropped.
pub struct DotServer {
    shared: Arc<Shared>,
    port: Port,
    listening: Mutex<Listening>,
}

impl DotServer {
    /// A server to be set up.
    pub fn builder() -> DotServerBuilder {
        DotServerBuilder {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            identity: None,
            script: None,
            stage: Stage::Normal,
            changes: Vec::new(),
        }
    }

    /// A good server with the default script.
    pub fn start(identity: Identity) -> Self {
        Self::builder().identity(identity).start()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address
    }

    /// Changes the script for all connections.
    pub fn set_script(&self, script: impl Fn(&Received) -> Vec<Act> + Send + Sync + 'static) {
        *self.shared.script.write().unwrap() = Some(Arc::new(script));
    }

    /// Goes back to the default script.
    pub fn set_default_script(&self) {
        *self.shared.script.write().unwrap() = None;
    }

    /// Changes the stage for new connections; opens or closes the port as the stage needs it.
    pub fn set_stage(&self, stage: Stage) {
        *self.shared.stage.lock().unwrap() = stage;
        let mut listening = self.listening.lock().unwrap();
        match stage {
            Stage::RefuseConnections => *listening = Listening::Nothing,
            Stage::BlackHoleSyn => {
                *listening = Listening::Nothing;
                *listening = Listening::full_queue(&self.port);
            }
            _ if matches!(*listening, Listening::Accepting { .. }) => {}
            _ => {
                *listening = Listening::Nothing;
                let shared = Arc::clone(&self.shared);
                *listening = Listening::accept(&self.port, move |stream| shared.serve(stream));
            }
        }
    }

    /// Changes certificate and key for new connections; tickets stay valid.
    pub fn set_identity(&self, identity: Identity) {
        self.reconfigure(|settings| settings.identity = identity);
    }

    /// Changes the versions for new connections.
    pub fn set_tls_versions(&self, versions: Versions) {
        self.reconfigure(|settings| settings.versions = versions);
    }

    /// Changes the ticket keys: no session from before can be resumed.
    pub fn forget_sessions(&self) {
        self.reconfigure(TlsSettings::forget_sessions);
    }

    fn reconfigure(&self, change: impl FnOnce(&mut TlsSettings)) {
        let mut settings = self.shared.settings.lock().unwrap();
        change(&mut settings);
        *self.shared.config.write().unwrap() = settings.config();
    }

    /// Closes the port; connections that exist live on.
    pub fn stop_accepting(&self) {
        *self.listening.lock().unwrap() = Listening::Nothing;
    }

    /// Opens the same port again, at the stage the server was at ([`Stage::Normal`] if that was a closed port).
    pub fn restart(&self) {
        let stage = *self.shared.stage.lock().unwrap();
        let closed = matches!(stage, Stage::RefuseConnections | Stage::BlackHoleSyn);
        self.set_stage(if closed { Stage::Normal } else { stage });
    }

    /// The server goes down: the port is closed and so are all connections.
    pub fn go_down(&self, how: How) {
        self.stop_accepting();
        self.close_all(how);
    }

    /// Closes all connections that exist. After `CloseNotify` and `Fin` the server still reads, to see what the peer does.
    pub fn close_all(&self, how: How) {
        for wire in self.shared.wires() {
            wire.close(how);
        }
    }

    /// Closes the connections on which nothing has been received or answered for this long, as servers do with idle ones.
    pub fn close_idle(&self, limit: Duration, how: How) {
        for wire in self.shared.wires().iter().filter(|wire| wire.idle_for() >= limit) {
            wire.close(how);
        }
    }

    /// Lets all connections that exist go silent both ways, without closing them; new ones work.
    ///
    /// The kernel still acknowledges what the peer sends: a path on which even that is missing needs a packet filter.
    pub fn freeze_existing(&self) {
        for wire in self.shared.wires() {
            wire.freeze();
        }
    }

    /// Sends octets of the stream on a connection, unasked, as [`Act::Raw`] does.
    pub fn send_raw(&self, connection: usize, octets: &[u8]) {
        self.shared.wires().iter().filter(|wire| wire.id == connection).for_each(|wire| wire.raw(octets));
    }

    /// A copy of the journal.
    pub fn journal(&self) -> Journal {
        self.shared.journal.read(Journal::clone)
    }

    /// Looks into the journal without copying it.
    pub fn with_journal<R>(&self, look: impl FnOnce(&Journal) -> R) -> R {
        self.shared.journal.read(look)
    }

    /// Forgets records and messages, keeps the connections: a long test needs no memory of its start.
    pub fn clear_messages(&self) {
        self.shared.journal.write(|journal| {
            journal.records.clear();
            journal.messages.clear();
        });
    }

    /// Waits until the journal meets the condition; false if it does not in time.
    pub fn wait_for(&self, condition: impl FnMut(&Journal) -> bool, timeout: Duration) -> bool {
        self.shared.journal.wait_for(condition, timeout)
    }
}

impl Drop for DotServer {
    fn drop(&mut self) {
        self.stop_accepting();
        for wire in self.shared.wires() {
            wire.leave();
        }
    }
}
