//! What there is to say of servers and sources in a report.

use std::time::{Duration, Instant};

use super::roster::Roster;
use super::server::UpstreamServer;
use crate::config::settings::Settings;
use crate::report::{self, Failure, ServerState};

/// Microseconds.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The names of the groups.
fn names(settings: &Settings) -> impl Iterator<Item = String> {
    std::iter::once(report::UPSTREAM.to_owned()).chain(settings.routes.iter().map(ToString::to_string))
}

/// All servers, group by group.
pub fn servers(settings: &Settings, roster: &Roster) -> Vec<report::Server> {
    let groups = names(settings).zip(roster.servers());
    groups.flat_map(|(name, servers)| servers.iter().map(move |server| facts(name.clone(), server))).collect()
}

/// Why groups have no server, one line each.
pub fn vacancies(settings: &Settings, roster: &Roster) -> Vec<String> {
    let reason = |(name, vacancy): (String, &Option<_>)| {
        let super::outcome::Vacancy { why, .. } = vacancy.as_ref()?;
        let whose = if name == report::UPSTREAM { String::new() } else { format!(" for {name}") };
        Some(format!("no resolver{whose} is known: {why}"))
    };
    names(settings).zip(roster.vacancies()).filter_map(reason).collect()
}

/// All sources, each once.
pub fn sources(settings: &Settings, roster: &Roster) -> Vec<report::Source> {
    let now = Instant::now();
    let mut told: Vec<report::Source> = Vec::new();
    for watched in settings.sources().filter_map(|source| roster.finder().of(&source.search)) {
        if told.iter().any(|source| source.source == watched.label) {
            continue;
        }
        let renewal = &watched.renewal;
        let failure = watched.failure.clone();
        told.push(report::Source {
            source: watched.label.clone(),
            places: watched.endpoints.len(),
            looked_up_seconds_ago: renewal.last().map(|last| now.saturating_duration_since(last).as_secs()),
            next_in_seconds: renewal.due().map(|due| due.saturating_duration_since(now).as_secs()),
            last_failure: failure
                .map(|(at, why)| Failure { seconds_ago: at.elapsed().unwrap_or_default().as_secs(), why }),
        });
    }
    told
}

/// What there is to say of a server.
fn facts(group: String, server: &UpstreamServer) -> report::Server {
    let state = match (server.rest(Instant::now()), server.is_doubtful()) {
        (Some(_), _) => ServerState::Resting,
        (None, true) => ServerState::Failing,
        (None, false) => ServerState::Usable,
    };
    let failure = server
        .last_failure()
        .map(|failure| Failure { seconds_ago: failure.at.elapsed().unwrap_or_default().as_secs(), why: failure.why });
    let settings = server.settings();
    report::Server {
        group,
        server: server.label().to_owned(),
        verified: settings.transport.to_string(),
        authenticated: server.authenticated(),
        state,
        connections: server.open_connections(),
        smoothed_us: server.smoothed().map(micros),
        idle_limit_ms: server.idle_limit(Instant::now()).map(|limit| micros(limit) / 1000),
        last_failure: failure,
        counters: server.tally().values().map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}
