//! What changes when a message crosses the proxy, and nothing else does (promise 5 of `docs/architecture.md`).
//!
//! Towards the resolver: the keepalive option stays behind, since it speaks of one TCP session (RFC 7828 §3.2.1), and
//! what the privacy switches ask is done. Towards the client all of that is undone: its own ID, its question in its own
//! case, OPT if and only if it sent one, and no more octets than its datagrams take. Padding belongs to one encrypted
//! link: a client on TLS gets the padding of its own. A signed message crosses as it is.

use std::time::Duration;

use super::edit::{
    Entangled, address_to, option, put_option, put_own_opt, reply, truncate, with_opt_rdata, with_own_opt, without_opt,
    without_options,
};
use super::message::{Message, Opt, ReadMessage, opcode, rcode, rtype};
use super::privacy::{ANSWER_BLOCK, Family, QUERY_BLOCK, put_blank_subnet, put_padding, put_returned_subnet};

/// The privacy switches.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Switches {
    /// Queries are padded to blocks of 128 octets.
    pub padding: bool,
    /// The client subnet of a query is blanked.
    pub remove_client_subnet: bool,
}

/// How the client is connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Link {
    /// UDP; the proxy's own limit for an answer, in octets.
    Datagram {
        /// `listen.udp-payload-limit`.
        limit: usize,
    },
    /// TCP or TLS; how long an idle connection stays open.
    Stream {
        /// `listen.tcp-idle-timeout`.
        idle: Duration,
        /// Whether it is TLS, where a client that pads gets padded answers.
        encrypted: bool,
    },
}

impl Link {
    /// Whether the client is connected over TLS.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Link::Stream { encrypted: true, .. })
    }

    /// Whether the answer to this query is padded: it came over TLS, and was padded itself (RFC 7830 §4).
    fn pads(self, query: &Message<'_>) -> bool {
        self.is_encrypted() && query.opt().is_some_and(|opt| opt.option(option::PADDING).is_some())
    }
}

/// What must be undone or kept in mind when the answer comes back.
#[derive(Clone, Debug)]
pub struct Passage {
    link: Link,
    switches: Switches,
    had_opt: bool,
    wants_keepalive: bool,
    wants_padding: bool,
    subnet: Option<Box<[u8]>>,
}

/// The query as the resolver gets it (`None`: unchanged), and what its answer will need.
///
/// # Errors
/// [`Entangled`] if a privacy switch asks for a change that the form of the query does not allow.
pub fn to_resolver(
    query: &Message<'_>,
    switches: Switches,
    link: Link,
    family: Family,
) -> Result<(Option<Vec<u8>>, Passage), Entangled> {
    let (opt, mut passage) = (query.opt(), Passage::new(query, switches, link));
    if is_sealed(query) || !opcode::WITH_SECTIONS.contains(&query.opcode()) {
        return Ok((None, passage));
    }
    if !passage.switches.padding && !passage.switches.remove_client_subnet {
        return Ok((without_options(query, |code| code == option::KEEPALIVE), passage));
    }
    let mut rdata = kept_options(opt, passage.switches);
    if passage.switches.remove_client_subnet {
        passage.subnet = opt.and_then(|opt| opt.option(option::CLIENT_SUBNET)).map(Box::from);
        put_blank_subnet(&mut rdata, family);
    }
    if passage.switches.padding {
        let old = opt.map_or(0, |opt| Opt::FIXED + opt.rdata().len());
        let length = query.bytes().len() - old + Opt::FIXED + rdata.len();
        put_padding(&mut rdata, length, QUERY_BLOCK);
    }
    let bytes = if opt.is_some() { with_opt_rdata(query, &rdata)? } else { with_own_opt(query, &rdata)? };
    Ok((Some(bytes), passage))
}

/// Whether a message crosses as it is: it is signed, or it negotiates a key, and signatures to come may cover what was
/// said before there was one (RFC 2930).
fn is_sealed(message: &Message<'_>) -> bool {
    message.signature().is_some() || message.question().is_some_and(|question| question.qtype() == rtype::TKEY)
}

/// The options that cross in either direction under these switches.
fn kept_options(opt: Option<Opt<'_>>, switches: Switches) -> Vec<u8> {
    let mut rdata = Vec::new();
    for entry in opt.iter().flat_map(Opt::options).filter(|entry| !is_ours(entry.code, switches)) {
        rdata.extend(entry.bytes);
    }
    rdata
}

/// Options that belong to one hop, or that a switch takes into our hands.
fn is_ours(code: u16, switches: Switches) -> bool {
    match code {
        option::KEEPALIVE => true,
        option::PADDING => switches.padding,
        option::CLIENT_SUBNET => switches.remove_client_subnet,
        _ => false,
    }
}

impl Passage {
    /// What the answer to this query will need, if nothing but hop-by-hop options is taken out of the query.
    pub fn new(query: &Message<'_>, switches: Switches, link: Link) -> Passage {
        let opt = query.opt();
        let (wants_keepalive, wants_padding, subnet) = (false, false, None);
        let mut passage = Passage { link, switches, had_opt: opt.is_some(), wants_keepalive, wants_padding, subnet };
        if is_sealed(query) || !opcode::WITH_SECTIONS.contains(&query.opcode()) {
            passage.switches = Switches::default();
            return passage;
        }
        if query.opcode() != opcode::QUERY {
            passage.switches.remove_client_subnet = false;
        }
        passage.wants_keepalive =
            matches!(link, Link::Stream { .. }) && opt.is_some_and(|opt| opt.option(option::KEEPALIVE).is_some());
        passage.wants_padding = link.pads(query);
        passage
    }

    /// The largest answer that this client takes: its own word, at least 512 (RFC 6891 §6.2.3), and our limit.
    fn answer_limit(&self, query: &Message<'_>) -> usize {
        match self.link {
            Link::Stream { .. } => 65_535,
            Link::Datagram { limit } => query.opt().map_or(512, |opt| usize::from(opt.udp_size())).max(512).min(limit),
        }
    }

    /// The answer as this client gets it. `query` is what the client sent.
    ///
    /// An answer that cannot be read to its end is not changed beyond ID and question; the caller lets no such answer
    /// in where its form is known.
    pub fn to_client(&self, answer: ReadMessage, query: &Message<'_>) -> Vec<u8> {
        let Some(view) = answer.view() else {
            let mut answer = answer.into_bytes();
            address_to(&mut answer, query.id(), query.question().as_ref());
            return answer;
        };
        let sealed = is_sealed(&view);
        let question = if sealed { None } else { query.question() };
        let edited = if sealed { Edited::Same } else { self.edited(&view) };
        let mut answer = match edited {
            Edited::Same => answer.into_bytes(),
            Edited::Changed(bytes) => bytes,
            Edited::NoAnswer => return reply(query, rcode::SERVFAIL, None, None),
        };
        address_to(&mut answer, query.id(), question.as_ref());
        self.fitted(answer, query)
    }

    /// The answer as any client gets it that asks the same: without what belongs to one hop, or one client's link. To be kept,
    /// and given out by [`Passage::out_of_memory`].
    pub fn for_everybody(&self, answer: &Message<'_>) -> ForAll {
        if answer.opt().is_none() {
            return ForAll::AsItIs;
        }
        // a client that pads sends what the resolver answers with padding
        let switches = Switches { padding: self.switches.padding || self.wants_padding, ..self.switches };
        let link = Link::Datagram { limit: 65_535 };
        let anybody = Passage { link, switches, wants_keepalive: false, wants_padding: false, subnet: None, ..*self };
        match anybody.edited(answer) {
            Edited::Same => ForAll::AsItIs,
            Edited::Changed(bytes) => ForAll::Changed(bytes),
            Edited::NoAnswer => ForAll::Nothing,
        }
    }

    /// An answer that was kept, with this client's ID and question already, as this client gets it.
    #[inline]
    pub fn out_of_memory(&self, answer: Vec<u8>, query: &Message<'_>) -> Vec<u8> {
        if self.wants_keepalive || self.wants_padding {
            return self.to_client(ReadMessage::new(answer), query);
        }
        if answer.len() <= self.answer_limit(query) { answer } else { self.fitted(answer, query) }
    }

    /// The answer, or its beginning with TC set if it is too large for this client's datagrams.
    fn fitted(&self, answer: Vec<u8>, query: &Message<'_>) -> Vec<u8> {
        let limit = self.answer_limit(query);
        if answer.len() <= limit {
            return answer;
        }
        match Message::parse(&answer) {
            Ok(view) => {
                let mut short = truncate(&view, limit);
                if let (Some(asked), None, None) = (query.opt(), view.opt(), view.signature()) {
                    // what is cut is our own message, and answers OPT with OPT (RFC 6891 §6.1.1) also for a resolver
                    // without EDNS
                    put_own_opt(&mut short, asked);
                }
                short
            }
            _ => answer,
        }
    }

    fn edited(&self, answer: &Message<'_>) -> Edited {
        let Some(opt) = answer.opt() else { return Edited::Same };
        if !self.had_opt {
            // an extended code cannot be told without OPT, and its low bits alone would be another code
            return if opt.extended_rcode() == 0 { Edited::Changed(without_opt(answer)) } else { Edited::NoAnswer };
        }
        let returned = self.subnet.as_deref();
        let keepalive = self.keepalive();
        // padding belongs to the link of the resolver, or to that of a client that can see it
        let ours = Switches { padding: self.switches.padding || self.link.is_encrypted(), ..self.switches };
        let without_ours = || without_options(answer, |code| is_ours(code, ours)).map_or(Edited::Same, Edited::Changed);
        if returned.is_none() && keepalive.is_none() && !self.wants_padding {
            return without_ours();
        }
        let mut rdata = kept_options(Some(opt), ours);
        if let Some(sent) = returned {
            put_returned_subnet(&mut rdata, sent);
        }
        if let Some(tenths) = keepalive {
            put_option(&mut rdata, option::KEEPALIVE, &tenths.to_be_bytes());
        }
        if self.wants_padding {
            let length = answer.bytes().len() - opt.rdata().len() + rdata.len();
            put_padding(&mut rdata, length, ANSWER_BLOCK);
        }
        with_opt_rdata(answer, &rdata).map_or_else(|Entangled| without_ours(), Edited::Changed)
    }

    /// The idle time-out that a client on a stream asked to know, in tenths of a second (RFC 7828 §3.3.2).
    fn keepalive(&self) -> Option<u16> {
        match self.link {
            Link::Stream { idle, .. } if self.wants_keepalive => {
                Some(u16::try_from(idle.as_millis() / 100).unwrap_or(u16::MAX))
            }
            _ => None,
        }
    }

    /// A reply of our own, as this client gets it: with the keepalive and the padding it asked for, within its limit.
    pub fn own_reply(&self, bytes: Vec<u8>, query: &Message<'_>) -> Vec<u8> {
        let bytes = match (self.keepalive(), Message::parse(&bytes)) {
            (Some(tenths), Ok(view)) if view.opt().is_some() => {
                let mut rdata = view.opt().map_or(Vec::new(), |opt| opt.rdata().to_vec());
                put_option(&mut rdata, option::KEEPALIVE, &tenths.to_be_bytes());
                with_opt_rdata(&view, &rdata).unwrap_or(bytes)
            }
            _ => bytes,
        };
        self.fitted(padded(bytes, query, self.link), query)
    }

    /// A reply that says no more than that the whole answer is to be had over TCP.
    pub fn truncated_reply(&self, query: &Message<'_>) -> Vec<u8> {
        let mut bytes = reply(query, rcode::NOERROR, None, None);
        bytes[2] |= 0x02;
        bytes
    }
}

/// A reply of our own to this query, padded if the query came over TLS and was padded itself.
pub fn padded(reply: Vec<u8>, query: &Message<'_>, link: Link) -> Vec<u8> {
    if !link.pads(query) || query.signature().is_some() {
        return reply;
    }
    let Ok(view) = Message::parse(&reply) else { return reply };
    let Some(opt) = view.opt() else { return reply };
    let mut rdata = opt.rdata().to_vec();
    put_padding(&mut rdata, reply.len(), ANSWER_BLOCK);
    with_opt_rdata(&view, &rdata).unwrap_or(reply)
}

/// An answer as all clients get it that ask the same.
pub enum ForAll {
    /// As it came.
    AsItIs,
    /// Without what was for one.
    Changed(Vec<u8>),
    /// No client gets it.
    Nothing,
}

/// What became of an answer on its way to the client.
enum Edited {
    Same,
    Changed(Vec<u8>),
    NoAnswer,
}

#[cfg(test)]
#[path = "crossing_tests.rs"]
mod crossing_tests;
