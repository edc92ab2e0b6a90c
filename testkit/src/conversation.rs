//! The reading half of one connection: TLS records in, DNS messages out of them, the script's steps in answer.

use std::io::{ErrorKind, Read, Write};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use rustls::HandshakeKind;

use crate::client_hello::ClientHello;
use crate::dot_server::Shared;
use crate::inspect;
use crate::journal::{Handshake, How, Message, PeerEnd, Record};
use crate::script::{Act, Received, default_answer};
use crate::stage::{PROTOCOL_VERSION_ALERT, Stage, tls11_server_hello};
use crate::tls_records::TlsRecords;
use crate::waker::{Wakeup, Woken};
use crate::wire::{Order, Wire};

/// The connection is over, for whatever reason.
struct Over;

type Flow = Result<(), Over>;

pub(crate) struct Conversation {
    wire: Arc<Wire>,
    wakeup: Wakeup,
    shared: Arc<Shared>,
    stage: Stage,
    handshaken: bool,
    /// The stage has answered the ClientHello itself: rustls has no part in what follows.
    beside_rustls: bool,
    handshake_octets: Vec<u8>,
    dns: Vec<u8>,
    nth: usize,
}

impl Conversation {
    pub(crate) fn new(wire: Arc<Wire>, wakeup: Wakeup, shared: Arc<Shared>, stage: Stage) -> Self {
        Self {
            wire,
            wakeup,
            shared,
            stage,
            handshaken: false,
            beside_rustls: false,
            handshake_octets: Vec::new(),
            dns: Vec::new(),
            nth: 0,
        }
    }

    /// Talks until the connection is over.
    pub(crate) fn run(mut self) {
        let Err(Over) = self.talk();
        let (id, journal) = (self.wire.id, Arc::clone(&self.wire.journal));
        // dropped first: who waits for the end in the journal wants the socket to be closed by then
        drop(self);
        journal.connection(id, |connection| connection.closed = Some(Instant::now()));
    }

    fn talk(&mut self) -> Result<std::convert::Infallible, Over> {
        match self.stage {
            Stage::AcceptThenSilence => self.wire.freeze(),
            Stage::RstAfterAccept => self.wire.close(How::Rst),
            _ => {}
        }
        let mut records = TlsRecords::default();
        let mut buffer = vec![0; 64 * 1024];
        let mut first = true;
        loop {
            let length = self.read(&mut buffer)?;
            let octets = &buffer[..length];
            if mem::take(&mut first) {
                let head = octets[..length.min(64)].to_vec();
                self.wire.journal.connection(self.wire.id, |connection| connection.first_octets = head);
            }
            if self.stage == Stage::PlainDns {
                self.dns.extend_from_slice(octets);
                self.messages()?;
                continue;
            }
            records.push(octets);
            while let Some(record) = records.next() {
                self.record(&record)?;
            }
            self.wire.flush();
        }
    }

    /// Reads what there is; looks after orders and freezing before and while it waits.
    fn read(&self, buffer: &mut [u8]) -> Result<usize, Over> {
        loop {
            if self.wire.order() != Order::GoOn {
                return Err(Over);
            }
            if self.wire.is_frozen() {
                self.stay_frozen()?;
            }
            match self.wakeup.readable(&self.wire.stream) {
                Woken::Socket if !self.wire.is_frozen() => {}
                _ => continue,
            }
            match (&self.wire.stream).read(buffer) {
                Ok(0) => {
                    self.peer_ended(if self.wire.write_failed() { PeerEnd::Rst } else { PeerEnd::Fin });
                    return Err(Over);
                }
                Ok(length) => {
                    self.wire.touch();
                    return Ok(length);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.peer_ended(PeerEnd::Rst);
                    return Err(Over);
                }
            }
        }
    }

    /// Waits for the end without reading; the peer's FIN gets no reply, only a reset ends it.
    fn stay_frozen(&self) -> Flow {
        while self.wire.order() == Order::GoOn {
            let ended = self.wire.journal.read(|journal| journal.connections[self.wire.id].peer_end.is_some());
            let woken = if ended { self.wakeup.pause(None) } else { self.wakeup.peer_end(&self.wire.stream) };
            if woken == Woken::Socket {
                let reset = matches!(self.wire.stream.take_error(), Ok(Some(_)));
                self.peer_ended(if reset { PeerEnd::Rst } else { PeerEnd::Fin });
                if reset {
                    break;
                }
            }
        }
        Err(Over)
    }

    fn peer_ended(&self, how: PeerEnd) {
        self.wire.journal.connection(self.wire.id, |connection| connection.peer_end = Some((how, Instant::now())));
    }

    fn record(&mut self, record: &[u8]) -> Flow {
        if !self.handshaken {
            self.watch_for_hello(record)?;
        }
        if self.beside_rustls {
            if record[0] == 21 {
                let reason = format!("alert {:?}", record.get(6));
                self.wire
                    .journal
                    .connection(self.wire.id, |connection| connection.handshake = Handshake::Failed(reason));
            }
            return Ok(());
        }
        let opened = match self.wire.open(record) {
            Ok(opened) => opened,
            Err(error) => {
                let handshaken = self.handshaken;
                self.wire.journal.connection(self.wire.id, |connection| {
                    if handshaken {
                        connection.tls_error = Some(error.to_string());
                    } else {
                        connection.handshake = Handshake::Failed(error.to_string());
                    }
                });
                self.wire.close(How::Fin);
                return Ok(());
            }
        };
        if !self.handshaken {
            self.go_on_with_handshake();
        }
        if opened.close_notify {
            self.wire.journal.connection(self.wire.id, |connection| {
                connection.peer_close_notify.get_or_insert_with(Instant::now);
            });
        }
        if !opened.plaintext.is_empty() {
            self.dns.extend_from_slice(&opened.plaintext);
            let (connection, plaintext, at) = (self.wire.id, opened.plaintext, Instant::now());
            self.wire.journal.write(|journal| journal.records.push(Record { connection, plaintext, at }));
            self.messages()?;
        }
        Ok(())
    }

    /// Collects the handshake messages in clear, notes a ClientHello and does what the stage says about it.
    fn watch_for_hello(&mut self, record: &[u8]) -> Flow {
        if record[0] != 22 {
            return Ok(());
        }
        self.handshake_octets.extend_from_slice(&record[5..]);
        let Some([1, a, b, c]) = self.handshake_octets.get(..4) else { return Ok(()) };
        let length = 4 + usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        let Some(message) = self.handshake_octets.get(..length) else { return Ok(()) };
        let hello = ClientHello::parse(message);
        self.handshake_octets.clear();
        self.wire.journal.connection(self.wire.id, |connection| {
            connection.hellos += 1;
            if connection.hello.is_none() {
                connection.hello = hello;
            }
        });
        match self.stage {
            Stage::CloseAfterClientHello => {
                self.beside_rustls = true;
                self.wire.close(How::Fin);
            }
            Stage::Tls11ServerHello => self.by_hand(&tls11_server_hello()),
            Stage::ProtocolVersionAlert => self.by_hand(&PROTOCOL_VERSION_ALERT),
            Stage::HandshakeDelay(time) => self.sleep(time)?,
            _ => {}
        }
        Ok(())
    }

    /// Sends octets beside rustls.
    fn by_hand(&mut self, octets: &[u8]) {
        self.beside_rustls = true;
        let _ = (&self.wire.stream).write_all(octets);
        // a FIN behind the ServerHello would let a client off that does not look at the version
        if self.stage == Stage::ProtocolVersionAlert {
            self.wire.close(How::Fin);
        }
    }

    fn go_on_with_handshake(&mut self) {
        let (handshaking, wants_write) = {
            let guard = self.wire.tls();
            let tls = guard.as_ref().expect("TLS is spoken");
            (tls.is_handshaking(), tls.wants_write())
        };
        if self.stage == Stage::SilenceAfterServerHello && wants_write {
            self.wire.flush_first_record();
            self.wire.freeze();
        } else if !handshaking {
            self.handshaken = true;
            self.note_handshake();
        }
        self.wire.flush();
    }

    fn note_handshake(&self) {
        let (done, shown) = {
            let guard = self.wire.tls();
            let tls = guard.as_ref().expect("TLS is spoken");
            let shown = tls.peer_certificates().and_then(|chain| Some(chain.first()?.as_ref().to_vec()));
            let done = Handshake::Done {
                resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
                retried: tls.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest),
                version: tls.protocol_version().map_or(0, u16::from),
                alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
                group: tls.negotiated_key_exchange_group().map(|group| u16::from(group.name())),
                at: Instant::now(),
            };
            (done, shown)
        };
        self.wire.journal.connection(self.wire.id, |connection| {
            (connection.handshake, connection.client_certificate) = (done, shown);
        });
    }

    /// Answers the whole messages in the stream.
    fn messages(&mut self) -> Flow {
        for message in inspect::take_messages(&mut self.dns) {
            let (name, at, late) = (inspect::question_name(&message), Instant::now(), self.wire.has_ended());
            let nth = self.nth;
            self.nth += 1;
            self.wire.journal.message(Message {
                connection: self.wire.id,
                nth,
                octets: message.clone(),
                name: name.clone(),
                at,
                tls: self.stage != Stage::PlainDns,
                late,
            });
            if late || self.wire.is_frozen() || self.wire.order() != Order::GoOn {
                continue;
            }
            let Some(script) = self.shared.script() else {
                // no script of the test's own: nothing in it can block, so the flush can wait for the whole batch
                self.default_answer(&message, false);
                continue;
            };
            let qtype = inspect::qtype(&message);
            let count_so_far = self.shared.count(&name);
            let received = Received { connection: self.wire.id, nth, message, at, name, qtype, count_so_far };
            for act in script(&received) {
                self.perform(act, &received)?;
            }
        }
        Ok(())
    }

    fn default_answer(&self, query: &[u8], flush: bool) {
        if query.len() >= 12 {
            self.wire.answer(&default_answer(query), flush);
        }
    }

    fn perform(&self, act: Act, received: &Received) -> Flow {
        match act {
            Act::Answer(message) => self.wire.answer(&message, true),
            Act::AnswerAfter(time, message) => {
                let wire = Arc::downgrade(&self.wire);
                self.shared.delays.at(Instant::now() + time, move || {
                    if let Some(wire) = wire.upgrade() {
                        wire.answer(&message, true);
                    }
                });
            }
            Act::Default => self.default_answer(&received.message, true),
            Act::Raw(octets) => self.wire.raw(&octets),
            Act::OneOctetRecords(message) => self.wire.one_octet_records(&message),
            Act::CloseNotifyAndFin => self.wire.close(How::CloseNotify),
            Act::Fin => self.wire.close(How::Fin),
            Act::Rst => {
                self.wire.close(How::Rst);
                return Err(Over);
            }
            Act::AnswerCloseFinInOneSegment(message) => self.wire.answer_close_fin(&message),
            Act::KeyUpdate => self.wire.key_update(),
            Act::Silence => {}
            Act::Sleep(time) => self.sleep(time)?,
            Act::GoSilent => self.wire.freeze(),
        }
        Ok(())
    }

    /// Sleeps, but not through the end of the connection.
    fn sleep(&self, time: std::time::Duration) -> Flow {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.wire.order() != Order::GoOn {
                return Err(Over);
            }
            if left.is_zero() || self.wakeup.pause(Some(left)) == Woken::Timeout {
                return Ok(());
            }
        }
    }
}
