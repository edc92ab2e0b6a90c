//! Answers to clients.

use std::time::{Duration, Instant};

use testkit::{Act, TcpClient, a_for, default_answer, framed, inspect, query};

use super::stand::{LATEST, quickest};
use crate::conformance::bench::Bench;

/// The server answers each query after 100 ms, the later ones a little sooner: their order is not that of the queries.
#[test]
fn r32_queries_on_one_connection_do_not_wait_for_each_other() {
    const COUNT: u16 = 50;
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                let sooner = Duration::from_millis(received.nth as u64 % 50 / 2);
                vec![Act::AnswerAfter(Duration::from_millis(100) - sooner, default_answer(&received.message))]
            })
        },
        "",
    );
    let mut client = TcpClient::connect(bench.proxy.address());
    assert!(client.ask(&query(1, "warm.test", 1)).is_some());
    let mut orders = Vec::new();
    let took = quickest(Duration::from_millis(300), || {
        let all: Vec<u8> =
            (0..COUNT).flat_map(|number| framed(&query(7000 + number, &format!("n{number}.test"), 1))).collect();
        let begun = Instant::now();
        client.send_raw(&all);
        let mut ids: Vec<u16> = (0..COUNT)
            .map(|_| {
                let answer = client.recv(LATEST).expect("an open connection").expect("an answer");
                let number = inspect::id(&answer) - 7000;
                assert_eq!(inspect::question_name(&answer), format!("n{number}.test"));
                assert_eq!(inspect::a_records(&answer), [a_for(&format!("n{number}.test"))]);
                number
            })
            .collect();
        let took = begun.elapsed();
        orders.push(ids.clone());
        ids.sort_unstable();
        assert_eq!(ids, (0..COUNT).collect::<Vec<_>>());
        took
    });
    assert!(took < Duration::from_millis(300), "{took:?}");
    assert!(orders.iter().any(|ids| !ids.is_sorted()), "answers were kept in the order of their queries");
}
