//! Equal questions on their way at the same time: the first is asked, the others get its answer (RFC 5452 §5, RFC 9520).
//!
//! Whoever is first must leave. Should it come to nothing, because its client went away or its worker stopped, the others
//! find that nobody will tell them, and one of them is first.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::ahead;

/// Parts with a lock of their own: so many that one seldom has more than two questions.
const PARTS: usize = 256;

/// Names kept for their memory when nobody needs them any more: as many as wait on a busy worker.
const KEPT: usize = 256;

thread_local! {
    static SPARE: RefCell<Vec<Arc<Content>>> = const { RefCell::new(Vec::new()) };
}

/// What a name is made of.
#[derive(Debug, Eq, PartialEq)]
struct Content {
    generation: u64,
    octets: SmallVec<[u8; 96]>,
}

/// A question, with a hash of it that nobody outside can predict.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Name {
    hash: u64,
    content: Arc<Content>,
}

impl Name {
    /// The name with these octets and this hash of them. Those of another generation are other names.
    pub fn new(hash: u64, generation: u64, octets: &[u8]) -> Name {
        let content = Content { generation, octets: SmallVec::from_slice(octets) };
        let Some(mut spare) = SPARE.with_borrow_mut(Vec::pop) else { return Name { hash, content: Arc::new(content) } };
        match Arc::get_mut(&mut spare) {
            Some(room) => *room = content,
            None => spare = Arc::new(content),
        }
        Name { hash, content: spare }
    }

    /// Nobody will look at it any more: if nobody else has it, its memory is used for another one.
    pub fn done(&self) {
        if Arc::strong_count(&self.content) == 1 && !self.content.octets.spilled() {
            // on a thread that ends nothing is kept
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < KEPT {
                    spare.push(self.content.clone());
                }
            });
        }
    }

    /// Its octets.
    pub fn octets(&self) -> &[u8] {
        &self.content.octets
    }

    /// The generation.
    pub fn generation(&self) -> u64 {
        self.content.generation
    }

    /// The hash.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// Those who wait for the answer to a question.
struct Waiting<R>(Vec<oneshot::Sender<R>>);

/// A question on its way.
struct Asked<R> {
    name: Name,
    /// Nothing while nobody waits, as is usual.
    waiting: Option<Box<Waiting<R>>>,
}

/// The questions of one part: seldom more than two.
type Few<R> = SmallVec<[Asked<R>; 2]>;

/// Some of the questions on their way, as a rule in one line of the processor's cache with their lock.
#[repr(align(64))]
struct Part<R>(Mutex<Few<R>>);

/// The questions on their way, of all workers.
pub struct Joined<R> {
    parts: Box<[Part<R>]>,
}

impl<R> Default for Joined<R> {
    fn default() -> Joined<R> {
        Joined { parts: (0..PARTS).map(|_| Part(Mutex::default())).collect() }
    }
}

impl<R> Joined<R> {
    fn part(&self, hash: u64) -> &Part<R> {
        // the rest of such a number is less than there are parts
        &self.parts[usize::try_from(hash >> 24).unwrap_or(0) % PARTS]
    }

    fn lock(&self, hash: u64) -> MutexGuard<'_, Few<R>> {
        // nothing that is done under this lock can leave the questions half changed
        self.part(hash).0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has brought near what a turn with a question of this hash reads, and its end.
    #[inline]
    pub fn fetch(&self, hash: u64) {
        ahead::fetch(self.part(hash));
    }

    /// Takes a turn with this question. Nothing, if nobody else asks it: then it is ours to ask, and to [`Joined::leave`] it.
    /// Else what will come of it, or an error if nothing does, and then it is time for another turn.
    pub fn turn(&self, name: &Name) -> Option<oneshot::Receiver<R>> {
        let mut part = self.lock(name.hash);
        if let Some(asked) = part.iter_mut().find(|asked| asked.name == *name) {
            let (sender, receiver) = oneshot::channel();
            asked.waiting.get_or_insert_with(|| Box::new(Waiting(Vec::new()))).0.push(sender);
            return Some(receiver);
        }
        part.push(Asked { name: name.clone(), waiting: None });
        None
    }

    /// Ends a turn that was ours. Gives those who wait: to be told, or else to take another turn.
    pub fn leave(&self, name: &Name) -> Vec<oneshot::Sender<R>> {
        let mut part = self.lock(name.hash);
        // the one whose turn this is has the very same octets
        let ours = part.iter().position(|asked| Arc::ptr_eq(&asked.name.content, &name.content));
        let asked = ours.map(|ours| part.swap_remove(ours));
        if part.is_empty() && part.spilled() {
            // back beside the lock
            part.shrink_to_fit();
        }
        drop(part);
        asked.and_then(|asked| asked.waiting).map_or_else(Vec::new, |waiting| waiting.0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests fail loudly")]

    use super::{Joined, Name};
    use std::sync::Arc;
    use tokio::sync::oneshot::{Receiver, error::RecvError, error::TryRecvError};

    /// All names have the same hash here.
    fn name(octets: &[u8]) -> Name {
        Name::new(7, 0, octets)
    }

    fn behind(joined: &Joined<u8>, key: &[u8]) -> Receiver<u8> {
        joined.turn(&name(key)).unwrap_or_else(|| panic!("nobody else is first"))
    }

    /// Whether this question is nobody else's.
    fn is_free(joined: &Joined<u8>, name: &Name) -> bool {
        joined.turn(name).is_none()
    }

    /// Tells all who wait behind this one; how many there were.
    fn tell(joined: &Joined<u8>, name: &Name, result: u8) -> usize {
        joined.leave(name).into_iter().map(|waiting| waiting.send(result)).filter(Result::is_ok).count()
    }

    #[test]
    fn a_part_with_two_questions_takes_one_line_of_the_processors_cache() {
        let joined = Joined::<Arc<[u8]>>::default();
        assert_eq!(size_of_val(&joined.parts[0]), 64);
        let names = [name(b"a"), name(b"b"), name(b"c")];
        let is_beside = || !joined.lock(7).spilled();
        assert!(names.iter().all(|name| joined.turn(name).is_none()));
        assert!(!is_beside());
        let leave = |name| assert!(joined.leave(name).is_empty());
        leave(&names[2]);
        assert!(!is_beside());
        names[..2].iter().for_each(leave);
        assert!(names[..2].iter().all(|name| joined.turn(name).is_none()));
        assert!(is_beside());
    }

    #[test]
    fn a_name_that_is_done_makes_the_next_one_unless_somebody_else_has_it() {
        let make = |octets: &[u8]| Name::new(7, 3, octets);
        let (kept, gone) = (make(b"kept"), make(b"gone"));
        let also_kept = kept.clone();
        [kept, gone].iter().for_each(Name::done);
        let measured = allocation_counter::measure(|| {
            let next = make(b"next");
            assert_eq!((next.octets(), next.generation()), (&b"next"[..], 3));
            next.done();
        });
        assert_eq!((measured.count_total, also_kept.octets()), (0, &b"kept"[..]));
        let long = make(&[b'x'; 200]);
        long.done();
        assert_eq!(make(b"short").octets(), b"short");
    }

    #[test]
    fn the_first_tells_all_others() {
        let (joined, [a, b]) = (Joined::default(), [name(b"a"), name(b"b")]);
        assert!(is_free(&joined, &a));
        let mut others = [behind(&joined, b"a"), behind(&joined, b"a")];
        assert!(is_free(&joined, &b));
        assert_eq!((tell(&joined, &b, 9), tell(&joined, &a, 7)), (0, 2));
        assert_eq!(others.each_mut().map(|other| other.try_recv()), [Ok(7), Ok(7)]);
    }

    #[test]
    fn many_questions_in_one_part_are_each_told_their_own_answer() {
        let (joined, names) = (Joined::default(), [0_u8, 1, 2, 3, 4].map(|number| name(&[number])));
        assert!(names.iter().all(|name| is_free(&joined, name)));
        let others = [0_u8, 1, 2, 3, 4].map(|number| behind(&joined, &[number]));
        for (number, name) in (0..).zip(&names) {
            assert_eq!(tell(&joined, name, number), 1);
        }
        let told: Vec<_> = others.into_iter().map(Receiver::blocking_recv).collect();
        assert_eq!(told, [0, 1, 2, 3, 4].map(Ok::<u8, RecvError>));
        assert!(names.iter().all(|name| is_free(&joined, name)));
    }

    #[test]
    fn a_first_that_comes_to_nothing_leaves_its_place_to_another() {
        let (joined, a) = (Joined::default(), name(b"a"));
        assert!(is_free(&joined, &a));
        let mut other = behind(&joined, b"a");
        drop(joined.leave(&a));
        assert_eq!(other.try_recv(), Err(TryRecvError::Closed));
        assert!(is_free(&joined, &a));
    }

    #[test]
    fn a_question_of_another_generation_is_another_question() {
        let (joined, a) = (Joined::<u8>::default(), name(b"a"));
        assert!(is_free(&joined, &a));
        assert!(is_free(&joined, &Name::new(7, 1, b"a")));
    }

    #[test]
    fn the_end_of_one_turn_does_not_end_the_next() {
        let (joined, [before, now]) = (Joined::default(), [name(b"a"), name(b"a")]);
        assert!(is_free(&joined, &before));
        drop(joined.leave(&before));
        assert!(is_free(&joined, &now));
        assert!(joined.leave(&before).is_empty());
        drop(behind(&joined, b"a"));
        drop(joined.leave(&now));
        assert!(is_free(&joined, &before));
    }
}
