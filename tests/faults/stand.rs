//! What the tests of faults share: a steady load from many clients, the program's own report, and bounds of time on a busy
//! machine.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use testkit::{Proxy, UdpClient, a_for, inspect, query};

use crate::life::control::report;

/// An answer later than this is none: by then glibc's resolver has given up.
pub(crate) const LATEST: Duration = Duration::from_secs(5);
/// A query goes to the same worker as all others from its socket; so many sockets reach every worker.
const SOCKETS: usize = 16;

/// One query of a load, which is sent once.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// When it was sent.
    pub(crate) at: Instant,
    /// How long its answer took, and the answer's RCODE.
    pub(crate) answer: Option<(Duration, u16)>,
}

impl Asked {
    /// Whether it has an answer that is no failure.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.answer, Some((_, 0)))
    }
}

/// Says that something is over, also when a test fails before: its other threads wait for that.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Asks so many times a second for so long, each time for another name, and waits for what is still to come. An answer
/// without an error must be the right one.
pub(crate) fn ask_steadily(to: SocketAddr, prefix: &str, rate: u32, time: Duration) -> Vec<Asked> {
    let sockets: Vec<UdpClient> = (0..SOCKETS).map(|_| UdpClient::connect(to)).collect();
    let (asked, over) = (Mutex::new(Vec::<Asked>::new()), AtomicBool::new(false));
    thread::scope(|scope| {
        for socket in &sockets {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let Some(answer) = socket.recv(Duration::from_millis(50)) else { continue };
                    if inspect::rcode(&answer) == 0 {
                        assert_eq!(inspect::a_records(&answer), [a_for(&inspect::question_name(&answer))]);
                    }
                    let mut asked = asked.lock().unwrap();
                    let one = &mut asked[usize::from(inspect::id(&answer))];
                    one.answer = Some((one.at.elapsed(), inspect::rcode(&answer)));
                }
            });
        }
        let _over = Over(&over);
        let (begun, pause) = (Instant::now(), Duration::from_secs(1) / rate);
        let mut due = begun;
        for number in 0..u16::MAX {
            if begun.elapsed() >= time {
                break;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due += pause;
            asked.lock().unwrap().push(Asked { at: Instant::now(), answer: None });
            sockets[usize::from(number) % SOCKETS].send(&query(number, &format!("{prefix}{number}.test"), 1));
        }
        let end = Instant::now() + LATEST;
        while asked.lock().unwrap().iter().any(|one| one.answer.is_none()) && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
    });
    asked.into_inner().unwrap()
}

/// The quickest of up to three rounds: a machine that does other things makes a round longer, never shorter. Ends with the
/// first that keeps the bound.
pub(crate) fn quickest(bound: Duration, mut round: impl FnMut() -> Duration) -> Duration {
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        quickest = quickest.min(round());
        if quickest <= bound {
            break;
        }
    }
    quickest
}

/// A counter of one server, the nth of the configuration.
pub(crate) fn counted(proxy: &Proxy, server: usize, name: &str) -> u64 {
    report(proxy)["upstream"][server]["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
}

/// Connections to all servers that are open, as the program says.
pub(crate) fn open_connections(proxy: &Proxy) -> u64 {
    let report = report(proxy);
    report["upstream"].as_array().unwrap().iter().map(|server| server["connections"].as_u64().unwrap()).sum()
}

/// Waits until something holds; panics with the log if it does not come to pass.
pub(crate) fn until(proxy: &Proxy, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < end, "not {what}:\n{}", proxy.log());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Files that the program holds, once it opens and closes no more.
pub(crate) fn files_at_rest(proxy: &Proxy) -> usize {
    // each worker answers for it: it has all that it needs by then; and whoever asked may still be leaving
    report(proxy);
    let (mut files, mut same) = (proxy.open_files(), 0);
    while same < 5 {
        thread::sleep(Duration::from_millis(20));
        let now = proxy.open_files();
        same = if now == files { same + 1 } else { 0 };
        files = now;
    }
    files
}
