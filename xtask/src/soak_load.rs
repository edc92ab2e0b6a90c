//! The client of the long tests: queries over UDP at a steady pace, each sent once, and what became of them.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use testkit::{inspect, query};

/// An answer later than this is none: by then glibc's resolver has given up.
pub const LIMIT: Duration = Duration::from_secs(5);
const A: u16 = 1;
/// As many clients: when a fault is over, hundreds of answers come at once, more than the buffer of one socket takes.
const SOCKETS: usize = 16;

/// What became of the queries so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Queries sent.
    pub sent: u64,
    /// Answered in time, with an address.
    pub answered: u64,
    /// Not answered in time although a server could have.
    pub lost: u64,
    /// Answered without an address, with SERVFAIL as a rule, although a server could have answered.
    pub failed: u64,
    /// Sent while no server could answer, and not answered well.
    pub excused: u64,
    /// The longest time an answer took among those that came in time and were sent while a server could answer.
    pub slowest: Duration,
}

impl Outcome {
    /// Answers that a client missed although it should not have.
    pub fn missed(&self) -> u64 {
        self.lost + self.failed
    }
}

/// A query that waits for its answer.
struct Waiting {
    number: u64,
    sent: Instant,
    excused: bool,
}

struct State {
    /// By ID.
    waiting: Vec<Option<Waiting>>,
    /// IDs in the order they were sent, with their numbers.
    order: VecDeque<(u16, u64, Instant)>,
    outcome: Outcome,
}

/// A steady load; it ends when it is finished or dropped.
pub struct Load {
    state: Arc<Mutex<State>>,
    /// Queries a second; 0 pauses.
    rate: Arc<AtomicU32>,
    /// Whether no server can answer at present.
    excused: Arc<AtomicBool>,
    /// Nothing more is sent.
    stopped: Arc<AtomicBool>,
    /// Nothing more is received.
    over: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
    receivers: Vec<JoinHandle<()>>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Gives up on what has waited too long.
    fn expire(&mut self, now: Instant) {
        while let Some(&(id, number, sent)) = self.order.front() {
            if now.saturating_duration_since(sent) <= LIMIT {
                break;
            }
            self.order.pop_front();
            let slot = &mut self.waiting[usize::from(id)];
            if let Some(waiting) = slot.take_if(|waiting| waiting.number == number) {
                *(if waiting.excused { &mut self.outcome.excused } else { &mut self.outcome.lost }) += 1;
            }
        }
    }

    fn received(&mut self, message: &[u8], now: Instant) {
        if message.len() < 12 {
            return;
        }
        let slot = &mut self.waiting[usize::from(inspect::id(message))];
        let Some(waiting) = slot.take_if(|waiting| inspect::question_name(message) == name(waiting.number)) else {
            return;
        };
        let (outcome, took) = (&mut self.outcome, now.saturating_duration_since(waiting.sent));
        let good = inspect::rcode(message) == 0 && inspect::counts(message)[1] > 0;
        match (good && took <= LIMIT, waiting.excused) {
            (true, excused) => {
                outcome.answered += 1;
                if !excused {
                    outcome.slowest = outcome.slowest.max(took);
                }
            }
            (false, true) => outcome.excused += 1,
            (false, false) if took > LIMIT => outcome.lost += 1,
            (false, false) => outcome.failed += 1,
        }
    }
}

/// Every name is new: no cache shall answer.
fn name(number: u64) -> String {
    format!("n{number}.soak.example.net")
}

impl Load {
    /// Starts to ask this address, so many times a second.
    ///
    /// # Errors
    /// There is no socket to be had.
    pub fn start(to: SocketAddr, rate: u32) -> Result<Load, String> {
        let text = |error: std::io::Error| format!("a socket for the load: {error}");
        let mut sockets = Vec::new();
        for _ in 0..SOCKETS {
            let socket = UdpSocket::bind("127.0.0.1:0").map_err(text)?;
            socket.connect(to).map_err(text)?;
            socket.set_read_timeout(Some(Duration::from_millis(100))).map_err(text)?;
            sockets.push(Arc::new(socket));
        }
        let waiting = std::iter::repeat_with(|| None).take(1 << 16).collect();
        let state = State { waiting, order: VecDeque::new(), outcome: Outcome::default() };
        let mut load = Load {
            state: Arc::new(Mutex::new(state)),
            rate: Arc::new(AtomicU32::new(rate)),
            excused: Arc::default(),
            stopped: Arc::default(),
            over: Arc::default(),
            sender: None,
            receivers: Vec::new(),
        };
        for socket in &sockets {
            let (socket, state, over) = (socket.clone(), load.state.clone(), load.over.clone());
            load.receivers.push(thread::spawn(move || receive(&socket, &state, &over)));
        }
        let (state, stopped, rate, excused) =
            (load.state.clone(), load.stopped.clone(), load.rate.clone(), load.excused.clone());
        load.sender = Some(thread::spawn(move || send(&sockets, &state, &stopped, &rate, &excused)));
        Ok(load)
    }

    /// From now on so many queries a second.
    pub fn rate(&self, rate: u32) {
        self.rate.store(rate, Relaxed);
    }

    /// Whether no server can answer what is sent from now on.
    pub fn excuse(&self, whether: bool) {
        self.excused.store(whether, Relaxed);
    }

    /// What became of the queries so far.
    pub fn outcome(&self) -> Outcome {
        locked(&self.state).outcome
    }

    /// Sends nothing more, waits for what is still to come, and tells what became of all.
    pub fn finish(mut self) -> Outcome {
        self.stop_sending();
        let end = Instant::now() + LIMIT + Duration::from_secs(1);
        while locked(&self.state).waiting.iter().any(Option::is_some) && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        self.end();
        self.outcome()
    }

    fn stop_sending(&mut self) {
        self.stopped.store(true, Relaxed);
        // one that failed has said so
        drop(self.sender.take().map(JoinHandle::join));
    }

    fn end(&mut self) {
        self.stop_sending();
        self.over.store(true, Relaxed);
        for thread in self.receivers.drain(..) {
            drop(thread.join());
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn send(
    sockets: &[Arc<UdpSocket>],
    state: &Mutex<State>,
    stopped: &AtomicBool,
    rate: &AtomicU32,
    excused: &AtomicBool,
) {
    let mut due = Instant::now();
    for number in 0.. {
        let rate = loop {
            match rate.load(Relaxed) {
                _ if stopped.load(Relaxed) => return,
                0 => {
                    thread::sleep(Duration::from_millis(20));
                    due = Instant::now();
                }
                rate => break rate,
            }
        };
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due += Duration::from_secs(1) / rate;
        let id = u16::try_from(number & 0xffff).unwrap_or_default();
        let waiting = Waiting { number, sent: Instant::now(), excused: excused.load(Relaxed) };
        {
            let mut state = locked(state);
            state.outcome.sent += 1;
            state.order.push_back((id, number, waiting.sent));
            state.waiting[usize::from(id)] = Some(waiting);
        }
        // what cannot be sent will have no answer, and count as lost
        drop(sockets[usize::from(id) % SOCKETS].send(&query(id, &name(number), A)));
    }
}

fn receive(socket: &UdpSocket, state: &Mutex<State>, over: &AtomicBool) {
    let mut buffer = vec![0; 4096];
    while !over.load(Relaxed) {
        let received = socket.recv(&mut buffer);
        let (mut state, now) = (locked(state), Instant::now());
        if let Ok(length) = received {
            state.received(&buffer[..length], now);
        }
        state.expire(now);
    }
}
