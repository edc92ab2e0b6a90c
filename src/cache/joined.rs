//! Equal questions on their way at the same time: the first is asked, the others get its answer (RFC 5452 §5, RFC 9520).
//!
//! Whoever is first holds a [`First`]. Should it come to nothing, because its client went away or its worker stopped, the
//! others are told so, and one of them is first.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::hashed::BuildAsGiven;

/// Parts with a lock of their own.
const PARTS: usize = 16;

/// A question, with a hash of it that nobody outside can predict.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Name {
    hash: u64,
    generation: u64,
    octets: Arc<[u8]>,
}

impl Name {
    /// The name with these octets and this hash of them. Those of another generation are other names.
    pub fn new(hash: u64, generation: u64, octets: &[u8]) -> Name {
        Name { hash, generation, octets: octets.into() }
    }

    /// Its octets.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The hash.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.hash);
    }
}

type Waiting<R> = HashMap<Name, Vec<oneshot::Sender<R>>, BuildAsGiven>;

/// The questions on their way, of all workers.
pub struct Joined<R> {
    parts: [Mutex<Waiting<R>>; PARTS],
}

impl<R> Default for Joined<R> {
    fn default() -> Joined<R> {
        Joined { parts: std::array::from_fn(|_| Mutex::default()) }
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
    /// Nothing when the duty is done.
    name: Option<Name>,
}

impl<R> Joined<R> {
    fn part(&self, name: &Name) -> MutexGuard<'_, Waiting<R>> {
        // the table within takes its places from both ends of the hash
        let part = usize::try_from(name.hash >> 24).unwrap_or(0) % PARTS;
        // nothing that is done under this lock can leave the table half changed
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a turn with this question.
    pub fn turn(self: &Arc<Self>, name: &Name) -> Turn<R> {
        let mut part = self.part(name);
        if let Some(waiting) = part.get_mut(name) {
            let (sender, receiver) = oneshot::channel();
            waiting.push(sender);
            return Turn::Behind(receiver);
        }
        part.insert(name.clone(), Vec::new());
        drop(part);
        Turn::First(First { joined: self.clone(), name: Some(name.clone()) })
    }
}

impl<R> First<R> {
    /// Who waits; from then on nobody is first.
    fn dismiss(&mut self) -> Vec<oneshot::Sender<R>> {
        // once told, the same question may be somebody else's turn
        self.name.take().and_then(|name| self.joined.part(&name).remove(&name)).unwrap_or_default()
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

    use super::{First, Joined, Name, Turn};
    use std::sync::Arc;
    use tokio::sync::oneshot::error::TryRecvError;

    /// All names have the same hash here.
    fn name(octets: &[u8]) -> Name {
        Name::new(7, 0, octets)
    }

    fn first(joined: &Arc<Joined<u8>>, key: &[u8]) -> First<u8> {
        match joined.turn(&name(key)) {
            Turn::First(first) => first,
            Turn::Behind(_) => panic!("somebody else is first"),
        }
    }

    fn behind(joined: &Arc<Joined<u8>>, key: &[u8]) -> tokio::sync::oneshot::Receiver<u8> {
        match joined.turn(&name(key)) {
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
    fn a_question_of_another_generation_is_another_question() {
        let joined: Arc<Joined<u8>> = Arc::default();
        let _before = first(&joined, b"a");
        assert!(matches!(joined.turn(&Name::new(7, 1, b"a")), Turn::First(_)));
    }

    #[test]
    fn the_end_of_one_turn_does_not_end_the_next() {
        let joined: Arc<Joined<u8>> = Arc::default();
        let before = first(&joined, b"a");
        before.tell(|| 1);
        let now = first(&joined, b"a");
        drop(behind(&joined, b"a"));
        drop(now);
        drop(first(&joined, b"a"));
    }
}
