//! The running service, as the main thread sees it: workers, signals, questions from the control socket, reload, the
//! words to the service manager, and the orderly stop.

use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::LocalOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::{FLOOR, Memory};
use crate::config::file::{self, Loaded, Source};
use crate::config::settings::ClientTls;
use crate::control::{Answer, ControlSocket, Question, Request};
use crate::keeper::Keeper;
use crate::listen::certificate::{Certificate, Occasion};
use crate::listen::limits::Places;
use crate::listen::seats::Seats;
use crate::listen::shift::Shift;
use crate::metrics::{Counters, Sum};
use crate::network_changes::Suspension;
use crate::network_watch::{self, NetworkWatch};
use crate::privileges::Privileges;
use crate::pulse::Pulse;
use crate::report::{self, Configuration, Listener, Process, Reload, Report, State};
use crate::sandbox::{Confined, Reach};
use crate::sockets::Bound;
use crate::systemd;
use crate::upstream::roster::{Roster, circles};
use crate::upstream::server;
use crate::upstream::survey::{self, micros};
use crate::worker::{self, Order, Terms, Work};

/// How often the main thread looks whether every worker still runs.
const LOOK: Duration = Duration::from_millis(500);
/// How often a worker shows that it does, if the service manager does not want to know it more often.
const BEAT: Duration = Duration::from_secs(2);
/// How long a worker may take for an order before it counts as stuck.
const TURN: Duration = Duration::from_secs(2);
/// Questions that may wait; more keep their askers waiting.
const QUESTIONS: usize = 8;

/// What was made ready before the service began, and does not change.
pub struct Premises {
    /// Where the configuration comes from.
    pub source: Source,
    /// What is left of privileges.
    pub privileges: Privileges,
    /// What Landlock holds.
    pub confined: Confined,
    /// What it was asked to leave within reach.
    pub reach: Reach,
    /// How many system calls are allowed, if they are filtered.
    pub system_calls: Option<usize>,
    /// The control socket, if there is one.
    pub control: Option<ControlSocket>,
    /// Where the last good time is kept, if there is a place for it.
    pub memory: Option<Memory>,
}

/// A worker, as it is held.
struct Hand {
    thread: JoinHandle<io::Result<()>>,
    counters: Arc<Counters>,
    orders: mpsc::UnboundedSender<Order>,
}

/// The running service.
pub struct Service {
    premises: Premises,
    started: Instant,
    running: Loaded,
    roster: Roster,
    certificate: Option<Certificate>,
    keeper: Keeper,
    listeners: Vec<Listener>,
    workers: Vec<Hand>,
    shift: Arc<Shift>,
    seats: Arc<Seats>,
    stop: watch::Sender<bool>,
    last_reload: Option<Reload>,
    pulse: Pulse,
    /// What the service manager was last told.
    told: String,
    /// The network, if its changes can be heard of.
    network: Option<NetworkWatch>,
    suspension: Suspension,
}

impl Service {
    /// Starts the workers.
    ///
    /// # Errors
    /// If a thread cannot be made, or no descriptor is left for its sockets.
    pub fn start(
        premises: Premises,
        running: Loaded,
        roster: Roster,
        certificate: Option<Certificate>,
        bound: Vec<Bound>,
    ) -> io::Result<Service> {
        let (stop, stopped) = watch::channel(false);
        let mut listeners = Vec::new();
        for bound in &bound {
            let inherited = if bound.origin == "own" { String::new() } else { format!(", {}", bound.origin) };
            log::info!("listening on {} ({}{inherited})", bound.address, bound.protocols());
            let (address, protocols) = (bound.address.to_string(), bound.protocols().to_owned());
            listeners.push(Listener { address, protocols, origin: bound.origin.clone() });
        }
        let keeper = Keeper::new(&running.settings, premises.memory.as_ref().and_then(Memory::folder));
        let terms = terms(&running, &roster, certificate.as_ref(), &keeper);
        let listen = &running.settings.listen;
        let places = Places::new(listen.tcp_connections, listen.tcp_connections_per_client, Instant::now());
        let seats = Arc::new(Seats::new(places, running.settings.workers));
        let shift = Shift::of(running.settings.workers);
        let mut workers = Vec::new();
        for number in 0..running.settings.workers {
            let counters = Arc::new(Counters::default());
            let (orders, taken) = mpsc::unbounded_channel();
            let work = Work {
                terms: terms.clone(),
                sockets: bound.iter().map(Bound::share).collect::<io::Result<_>>()?,
                duty: shift.duty(number),
                seats: seats.clone(),
                counters: counters.clone(),
                heartbeat: systemd::watchdog().map_or(BEAT, |limit| BEAT.min(limit / 4)),
                orders: taken,
                stop: stopped.clone(),
            };
            workers.push(Hand { thread: worker::start(number, work)?, counters, orders });
        }
        let (last_reload, pulse, told, network, suspension) = Default::default();
        let started = Instant::now();
        Ok(Service {
            premises,
            started,
            running,
            roster,
            certificate,
            keeper,
            listeners,
            workers,
            shift,
            seats,
            stop,
            last_reload,
            pulse,
            told,
            network,
            suspension,
        })
    }

    /// Serves until a signal comes or a worker ends.
    ///
    /// # Errors
    /// Why it ended, if not by a signal.
    pub fn serve(mut self) -> Result<(), String> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build_local(LocalOptions::default()).map_err(text)?;
        let control = self.premises.control.take();
        let (asking, questions) = mpsc::channel(QUESTIONS);
        let outcome = runtime.block_on(async {
            tokio::select! {
                outcome = self.watch(questions) => outcome,
                never = attend(control.as_ref(), asking) => match never {},
            }
        });
        if let Ok(name) = &outcome {
            log::info!("{name}: stopping");
        }
        systemd::stopping();
        self.stop.send_replace(true);
        if let Some(memory) = &mut self.premises.memory {
            memory.keep(&FLOOR, true);
        }
        let counters = self.counters();
        let mut faults = Vec::new();
        for worker in self.workers {
            match worker.thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => faults.push(format!("a worker failed: {error}")),
                Err(_) => faults.push("a worker panicked".to_owned()),
            }
        }
        self.keeper.keep();
        log::info!("stopped; {}", Sum(&counters));
        // why a worker ended stands in its result
        let why: Vec<String> = outcome.err().into_iter().chain(faults).collect();
        if why.is_empty() { Ok(()) } else { Err(why.join("\n")) }
    }

    fn counters(&self) -> Vec<Arc<Counters>> {
        self.workers.iter().map(|worker| worker.counters.clone()).collect()
    }

    /// Says that the service is ready, does what signals and questions ask, and gives the name of the signal that ends
    /// it.
    async fn watch(&mut self, mut questions: mpsc::Receiver<Request>) -> Result<&'static str, String> {
        let mut terminate = signal(SignalKind::terminate()).map_err(text)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(text)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(text)?;
        match NetworkWatch::open(self.resolvers()) {
            Ok(watch) => self.network = Some(watch),
            Err(error) => log::info!("changes of the network are not noticed, only suspend is: {error}"),
        }
        // not before a signal would be heeded: whoever reads this may send one at once
        log::info!("ready");
        self.told = self.summary();
        systemd::ready(&self.told);
        let look = systemd::watchdog().map_or(LOOK, |limit| LOOK.min(limit / 4));
        let mut due = tokio::time::interval(look);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok("SIGTERM"),
                _ = interrupt.recv() => return Ok("SIGINT"),
                _ = hangup.recv() => drop(self.reload("SIGHUP").await),
                Some(Request { question, answer }) = questions.recv() => {
                    let said = match question {
                        Question::Status => Answer::Status(Box::new(self.report().await)),
                        Question::Reload => Answer::Reload(self.reload("control socket").await),
                        Question::Flush(what) => self.keeper.forget(&what).map_or_else(Answer::Refused, Answer::Flushed),
                    };
                    // whoever asked may be gone
                    let _ = answer.send(said);
                }
                change = changed(&mut self.network) => match change {
                    Ok(what) => self.start_afresh(&format!("network changed ({what})")).await,
                    Err(error) => {
                        log::warn!("changes of the network are no longer noticed, only suspend is: {error}");
                        self.network = None;
                    }
                },
                () = self.roster.changed(&self.running.settings) => self.regroup().await,
                _ = due.tick() => {
                    if let Some(slept) = network_watch::resumed(&mut self.suspension) {
                        let slept = humantime::format_duration(Duration::from_secs(slept.as_secs()));
                        self.start_afresh(&format!("resumed after {slept} of suspend")).await;
                    }
                    self.look()?;
                }
            }
        }
    }

    /// The ways to resolvers are no longer what they were: what is known of them is forgotten, connections begin anew.
    async fn start_afresh(&mut self, why: &str) {
        log::info!("{why}: connections to resolvers are renewed");
        self.roster.network_changed();
        // a worker that is stuck does it when it takes its next turn
        self.order(Order::NetworkChanged).await;
    }

    /// There are other servers than before: the workers hear of it, and keep what they have with those that stay.
    async fn regroup(&mut self) {
        let terms = terms(&self.running, &self.roster, self.certificate.as_ref(), &self.keeper);
        // a worker that is stuck does it when it takes its next turn
        self.order(|done| Order::Renew(terms.clone(), done)).await;
        self.watch_ways();
    }

    fn watch_ways(&mut self) {
        let resolvers = self.resolvers();
        if let Some(network) = &mut self.network {
            network.lead_to(resolvers);
        }
    }

    /// Who is connected to, or asked for servers.
    fn resolvers(&self) -> Vec<IpAddr> {
        let servers = self.roster.servers().iter().flatten().map(|server| server.settings().address.ip());
        let asked = self.running.settings.sources().flat_map(|source| &source.search.resolvers);
        servers.chain(asked.map(SocketAddr::ip)).collect()
    }

    /// Looks whether the workers live, tells the service manager what it should know, and keeps the time.
    fn look(&mut self) -> Result<(), String> {
        if self.workers.iter().any(|worker| worker.thread.is_finished()) {
            return Err("a worker ended by itself; the service cannot go on without it".to_owned());
        }
        self.roster.attend(&self.running.settings);
        let are_all_alive = self.pulse.look(self.workers.iter().map(|worker| worker.counters.heartbeats.get()));
        if are_all_alive && systemd::watchdog().is_some() {
            systemd::alive();
        }
        for (number, _) in self.pulse.stuck().filter(|&(_, is_news)| is_news) {
            log::error!("worker {number} gives no sign of life; all others serve until it does");
        }
        self.shift.relieve(self.pulse.stuck().next().is_some());
        if let Some(memory) = &mut self.premises.memory {
            memory.keep(&FLOOR, false);
        }
        self.keeper.look();
        let summary = self.summary();
        if summary != self.told {
            systemd::status(&summary);
            self.told = summary;
        }
        Ok(())
    }

    /// The present state in one line.
    fn summary(&self) -> String {
        let servers = || self.roster.servers().iter().flatten();
        let usable = servers().filter(|server| !server.is_doubtful()).count();
        let reload = match &self.last_reload {
            Some(Reload { applied: false, .. }) => "; the last reload was refused",
            _ => "",
        };
        format!("serving; {usable} of {} resolvers usable{reload}", servers().count())
    }

    /// Reads the configuration again: all of it takes effect, or nothing.
    async fn reload(&mut self, who: &str) -> Reload {
        systemd::reloading();
        let reload = match self.renew().await {
            Ok(notes) => {
                log::info!("{who}: configuration reloaded");
                notes.iter().for_each(|note| log::warn!("{note}"));
                Reload { applied: true, notes }
            }
            Err(problems) => {
                log::error!("{who}: reload refused, the service runs on as before:");
                problems.lines().for_each(|line| log::error!("{line}"));
                Reload { applied: false, notes: problems.lines().map(str::to_owned).collect() }
            }
        };
        self.last_reload = Some(reload.clone());
        self.told = self.summary();
        systemd::ready(&self.told);
        reload
    }

    /// Gives what there is to say of a reload that was done, or why it was not.
    async fn renew(&mut self) -> Result<Vec<String>, String> {
        let renewed = file::renew(&self.premises.source, &self.running).map_err(text)?;
        self.within_reach(&renewed)?;
        let (entries, said) = server::read_all(renewed.settings.groups(), Some(self.roster.entries())).map_err(text)?;
        let read = |tls: &ClientTls| Certificate::read(tls, Occasion::Reload(self.certificate.as_ref()));
        let certificate = renewed.settings.listen.tls.as_ref().map(read).transpose().map_err(text)?;
        let (certificate, mut notes) = certificate.map_or_else(Default::default, |(read, notes)| (Some(read), notes));
        notes.extend(said);
        // from here on nothing is refused
        self.roster.renew(&renewed.settings, entries);
        self.keeper.renew(&renewed.settings);
        let listen = &renewed.settings.listen;
        self.seats.resize(listen.tcp_connections, listen.tcp_connections_per_client);
        let terms = terms(&renewed, &self.roster, certificate.as_ref(), &self.keeper);
        for (number, heartbeat) in self.order(|done| Order::Renew(terms.clone(), done)).await.into_iter().enumerate() {
            if heartbeat.is_none() {
                notes.push(format!("worker {number} has not taken the new configuration yet: it is stuck"));
            }
        }
        log::set_max_level(renewed.settings.log.level);
        if !renewed.waiting.is_empty() {
            notes.push(format!("{}: a change takes effect at a restart", renewed.waiting.join(", ")));
        }
        if renewed.settings.uses_credentials() {
            notes.push("credentials are those of the start: a renewed one is read at a restart".to_owned());
        }
        (self.running, self.certificate) = (renewed, certificate);
        self.watch_ways();
        Ok(notes)
    }

    /// What the process has given up it cannot have again: a configuration that would need it waits for a restart.
    fn within_reach(&self, renewed: &Loaded) -> Result<(), String> {
        let Premises { confined, reach, .. } = &self.premises;
        let mut problems = circles(&renewed.settings, self.roster.own());
        for (label, port) in renewed.settings.ports() {
            if !confined.allows(port) {
                problems.push(format!("upstream {label}: port {port} is none of those that the running process may connect to (sandbox); restart the service"));
            }
        }
        for path in renewed.settings.files().filter(|path| confined.files && !reach.covers(path)) {
            let path = path.display();
            problems.push(format!(
                "{path}: is in no folder that the running process may read (sandbox); restart the service"
            ));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }

    /// Gives every worker an order; how long each took for it, if it did it in time.
    async fn order(&self, order: impl Fn(oneshot::Sender<()>) -> Order) -> Vec<Option<Duration>> {
        let given = Instant::now();
        let mut awaited = Vec::new();
        for worker in &self.workers {
            let (done, heard) = oneshot::channel();
            // a worker that has ended drops the order, which is heard
            let _ = worker.orders.send(order(done));
            awaited.push(heard);
        }
        let mut took = Vec::new();
        for heard in awaited {
            let left = TURN.saturating_sub(given.elapsed());
            took.push(matches!(tokio::time::timeout(left, heard).await, Ok(Ok(()))).then(|| given.elapsed()));
        }
        took
    }

    fn worker(&self, number: usize, beat: Option<Duration>) -> report::Worker {
        report::Worker { number, heartbeat_us: beat.map(micros), on_duty: self.shift.has_on_duty(number) }
    }

    async fn report(&self) -> Report {
        let beats = self.order(Order::Beat).await.into_iter().enumerate();
        let workers: Vec<report::Worker> = beats.map(|(number, beat)| self.worker(number, beat)).collect();
        let settings = &self.running.settings;
        let (upstream, sources) = (survey::servers(settings, &self.roster), survey::sources(settings, &self.roster));
        let mut reasons = report::reasons(&workers, &upstream);
        reasons.extend(survey::vacancies(settings, &self.roster));
        let Premises { source, privileges, confined, system_calls, .. } = &self.premises;
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            state: if reasons.is_empty() { State::Serving } else { State::Degraded },
            reasons,
            listeners: self.listeners.clone(),
            process: Process {
                user: privileges.user.clone(),
                group: privileges.group,
                capabilities: privileges.capabilities,
                bounding_capabilities: privileges.bounding,
                no_new_privileges: privileges.no_new_privs,
                sandbox: confined.to_string(),
                system_calls: *system_calls,
            },
            workers,
            upstream,
            sources,
            memory: self.keeper.report(),
            configuration: Configuration {
                file: source.file().display().to_string(),
                last_reload: self.last_reload.clone(),
                waiting_for_restart: self.running.waiting.clone(),
            },
            counters: Sum(&self.counters()).values().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }
}

/// What the workers work under.
fn terms(running: &Loaded, roster: &Roster, certificate: Option<&Certificate>, keeper: &Keeper) -> Arc<Terms> {
    let (settings, servers) = (running.settings.clone(), roster.servers().clone());
    let (vacancies, tls) = (roster.vacancies().to_vec(), certificate.map(Certificate::config));
    Arc::new(Terms { settings, servers, vacancies, memory: keeper.memory().clone(), tls })
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Serves the control socket, if there is one and for as long as it can be served: clients are served without it as well.
async fn attend(control: Option<&ControlSocket>, asking: mpsc::Sender<Request>) -> Infallible {
    if let Some(control) = control
        && let Err(error) = control.serve(asking.clone()).await
    {
        log::error!("control socket: {error}; no more commands can be given to this process");
    }
    // whoever waits for questions waits on
    let _asking = asking;
    std::future::pending().await
}

/// A change of the network; never, if none can be heard of.
async fn changed(network: &mut Option<NetworkWatch>) -> io::Result<String> {
    match network {
        Some(network) => network.changed().await,
        None => std::future::pending().await,
    }
}
