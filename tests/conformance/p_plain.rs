//! Theme P: plain DNS, where a route names it.

use std::time::{Duration, Instant};

use testkit::plain_server::{PlainServer, Seen, Way};
use testkit::record::rtype;
use testkit::{DotServer, Pki, Proxy, UdpClient, answer_to, default_answer, inspect, query};

use super::resolvers::{LONG, SERVFAIL, config_of, named, rcode_of, start};

/// A proxy that asks these plain servers for `corp.example`, and a DoT server that must never be asked for it.
struct Branch {
    upstream: DotServer,
    proxy: Proxy,
}

impl Branch {
    fn new(servers: &[&PlainServer], lines: &str) -> Branch {
        let pki = Pki::new();
        let upstream = DotServer::start(pki.server(&["upstream.test"]));
        let plain: Vec<String> = servers.iter().map(|server| format!("\"plain:{}\"", server.address())).collect();
        let route = format!("[[route]]\ndomains = [\"corp.example\"]\nservers = [{}]\n", plain.join(", "));
        let proxy = start(&(config_of(&[named(&upstream)], Some(pki.ca_file()), lines) + &route));
        Branch { upstream, proxy }
    }

    fn ask(&self, number: u16, name: &str) -> Vec<u8> {
        UdpClient::connect(self.proxy.address()).ask(&query(number, name, rtype::A)).expect("an answer")
    }
}

#[test]
fn a_plain_server_is_asked_in_datagrams_each_from_a_port_of_its_own() {
    let plain = PlainServer::start(|seen, _| vec![default_answer(&seen.query)]);
    let branch = Branch::new(&[&plain], "");
    for number in 0..20 {
        let name = format!("n{number}.corp.example");
        let answer = branch.ask(number, &name);
        assert_eq!((inspect::id(&answer), inspect::rcode(&answer)), (number, 0));
        assert_eq!(inspect::question_name(&answer), inspect::question_name(&query(0, &name, rtype::A)));
    }
    let seen = plain.seen();
    assert!(seen.iter().all(|one| one.way == Way::Udp));
    let ports: std::collections::BTreeSet<u16> = seen.iter().map(|one| one.from.port()).collect();
    let ids: std::collections::BTreeSet<u16> = seen.iter().map(|one| inspect::id(&one.query)).collect();
    assert!(ports.len() > 15 && ids.len() > 15, "{} ports, {} ids", ports.len(), ids.len());
    assert_eq!(branch.upstream.journal().accepted(), 0);
}

/// Some servers cut within a record, or count what they have left out (RFC 2181 §9).
#[test]
fn what_was_cut_is_asked_again_over_tcp() {
    let cut = |seen: &Seen| {
        let whole = || answer_to(&seen.query).tc(true).a([192, 0, 2, 7], 60).build();
        match inspect::question_name(&seen.query).trim_end_matches('.') {
            "within.corp.example" => whole()[..whole().len() - 3].to_vec(),
            "counted.corp.example" => {
                whole().into_iter().enumerate().map(|(at, octet)| if at == 7 { 3 } else { octet }).collect()
            }
            _ => answer_to(&seen.query).tc(true).build(),
        }
    };
    for name in ["large", "within", "counted"] {
        let plain = PlainServer::start(move |seen: &Seen, _| match seen.way {
            Way::Udp => vec![cut(seen)],
            Way::Tcp => vec![default_answer(&seen.query)],
        });
        let branch = Branch::new(&[&plain], "");
        let answer = branch.ask(7, &format!("{name}.corp.example"));
        assert_eq!((inspect::rcode(&answer), inspect::a_records(&answer).len()), (0, 1), "{name}");
        assert!(inspect::flags(&answer) & 0x0200 == 0, "TC is set");
        assert_eq!(plain.seen().iter().map(|one| one.way).collect::<Vec<_>>(), [Way::Udp, Way::Tcp]);
    }
}

/// A part, marked as such, is more than nothing, and the server no worse for it.
#[test]
fn where_tcp_brings_nothing_the_cut_answer_is_given() {
    let plain = PlainServer::start(|seen, _| match seen.way {
        Way::Udp => vec![answer_to(&seen.query).tc(true).a([192, 0, 2, 1], 60).build()],
        Way::Tcp => Vec::new(),
    });
    let branch = Branch::new(&[&plain], "");
    for number in 0..3 {
        let answer = branch.ask(number, &format!("n{number}.corp.example"));
        assert_eq!((inspect::rcode(&answer), inspect::a_records(&answer)), (0, vec![[192, 0, 2, 1]]));
        assert!(inspect::flags(&answer) & 0x0200 != 0, "TC is not set");
    }
}

#[test]
fn a_lost_datagram_is_sent_again_before_the_client_would() {
    let lossy = |seen: &Seen, before| if before == 0 { Vec::new() } else { vec![default_answer(&seen.query)] };
    let plain = PlainServer::start(lossy);
    let branch = Branch::new(&[&plain], "");
    let begin = Instant::now();
    assert_eq!(inspect::rcode(&branch.ask(1, "lost.corp.example")), 0);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(plain.seen().len(), 2);
}

#[test]
fn the_other_plain_server_answers_for_a_dead_one() {
    let dead = PlainServer::start(|_, _| Vec::new());
    let plain = PlainServer::start(|seen, _| vec![default_answer(&seen.query)]);
    let branch = Branch::new(&[&dead, &plain], "");
    for number in 0..5 {
        let begin = Instant::now();
        assert_eq!(inspect::rcode(&branch.ask(number, &format!("n{number}.corp.example"))), 0);
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
}

#[test]
fn datagrams_that_answer_something_else_are_not_taken() {
    let script = |seen: &Seen, _| {
        let mut other_id = default_answer(&seen.query);
        other_id[1] ^= 1;
        let other_name = default_answer(&query(inspect::id(&seen.query), "evil.corp.example", rtype::A));
        vec![other_id, other_name, vec![0; 3], default_answer(&seen.query)]
    };
    let plain = PlainServer::start(script);
    let branch = Branch::new(&[&plain], "");
    let answer = branch.ask(9, "good.corp.example");
    assert_eq!(inspect::question_name(&answer), inspect::question_name(&query(0, "good.corp.example", rtype::A)));
    assert_eq!(inspect::a_records(&answer), [testkit::a_for("good.corp.example")]);
}

#[test]
fn r25_a_dead_plain_server_is_not_replaced_by_anybody() {
    let plain = PlainServer::start(|_, _| Vec::new());
    let lines = "deadline = \"1500ms\"\nconnect-timeout = \"500ms\"\nsecond-try-after = \"500ms\"";
    let branch = Branch::new(&[&plain], lines);
    assert_eq!(rcode_of(&branch.proxy, &query(1, "a.corp.example", rtype::A)), SERVFAIL);
    assert!(plain.seen().len() <= 3, "{} copies", plain.seen().len());
    assert_eq!(rcode_of(&branch.proxy, &query(2, "a.example", rtype::A)), 0);
    assert!(branch.upstream.wait_for(|journal| journal.messages.len() == 1, LONG));
    assert_eq!(branch.upstream.journal().messages[0].name.trim_end_matches('.'), "a.example");
}
