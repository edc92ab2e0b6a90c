//! Theme B: streams of octets from and to TCP clients, and how much of them is kept.

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use testkit::message::a_for;
use testkit::{Act, Ended, Rr, TcpClient, answer_to, framed, inspect, query};

use super::bench::Bench;
use super::setup::{SOON, Setup, messages};

fn next(client: &mut TcpClient) -> Vec<u8> {
    client.recv(SOON).expect("an open connection").expect("an answer in time")
}

#[test]
fn c011_a_message_may_come_in_any_pieces() {
    let bench = Bench::start();
    let mut client = TcpClient::connect(bench.proxy.address());
    let octets = framed(&query(11, "pieces.test", 1));
    for (index, octet) in octets.iter().enumerate() {
        client.send_raw(&[*octet]);
        thread::sleep(Duration::from_millis(if index < 2 { 300 } else { 20 }));
    }
    assert_eq!(inspect::a_records(&next(&mut client)), [a_for("pieces.test")]);
}

#[test]
fn c011_a_segment_may_hold_messages_and_a_half() {
    let bench = Bench::start();
    let mut client = TcpClient::connect(bench.proxy.address());
    let octets: Vec<u8> = (0..4).flat_map(|id| framed(&query(id, &format!("{id}.test"), 1))).collect();
    let (first, rest) = octets.split_at(octets.len() - 12);
    client.send_raw(first);
    let mut ids: Vec<u16> = (0..3).map(|_| inspect::id(&next(&mut client))).collect();
    client.send_raw(rest);
    ids.push(inspect::id(&next(&mut client)));
    ids[..3].sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3]);
}

/// Sends an octet from time to time until the connection ends, and says when that was.
fn dribble(client: &mut TcpClient, since: Instant, octets: &[u8]) -> Duration {
    for octet in octets {
        client.send_raw(&[*octet]);
        match client.recv(Duration::from_millis(100)) {
            Ok(None) => {}
            Ok(Some(message)) => panic!("an answer to nothing: {message:02x?}"),
            Err(_) => return since.elapsed(),
        }
    }
    panic!("still open after {:?}", since.elapsed());
}

#[test]
fn c011_octets_without_a_message_keep_no_connection_open() {
    let bench = Setup::default().listen("tcp-idle-timeout = \"1s\"").start(|server| server);
    let since = Instant::now();
    let mut client = TcpClient::connect(bench.proxy.address());
    let never_whole = [&[0xff, 0xff][..], &[0; 60]].concat();
    let lasted = dribble(&mut client, since, &never_whole);
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&lasted), "{lasted:?}");

    // a whole message starts the time again, the half one behind it does not
    let mut client = TcpClient::connect(bench.proxy.address());
    thread::sleep(Duration::from_millis(500));
    let since = Instant::now();
    client.ask(&query(11, "whole.test", 1)).unwrap();
    let lasted = dribble(&mut client, since, &never_whole);
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&lasted), "{lasted:?}");
    assert_eq!(messages(&bench.server), 1);
}

#[test]
fn c019_a_client_that_never_reads_costs_little() {
    let bench = Setup::default().listen("tcp-write-timeout = \"1s\"\ntcp-idle-timeout = \"60s\"").start(|server| {
        server.script(|received| {
            let large = answer_to(&received.message).answer(&Rr::txt("unread.test", &[b'x'; 4_000], 60));
            vec![Act::Answer(large.build())]
        })
    });
    // what a client that reads makes the proxy use is not counted
    let mut reader = TcpClient::connect(bench.proxy.address());
    for id in 0..200 {
        reader.send(&query(id, "read.test", 16));
    }
    for _ in 0..200 {
        next(&mut reader);
    }
    let (before, baseline) = (bench.proxy.rss_kib(), bench.proxy.open_files());
    let client = TcpClient::connect_with_receive_buffer(bench.proxy.address(), 4_096);
    let octets: Vec<u8> = (0..10_000).flat_map(|id| framed(&query(id, "unread.test", 16))).collect();
    let mut stream = client.stream().try_clone().unwrap();
    let since = Instant::now();
    // writing ends with an error when the connection is closed, if it does not fit into the buffers before
    let writer = thread::spawn(move || stream.write_all(&octets));
    assert!(bench.server.wait_for(|journal| !journal.messages_named("unread.test").is_empty(), SOON));
    let mut most = before;
    while bench.proxy.open_files() > baseline && since.elapsed() < Duration::from_secs(15) {
        most = most.max(bench.proxy.rss_kib());
        thread::sleep(Duration::from_millis(20));
    }
    assert!(bench.proxy.open_files() == baseline, "still open after {:?}", since.elapsed());
    assert!(since.elapsed() >= Duration::from_secs(1));
    assert!(most - before < 4 * 1024, "{before} KiB grew to {most} KiB");
    assert!(bench.server.journal().messages_named("unread.test").len() < 5_000);
    drop(client);
    drop(writer.join().unwrap());
    assert!(reader.ask(&query(1, "after.test", 16)).is_some());
}

#[test]
fn c020_more_queries_than_the_cap_wait() {
    const QUERIES: u16 = 5_000;
    let bench = Setup::default().listen("tcp-in-flight = 50").start(|server| {
        server.script(|received| {
            vec![Act::AnswerAfter(Duration::from_millis(5), testkit::default_answer(&received.message))]
        })
    });
    let mut client = TcpClient::connect(bench.proxy.address());
    let octets: Vec<u8> = (0..QUERIES).flat_map(|id| framed(&query(id, &format!("{id}.test"), 1))).collect();
    let mut stream = client.stream().try_clone().unwrap();
    let writer = thread::spawn(move || stream.write_all(&octets));
    let mut seen = vec![false; usize::from(QUERIES)];
    for _ in 0..QUERIES {
        let answer = next(&mut client);
        let id = inspect::id(&answer);
        assert_eq!(inspect::a_records(&answer), [a_for(&format!("{id}.test"))]);
        assert!(!std::mem::replace(&mut seen[usize::from(id)], true), "{id} was answered twice");
    }
    writer.join().unwrap().unwrap();
    let most = bench.server.with_journal(|journal| journal.max_in_flight(0));
    assert!((10..=50).contains(&most), "{most}");
    client.half_close();
    assert_eq!(client.recv(SOON), Err(Ended::Fin));
}

/// Large answers stop the reading before the queries in flight do; it must go on when they have been written.
#[test]
fn c020_reading_goes_on_after_large_answers() {
    const QUERIES: u16 = 400;
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                let large = answer_to(&received.message).answer(&Rr::txt("large.test", &[b'x'; 4_000], 60));
                vec![Act::Answer(large.build())]
            })
        },
        "",
    );
    let mut client = TcpClient::connect(bench.proxy.address());
    client.send_raw(&(0..QUERIES).flat_map(|id| framed(&query(id, "large.test", 16))).collect::<Vec<u8>>());
    let mut ids: Vec<u16> = (0..QUERIES).map(|_| inspect::id(&next(&mut client))).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..QUERIES).collect::<Vec<_>>());
}
