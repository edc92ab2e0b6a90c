//! Theme H: every query ends in time, and none is asked too often.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use testkit::message::{MessageBuilder, answer_to};
use testkit::{
    Act, DotServer, How, Identity, Opt, Pki, Proxy, Received, Stage, TcpClient, UdpClient, default_answer, inspect,
    message, query,
};

use super::bench::Bench;
use super::resolvers::{LONG, SERVFAIL, proxy_before, rcode_of};
use crate::faults::stand::quickest;

/// The default deadline.
const DEADLINE: Duration = Duration::from_secs(4);

fn silent(_: &Received) -> Vec<Act> {
    vec![Act::Silence]
}

/// A server with this script; others of the same identity may stand beside it.
fn server(identity: &Identity, script: impl Fn(&Received) -> Vec<Act> + Send + Sync + 'static) -> DotServer {
    DotServer::builder().identity(identity.clone()).script(script).start()
}

fn default(_: &Received) -> Vec<Act> {
    vec![Act::Default]
}

#[test]
fn c076_a_query_without_an_answer_ends_at_the_deadline() {
    let bench = Bench::with(|server| server.script(silent), "");
    let ask = |over_tcp: bool, with_opt: bool| {
        let mut asked = MessageBuilder::query(0x1234, "Never.test", 1);
        if with_opt {
            asked = asked.opt(Opt::new(1232));
        }
        let begun = Instant::now();
        // PATIENCE of the clients is five seconds: a stub's usual retry
        let answer = if over_tcp {
            TcpClient::connect(bench.proxy.address()).ask(&asked.build())
        } else {
            UdpClient::connect(bench.proxy.address()).ask(&asked.build())
        };
        let (answer, took) = (answer.expect("a reply before the stub asks again"), begun.elapsed());
        assert_eq!(inspect::rcode(&answer), SERVFAIL);
        assert_eq!(inspect::question_octets(&answer), inspect::question_octets(&asked.build()));
        assert_eq!(inspect::opt(&answer).is_some(), with_opt);
        if with_opt {
            assert_eq!(inspect::ede(&answer), Some(22));
        }
        assert!(took >= DEADLINE - Duration::from_millis(100), "{took:?}");
        assert!(took <= Duration::from_millis(4900), "{took:?}");
    };
    thread::scope(|scope| {
        for (over_tcp, with_opt) in [(false, false), (false, true), (true, false), (true, true)] {
            scope.spawn(move || ask(over_tcp, with_opt));
        }
    });
}

/// How long it takes until a question has its reply that failed a moment ago.
fn repeat(bench: &Bench, asked: &[u8]) -> Duration {
    let begun = Instant::now();
    let answer = UdpClient::connect(bench.proxy.address()).ask(asked).expect("a reply");
    assert!(inspect::rcode(&answer) == SERVFAIL && matches!(inspect::ede(&answer), Some(22 | 23)));
    begun.elapsed()
}

/// Every way in which a server can fail before it could answer.
#[test]
fn c076_r16_r22_a_query_that_reaches_nobody_ends_by_the_deadline() {
    let stages = [
        Stage::RefuseConnections,
        Stage::BlackHoleSyn,
        Stage::AcceptThenSilence,
        Stage::RstAfterAccept,
        Stage::CloseAfterClientHello,
        Stage::SilenceAfterServerHello,
    ];
    thread::scope(|scope| {
        for stage in stages {
            scope.spawn(move || {
                let bench = Bench::with(|server| server.stage(stage), "");
                let asked = MessageBuilder::query(1, "never.test", 1).opt(Opt::new(1232)).build();
                let begun = Instant::now();
                let answer = UdpClient::connect(bench.proxy.address()).ask(&asked).expect("a reply");
                assert!(begun.elapsed() <= Duration::from_millis(4500), "{stage:?}: {:?}", begun.elapsed());
                assert_eq!((inspect::rcode(&answer), inspect::ede(&answer)), (SERVFAIL, Some(23)), "{stage:?}");
                // who asks again is told at once; how soon, half of the repeats say
                let repeated = quickest(Duration::from_millis(50), || {
                    let mut times: Vec<Duration> = (0..11).map(|_| repeat(&bench, &asked)).collect();
                    times.sort();
                    times[5]
                });
                assert!(repeated <= Duration::from_millis(50), "{stage:?}: {repeated:?}\n{}", bench.proxy.log());
            });
        }
    });
}

#[test]
fn c077_a_second_server_has_its_turn_in_time() {
    for stage in [Stage::BlackHoleSyn, Stage::AcceptThenSilence, Stage::SilenceAfterServerHello] {
        let pki = Pki::new();
        let identity = pki.server(&["upstream.test"]);
        let dead = DotServer::builder().identity(identity.clone()).stage(stage).start();
        let good = DotServer::start(identity);
        let proxy = proxy_before(&[&dead, &good], pki.ca_file(), "");
        let begun = Instant::now();
        assert_eq!(rcode_of(&proxy, &query(1, "a.test", 1)), 0);
        // 300 ms more than without the dead one, and what a busy machine takes
        assert!(begun.elapsed() < Duration::from_millis(800), "{stage:?}: {:?}", begun.elapsed());
    }
}

#[test]
fn c078_one_server_gets_at_most_three_copies() {
    let bench = Bench::with(|server| server.script(|_| vec![Act::Rst]), "");
    assert_eq!(rcode_of(&bench.proxy, &query(1, "over.udp.test", 1)), SERVFAIL);
    let answer = TcpClient::connect(bench.proxy.address()).ask(&query(1, "over.tcp.test", 1)).unwrap();
    assert_eq!(inspect::rcode(&answer), SERVFAIL);
    for name in ["over.udp.test", "over.tcp.test"] {
        let copies = bench.server.journal().messages_named(name).len();
        assert!((1..=3).contains(&copies), "{copies} copies of {name}");
    }
}

/// Connections that come about and never bring an answer, and queries that drive each other to new ones.
#[test]
fn c078_a_silent_server_gets_at_most_three_copies() {
    let pki = Pki::new();
    let server = server(&pki.server(&["upstream.test"]), silent);
    let lines = "deadline = \"2s\"\nsecond-try-after = \"300ms\"";
    let proxy = proxy_before(&[&server], pki.ca_file(), lines);
    let client = UdpClient::connect(proxy.address());
    for number in 0..60 {
        client.send(&query(number, &format!("n{number}.test"), 1));
        thread::sleep(Duration::from_millis(50));
    }
    let journal = server.journal();
    let copies = (0..60).map(|number| journal.messages_named(&format!("n{number}.test")).len()).max();
    assert!(matches!(copies, Some(2..=3)), "{copies:?} copies of one query");
}

/// What a server must not get twice, whatever became of it: UPDATE, NOTIFY, unknown operations, and transfers.
#[test]
fn c079_only_plain_queries_are_sent_again() {
    let bench = Bench::with(|server| server.script(|_| vec![Act::Rst]), "");
    let update = MessageBuilder::query(1, "update.test", 6).opcode(5).rd(false).build();
    let notify = MessageBuilder::query(2, "notify.test", 6).opcode(4).rd(false).build();
    let unknown = MessageBuilder::query(3, "unknown.test", 1).opcode(9).build();
    let ixfr = MessageBuilder::query(4, "ixfr.test", 251).rd(false).build();
    let axfr = MessageBuilder::query(5, "axfr.test", 252).rd(false).build();
    let plain = query(6, "plain.test", 1);
    for (message, over_udp) in
        [(&update, true), (&notify, true), (&unknown, true), (&ixfr, true), (&axfr, false), (&plain, true)]
    {
        let name = inspect::question_name(message);
        let mut sent = 0;
        if over_udp {
            assert_eq!(rcode_of(&bench.proxy, message), SERVFAIL, "{name}");
            sent += 1;
        }
        if message != &plain {
            let answer = TcpClient::connect(bench.proxy.address()).ask(message).expect("a reply");
            assert_eq!(inspect::rcode(&answer), SERVFAIL, "{name}");
            assert_eq!(inspect::opcode(&answer), inspect::opcode(message));
            sent += 1;
        }
        let copies = bench.server.journal().messages_named(&name).len();
        if message == &plain {
            assert!(copies > sent, "nothing is ever sent again: the test proves nothing");
        } else {
            assert_eq!(copies, sent, "{name}");
        }
    }
}

/// A server that goes away is one thing, a server that is slow another: an UPDATE waits for its only answer.
#[test]
fn c079_an_update_is_not_asked_of_a_second_server() {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    let slow = server(&identity, |received| {
        vec![Act::AnswerAfter(Duration::from_millis(1500), default_answer(&received.message))]
    });
    let other = server(&identity, default);
    let proxy = proxy_before(&[&slow, &other], pki.ca_file(), "second-try-after = \"200ms\"");
    let update = MessageBuilder::query(1, "update.test", 6).opcode(5).rd(false).build();
    assert_eq!(rcode_of(&proxy, &update), 0);
    assert_eq!((slow.journal().messages.len(), other.journal().messages.len()), (1, 0));
}

/// Ten queries a second for `time`, none waiting for another: when each was asked, counted from `since`, and how long
/// its answer took. All must be answered.
fn ask_along(proxy: &Proxy, prefix: &str, since: Instant, time: Duration) -> Vec<(Duration, Duration)> {
    let (begun, asking) = (Instant::now(), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let mut number = 0;
        while begun.elapsed() < time {
            let name = format!("{prefix}{number}.test");
            let asking = &asking;
            scope.spawn(move || {
                let asked_at = Instant::now();
                let answer = UdpClient::connect(proxy.address()).ask(&query(1, &name, 1)).expect("an answer");
                assert_eq!(inspect::rcode(&answer), 0, "{name}:\n{}", proxy.log());
                assert_eq!(inspect::a_records(&answer), [message::a_for(&name)]);
                asking.lock().unwrap().push((asked_at.duration_since(since), asked_at.elapsed()));
            });
            number += 1;
            thread::sleep(Duration::from_millis(100));
        }
    });
    let mut times = asking.into_inner().unwrap();
    times.sort();
    times
}

/// A server fails as `fail` makes it and comes back as `heal` makes it. What is asked while nobody can know of the
/// failure may be slow; `unknown` says how long that is.
fn skipped_and_used_again(fail: impl Fn(&DotServer), unknown: Duration, heal: impl Fn(&DotServer)) {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    let (first, second) = (server(&identity, default), server(&identity, default));
    let proxy = proxy_before(&[&first, &second], pki.ca_file(), "");
    ask_along(&proxy, "before", Instant::now(), Duration::from_millis(300));
    assert_eq!(second.journal().messages.len(), 0, "the second server is used without need");
    fail(&first);
    let times = ask_along(&proxy, "without", Instant::now(), Duration::from_secs(5));
    let slow = |(asked, took): &&(Duration, Duration)| *asked > unknown && *took > Duration::from_millis(500);
    let count = times.iter().filter(slow).count();
    assert!(
        count <= 3,
        "{count} of {} answers took longer than half a second: {times:?}\n{}",
        times.len(),
        proxy.log()
    );
    heal(&first);
    first.clear_messages();
    let begun = Instant::now();
    while !first.with_journal(|journal| journal.messages.iter().any(|message| message.name.starts_with("after"))) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the first server is not used again:\n{}", proxy.log());
        ask_along(&proxy, "after", begun, Duration::from_millis(100));
    }
}

#[test]
fn c080_r19_a_server_that_is_gone_is_skipped_and_used_again() {
    skipped_and_used_again(|first| first.go_down(How::Rst), Duration::ZERO, DotServer::restart);
}

#[test]
fn c080_r19_a_server_behind_a_dead_path_is_skipped_and_used_again() {
    let fail = |first: &DotServer| {
        first.freeze_existing();
        first.set_stage(Stage::BlackHoleSyn);
    };
    // a connection on which nothing comes is known for dead after `second-try-after`
    skipped_and_used_again(fail, Duration::from_millis(1300), |first| first.set_stage(Stage::Normal));
}

/// The server greets and never answers: TLS is done by another process than DNS, and that one hangs.
#[test]
fn c080_r19_a_server_that_only_greets_is_skipped_and_used_again() {
    // the first silent connection may be the path's fault, the second is the server's
    let unknown = Duration::from_millis(2600);
    skipped_and_used_again(|first| first.set_script(silent), unknown, |first| first.set_script(default));
}

/// Nor does it help that it sends something, where that answers no query.
#[test]
fn c080_r19_a_server_that_sends_strays_alone_is_skipped_and_used_again() {
    let unknown = Duration::from_millis(2600);
    let strays = |received: &Received| {
        let id = inspect::id(&received.message).wrapping_add(1);
        vec![Act::Answer(answer_to(&query(id, &received.name, 1)).build())]
    };
    skipped_and_used_again(|first| first.set_script(strays), unknown, |first| first.set_script(default));
}

/// The statement's 20 seconds are three, and so is its deadline shortened. In this time 6,000 queries come, of which
/// 2,000 are outstanding at any moment.
#[test]
fn c081_r33_overload_is_bounded_and_ends_with_its_cause() {
    let pki = Pki::new();
    let first = server(&pki.server(&["upstream.test"]), silent);
    let proxy = proxy_before(
        &[&first],
        pki.ca_file(),
        "deadline = \"1s\"\nconnect-timeout = \"500ms\"\nsecond-try-after = \"500ms\"\nin-flight = 512\nqueue = 512",
    );
    let before = proxy.rss_kib();
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (address, stop) = (proxy.address(), Arc::clone(&stop));
        thread::spawn(move || {
            let clients: Vec<UdpClient> = (0..16).map(|_| UdpClient::connect(address)).collect();
            let mut sent = 0_u16;
            while !stop.load(Ordering::Relaxed) {
                for client in &clients {
                    client.send(&query(sent, &format!("load{sent}.test"), 1));
                    sent = sent.wrapping_add(1);
                }
                thread::sleep(Duration::from_millis(8));
            }
            sent
        })
    };
    let (begun, mut peak) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(3) {
        peak = peak.max(proxy.rss_kib());
        thread::sleep(Duration::from_millis(50));
    }
    stop.store(true, Ordering::Relaxed);
    assert!(load.join().unwrap() > 2000, "there was no load");
    assert!(peak < before + 64 * 1024, "from {before} to {peak} KiB");
    first.set_script(default);
    let begun = Instant::now();
    while rcode_of(&proxy, &query(1, "awake.test", 1)) == SERVFAIL {
        assert!(begun.elapsed() < Duration::from_secs(2), "{}", proxy.log());
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(rcode_of(&proxy, &query(2, "again.test", 1)), 0);
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[test]
fn c081_a_late_answer_does_not_follow_a_servfail() {
    let pki = Pki::new();
    let late =
        |received: &Received| vec![Act::AnswerAfter(Duration::from_millis(1200), default_answer(&received.message))];
    let server = server(&pki.server(&["upstream.test"]), late);
    let proxy = proxy_before(
        &[&server],
        pki.ca_file(),
        "deadline = \"600ms\"\nconnect-timeout = \"500ms\"\nsecond-try-after = \"500ms\"",
    );
    let udp = UdpClient::connect(proxy.address());
    let mut tcp = TcpClient::connect(proxy.address());
    udp.send(&query(1, "udp.test", 1));
    tcp.send(&query(2, "tcp.test", 1));
    assert_eq!(inspect::rcode(&udp.recv(LONG).unwrap()), SERVFAIL);
    assert_eq!(inspect::rcode(&tcp.recv(LONG).unwrap().unwrap()), SERVFAIL);
    assert_eq!(udp.recv(Duration::from_secs(2)), None);
    assert_eq!(tcp.recv(Duration::from_millis(1)), Ok(None));
    assert!(!server.journal().messages.is_empty());
}
