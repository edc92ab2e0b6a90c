//! What a program holds, looked at every second of a long test: file descriptors and resident memory.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How much more memory a program may hold at the end than at the start, in percent, where that is asked for.
pub const MEMORY_LEEWAY: u64 = 10;
/// How long a program may take to come back to what it held, after the last fault: longer than it keeps a connection ready
/// that nobody uses any more, two minutes and then two minutes.
const SETTLE: Duration = Duration::from_secs(300);

/// What a program holds at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Held {
    /// Open file descriptors.
    pub files: usize,
    /// Resident memory in KiB.
    pub rss_kib: u64,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fds, {} KiB", self.files, self.rss_kib)
    }
}

impl Held {
    /// What a process holds now.
    ///
    /// # Errors
    /// It has ended.
    pub fn by(pid: u32) -> Result<Held, String> {
        let gone = |error: std::io::Error| format!("the program has ended: {error}");
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(gone)?.count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(gone)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss_kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Ok(Held { files, rss_kib: rss_kib.ok_or("the program has ended: it has no memory")? })
    }

    /// Why this is more than a program may hold that held `start`, and may have grown by `leeway` percent; `None` if it is not.
    pub fn excess(&self, start: Held, leeway: u64) -> Option<String> {
        if self.files > start.files {
            return Some(format!("{} file descriptors, {} at the start", self.files, start.files));
        }
        let most = start.rss_kib + start.rss_kib * leeway / 100;
        (self.rss_kib > most).then(|| format!("{} KiB resident, {} at the start", self.rss_kib, start.rss_kib))
    }
}

/// Samples a process each second, until it is dropped.
pub struct Watch {
    pid: u32,
    most: Arc<Mutex<Held>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches this process.
    pub fn start(pid: u32) -> Watch {
        let (most, over) = (Arc::new(Mutex::new(Held::default())), Arc::new(AtomicBool::new(false)));
        let (seen, ended) = (most.clone(), over.clone());
        let thread = thread::spawn(move || {
            while !ended.load(Relaxed) {
                // that it has ended is told by whoever wants to know what it holds
                if let Ok(held) = Held::by(pid) {
                    let mut most = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    *most = Held { files: most.files.max(held.files), rss_kib: most.rss_kib.max(held.rss_kib) };
                }
                thread::park_timeout(Duration::from_secs(1));
            }
        });
        Watch { pid, most, over, thread: Some(thread) }
    }

    /// The most it ever held, each figure for itself.
    pub fn most(&self) -> Held {
        *self.most.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it holds no more than at the start, but for `leeway` percent of memory.
    ///
    /// # Errors
    /// What is too much, if that does not come to pass in time.
    pub fn settled(&self, start: Held, leeway: u64) -> Result<Held, String> {
        let end = Instant::now() + SETTLE;
        loop {
            let held = Held::by(self.pid)?;
            match held.excess(start, leeway) {
                None => return Ok(held),
                Some(why) if Instant::now() >= end => return Err(format!("{why}, {SETTLE:?} after the last fault")),
                Some(_) => thread::sleep(Duration::from_secs(1)),
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // one that failed has said so
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Held;

    #[test]
    fn one_descriptor_more_or_memory_beyond_the_leeway_is_too_much() {
        let held = |files, rss_kib| Held { files, rss_kib };
        let start = held(20, 10_000);
        assert_eq!(held(20, 11_000).excess(start, 10), None);
        assert_eq!(held(3, 100).excess(start, 10), None);
        assert_eq!(held(20, 15_000).excess(start, 50), None);
        assert!(held(21, 100).excess(start, 10).is_some_and(|why| why.starts_with("21 file descriptors")));
        assert!(held(20, 11_001).excess(start, 10).is_some_and(|why| why.starts_with("11001 KiB")));
    }
}
