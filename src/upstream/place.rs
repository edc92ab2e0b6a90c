//! This worker's place at a server: its present connection, how the server stands for the next query, and the connection
//! that is kept ready while there are queries.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{Connection, Farewell, Order, Purpose};
use super::lifetime::keeps_ready;
use super::outcome::Limits;
use super::plan::Standing;
use super::server::UpstreamServer;
use super::shared::Phase;
use super::tally::End;
use super::tempo::Tempo;
use crate::metrics::Counters;

/// Queries that are asked alone at the same time because they may be what ends connections. Where more of them were lost
/// together it is hardly one of them, and to ask them together is quicker.
const SUSPECTS: usize = 64;

/// After a change of the network a connection is made anew if there was a query within this time.
const OF_LATE: Duration = Duration::from_secs(120);

/// A server, and this worker's connection to it. When nobody asks over it any more, neither a group nor a query of a
/// group that was, the connection says goodbye.
pub struct Place {
    server: Arc<UpstreamServer>,
    limits: Rc<Cell<Limits>>,
    connection: RefCell<Option<Rc<Connection>>>,
    tempo: Rc<Cell<Tempo>>,
    last_query: Cell<Option<Instant>>,
    /// When a connection was last made for queries to come.
    last_kept: Cell<Option<Instant>>,
    /// Held by each connection of a suspect query, and here.
    suspects: Rc<()>,
    next_id: Rc<Cell<u64>>,
    counters: Arc<Counters>,
    this: Weak<Place>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.retire();
        }
    }
}

impl Place {
    /// A place without a connection: one is made when a query needs it.
    pub fn new(
        server: Arc<UpstreamServer>,
        limits: Limits,
        next_id: Rc<Cell<u64>>,
        counters: Arc<Counters>,
    ) -> Rc<Place> {
        Rc::new_cyclic(|this| Place {
            server,
            limits: Rc::new(Cell::new(limits)),
            connection: RefCell::default(),
            tempo: Rc::default(),
            last_query: Cell::default(),
            last_kept: Cell::default(),
            suspects: Rc::default(),
            next_id,
            counters,
            this: this.clone(),
        })
    }

    /// The server.
    pub fn server(&self) -> &Arc<UpstreamServer> {
        &self.server
    }

    /// How fast the server answers, as this worker sees it.
    pub fn tempo(&self) -> Tempo {
        self.tempo.get()
    }

    /// Other limits from now on, for the present connection as well.
    pub fn renew(&self, limits: Limits) {
        self.limits.set(limits);
    }

    /// How things stand with the server for the next query.
    pub fn standing(&self, now: Instant) -> Standing {
        let server = &self.server;
        if let Some(connection) = &*self.connection.borrow() {
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

    /// The connection for a query that is asked now: the present one, or a new one. At most one is being made at any time.
    /// In plain DNS each query has one of its own, and so has one that is a `suspect`, unless many are:
    /// perhaps it ends connections.
    pub fn connection(&self, now: Instant, suspect: bool) -> Rc<Connection> {
        self.last_query.set(Some(now));
        if self.server.is_plain() {
            let (id, order) = self.order(Purpose::One);
            return Rc::new(Connection::single(id, order));
        }
        if self.server.gives_one_answer(now) {
            let (id, order) = self.order(Purpose::One);
            return Rc::new(Connection::open(id, order, |_| ()));
        }
        if suspect && Rc::strong_count(&self.suspects) <= SUSPECTS {
            let ((id, order), counted) = (self.order(Purpose::Suspect), self.suspects.clone());
            return Rc::new(Connection::open(id, order, move |_| drop(counted)));
        }
        if let Some(connection) = self.present() {
            return connection;
        }
        self.open(Purpose::Queries)
    }

    /// The present connection, for a query that is asked now, if nothing speaks against it: it has answered, nobody has
    /// found it silent since, and the server gives more than one answer on each.
    pub fn well(&self, now: Instant) -> Option<Rc<Connection>> {
        let present = self.connection.borrow();
        let connection = present.as_ref().filter(|connection| {
            connection.phase() == Phase::Open && connection.is_proven() && !connection.is_suspected()
        })?;
        if self.server.gives_one_answer(now) {
            return None;
        }
        self.last_query.set(Some(now));
        Some(connection.clone())
    }

    fn present(&self) -> Option<Rc<Connection>> {
        self.connection.borrow().as_ref().filter(|connection| connection.phase() != Phase::Closing).cloned()
    }

    /// What the next connection is made with.
    fn order(&self, purpose: Purpose) -> (u64, Order) {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let order = Order {
            server: self.server.clone(),
            limits: self.limits.clone(),
            counters: self.counters.clone(),
            tempo: self.tempo.clone(),
            purpose,
        };
        (id, order)
    }

    fn open(&self, purpose: Purpose) -> Rc<Connection> {
        let (id, order) = self.order(purpose);
        let this = self.this.clone();
        let on_end = move |farewell| {
            if let Some(place) = this.upgrade() {
                place.ended(&farewell);
            }
        };
        let connection = Rc::new(Connection::open(id, order, on_end));
        self.connection.replace(Some(connection.clone()));
        connection
    }

    /// A connection has ended. While queries come, the next one shall find another.
    fn ended(&self, farewell: &Farewell) {
        let now = Instant::now();
        let by_configuration = farewell.end == End::Idle && farewell.idle >= self.limits.get().idle;
        let ended_idle = matches!(farewell.end, End::Idle | End::ClosedIdle) && !by_configuration;
        let is_free = self.present().is_none() && !self.server.is_doubtful() && !self.server.gives_one_answer(now);
        if ended_idle && is_free && keeps_ready(farewell.idle, self.last_query.get(), self.last_kept.get(), now) {
            self.last_kept.set(Some(now));
            self.open(Purpose::Ahead);
        }
    }

    /// The network is another one: the present connection takes no more queries, and one over the new network is made if
    /// there were queries of late.
    pub fn start_afresh(&self, now: Instant) {
        let Some(connection) = self.connection.take() else { return };
        connection.give_up();
        if self.last_query.get().is_some_and(|last| now < last + OF_LATE) {
            self.open(Purpose::Ahead);
        }
    }

    /// Lets the connection say goodbye, once what it has in flight is done.
    pub fn close(&self) {
        if let Some(connection) = self.connection.take() {
            connection.retire();
        }
    }
}
