//! The servers of the bench of faults and of the long tests, judged by plain clients.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::tls_client::client_config;
use testkit::{Ended, How, Pki, TlsClient, inspect, query};
use xtask::fault_server;
use xtask::troubled::Troubled;

const SOON: Duration = Duration::from_secs(10);
const A: u16 = 1;

struct Bench {
    pki: Pki,
    server: Arc<Troubled>,
}

fn bench(answer_after: Duration) -> Bench {
    let pki = Pki::new();
    let server = Troubled::start(pki.server(&["upstream.test"]), "127.0.0.1:0", answer_after);
    Bench { pki, server }
}

impl Bench {
    fn connect(&self) -> TlsClient {
        let config = Arc::new(client_config(&self.pki));
        TlsClient::connect(self.server.server().address(), "upstream.test", &config).unwrap()
    }
}

#[test]
fn a_black_hole_holds_up_queries_and_handshakes_and_then_lets_them_through() {
    let bench = bench(Duration::ZERO);
    let mut client = bench.connect();
    assert!(client.ask(&query(1, "before.test", A)).is_some());
    let (start, hole) = (Instant::now(), Duration::from_millis(600));
    bench.server.black_hole(hole);
    client.send(&query(2, "within.test", A));
    bench.connect();
    assert!(start.elapsed() >= hole, "a handshake in the hole");
    let answer = client.recv(SOON).unwrap().unwrap();
    assert_eq!(inspect::id(&answer), 2);
}

#[test]
fn answers_come_as_late_as_the_path_is_long() {
    let late = Duration::from_millis(200);
    let bench = bench(late);
    let (mut client, start) = (bench.connect(), Instant::now());
    assert!(client.ask(&query(1, "late.test", A)).is_some());
    assert!(start.elapsed() >= late);
}

#[test]
fn connections_end_behind_their_first_answer_and_when_they_are_idle() {
    let bench = bench(Duration::ZERO);
    bench.server.close_after_answer(Some(How::CloseNotify));
    let mut client = bench.connect();
    assert!(client.ask(&query(1, "only.test", A)).is_some());
    assert_eq!(client.wait_for_end(SOON), Some(Ended::CloseNotify));
    bench.server.close_after_answer(None);
    bench.server.idle_limit(Some(Duration::from_millis(100)));
    assert_eq!(bench.connect().wait_for_end(SOON), Some(Ended::CloseNotify));
}

#[test]
fn the_fault_server_does_each_line_and_tells_what_came_of_it() {
    let input = "counts\n0 idle-limit 2\nall rst\n1 down\n1 up\nall hole x\n2 rst\nall dance\nall close-after-answer\n";
    let mut output = Vec::new();
    let listen = ["127.0.0.1:0".to_owned(), "127.0.0.2:0".to_owned()];
    let ca_file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ca.pem");
    fault_server::run(&listen, Duration::ZERO, &ca_file, input.as_bytes(), &mut output).unwrap();
    let text = String::from_utf8(output).unwrap();
    let said: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(said.len(), 10, "{text}");
    assert!(said[0]["servers"][1].as_str().unwrap().starts_with("127.0.0.2:"));
    let nothing = json!({ "connections": 0, "full": 0, "resumed": 0, "queries": 0, "open": 0 });
    assert_eq!(said[1], json!([nothing, nothing]));
    let errors: Vec<bool> = said.iter().map(|answer| answer.get("error").is_some()).collect();
    assert_eq!(errors[2..], [false, false, false, false, true, true, true, false]);
    assert!(std::fs::read_to_string(&ca_file).unwrap().contains("BEGIN CERTIFICATE"));
}
