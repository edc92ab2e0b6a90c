//! Theme D: the message IDs of queries to resolvers.

use std::collections::HashSet;

use testkit::message::a_for;
use testkit::{Act, UdpClient, default_answer, framed, inspect, query};

use super::setup::{QUIET, SOON, Setup, messages, release};

#[test]
fn c037_every_client_may_use_the_same_id() {
    const QUERIES: usize = 2_000;
    const CLIENTS: usize = 20;
    let setup = Setup::default().upstream("deadline = \"20s\"\nsecond-try-after = \"15s\"");
    let bench = setup.start(|server| server.script(|_| vec![Act::Silence]));
    let clients = [(); CLIENTS].map(|()| UdpClient::connect(bench.proxy.address()));
    for number in 0..QUERIES {
        clients[number % CLIENTS].send(&query(0x1234, &format!("{number}.test"), 1));
        // no more at once than a socket's buffer surely takes
        if number % 100 == 99 {
            assert!(bench.server.wait_for(|journal| journal.messages.len() == number + 1, SOON));
        }
    }
    let journal = bench.server.journal();
    assert_eq!((journal.accepted(), journal.max_in_flight(0)), (1, QUERIES));
    let ids: Vec<u16> = journal.messages.iter().map(|message| inspect::id(&message.octets)).collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), QUERIES);
    // from no counter, and from all of the 16 bits
    let steps: HashSet<u16> = ids.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps.len() > QUERIES * 9 / 10, "{} different steps", steps.len());
    for bit in 0..16 {
        let ones = ids.iter().filter(|&&id| id >> bit & 1 == 1).count();
        assert!((800..1_200).contains(&ones), "bit {bit} is set in {ones}");
    }

    // answered in the opposite order, batch by batch, so that no client's buffer overflows
    let mut names = HashSet::new();
    for batch in journal.messages.rchunks(200) {
        for message in batch.iter().rev() {
            bench.server.send_raw(0, &framed(&default_answer(&message.octets)));
        }
        for message in batch {
            let number: usize = message.name.split('.').next().unwrap().parse().unwrap();
            let reply = clients[number % CLIENTS].recv(SOON).expect("an answer");
            let name = inspect::question_name(&reply);
            assert_eq!((inspect::id(&reply), inspect::a_records(&reply)), (0x1234, vec![a_for(&name)]));
            assert!(names.insert(name));
        }
    }
    assert_eq!(names.len(), QUERIES);
}

/// A thousand IDs held for queries that were given up, and many times as many queries: a proxy that used an ID again
/// would meet one of the thousand at every sixty-fifth draw.
#[test]
fn c037_an_unanswered_query_keeps_its_id() {
    const HELD: u16 = 1_000;
    const OTHERS: usize = 10_000;
    let setup = Setup::default()
        .upstream("deadline = \"3s\"\nconnect-timeout = \"2s\"\nsecond-try-after = \"2900ms\"\nidle-timeout = \"60s\"");
    let bench = setup.start(|server| {
        server.script(|received| vec![if received.name == "held.test" { Act::Silence } else { Act::Default }])
    });
    let (late, client) = (UdpClient::connect(bench.proxy.address()), UdpClient::connect(bench.proxy.address()));
    let mut seen = 0;
    let mut ask = |batch: u16| {
        for number in 0..batch {
            client.send(&query(number, &format!("{number}.other.test"), 1));
        }
        for _ in 0..batch {
            let reply = client.recv(SOON).expect("an answer");
            assert_eq!(inspect::a_records(&reply), [a_for(&format!("{}.other.test", inspect::id(&reply)))]);
        }
        seen += usize::from(batch);
        seen
    };
    for id in 0..HELD {
        late.send(&query(id, "held.test", 1));
        if id % 100 == 99 {
            assert!(
                bench.server.wait_for(|journal| journal.messages_named("held.test").len() == usize::from(id) + 1, SOON)
            );
        }
    }
    // the connection is alive, so it stays
    while ask(100) < OTHERS {}
    // the clients of the held ones are told that there is no answer, and the IDs are still not free
    let first = late.recv(SOON).expect("a reply");
    assert_eq!(inspect::rcode(&first), 2);
    while let Some(reply) = late.recv(QUIET) {
        assert_eq!(inspect::rcode(&reply), 2);
    }
    while ask(100) < 2 * OTHERS {}
    let journal = bench.server.journal();
    assert_eq!((journal.accepted(), journal.connections[0].reused_ids), (1, 0));
    assert_eq!(messages(&bench.server), usize::from(HELD) + 2 * OTHERS);

    // late answers reach nobody
    release(&bench.server, "held.test");
    ask(100);
    assert_eq!(late.recv(QUIET), None);
    assert_eq!(client.recv(QUIET), None);
    assert_eq!(bench.server.journal().accepted(), 1);
}
