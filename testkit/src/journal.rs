//! What the server saw, with times; tests wait for it and judge by it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::client_hello::ClientHello;
use crate::inspect;

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// close_notify, then FIN.
    CloseNotify,
    /// FIN without close_notify.
    Fin,
    /// Reset.
    Rst,
}

/// How the peer ended its direction of the TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEnd {
    /// FIN.
    Fin,
    /// Reset, or the path failed.
    Rst,
}

/// How far the TLS handshake of a connection came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Not finished.
    Pending,
    /// Finished.
    Done {
        /// Whether a session was resumed.
        resumed: bool,
        /// Whether a HelloRetryRequest was needed.
        retried: bool,
        /// 0x0303 or 0x0304.
        version: u16,
        /// The selected ALPN protocol.
        alpn: Option<Vec<u8>>,
        /// The key exchange group, if there was a key exchange.
        group: Option<u16>,
        /// When.
        at: Instant,
    },
    /// Failed, and why: the peer's alert for instance.
    Failed(String),
}

/// One accepted connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Ordinal, from 0.
    pub id: usize,
    /// When it was accepted.
    pub accepted: Instant,
    /// The peer's address.
    pub peer: SocketAddr,
    /// The first octets on the wire, up to 64: the proof that TLS was spoken, or not.
    pub first_octets: Vec<u8>,
    /// The first ClientHello.
    pub hello: Option<ClientHello>,
    /// How many ClientHellos came (two after a HelloRetryRequest).
    pub hellos: usize,
    /// The handshake.
    pub handshake: Handshake,
    /// The certificate that the peer showed, or had shown when the resumed session began, in DER.
    pub client_certificate: Option<Vec<u8>>,
    /// How the server closed it, if it did first.
    pub server_end: Option<(How, Instant)>,
    /// When the peer's close_notify came.
    pub peer_close_notify: Option<Instant>,
    /// How the peer ended it.
    pub peer_end: Option<(PeerEnd, Instant)>,
    /// When the server had done with it.
    pub closed: Option<Instant>,
    /// A TLS error after the handshake.
    pub tls_error: Option<String>,
    /// The largest number of messages that were unanswered at once.
    pub max_in_flight: usize,
    /// How often a message came with the ID of another one that was still unanswered.
    pub reused_ids: usize,
    unanswered: HashMap<u16, usize>,
    in_flight: usize,
}

impl Connection {
    /// Whether the server still holds it.
    pub fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    /// Whether neither side has ended it.
    pub fn is_alive(&self) -> bool {
        self.is_open() && self.server_end.is_none() && self.peer_end.is_none() && self.peer_close_notify.is_none()
    }

    /// Whether the handshake finished.
    pub fn is_established(&self) -> bool {
        matches!(self.handshake, Handshake::Done { .. })
    }

    /// Whether the handshake finished by resumption.
    pub fn is_resumed(&self) -> bool {
        matches!(self.handshake, Handshake::Done { resumed: true, .. })
    }

    /// Messages not answered yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }
}

/// The plaintext of one TLS application data record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its connection.
    pub connection: usize,
    /// Its plaintext.
    pub plaintext: Vec<u8>,
    /// When it arrived.
    pub at: Instant,
}

/// One DNS message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its connection.
    pub connection: usize,
    /// Ordinal on its connection, from 0.
    pub nth: usize,
    /// The message without its length prefix.
    pub octets: Vec<u8>,
    /// The question's name, case as sent.
    pub name: String,
    /// When it was complete.
    pub at: Instant,
    /// Whether it came inside TLS.
    pub tls: bool,
    /// Whether the server had closed its direction before: nobody was going to answer.
    pub late: bool,
}

/// Everything the server saw.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// All accepted connections.
    pub connections: Vec<Connection>,
    /// All TLS application data records.
    pub records: Vec<Record>,
    /// All DNS messages.
    pub messages: Vec<Message>,
}

impl Journal {
    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.connections.len()
    }

    /// Connections the server still holds.
    pub fn open(&self) -> usize {
        self.connections.iter().filter(|connection| connection.is_open()).count()
    }

    /// Connections whose handshake finished.
    pub fn established(&self) -> usize {
        self.connections.iter().filter(|connection| connection.is_established()).count()
    }

    /// The messages that asked for this name, in any case.
    pub fn messages_named(&self, name: &str) -> Vec<&Message> {
        let name = name.trim_end_matches('.');
        self.messages.iter().filter(|message| message.name.eq_ignore_ascii_case(name)).collect()
    }

    /// The records of one connection.
    pub fn records_of(&self, connection: usize) -> Vec<&Record> {
        self.records.iter().filter(|record| record.connection == connection).collect()
    }

    /// The largest number of messages unanswered at once on one connection.
    pub fn max_in_flight(&self, connection: usize) -> usize {
        self.connections[connection].max_in_flight
    }
}

/// The journal as the server's threads share it.
#[derive(Default)]
pub(crate) struct SharedJournal {
    journal: Mutex<Journal>,
    changed: Condvar,
}

impl SharedJournal {
    pub(crate) fn write<R>(&self, change: impl FnOnce(&mut Journal) -> R) -> R {
        let result = change(&mut self.journal.lock().unwrap());
        self.changed.notify_all();
        result
    }

    pub(crate) fn connection<R>(&self, id: usize, change: impl FnOnce(&mut Connection) -> R) -> R {
        self.write(|journal| change(&mut journal.connections[id]))
    }

    pub(crate) fn read<R>(&self, look: impl FnOnce(&Journal) -> R) -> R {
        look(&self.journal.lock().unwrap())
    }

    pub(crate) fn wait_for(&self, mut condition: impl FnMut(&Journal) -> bool, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut journal = self.journal.lock().unwrap();
        loop {
            if condition(&journal) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            journal = self.changed.wait_timeout(journal, left).unwrap().0;
            // under load the journal changes thousands of times a second, and the condition may look at all of it
            drop(journal);
            std::thread::sleep(Duration::from_micros(500));
            journal = self.journal.lock().unwrap();
        }
    }

    pub(crate) fn accept(&self, peer: SocketAddr) -> usize {
        self.write(|journal| {
            let id = journal.connections.len();
            journal.connections.push(Connection {
                id,
                accepted: Instant::now(),
                peer,
                first_octets: Vec::new(),
                hello: None,
                hellos: 0,
                handshake: Handshake::Pending,
                client_certificate: None,
                server_end: None,
                peer_close_notify: None,
                peer_end: None,
                closed: None,
                tls_error: None,
                max_in_flight: 0,
                reused_ids: 0,
                unanswered: HashMap::new(),
                in_flight: 0,
            });
            id
        })
    }

    pub(crate) fn message(&self, message: Message) {
        self.write(|journal| {
            if !message.late {
                let connection = &mut journal.connections[message.connection];
                let same_id = connection.unanswered.entry(inspect::id(&message.octets)).or_default();
                connection.reused_ids += usize::from(*same_id > 0);
                *same_id += 1;
                connection.in_flight += 1;
                connection.max_in_flight = connection.max_in_flight.max(connection.in_flight);
            }
            journal.messages.push(message);
        });
    }

    /// Notes that the message with this ID has its answer.
    pub(crate) fn answered(&self, connection: usize, answer: &[u8]) {
        self.connection(connection, |connection| {
            if let Some(count @ 1..) = connection.unanswered.get_mut(&inspect::id(answer)) {
                *count -= 1;
                connection.in_flight -= 1;
            }
        });
    }
}
