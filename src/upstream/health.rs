//! Whether a server may be tried now: back-off after failures, with one probe always to be had (pure).

use std::time::{Duration, Instant};

/// The first rest after a failure; each further one doubles it.
const FIRST_REST: Duration = Duration::from_millis(250);
/// The longest rest while other servers answer.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// When every server rests, a query may still try this one once in this time: at most 60 attempts a minute, and
/// service within a second of the server's return.
const PROBE: Duration = Duration::from_millis(1050);
/// So many failures come before that: an outage of a few seconds, as of a restart, ends for clients when it ends.
const SHORT_OUTAGE: u32 = 14;
/// A server whose machine refuses connections is most likely being restarted: for so long after the first refusal it is
/// looked for often, since that costs two small packets, and then like any other.
const RESTART: Duration = Duration::from_secs(5);
/// The pause before another look is so many times what the refusal took: one nearby costs next to nothing.
const LOOK_TIMES: u32 = 20;
/// The shortest such pause, at a server on the same machine.
const LOOK_NEARBY: Duration = Duration::from_millis(2);
/// The longest, unless the refusal took more than half of it.
const LOOK: Duration = Duration::from_millis(10);
/// Connections that bring nothing within this time of each other are one event, seen by several workers.
const ONE_EVENT: Duration = Duration::from_secs(1);

/// A server's rest after failures.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rest {
    /// Until when other servers are preferred.
    pub until: Instant,
    /// From when it may be tried although it rests, if nothing else is left.
    pub probe_at: Instant,
}

/// What is known of one server address, shared by all workers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    failures: u32,
    /// When a connection last brought nothing, with no answer since.
    barren: Option<Instant>,
    rest: Option<Rest>,
    probe_until: Option<Instant>,
    last_failed: Option<Instant>,
    /// When the first of the refusals came that no answer has followed.
    refused_since: Option<Instant>,
}

impl Health {
    /// An attempt that began at `began` failed: no authenticated connection, or connections that bring no answer.
    ///
    /// `spread` between 0 and 255 makes servers that failed together come back apart. Returns how many failures there
    /// have been in a row, or `None` if this is the failure that another worker has told of already: an attempt that ends
    /// before a probe was due began before the rest did. An attempt that took its time has used up the time until the next
    /// probe, but for the shortest rest.
    pub fn failed(&mut self, began: Instant, now: Instant, spread: u8) -> Option<u32> {
        if self.rest.is_some_and(|rest| now < rest.probe_at) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_failed = Some(now);
        let doubled = FIRST_REST.saturating_mul(1 << self.failures.min(10).saturating_sub(1)).min(LONGEST_REST);
        let rest = doubled - doubled / 1024 * u32::from(spread);
        let probe = if self.failures <= SHORT_OUTAGE { FIRST_REST } else { PROBE };
        let took = now.saturating_duration_since(began);
        let until_probe = rest.min(probe.saturating_sub(took).max(FIRST_REST));
        self.rest = Some(Rest { until: now + rest, probe_at: now + until_probe });
        Some(self.failures)
    }

    /// An attempt that began at `began` was refused: nobody listens. Within the time that a restart takes, another look is
    /// due soon, and refusals that come before the rest is over count for nothing; otherwise as [`Health::failed`].
    pub fn refused(&mut self, began: Instant, now: Instant, spread: u8) -> Option<u32> {
        if self.rest.is_some_and(|rest| now < rest.probe_at) {
            return None;
        }
        let is_restart = now < *self.refused_since.get_or_insert(now) + RESTART;
        let counts = !is_restart || self.rest(now).is_none();
        let failures = if counts { self.failed(began, now, spread) } else { None };
        if let Some(rest) = self.rest.as_mut().filter(|_| is_restart) {
            self.last_failed = Some(now);
            let took = now.saturating_duration_since(began);
            let pause = (took * LOOK_TIMES).clamp(LOOK_NEARBY, LOOK).max(took * 2);
            // with the end of the rest it may be tried in any case: what comes of that must count
            rest.probe_at = (now + pause).min(rest.until);
        }
        failures
    }

    /// A connection was made and ended before it answered what was asked. Once may be bad luck; returns whether it is
    /// the second time in a row, which counts as a failure.
    pub fn barren(&mut self, now: Instant) -> bool {
        match self.barren {
            Some(first) => now >= first + ONE_EVENT,
            None => {
                self.barren = Some(now);
                false
            }
        }
    }

    /// It gave an answer. Returns whether it had failed before.
    pub fn answered(&mut self) -> bool {
        (self.rest, self.barren, self.probe_until, self.refused_since) = (None, None, None, None);
        std::mem::take(&mut self.failures) > 0
    }

    /// Whether it has failed after `moment`, and not answered since.
    pub fn failed_after(&self, moment: Instant) -> bool {
        self.failures > 0 && self.last_failed.is_some_and(|last| last > moment)
    }

    /// Whether it has failed and not answered since.
    pub fn is_doubtful(&self) -> bool {
        self.failures > 0
    }

    /// Whether a copy of a query may be spent to find out if a doubtful server answers again: one at a time, and none
    /// while it rests. Until `until` there will be no other.
    pub fn take_probe(&mut self, now: Instant, until: Instant) -> bool {
        let free = self.is_doubtful() && self.rest(now).is_none() && self.probe_until.is_none_or(|end| end <= now);
        if free {
            self.probe_until = Some(until);
        }
        free
    }

    /// Its rest, if it has not passed.
    pub fn rest(&self, now: Instant) -> Option<Rest> {
        self.rest.filter(|rest| rest.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST_REST, Health, LONGEST_REST, PROBE, RESTART, Rest};
    use std::time::{Duration, Instant};

    #[test]
    fn rests_double_up_to_a_cap_and_end_with_an_answer() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert_eq!(health.rest(now), None);
        let (mut later, mut rests) = (now, Vec::new());
        for _ in 0..12 {
            health.failed(later, later, 0);
            rests.push(health.rest(later).map_or(Duration::ZERO, |rest| rest.until - later));
            later += Duration::from_secs(20);
        }
        assert_eq!(rests[..3], [250, 500, 1000].map(Duration::from_millis));
        assert_eq!(rests[11], LONGEST_REST);
        assert!(health.answered());
        assert_eq!(health.rest(now), None);
        assert!(!health.answered());
    }

    #[test]
    fn one_outage_seen_by_many_workers_is_one_failure() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert_eq!(health.failed(now, now, 0), Some(1));
        for ms in [0, 1, 249] {
            assert_eq!(health.failed(now + Duration::from_millis(ms), now + Duration::from_millis(ms), 0), None);
        }
        assert_eq!(health.failed(now + Duration::from_millis(250), now + Duration::from_millis(250), 0), Some(2));
    }

    #[test]
    fn an_attempt_that_took_long_is_soon_followed_by_another_if_there_is_nobody_else() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        for _ in 0..14 {
            health.failed(now, now, 0);
            now += PROBE;
        }
        for (took, until_probe) in [(0, 1050), (400, 650), (700, 350), (1500, 250)] {
            let ended = now + Duration::from_millis(took);
            health.failed(now, ended, 0);
            let probe_at = health.rest(ended).map(|rest| rest.probe_at);
            assert_eq!(probe_at, Some(ended + Duration::from_millis(until_probe)), "{took}");
            now = ended + PROBE;
        }
        assert!(
            health.rest(now).is_some_and(|rest| rest.until > now + PROBE * 10),
            "others are preferred as long as ever"
        );
    }

    #[test]
    fn a_short_outage_is_probed_often_and_a_long_one_seldom() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..20 {
            health.failed(now, now, 0);
            let probe_at = health.rest(now).map_or(now, |rest| rest.probe_at);
            pauses.push(probe_at - now);
            now = probe_at;
        }
        assert!(pauses[..14].iter().all(|&pause| pause == Duration::from_millis(250)), "{pauses:?}");
        assert!(pauses[14..].iter().all(|&pause| pause == PROBE), "{pauses:?}");
    }

    #[test]
    fn a_refusal_is_looked_into_often_for_as_long_as_a_restart_takes() {
        let (mut health, start) = (Health::default(), Instant::now());
        let (mut now, mut looks, mut failures) = (start, 0, Vec::new());
        while now < start + RESTART {
            failures.extend(health.refused(now - Duration::from_millis(2), now, 0));
            // another worker has been refused as well
            assert_eq!(health.refused(now, now, 0), None);
            let rest = health.rest(now).unwrap_or(Rest { until: now, probe_at: now });
            assert!(rest.probe_at <= rest.until);
            now = rest.probe_at;
            looks += 1;
        }
        assert_eq!((looks, failures), (500, vec![1, 2, 3, 4, 5]));
        let before = now;
        for _ in 0..9 {
            assert!(health.refused(now, now, 0).is_some());
            now = health.rest(now).map_or(now, |rest| rest.probe_at);
        }
        assert_eq!(now - before, FIRST_REST * 9);
        assert!(health.refused(now, now, 0) == Some(15) && health.answered());
        assert_eq!(health.refused(now, now + Duration::from_millis(80), 0), Some(1));
        let probe_at = health.rest(now).map(|rest| rest.probe_at);
        assert_eq!(probe_at, Some(now + Duration::from_millis(240)), "a distant server is looked for less often");
        for (took, pause) in [(50, 2000), (200, 4000), (5000, 10_000)] {
            let (mut health, refused_at) = (Health::default(), now + Duration::from_micros(took));
            health.refused(now, refused_at, 0);
            let probe_at = health.rest(now).map(|rest| rest.probe_at);
            assert_eq!(probe_at, Some(refused_at + Duration::from_micros(pause)), "one nearby more often");
        }
    }

    #[test]
    fn silence_seen_by_several_workers_is_one_event() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert!(!health.barren(now) && !health.barren(now + Duration::from_millis(999)));
        assert!(health.barren(now + Duration::from_secs(1)));
        health.answered();
        assert!(!health.barren(now + Duration::from_secs(2)));
    }

    #[test]
    fn a_rest_passes_by_itself() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.failed(now, now, 0);
        assert!(health.rest(now + Duration::from_millis(249)).is_some());
        assert!(health.rest(now + Duration::from_millis(250)).is_none());
    }

    #[test]
    fn a_long_outage_costs_at_most_sixty_attempts_a_minute() {
        let (mut health, start) = (Health::default(), Instant::now());
        let (mut now, mut attempts) = (start, 0);
        while now < start + Duration::from_secs(600) {
            attempts += 1;
            health.failed(now, now, 255);
            now = health.rest(now).map_or(now, |rest| rest.probe_at);
        }
        // the first ones come sooner
        assert!(attempts <= 600, "{attempts}");
        assert!(health.rest(now).is_none_or(|rest| rest.probe_at - now <= PROBE));
    }

    #[test]
    fn a_doubtful_server_gets_one_probe_at_a_time_and_none_while_it_rests() {
        let (mut health, now) = (Health::default(), Instant::now());
        let at = |ms: u64| now + Duration::from_millis(ms);
        assert!(!health.take_probe(now, at(4000)));
        health.failed(now, now, 0);
        assert!(!health.take_probe(at(249), at(4000)));
        assert!(health.take_probe(at(250), at(4250)));
        assert!(!health.take_probe(at(4249), at(8000)));
        assert!(health.take_probe(at(4250), at(8250)));
        health.answered();
        assert!(!health.is_doubtful() && !health.take_probe(at(9000), at(9999)));
    }

    #[test]
    fn the_spread_shortens_by_at_most_a_quarter() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.failed(now, now, 255);
        let rest = health.rest(now).map_or(Duration::ZERO, |rest| rest.until - now);
        assert!(rest > Duration::from_millis(187) && rest < Duration::from_millis(190), "{rest:?}");
    }
}
