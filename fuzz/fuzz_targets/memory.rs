//! The memory against a plain map with the rules written out, in a time of its own: whatever is asked and answered in any
//! order, nobody ever gets what was for another question, another kind of client or another time, and nothing that may be
//! used is withheld.
#![no_main]

use std::collections::HashMap;

use dot_proxy::cache::answers::{Answers, Draft, Recall, Usage};
use dot_proxy::dns::message::Message;
use dot_proxy::dns::reuse::{self, KeyRoom, Lifetimes};
use libfuzzer_sys::fuzz_target;

const LIFETIMES: Lifetimes = Lifetimes { min: 0, max: 5000, max_negative: 600, failure: 3 };
const KEEPALIVE: u16 = 11;
const NAMES: [&[u8]; 5] = [b"\x01a\x00", b"\x01b\x00", b"\x02aa\x00", b"\x01a\x01a\x00", b"\x00"];
/// Options that a message may have: none, one that is handled, a cookie, a subnet, one that nobody knows, an error.
const OPTIONS: [Option<(u16, &[u8])>; 6] = [
    None,
    Some((KEEPALIVE, b"")),
    Some((10, b"12345678")),
    Some((8, b"\0\x01\x18\x18\x0a\0\0")),
    Some((65_001, b"x")),
    Some((15, b"\0\0")),
];

/// What tells a query from all others: name, type, flags, and those of EDNS.
type Name = (usize, u8, [u8; 2], Option<u16>);

/// A query as the steps describe it.
#[derive(Clone, Copy)]
struct Query {
    name: usize,
    upper: bool,
    qtype: u8,
    flags: [u8; 2],
    edns: Option<(u16, usize)>,
}

impl Query {
    fn new(octets: [u8; 4]) -> Query {
        let [a, b, c, d] = octets;
        let flag = |bit: u8, value: u8| if c & bit != 0 { value } else { 0 };
        Query {
            name: usize::from(a) % NAMES.len(),
            upper: a & 0x80 != 0,
            qtype: [1, 16, 252, 2][usize::from(b) % 4],
            flags: [flag(1, 1), flag(2, 0x20) | flag(4, 0x10) | flag(8, 0x40)],
            edns: (d & 1 != 0).then(|| (u16::from(d & 2) << 14, usize::from(d >> 2) % OPTIONS.len())),
        }
    }

    fn question(&self) -> Vec<u8> {
        let mut question = NAMES[self.name].to_vec();
        if self.upper {
            question.make_ascii_uppercase();
        }
        question.extend([0, self.qtype, 0, 1]);
        question
    }

    fn message(&self, id: u8) -> Vec<u8> {
        let mut message = vec![id, 7, self.flags[0], self.flags[1], 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(self.question());
        if let Some((flags, option)) = self.edns {
            put_opt(&mut message, flags, option);
        }
        message
    }

    /// What tells it from all others, if it is plain enough to be answered from memory.
    fn key(&self) -> Option<Name> {
        let is_plain = self.qtype != 252 && self.edns.is_none_or(|(_, option)| option < 2);
        is_plain.then_some((self.name, self.qtype, self.flags, self.edns.map(|(flags, _)| flags)))
    }
}

fn put_opt(message: &mut Vec<u8>, flags: u16, option: usize) {
    message[11] += 1;
    message.extend(b"\0\0\x29\x04\xd0\0\0");
    message.extend(flags.to_be_bytes());
    let mut rdata = Vec::new();
    if let Some((code, data)) = OPTIONS[option] {
        rdata.extend(code.to_be_bytes());
        rdata.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        rdata.extend(data);
    }
    message.extend(u16::try_from(rdata.len()).unwrap_or(0).to_be_bytes());
    message.extend(rdata);
}

/// What the model remembers: which answer, when, for how long, and whether it was a failure.
#[derive(Clone, Copy)]
struct Known {
    serial: u32,
    at: u64,
    lifetime: u64,
    failed: bool,
    negative: bool,
}

/// An answer: its octets, and for how long the rules let it be kept.
fn answer(query: &Query, octets: [u8; 4], serial: u32) -> (Vec<u8>, Option<(u64, bool, bool)>) {
    let [a, b, c, d] = octets;
    let code = [0, 0, 3, 2, 5][usize::from(a) % 5];
    let (ttl, minimum) = (u32::from(b) << (c % 8), u32::from(d));
    let ttl = if a & 0x40 != 0 { ttl | 1 << 31 } else { ttl };
    let is_cut = a & 0x20 != 0 && c & 0x80 != 0;
    let mut message = query.message(0xee);
    message.truncate(12 + query.question().len());
    message[2] = 0x80 | query.flags[0] | if is_cut { 2 } else { 0 };
    (message[3], message[11]) = (0x80 | code, 0);
    let has_soa = c & 0x40 != 0;
    let has_data = code == 0 && !has_soa;
    if has_data {
        message[7] = 1;
        message.extend([0xc0, 12, 0, query.qtype, 0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend([0, 4]);
        message.extend(serial.to_be_bytes());
    } else if has_soa {
        message[9] = 1;
        message.extend([0xc0, 12, 0, 6, 0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend([0, 22, 0, 0]);
        message.extend(serial.to_be_bytes());
        message.extend([0; 12]);
        message.extend(minimum.to_be_bytes());
    }
    let option = usize::from(d) % OPTIONS.len();
    let has_opt = query.edns.is_some();
    if has_opt {
        put_opt(&mut message, 0, option);
    }
    let counts = if ttl >> 31 == 0 { u64::from(ttl) } else { 0 };
    let lifetime = match code {
        _ if is_cut || has_opt && matches!(option, 2..=4) => None,
        0 if has_data => Some((counts.min(5000), false, false)),
        0 | 3 if has_soa => Some((counts.min(u64::from(minimum)).min(600), false, true)),
        2 => Some((3, true, false)),
        _ => None,
    };
    (message, lifetime.filter(|&(seconds, ..)| seconds > 0))
}

fuzz_target!(|data: (bool, Vec<(u8, [u8; 4], [u8; 4])>)| {
    let (serves_stale, steps) = data;
    let stale = if serves_stale { 100_u64 } else { 0 };
    let usage = Usage { lifetimes: LIFETIMES, stale: u32::try_from(stale).unwrap_or(0), prefetch: true };
    let (answers, mut now) = (Answers::new(2 << 20), 1_000_000_u64);
    let mut model: HashMap<Name, Known> = HashMap::new();
    let (mut draft, mut out) = (Draft::default(), Vec::new());
    for (serial, (what, asked, said)) in (1_u32..).zip(steps) {
        let query = Query::new(asked);
        let message = query.message(what);
        let view = Message::parse(&message).expect("a query");
        let (mut room, question) = (KeyRoom::default(), view.question().expect("a question"));
        let key = reuse::key(&view, |code| code == KEEPALIVE, &mut room);
        assert_eq!(key.is_some(), query.key().is_some());
        let (Some(key), Some(name)) = (key, query.key()) else { continue };
        let address = answers.address(key);
        match what % 8 {
            0 => now += u64::from(said[0]) * 10,
            1 => now += u64::from(said[0]) * 1000,
            2 => now += u64::from(u16::from_be_bytes([said[0], said[1]])) * 100,
            3 => {
                answers.forget_name(&NAMES[query.name].to_ascii_uppercase(), false);
                model.retain(|&(other, ..), _| other != query.name);
            }
            4 | 5 => {
                let (bytes, lifetime) = answer(&query, said, serial);
                let view = Message::parse(&bytes).expect("an answer");
                let keep = reuse::is_for_everybody(&view)
                    .then(|| reuse::keep(&key.question(), &view, LIFETIMES, &mut draft.ttls))
                    .flatten();
                assert_eq!(
                    keep.map(|keep| u64::from(keep.lifetime)),
                    lifetime.map(|(seconds, ..)| seconds),
                    "{bytes:?}"
                );
                let (Some(keep), Some((lifetime, failed, negative))) = (keep, lifetime) else { continue };
                draft.body.clone_from(&bytes);
                answers.keep(address, answers.newest(), keep, &mut draft, &usage, now);
                let usable = |known: &Known| !known.failed && now < known.at + (known.lifetime + stale) * 1000;
                if !failed || !model.get(&name).is_some_and(usable) {
                    model.insert(name, Known { serial, at: now, lifetime, failed, negative });
                }
            }
            _ => {
                let found = answers.recall(address, (view.id(), &question), &usage, said[0] & 1 != 0, || now, &mut out);
                let known = model.get(&name).copied();
                let age = known.map_or(0, |known| now - known.at);
                let (fresh, usable) = known.map_or((false, false), |known| {
                    let fresh = age < known.lifetime * 1000;
                    (fresh, fresh || !known.failed && age < (known.lifetime + stale) * 1000)
                });
                match found {
                    Recall::Unknown => assert!(!usable, "{name:?} is withheld"),
                    Recall::Usable { stale, .. } => assert!(usable && stale != fresh),
                    Recall::InReserve => assert!(usable && !fresh),
                }
                let (Some(known), false) = (known, found == Recall::Unknown) else { continue };
                assert_eq!((&out[..2], &out[12..12 + question.bytes.len()]), (&[what, 7][..], question.bytes));
                if known.failed {
                    assert_eq!(out[3] & 0x0f, 2);
                    continue;
                }
                let at = 12 + question.bytes.len() + 6;
                let number = |at: usize| u32::from_be_bytes(out[at..at + 4].try_into().expect("four octets"));
                let ttl = u64::from(number(at));
                assert_eq!(number(at + if known.negative { 8 } else { 6 }), known.serial, "another one's answer");
                assert_eq!(ttl, if fresh { known.lifetime - age / 1000 } else { 30 });
            }
        }
    }
});
