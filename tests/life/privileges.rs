//! Root's rights: given up for good by whoever is started as root, in every thread; and what is left within reach.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use dot_proxy::privileges::{Identity, give_up};
use nix::unistd::{Gid, Uid, User, seteuid, setgid, setgroups, setresuid, setuid};
use testkit::{Proxy, UdpClient, config_for, inspect, query};

use crate::conformance::bench::{Bench, binary};
use crate::conformance::namespace::skipped;

/// A field of `/proc/PID/task/TID/status`, of each thread.
fn of_each_thread(pid: u32, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap();
    let line = |text: String| {
        let found = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::trim));
        found.unwrap_or_else(|| panic!("no {field} in {text}")).to_owned()
    };
    tasks.map(|task| line(status(task.unwrap()))).collect()
}

fn started_as_root() -> bool {
    let is_root = Uid::effective().is_root();
    if !is_root {
        skipped("needs root");
    }
    is_root
}

#[test]
fn no_thread_keeps_a_right_of_root() {
    if !started_as_root() {
        return;
    }
    let bench = Bench::start();
    let pid = bench.proxy.pid();
    let log = bench.proxy.log();
    let name = if log.contains(": nobody serves") { "nobody" } else { "dot-proxy" };
    let user = User::from_name(name).unwrap().unwrap();
    for field in ["Uid", "Gid"] {
        let number = if field == "Uid" { user.uid.as_raw() } else { user.gid.as_raw() };
        for numbers in of_each_thread(pid, field) {
            // real, effective, saved, and that of the file system
            assert_eq!(numbers.split_whitespace().collect::<Vec<_>>(), [number.to_string().as_str(); 4], "{field}");
        }
    }
    assert!(of_each_thread(pid, "Groups").iter().all(|groups| *groups == user.gid.to_string()));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(of_each_thread(pid, set).iter().all(|mask| mask.chars().all(|c| c == '0')), "{set}");
    }
    assert!(of_each_thread(pid, "NoNewPrivs").iter().all(|value| value == "1"));
    assert!(of_each_thread(pid, "Seccomp").iter().all(|mode| mode == "2"));
    assert!(of_each_thread(pid, "Uid").len() > 2, "log, worker and the first thread");
    // nobody but root looks inside
    let owner = fs::metadata(format!("/proc/{pid}/environ")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 0);
    assert!(UdpClient::connect(bench.proxy.address()).ask(&query(1, "www.test", 1)).is_some());
}

#[test]
fn a_user_by_number_serves_with_its_number_alone() {
    if !started_as_root() {
        return;
    }
    let bench = Bench::start();
    let config = config_for(&[(bench.server.address(), "upstream.test")], bench.pki.ca_file());
    let proxy = Proxy::builder(binary()).config(&format!("user = \"4000001\"\ngroup = \"4000002\"\n{config}")).start();
    assert!(of_each_thread(proxy.pid(), "Uid").iter().all(|ids| ids.split_whitespace().all(|id| id == "4000001")));
    assert!(of_each_thread(proxy.pid(), "Groups").iter().all(|groups| groups == "4000002"));
}

#[test]
fn root_serves_only_when_told_and_without_its_capabilities() {
    if !started_as_root() {
        return;
    }
    let bench = Bench::start();
    assert!(!of_each_thread(bench.proxy.pid(), "Uid").iter().any(|ids| ids.starts_with("0\t")));
    let config = config_for(&[(bench.server.address(), "upstream.test")], bench.pki.ca_file());
    let proxy = Proxy::builder(binary()).config(&format!("user = \"root\"\n{config}")).start();
    assert!(proxy.log().contains("root serves, as the option user asks"));
    assert!(of_each_thread(proxy.pid(), "Uid").iter().all(|ids| ids.starts_with("0\t")));
    assert!(of_each_thread(proxy.pid(), "CapEff").iter().all(|mask| mask.chars().all(|c| c == '0')));
}

#[test]
fn an_unknown_user_is_a_problem_of_the_configuration() {
    if !started_as_root() {
        return;
    }
    for (line, said) in
        [("user = \"no-such-user\"", "user no-such-user"), ("group = \"no-such-group\"", "group no-such-group")]
    {
        let (status, log) = Proxy::builder(binary()).config(line).start_expecting_failure();
        assert_eq!(status.code(), Some(78));
        assert!(log.contains(said), "{log}");
    }
}

#[test]
fn what_the_sandbox_holds_is_said_and_holds() {
    let bench = Bench::start();
    let log = bench.proxy.log();
    let line = log.lines().find(|line| line.contains("sandbox: ")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(" system calls"), "{line}");
    if !line.contains("tcp connections go to port") {
        return skipped("hardware: this kernel has no Landlock for ports");
    }
    // the resolver of the test listens on a port of its own
    assert!(line.contains(&format!("853, {}", bench.server.address().port())), "{line}");
    let client = UdpClient::connect(bench.proxy.address());
    assert_eq!(inspect::rcode(&client.ask(&query(1, "www.test", 1)).unwrap()), 0);
}

#[test]
fn a_required_sandbox_serves_where_the_kernel_has_all_of_it_and_one_that_is_off_says_so() {
    let bench = Bench::start();
    let config = config_for(&[(bench.server.address(), "upstream.test")], bench.pki.ca_file());
    let off = Proxy::builder(binary()).config(&format!("sandbox = \"off\"\n{config}")).start();
    assert!(off.log().contains("sandbox: off"));
    assert!(of_each_thread(off.pid(), "Seccomp").iter().all(|mode| mode == "0" || mode == "2"));
    let config = format!("sandbox = \"required\"\n{config}");
    if bench.proxy.log().contains("tcp connections go to port") {
        let proxy = Proxy::builder(binary()).config(&config).start();
        assert!(UdpClient::connect(proxy.address()).ask(&query(1, "www.test", 1)).is_some());
    } else {
        let (status, log) = Proxy::builder(binary()).config(&config).start_expecting_failure();
        assert!(status.code() == Some(1) && log.contains("the kernel cannot"), "{log}");
    }
}

#[test]
fn standard_error_stays_the_only_way_out_of_the_process_but_its_sockets() {
    let bench = Bench::start();
    if !started_as_root() {
        return;
    }
    UdpClient::connect(bench.proxy.address()).recv(Duration::from_millis(1));
    let folder = format!("/proc/{}/fd", bench.proxy.pid());
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let target = fs::read_link(entry.path()).unwrap().to_string_lossy().into_owned();
        let expected = ["socket:", "anon_inode:", "pipe:", "/dev/null"].iter().any(|kind| target.starts_with(kind));
        assert!(expected, "fd {:?} is {target}", entry.file_name());
    }
}

#[test]
fn r36_in_a_user_namespace_root_serves_when_told_and_else_says_what_to_do() {
    if !started_as_root() {
        return;
    }
    let bench = Bench::start();
    // the only user of the namespace is root, and nobody can be become
    let program = bench.pki.directory().join("namespace");
    fs::write(&program, format!("#!/bin/sh\nexec unshare --user --map-root-user {} \"$@\"\n", binary().display()))
        .unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let config = config_for(&[(bench.server.address(), "upstream.test")], bench.pki.ca_file());
    let (status, said) = Proxy::builder(&program).config(&config).start_expecting_failure();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("giving up privileges: ") && said.contains("with user = \"root\""), "{said}");
    let proxy = Proxy::builder(&program).config(&format!("user = \"root\"\n{config}")).start();
    assert!(UdpClient::connect(proxy.address()).ask(&query(1, "www.test", 1)).is_some());
    assert!(of_each_thread(proxy.pid(), "CapEff").iter().all(|mask| mask.chars().all(|c| c == '0')));
}

/// Set in the process of its own in which [`root_cannot_come_back`] does what cannot be undone.
const CHILD: &str = "DOT_PROXY_TEST_GIVES_UP";

#[test]
fn root_cannot_come_back() {
    if !started_as_root() {
        return;
    }
    if std::env::var_os(CHILD).is_none() {
        let name = "life::privileges::root_cannot_come_back";
        let this = std::env::current_exe().unwrap();
        let output = Command::new(this).args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("nothing worked"), "{said}{output:?}");
        return;
    }
    let identity = Identity::resolve(Some("nobody"), None).unwrap();
    let left = give_up(&identity).unwrap();
    assert!(left.user.starts_with("nobody ("), "{left:?}");
    let (root, group) = (Uid::from_raw(0), Gid::from_raw(0));
    for (way, worked) in [
        ("setuid", setuid(root).is_ok()),
        ("seteuid", seteuid(root).is_ok()),
        ("setresuid", setresuid(root, root, root).is_ok()),
        ("setgid", setgid(group).is_ok()),
        ("setgroups", setgroups(&[group]).is_ok()),
        ("reading what root alone may read", fs::read("/etc/shadow").is_ok()),
        ("a port below 1024 again", std::net::TcpListener::bind("127.0.0.1:1").is_ok()),
        // a program that runs as its owner, root
        ("su", Command::new("su").args(["-c", "id"]).output().is_ok_and(|done| done.status.success())),
    ] {
        assert!(!worked, "{way} worked");
    }
    // giving up once more changes nothing, and proves it again
    give_up(&Identity::resolve(None, None).unwrap()).unwrap();
    println!("nothing worked");
}
