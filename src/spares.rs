//! Replies that have been sent, whose memory the next ones are written in: an answer from memory allocates nothing.

use std::cell::RefCell;

/// How many are kept, and how large one may be: a batch of answers of the usual size.
const MOST: usize = 128;
const LARGEST: usize = 2048;

/// Memory of replies that have been sent.
#[derive(Default)]
pub struct Spares(RefCell<Vec<Vec<u8>>>);

impl Spares {
    /// Takes back what a reply was written in.
    pub fn give(&self, mut reply: Vec<u8>) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < MOST && reply.capacity() <= LARGEST {
            reply.clear();
            kept.push(reply);
        }
    }

    /// What the next reply can be written in.
    pub fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }
}
