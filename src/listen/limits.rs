//! How many connections clients may hold, in all and each (pure; RFC 7766 §6.2.2, RFC 9210 §4.2).
//!
//! At the limit a newcomer takes the place of the connection that has been idle longest; where none is idle, it is
//! turned away. One client's limit is its own affair: it never costs another client a connection.

use std::collections::HashMap;
use std::net::IpAddr;
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

#[derive(Clone, Copy, Debug)]
struct Held {
    origin: Origin,
    /// Since when it has had nothing to do.
    idle_since: Option<Instant>,
}

/// What to do with a newcomer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// There is room; its number.
    Admitted(u64),
    /// It takes the place of this connection, which must be closed.
    Replaces {
        /// The number of the newcomer.
        newcomer: u64,
        /// The number of the connection to close.
        closed: u64,
    },
    /// Everybody is busy.
    TurnedAway,
}

/// The connections of a worker's clients.
#[derive(Debug)]
pub struct Places {
    total: usize,
    per_origin: usize,
    held: HashMap<u64, Held>,
    counts: HashMap<Origin, usize>,
    next: u64,
}

impl Places {
    /// At most `total` connections, and `per_origin` for each client.
    pub fn new(total: usize, per_origin: usize) -> Places {
        Places { total, per_origin, held: HashMap::new(), counts: HashMap::new(), next: 0 }
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// A client connects.
    pub fn admit(&mut self, client: IpAddr, now: Instant) -> Admission {
        let origin = Origin::of(client);
        let own = self.counts.get(&origin).copied().unwrap_or(0);
        if own < self.per_origin && self.held.len() < self.total {
            return Admission::Admitted(self.enter(origin, now));
        }
        let whose = (own >= self.per_origin).then_some(origin);
        let idle = self.held.iter().filter(|(_, held)| whose.is_none_or(|origin| held.origin == origin));
        let longest = idle.filter_map(|(&number, held)| Some((held.idle_since?, number))).min();
        let Some((_, closed)) = longest else { return Admission::TurnedAway };
        self.leave(closed);
        Admission::Replaces { newcomer: self.enter(origin, now), closed }
    }

    /// Other limits from now on. Gives the idle connections that must be closed to come within the new total, those that
    /// have been idle longest first; busy ones stay until they end.
    pub fn resize(&mut self, total: usize, per_origin: usize) -> Vec<u64> {
        (self.total, self.per_origin) = (total, per_origin);
        let mut idle: Vec<(Instant, u64)> =
            self.held.iter().filter_map(|(&number, held)| Some((held.idle_since?, number))).collect();
        idle.sort_unstable();
        let surplus = self.held.len().saturating_sub(total);
        let closed: Vec<u64> = idle.into_iter().take(surplus).map(|(_, number)| number).collect();
        for &number in &closed {
            self.leave(number);
        }
        closed
    }

    fn enter(&mut self, origin: Origin, now: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        self.held.insert(number, Held { origin, idle_since: Some(now) });
        *self.counts.entry(origin).or_default() += 1;
        number
    }

    /// The connection has something to do (`None`), or has had nothing to do since then.
    pub fn mark(&mut self, number: u64, idle_since: Option<Instant>) {
        if let Some(held) = self.held.get_mut(&number) {
            held.idle_since = idle_since;
        }
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
    use super::{Admission, Origin, Places};
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_connection_idle_longest_makes_room() {
        let (mut places, now) = (Places::new(3, 3), Instant::now());
        for (last, second) in [(1, 5), (2, 3), (3, 4)] {
            assert!(matches!(places.admit(ip(last), now + Duration::from_secs(second)), Admission::Admitted(_)));
        }
        assert_eq!(places.admit(ip(4), now), Admission::Replaces { newcomer: 3, closed: 1 });
        assert_eq!(places.len(), 3);
    }

    #[test]
    fn a_busy_connection_is_never_taken() {
        let (mut places, now) = (Places::new(2, 2), Instant::now());
        for number in 0..2 {
            places.admit(ip(1), now);
            places.mark(number, None);
        }
        assert_eq!(places.admit(ip(2), now), Admission::TurnedAway);
        places.mark(1, Some(now));
        assert_eq!(places.admit(ip(2), now), Admission::Replaces { newcomer: 2, closed: 1 });
    }

    #[test]
    fn one_client_at_its_limit_costs_nobody_else_a_place() {
        let (mut places, now) = (Places::new(10, 2), Instant::now());
        places.admit(ip(9), now);
        for _ in 0..2 {
            places.admit(ip(1), now + Duration::from_secs(1));
        }
        // the idle connection of the other client is older, and stays
        assert_eq!(places.admit(ip(1), now), Admission::Replaces { newcomer: 3, closed: 1 });
        places.leave(0);
        places.leave(0);
        assert_eq!(places.len(), 2);
    }

    #[test]
    fn a_smaller_total_closes_idle_connections_and_no_busy_ones() {
        let (mut places, now) = (Places::new(9, 9), Instant::now());
        for number in 0..5 {
            places.admit(ip(1), now + Duration::from_secs(number));
        }
        places.mark(0, None);
        assert_eq!(places.resize(3, 9), [1, 2]);
        for number in [3, 4] {
            places.mark(number, None);
        }
        assert_eq!((places.resize(1, 9), places.len()), (Vec::new(), 3));
        assert_eq!(places.admit(ip(2), now), Admission::TurnedAway);
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_a_mapped_address_is_ipv4() {
        let origin = |text: &str| text.parse::<IpAddr>().map(Origin::of);
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
    }
}
