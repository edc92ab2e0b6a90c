#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::collections::HashMap;

use proptest::prelude::*;

use super::{Index, LINE_OCTETS, Lines, MANY, PRINTS, SLOTS, Slot, lanes_with, passed, read};

/// An index with so many lines.
fn of_lines(lines: usize) -> Index {
    let index = Index::new((lines + 1) * LINE_OCTETS);
    assert_eq!(index.lines.count, lines);
    index
}

fn slots(index: &Index) -> Vec<Slot> {
    std::iter::successors(index.first(), |&slot| index.after(slot)).collect()
}

#[test]
fn a_lane_counts_only_if_all_of_it_is_alike() {
    for (word, expected) in [
        (0x0007_0007_0007_0007, 0x8000_8000_8000_8000),
        (0x0007_0006_8007_0007, 0x8000_0000_0000_8000),
        (0x0008_0000_ffff_7fff, 0),
        (0x0107_0007_0000_0070, 0x0000_8000_0000_0000_u64),
    ] {
        assert_eq!(lanes_with(7, word), expected, "{word:x}");
    }
    assert_eq!(lanes_with(0, 0x0001_0000_8000_0000), 0x0000_8000_0000_8000);
    assert_eq!(lanes_with(0xffff, 0xffff_fffe_7fff_ffff), 0x8000_0000_0000_8000);
}

#[test]
fn each_line_is_one_of_the_processors_and_all_octets_are_within_the_bound() {
    for octets in [100, 5000, 150_000, 1_234_567] {
        let index = Index::new(octets);
        let Lines { words, start, count } = &**index.lines();
        let at = words[*start..].as_ptr();
        assert!(at.align_offset(LINE_OCTETS) == 0 && start + count * 8 <= words.len());
        assert!(index.octets() <= octets.max(2 * LINE_OCTETS), "{} of {octets}", index.octets());
    }
}

#[test]
fn numbers_of_one_hash_fill_one_line_after_another_and_leave_no_trace() {
    for hash in [0, 1, 0xffff_ffff, u64::MAX] {
        let mut index = of_lines(6);
        let all = 6 * SLOTS;
        let numbers = |index: &Index| slots(index).iter().map(|&slot| slot.number).collect::<Vec<_>>();
        for number in 0..35 {
            index.enter(hash, u32::MAX - number);
        }
        assert_eq!((index.taken(), index.is_full(), numbers(&index).len()), (35, false, 35));
        for number in 0..35 {
            let slot = index.find(hash, |found| found == u32::MAX - number).unwrap();
            index.set(slot, number);
            assert_eq!(index.find(hash, |found| found == number), Some(Slot { number, ..slot }));
        }
        assert_eq!(index.find(hash, |number| number == 35), None);
        assert_eq!(index.find(hash ^ 1 << 40, |_| true), None, "another print");
        // from the middle, so that there are gaps before some that are still found
        for number in (10..35).chain(0..10) {
            let slot = index.find(hash, |found| found == number).unwrap();
            index.free(hash, slot);
            assert_eq!(index.find(hash, |found| found == number), None);
        }
        assert_eq!((index.taken(), index.first()), (0, None));
        assert!((0..6).all(|line| index.lines.line(line)[PRINTS..].iter().all(|word| read(word) == 0)), "{hash:x}");
        (0..all).for_each(|number| index.enter(hash, u32::try_from(number).unwrap()));
        assert!(index.is_full() && slots(&index).len() == all && index.find(hash, |_| false).is_none());
    }
}

#[test]
fn a_ghost_is_found_once_and_the_oldest_of_a_line_makes_room() {
    let mut index = of_lines(3);
    // all at home in one line, and each with a print of its own
    let hash = |number: u64| 0x4000_0000 | number << 32;
    (1..=20).for_each(|number| index.enter(hash(number % 9), 0));
    let before = (slots(&index), passed(index.lines.line(0)));
    assert!(!index.take_ghost(hash(1)));
    (1..=20).for_each(|number| index.leave_ghost(hash(number)));
    assert!((1..=13).all(|number| !index.take_ghost(hash(number))));
    assert!([17, 14, 20, 15, 16, 19, 18].into_iter().all(|number| index.take_ghost(hash(number))));
    assert!((1..=20).all(|number| !index.take_ghost(hash(number))));
    index.leave_ghost(u64::MAX);
    assert!(!index.take_ghost(u64::MAX ^ 1 << 40) && !index.take_ghost(u64::MAX ^ 0x8000_0000));
    assert!(index.take_ghost(u64::MAX));
    assert_eq!((slots(&index), passed(index.lines.line(0))), before);
}

#[test]
fn a_count_that_has_come_too_far_stays_and_nothing_behind_it_is_lost() {
    let mut index = of_lines(2);
    index.lines.change(0, 7, |_| (MANY - 1) << 48 | 5 << 32);
    (0..10).for_each(|number| index.enter(0, number));
    assert_eq!((passed(index.lines.line(0)), read(&index.lines.line(0)[7]) & u64::MAX >> 16), (MANY, 5 << 32));
    for number in 0..10 {
        let slot = index.find(0, |found| found == number).unwrap();
        index.free(0, slot);
    }
    assert_eq!((index.taken(), passed(index.lines.line(0)), passed(index.lines.line(1))), (0, MANY, 0));
}

#[test]
fn with_hashes_that_are_spread_a_look_reads_hardly_more_than_one_line() {
    let mut index = of_lines(1000);
    let hash = |number: u64| {
        (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    (0..5500).for_each(|number| index.enter(hash(number), u32::try_from(number).unwrap()));
    let passed = (0..1000).filter(|&line| passed(index.lines.line(line)) != 0).count();
    assert!(passed < 200, "{passed} of 1000 lines send a look on");
    assert!((0..5500).all(|number| index.find(hash(number), |found| u64::from(found) == number).is_some()));
}

proptest! {
    #[test]
    fn what_was_entered_is_found_and_nothing_else(
        acts in prop::collection::vec((any::<bool>(), 0_u32..60), 1..400),
        hashes in prop_oneof![Just(1_u32), Just(7), Just(1000)],
    ) {
        let mut index = of_lines(7);
        let mut model: HashMap<u32, u64> = HashMap::new();
        let hash = |number: u32| u64::from(number % hashes).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for (enters, number) in acts {
            if enters && !model.contains_key(&number) && !index.is_full() {
                index.enter(hash(number), number);
                model.insert(number, hash(number));
            } else if let Some(hash) = model.remove(&number) {
                let slot = index.find(hash, |found| found == number).unwrap();
                index.free(hash, slot);
            }
            for number in 0..60 {
                let found = index.find(hash(number), |found| found == number).map(|slot| slot.number);
                prop_assert_eq!(found, model.contains_key(&number).then_some(number));
            }
            let mut numbers: Vec<_> = slots(&index).into_iter().map(|slot| slot.number).collect();
            numbers.sort_unstable();
            let mut expected: Vec<_> = model.keys().copied().collect();
            expected.sort_unstable();
            prop_assert_eq!((index.taken(), numbers), (expected.len(), expected));
        }
    }
}

#[test]
fn a_look_at_the_lines_finds_all_that_is_there_also_behind_lines_that_are_full() {
    let mut index = of_lines(6);
    let lines = index.lines().clone();
    let hashes: Vec<u64> = (0..20).map(|number| number << 32).collect();
    assert!(!hashes.iter().any(|&hash| lines.may_hold(hash)));
    hashes.iter().for_each(|&hash| index.enter(hash, 7));
    assert!(hashes.iter().all(|&hash| lines.may_hold(hash)) && !lines.may_hold(20 << 32), "all share their home");
    for &hash in &hashes {
        let slot = index.find(hash, |_| true).unwrap();
        index.free(hash, slot);
        lines.fetch(hash);
    }
    assert!(!hashes[2..].iter().any(|&hash| lines.may_hold(hash)));
}
