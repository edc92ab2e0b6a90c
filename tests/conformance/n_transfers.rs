//! Theme N: zone transfers, whole or not at all.

use std::time::{Duration, Instant};

use testkit::message::{MessageBuilder, answer_to};
use testkit::{Act, DotServer, Opt, Pki, Proxy, Received, Rr, Section, TcpClient, UdpClient, inspect, query};

use super::bench::Bench;
use super::resolvers::{LONG, SERVFAIL, config_of, named, proxy_before, rcode_of, start as start_with};

const IXFR: u16 = 251;
const AXFR: u16 = 252;

/// A record of a zone: an SOA with this serial, or some address.
#[derive(Clone, Copy)]
enum Record {
    Serial(u32),
    Address(u8),
}

use Record::{Address, Serial};

fn record(record: Record) -> Rr {
    match record {
        Address(last) => Rr::a("host.zone.test", [192, 0, 2, last], 60),
        Serial(serial) => {
            let mut soa = Rr::soa("zone.test", 60, 60);
            let at = soa.rdata.len() - 20;
            soa.rdata[at..at + 4].copy_from_slice(&serial.to_be_bytes());
            soa
        }
    }
}

/// A message of a transfer.
fn part(query: &[u8], records: &[Record]) -> MessageBuilder {
    records.iter().fold(answer_to(query), |message, one| message.answer(&record(*one)))
}

/// A client's request, for an incremental transfer with the serial it has.
fn request(id: u16, qtype: u16, known: Option<u32>) -> Vec<u8> {
    let asked = MessageBuilder::query(id, "Zone.test", qtype).rd(false);
    match known {
        Some(serial) => asked.record(Section::Authority, &record(Serial(serial))).build(),
        None => asked.build(),
    }
}

/// A server that answers transfers with the messages made by `messages`, and all else as usual.
fn serving(messages: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync) -> impl Fn(&Received) -> Vec<Act> + Send + Sync {
    move |received| match received.qtype {
        IXFR | AXFR => messages(&received.message).into_iter().map(Act::Answer).collect(),
        _ => vec![Act::Default],
    }
}

/// Asks for a transfer, and gets exactly what the server sends: all messages, in order, with the client's ID. Then the
/// proxy knows that it is over, and says goodbye to the server.
fn is_relayed_whole(asked: &[u8], messages: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync + Clone + 'static) {
    let expected = messages(asked);
    let bench = Bench::with(|server| server.script(serving(messages)), "");
    let mut client = TcpClient::connect(bench.proxy.address());
    client.send(asked);
    for (number, message) in expected.iter().enumerate() {
        let answer = client.recv(LONG).expect("an open connection");
        assert_eq!(answer.as_ref(), Some(message), "message {number} of {}", expected.len());
    }
    let journal = bench.server.journal();
    assert_eq!(journal.messages.len(), 1);
    assert_eq!(journal.messages[0].octets[2..], asked[2..]);
    let begun = Instant::now();
    assert!(bench.server.wait_for(|journal| journal.connections[0].peer_end.is_some(), LONG), "the end was not seen");
    assert!(begun.elapsed() < Duration::from_secs(3));
    // the client's connection is as good as before
    assert_eq!(inspect::rcode(&client.ask(&query(77, "a.test", 1)).unwrap()), 0);
}

/// A zone of 50 messages.
fn fifty(query: &[u8], question_everywhere: bool) -> Vec<Vec<u8>> {
    let message = |number: u8| {
        let records: Vec<Record> = match number {
            0 => vec![Serial(9), Address(0)],
            49 => vec![Address(49), Serial(9)],
            _ => vec![Address(number); 3],
        };
        let message = part(query, &records);
        if number == 0 || question_everywhere { message.build() } else { message.no_question().build() }
    };
    (0..50).map(message).collect()
}

#[test]
fn c122_all_messages_of_a_zone_are_relayed() {
    is_relayed_whole(&request(0xabcd, AXFR, None), |query| fifty(query, true));
}

#[test]
fn c122_messages_without_the_question_belong_to_the_transfer_too() {
    is_relayed_whole(&request(0xabcd, AXFR, None), |query| fifty(query, false));
}

#[test]
fn c122_a_transfer_follows_the_route_of_its_zone() {
    let pki = Pki::new();
    let start =
        || DotServer::builder().identity(pki.server(&["upstream.test"])).script(serving(|asked| fifty(asked, true)));
    let (upstream, corp) = (start().start(), start().start());
    let route = format!("[[route]]\ndomains = [\"zone.test\"]\nservers = [{}]\n", named(&corp));
    let proxy = start_with(&(config_of(&[named(&upstream)], Some(pki.ca_file()), "") + &route));
    let asked = request(3, AXFR, None);
    let mut client = TcpClient::connect(proxy.address());
    client.send(&asked);
    for message in fifty(&asked, true) {
        assert_eq!(client.recv(LONG).expect("an open connection"), Some(message));
    }
    assert_eq!((corp.journal().messages.len(), upstream.journal().accepted()), (1, 0));
}

#[test]
fn c123_a_zone_ends_with_its_second_soa() {
    let asked = request(1, AXFR, None);
    is_relayed_whole(&asked, |query| vec![part(query, &[Serial(9), Address(1), Serial(9)]).build()]);
    is_relayed_whole(&asked, |query| {
        [&[Serial(9)][..], &[Address(1), Address(2)], &[Serial(9)]].map(|records| part(query, records).build()).into()
    });
}

#[test]
fn c123_a_message_without_records_ends_nothing() {
    is_relayed_whole(&request(1, AXFR, None), |query| {
        let (first, last) = (part(query, &[Serial(9), Address(1)]), part(query, &[Serial(9)]));
        vec![first.build(), part(query, &[]).build(), part(query, &[]).no_question().build(), last.build()]
    });
}

#[test]
fn c123_a_difference_ends_with_the_new_soa() {
    let parts: [&[Record]; 5] = [
        &[Serial(5)],
        &[Serial(3), Address(1)],
        &[Serial(4), Address(2), Serial(4)],
        &[Address(2), Serial(5)],
        &[Address(3), Serial(5)],
    ];
    let asked = request(1, IXFR, Some(3));
    is_relayed_whole(&asked, move |query| parts.map(|records| part(query, records).build()).into());
    is_relayed_whole(&asked, move |query| vec![part(query, &parts.concat()).build()]);
}

#[test]
fn c123_a_single_soa_says_that_nothing_is_new() {
    is_relayed_whole(&request(1, IXFR, Some(5)), |query| vec![part(query, &[Serial(5)]).build()]);
}

#[test]
fn c123_a_whole_zone_may_answer_for_a_difference() {
    let parts: [&[Record]; 3] = [&[Serial(5)], &[Address(1), Address(2)], &[Address(3), Serial(5)]];
    is_relayed_whole(&request(1, IXFR, Some(3)), move |query| parts.map(|records| part(query, records).build()).into());
}

#[test]
fn c123_an_error_ends_a_transfer() {
    is_relayed_whole(&request(1, AXFR, None), |query| vec![answer_to(query).rcode(5).build()]);
    is_relayed_whole(&request(1, AXFR, None), |query| {
        vec![part(query, &[Serial(9), Address(1)]).build(), answer_to(query).rcode(2).build()]
    });
}

/// A transfer that breaks off must not look whole: the client's connection ends.
#[test]
fn c123_a_close_ends_a_transfer_and_is_passed_on() {
    for end in [Act::CloseNotifyAndFin, Act::Fin, Act::Rst] {
        let bench = Bench::with(
            |server| {
                let end = end.clone();
                server.script(move |received| {
                    let begun = part(&received.message, &[Serial(9), Address(1)]).build();
                    vec![Act::Answer(begun), Act::Sleep(Duration::from_millis(100)), end.clone()]
                })
            },
            "",
        );
        let mut client = TcpClient::connect(bench.proxy.address());
        client.send(&request(1, AXFR, None));
        assert!(client.recv(LONG).unwrap().is_some());
        assert!(client.wait_for_end(LONG).is_some(), "{end:?}: the client goes on waiting");
        assert_eq!(bench.server.journal().messages.len(), 1, "a begun transfer was begun again");
    }
}

#[test]
fn c123_a_transfer_that_cannot_begin_fails_as_a_whole() {
    let bench = Bench::with(|server| server.script(|_| vec![Act::CloseNotifyAndFin]), "");
    let answer = TcpClient::connect(bench.proxy.address()).ask(&request(1, AXFR, None)).expect("a reply");
    assert_eq!((inspect::rcode(&answer), inspect::counts(&answer)[1]), (SERVFAIL, 0));
}

/// The statement's minute is three seconds here, six times the deadline.
#[test]
fn c123_the_deadline_of_queries_does_not_end_a_transfer() {
    let pki = Pki::new();
    let script = |received: &Received| {
        let later = |number: u8, records: &[Record]| {
            Act::AnswerAfter(Duration::from_millis(300) * number.into(), part(&received.message, records).build())
        };
        let mut acts = vec![later(0, &[Serial(9)])];
        acts.extend((1..10).map(|number| later(number, &[Address(number)])));
        acts.push(later(10, &[Serial(9)]));
        acts
    };
    let server = DotServer::builder().identity(pki.server(&["upstream.test"])).script(script).start();
    let lines = "deadline = \"500ms\"\nconnect-timeout = \"400ms\"\nsecond-try-after = \"400ms\"";
    let proxy = proxy_before(&[&server], pki.ca_file(), lines);
    let mut client = TcpClient::connect(proxy.address());
    client.send(&request(1, AXFR, None));
    for number in 0..11 {
        let answer = client.recv(LONG).expect("an open connection");
        assert!(answer.is_some(), "message {number}");
    }
    assert_eq!(inspect::rcode(&client.ask(&query(2, "a.test", 1)).unwrap()), 0);
}

/// A transfer that has begun, over a connection of its own beside the one for ordinary queries.
fn begun(proxy: &Proxy, server: &DotServer, receive_buffer: usize) -> (TcpClient, usize, usize) {
    assert_eq!(rcode_of(proxy, &query(1, "ordinary.test", 1)), 0);
    let client = TcpClient::connect_with_receive_buffer(proxy.address(), receive_buffer);
    client.send(&request(2, AXFR, None));
    assert!(server.wait_for(|journal| !journal.messages_named("zone.test").is_empty(), LONG));
    let journal = server.journal();
    let connection = |name| journal.messages_named(name)[0].connection;
    let (ordinary, transfer) = (connection("ordinary.test"), connection("zone.test"));
    assert_ne!(ordinary, transfer, "a transfer on the connection of all");
    (client, ordinary, transfer)
}

/// The server closes nothing and sends nothing more; only the client can end this.
fn first_part_only(received: &Received) -> Vec<Act> {
    match received.qtype {
        AXFR => vec![Act::Answer(part(&received.message, &[Serial(9), Address(1)]).build())],
        _ => vec![Act::Default],
    }
}

#[test]
fn c124_a_client_that_goes_away_ends_only_its_transfer() {
    let bench = Bench::with(|server| server.script(first_part_only), "");
    let (mut client, ordinary, transfer) = begun(&bench.proxy, &bench.server, 65_536);
    assert!(client.recv(LONG).unwrap().is_some());
    client.reset();
    let ended = bench.server.wait_for(|journal| journal.connections[transfer].peer_end.is_some(), LONG);
    assert!(ended, "the server still holds a transfer for nobody");
    assert!(bench.server.journal().connections[ordinary].is_alive());
    assert_eq!(rcode_of(&bench.proxy, &query(3, "ordinary.test", 1)), 0);
    assert_eq!(bench.server.journal().accepted(), 2);
}

/// 24 MB for a client that reads nothing, in place of the statement's 100: far more than all buffers together.
#[test]
fn c124_a_stalled_transfer_holds_up_nothing() {
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                if received.qtype != AXFR {
                    return vec![Act::Default];
                }
                let filler = Rr::txt("t.zone.test", &[b'x'; 50_000], 60);
                let large = answer_to(&received.message).answer(&filler).build();
                let mut acts = vec![Act::Answer(part(&received.message, &[Serial(9)]).build())];
                acts.extend(std::iter::repeat_n(Act::Answer(large), 480));
                acts
            })
        },
        "",
    );
    let before = bench.proxy.rss_kib();
    let (client, ordinary, transfer) = begun(&bench.proxy, &bench.server, 4096);
    let mut times = Vec::new();
    for number in 0..200 {
        let asked_at = Instant::now();
        assert_eq!(rcode_of(&bench.proxy, &query(number, "other.test", 1)), 0);
        times.push(asked_at.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
    times.sort();
    assert!(times[100] < Duration::from_millis(50), "half took longer than {:?}", times[100]);
    assert!(times[199] < Duration::from_millis(500), "{:?}", times[199]);
    assert!(bench.server.journal().connections[transfer].is_alive(), "the transfer was not stalled but ended");
    let after = bench.proxy.rss_kib();
    assert!(after < before + 16 * 1024, "from {before} to {after} KiB");
    client.reset();
    assert!(bench.server.wait_for(|journal| journal.connections[transfer].peer_end.is_some(), LONG));
    assert!(bench.server.journal().connections[ordinary].is_alive());
}

#[test]
fn c125_a_zone_is_not_asked_for_over_udp() {
    let bench = Bench::start();
    for asked in [request(1, AXFR, None), MessageBuilder::query(2, "zone.test", AXFR).opt(Opt::new(4096)).build()] {
        let begun = Instant::now();
        let answer = UdpClient::connect(bench.proxy.address()).ask(&asked).expect("a reply");
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        assert!([1, 4, 5].contains(&inspect::rcode(&answer)), "{}", inspect::rcode(&answer));
        assert_eq!(inspect::counts(&answer)[..2], [1, 0]);
    }
    assert_eq!(bench.server.journal().accepted(), 0);
}

#[test]
fn c126_a_difference_over_udp_is_whole_or_truncated() {
    let parts: [&[Record]; 3] = [&[Serial(5), Serial(3)], &[Address(1), Serial(5)], &[Address(2), Serial(5)]];
    let bench = Bench::with(
        |server| server.script(serving(move |query| parts.map(|records| part(query, records).build()).into())),
        "",
    );
    let asked = request(1, IXFR, Some(3));
    let answer = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert_eq!((inspect::rcode(&answer), inspect::flags(&answer) & 0x0200), (0, 0x0200));
    assert_eq!(inspect::counts(&answer)[1], 0, "a part of a transfer");
    let mut client = TcpClient::connect(bench.proxy.address());
    client.send(&asked);
    for records in parts {
        assert_eq!(client.recv(LONG), Ok(Some(part(&asked, records).build())));
    }
    // the connection that brought the first message over UDP is not left behind
    assert!(bench.server.wait_for(|journal| journal.open() == 0, LONG));
}

#[test]
fn c126_a_difference_of_one_message_that_fits_is_answered_over_udp() {
    let whole =
        |query: &[u8]| vec![part(query, &[Serial(5), Serial(3), Address(1), Serial(5), Address(2), Serial(5)]).build()];
    let bench = Bench::with(|server| server.script(serving(whole)), "");
    let asked = request(1, IXFR, Some(3));
    assert_eq!(UdpClient::connect(bench.proxy.address()).ask(&asked), whole(&asked).pop());
    let current = |query: &[u8]| vec![part(query, &[Serial(3)]).build()];
    bench.server.set_script(serving(current));
    assert_eq!(UdpClient::connect(bench.proxy.address()).ask(&asked), current(&asked).pop());
    // one message, and too large
    bench.server.set_script(serving(|query: &[u8]| {
        let records: Vec<Record> = [Serial(5)].into_iter().chain((0..100).map(Address)).chain([Serial(5)]).collect();
        vec![part(query, &records).build()]
    }));
    let answer = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert_eq!(inspect::flags(&answer) & 0x0200, 0x0200);
    assert!(answer.len() <= 512);
}
