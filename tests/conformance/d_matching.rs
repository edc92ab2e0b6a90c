//! Theme D: which answer belongs to which query.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use testkit::message::{a_for, flag};
use testkit::script::default_builder;
use testkit::{
    Act, How, MessageBuilder, Opt, Received, Rr, Section, TcpClient, UdpClient, answer_to, default_answer, framed,
    inspect, query,
};

use super::bench::Bench;
use super::setup::{QUIET, SOON, Setup, arrives, counter, messages, release};

/// The configuration under which a query that nobody answers fails soon.
const IMPATIENT: &str = "deadline = \"800ms\"\nconnect-timeout = \"700ms\"\nsecond-try-after = \"700ms\"";
const FORGED: [u8; 4] = [203, 0, 113, 66];

#[test]
fn c038_queries_beyond_the_cap_wait() {
    let setup = Setup::default().upstream("in-flight = 100\nsecond-try-after = \"3s\"");
    let bench = setup.start(|server| server.script(|_| vec![Act::Silence]));
    let client = UdpClient::connect(bench.proxy.address());
    for id in 0..150 {
        client.send(&query(id, "held.test", 1));
    }
    assert!(arrives(&bench.server, "held.test", 100));
    // the others wait in the proxy, and no second connection is made for them
    assert_eq!(client.recv(QUIET), None);
    assert_eq!((messages(&bench.server), bench.server.journal().accepted()), (100, 1));
    assert_eq!(bench.server.journal().max_in_flight(0), 100);
    bench.server.set_default_script();
    release(&bench.server, "held.test");
    let mut ids: Vec<u16> = (0..150).map(|_| inspect::id(&client.recv(SOON).expect("an answer"))).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..150).collect::<Vec<_>>());
    assert_eq!(messages(&bench.server), 150);
}

/// An answer with the right ID that is none, by its question.
fn wrong_answer(received: &Received) -> MessageBuilder {
    let (id, qtype) = (inspect::id(&received.message), received.qtype);
    let name = &*received.name;
    let other = |name, qtype, qclass| {
        let bare = MessageBuilder::query(id, name, qtype).qclass(qclass).bit(flag::QR | flag::RA, true);
        bare.answer(&Rr::a(name, FORGED, 60))
    };
    match name.split('.').next().unwrap() {
        "name" => other("mane.test", qtype, 1),
        "prefix" => other("prefix.test.test", qtype, 1),
        "type" => other(name, 28, 1),
        "class" => other(name, qtype, 3),
        "two" => other(name, qtype, 1).question(name, qtype, 1),
        "none" => other(name, qtype, 1).no_question(),
        _ => default_builder(&received.message).a(FORGED, 60),
    }
}

const WRONG: [&str; 6] = ["name.test", "prefix.test", "type.test", "class.test", "two.test", "none.test"];

/// Statements 39 (a), (b), (c) and (e), and the NOERROR without question of 40.
#[test]
fn c039_answers_to_other_questions_never_arrive() {
    let mut bench = Setup::default().upstream(IMPATIENT).start(|server| {
        server.script(|received| {
            if WRONG.contains(&&*received.name) {
                vec![Act::Answer(wrong_answer(received).build())]
            } else {
                vec![Act::Default]
            }
        })
    });
    let clients = WRONG.map(|name| {
        let client = UdpClient::connect(bench.proxy.address());
        client.send(&query(39, name, 1));
        (client, name)
    });
    for (client, name) in clients {
        let reply = client.recv(SOON).unwrap_or_else(|| panic!("no reply for {name}"));
        assert_eq!((inspect::rcode(&reply), inspect::counts(&reply)[1]), (2, 0), "{name}");
        // and no memory of it
        bench.server.set_default_script();
        assert_eq!(inspect::a_records(&client.ask(&query(40, name, 1)).unwrap()), [a_for(name)]);
    }
    assert!(counter(&mut bench, "upstream_strays") >= WRONG.len() as u64);
}

#[test]
fn c039_the_right_answer_arrives_behind_wrong_ones() {
    let bench = Bench::with(
        |server| server.script(|received| vec![Act::Answer(wrong_answer(received).build()), Act::Default]),
        "",
    );
    let client = UdpClient::connect(bench.proxy.address());
    for name in WRONG {
        let reply = client.ask(&query(39, name, 1)).unwrap_or_else(|| panic!("no reply for {name}"));
        assert_eq!(inspect::a_records(&reply), [a_for(name)]);
        assert_eq!(client.recv(Duration::from_millis(50)), None);
    }
    assert_eq!((messages(&bench.server), bench.server.journal().accepted()), (WRONG.len(), 1));
}

/// Statement 39 (d).
#[test]
fn c039_the_case_of_the_question_does_not_matter() {
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                let mut answer = default_answer(&received.message);
                answer[12..12 + received.name.len() + 1].make_ascii_uppercase();
                vec![Act::Answer(answer)]
            })
        },
        "",
    );
    let reply = UdpClient::connect(bench.proxy.address()).ask(&query(39, "case.test", 1)).unwrap();
    assert_eq!(inspect::a_records(&reply), [a_for("case.test")]);
    assert_eq!(inspect::question_name(&reply), "case.test");
}

/// An ID that is outstanding on another connection is of no use on this one.
#[test]
fn c039_ids_belong_to_their_connection() {
    let setup = Setup::default().upstream("second-try-after = \"3s\"");
    let bench = setup.start(|server| {
        server.script(|received| if received.connection < 2 { vec![Act::Silence] } else { vec![Act::Default] })
    });
    let client = UdpClient::connect(bench.proxy.address());
    client.send(&query(1, "held.test", 1));
    assert!(arrives(&bench.server, "held.test", 1));
    // the first connection ends: the query is asked again on the second one, with another ID
    bench.server.close_all(How::Fin);
    assert!(arrives(&bench.server, "held.test", 2));
    let journal = bench.server.journal();
    let [first, second] = &journal.messages[..] else { panic!("{:?}", journal.messages) };
    assert_eq!((first.connection, second.connection), (0, 1));
    if first.octets[..2] != second.octets[..2] {
        let forged = answer_to(&first.octets).a(FORGED, 60).build();
        bench.server.send_raw(1, &framed(&forged));
        assert_eq!(client.recv(QUIET), None);
    }
    bench.server.send_raw(1, &framed(&default_answer(&second.octets)));
    assert_eq!(inspect::a_records(&client.recv(SOON).unwrap()), [a_for("held.test")]);
}

#[test]
fn c040_errors_may_leave_the_question_out() {
    let answer = |received: &Received| answer_to(&received.message).no_question();
    let bench = Bench::with(
        |server| {
            server.script(move |received| {
                let code = received.name[4..].split('.').next().unwrap().parse().unwrap();
                vec![Act::Answer(answer(received).rcode(code).build())]
            })
        },
        "",
    );
    let (udp, mut tcp) = (UdpClient::connect(bench.proxy.address()), TcpClient::connect(bench.proxy.address()));
    for code in [1, 2, 3, 4, 5] {
        let asked = query(40, &format!("code{code}.test"), 1);
        for reply in [udp.ask(&asked).unwrap(), tcp.ask(&asked).unwrap()] {
            assert_eq!((inspect::rcode(&reply), inspect::counts(&reply)), (code, [0; 4]));
        }
    }
    assert_eq!(messages(&bench.server), 10);
}

#[test]
fn c040_a_query_without_question_is_answered_without_one() {
    let bench = Bench::start();
    let asked = MessageBuilder::empty(0x4040).opt(Opt::new(1232).option(10, &[1; 8])).build();
    let reply = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert_eq!((inspect::rcode(&reply), inspect::counts(&reply)[0]), (0, 0));
}

#[test]
fn c041_strays_and_duplicates_harm_nobody() {
    const QUERIES: u16 = 100;
    let mut bench = Bench::with(
        |server| {
            server.script(|received| {
                let answer = default_answer(&received.message);
                let mut acts = vec![Act::Answer(answer.clone()), Act::Answer(answer)];
                let id = inspect::id(&received.message);
                // the first of them have IDs in use, if any has, but a question of their own
                acts.extend((0..10).map(|nth: u16| {
                    let stray = query(id.wrapping_add(nth), "stray.test", 1);
                    Act::Answer(answer_to(&stray).a(FORGED, 60).build())
                }));
                acts
            })
        },
        "",
    );
    let client = UdpClient::connect(bench.proxy.address());
    for id in 0..QUERIES {
        client.send(&query(id, &format!("{id}.test"), 1));
    }
    let mut answered = HashSet::new();
    for _ in 0..QUERIES {
        let reply = client.recv(SOON).expect("an answer");
        let id = inspect::id(&reply);
        assert_eq!(inspect::a_records(&reply), [a_for(&format!("{id}.test"))]);
        assert!(answered.insert(id), "{id} was answered twice");
    }
    assert_eq!(client.recv(QUIET), None);
    assert_eq!((messages(&bench.server), bench.server.journal().accepted()), (usize::from(QUERIES), 1));
    assert_eq!(counter(&mut bench, "upstream_strays"), 11 * u64::from(QUERIES));
}

/// What is no response ends the connection, and the queries on it are asked again.
fn garbage_costs_a_connection_and_no_query(garbage: &[u8]) {
    let bench = Setup::default().upstream("second-try-after = \"3s\"").start(|server| {
        server.script(|received| if received.connection == 0 { vec![Act::Silence] } else { vec![Act::Default] })
    });
    let client = UdpClient::connect(bench.proxy.address());
    let names = [1, 2, 3, 4, 5].map(|id| format!("{id}.test"));
    for (id, name) in (1..).zip(&names) {
        client.send(&query(id, name, 1));
    }
    assert!(bench.server.wait_for(|journal| journal.messages.len() == 5, SOON));
    let since = Instant::now();
    bench.server.send_raw(0, garbage);
    let mut ids = Vec::new();
    for _ in 0..5 {
        let reply = client.recv(SOON).expect("an answer");
        assert_eq!(inspect::a_records(&reply), [a_for(&inspect::question_name(&reply))]);
        ids.push(inspect::id(&reply));
    }
    // asked again at once, not when a second try was due
    assert!(since.elapsed() < Duration::from_secs(3));
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    assert!(bench.server.wait_for(|journal| !journal.connections[0].is_open(), SOON));
    assert_eq!((messages(&bench.server), bench.server.journal().accepted()), (10, 2));
}

#[test]
fn c042_a_query_from_the_server_ends_the_connection() {
    garbage_costs_a_connection_and_no_query(&framed(&query(42, "no-response.test", 1)));
}

#[test]
fn c042_a_short_message_from_the_server_ends_the_connection() {
    garbage_costs_a_connection_and_no_query(&framed(&[0x80; 11]));
}

#[test]
fn c042_an_empty_message_from_the_server_ends_the_connection() {
    garbage_costs_a_connection_and_no_query(&[0, 0]);
}

/// Records behind the end: the answer of that server is no answer.
#[test]
fn c042_garbled_answers_never_arrive() {
    let bench = Setup::default().upstream(IMPATIENT).start(|server| {
        server.script(|received| {
            let garbled = default_builder(&received.message).count(Section::Answer, 9);
            vec![if received.name == "garbled.test" { Act::Answer(garbled.build()) } else { Act::Default }]
        })
    });
    let client = UdpClient::connect(bench.proxy.address());
    let reply = client.ask(&query(42, "garbled.test", 1)).unwrap();
    assert_eq!((inspect::rcode(&reply), inspect::counts(&reply)[1]), (2, 0));
    assert_eq!(inspect::a_records(&client.ask(&query(43, "good.test", 1)).unwrap()), [a_for("good.test")]);
}
