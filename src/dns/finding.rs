//! What answers say of where servers are: addresses (RFC 1035, RFC 3596), hosts of a service (RFC 2782), and resolvers
//! that a resolver designates (RFC 9460, RFC 9461, RFC 9462).
//!
//! Everything here comes over plain DNS, from whoever could send it: names are followed within the one answer and only
//! backward, and there are limits to how much is taken.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::edit::put_opt;
use super::message::{CLASS_IN, HEADER, Message, Record, Section, rcode};
use super::name::{MAX_NAME, same};

/// Types of records that say where servers are.
pub mod rtype {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// Another name for the owner.
    pub const CNAME: u16 = 5;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// A host of a service.
    pub const SRV: u16 = 33;
    /// How a service is reached.
    pub const SVCB: u16 = 64;
}

/// The name under which a resolver designates others (RFC 9462 §4), in wire form.
pub const DESIGNATION: &[u8] = b"\x04_dns\x08resolver\x04arpa\0";
/// The zone that no designated resolver can be in (RFC 9462 §4).
const RESOLVER_ARPA: &[u8] = b"\x08resolver\x04arpa\0";
/// The most addresses, or hosts, that are taken from one answer.
pub const MOST: usize = 32;
/// How many names are followed from the one that was asked.
const CHAIN: usize = 8;
/// The largest UDP payload (RFC 9715).
const UDP_SIZE: u16 = 1232;
/// Parameters of a service (RFC 9460 §14.3.2).
mod param {
    pub(super) const MANDATORY: u16 = 0;
    pub(super) const ALPN: u16 = 1;
    pub(super) const NO_DEFAULT_ALPN: u16 = 2;
    pub(super) const PORT: u16 = 3;
    pub(super) const IPV4_HINT: u16 = 4;
    pub(super) const IPV6_HINT: u16 = 6;
}

/// Why an answer is of no use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Useless {
    /// The resolver could not say.
    Failed(String),
    /// It says that there is nothing.
    Nothing(&'static str),
}

/// What an answer says, and for how many seconds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Said<T> {
    /// What.
    pub what: Vec<T>,
    /// The least TTL on the way there.
    pub ttl: u32,
}

/// A host of a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host {
    /// Its name, in wire form.
    pub name: Vec<u8>,
    /// The port of the service there.
    pub port: u16,
    /// The order in which hosts want to be asked: priority, then what was drawn among equals.
    order: (u16, u64),
    /// Addresses that came along.
    pub addresses: Vec<IpAddr>,
}

/// A standard query for this name and type, with EDNS.
pub fn question(name: &[u8], qtype: u16) -> Vec<u8> {
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    query.extend(name);
    query.extend(qtype.to_be_bytes());
    query.extend(CLASS_IN.to_be_bytes());
    put_opt(&mut query, UDP_SIZE, 0, &[]);
    query
}

/// A name in wire form as people, and certificates, write it; `None` if no host could be called so.
pub fn host_text(name: &[u8]) -> Option<String> {
    let mut labels = Vec::new();
    let mut rest = name;
    while let Some((length, tail)) = rest.split_first().filter(|(length, _)| **length > 0) {
        let label = tail.get(..usize::from(*length))?;
        let fits = |octet: &u8| octet.is_ascii_alphanumeric() || b"-_".contains(octet);
        if !label.iter().all(fits) {
            return None;
        }
        labels.push(String::from_utf8(label.to_ascii_lowercase()).ok()?);
        rest = &tail[label.len()..];
    }
    (!labels.is_empty()).then(|| labels.join("."))
}

/// The addresses that an answer gives the name that was asked for, of the type that was asked for.
///
/// # Errors
/// If it gives none.
pub fn addresses(answer: &[u8], qtype: u16) -> Result<Said<IpAddr>, Useless> {
    let reading = Reading::new(answer)?;
    let (owner, ttl) = reading.follow(reading.asked);
    let found = reading.owned(&owner, qtype);
    reading.said(found, ttl, |record| address(record.rdata))
}

/// How many bits of a fraction are reckoned with.
const FRACTION: u32 = 24;

/// How often a number can be halved from 2^64 down to this one, with its fraction: bit by bit, since the library of
/// logarithms would take as much memory as a thousand answers.
fn halvings(number: u64) -> u64 {
    let number = number.max(1);
    let zeros = number.leading_zeros();
    let (mut square, mut fraction) = (number << zeros, 0);
    for _ in 0..FRACTION {
        let next = (u128::from(square) * u128::from(square)) >> 63;
        let is_more = next >> 64 != 0;
        fraction = fraction << 1 | u64::from(is_more);
        square = u64::try_from(next >> u32::from(is_more)).unwrap_or(u64::MAX);
    }
    (u64::from(zeros + 1) << FRACTION) - fraction
}

/// Where a host of this weight comes among those of its priority: the least number first, which is drawn with the odds that
/// the weights give (RFC 2782). The same `draw` gives the same host the same place in every answer, whoever else is there.
fn turn(name: &[u8], port: u16, weight: u16, draw: &impl BuildHasher) -> u64 {
    // of things that happen at random, at these rates, each is the first in proportion to its rate; the logarithm of an even
    // number is such a time, and without a weight the turn comes behind all others
    let time = halvings(draw.hash_one((name, port))) << 16;
    time.checked_div(u64::from(weight)).unwrap_or(u64::MAX)
}

/// The hosts of the service that was asked for, those first that want to be asked first; among equals as it was drawn.
///
/// # Errors
/// If there are none, or the service is said not to be offered.
pub fn hosts(answer: &[u8], draw: &impl BuildHasher) -> Result<Said<Host>, Useless> {
    let reading = Reading::new(answer)?;
    let (owner, ttl) = reading.follow(reading.asked);
    let host = |record: &Record<'_>| {
        let [p0, p1, w0, w1, port0, port1, ..] = *record.rdata else { return None };
        let name = reading.name_in(record, 6)?;
        let port = u16::from_be_bytes([port0, port1]);
        let turn = turn(&name, port, u16::from_be_bytes([w0, w1]), draw);
        let (order, addresses) = ((u16::from_be_bytes([p0, p1]), turn), reading.additional(&name));
        // the root says that there is no such service (RFC 2782)
        (name != [0]).then_some(Host { name, port, order, addresses })
    };
    let mut said = reading.said(reading.owned(&owner, rtype::SRV), ttl, host)?;
    said.what.retain(|host| host.port != 0);
    said.what.sort_by(|one, other| (one.order, &one.name, one.port).cmp(&(other.order, &other.name, other.port)));
    Ok(said)
}

/// The resolvers on TLS that an answer designates, those first that are preferred (RFC 9462 §4).
///
/// # Errors
/// If there are none.
pub fn designated(answer: &[u8], usual_port: u16) -> Result<Said<Host>, Useless> {
    let reading = Reading::new(answer)?;
    let (owner, ttl) = reading.follow(reading.asked);
    let host = |record: &Record<'_>| {
        let priority = u16::from_be_bytes([*record.rdata.first()?, *record.rdata.get(1)?]);
        let name = reading.name_in(record, 2)?;
        // names of service bindings are never compressed (RFC 9460 §2.2)
        let params = params(record.rdata.get(2 + name.len()..)?)?;
        // such names would point back at the plain resolver, which makes a record malformed (RFC 9462 §4)
        if priority == 0 || name == [0] || super::name::is_within(&name, RESOLVER_ARPA) {
            return None;
        }
        let value = |key: u16| params.iter().find(|(found, _)| *found == key).map(|(_, value)| *value);
        let known = |key: u16| (param::ALPN..=param::IPV4_HINT).contains(&key) || key == param::IPV6_HINT;
        let mandatory = value(param::MANDATORY).unwrap_or_default();
        if !mandatory.chunks(2).all(|key| matches!(*key, [high, low] if known(u16::from_be_bytes([high, low])))) {
            return None;
        }
        if !offers(value(param::ALPN)?, b"dot") {
            return None;
        }
        let port = match value(param::PORT) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            Some(_) => return None,
            None => usual_port,
        };
        let v4 = value(param::IPV4_HINT).unwrap_or_default().chunks_exact(4).filter_map(address);
        let v6 = value(param::IPV6_HINT).unwrap_or_default().chunks_exact(16).filter_map(address);
        let mut addresses: Vec<IpAddr> = v4.chain(v6).chain(reading.additional(&name)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Some(Host { name, port, order: (priority, 0), addresses })
    };
    let mut said = reading.said(reading.owned(&owner, rtype::SVCB), ttl, host)?;
    said.what.retain(|host| host.port != 0);
    said.what.sort_by(|one, other| (one.order, &one.name, one.port).cmp(&(other.order, &other.name, other.port)));
    if said.what.is_empty() { Err(Useless::Nothing("no resolver on TLS is designated")) } else { Ok(said) }
}

/// Key and value of each parameter; `None` if they do not fill the rest, or are not in their order (RFC 9460 §2.2).
fn params(mut rest: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut found: Vec<(u16, &[u8])> = Vec::new();
    while let [k0, k1, l0, l1, tail @ ..] = rest {
        let (key, length) = (u16::from_be_bytes([*k0, *k1]), usize::from(u16::from_be_bytes([*l0, *l1])));
        let value = tail.get(..length)?;
        if found.last().is_some_and(|(last, _)| *last >= key) || key == param::NO_DEFAULT_ALPN && length > 0 {
            return None;
        }
        found.push((key, value));
        rest = &tail[length..];
    }
    rest.is_empty().then_some(found)
}

/// Whether a list of protocols has this one.
fn offers(mut list: &[u8], protocol: &[u8]) -> bool {
    while let [length, tail @ ..] = list {
        let Some(one) = tail.get(..usize::from(*length)) else { return false };
        if one == protocol {
            return true;
        }
        list = &tail[one.len()..];
    }
    false
}

/// Four or sixteen octets.
fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(octets).ok().map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    let v6 = || <[u8; 16]>::try_from(octets).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
    v4().or_else(v6).filter(|address| !address.is_unspecified() && !address.is_multicast())
}

/// An answer that says something.
struct Reading<'a> {
    message: Message<'a>,
    asked: &'a [u8],
}

impl<'a> Reading<'a> {
    fn new(answer: &'a [u8]) -> Result<Reading<'a>, Useless> {
        let garbled = || Useless::Failed("its answer cannot be read".to_owned());
        let message = Message::parse(answer).map_err(|_| garbled())?;
        match message.rcode() {
            rcode::NOERROR => {}
            rcode::NXDOMAIN => return Err(Useless::Nothing("there is no such name")),
            rcode::SERVFAIL => return Err(Useless::Failed("it answers SERVFAIL".to_owned())),
            rcode::REFUSED => return Err(Useless::Failed("it answers REFUSED".to_owned())),
            other => return Err(Useless::Failed(format!("it answers with code {other}"))),
        }
        let end = message.questions_end().checked_sub(4).ok_or_else(garbled)?;
        let asked = answer.get(HEADER..end).ok_or_else(garbled)?;
        Ok(Reading { message, asked })
    }

    /// What is said by `found`, which has led there through records with this TTL.
    fn said<T>(
        &self,
        found: impl Iterator<Item = Record<'a>>,
        mut ttl: u32,
        read: impl Fn(&Record<'a>) -> Option<T>,
    ) -> Result<Said<T>, Useless> {
        let mut what = Vec::new();
        for record in found {
            if let Some(one) = read(&record).filter(|_| what.len() < MOST) {
                ttl = ttl.min(self.ttl(&record));
                what.push(one);
            }
        }
        if what.is_empty() { Err(Useless::Nothing("there is no such record")) } else { Ok(Said { what, ttl }) }
    }

    /// The name that the aliases of the answer lead to, and the least TTL of them.
    fn follow(&self, name: &[u8]) -> (Vec<u8>, u32) {
        let (mut owner, mut ttl) = (name.to_vec(), u32::MAX);
        for _ in 0..CHAIN {
            let Some(alias) = self.owned(&owner, rtype::CNAME).next() else { break };
            let Some(target) = self.name_in(&alias, 0) else { break };
            ttl = ttl.min(self.ttl(&alias));
            owner = target;
        }
        (owner, ttl)
    }

    /// The records of this type that this name has in the answer.
    fn owned(&self, owner: &[u8], rtype: u16) -> impl Iterator<Item = Record<'a>> {
        self.of(Section::Answer, owner.to_vec(), rtype)
    }

    /// Addresses of this name that came along.
    fn additional(&self, owner: &[u8]) -> Vec<IpAddr> {
        let of = |rtype| self.of(Section::Additional, owner.to_vec(), rtype);
        let found = of(rtype::A).chain(of(rtype::AAAA)).filter_map(|record| address(record.rdata));
        let mut addresses: Vec<IpAddr> = found.take(MOST).collect();
        addresses.sort_unstable();
        addresses
    }

    fn of(&self, section: Section, owner: Vec<u8>, rtype: u16) -> impl Iterator<Item = Record<'a>> {
        let bytes = self.message.bytes();
        self.message.records().filter(move |record| {
            let is_it = record.section == section && record.rtype == rtype && class(bytes, record) == CLASS_IN;
            is_it && expanded(bytes, record.start).is_some_and(|name| same(&name, &owner))
        })
    }

    /// Seconds; what is negative counts as nothing (RFC 2181 §8).
    fn ttl(&self, record: &Record<'_>) -> u32 {
        let at = record.end - record.rdata.len() - 6;
        match self.message.bytes().get(at..at + 4) {
            Some(&[a @ 0..=0x7f, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        }
    }

    /// The name that stands `at` octets behind the begin of the RDATA.
    fn name_in(&self, record: &Record<'_>, at: usize) -> Option<Vec<u8>> {
        let start = record.end - record.rdata.len() + at;
        (super::name::skip(self.message.bytes(), start)? <= record.end).then_some(())?;
        expanded(self.message.bytes(), start)
    }
}

/// CLASS of a record, which a parsed message is known to have.
fn class(bytes: &[u8], record: &Record<'_>) -> u16 {
    let at = record.end - record.rdata.len() - 8;
    bytes.get(at..at + 2).map_or(0, |class| u16::from_be_bytes([class[0], class[1]]))
}

/// The name at `at` without compression. Pointers that do not lead backward make no name (RFC 1035 §4.1.4).
pub fn expanded(message: &[u8], mut at: usize) -> Option<Vec<u8>> {
    let (mut name, mut limit) = (Vec::new(), at);
    loop {
        let length = *message.get(at)?;
        match length >> 6 {
            0 => {
                let label = message.get(at..=at + usize::from(length))?;
                name.extend(label);
                if name.len() > MAX_NAME {
                    return None;
                }
                if length == 0 {
                    return Some(name);
                }
                at += label.len();
            }
            3 => {
                let target = usize::from(u16::from_be_bytes([length & 0x3f, *message.get(at + 1)?]));
                if target >= limit {
                    return None;
                }
                (at, limit) = (target, target);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
#[path = "finding_tests.rs"]
mod finding_tests;
