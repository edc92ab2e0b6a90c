//! The log: lines go through a bounded queue to a thread of their own, so that no worker ever waits for whoever reads
//! them, and from there to standard error or the system log.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Metadata, Record};

use crate::log_lines::{Repeats, clean};
use crate::log_sinks::{Sink, Stderr, Syslog};

/// Lines that may wait to be written. Beyond it lines are counted and given up.
const QUEUE: usize = 4096;
/// How often held-back repetitions are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long an orderly end waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Crates whose lines are wanted at any level; those of others only from warnings upwards, unless tracing.
const OWN: &str = "dot_proxy";

/// What travels to the thread.
enum Entry {
    Line(Level, String),
    /// Everything before has been written when the other end is dropped.
    Mark(SyncSender<()>),
}

/// The one logger of the process, given to the facade.
struct Queue {
    sender: SyncSender<Entry>,
    given_up: AtomicU64,
}

static QUEUE_OF_PROCESS: OnceLock<Queue> = OnceLock::new();
static REACHES_STDERR: AtomicBool = AtomicBool::new(false);

impl log::Log for Queue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(OWN) || metadata.level() <= Level::Warn || log::max_level() == LevelFilter::Trace
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = Entry::Line(record.level(), clean(&record.args().to_string()));
        if let Err(TrySendError::Full(_)) = self.sender.try_send(line) {
            self.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let (mark, written) = sync_channel(0);
        let mut entry = Entry::Mark(mark);
        let last = Instant::now() + LAST_LINES;
        // the queue may be full of lines for somebody who reads slowly
        while let Err(TrySendError::Full(again)) = self.sender.try_send(entry) {
            if Instant::now() >= last {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
            entry = again;
        }
        // an error either way means that there is nothing more to wait for
        let _ = written.recv_timeout(last.saturating_duration_since(Instant::now()));
    }
}

/// Where the lines go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// Standard error.
    Stderr,
    /// The system log.
    Syslog,
}

/// Whether the log has started and its lines go to standard error.
pub fn reaches_stderr() -> bool {
    REACHES_STDERR.load(Ordering::Relaxed)
}

/// The log of the process. Lines may be said from the start; they wait in the queue until the thread that writes them
/// runs, which is not before the privileges are given up.
pub struct Log {
    receiver: Option<Receiver<Entry>>,
    target: Target,
}

impl Log {
    /// Takes lines from now on. There is one log for the process; a second one changes the level alone.
    pub fn prepare(level: LevelFilter, target: Target) -> Log {
        let (sender, receiver) = sync_channel(QUEUE);
        let queue = QUEUE_OF_PROCESS.get_or_init(|| Queue { sender, given_up: AtomicU64::new(0) });
        // an error says that it was set before
        drop(log::set_logger(queue));
        log::set_max_level(level);
        Log { receiver: Some(receiver), target }
    }

    /// Starts the thread that writes the lines, if it does not run.
    ///
    /// # Errors
    /// If the thread cannot be made.
    pub fn run(&mut self) -> io::Result<()> {
        let Some(receiver) = self.receiver.take() else { return Ok(()) };
        let target = self.target;
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let sink: Box<dyn Sink> = match target {
                Target::Stderr => Box::new(Stderr::default()),
                Target::Syslog => Box::new(Syslog::new(Syslog::SOCKET)),
            };
            write(&receiver, sink);
        })?;
        REACHES_STDERR.store(target == Target::Stderr, Ordering::Relaxed);
        Ok(())
    }

    /// Waits, for a moment, until what was said has been written.
    pub fn finish(&self) {
        log::logger().flush();
    }
}

fn write(entries: &Receiver<Entry>, mut sink: Box<dyn Sink>) {
    let mut repeats = Repeats::default();
    loop {
        let entry = entries.recv_timeout(LOOK);
        let now = Instant::now();
        repeats.expire(now, |level, line| sink.write(level, line));
        let given_up = QUEUE_OF_PROCESS.get().map_or(0, |queue| queue.given_up.swap(0, Ordering::Relaxed));
        if given_up > 0 {
            sink.write(
                Level::Warn,
                &format!("{given_up} log lines were given up: they came faster than they could be written"),
            );
        }
        match entry {
            Ok(Entry::Line(level, line)) => repeats.pass(level, &line, now, |level, line| sink.write(level, line)),
            Ok(Entry::Mark(mark)) => {
                repeats.finish(|level, line| sink.write(level, line));
                drop(mark);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
