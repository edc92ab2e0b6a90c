//! When a worker that has much to do waits a little before it looks for more: what comes meanwhile is done in one go, and
//! half of what a packet costs is being woken for it.
//!
//! The decision is a pure function of what the last wake-ups have brought. A quiet machine, where each brings one packet or
//! two, never waits, and neither does one whose queries are many only because their resolver is far away.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How long a query waits at the most, on all of its way: some tens of packets' worth under load, and nothing that a client
/// could feel.
const PAUSE: Duration = Duration::from_micros(50);
/// Packets that a wake-up brings on average from which on it is worth it, in eighths.
const BUSY: u32 = 3 * 8;
/// Packets of one wake-up that count.
const MOST: u32 = 1000;

/// What wake-ups have brought of late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Packets for each wake-up, smoothed, in eighths.
    average: u32,
    /// Those of them that came from resolvers.
    from_resolvers: u32,
}

/// What a wake-up has brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Brought {
    /// Packets from clients.
    pub queries: u32,
    /// Packets from resolvers.
    pub answers: u32,
}

impl Pace {
    /// How long to wait before sleeping until something comes, after a wake-up that has brought this. A query that must be
    /// asked passes here twice, once on each way: the more of them there are, the shorter is the pause, or the client and
    /// the resolver would have nothing to do at the same time.
    pub fn pause(&mut self, brought: Brought) -> Option<Duration> {
        let Brought { queries, answers } = brought;
        if queries == 0 && answers == 0 {
            // nothing came: whoever waited for more would wait for nothing
            *self = Pace::default();
            return None;
        }
        let (queries, answers) = (queries.min(MOST), answers.min(MOST));
        self.average = self.average - self.average / 8 + queries + answers;
        self.from_resolvers = self.from_resolvers - self.from_resolvers / 8 + answers;
        let from_clients = self.average.saturating_sub(self.from_resolvers);
        (self.average >= BUSY && from_clients > 0).then(|| PAUSE * from_clients / self.average)
    }
}

thread_local! {
    static BROUGHT: Cell<Brought> = const { Cell::new(Brought { queries: 0, answers: 0 }) };
    static PACE: RefCell<Pace> = const { RefCell::new(Pace { average: 0, from_resolvers: 0 }) };
}

fn count(packets: usize) -> u32 {
    u32::try_from(packets).unwrap_or(u32::MAX)
}

/// Packets from clients that have been taken in on this thread.
#[inline]
pub fn brought_queries(packets: usize) {
    let Brought { queries, answers } = BROUGHT.get();
    BROUGHT.set(Brought { queries: queries.saturating_add(count(packets)), answers });
}

/// Packets from resolvers that have been taken in on this thread.
#[inline]
pub fn brought_answers(packets: usize) {
    let Brought { queries, answers } = BROUGHT.get();
    BROUGHT.set(Brought { queries, answers: answers.saturating_add(count(packets)) });
}

/// Called on a worker's thread whenever it has nothing left to do.
pub fn before_sleep() {
    let pause = PACE.with(|pace| pace.borrow_mut().pause(BROUGHT.take()));
    if let Some(pause) = pause {
        std::thread::sleep(pause);
    }
}

/// How much of a processor's time this thread has had.
pub fn time_spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
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
    use super::{Brought, PAUSE, Pace};

    fn queries(queries: u32) -> Brought {
        Brought { queries, answers: 0 }
    }

    #[test]
    fn wake_ups_that_bring_much_are_made_fewer() {
        let mut pace = Pace::default();
        let mut pauses = (0..40).map(|_| pace.pause(queries(4)));
        assert_eq!(pauses.next(), Some(None), "one alone says little");
        assert_eq!(pauses.last(), Some(Some(PAUSE)));
    }

    #[test]
    fn what_goes_to_a_resolver_and_back_waits_no_longer_in_all() {
        let mut pace = Pace::default();
        let half = (0..100).filter_map(|_| pace.pause(Brought { queries: 16, answers: 16 })).last();
        assert_eq!(half, Some(PAUSE / 2));
        let turns = (0..100).map(|turn| pace.pause(Brought { queries: turn % 2 * 32, answers: (turn + 1) % 2 * 32 }));
        let total: u128 = turns.skip(50).flatten().map(|pause| pause.as_micros()).sum();
        assert!((22..=28).contains(&(total / 50)), "{total}");
    }

    #[test]
    fn one_packet_at_a_time_never_waits_and_neither_do_two() {
        let mut pace = Pace::default();
        assert!((0..10_000).all(|turn| pace.pause(queries(1 + turn % 2)).is_none()));
        assert!((0..10_000).all(|_| pace.pause(Brought { queries: 1, answers: 1 }).is_none()));
    }

    #[test]
    fn as_soon_as_nothing_comes_nothing_is_waited_for() {
        let mut pace = Pace::default();
        assert!((0..100).filter_map(|_| pace.pause(queries(20))).count() > 90);
        assert_eq!((pace.pause(queries(0)), pace.pause(queries(2))), (None, None));
    }

    #[test]
    fn no_number_is_too_large() {
        let mut pace = Pace::default();
        let all = Brought { queries: u32::MAX, answers: u32::MAX };
        assert_eq!((0..100).filter_map(|_| pace.pause(all)).last(), Some(PAUSE / 2));
    }
}
