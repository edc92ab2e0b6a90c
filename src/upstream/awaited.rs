//! What becomes of a query at a server, from the connection to whoever waits for it: both are on the same thread, so that
//! no lock stands between them, and what one pair was made of makes the next one.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::thread::LocalKey;

use crate::ahead;
use crate::bell::Bell;

/// Slots kept when nobody waits: as many as wait on a busy worker.
const KEPT: usize = 256;

/// What can be told.
pub trait Tidings: Sized + 'static {
    /// Where each thread keeps what pairs were made of.
    fn spares() -> &'static LocalKey<Spares<Self>>;
}

/// What pairs were made of.
pub struct Spares<T>(RefCell<Vec<Rc<Slot<T>>>>);

impl<T> Spares<T> {
    /// None yet.
    pub const fn none() -> Spares<T> {
        Spares(RefCell::new(Vec::new()))
    }
}

/// Where the outcome lies until it is fetched.
struct Slot<T> {
    outcome: Cell<Option<T>>,
    /// Whether one of the two has left.
    is_left: Cell<bool>,
    /// Rung for whoever waits for the outcome.
    reader: Bell,
    /// Rung for whoever will know it, and may wait to be needed no more.
    teller: Bell,
}

impl<T: Tidings> Slot<T> {
    fn new() -> Slot<T> {
        Slot { outcome: Cell::new(None), is_left: Cell::default(), reader: Bell::default(), teller: Bell::default() }
    }

    /// One of the two leaves; `other` is what the other one may listen to.
    fn leave(self: &Rc<Self>, other: &Bell) {
        if !self.is_left.replace(true) {
            return other.ring();
        }
        // both have left
        drop(self.outcome.take());
        self.reader.forget();
        self.teller.forget();
        // on a thread that ends nothing is kept
        let _ = T::spares().try_with(|Spares(spare)| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT {
                self.is_left.set(false);
                spare.push(self.clone());
            }
        });
    }
}

/// Whoever will know what became of a query. Dropped without a word, it will never be known.
pub struct Teller<T: Tidings>(Rc<Slot<T>>);

/// Whoever waits for it.
pub struct Awaited<T: Tidings>(Rc<Slot<T>>);

/// A pair for one query.
pub fn pair<T: Tidings>() -> (Teller<T>, Awaited<T>) {
    let slot = T::spares().with(|Spares(spare)| spare.borrow_mut().pop()).unwrap_or_else(|| Rc::new(Slot::new()));
    (Teller(slot.clone()), Awaited(slot))
}

impl<T: Tidings> Teller<T> {
    /// Tells; false if nobody waits any more.
    pub fn tell(self, outcome: T) -> bool {
        let is_awaited = self.is_awaited();
        if is_awaited {
            self.0.outcome.set(Some(outcome));
        }
        is_awaited
    }

    /// Whether somebody waits.
    pub fn is_awaited(&self) -> bool {
        !self.0.is_left.get()
    }

    /// Has brought near what telling reads.
    pub fn fetch(&self) {
        ahead::fetch(&self.0.outcome);
        ahead::fetch(&self.0.is_left);
        ahead::fetch(&self.0.reader);
    }

    /// Waits until nobody waits any more.
    pub fn forsaken(&self) -> impl Future<Output = ()> {
        poll_fn(|context| {
            if !self.is_awaited() {
                return Poll::Ready(());
            }
            self.0.teller.listen(context);
            Poll::Pending
        })
    }
}

impl<T: Tidings> Drop for Teller<T> {
    fn drop(&mut self) {
        self.0.leave(&self.0.reader);
    }
}

impl<T: Tidings> Future for Awaited<T> {
    /// Nothing, if it will never be known.
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        if self.0.is_left.get() {
            return Poll::Ready(self.0.outcome.take());
        }
        self.0.reader.listen(context);
        Poll::Pending
    }
}

impl<T: Tidings> Drop for Awaited<T> {
    fn drop(&mut self) {
        self.0.leave(&self.0.teller);
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Spares, Tidings, pair};
    use crate::wake_count_tests::Count;
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::task::{Context, Poll};
    use std::thread::LocalKey;

    #[derive(Debug, Eq, PartialEq)]
    struct News(u8);

    thread_local! {
        static SPARES: Spares<News> = const { Spares::none() };
    }

    impl Tidings for News {
        fn spares() -> &'static LocalKey<Spares<News>> {
            &SPARES
        }
    }

    /// What a turn of the future brings, and a count of how often it is woken afterwards.
    fn turn<F: Future>(future: Pin<&mut F>) -> (Poll<F::Output>, Arc<Count>) {
        let count: Arc<Count> = Arc::default();
        (future.poll(&mut Context::from_waker(&count.clone().into())), count)
    }

    #[test]
    fn who_waits_is_woken_by_the_outcome_and_has_it() {
        let (teller, mut awaited) = pair::<News>();
        let (pending, count) = turn(Pin::new(&mut awaited));
        assert!(pending.is_pending() && count.taken() == 0 && teller.is_awaited());
        assert!(teller.tell(News(7)));
        assert_eq!(count.taken(), 1);
        assert_eq!(turn(Pin::new(&mut awaited)).0, Poll::Ready(Some(News(7))));
    }

    #[test]
    fn who_waits_learns_that_it_will_never_be_known() {
        let (teller, mut awaited) = pair::<News>();
        let (_, count) = turn(Pin::new(&mut awaited));
        drop(teller);
        assert_eq!(count.taken(), 1);
        assert_eq!(turn(Pin::new(&mut awaited)).0, Poll::Ready(None));
    }

    #[test]
    fn who_will_know_it_learns_that_nobody_waits_any_more() {
        let (teller, mut awaited) = pair::<News>();
        {
            let mut forsaken = pin!(teller.forsaken());
            let ((_, reader), (pending, count)) = (turn(Pin::new(&mut awaited)), turn(forsaken.as_mut()));
            assert!(pending.is_pending());
            drop(awaited);
            assert_eq!((count.taken(), reader.taken(), turn(forsaken).0), (1, 0, Poll::Ready(())));
        }
        assert!(!teller.is_awaited() && !teller.tell(News(7)));
    }

    #[test]
    fn the_next_pair_knows_nothing_of_the_last() {
        for first_leaves in [true, false] {
            let (teller, mut awaited) = pair::<News>();
            let (_, count) = turn(Pin::new(&mut awaited));
            if first_leaves {
                assert!(teller.tell(News(7)));
                drop(awaited);
            } else {
                drop(awaited);
                assert!(!teller.tell(News(7)));
            }
            let woken = count.taken();
            let (teller, mut awaited) = pair::<News>();
            assert!(teller.is_awaited() && turn(Pin::new(&mut awaited)).0.is_pending());
            drop(teller);
            assert_eq!(turn(Pin::new(&mut awaited)).0, Poll::Ready(None));
            assert_eq!((woken, count.taken()), (u8::from(first_leaves).into(), 0));
        }
    }

    #[test]
    fn a_pair_allocates_once_and_few_are_kept() {
        drop(pair::<News>());
        let measured = allocation_counter::measure(|| (0..100).for_each(|_| drop(pair::<News>())));
        assert_eq!(measured.count_total, 0);
        let many: Vec<_> = (0..2 * KEPT).map(|_| pair::<News>()).collect();
        drop(many);
        assert_eq!(SPARES.with(|spares| spares.0.borrow().len()), KEPT);
    }
}
