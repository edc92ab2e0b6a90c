//! Memory of messages that have been sent, in which the next ones of this thread are written: an answer from memory
//! allocates nothing, and one from a resolver hardly anything.

use std::cell::RefCell;

/// How many are kept, and how large one may be: two batches of answers of the usual size.
const MOST: usize = 128;
const LARGEST: usize = 2048;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Takes back what a message was written in.
pub fn give(mut message: Vec<u8>) {
    KEPT.with_borrow_mut(|kept| {
        if kept.len() < MOST && message.capacity() <= LARGEST {
            message.clear();
            kept.push(message);
        }
    });
}

/// What the next message can be written in; it holds nothing.
pub fn take() -> Vec<u8> {
    KEPT.with_borrow_mut(|kept| kept.pop().unwrap_or_default())
}
