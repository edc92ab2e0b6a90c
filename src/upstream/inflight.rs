//! Queries without an answer on one upstream connection, by their message ID (RFC 7766 §6.2.1, RFC 5452 §9).
//!
//! An ID belongs to its query until the resolver answers it or the connection dies, also when nobody waits any more:
//! only so can a late answer never reach another query.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::ahead;
use crate::dns::message::{self, Form, HEADER, Message, Question, is_response, opcode, opcode_of, rcode};
use crate::hashed::BuildAsGiven;

/// The octets of a query, which has as few as this with hardly any exception.
type Octets = SmallVec<[u8; 96]>;

/// Queries that were answered, kept for the memory that they are in: as many as wait on a busy worker.
const KEPT: usize = 256;

thread_local! {
    static ANSWERED: RefCell<Vec<Rc<Asked>>> = const { RefCell::new(Vec::new()) };
}

/// A query as it goes to a resolver. Its ID is replaced on each connection.
#[derive(Debug)]
pub struct Asked {
    bytes: Octets,
    /// As it was read, if it goes out as it came.
    form: Option<Form>,
    /// Where its only question ends; 0 if there is none to compare.
    question_end: usize,
    /// Whether the sections of its answer have the form of RFC 1035.
    sections: bool,
    /// Whether its octets behind the header could not be read, so that the ID alone can match.
    opaque: bool,
}

impl Asked {
    /// The query that `view` shows, to be sent as `bytes`, which begin with the same header and questions.
    pub fn new(view: &Message<'_>, bytes: &[u8]) -> Asked {
        let question_end = if view.question_count() == 1 { view.questions_end() } else { 0 };
        let (form, bytes) = ((bytes == view.bytes()).then(|| view.form()), Octets::from_slice(bytes));
        Asked { bytes, form, question_end, sections: opcode::WITH_SECTIONS.contains(&view.opcode()), opaque: false }
    }

    /// A query of an operation whose form is unknown.
    pub fn opaque(bytes: &[u8]) -> Asked {
        Asked { bytes: Octets::from_slice(bytes), form: None, question_end: 0, sections: false, opaque: true }
    }

    /// The same for all who ask it, in the memory of one that was answered if there is one.
    pub fn shared(self) -> Rc<Asked> {
        let Some(mut kept) = ANSWERED.with_borrow_mut(Vec::pop) else { return Rc::new(self) };
        match Rc::get_mut(&mut kept) {
            Some(room) => *room = self,
            None => kept = Rc::new(self),
        }
        kept
    }

    /// It was answered: its memory may be used for another one.
    pub fn done(self: &Rc<Asked>) {
        if Rc::strong_count(self) == 1 && !self.bytes.spilled() {
            ANSWERED.with_borrow_mut(|answered| {
                if answered.len() < KEPT {
                    answered.push(self.clone());
                }
            });
        }
    }

    /// Its only question as it was written, if it has one that could be read.
    pub fn question(&self) -> Option<&[u8]> {
        self.bytes.get(HEADER..self.question_end).filter(|question| !question.is_empty())
    }

    /// The message with the ID that it came with.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The view of it; nothing if it does not go out as it came.
    pub fn view(&self) -> Option<Message<'_>> {
        Message::again(&self.bytes, self.form?)
    }

    /// Whether it may be sent again after its octets may have reached a resolver: standard queries only, since an
    /// UPDATE that is done twice is another UPDATE (RFC 9250 §4.5).
    pub fn is_repeatable(&self) -> bool {
        opcode_of(&self.bytes) == opcode::QUERY
    }

    /// Whether an answer, whose ID the caller has compared, answers this query.
    fn is_answered_by(&self, answer: &[u8]) -> bool {
        if self.opaque {
            return true;
        }
        match ([answer[4], answer[5]], self.question_end) {
            ([0, 0], 0) => true,
            // errors may leave the question out (RFC 9619 appendix A)
            ([0, 0], _) => answer[3] & 0x0f != rcode::NOERROR,
            ([0, 1], end @ 1..) => {
                let question = Question { bytes: &self.bytes[HEADER..end] };
                answer.get(HEADER..end).is_some_and(|bytes| question.same(&Question { bytes }))
            }
            _ => false,
        }
    }
}

struct Entry<W> {
    asked: Rc<Asked>,
    waiter: W,
    sent_at: Instant,
}

/// What a message from the resolver turned out to be.
#[derive(Debug, Eq, PartialEq)]
pub enum Match<'a, W> {
    /// The answer that this waiter waits for, to a query sent at this time, and its view if it could be read.
    Answer(W, Instant, Option<Message<'a>>),
    /// The answer that this waiter waits for, but its records run past its end.
    Garbled(W),
    /// No query has this ID (any more), or the question is another one: a stray, to be counted and dropped.
    Stray,
    /// No response at all: nothing more on this connection can be trusted.
    NoResponse,
}

/// The queries in flight on one connection. `W` is whoever waits.
pub struct InFlight<W> {
    /// IDs are random already.
    entries: HashMap<u16, Entry<W>, BuildAsGiven>,
}

impl<W> Default for InFlight<W> {
    fn default() -> InFlight<W> {
        InFlight { entries: HashMap::default() }
    }
}

impl<W> InFlight<W> {
    /// How many IDs are taken.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no ID is taken.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes an ID that is free, drawn by `draw` until one is.
    ///
    /// The caller keeps the number in flight far below 65,536, so that a few draws suffice.
    pub fn insert(&mut self, asked: Rc<Asked>, waiter: W, now: Instant, mut draw: impl FnMut() -> u16) -> u16 {
        let mut id = draw();
        while self.entries.contains_key(&id) {
            id = draw();
        }
        self.entries.insert(id, Entry { asked, waiter, sent_at: now });
        id
    }

    /// Has brought near what will be read of a query when its answer is taken; `of_waiter` does so for whoever waits.
    pub fn fetch(&self, answer: &[u8], of_waiter: impl Fn(&W)) {
        let id = answer.first_chunk().map(|&id| u16::from_be_bytes(id));
        if let Some(Entry { asked, waiter, .. }) = id.and_then(|id| self.entries.get(&id)) {
            ahead::fetch(&asked.bytes);
            ahead::fetch(&asked.question_end);
            of_waiter(waiter);
        }
    }

    /// Finds whom a message from the resolver is for, and frees its ID.
    ///
    /// A message with the right ID and another question frees nothing: the answer may still come.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Match<'a, W> {
        if bytes.len() < HEADER {
            return Match::NoResponse;
        }
        if !is_response(bytes) {
            // a stateful operation that nobody started is ignored (RFC 8490 §5.4)
            return if opcode_of(bytes) == opcode::DSO { Match::Stray } else { Match::NoResponse };
        }
        let id = message::id(bytes);
        match self.entries.get(&id) {
            Some(entry) if entry.asked.is_answered_by(bytes) => {}
            _ => return Match::Stray,
        }
        match self.entries.remove(&id) {
            Some(entry) => match Message::parse(bytes).ok() {
                None if entry.asked.sections => Match::Garbled(entry.waiter),
                view => Match::Answer(entry.waiter, entry.sent_at, view),
            },
            None => Match::Stray,
        }
    }

    /// When the query that has waited longest was sent.
    pub fn oldest(&self) -> Option<Instant> {
        self.entries.values().map(|entry| entry.sent_at).min()
    }

    /// Whether anybody still waits.
    pub fn any_waiter(&self, mut waits: impl FnMut(&W) -> bool) -> bool {
        self.entries.values().any(|entry| waits(&entry.waiter))
    }

    /// Takes out all waiters: the connection is gone.
    pub fn drain(&mut self) -> impl Iterator<Item = W> {
        self.entries.drain().map(|(_, entry)| entry.waiter)
    }
}

/// Unpredictable IDs, drawn from the cryptographic generator by the hundred (RFC 5452 §9.2).
pub struct Ids {
    pool: [u8; 512],
    next: usize,
}

impl Default for Ids {
    fn default() -> Ids {
        Ids { pool: [0; 512], next: 512 }
    }
}

impl Ids {
    /// The next ID.
    pub fn draw(&mut self) -> u16 {
        if self.next >= self.pool.len() {
            // the generator fails only before the kernel's own is seeded, when no TLS would work either
            if aws_lc_rs::rand::fill(&mut self.pool).is_err() {
                log::error!("no random numbers to be had; message ids are weak until the kernel's generator works");
            }
            self.next = 0;
        }
        let id = u16::from_be_bytes([self.pool[self.next], self.pool[self.next + 1]]);
        self.next += 2;
        id
    }
}

#[cfg(test)]
#[path = "inflight_tests.rs"]
mod inflight_tests;
