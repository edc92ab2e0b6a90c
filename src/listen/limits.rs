//! How many connections clients may hold, in all and each (pure; RFC 7766 §6.2.2, RFC 9210 §4.2).
//!
//! At the limit a newcomer takes the place of the connection that has been idle longest; where none is idle, it is
//! turned away. One client's limit is its own affair: it never costs another client a connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The limits of a client's connection, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without a whole message for so long, and with nothing to answer, it is closed.
    pub idle: Duration,
    /// With answers that the client does not read for so long, it is closed.
    pub write: Duration,
    /// Queries in flight; at this number no more is read.
    pub in_flight: usize,
    /// Octets of answers that wait; at this number no more is read.
    pub unread: usize,
}

/// Whom connections are counted for: an IPv4 address, or an IPv6 network of 64 bits, of which one host has the whole.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Origin(IpAddr);

impl Origin {
    /// The origin of a client.
    pub fn of(client: IpAddr) -> Origin {
        match client.to_canonical() {
            IpAddr::V6(address) => {
                let bits = u128::from(address) & !u128::from(u64::MAX);
                Origin(IpAddr::V6(bits.into()))
            }
            v4 @ IpAddr::V4(_) => Origin(v4),
        }
    }
}

/// Since when a connection has had nothing to do: told by the worker that has it, read by all.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Nanoseconds after `epoch`; `BUSY` while it has something to do.
    idle_since: Arc<AtomicU64>,
    epoch: Instant,
}

const BUSY: u64 = u64::MAX;

impl Mark {
    /// The connection has something to do (`None`), or has had nothing to do since then.
    pub fn set(&self, idle_since: Option<Instant>) {
        let after = |since: Instant| u64::try_from(since.saturating_duration_since(self.epoch).as_nanos());
        let since = idle_since.map_or(BUSY, |since| after(since).unwrap_or(BUSY));
        self.idle_since.store(since, Ordering::Relaxed);
    }

    fn idle_since(&self) -> Option<u64> {
        Some(self.idle_since.load(Ordering::Relaxed)).filter(|&since| since != BUSY)
    }
}

#[derive(Clone, Debug)]
struct Held {
    origin: Origin,
    worker: usize,
    mark: Mark,
}

/// A connection that must be closed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Leaving {
    /// Its number.
    pub number: u64,
    /// The worker that has it.
    pub worker: usize,
}

/// A newcomer's place.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its number.
    pub number: u64,
    /// Where to say that it is idle.
    pub mark: Mark,
    /// Whose place it is, if it was somebody's.
    pub instead_of: Option<Leaving>,
}

/// The connections of all clients.
#[derive(Debug)]
pub struct Places {
    total: usize,
    per_origin: usize,
    held: HashMap<u64, Held>,
    counts: HashMap<Origin, usize>,
    next: u64,
    epoch: Instant,
}

impl Places {
    /// At most `total` connections, and `per_origin` for each client.
    pub fn new(total: usize, per_origin: usize, now: Instant) -> Places {
        Places { total, per_origin, held: HashMap::new(), counts: HashMap::new(), next: 0, epoch: now }
    }

    /// A client connects to this worker; nothing if everybody is busy.
    pub fn admit(&mut self, worker: usize, client: IpAddr, now: Instant) -> Option<Seat> {
        let origin = Origin::of(client);
        let own = self.counts.get(&origin).copied().unwrap_or(0);
        if own < self.per_origin && self.held.len() < self.total {
            return Some(self.enter(worker, origin, now));
        }
        let whose = (own >= self.per_origin).then_some(origin);
        let (_, leaving) = self.idle(whose).min()?;
        self.leave(leaving.number);
        Some(Seat { instead_of: Some(leaving), ..self.enter(worker, origin, now) })
    }

    /// The idle connections of one origin, or of all, with the moments since when they have been.
    fn idle(&self, whose: Option<Origin>) -> impl Iterator<Item = (u64, Leaving)> {
        let those = self.held.iter().filter(move |(_, held)| whose.is_none_or(|origin| held.origin == origin));
        those.filter_map(|(&number, held)| Some((held.mark.idle_since()?, Leaving { number, worker: held.worker })))
    }

    /// Other limits from now on. Gives the idle connections that must be closed to come within the new total, those that
    /// have been idle longest first; busy ones stay until they end.
    pub fn resize(&mut self, total: usize, per_origin: usize) -> Vec<Leaving> {
        (self.total, self.per_origin) = (total, per_origin);
        let surplus = self.held.len().saturating_sub(total);
        let mut idle: Vec<_> = self.idle(None).collect();
        idle.sort_unstable();
        let leaving: Vec<_> = idle.into_iter().take(surplus).map(|(_, leaving)| leaving).collect();
        leaving.iter().for_each(|leaving| self.leave(leaving.number));
        leaving
    }

    fn enter(&mut self, worker: usize, origin: Origin, now: Instant) -> Seat {
        let number = self.next;
        self.next += 1;
        let mark = Mark { idle_since: Arc::default(), epoch: self.epoch };
        mark.set(Some(now));
        self.held.insert(number, Held { origin, worker, mark: mark.clone() });
        *self.counts.entry(origin).or_default() += 1;
        Seat { number, mark, instead_of: None }
    }

    /// The connection has ended. To say so twice does no harm.
    pub fn leave(&mut self, number: u64) {
        let Some(held) = self.held.remove(&number) else { return };
        if let Some(count) = self.counts.get_mut(&held.origin) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&held.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Leaving, Origin, Places, Seat};
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// The number of a newcomer, and whose place it has.
    fn numbers(seat: Option<Seat>) -> Option<(u64, Option<u64>)> {
        seat.map(|seat| (seat.number, seat.instead_of.map(|leaving| leaving.number)))
    }

    #[test]
    fn the_connection_idle_longest_makes_room_whoever_has_it() {
        let now = Instant::now();
        let mut places = Places::new(3, 3, now);
        for (last, second) in [(1, 5), (2, 3), (3, 4)] {
            let seat = places.admit(usize::from(last), ip(last), now + Duration::from_secs(second)).unwrap();
            assert_eq!(seat.instead_of, None);
        }
        let seat = places.admit(0, ip(4), now).unwrap();
        assert_eq!((seat.number, seat.instead_of), (3, Some(Leaving { worker: 2, number: 1 })));
        assert_eq!(places.held.len(), 3);
    }

    #[test]
    fn a_busy_connection_is_never_taken() {
        let now = Instant::now();
        let mut places = Places::new(2, 2, now);
        let seats: Vec<Seat> = (0..2).map(|_| places.admit(0, ip(1), now).unwrap()).collect();
        seats.iter().for_each(|seat| seat.mark.set(None));
        assert_eq!(numbers(places.admit(0, ip(2), now)), None);
        seats[1].mark.set(Some(now));
        assert_eq!(numbers(places.admit(0, ip(2), now)), Some((2, Some(1))));
    }

    #[test]
    fn one_client_at_its_limit_costs_nobody_else_a_place() {
        let now = Instant::now();
        let mut places = Places::new(10, 2, now);
        assert!(places.admit(0, ip(9), now).is_some());
        for worker in 0..2 {
            assert!(places.admit(worker, ip(1), now + Duration::from_secs(1)).is_some());
        }
        // the idle connection of the other client is older, and stays
        assert_eq!(numbers(places.admit(0, ip(1), now)), Some((3, Some(1))));
        places.leave(0);
        places.leave(0);
        assert_eq!(places.held.len(), 2);
    }

    #[test]
    fn a_smaller_total_closes_idle_connections_and_no_busy_ones() {
        let now = Instant::now();
        let mut places = Places::new(9, 9, now);
        let seats: Vec<Seat> =
            (0..5).map(|number| places.admit(0, ip(1), now + Duration::from_secs(number)).unwrap()).collect();
        seats[0].mark.set(None);
        let closed = |leaving: Vec<Leaving>| leaving.into_iter().map(|leaving| leaving.number).collect::<Vec<_>>();
        assert_eq!(closed(places.resize(3, 9)), [1, 2]);
        seats[3..].iter().for_each(|seat| seat.mark.set(None));
        assert_eq!((closed(places.resize(1, 9)), places.held.len()), (Vec::new(), 3));
        assert_eq!(numbers(places.admit(0, ip(2), now)), None);
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_a_mapped_address_is_ipv4() {
        let origin = |text: &str| text.parse::<IpAddr>().map(Origin::of);
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
    }
}
