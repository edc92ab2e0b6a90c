//! What a client's connection shares with its queries, and with those who end it: answers that wait to be written, and
//! how many are still to come.

use std::cell::{Cell, RefCell};
use std::task::Context;

use tokio::sync::Notify;

use crate::bell::Bell;
use crate::dns::framing::put;
use crate::spares;

/// The desk of one connection.
pub struct Desk {
    outgoing: RefCell<Vec<u8>>,
    in_flight: Cell<usize>,
    is_broken: Cell<bool>,
    makes_room: Cell<bool>,
    bell: Bell,
    /// Rings when the client has read something, and at the end.
    room: Notify,
    unread_limit: Cell<usize>,
}

impl Desk {
    /// A desk where messages of many wait while there are so many octets that the client has not read.
    pub fn new(unread_limit: usize) -> Desk {
        let (outgoing, in_flight, is_broken, makes_room, bell, room) = Default::default();
        Desk { outgoing, in_flight, is_broken, makes_room, bell, room, unread_limit: Cell::new(unread_limit) }
    }

    /// The connection's task, whose turn it is, wants to hear the next ring.
    pub fn listen(&self, context: &Context<'_>) {
        self.bell.listen(context);
    }

    /// Has the connection's task take a turn.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// Another limit from now on.
    pub fn limit_unread(&self, octets: usize) {
        self.unread_limit.set(octets);
        self.bell.ring();
    }

    /// Ends the connection, which had nothing to do when this was decided, in favour of another: what it has asked is
    /// answered, and no more is read.
    pub fn make_room(&self) {
        self.makes_room.set(true);
        self.bell.ring();
    }

    /// Whether it ends in favour of another.
    pub fn makes_room(&self) -> bool {
        self.makes_room.get()
    }

    /// Ends the connection at once, whatever waits.
    pub fn break_off(&self) {
        self.is_broken.set(true);
        self.room.notify_waiters();
    }

    /// Whether the connection ends at once.
    pub fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    /// Waits for the end of the connection.
    pub async fn ended(&self) {
        while !self.is_broken.get() {
            self.room.notified().await;
        }
    }

    /// Queries that are under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// A query is under way.
    pub fn began(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// A query that was under way has its answer, if there is one.
    pub fn answered(&self, answer: Option<Vec<u8>>) {
        answer.into_iter().for_each(|answer| self.reply(answer));
        self.in_flight.set(self.in_flight.get() - 1);
    }

    /// A query that was under way has had all its answers.
    pub fn done(&self) {
        self.answered(None);
        self.bell.ring();
    }

    /// Takes an answer.
    pub fn reply(&self, answer: Vec<u8>) {
        put(&mut self.outgoing.borrow_mut(), &answer);
        spares::give(answer);
    }

    /// Takes one message of many, when the client has read enough of those before. Returns whether there still is a client.
    pub async fn hand_in_when_read(&self, answer: Vec<u8>) -> bool {
        while self.unwritten() >= self.unread_limit.get() && !self.is_broken.get() {
            self.room.notified().await;
        }
        if !self.is_broken.get() {
            self.reply(answer);
            self.bell.ring();
        }
        !self.is_broken.get()
    }

    /// Octets that wait to be written.
    pub fn unwritten(&self) -> usize {
        self.outgoing.borrow().len()
    }

    /// Exchanges what waits to be written for this, which has been.
    pub fn swap(&self, written: &mut Vec<u8>) {
        std::mem::swap(written, &mut self.outgoing.borrow_mut());
        self.room.notify_waiters();
    }
}
