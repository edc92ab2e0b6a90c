//! Starts the real binary on free ports, reads its log, measures it, and never leaves it behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::folder::readable_folder;

pub use nix::sys::signal::Signal;

/// How long a start, or a failure to start, may take.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Makes a [`Proxy`].
pub struct ProxyBuilder {
    program: PathBuf,
    directory: TempDir,
    config: Option<String>,
    args: Vec<String>,
    environment: Vec<(String, String)>,
}

impl ProxyBuilder {
    /// The text of the configuration file; without it the binary is started without `--config`.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: &str) -> Self {
        self.args.push(argument.to_owned());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The directory of the configuration file.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the binary and waits until it says that it is ready; panics with its log if it does not.
    pub fn start(self) -> Proxy {
        let mut proxy = self.spawn();
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if proxy.lines.wait(|lines| lines.iter().any(|line| is_ready(line)), Duration::from_millis(50)) {
                break;
            }
            if let Some(status) = proxy.wait_exit(Duration::ZERO) {
                panic!("the proxy ended with {status} before it was ready:\n{}", proxy.log());
            }
            assert!(Instant::now() < deadline, "the proxy is not ready in time:\n{}", proxy.log());
        }
        proxy.addresses = listening_addresses(&proxy.lines.lines.lock().unwrap().text);
        proxy
    }

    /// Starts the binary, which has to end by itself; panics if it goes on.
    pub fn start_expecting_failure(self) -> (ExitStatus, String) {
        let mut proxy = self.spawn();
        let status = proxy.wait_exit(START_LIMIT);
        (status.unwrap_or_else(|| panic!("the proxy should have failed:\n{}", proxy.log())), proxy.log())
    }

    fn spawn(self) -> Proxy {
        let config_file = self.directory.path().join("dot-proxy.toml");
        let mut command = Command::new(&self.program);
        if let Some(text) = &self.config {
            fs::write(&config_file, text).expect("a writable directory");
            command.arg("--config").arg(&config_file);
        }
        // inherited by accident these would change what the daemon does
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
        // as a service manager would: each daemon has a folder of its own for its control socket
        command.env("RUNTIME_DIRECTORY", self.directory.path());
        command.args(&self.args).env("RUST_BACKTRACE", "1").envs(self.environment);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", self.program.display()));
        let lines = Arc::new(Lines::default());
        let stderr = child.stderr.take().expect("a pipe");
        let sink = Arc::clone(&lines);
        thread::spawn(move || sink.read_all(BufReader::new(stderr)));
        Proxy { child, lines, addresses: Vec::new(), config_file, status: None, directory: self.directory }
    }
}

/// The lines of the log, with a way to wait for one.
#[derive(Default)]
struct Lines {
    lines: Mutex<Text>,
    changed: Condvar,
}

#[derive(Default)]
struct Text {
    text: Vec<String>,
    ended: bool,
}

impl Lines {
    fn read_all(&self, mut stderr: impl BufRead) {
        let mut line = Vec::new();
        while matches!(stderr.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            self.lines.lock().unwrap().text.push(text);
            self.changed.notify_all();
            line.clear();
        }
        self.lines.lock().unwrap().ended = true;
        self.changed.notify_all();
    }

    fn wait(&self, condition: impl Fn(&[String]) -> bool, timeout: Duration) -> bool {
        let guard = self.lines.lock().unwrap();
        let pending = |text: &mut Text| !condition(&text.text) && !text.ended;
        let (guard, _) = self.changed.wait_timeout_while(guard, timeout, pending).unwrap();
        condition(&guard.text)
    }
}

fn is_ready(line: &str) -> bool {
    line.split_whitespace().any(|word| word == "ready")
}

fn listening_addresses(lines: &[String]) -> Vec<SocketAddr> {
    let after = |line: &String| line.split_once("listening on ")?.1.split_whitespace().next()?.parse().ok();
    lines.iter().filter_map(after).collect()
}

/// A running binary; killed when dropped.
pub struct Proxy {
    child: Child,
    lines: Arc<Lines>,
    addresses: Vec<SocketAddr>,
    config_file: PathBuf,
    status: Option<ExitStatus>,
    directory: TempDir,
}

impl Proxy {
    /// A start to be set up.
    pub fn builder(program: &Path) -> ProxyBuilder {
        ProxyBuilder {
            program: program.to_owned(),
            directory: readable_folder(),
            config: None,
            args: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The first address it listens on.
    pub fn address(&self) -> SocketAddr {
        *self.addresses.first().unwrap_or_else(|| panic!("no address in the log:\n{}", self.log()))
    }

    /// All addresses it listens on, in the order of the log.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses of which the log says that they serve this, such as "tls".
    pub fn addresses_of(&self, protocols: &str) -> Vec<SocketAddr> {
        let log = self.log();
        let lines =
            log.lines().filter(|line| line.split_once('(').is_some_and(|(_, said)| said.starts_with(protocols)));
        listening_addresses(&lines.map(str::to_owned).collect::<Vec<_>>())
    }

    /// The process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The configuration file, to be rewritten before a reload.
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// Its control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.lines.lines.lock().unwrap().text.join("\n")
    }

    /// The number of lines in the log so far.
    pub fn log_lines(&self) -> usize {
        self.lines.lines.lock().unwrap().text.len()
    }

    /// Waits for a line that contains `text`; false if none comes in time.
    pub fn wait_for_log(&self, text: &str, timeout: Duration) -> bool {
        self.lines.wait(|lines| lines.iter().any(|line| line.contains(text)), timeout)
    }

    /// Waits for a line that contains `text` among those from line `from` on.
    pub fn wait_for_log_after(&self, from: usize, text: &str, timeout: Duration) -> bool {
        self.lines.wait(|lines| lines.iter().skip(from).any(|line| line.contains(text)), timeout)
    }

    /// Sends a signal. Nothing happens if the process has ended.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill(Pid::from_raw(self.pid().try_into().expect("a process ID")), signal);
        }
    }

    /// Waits for the process to end.
    pub fn wait_exit(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        while self.status.is_none() {
            self.status = self.child.try_wait().expect("a child");
            if self.status.is_some() || Instant::now() >= deadline {
                break;
            }
            // without a SIGCHLD handler of its own a library can only look from time to time
            thread::sleep(Duration::from_millis(5));
        }
        if self.status.is_some() {
            // the last lines may still be in the pipe
            self.lines.wait(|_| false, Duration::from_secs(1));
        }
        self.status
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid()))
    }

    fn status_number(&self, key: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {key} in the process status"))
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.status_number("VmRSS")
    }

    /// Number of threads.
    pub fn threads(&self) -> u64 {
        self.status_number("Threads")
    }

    /// Number of open file descriptors.
    pub fn open_files(&self) -> usize {
        fs::read_dir(self.proc("fd")).expect("a running process").count()
    }

    /// Processor time used so far, user and system.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(self.proc("stat")).expect("a running process");
        // the program's name may contain anything, also spaces; the fields are counted from the bracket behind it
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name in brackets").1.split_whitespace().collect();
        let ticks: u64 = fields[11..=12].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
        // Linux tells user space 100 ticks a second, whatever the kernel counts with
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // its own handle: an ID from a number could by now belong to another process
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration for tests: one free port on loopback, these upstreams (address and authentication name), this CA, and
/// nothing answered from memory, since most tests ask the same question again and again.
pub fn config_for(upstreams: &[(SocketAddr, &str)], ca_file: &Path) -> String {
    let servers: Vec<String> = upstreams.iter().map(|(address, name)| format!("\"{address}#{name}\"")).collect();
    format!(
        "workers = 1\n[listen]\naddresses = [\"127.0.0.1:0\"]\n[upstream]\nservers = [{}]\nca-file = \"{}\"\n[cache]\nsize = \"0\"\n[log]\nlevel = \"debug\"\n",
        servers.join(", "),
        ca_file.display()
    )
}
