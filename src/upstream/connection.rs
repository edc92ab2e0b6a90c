//! One pipelined TLS connection to a server: a task that owns the stream and does both directions.
//!
//! Queries wait in a queue until the handshake has authenticated the server and an ID is free; everything that waits
//! goes out in one record and one write. Whatever ends the connection tells each waiter whether its query was sent.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::establish::establish;
use super::inflight::{Asked, Ids};
use super::outcome::{Limits, Outcome, Trouble};
use super::server::UpstreamServer;
use super::session::{Job, Phase, Session, Shared, end_queue};
use crate::bell::Bell;
use crate::metrics::Counters;

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
