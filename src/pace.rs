//! When a worker that has much to do waits a little before it looks for more: what comes meanwhile is done in one go, and
//! half of what a packet costs is being woken for it.
//!
//! It first lets others have the processor: where the clients or the resolver are on this machine, they have something to do
//! with it, and the time is not lost. Only if nobody wants it does the worker sleep. The more of what comes are answers of
//! resolvers, the longer: a query that is asked is under way for much longer than any pause, and costs more than one that
//! is answered at once, by which a pause would be felt.
//!
//! The decision is a pure function of what the last wake-ups have brought, and of how long that took. A quiet machine, where
//! each brings one packet or two, never waits, and neither does one whose queries are many only because their resolver is
//! far away.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Where all is answered at once, a pause is as long as the work on so many packets: much shorter, and hardly more would
/// have come; much longer, and those who wait for this worker would have nothing to do meanwhile.
const WORTH: u32 = 6;
/// Where all is asked, and every other packet is an answer: much shorter, and worker, clients and resolver wake each other
/// for a few packets at a time.
const WORTH_ASKED: u32 = 25;
/// The longest pause: nothing that a client could feel.
const LONGEST: Duration = Duration::from_micros(100);
/// Packets that a wake-up brings on average from which on a pause is worth it, in eighths.
const BUSY: u32 = 3 * 8;
/// Packets of one wake-up that count.
const MOST: u32 = 1000;
/// The longest work on one packet that counts, in nanoseconds: more is time that others had the processor.
const MOST_EACH: u32 = 100_000;
/// A worker that gets the processor back within this time is the only one that wants it.
const UNWANTED: Duration = Duration::from_micros(3);

/// What has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Brought {
    /// Packets from clients and from resolvers.
    pub packets: usize,
    /// Those of them that are resolvers' answers.
    pub answers: usize,
}

/// What wake-ups have brought of late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Packets for each wake-up, smoothed, in eighths.
    average: u32,
    /// Of these, resolvers' answers.
    answers: u32,
    /// Nanoseconds that a packet takes, smoothed; 0 if that is not known yet.
    each: u32,
}

impl Pace {
    /// Whether wake-ups bring so much that it matters how long the work takes.
    pub fn is_busy(&self) -> bool {
        self.average >= BUSY
    }

    /// How long to wait before sleeping until something comes, after a wake-up that has brought this. `worked`: the time
    /// since the wake-up, if it was looked at.
    pub fn pause(&mut self, brought: Brought, worked: Option<Duration>) -> Option<Duration> {
        let counted = |packets: usize| u32::try_from(packets).unwrap_or(MOST).min(MOST);
        let (packets, answers) = (counted(brought.packets), counted(brought.answers));
        if packets == 0 {
            // nothing came: whoever waited for more would wait for nothing
            *self = Pace::default();
            return None;
        }
        self.average = self.average - self.average / 8 + packets;
        self.answers = self.answers - self.answers / 8 + answers;
        if let Some(worked) = worked {
            let each = u32::try_from(worked.as_nanos() / u128::from(packets)).unwrap_or(MOST_EACH).min(MOST_EACH);
            self.each = if self.each == 0 { each } else { self.each - self.each / 8 + each / 8 };
        }
        let pause = Duration::from_nanos(u64::from(self.each * self.worth())).min(LONGEST);
        (self.is_busy() && self.each > 0).then_some(pause)
    }

    /// The packets that a pause is as long as.
    fn worth(&self) -> u32 {
        WORTH + (WORTH_ASKED - WORTH) * (self.answers * 2).min(self.average) / self.average.max(1)
    }
}

/// What a thread has done in all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// How much of a processor's time it has had.
    pub spent: Duration,
    /// How long it has not waited for anything while it was busy, by the clock.
    pub awake: Duration,
    /// Packets that it has taken in.
    pub packets: u64,
}

thread_local! {
    static AWAKE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static PACKETS: Cell<u64> = const { Cell::new(0) };
    static BROUGHT: Cell<Brought> = const { Cell::new(Brought { packets: 0, answers: 0 }) };
    static PACE: RefCell<Pace> = const { RefCell::new(Pace { average: 0, answers: 0, each: 0 }) };
    static WOKEN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Queries of clients that have been taken in on this thread.
#[inline]
pub fn asked(queries: usize) {
    let Brought { packets, answers } = BROUGHT.get();
    BROUGHT.set(Brought { packets: packets.saturating_add(queries), answers });
}

/// Answers of resolvers that have been taken in on this thread.
#[inline]
pub fn answered(count: usize) {
    let Brought { packets, answers } = BROUGHT.get();
    BROUGHT.set(Brought { packets: packets.saturating_add(count), answers: answers.saturating_add(count) });
}

/// Called on a worker's thread whenever it has nothing left to do.
pub fn before_sleep() {
    let worked = WOKEN.take().map(|woken| woken.elapsed());
    AWAKE.set(AWAKE.get() + worked.unwrap_or_default());
    let brought = BROUGHT.take();
    PACKETS.set(PACKETS.get() + brought.packets as u64);
    let pause = PACE.with(|pace| pace.borrow_mut().pause(brought, worked));
    if let Some(pause) = pause {
        let offered = Instant::now();
        std::thread::yield_now();
        if offered.elapsed() < UNWANTED {
            std::thread::sleep(pause);
        }
    }
}

/// Called on a worker's thread whenever something has come.
pub fn after_sleep() {
    if PACE.with(|pace| pace.borrow().is_busy()) {
        WOKEN.set(Some(Instant::now()));
    }
}

/// What this thread has done in all by now.
pub fn done(now: Instant) -> Done {
    // a thread that never waits is not woken either: from here on its time counts
    let woken = WOKEN.get().unwrap_or(now);
    WOKEN.set(Some(woken));
    let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
    let awake = AWAKE.get() + now.saturating_duration_since(woken);
    Done { spent, awake, packets: PACKETS.get() + BROUGHT.get().packets as u64 }
}

/// Has this thread, and those that it makes, wake up when they asked for, and not when the kernel finds it convenient: that
/// would double the pause.
pub fn be_punctual() {
    if let Err(error) = nix::sys::prctl::set_timerslack(1) {
        log::debug!("timers stay inexact: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::{Brought, LONGEST, Pace, WORTH, WORTH_ASKED};
    use std::time::Duration;

    fn us(count: u64) -> Option<Duration> {
        Some(Duration::from_micros(count))
    }

    /// Packets that were all answered at once.
    fn hits(packets: usize) -> Brought {
        Brought { packets, answers: 0 }
    }

    /// The last of many pauses after wake-ups like this one.
    fn last(pace: &mut Pace, brought: Brought, micros: u64) -> Option<Duration> {
        (0..100).map(|_| pace.pause(brought, us(micros))).last().flatten()
    }

    #[test]
    fn wake_ups_that_bring_much_are_made_fewer() {
        let mut pace = Pace::default();
        let mut pauses = (0..40).map(|_| pace.pause(hits(4), us(12)));
        assert_eq!(pauses.next(), Some(None), "one alone says little");
        assert_eq!(pauses.last(), Some(us(3).map(|each| each * WORTH)));
    }

    #[test]
    fn a_pause_is_as_long_as_some_packets_take_and_never_long() {
        let mut pace = Pace::default();
        for (packets, micros, each) in [(20, 40, 2), (20, 120, 6), (100, 800, 8), (4, 8, 2)] {
            let pause = last(&mut pace, hits(packets), micros).unwrap_or_default();
            let expected = Duration::from_micros(each) * WORTH;
            assert!(pause > expected * 9 / 10 && pause < expected * 11 / 10, "{pause:?} for {each} us");
        }
        // others had the processor meanwhile
        assert_eq!(last(&mut pace, hits(4), 10_000_000), Some(LONGEST));
    }

    #[test]
    fn the_more_is_asked_the_longer_is_the_pause() {
        let each = Duration::from_micros(2);
        let mut before = each * WORTH;
        for answers in [1, 2, 4, 7, 10] {
            let pause = last(&mut Pace::default(), Brought { packets: 20, answers }, 40).unwrap_or_default();
            assert!(pause > before, "{pause:?} with {answers} answers, {before:?} with fewer");
            before = pause;
        }
        // every other packet is an answer where all is asked; more are what earlier wake-ups have asked for
        assert!(before >= each * (WORTH_ASKED - 1) && before <= each * WORTH_ASKED, "{before:?}");
        let all = last(&mut Pace::default(), Brought { packets: 20, answers: 20 }, 40);
        assert_eq!(all, Some(each * WORTH_ASKED));
    }

    #[test]
    fn queries_and_answers_that_come_in_turn_are_a_mixture() {
        let mut pace = Pace::default();
        let mixed = last(&mut pace, Brought { packets: 20, answers: 10 }, 40).unwrap_or_default();
        for turn in 0..100 {
            let answers = if turn % 2 == 0 { 20 } else { 0 };
            let pause = pace.pause(Brought { packets: 20, answers }, us(40)).unwrap_or_default();
            assert!(pause > mixed * 3 / 4 && pause < mixed * 5 / 4, "{pause:?} beside {mixed:?}");
        }
    }

    #[test]
    fn whoever_has_not_looked_at_the_time_yet_does_not_wait() {
        let mut pace = Pace::default();
        assert!((0..100).all(|_| pace.pause(hits(20), None).is_none()) && pace.is_busy());
        let pause = us(3).map(|each| each * WORTH);
        assert_eq!(pace.pause(hits(20), us(60)), pause);
        assert_eq!(pace.pause(hits(20), None), pause);
    }

    #[test]
    fn one_packet_at_a_time_never_waits_and_neither_do_two() {
        let mut pace = Pace::default();
        let brought = |turn: usize| Brought { packets: 1 + turn % 2, answers: turn % 2 };
        assert!((0..10_000).all(|turn| pace.pause(brought(turn), us(9)).is_none() && !pace.is_busy()));
    }

    #[test]
    fn as_soon_as_nothing_comes_nothing_is_waited_for() {
        let mut pace = Pace::default();
        assert!((0..100).filter_map(|_| pace.pause(hits(20), us(60))).count() > 90);
        assert_eq!((pace.pause(hits(0), us(60)), pace.pause(hits(2), us(60))), (None, None));
    }

    #[test]
    fn no_number_is_too_large() {
        let mut pace = Pace::default();
        let (longest, most) = (Some(Duration::MAX), Brought { packets: usize::MAX, answers: usize::MAX });
        assert_eq!(
            (0..100).filter_map(|_| pace.pause(hits(1), longest).or(pace.pause(most, longest))).last(),
            Some(LONGEST)
        );
    }
}
