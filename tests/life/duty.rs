//! Which workers serve: one as long as it has time, others when it has none left, one again afterwards.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use testkit::{
    Act, DotServer, Journal, Pki, Proxy, Received, TcpClient, UdpClient, answer_to, inspect, keep_asking, query,
};

use super::control::report;
use crate::conformance::namespace::{run as run_command, skipped};
use crate::conformance::resolvers::{config_of, named, rcode_of, start};

pub(crate) const LATEST: Duration = Duration::from_secs(60);

pub(crate) fn on_duty(proxy: &Proxy) -> usize {
    let workers = report(proxy)["workers"].as_array().unwrap().clone();
    workers.iter().filter(|worker| worker["on_duty"] == true).count()
}

/// Two processes with as much to do as they can would take the time from each other's clients.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Gives whoever is on duty all the work that it can do, for as long as it lives.
pub(crate) struct Burden {
    over: Arc<AtomicBool>,
    client: Option<JoinHandle<()>>,
    _alone: MutexGuard<'static, ()>,
}

impl Drop for Burden {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(client) = self.client.take() {
            let _ = client.join();
        }
    }
}

/// The name of an answer of 64 KB, for a proxy that has a memory: over UDP it costs its client next to nothing to ask for it,
/// and the proxy to look through all of it before it is cut.
const BURDEN: &str = "burden.test";

/// What a server says that knows [`BURDEN`].
pub(crate) fn with_burden(received: &Received) -> Vec<Act> {
    if received.name.trim_end_matches('.') != BURDEN {
        return vec![Act::Default];
    }
    let many = (0..4000).fold(answer_to(&received.message), |answer, _| answer.a([192, 0, 2, 7], 300));
    vec![Act::Answer(many.build())]
}

/// Gives the workers so much to do that two of them are on duty.
pub(crate) fn burden(proxy: &Proxy) -> Burden {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    prefer(proxy);
    let answer = TcpClient::connect(proxy.address()).ask(&query(1, BURDEN, 1)).unwrap();
    assert!(answer.len() > 60_000, "{} octets", answer.len());
    let (client, over) = (UdpClient::connect(proxy.address()), Arc::<AtomicBool>::default());
    let until = over.clone();
    let queries: Vec<Vec<u8>> = (0..64).map(|id| query(id, BURDEN, 1)).collect();
    let client = thread::spawn(move || keep_asking(&client, &queries, &AtomicU64::default(), &until));
    let (burden, begun) = (Burden { over, client: Some(client), _alone }, Instant::now());
    while on_duty(proxy) < 2 {
        assert!(begun.elapsed() < LATEST, "nobody was called");
        thread::sleep(Duration::from_millis(100));
    }
    burden
}

/// Has the process go before all others, so that what it can do does not depend on what else runs here.
fn prefer(proxy: &Proxy) {
    let tasks = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap();
    let threads: Vec<String> = tasks.map(|task| task.unwrap().file_name().into_string().unwrap()).collect();
    run_command(&format!("renice -n -20 -p {}", threads.join(" ")));
}

/// Each stays with the worker that accepted it, whatever it asks later.
#[test]
fn many_connections_are_divided_among_the_workers() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let config = config_of(&[named(&server)], Some(pki.ca_file()), "").replace("workers = 1", "workers = 3");
    let proxy = start(&config);
    let mut clients = Vec::new();
    while server.with_journal(Journal::accepted) < 2 {
        assert!(clients.len() < 150, "one worker has them all\n{}", proxy.log());
        let mut client = TcpClient::connect(proxy.address());
        let answer = client.ask(&query(1, &format!("n{}.test", clients.len()), 1));
        assert_eq!(answer.map(|answer| inspect::rcode(&answer)), Some(0));
        clients.push(client);
    }
    assert!(clients.len() >= 32, "{} connections", clients.len());
    assert_eq!(on_duty(&proxy), 1);
}

#[test]
fn one_worker_serves_until_it_has_no_time_left_and_again_when_it_has() {
    if !Uid::effective().is_root() {
        return skipped("needs root");
    }
    let pki = Pki::new();
    let server = DotServer::builder().identity(pki.server(&["upstream.test"])).script(with_burden).start();
    let config = config_of(&[named(&server)], Some(pki.ca_file()), "").replace("workers = 1", "workers = 2");
    let proxy = start(&config.replace("size = \"0\"", ""));
    let mut number = 0;
    let mut ask_both_ways = || {
        number += 1;
        assert_eq!(rcode_of(&proxy, &query(1, &format!("udp{number}.test"), 1)), 0);
        let answer = TcpClient::connect(proxy.address()).ask(&query(1, &format!("tcp{number}.test"), 1));
        assert_eq!(answer.map(|answer| inspect::rcode(&answer)), Some(0));
    };
    (0..32).for_each(|_| ask_both_ways());
    assert_eq!((on_duty(&proxy), server.with_journal(Journal::accepted)), (1, 1));
    let burden = burden(&proxy);
    let begun = Instant::now();
    // whoever is called serves whatever comes
    while server.with_journal(Journal::accepted) < 2 {
        assert!(begun.elapsed() < LATEST, "{}", proxy.log());
        ask_both_ways();
    }
    drop(burden);
    let begun = Instant::now();
    while on_duty(&proxy) > 1 {
        assert!(begun.elapsed() < LATEST, "the second stays");
        ask_both_ways();
    }
    (0..32).for_each(|_| ask_both_ways());
}
