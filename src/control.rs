//! The control socket, both ends: one line asks, one line of JSON answers. It belongs to the user and the group of the
//! service; whoever may not write to it cannot connect.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::report::{Reload, Report};

/// Where the socket is without a service manager and without an option.
const DEFAULT: &str = "/run/dot-proxy/control";
/// The longest line that asks, and the longest answer that is read.
const LONGEST_QUESTION: u64 = 1024;
const LONGEST_ANSWER: u64 = 4 * 1024 * 1024;
/// Connections at the same time; more wait in the kernel's queue.
const CONNECTIONS: usize = 8;
/// How long whoever is connected may take to ask, or to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take: a reload reads files and waits for the workers.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// What can be asked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// How the service fares.
    Status,
    /// That it reads its configuration again.
    Reload,
    /// That it forgets answers.
    Flush(Forget),
}

/// Which answers are forgotten.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Forget {
    /// Those for this name; all if there is none.
    pub name: Option<String>,
    /// And those for all names below it.
    pub and_below: bool,
}

/// What is answered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// To [`Question::Status`].
    Status(Box<Report>),
    /// To [`Question::Reload`].
    Reload(Reload),
    /// To [`Question::Flush`]: how many answers were forgotten.
    Flushed(usize),
    /// The question was none.
    Refused(String),
}

/// A question that came, and where its answer goes.
pub struct Request {
    /// What is asked.
    pub question: Question,
    /// Takes the answer.
    pub answer: oneshot::Sender<Answer>,
}

/// Where the socket is unless the configuration says so: in the service manager's runtime directory, if it gave one.
pub fn default_path() -> PathBuf {
    let given = std::env::var("RUNTIME_DIRECTORY").ok();
    match given.as_deref().and_then(|folders| folders.split(':').next()).filter(|folder| folder.starts_with('/')) {
        Some(folder) => Path::new(folder).join("control"),
        None => PathBuf::from(DEFAULT),
    }
}

/// The socket of the service; it is removed in the end.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Makes the socket, and its folder if need be, for this user and group. One that a dead process left is replaced.
    ///
    /// To be called before any thread exists, since it changes the mask of new files for a moment.
    ///
    /// # Errors
    /// If it cannot be made, or if another process answers on it.
    pub fn open(path: &Path, (user, group): (u32, u32)) -> Result<ControlSocket, ControlError> {
        let fault = |error: io::Error| ControlError { path: path.to_owned(), why: Why::Io(error) };
        let is_root = nix::unistd::Uid::effective().is_root();
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            DirBuilder::new().mode(0o750).create(folder).map_err(fault)?;
            if is_root {
                chown(folder, Some(user), Some(group)).map_err(fault)?;
            }
        }
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            if UnixStream::connect(path).is_ok() {
                return Err(ControlError { path: path.to_owned(), why: Why::InUse });
            }
            fs::remove_file(path).map_err(fault)?;
        }
        let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o117));
        let bound = UnixListener::bind(path);
        nix::sys::stat::umask(mask);
        let listener = bound.map_err(fault)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(fault)?;
        if is_root {
            chown(path, Some(user), Some(group)).map_err(fault)?;
        }
        listener.set_nonblocking(true).map_err(fault)?;
        Ok(ControlSocket { listener, path: path.to_owned() })
    }

    /// The folder that it is in.
    pub fn folder(&self) -> Option<&Path> {
        self.path.parent()
    }

    /// Hands what is asked to `requests`, for as long as it is polled.
    ///
    /// # Errors
    /// If the runtime does not take the socket.
    pub async fn serve(&self, requests: mpsc::Sender<Request>) -> io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(self.listener.try_clone()?)?;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let requests = requests.clone();
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, requests).await {
                            log::debug!("control socket: {error}");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    log::warn!("control socket: accepting a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // a service manager removes the folder itself; where nobody does, the next start replaces it
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: tokio::net::UnixStream, requests: mpsc::Sender<Request>) -> io::Result<()> {
    let late = |_| io::Error::from(ErrorKind::TimedOut);
    let mut line = Vec::new();
    let reading = async {
        let (reader, _) = stream.split();
        let mut reader = reader.take(LONGEST_QUESTION);
        while !line.ends_with(b"\n") && reader.read_buf(&mut line).await? > 0 {}
        io::Result::Ok(())
    };
    tokio::time::timeout(PATIENCE, reading).await.map_err(late)??;
    let answer = match serde_json::from_slice(&line) {
        Ok(question) => {
            let (answer, answered) = oneshot::channel();
            let gone = || io::Error::other("the service is stopping");
            requests.send(Request { question, answer }).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        }
        Err(error) => Answer::Refused(format!("not a question of this protocol: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    tokio::time::timeout(PATIENCE, stream.write_all(&text)).await.map_err(late)?
}

/// Why there is no control socket, or no answer from it.
#[derive(Debug)]
pub struct ControlError {
    path: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Io(io::Error),
    InUse,
    Strange(String),
}

impl ControlError {
    /// Whether nothing listens there: the service does not run.
    pub fn is_not_running(&self) -> bool {
        matches!(&self.why, Why::Io(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused))
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "control socket {}: ", self.path.display())?;
        match &self.why {
            Why::Io(error) if self.is_not_running() => write!(
                out,
                "{error}; dot-proxy does not run, or its control socket is elsewhere (option control.socket)"
            ),
            Why::Io(error) if error.kind() == ErrorKind::PermissionDenied => {
                write!(out, "{error}; it is for the user and the group of the service alone")
            }
            Why::Io(error) => error.fmt(out),
            Why::InUse => {
                out.write_str("another process answers on it; give one of them another path (option control.socket)")
            }
            Why::Strange(what) => out.write_str(what),
        }
    }
}

impl std::error::Error for ControlError {}

/// Asks the running service, and waits for its answer.
///
/// # Errors
/// If it does not run, or does not answer.
pub fn ask(path: &Path, question: Question) -> Result<Answer, ControlError> {
    let fault = |error: io::Error| ControlError { path: path.to_owned(), why: Why::Io(error) };
    let strange = |what: String| ControlError { path: path.to_owned(), why: Why::Strange(what) };
    let mut stream = UnixStream::connect(path).map_err(fault)?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE)).map_err(fault)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(fault)?;
    let mut text = serde_json::to_vec(&question).map_err(|error| strange(error.to_string()))?;
    text.push(b'\n');
    stream.write_all(&text).map_err(fault)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(LONGEST_ANSWER)).read_until(b'\n', &mut line).map_err(fault)?;
    match serde_json::from_slice(&line) {
        Ok(Answer::Refused(why)) => Err(strange(why)),
        Ok(answer) => Ok(answer),
        Err(_) if line.is_empty() => Err(strange("closed without an answer; the service is stopping".to_owned())),
        Err(error) => Err(strange(format!("the answer cannot be read ({error}); is another version running?"))),
    }
}
