//! Theme G: connections that end or fall silent under a query.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use testkit::{Act, DotServer, How, Pki, Stage, TcpClient, UdpClient, default_answer, framed, inspect, message, query};

use super::bench::Bench;
use super::own_network::{in_own_network, ip};
use super::resolvers::{LONG, SERVFAIL, config_of, named, proxy_before, rcode_of, start};

/// A server that ends the connection under the first copy of every query whose name begins with "cut".
fn cutting(how: Act) -> impl Fn(&testkit::Received) -> Vec<Act> + Send + Sync {
    move |received| {
        let cut = received.name.starts_with("cut") && received.count_so_far == 1;
        if cut { vec![how.clone()] } else { vec![Act::Default] }
    }
}

/// 1,000 rounds, in three ways. A wait for any timer would show: the shortest is 1.2 seconds long.
#[test]
fn c069_a_connection_closed_under_a_query_costs_nothing() {
    let ways = [Act::CloseNotifyAndFin, Act::Fin, Act::Rst];
    thread::scope(|scope| {
        for how in ways {
            scope.spawn(move || {
                let bench = Bench::with(|server| server.script(cutting(how.clone())), "");
                let client = UdpClient::connect(bench.proxy.address());
                let mut times = Vec::new();
                for round in 0..334 {
                    let name = format!("cut{round}.test");
                    let begun = Instant::now();
                    let answer = client.ask(&query(round, &name, 1)).expect("an answer");
                    times.push(begun.elapsed());
                    assert_eq!(inspect::rcode(&answer), 0, "{how:?}, round {round}:\n{}", bench.proxy.log());
                    assert_eq!(inspect::a_records(&answer), [message::a_for(&name)]);
                }
                times.sort();
                assert!(times[167] < Duration::from_millis(100), "half took longer than {:?}", times[167]);
                assert!(times[333] < Duration::from_secs(1), "{how:?}: {:?}", times[333]);
                let journal = bench.server.journal();
                assert_eq!(journal.messages.len(), 2 * 334, "each query came twice: once cut, once answered");
            });
        }
    });
}

/// The idle race: the server closes while nothing is asked, and the query meets the close half way.
#[test]
fn c069_a_query_that_meets_a_close_costs_nothing() {
    for how in [How::CloseNotify, How::Fin, How::Rst] {
        let bench = Bench::start();
        let client = UdpClient::connect(bench.proxy.address());
        for round in 0..60 {
            let name = format!("n{round}.test");
            bench.server.close_all(how);
            let begun = Instant::now();
            let answer = client.ask(&query(round, &name, 1)).expect("an answer");
            assert_eq!(inspect::rcode(&answer), 0, "{how:?}, round {round}:\n{}", bench.proxy.log());
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        }
    }
}

#[test]
fn c069_a_restart_of_the_server_costs_nothing() {
    let bench = Bench::start();
    for round in 0..10 {
        assert_eq!(rcode_of(&bench.proxy, &query(round, "a.test", 1)), 0);
        bench.server.go_down(How::Fin);
        bench.server.restart();
        assert_eq!(rcode_of(&bench.proxy, &query(round, "b.test", 1)), 0);
    }
}

#[test]
fn c070_exactly_the_unanswered_queries_are_resent() {
    for how in [Act::CloseNotifyAndFin, Act::Fin] {
        let held = Mutex::new(Vec::new());
        let bench = Bench::with(
            |server| {
                let how = how.clone();
                server.script(move |received| {
                    if received.connection > 0 {
                        return vec![Act::Default];
                    }
                    let mut held = held.lock().unwrap();
                    held.push(default_answer(&received.message));
                    if held.len() < 50 {
                        return Vec::new();
                    }
                    let mut acts: Vec<Act> = held.drain(..20).map(Act::Answer).collect();
                    acts.push(how.clone());
                    acts
                })
            },
            "",
        );
        let mut client = TcpClient::connect(bench.proxy.address());
        let octets: Vec<u8> =
            (0..50).flat_map(|number| framed(&query(number, &format!("b{number}.test"), 1))).collect();
        client.send_raw(&octets);
        let mut seen: Vec<u16> = (0..50)
            .map(|_| {
                let answer = client.recv(LONG).unwrap().expect("an answer");
                assert_eq!(inspect::rcode(&answer), 0);
                assert_eq!(inspect::a_records(&answer), [message::a_for(&inspect::question_name(&answer))]);
                inspect::id(&answer)
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        let journal = bench.server.journal();
        let resent = journal.messages.iter().filter(|message| message.connection > 0).count();
        assert_eq!((journal.messages.len(), resent), (80, 30));
    }
}

/// The path of the connection dies: nothing comes back any more, new connections work.
#[test]
fn c071_a_dead_path_costs_one_query_some_time() {
    let bench = Bench::start();
    assert_eq!(rcode_of(&bench.proxy, &query(1, "warm.test", 1)), 0);
    bench.server.freeze_existing();
    let frozen = Instant::now();
    assert_eq!(rcode_of(&bench.proxy, &query(2, "first.test", 1)), 0, "{}", bench.proxy.log());
    assert!(frozen.elapsed() < Duration::from_secs(4), "{:?}", frozen.elapsed());
    for number in 0..20 {
        let begun = Instant::now();
        assert_eq!(rcode_of(&bench.proxy, &query(number, "later.test", 1)), 0);
        assert!(begun.elapsed() < Duration::from_millis(500), "query {number}: {:?}", begun.elapsed());
    }
    assert!(frozen.elapsed() < Duration::from_secs(5));
    // and the dead one is given up as well
    assert!(bench.proxy.wait_for_log("connection ended", LONG), "{}", bench.proxy.log());
}

#[test]
fn c071_with_a_second_server_the_first_query_is_answered_in_time() {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    let (first, second) = (DotServer::start(identity.clone()), DotServer::start(identity));
    let proxy = proxy_before(&[&first, &second], pki.ca_file(), "");
    assert_eq!(rcode_of(&proxy, &query(1, "warm.test", 1)), 0);
    first.freeze_existing();
    // this time the whole server is dead, not only the path of one connection
    first.set_stage(Stage::BlackHoleSyn);
    let begun = Instant::now();
    assert_eq!(rcode_of(&proxy, &query(2, "first.test", 1)), 0);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(second.journal().messages_named("first.test").len(), 1);
}

/// Two networks with a cable between them: on the one side the server, on the other client and proxy. The address
/// that the connection comes from goes away, and packets for it are not even acknowledged.
#[test]
fn c072_r15_a_changed_local_address_ends_the_old_connections() {
    in_own_network(|| {
        let (tell_place, place) = mpsc::channel();
        let (tell_ready, ready) = mpsc::channel::<()>();
        let (tell_server, server) = mpsc::channel();
        let pki = Arc::new(Pki::new());
        let identity = pki.server(&["upstream.test"]);
        let far_side = move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            tell_place.send(nix::unistd::gettid()).unwrap();
            ready.recv().unwrap();
            ip("link set lo up");
            ip("addr add 10.77.0.1/24 dev far");
            ip("link set far up");
            let server = DotServer::builder().listen("10.77.0.1:0").identity(identity).start();
            tell_server.send(server).unwrap();
            // the network goes away with its last thread
            let _ = ready.recv();
        };
        let far = thread::spawn(far_side);
        let far_tid = place.recv().unwrap();
        ip("link add near type veth peer name far");
        ip(&format!("link set far netns /proc/{}/task/{far_tid}/ns/net", std::process::id()));
        ip("addr add 10.77.0.2/24 dev near");
        ip("link set near up");
        tell_ready.send(()).unwrap();
        let server: DotServer = server.recv().unwrap();

        let proxy = proxy_before(&[&server], pki.ca_file(), "");
        assert_eq!(rcode_of(&proxy, &query(1, "warm.test", 1)), 0, "{}", proxy.log());
        assert_eq!(server.journal().connections[0].peer.ip().to_string(), "10.77.0.2");
        ip("addr del 10.77.0.2/24 dev near");
        ip("addr add 10.77.0.3/24 dev near");
        let begun = Instant::now();
        let first = rcode_of(&proxy, &query(2, "first.test", 1));
        assert_eq!(first, 0, "{}", proxy.log());
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        let begun = Instant::now();
        assert_eq!(rcode_of(&proxy, &query(3, "second.test", 1)), 0);
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        let last = server.journal().connections.last().unwrap().peer.ip().to_string();
        assert_eq!(last, "10.77.0.3");
        drop((proxy, server, tell_ready));
        far.join().unwrap();
    });
}

/// The statement's ten minutes are ten seconds here, of which the first three, with their growing rests, are not counted.
#[test]
fn c074_r02_r03_an_outage_costs_few_attempts_and_its_end_is_noticed() {
    let pki = Pki::new();
    let identity = pki.server(&["upstream.test"]);
    let server = DotServer::builder().identity(identity).stage(Stage::RstAfterAccept).start();
    let proxy = start(&config_of(&[named(&server)], Some(pki.ca_file()), ""));
    let client = UdpClient::connect(proxy.address());
    let ask_for = |time: Duration| {
        let begun = Instant::now();
        let mut number = 0;
        while begun.elapsed() < time {
            client.send(&query(number, "down.test", 1));
            number += 1;
            thread::sleep(Duration::from_millis(100));
        }
    };
    ask_for(Duration::from_secs(3));
    let before = server.journal().accepted();
    assert!(before >= 3, "{before} attempts in three seconds: given up");
    ask_for(Duration::from_secs(7));
    let attempts = server.journal().accepted() - before;
    assert!((4..=10).contains(&attempts), "{attempts} attempts in seven seconds");
    server.set_stage(Stage::Normal);
    let begun = Instant::now();
    while rcode_of(&proxy, &query(1, "up.test", 1)) == SERVFAIL {
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", proxy.log());
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
