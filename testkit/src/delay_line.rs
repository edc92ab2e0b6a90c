//! One thread that does things later, so that a delayed answer does not hold up the answers behind it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

type Task = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Waiting {
    // the number keeps tasks of the same instant in order and finds the task
    order: BinaryHeap<Reverse<(Instant, u64)>>,
    tasks: std::collections::HashMap<u64, Task>,
    next: u64,
    stopped: bool,
}

/// Runs tasks at their time; what is left when it is dropped never runs.
pub(crate) struct DelayLine(Arc<(Mutex<Waiting>, Condvar)>);

impl DelayLine {
    pub(crate) fn start() -> Self {
        let shared = Arc::new((Mutex::new(Waiting::default()), Condvar::new()));
        let line = Arc::clone(&shared);
        thread::Builder::new().name("testkit-delay".into()).spawn(move || run(&line)).expect("a thread");
        Self(shared)
    }

    pub(crate) fn at(&self, time: Instant, task: impl FnOnce() + Send + 'static) {
        let mut waiting = self.0.0.lock().unwrap();
        let number = waiting.next;
        waiting.next += 1;
        waiting.order.push(Reverse((time, number)));
        waiting.tasks.insert(number, Box::new(task));
        self.0.1.notify_one();
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().stopped = true;
        self.0.1.notify_one();
    }
}

fn run((waiting, changed): &(Mutex<Waiting>, Condvar)) {
    let mut guard = waiting.lock().unwrap();
    while !guard.stopped {
        let now = Instant::now();
        match guard.order.peek().map(|Reverse(first)| *first) {
            None => guard = changed.wait(guard).unwrap(),
            Some((time, _)) if time > now => guard = changed.wait_timeout(guard, time - now).unwrap().0,
            Some((_, number)) => {
                guard.order.pop();
                let task = guard.tasks.remove(&number);
                drop(guard);
                if let Some(task) = task {
                    task();
                }
                guard = waiting.lock().unwrap();
            }
        }
    }
}
