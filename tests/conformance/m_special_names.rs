//! Theme M: names that stay here, and names that only look like them.

use std::time::{Duration, Instant};

use testkit::message::{MessageBuilder, flag};
use testkit::{Opt, Section, TcpClient, UdpClient, inspect, query};

use super::bench::Bench;
use super::setup::Setup;

const A: u16 = 1;
const NS: u16 = 2;
const SOA: u16 = 6;
const DS: u16 = 43;
const DNSKEY: u16 = 48;
const SVCB: u16 = 64;
const NXDOMAIN: u16 = 3;

/// Whether the server gets to see this query; the reply is given as well, from UDP, that over TCP being the same.
fn is_relayed(bench: &Bench, asked: &[u8]) -> (bool, Vec<u8>) {
    let before = bench.server.journal().messages.len();
    let begun = Instant::now();
    let answer = UdpClient::connect(bench.proxy.address()).ask(asked).expect("a reply");
    let took = begun.elapsed();
    let relayed = bench.server.journal().messages.len() > before;
    assert!(relayed || took < Duration::from_millis(500), "a local answer took {took:?}");
    let over_tcp = TcpClient::connect(bench.proxy.address()).ask(asked).expect("a reply");
    assert_eq!(over_tcp, answer);
    assert_eq!(inspect::question_octets(&answer), inspect::question_octets(asked));
    (relayed, answer)
}

/// A local negative answer: this code, nothing but the SOA of the zone, and no claim to be signed.
fn is_local(bench: &Bench, asked: &[u8], rcode: u16, zone: &str) {
    let (relayed, answer) = is_relayed(bench, asked);
    let what = inspect::question_name(asked);
    assert!(!relayed, "{what} was relayed");
    assert_eq!(inspect::rcode(&answer), rcode, "{what}");
    assert_eq!(inspect::flags(&answer) & (flag::AD | flag::TC | flag::QR), flag::QR);
    assert!(inspect::records(&answer, Section::Answer).is_empty());
    let authority = inspect::records(&answer, Section::Authority);
    assert_eq!(authority.len(), 1, "one SOA and no invented signature");
    assert_eq!(authority[0].rtype, SOA);
    assert!(inspect::name_text(&authority[0].name).eq_ignore_ascii_case(zone), "{what}");
    assert!(authority[0].ttl > 0);
    assert_eq!(inspect::opt(&answer).is_some(), inspect::opt(asked).is_some());
}

fn with_do(name: &str, qtype: u16) -> Vec<u8> {
    MessageBuilder::query(3, name, qtype).opt(Opt::new(1232).flags(0x8000)).build()
}

#[test]
fn c115_zones_are_matched_by_whole_labels_in_any_case() {
    let bench = Bench::start();
    for qtype in [A, SOA, SVCB, 255, 65_280] {
        is_local(&bench, &query(1, "HoMe.aRpA", qtype), 0, "home.arpa");
        is_local(&bench, &query(1, "a.b.HoMe.aRpA", qtype), NXDOMAIN, "home.arpa");
        is_local(&bench, &query(1, "_dns.ReSoLvEr.ArPa", qtype), 0, "resolver.arpa");
    }
    for name in ["myhome.arpa", "home.arpa.example", "arpa", "home", "resolver.arpa.example", "myresolver.arpa"] {
        assert!(is_relayed(&bench, &query(1, name, A)).0, "{name}");
    }
    // of class IN only
    let chaos = MessageBuilder::query(1, "x.home.arpa", A).qclass(3).build();
    assert!(is_relayed(&bench, &chaos).0);
}

#[test]
fn c116_local_answers_carry_an_soa_and_no_signature() {
    let bench = Bench::start();
    is_local(&bench, &query(1, "x.home.arpa", A), NXDOMAIN, "home.arpa");
    // a client that asks for signatures and validated data gets neither
    let asked = MessageBuilder::query(3, "x.home.arpa", A).ad(true).cd(true).opt(Opt::new(1232).flags(0x8000)).build();
    is_local(&bench, &asked, NXDOMAIN, "home.arpa");
    is_local(&bench, &with_do("_dns.resolver.arpa", SVCB), 0, "resolver.arpa");
    assert_eq!(bench.server.journal().accepted(), 0, "a connection was opened for local answers");
}

#[test]
fn c116_each_zone_can_be_forwarded() {
    let names = ["x.home.arpa", "_dns.resolver.arpa"];
    for (key, forwarded) in [("home-arpa", 0), ("resolver-arpa", 1)] {
        let bench = Bench::with(|server| server, &format!("[special-names]\n{key} = \"forward\"\n"));
        for (index, name) in names.iter().enumerate() {
            assert_eq!(is_relayed(&bench, &query(1, name, A)).0, index == forwarded, "{key}: {name}");
        }
    }
}

/// The half of statement 117 that holds without a cache: a pure relay serves no zones of its own.
#[test]
fn c117_a_pure_relay_has_no_other_zones() {
    let bench = Bench::start();
    for name in ["a.test", "invalid", "localhost", "a.localhost", "1.1.168.192.in-addr.arpa", "10.in-addr.arpa"] {
        assert!(is_relayed(&bench, &query(1, name, A)).0, "{name}");
    }
}

#[test]
fn c118_resolver_arpa_is_answered_without_data() {
    let bench = Bench::start();
    for (name, qtype) in
        [("_dns.resolver.arpa", SVCB), ("_dns.resolver.arpa", A), ("resolver.arpa", A), ("resolver.arpa", DS)]
    {
        is_local(&bench, &query(1, name, qtype), 0, "resolver.arpa");
        is_local(&bench, &with_do(name, qtype), 0, "resolver.arpa");
    }
    assert_eq!(bench.server.journal().accepted(), 0);
}

#[test]
fn c119_home_arpa_stays_but_for_the_proof_that_it_is_unsigned() {
    let bench = Bench::start();
    is_local(&bench, &query(1, "x.home.arpa", A), NXDOMAIN, "home.arpa");
    is_local(&bench, &query(1, "home.arpa", A), 0, "home.arpa");
    is_local(&bench, &query(1, "home.arpa", DS), 0, "home.arpa");
    is_local(&bench, &with_do("home.arpa", DNSKEY), 0, "home.arpa");
    is_local(&bench, &with_do("x.home.arpa", DS), NXDOMAIN, "home.arpa");
    assert!(is_relayed(&bench, &with_do("home.arpa", DS)).0);
    assert!(is_relayed(&bench, &with_do("HOME.arpa", DS)).0);
}

#[test]
fn c120_onion_stays_where_answers_are_kept() {
    let bench = Setup::default().cache("").start(|server| server);
    for name in ["abc.onion", "A.b.OniON", "onion"] {
        for qtype in [A, 28, 255] {
            is_local(&bench, &query(1, name, qtype), NXDOMAIN, "onion");
        }
    }
    assert!(is_relayed(&bench, &query(1, "onion.example", A)).0);
    let open = Setup::default().cache("").extra("[special-names]\nonion = \"forward\"\n").start(|server| server);
    assert!(is_relayed(&open, &query(1, "abc.onion", A)).0);
    assert!(is_relayed(&Bench::start(), &query(1, "abc.onion", A)).0, "a pure relay");
}

#[test]
fn c121_alt_and_the_root_are_names_like_others() {
    let bench = Bench::start();
    let others =
        [("foo.alt", A), ("alt", A), (".", NS), (".", DNSKEY), ("a.root-servers.net", A), ("root-servers.net", NS)];
    for (name, qtype) in others {
        assert!(is_relayed(&bench, &query(1, name, qtype)).0, "{name}");
        assert!(is_relayed(&bench, &with_do(name, qtype)).0, "{name}");
    }
}
