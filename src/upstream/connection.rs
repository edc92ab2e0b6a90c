//! One pipelined TLS connection to a server: a task that owns the stream and does both directions.
//!
//! Queries wait in a queue until the handshake has authenticated the server and an ID is free; everything that waits
//! goes out in one record and one write. Whatever ends the connection tells each waiter whether its query was sent.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::establish::{UpstreamStream, establish};
use super::inflight::{Asked, Ids, InFlight, Match};
use super::server::UpstreamServer;
use crate::bell::Bell;
use crate::dns::crossing::granted_keepalive;
use crate::dns::framing::{Inflow, put, record_length};
use crate::dns::message::{Message, set_id};
use crate::metrics::Counters;

/// Octets of plaintext kept ready for one read; a record has half as many.
const READ_BUFFER: usize = 32 * 1024;
/// Octets framed ahead of the socket. More waits in the queue, where it can still be withdrawn.
const WRITE_AHEAD: usize = 64 * 1024;
/// Reads in one turn, so that one busy resolver does not starve the worker's other sockets.
const READS_PER_TURN: usize = 8;
/// How often a connection looks at its limits of time.
const TICK: Duration = Duration::from_millis(500);
/// How long the goodbye of a connection may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// The limits of a connection, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time for TCP and TLS together.
    pub connect: Duration,
    /// How long an idle connection stays open, unless the server says less.
    pub idle: Duration,
    /// How long a query may wait at all; what is older has no waiter.
    pub deadline: Duration,
    /// Queries in flight.
    pub in_flight: usize,
    /// Queries waiting to be sent.
    pub queue: usize,
}

/// Why a query got no answer over a connection.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// TCP or TLS did not come about.
    Connect(String),
    /// The connection ended.
    Ended(String),
    /// The answer could not be read.
    Garbled,
    /// Too many queries wait.
    QueueFull,
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Connect(why) => write!(out, "no connection: {why}"),
            Trouble::Ended(why) => write!(out, "connection ended: {why}"),
            Trouble::Garbled => out.write_str("its answer cannot be read"),
            Trouble::QueueFull => out.write_str("too many queries wait for it"),
        }
    }
}

/// What became of a query.
#[derive(Debug)]
pub enum Outcome {
    /// The answer, with the ID of the connection.
    Answer(Vec<u8>),
    /// None, and none will come.
    Lost {
        /// Whether the resolver may have the query.
        sent: bool,
        /// Whether the connection had served before and merely ended.
        blameless: bool,
        /// Why.
        trouble: Trouble,
    },
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// No query has been sent yet.
    Connecting,
    /// Authenticated.
    Open,
    /// Takes no more queries.
    Closing,
}

struct Job {
    asked: Rc<Asked>,
    waiter: oneshot::Sender<Outcome>,
}

/// What the task and those who ask share.
struct Shared {
    phase: Cell<Phase>,
    authenticated: Cell<bool>,
    last_received: Cell<Instant>,
    /// Whether it has answered, and was not given up as silent since.
    proven: Cell<bool>,
    queue: RefCell<VecDeque<Job>>,
    bell: Bell,
}

/// A connection, as those see it who ask over it.
pub struct Connection {
    id: u64,
    limits: Rc<Cell<Limits>>,
    shared: Rc<Shared>,
}

impl Connection {
    /// Starts a connection to the server, on the worker's own thread. A reload may change its limits.
    pub fn open(id: u64, server: Arc<UpstreamServer>, limits: Rc<Cell<Limits>>, counters: Arc<Counters>) -> Connection {
        let shared = Rc::new(Shared {
            phase: Cell::new(Phase::Connecting),
            authenticated: Cell::new(false),
            last_received: Cell::new(Instant::now()),
            proven: Cell::new(false),
            queue: RefCell::default(),
            bell: Bell::default(),
        });
        tokio::task::spawn_local(run(server, limits.clone(), counters, shared.clone()));
        Connection { id, limits, shared }
    }

    /// Tells connections of one worker apart.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How far it has come.
    pub fn phase(&self) -> Phase {
        self.shared.phase.get()
    }

    /// Whether the server has proved who it is, so that queries may have been sent; this stays true to the end.
    pub fn was_authenticated(&self) -> bool {
        self.shared.authenticated.get()
    }

    /// Whether it has answered, and was not given up as silent since.
    pub fn is_proven(&self) -> bool {
        self.shared.proven.get()
    }

    /// Given up as silent: takes no more queries, and an answer that comes after all will be news.
    pub fn retire_as_silent(&self) {
        self.shared.proven.set(false);
        self.retire();
    }

    /// When octets last came from the server.
    pub fn last_received(&self) -> Instant {
        self.shared.last_received.get()
    }

    /// Hands over a query.
    ///
    /// # Errors
    /// If the connection takes no more.
    pub fn ask(&self, asked: Rc<Asked>) -> Result<oneshot::Receiver<Outcome>, Trouble> {
        let mut queue = self.shared.queue.borrow_mut();
        if self.phase() == Phase::Closing {
            return Err(Trouble::Ended("closing".to_owned()));
        }
        let limit = self.limits.get().queue;
        if queue.len() >= limit {
            // those who gave up make room
            queue.retain(|job| !job.waiter.is_closed());
            if queue.len() >= limit {
                return Err(Trouble::QueueFull);
            }
        }
        let (waiter, outcome) = oneshot::channel();
        queue.push_back(Job { asked, waiter });
        drop(queue);
        self.shared.bell.ring();
        Ok(outcome)
    }

    /// Takes no more queries; those in flight may still be answered, then it closes.
    pub fn retire(&self) {
        self.shared.phase.set(Phase::Closing);
        self.shared.bell.ring();
    }
}

async fn run(server: Arc<UpstreamServer>, limits: Rc<Cell<Limits>>, counters: Arc<Counters>, shared: Rc<Shared>) {
    let mut ids = Ids::default();
    let spread = ids.draw().to_be_bytes()[0];
    let stream = match establish(&server, limits.get().connect).await {
        Ok(stream) => stream,
        Err(why) => {
            counters.upstream_connect_failures.add(1);
            let trouble = Trouble::Connect(why);
            server.failed(Instant::now(), spread, &trouble);
            end_queue(&shared, &trouble);
            return;
        }
    };
    counters.upstream_connections.add(1);
    let _open = server.opened();
    let state = stream.get_ref().1;
    counters.upstream_resumed.add(u64::from(state.handshake_kind() == Some(rustls::HandshakeKind::Resumed)));
    log::debug!("upstream {}: connected, {:?}, {:?}", server.label(), state.protocol_version(), state.handshake_kind());
    shared.authenticated.set(true);
    if shared.phase.get() == Phase::Connecting {
        shared.phase.set(Phase::Open);
    }
    let mut session = Session::new(stream, ids, limits, server.clone(), counters.clone(), shared.clone());
    let why = std::future::poll_fn(|context| session.poll(context)).await;
    shared.phase.set(Phase::Closing);
    log::debug!("upstream {}: connection ended: {why}", server.label());
    let trouble = Trouble::Ended(why);
    let unanswered = !session.in_flight.is_empty() && !session.served;
    let lost: Vec<_> = session.in_flight.drain().filter(|waiter| !waiter.is_closed()).collect();
    if unanswered && server.is_doubtful() {
        // the probe of a doubtful server failed, whether or not somebody still waits for it
        server.failed(Instant::now(), spread, &trouble);
    } else if unanswered && !lost.is_empty() {
        server.barren(Instant::now(), spread, &trouble);
    }
    for waiter in lost {
        counters.upstream_lost.add(1);
        // a waiter that is gone needs no telling
        drop(waiter.send(Outcome::Lost { sent: true, blameless: session.served, trouble: trouble.clone() }));
    }
    end_queue(&shared, &trouble);
}

/// Tells those whose queries were never sent.
fn end_queue(shared: &Shared, trouble: &Trouble) {
    shared.phase.set(Phase::Closing);
    let blameless = matches!(trouble, Trouble::Ended(_));
    for job in shared.queue.take() {
        // a waiter that is gone needs no telling
        drop(job.waiter.send(Outcome::Lost { sent: false, blameless, trouble: trouble.clone() }));
    }
}

/// An authenticated connection at work.
struct Session {
    stream: UpstreamStream,
    inflow: Inflow,
    out: Vec<u8>,
    written: usize,
    record_end: usize,
    unflushed: bool,
    in_flight: InFlight<oneshot::Sender<Outcome>>,
    ids: Ids,
    limits: Rc<Cell<Limits>>,
    /// How long the server keeps an idle connection, less a margin, if it said so.
    granted: Duration,
    last_activity: Instant,
    tick: Pin<Box<Sleep>>,
    /// Since when it says goodbye, and why it ends.
    goodbye: Option<(Instant, &'static str)>,
    served: bool,
    server: Arc<UpstreamServer>,
    counters: Arc<Counters>,
    shared: Rc<Shared>,
}

impl Session {
    fn new(
        stream: UpstreamStream,
        ids: Ids,
        limits: Rc<Cell<Limits>>,
        server: Arc<UpstreamServer>,
        counters: Arc<Counters>,
        shared: Rc<Shared>,
    ) -> Session {
        let tick = Box::pin(tokio::time::sleep(limits.get().idle.min(TICK)));
        Session {
            stream,
            inflow: Inflow::with_capacity(READ_BUFFER),
            out: Vec::new(),
            written: 0,
            record_end: 0,
            unflushed: false,
            in_flight: InFlight::default(),
            ids,
            limits,
            granted: Duration::MAX,
            last_activity: Instant::now(),
            tick,
            goodbye: None,
            served: false,
            server,
            counters,
            shared,
        }
    }

    /// One turn: read, send what waits, look at the time. Ready with the reason when the connection has ended.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<String> {
        self.shared.bell.listen(context);
        if let Poll::Ready(why) = self.read(context) {
            return Poll::Ready(why);
        }
        self.take_queue();
        if let Poll::Ready(Err(error)) = self.write(context) {
            return Poll::Ready(error.to_string());
        }
        while self.tick.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            if let Some(why) = self.overdue(now) {
                return Poll::Ready(why);
            }
            let idle_end = self.last_activity + self.idle_limit();
            let next = if idle_end > now { idle_end.min(now + TICK) } else { now + TICK };
            self.tick.as_mut().reset(next.into());
        }
        if self.goodbye.is_none() && self.shared.phase.get() == Phase::Closing {
            self.end_if_unused("no longer used");
        }
        match self.goodbye {
            Some((_, why)) => {
                let result = ready!(Pin::new(&mut self.stream).poll_shutdown(context));
                Poll::Ready(result.err().map_or_else(|| why.to_owned(), |error| error.to_string()))
            }
            None => Poll::Pending,
        }
    }

    /// Gives queued queries their IDs and frames them.
    fn take_queue(&mut self) {
        if self.shared.phase.get() == Phase::Closing {
            // what has not been sent goes over another connection at once
            end_queue(&self.shared, &Trouble::Ended("closing".to_owned()));
            return;
        }
        let mut queue = self.shared.queue.borrow_mut();
        if queue.is_empty() {
            return;
        }
        if self.written >= WRITE_AHEAD {
            // under load it may never become empty: what has left makes room
            self.out.drain(..self.written);
            self.record_end -= self.written;
            self.written = 0;
        }
        let (now, most) = (Instant::now(), self.limits.get().in_flight);
        while self.in_flight.len() < most && self.out.len() - self.written < WRITE_AHEAD {
            let Some(job) = queue.pop_front() else { break };
            if job.waiter.is_closed() {
                continue;
            }
            let at = self.out.len() + 2;
            put(&mut self.out, job.asked.bytes());
            let id = self.in_flight.insert(job.asked, job.waiter, now, || self.ids.draw());
            set_id(&mut self.out[at..], id);
            self.counters.upstream_queries.add(1);
            self.last_activity = now;
        }
    }

    fn write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            if self.written >= self.record_end {
                self.record_end = self.written + record_length(&self.out[self.written..]);
            }
            let chunk = &self.out[self.written..self.record_end];
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, chunk))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.unflushed = true;
            if self.written == self.out.len() {
                self.out.clear();
                (self.written, self.record_end) = (0, 0);
                // room in the write-ahead buffer: more may wait
                self.take_queue();
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what is there, at most a turn's worth. Ready with the reason when nothing more will come.
    fn read(&mut self, context: &mut Context<'_>) -> Poll<String> {
        for _ in 0..READS_PER_TURN {
            let mut buffer = ReadBuf::new(self.inflow.room());
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => return Poll::Ready("closed by the server".to_owned()),
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready("closed by the server without notice".to_owned());
                }
                Err(error) => return Poll::Ready(error.to_string()),
            }
            let count = buffer.filled().len();
            self.inflow.filled(count);
            let now = Instant::now();
            self.shared.last_received.set(now);
            self.last_activity = now;
            if !self.deliver() {
                return Poll::Ready("the server sent something that is no response".to_owned());
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands out the whole messages that have come. False if one was none.
    fn deliver(&mut self) -> bool {
        while let Some(message) = self.inflow.next_message() {
            match self.in_flight.take(message) {
                Match::Answer(waiter) => {
                    self.counters.upstream_answers.add(1);
                    self.served = true;
                    if !self.shared.proven.replace(true) {
                        self.server.answered();
                    }
                    let granted = Message::parse(message).ok().and_then(|answer| granted_keepalive(&answer));
                    let unsent = waiter.send(Outcome::Answer(message.to_vec())).is_err();
                    self.counters.unsent_answers.add(u64::from(unsent));
                    if let Some(granted) = granted {
                        self.keep_for(granted);
                    }
                }
                Match::Garbled(waiter) => {
                    self.counters.upstream_garbled.add(1);
                    let trouble = Trouble::Garbled;
                    drop(waiter.send(Outcome::Lost { sent: true, blameless: false, trouble }));
                }
                Match::Stray => {
                    self.counters.upstream_strays.add(1);
                    log::debug!("upstream {}: dropped a message that answers no query", self.server.label());
                }
                Match::NoResponse => return false,
            }
        }
        true
    }

    /// The server says how long it keeps an idle connection; we close a little before (RFC 7828 §3.4).
    fn keep_for(&mut self, granted: Duration) {
        if granted.is_zero() {
            self.shared.phase.set(Phase::Closing);
        } else {
            self.granted = self.granted.min(granted - granted / 10);
        }
    }

    fn idle_limit(&self) -> Duration {
        self.limits.get().idle.min(self.granted)
    }

    /// Looks at the time: idle, silent, or full of queries that nobody waits for.
    fn overdue(&mut self, now: Instant) -> Option<String> {
        if let Some((since, why)) = self.goodbye {
            return (now >= since + GOODBYE).then(|| why.to_owned());
        }
        let limits = self.limits.get();
        if let Some(oldest) = self.in_flight.oldest().filter(|&oldest| now >= oldest + limits.deadline) {
            if self.shared.last_received.get() < oldest {
                return Some(format!("silent for {} ms", (now - oldest).as_millis()));
            }
            if self.in_flight.len() > limits.in_flight / 2 {
                // IDs of unanswered queries are never used again here: a new connection has all of them
                self.shared.phase.set(Phase::Closing);
            }
        }
        if now >= self.last_activity + self.idle_limit() && self.shared.queue.borrow().is_empty() {
            self.end_if_unused("idle");
        }
        None
    }

    /// Begins the goodbye unless somebody waits for an answer.
    fn end_if_unused(&mut self, why: &'static str) {
        let queued = self.shared.queue.borrow().iter().any(|job| !job.waiter.is_closed());
        if !queued && !self.in_flight.any_waiter(|waiter| !waiter.is_closed()) {
            self.shared.phase.set(Phase::Closing);
            self.goodbye = Some((Instant::now(), why));
        }
    }
}
