//! Theme E: truncation and EDNS sizes.

use std::fs;
use std::time::{Duration, Instant};

use testkit::message::flag;
use testkit::record::{DO, rtype};
use testkit::{Act, MessageBuilder, Opt, Rr, Section, TcpClient, UdpClient, answer_to, inspect, query};

use super::bench::Bench;
use super::namespace::{in_namespace, run};
use super::setup::{Setup, messages};

const TXT: u16 = 16;

/// An answer of exactly this many octets, with OPT if the query had one.
fn sized(asked: &[u8], size: usize) -> Vec<u8> {
    let with = |rdata: &[u8]| {
        let bare = answer_to(asked).bit(flag::AD, true).answer(&Rr::new("sized.test", TXT, 60, rdata));
        match inspect::opt(asked) {
            Some(opt) => bare.opt(Opt::new(1400).flags(opt.flags & DO).option(15, b"\0\x03stale")),
            None => bare,
        }
    };
    let answer = with(&vec![b'x'; size - with(&[]).build().len()]).build();
    assert_eq!(answer.len(), size);
    answer
}

/// The size stands in the first label.
fn sized_server(received: &testkit::Received) -> Vec<Act> {
    let size = received.name.split('.').next().unwrap().parse().unwrap();
    vec![Act::Answer(sized(&received.message, size))]
}

fn asked(size: usize, client: Option<u16>) -> Vec<u8> {
    let plain = MessageBuilder::query(0x4343, &format!("{size}.test"), TXT);
    match client {
        Some(udp_size) => plain.opt(Opt::new(udp_size).flags(DO)),
        None => plain,
    }
    .build()
}

/// The reply that the statement asks for: TC, the question, nothing else but OPT, within the limit.
fn assert_cut(reply: &[u8], asked: &[u8], limit: usize) {
    let with_opt = inspect::opt(asked).is_some();
    assert!(reply.len() <= limit, "{} octets", reply.len());
    let repeated = inspect::flags(asked) & flag::RD;
    assert_eq!(inspect::flags(reply), flag::QR | flag::RA | flag::TC | flag::AD | repeated, "{reply:02x?}");
    assert_eq!(inspect::question_octets(reply), inspect::question_octets(asked));
    assert_eq!(inspect::counts(reply), [1, 0, 0, u16::from(with_opt)]);
    let records = inspect::all_records(reply).expect("a whole message");
    assert!(records.iter().all(|(_, record)| record.rtype == rtype::OPT));
    if with_opt {
        let opt = inspect::opt(reply).unwrap();
        assert_eq!((opt.udp_size, opt.flags, opt.version), (1400, DO, 0));
        assert_eq!(inspect::ede(reply), Some(3));
    }
}

#[test]
fn c043_r31_truncates_udp_answers() {
    let bench = Bench::with(|server| server.script(sized_server), "");
    let (udp, mut tcp) = (UdpClient::connect(bench.proxy.address()), TcpClient::connect(bench.proxy.address()));
    for (client, limit) in
        [(None, 512), (Some(1232), 1232), (Some(512), 512), (Some(0), 512), (Some(100), 512), (Some(511), 512)]
    {
        let large = asked(3_000, client);
        assert_cut(&udp.ask(&large).unwrap(), &large, limit);
        let whole = tcp.ask(&large).unwrap();
        assert_eq!(whole, sized(&large, 3_000));
        assert_eq!(inspect::flags(&whole) & flag::TC, 0);
        // as large as it may be, and one octet more
        let fits = asked(limit, client);
        assert_eq!(udp.ask(&fits).unwrap(), sized(&fits, limit), "{client:?}");
        let over = asked(limit + 1, client);
        assert_cut(&udp.ask(&over).unwrap(), &over, limit);
    }
}

/// Code and flags of the answer stay, also those in OPT.
#[test]
fn c043_keeps_what_fits() {
    let answer = |asked: &[u8]| {
        answer_to(asked)
            .bit(flag::AA | flag::CD, true)
            .opt(Opt::new(1232).flags(0xc000).option(15, b"\0\x12no").option(65_001, &[1; 20]))
            .rcode(23)
            .answer(&Rr::txt("kept.test", &[b'x'; 900], 60))
            .build()
    };
    let bench = Bench::with(|server| server.script(move |received| vec![Act::Answer(answer(&received.message))]), "");
    let asked = MessageBuilder::query(43, "kept.test", TXT).opt(Opt::new(512)).build();
    let (reply, whole) = (UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap(), answer(&asked));
    assert_eq!(inspect::flags(&reply), inspect::flags(&whole) | flag::TC);
    assert_eq!(inspect::rcode(&reply), 23);
    assert_eq!(inspect::opt(&reply), inspect::opt(&whole));
}

/// OPT itself may be what is too large: then the extended error is kept, which says why.
#[test]
fn c043_keeps_the_error_of_a_large_opt() {
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                let opt = Opt::new(1232).option(65_001, &[1; 600]).option(15, b"\0\x12no");
                vec![Act::Answer(answer_to(&received.message).opt(opt).rcode(5).build())]
            })
        },
        "",
    );
    let asked = MessageBuilder::query(43, "opt.test", TXT).opt(Opt::new(512)).build();
    let reply = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert!(reply.len() <= 512 && inspect::flags(&reply) & flag::TC != 0);
    assert_eq!((inspect::rcode(&reply), inspect::ede(&reply)), (5, Some(18)));
}

#[test]
fn c044_r31_the_limit_for_udp_is_1232_by_default() {
    let bench = Bench::with(|server| server.script(sized_server), "");
    let udp = UdpClient::connect(bench.proxy.address());
    for (size, whole) in [(1_232, true), (1_233, false), (2_000, false)] {
        let asked = asked(size, Some(4_096));
        let reply = udp.ask(&asked).unwrap();
        if whole {
            assert_eq!(reply, sized(&asked, size));
        } else {
            assert_cut(&reply, &asked, 1_232);
        }
    }
}

#[test]
fn c044_the_limit_for_udp_can_be_raised() {
    let bench = Setup::default().listen("udp-payload-limit = 4096").start(|server| server.script(sized_server));
    let udp = UdpClient::connect(bench.proxy.address());
    for size in [2_000, 4_096] {
        let asked = asked(size, Some(65_535));
        assert_eq!(udp.ask(&asked).unwrap(), sized(&asked, size));
    }
    let over = asked(4_097, Some(65_535));
    assert_cut(&udp.ask(&over).unwrap(), &over, 4_096);
    // the client's own limit stays
    let small = asked(2_000, Some(1_400));
    assert_cut(&udp.ask(&small).unwrap(), &small, 1_400);
}

#[test]
fn c045_sizes_of_datagrams_never_limit_tcp() {
    let bench = Bench::with(|server| server.script(sized_server), "");
    let mut tcp = TcpClient::connect(bench.proxy.address());
    for size in [60_000, 65_535] {
        for client in [Some(512), Some(0), None] {
            let asked = asked(size, client);
            assert_eq!(tcp.ask(&asked).unwrap(), sized(&asked, size));
        }
    }
}

#[test]
fn c046_truncation_by_the_server_is_relayed() {
    let answer = |asked: &[u8]| answer_to(asked).tc(true).a([192, 0, 2, 1], 60).a([192, 0, 2, 2], 60).build();
    let bench = Bench::with(|server| server.script(move |received| vec![Act::Answer(answer(&received.message))]), "");
    let asked = query(46, "cut.test", 1);
    for _ in 0..2 {
        assert_eq!(UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap(), answer(&asked));
        assert_eq!(TcpClient::connect(bench.proxy.address()).ask(&asked).unwrap(), answer(&asked));
    }
    assert_eq!(messages(&bench.server), 4);
}

#[test]
fn c047_no_rrset_is_cut() {
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                let many = (0..40).fold(answer_to(&received.message), |answer, last| answer.a([192, 0, 2, last], 60));
                let more = many
                    .record(Section::Authority, &Rr::new("test", 2, 60, &[1, b'a', 0]))
                    .record(Section::Additional, &Rr::a("a", [192, 0, 2, 53], 60));
                vec![Act::Answer(more.opt(Opt::new(1232)).build())]
            })
        },
        "",
    );
    let asked = MessageBuilder::query(47, "many.test", 1).opt(Opt::new(600)).build();
    let reply = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert!(reply.len() <= 600 && inspect::flags(&reply) & flag::TC != 0);
    assert!([0, 40].contains(&inspect::records(&reply, Section::Answer).len()));
    assert_eq!(
        TcpClient::connect(bench.proxy.address()).ask(&asked).map(|whole| inspect::a_records(&whole).len()),
        Some(40)
    );
}

/// A counter of this namespace's IP layer.
fn fragments() -> u64 {
    let v4 = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = v4.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split_whitespace().position(|name| name == "FragCreates").unwrap();
    let v6 = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
    let v6 = v6.lines().find(|line| line.starts_with("Ip6FragCreates")).unwrap();
    let number = |word: Option<&str>| word.unwrap().parse::<u64>().unwrap();
    number(values.split_whitespace().nth(at)) + number(v6.split_whitespace().nth(1))
}

/// An answer within all limits but that of the path.
fn too_long_for_the_path(address: &str, mtu: u16, size: usize) {
    let limit = "udp-payload-limit = 4096\nallow = [\"0.0.0.0/0\", \"::/0\"]";
    let listeners = ["0.0.0.0:53", "[::]:53", "127.0.0.1:5353", "[::1]:5353"];
    // the server is asked on its own listener, where the path is as long as ever
    let setup = Setup::default().addresses(if mtu < 1280 { &["0.0.0.0:53", "127.0.0.1:5353"] } else { &listeners });
    let _bench = setup.listen(limit).start(|server| server.script(sized_server));
    let client = UdpClient::connect(address.parse().unwrap());
    // the connection upstream is made before the path gets narrow
    client.ask(&asked(300, None)).unwrap();
    run(&format!("ip link set lo mtu {mtu}"));
    let asked = asked(size, Some(4_096));
    let since = Instant::now();
    let reply = client.ask(&asked).expect("a reply");
    assert!(since.elapsed() < Duration::from_secs(1));
    assert_cut(&reply, &asked, 512);
    assert_eq!(inspect::id(&client.ask(&query(1, "300.test", TXT)).unwrap()), 1);
    assert_eq!(fragments(), 0);
}

#[test]
fn c048_answers_too_long_for_the_path_are_cut() {
    in_namespace(&["198.51.100.1/32"], || too_long_for_the_path("198.51.100.1:53", 600, 1_200));
    in_namespace(&[], || too_long_for_the_path("127.0.0.1:5353", 600, 1_200));
    in_namespace(&["2001:db8::1/128"], || too_long_for_the_path("[2001:db8::1]:53", 1_280, 2_000));
    in_namespace(&[], || too_long_for_the_path("[::1]:5353", 1_280, 2_000));
}
