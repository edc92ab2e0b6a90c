//! One worker that takes no turns, while all others do: it is noticed, told and counted.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, Uid};
use testkit::{DotServer, Pki, Proxy, TcpClient, UdpClient, query};

use super::control::status;
use super::duty::{LATEST, on_duty};
use super::inherited::notify_socket;
use crate::conformance::bench::binary;
use crate::conformance::namespace::skipped;
use crate::conformance::resolvers::{config_of, named, rcode_of, start};

/// Stops one thread of a process, as a debugger does, until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn thread(pid: u32, name: &str) -> Stopped {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
        let named = |path: &std::path::PathBuf| fs::read_to_string(path.join("comm")).unwrap().trim() == name;
        let task = tasks.into_iter().find(named).unwrap_or_else(|| panic!("no thread {name}"));
        let thread = Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap());
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Stopped(thread)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

/// One worker serves alone as long as it has time. Should it be stuck, clients need not wait for the service manager.
#[test]
fn where_the_worker_that_serves_alone_is_stuck_the_others_serve() {
    if !Uid::effective().is_root() {
        return skipped("needs root");
    }
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let config = config_of(&[named(&server)], Some(pki.ca_file()), "").replace("workers = 1", "workers = 3");
    let proxy = start(&config);
    assert_eq!(rcode_of(&proxy, &query(1, "before.test", 1)), 0);
    let stopped = Stopped::thread(proxy.pid(), "worker 0");
    let begun = Instant::now();
    let is_answered = |name: &str| UdpClient::connect(proxy.address()).ask(&query(1, name, 1)).is_some();
    let mut number = 0;
    while !is_answered(&format!("n{number}.test")) {
        assert!(begun.elapsed() < LATEST, "nobody serves\n{}", proxy.log());
        number += 1;
    }
    assert!(proxy.wait_for_log("worker 0 gives no sign of life", LATEST), "{}", proxy.log());
    assert!((0..20).all(|number| is_answered(&format!("m{number}.test"))), "{}", proxy.log());
    assert!(TcpClient::connect(proxy.address()).ask(&query(1, "tcp.test", 1)).is_some());
    drop(stopped);
    while on_duty(&proxy) > 1 {
        assert!(begun.elapsed() < LATEST, "the others stay");
        assert!(is_answered("again.test"), "{}", proxy.log());
    }
}

#[test]
fn c144_one_stuck_worker_ends_the_signs_of_life_and_is_told_by_status() {
    if !Uid::effective().is_root() {
        return skipped("needs root");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let socket = notify_socket(&folder.path().join("notify"));
    socket.set_read_timeout(Some(Duration::from_millis(900))).unwrap();
    let proxy = Proxy::builder(binary())
        .config("workers = 2\n[listen]\naddresses = [\"127.0.0.1:0\"]\n")
        .env("NOTIFY_SOCKET", folder.path().join("notify").to_str().unwrap())
        .env("WATCHDOG_USEC", "400000")
        .start();
    let mut buffer = [0; 1024];
    let mut alive = || socket.recv(&mut buffer).is_ok();
    assert!((0..4).all(|_| alive()), "signs of life while all is well");
    let stopped = Stopped::thread(proxy.pid(), "worker 1");
    // what was on its way, and then nothing
    let told = (0..100).take_while(|_| alive()).count();
    assert!(told < 5, "{told} signs of life of a service with a stuck worker");
    let (code, said) = status(&proxy);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("degraded") && said.contains("worker 1 gives no sign of life"), "{said}");
    assert!(said.contains("0: alive, answered in "), "{said}");
    drop(stopped);
    assert!(alive(), "it goes on");
    assert_eq!(status(&proxy).0, 0);
}
