//! The path of one query, from top to bottom.
//!
//! ```text
//! octets ─▶ look: is it a query, may this client ask, can it be read, is it for us to answer
//!             │  nothing, or a reply of our own
//!             ▼
//!           judge: is the answer in the memory
//!             │  the reply
//!             ▼
//!           Pending ─▶ set_out, or relay: ask the group under one deadline ─▶ the answer as this client must see it
//!                  └─▶ transfer: a connection of its own, message by message
//! ```
//!
//! [`Path::look`] and [`Path::judge`] do not wait; what must be asked is a future in the task of its client's socket or
//! stream. Of a batch some are looked at before the first is judged, so that what the memory has of each is near by then.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::cache::answers::Address;
use crate::counted::Counted;
use crate::dns::crossing::{Link, Passage, Switches, padded, to_resolver};
use crate::dns::edit::{ExtendedError, reply, reply_to_unreadable};
use crate::dns::message::{HEADER, Message, ReadMessage, Signature, is_response, opcode, opcode_of, rcode};
use crate::dns::name::Printable;
use crate::dns::privacy::Family;
use crate::dns::reuse::{KeyRoom, Variant};
use crate::dns::transfer::{Progress, Transfer};
use crate::memory::{Errand, Recalled, STALE_AFTER, Told, is_better_than_stale};
use crate::metrics::Counters;
use crate::pending::{Beside, Pending, Way, readable};
use crate::rules::Rules;
use crate::upstream::calm::Calm;
use crate::upstream::group::Group;
use crate::upstream::inflight::Asked;
use crate::upstream::inquiry::Failure;
use crate::upstream::outcome::{Outcome, Trouble};
use crate::upstream::solo::Solo;

/// How long a transfer may pause between two messages. Its whole length has no limit (RFC 5936 §2.2).
const TRANSFER_PAUSE: Duration = Duration::from_secs(30);

/// Connections of their own that one worker has open at the same time: transfers are rare, and each holds a connection
/// for as long as it likes.
const MOST_ALONE: usize = 16;

/// What is to be done with a message from a client.
pub enum Verdict {
    /// Nothing is answered: it is no query.
    Silence,
    /// This is the answer.
    Reply(Vec<u8>),
    /// A resolver must be asked; see `relay.rs`.
    Relay(Pending),
    /// A transfer over a stream; see [`Path::transfer`].
    Transfer(Pending),
}

/// A message from a client, looked at.
pub enum Looked<'a> {
    /// Nothing is answered: it is no query.
    Silence,
    /// This is the answer.
    Reply(Vec<u8>),
    /// It cannot be read, and a resolver must be asked.
    Opaque(Box<Pending>),
    /// A query for others to answer, unless the memory can.
    Query(Arrival<'a>),
}

/// A query that others answer.
pub struct Arrival<'a> {
    query: Message<'a>,
    family: Family,
    link: Link,
    way: Way,
    group: &'a Rc<Group>,
    /// What tells it from other variants of its question, and the hash that its answer is kept under, if it may be.
    kept_under: Option<(Variant, u64)>,
}

/// How a query begins that does not take its usual course, or has left it.
#[derive(Default)]
pub struct Beginning {
    /// Who asks the same already will tell what comes of it.
    pub behind: Option<oneshot::Receiver<Told>>,
    /// It was asked on its usual course, with this outcome if there is one.
    pub begun: Option<(Calm, Option<Outcome>)>,
}

/// A connection of its own, counted for as long as it is open.
struct Alone {
    solo: Solo,
    _counted: Counted,
}

/// The client of a transfer is gone.
#[derive(Debug)]
pub struct Gone;

/// What the path of a query depends on, one for each worker.
pub struct Path {
    rules: RefCell<Rc<Rules>>,
    counters: Arc<Counters>,
    active: Rc<Cell<usize>>,
    alone: Rc<Cell<usize>>,
    /// Where keys are written.
    room: RefCell<KeyRoom>,
    /// Rings when there are other rules.
    renewed: Notify,
}

impl Path {
    /// The path that these rules make.
    pub fn new(rules: Rules, counters: Arc<Counters>) -> Path {
        let (active, alone, room, renewed) = Default::default();
        Path { rules: RefCell::new(Rc::new(rules)), counters, active, alone, room, renewed }
    }

    /// Other rules from now on; queries on their way go on under those they came under.
    pub fn renew(&self, rules: Rules) {
        self.rules.replace(Rc::new(rules));
        self.renewed.notify_waiters();
    }

    /// The present rules.
    pub fn rules(&self) -> Rc<Rules> {
        self.rules.borrow().clone()
    }

    /// Queries that have come and have not been answered.
    pub fn active(&self) -> usize {
        self.active.get()
    }

    /// This worker's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Judges a message from a client under the present rules.
    pub fn receive(self: &Rc<Self>, bytes: &[u8], client: IpAddr, link: Link) -> Verdict {
        let rules = self.rules();
        self.judge(&rules, &mut self.look(&rules, bytes, client, link), Instant::now())
    }

    /// Looks at a message from a client, to judge it soon under the same rules.
    pub fn look<'a>(&self, rules: &'a Rules, bytes: &'a [u8], client: IpAddr, link: Link) -> Looked<'a> {
        // a response is never answered, or two servers could be made to talk to each other for ever
        if bytes.len() < HEADER || is_response(bytes) {
            self.counters.not_queries.add(1);
            return Looked::Silence;
        }
        let Some(query) = readable(bytes) else { return self.unreadable(rules, bytes, client, link) };
        if !rules.allows(client) {
            self.counters.prohibited.add(1);
            let error = ExtendedError::new(ExtendedError::PROHIBITED, "not in listen.allow");
            return Looked::Reply(padded(reply(&query, rcode::REFUSED, None, Some(&error)), &query, link));
        }
        if query.opcode() == opcode::QUERY && query.question_count() > 1 || query.opt_count() > 1 {
            return Looked::Reply(self.malformed(bytes));
        }
        let (group, route) = rules.groups.group_for(&query);
        if let Some(bytes) = rules.own_answer(&query, link, route) {
            self.counters.local_replies.add(1);
            return Looked::Reply(padded(bytes, &query, link));
        }
        let way = match (query.signature(), Transfer::asked_by(&query)) {
            (_, Some(transfer)) if query.opcode() == opcode::QUERY => Way::Transfer(transfer),
            (Some(Signature::Sig0), _) => Way::Alone,
            _ => Way::Shared,
        };
        let kept_under = match way {
            Way::Shared => rules.memory.expect(&query, link, &mut self.room.borrow_mut()),
            Way::Alone | Way::Transfer(_) => None,
        };
        let family = if client.to_canonical().is_ipv6() { Family::V6 } else { Family::V4 };
        Looked::Query(Arrival { query, family, link, way, group, kept_under })
    }

    /// Judges what has been looked at, which can be judged only once. `now`: when it came.
    pub fn judge(self: &Rc<Self>, rules: &Rules, looked: &mut Looked<'_>, now: Instant) -> Verdict {
        // where it is, since it is large
        let Looked::Query(Arrival { query, family, link, way, group, kept_under }) = looked else {
            return match std::mem::replace(looked, Looked::Silence) {
                Looked::Reply(bytes) => Verdict::Reply(bytes),
                Looked::Opaque(pending) => Verdict::Relay(*pending),
                Looked::Silence | Looked::Query(_) => Verdict::Silence,
            };
        };
        let (query, family, link, group, kept_under) = (&*query, *family, *link, *group, *kept_under);
        let way = std::mem::replace(way, Way::Shared);
        let (bytes, mut room) = (query.bytes(), self.room.borrow_mut());
        let address = kept_under.and_then(|(variant, hash)| {
            let key = room.write(variant, &query.question()?)?;
            Some(Address { key, hash })
        });
        let recalled = match address {
            Some(address) => rules.memory.recall(address, query, link, group.is_out()),
            None => Recalled::Unknown,
        };
        let (reply, reserve) = match recalled {
            Recalled::Unknown => (None, None),
            Recalled::Reserve(bytes) => (None, Some(bytes)),
            Recalled::Reply { bytes, stale, refresh } => {
                if stale { &self.counters.cache_stale } else { &self.counters.cache_hits }.add(1);
                self.counters.truncated.add(u64::from(bytes[2] & 0x02 != 0));
                if !refresh || self.active.get() >= rules.most_active() {
                    return Verdict::Reply(bytes);
                }
                (Some(bytes), None)
            }
        };
        if self.active.get() >= rules.most_active() {
            return Verdict::Reply(self.overloaded(query, link, reserve));
        }
        let Ok((changed, passage)) = to_resolver(query, rules.switches, link, family) else {
            return Verdict::Reply(reply.or(reserve).unwrap_or_else(|| self.malformed(bytes)));
        };
        let (sent, original) = (changed.as_deref().unwrap_or(bytes), changed.is_some().then(|| bytes.to_vec()));
        let is_transfer = matches!(way, Way::Transfer(_)) && matches!(link, Link::Stream { .. });
        let mut pending = self.pending((group, now + rules.deadline), Asked::new(query, sent), passage, way);
        pending.errand = address.map(|address| rules.memory.errand(address));
        if original.is_some() || reserve.is_some() {
            pending.beside = Some(Box::new(Beside { original, reserve }));
        }
        if let Some(reply) = reply {
            self.counters.cache_refreshes.add(1);
            self.refresh(pending);
            return Verdict::Reply(reply);
        }
        if is_transfer { Verdict::Transfer(pending) } else { Verdict::Relay(pending) }
    }

    /// More queries wait than this worker may hold: this one is told at once (RFC 7766 §10), unless there is a reply in
    /// reserve.
    fn overloaded(&self, query: &Message<'_>, link: Link, reserve: Option<Vec<u8>>) -> Vec<u8> {
        if let Some(reserve) = reserve {
            self.counters.cache_stale.add(1);
            return reserve;
        }
        self.counters.failures.add(1);
        let error = ExtendedError::new(ExtendedError::NETWORK_ERROR, "too many queries wait for an answer");
        padded(reply(query, rcode::SERVFAIL, None, Some(&error)), query, link)
    }

    fn malformed(&self, bytes: &[u8]) -> Vec<u8> {
        self.counters.malformed.add(1);
        reply_to_unreadable(bytes)
    }

    /// What cannot be read is an error where the form is known, and the resolver's affair where it is not.
    fn unreadable(&self, rules: &Rules, bytes: &[u8], client: IpAddr, link: Link) -> Looked<'static> {
        let header = [&bytes[..4], &[0; 8]].concat();
        let is_known = opcode::WITH_SECTIONS.contains(&opcode_of(bytes)) || opcode_of(bytes) == opcode::DSO;
        let header = match readable(&header) {
            Some(header) if rules.allows(client) && !is_known => header,
            _ => return Looked::Reply(self.malformed(bytes)),
        };
        if self.active.get() >= rules.most_active() {
            return Looked::Reply(self.overloaded(&header, link, None));
        }
        let Ok((_, passage)) = to_resolver(&header, Switches::default(), link, Family::V4) else {
            return Looked::Reply(self.malformed(bytes));
        };
        let (asked, to) = (Asked::opaque(bytes), (&rules.groups.upstream, Instant::now() + rules.deadline));
        Looked::Opaque(Box::new(self.pending(to, asked, passage, Way::Shared)))
    }

    /// A query that sets out now: from here on it counts, and its time runs.
    fn pending(&self, (group, deadline): (&Rc<Group>, Instant), asked: Asked, passage: Passage, way: Way) -> Pending {
        let (group, asked, active) = (group.clone(), asked.shared(), Some(Counted::new(&self.active)));
        Pending { asked, passage, deadline, way, group, errand: None, beside: None, active }
    }

    /// Puts a query on its usual course, whose outcome is given to [`Path::conclude`]. The task is woken for it.
    ///
    /// # Errors
    /// If it takes another course; who asks the same already, if somebody does, will tell what comes of it.
    pub fn set_out(
        &self,
        pending: &Pending,
        context: &mut Context<'_>,
    ) -> Result<Calm, Option<oneshot::Receiver<Told>>> {
        let Pending { asked, deadline, way, group, errand, .. } = pending;
        if !matches!(way, Way::Shared) || pending.reserve().is_some() || group.vacancy().is_some() {
            return Err(None);
        }
        if let Some(told) = errand.as_ref().and_then(Errand::turn) {
            return Err(Some(told));
        }
        group.set_out(asked, *deadline, context).ok_or(None)
    }

    /// The reply to a query whose usual course has brought this, if it was the last word.
    ///
    /// # Errors
    /// What has become of the query, if it was not.
    pub fn conclude(&self, pending: &Pending, outcome: Option<Outcome>) -> Result<Vec<u8>, Option<Outcome>> {
        let answer = pending.group.last_word(outcome.ok_or(None)?).map_err(Some)?;
        let result = Ok(answer);
        pending.share(&result);
        Ok(self.last_reply(pending, result))
    }

    /// Asks on any course, and gives the reply that the client gets: the answer, or SERVFAIL with the reason.
    pub async fn relay(self: Rc<Self>, mut pending: Pending, beginning: Beginning) -> Vec<u8> {
        self.await_servers(&mut pending).await;
        let answer = match &pending.way {
            Way::Shared if pending.reserve().is_some() => return self.relay_or_stale(pending).await,
            Way::Shared => self.ask(&pending, beginning).await,
            Way::Alone => {
                let answer = self.ask_alone(&pending, true).await;
                answer.map(|(_, answer)| ReadMessage::new(answer))
            }
            Way::Transfer(transfer) => match self.ask_alone(&pending, false).await {
                // a transfer over UDP is one message or none (RFC 1995 §2)
                Ok((_, answer)) if !is_whole(transfer.clone(), &answer) => return self.truncated(&pending),
                result => result.map(|(_, answer)| ReadMessage::new(answer)),
            },
        };
        self.last_reply(&pending, answer)
    }

    /// The reply to a query that is over with it, so that what it was made of may be used for another one.
    fn last_reply(&self, pending: &Pending, answer: Result<ReadMessage, Failure>) -> Vec<u8> {
        let reply = self.reply_to(pending, answer);
        pending.asked.done();
        reply
    }

    /// The reply that the client gets for what the group said.
    fn reply_to(&self, pending: &Pending, answer: Result<ReadMessage, Failure>) -> Vec<u8> {
        match (answer, pending.view()) {
            (Ok(answer), Some(query)) => {
                let reply = pending.passage.to_client(answer, &query);
                self.counters.truncated.add(u64::from(reply[2] & 0x02 != 0));
                reply
            }
            (Ok(answer), None) => {
                let mut answer = answer.into_bytes();
                crate::dns::message::set_id(&mut answer, crate::dns::message::id(pending.query()));
                answer
            }
            (Err(failure), _) => self.failed(pending, &failure),
        }
    }

    /// Asks the group, or waits for the answer to the same question that somebody else has asked already.
    async fn ask(&self, pending: &Pending, beginning: Beginning) -> Result<ReadMessage, Failure> {
        let (errand, group, asked) = (pending.errand.as_ref(), &pending.group, pending.asked.clone());
        let Beginning { mut behind, begun } = beginning;
        while let Some(told) = behind.take().or_else(|| errand.and_then(Errand::turn)) {
            self.counters.joined.add(1);
            match tokio::time::timeout_at(pending.deadline.into(), told).await {
                Ok(Ok(result)) => return result.map(|answer| ReadMessage::new(answer.to_vec())),
                // whoever asked is gone: it is another one's turn, perhaps ours
                Ok(Err(_)) => {}
                Err(_) => return Err(Failure::default()),
            }
        }
        let result = match begun {
            Some((calm, outcome)) => group.go_on(asked, pending.deadline, calm, outcome).await,
            None => group.ask(asked, pending.deadline).await,
        };
        pending.share(&result);
        result
    }

    /// Asks for what is in the memory already; nobody waits for it.
    fn refresh(self: &Rc<Self>, mut pending: Pending) {
        let path = self.clone();
        // the service does not wait for it when it stops
        pending.active = None;
        tokio::task::spawn_local(async move {
            // what came of it is in the memory
            drop(path.ask(&pending, Beginning::default()).await);
        });
    }

    /// Asks, but not for as long as the client would have to wait: there is a reply in reserve (RFC 8767 §5). What is asked
    /// for goes on being waited for, so that the next query finds it.
    async fn relay_or_stale(self: &Rc<Self>, mut pending: Pending) -> Vec<u8> {
        let reserve = pending.beside.as_mut().and_then(|beside| beside.reserve.take()).unwrap_or_default();
        let answers = pending.group.answers();
        let _active = pending.active.take();
        let (path, pending) = (self.clone(), Rc::new(pending));
        let asking = pending.clone();
        let asked = tokio::task::spawn_local(async move { path.ask(&asking, Beginning::default()).await });
        match tokio::time::timeout(STALE_AFTER, asked).await {
            Ok(Ok(Ok(answer))) if is_better_than_stale(answer.bytes()) => return self.reply_to(&pending, Ok(answer)),
            Ok(_) => {}
            Err(_) => pending.group.presume_out(answers),
        }
        self.counters.cache_stale.add(1);
        reserve
    }

    /// Where the servers of the group are being looked up for the first time, a query waits until that has ended, one way
    /// or the other.
    async fn await_servers(&self, pending: &mut Pending) {
        while pending.group.vacancy().is_some_and(|vacancy| vacancy.is_expected) {
            let renewed = self.renewed.notified();
            let rules = self.rules();
            let group = pending.view().map_or(&rules.groups.upstream, |query| rules.groups.group_for(&query).0).clone();
            if Rc::ptr_eq(&group, &pending.group) {
                if tokio::time::timeout_at(pending.deadline.into(), renewed).await.is_err() {
                    return;
                }
            } else {
                pending.group = group;
            }
        }
    }

    async fn ask_alone(&self, pending: &Pending, keep_id: bool) -> Result<(Alone, Vec<u8>), Failure> {
        let counted = Counted::new(&self.alone);
        if self.alone.get() > MOST_ALONE {
            let mut failure = Failure::default();
            failure.note("upstream", false, Trouble::QueueFull);
            return Err(failure);
        }
        let mut solo = Solo::ask(&pending.group, pending.asked.clone(), keep_id, pending.deadline).await?;
        let left = pending.deadline.saturating_duration_since(Instant::now());
        match solo.next(left).await {
            Ok(answer) => Ok((Alone { solo, _counted: counted }, answer)),
            Err(trouble) => {
                let mut failure = Failure::default();
                failure.note("upstream", true, trouble);
                Err(failure)
            }
        }
    }

    fn truncated(&self, pending: &Pending) -> Vec<u8> {
        self.counters.truncated.add(1);
        pending.view().map_or_else(Vec::new, |query| pending.passage.truncated_reply(&query))
    }

    /// SERVFAIL with the reason (RFC 8914).
    fn failed(&self, pending: &Pending, failure: &Failure) -> Vec<u8> {
        self.counters.failures.add(1);
        let error = failure.extended_error();
        let name = pending.view().and_then(|query| query.question()).map_or(&[0][..], |question| question.name());
        log::debug!("a query for {} failed: {}", Printable(name), error.text);
        match pending.view() {
            Some(query) => pending.passage.own_reply(reply(&query, rcode::SERVFAIL, None, Some(&error)), &query),
            None => {
                let mut bytes = reply_to_unreadable(pending.query());
                bytes[3] = bytes[3] & 0xf0 | rcode::SERVFAIL;
                bytes
            }
        }
    }

    /// Relays all messages of a transfer, in order, each handed to `send`.
    ///
    /// # Errors
    /// If the transfer broke off after it had begun: the connection to the client must end, nothing else can tell it.
    pub async fn transfer(
        &self,
        mut pending: Pending,
        send: impl AsyncFn(Vec<u8>) -> Result<(), Gone>,
    ) -> Result<(), Gone> {
        self.await_servers(&mut pending).await;
        let (Way::Transfer(transfer), Some(query)) = (&pending.way, pending.view()) else { return Err(Gone) };
        let mut transfer = transfer.clone();
        let (mut alone, mut answer) = match self.ask_alone(&pending, false).await {
            Ok(begun) => begun,
            Err(failure) => return send(self.failed(&pending, &failure)).await,
        };
        loop {
            let progress = Message::parse(&answer).map_or(Progress::Done, |view| transfer.observe(&view));
            send(pending.passage.to_client(ReadMessage::new(answer), &query)).await?;
            if progress == Progress::Done {
                return Ok(());
            }
            answer = alone.solo.next(TRANSFER_PAUSE).await.map_err(|trouble| {
                log::debug!("a zone transfer broke off: {trouble}");
                Gone
            })?;
        }
    }
}

/// Whether the first message of a transfer is all of it.
fn is_whole(mut transfer: Transfer, answer: &[u8]) -> bool {
    Message::parse(answer).is_ok_and(|view| transfer.observe(&view) == Progress::Done)
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod query_tests;
