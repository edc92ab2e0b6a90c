//! Runs the programs of those who manage DNS, as they are installed below a root directory.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Where programs are looked for: fixed, since the caller is root and a path from its environment is not to be trusted.
const PLACES: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];
/// The time that one program may take: a restart of a service ends well before.
const LIMIT: Duration = Duration::from_secs(30);
/// How often is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(5);

/// The programs below a root directory.
#[derive(Clone, Debug)]
pub struct Programs {
    root: PathBuf,
}

/// What a program said, if it ended well.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// There is no such program.
    Missing,
    /// It ended with status 0 and wrote this.
    Done(String),
    /// It did not; why.
    Failed(String),
}

impl Outcome {
    /// What it wrote, unless it failed or is missing.
    pub fn text(self) -> Option<String> {
        match self {
            Outcome::Done(text) => Some(text),
            Outcome::Missing | Outcome::Failed(_) => None,
        }
    }
}

impl Programs {
    /// Those below `root`.
    pub fn below(root: &Path) -> Programs {
        Programs { root: root.to_owned() }
    }

    /// Where a program is installed.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        PLACES.iter().map(|place| self.root.join(place).join(program)).find(|path| path.exists())
    }

    /// Runs a program and waits for its end.
    pub fn run(&self, line: &str) -> Outcome {
        let mut words = line.split(' ');
        let Some(path) = self.find(words.next().unwrap_or_default()) else { return Outcome::Missing };
        let mut command = Command::new(path);
        command.args(words).env("LC_ALL", "C").env("SYSTEMD_PAGER", "").stdin(Stdio::null());
        match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
            Ok(child) => finished(line, child),
            Err(error) => Outcome::Failed(format!("`{line}` could not be run: {error}")),
        }
    }
}

/// Waits for the end of a program while its words are read.
fn finished(line: &str, mut child: Child) -> Outcome {
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut octets = Vec::new();
            // what it could say until then is all that is wanted
            let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut octets));
            String::from_utf8_lossy(&octets).into_owned()
        })
    };
    let out = reader(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let complaints = reader(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let end = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => thread::sleep(LOOK),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Outcome::Failed(format!("`{line}` did not end within {} s", LIMIT.as_secs()));
            }
            Err(error) => return Outcome::Failed(format!("`{line}`: {error}")),
        }
    };
    let words = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    let (out, complaints) = (words(out), words(complaints));
    if status.success() {
        Outcome::Done(out)
    } else {
        let why = complaints.lines().last().unwrap_or_default();
        Outcome::Failed(format!("`{line}` ended with {status}: {why}").trim_end_matches(": ").to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Outcome, Programs};

    #[test]
    fn what_a_program_said_and_how_it_ended_are_told_apart() {
        let programs = Programs::below(Path::new("/"));
        assert_eq!(programs.run("echo one two"), Outcome::Done("one two\n".to_owned()));
        assert_eq!(programs.run("there-is-no-such-program"), Outcome::Missing);
        assert!(matches!(programs.run("false"), Outcome::Failed(why) if why.contains("`false` ended with")));
        assert_eq!(Programs::below(Path::new("/nowhere")).run("echo"), Outcome::Missing);
    }
}
