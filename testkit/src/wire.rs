//! The sending half of one connection. The reader, the delay line and the test itself all send through it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustls::ServerConnection;
use socket2::SockRef;

use crate::alpn_forgery;
use crate::inspect::take_messages;
use crate::journal::{How, SharedJournal};
use crate::message::framed;
use crate::tls_records::first_record_length;
use crate::waker::Waker;

/// What the reader is told to do when it is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    GoOn,
    Reset,
    Leave,
}

pub(crate) struct Wire {
    pub(crate) id: usize,
    pub(crate) stream: TcpStream,
    pub(crate) journal: Arc<SharedJournal>,
    /// `None`: plain DNS over TCP.
    tls: Mutex<Option<ServerConnection>>,
    forged_alpn: Mutex<Option<Vec<u8>>>,
    waker: Waker,
    /// When something was last received or answered.
    busy_at: Mutex<Instant>,
    order: AtomicU8,
    frozen: AtomicBool,
    ended: AtomicBool,
    write_failed: AtomicBool,
}

/// What one TLS record brought.
pub(crate) struct Opened {
    pub(crate) plaintext: Vec<u8>,
    pub(crate) close_notify: bool,
}

impl Wire {
    pub(crate) fn new(
        id: usize,
        stream: TcpStream,
        journal: Arc<SharedJournal>,
        tls: Option<ServerConnection>,
        forged_alpn: Option<Vec<u8>>,
        waker: Waker,
    ) -> Self {
        Self {
            id,
            stream,
            journal,
            tls: Mutex::new(tls),
            forged_alpn: Mutex::new(forged_alpn),
            waker,
            busy_at: Mutex::new(Instant::now()),
            order: AtomicU8::new(0),
            frozen: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            write_failed: AtomicBool::new(false),
        }
    }

    /// The TLS state; for the reader, which must not hold it across a wait.
    pub(crate) fn tls(&self) -> MutexGuard<'_, Option<ServerConnection>> {
        self.tls.lock().unwrap()
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(SeqCst)
    }

    /// Something was received or answered just now.
    pub(crate) fn touch(&self) {
        *self.busy_at.lock().unwrap() = Instant::now();
    }

    /// For how long nothing has been received or answered.
    pub(crate) fn idle_for(&self) -> Duration {
        self.busy_at.lock().unwrap().elapsed()
    }

    /// Whether the server has closed its direction.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    pub(crate) fn order(&self) -> Order {
        match self.order.load(SeqCst) {
            0 => Order::GoOn,
            1 => Order::Reset,
            _ => Order::Leave,
        }
    }

    pub(crate) fn freeze(&self) {
        self.frozen.store(true, SeqCst);
        self.waker.wake();
    }

    pub(crate) fn leave(&self) {
        self.order.store(2, SeqCst);
        self.waker.wake();
    }

    /// Gives one record to rustls and takes out what was in it.
    pub(crate) fn open(&self, record: &[u8]) -> Result<Opened, rustls::Error> {
        let mut guard = self.tls();
        let tls = guard.as_mut().expect("TLS is spoken");
        let mut rest = record;
        while !rest.is_empty() {
            if !matches!(tls.read_tls(&mut rest), Ok(1..)) {
                break;
            }
        }
        let state = tls.process_new_packets()?;
        let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
        tls.reader().read_exact(&mut plaintext).expect("the plaintext that was announced");
        Ok(Opened { plaintext, close_notify: state.peer_has_closed() })
    }

    /// Sends a message in a record of its own; without `flush` it waits for the next [`Self::flush`].
    pub(crate) fn answer(&self, message: &[u8], flush: bool) {
        self.journal.answered(self.id, message);
        self.touch();
        self.put(&framed(message));
        if flush {
            self.flush();
        }
    }

    /// Sends these octets of the stream in one record.
    pub(crate) fn raw(&self, octets: &[u8]) {
        for message in take_messages(&mut octets.to_vec()) {
            self.journal.answered(self.id, &message);
        }
        self.put(octets);
        self.flush();
    }

    /// Sends each octet of the framed message in a record of its own.
    pub(crate) fn one_octet_records(&self, message: &[u8]) {
        self.journal.answered(self.id, message);
        for octet in framed(message) {
            self.put(&[octet]);
        }
        self.flush();
    }

    /// Sends answer, close_notify and FIN in one go.
    pub(crate) fn answer_close_fin(&self, message: &[u8]) {
        let socket = SockRef::from(&self.stream);
        // corked, the kernel keeps the data back until the FIN can go with it
        let _ = socket.set_tcp_cork(true);
        self.answer(message, false);
        self.close(How::CloseNotify);
        let _ = socket.set_tcp_cork(false);
    }

    pub(crate) fn key_update(&self) {
        if let Some(tls) = self.tls().as_mut() {
            // TLS 1.2 has no such thing
            let _ = tls.refresh_traffic_keys();
        }
        self.flush();
    }

    /// Ends the server's direction; the reader goes on, to see what the peer does.
    pub(crate) fn close(&self, how: How) {
        if self.is_frozen() && how != How::Rst {
            return;
        }
        if self.ended.swap(true, SeqCst) && how != How::Rst {
            return;
        }
        self.journal.connection(self.id, |connection| connection.server_end = Some((how, Instant::now())));
        match how {
            How::Rst => {
                // the reset itself is the close of the last handle with a linger time of zero
                let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                self.order.store(1, SeqCst);
                self.waker.wake();
            }
            How::Fin | How::CloseNotify => {
                if how == How::CloseNotify
                    && let Some(tls) = self.tls().as_mut()
                {
                    tls.send_close_notify();
                }
                self.flush();
                let _ = self.stream.shutdown(Shutdown::Write);
            }
        }
    }

    /// Queues octets of the stream as one record (plain DNS: sends them).
    fn put(&self, octets: &[u8]) {
        if self.is_frozen() {
            return;
        }
        match self.tls().as_mut() {
            // after close_notify rustls takes no more: nothing is lost that anybody could read
            Some(tls) => drop(tls.writer().write_all(octets)),
            None => self.write(octets),
        }
    }

    /// Writes out what rustls has ready.
    pub(crate) fn flush(&self) {
        self.write_out(false);
    }

    /// Writes out the first record only and drops the rest.
    pub(crate) fn flush_first_record(&self) {
        self.write_out(true);
    }

    fn write_out(&self, first_record_only: bool) {
        let mut guard = self.tls();
        let Some(tls) = guard.as_mut() else { return };
        let mut flight = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut flight).expect("a vector takes all");
        }
        if self.is_frozen() || flight.is_empty() {
            return;
        }
        let mut forged_alpn = self.forged_alpn.lock().unwrap();
        if let Some(forged) = forged_alpn.as_deref().and_then(|protocol| alpn_forgery::forge(&flight, protocol)) {
            flight = forged;
            *forged_alpn = None;
        }
        let length = if first_record_only { first_record_length(&flight) } else { flight.len() };
        // the lock is held so that records of two threads do not mix
        self.write(&flight[..length]);
    }

    /// The kernel reports a reset once: if a write got to know it, the reader sees a mere end of the stream.
    pub(crate) fn write_failed(&self) -> bool {
        self.write_failed.load(SeqCst)
    }

    fn write(&self, octets: &[u8]) {
        if (&self.stream).write_all(octets).is_err() {
            self.write_failed.store(true, SeqCst);
        }
    }
}
