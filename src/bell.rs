//! Wakes one task on the same thread, however often it is rung before the task takes its turn.

use std::cell::RefCell;
use std::task::{Context, Waker};

/// A bell that one task listens to.
#[derive(Debug, Default)]
pub struct Bell {
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    /// The task whose turn it is wants to hear the next ring.
    pub fn listen(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &*waker {
            Some(known) if known.will_wake(context.waker()) => {}
            _ => *waker = Some(context.waker().clone()),
        }
    }

    /// Wakes the task; until it listens again, further rings cost nothing.
    pub fn ring(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Nobody listens any more.
    pub fn forget(&self) {
        drop(self.waker.take());
    }
}

#[cfg(test)]
mod tests {
    use super::Bell;
    use crate::wake_count_tests::Count;
    use std::sync::Arc;
    use std::task::Context;

    #[test]
    fn many_rings_wake_once_until_the_task_listens_again() {
        let (bell, count) = (Bell::default(), Arc::new(Count::default()));
        let waker = count.clone().into();
        bell.ring();
        for _ in 0..2 {
            bell.listen(&Context::from_waker(&waker));
            bell.ring();
            bell.ring();
            assert_eq!(count.taken(), 1);
        }
    }
}
