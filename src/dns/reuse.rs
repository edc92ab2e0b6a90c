//! Which queries may be answered from memory, which answers may be kept for them, and for how long (pure).
//!
//! A kept answer is used only for a query that a resolver could not tell from the one it was given for: the same question,
//! the same flags, the same EDNS (RFC 8906 §6, RFC 6840 §5.7 to §5.9). A query with anything in it that is not understood
//! here is not answered from memory, and neither is one with a cookie or a client subnet, whose answers belong to one
//! client (RFC 7873 §5.3, RFC 7871 §7.3.1).

use std::time::Duration;

use super::edit::option;
use super::message::{Message, Opt, Question, Record, Section, opcode, rcode, rtype};

/// Octets of a question: the longest name, type and class.
const QUESTION: usize = 255 + 4;
/// Octets that tell variants of a question apart: the flags of the header, whether there is EDNS, the flags of EDNS.
const VARIANT: usize = 5;
/// Octets of an SOA record's numbers behind its names, of which MINIMUM is the last (RFC 1035 §3.3.13).
const SOA_NUMBERS: usize = 20;
/// Bits of the header that no query has: QR, AA and TC; RA and RCODE.
const NEVER_IN_A_QUERY: [u8; 2] = [0x86, 0x8f];
/// Types that ask for something else than records: key negotiation, transfers, mail agents (RFC 6895 §3.1). ANY is none
/// of them.
const META: std::ops::RangeInclusive<u16> = 249..=254;

/// What tells a variant of a question from others.
pub type Variant = [u8; VARIANT];

/// What an answer is kept under: the variant, then the question with its name in small letters.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    octets: &'a [u8],
}

impl<'a> Key<'a> {
    /// The key with these octets, which were a key's.
    #[inline]
    pub fn again(octets: &'a [u8]) -> Option<Key<'a>> {
        (octets.len() > VARIANT + 4).then_some(Key { octets })
    }

    /// The same octets for equal questions.
    #[inline]
    pub fn octets(self) -> &'a [u8] {
        self.octets
    }

    /// What tells it from other variants of its question.
    #[inline]
    pub fn variant(self) -> Variant {
        let mut variant = [0; VARIANT];
        variant.copy_from_slice(&self.octets[..VARIANT]);
        variant
    }

    /// Its question, in small letters.
    #[inline]
    pub fn question(self) -> Question<'a> {
        Question { bytes: &self.octets[VARIANT..] }
    }
}

/// Room for any key.
pub struct KeyRoom([u8; VARIANT + QUESTION]);

impl Default for KeyRoom {
    fn default() -> KeyRoom {
        KeyRoom([0; VARIANT + QUESTION])
    }
}

impl KeyRoom {
    /// The key of this variant of a question; `None` if the question is longer than any.
    #[inline]
    pub fn write(&mut self, variant: Variant, question: &Question<'_>) -> Option<Key<'_>> {
        let end = VARIANT + question.bytes.len();
        self.0[..VARIANT].copy_from_slice(&variant);
        self.0.get_mut(VARIANT..end)?.copy_from_slice(question.bytes);
        self.0[VARIANT..end - 4].make_ascii_lowercase();
        Some(Key { octets: &self.0[..end] })
    }
}

/// What answers to this query are kept under, if they may be. `handled` names the options that this program takes out of
/// queries and answers, or answers itself, so that they make no difference to the resolver.
#[inline]
pub fn key<'a>(query: &Message<'_>, handled: impl Fn(u16) -> bool, room: &'a mut KeyRoom) -> Option<Key<'a>> {
    let (bytes, question) = (query.bytes(), query.question()?);
    let (opt, flags) = (query.opt(), [bytes[2], bytes[3]]);
    let is_plain = query.opcode() == opcode::QUERY
        && flags[0] & NEVER_IN_A_QUERY[0] == 0
        && flags[1] & NEVER_IN_A_QUERY[1] == 0
        && query.answer_count() == 0
        && query.authority_count() == 0
        && query.additional_count() == u16::from(opt.is_some())
        && query.end() == bytes.len()
        && !META.contains(&question.qtype());
    if !is_plain || opt.is_some_and(|opt| !is_understood(&opt, &handled)) {
        return None;
    }
    let [high, low] = opt.map_or(0, |opt| opt.flags()).to_be_bytes();
    room.write([flags[0], flags[1], u8::from(opt.is_some()), high, low], &question)
}

fn is_understood(opt: &Opt<'_>, handled: impl Fn(u16) -> bool) -> bool {
    let mut options = opt.options();
    opt.version() == 0
        && opt.extended_rcode() == 0
        && options.all(|entry| handled(entry.code))
        // octets that are no whole option are not understood either
        && options.is_exhausted()
}

/// For how long answers are kept, in seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lifetimes {
    /// At least, whatever their records say.
    pub min: u32,
    /// At most.
    pub max: u32,
    /// At most, where they say that there is nothing.
    pub max_negative: u32,
    /// Failures; 0 for not at all.
    pub failure: u32,
}

impl Lifetimes {
    /// From lengths of time, of which whole seconds count.
    pub fn new(min: Duration, max: Duration, max_negative: Duration, failure: Duration) -> Lifetimes {
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        Lifetimes {
            min: seconds(min),
            max: seconds(max),
            max_negative: seconds(max_negative),
            failure: seconds(failure),
        }
    }
}

/// What kind of answer is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kept {
    /// There are such records.
    Positive,
    /// There is no such name, or it has no such records (RFC 2308).
    Negative,
    /// The resolver could not say (RFC 9520).
    Failure,
}

/// An answer that may be kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Keep {
    /// Its kind.
    pub kind: Kept,
    /// For how long, in seconds; at least one.
    pub lifetime: u32,
}

/// Where TTLs stand in a message, and what they are.
pub type Ttls = Vec<(u16, u32)>;

/// Whether an answer has nothing in it that only its own client may see, as far as its resolver says: to be asked of the
/// answer before any of its options is taken out.
pub fn is_for_everybody(answer: &Message<'_>) -> bool {
    let Some(opt) = answer.opt() else { return true };
    let mut options = opt.options();
    opt.version() == 0
        && opt.extended_rcode() == 0
        && options.all(|entry| match entry.code {
            option::KEEPALIVE | option::PADDING | option::EXTENDED_ERROR => true,
            // made for no network in particular: the fourth octet is the scope (RFC 7871 §6)
            option::CLIENT_SUBNET => matches!(entry.data, [_, _, _, 0, ..]),
            _ => false,
        })
        && options.is_exhausted()
}

/// Whether an answer says what there is, or that there is nothing: then no older one is true any more (RFC 8767 §4).
pub fn is_conclusive(answer: &Message<'_>) -> bool {
    matches!(answer.rcode(), rcode::NOERROR | rcode::NXDOMAIN)
        && answer.opt().is_none_or(|opt| opt.extended_rcode() == 0)
        && !answer.is_truncated()
}

/// Whether and how long an answer to `question` may be kept (RFC 2308 §5, RFC 2181 §5.2 and §8). Its TTLs, as they count,
/// are put into `ttls`.
pub fn keep(question: &Question<'_>, answer: &Message<'_>, lifetimes: Lifetimes, ttls: &mut Ttls) -> Option<Keep> {
    let is_whole = answer.is_response()
        && answer.opcode() == opcode::QUERY
        && !answer.is_truncated()
        && answer.question().is_some_and(|found| found.same(question))
        && answer.signature().is_none()
        && answer.opt_count() == u16::from(answer.opt().is_some())
        && answer.end() == answer.bytes().len();
    if !is_whole {
        return None;
    }
    if answer.rcode() == rcode::SERVFAIL {
        read_ttls(answer, lifetimes.max, lifetimes, ttls)?;
        return (lifetimes.failure > 0).then_some(Keep { kind: Kept::Failure, lifetime: lifetimes.failure });
    }
    let is_negative = match answer.rcode() {
        rcode::NOERROR => !has_data(question, answer),
        rcode::NXDOMAIN => true,
        _ => return None,
    };
    let (kind, cap) = match is_negative {
        // without SOA nobody says for how long there is nothing (RFC 2308 §5)
        true => (Kept::Negative, negative_ttl(answer)?.max(lifetimes.min).min(lifetimes.max_negative)),
        false => (Kept::Positive, u32::MAX),
    };
    read_ttls(answer, cap, lifetimes, ttls)?;
    let lifetime = ttls.iter().map(|&(_, ttl)| ttl).min()?;
    (lifetime > 0).then_some(Keep { kind, lifetime })
}

fn has_data(question: &Question<'_>, answer: &Message<'_>) -> bool {
    const ANY: u16 = 255;
    let wanted = question.qtype();
    let mut answers = answer.records().take_while(|record| record.section == Section::Answer);
    answers.any(|record| wanted == ANY || record.rtype == wanted)
}

/// TTL and MINIMUM of the SOA record in the authority section, the smaller of the two.
fn negative_ttl(answer: &Message<'_>) -> Option<u32> {
    let is_soa = |record: &Record<'_>| record.section == Section::Authority && record.rtype == rtype::SOA;
    let soa = answer.records().find(is_soa)?;
    let minimum = soa.rdata.last_chunk::<4>().filter(|_| soa.rdata.len() > SOA_NUMBERS)?;
    Some(written_ttl(u32::from_be_bytes(*minimum)).min(ttl_at(answer.bytes(), place(&soa))?))
}

/// Where the TTL of a record stands.
fn place(record: &Record<'_>) -> usize {
    record.end - record.rdata.len() - 6
}

fn ttl_at(bytes: &[u8], place: usize) -> Option<u32> {
    let octets = bytes.get(place..)?.first_chunk::<4>()?;
    Some(written_ttl(u32::from_be_bytes(*octets)))
}

/// A TTL with its top bit set means 0 (RFC 2181 §8).
fn written_ttl(octets: u32) -> u32 {
    if octets >> 31 == 0 { octets } else { 0 }
}

/// The places of all TTLs, and the values that count: that of an SOA at most `cap`. The OPT record has none.
fn read_ttls(answer: &Message<'_>, cap: u32, lifetimes: Lifetimes, found: &mut Ttls) -> Option<()> {
    found.clear();
    for record in answer.records().filter(|record| record.rtype != rtype::OPT) {
        let mut ttl = ttl_at(answer.bytes(), place(&record))?.min(lifetimes.max).max(lifetimes.min);
        if record.section == Section::Authority && record.rtype == rtype::SOA {
            ttl = ttl.min(cap);
        }
        found.push((u16::try_from(place(&record)).ok()?, ttl));
    }
    Some(())
}

#[cfg(test)]
#[path = "reuse_tests.rs"]
mod reuse_tests;
