//! The few changes that a relay makes to a message, and the replies that it writes itself.
//!
//! Records are only ever cut out or put in around the OPT record. What stands behind it may hold compression pointers
//! into the part that would move; where that could be so, the edit says [`Entangled`] instead of guessing.

use super::message::{HEADER, Message, Opt, Question, rcode, rtype, set_id};

/// The UDP payload size that replies of our own announce (RFC 9715; the value of DNS flag day 2020).
const OWN_UDP_SIZE: u16 = 1232;
/// The flag DO, the only EDNS flag that a reply of our own repeats (RFC 3225 §3).
const DO: u16 = 0x8000;
/// Longest text of an extended error, so that a reply of our own fits into 512 octets with any question.
const EDE_TEXT: usize = 120;

/// EDNS options that this program handles.
pub mod option {
    /// Client subnet (RFC 7871).
    pub const CLIENT_SUBNET: u16 = 8;
    /// Idle time-out of a TCP session (RFC 7828).
    pub const KEEPALIVE: u16 = 11;
    /// Padding (RFC 7830).
    pub const PADDING: u16 = 12;
    /// Extended DNS error (RFC 8914).
    pub const EXTENDED_ERROR: u16 = 15;
}

/// The edit would move octets that a compression pointer may name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entangled;

/// An extended DNS error (RFC 8914): why a reply is an error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExtendedError {
    /// INFO-CODE.
    pub code: u16,
    /// EXTRA-TEXT.
    pub text: String,
}

impl ExtendedError {
    /// Stale answer (RFC 8914 §4.4): its time is over, and no resolver had a better one.
    pub const STALE: u16 = 3;
    /// Stale NXDOMAIN answer (RFC 8914 §4.20).
    pub const STALE_NXDOMAIN: u16 = 19;
    /// Prohibited: this client may not ask (RFC 8914 §4.19).
    pub const PROHIBITED: u16 = 18;
    /// Not supported (RFC 8914 §4.22).
    pub const NOT_SUPPORTED: u16 = 21;
    /// No reachable authority (RFC 8914 §4.23): the servers were reached, but gave no answer.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// Network error (RFC 8914 §4.24): no authenticated connection to any server.
    pub const NETWORK_ERROR: u16 = 23;

    /// An error with a text for people.
    pub fn new(code: u16, text: impl Into<String>) -> ExtendedError {
        ExtendedError { code, text: text.into() }
    }
}

/// Appends one EDNS option.
pub fn put_option(rdata: &mut Vec<u8>, code: u16, data: &[u8]) {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    rdata.extend(code.to_be_bytes());
    rdata.extend(length.to_be_bytes());
    rdata.extend(&data[..usize::from(length)]);
}

/// Appends an OPT record.
pub fn put_opt(bytes: &mut Vec<u8>, udp_size: u16, flags: u16, rdata: &[u8]) {
    let length = u16::try_from(rdata.len()).unwrap_or(u16::MAX);
    bytes.push(0);
    bytes.extend(rtype::OPT.to_be_bytes());
    bytes.extend(udp_size.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(flags.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(&rdata[..usize::from(length)]);
}

/// Appends the OPT record of a reply of our own, without options, and counts it.
///
/// The caller has seen that the reply has no additional records.
pub fn put_own_opt(reply: &mut Vec<u8>, asked: Opt<'_>) {
    reply[11] = 1;
    put_opt(reply, OWN_UDP_SIZE, asked.flags() & DO, &[]);
}

/// A reply of our own (RFC 8906 §3): ID, opcode, RD, CD and question of the query; OPT if the query had one.
///
/// `authority` is one SOA record in wire form for negative answers (RFC 2308 §3).
pub fn reply(query: &Message<'_>, code: u8, authority: Option<&[u8]>, error: Option<&ExtendedError>) -> Vec<u8> {
    let mut out = reply_header(query.bytes(), code);
    if let Some(question) = query.question() {
        out[5] = 1;
        out.extend(question.bytes);
    }
    if let Some(record) = authority {
        out[9] = 1;
        out.extend(record);
    }
    if let Some(opt) = query.opt() {
        let mut rdata = Vec::new();
        if let Some(error) = error {
            put_option(&mut rdata, option::EXTENDED_ERROR, &extended_error_data(error));
        }
        out[11] = 1;
        put_opt(&mut out, OWN_UDP_SIZE, opt.flags() & DO, &rdata);
    }
    out
}

/// The reply to a message of which nothing but the header can be trusted (RFC 5625 §6.3).
///
/// The caller has seen that there is a header.
pub fn reply_to_unreadable(bytes: &[u8]) -> Vec<u8> {
    reply_header(bytes, rcode::FORMERR)
}

/// QR and RA set; AA, TC, AD and Z clear; opcode, RD and CD as in the query.
fn reply_header(query: &[u8], code: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend(&query[..2]);
    out.extend([0x80 | (query[2] & 0x79), 0x80 | (query[3] & 0x10) | code]);
    out.resize(HEADER, 0);
    out
}

fn extended_error_data(error: &ExtendedError) -> Vec<u8> {
    let mut data = error.code.to_be_bytes().to_vec();
    let mut end = error.text.len().min(EDE_TEXT);
    while !error.text.is_char_boundary(end) {
        end -= 1;
    }
    data.extend(&error.text.as_bytes()[..end]);
    data
}

/// Gives an answer the ID and the question, case included, of this client's query (RFC 4343 §4.1).
///
/// Only the same question is replaced: later messages of a transfer may have none, or what they like.
pub fn address_to(answer: &mut [u8], id: u16, question: Option<&Question<'_>>) {
    set_id(answer, id);
    if let Some(question) = question {
        let end = HEADER + question.bytes.len();
        let same = |bytes: &[u8]| question.same(&Question { bytes });
        if answer.len() >= end && answer[4..6] == [0, 1] && same(&answer[HEADER..end]) {
            answer[HEADER..end].copy_from_slice(question.bytes);
        }
    }
}

/// The answer with TC set and its sections emptied, OPT kept, for a datagram of at most `limit` octets.
///
/// Whole RRsets or none (RFC 2181 §9): none, since a client that sees TC asks again over TCP and may use nothing of
/// what came with it. OPT stays whole if it fits, else with its extended error alone, else without options. Of a
/// signed answer the question stays alone, as no signature would fit it.
pub fn truncate(answer: &Message<'_>, limit: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(limit.min(512));
    out.extend(&answer.bytes()[..answer.questions_end().min(limit.max(HEADER))]);
    if out.len() < answer.questions_end() {
        // a question that does not fit was never asked over UDP
        out.truncate(HEADER);
        out[4..6].fill(0);
    }
    out[2] |= 0x02;
    out[6..12].fill(0);
    let (Some(opt), None) = (answer.opt(), answer.signature()) else { return out };
    let room = limit.saturating_sub(out.len() + Opt::FIXED);
    let mut rdata = opt.rdata().to_vec();
    if rdata.len() > room {
        rdata = opt
            .options()
            .find(|entry| entry.code == option::EXTENDED_ERROR)
            .map_or(Vec::new(), |entry| entry.bytes.to_vec());
    }
    if rdata.len() > room {
        rdata.clear();
    }
    out[11] = 1;
    put_opt(&mut out, opt.udp_size(), opt.flags(), &rdata);
    let at = out.len() - rdata.len() - Opt::FIXED;
    out[at + 5] = opt.extended_rcode();
    out[at + 6] = opt.version();
    out
}

/// The message with other content in its OPT record.
///
/// # Errors
/// [`Entangled`] if records follow OPT that may point at what moves, or if the result is longer than a message can be.
pub fn with_opt_rdata(message: &Message<'_>, rdata: &[u8]) -> Result<Vec<u8>, Entangled> {
    let (Some(span), bytes) = (message.opt_span(), message.bytes()) else { return Err(Entangled) };
    let old = span.end - span.start - Opt::FIXED;
    let length = u16::try_from(rdata.len()).map_err(|_| Entangled)?;
    if rdata.len() != old && tail_may_point_past(message, span.end) || bytes.len() - old + rdata.len() > 65_535 {
        return Err(Entangled);
    }
    let mut out = Vec::with_capacity(bytes.len() - old + rdata.len());
    out.extend(&bytes[..span.start + Opt::FIXED - 2]);
    out.extend(length.to_be_bytes());
    out.extend(rdata);
    out.extend(&bytes[span.end..]);
    Ok(out)
}

/// The message with an extended error more, or `None` if it has no OPT record, or its form does not allow it.
pub fn with_extended_error(message: &Message<'_>, error: &ExtendedError) -> Option<Vec<u8>> {
    let mut rdata = message.opt()?.rdata().to_vec();
    put_option(&mut rdata, option::EXTENDED_ERROR, &extended_error_data(error));
    with_opt_rdata(message, &rdata).ok()
}

/// The message without the options that `unwanted` names, or `None` if it has none of them.
///
/// Where nothing may move, an unwanted option becomes padding of the same length, which its reader must ignore.
pub fn without_options(message: &Message<'_>, unwanted: impl Fn(u16) -> bool) -> Option<Vec<u8>> {
    let (opt, span) = (message.opt()?, message.opt_span()?);
    if !opt.options().any(|entry| unwanted(entry.code)) {
        return None;
    }
    let mut kept = Vec::with_capacity(opt.rdata().len());
    let mut walked = 0;
    for entry in opt.options() {
        walked += entry.bytes.len();
        if !unwanted(entry.code) {
            kept.extend(entry.bytes);
        }
    }
    // octets that are no whole option are the sender's affair
    kept.extend(&opt.rdata()[walked..]);
    Some(with_opt_rdata(message, &kept).unwrap_or_else(|Entangled| {
        let mut out = message.bytes().to_vec();
        let mut at = span.start + Opt::FIXED;
        for entry in opt.options() {
            if unwanted(entry.code) {
                out[at..at + 2].copy_from_slice(&option::PADDING.to_be_bytes());
                out[at + 4..at + entry.bytes.len()].fill(0);
            }
            at += entry.bytes.len();
        }
        out
    }))
}

/// The message without its OPT record.
///
/// Records behind it that may point at what moves are left out as well: additional data may always be missing.
pub fn without_opt(message: &Message<'_>) -> Vec<u8> {
    let bytes = message.bytes();
    let Some(span) = message.opt_span() else { return bytes.to_vec() };
    let mut out = bytes[..span.start].to_vec();
    let mut additional = message.additional_count() - 1;
    if tail_may_point_past(message, span.end) {
        let behind = message.records().filter(|record| record.start >= span.end).count();
        additional -= u16::try_from(behind).unwrap_or(additional);
    } else {
        out.extend(&bytes[span.end..]);
    }
    out[10..12].copy_from_slice(&additional.to_be_bytes());
    out
}

/// The message with an OPT record of ours behind its last record.
///
/// # Errors
/// [`Entangled`] if octets that belong to no record follow, or if the result is longer than a message can be.
pub fn with_own_opt(message: &Message<'_>, rdata: &[u8]) -> Result<Vec<u8>, Entangled> {
    let bytes = message.bytes();
    let Some(additional) = message.additional_count().checked_add(1) else { return Err(Entangled) };
    if message.end() != bytes.len() || bytes.len() + Opt::FIXED + rdata.len() > 65_535 {
        return Err(Entangled);
    }
    let mut out = Vec::with_capacity(bytes.len() + Opt::FIXED + rdata.len());
    out.extend(bytes);
    out[10..12].copy_from_slice(&additional.to_be_bytes());
    put_opt(&mut out, OWN_UDP_SIZE, 0, rdata);
    Ok(out)
}

/// Whether a record behind `moving` may hold a compression pointer to a place behind it. RDATA of unknown types is not
/// understood, so any two octets that could be such a pointer count as one.
fn tail_may_point_past(message: &Message<'_>, moving: usize) -> bool {
    let tail = &message.bytes()[moving..];
    tail.windows(2).any(|pair| pair[0] >= 0xc0 && usize::from(u16::from_be_bytes([pair[0] & 0x3f, pair[1]])) >= moving)
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod edit_tests;
