//! Who is asked first, who next, and when to give up (pure): the course of one query through a group of servers.
//!
//! The first server in the order of the group's policy that is not resting gets the query. A second one is asked, beside
//! the first, when the first has not even a connection after [`CONNECT_STAGGER`] (RFC 8305 §5), or no answer within the
//! group's patience with it; at once when the first fails. One server never gets a query more than [`COPIES`] times (RFC
//! 9520 §3.1). An answer that another server may better is bettered once, or given as it is. Under the policy "parallel" all
//! servers that are well get the query at once.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::health::Rest;

/// How long a connection attempt may take before the next server is tried beside it (RFC 8305 §8 recommends 250 ms).
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);
/// How often one server may get the same query.
pub const COPIES: u8 = 3;
/// How often a query may be on a connection that had served and ends before it is served as well. That says nothing of the
/// server's answer to it (RFC 7766 §6.2.4), and each such connection has answered somebody.
const ENDS: u8 = 8;
/// A query that was sent and lost so often may be what ends the connections: it goes over one of its own from then on, so that
/// others are not lost with it.
const SUSPICIOUS: u8 = 2;

/// How often a query may wait in vain for a connection to one server. How often one is tried is not for one query to
/// decide: rests after failures do, and one attempt is that of all queries.
const TRIES: u8 = 24;

/// Who has waited in vain for a connection leaves the next attempts to queries that have not: when one of them succeeds, all
/// are told.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What doubt counts for beside faults: more than a query can find at one server.
const DOUBT: usize = 100;

/// How things stand with a server for the next query.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// An authenticated connection is there; the number tells connections apart.
    Open(u64),
    /// A connection is being made.
    Connecting(u64),
    /// No connection, and nothing against making one.
    Idle,
    /// It failed, its rest has passed, and it has not answered since: others are asked first.
    Doubtful {
        /// Its present connection.
        connection: Option<u64>,
        /// Whether that is still being made.
        connecting: bool,
    },
    /// It failed of late.
    Resting(Rest),
}

/// What to do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Ask this server, over its present connection or a new one.
    Ask(usize),
    /// Wait for an outcome, until then.
    Wait(Instant),
    /// Every way was tried, or the time is up.
    GiveUp,
}

/// A question put to a server that has not been answered.
#[derive(Clone, Copy, Debug)]
struct Asking {
    server: usize,
    connection: u64,
    at: Instant,
    /// Asked only to find out whether a doubtful server answers again: nobody waits for it.
    probe: bool,
}

/// The course of one query.
#[derive(Debug)]
pub struct Plan {
    deadline: Instant,
    second_try_after: Duration,
    repeatable: bool,
    /// Whether all servers that are well are asked from the beginning.
    all_at_once: bool,
    spent: bool,
    /// When an answer came that another server may better, and whether another has been asked since.
    unsatisfied: Option<(Instant, bool)>,
    /// Copies and faults by server; empty until the first fault, so that the usual query allocates nothing here.
    tally: Vec<Tally>,
    /// Hardly ever more than one.
    asking: SmallVec<[Asking; 1]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    copies: u8,
    faults: u8,
    ends: u8,
    /// Copies that were sent and lost, whoever's fault it was.
    lost: u8,
    tries: u8,
    /// When the last of the tries began.
    tried_at: Option<Instant>,
}

impl Plan {
    /// A query that must be answered by `deadline`. One that is not `repeatable` is never sent to a second server while
    /// the first may have it.
    pub fn new(deadline: Instant, second_try_after: Duration, repeatable: bool) -> Plan {
        let (tally, asking) = (Vec::new(), SmallVec::new());
        let (all_at_once, spent) = (false, false);
        Plan { deadline, second_try_after, repeatable, all_at_once, spent, unsatisfied: None, tally, asking }
    }

    /// The same query, put to all servers that are well at once. One that is not repeatable is put to one all the same.
    pub fn to_all(self) -> Plan {
        Plan { all_at_once: self.repeatable, ..self }
    }

    /// The next step, in a group of `servers`, which `standing` describes as of `now`. `patience`: how long an answer
    /// may take that this server was asked for over this connection at this time.
    pub fn next(
        &self,
        now: Instant,
        servers: usize,
        standing: impl Fn(usize) -> Standing,
        patience: impl Fn(usize, u64, Instant) -> Duration,
    ) -> Step {
        if now >= self.deadline || self.spent {
            return Step::GiveUp;
        }
        if let Some((since, asked)) = self.unsatisfied {
            return self.better(now, since, asked, servers, &standing);
        }
        if self.all_at_once
            && !self.asking.is_empty()
            && let Some(server) = self.fresh(servers, &standing, |tally| tally.faults == 0 && tally.ends < ENDS)
        {
            return Step::Ask(server);
        }
        let Some(latest) = self.latest_asking() else {
            return match self.candidate(now, servers, &standing) {
                Ok(server) => Step::Ask(server),
                Err(Some(later)) if later < self.deadline => Step::Wait(later),
                Err(_) if !self.asking.is_empty() => Step::Wait(self.deadline),
                Err(_) => Step::GiveUp,
            };
        };
        if !self.repeatable {
            return Step::Wait(self.deadline);
        }
        let connecting = match standing(latest.server) {
            Standing::Connecting(id) => id == latest.connection,
            Standing::Doubtful { connection, connecting } => connecting && connection == Some(latest.connection),
            Standing::Open(_) | Standing::Idle | Standing::Resting(_) => false,
        };
        let patience = || patience(latest.server, latest.connection, latest.at);
        let due = latest.at + if connecting { CONNECT_STAGGER } else { patience() };
        if now < due {
            return Step::Wait(due.min(self.deadline));
        }
        match self.best(servers, |server| self.doubt(standing(server))) {
            Some(server) => Step::Ask(server),
            // what stands in the way may pass: a rest, or a connection that others find silent
            None => {
                let second_try = latest.at + self.second_try_after;
                let again = if now < second_try { second_try } else { now + self.second_try_after };
                Step::Wait(again.min(self.deadline))
            }
        }
    }

    /// The next step when there is an answer that another server may better: one that is well is asked, once, and waited
    /// for no longer than for any second try.
    fn better(
        &self,
        now: Instant,
        since: Instant,
        asked: bool,
        servers: usize,
        standing: &impl Fn(usize) -> Standing,
    ) -> Step {
        let until = (since + self.second_try_after).min(self.deadline);
        if now >= until {
            return Step::GiveUp;
        }
        if self.asking.iter().any(|asking| !asking.probe) {
            return Step::Wait(until);
        }
        let may = |tally: Tally| tally.faults == 0 && tally.ends < ENDS;
        match self.fresh(servers, standing, may).or_else(|| self.returning(servers, standing, may)) {
            Some(server) if !asked => Step::Ask(server),
            _ => Step::GiveUp,
        }
    }

    /// The first server that failed, may be tried again, and is not being tried: where all others cannot say, nobody else
    /// would find out that it can.
    fn returning(
        &self,
        servers: usize,
        standing: &impl Fn(usize) -> Standing,
        may: impl Fn(Tally) -> bool,
    ) -> Option<usize> {
        self.unasked(servers, may).find(|&server| {
            let standing = standing(server);
            matches!(standing, Standing::Doubtful { connecting: false, .. }) && self.doubt(standing).is_some()
        })
    }

    /// The first server that is well, has had no copy, and of whose tally `may` holds.
    fn fresh(
        &self,
        servers: usize,
        standing: &impl Fn(usize) -> Standing,
        may: impl Fn(Tally) -> bool,
    ) -> Option<usize> {
        self.unasked(servers, may).find(|&server| self.doubt(standing(server)) == Some(0))
    }

    /// The servers that have had no copy, are not being asked, and of whose tally `may` holds.
    fn unasked(&self, servers: usize, may: impl Fn(Tally) -> bool) -> impl Iterator<Item = usize> {
        (0..servers).filter(move |&server| {
            let tally = self.tally(server);
            tally.copies == 0 && self.asking_of(server) == 0 && may(tally)
        })
    }

    /// What speaks against asking a server now; `None` if it cannot be asked, or is being asked over its present
    /// connection already.
    fn doubt(&self, standing: Standing) -> Option<usize> {
        let unasked = |id: u64| !self.asking.iter().any(|asking| asking.connection == id);
        match standing {
            Standing::Open(id) | Standing::Connecting(id) => unasked(id).then_some(0),
            Standing::Idle => Some(0),
            Standing::Doubtful { connection, .. } => connection.is_none_or(unasked).then_some(DOUBT),
            Standing::Resting(_) => None,
        }
    }

    /// Who can be asked when nobody is being asked, or when somebody can be.
    fn candidate(
        &self,
        now: Instant,
        servers: usize,
        standing: &impl Fn(usize) -> Standing,
    ) -> Result<usize, Option<Instant>> {
        if let Some(server) = self.best(servers, |server| self.doubt(standing(server))) {
            return Ok(server);
        }
        let probes = (0..servers).filter(|&server| self.may_have(server)).filter_map(|server| {
            let Standing::Resting(rest) = standing(server) else { return None };
            let again = self.tally(server).tried_at.map(|tried_at| tried_at + LOOK_AGAIN);
            Some((again.map_or(rest.probe_at, |again| again.max(rest.probe_at)), server))
        });
        match probes.min() {
            Some((at, server)) if at <= now => Ok(server),
            Some((at, _)) => Err(Some(at)),
            None => Err(None),
        }
    }

    /// The first server in order among those with the fewest faults for this query; to have it and not to have answered
    /// yet is as good as a fault. `doubt` gives what speaks against a server besides, or `None` if it cannot be asked.
    fn best(&self, servers: usize, doubt: impl Fn(usize) -> Option<usize>) -> Option<usize> {
        if self.tally.is_empty() && self.asking.is_empty() {
            // the usual query: the first server with nothing against it, and no look at the others
            if let Some(server) = (0..servers).find(|&server| doubt(server) == Some(0)) {
                return Some(server);
            }
        }
        let able = (0..servers).filter(|&server| self.may_have(server));
        able.filter_map(|server| {
            Some((usize::from(self.tally(server).faults) + self.asking_of(server) + doubt(server)?, server))
        })
        .min()
        .map(|(_, server)| server)
    }

    /// Whether this server may get another copy: those count that it lost, and those that it still has.
    fn may_have(&self, server: usize) -> bool {
        let tally = self.tally(server);
        usize::from(tally.copies) + self.asking_of(server) < usize::from(COPIES)
            && tally.ends < ENDS
            && tally.tries < TRIES
    }

    /// Whether it may be this query that ends the connections to a server.
    pub fn is_suspect(&self, server: usize) -> bool {
        self.tally(server).lost >= SUSPICIOUS
    }

    fn asking_of(&self, server: usize) -> usize {
        self.asking.iter().filter(|asking| asking.server == server).count()
    }

    fn tally(&self, server: usize) -> Tally {
        self.tally.get(server).copied().unwrap_or_default()
    }

    fn tally_mut(&mut self, server: usize) -> &mut Tally {
        if self.tally.len() <= server {
            self.tally.resize(server + 1, Tally::default());
        }
        &mut self.tally[server]
    }

    /// The server was asked over this connection.
    pub fn asked(&mut self, server: usize, connection: u64, now: Instant) {
        self.asking.push(Asking { server, connection, at: now, probe: false });
        if let Some((_, asked)) = &mut self.unsatisfied {
            *asked = true;
        }
    }

    /// The answer over this connection is one that another server may better. Returns whether that may be tried.
    pub fn unsatisfied(&mut self, connection: u64, now: Instant) -> bool {
        let are_others_asked = self.asking.iter().any(|asking| !asking.probe && asking.connection != connection);
        let may_wait = self.all_at_once && are_others_asked;
        if !self.repeatable || self.unsatisfied.is_some_and(|(_, asked)| asked) && !may_wait {
            return false;
        }
        self.lost(connection, true, false);
        let since = self.unsatisfied.map_or(now, |(since, _)| since);
        // who is being asked besides is asked elsewhere already
        self.unsatisfied = Some((since, are_others_asked));
        true
    }

    /// Whether another server is being asked because of an answer that it may better.
    pub fn seeks_better(&self) -> bool {
        self.unsatisfied.is_some()
    }

    /// A copy was sent to a doubtful server, to find out; another server is asked at the same time.
    pub fn probed(&mut self, server: usize, connection: u64, now: Instant) {
        self.asking.push(Asking { server, connection, at: now, probe: true });
    }

    /// What was asked over this connection will not be answered by it.
    ///
    /// `sent`: the resolver may have the query. `blameless`: the connection had served before and merely ended, which is
    /// no reason to prefer another server (RFC 7766 §6.2.4).
    pub fn lost(&mut self, connection: u64, sent: bool, blameless: bool) {
        let Some(index) = self.asking.iter().position(|asking| asking.connection == connection) else { return };
        let Asking { server, at, probe, .. } = self.asking.swap_remove(index);
        if let Some((_, asked)) = self.unsatisfied.as_mut().filter(|_| !probe && (blameless || !sent)) {
            // it has not been asked for a better answer after all
            *asked = false;
        }
        let repeatable = self.repeatable;
        let tally = self.tally_mut(server);
        tally.lost = tally.lost.saturating_add(u8::from(sent));
        if blameless {
            tally.ends += 1;
        } else {
            tally.faults = tally.faults.saturating_add(1);
            if sent {
                tally.copies = tally.copies.saturating_add(1);
            } else {
                (tally.tries, tally.tried_at) = (tally.tries.saturating_add(1), Some(at));
            }
        }
        if sent && !repeatable {
            // the resolver may have done what was asked: nobody may be asked again
            self.spent = true;
        }
    }

    fn latest_asking(&self) -> Option<&Asking> {
        self.asking.iter().filter(|asking| !asking.probe).max_by_key(|asking| asking.at)
    }

    /// The connection over which a server was asked last, apart from probes.
    pub fn latest(&self) -> Option<u64> {
        self.latest_asking().map(|asking| asking.connection)
    }

    /// What is being asked: the connections, and since when.
    pub fn asking(&self) -> impl Iterator<Item = (u64, Instant)> {
        self.asking.iter().map(|asking| (asking.connection, asking.at))
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod plan_tests;
