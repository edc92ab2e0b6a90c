//! Where a zone transfer ends: by its SOA records, not by the number of its messages (RFC 5936 §2.2, RFC 1995 §4).

use super::message::{Message, Section, rcode, rtype};

/// Whether more messages of the transfer will come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// The closing SOA has not come yet.
    More,
    /// This was the last message.
    Done,
}

/// Where in the answer the next record stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Nothing was seen.
    Opening,
    /// The first SOA was seen; the next record tells an incremental answer from a whole zone.
    Second,
    /// In a whole zone: the next SOA closes it.
    Zone,
    /// In the records that a difference sequence deletes.
    Deletions,
    /// In the records that a difference sequence adds.
    Additions,
    Closed,
}

/// The messages of one transfer, as they come by.
#[derive(Clone, Debug)]
pub struct Transfer {
    place: Place,
    /// The serial that the client has, in an incremental transfer.
    known: Option<u32>,
    incremental: bool,
    serial: u32,
}

/// SERIAL of an SOA record: the first of the five numbers that end it.
fn serial(rdata: &[u8]) -> Option<u32> {
    let numbers = rdata.get(rdata.len().checked_sub(20)?..)?;
    Some(u32::from_be_bytes(numbers[..4].try_into().ok()?))
}

impl Transfer {
    /// A transfer that `query` asks for; `None` if it asks for none.
    pub fn asked_by(query: &Message<'_>) -> Option<Transfer> {
        let incremental = match query.question()?.qtype() {
            rtype::AXFR => false,
            rtype::IXFR => true,
            _ => return None,
        };
        let mut authority =
            query.records().filter(|record| record.section == Section::Authority && record.rtype == rtype::SOA);
        let known = authority.next().and_then(|record| serial(record.rdata));
        Some(Transfer { place: Place::Opening, known, incremental, serial: 0 })
    }

    /// Takes note of the next message of the answer.
    ///
    /// An error ends a transfer. A message without records, as padding makes them, ends nothing (RFC 9103 §7.8).
    pub fn observe(&mut self, message: &Message<'_>) -> Progress {
        let extended = message.opt().map_or(0, |opt| opt.extended_rcode());
        if message.rcode() != rcode::NOERROR || extended != 0 || message.is_truncated() {
            return Progress::Done;
        }
        for record in message.records().filter(|record| record.section == Section::Answer) {
            let soa = if record.rtype == rtype::SOA { serial(record.rdata) } else { None };
            self.place = self.after(soa);
        }
        if self.place == Place::Closed || self.is_up_to_date() { Progress::Done } else { Progress::More }
    }

    /// A single SOA that is no newer than what the client has is the whole answer (RFC 1995 §2).
    fn is_up_to_date(&self) -> bool {
        // serial numbers compare in a circle (RFC 1982 §3.2)
        self.place == Place::Second
            && self.incremental
            && self.known.is_some_and(|known| self.serial == known || known.wrapping_sub(self.serial) < 1 << 31)
    }

    /// The place behind a record with this SOA serial, or behind one of another type.
    fn after(&mut self, soa: Option<u32>) -> Place {
        match (self.place, soa) {
            (Place::Opening, Some(serial)) => {
                self.serial = serial;
                if self.incremental { Place::Second } else { Place::Zone }
            }
            // an answer that does not begin with an SOA is no transfer
            (Place::Opening | Place::Closed, _) => Place::Closed,
            (Place::Second, Some(serial)) if serial == self.serial => Place::Closed,
            (Place::Second, Some(_)) => Place::Deletions,
            (Place::Second | Place::Zone, None) => Place::Zone,
            (Place::Zone, Some(_)) => Place::Closed,
            (Place::Deletions, Some(_)) => Place::Additions,
            (Place::Additions, Some(serial)) if serial == self.serial => Place::Closed,
            (Place::Additions, Some(_)) => Place::Deletions,
            (place @ (Place::Deletions | Place::Additions), None) => place,
        }
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod transfer_tests;
