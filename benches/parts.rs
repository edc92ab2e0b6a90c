//! The pure parts of the path of a query, one by one: `cargo bench --bench parts` times them, and `cargo xtask instructions`
//! counts their instructions, on which no other program of the machine has any influence.
#![expect(clippy::expect_used, reason = "a benchmark that cannot begin has nothing to measure")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use dot_proxy::cache::answers::{Answers, Draft, Usage};
use dot_proxy::dns::crossing::{Link, Switches, to_resolver};
use dot_proxy::dns::message::{Message, ReadMessage};
use dot_proxy::dns::name::Domain;
use dot_proxy::dns::privacy::Family;
use dot_proxy::dns::reuse::{self, KeyRoom, Lifetimes};
use dot_proxy::dns::suffix::Suffixes;
use dot_proxy::upstream::plan::{Plan, Standing};

const LIFETIMES: Lifetimes = Lifetimes { min: 0, max: 86_400, max_negative: 3600, failure: 1 };
const USAGE: Usage = Usage { lifetimes: LIFETIMES, stale: 0, prefetch: true };
const LINK: Link = Link::Datagram { limit: 1232 };

/// A query for `www.example.com`, or with a number in its name, with EDNS.
fn query(number: u32) -> Vec<u8> {
    let mut query = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x08".to_vec();
    query.extend(format!("{number:08x}").bytes());
    query.extend(b"\x07example\x03com\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0");
    query
}

/// Its answer: an alias, two addresses, and EDNS.
fn answer(query: &[u8]) -> Vec<u8> {
    let opt = query.len() - 11;
    let mut answer = query[..opt].to_vec();
    (answer[2], answer[3], answer[7]) = (0x81, 0x80, 3);
    answer.extend(b"\xc0\x0c\0\x05\0\x01\0\0\x01\x2c\0\x04\x01w\xc0\x15");
    for last in [1, 2] {
        answer.extend(b"\xc0\x31\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02");
        answer.push(last);
    }
    answer.extend(&query[opt..]);
    answer
}

/// Does something so many times.
fn again(part: impl Fn() -> bool + 'static) -> Box<dyn FnMut(u32)> {
    Box::new(move |turns| assert!((0..turns).all(|_| part())))
}

/// A part by its name: what is made ready for it, and what it does so many times.
type Part = (&'static str, fn() -> Box<dyn FnMut(u32)>);

const PARTS: &[Part] = &[
    ("view-query", || {
        let query = query(1);
        again(move || black_box(Message::parse(black_box(&query)).is_ok()))
    }),
    ("view-answer", || {
        let answer = answer(&query(1));
        again(move || black_box(Message::parse(black_box(&answer)).is_ok()))
    }),
    ("edit", || {
        let query = query(1);
        let answer = answer(&query);
        Box::new(move |turns| {
            for _ in 0..turns {
                let view = Message::parse(&query).expect("a query");
                let (sent, passage) =
                    to_resolver(&view, Switches::default(), LINK, Family::V4).expect("a query that can cross");
                black_box(sent);
                black_box(passage.to_client(ReadMessage::new(answer.clone()), &view));
            }
        })
    }),
    ("key", || {
        let query = query(1);
        Box::new(move |turns| {
            let view = Message::parse(&query).expect("a query");
            for _ in 0..turns {
                let mut room = KeyRoom::default();
                black_box(reuse::key(black_box(&view), |_| false, &mut room).expect("a key").octets());
            }
        })
    }),
    ("cache-hit", || {
        let (answers, queries) = (Answers::new(16 << 20), (0..1000).map(query).collect::<Vec<_>>());
        for query in &queries {
            remember(&answers, query, &answer(query), &mut Draft::default());
        }
        let mut out = Vec::new();
        Box::new(move |turns| {
            for query in queries.iter().cycle().take(turns.try_into().unwrap_or(usize::MAX)) {
                let view = Message::parse(query).expect("a query");
                let (mut room, question) = (KeyRoom::default(), view.question().expect("a question"));
                let key = reuse::key(&view, |_| false, &mut room).expect("a key");
                let asked = (view.id(), &question);
                black_box(answers.recall(answers.address(key), asked, &USAGE, false, || 5000, &mut out));
            }
        })
    }),
    ("cache-store", || {
        let (answers, mut draft) = (Answers::new(2 << 20), Draft::default());
        // many times as many as it holds: each is new again when its turn comes, and another one must go
        let messages: Vec<_> = (0..40_000).map(query).map(|query| (answer(&query), query)).collect();
        messages.iter().for_each(|(answer, query)| remember(&answers, query, answer, &mut draft));
        Box::new(move |turns| {
            for (answer, query) in messages.iter().cycle().take(turns.try_into().unwrap_or(usize::MAX)) {
                remember(&answers, query, answer, &mut draft);
            }
        })
    }),
    ("plan", || {
        let start = Instant::now();
        Box::new(move |turns| {
            for _ in 0..turns {
                let mut plan = Plan::new(start + Duration::from_secs(4), Duration::from_millis(1200), true);
                let patience = |_, _, _| Duration::from_millis(1200);
                black_box(plan.next(start, 4, |_| Standing::Open(1), patience));
                plan.asked(0, 1, start);
                black_box(plan.next(start, 4, |_| Standing::Open(1), patience));
            }
        })
    }),
    ("route", || {
        let mut routes = Suffixes::default();
        for domain in ["corp.example", "a.corp.example", "10.in-addr.arpa", "cluster.local", "example.net"] {
            routes.insert(&Domain::parse(domain).expect("a domain"), ());
        }
        let name = b"\x03www\x04host\x01a\x04corp\x07example\0";
        again(move || black_box(routes.longest(black_box(name)).is_some()))
    }),
];

fn remember(answers: &Answers, asked: &[u8], answered: &[u8], draft: &mut Draft) {
    let (view, mut room) = (Message::parse(asked).expect("a query"), KeyRoom::default());
    let key = reuse::key(&view, |_| false, &mut room).expect("a key");
    let answer = Message::parse(answered).expect("an answer");
    let keep = reuse::keep(&key.question(), &answer, LIFETIMES, &mut draft.ttls).expect("an answer to keep");
    draft.body.clear();
    draft.body.extend(answered);
    answers.keep(answers.address(key), answers.newest(), keep, draft, &USAGE, 1000);
}

fn main() {
    // for the counter of instructions: one part, so many times
    if let Ok(wanted) = std::env::var("PART") {
        let turns = std::env::var("TURNS").ok().and_then(|turns| turns.parse().ok()).unwrap_or(1);
        for (_, make) in PARTS.iter().filter(|(name, _)| *name == wanted) {
            make()(turns);
        }
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    for (name, make) in PARTS {
        let mut part = make();
        criterion.bench_function(name, |bencher| bencher.iter(|| part(1)));
    }
    criterion.final_summary();
}
