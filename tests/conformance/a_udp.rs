//! Theme A: listening on UDP.

use std::collections::HashSet;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use testkit::message::{a_for, answer_to, flag};
use testkit::{
    Act, MessageBuilder, Opt, Received, Rr, Section, TcpClient, UdpClient, default_answer, inspect, name_wire, query,
};

use super::bench::Bench;
use super::namespace::{in_namespace, is_there, run, skipped};
use super::setup::{QUIET, SOON, Setup, arrives, counter, messages, release};

const TXT: u16 = 16;

/// The one datagram that comes must be the answer to `name`: whatever was sent before it got none.
fn only_answer_is_for(client: &UdpClient, id: u16, name: &str) {
    client.send(&query(id, name, 1));
    let answer = client.recv(SOON).expect("an answer");
    assert_eq!(inspect::id(&answer), id);
    assert_eq!(inspect::a_records(&answer), [a_for(name)]);
    assert_eq!(client.recv(QUIET), None);
}

#[test]
fn c002_stays_silent_to_what_is_no_query() {
    let mut bench = Bench::start();
    let client = UdpClient::connect(bench.proxy.address());
    let plain = query(1, "silence.test", 1);
    let response = default_answer(&plain);
    let no_body = MessageBuilder::empty(1).bit(flag::QR, true).build();
    for datagram in [&[][..], &plain[..1], &plain[..11], &response[..], &no_body[..]] {
        client.send(datagram);
    }
    only_answer_is_for(&client, 2, "after.test");
    assert_eq!(messages(&bench.server), 1);
    assert_eq!(counter(&mut bench, "not_queries"), 5);
}

/// A query with this opcode and these counts, whose body is `body`.
fn malformed(opcode: u8, counts: [u16; 4], body: &[u8]) -> Vec<u8> {
    let [questions, answers, authorities, additionals] = counts;
    MessageBuilder::empty(0x0303)
        .opcode(opcode)
        .rd(true)
        .qdcount(questions)
        .count(Section::Answer, answers)
        .count(Section::Authority, authorities)
        .count(Section::Additional, additionals)
        .trailing(body)
        .build()
}

fn malformed_bodies() -> Vec<Vec<u8>> {
    let question = [&name_wire("bad.test")[..], &[0, 1, 0, 1]].concat();
    let with = |more: &[u8]| [&question[..], more].concat();
    let record = Rr::a("bad.test", [192, 0, 2, 1], 60).wire();
    let opt = Opt::new(1232).option(65001, &[1; 8]).record().wire();
    let long_name: Vec<u8> =
        [&[63; 64][..]].into_iter().cycle().take(4).flatten().copied().chain([0, 0, 1, 0, 1]).collect();
    vec![
        malformed(0, [1, 0, 0, 0], &[]),
        // a pointer to itself, two that point to each other, one to nowhere, half of one
        malformed(0, [1, 0, 0, 0], &[0xc0, 12, 0, 1, 0, 1]),
        malformed(0, [1, 0, 0, 0], &[0xc0, 14, 0xc0, 12, 0, 1, 0, 1]),
        malformed(0, [1, 0, 0, 0], &[0xff, 0xff, 0, 1, 0, 1]),
        malformed(0, [1, 0, 0, 0], &[1, b'a', 0xc0]),
        // labels: past the end, of unknown types, more than a name takes
        malformed(0, [1, 0, 0, 0], &[63, b'a', b'b', 0, 0, 1, 0, 1]),
        malformed(0, [1, 0, 0, 0], &[0x41, 1, 0, 0, 1, 0, 1]),
        malformed(0, [1, 0, 0, 0], &[0x80, 1, 0, 0, 1, 0, 1]),
        malformed(0, [1, 0, 0, 0], &long_name),
        // a question cut short
        malformed(0, [1, 0, 0, 0], &question[..question.len() - 1]),
        malformed(0, [1, 0, 0, 0], &question[..question.len() - 4]),
        // counts larger than the data
        malformed(0, [1, 1, 0, 0], &question),
        malformed(0, [1, 0, 1, 0], &question),
        malformed(0, [1, 0, 0, 1], &question),
        malformed(0, [1, 0, 0, 65_535], &with(&opt)),
        malformed(0, [65_535; 4], &question),
        // records cut short
        malformed(0, [1, 1, 0, 0], &with(&record[..record.len() - 1])),
        malformed(0, [1, 0, 0, 1], &with(&opt[..opt.len() - 1])),
        malformed(0, [1, 0, 0, 1], &with(&opt[..5])),
        malformed(4, [1, 1, 0, 0], &with(&record[..12])),
        malformed(5, [1, 0, 2, 0], &with(&record)),
    ]
}

#[test]
fn c003_answers_unreadable_queries_with_an_error() {
    let bench = Bench::start();
    let client = UdpClient::connect(bench.proxy.address());
    for (number, bad) in malformed_bodies().iter().enumerate() {
        let asked = Instant::now();
        let reply = client.ask_within(bad, SOON).unwrap_or_else(|| panic!("no reply to {number}"));
        assert!(asked.elapsed() < Duration::from_secs(1), "{number}");
        assert_eq!(inspect::flags(&reply) & flag::QR, flag::QR, "{number}");
        assert_eq!(inspect::opcode(&reply), inspect::opcode(bad), "{number}");
        assert!([1, 2].contains(&inspect::rcode(&reply)), "{number}");
        assert_eq!(inspect::counts(&reply), [0; 4], "{number}");
    }
    assert_eq!(messages(&bench.server), 0);
    only_answer_is_for(&client, 2, "after.test");
}

#[test]
fn c004_accepts_large_queries() {
    let bench = Bench::start();
    let client = UdpClient::connect(bench.proxy.address());
    for (nth, size) in [1_200, 4_000].into_iter().enumerate() {
        let plain = MessageBuilder::query(4, "large.test", 1);
        let filler = size - plain.clone().opt(Opt::new(1232).option(65001, &[])).build().len();
        let large = plain.opt(Opt::new(1232).option(65001, &vec![0x5a; filler])).build();
        assert_eq!(large.len(), size);
        let answer = client.ask(&large).unwrap();
        assert_eq!(inspect::a_records(&answer), [a_for("large.test")]);
        let received = bench.server.journal().messages[nth].octets.clone();
        assert_eq!(received[2..], large[2..]);
    }
}

#[test]
fn c006_survives_clients_that_vanish() {
    let bench = Setup::default().default_log().start(|server| {
        server.script(|received| if received.name == "vanished.test" { vec![Act::Silence] } else { vec![Act::Default] })
    });
    for _ in 0..50 {
        UdpClient::connect(bench.proxy.address()).send(&query(6, "vanished.test", 1));
    }
    assert!(arrives(&bench.server, "vanished.test", 50));
    let (lines, since) = (bench.proxy.log_lines(), Instant::now());
    // each answer comes back as "port unreachable"
    release(&bench.server, "vanished.test");
    only_answer_is_for(&UdpClient::connect(bench.proxy.address()), 7, "after.test");
    let more = bench.proxy.log_lines() - lines;
    assert!(more as u64 <= 1 + since.elapsed().as_secs(), "{}", bench.proxy.log());
}

#[test]
fn c006_survives_packet_filters_and_lost_routes() {
    if !is_there("nft") {
        return skipped("needs nft");
    }
    in_namespace(&["198.51.100.7/32"], || {
        let held = ["filtered.test", "unroutable.test"];
        let bench =
            Setup::default().default_log().addresses(&["0.0.0.0:5353"]).listen("allow = [\"0.0.0.0/0\"]").start(
                move |server| {
                    server.script(
                        move |received| {
                            if held.contains(&&*received.name) { vec![Act::Silence] } else { vec![Act::Default] }
                        },
                    )
                },
            );
        let proxy = "127.0.0.1:5353".parse().unwrap();
        let lines = bench.proxy.log_lines();
        // an answer that a packet filter drops on its way out is EPERM
        let filtered = UdpClient::connect_from("127.0.0.1:4444".parse().unwrap(), proxy);
        filtered.send(&query(6, "filtered.test", 1));
        assert!(arrives(&bench.server, "filtered.test", 1));
        run("nft add table inet t");
        run("nft add chain inet t out { type filter hook output priority 0 ; }");
        run("nft add rule inet t out udp dport 4444 drop");
        release(&bench.server, "filtered.test");
        assert_eq!(filtered.recv(QUIET), None);
        // an answer to an address without a route is EHOSTUNREACH
        let unroutable = UdpClient::connect_from("198.51.100.7:0".parse().unwrap(), proxy);
        unroutable.send(&query(6, "unroutable.test", 1));
        assert!(arrives(&bench.server, "unroutable.test", 1));
        run("ip addr del 198.51.100.7/32 dev lo");
        run("ip route add unreachable 198.51.100.7/32");
        release(&bench.server, "unroutable.test");
        only_answer_is_for(&UdpClient::connect(proxy), 7, "after.test");
        assert!(bench.proxy.log_lines() - lines <= 2, "{}", bench.proxy.log());
        assert!(counter(&mut { bench }, "unsent_answers") >= 2);
    });
}

#[test]
fn c007_asks_once_for_repeated_datagrams() {
    let mut bench = Setup::default().upstream("second-try-after = \"3s\"").start(|server| {
        server.script(|received| if received.name == "once.test" { vec![Act::Silence] } else { vec![Act::Default] })
    });
    let client = UdpClient::connect(bench.proxy.address());
    for _ in 0..3 {
        client.send(&query(7, "once.test", 1));
    }
    // the same ID with another question is another query, and proves that the copies have been handled
    only_answer_is_for(&client, 7, "other.test");
    assert!(arrives(&bench.server, "once.test", 1));
    release(&bench.server, "once.test");
    let mut answers = 0;
    while let Some(answer) = client.recv(QUIET) {
        assert_eq!(inspect::a_records(&answer), [a_for("once.test")]);
        answers += 1;
    }
    assert!((1..=3).contains(&answers), "{answers}");
    assert_eq!(bench.server.journal().messages_named("once.test").len(), 1);
    // answered, it is no repetition any more
    client.send(&query(7, "once.test", 1));
    assert!(arrives(&bench.server, "once.test", 2));
    release(&bench.server, "once.test");
    assert_eq!(inspect::a_records(&client.recv(SOON).unwrap()), [a_for("once.test")]);
    assert_eq!(counter(&mut bench, "retransmissions"), 2);
}

/// Another client, or the same one from another port, is not a repetition.
#[test]
fn c007_tells_clients_apart() {
    let bench = Bench::with(|server| server.script(|_| vec![Act::Silence]), "");
    let clients = [(); 3].map(|()| UdpClient::connect(bench.proxy.address()));
    for client in &clients {
        client.send(&query(7, "each.test", 1));
    }
    assert!(arrives(&bench.server, "each.test", 3));
    release(&bench.server, "each.test");
    for client in &clients {
        assert_eq!(inspect::a_records(&client.recv(SOON).unwrap()), [a_for("each.test")]);
    }
}

#[test]
fn c005_refuses_clients_that_are_not_allowed() {
    let mut bench = Setup::default().listen("allow = [\"127.0.0.1/32\"]").start(|server| server);
    let (stranger, proxy) = ("127.0.0.2:0".parse().unwrap(), bench.proxy.address());
    let asked = query(5, "stranger.test", 1);
    let over_udp = UdpClient::connect_from(stranger, proxy).ask(&asked).unwrap();
    let over_tcp = TcpClient::connect_from(stranger, proxy).ask(&asked).unwrap();
    for reply in [over_udp, over_tcp] {
        assert_eq!(inspect::rcode(&reply), 5);
        assert_eq!(inspect::counts(&reply), [1, 0, 0, 0]);
    }
    assert_eq!(messages(&bench.server), 0);
    only_answer_is_for(&UdpClient::connect(proxy), 6, "friend.test");
    assert_eq!(counter(&mut bench, "prohibited"), 2);
}

/// The machine's way to its clients takes 1 MB a second, and the socket's buffer holds a fraction of the answers.
#[test]
fn answers_wait_while_the_way_to_the_clients_takes_no_more() {
    const MANY: u16 = 600;
    in_namespace(&[], || {
        let large = |received: &Received| {
            let text = (0..4).fold(answer_to(&received.message), |answer, _| {
                answer.answer(&Rr::new("large.test", TXT, 300, &[&[255][..], &[7; 255]].concat()))
            });
            vec![Act::Answer(text.opt(Opt::new(1232)).build())]
        };
        let bench = Setup::default().cache("").start(|server| server.script(large));
        let client = UdpClient::connect(bench.proxy.address());
        let ask = |id: u16| client.send(&MessageBuilder::query(id, "large.test", TXT).opt(Opt::new(1232)).build());
        ask(0);
        assert!(client.recv(SOON).is_some());
        let shaped = "tc qdisc add dev lo root tbf rate 8mbit burst 20kb limit 20mb";
        let shape = Command::new("tc").args(shaped.split(' ').skip(1)).output();
        if !shape.is_ok_and(|output| output.status.success()) {
            return skipped("needs a kernel with tbf");
        }
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| (1..=MANY).for_each(ask));
            let mut waiting: HashSet<u16> = (1..=MANY).collect();
            while !waiting.is_empty() {
                let answer = client.recv(SOON).unwrap_or_else(|| panic!("{} answers are missing", waiting.len()));
                assert!(waiting.remove(&inspect::id(&answer)) && answer.len() > 1000);
            }
        });
        // else nothing had to wait
        assert!(begun.elapsed() > Duration::from_millis(300), "{:?}", begun.elapsed());
    });
}
