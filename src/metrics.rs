//! Counters of one worker: only that worker writes them, anyone may read them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. There is one writer, so a load and a store suffice, and no bus lock is taken.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $text:literal])+ $name:ident,)+) => {
        /// What a worker counts.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $text])+ pub $name: Counter,)+
        }

        impl Counters {
            /// Names and present values, in the order of their definition.
            pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get())),+].into_iter()
            }
        }
    };
}

counters! {
    /// Signs of life.
    heartbeats,
    /// Queries received in datagrams.
    udp_queries,
    /// Queries received on streams.
    tcp_queries,
    /// Connections accepted from clients.
    tcp_connections,
    /// Connections of clients refused or ended early because of a limit.
    tcp_limited,
    /// Handshakes with clients on TLS that were completed.
    tls_handshakes,
    /// Of those, how many resumed a session.
    tls_resumed,
    /// Handshakes of clients on TLS that failed, or were not finished in time.
    tls_failures,
    /// Messages of clients that were no query: too short, or responses.
    not_queries,
    /// Queries that could not be read, answered FORMERR.
    malformed,
    /// Queries of clients outside `listen.allow`, answered REFUSED, and their connections for TLS, closed at once.
    prohibited,
    /// Datagrams that repeated a query still being answered.
    retransmissions,
    /// Queries answered without a resolver: special names, operations not offered.
    local_replies,
    /// Queries answered from memory.
    cache_hits,
    /// Queries answered from memory although the answer's time was over.
    cache_stale,
    /// Answers in memory that were asked for anew before they were needed.
    cache_refreshes,
    /// Queries that got the answer to the same question of somebody else, which was on its way already.
    joined,
    /// Queries for which no resolver gave an answer in time, answered SERVFAIL.
    failures,
    /// Replies with TC set, by us or by the resolver.
    truncated,
    /// Answers that nobody took any more: the client was gone, or another server had been quicker.
    unsent_answers,
    /// Connections to resolvers whose handshake was completed.
    upstream_connections,
    /// Of those, how many resumed a session.
    upstream_resumed,
    /// Attempts to connect to a resolver that failed.
    upstream_connect_failures,
    /// Queries sent to resolvers, copies included.
    upstream_queries,
    /// Answers from resolvers that a query waited for.
    upstream_answers,
    /// Messages from resolvers with no matching query.
    upstream_strays,
    /// Answers from resolvers whose records ran past their end.
    upstream_garbled,
    /// Queries that a connection took with it when it ended.
    upstream_lost,
}

/// The counters of several workers as one line, without those that are zero.
pub struct Sum<'a>(pub &'a [std::sync::Arc<Counters>]);

impl Sum<'_> {
    /// Names and sums.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let total = |index| self.0.iter().filter_map(|one| one.values().nth(index)).map(|(_, value)| value).sum();
        let names = Counters::default().values().map(|(name, _)| name).collect::<Vec<_>>();
        names.into_iter().enumerate().map(move |(index, name)| (name, total(index)))
    }
}

impl fmt::Display for Sum<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (name, total) in self.values() {
            // signs of life say nothing of what was done
            if total > 0 && name != "heartbeats" {
                write!(out, "{}{name}={total}", if first { "" } else { " " })?;
                first = false;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Counters, Sum};
    use std::sync::Arc;

    #[test]
    fn workers_are_summed_and_zeros_left_out() {
        let workers = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        workers[0].udp_queries.add(2);
        workers[1].udp_queries.add(3);
        workers[1].failures.add(1);
        assert_eq!(Sum(&workers).to_string(), "udp_queries=5 failures=1");
    }
}
