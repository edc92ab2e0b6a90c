//! One timer for all queries of a worker that wait. Each of them waits for a moment that hardly ever comes, since its
//! answer comes first: a timer of its own would cost more than the rest of its bookkeeping.
//!
//! The timer is set for the earliest moment when the first query waits, and stays set when that query has its answer;
//! only when it rings is the next moment looked for. So there are as many timers as there are such spans of time, not as
//! there are queries, and none while nobody waits.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::bell::Bell;

/// Places kept when nobody waits any more.
const KEPT: usize = 256;

/// The moments that are waited for, and who waits.
#[derive(Debug, Default)]
struct Book {
    entries: Vec<Option<(Instant, Waker)>>,
    /// Places in `entries` that are free.
    free: Vec<usize>,
    /// When the timer rings, if it is set.
    set_for: Option<Instant>,
}

impl Book {
    /// Writes down who waits until when, at this place or at one that is free. Gives the place, and whether the timer must
    /// be set for an earlier moment.
    fn write(&mut self, place: Option<usize>, until: Instant, waker: &Waker) -> (usize, bool) {
        let place = place.or_else(|| self.free.pop()).unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        match &mut self.entries[place] {
            Some((known, who)) if who.will_wake(waker) => *known = until,
            entry => *entry = Some((until, waker.clone())),
        }
        let is_earlier = self.set_for.is_none_or(|set_for| until < set_for);
        if is_earlier {
            self.set_for = Some(until);
        }
        (place, is_earlier)
    }

    fn strike_out(&mut self, place: usize) {
        self.entries[place] = None;
        self.free.push(place);
        if self.free.len() == self.entries.len() && self.entries.len() > KEPT {
            (self.entries, self.free) = Default::default();
        }
    }

    /// Takes out who waited until now, and sets the timer for the next moment, if there is one.
    fn ring(&mut self, now: Instant) -> Vec<Waker> {
        let mut due = Vec::new();
        self.set_for = None;
        for entry in &mut self.entries {
            match entry {
                // the place stays theirs until they give it up
                Some((until, who)) if *until <= now => {
                    due.push(who.clone());
                    *entry = None;
                }
                Some((until, _)) => self.set_for = Some(self.set_for.map_or(*until, |earliest| earliest.min(*until))),
                None => {}
            }
        }
        due
    }
}

/// The timer of a worker.
#[derive(Debug, Default)]
pub struct Alarms {
    book: RefCell<Book>,
    /// Whether a task minds the timer.
    minded: Cell<bool>,
    /// Rung when the timer must be set for an earlier moment.
    bell: Bell,
}

impl Alarms {
    /// Has the timer set for an earlier moment.
    fn rouse(self: &Rc<Self>) {
        if self.minded.replace(true) {
            self.bell.ring();
        } else {
            tokio::task::spawn_local(self.clone().mind());
        }
    }

    /// Wakes all who wait: what they wait for may have come to pass.
    pub fn wake_all(&self) {
        self.book.borrow().entries.iter().flatten().for_each(|(_, who)| who.wake_by_ref());
    }

    /// Minds the timer while anybody waits.
    async fn mind(self: Rc<Self>) {
        let mut sleep = pin!(tokio::time::sleep_until(Instant::now().into()));
        poll_fn(|context| {
            self.bell.listen(context);
            loop {
                let set_for = self.book.borrow().set_for;
                let Some(set_for) = set_for else { return Poll::Ready(()) };
                if sleep.deadline() != set_for.into() {
                    sleep.as_mut().reset(set_for.into());
                }
                if sleep.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                let due = self.book.borrow_mut().ring(Instant::now());
                due.into_iter().for_each(Waker::wake);
            }
        })
        .await;
        self.minded.set(false);
    }
}

/// What one query waits with. It is forgotten when it is dropped.
#[derive(Debug)]
pub struct Alarm {
    alarms: Rc<Alarms>,
    place: Option<usize>,
}

impl Alarm {
    /// An alarm that is not set.
    pub fn new(alarms: &Rc<Alarms>) -> Alarm {
        Alarm { alarms: alarms.clone(), place: None }
    }

    /// Ready at `until` or later, by some two milliseconds at the most; another moment may be given each time. `now` is
    /// when the caller last looked.
    pub fn poll(&mut self, until: Instant, now: Instant, context: &Context<'_>) -> Poll<()> {
        if now >= until {
            return Poll::Ready(());
        }
        let (place, is_earlier) = self.alarms.book.borrow_mut().write(self.place, until, context.waker());
        self.place = Some(place);
        if is_earlier {
            self.alarms.rouse();
        }
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.alarms.book.borrow_mut().strike_out(place);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Alarm, Alarms, Book, KEPT};
    use crate::wake_count_tests::Count;
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::task::Waker;
    use std::time::{Duration, Instant};

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn the_timer_is_set_anew_only_for_an_earlier_moment() {
        let (mut book, now, waker) = (Book::default(), Instant::now(), Waker::noop());
        let (first, is_earlier) = book.write(None, now + ms(50), waker);
        assert!(is_earlier);
        for round in 1..100 {
            book.strike_out(first);
            assert_eq!(book.write(None, now + ms(50 + round), waker), (first, false));
        }
        assert_eq!(book.write(None, now + ms(20), waker), (1, true));
        // nothing is due any more that the timer was first set for
        assert_eq!(book.ring(now + ms(20)).len(), 1);
        assert_eq!(book.set_for, Some(now + ms(149)));
        assert_eq!(book.ring(now + ms(149)).len(), 1);
        assert_eq!(book.set_for, None);
    }

    #[test]
    fn whoever_is_due_is_woken_and_nobody_else() {
        let (mut book, now) = (Book::default(), Instant::now());
        let counts: Vec<Arc<Count>> = (0..10).map(|_| Arc::default()).collect();
        let mut places = Vec::new();
        for (count, step) in counts.iter().zip(0..) {
            places.push(book.write(None, now + ms(step), &count.clone().into()).0);
        }
        // a later moment for one of them, and one who has gone
        book.write(Some(places[2]), now + ms(8), &counts[2].clone().into());
        book.strike_out(places[3]);
        book.ring(now + ms(5)).into_iter().for_each(Waker::wake);
        let woken: Vec<usize> = counts.iter().map(|count| count.taken()).collect();
        assert_eq!(woken, [1, 1, 0, 0, 1, 1, 0, 0, 0, 0]);
        assert_eq!(book.set_for, Some(now + ms(6)));
    }

    #[test]
    fn all_can_be_woken_before_their_time_and_wait_on() {
        let (alarms, now, count): (Alarms, _, Arc<Count>) = (Alarms::default(), Instant::now(), Arc::default());
        for step in 1..=3 {
            alarms.book.borrow_mut().write(None, now + ms(step), &count.clone().into());
        }
        alarms.wake_all();
        assert_eq!(count.taken(), 3);
        assert_eq!(alarms.book.borrow_mut().ring(now + ms(2)).len(), 2);
    }

    #[test]
    fn what_a_crowd_took_is_given_back() {
        let (mut book, now) = (Book::default(), Instant::now());
        let places: Vec<usize> = (0..KEPT * 2).map(|_| book.write(None, now, Waker::noop()).0).collect();
        places.into_iter().for_each(|place| book.strike_out(place));
        assert_eq!((book.entries.capacity(), book.free.capacity()), (0, 0));
    }

    #[test]
    fn all_who_wait_are_told_in_time_and_none_too_early() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let alarms: Rc<Alarms> = Rc::default();
            let began = Instant::now();
            let wait = |after: u64| {
                let mut alarm = Alarm::new(&alarms);
                tokio::task::spawn_local(async move {
                    poll_fn(|context| alarm.poll(began + ms(after), Instant::now(), context)).await;
                    assert!(began.elapsed() >= ms(after));
                })
            };
            // the second is earlier than what the timer is set for, the last comes when it has rung
            let waiting = [30, 10, 20].map(wait);
            for one in waiting {
                one.await.unwrap();
            }
            assert!(alarms.book.borrow().set_for.is_none());
            tokio::task::yield_now().await;
            assert!(!alarms.minded.get());
            wait(40).await.unwrap();
        });
    }
}
