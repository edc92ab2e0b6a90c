//! A resolver that sends nonsense: what it says wrongly costs the query it answers, and no other.

use std::sync::Mutex;
use std::time::Duration;

use testkit::script::default_answer;
use testkit::{Act, UdpClient, a_for, framed, inspect, query};

use super::mutations::{Numbers, amount};
use crate::conformance::bench::Bench;

/// Nonsense messages for each hostile query.
const EACH: usize = 50;

#[test]
fn mutated_answers_harm_nobody() {
    let numbers = Mutex::new(Numbers::new(0xd05));
    let bench = Bench::with(
        |server| {
            server.script(move |received| {
                if received.name.starts_with("good") {
                    return vec![Act::Default];
                }
                let (mut numbers, mut stream) = (numbers.lock().unwrap(), Vec::new());
                for _ in 0..EACH {
                    let mut message = numbers.mutated(&default_answer(&received.message));
                    if message.len() > 2 && numbers.below(2000) != 0 {
                        // what is no response ends the connection; most of this should be read
                        message[2] |= 0x80;
                    }
                    if numbers.below(2000) != 0 {
                        message.resize(message.len().max(12), 0x80);
                    }
                    stream.extend(framed(&message));
                }
                vec![Act::Raw(stream), Act::Default]
            })
        },
        "",
    );
    let client = UdpClient::connect(bench.proxy.address());
    let mut before = 0;
    for number in 0..amount() / EACH {
        client.send(&query(u16::try_from(number % 65_536).unwrap(), &format!("bad{number}.example"), 1));
        if number % 8 == 0 {
            let name = format!("good{number}.example");
            let served = (0..3).any(|_| {
                let answer =
                    UdpClient::connect(bench.proxy.address()).ask_within(&query(5, &name, 1), Duration::from_secs(3));
                answer.is_some_and(|answer| inspect::a_records(&answer) == [a_for(&name)])
            });
            assert!(served, "after {number} queries:\n{}", bench.proxy.log());
            while client.recv(Duration::ZERO).is_some() {}
            bench.server.clear_messages();
        }
        if number == amount() / EACH / 4 {
            before = bench.proxy.rss_kib();
        }
    }
    let after = bench.proxy.rss_kib();
    assert!(after < before + 16 * 1024, "resident memory grew from {before} to {after} KiB");
}
