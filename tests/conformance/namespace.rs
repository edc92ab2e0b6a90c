//! Network namespaces: addresses, routes and packet filters that are nobody else's.

use std::panic::resume_unwind;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread in a network namespace of its own, as is everything that it starts: threads and processes.
///
/// Loopback is up and has the addresses of `addresses` beside its own. Without root nothing is run.
pub(crate) fn in_namespace(addresses: &[&str], test: impl FnOnce() + Send + 'static) {
    let addresses: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
    let run = thread::spawn(move || {
        if !is_there("ip") {
            return skipped("needs iproute2");
        }
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return skipped("needs root");
        }
        run("ip link set lo up");
        for address in addresses {
            // an address of IPv6 is of no use while it is still being checked for duplicates
            let nodad = if address.contains(':') { " nodad" } else { "" };
            run(&format!("ip addr add {address} dev lo{nodad}"));
        }
        test();
    });
    if let Err(panic) = run.join() {
        resume_unwind(panic);
    }
}

/// Says that a test was not run.
#[expect(clippy::print_stderr, reason = "a test that proves nothing says so")]
pub(crate) fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// Whether this machine has a program, which must know `-V`.
pub(crate) fn is_there(program: &str) -> bool {
    Command::new(program).arg("-V").output().is_ok()
}

/// Runs a command in the namespace of this thread, and gives its output; panics if it fails.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
