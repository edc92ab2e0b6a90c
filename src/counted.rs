//! How many things of a kind are under way.

use std::cell::Cell;
use std::rc::Rc;

/// Counts one thing for as long as it is there.
pub struct Counted(Rc<Cell<usize>>);

impl Counted {
    /// One more.
    pub fn new(count: &Rc<Cell<usize>>) -> Counted {
        count.set(count.get() + 1);
        Counted(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
