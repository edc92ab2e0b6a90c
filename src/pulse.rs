//! Whether the workers still take turns, as the main thread sees it whenever it looks (pure).

/// Looks without a sign of life after which a worker counts as stuck: longer than it takes a busy machine to come round, and
/// shorter than a client waits before it asks again, at two looks a second.
const STUCK: u32 = 10;

/// What is known of one worker.
#[derive(Clone, Copy, Debug, Default)]
struct Sign {
    /// Its signs of life in all, at the last look.
    count: u64,
    /// The same when all workers had last shown one.
    when_all_lived: u64,
    /// Looks since the last one.
    looks: u32,
}

/// The signs of life of all workers.
#[derive(Debug, Default)]
pub struct Pulse {
    signs: Vec<Sign>,
}

impl Pulse {
    /// Looks at all of them: how many signs each has shown since it began. Returns whether every one has shown some since
    /// this was last so.
    pub fn look(&mut self, counts: impl ExactSizeIterator<Item = u64>) -> bool {
        self.signs.resize(counts.len(), Sign::default());
        for (sign, count) in self.signs.iter_mut().zip(counts) {
            sign.looks = if count == sign.count { sign.looks.saturating_add(1) } else { 0 };
            sign.count = count;
        }
        let are_all_alive = self.signs.iter().all(|sign| sign.count > sign.when_all_lived);
        if are_all_alive {
            self.signs.iter_mut().for_each(|sign| sign.when_all_lived = sign.count);
        }
        are_all_alive
    }

    /// Those who are stuck, and whether that is news.
    pub fn stuck(&self) -> impl Iterator<Item = (usize, bool)> {
        let signs = self.signs.iter().enumerate().filter(|(_, sign)| sign.looks >= STUCK);
        signs.map(|(number, sign)| (number, sign.looks == STUCK))
    }
}

#[cfg(test)]
mod tests {
    use super::{Pulse, STUCK};

    fn stuck(pulse: &Pulse) -> Vec<(usize, bool)> {
        pulse.stuck().collect()
    }

    #[test]
    fn all_live_when_each_has_shown_a_sign_since_they_last_did() {
        let mut pulse = Pulse::default();
        let looks = [([1, 1], true), ([1, 1], false), ([2, 1], false), ([3, 2], true), ([3, 3], false), ([4, 3], true)];
        for (counts, expected) in looks {
            assert_eq!(pulse.look(counts.into_iter()), expected, "{counts:?}");
        }
    }

    #[test]
    fn who_shows_no_sign_for_long_is_stuck_until_there_is_one() {
        let mut pulse = Pulse::default();
        for look in 0..u64::from(STUCK) {
            pulse.look([look, 7].into_iter());
            assert_eq!(stuck(&pulse), []);
        }
        for (look, is_news) in [(100, true), (101, false), (102, false)] {
            pulse.look([look, 7].into_iter());
            assert_eq!(stuck(&pulse), [(1, is_news)]);
        }
        pulse.look([102, 8].into_iter());
        assert_eq!(stuck(&pulse), []);
    }
}
