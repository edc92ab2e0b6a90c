//! Keeps the memory of the process, as the main thread does it: what a reload leaves of it, what a command forgets, and the
//! file in which it outlives the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cache::snapshot::{self, Snapshot, View, view_of};
use crate::config::settings::Settings;
use crate::control::Forget;
use crate::dns::name::Domain;
use crate::memory::Shared;
use crate::moment::since_boot;
use crate::report::Memory;

/// The file in the state directory.
const FILE: &str = "cache";
/// How often it is written.
const KEPT: Duration = Duration::from_secs(15 * 60);

/// The memory and what becomes of it.
pub struct Keeper {
    memory: Arc<Shared>,
    view: View,
    file: Option<PathBuf>,
    written: Instant,
}

/// What tells answers of these settings from those of others: who is asked, and what is changed in queries.
fn view(settings: &Settings) -> View {
    view_of(&format!("{:?} {:?} {:?}", settings.upstream.group, settings.routes, settings.privacy))
}

fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Opens what must be a file, and neither a way to another one nor something that could keep us waiting.
fn regular(how: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = how.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no file")) }
}

impl Keeper {
    /// The memory that these settings ask for. `folder` is the state directory that the service manager gives: answers that an
    /// earlier process has left there come back, if they are to be kept.
    pub fn new(settings: &Settings, folder: Option<&Path>) -> Keeper {
        let memory = Arc::new(Shared::new(settings.cache.size));
        let file = folder.map(|folder| folder.join(FILE));
        let persist = settings.cache.persist && memory.answers.is_on();
        if persist && file.is_none() {
            log::warn!("cache.persist: there is no state directory to keep answers in (StateDirectory= of the unit)");
        }
        let keeper = Keeper { memory, view: view(settings), file: file.filter(|_| persist), written: Instant::now() };
        if let Some(file) = &keeper.file {
            match keeper.load(file, settings.cache.size) {
                Ok(count) => log::info!("{}: {count} answers taken from it", file.display()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => log::info!("{}: no answers are taken from it: {error}", file.display()),
            }
        }
        keeper
    }

    /// What the workers share.
    pub fn memory(&self) -> &Arc<Shared> {
        &self.memory
    }

    fn load(&self, file: &Path, limit: usize) -> io::Result<usize> {
        let mut octets = Vec::new();
        // what is longer than the memory was not written by it
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        let from = regular(OpenOptions::new().read(true), file)?;
        from.take(limit).read_to_end(&mut octets)?;
        let answers = &self.memory.answers;
        let restored = snapshot::read(&octets, &self.view, wall_clock(), since_boot(), |entry| answers.restore(entry));
        restored.map_err(io::Error::other)
    }

    /// Other settings are in force: answers of other resolvers are forgotten.
    pub fn renew(&mut self, settings: &Settings) {
        let view = view(settings);
        if view != self.view {
            self.view = view;
            let count = self.memory.answers.begin_anew();
            self.keep();
            log::info!("other resolvers are asked from now on: {count} answers are forgotten");
        }
    }

    /// Forgets what a command says; how many answers there were.
    ///
    /// # Errors
    /// A name that is none.
    pub fn forget(&mut self, what: &Forget) -> Result<usize, String> {
        let answers = &self.memory.answers;
        let count = match what.name.as_deref() {
            None => answers.forget_all(),
            Some(".") => answers.forget_name(&[0], what.and_below),
            Some(name) => answers.forget_name(Domain::parse(name)?.wire(), what.and_below),
        };
        // what is forgotten shall not come back out of the file
        self.keep();
        Ok(count)
    }

    /// Writes the file now and then.
    pub fn look(&mut self) {
        if self.written.elapsed() >= KEPT {
            self.keep();
        }
    }

    /// Writes the file, if there is one to be written.
    pub fn keep(&mut self) {
        self.written = Instant::now();
        let Some(file) = &self.file else { return };
        if let Err(error) = self.write(file) {
            log::warn!("{}: answers cannot be kept for the next start: {error}", file.display());
        }
    }

    fn write(&self, file: &Path) -> io::Result<()> {
        let mut snapshot = Snapshot::new(&self.view, wall_clock(), since_boot());
        self.memory.answers.each(|entry| snapshot.add(entry));
        // in place, since a name that is replaced is beyond what the sandbox allows: what is written in part is not believed
        let mut out = regular(OpenOptions::new().write(true).create(true).truncate(false).mode(0o600), file)?;
        let (octets, before) = (snapshot.finish(), out.metadata()?.len());
        out.write_all(&octets)?;
        // of what a longer one has left nothing stays
        let left = before.saturating_sub(u64::try_from(octets.len()).unwrap_or(u64::MAX));
        io::copy(&mut io::repeat(0).take(left), &mut out).map(drop)
    }

    /// What there is to report.
    pub fn report(&self) -> Memory {
        let held = self.memory.answers.held();
        Memory { answers: held.entries, octets: held.octets, limit: held.limit, evicted: held.evicted }
    }
}
