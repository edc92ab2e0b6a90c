//! Theme J: answers from memory.

use std::collections::HashSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::message::flag;
use testkit::{
    Act, DotServer, MessageBuilder, Opt, Pki, Proxy, Received, Rr, Section, TcpClient, UdpClient, answer_to,
    config_for, inspect, query,
};

use super::bench::{Bench, binary};
use super::setup::{SOON, Setup, messages};

const ADDRESS: [u8; 4] = [192, 0, 2, 7];
const COOKIE: u16 = 10;
const CLIENT_SUBNET: u16 = 8;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const NXDOMAIN: u16 = 3;

fn start(script: impl Fn(&Received) -> MessageBuilder + Send + Sync + 'static) -> Bench {
    Setup::default()
        .cache("")
        .start(|server| server.script(move |received| vec![Act::Answer(script(received).build())]))
}

/// An answer with one address of this TTL, and OPT if the query had it.
fn with_ttl(received: &Received, ttl: u32) -> MessageBuilder {
    let answer = answer_to(&received.message);
    let answer = match received.qtype {
        AAAA => answer.answer(&Rr::aaaa(&received.name, [1; 16], ttl)),
        _ => answer.a(ADDRESS, ttl),
    };
    match inspect::opt(&received.message) {
        Some(opt) => answer.opt(Opt::new(1232).flags(opt.flags)),
        None => answer,
    }
}

fn ask(bench: &Bench, message: &[u8]) -> Vec<u8> {
    UdpClient::connect(bench.proxy.address()).ask_within(message, SOON).expect("an answer")
}

fn ttls(answer: &[u8]) -> Vec<u32> {
    let records = inspect::all_records(answer).expect("records");
    records.into_iter().filter(|(_, record)| record.rtype != 41).map(|(_, record)| record.ttl).collect()
}

/// Asks again and again until `done` says so of the answer.
fn ask_until(bench: &Bench, message: &[u8], mut done: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let end = Instant::now() + SOON;
    loop {
        let answer = ask(bench, message);
        if done(&answer) {
            return answer;
        }
        assert!(Instant::now() < end, "{answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How often a query goes to the resolver of so many that are sent one after the other.
fn asked_of(bench: &Bench, message: &[u8], times: usize) -> usize {
    let before = messages(&bench.server);
    for _ in 0..times {
        ask(bench, message);
    }
    messages(&bench.server) - before
}

fn question() -> MessageBuilder {
    MessageBuilder::query(91, "www.test", 1)
}

#[test]
fn c091_an_answer_is_used_for_equal_queries_alone() {
    let bench = start(|received| with_ttl(received, 300));
    let opt = || Opt::new(1232);
    let kept = [
        question(),
        question().rd(false),
        question().ad(true),
        question().cd(true),
        question().bit(0x0040, true),
        question().opt(opt()),
        question().opt(opt().flags(0x8000)),
        question().opt(opt().flags(0x4000)),
        question().opt(opt().flags(1)),
        MessageBuilder::query(91, "www.test", AAAA),
        MessageBuilder::query(91, "www.test", 1).qclass(3),
        MessageBuilder::query(91, "xww.test", 1),
    ];
    for (index, one) in kept.iter().enumerate() {
        assert_eq!(asked_of(&bench, &one.build(), 2), 1, "{index}");
    }
    for (index, one) in kept.iter().enumerate() {
        assert_eq!(asked_of(&bench, &one.build(), 1), 0, "{index}");
    }
    assert_eq!(asked_of(&bench, &MessageBuilder::query(5, "WWW.tesT", 1).build(), 1), 0);
    // another size is no other question, and the option that belongs to one connection is none either
    assert_eq!(asked_of(&bench, &question().opt(Opt::new(4096)).build(), 1), 0);
    assert_eq!(asked_of(&bench, &question().opt(opt().option(11, b"")).build(), 1), 0);
    for always in [opt().option(3, b""), opt().option(65_001, b"x"), opt().version(1)] {
        assert_eq!(asked_of(&bench, &question().opt(always).build(), 2), 2);
    }
}

#[test]
fn c092_the_ttl_of_opt_is_none() {
    let bench = start(|received| with_ttl(received, 300));
    let message = question().opt(Opt::new(1232).flags(0x8000)).build();
    let fresh = ask(&bench, &message);
    let aged = ask_until(&bench, &message, |answer| ttls(answer)[0] < 300);
    assert_eq!((ttls(&fresh), ttls(&aged), messages(&bench.server)), (vec![300], vec![299], 1));
    assert_eq!(inspect::opt(&aged), inspect::opt(&fresh));
}

#[test]
fn c093_all_ttls_age_and_the_smallest_ends_the_answer() {
    let bench = start(|received| {
        let extra = Rr::a("extra.test", ADDRESS, 300);
        answer_to(&received.message)
            .a(ADDRESS, 2)
            .record(Section::Authority, &extra)
            .record(Section::Additional, &extra)
    });
    let mut seen = HashSet::new();
    ask_until(&bench, &question().build(), |answer| {
        let ttls = ttls(answer);
        assert_eq!(ttls[1..], [298 + ttls[0], 298 + ttls[0]]);
        seen.insert(ttls[0]);
        messages(&bench.server) > 1
    });
    assert_eq!(seen, HashSet::from([1, 2]));
}

#[test]
fn c094_nothing_is_remembered_for_as_long_as_its_soa_says() {
    let bench = start(|received| {
        let soa = Rr::soa("test", 3600, 2);
        let answer = answer_to(&received.message);
        match received.name.as_str() {
            "nosoa.test" => answer.rcode(NXDOMAIN),
            "none.test" => answer.rcode(NXDOMAIN).record(Section::Authority, &soa),
            "nodata.test" => answer.record(Section::Authority, &soa),
            name => answer.answer(&Rr::cname(name, "target.test", 600)).record(Section::Authority, &soa),
        }
    });
    assert_eq!(asked_of(&bench, &query(1, "nosoa.test", 1), 3), 3);
    for (name, code, before) in [("none.test", 3, &[][..]), ("nodata.test", 0, &[]), ("alias.test", 0, &[600])] {
        let message = query(1, name, 1);
        let shown = |ttl: u32| [before, &[ttl]].concat();
        assert_eq!(ttls(&ask(&bench, &message)), shown(3600), "the first is as it came");
        let hit = ask(&bench, &message);
        assert_eq!((ttls(&hit), inspect::rcode(&hit)), (shown(2), code));
        let asked = messages(&bench.server);
        ask_until(&bench, &message, |_| messages(&bench.server) > asked);
    }
}

#[test]
fn c095_a_cookie_is_for_one_client() {
    let bench = start(|received| {
        let opt = Opt::new(1232);
        let opt = match inspect::option(&received.message, COOKIE) {
            Some(client) => opt.option(COOKIE, &[&client[..8], &client[..8]].concat()),
            None => opt,
        };
        answer_to(&received.message).a(ADDRESS, 300).opt(opt)
    });
    let with = |cookie: &[u8]| question().opt(Opt::new(1232).option(COOKIE, cookie)).build();
    for _ in 0..2 {
        for client in [b"clientAA", b"clientBB"] {
            let cookie = inspect::option(&ask(&bench, &with(client)), COOKIE);
            assert_eq!(cookie, Some([&client[..], &client[..]].concat()));
        }
        assert_eq!(inspect::option(&ask(&bench, &question().opt(Opt::new(1232)).build()), COOKIE), None);
    }
    assert_eq!(messages(&bench.server), 5);
}

#[test]
fn c096_what_has_no_time_is_relayed_and_never_used_again() {
    let bench = start(|received| with_ttl(received, if received.name == "zero.test" { 0 } else { 0x8000_0001 }));
    for (name, ttl) in [("zero.test", 0), ("high.test", 0x8000_0001)] {
        assert_eq!(asked_of(&bench, &query(1, name, 1), 2), 2);
        assert_eq!(ttls(&ask(&bench, &query(1, name, 1))), [ttl]);
    }
    let bench = start(|received| with_ttl(received, 8 * 86_400));
    ask(&bench, &question().build());
    // seven days at the most, and a day unless the configuration says otherwise
    assert!(ttls(&ask(&bench, &question().build()))[0] <= 86_400);
}

#[test]
fn c097_no_time_is_stretched() {
    let bench = start(|received| with_ttl(received, 1));
    ask(&bench, &question().build());
    let began = Instant::now();
    ask_until(&bench, &question().build(), |_| messages(&bench.server) > 1);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn c098_what_was_not_validated_is_no_answer_for_who_wants_that() {
    let bench = start(|received| {
        let checked = inspect::flags(&received.message) & 0x0010 == 0;
        if checked { answer_to(&received.message).rcode(2) } else { with_ttl(received, 300) }
    });
    let ask = |name: &str, cd: bool| {
        let before = messages(&bench.server);
        let answer = ask(&bench, &MessageBuilder::query(1, name, 1).cd(cd).build());
        (inspect::rcode(&answer), messages(&bench.server) - before)
    };
    assert_eq!([ask("bogus.test", true), ask("bogus.test", false)], [(0, 1), (2, 1)]);
    assert_eq!([ask("other.test", false), ask("other.test", true)], [(2, 1), (0, 1)]);
    // AD as it was given, to whom asked for it
    let bench = start(|received| with_ttl(received, 300).ad(inspect::flags(&received.message) & 0x0020 != 0));
    for (ad, _) in [(true, 1), (false, 1), (true, 2), (false, 2)] {
        let answer = super::j_cache::ask(&bench, &question().ad(ad).build());
        assert_eq!(inspect::flags(&answer) & 0x0020 != 0, ad);
    }
    assert_eq!(messages(&bench.server), 2);
}

#[test]
fn c099_what_is_never_remembered() {
    let bench = start(|received| {
        let answer = with_ttl(received, 300);
        match received.name.as_str() {
            "cut.test" => answer.tc(true),
            "refused.test" => answer.rcode(5),
            "formerr.test" => answer.rcode(1),
            "yxdomain.test" => answer.rcode(6),
            "signed.test" => answer.tsig(),
            "unknown.test" => answer_to(&received.message).a(ADDRESS, 300).opt(Opt::new(1232).option(65_001, b"")),
            _ => answer,
        }
    });
    let plain = |name: &str| MessageBuilder::query(1, name, 1);
    let messages: [(&str, MessageBuilder); 11] = [
        ("cut", plain("cut.test")),
        ("refused", plain("refused.test")),
        ("formerr", plain("formerr.test")),
        ("yxdomain", plain("yxdomain.test")),
        ("signed answer", plain("signed.test")),
        ("unknown option in the answer", plain("unknown.test").opt(Opt::new(1232))),
        ("notify", plain("a.test").opcode(4)),
        ("mailb", MessageBuilder::query(1, "a.test", 253)),
        ("signed", plain("a.test").tsig()),
        ("a record beside", plain("a.test").record(Section::Additional, &Rr::a("x.test", ADDRESS, 1))),
        ("octets behind", plain("a.test").trailing(b"x")),
    ];
    for (what, message) in messages {
        assert_eq!(asked_of(&bench, &message.build(), 2), 2, "{what}");
    }
}

#[test]
fn c100_one_answer_serves_all_sizes() {
    let bench = start(|received| {
        let text = Rr::txt("large.test", &[b'x'; 250], 300);
        (0..12).fold(answer_to(&received.message), |answer, _| answer.answer(&text))
    });
    let message = query(1, "large.test", TXT);
    for _ in 0..2 {
        let cut = ask(&bench, &message);
        assert!(inspect::flags(&cut) & flag::TC != 0 && cut.len() <= 512);
        let whole = TcpClient::connect(bench.proxy.address()).ask(&message).expect("an answer");
        assert_eq!((inspect::flags(&whole) & flag::TC, inspect::records(&whole, Section::Answer).len()), (0, 12));
    }
    assert_eq!(messages(&bench.server), 1);
}

#[test]
fn c101_what_is_for_one_network_is_not_remembered() {
    let bench = start(|received| {
        let opt = match (received.name.as_str(), inspect::option(&received.message, CLIENT_SUBNET)) {
            ("scoped.test", _) => Opt::new(1232).option(CLIENT_SUBNET, b"\0\x01\x00\x18\x0a\x01\x02"),
            (_, Some(subnet)) => Opt::new(1232).option(CLIENT_SUBNET, &subnet),
            _ => Opt::new(1232),
        };
        answer_to(&received.message).a(ADDRESS, 300).opt(opt)
    });
    let from = |subnet: &[u8]| question().opt(Opt::new(1232).option(CLIENT_SUBNET, subnet)).build();
    for subnet in [&b"\0\x01\x18\0\x0a\x01\x02"[..], b"\0\x01\x18\0\x0a\x01\x03", b"\0\x01\0\0"] {
        assert_eq!(asked_of(&bench, &from(subnet), 2), 2);
    }
    let without = question().opt(Opt::new(1232)).build();
    assert_eq!((asked_of(&bench, &without, 2), inspect::option(&ask(&bench, &without), CLIENT_SUBNET)), (1, None));
    let scoped = MessageBuilder::query(1, "scoped.test", 1).opt(Opt::new(1232)).build();
    assert_eq!(asked_of(&bench, &scoped, 2), 2);
}

#[test]
fn c103_a_flood_of_names_neither_fills_the_memory_nor_empties_it_of_what_is_used() {
    const HOT: u16 = 100;
    let setup = Setup::default().cache("size = \"1MiB\"").default_log();
    let bench = setup.start(|server| server.script(|received| vec![Act::Answer(with_ttl(received, 3000).build())]));
    let client = UdpClient::connect(bench.proxy.address());
    let hot = |number: u16| query(number, &format!("hot{number}.test"), 1);
    for _ in 0..2 {
        (0..HOT).for_each(|number| assert!(client.ask(&hot(number)).is_some()));
    }
    let resident = bench.proxy.rss_kib();
    let mut found = 0;
    for turn in 0..30_u32 {
        for number in 0..1000_u16 {
            client.send(&query(number, &format!("name{turn}x{number}.test"), 1));
            if number % 50 == 49 {
                (0..50).for_each(|_| assert!(client.recv(SOON).is_some()));
            }
        }
        let before = messages(&bench.server);
        (0..HOT).for_each(|number| assert!(client.ask(&hot(number)).is_some()));
        found += usize::from(HOT) - (messages(&bench.server) - before);
    }
    assert!(found * 10 >= 30 * usize::from(HOT) * 9, "{found} of {}", 30 * u32::from(HOT));
    let grown = bench.proxy.rss_kib().saturating_sub(resident);
    assert!(grown < 4 * 1024, "{grown} KiB more");
}

#[test]
fn c104_a_hit_has_nothing_of_another_client() {
    let bench = start(|received| {
        let answer = with_ttl(received, 300).ad(true);
        answer.record(Section::Authority, &Rr::soa("test", 900, 900)).bit(flag::RD, true)
    });
    let first = MessageBuilder::query(0x1111, "wWw.TeSt", 1).opt(Opt::new(700)).build();
    let second = MessageBuilder::query(0x2222, "WwW.tEsT", 1).opt(Opt::new(1400)).build();
    let (fresh, hit) = (ask(&bench, &first), ask(&bench, &second));
    assert_eq!((messages(&bench.server), fresh.len()), (1, hit.len()));
    assert_eq!((hit[..2].to_vec(), &hit[12..12 + 10]), (vec![0x22, 0x22], &second[12..12 + 10]));
    // the rest is the same, but that a second may have passed
    let (mut fresh, mut same) = (fresh, hit.clone());
    fresh[..2].copy_from_slice(&hit[..2]);
    fresh[12..22].copy_from_slice(&hit[12..22]);
    if ttls(&same) != ttls(&fresh) {
        same = ask_until(&bench, &second, |answer| answer == fresh);
    }
    assert_eq!(same, fresh);
}

#[test]
fn c105_other_resolvers_are_other_answers() {
    let pki = Pki::new();
    let server = |ttl| {
        let server = DotServer::builder().identity(pki.server(&["upstream.test"]));
        server.script(move |received| vec![Act::Answer(with_ttl(received, ttl).build())]).start()
    };
    let (one, two) = (server(600), server(900));
    let config = |servers: [&DotServer; 2]| {
        let servers = servers.map(|server| (server.address(), "upstream.test"));
        config_for(&servers, pki.ca_file()).replace("size = \"0\"", "")
    };
    let proxy = Proxy::builder(binary()).config(&config([&one, &two])).start();
    let ask = || {
        let answer = UdpClient::connect(proxy.address()).ask(&question().build()).expect("an answer");
        ttls(&answer)[0]
    };
    let asked = || (messages(&one), messages(&two));
    assert_eq!((ask(), ask() <= 600, asked()), (600, true, (1, 0)));
    // another reload leaves what there is
    reload(&proxy, &format!("{}[special-names]\nhome-arpa = \"forward\"\n", config([&one, &two])));
    assert_eq!((ask() <= 600, asked()), (true, (1, 0)));
    reload(&proxy, &config([&two, &one]));
    assert_eq!((ask(), asked()), (900, (1, 1)));
    // and so does the operator
    let flush = |words: &[&str]| {
        let output =
            Command::new(binary()).arg("flush").args(words).arg("--socket").arg(proxy.control_socket()).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_eq!(flush(&["other.test"]), "0 answers forgotten\n");
    assert_eq!(flush(&["WWW.test"]), "1 answers forgotten\n");
    assert_eq!((ask(), asked(), flush(&["test"])), (900, (1, 2), "0 answers forgotten\n".to_owned()));
    assert_eq!((flush(&["test", "--below"]), ask(), asked()), ("1 answers forgotten\n".to_owned(), 900, (1, 3)));
    assert_eq!((flush(&[]), ask(), asked()), ("1 answers forgotten\n".to_owned(), 900, (1, 4)));
    // and what is asked for from then on is kept again
    assert!(ask() <= 900);
    assert_eq!((asked(), flush(&[])), ((1, 4), "1 answers forgotten\n".to_owned()));
}

/// Another configuration, in force when this returns.
fn reload(proxy: &Proxy, config: &str) {
    fs::write(proxy.config_file(), config).unwrap();
    let output = Command::new(binary()).arg("reload").arg("--socket").arg(proxy.control_socket()).output();
    assert!(output.unwrap().status.success(), "{}", proxy.log());
}
