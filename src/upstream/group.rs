//! A group of servers: runs the plan of each query with real connections and timers, under one deadline.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::connection::Connection;
use super::inflight::Asked;
use super::outcome::{Limits, Outcome, Trouble};
use super::plan::{Plan, Standing, Step};
use super::server::UpstreamServer;
use super::session::Phase;
use crate::dns::edit::ExtendedError;
use crate::metrics::Counters;

/// A server, and this worker's connection to it. When nobody asks over it any more, neither a group nor a query of a
/// group that was, the connection says goodbye.
struct Place {
    server: Arc<UpstreamServer>,
    limits: Rc<Cell<Limits>>,
    connection: RefCell<Option<Rc<Connection>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.retire();
        }
    }
}

/// The servers of a group, and this worker's connections to them.
pub struct Group {
    places: Vec<Rc<Place>>,
    limits: Limits,
    second_try_after: Duration,
    next_id: Rc<Cell<u64>>,
    counters: Arc<Counters>,
}

/// A question put to a server, whose outcome is awaited.
struct Attempt {
    connection: Rc<Connection>,
    server: usize,
    outcome: oneshot::Receiver<Outcome>,
}

/// Why a query got no answer: what happened last, and at which server.
#[derive(Debug, Default)]
pub struct Failure {
    sent: bool,
    last: Option<(String, Trouble)>,
}

impl Failure {
    /// Takes note of what went wrong at a server. `sent`: it may have the query.
    pub fn note(&mut self, label: &str, sent: bool, trouble: Trouble) {
        self.sent |= sent;
        self.last = Some((label.to_owned(), trouble));
    }

    /// As the client is told (RFC 8914 §4.23, §4.24).
    pub fn extended_error(&self) -> ExtendedError {
        let code = if self.sent { ExtendedError::NO_REACHABLE_AUTHORITY } else { ExtendedError::NETWORK_ERROR };
        match &self.last {
            Some((label, trouble)) => ExtendedError::new(code, format!("{label}: {trouble}")),
            None => ExtendedError::new(code, "no upstream server answered in time"),
        }
    }
}

impl Group {
    /// A group without connections: they are made when a query needs them.
    pub fn new(
        servers: Vec<Arc<UpstreamServer>>,
        limits: Limits,
        second_try_after: Duration,
        counters: Arc<Counters>,
    ) -> Group {
        let none = Group { places: Vec::new(), limits, second_try_after, next_id: Rc::default(), counters };
        none.renewed(servers, limits, second_try_after)
    }

    /// The group that takes the place of this one after a reload. Connections to servers that are in both go on, with
    /// the new limits; the others end when the last query of this group has its answer.
    pub fn renewed(&self, servers: Vec<Arc<UpstreamServer>>, limits: Limits, second_try_after: Duration) -> Group {
        let place = |server: Arc<UpstreamServer>| {
            let Some(known) = self.places.iter().find(|place| Arc::ptr_eq(&place.server, &server)) else {
                return Rc::new(Place { server, limits: Rc::new(Cell::new(limits)), connection: RefCell::default() });
            };
            known.limits.set(limits);
            known.clone()
        };
        let places = servers.into_iter().map(place).collect();
        Group { places, limits, second_try_after, next_id: self.next_id.clone(), counters: self.counters.clone() }
    }

    /// The servers, in the order of the configuration.
    pub fn servers(&self) -> impl ExactSizeIterator<Item = &UpstreamServer> {
        self.places.iter().map(|place| &*place.server)
    }

    /// This worker's counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The limits of its connections.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Asks until an answer comes or the plan gives up; the answer has the ID of some connection.
    ///
    /// # Errors
    /// Why there is no answer. It comes at `deadline` at the latest.
    pub async fn ask(&self, asked: Rc<Asked>, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let mut plan = Plan::new(deadline, self.second_try_after, asked.is_repeatable());
        let mut attempts: Vec<Attempt> = Vec::with_capacity(1);
        let mut failure = Failure::default();
        let mut probed = false;
        loop {
            let now = Instant::now();
            self.retire_silent(&plan, &attempts, now);
            match plan.next(now, self.places.len(), |server| self.standing(server, now)) {
                Step::GiveUp => {
                    // a connection that has been retired since may still have taken the query to its server
                    failure.sent |= attempts.iter().any(|attempt| attempt.connection.was_authenticated());
                    return Err(failure);
                }
                Step::Ask(server) => {
                    if !std::mem::replace(&mut probed, true) && asked.is_repeatable() {
                        for doubtful in self.to_probe(server, now) {
                            let connection = self.connection(doubtful);
                            plan.probed(doubtful, connection.id(), now);
                            self.put(doubtful, connection, &asked, &mut plan, &mut attempts, &mut failure);
                        }
                    }
                    let connection = self.connection(server);
                    plan.asked(server, connection.id(), now);
                    self.put(server, connection, &asked, &mut plan, &mut attempts, &mut failure);
                }
                Step::Wait(until) => {
                    let Some((index, outcome)) = first_outcome(&mut attempts, until).await else { continue };
                    let attempt = attempts.swap_remove(index);
                    match outcome {
                        Outcome::Answer(answer) => return Ok(answer),
                        Outcome::Lost { sent, blameless, trouble } => {
                            plan.lost(attempt.connection.id(), sent, blameless);
                            failure.note(self.places[attempt.server].server.label(), sent, trouble);
                        }
                    }
                }
            }
        }
    }

    /// Puts the query to a server, as the plan knows already.
    fn put(
        &self,
        server: usize,
        connection: Rc<Connection>,
        asked: &Rc<Asked>,
        plan: &mut Plan,
        attempts: &mut Vec<Attempt>,
        failure: &mut Failure,
    ) {
        match connection.ask(asked.clone()) {
            Ok(outcome) => attempts.push(Attempt { connection, server, outcome }),
            Err(trouble) => {
                plan.lost(connection.id(), false, false);
                failure.note(self.places[server].server.label(), false, trouble);
            }
        }
    }

    /// Servers preferred to this one that are doubtful, and due for a copy of a query to find out: their clients never
    /// wait for the outcome.
    fn to_probe(&self, server: usize, now: Instant) -> impl Iterator<Item = usize> {
        let doubtful = move |&one: &usize| matches!(self.standing(one, now), Standing::Doubtful { .. });
        (0..server)
            .filter(doubtful)
            .filter(move |&one| self.places[one].server.take_probe(now, now + self.limits.deadline))
    }

    /// A connection on which a query is overdue and nothing at all has come since is given up for later ones: what
    /// became of its path nobody will say (RFC 7858 §3.4). It may still answer what it has.
    fn retire_silent(&self, plan: &Plan, attempts: &[Attempt], now: Instant) {
        for (id, asked_at) in plan.overdue(now) {
            let Some(attempt) = attempts.iter().find(|attempt| attempt.connection.id() == id) else { continue };
            let connection = &attempt.connection;
            if connection.phase() == Phase::Open && connection.last_received() < asked_at {
                let server = &self.places[attempt.server].server;
                log::debug!("upstream {}: silent connection retired", server.label());
                connection.retire_as_silent();
                if self.places.len() > 1 {
                    // once may be the path's fault, twice in a row is the server's
                    server.barren(now, 0, &Trouble::Ended("silent".to_owned()));
                }
            }
        }
    }

    fn standing(&self, server: usize, now: Instant) -> Standing {
        let Place { server, connection, .. } = &*self.places[server];
        if let Some(connection) = &*connection.borrow() {
            match connection.phase() {
                Phase::Open if connection.is_proven() => return Standing::Open(connection.id()),
                phase @ (Phase::Open | Phase::Connecting) if server.is_doubtful() => {
                    let connecting = phase == Phase::Connecting;
                    return Standing::Doubtful { connection: Some(connection.id()), connecting };
                }
                Phase::Open => return Standing::Open(connection.id()),
                Phase::Connecting => return Standing::Connecting(connection.id()),
                Phase::Closing => {}
            }
        }
        match server.rest(now) {
            Some(rest) => Standing::Resting(rest),
            None if server.is_doubtful() => Standing::Doubtful { connection: None, connecting: false },
            None => Standing::Idle,
        }
    }

    /// The present connection to the server, or a new one: at most one is being made at any time.
    fn connection(&self, server: usize) -> Rc<Connection> {
        let place = &self.places[server];
        let mut slot = place.connection.borrow_mut();
        match &*slot {
            Some(connection) if connection.phase() != Phase::Closing => connection.clone(),
            _ => {
                let id = self.next_id.get();
                self.next_id.set(id + 1);
                let (server, limits) = (place.server.clone(), place.limits.clone());
                let opened = Connection::open(id, server, limits, self.counters.clone());
                slot.insert(Rc::new(opened)).clone()
            }
        }
    }

    /// Lets all connections say goodbye, once what they have in flight is done.
    pub fn close(&self) {
        for place in &self.places {
            if let Some(connection) = place.connection.take() {
                connection.retire();
            }
        }
    }
}

/// The first attempt with an outcome; `None` when the time has come.
async fn first_outcome(attempts: &mut [Attempt], until: Instant) -> Option<(usize, Outcome)> {
    let mut sleep = pin!(tokio::time::sleep_until(until.into()));
    poll_fn(|context| {
        for (index, attempt) in attempts.iter_mut().enumerate() {
            if let Poll::Ready(result) = std::pin::Pin::new(&mut attempt.outcome).poll(context) {
                let gone =
                    || Outcome::Lost { sent: true, blameless: false, trouble: Trouble::Ended("dropped".to_owned()) };
                return Poll::Ready(Some((index, result.unwrap_or_else(|_| gone()))));
            }
        }
        sleep.as_mut().poll(context).map(|()| None)
    })
    .await
}
