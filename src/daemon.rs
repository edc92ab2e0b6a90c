//! The program from start to stop: configuration, log, servers, sockets, workers, ready; then signals, and an orderly
//! stop.

use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{self, Action, Invocation};
use crate::config::file;
use crate::config::settings::{LogTarget, Settings};
use crate::inherited;
use crate::log::{LogThread, Target};
use crate::metrics::{Counters, Sum};
use crate::sockets::{self, Bound};
use crate::systemd;
use crate::upstream::server::UpstreamServer;
use crate::upstream::tls::TrustStores;
use crate::worker::{self, Work};

/// Exit status for a configuration that cannot be used (sysexits.h, EX_CONFIG): starting again would not help.
const EXIT_CONFIG: u8 = 78;
/// Exit status for anything else that ends the service.
const EXIT_FAILURE: u8 = 1;
/// How often the main thread looks whether every worker still runs.
const LOOK: Duration = Duration::from_millis(500);

/// Why the program ends early.
enum Stop {
    /// The configuration cannot be used.
    Config(String),
    /// Something that the configuration cannot change.
    Failure(String),
}

fn config(error: impl Display) -> Stop {
    Stop::Config(error.to_string())
}

fn failure(error: impl Display) -> Stop {
    Stop::Failure(error.to_string())
}

/// Does what the command line asks, and gives the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let invocation = match cli::parse(arguments) {
        Ok(invocation) => invocation,
        // prints help, version, or what is wrong, and ends with 0 or 2
        Err(error) => error.exit(),
    };
    let result = match invocation.action {
        Action::Run => run(&invocation),
        Action::Check => check(&invocation),
    };
    let (text, status) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Stop::Config(text)) => (text, EXIT_CONFIG),
        Err(Stop::Failure(text)) => (text, EXIT_FAILURE),
    };
    for line in text.lines() {
        log::error!("{line}");
    }
    log::logger().flush();
    if !crate::log::reaches_stderr() {
        // whoever starts the program by hand, or through a service manager, is told as well
        say(&text);
    }
    ExitCode::from(status)
}

#[expect(clippy::print_stderr, reason = "why the program ends is said even where the log goes elsewhere")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// The start order, in one place.
fn run(invocation: &Invocation) -> Result<(), Stop> {
    let settings = file::load(invocation.config.as_deref(), &invocation.overrides).map_err(config)?;
    // before any thread exists: it cleans the environment
    let inherited = inherited::take().map_err(failure)?;
    let target = match settings.log.target {
        LogTarget::Stderr => Target::Stderr,
        LogTarget::Syslog => Target::Syslog,
    };
    let log = LogThread::start(settings.log.level, target).map_err(failure)?;
    let servers = read_servers(&settings)?;
    let bound = if inherited.is_empty() {
        sockets::bind_all(&settings.listen.addresses, settings.workers)
    } else {
        log::info!("listen.addresses is not used: the service manager handed {} sockets over", inherited.len());
        sockets::adopt(inherited, settings.workers)
    }
    .map_err(failure)?;
    let service = Service::start(settings, servers, bound).map_err(failure)?;
    let result = service.serve();
    log.finish();
    result
}

/// Everything that a start would read and judge, without a socket.
fn check(invocation: &Invocation) -> Result<(), Stop> {
    let settings = file::load(invocation.config.as_deref(), &invocation.overrides).map_err(config)?;
    let servers = read_servers(&settings)?;
    for server in servers {
        let server = server.settings();
        tell(&format!("upstream {}: {}, issued by {}", server.label, server.authentication, server.roots));
    }
    tell("configuration ok");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
fn tell(line: &str) {
    println!("{line}");
}

fn read_servers(settings: &Settings) -> Result<Vec<Arc<UpstreamServer>>, Stop> {
    let mut stores = TrustStores::default();
    let servers = settings.upstream.servers.iter();
    servers.map(|server| UpstreamServer::new(server.clone(), &mut stores).map(Arc::new).map_err(config)).collect()
}

/// The running service, as the main thread sees it.
struct Service {
    workers: Vec<JoinHandle<io::Result<()>>>,
    counters: Vec<Arc<Counters>>,
    stop: watch::Sender<bool>,
}

impl Service {
    fn start(settings: Settings, servers: Vec<Arc<UpstreamServer>>, mut bound: Vec<Bound>) -> io::Result<Service> {
        let settings = Arc::new(settings);
        let (stop, stopped) = watch::channel(false);
        for bound in &bound {
            let inherited = if bound.origin == "own" { String::new() } else { format!(", {}", bound.origin) };
            log::info!("listening on {} ({}{inherited})", bound.address, bound.protocols());
        }
        let mut service = Service { workers: Vec::new(), counters: Vec::new(), stop };
        for number in 0..settings.workers {
            let counters = Arc::new(Counters::default());
            service.counters.push(counters.clone());
            let work = Work {
                settings: settings.clone(),
                servers: servers.clone(),
                sockets: bound.iter_mut().map(Bound::share).collect(),
                counters,
                heartbeat: systemd::watchdog().map(|limit| limit / 4),
                stop: stopped.clone(),
            };
            service.workers.push(worker::start(number, work)?);
        }
        Ok(service)
    }

    /// Serves until a signal comes or a worker ends.
    fn serve(self) -> Result<(), Stop> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failure)?;
        let outcome = runtime.block_on(self.watch());
        if let Ok(name) = &outcome {
            log::info!("{name}: stopping");
        }
        systemd::stopping();
        self.stop.send_replace(true);
        let mut faults = Vec::new();
        for worker in self.workers {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => faults.push(format!("a worker failed: {error}")),
                Err(_) => faults.push("a worker panicked".to_owned()),
            }
        }
        log::info!("stopped; {}", Sum(&self.counters));
        match (outcome, faults.is_empty()) {
            (Ok(_), true) => Ok(()),
            (Ok(_), false) => Err(Stop::Failure(faults.join("\n"))),
            // why a worker ended stands in its result
            (Err(Stop::Failure(text)), false) => Err(Stop::Failure(format!("{text}\n{}", faults.join("\n")))),
            (Err(stop), _) => Err(stop),
        }
    }

    /// Says that the service is ready, and gives the name of the signal that ends it.
    async fn watch(&self) -> Result<&'static str, Stop> {
        let mut terminate = signal(SignalKind::terminate()).map_err(failure)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failure)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(failure)?;
        // not before a signal would be heeded: whoever reads this may send one at once
        log::info!("ready");
        systemd::ready("serving");
        let look = systemd::watchdog().map_or(LOOK, |limit| LOOK.min(limit / 4));
        let mut pulse = Pulse::default();
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok("SIGTERM"),
                _ = interrupt.recv() => return Ok("SIGINT"),
                _ = hangup.recv() => log::warn!("SIGHUP: a changed configuration takes effect at a restart"),
                () = tokio::time::sleep(look) => {}
            }
            if self.workers.iter().any(JoinHandle::is_finished) {
                return Err(Stop::Failure("a worker ended by itself; the service cannot go on without it".to_owned()));
            }
            if pulse.all_alive(&self.counters) {
                systemd::alive();
            }
        }
    }
}

/// The signs of life seen at the last look, one number a worker.
#[derive(Default)]
struct Pulse {
    seen: Vec<u64>,
}

impl Pulse {
    /// Whether every worker has shown a sign of life since this last was so.
    fn all_alive(&mut self, counters: &[Arc<Counters>]) -> bool {
        let now: Vec<u64> = counters.iter().map(|counters| counters.heartbeats.get()).collect();
        self.seen.resize(now.len(), 0);
        let alive = now.iter().zip(&self.seen).all(|(now, seen)| now > seen);
        if alive {
            self.seen = now;
        }
        alive
    }
}
