//! Theme G: how a connection to a resolver is used, and how it ends in good order.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use testkit::proxy_process::Signal;
use testkit::script::default_builder;
use testkit::{
    Act, DotServer, Journal, Opt, Pki, Stage, TcpClient, UdpClient, default_answer, framed, inspect, message, query,
};

use super::bench::Bench;
use super::own_network::{Capture, in_own_network, syn};
use super::resolvers::{LONG, proxy_before, rcode_of};

/// Many queries for names of their own, in one segment.
fn burst(prefix: &str, count: u16) -> Vec<u8> {
    (0..count).flat_map(|number| framed(&query(number, &format!("{prefix}{number}.test"), 1))).collect()
}

/// As many answers as were asked for, each to its own query.
fn all_answered(client: &mut TcpClient, prefix: &str, count: u16) {
    let mut seen = vec![false; usize::from(count)];
    for _ in 0..count {
        let answer = client.recv(LONG).expect("an open connection").expect("an answer");
        let number = inspect::id(&answer);
        assert_eq!(inspect::question_name(&answer), format!("{prefix}{number}.test"));
        assert_eq!(inspect::rcode(&answer), 0, "{number}");
        assert_eq!(inspect::a_records(&answer), [message::a_for(&format!("{prefix}{number}.test"))]);
        assert!(!std::mem::replace(&mut seen[usize::from(number)], true), "two answers to {number}");
    }
}

/// The statement's 20 seconds are 3 here: what counts is that nothing but time passes between the queries.
#[test]
fn c063_a_thousand_queries_share_one_connection() {
    let bench = Bench::start();
    let client = UdpClient::connect(bench.proxy.address());
    for number in 0..1000 {
        let name = format!("n{number}.test");
        let answer = client.ask(&query(number, &name, 1)).unwrap();
        assert_eq!(inspect::a_records(&answer), [message::a_for(&name)]);
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(bench.server.journal().accepted(), 1);
}

#[test]
fn c064_a_query_does_not_wait_for_the_answer_to_another() {
    let bench = Bench::with(
        |server| {
            server.script(|received| match received.name.as_str() {
                "held.test" => vec![Act::AnswerAfter(Duration::from_millis(900), default_answer(&received.message))],
                _ => vec![Act::Default],
            })
        },
        "",
    );
    rcode_of(&bench.proxy, &query(1, "warm.test", 1));
    let (held, other) = (UdpClient::connect(bench.proxy.address()), UdpClient::connect(bench.proxy.address()));
    held.send(&query(1, "held.test", 1));
    assert!(bench.server.wait_for(|journal| !journal.messages_named("held.test").is_empty(), LONG));
    let begun = Instant::now();
    other.ask(&query(2, "other.test", 1)).unwrap();
    assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!(held.recv(Duration::from_millis(1)), None, "the first answer was not held");
    assert_eq!(inspect::rcode(&held.recv(LONG).unwrap()), 0);
    assert_eq!(bench.server.journal().accepted(), 1);
}

#[test]
fn c065_r13_a_cold_burst_opens_no_connection_for_each_query() {
    let slow = Stage::HandshakeDelay(Duration::from_millis(300));
    let bench = Bench::with(|server| server.stage(slow), "");
    let mut clients: Vec<TcpClient> = (0..5).map(|_| TcpClient::connect(bench.proxy.address())).collect();
    for (number, client) in clients.iter().enumerate() {
        client.send_raw(&burst(&format!("c{number}-"), 100));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        all_answered(client, &format!("c{number}-"), 100);
    }
    let journal = bench.server.journal();
    assert!(journal.accepted() <= 2, "{} connections", journal.accepted());
    assert_eq!(journal.messages.len(), 500);
}

/// How many whole messages each record of these holds; none is cut.
fn messages_of_records(journal: &Journal, first: usize) -> Vec<usize> {
    let whole = |record: &testkit::journal::Record| {
        let mut rest = record.plaintext.clone();
        let messages = inspect::take_messages(&mut rest);
        assert!(rest.is_empty(), "a message was split over records");
        messages.len()
    };
    journal.records[first..].iter().map(whole).collect()
}

#[test]
fn c066_what_waits_at_the_same_time_shares_a_record() {
    let bench = Bench::start();
    rcode_of(&bench.proxy, &query(1, "single.test", 1));
    assert_eq!(messages_of_records(&bench.server.journal(), 0), [1]);
    let mut client = TcpClient::connect(bench.proxy.address());
    client.send_raw(&burst("b", 20));
    all_answered(&mut client, "b", 20);
    assert_eq!(messages_of_records(&bench.server.journal(), 1), [20]);
}

#[test]
fn c066_what_waited_for_the_handshake_shares_records() {
    let slow = Stage::HandshakeDelay(Duration::from_millis(200));
    let bench = Bench::with(|server| server.stage(slow), "");
    let mut client = TcpClient::connect(bench.proxy.address());
    client.send_raw(&burst("b", 100));
    all_answered(&mut client, "b", 100);
    assert_eq!(messages_of_records(&bench.server.journal(), 0), [100]);
}

/// More than one record holds: each record begins and ends with a message.
#[test]
fn c066_large_queries_are_not_split_over_records() {
    let slow = Stage::HandshakeDelay(Duration::from_millis(200));
    let bench = Bench::with(|server| server.stage(slow), "");
    let mut client = TcpClient::connect(bench.proxy.address());
    let filler = [0x41; 1500];
    for number in 0..60 {
        let asked = message::MessageBuilder::query(number, &format!("b{number}.test"), 1);
        client.send(&asked.opt(Opt::new(1232).option(65_001, &filler)).build());
    }
    all_answered(&mut client, "b", 60);
    let records = messages_of_records(&bench.server.journal(), 0);
    assert_eq!(records.iter().sum::<usize>(), 60);
    assert!(records.len() >= 6 && records.len() < 30, "{records:?}");
}

#[test]
fn c067_every_shape_of_record_is_read() {
    let held = Mutex::new(Vec::new());
    let bench = Bench::with(
        |server| {
            server.tickets(4).script(move |received| {
                let answer = default_answer(&received.message);
                if received.name.starts_with("octets") {
                    return vec![Act::KeyUpdate, Act::OneOctetRecords(answer), Act::KeyUpdate];
                }
                let mut held = held.lock().unwrap();
                held.extend(framed(&answer));
                let count = inspect::take_messages(&mut held.clone()).len();
                if count < 20 { Vec::new() } else { vec![Act::Raw(std::mem::take(&mut *held)), Act::KeyUpdate] }
            })
        },
        "",
    );
    let mut client = TcpClient::connect(bench.proxy.address());
    for round in 0..3 {
        let prefix = format!("octets{round}-");
        client.send_raw(&burst(&prefix, 5));
        all_answered(&mut client, &prefix, 5);
        let prefix = format!("together{round}-");
        client.send_raw(&burst(&prefix, 20));
        all_answered(&mut client, &prefix, 20);
    }
    let journal = bench.server.journal();
    assert_eq!((journal.accepted(), journal.messages.len()), (1, 75));
}

/// Records cut where it hurts: within the length prefix, and a message over several large records.
#[test]
fn c067_a_message_over_many_records_is_read() {
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                let large = default_builder(&received.message)
                    .answer(&testkit::Rr::txt("large.test", &[b'x'; 40_000], 60))
                    .build();
                let stream = framed(&large);
                let (prefix, rest) = stream.split_at(1);
                let records = [prefix].into_iter().chain(rest.chunks(15_999));
                records.map(|record| Act::Raw(record.to_vec())).collect()
            })
        },
        "",
    );
    let mut client = TcpClient::connect(bench.proxy.address());
    for number in 0..5 {
        let answer = client.ask(&query(number, "large.test", 1)).unwrap();
        assert!(answer.len() > 40_000);
        assert_eq!(inspect::a_records(&answer), [message::a_for("large.test")]);
    }
    assert_eq!(bench.server.journal().accepted(), 1);
}

/// What comes behind a long message in the same flight may need more room than is left beside it.
#[test]
fn c067_messages_behind_a_long_one_are_read() {
    const TOGETHER: u16 = 40;
    let held = Mutex::new(Vec::new());
    let bench = Bench::with(
        |server| {
            server.script(move |received| {
                let mut held = held.lock().unwrap();
                let length = if held.is_empty() { 60_000 } else { 400 };
                let text = testkit::Rr::txt("text.test", &vec![b'x'; length], 60);
                held.push(framed(&default_builder(&received.message).answer(&text).build()));
                if held.len() < usize::from(TOGETHER) {
                    return Vec::new();
                }
                let flight = std::mem::take(&mut *held).concat();
                let mut acts: Vec<_> = flight.chunks(16_000).map(|record| Act::Raw(record.to_vec())).collect();
                acts.insert(3, Act::Sleep(Duration::from_millis(300)));
                acts
            })
        },
        "",
    );
    let mut client = TcpClient::connect(bench.proxy.address());
    client.send_raw(&burst("behind", TOGETHER));
    assert!(bench.server.wait_for(|journal| journal.messages.len() == usize::from(TOGETHER), LONG));
    // the first part has been read, and all of the rest is there when it goes on
    thread::sleep(Duration::from_millis(100));
    bench.proxy.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_millis(400));
    bench.proxy.signal(Signal::SIGCONT);
    all_answered(&mut client, "behind", TOGETHER);
    assert_eq!(bench.server.journal().accepted(), 1);
}

#[test]
fn c068_r07_an_idle_connection_is_closed_in_good_order() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let proxy = proxy_before(&[&server], pki.ca_file(), "idle-timeout = \"1s\"");
    rcode_of(&proxy, &query(1, "a.test", 1));
    let asked = server.journal().messages[0].at;
    assert!(server.wait_for(|journal| journal.connections[0].peer_end.is_some(), LONG));
    let journal = server.journal();
    let closed = journal.connections[0].peer_close_notify.expect("close_notify before FIN");
    let after = closed.duration_since(asked);
    assert!(after >= Duration::from_secs(1) && after < Duration::from_secs(2), "{after:?}");
    assert_eq!(journal.connections[0].peer_end.unwrap().0, testkit::journal::PeerEnd::Fin);
    // nothing is opened in advance, and the next query is served as ever
    assert_eq!(journal.accepted(), 1);
    assert_eq!(rcode_of(&proxy, &query(2, "b.test", 1)), 0);
    assert_eq!(server.journal().accepted(), 2);
}

#[test]
fn c068_an_answer_before_a_goodbye_is_delivered() {
    let bench = Bench::with(
        |server| server.script(|received| vec![Act::AnswerCloseFinInOneSegment(default_answer(&received.message))]),
        "",
    );
    for number in 0..50 {
        let name = format!("n{number}.test");
        assert_eq!(rcode_of(&bench.proxy, &query(number, &name, 1)), 0);
        assert_eq!(bench.server.journal().messages_named(&name).len(), 1, "asked again");
    }
}

/// A script that puts a keepalive option with this TIMEOUT into every answer.
fn granting(tenths: u16) -> impl Fn(&testkit::Received) -> Vec<Act> + Send + Sync {
    move |received| {
        let opt = Opt::new(1232).option(11, &tenths.to_be_bytes());
        vec![Act::Answer(default_builder(&received.message).opt(opt).build())]
    }
}

/// Statement 73 as far as it goes in transparent mode: the option is read and never added.
#[test]
fn c073_r08_a_granted_timeout_is_honoured() {
    let bench = Bench::with(|server| server.script(granting(50)), "");
    let asked = message::MessageBuilder::query(1, "a.test", 1).opt(Opt::new(1232)).build();
    assert_eq!(rcode_of(&bench.proxy, &asked), 0);
    let at = bench.server.journal().messages[0].at;
    assert!(bench.server.wait_for(|journal| journal.connections[0].peer_close_notify.is_some(), LONG));
    let after = bench.server.journal().connections[0].peer_close_notify.unwrap().duration_since(at);
    assert!(after >= Duration::from_secs(4) && after < Duration::from_secs(5), "{after:?}");
    assert_eq!(inspect::option(&bench.server.journal().messages[0].octets, 11), None);
}

#[test]
fn c073_a_timeout_of_zero_ends_the_connection_after_the_outstanding_answers() {
    let bench = Bench::with(
        |server| {
            server.script(|received| match (received.connection, received.name.as_str()) {
                (0, "b0.test") => {
                    let zero = default_builder(&received.message).opt(Opt::new(1232).option(11, &[0, 0])).build();
                    vec![Act::AnswerAfter(Duration::from_millis(100), zero)]
                }
                (0, _) => vec![Act::AnswerAfter(Duration::from_millis(700), default_answer(&received.message))],
                _ => vec![Act::Default],
            })
        },
        "",
    );
    let mut client = TcpClient::connect(bench.proxy.address());
    client.send_raw(&burst("b", 3));
    let first = client.recv(LONG).unwrap().unwrap();
    assert_eq!(inspect::id(&first), 0);
    // the two others are outstanding still: a new query must not join them
    assert_eq!(rcode_of(&bench.proxy, &query(7, "next.test", 1)), 0);
    for _ in 0..2 {
        let answer = client.recv(LONG).unwrap().unwrap();
        assert_eq!(inspect::rcode(&answer), 0);
    }
    assert!(bench.server.wait_for(|journal| journal.connections[0].peer_close_notify.is_some(), LONG));
    let journal = bench.server.journal();
    assert_eq!(journal.messages_named("next.test")[0].connection, 1);
    assert_eq!(journal.messages.len(), 4, "something was asked twice");
    assert!(journal.connections[1].is_alive());
}

#[test]
fn c075_a_syn_carries_nothing() {
    in_own_network(|| {
        let pki = Pki::new();
        let server = DotServer::start(pki.server(&["upstream.test"]));
        let Some(capture) = Capture::start(pki.directory()) else { return };
        let proxy = proxy_before(&[&server], pki.ca_file(), "");
        for number in 0..3 {
            // a fast open cookie, if there were one, would be used from the second connection on
            assert_eq!(rcode_of(&proxy, &query(number, "a.test", 1)), 0);
            server.close_all(testkit::How::CloseNotify);
            let before = usize::from(number) + 1;
            let are_closed = |journal: &Journal| journal.connections.iter().take(before).all(|one| !one.is_alive());
            assert!(server.wait_for(are_closed, LONG));
        }
        let packets = capture.packets();
        let syns: Vec<_> = packets.iter().filter_map(|packet| syn(packet)).collect();
        assert!(syns.len() >= 3, "{} SYNs", syns.len());
        for (options, payload) in syns {
            assert!(payload.is_empty(), "a SYN with {} octets", payload.len());
            assert!(!kinds(options).contains(&34), "a SYN asks for a fast open cookie");
        }
    });
}

/// The kinds of TCP options.
fn kinds(options: &[u8]) -> Vec<u8> {
    let (mut kinds, mut at) = (Vec::new(), 0);
    while let Some(&kind @ 1..) = options.get(at) {
        kinds.push(kind);
        at += if kind == 1 { 1 } else { usize::from(*options.get(at + 1).unwrap_or(&255)).max(2) };
    }
    kinds
}
