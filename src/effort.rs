//! How much of its time a worker works, and how long a packet takes it of late (pure).

use std::time::{Duration, Instant};

use crate::pace::Done;

/// How often a worker looks how much it has worked: longer than a burst of queries, or a cold start, keeps it busy.
pub const PERIOD: Duration = Duration::from_millis(100);
/// Percent of its time that a worker works from which on what a packet takes is what its work takes, and hardly being woken
/// for it.
const MUCH: usize = 50;
/// How long a worker works, at most, on what it takes in at once: as long as the others find nothing, and as long as who
/// asked first waits for who asked last.
const TURN: Duration = Duration::from_micros(250);
/// Packets that it may take in at once however long they take.
const LEAST: usize = 8;

/// What one worker has done of late.
#[derive(Debug, Default)]
pub struct Effort {
    /// When it was last looked at, and what had been done in all by then.
    last: Option<(Instant, Done)>,
    /// How long a packet took in the last period, if there was much to do.
    each: Option<Duration>,
}

impl Effort {
    /// Looks how much was done since the last look, if a period has passed: since when, and percent of its time that the
    /// worker has worked. `done` gives what it has done in all by a moment.
    pub fn look(&mut self, now: Instant, done: impl FnOnce(Instant) -> Done) -> Option<(Instant, usize)> {
        if self.last.is_some_and(|(at, _)| now.saturating_duration_since(at) < PERIOD) {
            return None;
        }
        let done = done(now);
        let (at, before) = self.last.replace((now, done))?;
        let period = now.saturating_duration_since(at);
        let percent = percent(&before, &done, period);
        let packets = u32::try_from(done.packets.saturating_sub(before.packets)).unwrap_or(u32::MAX);
        let spent = done.spent.saturating_sub(before.spent);
        self.each = if percent >= MUCH { spent.checked_div(packets) } else { None };
        Some((at, percent))
    }

    /// Packets that are worth taking in at once: fewer where each takes long, so that others who wait for some have theirs,
    /// and the first answer does not wait for the last.
    pub fn batch(&self) -> usize {
        let Some(each) = self.each else { return usize::MAX };
        let most = TURN.as_nanos() / each.as_nanos().max(1);
        usize::try_from(most).unwrap_or(usize::MAX).max(LEAST)
    }

    /// Forgets what was done, since the worker does nothing for a while.
    pub fn forget(&mut self) {
        *self = Effort::default();
    }
}

/// Percent of this time that was worked. Kernels differ in what they count as a thread's own: some leave out what they do
/// with its packets, so that it never waits and yet seems to have time. And a thread does not wait either while others have
/// its processor: where they have it for most of the time, it is not the thread that works.
fn percent(before: &Done, done: &Done, period: Duration) -> usize {
    let share = |part: Duration| part.as_micros() * 100 / period.as_micros().max(1);
    let spent = share(done.spent.saturating_sub(before.spent));
    let awake = share(done.awake.saturating_sub(before.awake));
    usize::try_from(spent.max(awake.min(spent * 2)).min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::{Effort, LEAST, PERIOD, TURN};
    use crate::pace::Done;
    use std::time::{Duration, Instant};

    fn percent_of(period: Duration, percent: u32) -> Duration {
        period * percent / 100
    }

    /// What a look finds after one period in which the processor's time and the time awake were these, in percent.
    fn found(spent: u32, awake: u32) -> Option<usize> {
        let (mut effort, now) = (Effort::default(), Instant::now());
        assert_eq!(effort.look(now, |_| Done::default()), None);
        let done = Done { spent: percent_of(PERIOD, spent), awake: percent_of(PERIOD, awake), packets: 1000 };
        effort.look(now + PERIOD, |_| done).map(|(since, percent)| {
            assert_eq!(since, now);
            percent
        })
    }

    #[test]
    fn what_was_worked_is_what_was_spent_or_the_time_that_passed_meanwhile() {
        for (spent, awake, expected) in [(0, 0, 0), (81, 67, 81), (99, 100, 100), (67, 91, 91), (97, 0, 97)] {
            assert_eq!(found(spent, awake), Some(expected), "{spent} {awake}");
        }
        // the kernel keeps its own account of what it does with packets
        assert_eq!(found(60, 100), Some(100));
        // others have the processor
        assert_eq!(found(30, 100), Some(60));
        assert_eq!(found(400, 400), Some(100));
    }

    #[test]
    fn it_is_looked_at_once_a_period() {
        let (mut effort, now) = (Effort::default(), Instant::now());
        effort.look(now, |_| Done::default());
        let early = now + PERIOD - Duration::from_millis(1);
        assert_eq!(effort.look(early, |_| unreachable!("too early")), None);
        let done = Done { spent: PERIOD, ..Done::default() };
        // what was done in a period longer ago than one is spread over all of it
        assert_eq!(effort.look(now + PERIOD * 10, |_| done), Some((now, 10)));
        effort.forget();
        assert_eq!(effort.look(now + PERIOD * 20, |_| done), None);
    }

    #[test]
    fn the_longer_packets_take_the_fewer_are_taken_in_at_once() {
        let (mut effort, mut now, mut done) = (Effort::default(), Instant::now(), Done::default());
        let mut batch = |packets: u32, each: Duration| {
            now += PERIOD;
            done = Done { spent: done.spent + each * packets, packets: done.packets + u64::from(packets), ..done };
            effort.look(now, |_| done);
            effort.batch()
        };
        assert_eq!(batch(0, TURN), usize::MAX, "nothing is known yet");
        assert_eq!(batch(20_000, TURN / 50), 50);
        assert_eq!(batch(5_000, TURN / 12), 12);
        assert_eq!(batch(100, TURN * 2), LEAST);
        // there is little to do: most of the time goes for being woken
        assert_eq!(batch(100, TURN / 2), usize::MAX);
        // and no packet at all can be divided by
        assert_eq!(batch(0, PERIOD), usize::MAX);
    }
}
