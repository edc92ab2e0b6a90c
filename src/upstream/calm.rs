//! The usual course of a query: the server that comes first is well, is asked, and answers in time. Nothing has to be weighed
//! for it, so nothing is: whatever else happens is for `inquiry.rs`, which goes on with what has been asked.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::alarms::{Alarm, Alarms};
use super::attempt::{Attempt, WOKEN};
use super::inflight::Asked;
use super::outcome::Outcome;
use super::place::Place;
use crate::moment;

/// A query that was put to a server that is well.
pub struct Calm {
    attempt: Attempt,
    /// Set for when the answer is late.
    _alarm: Alarm,
}

impl Calm {
    /// Puts the query to the server at this place, the one of that number, if nothing speaks against it. The task is woken
    /// when there is an outcome, or something else to look at.
    pub fn set_out(
        (server, place): (usize, &Place),
        asked: &Rc<Asked>,
        second_try_after: Duration,
        deadline: Instant,
        alarms: &Rc<Alarms>,
        context: &mut Context<'_>,
    ) -> Option<Calm> {
        let now = moment::instant();
        let connection = place.well(now).filter(|_| now < deadline)?;
        let mut attempt = Attempt::put(asked.clone(), connection, server, now, false).ok()?;
        let due = now + place.tempo().tail().unwrap_or(WOKEN).min(second_try_after);
        let mut alarm = Alarm::new(alarms);
        // what has just begun can neither have ended nor be late
        let waits = attempt.poll(context).is_pending() && alarm.poll(due.min(deadline), now, context).is_pending();
        waits.then_some(Calm { attempt, _alarm: alarm })
    }

    /// What became of it, when the task is woken; nothing if it is late, or if somebody has found out something that
    /// concerns it.
    pub fn outcome(&mut self, context: &mut Context<'_>) -> Option<Outcome> {
        match self.attempt.poll(context) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    /// What has been asked, for another course.
    pub fn into_attempt(self) -> Attempt {
        self.attempt
    }
}
