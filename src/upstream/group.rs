//! A group of servers, as one worker uses it: who is preferred for a query, what is remembered of an outage, and what
//! becomes of connections when the configuration or the network changes.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use super::alarms::Alarms;
use super::allowance::Allowance;
use super::calm::Calm;
use super::inflight::Asked;
use super::inquiry::{Failure, Means, inquire};
use super::outage::Outage;
use super::outcome::{Limits, Outcome, Vacancy};
use super::place::Place;
use super::server::UpstreamServer;
use crate::config::settings::Policy;
use crate::dns::message::ReadMessage;
use crate::dns::refusal::is_worth_a_second_opinion;
use crate::metrics::Counters;
use crate::moment;

/// How long a question waits that no server would answer of late.
const REPEAT: Duration = Duration::from_millis(40);

/// How long it counts that no server could be reached, if nothing is held against any of them: another worker may have
/// had an answer.
const PRESUMED: Duration = Duration::from_secs(5);

/// How a group asks.
#[derive(Clone, Copy, Debug)]
pub struct Conduct {
    /// Which server comes first.
    pub policy: Policy,
    /// When a second server is asked at the latest.
    pub second_try_after: Duration,
    /// How many queries in a hundred may be asked a second time because the answer is late.
    pub hedge_percent: u8,
    /// Whether another server is asked when one answers that it cannot or will not.
    pub second_opinion: bool,
    /// The limits of its connections.
    pub limits: Limits,
}

/// The servers of a group, and this worker's places at them.
pub struct Group {
    places: Vec<Rc<Place>>,
    /// Why there is no place, if there is none.
    vacancy: Option<Vacancy>,
    conduct: Conduct,
    next_id: Rc<Cell<u64>>,
    counters: Arc<Counters>,
    means: Means,
    /// Whose turn it is where the servers take turns.
    turn: Cell<usize>,
    outage: RefCell<Outage<Failure>>,
    /// When it was last found out that no server could be reached, unless one has answered since.
    out_at: Cell<Option<Instant>>,
    /// Queries that were answered.
    answers: Cell<u64>,
    /// Whether a query is under way that nobody waits for, to find out if an outage is over.
    finding_out: Cell<bool>,
}

/// What the inquiries of a group have in common that asks like this.
fn means(conduct: &Conduct, allowance: Cell<Allowance>, alarms: Rc<Alarms>) -> Means {
    Means {
        second_try_after: conduct.second_try_after,
        deadline: conduct.limits.deadline,
        all_at_once: conduct.policy == Policy::Parallel,
        second_opinion: conduct.second_opinion,
        allowance,
        waits_for_rest: Cell::default(),
        alarms,
    }
}

impl Group {
    /// A group without connections: they are made when a query needs them.
    pub fn new(servers: Vec<Arc<UpstreamServer>>, conduct: Conduct, counters: Arc<Counters>) -> Group {
        let next_id: Rc<Cell<u64>> = Rc::default();
        let place = |server| Place::new(server, conduct.limits, next_id.clone(), counters.clone());
        let places = servers.into_iter().map(place).collect();
        let means = means(&conduct, Cell::default(), Rc::default());
        let (vacancy, turn, outage, out_at, answers, finding_out) = Default::default();
        Group { places, vacancy, conduct, next_id, counters, means, turn, outage, out_at, answers, finding_out }
    }

    /// The group that takes the place of this one after a reload. Connections to servers that are in both go on, with
    /// the new limits; the others end when the last query of this group has its answer.
    pub fn renewed(&self, servers: Vec<Arc<UpstreamServer>>, conduct: Conduct) -> Group {
        let place = |server: Arc<UpstreamServer>| {
            let Some(known) = self.places.iter().find(|place| Arc::ptr_eq(place.server(), &server)) else {
                return Place::new(server, conduct.limits, self.next_id.clone(), self.counters.clone());
            };
            known.renew(conduct.limits);
            known.clone()
        };
        let places = servers.into_iter().map(place).collect();
        let (next_id, counters) = (self.next_id.clone(), self.counters.clone());
        let means = means(&conduct, self.means.allowance.clone(), self.means.alarms.clone());
        Group { places, means, next_id, ..Group::new(Vec::new(), conduct, counters) }
    }

    /// The same group, which has no server for this reason.
    pub fn vacant(self, vacancy: Option<Vacancy>) -> Group {
        Group { vacancy, ..self }
    }

    /// Why it has no server, if it has none.
    pub fn vacancy(&self) -> Option<&Vacancy> {
        self.vacancy.as_ref().filter(|_| self.places.is_empty())
    }

    /// What there is to say of a query before any server was asked.
    pub fn no_answer(&self) -> Failure {
        self.vacancy().map_or_else(Failure::default, |vacancy| Failure::vacant(&vacancy.why))
    }

    /// The servers, in the order of the configuration.
    pub fn servers(&self) -> impl ExactSizeIterator<Item = &Arc<UpstreamServer>> {
        self.places.iter().map(|place| place.server())
    }

    /// This worker's counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The limits of its connections.
    pub fn limits(&self) -> Limits {
        self.conduct.limits
    }

    /// Asks until an answer comes or every way was tried; the answer has the ID of some connection. Who repeats a
    /// question that no server would answer of late is told so almost at once, unless the outage is over.
    ///
    /// # Errors
    /// Why there is no answer. It comes at `deadline` at the latest.
    pub async fn ask(self: &Rc<Self>, asked: Rc<Asked>, deadline: Instant) -> Result<ReadMessage, Failure> {
        if self.places.is_empty() {
            return Err(self.no_answer());
        }
        match self.recall(&asked) {
            Some(told) => self.ask_again(asked, told, deadline).await,
            None => self.inquire(asked, deadline).await,
        }
    }

    /// Why no server would answer this question of late.
    fn recall(&self, asked: &Asked) -> Option<Failure> {
        let question = asked.question().filter(|_| asked.is_repeatable())?;
        let outage = self.outage.borrow();
        if outage.is_empty() { None } else { outage.recall(question, Instant::now()) }
    }

    /// A question that no server would answer of late: it is asked again twice a second, however often it is repeated.
    async fn ask_again(
        self: &Rc<Self>,
        asked: Rc<Asked>,
        told: Failure,
        deadline: Instant,
    ) -> Result<ReadMessage, Failure> {
        if self.outage.borrow_mut().take_turn(asked.question().unwrap_or_default(), Instant::now()) {
            return self.find_out(asked, deadline).await.unwrap_or(Err(told));
        }
        // somebody else may find out meanwhile that it is over
        tokio::time::sleep(REPEAT).await;
        if self.is_out() { Err(told) } else { self.inquire(asked, deadline).await }
    }

    /// Asks whether an outage is over, and waits a moment for the answer. One query at a time is asked to its end, so that
    /// it is found out although nobody waits.
    async fn find_out(self: &Rc<Self>, asked: Rc<Asked>, deadline: Instant) -> Option<Result<ReadMessage, Failure>> {
        if self.finding_out.replace(true) {
            return tokio::time::timeout(REPEAT, self.inquire(asked, deadline)).await.ok();
        }
        let group = self.clone();
        let inquiry = tokio::task::spawn_local(async move {
            let result = group.inquire(asked, deadline).await;
            group.finding_out.set(false);
            result
        });
        tokio::time::timeout(REPEAT, inquiry).await.ok()?.ok()
    }

    /// Puts a query on its usual course: to the server that comes first, if that one is well and nothing is remembered of an
    /// outage. Such a query ends by [`Group::last_word`], or by [`Group::go_on`].
    pub fn set_out(&self, asked: &Rc<Asked>, deadline: Instant, context: &mut Context<'_>) -> Option<Calm> {
        if self.means.all_at_once && self.places.len() > 1 || !self.outage.borrow().is_empty() {
            return None;
        }
        let first = self.first();
        let Means { second_try_after, alarms, .. } = &self.means;
        let place = (first, &**self.places.get(first)?);
        let calm = Calm::set_out(place, asked, *second_try_after, deadline, alarms, context)?;
        self.sets_out();
        Some(calm)
    }

    /// The answer, if what became of a query on its usual course is one that no other server may better.
    ///
    /// # Errors
    /// Whatever else it is.
    pub fn last_word(&self, outcome: Outcome) -> Result<ReadMessage, Outcome> {
        let may_better = |answer: &ReadMessage| {
            self.means.second_opinion && self.places.len() > 1 && is_worth_a_second_opinion(answer.bytes())
        };
        match outcome {
            Outcome::Answer(answer) if !may_better(&answer) => {
                self.answered();
                Ok(answer)
            }
            other => Err(other),
        }
    }

    /// Goes on with a query that has left its usual course; `outcome` is what became of it, if that is known.
    ///
    /// # Errors
    /// As those of [`Group::ask`].
    pub async fn go_on(
        &self,
        asked: Rc<Asked>,
        deadline: Instant,
        calm: Calm,
        outcome: Option<Outcome>,
    ) -> Result<ReadMessage, Failure> {
        let mut attempt = calm.into_attempt();
        let places = self.preferred(attempt.server);
        attempt.server = 0;
        let result = inquire(&self.means, places, asked.clone(), deadline, Some((attempt, outcome))).await;
        self.note(&result, &asked, deadline);
        result
    }

    async fn inquire(&self, asked: Rc<Asked>, deadline: Instant) -> Result<ReadMessage, Failure> {
        let places = self.preferred(self.first());
        self.sets_out();
        let result = inquire(&self.means, places, asked.clone(), deadline, None).await;
        self.note(&result, &asked, deadline);
        result
    }

    /// A query sets out: the next one may have another server first, and more may be asked a second time.
    fn sets_out(&self) {
        let mut allowance = self.means.allowance.get();
        allowance.earn(self.conduct.hedge_percent);
        self.means.allowance.set(allowance);
        if self.conduct.policy == Policy::Spread {
            self.turn.set(self.turn.get().wrapping_add(1));
        }
    }

    /// Takes note of what came of a query.
    fn note(&self, result: &Result<ReadMessage, Failure>, asked: &Asked, deadline: Instant) {
        match (result, asked.question().filter(|_| asked.is_repeatable())) {
            (Ok(_), _) => self.answered(),
            (Err(failure), Some(question)) if failure.is_outage() => {
                let now = Instant::now();
                // every query has as long as this
                let began = deadline.checked_sub(self.conduct.limits.deadline).unwrap_or(now);
                self.out_at.set(Some(now));
                self.outage.borrow_mut().failed(question, failure.clone(), began, now);
            }
            _ => {}
        }
    }

    fn answered(&self) {
        self.answers.set(self.answers.get() + 1);
        self.end_outage();
        if self.means.waits_for_rest.take() {
            // one of those servers answers again
            self.means.alarms.wake_all();
        }
    }

    /// Which server is preferred for the next query, by its number.
    fn first(&self) -> usize {
        match self.conduct.policy {
            Policy::InOrder | Policy::Parallel => 0,
            Policy::Spread => self.turn.get().checked_rem(self.places.len()).unwrap_or_default(),
            Policy::Fastest => {
                let now = moment::instant();
                let weights = self.places.iter().map(|place| place.tempo().weight(now));
                weights.zip(0..).min().map_or(0, |(_, server)| server)
            }
        }
    }

    /// The places: this one, and then the others as they are preferred.
    fn preferred(&self, first: usize) -> Cow<'_, [Rc<Place>]> {
        if matches!(self.conduct.policy, Policy::InOrder | Policy::Parallel) || self.places.len() < 2 {
            return Cow::Borrowed(&self.places);
        }
        let mut places = self.places.clone();
        if self.conduct.policy == Policy::Fastest {
            let now = moment::instant();
            places[..=first].rotate_right(1);
            places[1..].sort_by_cached_key(|place| place.tempo().weight(now));
        } else {
            places.rotate_left(first);
        }
        Cow::Owned(places)
    }

    /// The network is another one: connections are renewed.
    pub fn start_afresh(&self) {
        let now = Instant::now();
        self.places.iter().for_each(|place| place.start_afresh(now));
    }

    /// The network is another one: questions that failed over the old one may be answered.
    pub fn end_outage(&self) {
        self.out_at.set(None);
        self.outage.borrow_mut().end();
    }

    /// Whether no server could be reached of late, as this worker or another one has found out.
    pub fn is_out(&self) -> bool {
        let mut servers = self.servers();
        servers.len() > 0 && servers.all(|server| server.is_doubtful())
            || self.out_at.get().is_some_and(|at| Instant::now() < at + PRESUMED)
    }

    /// How many queries were answered.
    pub fn answers(&self) -> u64 {
        self.answers.get()
    }

    /// Nothing came of a query for long, and when it was asked there had been `answers`: if there are no more since, no
    /// server can be reached.
    pub fn presume_out(&self, answers: u64) {
        if self.answers() == answers {
            self.out_at.set(Some(Instant::now()));
        }
    }

    /// Lets all connections say goodbye, once what they have in flight is done.
    pub fn close(&self) {
        self.places.iter().for_each(|place| place.close());
    }
}
