//! Theme P: which server of a group is asked, and when a second one.

use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{
    Act, DotServer, How, Journal, Pki, Proxy, Received, UdpClient, answer_to, default_answer, inspect, query,
};

use super::resolvers::{LONG, proxy_before};
use crate::life::control::report;

/// A CA, and servers that answer each after a time of its own.
fn servers(delays: &[u64]) -> (Pki, Vec<DotServer>) {
    let pki = Pki::new();
    let server = |&delay: &u64| {
        let server = DotServer::start(pki.server(&["upstream.test"]));
        server.set_script(move |received| vec![later(received, delay)]);
        server
    };
    let servers = delays.iter().map(server).collect();
    (pki, servers)
}

fn later(received: &Received, ms: u64) -> Act {
    Act::AnswerAfter(Duration::from_millis(ms), default_answer(&received.message))
}

fn before(pki: &Pki, servers: &[DotServer], lines: &str) -> Proxy {
    proxy_before(&servers.iter().collect::<Vec<_>>(), pki.ca_file(), lines)
}

/// Asks so many names, one after the other, and gives the longest time that an answer took.
fn ask(proxy: &Proxy, prefix: &str, count: u16) -> Duration {
    let client = UdpClient::connect(proxy.address());
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        let begin = Instant::now();
        let answer = client.ask(&query(number, &format!("{prefix}{number}.test"), 1)).expect("an answer");
        assert_eq!(inspect::rcode(&answer), 0);
        slowest = slowest.max(begin.elapsed());
    }
    slowest
}

fn messages(servers: &[DotServer]) -> Vec<usize> {
    servers.iter().map(|server| server.with_journal(|journal| journal.messages.len())).collect()
}

/// Whether each server gets so many messages with such names, and no more: a copy may come a moment after the answer to
/// another one.
fn each_gets(servers: &[DotServer], count: usize, counts: impl Fn(&str) -> bool) -> bool {
    let got = |journal: &Journal| journal.messages.iter().filter(|message| counts(&message.name)).count();
    servers.iter().all(|server| server.wait_for(|journal| got(journal) >= count, LONG))
        && servers.iter().all(|server| server.with_journal(got) == count)
}

/// A total of all servers, once what connections have done is told, a few times a second.
fn total(proxy: &Proxy, counter: &str, wanted: impl Fn(u64) -> bool) -> u64 {
    let end = Instant::now() + LONG;
    loop {
        let said = report(proxy);
        let servers = said["upstream"].as_array().expect("servers");
        let sum = servers.iter().filter_map(|server: &Value| server["counters"][counter].as_u64()).sum();
        if wanted(sum) || Instant::now() > end {
            return sum;
        }
    }
}

#[test]
fn in_order_only_the_first_server_is_asked() {
    let (pki, servers) = servers(&[1, 0]);
    let proxy = before(&pki, &servers, "");
    ask(&proxy, "n", 40);
    assert_eq!(messages(&servers)[0], 40);
    assert_eq!(total(&proxy, "queries", |sum| sum >= 40), messages(&servers).iter().sum::<usize>() as u64);
    assert_eq!(total(&proxy, "handshakes_full", |_| true), servers[1].journal().established() as u64 + 1);
}

#[test]
fn spread_gives_every_server_its_turn() {
    let (pki, servers) = servers(&[0, 0, 0]);
    let proxy = before(&pki, &servers, "policy = \"spread\"\nhedge-share = 0");
    ask(&proxy, "n", 60);
    assert_eq!(messages(&servers), [20, 20, 20]);
}

#[test]
fn fastest_finds_the_server_that_answers_soonest() {
    let (pki, servers) = servers(&[150, 5, 90]);
    let proxy = before(&pki, &servers, "policy = \"fastest\"\nhedge-share = 0");
    ask(&proxy, "n", 40);
    // each was tried once, and the one in the middle ever after
    assert_eq!(messages(&servers), [1, 38, 1]);
}

#[test]
fn in_parallel_all_are_asked_and_the_first_answer_counts() {
    let (pki, servers) = servers(&[0, 300, 300]);
    // the first is quick, and now and then says nothing at all
    servers[0].set_script(|received| {
        let is_lost = received.name.starts_with("lost");
        if is_lost { Vec::new() } else { vec![Act::Default] }
    });
    let proxy = before(&pki, &servers, "policy = \"parallel\"");
    assert!(ask(&proxy, "warm", 1) < Duration::from_millis(1000));
    // a copy for which no connection stood ready is withdrawn once there is an answer: from now on there are connections
    assert!(servers.iter().all(|server| server.wait_for(|journal| journal.established() == 1, LONG)));
    let quick = ask(&proxy, "n", 40);
    assert!(quick < Duration::from_millis(250), "{quick:?}\n{}", proxy.log());
    let lost = ask(&proxy, "lost", 4);
    assert!(lost >= Duration::from_millis(300) && lost < Duration::from_millis(700), "{lost:?}\n{}", proxy.log());
    assert!(each_gets(&servers, 44, |name| !name.starts_with("warm")), "{:?}", messages(&servers));
    let sent = messages(&servers).iter().sum::<usize>() as u64;
    assert_eq!(total(&proxy, "queries", |sum| sum >= sent), sent);
    assert_eq!((total(&proxy, "hedges", |_| true), total(&proxy, "second_opinions", |_| true)), (0, 0));
}

#[test]
fn in_parallel_a_failure_waits_for_who_can_answer() {
    let (pki, servers) = servers(&[0, 0, 100]);
    for (server, rcode) in servers.iter().zip([2, 5]) {
        server.set_script(move |received| vec![Act::Answer(answer_to(&received.message).rcode(rcode).build())]);
    }
    let proxy = before(&pki, &servers, "policy = \"parallel\"");
    // each is answered well, by the one that takes longest
    assert!(ask(&proxy, "n", 5) >= Duration::from_millis(100));
    servers[2].set_script(|received| vec![Act::Answer(answer_to(&received.message).rcode(2).build())]);
    let answer = UdpClient::connect(proxy.address()).ask(&query(7, "nobody.test", 1)).expect("an answer");
    assert_ne!(inspect::rcode(&answer), 0);
    assert!(each_gets(&servers, 6, |_| true), "{:?}", messages(&servers));
}

#[test]
fn a_late_answer_is_had_from_another_server_within_the_share() {
    let (pki, servers) = servers(&[0, 0]);
    // one name in twenty is slow at the first server alone
    servers[0].set_script(|received| {
        let slow = received.name.starts_with("n") && received.name[1..].split('.').next() == Some("119");
        vec![later(received, if slow { 3000 } else { 2 })]
    });
    let proxy = before(&pki, &servers, "");
    let slowest = ask(&proxy, "n", 120);
    assert!(slowest < Duration::from_millis(1000), "{slowest:?}\n{}", proxy.log());
    let second = messages(&servers)[1];
    assert!((1..=6).contains(&second), "{second} of 120 were asked twice");
    let hedges = total(&proxy, "hedges", |sum| sum > 0);
    assert_eq!(hedges, second as u64);
    assert!(total(&proxy, "hedges_won", |sum| sum > 0) >= 1);
}

#[test]
fn with_a_share_of_nothing_nobody_is_asked_twice() {
    let (pki, servers) = servers(&[0, 0]);
    servers[0].set_script(|received| vec![later(received, if received.name.starts_with("n39.") { 700 } else { 2 })]);
    let proxy = before(&pki, &servers, "hedge-share = 0");
    let slowest = ask(&proxy, "n", 40);
    assert!(slowest >= Duration::from_millis(700), "{slowest:?}");
    assert_eq!(messages(&servers), [40, 0]);
}

#[test]
fn a_server_that_gives_one_answer_on_each_connection_gets_one_query_on_each() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    server.set_script(|_| vec![Act::Sleep(Duration::from_millis(20)), Act::Default, Act::CloseNotifyAndFin]);
    let proxy = proxy_before(&[&server], pki.ca_file(), "");
    ask(&proxy, "n", 4);
    assert!(proxy.wait_for_log("gives one answer on each connection", LONG), "{}", proxy.log());
    let client = UdpClient::connect(proxy.address());
    let before = server.journal().accepted();
    for number in 0..20 {
        client.send(&query(number, &format!("m{number}.test"), 1));
    }
    for _ in 0..20 {
        assert_eq!(inspect::rcode(&client.recv(LONG).expect("an answer")), 0);
    }
    let journal = server.journal();
    assert_eq!(journal.messages.iter().filter(|message| message.name.starts_with('m')).count(), 20, "asked twice");
    let mut each: Vec<usize> =
        journal.messages.iter().map(|message| message.connection).filter(|&one| one >= before).collect();
    each.dedup();
    assert!(each.len() >= 19, "{each:?}");
}

/// They wait for the end of others, and do not fail.
#[test]
fn a_burst_to_a_server_that_gives_one_answer_on_each_connection_waits_for_its_turn() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    server.set_script(|_| vec![Act::Sleep(Duration::from_millis(20)), Act::Default, Act::CloseNotifyAndFin]);
    let proxy = proxy_before(&[&server], pki.ca_file(), "connections = 4");
    ask(&proxy, "n", 4);
    assert!(proxy.wait_for_log("gives one answer on each connection", LONG), "{}", proxy.log());
    let client = UdpClient::connect(proxy.address());
    for number in 0..40 {
        client.send(&query(number, &format!("m{number}.test"), 1));
    }
    for _ in 0..40 {
        assert_eq!(inspect::rcode(&client.recv(LONG).expect("an answer")), 0, "{}", proxy.log());
    }
}

/// A server that failed is asked for a second opinion again when it is back, although the first one works.
#[test]
fn a_second_opinion_is_had_again_from_a_server_that_was_away() {
    let (pki, servers) = servers(&[0, 0]);
    servers[0].set_script(|received| match received.name.starts_with("bad") {
        true => vec![Act::Answer(answer_to(&received.message).rcode(2).build())],
        false => vec![Act::Default],
    });
    let proxy = before(&pki, &servers, "");
    let client = UdpClient::connect(proxy.address());
    let rcode = |name: String| inspect::rcode(&client.ask(&query(7, &name, 1)).expect("an answer"));
    servers[1].go_down(How::Rst);
    (0..3).for_each(|number| assert_eq!(rcode(format!("bad{number}.test")), 2));
    servers[1].restart();
    let end = Instant::now() + LONG;
    for number in 3.. {
        assert_eq!(rcode(format!("ok{number}.test")), 0);
        if rcode(format!("bad{number}.test")) == 0 {
            break;
        }
        assert!(Instant::now() < end, "{}", proxy.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// As for any other query, the end of a connection that had served is no answer.
#[test]
fn a_second_opinion_is_had_over_another_connection_when_the_first_one_merely_ends() {
    let (pki, servers) = servers(&[0, 0]);
    servers[0].set_script(|received| vec![Act::Answer(answer_to(&received.message).rcode(2).build())]);
    servers[1].set_script(|received| if received.nth == 0 { vec![Act::Default] } else { vec![Act::Rst] });
    let proxy = before(&pki, &servers, "");
    ask(&proxy, "n", 10);
}
