//! Reads DNS messages for assertions. On a malformed message the readers say "nothing" rather than panic, because the
//! server reads with them whatever a proxy under test sends.

use std::fmt::Write as _;

use crate::record::{Opt, Rr, Section, rtype};

fn word(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]))
}

/// The ID; 0 if the message is too short.
pub fn id(message: &[u8]) -> u16 {
    word(message, 0).unwrap_or(0)
}

/// All 16 flag bits; 0 if the message is too short.
pub fn flags(message: &[u8]) -> u16 {
    word(message, 2).unwrap_or(0)
}

/// The opcode.
pub fn opcode(message: &[u8]) -> u8 {
    message.get(2).map_or(0, |octet| (octet >> 3) & 15)
}

/// QDCOUNT, ANCOUNT, NSCOUNT, ARCOUNT.
pub fn counts(message: &[u8]) -> [u16; 4] {
    [4, 6, 8, 10].map(|at| word(message, at).unwrap_or(0))
}

/// The RCODE with the upper bits of the OPT record.
pub fn rcode(message: &[u8]) -> u16 {
    (flags(message) & 15) | opt(message).map_or(0, |opt| u16::from(opt.ext_rcode) << 4)
}

/// Reads the name at `at`: its labels uncompressed in wire form, and where the message goes on.
fn name_at(message: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    let (mut wire, mut at, mut after) = (Vec::new(), at, None);
    // a name has at most 127 labels, so more jumps than that are a loop
    for _ in 0..256 {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => {
                wire.push(0);
                return Some((wire, after.unwrap_or(at + 1)));
            }
            1..=63 => {
                wire.extend_from_slice(message.get(at..=at + length)?);
                at += length + 1;
            }
            0xc0..=0xff => {
                after = after.or(Some(at + 2));
                at = usize::from(word(message, at)? & 0x3fff);
            }
            _ => return None,
        }
    }
    None
}

/// A wire-form name as text: no trailing dot, the root is ".", case kept, odd octets as `\DDD`.
pub fn name_text(wire: &[u8]) -> String {
    let (mut text, mut at) = (String::new(), 0);
    while let Some(&length @ 1..=63) = wire.get(at) {
        if at > 0 {
            text.push('.');
        }
        for &octet in wire.iter().skip(at + 1).take(usize::from(length)) {
            match octet {
                b'.' | b'\\' => {
                    text.push('\\');
                    text.push(char::from(octet));
                }
                0x21..=0x7e => text.push(char::from(octet)),
                _ => write!(text, "\\{octet:03}").expect("a string takes all"),
            }
        }
        at += usize::from(length) + 1;
    }
    if text.is_empty() { ".".into() } else { text }
}

/// The first question's name, case as sent; empty if there is none.
pub fn question_name(message: &[u8]) -> String {
    question(message).map_or_else(String::new, |(name, ..)| name_text(&name))
}

/// The first question's type; 0 if there is none.
pub fn qtype(message: &[u8]) -> u16 {
    question(message).map_or(0, |(_, qtype, _)| qtype)
}

/// The first question's class; 0 if there is none.
pub fn qclass(message: &[u8]) -> u16 {
    question(message).map_or(0, |(.., qclass)| qclass)
}

fn question(message: &[u8]) -> Option<(Vec<u8>, u16, u16)> {
    if counts(message)[0] == 0 {
        return None;
    }
    let (name, at) = name_at(message, 12)?;
    Some((name, word(message, at)?, word(message, at + 2)?))
}

/// The octets of the first question as they stand in the message.
pub fn question_octets(message: &[u8]) -> Option<Vec<u8>> {
    question(message)?;
    let (_, at) = name_at(message, 12)?;
    Some(message.get(12..at + 4)?.to_vec())
}

/// All records with their sections, owner names uncompressed, RDATA as it stands; `None` if the message is malformed.
pub fn all_records(message: &[u8]) -> Option<Vec<(Section, Rr)>> {
    if message.len() < 12 {
        return None;
    }
    let [questions, answers, authorities, additionals] = counts(message);
    let mut at = 12;
    for _ in 0..questions {
        at = name_at(message, at)?.1 + 4;
    }
    let mut records = Vec::new();
    let sections = [(Section::Answer, answers), (Section::Authority, authorities), (Section::Additional, additionals)];
    for (section, count) in sections {
        for _ in 0..count {
            let (name, fixed) = name_at(message, at)?;
            let length = usize::from(word(message, fixed + 8)?);
            let rdata = message.get(fixed + 10..fixed + 10 + length)?.to_vec();
            let ttl = (u32::from(word(message, fixed + 4)?) << 16) | u32::from(word(message, fixed + 6)?);
            let (rtype, class) = (word(message, fixed)?, word(message, fixed + 2)?);
            records.push((section, Rr { name, rtype, class, ttl, rdata }));
            at = fixed + 10 + length;
        }
    }
    Some(records)
}

/// The records of one section; panics on a malformed message.
pub fn records(message: &[u8], section: Section) -> Vec<Rr> {
    let all = all_records(message).unwrap_or_else(|| panic!("malformed message {message:02x?}"));
    all.into_iter().filter(|(of, _)| *of == section).map(|(_, record)| record).collect()
}

/// The addresses of the A records in the answer section; panics on a malformed message.
pub fn a_records(message: &[u8]) -> Vec<[u8; 4]> {
    let answers = records(message, Section::Answer).into_iter().filter(|record| record.rtype == rtype::A);
    answers.map(|record| record.rdata.try_into().expect("an A record has four octets")).collect()
}

/// The first OPT record.
pub fn opt(message: &[u8]) -> Option<Opt> {
    // most messages have no additional record: do not walk the others for them
    if counts(message)[3] == 0 {
        return None;
    }
    let all = all_records(message)?;
    let (_, record) = all.into_iter().find(|(of, rr)| *of == Section::Additional && rr.rtype == rtype::OPT)?;
    let [ext_rcode, version, high, low] = record.ttl.to_be_bytes();
    let mut options = Vec::new();
    let mut rest = record.rdata.as_slice();
    while let (Some(code), Some(length)) = (word(rest, 0), word(rest, 2)) {
        let end = 4 + usize::from(length);
        options.push((code, rest.get(4..end)?.to_vec()));
        rest = &rest[end..];
    }
    Some(Opt { udp_size: record.class, ext_rcode, version, flags: u16::from_be_bytes([high, low]), options })
}

/// The data of the first EDNS option with this code.
pub fn option(message: &[u8], code: u16) -> Option<Vec<u8>> {
    opt(message)?.options.into_iter().find(|(of, _)| *of == code).map(|(_, data)| data)
}

/// The INFO-CODE of the first Extended DNS Error.
pub fn ede(message: &[u8]) -> Option<u16> {
    word(&option(message, 15)?, 0)
}

/// Cuts whole messages off the front of a stream of length-prefixed messages; the rest stays in `stream`.
pub fn take_messages(stream: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let (mut messages, mut at) = (Vec::new(), 0);
    while let Some(length) = word(stream, at) {
        let Some(message) = stream.get(at + 2..at + 2 + usize::from(length)) else { break };
        messages.push(message.to_vec());
        at += 2 + usize::from(length);
    }
    stream.drain(..at);
    messages
}
