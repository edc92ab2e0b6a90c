//! One worker that takes no turns, while all others do: it is noticed, told and counted.

use std::fs;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, Uid};
use testkit::Proxy;

use super::control::status;
use super::inherited::notify_socket;
use crate::conformance::bench::binary;
use crate::conformance::namespace::skipped;

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
