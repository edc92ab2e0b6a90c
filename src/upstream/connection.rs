//! One pipelined TLS connection to a server: a task that owns the stream and does both directions.
//!
//! Queries wait in a queue until the handshake has authenticated the server and an ID is free; everything that waits
//! goes out in one record and one write. Whatever ends the connection tells each waiter whether its query was sent.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::awaited::{Awaited, Teller, pair};
use super::establish::establish;
use super::inflight::{Asked, Ids};
use super::outcome::{Limits, Outcome, Trouble};
use super::plain::exchange;
use super::server::{OpenConnection, UpstreamServer};
use super::session::Session;
use super::shared::{Job, Phase, Shared, end_queue};
use super::tally::End;
use super::tempo::Tempo;
use crate::metrics::Counters;

/// Exchanges in plain DNS with one server at a time: each has a socket.
const EXCHANGES: usize = 1000;
/// How often is looked whether a connection that must wait for the end of another one is wanted any more.
const WANTED: Duration = Duration::from_millis(100);

/// What a connection is made for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// For queries that wait, and others.
    Queries,
    /// For queries to come.
    Ahead,
    /// For one query: the server gives one answer on each connection.
    One,
    /// For one query that was on connections which ended, perhaps because of it: others shall not be lost with it.
    Suspect,
}

impl Purpose {
    fn takes_one(self) -> bool {
        matches!(self, Purpose::One | Purpose::Suspect)
    }
}

/// What a connection is made with.
pub struct Order {
    /// To whom.
    pub server: Arc<UpstreamServer>,
    /// Within which limits; a reload may change them.
    pub limits: Rc<Cell<Limits>>,
    /// This worker's counters.
    pub counters: Arc<Counters>,
    /// How fast the server answers, as this worker sees it.
    pub tempo: Rc<Cell<Tempo>>,
    /// What it is made for.
    pub purpose: Purpose,
}

/// How an authenticated connection ended: its kind, and how long it had been idle.
pub struct Farewell {
    /// The kind.
    pub end: End,
    /// Idle time at the end.
    pub idle: Duration,
}

/// A connection, as those see it who ask over it.
pub struct Connection {
    id: u64,
    limits: Rc<Cell<Limits>>,
    shared: Rc<Shared>,
    single: bool,
}

impl Connection {
    /// Starts a connection to the server, on the worker's own thread; `on_end` is called when it has ended, if it was
    /// authenticated.
    pub fn open(id: u64, order: Order, on_end: impl FnOnce(Farewell) + 'static) -> Connection {
        let shared: Rc<Shared> = Rc::default();
        shared.takes_one.set(order.purpose.takes_one());
        let (limits, task) = (order.limits.clone(), shared.clone());
        tokio::task::spawn_local(async move {
            if let Some(farewell) = run(order, task).await {
                on_end(farewell);
            }
        });
        Connection { id, limits, shared, single: false }
    }

    /// Starts one exchange in plain DNS: it takes one query, at once, and is over with it.
    pub fn single(id: u64, order: Order) -> Connection {
        let shared: Rc<Shared> = Rc::default();
        shared.phase.set(Phase::Open);
        let (limits, task) = (order.limits.clone(), shared.clone());
        tokio::task::spawn_local(async move {
            task.phase.set(Phase::Closing);
            let job = task.queue.borrow_mut().pop_front();
            if let Some(job) = job {
                run_single(order, job).await;
            }
        });
        Connection { id, limits, shared, single: true }
    }

    /// Whether it is one exchange in plain DNS.
    pub fn is_single(&self) -> bool {
        self.single
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

    /// Given up: takes no more queries, those that wait are asked for elsewhere, and an answer that comes after all will
    /// be news.
    pub fn give_up(&self) {
        self.shared.proven.set(false);
        self.shared.given_up.set(true);
        self.retire();
        if !self.was_authenticated() {
            // those whose queries were never sent need not wait to be asked for elsewhere
            end_queue(&self.shared, &Trouble::Ended("given up".to_owned()));
        }
    }

    /// Whether it was given up.
    pub fn is_given_up(&self) -> bool {
        self.shared.given_up.get()
    }

    /// When its handshake was done, if it is.
    pub fn opened(&self) -> Option<Instant> {
        self.shared.opened.get()
    }

    /// Whether octets have come from the server since `moment`.
    pub fn has_been_heard_since(&self, moment: Instant) -> bool {
        self.shared.last_received.get().is_some_and(|last| last >= moment)
    }

    /// Whether nothing has come since it was used again after a long rest.
    pub fn is_woken(&self) -> bool {
        self.shared.woken.get()
    }

    /// Finds it silent, unless nobody did for `confirmation` yet: what came meanwhile may wait to be read, on a machine
    /// that was busy with something else.
    pub fn is_silent(&self, now: Instant, confirmation: Duration) -> bool {
        let suspected_at = self.shared.suspected_at.get().unwrap_or(now);
        self.shared.suspected_at.set(Some(suspected_at));
        now >= suspected_at + confirmation
    }

    /// Whether somebody has found it silent, and nothing has come since.
    pub fn is_suspected(&self) -> bool {
        self.shared.suspected_at.get().is_some()
    }

    /// Queries sent since octets last came.
    pub fn unheard(&self) -> u32 {
        self.shared.unheard.get()
    }

    /// Hands over a query.
    ///
    /// # Errors
    /// If the connection takes no more.
    pub fn ask(&self, asked: Rc<Asked>) -> Result<Awaited<Outcome>, Trouble> {
        let mut queue = self.shared.queue.borrow_mut();
        if self.phase() == Phase::Closing {
            return Err(Trouble::Ended("closing".to_owned()));
        }
        let limit = self.limits.get().queue;
        if queue.len() >= limit {
            // those who gave up make room
            queue.retain(|job| job.waiter.is_awaited());
            if queue.len() >= limit {
                return Err(Trouble::QueueFull);
            }
        }
        let (waiter, outcome) = pair();
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

async fn run_single(order: Order, job: Job) {
    let Order { server, limits, counters, tempo, .. } = order;
    let Some(_open) = server.admit(EXCHANGES) else {
        let trouble = Trouble::QueueFull;
        // a waiter that is gone needs no telling
        job.waiter.tell(Outcome::Lost { sent: false, blameless: false, trouble });
        return;
    };
    counters.upstream_queries.add(1);
    let (limits, began) = (limits.get(), Instant::now());
    let outcome = tokio::select! {
        outcome = exchange(&server, job.asked.clone(), limits.connect, began + limits.deadline) => outcome,
        // a server that failed is waited for although nobody else waits: its answer is news
        () = job.waiter.forsaken(), if !server.is_doubtful() => return,
    };
    if matches!(outcome, Outcome::Answer(_)) {
        counters.upstream_answers.add(1);
        let mut measured = tempo.get();
        measured.observe(began.elapsed(), Instant::now());
        tempo.set(measured);
    }
    counters.unsent_answers.add(u64::from(!job.waiter.tell(outcome)));
}

/// Whether somebody waits for a connection that has not been made.
fn is_wanted(shared: &Shared, purpose: Purpose) -> bool {
    let is_awaited = || shared.queue.borrow().iter().any(|job| job.waiter.is_awaited());
    shared.phase.get() != Phase::Closing && (purpose == Purpose::Ahead || is_awaited())
}

/// Waits until there may be one more connection to the server; nothing when nobody waits for it any more.
async fn admitted(
    server: &Arc<UpstreamServer>,
    limits: &Cell<Limits>,
    shared: &Shared,
    purpose: Purpose,
) -> Option<OpenConnection> {
    loop {
        if let Some(open) = server.admit(limits.get().connections) {
            return Some(open);
        }
        if purpose == Purpose::Ahead {
            return None;
        }
        // those who wait may go away meanwhile
        drop(tokio::time::timeout(WANTED, server.departure()).await);
        if !is_wanted(shared, purpose) {
            // somebody else may want the place, if there is one
            server.departed();
            return None;
        }
    }
}

async fn run(order: Order, shared: Rc<Shared>) -> Option<Farewell> {
    let Order { server, limits, counters, tempo, purpose } = order;
    let began = Instant::now();
    let turn = match purpose {
        Purpose::Queries | Purpose::Ahead => server.turn().await,
        // such a server must be met as often as there are queries
        Purpose::One => server.free_turn(),
        Purpose::Suspect => server.side_turn().await,
    };
    if server.failed_after(began) {
        end_queue(&shared, &Trouble::Connect("another attempt has just failed".to_owned()));
        return None;
    }
    if !is_wanted(&shared, purpose) {
        // while others had their turn, everybody has left
        end_queue(&shared, &Trouble::Ended("no longer used".to_owned()));
        return None;
    }
    let Some(_open) = admitted(&server, &limits, &shared, purpose).await else {
        end_queue(&shared, &Trouble::TooMany);
        return None;
    };
    let mut ids = Ids::default();
    let spread = ids.draw().to_be_bytes()[0];
    let greeted = Instant::now();
    let (stream, step) = match establish(&server, turn, server.attempt_limit(limits.get().connect)).await {
        Ok(made) => made,
        Err(error) => {
            counters.upstream_connect_failures.add(1);
            server.tally().connect_failures.add(1);
            let trouble = Trouble::Connect(error.to_string());
            if shared.phase.get() != Phase::Closing {
                let now = Instant::now();
                if error.is_refused {
                    server.attempt_refused(greeted, now, spread, &trouble);
                } else {
                    server.attempt_failed(greeted, now, spread, &trouble);
                }
            }
            end_queue(&shared, &trouble);
            return None;
        }
    };
    let is_resumed = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    server.connected(step.tcp + step.tls);
    counters.upstream_connections.add(1);
    counters.upstream_resumed.add(u64::from(is_resumed));
    let tally = server.tally();
    if is_resumed { &tally.handshakes_resumed } else { &tally.handshakes_full }.add(1);
    let (version, how) = (stream.get_ref().1.protocol_version(), if is_resumed { "resumed" } else { "full" });
    let (took, tcp, tls) = (began.elapsed().as_millis(), step.tcp.as_millis(), step.tls.as_millis());
    log::debug!(
        "upstream {}: connected in {took} ms (tcp {tcp}, tls {tls}), {version:?}, {how} handshake",
        server.label()
    );
    shared.authenticated.set(true);
    shared.opened.set(Some(Instant::now()));
    if shared.phase.get() == Phase::Connecting {
        shared.phase.set(Phase::Open);
    }
    let mut session = Session::new(stream, ids, limits, server.clone(), counters.clone(), shared.clone(), tempo);
    let ended = std::future::poll_fn(|context| session.poll(context)).await;
    shared.phase.set(Phase::Closing);
    session.tell_tally();
    tally.ended(ended.end);
    log::debug!("upstream {}: connection ended: {}", server.label(), ended.why);
    let farewell = Farewell { end: ended.end, idle: session.idle_time(Instant::now()) };
    let trouble = Trouble::Ended(ended.why);
    let blameless = session.served || session.stood_ready;
    // why it was given up is known already; and a query that ends connections says nothing about its server
    let tells = !blameless && !shared.given_up.get() && purpose != Purpose::Suspect;
    let unanswered = !session.in_flight.is_empty() && tells;
    let lost: Vec<_> = session.in_flight.drain().filter(Teller::is_awaited).collect();
    if unanswered && server.is_doubtful() {
        // the probe of a doubtful server failed, whether or not somebody still waits for it
        server.failed(Instant::now(), spread, &trouble);
    } else if unanswered && !lost.is_empty() {
        server.barren(Instant::now(), spread, &trouble);
    }
    for waiter in lost {
        counters.upstream_lost.add(1);
        // a waiter that is gone needs no telling
        waiter.tell(Outcome::Lost { sent: true, blameless, trouble: trouble.clone() });
    }
    end_queue(&shared, &trouble);
    Some(farewell)
}
