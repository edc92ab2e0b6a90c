//! Theme C: what crosses the proxy crosses it unchanged.

use testkit::message::{a_for, flag};
use testkit::record::DO;
use testkit::script::default_builder;
use testkit::{
    Act, MessageBuilder, Opt, Received, Rr, Section, TcpClient, UdpClient, answer_to, default_answer, inspect, query,
};

use super::bench::Bench;
use super::setup::{SOON, arrives, messages, release};

/// The EDNS flag Compact Answers OK (RFC 9824 §5.1).
const CO: u16 = 0x4000;

/// Asks, and demands that the server saw the query's octets, and the client those of the server's answer, IDs apart.
fn crosses(bench: &Bench, client: &mut TcpClient, asked: &[u8], answered: &[u8]) {
    let before = messages(&bench.server);
    let reply = client.ask(asked).unwrap_or_else(|| panic!("no answer to {asked:02x?}"));
    let journal = bench.server.journal();
    assert_eq!(journal.messages.len(), before + 1, "{asked:02x?}");
    assert_eq!(journal.messages[before].octets[2..], asked[2..]);
    assert_eq!(reply[..2], asked[..2]);
    assert_eq!(reply[2..], answered[2..]);
}

/// A bench whose server answers what `answer` makes of the query.
fn answering(answer: impl Fn(&Received) -> MessageBuilder + Send + Sync + 'static) -> Bench {
    Bench::with(|server| server.script(move |received| vec![Act::Answer(answer(received).build())]), "")
}

fn plain(id: u16, name: &str, qtype: u16) -> MessageBuilder {
    MessageBuilder::query(id, name, qtype)
}

fn corpus() -> Vec<Vec<u8>> {
    let types = [1, 2, 5, 6, 12, 15, 16, 28, 29, 33, 35, 37, 39, 43, 46, 48, 52, 64, 65, 257];
    let mut corpus: Vec<_> = types.map(|qtype| plain(22, "type.test", qtype)).into();
    corpus.extend(types.map(|qtype| plain(23, "mIxEd.CaSe.TeSt", qtype).opt(Opt::new(1232).flags(DO))));
    let opts = [
        Opt::new(0),
        Opt::new(512),
        Opt::new(65_535),
        Opt::new(4096).flags(DO | CO),
        Opt::new(1232).version(1),
        Opt::new(1232).option(3, &[]),
        Opt::new(1232).option(8, &[0, 1, 24, 0, 192, 0, 2]),
        Opt::new(1232).option(10, &[7; 8]),
        Opt::new(1232).option(12, &[0; 40]),
        Opt::new(1232).option(65001, &[0, 0xff]).option(65001, &[1]),
    ];
    corpus.extend(opts.map(|opt| plain(24, "opt.test", 1).opt(opt)));
    let (soa, a) = (Rr::soa("zone.test", 60, 60), Rr::a("www.zone.test", [192, 0, 2, 1], 60));
    let record = |section, record| plain(25, "records.test", 1).record(section, record);
    corpus.extend([
        plain(26, "zone.test", 6).opcode(4).rd(false),
        plain(26, "zone.test", 6).opcode(4).rd(false).answer(&soa),
        plain(27, "zone.test", 6).opcode(5).rd(false),
        plain(27, "zone.test", 6).opcode(5).rd(false).answer(&a).record(Section::Authority, &a).opt(Opt::new(1232)),
        record(Section::Answer, &a),
        record(Section::Authority, &soa),
        record(Section::Additional, &a),
        plain(28, "signed.test", 1).opt(Opt::new(1232)).tsig(),
        plain(29, ".", 2),
        plain(30, "trailing.test", 1).trailing(&[1, 2, 3]),
    ]);
    corpus.iter().map(MessageBuilder::build).collect()
}

#[test]
fn c022_queries_arrive_as_sent() {
    let (bench, corpus) = (Bench::start(), corpus());
    assert_eq!(corpus.len(), 60);
    let mut client = TcpClient::connect(bench.proxy.address());
    for asked in &corpus {
        crosses(&bench, &mut client, asked, &default_answer(asked));
    }
    let udp = UdpClient::connect(bench.proxy.address());
    for (index, asked) in corpus.iter().enumerate() {
        udp.ask(asked).unwrap_or_else(|| panic!("no answer to {asked:02x?}"));
        let journal = bench.server.journal();
        assert_eq!(journal.messages.len(), corpus.len() + index + 1);
        assert_eq!(journal.messages.last().unwrap().octets[2..], asked[2..]);
    }
}

fn odd_answer(received: &Received) -> MessageBuilder {
    let name = &*received.name;
    let bare = answer_to(&received.message);
    let a = |last| Rr::a(name, [192, 0, 2, last], 1_000 + u32::from(last));
    match name {
        // owner names written out, in yet another case
        "uncompressed.test" => bare.answer(&a(1)).answer(&Rr::a("UnCompressed.TEST", [192, 0, 2, 2], 0)),
        "pointers.test" => {
            let rdata = [3, b'a', b'b', b'c', 0xc0, 12, 0xc0, 12, 0xff, 0xff];
            bare.answer(&Rr { name: vec![0xc0, 12], ..Rr::new(".", 65_280, 7, &rdata) })
        }
        "shuffled.test" => bare
            .record(Section::Additional, &a(1))
            .record(Section::Authority, &Rr::soa("test", 9, 9))
            .record(Section::Additional, &a(2))
            .record(Section::Authority, &a(3))
            .answer(&a(9))
            .answer(&Rr::cname(name, "x.test", 3))
            .answer(&a(4)),
        "duplicates.test" => bare.answer(&a(1)).answer(&a(1)).answer(&a(1)),
        // a pseudo type in the bit map of a denial of existence, and TTLs beyond what is sensible
        "nxname.test" => bare
            .record(Section::Authority, &Rr::new(name, 47, u32::MAX, &[0, 0, 7, 0, 0, 0, 0, 0, 3, 0x80]))
            .record(Section::Authority, &Rr::new(name, 128, 0, &[])),
        "trailing.test" => bare.answer(&a(1)).trailing(&[1, 2, 3]),
        _ => panic!("unknown name {name}"),
    }
}

#[test]
fn c023_r31_answers_arrive_as_sent() {
    let bench = answering(odd_answer);
    let mut client = TcpClient::connect(bench.proxy.address());
    let names = ["uncompressed", "pointers", "shuffled", "duplicates", "nxname", "trailing"];
    for name in names.map(|name| format!("{name}.test")) {
        let asked = query(0x2323, &name, 1);
        let received = Received {
            connection: 0,
            nth: 0,
            message: asked.clone(),
            at: std::time::Instant::now(),
            name,
            qtype: 1,
            count_so_far: 1,
        };
        crosses(&bench, &mut client, &asked, &odd_answer(&received).build());
    }
}

#[test]
fn c024_all_types_and_classes_pass() {
    let answer = |asked: &[u8]| {
        let record = Rr::new("any.test", inspect::qtype(asked), 5, &[1, 2, 3]).class(inspect::qclass(asked));
        answer_to(asked).answer(&record)
    };
    let bench = answering(move |received| answer(&received.message));
    let mut client = TcpClient::connect(bench.proxy.address());
    let kinds = [(65_280, 1), (255, 1), (0, 1), (1, 3), (1, 4), (1, 255), (1, 65_280), (65_535, 65_535), (1, 0)];
    for (qtype, qclass) in kinds {
        let asked = plain(24, "any.test", qtype).qclass(qclass).build();
        crosses(&bench, &mut client, &asked, &answer(&asked).build());
    }
    let version = plain(25, "version.bind", 16).qclass(3).build();
    crosses(&bench, &mut client, &version, &answer(&version).build());
}

#[test]
fn c025_any_is_a_type_like_others() {
    let answer = |asked: &[u8]| answer_to(asked).answer(&Rr::new("any.test", 13, 3_600, b"\x07RFC8482\0"));
    let bench = answering(move |received| answer(&received.message));
    let asked = query(25, "any.test", 255);
    let mut tcp = TcpClient::connect(bench.proxy.address());
    crosses(&bench, &mut tcp, &asked, &answer(&asked).build());
    let reply = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert_eq!(reply, answer(&asked).build());
    assert_eq!(bench.server.journal().messages[1].octets[2..], asked[2..]);
}

#[test]
fn c028_two_questions_are_an_error() {
    let bench = Bench::start();
    let asked = plain(0x2828, "one.test", 1).question("two.test", 1, 1).build();
    let udp = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    let tcp = TcpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    for reply in [udp, tcp] {
        assert_eq!((inspect::rcode(&reply), inspect::flags(&reply) & flag::QR), (1, flag::QR));
    }
    assert_eq!(messages(&bench.server), 0);
}

#[test]
fn c028_a_query_without_question_is_relayed() {
    let answer = |asked: &[u8]| answer_to(asked).opt(Opt::new(1232).option(10, &[9; 24]));
    let bench = answering(move |received| answer(&received.message));
    let asked = MessageBuilder::empty(0x2829).opt(Opt::new(1232).option(10, &[8; 8])).build();
    assert_eq!(inspect::counts(&asked), [0, 0, 0, 1]);
    crosses(&bench, &mut TcpClient::connect(bench.proxy.address()), &asked, &answer(&asked).build());
    let udp = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert_eq!(inspect::option(&udp, 10), Some(vec![9; 24]));
    // and never out of a memory
    assert_eq!(messages(&bench.server), 2);
}

#[test]
fn c029_records_in_a_query_are_relayed() {
    let bench = Bench::start();
    let a = |last| Rr::a("record.test", [192, 0, 2, last], 60);
    let asked = plain(29, "records.test", 1)
        .answer(&a(1))
        .record(Section::Authority, &Rr::soa("test", 60, 60))
        .record(Section::Authority, &a(2))
        .record(Section::Additional, &a(3))
        .opt(Opt::new(1232))
        .tsig()
        .build();
    assert_eq!(inspect::counts(&asked), [1, 1, 2, 3]);
    let reply = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert_eq!(bench.server.journal().messages[0].octets[2..], asked[2..]);
    assert_eq!(inspect::a_records(&reply), [a_for("records.test")]);
}

#[test]
fn c030_odd_header_bits_in_a_query_are_relayed() {
    let bench = Bench::start();
    let mut client = TcpClient::connect(bench.proxy.address());
    let header = |flags| plain(30, "bits.test", 1).bit(flags, true);
    let queries = [
        header(flag::TC),
        header(flag::RA),
        header(flag::AA),
        header(flag::TC | flag::RA | flag::AA),
        header(0).rcode(2),
        header(0).rcode(15),
        header(0).rcode(3841),
    ];
    for asked in queries.map(|asked| asked.build()) {
        crosses(&bench, &mut client, &asked, &default_answer(&asked));
    }
}

#[test]
fn c031_two_opt_records_are_an_error() {
    let bench = Bench::start();
    let second = Opt::new(512).record();
    for opts in [Opt::new(4096), Opt::new(512)] {
        let asked = plain(31, "opts.test", 1).record(Section::Additional, &second).opt(opts).build();
        assert_eq!(inspect::counts(&asked), [1, 0, 0, 2]);
        let reply = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
        assert_eq!((inspect::rcode(&reply), inspect::counts(&reply)[1]), (1, 0));
    }
    assert_eq!(messages(&bench.server), 0);
}

#[test]
fn c036_each_client_sees_its_own_case() {
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                if received.name.eq_ignore_ascii_case("held.test") {
                    return vec![Act::Silence];
                }
                // a server that keeps no case
                let mut answer = default_builder(&received.message).build();
                let end = 12 + inspect::question_octets(&received.message).unwrap().len() - 4;
                answer[12..end].make_ascii_lowercase();
                vec![Act::Answer(answer)]
            })
        },
        "",
    );
    let udp = UdpClient::connect(bench.proxy.address());
    for name in ["www.example.com", "wWw.ExAmPlE.CoM", "WWW.EXAMPLE.COM"] {
        let asked = query(36, name, 1);
        for reply in [udp.ask(&asked).unwrap(), TcpClient::connect(bench.proxy.address()).ask(&asked).unwrap()] {
            assert_eq!(inspect::question_name(&reply), name);
            assert_eq!(inspect::a_records(&reply), [a_for(name)]);
        }
    }
    let clients = ["HELD.test", "held.TEST", "hElD.tEsT"].map(|name| {
        let client = UdpClient::connect(bench.proxy.address());
        client.send(&query(36, name, 1));
        (client, name)
    });
    assert!(arrives(&bench.server, "held.test", 3));
    release(&bench.server, "held.test");
    for (client, name) in clients {
        assert_eq!(inspect::question_name(&client.recv(SOON).unwrap()), name);
    }
}

#[test]
fn c090_without_a_cache_every_query_is_asked() {
    let bench = Bench::start();
    let client = UdpClient::connect(bench.proxy.address());
    for number in 0..10 {
        assert!(client.ask(&query(number, "again.test", 1)).is_some());
    }
    assert_eq!(bench.server.journal().messages_named("again.test").len(), 10);
}
