//! What the task of a connection and those who ask over it share.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use super::awaited::Teller;
use super::inflight::Asked;
use super::outcome::{Outcome, Trouble};
use crate::bell::Bell;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Phase {
    /// No query has been sent yet.
    #[default]
    Connecting,
    /// Authenticated.
    Open,
    /// Takes no more queries.
    Closing,
}

/// A query that waits to be sent.
pub struct Job {
    /// The query.
    pub asked: Rc<Asked>,
    /// Who waits for its outcome.
    pub waiter: Teller<Outcome>,
}

/// What the task and those who ask share.
#[derive(Default)]
pub struct Shared {
    /// How far it has come.
    pub phase: Cell<Phase>,
    /// Whether the server has proved who it is; this stays true to the end.
    pub authenticated: Cell<bool>,
    /// When its handshake was done.
    pub opened: Cell<Option<Instant>>,
    /// When octets last came that were not merely answers to no query, if any did.
    pub last_received: Cell<Option<Instant>>,
    /// Whether it was given up while somebody waited: those are asked for elsewhere.
    pub given_up: Cell<bool>,
    /// Whether it takes one query, and no other.
    pub takes_one: Cell<bool>,
    /// Whether nothing has come since it was used again after a long rest: it may have died in its sleep.
    pub woken: Cell<bool>,
    /// When somebody first found it silent, if nothing has come since.
    pub suspected_at: Cell<Option<Instant>>,
    /// Queries sent since octets last came.
    pub unheard: Cell<u32>,
    /// Whether it has answered, and was not given up as silent since.
    pub proven: Cell<bool>,
    /// What waits to be sent.
    pub queue: RefCell<VecDeque<Job>>,
    /// Rung for the task that owns the stream.
    pub bell: Bell,
}

/// Tells those whose queries were never sent.
pub fn end_queue(shared: &Shared, trouble: &Trouble) {
    shared.phase.set(Phase::Closing);
    let blameless = matches!(trouble, Trouble::Ended(_));
    for job in shared.queue.take() {
        // a waiter that is gone needs no telling
        job.waiter.tell(Outcome::Lost { sent: false, blameless, trouble: trouble.clone() });
    }
}
