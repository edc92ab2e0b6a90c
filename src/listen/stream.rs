//! Streams: accepting connections, and one task for each that reads queries and writes answers as they come, in any
//! order (RFC 7766 §6.2.1.1).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, TcpListener as StdTcpListener};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::Sleep;

use super::crowd::Crowd;
use super::desk::Desk;
use super::handshake::{LONGEST, shake_hands};
use super::limits::{Limits, Seat};
use super::seats::Seats;
use super::shift::Duty;
use crate::dns::crossing::Link;
use crate::dns::framing::Inflow;
use crate::dns::message::HEADER;
use crate::pace;
use crate::pending::Pending;
use crate::query::{Gone, Path, Verdict};
use crate::relay::Relay;

/// Octets read at once from a client. Queries are small, and an idle client should cost little.
const READ_BUFFER: usize = 1024;
/// Reads in one turn, so that one busy client does not starve the others.
const READS_PER_TURN: usize = 16;
/// Places for queries under way that stay when there is none, for a client that asks one thing after another.
const PLACES: usize = 1;
/// How long accepting pauses when the process has no file or memory left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What clients speak below DNS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP (RFC 7858).
    Tls,
}

/// All connections of a worker's clients, whichever listener accepted them.
pub struct Hall {
    path: Rc<Path>,
    limits: Cell<Limits>,
    /// How clients on TLS are met.
    tls: RefCell<Option<Arc<ServerConfig>>>,
    /// The places of all workers' clients.
    seats: Arc<Seats>,
    worker: usize,
    duty: Rc<Duty>,
    desks: RefCell<HashMap<u64, Rc<Desk>>>,
    stopped: Cell<bool>,
}

impl Hall {
    /// The hall of this worker, without connections.
    pub fn new(path: Rc<Path>, limits: Limits, seats: Arc<Seats>, worker: usize, duty: Rc<Duty>) -> Hall {
        let (limits, tls, desks, stopped) =
            (Cell::new(limits), Default::default(), Default::default(), Cell::new(false));
        Hall { path, limits, tls, seats, worker, duty, desks, stopped }
    }

    /// From now on clients on TLS are met with this; connections that there are stay as they are.
    pub fn meet_with(&self, tls: Option<Arc<ServerConfig>>) {
        self.tls.replace(tls);
    }

    /// Other limits from now on, also for the connections that there are.
    pub fn renew(&self, limits: Limits) {
        self.limits.set(limits);
        for desk in self.desks.borrow().values() {
            desk.limit_unread(limits.unread);
        }
    }

    /// Has connections make room for those that come after them, for as long as it is polled.
    pub async fn make_room(&self) -> Infallible {
        loop {
            for number in self.seats.leaving(self.worker).await {
                if let Some(desk) = self.desks.borrow().get(&number) {
                    desk.make_room();
                }
            }
        }
    }

    /// Reads no more queries; each connection ends when its answers have been written.
    pub fn stop(&self) {
        self.stopped.set(true);
        for desk in self.desks.borrow().values() {
            desk.ring();
        }
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.desks.borrow().is_empty()
    }

    /// The place of a newcomer, if there is one, and its desk.
    ///
    /// The desk is known before the connection's task first runs: many connections may be accepted in one turn, and
    /// those whose places the later ones take must be found.
    fn admit(&self, client: IpAddr) -> Option<(Seat, Rc<Desk>)> {
        let seat = self.seats.admit(self.worker, client, Instant::now());
        if seat.as_ref().is_none_or(|seat| seat.instead_of.is_some()) {
            self.path.counters().tcp_limited.add(1);
        }
        let seat = seat?;
        let desk = Rc::new(Desk::new(self.limits.get().unread));
        self.desks.borrow_mut().insert(seat.number, desk.clone());
        self.duty.connected();
        Some((seat, desk))
    }

    /// A connection has ended.
    fn leave(&self, number: u64) {
        if self.desks.borrow_mut().remove(&number).is_some() {
            self.duty.disconnected();
        }
        self.seats.leave(number);
    }
}

/// Accepts connections, of plain TCP or of TLS, for as long as it is polled, while this worker is to accept them.
///
/// # Errors
/// If the first worker cannot watch the listener: nobody would.
pub async fn accept(listener: StdTcpListener, hall: Rc<Hall>, transport: Transport) -> io::Result<Infallible> {
    loop {
        poll_fn(|context| if hall.duty.poll_accepts(context) { Poll::Ready(()) } else { Poll::Pending }).await;
        match listener.try_clone().and_then(TcpListener::from_std) {
            Ok(watched) => accept_for_now(&watched, &hall, transport).await,
            Err(error) if hall.duty.is_first() => return Err(error),
            Err(error) => {
                // whoever accepts already goes on
                log::warn!("watching a listener: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_for_now(listener: &TcpListener, hall: &Rc<Hall>, transport: Transport) {
    while hall.duty.accepts() {
        match listener.accept().await {
            Ok((stream, peer)) => {
                hall.path.counters().tcp_connections.add(1);
                hall.duty.looked(Instant::now(), pace::done);
                if matches!(transport, Transport::Tls) && !hall.path.rules().allows(peer.ip()) {
                    // a handshake costs more than a stranger is worth; over plain TCP there is a reply that says why
                    hall.path.counters().prohibited.add(1);
                    continue;
                }
                let Some((seat, desk)) = hall.admit(peer.ip()) else { continue };
                // without it an answer would wait for the acknowledgement of the one before
                if let Err(error) = stream.set_nodelay(true) {
                    log::debug!("a client's connection: {error}");
                }
                match transport {
                    Transport::Tcp => drop(spawn_local(converse(stream, peer.ip(), seat, desk, hall.clone(), false))),
                    Transport::Tls => drop(spawn_local(greet(stream, peer.ip(), seat, desk, hall.clone()))),
                }
            }
            // the client went away before it was accepted; that is its own affair
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                log::warn!("accepting a connection: {error}; trying again every {} ms", ACCEPT_PAUSE.as_millis());
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | HostUnreachable | Interrupted | NetworkUnreachable | TimedOut
    )
}

/// Serves one client on TLS: the handshake, unless the connection must end before, and then the rest.
async fn greet(stream: TcpStream, client: IpAddr, seat: Seat, desk: Rc<Desk>, hall: Rc<Hall>) {
    let tls = hall.tls.borrow().clone();
    let Some(tls) = tls else { return hall.leave(seat.number) };
    let limit = hall.limits.get().idle.min(LONGEST);
    let mut handshake = pin!(shake_hands(stream, tls, limit, hall.path.counters()));
    let met = poll_fn(|context| {
        desk.listen(context);
        if desk.makes_room() || hall.stopped.get() { Poll::Ready(None) } else { handshake.as_mut().poll(context) }
    });
    match met.await {
        Some(stream) => converse(stream, client, seat, desk, hall.clone(), true).await,
        None => hall.leave(seat.number),
    }
}

/// Serves one client's connection until it ends.
async fn converse<S>(stream: S, client: IpAddr, seat: Seat, desk: Rc<Desk>, hall: Rc<Hall>, encrypted: bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (now, number) = (Instant::now(), seat.number);
    let mut conversation = Conversation {
        stream,
        encrypted,
        client,
        seat,
        inflow: Inflow::up_to(READ_BUFFER),
        writing: Vec::new(),
        written: 0,
        unsent: false,
        reading: true,
        marked_idle: true,
        last_message: now,
        last_progress: now,
        timer: Box::pin(tokio::time::sleep(hall.limits.get().idle)),
        crowd: Crowd::new(PLACES),
        ask: Relay::new,
        desk: desk.clone(),
        hall: hall.clone(),
    };
    let result = poll_fn(|context| conversation.poll(context)).await;
    if let Err(error) = result {
        log::debug!("a client's connection: {error}");
    }
    desk.break_off();
    hall.leave(number);
    if !conversation.crowd.is_empty() {
        // others may wait for the same, and the memory learns it
        spawn_local(conversation.crowd.finish(move |_| hall.path.counters().unsent_answers.add(1)));
    }
}

struct Conversation<S, A, F> {
    stream: S,
    encrypted: bool,
    client: IpAddr,
    seat: Seat,
    inflow: Inflow,
    /// What is being written; new answers gather in the desk meanwhile.
    writing: Vec<u8>,
    written: usize,
    /// Whether the stream holds octets back that the client has not taken yet, as TLS does.
    unsent: bool,
    reading: bool,
    marked_idle: bool,
    last_message: Instant,
    last_progress: Instant,
    timer: Pin<Box<Sleep>>,
    /// The queries that are asked.
    crowd: Crowd<F, ()>,
    ask: A,
    desk: Rc<Desk>,
    hall: Rc<Hall>,
}

impl<S: AsyncRead + AsyncWrite + Unpin, A: Fn(Rc<Path>, Pending) -> F, F: Future<Output = Vec<u8>>>
    Conversation<S, A, F>
{
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.desk.listen(context);
        self.crowd.listen(context);
        if self.desk.is_broken() {
            return Poll::Ready(Ok(()));
        }
        if self.desk.makes_room() {
            self.reading = false;
        }
        // before reading: what is answered makes room for what is read
        self.crowd.poll(context, |((), answer)| self.desk.answered(answer));
        if let Poll::Ready(Err(error)) = self.read(context) {
            return Poll::Ready(Err(error));
        }
        let was_full = !self.has_room();
        if let Poll::Ready(Err(error)) = self.write(context) {
            return Poll::Ready(Err(error));
        }
        if was_full && self.has_room() {
            // reading was put off for the answers that have just been written: nothing else would take it up again
            context.waker().wake_by_ref();
        }
        let finished = !self.reading || self.hall.stopped.get();
        if finished && self.desk.in_flight() == 0 && !self.is_writing() {
            let closed = self.close(context);
            if self.desk.makes_room() {
                // what cannot be said at once is not said: another has its place
                return Poll::Ready(Ok(()));
            }
            if closed.is_ready() {
                return closed;
            }
        }
        self.mark();
        self.look_at_time(context)
    }

    /// Says that nothing more comes. The client has as long to take that as it has to take answers.
    fn close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        if closed.is_pending() {
            self.reading = false;
            self.unsent = true;
            self.last_progress = Instant::now();
        }
        closed
    }

    fn is_writing(&self) -> bool {
        self.unsent || self.written < self.writing.len() || self.desk.unwritten() > 0
    }

    fn unread(&self) -> usize {
        self.writing.len() - self.written + self.desk.unwritten()
    }

    /// Whether another query may be read: back-pressure instead of refusal.
    fn has_room(&self) -> bool {
        let limits = self.hall.limits.get();
        self.desk.in_flight() < limits.in_flight && self.unread() < limits.unread
    }

    fn read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..READS_PER_TURN {
            self.take_messages();
            if !self.reading || self.hall.stopped.get() || !self.has_room() {
                return Poll::Pending;
            }
            let mut buffer = ReadBuf::new(self.inflow.room());
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                // TLS without a goodbye: what came before was whole messages, or is none
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                result => result?,
            }
            let count = buffer.filled().len();
            self.inflow.filled(count);
            // the client has said all it wants to say, and may still listen (RFC 1035 §4.2.2)
            self.reading = count > 0;
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn take_messages(&mut self) {
        while self.reading && !self.hall.stopped.get() && self.has_room() {
            let Some(message) = self.inflow.next_message() else { return };
            self.last_message = Instant::now();
            self.hall.duty.looked(self.last_message, pace::done);
            if message.len() < HEADER {
                // whoever counts like this is not speaking DNS
                self.hall.path.counters().not_queries.add(1);
                self.reading = false;
                return;
            }
            self.hall.path.counters().tcp_queries.add(1);
            pace::asked(1);
            let link = Link::Stream { idle: self.hall.limits.get().idle, encrypted: self.encrypted };
            let (desk, path) = (self.desk.clone(), self.hall.path.clone());
            match path.receive(message, self.client, link) {
                Verdict::Silence => self.reading = false,
                Verdict::Reply(answer) => self.desk.reply(answer),
                Verdict::Relay(pending) => {
                    desk.began();
                    let done = self.crowd.begin((), (self.ask)(path, pending));
                    done.into_iter().for_each(|((), answer)| desk.answered(answer));
                }
                Verdict::Transfer(pending) => {
                    desk.began();
                    spawn_local(async move {
                        let send =
                            async |answer: Vec<u8>| desk.hand_in_when_read(answer).await.then_some(()).ok_or(Gone);
                        tokio::select! {
                            // a transfer that ends too early must not look whole
                            result = path.transfer(pending, send) => if result.is_err() { desk.break_off() },
                            // nobody is left to wait for what the server may still send
                            () = desk.ended() => {}
                        }
                        desk.done();
                    });
                }
            }
        }
    }

    /// Writes what there is; length and message leave together (RFC 7766 §8).
    fn write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.written == self.writing.len() {
                self.writing.clear();
                self.written = 0;
                if self.writing.capacity() > 4 * READ_BUFFER {
                    // what a burst of answers took is given back
                    self.writing = Vec::new();
                }
                self.desk.swap(&mut self.writing);
                if self.writing.is_empty() {
                    let flushed = Pin::new(&mut self.stream).poll_flush(context);
                    self.unsent = flushed.is_pending();
                    return flushed;
                }
                self.last_progress = Instant::now();
            }
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &self.writing[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.last_progress = Instant::now();
            self.last_message = self.last_progress;
        }
    }

    /// Says whether this connection could make room for another.
    fn mark(&mut self) {
        let idle = self.desk.in_flight() == 0 && !self.is_writing();
        if idle != self.marked_idle {
            self.marked_idle = idle;
            self.seat.mark.set(idle.then(Instant::now));
        }
    }

    /// When this connection will have been of no use for too long; `None` while an answer is outstanding.
    fn due(&self) -> Option<Instant> {
        if self.is_writing() {
            Some(self.last_progress + self.hall.limits.get().write)
        } else if self.desk.in_flight() == 0 {
            Some(self.last_message + self.hall.limits.get().idle)
        } else {
            None
        }
    }

    fn look_at_time(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(due) = self.due() {
            if self.timer.deadline() > due.into() {
                self.timer.as_mut().reset(due.into());
            }
            ready!(self.timer.as_mut().poll(context));
            if Instant::now() < due {
                self.timer.as_mut().reset(due.into());
                continue;
            }
            if self.is_writing() {
                let why = "the client does not read its answers";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            let closed = self.close(context);
            if closed.is_ready() {
                return closed;
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod stream_tests;
