//! Theme N: signed messages and operations other than queries. Signatures are made up here: what counts is that every
//! octet crosses.

use std::time::Duration;

use testkit::message::{MessageBuilder, answer_to, flag};
use testkit::script::default_builder;
use testkit::{Act, Opt, Received, Rr, Section, TcpClient, UdpClient, framed, inspect, name_wire, query};

use super::bench::Bench;
use super::i_options::{ALL_PRIVACY, last_at_server, sig0, signed};
use super::resolvers::{LONG, rcode_of};

const NOTIMP: u16 = 4;
const UPDATE: u8 = 5;
const DSO: u8 = 6;

/// An UPDATE as nsupdate sends it: a zone, a prerequisite, something to delete and something to add.
fn update(id: u16) -> MessageBuilder {
    MessageBuilder::query(id, "Zone.test", 6)
        .rd(false)
        .opcode(UPDATE)
        .record(Section::Answer, &Rr::new("old.zone.test", 255, 0, &[]).class(255))
        .record(Section::Authority, &Rr::new("old.zone.test", 1, 0, &[]).class(255))
        .record(Section::Authority, &Rr::a("new.zone.test", [192, 0, 2, 1], 60))
}

#[test]
fn c127_an_update_is_relayed_as_it_is_and_once() {
    let bench = Bench::start();
    let asked = update(0xbeef).build();
    for number in 1..=2 {
        let answer = if number == 1 {
            UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap()
        } else {
            TcpClient::connect(bench.proxy.address()).ask(&asked).unwrap()
        };
        assert_eq!((inspect::id(&answer), inspect::opcode(&answer)), (0xbeef, UPDATE));
        assert_eq!(last_at_server(&bench), asked[2..]);
        // one copy of each, none out of a memory
        assert_eq!(bench.server.journal().messages.len(), number);
    }
}

#[test]
fn c127_the_results_of_an_update_are_passed_on() {
    for rcode in 0..=10 {
        let bench = Bench::with(
            |server| {
                server.script(move |received| vec![Act::Answer(answer_to(&received.message).rcode(rcode).build())])
            },
            "",
        );
        let answer = UdpClient::connect(bench.proxy.address()).ask(&update(7).build()).unwrap();
        assert_eq!((inspect::rcode(&answer), inspect::opcode(&answer)), (rcode, UPDATE));
        assert_eq!(bench.server.journal().messages.len(), 1, "RCODE {rcode}");
    }
}

/// The answers have AA and a body.
fn authoritative(received: &Received) -> Vec<Act> {
    let answer = answer_to(&received.message).bit(flag::AA, true).answer(&Rr::a("body.test", [192, 0, 2, 9], 60));
    vec![Act::Answer(answer.build())]
}

#[test]
fn c128_every_operation_is_relayed_whole_or_refused() {
    let bench = Bench::with(|server| server.script(authoritative), "");
    let udp = UdpClient::connect(bench.proxy.address());
    let mut tcp = TcpClient::connect(bench.proxy.address());
    for opcode in 0..16 {
        let whole = MessageBuilder::query(0x0100 + u16::from(opcode), "op.test", 6).opcode(opcode).build();
        let header = MessageBuilder::empty(0x0200 + u16::from(opcode)).opcode(opcode).build();
        for asked in [whole, header] {
            for round in 0..2 {
                let before = bench.server.journal().messages.len();
                for answer in [udp.ask(&asked), tcp.ask(&asked)] {
                    let answer = answer.unwrap_or_else(|| panic!("opcode {opcode} was dropped"));
                    assert_eq!(inspect::opcode(&answer), opcode);
                    assert_ne!(inspect::flags(&answer) & flag::QR, 0);
                    if opcode == DSO {
                        assert_eq!(inspect::rcode(&answer), NOTIMP);
                        continue;
                    }
                    // an operation whose form is unknown is answered in a form that is unknown
                    let expected =
                        answer_to(&asked).bit(flag::AA, true).answer(&Rr::a("body.test", [192, 0, 2, 9], 60));
                    assert_eq!(answer, expected.build(), "opcode {opcode}, round {round}");
                    assert_eq!(last_at_server(&bench), asked[2..]);
                }
                let copies = bench.server.journal().messages.len() - before;
                assert_eq!(copies, if opcode == DSO { 0 } else { 2 }, "opcode {opcode}");
            }
        }
    }
}

/// Octets behind the header that are no question, in an operation that nobody has defined yet.
#[test]
fn c128_an_unknown_operation_may_have_any_body() {
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                let mut answer = received.message.clone();
                answer[2] |= 0x84;
                answer.extend([0xfe; 7]);
                vec![Act::Answer(answer)]
            })
        },
        "",
    );
    for opcode in [3, 7, 9, 15] {
        let asked = MessageBuilder::empty(5).opcode(opcode).qdcount(3).trailing(&[0xff; 20]).build();
        let answer = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
        assert_eq!(last_at_server(&bench), asked[2..]);
        assert_eq!(answer[12..], [&[0xff; 20][..], &[0xfe; 7]].concat());
        assert_eq!((answer[..2].to_vec(), answer[2]), (asked[..2].to_vec(), asked[2] | 0x84));
    }
}

/// What the resolver answers to a signed query here: odd case, odd TTLs, options of one hop, and a signature.
fn signed_answer(query: &[u8], text: usize) -> Vec<u8> {
    let opt = Opt::new(4096).option(11, &[0, 50]).option(12, &[0; 30]).option(8, &[0, 1, 24, 20, 198, 51, 100]);
    let records = default_builder(query).answer(&Rr::txt("oDD.test", &vec![b'x'; text], 0x8000_0001));
    records.opt(opt).tsig().build()
}

fn with_subnet() -> Opt {
    Opt::new(4096).option(8, &[0, 1, 24, 0, 198, 51, 100]).option(10, &[9; 8]).option(11, &[])
}

#[test]
fn c129_tsig_messages_pass_unaltered() {
    let bench = Bench::with(
        |server| server.script(|received| vec![Act::Answer(signed_answer(&received.message, 50))]),
        ALL_PRIVACY,
    );
    for opt in [with_subnet(), Opt::new(0)] {
        let asked = signed(0x7777, "SiGned.test", &opt, true);
        for over_tcp in [false, true] {
            let answer = if over_tcp {
                TcpClient::connect(bench.proxy.address()).ask(&asked).unwrap()
            } else {
                UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap()
            };
            assert_eq!(last_at_server(&bench), asked[2..]);
            // made again from the query at the server, whose ID the made-up signature holds
            let sent = bench.server.journal().messages.last().unwrap().octets.clone();
            assert_eq!(answer[2..], signed_answer(&sent, 50)[2..]);
            assert_eq!(inspect::id(&answer), 0x7777);
        }
    }
}

#[test]
fn c129_signed_queries_are_not_merged() {
    let late =
        |received: &Received| vec![Act::AnswerAfter(Duration::from_millis(200), signed_answer(&received.message, 9))];
    let bench = Bench::with(|server| server.script(late), "");
    let asked = signed(1, "a.test", &with_subnet(), true);
    let clients: Vec<UdpClient> = (0..4).map(|_| UdpClient::connect(bench.proxy.address())).collect();
    clients.iter().for_each(|client| client.send(&asked));
    assert!(clients.iter().all(|client| client.recv(LONG).is_some()));
    assert_eq!(bench.server.journal().messages.len(), 4);
}

#[test]
fn c129_a_signed_answer_too_large_for_udp_is_truncated_and_not_mutilated() {
    let bench = Bench::with(
        |server| server.script(|received| vec![Act::Answer(signed_answer(&received.message, 3000))]),
        ALL_PRIVACY,
    );
    let asked = signed(2, "a.test", &Opt::new(1232), true);
    let answer = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert_eq!(inspect::flags(&answer) & flag::TC, flag::TC);
    assert_eq!(inspect::question_octets(&answer), inspect::question_octets(&asked));
    assert_eq!(inspect::counts(&answer)[..3], [1, 0, 0]);
    let additional = inspect::records(&answer, Section::Additional);
    assert!(additional.iter().all(|record| record.rtype == 41), "a signature over something else");
    let whole = TcpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    let sent = bench.server.journal().messages.last().unwrap().octets.clone();
    assert_eq!(whole[2..], signed_answer(&sent, 3000)[2..]);
}

#[test]
fn c129_a_signed_transfer_passes_unaltered() {
    let messages = |query: &[u8]| -> Vec<Vec<u8>> {
        (0..20)
            .map(|number: u8| {
                let message = answer_to(query).opt(Opt::new(1232).option(12, &[0; 9]));
                let record = match number {
                    0 | 19 => Rr::soa("zone.test", 60, 60),
                    _ => Rr::a("Host.zone.test", [192, 0, 2, number], 60),
                };
                message.answer(&record).tsig().build()
            })
            .collect()
    };
    let bench = Bench::with(
        |server| server.script(move |received| messages(&received.message).into_iter().map(Act::Answer).collect()),
        ALL_PRIVACY,
    );
    let asked = MessageBuilder::query(0x4242, "zone.test", 252).rd(false).opt(with_subnet()).tsig().build();
    let mut client = TcpClient::connect(bench.proxy.address());
    client.send(&asked);
    let received: Vec<Vec<u8>> = (0..20).map(|_| client.recv(LONG).unwrap().expect("a message")).collect();
    assert_eq!(last_at_server(&bench), asked[2..]);
    let sent = bench.server.journal().messages[0].octets.clone();
    for (received, sent) in received.iter().zip(messages(&sent)) {
        assert_eq!(received[2..], sent[2..]);
        assert_eq!(inspect::id(received), 0x4242);
    }
}

/// A key is negotiated in messages that carry no signature yet, and are signed after the fact by what comes of them.
#[test]
fn c129_tkey_messages_pass_unaltered() {
    let tkey = || Rr::new("1234.key.test", 249, 0, &[name_wire("gss-tsig"), vec![0; 30]].concat()).class(255);
    let answer = move |query: &[u8]| answer_to(query).answer(&tkey()).opt(Opt::new(1232).option(12, &[0; 9])).build();
    let bench =
        Bench::with(|server| server.script(move |received| vec![Act::Answer(answer(&received.message))]), ALL_PRIVACY);
    let asked = MessageBuilder::query(5, "1234.key.test", 249).qclass(255).rd(false);
    let asked = asked.record(Section::Additional, &tkey()).opt(with_subnet()).build();
    let received = TcpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert_eq!(last_at_server(&bench), asked[2..]);
    assert_eq!(received, answer(&asked));
}

#[test]
fn c130_a_message_under_sig0_keeps_its_id() {
    let bench = Bench::with(|server| server, ALL_PRIVACY);
    let signed_update = |id: u16| update(id).record(Section::Additional, &sig0()).build();
    for asked in [signed_update(0x1357), signed(0x1357, "a.test", &with_subnet(), false)] {
        let udp = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
        assert_eq!(bench.server.journal().messages.last().unwrap().octets, asked);
        let tcp = TcpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
        assert_eq!(bench.server.journal().messages.last().unwrap().octets, asked);
        assert_eq!((inspect::id(&udp), inspect::id(&tcp)), (0x1357, 0x1357));
    }
}

/// Two clients with one ID at the same time: their queries must not meet on one connection.
#[test]
fn c130_two_messages_under_sig0_with_one_id_do_not_meet() {
    let late = |received: &Received| {
        vec![Act::AnswerAfter(Duration::from_millis(300), default_builder(&received.message).build())]
    };
    let bench = Bench::with(|server| server.script(late), "");
    let clients: Vec<UdpClient> = (0..2).map(|_| UdpClient::connect(bench.proxy.address())).collect();
    for (number, client) in clients.iter().enumerate() {
        client.send(&signed(0x2468, &format!("n{number}.test"), &Opt::new(1232), false));
    }
    for (number, client) in clients.iter().enumerate() {
        let answer = client.recv(LONG).expect("an answer");
        assert_eq!((inspect::rcode(&answer), inspect::id(&answer)), (0, 0x2468));
        assert_eq!(inspect::question_name(&answer), format!("n{number}.test"));
    }
    let journal = bench.server.journal();
    assert_eq!(journal.messages.len(), 2);
    assert!(journal.messages.iter().all(|message| inspect::id(&message.octets) == 0x2468));
    assert!(journal.connections.iter().all(|connection| connection.reused_ids == 0));
}

/// A keepalive operation of DSO (RFC 8490): one TLV with two timeouts, no sections.
fn dso(id: u16) -> Vec<u8> {
    let tlv = [&[0, 1, 0, 8][..], &[0, 0, 0x3a, 0x98, 0, 0, 0x3a, 0x98]].concat();
    MessageBuilder::empty(id).opcode(DSO).trailing(&tlv).build()
}

#[test]
fn c132_a_stateful_operation_is_not_relayed() {
    let bench = Bench::start();
    assert_eq!(rcode_of(&bench.proxy, &query(1, "a.test", 1)), 0);
    let mut tcp = TcpClient::connect(bench.proxy.address());
    for answer in [tcp.ask(&dso(3)).unwrap(), UdpClient::connect(bench.proxy.address()).ask(&dso(3)).unwrap()] {
        assert_eq!((inspect::rcode(&answer), inspect::opcode(&answer)), (NOTIMP, DSO));
        assert_eq!(inspect::counts(&answer), [0; 4]);
    }
    assert_eq!(bench.server.journal().messages.len(), 1);
    // the client's connection is still good
    assert_eq!(inspect::rcode(&tcp.ask(&query(4, "b.test", 1)).unwrap()), 0);
}

#[test]
fn c132_a_stateful_operation_of_the_server_disturbs_nobody() {
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                let late = default_builder(&received.message).build();
                vec![Act::Raw(framed(&dso(0))), Act::AnswerAfter(Duration::from_millis(100), late)]
            })
        },
        "",
    );
    let mut tcp = TcpClient::connect(bench.proxy.address());
    for number in 0..5 {
        tcp.send(&query(number, &format!("n{number}.test"), 1));
    }
    for _ in 0..5 {
        let answer = tcp.recv(LONG).unwrap().expect("an answer");
        assert_eq!((inspect::rcode(&answer), inspect::opcode(&answer)), (0, 0));
    }
    assert_eq!(tcp.recv(Duration::from_millis(200)), Ok(None), "the client was told of it");
    assert_eq!(rcode_of(&bench.proxy, &query(9, "later.test", 1)), 0);
    assert_eq!(bench.server.journal().messages.len(), 6, "something was asked twice");
}
