//! Theme C: header bits, EDNS and response codes in both directions.

use std::time::{Duration, Instant};

use testkit::message::flag;
use testkit::record::{DO, rtype};
use testkit::{Act, MessageBuilder, Opt, Rr, Section, TcpClient, UdpClient, answer_to, default_answer, inspect, query};

use super::bench::Bench;
use super::setup::{Setup, messages};

fn ask_both(bench: &Bench, asked: &[u8]) -> [Vec<u8>; 2] {
    let udp = UdpClient::connect(bench.proxy.address()).ask(asked);
    let tcp = TcpClient::connect(bench.proxy.address()).ask(asked);
    [udp, tcp].map(|reply| reply.unwrap_or_else(|| panic!("no reply to {asked:02x?}")))
}

/// The combinations of these bits.
fn combinations(bits: &[u16]) -> Vec<u16> {
    (0..1_u32 << bits.len())
        .map(|chosen| {
            bits.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1).fold(0, |all, (_, bit)| all | bit)
        })
        .collect()
}

#[test]
fn c026_flags_of_queries_cross() {
    let bench = Bench::start();
    let udp = UdpClient::connect(bench.proxy.address());
    let mut seen = 0;
    for header in combinations(&[flag::RD, flag::AD, flag::CD, flag::Z]) {
        for edns in [0, DO, 0x4000, 0xffff] {
            let asked =
                MessageBuilder::query(26, "flags.test", 1).flags(header).opt(Opt::new(1232).flags(edns)).build();
            udp.ask(&asked).unwrap();
            assert_eq!(bench.server.journal().messages[seen].octets[2..], asked[2..], "{header:04x} {edns:04x}");
            seen += 1;
        }
    }
    assert_eq!(seen, 64);
}

#[test]
fn c026_flags_of_answers_cross() {
    let bits = [flag::AA, flag::AD, flag::CD, flag::RA, flag::Z, flag::RD];
    // the flags wanted stand in the first label
    let answer = |asked: &[u8]| {
        let name = inspect::question_name(asked);
        let wanted = u32::from_str_radix(&name[..8], 16).unwrap();
        let (header, edns) = (u16::try_from(wanted >> 16).unwrap(), (wanted & 0xffff) as u16);
        answer_to(asked).flags(flag::QR | header).a([192, 0, 2, 1], 60).opt(Opt::new(1232).flags(edns)).build()
    };
    let bench = Bench::with(|server| server.script(move |received| vec![Act::Answer(answer(&received.message))]), "");
    let (udp, mut tcp) = (UdpClient::connect(bench.proxy.address()), TcpClient::connect(bench.proxy.address()));
    for header in combinations(&bits) {
        for edns in [0_u16, DO, 0x4000, 0xffff] {
            let name = format!("{header:04x}{edns:04x}.test");
            let asked = MessageBuilder::query(26, &name, 1).opt(Opt::new(1232).flags(DO)).build();
            assert_eq!(udp.ask(&asked).unwrap(), answer(&asked), "{name}");
            assert_eq!(tcp.ask(&asked).unwrap(), answer(&asked), "{name}");
        }
    }
}

#[test]
fn c027_opt_is_relayed_whole() {
    let answer = |asked: &[u8]| {
        let mut opt = inspect::opt(asked).unwrap();
        // as a server does that knows no version but 0; with flags and options that nobody knows, twice, in no order
        opt.ext_rcode = u8::from(opt.version > 0);
        opt.version = 0;
        opt.udp_size = opt.udp_size.wrapping_add(1);
        opt.flags = !opt.flags;
        let opt = opt.option(65_002, &[2; 3]).option(3, b"upstream's own").option(65_001, &[]).option(65_002, &[1]);
        answer_to(asked).a([192, 0, 2, 1], 60).opt(opt).build()
    };
    let bench = Bench::with(|server| server.script(move |received| vec![Act::Answer(answer(&received.message))]), "");
    let opts = [
        Opt::new(1232).version(1),
        Opt::new(1232).version(255).flags(0xffff),
        Opt::new(1232).flags(0x3fff),
        Opt::new(1232).option(65_001, &[0, 0xff]),
        Opt::new(1232).option(3, &[]),
        Opt::new(1232).option(10, &[0x5a; 8]),
        Opt::new(1232).option(65_001, &[1]).option(65_001, &[2]).option(65_001, &[1]).option(1, &[3; 30]),
        Opt::new(512),
        Opt::new(4096),
        Opt::new(65_535),
    ];
    for (index, opt) in opts.into_iter().enumerate() {
        let asked = MessageBuilder::query(27, "opt.test", 1).opt(opt).build();
        assert_eq!(ask_both(&bench, &asked), [answer(&asked), answer(&asked)]);
        for message in &bench.server.journal().messages[2 * index..] {
            assert_eq!(message.octets[2..], asked[2..]);
        }
    }
}

/// An option whose length runs past the end of OPT is the resolver's affair as well.
#[test]
fn c027_broken_options_are_relayed() {
    let bench = Bench::start();
    let opt = Rr { rdata: vec![0xfd, 0xe9, 0, 9, 1], ..Opt::new(1232).record() };
    let asked = MessageBuilder::query(27, "broken.test", 1).record(Section::Additional, &opt).build();
    ask_both(&bench, &asked);
    let journal = bench.server.journal();
    assert_eq!(journal.messages.len(), 2);
    assert!(journal.messages.iter().all(|message| message.octets[2..] == asked[2..]));
}

fn opt_records(message: &[u8]) -> usize {
    inspect::records(message, Section::Additional).iter().filter(|record| record.rtype == rtype::OPT).count()
}

/// The name tells the server what to do; it may answer with OPT or not, whatever the query had.
fn symmetry(bench: &Bench) {
    for name in ["miss.test", "servfail.test", "large.test", "dead.test", "home.arpa", "a.resolver.arpa"] {
        for with_opt in [false, true] {
            let plain = MessageBuilder::query(32, name, if name == "large.test" { 16 } else { 1 });
            let asked = if with_opt { plain.opt(Opt::new(1232).flags(DO)) } else { plain }.build();
            let replies = ask_both(bench, &asked);
            for (reply, way) in replies.iter().zip(["udp", "tcp"]) {
                assert_eq!(opt_records(reply), usize::from(with_opt), "{name} {with_opt} {way} {reply:02x?}");
            }
            assert_eq!(inspect::flags(&replies[0]) & flag::TC != 0, name == "large.test", "{name}");
            assert_eq!(inspect::rcode(&replies[0]) == 2, name == "servfail.test" || name == "dead.test", "{name}");
        }
    }
}

/// The configuration under which `dead.test` fails soon.
const IMPATIENT: &str = "deadline = \"600ms\"\nconnect-timeout = \"500ms\"\nsecond-try-after = \"500ms\"";

fn symmetric_server(received: &testkit::Received) -> Vec<Act> {
    let bare = answer_to(&received.message).opt(Opt::new(1232));
    vec![match &*received.name {
        "dead.test" => Act::Silence,
        "servfail.test" => Act::Answer(bare.rcode(2).build()),
        "large.test" => Act::Answer(bare.answer(&Rr::txt("large.test", &[b'x'; 2_000], 60)).build()),
        _ => Act::Answer(bare.a([192, 0, 2, 1], 60).build()),
    }]
}

#[test]
fn c032_opt_comes_if_and_only_if_it_was_sent() {
    let setup = Setup::default().upstream(IMPATIENT);
    symmetry(&setup.start(|server| server.script(symmetric_server)));
}

#[test]
fn c032_holds_with_padding() {
    let setup = Setup::default().upstream(IMPATIENT).extra("[privacy]\npadding = true\n");
    let bench = setup.start(|server| server.script(symmetric_server));
    symmetry(&bench);
    assert!(bench.server.journal().messages.iter().all(|message| inspect::option(&message.octets, 12).is_some()));
}

/// A server without EDNS: what the proxy cuts is the proxy's own message, and answers a query with OPT.
#[test]
fn c032_a_cut_answer_has_opt_where_the_server_sent_none() {
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                let large = answer_to(&received.message).answer(&Rr::txt("large.test", &[b'x'; 2_000], 60));
                vec![Act::Answer(large.build())]
            })
        },
        "",
    );
    let udp = UdpClient::connect(bench.proxy.address());
    let plain = MessageBuilder::query(32, "large.test", 16);
    let with_opt = udp.ask(&plain.clone().opt(Opt::new(1232).flags(DO)).build()).unwrap();
    let without = udp.ask(&plain.build()).unwrap();
    for (reply, count) in [(with_opt, 1), (without, 0)] {
        assert_eq!(inspect::flags(&reply) & flag::TC, flag::TC);
        assert_eq!(opt_records(&reply), count);
    }
}

#[test]
fn c033_response_codes_cross() {
    let answer = |asked: &[u8]| {
        let code = inspect::question_name(asked)[4..].split('.').next().unwrap().parse().unwrap();
        answer_to(asked).opt(Opt::new(1232).option(15, b"\0\x07why")).rcode(code).build()
    };
    let bench = Bench::with(|server| server.script(move |received| vec![Act::Answer(answer(&received.message))]), "");
    let codes: Vec<u16> = (0..12).chain(16..24).chain([3841]).collect();
    for &code in &codes {
        let asked = MessageBuilder::query(33, &format!("code{code}.test"), 1).opt(Opt::new(1232)).build();
        let since = Instant::now();
        for reply in ask_both(&bench, &asked) {
            assert_eq!((inspect::rcode(&reply), inspect::ede(&reply)), (code, Some(7)));
            assert_eq!(reply, answer(&asked));
        }
        assert!(since.elapsed() < Duration::from_secs(1), "{code}");
    }
    // what a server says is its answer, and no reason to ask again
    assert_eq!(messages(&bench.server), 2 * codes.len());
}

/// The same without OPT: codes of four bits cross, and are not mistaken for faults of the server.
#[test]
fn c033_response_codes_cross_without_opt() {
    let answer = |asked: &[u8]| {
        let code = inspect::question_name(asked)[4..].split('.').next().unwrap().parse().unwrap();
        answer_to(asked).rcode(code).build()
    };
    let bench = Bench::with(|server| server.script(move |received| vec![Act::Answer(answer(&received.message))]), "");
    for code in 0..12 {
        let asked = query(33, &format!("code{code}.test"), 1);
        assert_eq!(ask_both(&bench, &asked), [answer(&asked), answer(&asked)]);
    }
    assert_eq!(messages(&bench.server), 24);
    let unlike = default_answer(&query(33, "code0.test", 1));
    assert_ne!(answer(&query(33, "code0.test", 1)), unlike);
}
