//! What every long test stands on: troubled servers, the real program before them, and an eye on what it holds.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use testkit::{Pki, Proxy, Stage, UdpClient, query};

use crate::soak_load::Load;
use crate::soak_watch::{Held, Watch};
use crate::troubled::{Counts, Troubled};

const NAME: &str = "upstream.test";
/// Workers of the program under test: the same on every machine, and more than one.
pub const WORKERS: u16 = 2;
/// How long the path to the servers is: with answers at once hardly any query would meet a fault.
pub const ANSWER_AFTER: Duration = Duration::from_millis(10);

/// Builds the program below `root` if need be; where it is then.
///
/// # Errors
/// It cannot be built.
pub fn program(root: &Path) -> Result<PathBuf, String> {
    let build =
        Command::new(env!("CARGO")).args(["build", "--release", "--bin", "dot-proxy"]).current_dir(root).status();
    if !build.is_ok_and(|status| status.success()) {
        return Err("dot-proxy cannot be built".to_owned());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    Ok(target.join("release/dot-proxy"))
}

/// Servers, program, and who watches it.
pub struct Stand {
    /// In the order of the program's configuration.
    pub servers: Vec<Arc<Troubled>>,
    /// The program under test.
    pub proxy: Proxy,
    program: PathBuf,
    watch: Watch,
    _pki: Pki,
}

impl Stand {
    /// The program before so many servers. `more`: lines for its section `[upstream]`.
    pub fn new(program: &Path, servers: usize, more: &str) -> Stand {
        Stand::with_cache(program, servers, "size = \"0\"", more)
    }

    /// The same with these lines in its section `[cache]`.
    pub fn with_cache(program: &Path, servers: usize, cache: &str, more: &str) -> Stand {
        let pki = Pki::new();
        let identity = pki.server(&[NAME]);
        let servers: Vec<_> = (1..=servers)
            .map(|host| Troubled::start(identity.clone(), &format!("127.0.0.{host}:0"), ANSWER_AFTER))
            .collect();
        let addresses: Vec<_> =
            servers.iter().map(|server| format!("\"{}#{NAME}\"", server.server().address())).collect();
        let config = format!(
            "workers = {WORKERS}\n[listen]\naddresses = [\"127.0.0.1:0\"]\n[cache]\n{cache}\n[upstream]\nservers = [{}]\nca-file = \"{}\"\n{more}",
            addresses.join(", "),
            pki.ca_file().display()
        );
        let proxy = Proxy::builder(program).config(&config).start();
        let watch = Watch::start(proxy.pid());
        Stand { servers, proxy, program: program.to_owned(), watch, _pki: pki }
    }

    /// A load on the program.
    ///
    /// # Errors
    /// There is no socket to be had.
    pub fn load(&self, rate: u32) -> Result<Load, String> {
        Load::start(self.proxy.address(), rate)
    }

    /// What all servers have seen, added up.
    pub fn counts(&self) -> Counts {
        self.servers.iter().map(|server| server.counts()).fold(Counts::default(), |sum, one| Counts {
            connections: sum.connections + one.connections,
            full: sum.full + one.full,
            resumed: sum.resumed + one.resumed,
            queries: sum.queries + one.queries,
            open: sum.open + one.open,
        })
    }

    /// How long one query took, if it was answered within 5 s.
    pub fn ask_once(&self, name: &str) -> Option<Duration> {
        let client = UdpClient::connect(self.proxy.address());
        let start = Instant::now();
        let answer = client.ask_within(&query(1, name, 1), Duration::from_secs(5))?;
        (testkit::inspect::rcode(&answer) == 0).then(|| start.elapsed())
    }

    /// From now on nothing gets through to any server, on no connection, as where the network is gone.
    pub fn cut_off(&self) {
        for server in &self.servers {
            server.server().set_stage(Stage::BlackHoleSyn);
            server.server().freeze_existing();
        }
    }

    /// New connections get through again.
    pub fn reconnect(&self) {
        for server in &self.servers {
            server.recover();
        }
    }

    /// What the program holds now.
    ///
    /// # Errors
    /// It has ended.
    pub fn held(&self) -> Result<Held, String> {
        Held::by(self.proxy.pid())
    }

    /// Connections to all servers that are open, as the program counts them.
    ///
    /// # Errors
    /// It does not say.
    pub fn open_connections(&self) -> Result<u64, String> {
        let said = Command::new(&self.program)
            .args(["status", "--json", "--socket"])
            .arg(self.proxy.control_socket())
            .output()
            .map_err(|error| format!("asking for its status: {error}"))?;
        let report: serde_json::Value =
            serde_json::from_slice(&said.stdout).map_err(|error| format!("its status cannot be read: {error}"))?;
        let servers = report["upstream"].as_array().ok_or("its status names no server")?;
        let counts: Option<Vec<u64>> = servers.iter().map(|server| server["connections"].as_u64()).collect();
        Ok(counts.ok_or("its status counts no connections")?.iter().sum())
    }

    /// Waits until the program holds no more than at the start, but for `leeway` percent of memory; tells what it holds, and
    /// held at most.
    ///
    /// # Errors
    /// It holds more, or has ended.
    pub fn settled(&self, start: Held, leeway: u64) -> Result<String, String> {
        let (held, most) = (self.watch.settled(start, leeway)?, self.watch.most());
        Ok(format!("at the start {start}; at most {most}; at the end {held}"))
    }
}

/// Waits.
pub fn pause(time: Duration) {
    thread::sleep(time);
}
