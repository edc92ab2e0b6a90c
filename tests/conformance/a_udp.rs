//! Theme A: listening on UDP.

use testkit::{UdpClient, inspect, message, query};

use super::bench::Bench;

#[test]
fn c010_answers_come_back() {
    let bench = Bench::start();
    let answer = UdpClient::connect(bench.proxy.address()).ask(&query(7, "wWw.example.com", 1)).unwrap();
    assert_eq!(inspect::a_records(&answer), [message::a_for("www.example.com")]);
    assert_eq!(inspect::question_name(&answer), "wWw.example.com");
}
