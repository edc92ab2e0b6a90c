//! What the running service says of itself: the document of `dot-proxy status --json`, and its form for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the service fares.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All is well.
    Serving,
    /// It serves, but not as it should; the reasons say why.
    Degraded,
}

/// One address that is served.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Listener {
    /// Where.
    pub address: String,
    /// What: "udp, tcp".
    pub protocols: String,
    /// Where the socket came from: "own", or "from " and its name in the socket unit.
    pub origin: String,
}

/// Whose rights the process has, and which of them it keeps.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Process {
    /// The user, by name and number.
    pub user: String,
    /// The group, by number.
    pub group: u32,
    /// Capabilities in force.
    pub capabilities: usize,
    /// Capabilities left in the bounding set.
    pub bounding_capabilities: usize,
    /// Whether new privileges are out of reach.
    pub no_new_privileges: bool,
    /// What Landlock holds, in words.
    pub sandbox: String,
    /// How many system calls are allowed, if they are filtered in the process.
    pub system_calls: Option<usize>,
}

/// A worker, when it was last asked for a sign of life.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Worker {
    /// Its number.
    pub number: usize,
    /// How long it took to answer, in microseconds; nothing if it did not.
    pub heartbeat_us: Option<u64>,
    /// Whether it serves; the others are called when those who do have no time left.
    #[serde(default)]
    pub on_duty: bool,
}

/// A failed attempt.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// How long ago, in seconds.
    pub seconds_ago: u64,
    /// Why.
    pub why: String,
}

/// How a resolver fares.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// It has not failed since it last answered.
    Usable,
    /// It failed and has not answered since.
    Failing,
    /// It failed and is not tried for a while.
    Resting,
}

impl fmt::Display for ServerState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            ServerState::Usable => "usable",
            ServerState::Failing => "failing",
            ServerState::Resting => "resting",
        })
    }
}

/// A resolver.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Server {
    /// Whose queries it gets: "upstream", or the domains of its route, with a space between them.
    pub group: String,
    /// As the configuration writes it.
    pub server: String,
    /// What is verified.
    pub verified: String,
    /// Whether it was authenticated at its last full handshake, if there was one.
    pub authenticated: Option<bool>,
    /// How it fares.
    pub state: ServerState,
    /// Connections that are open.
    pub connections: usize,
    /// How long answers take, smoothed, in microseconds, as the worker saw it that reported last.
    pub smoothed_us: Option<u64>,
    /// How long an idle connection is kept because its own closes have taught so, in milliseconds.
    pub idle_limit_ms: Option<u64>,
    /// The last failure.
    pub last_failure: Option<Failure>,
    /// What is counted for it, by all workers together.
    pub counters: BTreeMap<String, u64>,
}

/// A source of resolvers, whose addresses are looked up.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Source {
    /// As the configuration writes it.
    pub source: String,
    /// Addresses that are known.
    pub places: usize,
    /// When it was last looked up; nothing if that has not ended yet.
    pub looked_up_seconds_ago: Option<u64>,
    /// When it will be looked up again; nothing if it is being done.
    pub next_in_seconds: Option<u64>,
    /// The last failure, unless a look-up has succeeded since.
    pub last_failure: Option<Failure>,
}

/// A reload.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reload {
    /// Whether the new configuration is in force.
    pub applied: bool,
    /// What there is to say: problems, or what waits for a restart.
    pub notes: Vec<String>,
}

/// The answers in memory.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Memory {
    /// How many there are.
    pub answers: usize,
    /// What they take, in octets.
    pub octets: usize,
    /// What they may take, in octets, with all that is kept beside them; 0 if there is no memory.
    pub limit: usize,
    /// How many had to make room before their time.
    pub evicted: u64,
}

/// Where the configuration comes from, and what became of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Configuration {
    /// The file.
    pub file: String,
    /// The last reload.
    pub last_reload: Option<Reload>,
    /// Options whose changed values wait for a restart.
    pub waiting_for_restart: Vec<String>,
}

/// The whole report.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Report {
    /// Of the running program.
    pub version: String,
    /// Process ID.
    pub pid: u32,
    /// Since the start, in seconds.
    pub uptime_seconds: u64,
    /// How it fares.
    pub state: State,
    /// Why it is degraded.
    pub reasons: Vec<String>,
    /// What is served.
    pub listeners: Vec<Listener>,
    /// Rights.
    pub process: Process,
    /// Threads.
    pub workers: Vec<Worker>,
    /// Resolvers, group by group in the order of the configuration.
    pub upstream: Vec<Server>,
    /// Where resolvers are found whose addresses are looked up.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// Answers in memory.
    #[serde(default)]
    pub memory: Memory,
    /// Configuration.
    pub configuration: Configuration,
    /// Counters, summed over the workers.
    pub counters: BTreeMap<String, u64>,
}

/// What the group is called whose servers get all queries that no route takes.
pub const UPSTREAM: &str = "upstream";

/// Why the service is degraded (pure): a worker that takes no turns, or a group without a resolver that has not failed.
pub fn reasons(workers: &[Worker], upstream: &[Server]) -> Vec<String> {
    let stuck = workers.iter().filter(|worker| worker.heartbeat_us.is_none());
    let mut reasons: Vec<String> =
        stuck.map(|worker| format!("worker {} gives no sign of life", worker.number)).collect();
    for group in upstream.chunk_by(|one, next| one.group == next.group) {
        match group.first() {
            Some(Server { group: name, .. }) if group.iter().all(|server| server.state != ServerState::Usable) => {
                let whose = if name == UPSTREAM { String::new() } else { format!(" for {name}") };
                reasons.push(format!("no resolver{whose} is usable"));
            }
            _ => {}
        }
    }
    reasons
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Serving => "serving",
            State::Degraded => "degraded",
        };
        let uptime = humantime::format_duration(Duration::from_secs(self.uptime_seconds));
        writeln!(out, "dot-proxy {} {state}, process {}, up {uptime}", self.version, self.pid)?;
        for reason in &self.reasons {
            writeln!(out, "  {reason}")?;
        }
        writeln!(out, "listeners")?;
        for Listener { address, protocols, origin } in &self.listeners {
            writeln!(out, "  {address} ({protocols}), {origin}")?;
        }
        let process = &self.process;
        writeln!(out, "privileges")?;
        writeln!(
            out,
            "  user {}, group {}, {} capabilities, new privileges {}",
            process.user,
            process.group,
            process.capabilities,
            if process.no_new_privileges { "out of reach" } else { "possible" }
        )?;
        let calls = process.system_calls.map_or("not filtered here".to_owned(), |count| format!("{count} allowed"));
        writeln!(out, "  {}; system calls: {calls}", process.sandbox)?;
        writeln!(out, "workers")?;
        for Worker { number, heartbeat_us, on_duty } in &self.workers {
            let duty = if *on_duty { "on duty" } else { "not needed now" };
            match heartbeat_us {
                Some(us) => writeln!(out, "  {number}: alive, answered in {us} us; {duty}")?,
                None => writeln!(out, "  {number}: no sign of life; {duty}")?,
            }
        }
        let mut last = None;
        for one in &self.upstream {
            let Server { group, server, verified, authenticated, state, connections, last_failure, .. } = one;
            if last.replace(group) != Some(group) {
                let whose = if group == UPSTREAM { String::new() } else { format!(" for {group}") };
                writeln!(out, "resolvers{whose}")?;
            }
            writeln!(out, "  {server}: {state}, {connections} connections; verified: {verified}")?;
            if let Some(authenticated) = authenticated {
                writeln!(out, "    authenticated: {}", if *authenticated { "yes" } else { "no" })?;
            }
            if let Some(Failure { seconds_ago, why }) = last_failure {
                let ago = humantime::format_duration(Duration::from_secs(*seconds_ago));
                writeln!(out, "    last failure {ago} ago: {why}")?;
            }
            if let Some(us) = one.smoothed_us {
                writeln!(out, "    answers in {} ms", us.div_ceil(1000))?;
            }
            if let Some(ms) = one.idle_limit_ms {
                writeln!(out, "    closes what is idle, so idle connections are closed after {ms} ms")?;
            }
            let counted: Vec<String> = one
                .counters
                .iter()
                .filter(|(_, value)| **value > 0)
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            if !counted.is_empty() {
                writeln!(out, "    {}", counted.join(", "))?;
            }
        }
        if !self.sources.is_empty() {
            writeln!(out, "looked up")?;
        }
        for Source { source, places, looked_up_seconds_ago, next_in_seconds, last_failure } in &self.sources {
            let seconds = |count: u64| humantime::format_duration(Duration::from_secs(count)).to_string();
            let last = looked_up_seconds_ago.map_or("not yet".to_owned(), |ago| format!("{} ago", seconds(ago)));
            let next = next_in_seconds.map_or("now".to_owned(), |next| format!("in {}", seconds(next)));
            writeln!(out, "  {source}: {places} addresses, last {last}, next {next}")?;
            if let Some(Failure { seconds_ago, why }) = last_failure {
                writeln!(out, "    failed {} ago: {why}", seconds(*seconds_ago))?;
            }
        }
        if self.memory.limit > 0 {
            let Memory { answers, octets, limit, evicted } = self.memory;
            let (held, limit) = (octets.div_ceil(1024), limit / 1024);
            writeln!(
                out,
                "memory\n  {answers} answers in {held} of {limit} KiB, {evicted} made room before their time"
            )?;
        }
        writeln!(out, "configuration\n  {}", self.configuration.file)?;
        if let Some(Reload { applied, notes }) = &self.configuration.last_reload {
            writeln!(out, "  last reload: {}", if *applied { "applied" } else { "refused, nothing was changed" })?;
            for note in notes {
                writeln!(out, "    {note}")?;
            }
        }
        if !self.configuration.waiting_for_restart.is_empty() {
            writeln!(out, "  waiting for a restart: {}", self.configuration.waiting_for_restart.join(", "))?;
        }
        writeln!(out, "counters")?;
        for (name, value) in self.counters.iter().filter(|(_, value)| **value > 0) {
            writeln!(out, "  {name} {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::ServerState::{Failing, Resting, Usable};
    use super::{Server, ServerState, Worker, reasons};
    use std::collections::BTreeMap;
    use std::slice::from_ref;

    fn server(state: ServerState) -> Server {
        Server {
            group: "upstream".to_owned(),
            server: "a".to_owned(),
            verified: String::new(),
            authenticated: Some(true),
            state,
            connections: 0,
            smoothed_us: None,
            idle_limit_ms: None,
            last_failure: None,
            counters: BTreeMap::new(),
        }
    }

    #[test]
    fn one_usable_resolver_and_workers_that_take_turns_are_enough() {
        let worker = |number, heartbeat_us| Worker { number, heartbeat_us, on_duty: true };
        let (alive, stuck) = (worker(0, Some(9)), worker(1, None));
        assert!(reasons(from_ref(&alive), &[server(Resting), server(Usable)]).is_empty());
        assert_eq!(reasons(from_ref(&alive), &[server(Resting), server(Failing)]), ["no resolver is usable"]);
        let route = |state| Server { group: "corp.test lan.test".to_owned(), ..server(state) };
        assert_eq!(
            reasons(from_ref(&alive), &[server(Usable), route(Failing), route(Resting)]),
            ["no resolver for corp.test lan.test is usable"]
        );
        assert_eq!(reasons(from_ref(&alive), &[server(Failing), route(Usable)]), ["no resolver is usable"]);
        assert_eq!(reasons(&[alive, stuck], &[server(Usable)]), ["worker 1 gives no sign of life"]);
    }
}
