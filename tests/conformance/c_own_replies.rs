//! Theme C: the replies that the proxy writes itself.

use std::time::{Duration, Instant};

use testkit::message::flag;
use testkit::record::DO;
use testkit::{Act, MessageBuilder, Opt, Stage, TcpClient, UdpClient, answer_to, inspect, query};

use super::bench::Bench;
use super::setup::{Setup, messages};

/// The configuration under which failures come soon.
const IMPATIENT: &str = "deadline = \"600ms\"\nconnect-timeout = \"500ms\"\nsecond-try-after = \"500ms\"";

/// A query with every bit set that a query can have.
fn all_set(id: u16, name: &str) -> MessageBuilder {
    let flags = flag::AA | flag::TC | flag::RD | flag::RA | flag::Z | flag::AD | flag::CD | 15;
    MessageBuilder::query(id, name, 1).flags(flags).opt(Opt::new(1232).flags(0xffff).version(3).ext_rcode(0xff))
}

/// The reply repeats RD and CD, DO and the question; all else is its own.
fn is_well_made(reply: &[u8], asked: &[u8], code: u16) {
    let repeated = inspect::flags(asked) & (0x7800 | flag::RD | flag::CD);
    assert_eq!(inspect::id(reply), inspect::id(asked));
    assert_eq!(inspect::flags(reply), flag::QR | flag::RA | repeated | code, "{reply:02x?}");
    assert_eq!(inspect::question_octets(reply), inspect::question_octets(asked));
    match inspect::opt(asked) {
        Some(sent) => {
            let opt = inspect::opt(reply).expect("OPT");
            assert_eq!((opt.version, opt.flags, opt.ext_rcode), (0, sent.flags & DO, 0));
        }
        None => assert_eq!(inspect::opt(reply), None),
    }
}

fn own_replies(bench: &Bench, name: &str, code: u16) {
    let udp = UdpClient::connect(bench.proxy.address());
    for asked in [all_set(0x3434, name), all_set(0xffff, name).flags(0), MessageBuilder::query(0, name, 1)] {
        let asked = asked.build();
        is_well_made(&udp.ask(&asked).expect("a reply"), &asked, code);
        is_well_made(&TcpClient::connect(bench.proxy.address()).ask(&asked).expect("a reply"), &asked, code);
    }
}

#[test]
fn c034_servfail_repeats_no_more_than_it_must() {
    let bench = Setup::default().upstream(IMPATIENT).start(|server| server.stage(Stage::RefuseConnections));
    own_replies(&bench, "nObOdY.tEsT", 2);
    // an operation other than QUERY, relayed and failed
    let notify = MessageBuilder::query(0x4444, "zone.test", 6).opcode(4).build();
    is_well_made(&UdpClient::connect(bench.proxy.address()).ask(&notify).unwrap(), &notify, 2);
}

#[test]
fn c034_other_replies_repeat_no_more_than_they_must() {
    let refusing = Setup::default().listen("allow = [\"192.0.2.0/24\"]").start(|server| server);
    own_replies(&refusing, "sTrAnGeR.tEsT", 5);
    let bench = Bench::start();
    own_replies(&bench, "hOmE.aRpA", 0);
    own_replies(&bench, "A.hOmE.aRpA", 3);
    assert_eq!(messages(&bench.server) + messages(&refusing.server), 0);
}

#[test]
fn c034_formerr_is_a_bare_header() {
    let bench = Bench::start();
    let asked = all_set(0x3435, "one.test").question("two.test", 1, 1).build();
    let reply = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert_eq!(inspect::flags(&reply), flag::QR | flag::RA | flag::RD | flag::CD | 1);
    assert_eq!((inspect::id(&reply), inspect::counts(&reply), reply.len()), (0x3435, [0; 4], 12));
}

/// The text of an extended error is for people: short, and of characters.
fn says(reply: &[u8], codes: &[u16]) {
    let data = inspect::option(reply, 15).expect("an extended error");
    let text = std::str::from_utf8(&data[2..]).expect("text");
    assert!(codes.contains(&inspect::ede(reply).unwrap()) && (1..200).contains(&text.len()), "{data:02x?}");
}

#[test]
fn c035_an_unreachable_server_is_an_extended_error() {
    let bench = Setup::default().upstream(IMPATIENT).start(|server| server.stage(Stage::RefuseConnections));
    let with_opt = MessageBuilder::query(35, "down.test", 1).opt(Opt::new(1232)).build();
    for asked in [with_opt, query(35, "down.test", 1)] {
        let udp = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
        let tcp = TcpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
        for reply in [udp, tcp] {
            assert_eq!(inspect::rcode(&reply), 2);
            match inspect::opt(&asked) {
                Some(_) => says(&reply, &[22, 23]),
                None => assert_eq!(inspect::opt(&reply), None),
            }
        }
    }
}

#[test]
fn c035_a_silent_server_is_an_extended_error() {
    let bench = Setup::default().upstream(IMPATIENT).start(|server| server.script(|_| vec![Act::Silence]));
    let asked = MessageBuilder::query(35, "silent.test", 1).opt(Opt::new(1232)).build();
    let since = Instant::now();
    let reply = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert!(since.elapsed() >= Duration::from_millis(600));
    assert_eq!(inspect::rcode(&reply), 2);
    says(&reply, &[22]);
}

#[test]
fn c035_what_the_server_explains_is_relayed() {
    let report = b"\x06report\x04test\0";
    let answer = |asked: &[u8]| {
        answer_to(asked).opt(Opt::new(1232).option(15, b"\0\x06bogus").option(18, report).option(15, &[0, 9])).rcode(2)
    };
    let bench =
        Bench::with(|server| server.script(move |received| vec![Act::Answer(answer(&received.message).build())]), "");
    let asked = MessageBuilder::query(35, "bogus.test", 1).opt(Opt::new(1232)).build();
    let reply = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert_eq!(reply, answer(&asked).build());
    assert_eq!(inspect::option(&reply, 18), Some(report.to_vec()));
    assert_eq!(inspect::option(&bench.server.journal().messages[0].octets, 18), None);
}
