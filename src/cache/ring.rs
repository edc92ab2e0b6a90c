//! Records of octets in one allocation, first in, first out: a ring (pure).
//!
//! A record never wraps around the end, where a filler stands instead. Memory that no record has ever touched is never
//! resident, since the allocation begins as zeros that the kernel gives on first use.

use crate::ahead;

/// Records begin at multiples of this many octets.
const GRAIN: usize = 8;
/// Octets before a record's content: its length with them, in grains; the top bit marks a filler.
const HEAD: usize = 4;
const FILLER: u32 = 1 << 31;

/// Where a record stands, for as long as it is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place(u32);

impl Place {
    /// As a number below 2^31.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The place with this number.
    pub fn numbered(number: u32) -> Place {
        Place(number)
    }

    fn at(self) -> usize {
        // lossless: a usize has at least 32 bits wherever this program runs
        usize::try_from(self.0).unwrap_or(0) * GRAIN
    }
}

/// The ring.
pub struct Ring {
    octets: Box<[u8]>,
    /// Where the next record goes.
    head: usize,
    /// Where the oldest one is.
    tail: usize,
    /// Octets between them, fillers included.
    used: usize,
}

/// Octets that a record with this much content takes.
pub fn taken_by(content: usize) -> usize {
    (HEAD + content).next_multiple_of(GRAIN)
}

impl Ring {
    /// A ring of so many octets, less what is no whole grain.
    pub fn new(octets: usize) -> Ring {
        let most = usize::try_from(FILLER).unwrap_or(usize::MAX);
        let octets = (octets / GRAIN).min(most - 1) * GRAIN;
        Ring { octets: vec![0; octets].into(), head: 0, tail: 0, used: 0 }
    }

    /// Octets in all.
    pub fn capacity(&self) -> usize {
        self.octets.len()
    }

    /// Whether it has no record.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Makes room for a record with this much content at the head, whose content is what was there before; `None` if there is
    /// no such room.
    pub fn push(&mut self, content: usize) -> Option<Place> {
        let length = taken_by(content);
        let at = self.spot(length)?;
        self.settle(at, length)
    }

    /// Whether there is room for a record with this much content.
    pub fn has_room(&self, content: usize) -> bool {
        self.spot(taken_by(content)).is_some()
    }

    /// Has brought near the beginning of what stands behind a record.
    pub fn fetch_after(&self, place: Place) {
        let (length, _) = self.head_at(place.at());
        self.octets.get(place.at() + length).into_iter().for_each(ahead::fetch);
    }

    /// Where a record of this length can begin: at the head, or at the beginning where the end is too near.
    fn spot(&self, length: usize) -> Option<usize> {
        let capacity = self.octets.len();
        if self.used == capacity {
            return None;
        }
        if self.head < self.tail {
            return (length <= self.tail - self.head).then_some(self.head);
        }
        match length {
            length if length <= capacity - self.head => Some(self.head),
            length if length <= self.tail => Some(0),
            _ => None,
        }
    }

    fn settle(&mut self, at: usize, length: usize) -> Option<Place> {
        if at != self.head {
            let behind = self.octets.len() - self.head;
            self.write_head(self.head, behind, FILLER);
            self.used += behind;
        }
        self.write_head(at, length, 0);
        self.used += length;
        self.head = if at + length == self.octets.len() { 0 } else { at + length };
        Some(Place(u32::try_from(at / GRAIN).ok()?))
    }

    fn write_head(&mut self, at: usize, length: usize, mark: u32) {
        let grains = u32::try_from(length / GRAIN).unwrap_or(0);
        self.octets[at..at + HEAD].copy_from_slice(&(grains | mark).to_le_bytes());
    }

    /// Length in octets of what stands at a place, and whether it is a filler.
    fn head_at(&self, at: usize) -> (usize, bool) {
        let head = self
            .octets
            .get(at..)
            .and_then(|rest| rest.first_chunk::<HEAD>())
            .map_or(0, |head| u32::from_le_bytes(*head));
        (usize::try_from(head & !FILLER).unwrap_or(0) * GRAIN, head & FILLER != 0)
    }

    /// The oldest record.
    pub fn oldest(&mut self) -> Option<Place> {
        while self.used > 0 {
            let (length, is_filler) = self.head_at(self.tail);
            if !is_filler {
                return u32::try_from(self.tail / GRAIN).ok().map(Place);
            }
            self.leave(length);
        }
        None
    }

    /// Lets the oldest record go.
    pub fn pop(&mut self) {
        if self.oldest().is_some() {
            let (length, _) = self.head_at(self.tail);
            self.leave(length);
        }
    }

    fn leave(&mut self, length: usize) {
        self.used = self.used.saturating_sub(length);
        self.tail = if self.tail + length >= self.octets.len() { 0 } else { self.tail + length };
        if self.used == 0 {
            (self.head, self.tail) = (0, 0);
        }
    }

    /// Moves the oldest record to the head, for which there is always room: from where, and where to.
    pub fn turn(&mut self) -> Option<(Place, Place)> {
        let from = self.oldest()?;
        let (length, _) = self.head_at(self.tail);
        if self.used == length {
            return Some((from, from));
        }
        self.leave(length);
        let at = self.spot(length)?;
        // what it leaves may be part of what it gets: copied before anything is written there
        self.octets.copy_within(from.at() + HEAD..from.at() + length, at + HEAD);
        Some((from, self.settle(at, length)?))
    }

    /// The content of a record, with what fills its last grain.
    pub fn content(&self, place: Place) -> &[u8] {
        let at = place.at();
        let (length, _) = self.head_at(at);
        self.octets.get(at + HEAD..at + length).unwrap_or_default()
    }

    /// The content of a record, to be changed.
    pub fn content_mut(&mut self, place: Place) -> &mut [u8] {
        let at = place.at();
        let (length, _) = self.head_at(at);
        self.octets.get_mut(at + HEAD..at + length).unwrap_or_default()
    }

    /// All records, the oldest first.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let (mut at, mut left) = (self.tail, self.used);
        std::iter::from_fn(move || {
            while left > 0 {
                let (here, (length, is_filler)) = (at, self.head_at(at));
                if length == 0 {
                    return None;
                }
                left = left.saturating_sub(length);
                at = if at + length >= self.octets.len() { 0 } else { at + length };
                if !is_filler {
                    return u32::try_from(here / GRAIN).ok().map(Place);
                }
            }
            None
        })
    }

    /// Lets all records go.
    pub fn clear(&mut self) {
        (self.head, self.tail, self.used) = (0, 0, 0);
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod ring_tests;
