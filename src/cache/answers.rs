//! Answers kept for the whole process, by question: shards with a lock of their own (RFC 1034 §3.6, RFC 8767).
//!
//! Nothing here reads a clock: times are milliseconds of one that also runs while the machine is suspended, and that
//! nobody sets (`CLOCK_BOOTTIME`).

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::index::Lines;
use super::shelf::{Shelf, Stamp, Stored};
use crate::dns::message::{HEADER, Question, set_id};
use crate::dns::name;
use crate::dns::reuse::{Keep, Kept, Key, KeyRoom, Lifetimes, Ttls, Variant};

/// A shard is at least so large, in octets, unless there is one only.
const SHARD: usize = 2 * 1024 * 1024;
/// Shards at the most.
const SHARDS: usize = 16;
/// The TTL of what is given out although its time is over, in seconds (RFC 8767 §5).
const STALE_TTL: u32 = 30;
/// How long a name rests after it could not be had anew, in milliseconds (RFC 8767 §5).
const REST: u64 = 30_000;
/// How long whoever was told to ask anew has for it, in milliseconds.
const CLAIM: u64 = 5_000;
/// Uses that make an answer popular.
const POPULAR: u8 = 3;
/// Answers that live shorter than this, in seconds, are not asked for ahead: their last tenth is no time.
const WORTH_REFRESHING: u32 = 10;
/// The last part of its life in which a popular answer is asked for anew: one in so many.
const LAST_PART: u64 = 10;

/// The part of a generation that counts how often something was forgotten; the other counts how often the resolvers were
/// exchanged.
const FORGOTTEN: u64 = u32::MAX as u64;

/// Bits of a stamp's mark.
mod mark {
    /// The resolver could not say.
    pub(super) const FAILURE: u8 = 1;
    /// When it was last asked for, no resolver could be reached.
    pub(super) const OUT: u8 = 2;
}

/// How answers are used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// For how long they are kept.
    pub lifetimes: Lifetimes,
    /// How long past that they may serve where nothing better is to be had, in seconds.
    pub stale: u32,
    /// Whether popular ones are asked for anew before their time is over.
    pub prefetch: bool,
}

/// What there is for a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recall {
    /// Nothing.
    Unknown,
    /// An answer to give at once.
    Usable {
        /// Whether its time is over.
        stale: bool,
        /// Whether the caller is to ask for it anew meanwhile. Nobody else is told so for some time.
        refresh: bool,
    },
    /// An answer whose time is over, for the case that no better one is to be had.
    InReserve,
}

/// What is held.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Held {
    /// Answers.
    pub entries: usize,
    /// Their octets, with what is kept beside each.
    pub octets: usize,
    /// The bound for all of it, in octets.
    pub limit: usize,
    /// Answers that had to make room before their time.
    pub evicted: u64,
}

/// A key, and where its answer is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Address<'a> {
    /// The key.
    pub key: Key<'a>,
    /// Its hash.
    pub hash: u64,
}

/// An answer that is about to be kept, in memory that is used again and again.
#[derive(Debug, Default)]
pub struct Draft {
    /// The message.
    pub body: Vec<u8>,
    /// Its TTLs, as they count.
    pub ttls: Ttls,
    places: Vec<u8>,
}

/// One part of the answers.
struct Shard {
    /// What is looked at without the lock.
    lines: Arc<Lines>,
    shelf: Mutex<Shelf>,
}

impl Shard {
    fn new(limit: usize) -> Shard {
        let shelf = Shelf::new(limit);
        Shard { lines: shelf.lines().clone(), shelf: Mutex::new(shelf) }
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        // every change of a shelf is whole before the next thing that could fail
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answers of the process.
pub struct Answers {
    shards: Box<[Shard]>,
    hashes: RandomState,
    /// Grows when everything is forgotten, so that nothing older comes in afterwards.
    generation: AtomicU64,
    limit: usize,
}

impl Answers {
    /// A memory that never holds more than `limit` octets in all; none if that is 0.
    pub fn new(limit: usize) -> Answers {
        let count = match limit {
            0 => 0,
            _ => (limit / SHARD).clamp(1, SHARDS),
        };
        let shards = (0..count).map(|_| Shard::new(limit / count)).collect();
        Answers { shards, hashes: RandomState::new(), generation: AtomicU64::new(0), limit }
    }

    /// Whether anything is kept.
    #[inline]
    pub fn is_on(&self) -> bool {
        !self.shards.is_empty()
    }

    /// Of which generation what is asked for now is, by somebody who has asked the same resolvers since `since`, which is one
    /// as well.
    pub fn generation(&self, since: u64) -> u64 {
        since & !FORGOTTEN | self.newest() & FORGOTTEN
    }

    /// The newest generation.
    pub fn newest(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// The address of a key, by which its answer is found.
    #[inline]
    pub fn address<'a>(&self, key: Key<'a>) -> Address<'a> {
        Address { key, hash: self.hashes.hash_one(key.octets()) }
    }

    #[inline]
    fn shard(&self, hash: u64) -> Option<&Shard> {
        // the shelf takes its own place from the other end of the hash
        let shard = usize::try_from(hash >> 48).ok()?.checked_rem(self.shards.len())?;
        self.shards.get(shard)
    }

    fn shelf(&self, hash: u64) -> Option<MutexGuard<'_, Shelf>> {
        self.shard(hash).map(Shard::lock)
    }

    /// Has brought near what is read first when this question is looked up, or its answer kept.
    #[inline]
    pub fn fetch(&self, hash: u64) {
        self.shard(hash).into_iter().for_each(|shard| shard.lines.fetch(hash));
    }

    /// Looks a question up. What there is goes to `out`, with `id` and the question as it was asked, its TTLs aged. `is_out`:
    /// none of the resolvers for it was to be reached of late.
    pub fn recall(
        &self,
        Address { key, hash }: Address<'_>,
        (id, question): (u16, &Question<'_>),
        usage: &Usage,
        is_out: bool,
        now: impl FnOnce() -> u64,
        out: &mut Vec<u8>,
    ) -> Recall {
        let is_it = |stored: &Stored<'_>| is_kept_under(stored, key);
        // most of what is not there is known not to be before there is a wait for the lock
        let Some(shard) = self.shard(hash).filter(|shard| shard.lines.may_hold(hash)) else { return Recall::Unknown };
        let mut shelf = shard.lock();
        let Some(stored) = shelf.find(hash, is_it) else { return Recall::Unknown };
        // a clock is read only for what is there
        let (stamp, uses, now) = (stored.stamp, stored.uses, now());
        // the longest may be shorter now than it was then
        let is_failure = stamp.mark & mark::FAILURE != 0;
        let most = if is_failure { u32::MAX } else { usage.lifetimes.max };
        let lifetime = u64::from(stamp.lifetime.min(most)) * 1000;
        let lived = now.saturating_sub(stamp.stored_at);
        let is_fresh = lived < lifetime;
        if !is_fresh && (is_failure || lived - lifetime >= u64::from(usage.stale) * 1000) {
            return Recall::Unknown;
        }
        let length = copy(&stored, out);
        let recall = if is_fresh {
            let is_last_part = lifetime - lived <= lifetime / LAST_PART && stamp.lifetime >= WORTH_REFRESHING;
            let refresh = usage.prefetch && is_last_part && uses >= POPULAR && now >= stamp.retry_at && !is_failure;
            if refresh {
                shelf.amend(hash, is_it, |stamp| stamp.retry_at = now + CLAIM);
            }
            Recall::Usable { stale: false, refresh }
        } else {
            // an outage is no reason to rest once it is over
            let rests = now < stamp.retry_at && (is_out || stamp.mark & mark::OUT == 0);
            if !rests && is_out {
                shelf.amend(hash, is_it, |stamp| (stamp.retry_at, stamp.mark) = (now + REST, stamp.mark | mark::OUT));
            }
            if rests || is_out { Recall::Usable { stale: true, refresh: !rests } } else { Recall::InReserve }
        };
        // an answer may have thousands of TTLs: nobody waits for the lock meanwhile
        drop(shelf);
        let age = |ttl: u32| if is_fresh { ttl.min(most).saturating_sub(seconds(lived)) } else { STALE_TTL };
        make_answer(out, length, id, question, age);
        recall
    }

    /// Keeps an answer, of which `keep` was found, in place of an older one; its TTLs are set to those that count. A failure
    /// takes the place of nothing that can still be used. Does nothing if everything has been forgotten since `generation`.
    pub fn keep(
        &self,
        Address { key, hash }: Address<'_>,
        generation: u64,
        keep: Keep,
        draft: &mut Draft,
        usage: &Usage,
        now: u64,
    ) {
        let is_it = |stored: &Stored<'_>| is_kept_under(stored, key);
        let Draft { body, ttls, places } = draft;
        places.clear();
        for &(place, ttl) in ttls.iter() {
            if let Some(octets) = ttl_in(body, place) {
                *octets = ttl.to_be_bytes();
                places.extend(place.to_be_bytes());
            }
        }
        let mark = if keep.kind == Kept::Failure { mark::FAILURE } else { 0 };
        let stamp = Stamp { stored_at: now, lifetime: keep.lifetime, retry_at: 0, mark };
        let entry = Stored { variant: key.variant(), stamp, uses: 0, places, body };
        let Some(mut shelf) = self.shelf(hash) else { return };
        if self.newest() != generation {
            return;
        }
        let is_better = |stored: &Stored<'_>| {
            is_it(stored) && stored.stamp.mark & mark::FAILURE == 0 && is_worth(&stored.stamp, usage, now)
        };
        if keep.kind == Kept::Failure && shelf.amend(hash, is_better, |stamp| rest(stamp, false, now)) {
            return;
        }
        shelf.put(hash, &entry, is_it, |stamp| is_worth(stamp, usage, now));
    }

    /// Takes note that an answer could not be had anew. `is_out`: since no resolver could be reached.
    pub fn failed(&self, Address { key, hash }: Address<'_>, is_out: bool, now: u64) {
        let is_it = |stored: &Stored<'_>| is_kept_under(stored, key);
        if let Some(mut shelf) = self.shelf(hash) {
            shelf.amend(hash, is_it, |stamp| rest(stamp, is_out, now));
        }
    }

    /// Forgets an answer: there is a newer one that cannot be kept, so that this one is no longer true (RFC 8767 §4).
    pub fn outdated(&self, Address { key, hash }: Address<'_>, generation: u64) {
        let Some(mut shelf) = self.shelf(hash) else { return };
        if self.newest() == generation {
            shelf.remove(hash, |stored| is_kept_under(stored, key));
        }
    }

    /// Forgets everything, also what is on its way; how many answers there were.
    pub fn forget_all(&self) -> usize {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.forget(|_| true)
    }

    /// Other resolvers are asked from now on: forgets everything, and takes nothing any more from those who ask the ones
    /// before; how many answers there were.
    pub fn begin_anew(&self) -> usize {
        self.generation.fetch_add(FORGOTTEN + 1, Ordering::Relaxed);
        self.forget(|_| true)
    }

    /// Forgets a name, or all names in its domain, also what is on its way; how many answers there were.
    pub fn forget_name(&self, name: &[u8], and_below: bool) -> usize {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.forget(|stored| {
            let found = question_name(stored.body);
            if and_below { name::is_within(found, name) } else { name::same(found, name) }
        })
    }

    fn forget(&self, unwanted: impl Fn(&Stored<'_>) -> bool) -> usize {
        self.shards.iter().map(|shard| shard.lock().remove_where(&unwanted)).sum()
    }

    /// Shows all answers, those of one shard after those of another, in each the oldest first.
    pub fn each(&self, mut visit: impl FnMut(&Stored<'_>)) {
        self.shards.iter().for_each(|shard| shard.lock().each(&mut visit));
    }

    /// Puts an answer back that an earlier process has kept.
    pub fn restore(&self, entry: &Stored<'_>) {
        let (Some(bytes), mut room) = (question_of(entry.body), KeyRoom::default()) else { return };
        let Some(key) = room.write(entry.variant, &Question { bytes }) else { return };
        let Address { key, hash } = self.address(key);
        if let Some(mut shelf) = self.shelf(hash) {
            shelf.put(hash, entry, |stored| is_kept_under(stored, key), |_| true);
        }
    }

    /// What is held at present.
    pub fn held(&self) -> Held {
        let start = Held { limit: self.limit, ..Held::default() };
        self.shards.iter().fold(start, |held, shard| {
            let shelf = shard.lock();
            Held {
                entries: held.entries + shelf.entries(),
                octets: held.octets + shelf.bytes(),
                limit: held.limit,
                evicted: held.evicted + shelf.evicted(),
            }
        })
    }
}

fn rest(stamp: &mut Stamp, is_out: bool, now: u64) {
    stamp.retry_at = now + REST;
    stamp.mark = stamp.mark & !mark::OUT | if is_out { mark::OUT } else { 0 };
}

/// Whether an answer can still be used in some way.
fn is_worth(stamp: &Stamp, usage: &Usage, now: u64) -> bool {
    let stale = if stamp.mark & mark::FAILURE == 0 { usage.stale } else { 0 };
    now.saturating_sub(stamp.stored_at) < (u64::from(stamp.lifetime) + u64::from(stale)) * 1000
}

#[inline]
fn is_kept_under(stored: &Stored<'_>, key: Key<'_>) -> bool {
    let variant: Variant = key.variant();
    let question = key.question();
    stored.variant == variant
        && stored
            .body
            .get(HEADER..HEADER + question.bytes.len())
            .is_some_and(|bytes| question.same(&Question { bytes }))
}

/// The question of a kept message, which has one.
fn question_of(body: &[u8]) -> Option<&[u8]> {
    let end = name::skip_uncompressed(body, HEADER)? + 4;
    body.get(HEADER..end)
}

fn question_name(body: &[u8]) -> &[u8] {
    question_of(body).and_then(|question| question.get(..question.len() - 4)).unwrap_or_default()
}

fn seconds(milliseconds: u64) -> u32 {
    u32::try_from(milliseconds / 1000).unwrap_or(u32::MAX)
}

fn ttl_in(message: &mut [u8], place: u16) -> Option<&mut [u8; 4]> {
    message.get_mut(usize::from(place)..)?.first_chunk_mut()
}

/// Copies a stored message, and behind it the places of its TTLs; how long the message is.
#[inline]
fn copy(stored: &Stored<'_>, out: &mut Vec<u8>) -> usize {
    out.clear();
    out.reserve(stored.body.len() + stored.places.len());
    out.extend_from_slice(stored.body);
    out.extend_from_slice(stored.places);
    stored.body.len()
}

/// Makes what was copied, a message so long, the answer to this query.
#[inline]
fn make_answer(out: &mut Vec<u8>, length: usize, id: u16, question: &Question<'_>, age: impl Fn(u32) -> u32) {
    let (body, places) = out.split_at_mut(length);
    set_id(body, id);
    body[HEADER..HEADER + question.bytes.len()].copy_from_slice(question.bytes);
    for place in places.chunks_exact(2) {
        if let Some(octets) = ttl_in(body, u16::from_be_bytes([place[0], place[1]])) {
            *octets = age(u32::from_be_bytes(*octets)).to_be_bytes();
        }
    }
    out.truncate(length);
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod answers_tests;
