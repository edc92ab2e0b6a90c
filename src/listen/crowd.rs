//! Many futures of one kind within one task, in places that are used again: a query that has to be asked costs neither a
//! task nor an allocation of its own. As in tasks of their own, one that panics ends alone.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::ahead;
use crate::moment;

/// Futures polled in one turn, so that the worker's other sockets have theirs: what one system call sends.
const MOST_IN_TURN: usize = 64;

/// Who is due, and the task that is to know.
#[derive(Default)]
struct Roll {
    due: Vec<usize>,
    owner: Option<Waker>,
}

fn lock(roll: &Mutex<Roll>) -> MutexGuard<'_, Roll> {
    // nothing that is done under this lock can leave the roll half changed
    roll.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes the future in one place, whichever that is by then. Other threads may do so.
struct Call {
    roll: Arc<Mutex<Roll>>,
    place: usize,
    is_due: AtomicBool,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut roll = lock(&self.roll);
        roll.due.push(self.place);
        let owner = roll.owner.take();
        drop(roll);
        if let Some(owner) = owner {
            owner.wake();
        }
    }
}

struct Place<F, K> {
    /// Stays where it is as long as the place is there; nothing while the place is free.
    future: Pin<Box<Option<F>>>,
    /// What it is for; nothing while the place is free.
    key: Option<K>,
    call: Arc<Call>,
    waker: Waker,
}

impl<F, K> Place<F, K> {
    /// Has brought near what is looked at first.
    fn fetch(&self) {
        ahead::fetch(&*self.future);
    }
}

/// What came of a future: nothing if it panicked.
pub type Done<F, K> = (K, Option<<F as Future>::Output>);

/// Futures that are under way, each with what it is for.
pub struct Crowd<F, K> {
    places: Vec<Place<F, K>>,
    /// The places in `places` that are free.
    free: Vec<usize>,
    /// How many places are kept when nothing is under way.
    kept: usize,
    roll: Arc<Mutex<Roll>>,
    /// Those whose turn it is.
    turn: Vec<usize>,
}

impl<F: Future, K> Crowd<F, K> {
    /// Nobody, with at most `kept` places when nobody is under way any more.
    pub fn new(kept: usize) -> Crowd<F, K> {
        Crowd { places: Vec::new(), free: Vec::new(), kept, roll: Arc::default(), turn: Vec::new() }
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The task whose turn it is will poll those who are due from now on.
    pub fn listen(&self, context: &Context<'_>) {
        let mut roll = lock(&self.roll);
        match &roll.owner {
            Some(known) if known.will_wake(context.waker()) => {}
            _ => roll.owner = Some(context.waker().clone()),
        }
    }

    fn vacant_place(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            let place = self.places.len();
            let call = Arc::new(Call { roll: self.roll.clone(), place, is_due: AtomicBool::new(false) });
            self.places.push(Place { future: Box::pin(None), key: None, waker: call.clone().into(), call });
            place
        })
    }

    /// Polls a future for the first time; what came of it if there is nothing to wait for.
    pub fn begin(&mut self, key: K, future: F) -> Option<Done<F, K>> {
        let at = self.vacant_place();
        // that of the next one
        self.free.last().into_iter().for_each(|&next| self.places[next].fetch());
        let place = &mut self.places[at];
        place.future.set(Some(future));
        place.key = Some(key);
        self.poll_place(at)
    }

    fn poll_place(&mut self, at: usize) -> Option<Done<F, K>> {
        let place = self.places.get_mut(at)?;
        // whoever held the place before may have been woken once more
        let future = place.future.as_mut().as_pin_mut()?;
        let waker = &place.waker;
        // a future that has panicked is dropped, and not looked at again
        let polled = catch_unwind(AssertUnwindSafe(|| future.poll(&mut Context::from_waker(waker))));
        let output = match polled {
            Ok(Poll::Pending) => return None,
            Ok(Poll::Ready(output)) => Some(output),
            Err(_) => None,
        };
        place.future.set(None);
        let key = place.key.take()?;
        self.free.push(at);
        if self.is_empty() && self.places.len() > self.kept {
            // what a crowd took is given back
            (self.places, self.free) = Default::default();
        }
        Some((key, output))
    }

    /// Polls all to their end.
    pub async fn finish(mut self, mut done: impl FnMut(Done<F, K>)) {
        poll_fn(|context| {
            self.listen(context);
            self.poll(context, &mut done);
            if self.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Polls those who are due, as many as have their turn at once; `done` gets what came of them.
    pub fn poll(&mut self, context: &Context<'_>, mut done: impl FnMut(Done<F, K>)) {
        let was_left = !self.turn.is_empty();
        if !was_left {
            std::mem::swap(&mut self.turn, &mut lock(&self.roll).due);
        }
        let count = self.turn.len().min(MOST_IN_TURN);
        // what is handed out in one turn is learnt at one moment
        let _held = moment::hold();
        self.turn[..count].iter().filter_map(|&place| self.places.get(place)).for_each(Place::fetch);
        for index in 0..count {
            let place = self.turn[index];
            if let Some(place) = self.places.get(place) {
                // before the poll: what happens from now on is another turn
                place.call.is_due.store(false, Ordering::Release);
            }
            self.poll_place(place).into_iter().for_each(&mut done);
        }
        self.turn.drain(..count);
        // whoever became due before this turn has woken the task for it, and will not do so again
        if !self.turn.is_empty() || was_left && !lock(&self.roll).due.is_empty() {
            context.waker().wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Crowd, MOST_IN_TURN};
    use crate::wake_count_tests::Count;
    use std::sync::Arc;
    use std::task::{Context, Waker};
    use tokio::sync::oneshot::{Receiver, Sender, channel, error::RecvError};

    struct Bench {
        crowd: Crowd<Receiver<usize>, ()>,
        count: Arc<Count>,
        waker: Waker,
    }

    impl Bench {
        fn new(kept: usize) -> Bench {
            let count: Arc<Count> = Arc::default();
            Bench { crowd: Crowd::new(kept), waker: count.clone().into(), count }
        }

        fn begin(&mut self) -> Sender<usize> {
            let (sender, receiver) = channel();
            assert!(self.crowd.begin((), receiver).is_none());
            sender
        }

        fn turn(&mut self) -> Vec<Result<usize, RecvError>> {
            let (mut out, context) = (Vec::new(), Context::from_waker(&self.waker));
            self.crowd.listen(&context);
            self.crowd.poll(&context, |((), one)| out.push(one.unwrap()));
            out
        }
    }

    #[test]
    fn whoever_is_woken_is_polled_and_the_task_is_woken_once() {
        let mut bench = Bench::new(8);
        let [a, b, c] = [(); 3].map(|()| bench.begin());
        assert!(bench.turn().is_empty());
        assert_eq!((bench.crowd.len(), bench.count.taken()), (3, 0));
        c.send(3).unwrap();
        a.send(1).unwrap();
        assert_eq!(bench.count.taken(), 1);
        assert_eq!(bench.turn(), [Ok(3), Ok(1)]);
        drop(b);
        assert_eq!((bench.count.taken(), bench.turn().len()), (1, 1));
        assert!(bench.crowd.is_empty());
    }

    #[test]
    fn what_needs_no_waiting_is_done_at_once() {
        let mut crowd = Crowd::new(8);
        assert_eq!(crowd.begin('a', std::future::ready(7)), Some(('a', Some(7))));
        assert!(crowd.is_empty());
    }

    #[test]
    fn one_that_panics_ends_alone() {
        let mut crowd = Crowd::new(8);
        let answer = |number: u8| async move {
            assert_ne!(number, 2, "this one panics");
            number
        };
        let done: Vec<_> = (1..4).map(|number| crowd.begin(number, answer(number))).collect();
        assert_eq!(done, [Some((1, Some(1))), Some((2, None)), Some((3, Some(3)))]);
        assert!(crowd.is_empty());
    }

    #[test]
    fn a_place_is_used_again_and_its_old_wakers_do_no_harm() {
        let mut bench = Bench::new(8);
        for round in 0..100 {
            let sender = bench.begin();
            sender.send(round).unwrap();
            assert_eq!(bench.turn(), [Ok(round)]);
        }
        assert_eq!(bench.crowd.places.len(), 1);
        let waker = bench.crowd.places[0].waker.clone();
        let sender = bench.begin();
        waker.wake();
        assert!(bench.turn().is_empty());
        sender.send(100).unwrap();
        assert_eq!(bench.turn(), [Ok(100)]);
    }

    #[test]
    fn who_becomes_due_while_others_have_their_turn_has_one_as_well() {
        let mut bench = Bench::new(8);
        let mut senders: Vec<_> = (0..MOST_IN_TURN + 11).map(|_| bench.begin()).collect();
        assert!(bench.turn().is_empty());
        let last = senders.pop();
        senders.into_iter().enumerate().for_each(|(number, sender)| sender.send(number).unwrap());
        assert_eq!((bench.turn().len(), bench.count.taken()), (MOST_IN_TURN, 2));
        last.into_iter().for_each(|sender| sender.send(7).unwrap());
        assert_eq!((bench.count.taken(), bench.turn().len()), (1, 10));
        assert_eq!((bench.count.taken(), bench.turn()), (1, vec![Ok(7)]));
    }

    #[test]
    fn a_large_crowd_has_its_turn_in_parts_and_gives_its_places_back() {
        let mut bench = Bench::new(8);
        let senders: Vec<_> = (0..MOST_IN_TURN + 10).map(|_| bench.begin()).collect();
        assert!(bench.turn().is_empty());
        let old = bench.crowd.places[70].waker.clone();
        senders.into_iter().enumerate().for_each(|(number, sender)| sender.send(number).unwrap());
        assert_eq!(bench.count.taken(), 1);
        assert_eq!((bench.turn().len(), bench.count.taken()), (MOST_IN_TURN, 1));
        assert_eq!(bench.turn().len(), 10);
        assert!(bench.crowd.is_empty() && bench.crowd.places.is_empty());
        old.wake();
        assert!(bench.turn().is_empty());
    }
}
