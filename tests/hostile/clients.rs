//! Clients that send nonsense: the process lives, its memory stays, and everybody else is served.

use std::time::Duration;

use testkit::message::MessageBuilder;
use testkit::{Ended, Opt, TcpClient, UdpClient, a_for, framed, inspect, query};

use super::mutations::{Numbers, amount};
use crate::conformance::bench::Bench;

const AXFR: u16 = 252;

fn corpus() -> Vec<Vec<u8>> {
    vec![
        query(1, "www.example.com", 1),
        MessageBuilder::query(2, "a.b.c.d.example.net", 28)
            .opt(Opt::new(1232).option(8, &[0, 1, 24, 0, 192, 0, 2]).option(10, b"12345678"))
            .build(),
        MessageBuilder::query(3, "example.org", AXFR).build(),
        MessageBuilder::query(4, "example.org", 6).opcode(5).tsig().build(),
        MessageBuilder::query(5, "x.home.arpa", 1).opt(Opt::new(4096).option(11, b"")).build(),
        MessageBuilder::empty(6).opcode(6).build(),
    ]
}

/// Asks for a name over a socket of its own and proves that the answer belongs to it; a stub resolver asks three times.
fn is_served(bench: &Bench, name: &str) -> bool {
    (0..3).any(|_| {
        let answer = UdpClient::connect(bench.proxy.address()).ask_within(&query(77, name, 1), Duration::from_secs(3));
        answer.is_some_and(|answer| inspect::a_records(&answer) == [a_for(name)])
    })
}

/// Memory may grow to its bound, not with the number of packets.
fn memory_stays(before: u64, after: u64) {
    assert!(after < before + 16 * 1024, "resident memory grew from {before} to {after} KiB");
}

#[test]
fn mutated_datagrams_harm_nobody() {
    let bench = Bench::start();
    let (corpus, mut numbers) = (corpus(), Numbers::new(0x5eed));
    let hostile = UdpClient::connect(bench.proxy.address());
    let mut before = 0;
    for number in 0..amount() {
        let packet = numbers.mutated(&corpus[number % corpus.len()]);
        hostile.send(&packet);
        if number % 512 == 0 {
            // also keeps the flood within what a socket's buffer takes, so that every packet is really read
            assert!(
                is_served(&bench, &format!("good{number}.example")),
                "after {number} packets:\n{}",
                bench.proxy.log()
            );
            while hostile.recv(Duration::ZERO).is_some() {}
            bench.server.clear_messages();
        }
        if number == amount() / 4 {
            before = bench.proxy.rss_kib();
        }
    }
    memory_stays(before, bench.proxy.rss_kib());
}

#[test]
fn mutated_messages_on_streams_harm_nobody() {
    let bench = Bench::start();
    // a transfer that the server never ends is waited for, and would make this a test of patience
    let corpus: Vec<_> = corpus().into_iter().filter(|message| inspect::qtype(message) != AXFR).collect();
    let mut numbers = Numbers::new(0xbad5eed);
    let (mut sent, mut before) = (0, 0);
    while sent < amount() {
        let mut stream = Vec::new();
        for number in 0..200 {
            let message = numbers.mutated(&corpus[number % corpus.len()]);
            let mut frame = framed(&message);
            if numbers.below(60) == 0 {
                frame = numbers.mutated(&frame);
            }
            stream.extend(frame);
        }
        sent += 200;
        let mut client = TcpClient::connect(bench.proxy.address());
        // it is closed early when what comes is no query
        let _ = client.try_send_raw(&stream);
        if numbers.below(2) == 0 {
            client.half_close();
            while let Ok(Some(_)) = client.recv(Duration::from_secs(5)) {}
        } else {
            client.reset();
        }
        if sent % 2000 == 0 {
            assert!(is_served(&bench, &format!("good{sent}.example")), "after {sent} messages:\n{}", bench.proxy.log());
            bench.server.clear_messages();
        }
        if before == 0 && sent >= amount() / 4 {
            before = bench.proxy.rss_kib();
        }
    }
    memory_stays(before, bench.proxy.rss_kib());
    let mut client = TcpClient::connect(bench.proxy.address());
    assert!(client.ask(&query(9, "still.example", 1)).is_some());
    assert_eq!(client.recv(Duration::from_millis(1)), Ok::<_, Ended>(None));
}
