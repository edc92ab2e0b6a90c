//! One part of the memory: answers by the hash of their key, never more than so many octets in all (pure).
//!
//! What is asked for once leaves first: S3-FIFO (Yang et al., SOSP 2023). A new answer goes into a small ring. From its end
//! it moves to the main ring if it was of use, else only a ghost of it stays; what has left a ghost goes to the main ring at
//! once when it comes again. At the end of the main ring an answer that was of use gets another turn. So a scan of names
//! passes through the small ring and moves nothing else out.
//!
//! All octets are allocated at the beginning, as zeros that become resident when they are first used: the rings, and an index
//! with the ghosts. Nothing is allocated afterwards.

use std::sync::Arc;

use super::index::{Index, Lines, Slot};
use super::ring::{Place, Ring, taken_by};

/// Part of the octets that the index takes: one in so many.
const INDEX_PART: usize = 11;
/// Part of the rest that the small ring takes.
const SMALL_PART: usize = 10;
/// Uses are counted so far.
const MOST_USES: u8 = 3;
/// Answers that get another turn in the main ring while room is made for one: more would hold everybody up.
const TURNS: usize = 64;
/// Octets of what is kept beside an answer and its TTLs' places.
const FIXED: usize = 40;
/// The smallest shelf.
const SMALLEST: usize = 64 * 1024;

/// Where things stand in a record.
mod field {
    use std::ops::Range;

    pub(super) const HASH: Range<usize> = 0..8;
    pub(super) const STORED_AT: Range<usize> = 8..16;
    pub(super) const RETRY_AT: Range<usize> = 16..24;
    pub(super) const LIFETIME: Range<usize> = 24..28;
    pub(super) const BODY: Range<usize> = 28..30;
    pub(super) const PLACES: Range<usize> = 30..32;
    pub(super) const VARIANT: Range<usize> = 32..37;
    pub(super) const MARK: usize = 37;
    pub(super) const USES: usize = 38;
    pub(super) const IS_DEAD: usize = 39;
}

/// What is kept with an answer, and may change while it is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// When it was stored: milliseconds of a clock that the caller owns.
    pub stored_at: u64,
    /// How long it may be used as fresh, in seconds.
    pub lifetime: u32,
    /// Not asked for again before this time, milliseconds of the same clock.
    pub retry_at: u64,
    /// Meaning is the caller's.
    pub mark: u8,
}

/// A stored answer.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// What distinguishes answers to the same question, in the caller's form.
    pub variant: [u8; 5],
    /// What may change.
    pub stamp: Stamp,
    /// Uses since it was stored, up to 3.
    pub uses: u8,
    /// Places of TTLs in the body, two octets big-endian each.
    pub places: &'a [u8],
    /// The message.
    pub body: &'a [u8],
}

fn number<const N: usize>(record: &[u8], field: std::ops::Range<usize>) -> [u8; N] {
    record.get(field).and_then(|octets| octets.try_into().ok()).unwrap_or([0; N])
}

fn length(record: &[u8], field: std::ops::Range<usize>) -> usize {
    usize::from(u16::from_le_bytes(number(record, field)))
}

fn hash_of(record: &[u8]) -> u64 {
    u64::from_le_bytes(number(record, field::HASH))
}

fn is_dead(record: &[u8]) -> bool {
    record.get(field::IS_DEAD).is_none_or(|&dead| dead != 0)
}

fn stamp_of(record: &[u8]) -> Stamp {
    Stamp {
        stored_at: u64::from_le_bytes(number(record, field::STORED_AT)),
        lifetime: u32::from_le_bytes(number(record, field::LIFETIME)),
        retry_at: u64::from_le_bytes(number(record, field::RETRY_AT)),
        mark: record[field::MARK],
    }
}

fn write_stamp(record: &mut [u8], stamp: &Stamp) {
    record[field::STORED_AT].copy_from_slice(&stamp.stored_at.to_le_bytes());
    record[field::LIFETIME].copy_from_slice(&stamp.lifetime.to_le_bytes());
    record[field::RETRY_AT].copy_from_slice(&stamp.retry_at.to_le_bytes());
    record[field::MARK] = stamp.mark;
}

fn stored(record: &[u8]) -> Stored<'_> {
    let body = FIXED + length(record, field::BODY);
    let places = body + length(record, field::PLACES);
    Stored {
        variant: number(record, field::VARIANT),
        stamp: stamp_of(record),
        uses: record[field::USES],
        body: record.get(FIXED..body).unwrap_or_default(),
        places: record.get(body..places).unwrap_or_default(),
    }
}

fn write(record: &mut [u8], hash: u64, entry: &Stored<'_>, uses: u8) {
    let short = |length: usize| u16::try_from(length).unwrap_or(0).to_le_bytes();
    record[field::HASH].copy_from_slice(&hash.to_le_bytes());
    write_stamp(record, &entry.stamp);
    record[field::BODY].copy_from_slice(&short(entry.body.len()));
    record[field::PLACES].copy_from_slice(&short(entry.places.len()));
    record[field::VARIANT].copy_from_slice(&entry.variant);
    (record[field::USES], record[field::IS_DEAD]) = (uses, 0);
    let body = FIXED + entry.body.len();
    record[FIXED..body].copy_from_slice(entry.body);
    record[body..body + entry.places.len()].copy_from_slice(entry.places);
}

/// Which ring, and where in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Spot {
    is_main: bool,
    place: Place,
}

impl Spot {
    fn number(self) -> u32 {
        self.place.number() << 1 | u32::from(self.is_main)
    }

    fn numbered(number: u32) -> Spot {
        Spot { is_main: number & 1 != 0, place: Place::numbered(number >> 1) }
    }
}

/// One part of the memory.
pub struct Shelf {
    index: Index,
    small: Ring,
    main: Ring,
    octets: usize,
    evicted: u64,
}

impl Shelf {
    /// A shelf that never holds more than `bytes` in all (at least 64 KiB).
    pub fn new(bytes: usize) -> Shelf {
        let bytes = bytes.max(SMALLEST) - size_of::<Shelf>();
        let index = Index::new(bytes / INDEX_PART);
        let rest = bytes - index.octets();
        Shelf {
            index,
            small: Ring::new(rest / SMALL_PART),
            main: Ring::new(rest - rest / SMALL_PART),
            octets: 0,
            evicted: 0,
        }
    }

    /// The lines of its index.
    pub fn lines(&self) -> &Arc<Lines> {
        self.index.lines()
    }

    /// What it takes in all, in octets.
    pub fn footprint(&self) -> usize {
        size_of::<Shelf>() + self.index.octets() + self.small.capacity() + self.main.capacity()
    }

    fn record(&self, spot: Spot) -> &[u8] {
        if spot.is_main { self.main.content(spot.place) } else { self.small.content(spot.place) }
    }

    fn record_mut(&mut self, spot: Spot) -> &mut [u8] {
        if spot.is_main { self.main.content_mut(spot.place) } else { self.small.content_mut(spot.place) }
    }

    #[inline]
    fn slot_of(&self, hash: u64, is_it: impl Fn(&Stored<'_>) -> bool) -> Option<Slot> {
        self.index.find(hash, |number| {
            let record = self.record(Spot::numbered(number));
            hash_of(record) == hash && is_it(&stored(record))
        })
    }

    fn relocate(&mut self, hash: u64, from: Spot, to: Spot) {
        if let Some(slot) = self.index.find(hash, |number| number == from.number()) {
            self.index.set(slot, to.number());
        }
    }

    fn cost(record: &[u8]) -> usize {
        taken_by(record.len()) + Index::EACH
    }

    /// Takes an entry out of the index, and of the count; its record is dead.
    fn bury(&mut self, slot: Slot) {
        let record = self.record_mut(Spot::numbered(slot.number));
        record[field::IS_DEAD] = 1;
        let (hash, cost) = (hash_of(record), Self::cost(record));
        self.index.free(hash, slot);
        self.octets = self.octets.saturating_sub(cost);
    }

    /// The entry with this hash for which `is_it` holds; counts as a use.
    #[inline]
    pub fn find(&mut self, hash: u64, is_it: impl Fn(&Stored<'_>) -> bool) -> Option<Stored<'_>> {
        let slot = self.slot_of(hash, is_it)?;
        let record = self.record_mut(Spot::numbered(slot.number));
        record[field::USES] = (record[field::USES] + 1).min(MOST_USES);
        Some(stored(record))
    }

    /// Lets the stamp of an entry be changed, which counts as no use. False if there is no such entry.
    pub fn amend(&mut self, hash: u64, is_it: impl Fn(&Stored<'_>) -> bool, change: impl FnOnce(&mut Stamp)) -> bool {
        let Some(slot) = self.slot_of(hash, is_it) else { return false };
        let record = self.record_mut(Spot::numbered(slot.number));
        let mut stamp = stamp_of(record);
        change(&mut stamp);
        write_stamp(record, &stamp);
        true
    }

    /// Stores an entry instead of the one that `is_it` finds, if any; it begins without uses. False if it is too large for
    /// this shelf. `is_worth`: whether an old entry that is about to leave may stay if it was used.
    pub fn put(
        &mut self,
        hash: u64,
        entry: &Stored<'_>,
        is_it: impl Fn(&Stored<'_>) -> bool,
        is_worth: impl Fn(&Stamp) -> bool,
    ) -> bool {
        let wanted = FIXED + entry.body.len() + entry.places.len();
        let is_known = self.slot_of(hash, is_it);
        if entry.body.len().max(entry.places.len()) > usize::from(u16::MAX)
            || taken_by(wanted) > self.main.capacity() / 2
        {
            // what it would replace is no longer true
            is_known.into_iter().for_each(|slot| self.bury(slot));
            return false;
        }
        let mut is_main = self.index.take_ghost(hash);
        if let Some(slot) = is_known {
            let spot = Spot::numbered(slot.number);
            let record = self.record_mut(spot);
            if taken_by(record.len()) == taken_by(wanted) {
                write(record, hash, entry, 0);
                return true;
            }
            // known for its use: it need not prove that again
            is_main |= spot.is_main || record[field::USES] > 0;
            self.bury(slot);
        }
        is_main |= taken_by(wanted) > self.small.capacity() / 2;
        while self.index.is_full() {
            if self.small.is_empty() { self.make_room_in_main(&is_worth) } else { self.make_room_in_small(&is_worth) }
        }
        let Some(place) = self.push(is_main, wanted, &is_worth) else { return false };
        let spot = Spot { is_main, place };
        let record = self.record_mut(spot);
        write(record, hash, entry, 0);
        let cost = Self::cost(record);
        self.octets += cost;
        self.index.enter(hash, spot.number());
        self.expect_to_make_room(wanted);
        true
    }

    /// If the next record of such a length finds no room in the small ring: has brought near where the one that leaves for it
    /// stands in the index.
    fn expect_to_make_room(&mut self, length: usize) {
        if !self.small.has_room(length)
            && let Some(place) = self.small.oldest()
        {
            self.index.lines().fetch(hash_of(self.small.content(place)));
        }
    }

    /// A new record, for which others leave if need be; `None` if it is too large for the ring.
    fn push(&mut self, is_main: bool, length: usize, is_worth: &impl Fn(&Stamp) -> bool) -> Option<Place> {
        loop {
            let ring = if is_main { &mut self.main } else { &mut self.small };
            let was_empty = ring.is_empty();
            match ring.push(length) {
                None if was_empty => return None,
                None if is_main => self.make_room_in_main(is_worth),
                None => self.make_room_in_small(is_worth),
                place => return place,
            }
        }
    }

    /// Lets the oldest record leave the small ring: for the main one if it was of use, or if that has room anyway.
    fn make_room_in_small(&mut self, is_worth: &impl Fn(&Stamp) -> bool) {
        let Some(place) = self.small.oldest() else { return };
        let from = Spot { is_main: false, place };
        self.small.fetch_after(place);
        let record = self.small.content(place);
        if !is_dead(record) {
            let (hash, length, is_worth_it) = (hash_of(record), record.len(), is_worth(&stamp_of(record)));
            let to = match record[field::USES] {
                _ if !is_worth_it => None,
                0 if self.index.is_full() => None,
                0 => self.main.push(length),
                _ => self.push(true, length, is_worth),
            };
            match to {
                Some(place) => self.promote(hash, from, Spot { is_main: true, place }),
                None => {
                    self.lose(hash, from, is_worth_it);
                    self.index.leave_ghost(hash);
                }
            }
        }
        self.small.pop();
    }

    fn promote(&mut self, hash: u64, from: Spot, to: Spot) {
        let record = self.main.content_mut(to.place);
        record.copy_from_slice(self.small.content(from.place));
        record[field::USES] = 0;
        self.relocate(hash, from, to);
    }

    /// Lets the oldest record leave the main ring, but for those that were of use, whose turn begins anew.
    fn make_room_in_main(&mut self, is_worth: &impl Fn(&Stamp) -> bool) {
        for turn in 0..=TURNS {
            let Some(place) = self.main.oldest() else { return };
            let from = Spot { is_main: true, place };
            let record = self.main.content_mut(place);
            if is_dead(record) {
                break;
            }
            let (hash, is_worth_it) = (hash_of(record), is_worth(&stamp_of(record)));
            if turn == TURNS || record[field::USES] == 0 || !is_worth_it {
                self.lose(hash, from, is_worth_it);
                break;
            }
            record[field::USES] -= 1;
            if let Some((_, place)) = self.main.turn() {
                self.relocate(hash, from, Spot { is_main: true, place });
            }
        }
        self.main.pop();
    }

    /// An entry leaves to make room.
    fn lose(&mut self, hash: u64, spot: Spot, was_worth: bool) {
        if let Some(slot) = self.index.find(hash, |number| number == spot.number()) {
            self.bury(slot);
            self.evicted += u64::from(was_worth);
        }
    }

    /// Removes an entry, if it is there.
    pub fn remove(&mut self, hash: u64, is_it: impl Fn(&Stored<'_>) -> bool) {
        if let Some(slot) = self.slot_of(hash, is_it) {
            self.bury(slot);
        }
    }

    /// Removes all entries that `unwanted` names; how many there were.
    pub fn remove_where(&mut self, unwanted: impl Fn(&Stored<'_>) -> bool) -> usize {
        let (before, mut next) = (self.entries(), self.index.first());
        while let Some(slot) = next {
            if unwanted(&stored(self.record(Spot::numbered(slot.number)))) {
                self.bury(slot);
            }
            next = self.index.after(slot);
        }
        if self.entries() == 0 {
            self.small.clear();
            self.main.clear();
        }
        before - self.entries()
    }

    /// Shows every entry, those of use first, in either ring the oldest first.
    pub fn each(&self, mut visit: impl FnMut(&Stored<'_>)) {
        for ring in [&self.main, &self.small] {
            let records = ring.places().map(|place| ring.content(place));
            records.filter(|record| !is_dead(record)).for_each(|record| visit(&stored(record)));
        }
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.index.taken()
    }

    /// Octets of the entries, with what is kept beside each.
    pub fn bytes(&self) -> usize {
        self.octets
    }

    /// Entries that had to make room while still worth keeping, since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod shelf_tests;
