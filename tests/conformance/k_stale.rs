//! Themes K and L: answers whose time is over, failures that are remembered, and equal questions on their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use testkit::{Act, How, MessageBuilder, Opt, Received, Rr, TcpClient, UdpClient, answer_to, inspect, query};

use super::bench::Bench;
use super::setup::{SOON, Setup, arrives, messages};

const ADDRESS: [u8; 4] = [192, 0, 2, 7];
const EDE: u16 = 15;
const SERVFAIL: u16 = 2;
const REFUSED: u16 = 5;
const STALE: &str = "stale = \"1h\"";

/// What the server does, to be changed while it runs.
#[derive(Clone, Default)]
struct Mood(Arc<AtomicU8>);

const WELL: u8 = 0;
const FAILING: u8 = 1;
const SLOW: u8 = 2;
const LATE: u8 = 3;
const SILENT: u8 = 4;
const BRIEF: u8 = 5;
const NOTHING: u8 = 6;
const REFUSING: u8 = 7;

impl Mood {
    fn be(&self, mood: u8) {
        self.0.store(mood, Ordering::SeqCst);
    }

    fn script(self) -> impl Fn(&Received) -> Vec<Act> + Send + Sync + 'static {
        move |received| {
            let answer = answer_to(&received.message);
            let answer = match received.name.as_str() {
                "none.test" => answer.rcode(3).record(testkit::Section::Authority, &Rr::soa("test", 1, 1)),
                _ => answer.a(ADDRESS, 1).a([192, 0, 2, 8], 300),
            };
            let opt = inspect::opt(&received.message);
            let with_opt = |answer: MessageBuilder| match &opt {
                Some(opt) => answer.opt(Opt::new(1232).flags(opt.flags)),
                None => answer,
            };
            let well = with_opt(answer).build();
            match self.0.load(Ordering::SeqCst) {
                WELL => vec![Act::Answer(well)],
                FAILING => vec![Act::Answer(with_opt(answer_to(&received.message).rcode(SERVFAIL)).build())],
                SLOW => vec![Act::AnswerAfter(Duration::from_millis(100), well)],
                LATE => vec![Act::AnswerAfter(Duration::from_millis(2600), well)],
                BRIEF => vec![Act::Answer(with_opt(answer_to(&received.message).a(ADDRESS, 0)).build())],
                NOTHING => vec![Act::Answer(with_opt(answer_to(&received.message).rcode(3)).build())],
                REFUSING => vec![Act::Answer(with_opt(answer_to(&received.message).rcode(REFUSED)).build())],
                _ => vec![Act::Silence],
            }
        }
    }
}

fn start(cache: &str) -> (Bench, Mood) {
    let mood = Mood::default();
    let script = mood.clone().script();
    (Setup::default().cache(cache).upstream("").start(move |server| server.script(script)), mood)
}

fn edns(name: &str) -> Vec<u8> {
    MessageBuilder::query(107, name, 1).opt(Opt::new(1232)).build()
}

/// The answer, and how long it took.
fn ask(bench: &Bench, message: &[u8]) -> (Vec<u8>, Duration) {
    let began = Instant::now();
    let answer = UdpClient::connect(bench.proxy.address()).ask_within(message, SOON).expect("an answer");
    (answer, began.elapsed())
}

fn ttls(answer: &[u8]) -> Vec<u32> {
    let records = inspect::all_records(answer).expect("records");
    records.into_iter().filter(|(_, record)| record.rtype != 41).map(|(_, record)| record.ttl).collect()
}

/// Puts an answer into the memory, and waits until its second is over.
fn prime(bench: &Bench, message: &[u8]) {
    ask(bench, message);
    std::thread::sleep(Duration::from_millis(1050));
}

#[test]
fn c106_what_is_past_its_time_is_given_only_when_that_is_asked_for() {
    let (bench, _) = start("");
    prime(&bench, &edns("www.test"));
    bench.server.go_down(How::Rst);
    assert_eq!(inspect::rcode(&ask(&bench, &edns("www.test")).0), SERVFAIL);
}

#[test]
fn c107_a_fresh_answer_is_waited_for_a_while_and_kept_when_it_comes() {
    let (bench, mood) = start(STALE);
    prime(&bench, &edns("www.test"));
    mood.be(SLOW);
    let (answer, took) = ask(&bench, &edns("www.test"));
    assert!(ttls(&answer) == [1, 300] && took >= Duration::from_millis(100), "{took:?}");
    std::thread::sleep(Duration::from_millis(1050));
    mood.be(LATE);
    let (answer, took) = ask(&bench, &edns("www.test"));
    assert_eq!((ttls(&answer), inspect::ede(&answer)), (vec![30, 30], Some(3)));
    assert!((1700..2100).contains(&took.as_millis()), "{took:?}");
    // what was asked for comes after all
    let asked = messages(&bench.server);
    let end = Instant::now() + SOON;
    while inspect::ede(&ask(&bench, &edns("www.test")).0).is_some() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(messages(&bench.server) <= asked + 1);
}

#[test]
fn c108_a_stale_answer_says_so_and_has_its_own_end() {
    let (bench, mood) = start("stale = \"2s\"");
    for name in ["www.test", "none.test"] {
        ask(&bench, &edns(name));
        ask(&bench, &query(1, name, 1));
    }
    std::thread::sleep(Duration::from_millis(1050));
    mood.be(FAILING);
    for (name, code, error) in [("www.test", 0, 3), ("none.test", 3, 19)] {
        let (answer, _) = ask(&bench, &edns(name));
        assert_eq!((inspect::rcode(&answer), inspect::ede(&answer)), (code, Some(error)));
        assert!(ttls(&answer).iter().all(|&ttl| ttl == 30), "{:?}", ttls(&answer));
        assert_eq!(inspect::opt(&answer).map(|opt| (opt.flags, opt.udp_size)), Some((0, 1232)));
        let (answer, _) = ask(&bench, &query(1, name, 1));
        assert_eq!((inspect::rcode(&answer), inspect::opt(&answer)), (code, None));
    }
    let end = Instant::now() + SOON;
    while inspect::rcode(&ask(&bench, &edns("www.test")).0) != SERVFAIL {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Also one that cannot be kept itself: what was true before is true no more.
#[test]
fn c109_whatever_is_newer_ends_what_is_stale() {
    for (newer, code) in [(BRIEF, 0), (NOTHING, 3)] {
        let (bench, mood) = start(STALE);
        prime(&bench, &edns("www.test"));
        mood.be(newer);
        let (answer, _) = ask(&bench, &edns("www.test"));
        assert_eq!((inspect::rcode(&answer), inspect::ede(&answer)), (code, None));
        bench.server.go_down(How::Rst);
        let (answer, _) = ask(&bench, &edns("www.test"));
        assert_eq!(inspect::rcode(&answer), SERVFAIL, "{:?}", ttls(&answer));
    }
}

#[test]
fn c110_whatever_failure_it_is_a_pause_follows() {
    for (cache, mood_then) in [(STALE, REFUSING), ("stale = \"1h\"\nfailure-ttl = \"0s\"", FAILING)] {
        let (bench, mood) = start(cache);
        prime(&bench, &edns("www.test"));
        mood.be(mood_then);
        let asked = messages(&bench.server);
        for _ in 0..10 {
            assert_eq!(inspect::ede(&ask(&bench, &edns("www.test")).0), Some(3));
        }
        assert_eq!(messages(&bench.server), asked + 1, "{cache}");
    }
}

#[test]
fn c109_c110_a_failure_replaces_nothing_and_is_followed_by_a_pause() {
    let (bench, mood) = start(STALE);
    prime(&bench, &edns("www.test"));
    mood.be(FAILING);
    let before = messages(&bench.server);
    for _ in 0..20 {
        let (answer, took) = ask(&bench, &edns("www.test"));
        assert_eq!((inspect::rcode(&answer), inspect::ede(&answer)), (0, Some(3)));
        assert!(took < Duration::from_millis(1700), "{took:?}");
    }
    assert_eq!(messages(&bench.server) - before, 1, "one try, and then a rest");
}

/// What is in the memory is better than a failure also where the failure would be our own.
#[test]
fn c107_where_too_many_wait_a_stale_answer_is_better_than_none() {
    let mood = Mood::default();
    let script = mood.clone().script();
    let few = "in-flight = 1\nqueue = 1\nsecond-try-after = \"3s\"";
    let bench = Setup::default().cache(STALE).upstream(few).start(move |server| server.script(script));
    prime(&bench, &edns("www.test"));
    mood.be(SILENT);
    // one is in flight, the other one waits for its place
    let waiting = UdpClient::connect(bench.proxy.address());
    waiting.send(&query(1, "first.test", 1));
    assert!(arrives(&bench.server, "first.test", 1));
    waiting.send(&query(2, "second.test", 1));
    assert_eq!(inspect::rcode(&ask(&bench, &edns("other.test")).0), SERVFAIL);
    let (answer, took) = ask(&bench, &edns("www.test"));
    assert_eq!((inspect::rcode(&answer), inspect::ede(&answer)), (0, Some(3)));
    assert!(took < Duration::from_millis(1000), "{took:?}");
}

#[test]
fn c110_in_an_outage_stale_answers_come_at_once_until_it_is_over() {
    let (bench, mood) = start(STALE);
    prime(&bench, &edns("www.test"));
    mood.be(SILENT);
    bench.server.go_down(How::Rst);
    // whoever comes first finds it out
    assert_eq!(inspect::ede(&ask(&bench, &edns("www.test")).0), Some(3));
    for _ in 0..50 {
        let (answer, took) = ask(&bench, &edns("www.test"));
        assert!(inspect::ede(&answer) == Some(3) && took < Duration::from_millis(500), "{took:?}");
    }
    mood.be(WELL);
    bench.server.restart();
    // another name finds out that it is over, and then this one is asked for although it rests
    let end = Instant::now() + SOON;
    while inspect::rcode(&ask(&bench, &edns("other.test")).0) != 0 {
        assert!(Instant::now() < end, "{}", bench.proxy.log());
    }
    assert_eq!(inspect::ede(&ask(&bench, &edns("www.test")).0), None);
}

#[test]
fn c111_equal_questions_on_their_way_are_one() {
    let setup = Setup::default().cache("");
    let bench = setup.start(|server| server.script(|_| vec![Act::Silence]));
    let clients: Vec<UdpClient> = (0..500).map(|_| UdpClient::connect(bench.proxy.address())).collect();
    let name = |index: usize| if index.is_multiple_of(2) { "Www.Test" } else { "wWW.tEST" };
    for (id, client) in (0..).zip(&clients) {
        client.send(&query(id, name(usize::from(id)), 1));
    }
    let others = [
        MessageBuilder::query(1, "www.test", 1).opt(Opt::new(1232).flags(0x8000)).build(),
        MessageBuilder::query(1, "www.test", 1).cd(true).build(),
        MessageBuilder::query(1, "www.test", 28).build(),
    ];
    let others = others.map(|message| (UdpClient::connect(bench.proxy.address()), message));
    others.iter().for_each(|(client, message)| client.send(message));
    assert!(bench.server.wait_for(|journal| journal.messages.len() >= 4, SOON));
    // all that the proxy has taken in by now waits for these
    let udp = |log: &str| log.contains("never");
    assert!(!udp(&bench.proxy.log()));
    std::thread::sleep(Duration::from_millis(200));
    super::setup::release(&bench.server, "www.test");
    for (id, client) in (0_u16..).zip(&clients) {
        let answer = client.recv(SOON).expect("an answer");
        assert_eq!((inspect::id(&answer), inspect::question_name(&answer)), (id, name(usize::from(id)).to_owned()));
    }
    for (client, _) in &others {
        assert!(client.recv(SOON).is_some());
    }
    assert_eq!(messages(&bench.server), 4);
}

#[test]
fn c111_a_question_that_nobody_answers_is_not_asked_again_and_again() {
    let setup = Setup::default()
        .cache("")
        .upstream("deadline = \"700ms\"\nconnect-timeout = \"300ms\"\nsecond-try-after = \"300ms\"");
    let bench = setup.start(|server| server.script(|_| vec![Act::Silence]));
    let client = UdpClient::connect(bench.proxy.address());
    let began = Instant::now();
    let mut id = 0;
    while began.elapsed() < Duration::from_secs(5) {
        client.send(&query(id, "dead.test", 1));
        id += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    // three copies each time, and one time after the other: 0.7 s
    let copies = bench.server.with_journal(|journal| journal.messages_named("dead.test").len());
    assert!((1..=3 * (5000 / 700 + 1)).contains(&copies), "{copies} of {id}");
}

#[test]
fn c112_a_first_client_that_leaves_costs_the_others_nothing() {
    let bench = Setup::default().cache("").start(|server| server.script(|_| vec![Act::Silence]));
    let first = TcpClient::connect(bench.proxy.address());
    first.send(&query(1, "www.test", 1));
    assert!(arrives(&bench.server, "www.test", 1));
    let clients: Vec<UdpClient> = (0..100).map(|_| UdpClient::connect(bench.proxy.address())).collect();
    for (id, client) in (0..).zip(&clients) {
        client.send(&query(id, "www.test", 1));
    }
    std::thread::sleep(Duration::from_millis(50));
    bench.server.set_default_script();
    first.reset();
    std::thread::sleep(Duration::from_millis(50));
    super::setup::release(&bench.server, "www.test");
    for (id, client) in (0_u16..).zip(&clients) {
        let answer = client.recv(SOON).expect("an answer");
        assert_eq!((inspect::id(&answer), inspect::rcode(&answer)), (id, 0));
    }
    assert!(messages(&bench.server) <= 2);
}

#[test]
fn c114_a_resolvers_failure_is_remembered_for_a_moment_with_its_reason() {
    let bench = Setup::default().cache("").start(|server| {
        server.script(|received| {
            let opt = Opt::new(1232).option(EDE, b"\0\x06bogus");
            let failed = answer_to(&received.message).rcode(SERVFAIL).opt(opt).build();
            vec![if received.count_so_far == 1 { Act::Answer(failed) } else { Act::Default }]
        })
    });
    for _ in 0..3 {
        let (answer, _) = ask(&bench, &edns("www.test"));
        assert_eq!((inspect::rcode(&answer), inspect::ede(&answer)), (SERVFAIL, Some(6)));
    }
    assert_eq!(messages(&bench.server), 1);
    let began = Instant::now();
    while inspect::rcode(&ask(&bench, &edns("www.test")).0) == SERVFAIL {
        assert!(began.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_popular_name_is_asked_for_before_its_time_is_over() {
    let bench = Setup::default().cache("").start(|server| {
        server.script(|received| vec![Act::Answer(answer_to(&received.message).a(ADDRESS, 10).build())])
    });
    let (mut asked, mut slowest_ttl) = (1, 10);
    let began = Instant::now();
    while asked == 1 {
        let (answer, _) = ask(&bench, &query(1, "www.test", 1));
        slowest_ttl = slowest_ttl.min(ttls(&answer)[0]);
        assert!(began.elapsed() < Duration::from_secs(15));
        std::thread::sleep(Duration::from_millis(100));
        asked = messages(&bench.server);
    }
    // it came before anybody had to wait for it
    assert!(began.elapsed() < Duration::from_millis(9990), "{:?}", began.elapsed());
    let end = Instant::now() + SOON;
    while ttls(&ask(&bench, &query(1, "www.test", 1)).0)[0] < 9 {
        assert!(Instant::now() < end);
    }
    assert_eq!((messages(&bench.server), slowest_ttl >= 1), (2, true));
}
