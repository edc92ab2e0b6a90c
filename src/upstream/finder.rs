//! What is known of the sources of servers: it has each looked up when its time has come, and keeps what was found. A
//! look-up that fails takes nothing away.

use std::time::{Instant, SystemTime};

use tokio::task::JoinSet;

use super::lookup::{Found, look_up};
use super::renewal::Renewal;
use crate::config::settings::{Endpoint, Search, Source};

/// The sources, and what is known of them.
#[derive(Default)]
pub struct Finder {
    watched: Vec<Watched>,
    asking: JoinSet<(Search, Result<Found, String>)>,
}

/// What is known of a source.
pub struct Watched {
    /// As the configuration writes it.
    pub label: String,
    /// What is looked up.
    pub search: Search,
    /// When.
    pub renewal: Renewal,
    /// What was found.
    pub endpoints: Vec<Endpoint>,
    /// When and why the last look-up failed, if it did.
    pub failure: Option<(SystemTime, String)>,
    left_out: Vec<String>,
}

impl Finder {
    /// These sources from now on, each looked up once however often it is there. What is known of those that stay is kept.
    pub fn seek<'a>(&mut self, sources: impl Iterator<Item = &'a Source>, now: Instant) {
        let mut before = std::mem::take(&mut self.watched);
        for source in sources {
            if self.of(&source.search).is_some() {
                continue;
            }
            let known = before.iter().position(|watched| watched.search == source.search);
            let watched = known.map(|index| before.swap_remove(index)).unwrap_or_else(|| Watched {
                label: source.label.clone(),
                search: source.search.clone(),
                renewal: Renewal::new(now),
                endpoints: Vec::new(),
                failure: None,
                left_out: Vec::new(),
            });
            self.watched.push(watched);
        }
    }

    /// What is known of a source.
    pub fn of(&self, search: &Search) -> Option<&Watched> {
        self.watched.iter().find(|watched| watched.search == *search)
    }

    /// Waits until a look-up has ended, and begins those whose time has come meanwhile. It may be dropped and called again.
    pub async fn next(&mut self) {
        loop {
            let now = Instant::now();
            for watched in &mut self.watched {
                if watched.renewal.due().is_some_and(|due| due <= now) {
                    watched.renewal.begins();
                    let search = watched.search.clone();
                    self.asking.spawn_local(async move { (search.clone(), look_up(search).await) });
                }
            }
            let due = self.watched.iter().filter_map(|watched| watched.renewal.due()).min();
            let next_due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(done) = self.asking.join_next() => {
                    match done {
                        Ok((search, result)) => self.take(&search, result, Instant::now()),
                        Err(error) => log::error!("a look-up of servers broke off: {error}"),
                    }
                    return;
                }
                () = next_due => {}
            }
        }
    }

    /// Takes in what a look-up has brought. One for a source that is no longer there brings nothing.
    fn take(&mut self, search: &Search, result: Result<Found, String>, now: Instant) {
        let Some(watched) = self.watched.iter_mut().find(|watched| watched.search == *search) else { return };
        match result {
            Ok(found) => watched.found(found, now),
            Err(why) => watched.failed(why, now),
        }
    }

    /// The network is another one.
    pub fn network_changed(&mut self, now: Instant) {
        self.watched.iter_mut().for_each(|watched| watched.renewal.network_changed(now));
    }

    /// None of the servers of these sources answers.
    pub fn in_need(&mut self, searches: &[&Search], now: Instant) {
        for watched in self.watched.iter_mut().filter(|watched| searches.contains(&&watched.search)) {
            watched.renewal.in_need(now);
        }
    }
}

impl Watched {
    fn found(&mut self, found: Found, now: Instant) {
        let Found { mut endpoints, ttl, missing, left_out } = found;
        let label = &self.label;
        for one in left_out.iter().filter(|one| !self.left_out.contains(one)) {
            log::warn!("upstream {label}: left out: {one}");
        }
        self.left_out = left_out;
        let Some(why) = missing else {
            if self.failure.take().is_some() {
                log::info!("upstream {label}: its addresses can be looked up again");
            }
            self.renewal.succeeded(now, ttl);
            self.endpoints = endpoints;
            return;
        };
        // what could not be asked for may still be there: addresses of a kind of which this host has none now
        let is_of =
            |new: &Endpoint, old: &Endpoint| new.host == old.host && new.address.is_ipv4() == old.address.is_ipv4();
        let before = std::mem::take(&mut self.endpoints);
        let kept = before.into_iter().filter(|old| !endpoints.iter().any(|new| is_of(new, old)));
        endpoints.extend(kept.collect::<Vec<_>>());
        self.endpoints = endpoints;
        self.complain(why);
        self.renewal.found_in_part(now, ttl);
    }

    fn failed(&mut self, why: String, now: Instant) {
        self.complain(why);
        self.renewal.failed(now);
    }

    fn complain(&mut self, why: String) {
        let label = &self.label;
        let is_news = self.failure.as_ref().is_none_or(|(_, before)| *before != why);
        let level = if is_news { log::Level::Warn } else { log::Level::Debug };
        let rest = if self.endpoints.is_empty() { "no address is known yet" } else { "the addresses known are kept" };
        log::log!(level, "upstream {label}: not all that it stands for could be looked up: {why}; {rest}");
        self.failure = Some((SystemTime::now(), why));
    }
}
