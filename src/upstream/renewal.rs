//! When a source of servers is looked up again (pure).
//!
//! At the TTL, within limits; after a failure with a back-off; at once when the network is another one; and soon when
//! none of its servers answers.

use std::time::{Duration, Instant};

/// The shortest time between two look-ups that succeed: orchestrators give TTLs of 5 s and mean it, and nothing is gained
/// by asking more often.
const SHORTEST: Duration = Duration::from_secs(5);
/// The longest time: whoever gives a TTL of days still moves some time.
const LONGEST: Duration = Duration::from_secs(3600);
/// The first wait after a failure; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait after failures.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// When none of the servers answers, the next look-up comes this long after the last one at the latest.
const IN_NEED: Duration = Duration::from_secs(10);

/// The next look-up of one source.
#[derive(Clone, Copy, Debug)]
pub struct Renewal {
    due: Instant,
    failures: u32,
    /// When the last one ended.
    last: Option<Instant>,
    /// Whether one is under way, and whether the network has changed since it began.
    under_way: Option<bool>,
}

impl Renewal {
    /// Due at once.
    pub fn new(now: Instant) -> Renewal {
        Renewal { due: now, failures: 0, last: None, under_way: None }
    }

    /// When to look up; nothing while a look-up is under way.
    pub fn due(&self) -> Option<Instant> {
        self.under_way.is_none().then_some(self.due)
    }

    /// When the last look-up ended.
    pub fn last(&self) -> Option<Instant> {
        self.last
    }

    /// A look-up begins.
    pub fn begins(&mut self) {
        self.under_way = Some(false);
    }

    /// It found what it says is good for `ttl` seconds.
    pub fn succeeded(&mut self, now: Instant, ttl: u32) {
        self.failures = 0;
        let wait = Duration::from_secs(ttl.into()).clamp(SHORTEST, LONGEST);
        self.ended(now, wait);
    }

    /// It found nothing.
    pub fn failed(&mut self, now: Instant) {
        let wait = self.wait_after_failure();
        self.ended(now, wait);
    }

    /// It found something that is good for `ttl` seconds, but not all.
    pub fn found_in_part(&mut self, now: Instant, ttl: u32) {
        let wait = Duration::from_secs(ttl.into()).clamp(SHORTEST, LONGEST).min(self.wait_after_failure());
        self.ended(now, wait);
    }

    fn wait_after_failure(&mut self) -> Duration {
        let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(6)).min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    fn ended(&mut self, now: Instant, wait: Duration) {
        let is_stale = self.under_way.take() == Some(true);
        self.last = Some(now);
        self.due = if is_stale { now } else { now + wait };
    }

    /// The network is another one: what is known may be wrong there, and what failed may work.
    pub fn network_changed(&mut self, now: Instant) {
        self.failures = 0;
        self.due = now;
        if let Some(is_stale) = &mut self.under_way {
            *is_stale = true;
        }
    }

    /// None of the servers answers.
    pub fn in_need(&mut self, now: Instant) {
        let soon = self.last.map_or(now, |last| last + IN_NEED);
        self.due = self.due.min(soon);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::Renewal;
    use std::time::{Duration, Instant};

    /// Seconds until the next look-up, as of `now`.
    fn wait(renewal: &Renewal, now: Instant) -> u64 {
        renewal.due().unwrap().saturating_duration_since(now).as_secs()
    }

    #[test]
    fn it_is_due_at_once_and_then_at_the_ttl_within_limits() {
        let now = Instant::now();
        let mut renewal = Renewal::new(now);
        assert_eq!((renewal.due(), renewal.last()), (Some(now), None));
        for (ttl, expected) in [(0, 5), (5, 5), (300, 300), (3600, 3600), (u32::MAX, 3600)] {
            renewal.begins();
            assert_eq!(renewal.due(), None);
            renewal.succeeded(now, ttl);
            assert_eq!((wait(&renewal, now), renewal.last()), (expected, Some(now)));
        }
    }

    #[test]
    fn failures_double_the_wait_up_to_a_minute_and_a_success_forgets_them() {
        let now = Instant::now();
        let mut renewal = Renewal::new(now);
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            renewal.begins();
            renewal.failed(now);
            assert_eq!(wait(&renewal, now), expected);
        }
        (0..100).for_each(|_| renewal.failed(now));
        assert_eq!(wait(&renewal, now), 60);
        renewal.succeeded(now, 30);
        renewal.failed(now);
        assert_eq!(wait(&renewal, now), 1);
    }

    #[test]
    fn what_was_found_in_part_is_looked_up_again_at_its_ttl_at_the_latest() {
        let now = Instant::now();
        let mut renewal = Renewal::new(now);
        for (ttl, expected) in [(5, 1), (5, 2), (5, 4), (5, 5), (5, 5), (3600, 32)] {
            renewal.begins();
            renewal.found_in_part(now, ttl);
            assert_eq!(wait(&renewal, now), expected);
        }
    }

    #[test]
    fn another_network_makes_it_due_at_once_also_when_a_look_up_over_the_old_one_is_under_way() {
        let now = Instant::now();
        let mut renewal = Renewal::new(now);
        renewal.succeeded(now, 300);
        renewal.network_changed(now);
        assert_eq!(wait(&renewal, now), 0);
        renewal.begins();
        renewal.network_changed(now);
        assert_eq!(renewal.due(), None, "one at a time");
        renewal.failed(now);
        assert_eq!(wait(&renewal, now), 0);
        renewal.begins();
        renewal.succeeded(now, 300);
        assert_eq!(wait(&renewal, now), 300);
    }

    #[test]
    fn servers_that_all_fail_bring_it_forward_but_not_more_often_than_every_ten_seconds() {
        let begin = Instant::now();
        let mut renewal = Renewal::new(begin);
        renewal.succeeded(begin, 300);
        let now = begin + Duration::from_secs(4);
        renewal.in_need(now);
        assert_eq!(wait(&renewal, now), 6);
        let later = begin + Duration::from_secs(100);
        renewal.in_need(later);
        assert_eq!(wait(&renewal, later), 0);
        renewal.succeeded(later, 6);
        renewal.in_need(later);
        assert_eq!(wait(&renewal, later), 6, "never later than it was due");
    }
}
