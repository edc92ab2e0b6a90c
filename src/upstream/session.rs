//! An authenticated stream at work: what waits is framed and written, what comes is read and handed out, and the time is
//! looked at.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::awaited::Teller;
use super::inflight::{Ids, InFlight, Match};
use super::outcome::{Limits, Outcome, Trouble};
use super::server::UpstreamServer;
use super::shared::{Phase, Shared, end_queue};
use super::tally::End;
use super::tempo::Tempo;
use crate::dns::framing::{Inflow, put, record_length};
use crate::dns::keepalive::granted_keepalive;
use crate::dns::message::{ReadMessage, set_id};
use crate::metrics::Counters;
use crate::pace;
use crate::spares;

/// Octets of plaintext kept ready for one read; a record has half as many.
const READ_BUFFER: usize = 32 * 1024;
/// Octets framed ahead of the socket. More waits in the queue, where it can still be withdrawn.
const WRITE_AHEAD: usize = 64 * 1024;
/// Reads in one turn, so that one busy resolver does not starve the worker's other sockets. A read brings one record, in
/// which there often is one answer: these are as many answers as one system call sends to clients.
const READS_PER_TURN: usize = 64;
/// How often a connection looks at its limits of time.
const TICK: Duration = Duration::from_millis(500);
/// How long the goodbye of a connection may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// A server that closes so soon after an answer closes because of it.
const BEHIND: Duration = Duration::from_millis(20);
/// After so long a rest a connection may have died without notice: a firewall forgot it, a laptop moved.
const LONG_REST: Duration = Duration::from_secs(3);
/// A connection that was made for later use and has waited for so long stands ready.
const STOOD_READY: Duration = Duration::from_millis(400);

/// Why a connection ended, for the counters and for people.
pub struct Ended {
    /// Its kind.
    pub end: End,
    /// In words.
    pub why: String,
}

fn ended(end: End, why: impl Into<String>) -> Ended {
    Ended { end, why: why.into() }
}

/// An authenticated connection at work.
pub struct Session<S> {
    stream: S,
    inflow: Inflow,
    out: Vec<u8>,
    written: usize,
    record_end: usize,
    unflushed: bool,
    /// Queries sent and not answered, with those who wait.
    pub in_flight: InFlight<Teller<Outcome>>,
    ids: Ids,
    limits: Rc<Cell<Limits>>,
    /// How long the server keeps an idle connection, less a margin, if it said so.
    granted: Duration,
    last_activity: Instant,
    tick: Pin<Box<Sleep>>,
    /// Since when it says goodbye, and why it ends.
    goodbye: Option<(Instant, End)>,
    /// Whether it has answered at all.
    pub served: bool,
    /// Answers that came.
    answers: u64,
    /// Messages that answered no query.
    strays: u64,
    /// Whether it was sent nothing until it had stood idle for a while: its server may close it with every right.
    pub stood_ready: bool,
    made: Instant,
    /// How fast the server answers, as this worker sees it.
    tempo: Rc<Cell<Tempo>>,
    /// What the server's tally has not been told yet.
    untold: Untold,
    server: Arc<UpstreamServer>,
    counters: Arc<Counters>,
    shared: Rc<Shared>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// A session that has sent nothing yet.
    pub fn new(
        stream: S,
        ids: Ids,
        limits: Rc<Cell<Limits>>,
        server: Arc<UpstreamServer>,
        counters: Arc<Counters>,
        shared: Rc<Shared>,
        tempo: Rc<Cell<Tempo>>,
    ) -> Session<S> {
        let now = Instant::now();
        let tick = Box::pin(tokio::time::sleep(limits.get().idle.min(TICK)));
        Session {
            stream,
            inflow: Inflow::up_to(READ_BUFFER),
            out: Vec::new(),
            written: 0,
            record_end: 0,
            unflushed: false,
            in_flight: InFlight::default(),
            ids,
            limits,
            granted: Duration::MAX,
            last_activity: now,
            tick,
            goodbye: None,
            served: false,
            answers: 0,
            strays: 0,
            stood_ready: false,
            made: now,
            tempo,
            untold: Untold::default(),
            server,
            counters,
            shared,
        }
    }

    /// One turn: read, send what waits, look at the time. Ready with the reason when the connection has ended.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        self.shared.bell.listen(context);
        if let Poll::Ready(why) = self.read(context) {
            return Poll::Ready(why);
        }
        self.take_queue();
        if let Poll::Ready(Err(error)) = self.write(context) {
            return Poll::Ready(self.broken(&error));
        }
        while self.tick.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            if let Some(why) = self.overdue(now) {
                return Poll::Ready(why);
            }
            self.tell_tally();
            let idle_end = self.last_activity + self.idle_limit(now);
            let next = if idle_end > now { idle_end.min(now + TICK) } else { now + TICK };
            self.tick.as_mut().reset(next.into());
        }
        if self.goodbye.is_none() && self.shared.phase.get() == Phase::Closing {
            self.end_if_unused(End::Retired);
        }
        match self.goodbye {
            Some((_, end)) => {
                // whether the goodbye arrives is the server's affair
                let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(context));
                Poll::Ready(goodbye(end))
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
            if !job.waiter.is_awaited() {
                continue;
            }
            let at = self.out.len() + 2;
            put(&mut self.out, job.asked.bytes());
            let id = self.in_flight.insert(job.asked, job.waiter, now, || self.ids.draw());
            set_id(&mut self.out[at..], id);
            self.counters.upstream_queries.add(1);
            self.untold.queries += 1;
            if self.in_flight.len() == 1 && !self.served && now >= self.made + STOOD_READY {
                self.stood_ready = true;
            }
            self.shared.unheard.set(self.shared.unheard.get().saturating_add(1));
            if self.shared.takes_one.get() {
                self.shared.phase.set(Phase::Closing);
            }
            if now >= self.last_activity + LONG_REST {
                self.shared.woken.set(true);
            }
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
            self.untold.sent += count as u64;
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
    fn read(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        let (mut received, mut last) = (0, None);
        for _ in 0..READS_PER_TURN {
            // where a message is longer than that, what is behind it may not have room as well
            if self.inflow.is_time_to_take(READ_BUFFER) {
                break;
            }
            let mut buffer = ReadBuf::new(self.inflow.room());
            let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer).map_ok(|()| buffer.filled().len());
            match read {
                Poll::Ready(Ok(count @ 1..)) => {
                    self.inflow.filled(count);
                    received += count;
                }
                Poll::Ready(_) | Poll::Pending => {
                    last = Some(read);
                    break;
                }
            }
        }
        if received > 0 && !self.take_in(received) {
            return Poll::Ready(ended(End::Nonsense, "the server sent something that is no response"));
        }
        match last {
            None => context.waker().wake_by_ref(),
            Some(Poll::Pending) => {}
            Some(Poll::Ready(Ok(_))) => return Poll::Ready(self.closed("closed by the server")),
            Some(Poll::Ready(Err(error))) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Poll::Ready(self.closed("closed by the server without notice"));
            }
            Some(Poll::Ready(Err(error))) => return Poll::Ready(self.broken(&error)),
        }
        Poll::Pending
    }

    /// Hands out what has been received; false if it is nothing that could go on.
    fn take_in(&mut self, received: usize) -> bool {
        let now = Instant::now();
        self.last_activity = now;
        self.untold.received += received as u64;
        let (answers, strays) = (self.answers, self.strays);
        if !self.deliver(now) {
            return false;
        }
        // messages that answer nothing are no sign that answers will come
        if self.answers > answers || self.strays == strays {
            self.shared.last_received.set(Some(now));
            self.shared.unheard.set(0);
            self.shared.woken.set(false);
            self.shared.suspected_at.set(None);
        }
        true
    }

    /// Hands out the whole messages that have come. False if one was none.
    fn deliver(&mut self, now: Instant) -> bool {
        let before = self.answers;
        let all_were_responses = self.hand_out(now);
        pace::answered(usize::try_from(self.answers - before).unwrap_or(0));
        all_were_responses
    }

    fn hand_out(&mut self, now: Instant) -> bool {
        // what is read of the first queries is near by the time that the last ones have been found
        self.inflow.messages().for_each(|message| self.in_flight.fetch(message, Teller::fetch));
        while let Some(message) = self.inflow.next_message() {
            match self.in_flight.take(message) {
                Match::Answer(waiter, sent_at, view) => {
                    self.counters.upstream_answers.add(1);
                    self.untold.answers += 1;
                    let mut tempo = self.tempo.get();
                    tempo.observe(now.saturating_duration_since(sent_at), now);
                    self.tempo.set(tempo);
                    self.served = true;
                    self.answers += 1;
                    if !self.shared.proven.replace(true) {
                        self.server.answered();
                    }
                    let granted = view.as_ref().and_then(granted_keepalive);
                    let answer = ReadMessage::copied(message, view.as_ref(), spares::take());
                    let is_sent = waiter.tell(Outcome::Answer(answer));
                    self.counters.unsent_answers.add(u64::from(!is_sent));
                    if let Some(granted) = granted {
                        self.keep_for(granted);
                    }
                }
                Match::Garbled(waiter) => {
                    self.counters.upstream_garbled.add(1);
                    let trouble = Trouble::Garbled;
                    waiter.tell(Outcome::Lost { sent: true, blameless: false, trouble });
                }
                Match::Stray => {
                    self.counters.upstream_strays.add(1);
                    self.strays += 1;
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

    fn idle_limit(&self, now: Instant) -> Duration {
        let learned = self.server.idle_limit(now).unwrap_or(Duration::MAX);
        self.limits.get().idle.min(self.granted).min(learned)
    }

    /// The server has closed the connection. With nothing in flight that is no fault, and teaches how long it waits.
    fn closed(&mut self, why: &str) -> Ended {
        let now = Instant::now();
        if self.shared.last_received.get().is_some_and(|last| now < last + BEHIND) {
            self.server.closed_behind(self.answers, now);
        }
        if !self.in_flight.is_empty() {
            return ended(End::ClosedBusy, why);
        }
        self.server.closed_idle(now.saturating_duration_since(self.last_activity), now);
        ended(End::ClosedIdle, why)
    }

    /// The stream failed; a reset is how some servers close what is idle.
    fn broken(&mut self, error: &io::Error) -> Ended {
        let is_reset = matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
        if is_reset && self.in_flight.is_empty() {
            return self.closed(&error.to_string());
        }
        ended(End::Broken, error.to_string())
    }

    /// Adds to the server's tally what was done since the last time.
    pub fn tell_tally(&mut self) {
        let Untold { queries, answers, sent, received } = std::mem::take(&mut self.untold);
        if let Some(smoothed) = self.tempo.get().smoothed().filter(|_| answers > 0) {
            self.server.answers_within(smoothed);
        }
        let tally = self.server.tally();
        for (total, count) in [
            (&tally.queries, queries),
            (&tally.answers, answers),
            (&tally.octets_sent, sent),
            (&tally.octets_received, received),
        ] {
            if count > 0 {
                total.add(count);
            }
        }
    }

    /// How long it had been idle when it ended.
    pub fn idle_time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_activity)
    }

    /// Looks at the time: idle, silent, or full of queries that nobody waits for.
    fn overdue(&mut self, now: Instant) -> Option<Ended> {
        if let Some((since, end)) = self.goodbye {
            return (now >= since + GOODBYE).then(|| goodbye(end));
        }
        let limits = self.limits.get();
        if let Some(oldest) = self.in_flight.oldest().filter(|&oldest| now >= oldest + limits.deadline) {
            if self.shared.last_received.get().is_none_or(|last| last < oldest) {
                return Some(ended(End::Silent, format!("silent for {} ms", (now - oldest).as_millis())));
            }
            if self.in_flight.len() > limits.in_flight / 2 {
                // IDs of unanswered queries are never used again here: a new connection has all of them
                self.shared.phase.set(Phase::Closing);
            }
        }
        if now >= self.last_activity + self.idle_limit(now) && self.shared.queue.borrow().is_empty() {
            self.end_if_unused(End::Idle);
        }
        None
    }

    /// Begins the goodbye unless somebody waits for an answer.
    fn end_if_unused(&mut self, end: End) {
        let queued = self.shared.queue.borrow().iter().any(|job| job.waiter.is_awaited());
        if !queued && !self.in_flight.any_waiter(Teller::is_awaited) {
            self.shared.phase.set(Phase::Closing);
            self.goodbye = Some((Instant::now(), end));
        }
    }
}

fn goodbye(end: End) -> Ended {
    ended(end, if end == End::Idle { "idle" } else { "no longer used" })
}

/// What the server's tally has not been told yet.
#[derive(Default)]
struct Untold {
    queries: u64,
    answers: u64,
    sent: u64,
    received: u64,
}
