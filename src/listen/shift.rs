//! Which of the workers that share a socket look at it: the first one always, the others while it has much to do. All of
//! them would wake up for every datagram otherwise, and all but one in vain; and one worker that finds several datagrams
//! at once does them with less work than two that find one each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

/// Datagrams that a look of the first worker brings on average from which on the others are called, in eighths: it has
/// hardly any time left then.
const MUCH: u32 = 8 * 8;
/// Datagrams that a look brings on average below which a called worker goes, in eighths.
const LITTLE: u32 = 2 * 8;
/// Looks that a called worker stays for in any case.
const STAY: u32 = 64;

/// What those who share a socket know of each other.
#[derive(Default)]
struct Shift {
    is_called: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Shift {
    fn call(&self) {
        if !self.is_called.swap(true, Ordering::AcqRel) {
            // wakers are whole whatever happened to whoever held the lock
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Whether the others are called; if not, this task will be woken when they are.
    fn poll(&self, context: &Context<'_>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // under the lock: who calls takes the wakers afterwards
        if self.is_called.load(Ordering::Acquire) {
            return true;
        }
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        false
    }
}

/// What one worker has to do with a socket.
pub struct Duty {
    shift: Arc<Shift>,
    is_first: bool,
    is_on: bool,
    /// Datagrams of a look, smoothed, in eighths.
    average: u32,
    looks: u32,
}

impl Duty {
    /// The duties of so many workers at one socket.
    pub fn shared_by(workers: usize) -> Vec<Duty> {
        let shift: Arc<Shift> = Arc::default();
        let duty =
            |number| Duty { shift: shift.clone(), is_first: number == 0, is_on: number == 0, average: 0, looks: 0 };
        (0..workers).map(duty).collect()
    }

    /// Whether the worker looks at the socket as long as it lives.
    pub fn is_first(&self) -> bool {
        self.is_first
    }

    /// Whether the worker is to look at the socket now; if not, its task will be woken when it is.
    pub fn poll(&mut self, context: &Context<'_>) -> bool {
        if !self.is_on && self.shift.poll(context) {
            (self.is_on, self.average, self.looks) = (true, MUCH, 0);
        }
        self.is_on
    }

    /// A look has brought so many datagrams. Returns whether the worker is to look on; if not, its task will be woken when
    /// it is to look again.
    pub fn looked(&mut self, datagrams: usize, context: &Context<'_>) -> bool {
        let datagrams = u32::try_from(datagrams).unwrap_or(u32::MAX).min(1000);
        self.average = self.average - self.average / 8 + datagrams;
        if self.is_first {
            if self.average >= MUCH {
                self.shift.call();
            }
            return true;
        }
        self.looks = self.looks.saturating_add(1);
        if self.looks >= STAY && self.average < LITTLE {
            self.is_on = false;
            self.shift.is_called.store(false, Ordering::Release);
            // nothing else may wake this task any more
            return self.poll(context);
        }
        self.is_on
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Duty, STAY};
    use crate::wake_count_tests::Count;
    use std::sync::Arc;
    use std::task::{Context, Waker};

    #[test]
    fn the_others_are_called_while_the_first_has_much_to_do() {
        let count: Arc<Count> = Arc::default();
        let waker = Waker::from(count.clone());
        let context = Context::from_waker(&waker);
        let [mut first, mut second, mut third]: [Duty; 3] = Duty::shared_by(3).try_into().ok().unwrap();
        assert!(first.poll(&context) && !second.poll(&context) && !second.poll(&context) && !third.poll(&context));
        // a burst is no load
        assert!(first.looked(30, &context) && (0..100).all(|_| first.looked(3, &context)));
        assert_eq!(count.taken(), 0);
        assert!((0..100).all(|_| first.looked(9, &context)));
        // both wait with the same waker here
        assert_eq!(count.taken(), 1);
        assert!(second.poll(&context) && third.poll(&context));
        // each has enough to do
        assert!((0..1000).all(|_| second.looked(5, &context)));
        assert!((0..STAY + 20).any(|_| !second.looked(1, &context)));
        assert_eq!(count.taken(), 0);
        // nobody has polled the second since, which is woken all the same
        (0..8).for_each(|_| assert!(first.looked(40, &context)));
        assert_eq!(count.taken(), 1);
        assert!(second.poll(&context) && first.poll(&context));
    }

    #[test]
    fn who_is_called_stays_for_a_while() {
        let [mut first, mut second]: [Duty; 2] = Duty::shared_by(2).try_into().ok().unwrap();
        let context = Context::from_waker(Waker::noop());
        assert!(!second.poll(&context));
        (0..20).for_each(|_| assert!(first.looked(20, &context)));
        assert!(second.poll(&context));
        let stayed = (0..1000).take_while(|_| second.looked(0, &context)).count();
        assert_eq!(stayed + 1, usize::try_from(STAY).unwrap());
    }

    #[test]
    fn who_is_alone_looks_always() {
        let (mut alone, context) = (Duty::shared_by(1), Context::from_waker(Waker::noop()));
        assert!(alone[0].poll(&context) && (0..1000).all(|count| alone[0].looked(count % 50, &context)));
    }
}
