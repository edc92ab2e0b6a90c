#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use super::{Answers, Draft, Recall, Usage};
use crate::dns::message::{Message, Question, rcode};
use crate::dns::reuse::{self, KeyRoom, Lifetimes};

const MINUTE: u64 = 60_000;
const LIFETIMES: Lifetimes = Lifetimes { min: 0, max: 86_400, max_negative: 3600, failure: 1 };
const USAGE: Usage = Usage { lifetimes: LIFETIMES, stale: 0, prefetch: true };
const STALE: Usage = Usage { stale: 600, ..USAGE };

/// A query for the address of `name`, a single label.
fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(name.len()).unwrap()];
    bytes.extend(name.as_bytes());
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

fn answer(name: &str, code: u8, ttl: u32) -> Vec<u8> {
    let mut bytes = query(name);
    bytes[..4].copy_from_slice(&[0xab, 0xcd, 0x81, 0x80 | code]);
    if code == rcode::NOERROR {
        bytes[7] = 1;
        bytes.extend([0xc0, 12, 0, 1, 0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend([0, 4, 192, 0, 2, 1]);
    }
    bytes
}

/// The answers of a memory, asked by name.
struct Bench {
    answers: Answers,
    usage: Usage,
}

impl Bench {
    fn new(usage: Usage) -> Bench {
        Bench { answers: Answers::new(4 << 20), usage }
    }

    fn keep(&self, name: &str, code: u8, ttl: u32, now: u64) {
        self.keep_of(self.answers.newest(), name, code, ttl, now);
    }

    fn keep_of(&self, generation: u64, name: &str, code: u8, ttl: u32, now: u64) {
        let (asked, kept, mut room) = (query(name), answer(name, code, ttl), KeyRoom::default());
        let key = reuse::key(&Message::parse(&asked).unwrap(), |_| false, &mut room).unwrap();
        let mut draft = Draft { body: kept.clone(), ..Draft::default() };
        let view = Message::parse(&kept).unwrap();
        if let Some(keep) = reuse::keep(&key.question(), &view, self.usage.lifetimes, &mut draft.ttls) {
            let address = self.answers.address(key);
            self.answers.keep(address, generation, keep, &mut draft, &self.usage, now);
        }
    }

    fn failed(&self, name: &str, is_out: bool, now: u64) {
        let (asked, mut room) = (query(name), KeyRoom::default());
        let key = reuse::key(&Message::parse(&asked).unwrap(), |_| false, &mut room).unwrap();
        self.answers.failed(self.answers.address(key), is_out, now);
    }

    /// What there is, with the reply and its TTL.
    fn recall(&self, name: &str, is_out: bool, now: u64) -> (Recall, Vec<u8>, u32) {
        let (asked, mut room, mut out) = (query(name), KeyRoom::default(), Vec::new());
        let view = Message::parse(&asked).unwrap();
        let key = reuse::key(&view, |_| false, &mut room).unwrap();
        let question: Question<'_> = view.question().unwrap();
        let address = self.answers.address(key);
        let found = self.answers.recall(address, (view.id(), &question), &self.usage, is_out, || now, &mut out);
        let ttl = match out.len() {
            0..=16 => 0,
            length => u32::from_be_bytes(out[length - 10..length - 6].try_into().unwrap()),
        };
        (found, out, ttl)
    }

    fn found(&self, name: &str, now: u64) -> Recall {
        self.recall(name, false, now).0
    }
}

const FRESH: Recall = Recall::Usable { stale: false, refresh: false };
const RESTS: Recall = Recall::Usable { stale: true, refresh: false };
const IN_OUTAGE: Recall = Recall::Usable { stale: true, refresh: true };

#[test]
fn an_answer_is_given_with_the_id_and_the_case_of_the_query_and_aged() {
    let bench = Bench::new(USAGE);
    bench.keep("www", 0, 300, 1000);
    let (found, bytes, ttl) = bench.recall("WwW", false, 5999);
    assert_eq!((found, ttl, &bytes[..2], &bytes[13..16]), (FRESH, 296, &[0x12, 0x34][..], &b"WwW"[..]));
    assert_eq!(bench.recall("www", false, 300_999).2, 1);
    assert_eq!(bench.found("www", 301_000), Recall::Unknown);
    assert_eq!(bench.found("xxx", 1000), Recall::Unknown);
}

#[test]
fn a_clock_that_goes_back_ages_nothing() {
    let bench = Bench::new(USAGE);
    bench.keep("www", 0, 300, MINUTE);
    assert_eq!(bench.recall("www", false, 0).2, 300);
}

#[test]
fn a_popular_answer_is_asked_for_once_in_its_last_tenth() {
    let bench = Bench::new(USAGE);
    bench.keep("www", 0, 100, 0);
    let refresh = |now| bench.found("www", now) == Recall::Usable { stale: false, refresh: true };
    assert!(!refresh(0) && !refresh(1) && !refresh(2) && !refresh(89_000));
    assert!(refresh(90_000));
    assert!(!refresh(90_001), "somebody asks already");
    assert!(refresh(96_000), "nothing has come of it");
    bench.keep("new", 0, 100, 0);
    assert_eq!(bench.found("new", 95_000), FRESH, "nobody else wants it");
    bench.keep("short", 0, 9, 0);
    for now in 0..9 {
        assert_eq!(bench.found("short", now * 1000), FRESH);
    }
}

#[test]
fn what_is_stale_is_in_reserve_and_rests_after_a_failure() {
    let bench = Bench::new(STALE);
    bench.keep("www", 0, 60, 0);
    assert_eq!(bench.recall("www", false, MINUTE), (Recall::InReserve, bench.recall("www", false, MINUTE).1, 30));
    bench.failed("www", false, MINUTE);
    assert_eq!(bench.found("www", MINUTE + 29_999), RESTS);
    assert_eq!(bench.found("www", MINUTE + 30_000), Recall::InReserve);
    assert_eq!(bench.found("www", 11 * MINUTE), Recall::Unknown, "too old");
}

#[test]
fn in_an_outage_stale_answers_come_at_once_and_are_asked_for_now_and_then() {
    let bench = Bench::new(STALE);
    bench.keep("www", 0, 60, 0);
    let out = |now| bench.recall("www", true, now).0;
    assert_eq!([out(MINUTE), out(MINUTE + 1), out(MINUTE + 29_999)], [IN_OUTAGE, RESTS, RESTS]);
    assert_eq!(out(MINUTE + 30_000), IN_OUTAGE);
    bench.failed("www", true, MINUTE + 31_000);
    assert_eq!(out(MINUTE + 32_000), RESTS);
    assert_eq!(bench.found("www", MINUTE + 32_001), Recall::InReserve, "the outage is over");
}

#[test]
fn without_the_option_nothing_stale_is_given() {
    let bench = Bench::new(USAGE);
    bench.keep("www", 0, 60, 0);
    assert_eq!(bench.recall("www", true, MINUTE).0, Recall::Unknown);
}

#[test]
fn a_failure_replaces_nothing_that_can_be_used() {
    let bench = Bench::new(STALE);
    bench.keep("www", rcode::SERVFAIL, 0, 0);
    assert_eq!((bench.found("www", 999), bench.found("www", 1000)), (FRESH, Recall::Unknown));
    bench.keep("www", 0, 60, 0);
    bench.keep("www", rcode::SERVFAIL, 0, MINUTE);
    let (found, bytes, _) = bench.recall("www", false, MINUTE + 1);
    assert_eq!((found, bytes[3] & 0x0f), (RESTS, rcode::NOERROR));
    bench.keep("www", rcode::SERVFAIL, 0, 11 * MINUTE);
    assert_eq!(bench.recall("www", false, 11 * MINUTE).1[3] & 0x0f, rcode::SERVFAIL, "what was there is too old");
}

#[test]
fn what_is_forgotten_does_not_come_back() {
    let bench = Bench::new(USAGE);
    for name in ["a", "b"] {
        bench.keep(name, 0, 60, 0);
    }
    assert_eq!((bench.answers.held().entries, bench.answers.forget_name(b"\x01A\0", false)), (2, 1));
    assert_eq!((bench.found("a", 1), bench.found("b", 1)), (Recall::Unknown, FRESH));
    let before = bench.answers.newest();
    assert_eq!(bench.answers.forget_all(), 1);
    bench.keep_of(before, "b", 0, 60, 0);
    assert_eq!(bench.found("b", 1), Recall::Unknown, "asked for before, answered afterwards");
    bench.keep("b", 0, 60, 0);
    assert_eq!(bench.answers.forget_name(b"\0", true), 1);
}

#[test]
fn who_asks_others_than_are_asked_now_adds_nothing() {
    let bench = Bench::new(USAGE);
    let (since, asked) = (bench.answers.newest(), bench.answers.generation(bench.answers.newest()));
    bench.keep_of(asked, "a", 0, 60, 0);
    assert_eq!(bench.answers.begin_anew(), 1);
    for generation in [asked, bench.answers.generation(since)] {
        bench.keep_of(generation, "a", 0, 60, 0);
        assert_eq!(bench.found("a", 1), Recall::Unknown);
    }
    let since = bench.answers.newest();
    bench.answers.forget_all();
    bench.keep_of(bench.answers.generation(since), "a", 0, 60, 0);
    assert_eq!(bench.found("a", 1), FRESH);
}

#[test]
fn nothing_lives_longer_than_is_configured_now() {
    let mut bench = Bench::new(USAGE);
    bench.keep("www", 0, 300, 0);
    bench.usage.lifetimes.max = 5;
    assert_eq!((bench.found("www", 4_999), bench.found("www", 5_000) == FRESH), (FRESH, false));
}

#[test]
fn a_memory_of_no_octets_keeps_nothing() {
    let bench = Bench { answers: Answers::new(0), usage: USAGE };
    bench.keep("www", 0, 60, 0);
    assert_eq!((bench.found("www", 0), bench.answers.is_on()), (Recall::Unknown, false));
}
