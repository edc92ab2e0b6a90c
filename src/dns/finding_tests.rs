#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::net::IpAddr;

use super::{Host, Said, Useless, addresses, designated, expanded, host_text, hosts, question, rtype};
use crate::dns::name::Domain;

fn wire(name: &str) -> Vec<u8> {
    Domain::parse(name).unwrap().wire().to_vec()
}

/// A record of class IN.
fn record(owner: &[u8], rtype: u16, ttl: u32, rdata: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rdata.len()).unwrap();
    let fixed = [&rtype.to_be_bytes()[..], &[0, 1], &ttl.to_be_bytes(), &length.to_be_bytes()].concat();
    [owner, &fixed, rdata].concat()
}

/// An answer to a question for this name and type.
fn answer(name: &str, qtype: u16, rcode: u8, answers: &[Vec<u8>], additional: &[Vec<u8>]) -> Vec<u8> {
    let query = question(&wire(name), qtype);
    let mut message = query[..query.len() - 11].to_vec();
    (message[2], message[3]) = (0x81, 0x80 | rcode);
    message[7] = u8::try_from(answers.len()).unwrap();
    message[11] = u8::try_from(additional.len()).unwrap();
    answers.iter().chain(additional).for_each(|record| message.extend(record));
    message
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn addresses_are_those_of_the_name_or_of_what_its_aliases_lead_to() {
    let (a, b) = (wire("a.test"), wire("b.test"));
    // a pointer to the question, as resolvers write the owner
    let alias = record(&[0xc0, 12], rtype::CNAME, 40, &b);
    let stranger = record(&wire("c.test"), rtype::A, 1, &[192, 0, 2, 9]);
    let of_b = record(&wire("B.TEST"), rtype::A, 60, &[192, 0, 2, 1]);
    let said = addresses(&answer("a.test", rtype::A, 0, &[stranger, alias, of_b.clone()], &[]), rtype::A);
    assert_eq!(said, Ok(Said { what: vec![ip("192.0.2.1")], ttl: 40 }));
    let none = addresses(&answer("a.test", rtype::A, 0, &[of_b], &[]), rtype::A);
    assert_eq!(none, Err(Useless::Nothing("there is no such record")));
    let six = record(&a, rtype::AAAA, 5, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let said = addresses(&answer("a.test", rtype::AAAA, 0, &[six], &[]), rtype::AAAA).unwrap();
    assert_eq!(said.what, [ip("2001:db8::1")]);
}

#[test]
fn aliases_that_go_round_and_answers_without_measure_come_to_an_end() {
    let (a, b) = (wire("a.test"), wire("b.test"));
    let round = [record(&a, rtype::CNAME, 9, &b), record(&b, rtype::CNAME, 9, &a)];
    assert!(addresses(&answer("a.test", rtype::A, 0, &round, &[]), rtype::A).is_err());
    let many: Vec<Vec<u8>> = (1..200).map(|last| record(&a, rtype::A, 9, &[192, 0, 2, last])).collect();
    assert_eq!(addresses(&answer("a.test", rtype::A, 0, &many, &[]), rtype::A).unwrap().what.len(), super::MOST);
}

#[test]
fn a_resolver_that_cannot_say_is_told_from_one_that_says_there_is_nothing() {
    let said = |rcode| addresses(&answer("a.test", rtype::A, rcode, &[], &[]), rtype::A);
    assert_eq!(said(3), Err(Useless::Nothing("there is no such name")));
    assert!(matches!(said(2), Err(Useless::Failed(why)) if why.contains("SERVFAIL")));
    assert!(matches!(said(5), Err(Useless::Failed(why)) if why.contains("REFUSED")));
    assert!(matches!(addresses(&[0; 5], rtype::A), Err(Useless::Failed(_))));
    let nowhere = record(&wire("a.test"), rtype::A, 9, &[0, 0, 0, 0]);
    assert!(addresses(&answer("a.test", rtype::A, 0, &[nowhere], &[]), rtype::A).is_err());
}

/// RDATA of SRV.
fn srv(priority: u8, weight: u8, port: u16, target: &[u8]) -> Vec<u8> {
    [&[0, priority, 0, weight][..], &port.to_be_bytes(), target].concat()
}

#[test]
fn hosts_of_a_service_come_in_their_order_with_the_addresses_that_came_along() {
    let owner = wire("_dot._tcp.a.test");
    let (one, two) = (wire("one.a.test"), wire("two.a.test"));
    let answers = [
        record(&owner, rtype::SRV, 30, &srv(20, 0, 853, &two)),
        record(&owner, rtype::SRV, 30, &srv(10, 0, 8853, &two)),
        record(&owner, rtype::SRV, 20, &srv(10, 9, 853, &one)),
    ];
    let came_along = [record(&one, rtype::A, 9, &[192, 0, 2, 1])];
    let draw = RandomState::new();
    let said = hosts(&answer("_dot._tcp.a.test", rtype::SRV, 0, &answers, &came_along), &draw).unwrap();
    let places: Vec<(String, u16, usize)> =
        said.what.iter().map(|host| (host_text(&host.name).unwrap(), host.port, host.addresses.len())).collect();
    let expected = [("one.a.test", 853, 1), ("two.a.test", 8853, 0), ("two.a.test", 853, 0)];
    assert_eq!(places, expected.map(|(name, port, count)| (name.to_owned(), port, count)));
    assert_eq!(said.ttl, 20);
    let not_offered = record(&owner, rtype::SRV, 30, &srv(0, 0, 0, &[0]));
    assert!(hosts(&answer("_dot._tcp.a.test", rtype::SRV, 0, &[not_offered], &[]), &draw).is_err());
}

#[test]
fn equal_hosts_come_first_as_often_as_their_weights_say_and_each_draw_stays() {
    let owner = wire("_dot._tcp.a.test");
    let weights = [("one.a.test", 60), ("two.a.test", 30), ("three.a.test", 10), ("four.a.test", 0)];
    let answers = weights.map(|(name, weight)| record(&owner, rtype::SRV, 30, &srv(10, weight, 853, &wire(name))));
    let said = answer("_dot._tcp.a.test", rtype::SRV, 0, &answers, &[]);
    let mut first = [0; 4];
    for number in 0..10_000_u64 {
        let draw = Drawn(number);
        let order = hosts(&said, &draw).unwrap().what;
        assert_eq!(hosts(&said, &draw).unwrap().what, order);
        assert_eq!(
            host_text(&order[3].name).unwrap(),
            "four.a.test",
            "nobody wants to be asked there as long as others can"
        );
        first[weights.iter().position(|(name, _)| wire(name) == order[0].name).unwrap()] += 1;
    }
    for (count, weight) in first.into_iter().zip([6000_u32, 3000, 1000]) {
        assert!(weight.abs_diff(count) < 250, "{first:?}");
    }
}

#[test]
fn halvings_are_logarithms() {
    for (number, halved) in
        [(u64::MAX, 0.0), (1 << 63, 1.0), (3 << 62, 64.0 - 63.584_962_5), (1 << 10, 54.0), (1, 64.0), (0, 64.0)]
    {
        let found = f64::from(u32::try_from(super::halvings(number)).unwrap()) / f64::from(1 << super::FRACTION);
        assert!((found - halved).abs() < 1e-6, "{number}: {found}");
    }
}

/// A draw that the test can repeat.
struct Drawn(u64);

impl BuildHasher for Drawn {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// RDATA of SVCB.
fn svcb(priority: u8, target: &[u8], params: &[(u16, &[u8])]) -> Vec<u8> {
    let param = |(key, value): &(u16, &[u8])| {
        [&key.to_be_bytes()[..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
    };
    [&[0, priority][..], target, &params.iter().flat_map(param).collect::<Vec<u8>>()].concat()
}

fn designation(records: &[Vec<u8>]) -> Result<Said<Host>, Useless> {
    let owner = wire("_dns.resolver.arpa");
    let records: Vec<Vec<u8>> = records.iter().map(|rdata| record(&owner, rtype::SVCB, 60, rdata)).collect();
    designated(&answer("_dns.resolver.arpa", rtype::SVCB, 0, &records, &[]), 853)
}

#[test]
fn only_resolvers_on_tls_are_taken_from_a_designation() {
    let dns = wire("dns.test");
    let said = designation(&[
        svcb(2, &dns, &[(1, b"\x02h2\x03dot"), (3, &[0x22, 0x95]), (4, &[192, 0, 2, 1, 192, 0, 2, 2])]),
        svcb(1, &dns, &[(1, b"\x03dot")]),
        svcb(1, &dns, &[(1, b"\x02h2"), (7, b"/dns-query{?dns}")]),
    ]);
    let said = said.unwrap();
    let places: Vec<(u16, usize)> = said.what.iter().map(|host| (host.port, host.addresses.len())).collect();
    assert_eq!(places, [(853, 0), (8853, 2)]);
    for bad in [
        svcb(0, &dns, &[(1, b"\x03dot")]),
        svcb(1, &[0], &[(1, b"\x03dot")]),
        svcb(1, &wire("resolver.arpa"), &[(1, b"\x03dot")]),
        svcb(1, &dns, &[(0, &[0, 9]), (1, b"\x03dot"), (9, b"x")]),
        svcb(1, &dns, &[(1, b"\x09dot")]),
        svcb(1, &dns, &[(3, &[3, 85]), (1, b"\x03dot")]),
        svcb(1, &dns, &[(1, b"\x03dot"), (3, &[3])]),
        svcb(1, &dns, &[]),
        [&[0, 1][..], &dns, &[0]].concat(),
    ] {
        assert!(designation(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
    }
    assert!(designation(&[svcb(1, &dns, &[(0, &[0, 1, 0, 3]), (1, b"\x03dot"), (3, &[3, 85])])]).is_ok());
}

#[test]
fn pointers_lead_backward_or_nowhere() {
    let message = [&[0; 12][..], b"\x01a\x00", &[1, b'b', 0xc0, 12], &[0xc0, 19], &[0xc0, 23]].concat();
    assert_eq!(expanded(&message, 15), Some(b"\x01b\x01a\0".to_vec()));
    assert_eq!(expanded(&message, 19), None, "to itself");
    assert_eq!(expanded(&message, 21), None, "forward");
    assert_eq!(expanded(&message, 99), None);
}

#[test]
fn only_what_could_be_a_host_has_a_text() {
    assert_eq!(host_text(&wire("A.Test")), Some("a.test".to_owned()));
    for bad in [&b"\0"[..], b"\x03a b\0", b"\x01\n\x04test\0"] {
        assert_eq!(host_text(bad), None);
    }
}
