//! How long connections to a server live: what its closes teach, and when one is kept ready (pure).

use std::time::{Duration, Instant};

/// A close after less idle time is no idle limit.
const SHORTEST: Duration = Duration::from_millis(400);
/// Two closes within this of each other are the same limit.
const SAME: Duration = Duration::from_millis(400);
/// We close so long before the server would: a query must not meet its close on the way.
const MARGIN: Duration = Duration::from_millis(200);
/// What was learned is believed for so long, then learned anew: servers change.
const BELIEVED: Duration = Duration::from_secs(3600);
/// A connection is kept ready for so many idle limits after the last query.
const LIMITS_KEPT: u32 = 10;
/// No connection is kept ready for longer than this after the last query.
const KEPT_AT_MOST: Duration = Duration::from_secs(120);
/// Connections are not made for later use any faster than this, whatever the server does.
const PAUSE: Duration = Duration::from_secs(1);

/// So many connections in a row that end behind their only answer are a server's way.
const WAYS: u8 = 3;
/// After so long a connection is shared once more: while each query has its own, nobody would find out that the server has
/// changed its way, and a way that costs a handshake for each query may have been a fault of a moment. If it is still the
/// same, one such end says so.
const TRIED_ANEW: Duration = Duration::from_secs(60);

/// What is known of how one server ends connections, shared by all workers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lifetime {
    /// The idle time at the last close that did not match.
    suspected: Option<Duration>,
    learned: Option<(Duration, Instant)>,
    /// Connections in a row that ended behind their only answer, and when the last did.
    one_answer: Option<(u8, Instant)>,
}

impl Lifetime {
    /// The server closed a connection that had been idle for so long, with nothing in flight.
    pub fn closed_by_server(&mut self, idle: Duration, now: Instant) {
        if idle < SHORTEST {
            return;
        }
        match self.suspected {
            Some(before) if before.abs_diff(idle) <= SAME.max(before / 8) => {
                self.learned = Some((before.min(idle), now));
                self.suspected = None;
            }
            _ => self.suspected = Some(idle),
        }
    }

    /// How long a connection may stay idle before we close it, if the server taught it.
    pub fn limit(&self, now: Instant) -> Option<Duration> {
        let (learned, at) = self.learned?;
        (now < at + BELIEVED).then(|| learned - MARGIN.max(learned / 10).min(learned / 2))
    }

    /// The server has ended a connection behind this many answers. Returns whether that is news of its way.
    pub fn closed_behind(&mut self, answers: u64, now: Instant) -> bool {
        match (answers, self.one_answer) {
            // it has not come to an answer
            (0, _) => false,
            (1, before) => {
                let count = before.map_or(0, |(count, _)| count).saturating_add(1);
                self.one_answer = Some((count, now));
                count == WAYS
            }
            _ => {
                self.one_answer = None;
                false
            }
        }
    }

    /// Whether the server gives one answer on each connection, so that no other query should wait there.
    pub fn gives_one_answer(&self, now: Instant) -> bool {
        self.one_answer.is_some_and(|(count, last)| count >= WAYS && now < last + TRIED_ANEW)
    }

    /// The network is another one: so may be what stands between, and its limits.
    pub fn forget(&mut self) {
        *self = Lifetime::default();
    }
}

/// Whether a connection is made at once in place of one that ended idle, so that the next query finds it.
///
/// `lived`: how long the one that ended was idle. `last_query`: when this worker last asked the server anything.
/// `last_kept`: when a connection was last made for this reason.
pub fn keeps_ready(lived: Duration, last_query: Option<Instant>, last_kept: Option<Instant>, now: Instant) -> bool {
    let window = (lived.max(PAUSE) * LIMITS_KEPT).min(KEPT_AT_MOST);
    let in_use = last_query.is_some_and(|last| now < last + window);
    in_use && last_kept.is_none_or(|kept| now >= kept + PAUSE)
}

#[cfg(test)]
mod tests {
    use super::{BELIEVED, KEPT_AT_MOST, Lifetime, TRIED_ANEW, keeps_ready};
    use std::time::{Duration, Instant};

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn two_closes_alike_teach_a_limit_that_ends_before_the_servers() {
        for limit in [1500, 2000, 10_000, 30_000] {
            let (mut lifetime, now) = (Lifetime::default(), Instant::now());
            lifetime.closed_by_server(ms(limit + 3), now);
            assert_eq!(lifetime.limit(now), None);
            lifetime.closed_by_server(ms(limit + 20), now);
            let learned = lifetime.limit(now).unwrap_or_default();
            assert!(learned < ms(limit) && learned >= ms(limit * 8 / 10), "{limit}: {learned:?}");
            assert_eq!(lifetime.limit(now + BELIEVED), None);
        }
    }

    #[test]
    fn closes_that_are_no_idle_limit_teach_nothing() {
        let (mut lifetime, now) = (Lifetime::default(), Instant::now());
        for idle in [0, 1, 100, 399, 700, 9000, 2500, 20_000] {
            lifetime.closed_by_server(ms(idle), now);
        }
        assert_eq!(lifetime.limit(now), None);
    }

    #[test]
    fn a_server_that_gives_one_answer_on_a_connection_is_known_after_three() {
        let (mut lifetime, now) = (Lifetime::default(), Instant::now());
        for (answers, news, known) in [
            (1, false, false),
            (1, false, false),
            (7, false, false),
            (1, false, false),
            (0, false, false),
            (1, false, false),
            (1, true, true),
            (1, false, true),
            (2, false, false),
        ] {
            assert_eq!((lifetime.closed_behind(answers, now), lifetime.gives_one_answer(now)), (news, known));
        }
        assert_eq!([1; 3].map(|answers| lifetime.closed_behind(answers, now)), [false, false, true]);
        // a while later it may be otherwise, and one end is enough to say that it is not
        let later = now + TRIED_ANEW;
        assert!(lifetime.gives_one_answer(now) && !lifetime.gives_one_answer(later));
        assert_eq!((lifetime.closed_behind(1, later), lifetime.gives_one_answer(later)), (false, true));
        assert_eq!((lifetime.closed_behind(9, later), lifetime.gives_one_answer(later)), (false, false));
    }

    #[test]
    fn a_limit_that_was_learned_is_forgotten_with_the_network() {
        let (mut lifetime, now) = (Lifetime::default(), Instant::now());
        (0..2).for_each(|_| lifetime.closed_by_server(ms(2000), now));
        assert!(lifetime.limit(now).is_some());
        lifetime.forget();
        assert_eq!(lifetime.limit(now), None);
    }

    #[test]
    fn a_connection_is_kept_ready_while_queries_come_and_not_for_ever() {
        let now = Instant::now();
        let at = |count: u64| now + ms(count);
        assert!(!keeps_ready(ms(2000), None, None, now));
        assert!(keeps_ready(ms(2000), Some(now), None, at(2000)));
        assert!(keeps_ready(ms(2000), Some(now), Some(at(18_000)), at(19_900)));
        assert!(!keeps_ready(ms(2000), Some(now), None, at(20_000)));
        assert!(!keeps_ready(ms(60_000), Some(now), None, now + KEPT_AT_MOST));
        // a server that closes at once is not greeted again and again
        assert!(keeps_ready(ms(0), Some(now), None, at(10)));
        assert!(!keeps_ready(ms(0), Some(now), Some(at(10)), at(900)));
        assert!(keeps_ready(ms(0), Some(at(900)), Some(at(10)), at(1010)));
    }
}
