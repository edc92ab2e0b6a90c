//! The time, looked at once for all that is done in one go: what one batch of packets has brought, and what one turn has to
//! do with answers. Looking costs as much as some lines of a processor's cache, and nobody could tell the difference.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};

/// What the clock shows when the machine starts, so that there is a time before: some 34 years, in milliseconds.
const START: u64 = 1 << 40;

/// What was seen on this thread's clocks while they are held.
#[derive(Clone, Copy)]
struct Seen {
    is_held: bool,
    instant: Option<Instant>,
    since_boot: Option<u64>,
}

const NOTHING: Seen = Seen { is_held: false, instant: None, since_boot: None };

thread_local! {
    static SEEN: Cell<Seen> = const { Cell::new(NOTHING) };
}

/// While it is there, [`instant`] and [`since_boot`] show on this thread what they showed first. It is for work that neither
/// waits nor takes long.
pub struct Held(PhantomData<*const ()>);

/// Holds the clocks of this thread, unless they are held already.
#[must_use]
pub fn hold() -> Option<Held> {
    let seen = SEEN.get();
    (!seen.is_held).then(|| {
        SEEN.set(Seen { is_held: true, ..NOTHING });
        Held(PhantomData)
    })
}

impl Drop for Held {
    fn drop(&mut self) {
        SEEN.set(NOTHING);
    }
}

/// The present moment, or that at which the clocks were first looked at since they are held.
#[inline]
pub fn instant() -> Instant {
    let seen = SEEN.get();
    if let Some(instant) = seen.instant {
        return instant;
    }
    let instant = Instant::now();
    if seen.is_held {
        SEEN.set(Seen { instant: Some(instant), ..seen });
    }
    instant
}

/// Milliseconds on a clock that nobody sets, and that runs while the machine is suspended; held as the other one.
#[inline]
pub fn since_boot() -> u64 {
    let seen = SEEN.get();
    if let Some(since_boot) = seen.since_boot {
        return since_boot;
    }
    // it fails on no kernel that this program runs on
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(START, |time| {
        let milliseconds = time.tv_sec().saturating_mul(1000).saturating_add(time.tv_nsec() / 1_000_000);
        START.saturating_add_signed(milliseconds)
    });
    if seen.is_held {
        SEEN.set(Seen { since_boot: Some(since_boot), ..seen });
    }
    since_boot
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{START, hold, instant, since_boot};

    /// Until both clocks have gone on.
    fn pass() {
        std::thread::sleep(Duration::from_millis(3));
    }

    #[test]
    fn held_clocks_show_what_they_showed_first_and_others_go_on() {
        let (before, boot_before) = (instant(), since_boot());
        assert!(boot_before >= START);
        pass();
        let held = hold();
        assert!(held.is_some());
        let (first, boot) = (instant(), since_boot());
        assert!(first > before && boot > boot_before, "what was seen before they were held is past");
        pass();
        assert_eq!((instant(), since_boot()), (first, boot));
        let inner = hold();
        assert!(inner.is_none());
        drop(inner);
        pass();
        assert_eq!((instant(), since_boot()), (first, boot), "whoever held them first lets them go");
        drop(held);
        assert!(instant() > first && since_boot() > boot);
    }

    #[test]
    fn clocks_are_held_for_one_thread() {
        let _held = hold();
        let first = instant();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pass();
                assert!(instant() > first);
                let second = instant();
                pass();
                assert!(instant() > second);
            });
        });
        assert_eq!(instant(), first);
    }
}
