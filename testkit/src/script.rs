//! What the server does when a DNS message arrives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::inspect;
use crate::message::{MessageBuilder, a_for, answer_to};
use crate::record::{DO, Opt, Rr, Section, rtype};

/// One DNS message as the server received it.
#[derive(Clone, Debug)]
pub struct Received {
    /// Ordinal of the connection among all accepted ones, from 0.
    pub connection: usize,
    /// Ordinal of the message on its connection, from 0.
    pub nth: usize,
    /// The message without its length prefix.
    pub message: Vec<u8>,
    /// When it was complete.
    pub at: Instant,
    /// The question's name, case as sent.
    pub name: String,
    /// The question's type.
    pub qtype: u16,
    /// How many messages asked for this name (any case) on all connections, this one included.
    pub count_so_far: usize,
}

/// One step of the server's reaction; the steps of a reaction are done in their order.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends this message.
    Answer(Vec<u8>),
    /// Sends this message later, without holding up anything else.
    AnswerAfter(Duration, Vec<u8>),
    /// Sends the default answer, as [`default_answer`] makes it.
    Default,
    /// Sends exactly these octets of the stream in one TLS record (up to 16,384 octets).
    Raw(Vec<u8>),
    /// Sends this message with its length prefix, each octet in a TLS record of its own.
    OneOctetRecords(Vec<u8>),
    /// Sends close_notify, then FIN.
    CloseNotifyAndFin,
    /// Sends FIN without close_notify.
    Fin,
    /// Resets the connection.
    Rst,
    /// Sends this message, close_notify and FIN, all in one TCP segment if it fits.
    AnswerCloseFinInOneSegment(Vec<u8>),
    /// Sends a TLS 1.3 KeyUpdate; on TLS 1.2 nothing.
    KeyUpdate,
    /// Does nothing: the query stays unanswered.
    Silence,
    /// Holds up this connection: nothing is read and no later step is done for this long.
    Sleep(Duration),
    /// From now on the connection neither reads nor writes; it stays open.
    GoSilent,
}

/// A reaction to each message.
pub type Script = Arc<dyn Fn(&Received) -> Vec<Act> + Send + Sync>;

/// The answer of the default script: to type A the address [`a_for`] with TTL 300, to all other types NODATA with a
/// SOA; with OPT if the query had one.
pub fn default_answer(query: &[u8]) -> Vec<u8> {
    default_builder(query).build()
}

/// The default answer, still open for changes.
pub fn default_builder(query: &[u8]) -> MessageBuilder {
    let mut builder = answer_to(query);
    if inspect::qtype(query) == rtype::A {
        builder = builder.a(a_for(&inspect::question_name(query)), 300);
    } else {
        builder = builder.record(Section::Authority, &Rr::soa("test", 300, 300));
    }
    match inspect::opt(query) {
        Some(asked) => builder.opt(Opt::new(1232).flags(asked.flags & DO)),
        None => builder,
    }
}
