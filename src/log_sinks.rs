//! Where log lines end: standard error, or the system log through the crate `syslog`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::Level;
use syslog::{Facility, Formatter3164, Logger, LoggerBackend};

/// Takes lines. A line that cannot be written is lost: there is nobody to tell.
pub trait Sink {
    /// Writes one line.
    fn write(&mut self, level: Level, line: &str);
}

/// Standard error: with the journal's priority prefix if the journal reads it (sd-daemon(3)), else with the level.
pub struct Stderr {
    journal: bool,
}

impl Default for Stderr {
    fn default() -> Stderr {
        Stderr { journal: is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()) }
    }
}

/// Whether standard error is the stream that systemd connected to the journal, and nobody has redirected it since.
fn is_journal(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else { return false };
    let metadata = io::stderr().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    metadata.is_ok_and(|metadata| Ok(metadata.dev()) == device.parse() && Ok(metadata.ino()) == inode.parse())
}

/// The line as it stands in the stream.
fn formatted(journal: bool, level: Level, line: &str) -> String {
    let (number, word) = match level {
        Level::Error => (3, "error"),
        Level::Warn => (4, "warning"),
        Level::Info => (6, "info"),
        Level::Debug => (7, "debug"),
        Level::Trace => (7, "trace"),
    };
    if journal { format!("<{number}>{line}\n") } else { format!("{word}: {line}\n") }
}

impl Sink for Stderr {
    fn write(&mut self, level: Level, line: &str) {
        drop(io::stderr().lock().write_all(formatted(self.journal, level, line).as_bytes()));
    }
}

/// How long the system log may take for one line before it counts as gone.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long to leave a system log alone that is gone.
const PAUSE: Duration = Duration::from_secs(1);

/// The system log. The crate never reconnects, so a logger that failed is thrown away and another made.
pub struct Syslog {
    path: PathBuf,
    logger: Option<Logger<LoggerBackend, Formatter3164>>,
    not_before: Option<Instant>,
    lost: u64,
}

impl Syslog {
    /// Where the system log listens.
    pub const SOCKET: &'static str = "/dev/log";

    /// A system log that listens on `path`; it need not be there yet.
    pub fn new(path: impl AsRef<Path>) -> Syslog {
        Syslog { path: path.as_ref().to_owned(), logger: None, not_before: None, lost: 0 }
    }

    fn connect(&self) -> io::Result<Logger<LoggerBackend, Formatter3164>> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(&self.path)?;
        let formatter = Formatter3164 {
            facility: Facility::LOG_DAEMON,
            hostname: None,
            process: "dot-proxy".to_owned(),
            pid: std::process::id(),
        };
        Ok(Logger::new(LoggerBackend::Unix(socket), formatter))
    }

    fn try_write(&mut self, level: Level, line: &str) -> bool {
        if self.logger.is_none() {
            self.logger = self.connect().ok();
        }
        let Some(logger) = &mut self.logger else { return false };
        let result = match level {
            Level::Error => logger.err(line),
            Level::Warn => logger.warning(line),
            Level::Info => logger.info(line),
            Level::Debug | Level::Trace => logger.debug(line),
        };
        if result.is_err() {
            self.logger = None;
        }
        result.is_ok()
    }
}

impl Sink for Syslog {
    fn write(&mut self, level: Level, line: &str) {
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            self.lost += 1;
            return;
        }
        if self.lost > 0 {
            let lost = format!("{} log lines were lost while the system log was away", self.lost);
            if self.try_write(Level::Warn, &lost) {
                self.lost = 0;
            }
        }
        // a restarted system log is found at the second try
        if self.try_write(level, line) || self.try_write(level, line) {
            self.not_before = None;
        } else {
            self.lost += 1;
            self.not_before = Some(Instant::now() + PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Sink, Syslog, formatted, is_journal};
    use log::Level;
    use std::os::unix::net::UnixDatagram;
    use std::time::{Duration, Instant};

    fn listen(path: &std::path::Path) -> UnixDatagram {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn lines_have_the_form_that_their_reader_expects() {
        assert_eq!(formatted(true, Level::Warn, "x"), "<4>x\n");
        assert_eq!(formatted(false, Level::Error, "x"), "error: x\n");
        assert!(!is_journal(None));
        assert!(!is_journal(Some("1:1")));
        assert!(!is_journal(Some("nonsense")));
    }

    #[test]
    fn a_restarted_system_log_gets_the_next_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut syslog = Syslog::new(&path);
        let first = listen(&path);
        syslog.write(Level::Info, "one");
        let line = received(&first);
        assert!(line.starts_with("<30>") && line.ends_with(": one"), "{line}");
        drop(first);
        std::fs::remove_file(&path).unwrap();
        let second = listen(&path);
        syslog.write(Level::Error, "two");
        assert!(received(&second).starts_with("<27>"));
    }

    #[test]
    fn lines_that_nobody_took_are_counted_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut syslog = Syslog::new(&path);
        for _ in 0..3 {
            syslog.write(Level::Info, "lost");
        }
        let socket = listen(&path);
        syslog.not_before = Some(Instant::now());
        syslog.write(Level::Info, "found");
        assert!(received(&socket).ends_with("3 log lines were lost while the system log was away"));
        assert!(received(&socket).ends_with("found"));
    }

    #[test]
    fn a_system_log_that_does_not_read_costs_a_bounded_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let socket = listen(&path);
        let mut syslog = Syslog::new(&path);
        let start = Instant::now();
        for _ in 0..5000 {
            syslog.write(Level::Info, "nobody reads this");
        }
        assert!(syslog.lost > 0, "the socket took everything");
        assert!(start.elapsed() < Duration::from_secs(30));
        drop(socket);
    }
}
