//! What an answer from memory costs.
#![expect(clippy::panic, clippy::unwrap_used, reason = "tests fail loudly")]

use std::net::IpAddr;

use super::Verdict;
use crate::bare_path_tests::bare_path;
use crate::dns::crossing::{Link, Passage, Switches};
use crate::dns::message::{Message, ReadMessage};
use crate::dns::reuse::KeyRoom;
use crate::relay::Relay;
use crate::spares;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn question(edns: bool) -> Vec<u8> {
    let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x04test\0\0\x01\0\x01".to_vec();
    if edns {
        query[11] = 1;
        query.extend(b"\0\0\x29\x04\xd0\0\0\x80\0\0\0");
    }
    query
}

/// The answer of a resolver: one address.
fn answer(edns: bool) -> Vec<u8> {
    let mut answer = question(edns);
    let opt = answer.split_off(26);
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02\x01");
    [answer, opt].concat()
}

#[test]
fn an_answer_from_memory_allocates_nothing() {
    for (edns, link) in [(false, 512), (true, 1232)].map(|(edns, limit)| (edns, Link::Datagram { limit })) {
        let path = bare_path(1 << 20);
        let (asked, rules) = (question(edns), path.rules());
        let query = Message::parse(&asked).unwrap();
        let mut room = KeyRoom::default();
        let errand = rules.memory.errand(rules.memory.address(&query, link, &mut room).unwrap());
        let passage = Passage::new(&query, Switches::default(), link);
        errand.learn(&Ok(ReadMessage::new(answer(edns))), &passage);
        let hit = || match path.receive(&asked, CLIENT, link) {
            Verdict::Reply(reply) => {
                assert_eq!(reply.get(26..38), answer(edns).get(26..38));
                spares::give(reply);
            }
            _ => panic!("not in memory"),
        };
        hit();
        let measured = allocation_counter::measure(|| {
            for _ in 0..1000 {
                let Verdict::Reply(reply) = path.receive(&asked, CLIENT, link) else { panic!("not in memory") };
                spares::give(reply);
            }
        });
        assert_eq!((measured.count_total, path.counters().cache_hits.get()), (0, 1001), "with EDNS: {edns}");
    }
}

#[test]
fn a_query_on_its_way_is_small() {
    let path = bare_path(1 << 20);
    let Verdict::Relay(pending) = path.receive(&question(true), CLIENT, Link::Datagram { limit: 1232 }) else {
        panic!("it must be asked")
    };
    // hundreds wait at the same time, and what they take passes through the processor's cache twice
    let size = size_of_val(&Relay::new(path, pending));
    assert!(size <= 224, "{size} octets");
}
