//! The time by which certificates are judged, on machines whose clock is wrong at boot.
//!
//! A machine whose clock has no battery starts in 1970, when no certificate is valid yet: so no names, so no time from the
//! network, so no names. A clock that is before a date which has certainly passed is wrong, whatever else is said of it,
//! and one that is past it is believed. Two such dates are known: that of the program itself, and the newest time at which
//! a resolver's certificate was found good. The first one only ever makes the judgement stricter than the clock does. The
//! second one may come from a clock that ran ahead, so it is asked only about a certificate that is "not valid yet", and
//! can never refuse what the clock accepts. All else about a certificate is judged as ever.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error};

/// A date before this version of the source, in seconds since 1970: 2026-11-01. Moved at each release.
const RELEASED: u64 = 1_793_491_200;
/// The date of the program: that of the source, where the build says so (`packaging/build` does), as in
/// <https://reproducible-builds.org/specs/source-date-epoch/>.
const BUILT: u64 = {
    let given = match option_env!("SOURCE_DATE_EPOCH") {
        Some(text) => match u64::from_str_radix(text, 10) {
            Ok(seconds) => seconds,
            Err(_) => 0,
        },
        None => 0,
    };
    if given > RELEASED { given } else { RELEASED }
};
/// The file in the state directory.
const FILE: &str = "last-good-time";
/// It is written at most this often, and at the end.
const KEPT: u64 = 24 * 60 * 60;

/// The floor of this process: the clock is one for all connections, and so is what is known of it.
pub static FLOOR: Floor = Floor::new(BUILT);

/// What is known of the time besides what the clock says.
#[derive(Debug)]
pub struct Floor {
    built: u64,
    /// From an earlier run; 0 if there is none.
    remembered: AtomicU64,
    /// The newest time in this run at which a certificate was good by the clock alone.
    good: AtomicU64,
    told: AtomicBool,
}

impl Floor {
    /// Nothing but the date of the program, in seconds since 1970.
    pub const fn new(built: u64) -> Floor {
        let (remembered, good, told) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Floor { built, remembered, good, told }
    }

    /// Judges a certificate by the time that it must be at least.
    ///
    /// # Errors
    /// Those of `verify`, which judges it by a given time.
    pub fn judge<T>(&self, clock: UnixTime, verify: impl Fn(UnixTime) -> Result<T, Error>) -> Result<T, Error> {
        let (clock, remembered) = (clock.as_secs(), self.remembered.load(Ordering::Relaxed));
        let least = clock.max(self.built);
        let by = |seconds| verify(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        let (judged, by_time) = match by(least) {
            Err(error) if is_early(&error) && remembered > least => (by(remembered), remembered),
            judged => (judged, least),
        };
        if judged.is_ok() {
            if by_time == clock {
                self.good.fetch_max(clock, Ordering::Relaxed);
            } else if !self.told.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "the clock says {}, which is long past: certificates are judged as of {} until it is set",
                    date(clock),
                    date(by_time)
                );
            }
        }
        judged
    }
}

fn is_early(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })
    )
}

/// As in RFC 3339, to the second. What no calendar has is told as the last date of this one.
pub fn date(seconds: u64) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799)))
}

/// The file in which the floor outlives the process.
#[derive(Debug)]
pub struct Memory {
    file: PathBuf,
    written: u64,
}

impl Memory {
    /// Takes up what an earlier run has left in `folder`, the state directory that the service manager gives; several are
    /// separated by colons, and the first one is used. `None` without one.
    pub fn take_up(folder: Option<&OsStr>, floor: &Floor) -> Option<Memory> {
        let folder = folder?.to_str()?.split(':').next().filter(|folder| !folder.is_empty())?;
        let file = Path::new(folder).join(FILE);
        let written = match read(&file) {
            Ok(seconds) => seconds,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => {
                log::info!("{}: no time can be taken from it: {error}", file.display());
                0
            }
        };
        floor.remembered.store(written, Ordering::Relaxed);
        Some(Memory { file, written })
    }

    /// The folder that is written to.
    pub fn folder(&self) -> Option<&Path> {
        self.file.parent()
    }

    /// Writes down the newest good time if it is a day newer than what is there, or at the end if it is newer at all.
    pub fn keep(&mut self, floor: &Floor, end: bool) {
        let good = floor.good.load(Ordering::Relaxed);
        if good < self.written + if end { 1 } else { KEPT } {
            return;
        }
        // also when it fails: another try a day later is soon enough
        self.written = good;
        // a date has always the same length, so that what is there is never half of one
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&self.file);
        if let Err(error) = opened.and_then(|mut file| file.write_all(format!("{}\n", date(good)).as_bytes())) {
            log::warn!("{}: the time cannot be kept for a start with a wrong clock: {error}", self.file.display());
        }
    }
}

/// The date in the file.
fn read(file: &Path) -> io::Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let time = humantime::parse_rfc3339(text.trim()).map_err(io::Error::other)?;
    time.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{BUILT, FILE, Floor, KEPT, Memory, RELEASED};
    use rustls::pki_types::UnixTime;
    use rustls::{CertificateError, Error};
    use std::sync::atomic::Ordering;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    /// Judges, with the floor at 1000, a certificate that is valid between two times, and says by which time it was good.
    fn judge(floor: &Floor, clock: u64, (from, to): (u64, u64)) -> Result<u64, Error> {
        floor.judge(UnixTime::since_unix_epoch(Duration::from_secs(clock)), |at| match at.as_secs() {
            at if at < from => Err(Error::InvalidCertificate(CertificateError::NotValidYet)),
            at if at > to => Err(Error::InvalidCertificate(CertificateError::Expired)),
            at => Ok(at),
        })
    }

    fn expired<T>() -> Result<T, Error> {
        Err(Error::InvalidCertificate(CertificateError::Expired))
    }

    fn early<T>() -> Result<T, Error> {
        Err(Error::InvalidCertificate(CertificateError::NotValidYet))
    }

    #[test]
    fn a_clock_before_the_program_was_built_is_not_believed() {
        let floor = Floor::new(1000);
        assert_eq!(judge(&floor, 0, (900, 1100)), Ok(1000));
        assert_eq!(judge(&floor, 0, (0, 500)), expired(), "what had expired by then stays so");
        assert_eq!(judge(&floor, 0, (1001, 1100)), early());
        assert_eq!(floor.good.load(Ordering::Relaxed), 0, "a wrong clock proves nothing");
    }

    #[test]
    fn a_clock_past_it_is_believed_in_both_directions() {
        let floor = Floor::new(1000);
        assert_eq!(judge(&floor, 1050, (900, 1100)), Ok(1050));
        assert_eq!(judge(&floor, 1150, (900, 1100)), expired());
        assert_eq!(judge(&floor, 1050, (1060, 1100)), early());
        assert_eq!(floor.good.load(Ordering::Relaxed), 1050);
    }

    #[test]
    fn a_remembered_time_lets_nothing_be_refused_and_makes_nothing_valid_that_it_does_not_lie_in() {
        let floor = Floor::new(1000);
        floor.remembered.store(1500, Ordering::Relaxed);
        assert_eq!(judge(&floor, 0, (1400, 1600)), Ok(1500));
        assert_eq!(judge(&floor, 0, (1501, 1600)), early());
        assert_eq!(judge(&floor, 0, (1100, 1200)), expired());
        // it came from a clock that was ahead
        assert_eq!(judge(&floor, 1050, (900, 1100)), Ok(1050));
        // the clock has caught up
        assert_eq!(judge(&floor, 1550, (1400, 1600)), Ok(1550));
        assert_eq!(judge(&floor, 1550, (1560, 1600)), early());
    }

    #[test]
    fn other_faults_are_not_asked_about_again() {
        let floor = Floor::new(1000);
        floor.remembered.store(1500, Ordering::Relaxed);
        let asked = std::cell::Cell::new(0);
        let judged: Result<(), Error> = floor.judge(UnixTime::since_unix_epoch(Duration::ZERO), |_| {
            asked.set(asked.get() + 1);
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
        });
        assert_eq!((judged, asked.get()), (Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)), 1));
    }

    #[test]
    fn the_newest_good_time_is_written_once_a_day_and_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let given = folder.path().join("").into_os_string();
        let (floor, file) = (Floor::new(1000), folder.path().join(FILE));
        let mut memory = Memory::take_up(Some(&given), &floor).unwrap();
        memory.keep(&floor, true);
        assert!(!file.exists(), "nothing is known");
        let stands = |good: u64| std::fs::read_to_string(&file).unwrap() == format!("{}\n", super::date(good));
        let mut now = 1_800_000_000;
        floor.good.store(now, Ordering::Relaxed);
        memory.keep(&floor, false);
        assert!(stands(now));
        now += KEPT - 1;
        floor.good.store(now, Ordering::Relaxed);
        memory.keep(&floor, false);
        assert!(stands(1_800_000_000));
        memory.keep(&floor, true);
        assert!(stands(now));
        let later = Floor::new(1000);
        assert!(Memory::take_up(Some(&given), &later).is_some());
        assert_eq!(later.remembered.load(Ordering::Relaxed), now);
    }

    #[test]
    fn a_state_directory_without_a_readable_date_counts_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        let floor = Floor::new(1000);
        for text in ["", "yesterday\n", "1969-01-01T00:00:00Z\n"] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            assert!(Memory::take_up(Some(folder.path().as_os_str()), &floor).is_some());
            assert_eq!(floor.remembered.load(Ordering::Relaxed), 0, "{text:?}");
        }
        assert!(Memory::take_up(None, &floor).is_none());
        assert!(Memory::take_up(Some("".as_ref()), &floor).is_none());
    }

    #[test]
    fn the_date_of_the_program_has_passed() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(RELEASED <= BUILT && BUILT <= now);
    }
}
