//! Theme B: listening on TCP.

use std::thread;
use std::time::{Duration, Instant};

use testkit::message::{a_for, answer_to};
use testkit::{Act, Ended, MessageBuilder, Opt, Rr, TcpClient, UdpClient, framed, inspect, query};

use super::bench::Bench;
use super::namespace::{is_there, run, skipped};
use super::setup::{QUIET, SOON, Setup, arrives, messages, release};

/// Leaves queries for names that begin with "held" unanswered.
fn hold(received: &testkit::Received) -> Vec<Act> {
    vec![if received.name.starts_with("held") { Act::Silence } else { Act::Default }]
}

fn next(client: &mut TcpClient) -> Vec<u8> {
    client.recv(SOON).expect("an open connection").expect("an answer in time")
}

fn assert_answers(answer: &[u8], id: u16, name: &str) {
    assert_eq!((inspect::id(answer), inspect::a_records(answer)), (id, vec![a_for(name)]), "{name}");
}

#[test]
fn c009_tcp_is_served_wherever_udp_is() {
    let addresses = ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0", "0.0.0.0:0"];
    let bench = Setup::default().addresses(&addresses).start(|server| server);
    assert_eq!(bench.proxy.addresses().len(), addresses.len());
    for &address in bench.proxy.addresses() {
        let asked = query(9, "where.test", 1);
        assert_answers(&UdpClient::connect(address).ask(&asked).unwrap(), 9, "where.test");
        assert_answers(&TcpClient::connect(address).ask(&asked).unwrap(), 9, "where.test");
    }
}

#[test]
fn c010_answers_come_back_on_their_own_connection() {
    let bench = Bench::with(|server| server.script(hold), "");
    let udp = UdpClient::connect(bench.proxy.address());
    let mut tcp = [(); 2].map(|()| TcpClient::connect(bench.proxy.address()));
    let asked = query(0x1010, "held.test", 1);
    udp.send(&asked);
    tcp.iter().for_each(|client| client.send(&asked));
    assert!(arrives(&bench.server, "held.test", 3));
    release(&bench.server, "held.test");
    assert_answers(&udp.recv(SOON).unwrap(), 0x1010, "held.test");
    for client in &mut tcp {
        assert_answers(&next(client), 0x1010, "held.test");
        assert_eq!(client.recv(QUIET), Ok(None));
    }
    assert_eq!(udp.recv(QUIET), None);
}

#[test]
fn c012_pipelined_queries_are_answered_out_of_order() {
    let bench = Bench::with(|server| server.script(hold), "");
    let mut client = TcpClient::connect(bench.proxy.address());
    client.send_raw(&[framed(&query(1, "held.test", 1)), framed(&query(2, "quick.test", 1))].concat());
    assert_answers(&next(&mut client), 2, "quick.test");
    release(&bench.server, "held.test");
    assert_answers(&next(&mut client), 1, "held.test");
}

#[test]
fn c013_length_and_message_leave_in_one_segment() {
    if !is_there("ss") {
        return skipped("needs ss");
    }
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                let bare = answer_to(&received.message);
                let filler = 100 - bare.clone().answer(&Rr::new("segment.test", 16, 60, &[])).build().len();
                vec![Act::Answer(bare.answer(&Rr::new("segment.test", 16, 60, &vec![0; filler])).build())]
            })
        },
        "",
    );
    let mut client = TcpClient::connect(bench.proxy.address());
    assert_eq!(client.ask(&query(13, "segment.test", 16)).unwrap().len(), 100);
    let port = client.local_address().port();
    let statistics = run(&format!("ss -Htin src = 127.0.0.1:{port}"));
    let words: Vec<&str> = statistics.split_whitespace().collect();
    assert!(words.contains(&"bytes_received:102") && words.contains(&"data_segs_in:1"), "{statistics}");
}

#[test]
fn c014_a_half_closed_client_gets_its_answers() {
    let bench = Bench::with(|server| server.script(hold), "");
    let mut client = TcpClient::connect(bench.proxy.address());
    for id in 0..3 {
        client.send(&query(id, &format!("held{id}.test"), 1));
    }
    client.half_close();
    for id in 0..3 {
        assert!(arrives(&bench.server, &format!("held{id}.test"), 1));
    }
    // nothing but the answers ends the connection
    assert_eq!(client.recv(QUIET), Ok(None));
    for id in 0..3 {
        release(&bench.server, &format!("held{id}.test"));
        assert_answers(&next(&mut client), id, &format!("held{id}.test"));
    }
    assert_eq!(client.recv(SOON), Err(Ended::Fin));
}

#[test]
fn c015_a_reset_connection_leaves_nothing_behind() {
    let bench = Setup::default().default_log().start(|server| server.script(hold));
    let udp = UdpClient::connect(bench.proxy.address());
    udp.ask(&query(1, "before.test", 1)).unwrap();
    let (baseline, lines) = (bench.proxy.open_files(), bench.proxy.log_lines());
    let client = TcpClient::connect(bench.proxy.address());
    for id in 0..100 {
        client.send(&query(id, "held.test", 1));
    }
    assert!(arrives(&bench.server, "held.test", 100));
    assert_eq!(bench.proxy.open_files(), baseline + 1);
    client.reset();
    release(&bench.server, "held.test");
    let deadline = Instant::now() + SOON;
    while bench.proxy.open_files() > baseline && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(bench.proxy.open_files(), baseline);
    assert_answers(&udp.ask(&query(2, "after.test", 1)).unwrap(), 2, "after.test");
    assert_eq!(bench.proxy.log_lines(), lines, "{}", bench.proxy.log());
    // the upstream connection is no part of the client's
    assert_eq!(bench.server.journal().accepted(), 1);
}

#[test]
fn c016_impossible_lengths_end_the_connection() {
    let bench = Bench::start();
    let mut other = TcpClient::connect(bench.proxy.address());
    other.ask(&query(1, "other.test", 1)).unwrap();
    let cpu = bench.proxy.cpu_time();
    for length in 0..12_u16 {
        let mut client = TcpClient::connect(bench.proxy.address());
        let body = vec![0; usize::from(length)];
        let octets = [&length.to_be_bytes()[..], &body, &framed(&query(16, "behind.test", 1))].concat();
        client.send_raw(&octets);
        let ended = client.recv(SOON);
        // octets that the proxy has not read turn its FIN into a reset
        assert!(matches!(ended, Err(Ended::Fin | Ended::Rst)), "{length}: {ended:?}");
    }
    assert_eq!(bench.server.journal().messages_named("behind.test").len(), 0);
    assert_answers(&other.ask(&query(2, "other.test", 1)).unwrap(), 2, "other.test");
    thread::sleep(Duration::from_millis(500));
    assert!(bench.proxy.cpu_time() - cpu < Duration::from_millis(250));
}

#[test]
fn c017_an_idle_connection_is_closed() {
    let bench = Setup::default().listen("tcp-idle-timeout = \"1s\"").start(|server| server);
    let before = Instant::now();
    let mut unused = TcpClient::connect(bench.proxy.address());
    let mut client = TcpClient::connect(bench.proxy.address());
    thread::sleep(Duration::from_millis(500));
    let asked = Instant::now();
    client.ask(&query(17, "idle.test", 1)).unwrap();
    assert_eq!(unused.wait_for_end(SOON), Some(Ended::Fin));
    assert!(before.elapsed() >= Duration::from_secs(1));
    assert_eq!(client.wait_for_end(SOON), Some(Ended::Fin));
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&asked.elapsed()));
}

#[test]
fn c017_a_connection_with_an_answer_outstanding_is_not_idle() {
    let setup = Setup::default().listen("tcp-idle-timeout = \"300ms\"").upstream("second-try-after = \"3s\"");
    let bench = setup.start(|server| server.script(hold));
    let mut client = TcpClient::connect(bench.proxy.address());
    client.send(&query(17, "held.test", 1));
    assert!(arrives(&bench.server, "held.test", 1));
    assert_eq!(client.recv(Duration::from_millis(1500)), Ok(None));
    release(&bench.server, "held.test");
    assert_answers(&next(&mut client), 17, "held.test");
    assert_eq!(client.recv(SOON), Err(Ended::Fin));
}

#[test]
fn c018_the_connection_idle_longest_makes_room() {
    let bench = Setup::default().listen("tcp-connections = 4").start(|server| server.script(hold));
    let mut busy = TcpClient::connect(bench.proxy.address());
    busy.send(&query(1, "held.test", 1));
    assert!(arrives(&bench.server, "held.test", 1));
    let mut idle: Vec<TcpClient> = (0..3)
        .map(|id| {
            let mut client = TcpClient::connect(bench.proxy.address());
            // an answer proves that it was accepted, and when
            client.ask(&query(id, "idle.test", 1)).unwrap();
            client
        })
        .collect();
    let mut newcomer = TcpClient::connect(bench.proxy.address());
    assert_answers(&newcomer.ask(&query(2, "new.test", 1)).unwrap(), 2, "new.test");
    assert_eq!(idle.remove(0).recv(SOON), Err(Ended::Fin));
    for client in &mut idle {
        assert_answers(&client.ask(&query(3, "still.test", 1)).unwrap(), 3, "still.test");
    }
    release(&bench.server, "held.test");
    assert_answers(&next(&mut busy), 1, "held.test");
}

#[test]
fn c018_one_greedy_host_costs_another_nothing() {
    let limits = "tcp-connections = 40\ntcp-connections-per-client = 20";
    let bench = Setup::default().listen(limits).start(|server| server);
    let (proxy, greedy) = (bench.proxy.address(), "127.0.0.2:0".parse().unwrap());
    let udp = UdpClient::connect(proxy);
    let mut modest = TcpClient::connect(proxy);
    modest.ask(&query(1, "modest.test", 1)).unwrap();
    let mut many: Vec<TcpClient> = (0..70)
        .map(|_| {
            let client = TcpClient::connect_from(greedy, proxy);
            client.send(&query(1, "greedy.test", 1));
            client
        })
        .collect();
    let asked = Instant::now();
    assert_answers(&TcpClient::connect(proxy).ask(&query(2, "second.test", 1)).unwrap(), 2, "second.test");
    assert_answers(&udp.ask(&query(3, "udp.test", 1)).unwrap(), 3, "udp.test");
    assert!(asked.elapsed() < Duration::from_secs(1));
    // what the greedy host has too many of was its own
    assert_answers(&modest.ask(&query(4, "modest.test", 1)).unwrap(), 4, "modest.test");
    let ended = many.iter_mut().filter_map(|client| client.wait_for_end(Duration::from_millis(20))).count();
    assert_eq!(70 - ended, 20);
}

#[test]
fn c021_tells_the_idle_time_to_clients_that_ask() {
    let bench = Setup::default().listen("tcp-idle-timeout = \"1s\"").start(|server| server);
    let with_keepalive = MessageBuilder::query(21, "keep.test", 1).opt(Opt::new(1232).option(11, &[])).build();
    let mut client = TcpClient::connect(bench.proxy.address());
    let asked = Instant::now();
    let answer = client.ask(&with_keepalive).unwrap();
    assert_eq!(inspect::option(&answer, 11), Some(10_u16.to_be_bytes().to_vec()));
    assert_eq!(client.wait_for_end(SOON), Some(Ended::Fin));
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&asked.elapsed()));

    let mut plain = TcpClient::connect(bench.proxy.address());
    let without_opt = plain.ask(&query(22, "keep.test", 1)).unwrap();
    assert_eq!(inspect::opt(&without_opt), None);
    // over UDP there is no session to keep
    let udp = UdpClient::connect(bench.proxy.address()).ask(&with_keepalive).unwrap();
    assert_eq!(inspect::option(&udp, 11), None);
    assert!(inspect::opt(&udp).is_some());
    assert_eq!(messages(&bench.server), 3);
    assert!(bench.server.journal().messages.iter().all(|message| inspect::option(&message.octets, 11).is_none()));
}
