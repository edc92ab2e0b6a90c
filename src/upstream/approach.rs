//! How long an attempt to connect to a server may take: as long as the configuration allows, and less where the server has
//! always been quicker (pure).
//!
//! What was lost on the way is better asked for anew than waited for, but only after the kernel had its chance: it sends a
//! greeting that was lost once more after a second (RFC 6298 §2). Answers are another matter: a name may be slow where
//! all others are quick, and waiting for it costs nobody else anything.

use std::time::Duration;

/// What an attempt has in any case.
const LEAST: Duration = Duration::from_secs(1);
/// Times the usual time that it has besides.
const USUAL: u32 = 8;

/// What attempts to connect to one server have taught, shared by all workers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Approach {
    /// The smoothed time of those that succeeded.
    usual: Option<Duration>,
    /// Whether the last one failed: then nothing is usual.
    failed: bool,
}

impl Approach {
    /// An attempt succeeded after so long.
    pub fn succeeded(&mut self, took: Duration) {
        self.usual = Some(self.usual.map_or(took, |usual| (usual * 3 + took) / 4));
        self.failed = false;
    }

    /// An attempt failed. Should the way have become slower, the next ones find that out.
    pub fn failed(&mut self) {
        self.failed = true;
    }

    /// How long the next attempt may take, where the configuration allows `most`.
    pub fn limit(&self, most: Duration) -> Duration {
        match self.usual {
            Some(usual) if !self.failed => (LEAST + usual * USUAL).min(most),
            _ => most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Approach;
    use std::time::Duration;

    const MOST: Duration = Duration::from_secs(10);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn an_attempt_has_little_more_than_a_second_where_all_took_little() {
        let mut approach = Approach::default();
        assert_eq!(approach.limit(MOST), MOST);
        approach.succeeded(ms(20));
        assert_eq!(approach.limit(MOST), ms(1160));
        assert_eq!(approach.limit(ms(1100)), ms(1100));
        // satellites
        (0..20).for_each(|_| approach.succeeded(ms(700)));
        assert!(approach.limit(MOST) > ms(6000));
        approach.succeeded(ms(60_000));
        assert_eq!(approach.limit(MOST), MOST);
    }

    #[test]
    fn after_a_failure_the_next_attempts_have_all_the_time_until_one_succeeds() {
        let mut approach = Approach::default();
        approach.succeeded(ms(20));
        approach.failed();
        assert_eq!(approach.limit(MOST), MOST);
        approach.failed();
        approach.succeeded(ms(4000));
        assert!(approach.limit(MOST) > ms(8000), "what took long of late may do so again");
    }
}
