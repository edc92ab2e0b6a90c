//! Questions that no server would answer of late: whoever repeats one is told at once (pure, RFC 9520 §3.2).

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a failure is remembered; as short as a resolver's patience, since a network comes back any moment.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Questions remembered at most.
const QUESTIONS: usize = 256;

/// How often a question that failed is asked again, however often it is repeated.
const AGAIN: Duration = Duration::from_millis(500);

/// A failure.
#[derive(Debug)]
struct Failed<T> {
    at: Instant,
    asked_at: Instant,
    told: T,
}

/// Failures by question, with what is told of each.
#[derive(Debug)]
pub struct Outage<T> {
    failed: HashMap<Box<[u8]>, Failed<T>>,
}

impl<T> Default for Outage<T> {
    fn default() -> Outage<T> {
        Outage { failed: HashMap::new() }
    }
}

impl<T: Clone> Outage<T> {
    /// No server answered this question, which was asked at `asked_at`: the failure is remembered as told here.
    pub fn failed(&mut self, question: &[u8], told: T, asked_at: Instant, now: Instant) {
        if self.failed.len() >= QUESTIONS {
            self.failed.retain(|_, failed| now < failed.at + REMEMBERED);
        }
        let question = question.to_ascii_lowercase();
        let asked_at = self.failed.get(&*question).map_or(asked_at, |failed| failed.asked_at.max(asked_at));
        if self.failed.len() < QUESTIONS {
            self.failed.insert(question.into(), Failed { at: now, asked_at, told });
        }
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }

    /// What to tell whoever asks this question again.
    pub fn recall(&self, question: &[u8], now: Instant) -> Option<T> {
        let Failed { at, told, .. } = self.failed.get(&*question.to_ascii_lowercase())?;
        (now < *at + REMEMBERED).then(|| told.clone())
    }

    /// Whether a question that failed is to be asked again now; if so, it was.
    pub fn take_turn(&mut self, question: &[u8], now: Instant) -> bool {
        let Some(failed) = self.failed.get_mut(&*question.to_ascii_lowercase()) else { return true };
        let is_due = now >= failed.asked_at + AGAIN;
        if is_due {
            failed.asked_at = now;
        }
        is_due
    }

    /// A server answered, or the network is another one: nothing of the past counts.
    pub fn end(&mut self) {
        if !self.is_empty() {
            self.failed = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AGAIN, Outage, QUESTIONS, REMEMBERED};
    use std::time::{Duration, Instant};

    #[test]
    fn a_failure_is_remembered_for_a_while_or_until_a_server_answers() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        assert_eq!(outage.recall(b"\x01a\x00", now), None);
        outage.failed(b"\x01a\x00", 7, now, now);
        assert_eq!(outage.recall(b"\x01A\x00", now), Some(7));
        assert_eq!(outage.recall(b"\x01b\x00", now), None);
        assert_eq!(outage.recall(b"\x01a\x00", now + REMEMBERED), None);
        outage.failed(b"\x01a\x00", 8, now, now);
        outage.end();
        assert_eq!(outage.recall(b"\x01a\x00", now), None);
    }

    #[test]
    fn however_often_it_is_repeated_it_is_asked_twice_a_second() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        assert!(outage.take_turn(b"\x01a\x00", now));
        outage.failed(b"\x01a\x00", 7, now, now);
        assert!(!outage.take_turn(b"\x01a\x00", now + AGAIN / 2) && outage.take_turn(b"\x01A\x00", now + AGAIN));
        outage.failed(b"\x01a\x00", 7, now + AGAIN, now + AGAIN * 3 / 2);
        assert!(outage.take_turn(b"\x01a\x00", now + AGAIN * 2), "counted from when it was asked");
    }

    #[test]
    fn no_flood_of_questions_fills_the_memory() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        for number in 0..3 * QUESTIONS {
            outage.failed(&number.to_be_bytes(), (), now, now);
        }
        assert_eq!(outage.failed.len(), QUESTIONS);
        let later = now + REMEMBERED + Duration::from_secs(1);
        outage.failed(b"new", (), later, later);
        assert_eq!((outage.failed.len(), outage.recall(b"new", later)), (1, Some(())));
    }
}
