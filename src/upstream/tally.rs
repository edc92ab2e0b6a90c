//! What is counted for one server, by all workers together.
//!
//! Connections add what they have done a few times a second and at their end, so that workers do not meet at these
//! numbers with every query.

use std::sync::atomic::{AtomicU64, Ordering};

use super::refused::Check;

/// A number that only grows, with many writers.
#[derive(Debug, Default)]
pub struct Total(AtomicU64);

impl Total {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// We closed it: nothing had been asked for as long as it may stay idle.
    Idle,
    /// We closed it: a reload, another network, or a server that asks for it.
    Retired,
    /// The server closed it with nothing in flight, by whatever means.
    ClosedIdle,
    /// The server closed it with queries in flight.
    ClosedBusy,
    /// It broke with queries in flight.
    Broken,
    /// Nothing came for too long.
    Silent,
    /// The server sent what is no answer to anything.
    Nonsense,
}

macro_rules! totals {
    ($($(#[doc = $text:literal])+ $name:ident,)+) => {
        /// What is counted for a server.
        #[derive(Debug, Default)]
        pub struct Tally {
            $($(#[doc = $text])+ pub $name: Total,)+
        }

        impl Tally {
            /// Names and present values, in the order of their definition.
            pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get())),+].into_iter()
            }
        }
    };
}

totals! {
    /// Full handshakes.
    handshakes_full,
    /// Handshakes that resumed a session.
    handshakes_resumed,
    /// Attempts that brought no connection.
    connect_failures,
    /// Of those, refused because the certificate is not for the name.
    refused_name,
    /// Of those, refused because the certificate is not for the address.
    refused_address,
    /// Of those, refused because the certificate is past its validity.
    refused_expired,
    /// Of those, refused because the certificate is not valid yet.
    refused_not_yet_valid,
    /// Of those, refused because nobody but the certificate itself vouches for it.
    refused_self_signed,
    /// Of those, refused because no trusted CA vouches for the certificate.
    refused_issuer,
    /// Of those, refused because the key is none of the pinned ones.
    refused_pin,
    /// Of those, refused for anything else about the certificate, or because the server did not prove to have its key.
    refused_other,
    /// Connections that we closed because nothing was asked.
    ended_idle,
    /// Connections that we closed for a reload, another network, or because the server asked for it.
    ended_retired,
    /// Connections that the server closed with nothing in flight.
    ended_closed_idle,
    /// Connections that the server closed with queries in flight.
    ended_closed_busy,
    /// Connections that broke with queries in flight.
    ended_broken,
    /// Connections given up because nothing came.
    ended_silent,
    /// Connections given up because of what came.
    ended_nonsense,
    /// Queries sent, copies included.
    queries,
    /// Answers that came and belonged to a query.
    answers,
    /// Queries for which somebody waited in vain for as long as one server gets.
    timeouts,
    /// Queries that it got beside another server whose answer was late.
    hedges,
    /// Of those, how many it answered first.
    hedges_won,
    /// Queries that it got because another server had refused or failed to resolve them.
    second_opinions,
    /// Octets of DNS messages sent, with their length fields.
    octets_sent,
    /// Octets of DNS messages received, with their length fields.
    octets_received,
}

impl Tally {
    /// A connection ended.
    pub fn ended(&self, end: End) {
        let total = match end {
            End::Idle => &self.ended_idle,
            End::Retired => &self.ended_retired,
            End::ClosedIdle => &self.ended_closed_idle,
            End::ClosedBusy => &self.ended_closed_busy,
            End::Broken => &self.ended_broken,
            End::Silent => &self.ended_silent,
            End::Nonsense => &self.ended_nonsense,
        };
        total.add(1);
    }

    /// The server failed this check, and got no query.
    pub fn refused(&self, check: Check) {
        let total = match check {
            Check::Name => &self.refused_name,
            Check::Address => &self.refused_address,
            Check::Expired => &self.refused_expired,
            Check::NotYetValid => &self.refused_not_yet_valid,
            Check::SelfSigned => &self.refused_self_signed,
            Check::Issuer => &self.refused_issuer,
            Check::Pin => &self.refused_pin,
            Check::Other => &self.refused_other,
        };
        total.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::{Check, End, Tally};

    #[test]
    fn every_end_has_a_number_of_its_own() {
        let tally = Tally::default();
        let ends = [End::Idle, End::Retired, End::ClosedIdle, End::ClosedBusy, End::Broken, End::Silent, End::Nonsense];
        ends.into_iter().for_each(|end| tally.ended(end));
        let counted = tally.values().filter(|(name, value)| name.starts_with("ended_") && *value == 1).count();
        assert_eq!(counted, ends.len());
        assert_eq!(tally.values().map(|(_, value)| value).sum::<u64>(), ends.len() as u64);
    }

    #[test]
    fn every_failed_check_has_a_number_of_its_own() {
        let tally = Tally::default();
        let checks = [
            Check::Name,
            Check::Address,
            Check::Expired,
            Check::NotYetValid,
            Check::SelfSigned,
            Check::Issuer,
            Check::Pin,
            Check::Other,
        ];
        checks.into_iter().for_each(|check| tally.refused(check));
        for check in checks {
            let name = format!("refused_{}", check.word().replace('-', "_"));
            assert!(tally.values().any(|(counter, value)| counter == name && value == 1), "{name}");
        }
    }
}
