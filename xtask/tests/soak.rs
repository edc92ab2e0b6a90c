//! The client of the long tests, judged by a plain server, and what they see of a process.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::{answer_to, inspect, query};
use xtask::soak_load::Load;
use xtask::soak_watch::Held;

const SOON: Duration = Duration::from_secs(10);
const A: u16 = 1;

#[test]
fn the_load_tells_lost_from_failed_from_excused_and_asks_once() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let load = Load::start(socket.local_addr().unwrap(), 100).unwrap();
    // of four queries one is answered, one fails, one gets another's answer first, one gets nothing
    let (mut buffer, mut seen) = (vec![0; 512], std::collections::BTreeSet::new());
    let mut answer = |count: usize| {
        for number in 0..count {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            let asked = &buffer[..length];
            assert!(seen.insert(inspect::question_name(asked)), "asked twice");
            let good = testkit::default_answer(asked);
            let answers = match number % 4 {
                0 => vec![good],
                1 => vec![answer_to(asked).rcode(2).build()],
                2 => vec![testkit::default_answer(&query(inspect::id(asked), "other.test", A)), good],
                _ => Vec::new(),
            };
            for answer in answers {
                socket.send_to(&answer, from).unwrap();
            }
        }
    };
    answer(40);
    load.excuse(true);
    // what was on its way when the excuse began has none
    let on_its_way = load.outcome().sent;
    answer(40);
    load.rate(0);
    let outcome = load.finish();
    assert!(outcome.sent >= 80 && on_its_way >= 40);
    assert_eq!(outcome.answered, 40, "{outcome:?}");
    assert_eq!(outcome.missed() + outcome.excused, outcome.sent - 40, "{outcome:?}");
    assert!(outcome.lost >= 10 && outcome.failed >= 10 && outcome.excused >= 15, "{outcome:?}");
}

#[test]
fn what_a_process_holds_can_be_seen() {
    // it says when it has begun, and again when it has opened two files more
    let script = "echo; read x; exec 7</dev/null 8</dev/null; echo; read x";
    let mut child =
        Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let (mut orders, mut said) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    said.read_exact(&mut [0]).unwrap();
    let before = Held::by(id).unwrap();
    orders.write_all(b"\n").unwrap();
    said.read_exact(&mut [0]).unwrap();
    assert_eq!(Held::by(id).unwrap().files, before.files + 2);
    assert!(before.rss_kib > 100);
    drop(orders);
    child.wait().unwrap();
    assert!(Held::by(id).is_err());
}
