//! What a worker has of the process's memory: what it looks up there, what it adds, and whose question is on its way.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::cache::answers::{Address, Answers, Draft, Recall, Usage};
use crate::cache::joined::{Joined, Name};
use crate::dns::crossing::{ForAll, Link, Passage, Switches};
use crate::dns::edit::{ExtendedError, option, with_extended_error};
use crate::dns::message::{Message, ReadMessage, rcode};
use crate::dns::reuse::{self, Key, KeyRoom, Variant};
use crate::moment::since_boot;
use crate::spares;
use crate::upstream::inquiry::Failure;

/// How long a fresh answer is waited for where there is a stale one (RFC 8767 §5).
pub const STALE_AFTER: Duration = Duration::from_millis(1800);

/// What came of a question, for all who asked it.
pub type Told = Result<Arc<[u8]>, Failure>;

/// What all workers share.
pub struct Shared {
    /// The answers.
    pub answers: Answers,
    /// The questions on their way.
    pub joined: Joined<Told>,
}

impl Shared {
    /// A memory of so many octets, or none.
    pub fn new(limit: usize) -> Shared {
        Shared { answers: Answers::new(limit), joined: Joined::default() }
    }
}

/// The memory as the present rules use it.
pub struct Memory {
    shared: Arc<Shared>,
    usage: Usage,
    switches: Switches,
    /// That of the answers when these rules came.
    since: u64,
    /// Where answers are made ready to be kept.
    draft: RefCell<Draft>,
}

/// What the memory has for a query.
pub enum Recalled {
    /// Nothing.
    Unknown,
    /// The reply.
    Reply {
        /// As the client gets it.
        bytes: Vec<u8>,
        /// Whether its time is over.
        stale: bool,
        /// Whether it is to be asked for anew meanwhile.
        refresh: bool,
    },
    /// A reply whose time is over, should there be no better one.
    Reserve(Vec<u8>),
}

/// A question that the memory will be told the answer to.
pub struct Errand {
    memory: Rc<Memory>,
    /// That of the key: once something was forgotten the same question is another one.
    name: Name,
    /// Whether the turn is ours, and others who ask the same wait for what comes of it.
    is_first: Cell<bool>,
}

impl Memory {
    /// The memory under other rules; what was forgotten by now stays so.
    pub fn new(shared: Arc<Shared>, usage: Usage, switches: Switches) -> Memory {
        let since = shared.answers.newest();
        Memory { shared, usage, switches, since, draft: RefCell::default() }
    }

    /// What the answer to a query is kept under, if it may be.
    #[inline]
    pub fn address<'a>(&self, query: &Message<'_>, link: Link, room: &'a mut KeyRoom) -> Option<Address<'a>> {
        if !self.shared.answers.is_on() {
            return None;
        }
        let pads = self.switches.padding || link.is_encrypted();
        let key = reuse::key(query, |code| code == option::KEEPALIVE || pads && code == option::PADDING, room)?;
        Some(self.shared.answers.address(key))
    }

    /// What tells a query from other variants of its question, and the hash of the address of its answer, if that may be kept;
    /// what a look there reads first is near soon.
    #[inline]
    pub fn expect(&self, query: &Message<'_>, link: Link, room: &mut KeyRoom) -> Option<(Variant, u64)> {
        let Address { key, hash } = self.address(query, link, room)?;
        self.shared.answers.fetch(hash);
        Some((key.variant(), hash))
    }

    /// What there is for a query. `is_out`: none of its resolvers could be reached of late.
    #[inline]
    pub fn recall(&self, address: Address<'_>, query: &Message<'_>, link: Link, is_out: bool) -> Recalled {
        let Some(question) = query.question() else { return Recalled::Unknown };
        let (asked, mut spare) = ((query.id(), &question), spares::take());
        let found = self.shared.answers.recall(address, asked, &self.usage, is_out, since_boot, &mut spare);
        let passage = || Passage::new(query, self.switches, link);
        match found {
            Recall::Unknown => {
                spares::give(spare);
                Recalled::Unknown
            }
            Recall::Usable { stale: false, refresh } => {
                Recalled::Reply { bytes: passage().out_of_memory(spare, query), stale: false, refresh }
            }
            Recall::Usable { stale: true, refresh } => {
                let bytes = passage().out_of_memory(marked_as_stale(spare), query);
                Recalled::Reply { bytes, stale: true, refresh }
            }
            Recall::InReserve => Recalled::Reserve(passage().out_of_memory(marked_as_stale(spare), query)),
        }
    }

    /// The errand for a question whose answer is kept at this address.
    pub fn errand(self: &Rc<Memory>, Address { key, hash }: Address<'_>) -> Errand {
        let generation = self.shared.answers.generation(self.since);
        self.shared.joined.fetch(hash);
        Errand { memory: self.clone(), name: Name::new(hash, generation, key.octets()), is_first: Cell::default() }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        // should it have come to nothing, one of those who wait asks in its place
        drop(self.leave());
        self.name.done();
    }
}

impl Errand {
    /// Takes a turn among all who ask the same. Nothing if it is ours to ask, and to tell the others; else what they are
    /// told, or an error if nobody will tell, and then it is time for another turn.
    pub fn turn(&self) -> Option<oneshot::Receiver<Told>> {
        if self.is_first.get() {
            return None;
        }
        let behind = self.memory.shared.joined.turn(&self.name);
        self.is_first.set(behind.is_none());
        behind
    }

    /// Who waits, if the turn was ours; it is not any more.
    fn leave(&self) -> Vec<oneshot::Sender<Told>> {
        // once told, the same question may be somebody else's turn
        if self.is_first.take() { self.memory.shared.joined.leave(&self.name) } else { Vec::new() }
    }

    /// Tells all others what came of it.
    pub fn tell(&self, result: &Result<ReadMessage, Failure>) {
        let waiting = self.leave();
        if waiting.is_empty() {
            return;
        }
        let told: Told = result.as_ref().map(|answer| answer.bytes().into()).map_err(Failure::clone);
        // who has gone meanwhile needs no telling
        waiting.into_iter().for_each(|waiter| drop(waiter.send(told.clone())));
    }

    /// Keeps what came of it, if that may be kept.
    pub fn learn(&self, result: &Result<ReadMessage, Failure>, passage: &Passage) {
        let Memory { shared, usage, draft, .. } = &*self.memory;
        // needed as soon as the answer has been read
        shared.answers.fetch(self.name.hash());
        shared.joined.fetch(self.name.hash());
        let Some(key) = Key::again(self.name.octets()) else { return };
        let address = Address { key, hash: self.name.hash() };
        let answer = match result {
            Ok(answer) => answer,
            Err(failure) => return shared.answers.failed(address, failure.is_outage(), since_boot()),
        };
        let Some(view) = answer.view() else { return };
        let draft = &mut *draft.borrow_mut();
        let question = key.question();
        let keep = match passage.for_everybody(&view) {
            _ if !reuse::is_for_everybody(&view) => None,
            ForAll::AsItIs => {
                draft.body.clear();
                draft.body.extend_from_slice(answer.bytes());
                reuse::keep(&question, &view, usage.lifetimes, &mut draft.ttls)
            }
            ForAll::Changed(bytes) => {
                draft.body = bytes;
                let view = Message::parse(&draft.body).ok();
                view.and_then(|view| reuse::keep(&question, &view, usage.lifetimes, &mut draft.ttls))
            }
            ForAll::Nothing => None,
        };
        let generation = self.name.generation();
        match keep {
            Some(keep) => shared.answers.keep(address, generation, keep, draft, usage, since_boot()),
            None if reuse::is_conclusive(&view) => shared.answers.outdated(address, generation),
            // whatever else it is, asking again at once would bring it again (RFC 8767 §5)
            None => shared.answers.failed(address, false, since_boot()),
        }
    }
}

/// Whether an answer can take the place of a stale one (RFC 8767 §4).
pub fn is_better_than_stale(answer: &[u8]) -> bool {
    answer.len() > 3 && matches!(answer[3] & 0x0f, rcode::NOERROR | rcode::NXDOMAIN)
}

/// The answer with the extended error that says that it is stale, if it has EDNS (RFC 8914 §4.4, §4.20).
fn marked_as_stale(answer: Vec<u8>) -> Vec<u8> {
    let Ok(view) = Message::parse(&answer) else { return answer };
    let code = if view.rcode() == rcode::NXDOMAIN { ExtendedError::STALE_NXDOMAIN } else { ExtendedError::STALE };
    let error = ExtendedError::new(code, "no resolver has answered in time");
    with_extended_error(&view, &error).unwrap_or(answer)
}
