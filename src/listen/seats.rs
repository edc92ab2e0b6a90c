//! The places of all clients' connections, as the workers share them; a worker hears which of its own must make room for
//! those that another one has accepted.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::limits::{Leaving, Places, Seat};

/// Where one worker hears which of its connections leave.
#[derive(Default)]
struct Door {
    numbers: Mutex<Vec<u64>>,
    bell: Notify,
}

/// All places.
pub struct Seats {
    places: Mutex<Places>,
    doors: Vec<Door>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // nothing that is done under these locks can leave what they hold half changed
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seats {
    /// These places, for so many workers.
    pub fn new(places: Places, workers: usize) -> Seats {
        Seats { places: Mutex::new(places), doors: (0..workers).map(|_| Door::default()).collect() }
    }

    /// A client connects to this worker; nothing if everybody is busy.
    pub fn admit(&self, worker: usize, client: IpAddr, now: Instant) -> Option<Seat> {
        let seat = lock(&self.places).admit(worker, client, now);
        seat.iter().filter_map(|seat| seat.instead_of).for_each(|leaving| self.ask_to_leave(leaving));
        seat
    }

    /// Other limits from now on.
    pub fn resize(&self, total: usize, per_client: usize) {
        let leaving = lock(&self.places).resize(total, per_client);
        leaving.into_iter().for_each(|leaving| self.ask_to_leave(leaving));
    }

    /// A connection has ended.
    pub fn leave(&self, number: u64) {
        lock(&self.places).leave(number);
    }

    fn ask_to_leave(&self, Leaving { worker, number }: Leaving) {
        if let Some(door) = self.doors.get(worker) {
            lock(&door.numbers).push(number);
            door.bell.notify_one();
        }
    }

    /// Waits until connections of this worker must make room; gives their numbers.
    pub async fn leaving(&self, worker: usize) -> Vec<u64> {
        let Some(door) = self.doors.get(worker) else { return std::future::pending().await };
        loop {
            let numbers = std::mem::take(&mut *lock(&door.numbers));
            if !numbers.is_empty() {
                return numbers;
            }
            door.bell.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Places, Seats};
    use std::future::Future;
    use std::net::IpAddr;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::{Duration, Instant};

    #[test]
    fn the_worker_that_has_the_connection_hears_that_it_must_leave() {
        let now = Instant::now();
        let seats = Seats::new(Places::new(2, 2, now), 2);
        let client = |last: u8| IpAddr::from([192, 0, 2, last]);
        let mut context = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (pin!(seats.leaving(0)), pin!(seats.leaving(1)));
        for (worker, last) in [(1, 1), (0, 2)] {
            seats.admit(worker, client(last), now + Duration::from_secs(u64::from(last))).unwrap();
        }
        assert!(first.as_mut().poll(&mut context).is_pending() && second.as_mut().poll(&mut context).is_pending());
        // of several at once none is forgotten
        assert!((3..5).all(|last| seats.admit(0, client(last), now + Duration::from_secs(9)).is_some()));
        assert_eq!(second.as_mut().poll(&mut context), Poll::Ready(vec![0]));
        assert_eq!(first.as_mut().poll(&mut context), Poll::Ready(vec![1]));
        seats.resize(1, 2);
        assert_eq!(pin!(seats.leaving(0)).poll(&mut context), Poll::Ready(vec![2]));
    }
}
