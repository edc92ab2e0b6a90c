#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::{SMALLEST, Shelf, Stamp, Stored};

const STAMP: Stamp = Stamp { stored_at: 7, lifetime: 60, retry_at: 0, mark: 0 };

fn hash(key: u64) -> u64 {
    // as a keyed hash would, for keys that are numbers (splitmix64)
    let mut mixed = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A body that begins with its key.
fn body(key: u64, length: usize) -> Vec<u8> {
    let mut body = key.to_be_bytes().to_vec();
    body.resize(length.max(8), 1);
    body
}

fn is(key: u64) -> impl Fn(&Stored<'_>) -> bool {
    move |stored| stored.body.starts_with(&key.to_be_bytes())
}

fn put_hashed(shelf: &mut Shelf, hash: u64, key: u64, length: usize) -> bool {
    let body = body(key, length);
    let entry = Stored { variant: [1; 5], stamp: STAMP, uses: 0, places: &[0, 20], body: &body };
    shelf.put(hash, &entry, is(key), |_| true)
}

fn put(shelf: &mut Shelf, key: u64, length: usize) -> bool {
    put_hashed(shelf, hash(key), key, length)
}

fn has(shelf: &mut Shelf, key: u64) -> bool {
    shelf.find(hash(key), is(key)).is_some()
}

#[test]
fn an_entry_comes_back_as_it_was_put_and_its_stamp_can_be_changed() {
    let mut shelf = Shelf::new(SMALLEST);
    assert!(put(&mut shelf, 1, 100) && put(&mut shelf, 2, 50));
    for uses in [1, 2, 3, 3] {
        let found = shelf.find(hash(1), is(1)).unwrap();
        assert_eq!((found.uses, found.variant, found.stamp, found.places), (uses, [1; 5], STAMP, &[0, 20][..]));
        assert_eq!(found.body, body(1, 100));
    }
    assert!(shelf.amend(hash(1), is(1), |stamp| stamp.retry_at = 9));
    assert!(!shelf.amend(hash(3), is(3), |stamp| stamp.retry_at = 9));
    assert_eq!(shelf.find(hash(1), is(1)).unwrap().stamp, Stamp { retry_at: 9, ..STAMP });
    assert!(put(&mut shelf, 1, 200) && shelf.entries() == 2);
    assert_eq!(shelf.find(hash(1), is(1)).map(|found| (found.uses, found.body.len())), Some((1, 200)));
    assert!(shelf.remove_where(is(1)) == 1 && shelf.remove_where(is(1)) == 0 && !has(&mut shelf, 1));
    assert_eq!((shelf.entries(), has(&mut shelf, 2)), (1, true));
}

#[test]
fn everything_it_holds_is_within_its_bound_and_an_entry_costs_little_more_than_its_octets() {
    for bytes in [SMALLEST, 1 << 20, (2 << 20) + 12_345] {
        let shelf = Shelf::new(bytes);
        assert!(shelf.footprint() <= bytes && shelf.footprint() > bytes / 100 * 98, "{} of {bytes}", shelf.footprint());
    }
    for length in [50, 120, 250, 500] {
        let mut shelf = Shelf::new(2 << 20);
        (0..60_000).for_each(|key| assert!(put(&mut shelf, key, length)));
        // the small ring alone takes what was asked for once, and so the main ring is empty: what is full counts
        for key in 0..200_000 {
            put(&mut shelf, key % 50_000, length);
            has(&mut shelf, key % 50_000);
        }
        // of a line's 64 octets those of its ghosts belong to no entry
        let each = (shelf.footprint() - shelf.index.octets() * 14 / 64) / shelf.entries();
        assert!(each <= length + 96, "{each} octets for {length}");
    }
}

#[test]
fn the_largest_message_fits_and_what_is_larger_than_half_the_shelf_does_not() {
    let mut shelf = Shelf::new(1 << 20);
    assert!(put(&mut shelf, 1, 65_535) && has(&mut shelf, 1));
    let mut shelf = Shelf::new(SMALLEST);
    assert!(put(&mut shelf, 1, 100) && !put(&mut shelf, 1, 60_000));
    assert!(!has(&mut shelf, 1), "what it should have replaced is gone");
}

#[test]
fn names_that_are_asked_for_once_move_nothing_out_that_is_of_use() {
    const HOT: u64 = 1000;
    let mut shelf = Shelf::new(1 << 20);
    for key in 0..HOT {
        assert!(put(&mut shelf, key, 120) && has(&mut shelf, key));
    }
    let (mut found, asked) = (0, 200_000 / 10);
    for turn in 0..200_000_u64 {
        put(&mut shelf, HOT + turn, 120);
        if turn % 10 == 0 {
            let hot = turn / 10 % HOT;
            if has(&mut shelf, hot) {
                found += 1;
            } else {
                put(&mut shelf, hot, 120);
            }
        }
    }
    // a queue would have let each go 10,000 names later, which it has no room for
    assert!(shelf.entries() < 7000, "{}", shelf.entries());
    assert!(found * 100 >= asked * 99, "{found} of {asked}");
}

/// A use of names as it is usual, of which few make up most: the share that is found, with this shelf and with a list
/// that lets go what was used least recently.
fn usual(skew: f64, names: u32) -> (f64, f64) {
    const LENGTH: usize = 120;
    let mut total = 0.0;
    let sums: Vec<f64> = (1..=names)
        .map(|rank| {
            total += f64::from(rank).powf(-skew);
            total
        })
        .collect();
    let mut shelf = Shelf::new(1 << 20);
    let room = (1 << 20) / (LENGTH + 56);
    let (mut list, mut known, mut clock) = (VecDeque::new(), HashMap::new(), 0_u64);
    let (mut found, mut found_in_list, turns) = (0.0, 0.0, 300_000_u32);
    for turn in 0..turns {
        // a number between 0 and 1 with 53 random bits
        #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
        let drawn = (hash(u64::from(turn) << 20) >> 11) as f64 / (1_u64 << 53) as f64 * total;
        let name = u64::try_from(sums.partition_point(|&sum| sum < drawn)).unwrap();
        if has(&mut shelf, name) {
            found += 1.0;
        } else {
            put(&mut shelf, name, LENGTH);
        }
        clock += 1;
        if known.insert(name, clock).is_some() {
            found_in_list += 1.0;
        }
        list.push_back((name, clock));
        while known.len() > room {
            let (old, at) = list.pop_front().unwrap();
            if known.get(&old) == Some(&at) {
                known.remove(&old);
            }
        }
    }
    (found / f64::from(turns), found_in_list / f64::from(turns))
}

#[test]
fn it_finds_more_than_a_list_of_the_last_used() {
    for (skew, names) in [(0.9, 100_000), (1.0, 100_000)] {
        let (found, list) = usual(skew, names);
        assert!(found >= list, "{found:.3} of all, the list {list:.3}, skew {skew}");
    }
}

#[test]
fn what_is_removed_leaves_room() {
    let mut shelf = Shelf::new(SMALLEST);
    (0..100).for_each(|key| assert!(put(&mut shelf, key, 40)));
    assert_eq!(shelf.remove_where(|stored| stored.body[7] % 2 == 0), 50);
    assert!(!has(&mut shelf, 2) && has(&mut shelf, 3));
    let mut seen = 0;
    shelf.each(|stored| {
        assert!(stored.body[7] % 2 == 1);
        seen += 1;
    });
    assert_eq!((seen, shelf.remove_where(|_| true), shelf.entries(), shelf.bytes()), (50, 50, 0, 0));
}

#[test]
fn what_is_worth_nothing_any_more_gets_no_other_turn() {
    let mut shelf = Shelf::new(SMALLEST);
    for key in 0..1000 {
        let body = body(key, 100);
        let entry = Stored { variant: [1; 5], stamp: STAMP, uses: 0, places: &[], body: &body };
        shelf.put(hash(key), &entry, is(key), |_| false);
        has(&mut shelf, key);
    }
    assert_eq!((shelf.evicted(), shelf.main.is_empty()), (0, true));
}

/// What is done to a shelf.
#[derive(Clone, Debug)]
enum Act {
    Put(u64, usize),
    Find(u64),
    Remove(u64),
    Amend(u64),
    RemoveSome(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let key = 0_u64..60;
    prop_oneof![
        20 => (key.clone(), 8_usize..3000).prop_map(|(key, length)| Act::Put(key, length)),
        20 => key.clone().prop_map(Act::Find),
        2 => key.clone().prop_map(Act::Remove),
        2 => key.prop_map(Act::Amend),
        1 => (0_u8..20).prop_map(Act::RemoveSome),
    ]
}

proptest! {
    #[test]
    fn nothing_is_found_but_what_was_last_put(
        acts in prop::collection::vec(act(), 1..600),
        // all keys of one hash, of a few hashes, or each of its own
        hashes in prop_oneof![Just(1_u64), Just(3), Just(1000)],
    ) {
        let mut shelf = Shelf::new(SMALLEST);
        let mut model: HashMap<u64, (usize, u64)> = HashMap::new();
        let of = |key: u64| if hashes == 1 { 0xffff_ffff } else { hash(key % hashes) };
        for (number, act) in acts.into_iter().enumerate() {
            match act {
                Act::Put(key, length) => {
                    if put_hashed(&mut shelf, of(key), key, length) {
                        model.insert(key, (length.max(8), 0));
                    } else {
                        model.remove(&key);
                    }
                }
                Act::Find(key) => {
                    let found = shelf.find(of(key), is(key)).map(|stored| (stored.body.len(), stored.stamp.retry_at));
                    // it may have made room, but is never another one
                    prop_assert!(found.is_none() || found == model.get(&key).copied(), "{key}: {found:?}");
                }
                Act::Remove(key) => {
                    shelf.remove_where(is(key));
                    model.remove(&key);
                }
                Act::Amend(key) => {
                    let retry_at = u64::try_from(number).unwrap();
                    shelf.amend(of(key), is(key), |stamp| stamp.retry_at = retry_at);
                    model.entry(key).and_modify(|(_, at)| *at = retry_at);
                }
                Act::RemoveSome(part) => {
                    shelf.remove_where(|stored| stored.body[7] % 20 == part);
                    model.retain(|key, _| key % 20 != u64::from(part));
                }
            }
            let (mut entries, mut octets) = (0, 0);
            shelf.each(|stored| {
                entries += 1;
                octets += stored.body.len();
            });
            prop_assert_eq!(entries, shelf.entries());
            prop_assert!(entries <= model.len() && octets <= shelf.bytes());
        }
    }
}
