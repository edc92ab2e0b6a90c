//! Which of the workers serve: the first one always, the others when those who do have no time left. What one worker can
//! do it does with less work than two: it finds more datagrams at once, writes more queries in one record, and needs one
//! connection to each server.
//!
//! The decision is a pure function of how much each has worked of late. What counts is the processor's time, not how much
//! waits: where others take it, more workers would only take it from each other.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::effort::Effort;
use crate::pace::Done;

/// Percent of their time that those on duty work, on average, from which on as many again are called. A worker that has hardly
/// any time left still serves more: the more it finds at once, the less each takes.
const FULL: usize = 95;
/// Percent of their time that those who stay would work, at most, if the one called last went.
const ROOM: usize = 90;
/// How long a called worker stays at least.
const STAY: Duration = Duration::from_secs(1);
/// Open connections of clients from which on all workers accept more: each stays with the worker that accepted it, and so
/// many may have much to ask one day.
const CROWD: usize = 32;

/// What the workers know of each other.
pub struct Shift {
    /// How many are on duty: the first so many.
    on: AtomicUsize,
    /// Percent of its time that each worked in its last period.
    worked: Box<[AtomicUsize]>,
    /// Whether one of them is stuck, so that all others stay.
    is_relief_needed: AtomicBool,
    /// Connections of clients that are open.
    connections: AtomicUsize,
    /// Tasks of those who are not.
    waiting: Mutex<Vec<Waker>>,
}

impl Shift {
    /// So many workers, of whom the first is on duty.
    pub fn of(workers: usize) -> Arc<Shift> {
        let worked = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        let (is_relief_needed, connections, waiting) = Default::default();
        Arc::new(Shift { on: AtomicUsize::new(1), worked, is_relief_needed, connections, waiting })
    }

    /// The duty of one worker.
    pub fn duty(self: &Arc<Self>, number: usize) -> Duty {
        Duty { shift: self.clone(), number, effort: RefCell::default(), since: Cell::new(None) }
    }

    /// Whether this worker is on duty.
    pub fn has_on_duty(&self, number: usize) -> bool {
        number < self.on.load(Ordering::Acquire)
    }

    /// What all on duty work together, in percent of one worker's time.
    fn total(&self, on: usize) -> usize {
        self.worked.iter().take(on).map(|worked| worked.load(Ordering::Relaxed)).sum()
    }

    /// Who is on duty from now on; nothing if somebody else has just decided that.
    fn change(&self, from: usize, to: usize) -> bool {
        for worked in self.worked.iter().take(to).skip(from) {
            worked.store(0, Ordering::Relaxed);
        }
        let changed = self.on.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if changed && to > from {
            self.wake();
        }
        changed
    }

    /// Says whether some worker is stuck. While one is, all are on duty: it may be the only one that was.
    pub fn relieve(&self, is_needed: bool) {
        self.is_relief_needed.store(is_needed, Ordering::Release);
        let on = self.on.load(Ordering::Acquire);
        if is_needed && on < self.worked.len() {
            // should somebody have changed it meanwhile, the next look finds that
            self.change(on, self.worked.len());
        }
    }

    fn wake(&self) {
        // wakers are whole whatever happened to whoever held the lock
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Whether one worker serves. Its listeners share it.
pub struct Duty {
    shift: Arc<Shift>,
    number: usize,
    effort: RefCell<Effort>,
    /// Since when it has been on duty.
    since: Cell<Option<Instant>>,
}

impl Duty {
    /// Whether the worker is on duty as long as it lives.
    pub fn is_first(&self) -> bool {
        self.number == 0
    }

    /// Whether the worker is on duty.
    pub fn is_on(&self) -> bool {
        self.shift.has_on_duty(self.number)
    }

    /// Whether the worker is on duty; if not, this task will be woken when it may be.
    pub fn poll(&self, context: &Context<'_>) -> bool {
        self.poll_until(Duty::is_on, context)
    }

    /// Whether the worker accepts connections: on duty, or where there are many.
    pub fn accepts(&self) -> bool {
        self.is_on() || self.shift.connections.load(Ordering::Acquire) >= CROWD
    }

    /// Likewise; if not, this task will be woken when it may.
    pub fn poll_accepts(&self, context: &Context<'_>) -> bool {
        self.poll_until(Duty::accepts, context)
    }

    fn poll_until(&self, holds: impl Fn(&Duty) -> bool, context: &Context<'_>) -> bool {
        if holds(self) {
            return true;
        }
        let mut waiting = self.shift.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // under the lock: who calls takes the wakers afterwards
        if holds(self) {
            return true;
        }
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        false
    }

    /// The worker has one more connection of a client.
    pub fn connected(&self) {
        if self.shift.connections.fetch_add(1, Ordering::AcqRel) + 1 == CROWD {
            self.shift.wake();
        }
    }

    /// One of them has ended.
    pub fn disconnected(&self) {
        self.shift.connections.fetch_sub(1, Ordering::AcqRel);
    }

    /// The worker has found something to do, or nothing, where it looks. `done` gives what it has done in all by a moment.
    pub fn looked(&self, now: Instant, done: impl FnOnce(Instant) -> Done) {
        let looked = self.effort.borrow_mut().look(now, done);
        let (Some((since, percent)), true) = (looked, self.is_on()) else { return };
        if self.since.get().is_none() {
            self.since.set(Some(since));
        }
        self.shift.worked[self.number].store(percent, Ordering::Relaxed);
        self.judge(now);
    }

    /// Datagrams that the worker should take in at once, at most.
    pub fn batch(&self) -> usize {
        self.effort.borrow().batch()
    }

    fn judge(&self, now: Instant) {
        let workers = self.shift.worked.len();
        let on = self.shift.on.load(Ordering::Acquire);
        let total = self.shift.total(on);
        if total >= FULL * on && on < workers {
            self.shift.change(on, workers.min(on * 2));
            return;
        }
        if self.shift.is_relief_needed.load(Ordering::Acquire) {
            return;
        }
        // those called last go first
        let has_stayed = self.since.get().is_some_and(|since| now.saturating_duration_since(since) >= STAY);
        if on > 1 && self.number == on - 1 && has_stayed && total <= ROOM * (on - 1) && self.shift.change(on, on - 1) {
            self.effort.borrow_mut().forget();
            self.since.set(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CROWD, Duty, STAY, Shift};
    use crate::effort::PERIOD;
    use crate::pace::Done;
    use crate::wake_count_tests::Count;
    use std::sync::Arc;
    use std::task::{Context, Waker};
    use std::time::{Duration, Instant};

    /// Workers whose clock and work the test owns.
    struct Bench {
        duties: Vec<Duty>,
        now: Instant,
        spent: Vec<Duration>,
    }

    impl Bench {
        fn new(workers: usize) -> Bench {
            let shift = Shift::of(workers);
            let duties = (0..workers).map(|number| shift.duty(number)).collect();
            Bench { duties, now: Instant::now(), spent: vec![Duration::ZERO; workers] }
        }

        /// For so many periods each of the first works so much of them, in percent.
        fn work(&mut self, periods: u32, percent: &[u32]) {
            for _ in 0..periods {
                self.now += PERIOD;
                for (number, percent) in percent.iter().enumerate() {
                    self.spent[number] += PERIOD * *percent / 100;
                    let done = Done { spent: self.spent[number], ..Done::default() };
                    self.duties[number].looked(self.now, |_| done);
                }
            }
        }

        fn on(&self) -> usize {
            self.duties.iter().filter(|duty| duty.is_on()).count()
        }
    }

    #[test]
    fn the_first_serves_alone_as_long_as_it_has_time() {
        let mut bench = Bench::new(4);
        bench.work(100, &[94]);
        assert_eq!(bench.on(), 1);
        assert!(bench.duties[0].is_first() && bench.duties[0].is_on() && !bench.duties[1].is_on());
    }

    #[test]
    fn a_burst_is_no_load() {
        let mut bench = Bench::new(4);
        bench.work(3, &[1]);
        bench.spent[0] += PERIOD * 3 / 4;
        bench.work(1, &[0]);
        assert_eq!(bench.on(), 1);
        // and neither is what was done since long ago
        bench.spent[0] += PERIOD * 10;
        bench.now += Duration::from_secs(60);
        bench.work(1, &[0]);
        assert_eq!(bench.on(), 1);
    }

    #[test]
    fn as_many_again_are_called_when_those_on_duty_have_no_time_left() {
        let mut bench = Bench::new(4);
        bench.work(2, &[96]);
        assert_eq!(bench.on(), 2);
        // the second has not worked yet
        bench.work(1, &[100, 0]);
        assert_eq!(bench.on(), 2);
        bench.work(3, &[98, 90]);
        assert_eq!(bench.on(), 2);
        bench.work(2, &[98, 92]);
        assert_eq!(bench.on(), 4);
    }

    #[test]
    fn whoever_was_called_last_goes_when_the_others_have_room() {
        let mut bench = Bench::new(3);
        bench.work(2, &[96]);
        bench.work(3, &[96, 96]);
        assert_eq!(bench.on(), 3);
        // they stay for a while
        bench.work(2, &[5, 5, 5]);
        assert_eq!(bench.on(), 3);
        bench.work(u32::try_from(STAY.as_millis() / PERIOD.as_millis()).unwrap_or(u32::MAX), &[5, 5, 5]);
        assert_eq!(bench.on(), 1);
        // and are called again as before
        bench.work(2, &[96]);
        assert_eq!(bench.on(), 2);
        bench.work(40, &[48, 48, 0]);
        assert_eq!(bench.on(), 2, "the first would have too much to do");
    }

    #[test]
    fn all_are_on_duty_while_one_is_stuck() {
        let mut bench = Bench::new(3);
        let shift = bench.duties[0].shift.clone();
        shift.relieve(true);
        assert_eq!(bench.on(), 3);
        bench.work(100, &[0, 1, 1]);
        assert_eq!(bench.on(), 3);
        shift.relieve(false);
        bench.work(100, &[0, 1, 1]);
        assert_eq!(bench.on(), 1);
    }

    #[test]
    fn who_waits_is_woken_by_a_call() {
        let (mut bench, count) = (Bench::new(2), Arc::<Count>::default());
        let waker = Waker::from(count.clone());
        let context = Context::from_waker(&waker);
        assert!(bench.duties[0].poll(&context));
        assert!(!bench.duties[1].poll(&context) && !bench.duties[1].poll(&context));
        bench.work(2, &[100]);
        assert_eq!(count.taken(), 1);
        assert!(bench.duties[1].poll(&context));
        bench.work(30, &[1, 1]);
        assert!(!bench.duties[1].poll(&context));
        bench.work(1, &[100, 0]);
        assert_eq!(count.taken(), 1);
    }

    #[test]
    fn where_there_are_many_connections_all_accept_more_of_them() {
        let (bench, count) = (Bench::new(2), Arc::<Count>::default());
        let waker = Waker::from(count.clone());
        let context = Context::from_waker(&waker);
        let [first, second] = [&bench.duties[0], &bench.duties[1]];
        (1..CROWD).for_each(|_| first.connected());
        assert!(first.poll_accepts(&context) && !second.poll_accepts(&context));
        second.connected();
        assert_eq!(count.taken(), 1);
        assert!(second.poll_accepts(&context) && !second.poll(&context), "datagrams are the first one's");
        first.disconnected();
        assert!(!second.accepts());
    }

    #[test]
    fn one_worker_alone_calls_nobody() {
        let mut bench = Bench::new(1);
        bench.work(100, &[100]);
        assert!(bench.duties[0].is_on());
    }
}
