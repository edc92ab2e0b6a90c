//! Numbers by the hash of a key, and the ghosts of keys that have lately left, in memory that never grows (pure).
//!
//! The slots stand in lines of eight, each as long as a line of the processor's cache: the numbers, a few bits of each hash,
//! as many of seven keys that have left, and how many keys found their line full and stand behind it. Most looks are for what
//! is not there: they read one line, all of whose slots are compared at once, so that nothing waits for a guess about what
//! comes from memory, and what they have read tells of the ghosts as well.
//!
//! The lines may be looked at by others while one who has the index to himself changes it: what has just come may be missed,
//! and what has just gone be taken for being there.
//!
//! Ghosts may be forgotten, and one key may be taken for another's ghost: neither does more than to misplace an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ahead;

/// Words of a line: four with two numbers each, two with four prints, and two with the prints of ghosts, the latest lowest,
/// the last of which has a count above three of them.
const LINE: usize = 8;
/// Octets of a line.
const LINE_OCTETS: usize = LINE * size_of::<u64>();
/// Slots of a line.
const SLOTS: usize = 8;
/// The words with prints.
const PRINTS: usize = SLOTS / 2;
/// Prints in one word.
const LANES: usize = 4;
/// The words with ghosts.
const GHOSTS: usize = PRINTS + SLOTS / LANES;
/// The lowest bit of each lane, and the highest.
const LOWEST: u64 = 0x0001_0001_0001_0001;
const HIGHEST: u64 = LOWEST << 15;
/// Where the last word has the count, above its three ghosts.
const COUNT: u32 = 48;
/// That part of it which is not the count.
const BELOW_COUNT: u64 = (1 << COUNT) - 1;
/// A count that has come this far says only that there are many, and stays.
const MANY: u64 = u64::MAX >> COUNT;

/// A slot that is taken, and the number in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slot {
    line: usize,
    at: usize,
    /// The number.
    pub number: u32,
}

/// A line.
type Line = [AtomicU64; LINE];

fn read(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// The lines of an index.
pub struct Lines {
    /// Zeros in the beginning, which are not resident before they are used.
    words: Box<[AtomicU64]>,
    /// Where in them the first line begins, so that each is one of the processor's.
    start: usize,
    count: usize,
}

/// The numbers.
pub struct Index {
    lines: Arc<Lines>,
    taken: usize,
}

/// The few bits of a hash that are kept; never 0, which stands for a free slot.
fn print_of(hash: u64) -> u64 {
    (hash >> 32 & 0xffff).max(1)
}

/// The lanes of a word that hold this print, each by its highest bit.
fn lanes_with(print: u64, word: u64) -> u64 {
    let differing = word ^ (LOWEST * print);
    !(((differing & !HIGHEST) + !HIGHEST) | differing | !HIGHEST)
}

impl Lines {
    /// The line where a key should stand: hashes are spread evenly, and so are their shares of the lines.
    fn home(&self, hash: u64) -> usize {
        let lines = u64::try_from(self.count).unwrap_or(u64::MAX);
        usize::try_from(((hash & u64::from(u32::MAX)) * lines) >> 32).unwrap_or(0)
    }

    fn next(&self, line: usize) -> usize {
        if line + 1 == self.count { 0 } else { line + 1 }
    }

    fn line(&self, line: usize) -> &Line {
        static NONE: Line = [const { AtomicU64::new(0) }; LINE];
        self.words[self.start + line * LINE..].first_chunk().unwrap_or(&NONE)
    }

    fn change(&self, line: usize, word: usize, change: impl FnOnce(u64) -> u64) {
        let word = &self.words[self.start + line * LINE + word];
        // one at a time, as only the index does this
        word.store(change(read(word)), Ordering::Relaxed);
    }

    /// What `found` finds in the first of the lines where a key with this hash can stand.
    fn search<T>(&self, hash: u64, found: impl Fn(usize, &Line) -> Option<T>) -> Option<T> {
        let mut line = self.home(hash);
        for _ in 0..self.count {
            let words = self.line(line);
            let here = found(line, words);
            // nobody had to go further than a line that none has passed
            if here.is_some() || passed(words) == 0 {
                return here;
            }
            line = self.next(line);
        }
        None
    }

    /// Whether a key with this hash may be in the index: if not, it is not.
    #[inline]
    pub fn may_hold(&self, hash: u64) -> bool {
        let print = print_of(hash);
        self.search(hash, |_, words| slots_with(words, print).next()).is_some()
    }

    /// Has the line where a key with this hash should stand brought near.
    #[inline]
    pub fn fetch(&self, hash: u64) {
        self.words.get(self.start + self.home(hash) * LINE).into_iter().for_each(ahead::fetch);
    }
}

/// How many keys found this line full and stand behind it.
fn passed(words: &Line) -> u64 {
    read(&words[LINE - 1]) >> COUNT
}

/// The slots of a line that hold this print, in no order that matters.
fn slots_with(words: &Line, print: u64) -> impl Iterator<Item = usize> + use<> {
    let [a, b] = [PRINTS, PRINTS + 1].map(|word| read(&words[word]));
    // one number in which each slot has a bit: each word's lanes are shifted by another number of bits
    let mut bits = lanes_with(print, a) >> 15 | lanes_with(print, b) >> 14;
    std::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let bit = bits.trailing_zeros() as usize;
        bits &= bits - 1;
        Some(bit % 16 * LANES + bit / 16)
    })
}

fn number_at(words: &Line, at: usize) -> u32 {
    let both = read(&words[at / 2]);
    let [low, high] = [both & u64::from(u32::MAX), both >> 32];
    u32::try_from(if at.is_multiple_of(2) { low } else { high }).unwrap_or(0)
}

impl Index {
    /// Octets for each number, in an index of which every slot is taken.
    pub const EACH: usize = LINE_OCTETS.div_ceil(SLOTS);

    /// An index that takes at most so many octets, and at least room for one line.
    pub fn new(octets: usize) -> Index {
        // a part of a line is lost before the first one
        let lines = (octets / LINE_OCTETS).saturating_sub(1).max(1);
        let words: Box<[AtomicU64]> = bytemuck::zeroed_slice_box(lines * LINE + LINE - 1);
        let start = words.as_ptr().align_offset(LINE_OCTETS).min(LINE - 1);
        Index { lines: Arc::new(Lines { words, start, count: lines }), taken: 0 }
    }

    /// Its lines.
    pub fn lines(&self) -> &Arc<Lines> {
        &self.lines
    }

    /// Octets that it takes.
    pub fn octets(&self) -> usize {
        size_of_val(&*self.lines.words)
    }

    /// How many numbers there are.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Whether it should take no more: a fuller one would have to be searched for long.
    pub fn is_full(&self) -> bool {
        self.taken >= self.lines.count * SLOTS / 8 * 7
    }

    fn count(&mut self, line: usize, change: impl Fn(u64) -> u64) {
        let passed = passed(self.lines.line(line));
        if passed < MANY {
            self.lines.change(line, LINE - 1, |word| word & BELOW_COUNT | change(passed) << COUNT);
        }
    }

    /// Puts another number into a slot.
    pub fn set(&mut self, Slot { line, at, .. }: Slot, number: u32) {
        let shift = at % 2 * 32;
        let others = !(u64::from(u32::MAX) << shift);
        self.lines.change(line, at / 2, |word| word & others | u64::from(number) << shift);
    }

    fn set_print(&mut self, Slot { line, at, .. }: Slot, print: u64) {
        let shift = at % LANES * 16;
        self.lines.change(line, PRINTS + at / LANES, |word| word & !(0xffff << shift) | print << shift);
    }

    /// The slot of a key with this hash whose number is the right one.
    #[inline]
    pub fn find(&self, hash: u64, is_right: impl Fn(u32) -> bool) -> Option<Slot> {
        let print = print_of(hash);
        self.lines.search(hash, |line, words| {
            let mut slots = slots_with(words, print).map(|at| Slot { line, at, number: number_at(words, at) });
            slots.find(|slot| is_right(slot.number))
        })
    }

    /// Adds a number under a hash. There must be room: that it is not full.
    pub fn enter(&mut self, hash: u64, number: u32) {
        let mut line = self.lines.home(hash);
        for _ in 0..self.lines.count {
            if let Some(at) = slots_with(self.lines.line(line), 0).next() {
                let slot = Slot { line, at, number };
                self.set(slot, number);
                self.set_print(slot, print_of(hash));
                self.taken += 1;
                return;
            }
            self.count(line, |passed| passed + 1);
            line = self.lines.next(line);
        }
    }

    /// Frees a slot that was found by this hash.
    pub fn free(&mut self, hash: u64, slot: Slot) {
        let mut line = self.lines.home(hash);
        while line != slot.line {
            self.count(line, |passed| passed.saturating_sub(1));
            line = self.lines.next(line);
        }
        self.set_print(slot, 0);
        self.taken = self.taken.saturating_sub(1);
    }

    /// A key leaves its ghost; of those that stand in the same line the oldest one may have to go.
    pub fn leave_ghost(&mut self, hash: u64) {
        let (print, line) = (print_of(hash), self.lines.home(hash));
        let oldest = read(&self.lines.line(line)[GHOSTS]) >> 48;
        self.lines.change(line, GHOSTS, |word| word << 16 | print);
        self.lines.change(line, GHOSTS + 1, |word| word & !BELOW_COUNT | (word << 16 | oldest) & BELOW_COUNT);
    }

    /// Whether a key has left a ghost; if so it is there no more.
    pub fn take_ghost(&mut self, hash: u64) -> bool {
        let (print, line) = (print_of(hash), self.lines.home(hash));
        let words = self.lines.line(line);
        for (word, lanes) in [(GHOSTS, u64::MAX), (GHOSTS + 1, BELOW_COUNT)] {
            let found = lanes_with(print, read(&words[word])) & lanes;
            if found != 0 {
                self.lines.change(line, word, |word| word & !(0xffff << (found.trailing_zeros() - 15)));
                return true;
            }
        }
        false
    }

    /// The first slot that is taken.
    pub fn first(&self) -> Option<Slot> {
        self.from(0, 0)
    }

    /// The next one behind this one.
    pub fn after(&self, Slot { line, at, .. }: Slot) -> Option<Slot> {
        self.from(line, at + 1)
    }

    fn from(&self, first: usize, at: usize) -> Option<Slot> {
        (first..self.lines.count).find_map(|line| {
            let (words, from) = (self.lines.line(line), if line == first { at } else { 0 });
            let is_taken = |&at: &usize| read(&words[PRINTS + at / LANES]) >> (at % LANES * 16) & 0xffff != 0;
            (from..SLOTS).find(is_taken).map(|at| Slot { line, at, number: number_at(words, at) })
        })
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod index_tests;
