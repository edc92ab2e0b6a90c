//! A query on its way: what is asked of whom until when, and what its reply needs.

use std::rc::Rc;
use std::time::Instant;

use crate::counted::Counted;
use crate::dns::crossing::Passage;
use crate::dns::message::{Message, ReadMessage, opcode, opcode_of};
use crate::dns::transfer::Transfer;
use crate::memory::Errand;
use crate::upstream::group::Group;
use crate::upstream::inflight::Asked;
use crate::upstream::inquiry::Failure;

/// How a query is asked.
pub enum Way {
    /// Over the connection that all queries share.
    Shared,
    /// Over a connection of its own, with the client's ID.
    Alone,
    /// Over a connection of its own, with an answer of many messages.
    Transfer(Transfer),
}

/// A query on its way.
pub struct Pending {
    /// What goes to the resolver.
    pub asked: Rc<Asked>,
    /// What its answer needs to become the client's.
    pub passage: Passage,
    /// When the client gets a reply at the latest.
    pub deadline: Instant,
    /// How it is asked.
    pub way: Way,
    /// Whom.
    pub group: Rc<Group>,
    /// Who else learns the answer, if it may be kept.
    pub errand: Option<Errand>,
    /// What is rare.
    pub beside: Option<Box<Beside>>,
    /// Nothing once nobody waits for it.
    pub active: Option<Counted>,
}

/// What few queries on their way have.
pub struct Beside {
    /// What the client sent, if something else goes to the resolver.
    pub original: Option<Vec<u8>>,
    /// A reply whose time is over, in case there is no better one.
    pub reserve: Option<Vec<u8>>,
}

impl Pending {
    /// What the client sent.
    pub fn query(&self) -> &[u8] {
        let original = self.beside.as_ref().and_then(|beside| beside.original.as_deref());
        original.unwrap_or_else(|| self.asked.bytes())
    }

    /// A reply whose time is over, if there is one.
    pub fn reserve(&self) -> Option<&[u8]> {
        self.beside.as_ref()?.reserve.as_deref()
    }

    /// What came of it is kept, and told to all who ask the same.
    pub fn share(&self, result: &Result<ReadMessage, Failure>) {
        if let Some(errand) = &self.errand {
            errand.learn(result, &self.passage);
            errand.tell(result);
        }
    }

    /// The message as the client sent it; the checks were made when it came.
    pub fn view(&self) -> Option<Message<'_>> {
        self.asked.view().or_else(|| readable(self.query()))
    }
}

/// The view of a query, of whatever operation; `None` if it cannot be read.
pub fn readable(bytes: &[u8]) -> Option<Message<'_>> {
    if opcode::WITH_SECTIONS.contains(&opcode_of(bytes)) {
        Message::parse(bytes).ok()
    } else {
        Message::parse_questions(bytes).ok()
    }
}
