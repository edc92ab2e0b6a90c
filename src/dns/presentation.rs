//! Names, types and records as people write them: what one of them asks for is read, and what an answer holds is written
//! (RFC 1035 §5.1, RFC 3597 §5).
//!
//! An answer comes from whoever is at the other end: whatever is not a printable ASCII character stands as `\DDD`, and
//! what has not the form of its type is written octet by octet.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::edit::option;
use super::finding::expanded;
use super::message::{CLASS_IN, Message, Question, Record, rtype};
use super::name::{MAX_NAME, Printable, skip};

/// Types with a mnemonic of their own.
const TYPES: &[(u16, &str)] = &[
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (rtype::SOA, "SOA"),
    (10, "NULL"),
    (12, "PTR"),
    (13, "HINFO"),
    (15, "MX"),
    (16, "TXT"),
    (17, "RP"),
    (18, "AFSDB"),
    (rtype::SIG, "SIG"),
    (25, "KEY"),
    (28, "AAAA"),
    (29, "LOC"),
    (33, "SRV"),
    (35, "NAPTR"),
    (37, "CERT"),
    (39, "DNAME"),
    (rtype::OPT, "OPT"),
    (rtype::DS, "DS"),
    (44, "SSHFP"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (50, "NSEC3"),
    (51, "NSEC3PARAM"),
    (52, "TLSA"),
    (53, "SMIMEA"),
    (59, "CDS"),
    (60, "CDNSKEY"),
    (61, "OPENPGPKEY"),
    (62, "CSYNC"),
    (63, "ZONEMD"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (rtype::TKEY, "TKEY"),
    (rtype::TSIG, "TSIG"),
    (rtype::IXFR, "IXFR"),
    (rtype::AXFR, "AXFR"),
    (255, "ANY"),
    (256, "URI"),
    (257, "CAA"),
];

/// Classes with a mnemonic of their own.
const CLASSES: &[(u16, &str)] = &[(CLASS_IN, "IN"), (3, "CH"), (4, "HS"), (254, "NONE"), (255, "ANY")];

/// Response codes with a name of their own (RFC 6895 §2.3).
const RCODES: &[(u16, &str)] = &[
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (6, "YXDOMAIN"),
    (7, "YXRRSET"),
    (8, "NXRRSET"),
    (9, "NOTAUTH"),
    (10, "NOTZONE"),
    (16, "BADVERS"),
    (23, "BADCOOKIE"),
];

/// Names of the extended errors from 0 on (RFC 8914 §4).
const EXTENDED_ERRORS: &[&str] = &[
    "Other",
    "Unsupported DNSKEY Algorithm",
    "Unsupported DS Digest Type",
    "Stale Answer",
    "Forged Answer",
    "DNSSEC Indeterminate",
    "DNSSEC Bogus",
    "Signature Expired",
    "Signature Not Yet Valid",
    "DNSKEY Missing",
    "RRSIGs Missing",
    "No Zone Key Bit Set",
    "NSEC Missing",
    "Cached Error",
    "Not Ready",
    "Blocked",
    "Censored",
    "Filtered",
    "Prohibited",
    "Stale NXDOMAIN Answer",
    "Not Authoritative",
    "Not Supported",
    "No Reachable Authority",
    "Network Error",
    "Invalid Data",
];

/// The flags of the third and fourth octet of a header, from the top bit down.
const FLAGS: [(usize, u8, &str); 7] = [
    (2, 0x80, "qr"),
    (2, 0x04, "aa"),
    (2, 0x02, "tc"),
    (2, 0x01, "rd"),
    (3, 0x80, "ra"),
    (3, 0x20, "ad"),
    (3, 0x10, "cd"),
];

/// The word of a table for a number, or the number behind `prefix`.
fn word(table: &[(u16, &str)], number: u16, prefix: &str) -> String {
    let known = table.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("{prefix}{number}"), |(_, word)| (*word).to_owned())
}

/// A type by its mnemonic, or as `TYPE123`.
pub fn type_text(rtype: u16) -> String {
    word(TYPES, rtype, "TYPE")
}

/// A response code by its name, or as `RCODE123`.
pub fn rcode_text(rcode: u16) -> String {
    word(RCODES, rcode, "RCODE")
}

/// Reads a type: a mnemonic in any case, or `TYPE123`. `None` if it is neither.
pub fn read_type(text: &str) -> Option<u16> {
    let known = TYPES.iter().find(|(_, word)| word.eq_ignore_ascii_case(text));
    known.map(|(number, _)| *number).or_else(|| {
        let (prefix, digits) = text.split_at_checked(4)?;
        // a sign is none of the digits
        let is_number = prefix.eq_ignore_ascii_case("TYPE") && digits.bytes().all(|octet| octet.is_ascii_digit());
        if is_number { digits.parse().ok() } else { None }
    })
}

/// Reads a name, with or without a dot at the end, with `\.` and `\DDD` in its labels, into wire form.
///
/// # Errors
/// What is wrong with it.
pub fn read_name(text: &str) -> Result<Vec<u8>, String> {
    let wrong = |why: &str| format!("{text:?} is no name: {why}");
    if !text.is_ascii() {
        return Err(format!("{text:?}: write the ASCII form of the name, with \"xn--\""));
    }
    if text == "." {
        return Ok(vec![0]);
    }
    let (mut wire, mut label, mut octets) = (Vec::new(), Vec::new(), text.bytes());
    let close = |wire: &mut Vec<u8>, label: &mut Vec<u8>| match u8::try_from(label.len()) {
        Ok(0) => Err(wrong("a label of it is empty")),
        Ok(length @ 1..=63) => {
            wire.push(length);
            wire.append(label);
            Ok(())
        }
        _ => Err(wrong("a label of it is longer than 63 octets")),
    };
    while let Some(octet) = octets.next() {
        match octet {
            b'.' => close(&mut wire, &mut label)?,
            b'\\' => {
                let bad = || wrong("behind \"\\\" stand three digits up to 255, or one character");
                label.push(escaped(&mut octets).ok_or_else(bad)?);
            }
            0x21..=0x7e => label.push(octet),
            _ => return Err(wrong("write a character that cannot be seen as \\DDD")),
        }
    }
    if !label.is_empty() || wire.is_empty() {
        close(&mut wire, &mut label)?;
    }
    wire.push(0);
    if wire.len() > MAX_NAME { Err(wrong("it is longer than 255 octets")) } else { Ok(wire) }
}

/// What stands behind a backslash.
fn escaped(octets: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let first = octets.next()?;
    if !first.is_ascii_digit() {
        return (0x20..=0x7e).contains(&first).then_some(first);
    }
    let mut value = u16::from(first - b'0');
    for _ in 0..2 {
        let digit = octets.next().filter(u8::is_ascii_digit)?;
        value = value * 10 + u16::from(digit - b'0');
    }
    u8::try_from(value).ok()
}

/// The whole response code, with the eight bits in the OPT record (RFC 6891 §6.1.3).
pub fn rcode_of(message: &Message<'_>) -> u16 {
    let extended = message.opt().map_or(0, |opt| opt.extended_rcode());
    u16::from(extended) << 4 | u16::from(message.rcode())
}

/// The flags that are set, with a space between them.
pub fn flags_text(message: &Message<'_>) -> String {
    let is_set =
        |(index, bit, _): &&(usize, u8, &str)| message.bytes().get(*index).is_some_and(|octet| octet & bit != 0);
    let words: Vec<&str> = FLAGS.iter().filter(is_set).map(|(_, _, word)| *word).collect();
    words.join(" ")
}

/// A question: name, class, type.
pub fn question_text(question: &Question<'_>) -> String {
    let class = word(CLASSES, question.qclass(), "CLASS");
    format!("{} {class} {}", Printable(question.name()), type_text(question.qtype()))
}

/// A record of this message: owner, TTL in seconds, class, type and data. Data of types that are not known here, or that
/// has not the form of its type, is in the form for unknown types (RFC 3597 §5).
pub fn record_text(message: &Message<'_>, record: &Record<'_>) -> String {
    let bytes = message.bytes();
    let owner = expanded(bytes, record.start).map_or_else(|| "(unreadable)".to_owned(), |name| written(&name));
    let data = record.end.saturating_sub(record.rdata.len());
    let (class, ttl) = match bytes.get(data.saturating_sub(8)..data) {
        Some(&[high, low, a, b, c, d, _, _]) => (u16::from_be_bytes([high, low]), u32::from_be_bytes([a, b, c, d])),
        _ => (0, 0),
    };
    let decoded = if class == CLASS_IN { decoded(bytes, record) } else { None };
    let class = word(CLASSES, class, "CLASS");
    match decoded {
        Some(decoded) => format!("{owner} {ttl} {class} {} {decoded}", type_text(record.rtype)),
        None => format!("{owner} {ttl} {class} TYPE{} {}", record.rtype, generic(record.rdata)),
    }
}

/// What each extended error of a message says (RFC 8914 §2).
pub fn extended_errors(message: &Message<'_>) -> Vec<String> {
    let options = message.opt().into_iter().flat_map(|opt| opt.options());
    let errors =
        options.filter(|one| one.code == option::EXTENDED_ERROR).filter_map(|one| one.data.split_at_checked(2));
    let text = |(code, text): (&[u8], &[u8])| {
        let code = code.iter().fold(0, |code, octet| code << 8 | usize::from(*octet));
        let name = EXTENDED_ERRORS.get(code).map_or_else(String::new, |name| format!(" ({name})"));
        let text = if text.is_empty() { String::new() } else { format!(": {}", quoted(text)) };
        format!("{code}{name}{text}")
    };
    errors.map(text).collect()
}

/// An uncompressed name.
fn written(name: &[u8]) -> String {
    Printable(name).to_string()
}

/// Octets as RFC 3597 §5 writes the data of an unknown type.
fn generic(octets: &[u8]) -> String {
    let hex = data_encoding::HEXLOWER.encode(octets);
    format!("\\# {} {hex}", octets.len()).trim_end().to_owned()
}

/// Octets as a character string in quotes (RFC 1035 §5.1).
fn quoted(octets: &[u8]) -> String {
    let mut out = String::from("\"");
    for &octet in octets {
        // writing to memory cannot fail
        let _ = match octet {
            b'"' | b'\\' => write!(out, "\\{}", char::from(octet)),
            0x20..=0x7e => write!(out, "{}", char::from(octet)),
            _ => write!(out, "\\{octet:03}"),
        };
    }
    out.push('"');
    out
}

/// The data of a record of class IN; `None` if its type is not known here, or it has another form.
fn decoded(bytes: &[u8], record: &Record<'_>) -> Option<String> {
    let (rdata, end) = (record.rdata, record.end);
    let start = end.checked_sub(rdata.len())?;
    let number = |at: usize| rdata.get(at..at + 2).map(|octets| u16::from_be_bytes([octets[0], octets[1]]));
    match record.rtype {
        1 => <[u8; 4]>::try_from(rdata).ok().map(|octets| Ipv4Addr::from(octets).to_string()),
        28 => <[u8; 16]>::try_from(rdata).ok().map(|octets| Ipv6Addr::from(octets).to_string()),
        2 | 5 | 12 => last_name(bytes, start, end),
        15 => Some(format!("{} {}", number(0)?, last_name(bytes, start + 2, end)?)),
        33 => {
            let host = last_name(bytes, start + 6, end)?;
            Some(format!("{} {} {} {host}", number(0)?, number(2)?, number(4)?))
        }
        rtype::SOA => {
            let (primary, behind) = name_at(bytes, start, end)?;
            let (mailbox, behind) = name_at(bytes, behind, end)?;
            let numbers = <[u8; 20]>::try_from(bytes.get(behind..end)?).ok()?;
            let each =
                numbers.chunks_exact(4).map(|four| four.iter().fold(0_u32, |sum, one| sum << 8 | u32::from(*one)));
            let each: Vec<String> = each.map(|one| one.to_string()).collect();
            Some(format!("{primary} {mailbox} {}", each.join(" ")))
        }
        16 => strings(rdata),
        257 => {
            let (&[flags, length], rest) = rdata.split_first_chunk()?;
            let (tag, value) = rest.split_at_checked(usize::from(length))?;
            let is_tag = !tag.is_empty() && tag.iter().all(u8::is_ascii_alphanumeric);
            is_tag.then(|| format!("{flags} {} {}", String::from_utf8_lossy(tag), quoted(value)))
        }
        _ => None,
    }
}

/// The name at `at`, and where it ends in the message, which is not behind `end`.
fn name_at(bytes: &[u8], at: usize, end: usize) -> Option<(String, usize)> {
    let behind = skip(bytes, at).filter(|behind| *behind <= end)?;
    Some((written(&expanded(bytes, at)?), behind))
}

/// The name at `at`, which ends exactly at `end`.
fn last_name(bytes: &[u8], at: usize, end: usize) -> Option<String> {
    name_at(bytes, at, end).filter(|(_, behind)| *behind == end).map(|(name, _)| name)
}

/// Character strings that fill the data, at least one (RFC 1035 §3.3.14).
fn strings(mut rest: &[u8]) -> Option<String> {
    let mut all = Vec::new();
    while let Some((length, tail)) = rest.split_first() {
        let (string, tail) = tail.split_at_checked(usize::from(*length))?;
        all.push(quoted(string));
        rest = tail;
    }
    (!all.is_empty()).then(|| all.join(" "))
}

#[cfg(test)]
#[path = "presentation_tests.rs"]
mod presentation_tests;
