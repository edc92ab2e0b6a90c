use std::collections::VecDeque;

use proptest::prelude::*;

use super::{Ring, taken_by};

/// What is done to a ring.
#[derive(Clone, Debug)]
enum Act {
    Push(usize),
    Pop,
    Turn,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![4 => (0_usize..300).prop_map(Act::Push), 2 => Just(Act::Pop), 2 => Just(Act::Turn)]
}

proptest! {
    #[test]
    fn a_ring_is_a_queue(capacity in 40_usize..2000, acts in prop::collection::vec(act(), 1..400)) {
        let mut ring = Ring::new(capacity);
        let mut model: VecDeque<Vec<u8>> = VecDeque::new();
        for (number, act) in acts.into_iter().enumerate() {
            match act {
                Act::Push(length) => {
                    let Some(place) = ring.push(length) else { continue };
                    let byte = u8::try_from(number % 251).unwrap_or(0);
                    ring.content_mut(place)[..length].fill(byte);
                    model.push_back(vec![byte; length]);
                }
                Act::Pop => {
                    ring.pop();
                    model.pop_front();
                }
                Act::Turn => {
                    let turned = ring.turn();
                    prop_assert_eq!(turned.is_some(), !model.is_empty());
                    if let Some(first) = model.pop_front() {
                        model.push_back(first);
                    }
                }
            }
            let held: Vec<&[u8]> = ring.places().map(|place| ring.content(place)).collect();
            prop_assert_eq!(held.len(), model.len());
            for (held, wanted) in held.iter().zip(&model) {
                prop_assert_eq!(&held[..wanted.len()], &wanted[..]);
                prop_assert_eq!(held.len() + 4, taken_by(wanted.len()));
            }
            prop_assert_eq!(ring.is_empty(), model.is_empty());
        }
    }
}

#[test]
fn a_full_ring_takes_no_more_until_something_has_gone() {
    let mut ring = Ring::new(80);
    assert_eq!((ring.capacity(), taken_by(36)), (80, 40));
    assert!(ring.push(36).is_some() && ring.push(36).is_some() && ring.push(0).is_none());
    assert!(ring.turn().is_some());
    ring.pop();
    assert!(ring.push(36).is_some());
    ring.clear();
    assert!(ring.is_empty() && ring.oldest().is_none() && ring.push(77).is_none());
}
