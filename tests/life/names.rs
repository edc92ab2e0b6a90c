//! Servers that are found by name, by service or by designation: members come and go, what fails takes nothing away, and
//! nobody is believed who does not prove who it is.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use testkit::plain_server::{PlainServer, Seen, Way};
use testkit::record::{Section, rtype};
use testkit::{DotServer, MessageBuilder, Opt, Pki, Proxy, Rr, Stage, UdpClient, answer_to, inspect, name_wire, query};

use crate::conformance::namespace::{in_namespace, run};
use crate::conformance::resolvers::{LONG, SERVFAIL, config_of, rcode_of, start};
use crate::life::control::{ask_reload, status};

/// Hosts of a service: the bench has no name for it.
const SRV: u16 = 33;
/// Service bindings, likewise.
const SVCB: u16 = 64;

/// What a bootstrap resolver knows, and how it is.
#[derive(Default)]
struct Zone {
    answers: Vec<Rr>,
    additional: Vec<Rr>,
    silent: bool,
    gone: bool,
    cut: bool,
    /// AAAA fails, as some simple servers have it.
    no_aaaa: bool,
    delay: Duration,
}

/// A bootstrap resolver whose zone may change.
struct Bootstrap {
    zone: Arc<Mutex<Zone>>,
    server: PlainServer,
}

impl Bootstrap {
    fn new(answers: Vec<Rr>) -> Bootstrap {
        let zone = Arc::new(Mutex::new(Zone { answers, ..Zone::default() }));
        let known = zone.clone();
        let server = PlainServer::start(move |seen: &Seen, _| {
            let delay = known.lock().unwrap().delay;
            thread::sleep(delay);
            let zone = known.lock().unwrap();
            if zone.silent {
                return Vec::new();
            }
            if zone.gone {
                return vec![answer_to(&seen.query).rcode(3).build()];
            }
            if zone.no_aaaa && inspect::qtype(&seen.query) == rtype::AAAA {
                return vec![answer_to(&seen.query).rcode(SERVFAIL).build()];
            }
            if zone.cut && seen.way == Way::Udp {
                return vec![answer_to(&seen.query).tc(true).build()];
            }
            let name = name_wire(&inspect::question_name(&seen.query));
            let fits = |rr: &&Rr| rr.rtype == inspect::qtype(&seen.query) && rr.name.eq_ignore_ascii_case(&name);
            let mut answer = answer_to(&seen.query);
            for rr in zone.answers.iter().filter(fits) {
                answer = answer.answer(rr);
            }
            for rr in &zone.additional {
                answer = answer.record(Section::Additional, rr);
            }
            vec![answer.build()]
        });
        Bootstrap { zone, server }
    }

    fn change(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut self.zone.lock().unwrap());
    }

    fn line(&self) -> String {
        format!("bootstrap = [\"{}\"]", self.server.address())
    }
}

/// Addresses of a pool at 127.0.0.x.
fn pool(members: &[u8], ttl: u32) -> Vec<Rr> {
    members.iter().map(|last| Rr::a("pool.test", [127, 0, 0, *last], ttl)).collect()
}

/// Servers at 127.0.0.x for each of these, all with the same port and certificate.
fn members(pki: &Pki, last: &[u8]) -> Vec<DotServer> {
    let port = loop {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let free = |last: &u8| TcpListener::bind(format!("127.0.0.{last}:{port}")).is_ok();
        if last.iter().all(free) {
            break port;
        }
    };
    let start = |last: &u8| {
        let identity = pki.server(&["pool.test"]);
        DotServer::builder().identity(identity).listen(&format!("127.0.0.{last}:{port}")).start()
    };
    last.iter().map(start).collect()
}

/// A proxy before one entry, without a sandbox, whose ports a look-up could not know.
fn before(entry: &str, pki: &Pki, lines: &str) -> Proxy {
    let entries = [format!("\"{entry}\"")];
    start(&format!("sandbox = \"off\"\n{}", config_of(&entries, Some(pki.ca_file()), lines)))
}

/// Asks until a condition holds.
fn ask_until(proxy: &Proxy, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    for number in 0.. {
        rcode_of(proxy, &query(1, &format!("n{number}.{what}.test"), rtype::A));
        if holds() {
            return;
        }
        assert!(Instant::now() < end, "{what}\n{}", proxy.log());
        thread::sleep(Duration::from_millis(20));
    }
}

fn messages(server: &DotServer) -> usize {
    server.with_journal(|journal| journal.messages.len())
}

/// A query whose reply may say why it failed.
fn with_opt(name: &str) -> Vec<u8> {
    MessageBuilder::query(1, name, rtype::A).opt(Opt::new(1232)).build()
}

/// The text of the extended error.
fn reason(reply: &[u8]) -> String {
    let data = inspect::option(reply, 15).expect("an extended error");
    String::from_utf8_lossy(&data[2..]).into_owned()
}

#[test]
fn r40_a_name_is_a_pool_that_follows_its_members() {
    let pki = Pki::new();
    let servers = members(&pki, &[2, 3, 4, 5]);
    let bootstrap = Bootstrap::new(pool(&[2, 3, 4], 5));
    let entry = format!("pool.test:{}", servers[0].address().port());
    let proxy = before(&entry, &pki, &format!("policy = \"spread\"\n{}", bootstrap.line()));
    ask_until(&proxy, "three", || servers[..3].iter().all(|server| messages(server) > 2));
    assert_eq!(messages(&servers[3]), 0);
    let said = status(&proxy).1;
    assert!(said.contains(&format!("{entry} (127.0.0.3:{})", servers[0].address().port())), "{said}");
    assert!(said.contains(&format!("{entry}: 3 addresses, last ")), "{said}");
    // one goes, one comes
    bootstrap.change(|zone| zone.answers = pool(&[3, 4, 5], 5));
    ask_until(&proxy, "joined", || messages(&servers[3]) > 2);
    let before = messages(&servers[0]);
    for number in 0..12 {
        assert_eq!(rcode_of(&proxy, &query(1, &format!("late{number}.test"), rtype::A)), 0);
    }
    assert_eq!(messages(&servers[0]), before, "a member that has left is asked no more\n{}", proxy.log());
    // those that stayed have the connections that they had
    assert!(servers[1..3].iter().all(|server| server.journal().accepted() == 1), "{}", proxy.log());
    // only the name was asked for, never what a client asked
    assert!(bootstrap.server.seen().iter().all(|seen| inspect::question_name(&seen.query).starts_with("pool.test")));
}

/// What failed takes nothing away; what did not brings what it brings.
#[test]
fn r40_a_pool_is_followed_also_where_one_kind_of_address_cannot_be_looked_up() {
    let pki = Pki::new();
    let servers = members(&pki, &[2, 3]);
    let bootstrap = Bootstrap::new(pool(&[2], 5));
    bootstrap.change(|zone| zone.no_aaaa = true);
    let entry = format!("pool.test:{}", servers[0].address().port());
    let proxy = before(&entry, &pki, &format!("policy = \"spread\"\n{}", bootstrap.line()));
    ask_until(&proxy, "first", || messages(&servers[0]) > 2);
    bootstrap.change(|zone| zone.answers = pool(&[3], 5));
    ask_until(&proxy, "second", || messages(&servers[1]) > 2);
    let before = messages(&servers[0]);
    for number in 0..6 {
        assert_eq!(rcode_of(&proxy, &query(1, &format!("late{number}.test"), rtype::A)), 0);
    }
    assert_eq!(messages(&servers[0]), before, "{}", status(&proxy).1);
}

#[test]
fn r40_a_start_without_bootstrap_succeeds_and_what_is_known_is_never_taken_away() {
    let pki = Pki::new();
    let servers = members(&pki, &[2]);
    let bootstrap = Bootstrap::new(pool(&[2], 5));
    bootstrap.change(|zone| zone.silent = true);
    let proxy = before(&format!("pool.test:{}", servers[0].address().port()), &pki, &bootstrap.line());
    let client = UdpClient::connect(proxy.address());
    let reply = client.ask(&with_opt("first.test")).expect("a reply");
    assert_eq!(inspect::rcode(&reply), SERVFAIL);
    assert!(reason(&reply).contains("no address known yet"), "{}", reason(&reply));
    // after the first look-up nobody waits
    let asked = Instant::now();
    let reply = client.ask(&with_opt("second.test")).expect("a reply");
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    assert!(
        inspect::rcode(&reply) == SERVFAIL && reason(&reply).contains("no answer within 1 s"),
        "{}",
        reason(&reply)
    );
    assert!(status(&proxy).1.contains("no resolver is known: pool.test"), "{}", status(&proxy).1);
    bootstrap.change(|zone| zone.silent = false);
    ask_until(&proxy, "back", || messages(&servers[0]) > 0);
    for change in [|zone: &mut Zone| zone.gone = true, |zone: &mut Zone| (zone.gone, zone.silent) = (false, true)] {
        let lines = proxy.log_lines();
        bootstrap.change(change);
        assert!(proxy.wait_for_log_after(lines, "the addresses known are kept", LONG * 2), "{}", proxy.log());
        assert_eq!(rcode_of(&proxy, &query(3, "kept.test", rtype::A)), 0, "{}", proxy.log());
    }
}

#[test]
fn r40_a_query_that_comes_before_the_first_look_up_ends_waits_for_it() {
    let pki = Pki::new();
    let servers = members(&pki, &[2]);
    let bootstrap = Bootstrap::new(pool(&[2], 300));
    // and the answer comes over TCP
    bootstrap.change(|zone| (zone.delay, zone.cut) = (Duration::from_millis(150), true));
    let proxy = before(&format!("pool.test:{}", servers[0].address().port()), &pki, &bootstrap.line());
    assert_eq!(rcode_of(&proxy, &query(1, "early.test", rtype::A)), 0, "{}", proxy.log());
    assert!(bootstrap.server.seen().iter().any(|seen| seen.way == Way::Tcp));
}

/// A reload that names another resolver for look-ups, and then another name.
#[test]
fn r40_a_reload_changes_where_and_what_is_looked_up() {
    let pki = Pki::new();
    let servers = members(&pki, &[2, 3, 4]);
    let (old, new) = (Bootstrap::new(pool(&[2], 3600)), Bootstrap::new(pool(&[3], 3600)));
    new.change(|zone| zone.answers.push(Rr::a("other.test", [127, 0, 0, 4], 3600)));
    let port = servers[0].address().port();
    let proxy = before(&format!("pool.test:{port}"), &pki, &old.line());
    ask_until(&proxy, "first", || messages(&servers[0]) > 0);
    let reload_with = |from: &str, to: &str| {
        let config = std::fs::read_to_string(proxy.config_file()).unwrap();
        assert!(config.contains(from), "{config}");
        std::fs::write(proxy.config_file(), config.replace(from, to)).unwrap();
        assert_eq!(ask_reload(&proxy).0, 0, "{}", proxy.log());
    };
    reload_with(&old.line(), &new.line());
    ask_until(&proxy, "second", || messages(&servers[1]) > 0);
    let at_old = old.server.seen().len();
    // the certificate is for the pool: whoever is found by another name is not believed
    reload_with(&format!("pool.test:{port}"), &format!("other.test:{port}"));
    ask_until(&proxy, "third", || servers[2].journal().accepted() > 0);
    assert_eq!((messages(&servers[2]), old.server.seen().len()), (0, at_old), "{}", proxy.log());
    reload_with(&format!("other.test:{port}"), &format!("other.test:{port}#pool.test"));
    ask_until(&proxy, "named", || messages(&servers[2]) > 0);
    assert_eq!(rcode_of(&proxy, &query(1, "end.test", rtype::A)), 0);
}

#[test]
fn r40_a_name_is_looked_up_again_when_none_of_its_servers_answers() {
    let pki = Pki::new();
    let servers = members(&pki, &[2, 3]);
    let bootstrap = Bootstrap::new(pool(&[2], 3600));
    let proxy = before(&format!("pool.test:{}", servers[0].address().port()), &pki, &bootstrap.line());
    ask_until(&proxy, "first", || messages(&servers[0]) > 0);
    bootstrap.change(|zone| zone.answers = pool(&[3], 3600));
    servers[0].go_down(testkit::How::Rst);
    servers[0].set_stage(Stage::RefuseConnections);
    ask_until(&proxy, "moved", || messages(&servers[1]) > 0);
}

#[test]
fn r40_a_name_is_looked_up_again_at_once_when_the_network_changes() {
    in_namespace(&[], || {
        let pki = Pki::new();
        let servers = members(&pki, &[2, 3]);
        let bootstrap = Bootstrap::new(pool(&[2], 3600));
        let proxy = before(&format!("pool.test:{}", servers[0].address().port()), &pki, &bootstrap.line());
        ask_until(&proxy, "first", || messages(&servers[0]) > 0);
        bootstrap.change(|zone| zone.answers = pool(&[3], 3600));
        run("ip addr add 192.0.2.9/32 dev lo");
        assert!(proxy.wait_for_log("found at 127.0.0.3:", LONG), "{}", proxy.log());
        ask_until(&proxy, "moved", || messages(&servers[1]) > 0);
    });
}

/// RDATA of SRV.
fn srv(port: u16, target: &str) -> Rr {
    Rr::new("_dot._tcp.svc.test", SRV, 5, &[&[0, 1, 0, 1][..], &port.to_be_bytes(), &name_wire(target)].concat())
}

#[test]
fn r40_the_hosts_of_a_service_are_servers_if_they_lie_within_its_domain() {
    let pki = Pki::new();
    let server = |name: &str| DotServer::start(pki.server(&[name]));
    let (one, two, evil) = (server("one.svc.test"), server("two.svc.test"), server("evil.test"));
    let of = |server: &DotServer, name| srv(server.address().port(), name);
    let answers = vec![of(&one, "one.svc.test"), of(&two, "two.svc.test"), of(&evil, "evil.test")];
    let bootstrap = Bootstrap::new(answers);
    // one comes along, the other is looked up
    bootstrap.change(|zone| {
        zone.additional = vec![Rr::a("one.svc.test", [127, 0, 0, 1], 5), Rr::a("evil.test", [127, 0, 0, 1], 5)];
        zone.answers.push(Rr::a("two.svc.test", [127, 0, 0, 1], 5));
    });
    let proxy = before("srv:_dot._tcp.svc.test", &pki, &format!("policy = \"spread\"\n{}", bootstrap.line()));
    ask_until(&proxy, "both", || messages(&one) > 2 && messages(&two) > 2);
    assert_eq!(evil.journal().accepted(), 0, "{}", proxy.log());
    assert!(
        proxy.log().contains("left out: evil.test, which is not within the domain of the service"),
        "{}",
        proxy.log()
    );
}

#[test]
fn r40_a_found_place_that_is_our_own_listener_is_named_and_not_used() {
    let pki = Pki::new();
    let bootstrap = Bootstrap::new(Vec::new());
    let proxy = before("srv:_dot._tcp.svc.test", &pki, &bootstrap.line());
    let own = proxy.address();
    bootstrap.change(|zone| {
        zone.answers = vec![srv(own.port(), "one.svc.test")];
        zone.additional = vec![Rr::a("one.svc.test", [127, 0, 0, 1], 5)];
    });
    let line = format!("srv:_dot._tcp.svc.test: {own} is not used: it is dot-proxy's own listener");
    assert!(proxy.wait_for_log(&line, LONG * 2), "{}", proxy.log());
    // the log tells of it before the workers hear of it
    let (end, mut number) = (Instant::now() + LONG, 0);
    ask_until(&proxy, "told", || {
        number += 1;
        let reply = UdpClient::connect(own).ask(&with_opt(&format!("n{number}.test"))).expect("a reply");
        assert_eq!(inspect::rcode(&reply), SERVFAIL);
        let why = reason(&reply);
        let is_told = why.contains("none of its addresses can be used");
        let is_early = why.contains("no address known yet") && Instant::now() < end;
        assert!(is_told || is_early, "{why}\n{}", proxy.log());
        is_told
    });
}

#[test]
fn r40_a_port_that_only_a_look_up_tells_is_out_of_reach_and_said_to_be() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["one.svc.test"]));
    let bootstrap = Bootstrap::new(vec![srv(server.address().port(), "one.svc.test")]);
    bootstrap.change(|zone| zone.additional = vec![Rr::a("one.svc.test", [127, 0, 0, 1], 5)]);
    let entries = ["\"srv:_dot._tcp.svc.test\"".to_owned()];
    let proxy = start(&config_of(&entries, Some(pki.ca_file()), &bootstrap.line()));
    if !proxy.log().contains("tcp connections go to port") {
        return crate::conformance::namespace::skipped("needs Landlock for ports");
    }
    let line = format!("is not used: port {} is none of those", server.address().port());
    assert!(proxy.wait_for_log(&line, LONG), "{}", proxy.log());
    assert_eq!(server.journal().accepted(), 0);
}

/// A proxy that has its servers designated, and the server that is, with a certificate for these names.
fn designated(names: &[&str]) -> (Pki, DotServer, Proxy, PlainServer) {
    let pki = Pki::new();
    let server = DotServer::builder().identity(pki.server(names)).listen("127.0.0.2:0").start();
    let SocketAddr::V4(address) = server.address() else { panic!("IPv4") };
    let param = |key: u16, value: &[u8]| {
        [&key.to_be_bytes()[..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
    };
    let params = [param(1, b"\x03dot"), param(3, &address.port().to_be_bytes()), param(4, &address.ip().octets())];
    let rdata = [&[0, 1][..], &name_wire("dns.test"), &params.concat()].concat();
    let resolver = PlainServer::start(move |seen, _| {
        let record = Rr::new("_dns.resolver.arpa", SVCB, 300, &rdata);
        let answer = answer_to(&seen.query);
        vec![if inspect::qtype(&seen.query) == SVCB { answer.answer(&record) } else { answer }.build()]
    });
    // not even opportunistic lets a designation pass unproven
    let lines = "profile = \"opportunistic\"\ndeadline = \"2s\"";
    let proxy = before(&format!("ddr:{}", resolver.address()), &pki, lines);
    (pki, server, proxy, resolver)
}

#[test]
fn r40_a_designated_resolver_is_used_if_its_certificate_is_for_the_designating_address_as_well() {
    let (_pki, server, proxy, resolver) = designated(&["dns.test", "127.0.0.1"]);
    assert_eq!(rcode_of(&proxy, &query(1, "a.test", rtype::A)), 0, "{}", proxy.log());
    let hello = server.journal().connections[0].hello.clone().unwrap();
    assert_eq!(hello.server_name.as_deref(), Some("dns.test"));
    assert!(resolver.seen().iter().all(|seen| inspect::question_name(&seen.query).starts_with("_dns.resolver.arpa")));
}

#[test]
fn r40_a_designated_resolver_that_does_not_prove_both_gets_no_query() {
    for (names, why) in [
        (["dns.test", "127.0.0.2"], "is not for 127.0.0.1, whose resolver designated the server"),
        (["other.test", "127.0.0.1"], "wrong name"),
    ] {
        let (_pki, server, proxy, _resolver) = designated(&names);
        assert_eq!(rcode_of(&proxy, &query(1, "a.test", rtype::A)), SERVFAIL);
        assert_eq!(messages(&server), 0);
        assert!(proxy.wait_for_log(why, LONG), "{}", proxy.log());
    }
}

#[test]
fn r40_a_name_with_its_addresses_is_not_looked_up() {
    let pki = Pki::new();
    let servers = members(&pki, &[2, 3]);
    let port = servers[0].address().port();
    let entry = format!("{{ address = \"pool.test:{port}\", addresses = [\"127.0.0.2\", \"127.0.0.3:{port}\"] }}");
    let proxy = start(&config_of(&[entry], Some(pki.ca_file()), "policy = \"spread\""));
    ask_until(&proxy, "both", || servers.iter().all(|server| messages(server) > 0));
}
