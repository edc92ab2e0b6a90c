//! One query on its way through the servers of a group: runs its plan with real connections and timers.

use std::borrow::Cow;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::alarms::{Alarm, Alarms};
use super::allowance::Allowance;
use super::attempt::{Attempt, WOKEN};
use super::connection::Connection;
use super::inflight::Asked;
use super::outcome::{Outcome, Trouble};
use super::place::Place;
use super::plan::{Plan, Standing, Step};
use super::shared::Phase;
use crate::dns::edit::ExtendedError;
use crate::dns::message::ReadMessage;
use crate::dns::refusal::is_worth_a_second_opinion;
use crate::moment;

/// How long silence must last from when it was first found: what came meanwhile may wait to be read.
const CONFIRMATION: Duration = Duration::from_millis(5);
/// Queries that must have gone out since octets last came before silence shorter than the second try means anything.
const UNHEARD: u32 = 8;

/// When a datagram in plain DNS is sent again to a server that is not known yet.
const RETRANSMISSION: Duration = Duration::from_millis(400);

/// What the inquiries of a group have in common.
pub struct Means {
    /// When a second server is asked at the latest.
    pub second_try_after: Duration,
    /// How long a query may wait for a server at all.
    pub deadline: Duration,
    /// Whether all servers are asked at once.
    pub all_at_once: bool,
    /// Whether another server is asked when one answers that it cannot or will not.
    pub second_opinion: bool,
    /// What is left for second askings because of late answers.
    pub allowance: Cell<Allowance>,
    /// Set when a query waits because all servers rest.
    pub waits_for_rest: Cell<bool>,
    /// The timer of all groups of the worker.
    pub alarms: Rc<Alarms>,
}

/// Why a query got no answer: what happened last, and at which server.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    sent: bool,
    heard: bool,
    /// In a box of its own, as each query on its way has room for a failure.
    why: Option<Box<Why>>,
}

#[derive(Clone, Debug)]
enum Why {
    /// There is nobody to ask, for this reason.
    Vacant(String),
    /// What happened last, at the server with this label.
    Last(String, Trouble),
}

impl Failure {
    /// There is nobody to ask.
    pub fn vacant(why: &str) -> Failure {
        Failure { why: Some(Box::new(Why::Vacant(why.to_owned()))), ..Failure::default() }
    }

    /// Takes note of what went wrong at a server. `sent`: it may have the query.
    pub fn note(&mut self, label: &str, sent: bool, trouble: Trouble) {
        self.sent |= sent;
        self.why = Some(Box::new(Why::Last(label.to_owned(), trouble)));
    }

    /// Whether it is an outage: not one server was heard, and that not for the number of queries.
    pub fn is_outage(&self) -> bool {
        let is_full = matches!(self.why.as_deref(), Some(Why::Last(_, Trouble::QueueFull | Trouble::TooMany)));
        !self.heard && !is_full
    }

    /// As the client is told (RFC 8914 §4.23, §4.24).
    pub fn extended_error(&self) -> ExtendedError {
        let code = if self.sent { ExtendedError::NO_REACHABLE_AUTHORITY } else { ExtendedError::NETWORK_ERROR };
        match self.why.as_deref() {
            Some(Why::Vacant(why)) => ExtendedError::new(code, why.clone()),
            Some(Why::Last(label, trouble)) => ExtendedError::new(code, format!("{label}: {trouble}")),
            None => ExtendedError::new(code, "no upstream server answered in time"),
        }
    }
}

/// The state of one query.
struct Inquiry<'a> {
    means: &'a Means,
    /// The servers, those first that are preferred for this query.
    places: Cow<'a, [Rc<Place>]>,
    asked: Rc<Asked>,
    plan: Plan,
    /// Hardly ever more than one.
    attempts: SmallVec<[Attempt; 1]>,
    failure: Failure,
    /// An answer that another server may better.
    fallback: Option<Box<ReadMessage>>,
    probed: bool,
    alarm: Alarm,
}

/// What was asked already, of the first of the servers, and its outcome if there is one.
pub type Begun = (Attempt, Option<Outcome>);

/// Asks until an answer comes or the plan gives up; the answer has the ID of some connection. What has `begun` is gone on
/// with.
///
/// # Errors
/// Why there is no answer. It comes at `deadline` at the latest.
pub fn inquire<'a>(
    means: &'a Means,
    places: Cow<'a, [Rc<Place>]>,
    asked: Rc<Asked>,
    deadline: Instant,
    begun: Option<Begun>,
) -> impl Future<Output = Result<ReadMessage, Failure>> + use<'a> {
    let plan = Plan::new(deadline, means.second_try_after, asked.is_repeatable());
    let plan = if means.all_at_once { plan.to_all() } else { plan };
    let (attempts, failure, alarm) = (SmallVec::new(), Failure::default(), Alarm::new(&means.alarms));
    let mut inquiry = Inquiry { means, places, asked, plan, attempts, failure, fallback: None, probed: false, alarm };
    let mut known = begun.and_then(|begun| inquiry.take_over(begun));
    poll_fn(move |context| match known.take().and_then(|outcome| inquiry.take(0, outcome)) {
        Some(answer) => Poll::Ready(Ok(answer)),
        None => inquiry.poll(context),
    })
}

impl Inquiry<'_> {
    /// Goes on with what has begun; gives its outcome, if there is one.
    fn take_over(&mut self, (attempt, outcome): Begun) -> Option<Outcome> {
        self.plan.asked(attempt.server, attempt.connection.id(), attempt.asked_at);
        self.attempts.push(attempt);
        // nobody is preferred to the first, so there was nobody to probe
        self.probed = true;
        outcome
    }

    /// One turn: takes in what became of attempts, and does what the plan says, until there is something to wait for.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<ReadMessage, Failure>> {
        // a turn takes no time that matters, and most end before they need to know it
        let mut looked = None;
        loop {
            if let Some((index, outcome)) = self.first_outcome(context) {
                match self.take(index, outcome) {
                    Some(answer) => return Poll::Ready(Ok(answer)),
                    None => continue,
                }
            }
            let now = *looked.get_or_insert_with(moment::instant);
            self.retire_silent(now);
            match self.next(now) {
                Step::GiveUp => return Poll::Ready(self.give_up(now)),
                Step::Ask(server) => self.ask(server, now),
                Step::Wait(until) => {
                    if self.attempts.is_empty() {
                        self.means.waits_for_rest.set(true);
                    }
                    ready!(self.alarm.poll(until, now, context));
                    looked = Some(Instant::now());
                }
            }
        }
    }

    /// The first attempt with an outcome, if there is one.
    fn first_outcome(&mut self, context: &mut Context<'_>) -> Option<(usize, Outcome)> {
        self.attempts.iter_mut().enumerate().find_map(|(index, attempt)| match attempt.poll(context) {
            Poll::Ready(outcome) => Some((index, outcome)),
            Poll::Pending => None,
        })
    }

    fn standing(&self, server: usize, now: Instant) -> Standing {
        self.places[server].standing(now)
    }

    fn next(&self, now: Instant) -> Step {
        let servers = self.places.len();
        let patience = |server, connection, asked_at| self.patience(server, connection, asked_at, now);
        self.plan.next(now, servers, |server| self.standing(server, now), patience)
    }

    fn attempt(&self, connection: u64) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.connection.id() == connection)
    }

    /// How long an answer may take before another server is asked: as long as nearly all answers of this one take, while
    /// that allowance lasts; not at all, if its connection has been found silent; otherwise the second try's time.
    fn patience(&self, server: usize, connection: u64, asked_at: Instant, now: Instant) -> Duration {
        let second_try = self.means.second_try_after;
        let Some(Attempt { connection, .. }) = self.attempt(connection) else { return second_try };
        if connection.is_given_up() {
            return Duration::ZERO;
        }
        let tail = self.places[server].tempo().tail();
        if connection.is_single() {
            // datagrams get lost
            return tail.map_or(RETRANSMISSION, |tail| tail * 2).min(second_try);
        }
        // what waited for the handshake went out only then
        let opened = connection.opened().filter(|&opened| opened > asked_at);
        let handshake = opened.map_or(Duration::ZERO, |opened| opened - asked_at);
        // where all are asked at once there is nobody else
        let may_hedge = self.means.allowance.get().suffices() && !self.means.all_at_once && self.has_other(server, now);
        if let Some(tail) = tail.filter(|_| may_hedge) {
            return (handshake + tail).min(second_try);
        }
        let waited = now.saturating_duration_since(asked_at).saturating_sub(handshake);
        if connection.is_suspected() {
            return (handshake + waited + CONFIRMATION).min(second_try);
        }
        if connection.has_been_heard_since(asked_at) && waited >= tail.unwrap_or_default() {
            return second_try;
        }
        // somebody looks, now and then, whether the connection is silent
        let mut look = tail.unwrap_or(WOKEN);
        while look <= waited {
            look *= 2;
        }
        (handshake + look).min(second_try)
    }

    /// How long a connection may bring nothing that was asked for. Where many queries went out, silence is plain as soon
    /// as nearly every answer should be there; after a long rest a little later; else it has the second try's time.
    fn silence(&self, server: usize, connection: &Connection) -> Duration {
        let second_try = self.means.second_try_after;
        let tail = self.places[server].tempo().tail();
        match tail {
            Some(tail) if connection.unheard() >= UNHEARD => tail.min(second_try),
            _ if connection.is_woken() => (tail.unwrap_or(WOKEN) * 4).max(WOKEN).min(WOKEN * 2).min(second_try),
            _ => second_try,
        }
    }

    /// Whether another server is well.
    fn has_other(&self, server: usize, now: Instant) -> bool {
        let is_well =
            |other| matches!(self.standing(other, now), Standing::Open(_) | Standing::Connecting(_) | Standing::Idle);
        (0..self.places.len()).any(|other| other != server && is_well(other))
    }

    fn ask(&mut self, server: usize, now: Instant) {
        if !std::mem::replace(&mut self.probed, true) && self.asked.is_repeatable() {
            for doubtful in self.to_probe(server, now) {
                let connection = self.places[doubtful].connection(now, self.plan.is_suspect(doubtful));
                self.plan.probed(doubtful, connection.id(), now);
                self.put(doubtful, connection, now, false);
            }
        }
        let connection = self.places[server].connection(now, self.plan.is_suspect(server));
        let tally = self.places[server].server().tally();
        let is_hedge = !self.plan.seeks_better() && !self.means.all_at_once && self.is_late(now);
        if self.plan.seeks_better() {
            tally.second_opinions.add(1);
        } else if is_hedge {
            tally.hedges.add(1);
            let mut allowance = self.means.allowance.get();
            allowance.spend();
            self.means.allowance.set(allowance);
        }
        self.plan.asked(server, connection.id(), now);
        self.put(server, connection, now, is_hedge);
    }

    /// Whether what is asked now is asked merely because an answer is late: over a connection that works, and before the
    /// second try is due.
    fn is_late(&self, now: Instant) -> bool {
        let latest = self.plan.latest().and_then(|connection| self.attempt(connection));
        latest.is_some_and(|attempt| {
            let is_due = now >= attempt.asked_at + self.means.second_try_after;
            attempt.connection.phase() == Phase::Open && !is_due
        })
    }

    /// Puts the query to a server, as the plan knows already.
    fn put(&mut self, server: usize, connection: Rc<Connection>, now: Instant, hedge: bool) {
        let id = connection.id();
        match Attempt::put(self.asked.clone(), connection, server, now, hedge) {
            Ok(attempt) => self.attempts.push(attempt),
            Err(trouble) => {
                self.plan.lost(id, false, false);
                self.failure.note(self.places[server].server().label(), false, trouble);
            }
        }
    }

    /// Takes in what became of an attempt; the answer if it is one to give.
    fn take(&mut self, index: usize, outcome: Outcome) -> Option<ReadMessage> {
        let attempt = self.attempts.swap_remove(index);
        let server = self.places[attempt.server].server();
        match outcome {
            Outcome::Answer(answer) => {
                if self.means.second_opinion
                    && is_worth_a_second_opinion(answer.bytes())
                    && self.places.len() > 1
                    && self.plan.unsatisfied(attempt.connection.id(), Instant::now())
                {
                    self.fallback.get_or_insert_with(|| Box::new(answer));
                    return None;
                }
                if attempt.hedge {
                    server.tally().hedges_won.add(1);
                }
                if !self.attempts.is_empty() {
                    self.count_timeouts(Instant::now());
                }
                match self.fallback.take() {
                    // two who cannot say: the one that was asked first
                    Some(fallback) if is_worth_a_second_opinion(answer.bytes()) => Some(*fallback),
                    _ => Some(answer),
                }
            }
            Outcome::Lost { sent, blameless, trouble } => {
                self.plan.lost(attempt.connection.id(), sent, blameless);
                self.failure.note(server.label(), sent, trouble);
                None
            }
        }
    }

    fn give_up(&mut self, now: Instant) -> Result<ReadMessage, Failure> {
        self.count_timeouts(now);
        if let Some(fallback) = self.fallback.take() {
            return Ok(*fallback);
        }
        // a connection that has been retired since may still have taken the query to its server
        self.failure.heard |=
            self.attempts.iter().any(|attempt| attempt.connection.has_been_heard_since(attempt.asked_at));
        self.failure.sent |= self.attempts.iter().any(|attempt| attempt.connection.was_authenticated());
        Err(std::mem::take(&mut self.failure))
    }

    /// Counts the servers that did not answer in the time that one server gets.
    fn count_timeouts(&self, now: Instant) {
        for attempt in &self.attempts {
            if now >= attempt.asked_at + self.means.second_try_after {
                self.places[attempt.server].server().tally().timeouts.add(1);
            }
        }
    }

    /// Servers preferred to this one, or all where all are asked, that are doubtful, and due for a copy of a query to find out:
    /// their clients never wait for the outcome.
    fn to_probe(&self, server: usize, now: Instant) -> Vec<usize> {
        let doubtful = |&one: &usize| matches!(self.standing(one, now), Standing::Doubtful { .. });
        let due = |&one: &usize| self.places[one].server().take_probe(now, now + self.means.deadline);
        let preferred = if self.means.all_at_once { self.places.len() } else { server };
        (0..preferred).filter(|&one| one != server).filter(doubtful).filter(due).collect()
    }

    /// A connection on which a query is overdue and nothing at all has come since is given up for later ones: what
    /// became of its path nobody will say (RFC 7858 §3.4). It may still answer what it has. Where many queries have gone
    /// out since, silence is plain much sooner than from a single one.
    fn retire_silent(&self, now: Instant) {
        for (id, asked_at) in self.plan.asking() {
            if asked_at == now {
                // it has just been asked
                continue;
            }
            let Some(Attempt { connection, server, .. }) = self.attempt(id) else { continue };
            let (place, second_try) = (&self.places[*server], self.means.second_try_after);
            let is_many = connection.unheard() >= UNHEARD;
            let silence = self.silence(*server, connection);
            let is_heard = connection.has_been_heard_since(asked_at);
            // a query that waited for the handshake went out only then
            let sent_at = connection.opened().map_or(asked_at, |opened| opened.max(asked_at));
            if now < sent_at + silence || connection.phase() != Phase::Open || is_heard {
                continue;
            }
            if silence < second_try && !connection.is_silent(now, CONFIRMATION) {
                continue;
            }
            log::debug!("upstream {}: silent connection retired", place.server().label());
            connection.give_up();
            // whoever was asked just before it fell silent would notice last
            self.means.alarms.wake_all();
            if self.places.len() > 1 {
                let why = Trouble::Ended("silent".to_owned());
                if is_many && self.has_other(*server, now) {
                    place.server().failed(now, 0, &why);
                } else {
                    // once may be the path's fault, twice in a row is the server's; nor would a rest help where nobody else
                    // is left
                    place.server().barren(now, 0, &why);
                }
            }
        }
    }
}
