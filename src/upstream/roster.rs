//! Which servers there are: those of the configuration, and those that its sources have led to.
//!
//! A server that was found is one that the configuration could have named: it is authenticated as its source says, and it
//! keeps its connections, health and tickets for as long as look-ups find it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::finder::Finder;
use super::outcome::Vacancy;
use super::server::{Servers, UpstreamServer};
use crate::config::settings::{Member, ServerGroup, Settings, Source};
use crate::own_listeners::OwnListeners;
use crate::sandbox::Confined;

/// Servers and sources of all groups.
pub struct Roster {
    /// What the configuration names, as `read_all` gives it.
    entries: Servers,
    /// The servers of each group.
    servers: Servers,
    /// For each group, why it has no server, if it has none.
    vacancies: Vec<Option<Vacancy>>,
    finder: Finder,
    own: OwnListeners,
    confined: Confined,
    /// What has been said of places that are not used.
    said: BTreeSet<String>,
}

/// Servers, and resolvers asked for servers, that are our own listeners.
pub fn circles(settings: &Settings, own: &OwnListeners) -> Vec<String> {
    let servers = settings.servers().map(|server| (&server.label, "is", server.address));
    let asked = settings.sources().flat_map(|source| {
        source.search.resolvers.iter().map(|resolver| (&source.label, "is looked up at", *resolver))
    });
    let circle = |(label, how, address): (&String, &str, SocketAddr)| {
        let listener = own.at(address)?;
        Some(format!(
            "upstream {label}: {how} {address}, which is dot-proxy's own listener ({listener}); give a resolver's address"
        ))
    };
    servers.chain(asked).filter_map(circle).collect()
}

impl Roster {
    /// The roster of a configuration, before anything has been looked up.
    pub fn new(settings: &Settings, entries: Servers, own: OwnListeners, confined: Confined) -> Roster {
        let (servers, vacancies, finder, said) = Default::default();
        let mut roster = Roster { entries, servers, vacancies, finder, own, confined, said };
        roster.finder.seek(settings.sources(), Instant::now());
        roster.expand(settings);
        roster
    }

    /// What the configuration names.
    pub fn entries(&self) -> &Servers {
        &self.entries
    }

    /// The servers of each group.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// For each group, why it has no server, if it has none.
    pub fn vacancies(&self) -> &[Option<Vacancy>] {
        &self.vacancies
    }

    /// What is known of the sources.
    pub fn finder(&self) -> &Finder {
        &self.finder
    }

    /// Our own listeners.
    pub fn own(&self) -> &OwnListeners {
        &self.own
    }

    /// Another configuration, with what it names. What is known of sources that stay is kept.
    pub fn renew(&mut self, settings: &Settings, entries: Servers) {
        self.entries = entries;
        self.finder.seek(settings.sources(), Instant::now());
        self.said.clear();
        self.expand(settings);
    }

    /// Waits until there are other servers than before, or other reasons why there are none.
    pub async fn changed(&mut self, settings: &Settings) {
        loop {
            self.finder.next().await;
            if self.expand(settings) {
                return;
            }
        }
    }

    /// The network is another one: failures count no more, and what was found may be wrong.
    pub fn network_changed(&mut self) {
        self.servers.iter().flatten().for_each(|server| server.forget());
        self.finder.network_changed(Instant::now());
    }

    /// Has sources looked up of whose servers none answers.
    pub fn attend(&mut self, settings: &Settings) {
        let is_down = |source: &&Source| {
            let found = self.finder.of(&source.search).map_or(&[][..], |watched| &watched.endpoints);
            let mut servers = self.servers.iter().flatten().filter(|server| {
                let settings = server.settings();
                found
                    .iter()
                    .any(|endpoint| endpoint.address == settings.address && source.server(endpoint) == *settings)
            });
            !found.is_empty() && servers.all(|server| server.is_doubtful())
        };
        let down: Vec<_> = settings.sources().filter(is_down).map(|source| &source.search).collect();
        if !down.is_empty() {
            self.finder.in_need(&down, Instant::now());
        }
    }

    /// Makes the servers of each group anew, out of what is known; whether that changes anything.
    fn expand(&mut self, settings: &Settings) -> bool {
        let mut known: Vec<Arc<UpstreamServer>> = self.servers.iter().flatten().cloned().collect();
        let (mut servers, mut vacancies) = (Servers::new(), Vec::new());
        let entries = std::mem::take(&mut self.entries);
        for (group, entries) in settings.groups().zip(&entries) {
            let mut members = Vec::new();
            for (member, entry) in group.members.iter().zip(entries) {
                match member {
                    Member::Server(_) => members.push(entry.clone()),
                    Member::Source(source) => members.extend(self.found(source, entry, &mut known)),
                }
            }
            vacancies.push(members.is_empty().then(|| self.vacancy(group)));
            servers.push(members);
        }
        self.entries = entries;
        let same = |one: &[Arc<UpstreamServer>], other: &[Arc<UpstreamServer>]| {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other))
        };
        let is_same = servers.len() == self.servers.len()
            && servers.iter().zip(&self.servers).all(|(one, other)| same(one, other))
            && vacancies == self.vacancies;
        (self.servers, self.vacancies) = (servers, vacancies);
        !is_same
    }

    /// The servers that a source has led to, those that are known as they are.
    fn found(
        &mut self,
        source: &Source,
        pattern: &UpstreamServer,
        known: &mut Vec<Arc<UpstreamServer>>,
    ) -> Vec<Arc<UpstreamServer>> {
        let endpoints = self.finder.of(&source.search).map(|watched| watched.endpoints.clone()).unwrap_or_default();
        let mut found = Vec::new();
        for endpoint in endpoints {
            if let Some(why) = self.bar(endpoint.address) {
                self.say(format!("upstream {}: {} is not used: {why}", source.label, endpoint.address));
                continue;
            }
            match pattern.at(source.server(&endpoint)) {
                Ok(new) => {
                    let before = known.iter().find(|known| known.is_as(&new)).cloned();
                    let server = before.unwrap_or_else(|| {
                        log::info!("upstream {}: found at {}", source.label, endpoint.address);
                        let new = Arc::new(new);
                        known.push(new.clone());
                        new
                    });
                    found.push(server);
                }
                Err(error) => self.say(error.to_string()),
            }
        }
        found
    }

    /// Why a server at this place cannot be used.
    fn bar(&self, address: SocketAddr) -> Option<String> {
        if let Some(listener) = self.own.at(address) {
            return Some(format!("it is dot-proxy's own listener ({listener}), which would ask itself in a circle"));
        }
        let port = address.port();
        (!self.confined.allows(port)).then(|| {
            format!(
                "port {port} is none of those that the running process may connect to (sandbox); give some server of the \
                 configuration this port, or set sandbox to \"off\", and restart the service"
            )
        })
    }

    fn say(&mut self, text: String) {
        if !self.said.contains(&text) {
            log::warn!("{text}");
            self.said.insert(text);
        }
    }

    /// Why this group has no server.
    fn vacancy(&self, group: &ServerGroup) -> Vacancy {
        let watched = || group.sources().filter_map(|source| self.finder.of(&source.search));
        let is_expected = watched().any(|watched| watched.renewal.last().is_none());
        let why = watched().next().map_or_else(String::new, |watched| {
            let label = &watched.label;
            match &watched.failure {
                _ if !watched.endpoints.is_empty() => {
                    format!("{label}: none of its addresses can be used, see the log")
                }
                Some((_, why)) => format!("{label}: no address known yet: {why}"),
                None => format!("{label}: no address known yet: it is being looked up"),
            }
        });
        Vacancy { why, is_expected }
    }
}
