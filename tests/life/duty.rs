//! Which workers serve: one as long as it has time, others when it has none left, one again afterwards.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use testkit::{DotServer, Journal, MessageBuilder, Pki, Proxy, Section, TcpClient, UdpClient, framed, inspect, query};

use super::control::report;
use crate::conformance::namespace::{run as run_command, skipped};
use crate::conformance::resolvers::{config_of, named, rcode_of, start};

const LATEST: Duration = Duration::from_secs(60);

fn on_duty(proxy: &Proxy) -> usize {
    let workers = report(proxy)["workers"].as_array().unwrap().clone();
    workers.iter().filter(|worker| worker["on_duty"] == true).count()
}

/// Gives whoever accepts it all the work that it can do: large questions that are answered there, without end.
pub(crate) struct Burden(TcpStream);

impl Burden {
    fn lay_on(proxy: SocketAddr) -> Burden {
        let record = [&[0, 0, 99, 0, 1, 0, 0, 0, 0, 0, 4][..], &[7; 4]].concat();
        let bare = MessageBuilder::query(1, "burden.home.arpa", 1);
        let large = (0..4000).fold(bare, |message, _| message.record_octets(Section::Additional, &record));
        let large = framed(&large.build());
        let stream = TcpStream::connect(proxy).unwrap();
        let (mut writing, mut reading) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        thread::spawn(move || while writing.write_all(&large).is_ok() {});
        thread::spawn(move || while reading.read(&mut [0; 65536]).is_ok_and(|count| count > 0) {});
        Burden(stream)
    }
}

impl Drop for Burden {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Gives the workers so much to do that all of them are on duty, as long as the burdens last.
pub(crate) fn burden_all(proxy: &Proxy) -> Vec<Burden> {
    prefer(proxy);
    let workers = report(proxy)["workers"].as_array().unwrap().len();
    let (mut burdens, begun) = (Vec::new(), Instant::now());
    while on_duty(proxy) < workers {
        assert!(begun.elapsed() < LATEST, "{} burdens, {} on duty", burdens.len(), on_duty(proxy));
        if burdens.len() < 12 {
            burdens.push(Burden::lay_on(proxy.address()));
        }
        thread::sleep(Duration::from_millis(500));
    }
    burdens
}

/// Has the process go before all others, so that what it can do does not depend on what else runs here.
fn prefer(proxy: &Proxy) {
    let tasks = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap();
    let threads: Vec<String> = tasks.map(|task| task.unwrap().file_name().into_string().unwrap()).collect();
    run_command(&format!("renice -n -20 -p {}", threads.join(" ")));
}

#[test]
fn one_worker_serves_until_it_has_no_time_left_and_again_when_it_has() {
    if !Uid::effective().is_root() {
        return skipped("needs root");
    }
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let config = config_of(&[named(&server)], Some(pki.ca_file()), "");
    let proxy = start(&config.replace("workers = 1", "workers = 3"));
    let mut number = 0;
    let mut ask_both_ways = || {
        number += 1;
        assert_eq!(rcode_of(&proxy, &query(1, &format!("udp{number}.test"), 1)), 0);
        let answer = TcpClient::connect(proxy.address()).ask(&query(1, &format!("tcp{number}.test"), 1));
        assert_eq!(answer.map(|answer| inspect::rcode(&answer)), Some(0));
    };
    (0..32).for_each(|_| ask_both_ways());
    assert_eq!((on_duty(&proxy), server.with_journal(Journal::accepted)), (1, 1));
    let burdens = burden_all(&proxy);
    let begun = Instant::now();
    // whoever is called serves whatever comes
    while server.with_journal(Journal::accepted) < 3 {
        assert!(begun.elapsed() < LATEST, "{}", proxy.log());
        ask_both_ways();
    }
    drop(burdens);
    let begun = Instant::now();
    while on_duty(&proxy) > 1 {
        assert!(begun.elapsed() < LATEST, "{} are on duty", on_duty(&proxy));
        ask_both_ways();
    }
    assert_eq!(
        UdpClient::connect(proxy.address()).ask(&query(1, "end.test", 1)).map(|it| inspect::rcode(&it)),
        Some(0)
    );
}
