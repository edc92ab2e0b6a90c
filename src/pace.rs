//! When a worker that has much to do waits a little before it looks for more: what comes meanwhile is done in one go, and
//! half of what a packet costs is being woken for it.
//!
//! The decision is a pure function of what the last wake-ups have brought. A quiet machine, where each brings one packet or
//! two, never waits, and neither does one whose queries are many only because their resolver is far away.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How long is waited: some tens of packets' worth under load, and nothing that a client could feel.
const PAUSE: Duration = Duration::from_micros(50);
/// Packets that a wake-up brings on average from which on it is worth it, in eighths.
const BUSY: u32 = 3 * 8;

/// What wake-ups have brought of late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Packets for each wake-up, smoothed, in eighths.
    average: u32,
}

impl Pace {
    /// How long to wait before sleeping until something comes, after a wake-up that has brought so many packets.
    pub fn pause(&mut self, packets: u32) -> Option<Duration> {
        if packets == 0 {
            // nothing came: whoever waited for more would wait for nothing
            self.average = 0;
            return None;
        }
        self.average = self.average - self.average / 8 + packets.min(1000);
        (self.average >= BUSY).then_some(PAUSE)
    }
}

thread_local! {
    static BROUGHT: Cell<u32> = const { Cell::new(0) };
    static PACE: RefCell<Pace> = const { RefCell::new(Pace { average: 0 }) };
}

/// Packets that have been taken in on this thread.
#[inline]
pub fn brought(packets: usize) {
    let packets = u32::try_from(packets).unwrap_or(u32::MAX);
    BROUGHT.with(|brought| brought.set(brought.get().saturating_add(packets)));
}

/// Called on a worker's thread whenever it has nothing left to do.
pub fn before_sleep() {
    let pause = PACE.with(|pace| pace.borrow_mut().pause(BROUGHT.with(|brought| brought.replace(0))));
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
    use super::{PAUSE, Pace};

    #[test]
    fn wake_ups_that_bring_much_are_made_fewer() {
        let mut pace = Pace::default();
        let mut pauses = (0..40).map(|_| pace.pause(4));
        assert_eq!(pauses.next(), Some(None), "one alone says little");
        assert_eq!(pauses.last(), Some(Some(PAUSE)));
    }

    #[test]
    fn one_packet_at_a_time_never_waits_and_neither_do_two() {
        let mut pace = Pace::default();
        assert!((0..10_000).all(|turn| pace.pause(1 + turn % 2).is_none()));
    }

    #[test]
    fn as_soon_as_nothing_comes_nothing_is_waited_for() {
        let mut pace = Pace::default();
        assert!((0..100).filter_map(|_| pace.pause(20)).count() > 90);
        assert_eq!((pace.pause(0), pace.pause(2)), (None, None));
    }
}
