//! Equal questions on their way at the same time: the first is asked, the others get its answer (RFC 5452 §5, RFC 9520).
//!
//! Whoever is first holds a [`First`]. Should it come to nothing, because its client went away or its worker stopped, the
//! others are told so, and one of them is first.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Parts with a lock of their own.
const PARTS: usize = 16;

type Waiting<R> = HashMap<Arc<[u8]>, Vec<oneshot::Sender<R>>>;

/// The questions on their way, of all workers.
pub struct Joined<R> {
    parts: [Mutex<Waiting<R>>; PARTS],
    hashes: RandomState,
}

impl<R> Default for Joined<R> {
    fn default() -> Joined<R> {
        Joined { parts: std::array::from_fn(|_| Mutex::default()), hashes: RandomState::new() }
    }
}

/// Whose turn it is to ask.
pub enum Turn<R> {
    /// Nobody else asks: ask, and tell the others.
    First(First<R>),
    /// Somebody asks already: what comes of it, or an error if nothing does, and then it is time for another turn.
    Behind(oneshot::Receiver<R>),
}

/// The right to ask a question, and the duty to tell the others what came of it.
pub struct First<R> {
    joined: Arc<Joined<R>>,
    /// Empty when the duty is done.
    key: Arc<[u8]>,
}

impl<R> Joined<R> {
    fn part(&self, key: &[u8]) -> MutexGuard<'_, Waiting<R>> {
        let hash = self.hashes.hash_one(key);
        // the table within takes its place from the low bits of a hash of its own
        let part = usize::try_from(hash >> 32).unwrap_or(0) % PARTS;
        // nothing that is done under this lock can leave the table half changed
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a turn with the question of this key.
    pub fn turn(self: &Arc<Self>, key: &[u8]) -> Turn<R> {
        let mut part = self.part(key);
        if let Some(waiting) = part.get_mut(key) {
            let (sender, receiver) = oneshot::channel();
            waiting.push(sender);
            return Turn::Behind(receiver);
        }
        let key: Arc<[u8]> = key.into();
        part.insert(key.clone(), Vec::new());
        drop(part);
        Turn::First(First { joined: self.clone(), key })
    }

    /// Whether somebody asks the question of this key.
    pub fn is_asked(&self, key: &[u8]) -> bool {
        self.part(key).contains_key(key)
    }
}

impl<R> First<R> {
    /// Who waits; from then on nobody is first.
    fn dismiss(&mut self) -> Vec<oneshot::Sender<R>> {
        let key = std::mem::take(&mut self.key);
        // once told, the same question may be somebody else's turn
        if key.is_empty() { Vec::new() } else { self.joined.part(&key).remove(&key).unwrap_or_default() }
    }
}

impl<R: Clone> First<R> {
    /// Tells all others; how many there were. `result` is made only if there are any.
    pub fn tell(mut self, result: impl FnOnce() -> R) -> usize {
        let waiting = self.dismiss();
        let count = waiting.len();
        if count > 0 {
            let result = result();
            // who has gone meanwhile needs no telling
            waiting.into_iter().for_each(|waiter| drop(waiter.send(result.clone())));
        }
        count
    }
}

impl<R> Drop for First<R> {
    fn drop(&mut self) {
        drop(self.dismiss());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests fail loudly")]

    use super::{First, Joined, Turn};
    use std::sync::Arc;
    use tokio::sync::oneshot::error::TryRecvError;

    fn first(joined: &Arc<Joined<u8>>, key: &[u8]) -> First<u8> {
        match joined.turn(key) {
            Turn::First(first) => first,
            Turn::Behind(_) => panic!("somebody else is first"),
        }
    }

    fn behind(joined: &Arc<Joined<u8>>, key: &[u8]) -> tokio::sync::oneshot::Receiver<u8> {
        match joined.turn(key) {
            Turn::Behind(receiver) => receiver,
            Turn::First(_) => panic!("nobody else is first"),
        }
    }

    #[test]
    fn the_first_tells_all_others() {
        let joined: Arc<Joined<u8>> = Arc::default();
        let leader = first(&joined, b"a");
        let mut others = [behind(&joined, b"a"), behind(&joined, b"a")];
        let alone = first(&joined, b"b");
        assert_eq!((alone.tell(|| panic!("made for nobody")), leader.tell(|| 7)), (0, 2));
        assert_eq!(others.each_mut().map(|other| other.try_recv()), [Ok(7), Ok(7)]);
    }

    #[test]
    fn a_first_that_comes_to_nothing_leaves_its_place_to_another() {
        let joined: Arc<Joined<u8>> = Arc::default();
        let leader = first(&joined, b"a");
        let mut other = behind(&joined, b"a");
        drop(leader);
        assert_eq!(other.try_recv(), Err(TryRecvError::Closed));
        drop(first(&joined, b"a"));
    }

    #[test]
    fn the_end_of_one_turn_does_not_end_the_next() {
        let joined: Arc<Joined<u8>> = Arc::default();
        let before = first(&joined, b"a");
        before.tell(|| 1);
        let now = first(&joined, b"a");
        assert!(joined.is_asked(b"a"));
        drop(now);
        assert!(!joined.is_asked(b"a"));
    }
}
