//! What each command does; for the service itself the start order: configuration, log, servers, sockets, privileges,
//! sandbox, workers.

use std::ffi::OsString;
use std::fmt::Display;
use std::net::SocketAddr;
use std::process::ExitCode;

use crate::ask::{self, NoAnswer, Wish};
use crate::cli::{self, Action, Invocation};
use crate::clock::{self, Memory};
use crate::config::file::{self, Loaded, Source};
use crate::config::settings::{LogTarget, Member, Sandbox, Settings};
use crate::config::values::DOT_PORT;
use crate::control::{self, Answer, ControlSocket, Forget, Question};
use crate::inherited::{self, Inherited, Kind};
use crate::listen::certificate::{Certificate, Occasion};
use crate::log::{Log, Target};
use crate::own_listeners::OwnListeners;
use crate::pace;
use crate::pins::{self, NoPins};
use crate::privileges::{self, Identity};
use crate::report::{self, State};
use crate::sandbox::{self, Confined, Reach};
use crate::service::{Premises, Service};
use crate::sockets::{self, Bound};
use crate::system_calls;
use crate::system_dns::switch::{self, Switch, Verb};
use crate::upstream::roster::{Roster, circles};
use crate::upstream::server::{self, Servers};

/// Exit status for a configuration that cannot be used (sysexits.h, EX_CONFIG): starting again would not help.
const EXIT_CONFIG: u8 = 78;
/// Exit status for anything else that ends the service, and of commands that could not do what was asked.
const EXIT_FAILURE: u8 = 1;
/// Exit status of commands to a service that does not run (as of `systemctl status`).
const EXIT_NOT_RUNNING: u8 = 3;
/// Exit status of commands that cannot know.
const EXIT_UNKNOWN: u8 = 4;

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
    let result = match &invocation.action {
        Action::Run => run(&invocation),
        Action::Check => check(&invocation.source),
        Action::Status { json } => return status(&invocation, *json),
        Action::Reload => return reload(&invocation),
        Action::Flush { name, and_below } => {
            return flush(&invocation, Forget { name: name.clone(), and_below: *and_below });
        }
        Action::Pins { server, ca_file } => pins::show(server, ca_file.clone(), tell).map_err(|why| match why {
            NoPins::Given(why) => Stop::Config(why),
            NoPins::Unreached(why) => Stop::Failure(why),
        }),
        Action::Query { name, rtype, server, ca_file } => {
            let wish = Wish { name, rtype, is_routed: server.is_none(), ca_file: ca_file.as_deref() };
            match query(&invocation.source, wish, server.as_deref()) {
                Ok(true) => Ok(()),
                // the answer was shown, and says what there is to say
                Ok(false) => return ExitCode::from(EXIT_FAILURE),
                Err(stop) => Err(stop),
            }
        }
        Action::SystemDns(verb) => match system_dns(&invocation, *verb) {
            Ok(status) => return ExitCode::from(status),
            Err(stop) => Err(stop),
        },
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

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
fn tell(line: &str) {
    println!("{line}");
}

/// Serves.
fn run(invocation: &Invocation) -> Result<(), Stop> {
    let loaded = file::load(&invocation.source).map_err(config)?;
    // before any thread exists: it cleans the environment
    let inherited = inherited::take().map_err(failure)?;
    let target = match loaded.settings.log.target {
        LogTarget::Stderr => Target::Stderr,
        LogTarget::Syslog => Target::Syslog,
    };
    let mut log = Log::prepare(loaded.settings.log.level, target);
    let opened = open(&invocation.source, &loaded.settings, inherited);
    // the first thread of all: before it the privileges are gone
    log.run().map_err(failure)?;
    let Opened { premises, entries, own, certificate, bound } = opened?;
    let roster = Roster::new(&loaded.settings, entries, own, premises.confined.clone());
    let result = Service::start(premises, loaded, roster, certificate, bound).map_err(failure)?.serve();
    log.finish();
    result.map_err(Stop::Failure)
}

/// What was made ready while there were privileges.
struct Opened {
    premises: Premises,
    entries: Servers,
    own: OwnListeners,
    certificate: Option<Certificate>,
    bound: Vec<Bound>,
}

/// Has the running service forget answers: 0 done.
fn flush(invocation: &Invocation, what: Forget) -> ExitCode {
    match ask(invocation, Question::Flush(what)) {
        Ok(Answer::Flushed(count)) => {
            tell(&format!("{count} answers forgotten"));
            ExitCode::SUCCESS
        }
        Ok(_) => ExitCode::from(EXIT_UNKNOWN),
        Err(code) => code,
    }
}

/// All that needs privileges, then their end, then the sandbox: in this order, and before any thread exists.
fn open(source: &Source, settings: &Settings, inherited: Vec<Inherited>) -> Result<Opened, Stop> {
    let process = &settings.process;
    let identity = Identity::resolve(process.user.as_deref(), process.group.as_deref()).map_err(config)?;
    // root's own keys can be read now, and not later
    let (entries, notes) = server::read_all(settings.groups(), None).map_err(config)?;
    notes.iter().for_each(|note| log::warn!("{note}"));
    let certificate = read_certificate(settings, |note| log::warn!("{note}"))?;
    let bound = listeners(settings, inherited)?;
    let own = OwnListeners::new(bound.iter().map(|bound| bound.address));
    let circles = circles(settings, &own);
    if !circles.is_empty() {
        return Err(Stop::Config(circles.join("\n")));
    }
    let control = open_control(settings, &identity)?;
    let memory = Memory::take_up(std::env::var_os("STATE_DIRECTORY").as_deref(), &clock::FLOOR);
    let mut reach = reach(source, settings, control.as_ref());
    reach.memory = memory.as_ref().and_then(Memory::folder).map(Into::into);
    pace::be_punctual();
    let privileges = privileges::give_up(&identity).map_err(failure)?;
    say_who_serves(settings, &identity);
    let (confined, system_calls) = confine(settings.process.sandbox, &reach).map_err(Stop::Failure)?;
    let premises = Premises { source: source.clone(), privileges, confined, reach, system_calls, control, memory };
    Ok(Opened { premises, entries, own, certificate, bound })
}

/// What clients on TLS are shown, if any are served; what there is to say of it is handed to `tell`.
fn read_certificate(settings: &Settings, tell: impl Fn(&str)) -> Result<Option<Certificate>, Stop> {
    let Some(tls) = &settings.listen.tls else { return Ok(None) };
    let (certificate, notes) = Certificate::read(tls, Occasion::Start).map_err(config)?;
    notes.iter().for_each(|note| tell(note));
    Ok(Some(certificate))
}

/// The sockets that were handed over, or, where there are none of a kind, those that the configuration asks for.
fn listeners(settings: &Settings, inherited: Vec<Inherited>) -> Result<Vec<Bound>, Stop> {
    let listen = &settings.listen;
    let for_tls = inherited.iter().find(|socket| matches!(socket.kind, Kind::Tls(_)));
    if let (Some(Inherited { name, address, .. }), None) = (for_tls, &listen.tls) {
        return Err(config(format!(
            "inherited socket {name} ({address}): is for DNS over TLS, as its name says, and there is no certificate for it; \
             set listen.tls-certificate and listen.tls-key"
        )));
    }
    let own_tls = if for_tls.is_some() { &[] } else { listen.tls_addresses.as_slice() };
    if own_tls.len() != listen.tls_addresses.len() {
        log::info!("listen.tls-addresses is not used: the service manager handed sockets for TLS over");
    }
    let mut bound = if inherited.is_empty() {
        sockets::bind_all(&listen.addresses, listen.free_bind)
    } else {
        log::info!("listen.addresses is not used: the service manager handed {} sockets over", inherited.len());
        sockets::adopt(inherited)
    }
    .map_err(failure)?;
    bound.extend(sockets::bind_all_for_tls(own_tls, listen.free_bind).map_err(failure)?);
    Ok(bound)
}

/// A control socket that was asked for must be had; the default one is had where it can be.
fn open_control(settings: &Settings, identity: &Identity) -> Result<Option<ControlSocket>, Stop> {
    let path = settings.control.clone().unwrap_or_else(control::default_path);
    match ControlSocket::open(&path, identity.owner()) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if settings.control.is_some() => Err(failure(error)),
        Err(error) => {
            log::info!("no commands can be given to this process: {error}");
            Ok(None)
        }
    }
}

/// What a reload may want to read, and where connections go.
fn reach(source: &Source, settings: &Settings, control: Option<&ControlSocket>) -> Reach {
    let mut reach = Reach::default();
    reach.file(source.file());
    settings.files().for_each(|file| reach.file(file));
    reach.trust_store();
    reach.clean_up = control.and_then(ControlSocket::folder).map(Into::into);
    // the usual port as well, so that a reload can name other servers
    reach.ports = settings.ports().map(|(_, port)| port).chain([DOT_PORT]).collect();
    // what was cut is asked again over TCP
    reach.ports.extend(settings.sources().flat_map(|source| &source.search.resolvers).map(SocketAddr::port));
    reach
}

fn say_who_serves(settings: &Settings, identity: &Identity) {
    let configured = settings.process.user.as_deref();
    if identity.is_makeshift(configured) {
        log::warn!("there is no user dot-proxy: {} serves; other programs may run as that user, too", identity.name);
    } else if identity.is_root() {
        log::warn!("root serves, as the option user asks");
    } else if configured.is_some_and(|name| name != identity.name) {
        log::info!("the option user is not used: started as {}, not as root", identity.name);
    }
}

/// Confines the process, and says in one line what holds.
fn confine(wanted: Sandbox, reach: &Reach) -> Result<(Confined, Option<usize>), String> {
    if wanted == Sandbox::Off {
        log::warn!("sandbox: off");
        return Ok(Default::default());
    }
    let refused = |what: &str, why: String| {
        log::warn!("sandbox: {what}: {why}");
    };
    let confined = sandbox::confine(reach).unwrap_or_else(|why| {
        refused("files and ports", why);
        Confined::default()
    });
    let calls = system_calls::confine().unwrap_or_else(|why| {
        refused("system calls", why);
        None
    });
    let counted = calls.map_or("system calls are not filtered".to_owned(), |count| format!("{count} system calls"));
    if wanted == Sandbox::Required && !(confined.is_whole() && calls.is_some()) {
        return Err(format!(
            "the option sandbox is \"required\", and the kernel cannot: {confined}, {counted}; set it to \"best-effort\" to \
             serve with what there is"
        ));
    }
    log::info!("sandbox: {confined}, {counted}");
    Ok((confined, calls))
}

/// Everything that a start would read and judge, without a socket.
fn check(source: &Source) -> Result<(), Stop> {
    let Loaded { settings, .. } = file::load(source).map_err(config)?;
    Identity::resolve(settings.process.user.as_deref(), settings.process.group.as_deref()).map_err(config)?;
    let (_, notes) = server::read_all(settings.groups(), None).map_err(config)?;
    notes.iter().for_each(|note| tell(note));
    let names = std::iter::once(report::UPSTREAM.to_owned())
        .chain(settings.routes.iter().map(|route| format!("route {route}")));
    for (name, group) in names.zip(settings.groups()) {
        for member in &group.members {
            match member {
                Member::Server(server) => tell(&format!("{name} {}: {}", server.label, server.transport)),
                Member::Source(source) => tell(&format!("{name} {}: {source}", source.label)),
            }
        }
    }
    if let (Some(_), Some(tls)) = (read_certificate(&settings, tell)?, &settings.listen.tls) {
        let clients = match &tls.client_ca {
            Some(path) => format!("clients need a certificate issued by {}", path.display()),
            None => "clients need no certificate".to_owned(),
        };
        tell(&format!("tls with the certificate {}; {clients}", tls.certificate.display()));
    }
    tell("configuration ok");
    Ok(())
}

/// Asks one question of the servers of the configuration, or of those given; whether the answer says something.
fn query(source: &Source, wish: Wish<'_>, server: Option<&str>) -> Result<bool, Stop> {
    let mut source = source.clone();
    if let Some(server) = server {
        source.overrides.upstream = vec![server.to_owned()];
    }
    let loaded = file::load(&source).map_err(|error| {
        let text = error.to_string();
        Stop::Config(if server.is_some() { text.replace("--upstream", "--server") } else { text })
    })?;
    ask::show(wish, &loaded.settings, tell).map_err(|why| match why {
        NoAnswer::Given(why) => Stop::Config(why),
        NoAnswer::Unreached(why) => Stop::Failure(why),
    })
}

/// Points the machine at the addresses of the configuration, or back, or says where it points; gives the exit status.
fn system_dns(invocation: &Invocation, verb: Verb) -> Result<u8, Stop> {
    let servers = || {
        let loaded = file::load(&invocation.source).map_err(config)?;
        switch::servers(&loaded.settings.listen.addresses).map_err(config)
    };
    let mut report = |line: &str| tell(line);
    let mut switch = Switch::new(&invocation.root, &mut report);
    match verb {
        Verb::Enable { force } => switch.enable(&servers()?, force),
        // the way back is open whatever the configuration has become
        Verb::Disable { force } => switch.disable(force),
        Verb::Status => switch.status(&servers()?),
    }
    .map_err(failure)
}

/// Asks the running service; where its socket is, the command line says, or the configuration, or the custom.
fn ask(invocation: &Invocation, question: Question) -> Result<Answer, ExitCode> {
    // a configuration that cannot be used must not stand in the way of asking about it
    let configured = || file::load(&invocation.source).ok().and_then(|loaded| loaded.settings.control);
    let path = invocation.socket.clone().or_else(configured).unwrap_or_else(control::default_path);
    control::ask(&path, question).map_err(|error| {
        say(&error.to_string());
        ExitCode::from(if error.is_not_running() { EXIT_NOT_RUNNING } else { EXIT_UNKNOWN })
    })
}

/// Shows how the running service fares: 0 serving, 1 degraded, 3 not running.
fn status(invocation: &Invocation, json: bool) -> ExitCode {
    let report = match ask(invocation, Question::Status) {
        Ok(Answer::Status(report)) => report,
        Ok(_) => return ExitCode::from(EXIT_UNKNOWN),
        Err(code) => return code,
    };
    match serde_json::to_string_pretty(&report) {
        Ok(text) if json => tell(&text),
        _ => tell(report.to_string().trim_end()),
    }
    if report.state == State::Serving { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) }
}

/// Has the running service read its configuration again, and tells what came of it: 0 applied, 1 refused.
fn reload(invocation: &Invocation) -> ExitCode {
    let reload = match ask(invocation, Question::Reload) {
        Ok(Answer::Reload(reload)) => reload,
        Ok(_) => return ExitCode::from(EXIT_UNKNOWN),
        Err(code) => return code,
    };
    if reload.applied {
        tell("configuration reloaded");
        reload.notes.iter().for_each(|note| tell(note));
        ExitCode::SUCCESS
    } else {
        say("reload refused, the service runs on as before:");
        reload.notes.iter().for_each(|note| say(note));
        ExitCode::from(EXIT_FAILURE)
    }
}
