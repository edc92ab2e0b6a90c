//! How fast a server answers, as one worker sees it: a smoothed time and its tail (pure).

use std::time::{Duration, Instant};

/// Answers seen before the tail is believed.
const FEW: u32 = 8;
/// The shortest tail: below it the machine's own hiccups would pass for the server's.
const SHORTEST_TAIL: Duration = Duration::from_millis(30);
/// After so long without an answer a measure counts half: what was slow an hour ago deserves another look.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// The smoothed response time of a server and how far answers stray from it (RFC 6298 §2, with its gains).
#[derive(Clone, Copy, Debug, Default)]
pub struct Tempo {
    smoothed: Duration,
    variation: Duration,
    seen: u32,
    last: Option<Instant>,
}

impl Tempo {
    /// An answer took so long.
    pub fn observe(&mut self, took: Duration, now: Instant) {
        if self.seen == 0 {
            (self.smoothed, self.variation) = (took, took / 2);
        } else {
            let stray = took.abs_diff(self.smoothed);
            self.variation = (self.variation * 3 + stray) / 4;
            self.smoothed = (self.smoothed * 7 + took) / 8;
        }
        self.seen = self.seen.saturating_add(1);
        self.last = Some(now);
    }

    /// The smoothed time, if there is any.
    pub fn smoothed(&self) -> Option<Duration> {
        (self.seen > 0).then_some(self.smoothed)
    }

    /// The smoothed time as it counts now against that of others: it fades, so that a server that was slow once is asked
    /// again some day. Nothing is known of a server that never answered, which speaks for it.
    pub fn weight(&self, now: Instant) -> Duration {
        let age = self.last.map_or(Duration::MAX, |last| now.saturating_duration_since(last));
        let halvings = age.as_secs() / HALF_LIFE.as_secs();
        u32::try_from(halvings)
            .ok()
            .and_then(|halvings| 1u32.checked_shl(halvings))
            .map_or(Duration::ZERO, |by| self.smoothed / by)
    }

    /// The time within which nearly all answers come; `None` as long as few were seen.
    pub fn tail(&self) -> Option<Duration> {
        (self.seen >= FEW).then(|| (self.smoothed + self.variation * 4).max(SHORTEST_TAIL))
    }
}

#[cfg(test)]
mod tests {
    use super::{HALF_LIFE, SHORTEST_TAIL, Tempo};
    use std::time::{Duration, Instant};

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn the_tail_is_known_after_a_few_answers_and_lies_beyond_them() {
        let (mut tempo, now) = (Tempo::default(), Instant::now());
        assert_eq!((tempo.smoothed(), tempo.tail()), (None, None));
        for round in 0..40 {
            tempo.observe(ms(if round % 4 == 0 { 120 } else { 80 }), now);
            assert_eq!(tempo.tail().is_some(), round >= 7);
        }
        let (smoothed, tail) = (tempo.smoothed().unwrap_or_default(), tempo.tail().unwrap_or_default());
        assert!((ms(80)..ms(120)).contains(&smoothed), "{smoothed:?}");
        assert!(tail > ms(120) && tail < ms(250), "{tail:?}");
    }

    #[test]
    fn a_server_next_door_is_not_late_after_a_millisecond() {
        let (mut tempo, now) = (Tempo::default(), Instant::now());
        (0..20).for_each(|_| tempo.observe(Duration::from_micros(90), now));
        assert_eq!(tempo.tail(), Some(SHORTEST_TAIL));
    }

    #[test]
    fn one_slow_answer_moves_the_measure_a_little_and_many_move_it_there() {
        let (mut tempo, now) = (Tempo::default(), Instant::now());
        (0..50).for_each(|_| tempo.observe(ms(10), now));
        tempo.observe(ms(500), now);
        assert!(tempo.smoothed().is_some_and(|smoothed| smoothed < ms(80)));
        (0..50).for_each(|_| tempo.observe(ms(500), now));
        assert!(tempo.smoothed().is_some_and(|smoothed| smoothed > ms(450)));
    }

    #[test]
    fn what_was_measured_fades() {
        let (mut tempo, now) = (Tempo::default(), Instant::now());
        assert_eq!(tempo.weight(now), Duration::ZERO);
        tempo.observe(ms(80), now);
        assert_eq!(tempo.weight(now), ms(80));
        assert_eq!(tempo.weight(now + HALF_LIFE), ms(40));
        assert_eq!(tempo.weight(now + HALF_LIFE * 2), ms(20));
        assert_eq!(tempo.weight(now + HALF_LIFE * 500), Duration::ZERO);
    }
}
