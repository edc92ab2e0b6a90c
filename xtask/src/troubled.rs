//! DNS-over-TLS servers that go wrong on command: the testkit's server with the faults that last for a time or come with
//! every answer. The bench of faults and the long tests put them before a program.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use testkit::journal::{Handshake, How};
use testkit::{Act, DotServer, Identity, Received, Stage, default_answer};

/// How often faults that last are looked after, and with it how late their end may be.
const TICK: Duration = Duration::from_millis(20);

/// What is wrong with a server at present.
#[derive(Clone, Copy, Debug, Default)]
struct Mood {
    /// Time between a query or a ClientHello and its answer, as a path of that length would take.
    answer_after: Duration,
    /// How every connection ends behind its first answer, if it does.
    close_after_answer: Option<How>,
    /// The server closes connections that have been idle for so long.
    idle_limit: Option<Duration>,
    /// Nothing is read or answered until then; connections are made by the kernel alone.
    hole_until: Option<Instant>,
}

impl Mood {
    /// What is left of the black hole.
    fn hole(&self) -> Option<Duration> {
        self.hole_until.map(|end| end.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// How new connections fare when nothing is wrong with them.
    fn usual_stage(&self) -> Stage {
        if self.answer_after.is_zero() { Stage::Normal } else { Stage::HandshakeDelay(self.answer_after) }
    }

    fn reaction(&self, received: &Received) -> Vec<Act> {
        let mut acts: Vec<Act> = self.hole().map(Act::Sleep).into_iter().collect();
        if let Some(how) = self.close_after_answer {
            let end = match how {
                How::CloseNotify => Act::CloseNotifyAndFin,
                How::Fin => Act::Fin,
                How::Rst => Act::Rst,
            };
            // the end must come behind the answer: the wait holds up the whole connection
            acts.extend([Act::Sleep(self.answer_after), Act::Default, end]);
        } else if self.answer_after.is_zero() {
            acts.push(Act::Default);
        } else if received.message.len() >= 12 {
            acts.push(Act::AnswerAfter(self.answer_after, default_answer(&received.message)));
        }
        acts
    }
}

/// What a server has seen so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// TCP connections accepted.
    pub connections: usize,
    /// TLS handshakes completed without a ticket.
    pub full: usize,
    /// TLS handshakes completed with a ticket.
    pub resumed: usize,
    /// Queries read.
    pub queries: u64,
    /// Connections not closed yet.
    pub open: usize,
}

/// One server, and what is wrong with it.
pub struct Troubled {
    server: DotServer,
    mood: Arc<Mutex<Mood>>,
    queries: Arc<AtomicU64>,
}

fn locked(mood: &Mutex<Mood>) -> MutexGuard<'_, Mood> {
    mood.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Troubled {
    /// Starts a server that answers after this time. `listen`: address and port, port 0 for any free one.
    pub fn start(identity: Identity, listen: &str, answer_after: Duration) -> Arc<Troubled> {
        let mood = Arc::new(Mutex::new(Mood { answer_after, ..Mood::default() }));
        let queries = Arc::new(AtomicU64::new(0));
        let (of_script, counted) = (Arc::clone(&mood), Arc::clone(&queries));
        let script = move |received: &Received| {
            counted.fetch_add(1, Relaxed);
            let mood = *locked(&of_script);
            mood.reaction(received)
        };
        let stage = locked(&mood).usual_stage();
        let server = DotServer::builder().identity(identity).listen(listen).script(script).stage(stage).start();
        let troubled = Arc::new(Troubled { server, mood, queries });
        let watched = Arc::downgrade(&troubled);
        thread::spawn(move || watch(&watched));
        troubled
    }

    /// The testkit's server itself, for faults that are over in a moment.
    pub fn server(&self) -> &DotServer {
        &self.server
    }

    /// New connections fare as they should, whatever was wrong with them.
    pub fn recover(&self) {
        let stage = locked(&self.mood).usual_stage();
        self.server.set_stage(stage);
    }

    /// From now on the answers to queries take this long.
    pub fn answer_after(&self, time: Duration) {
        locked(&self.mood).answer_after = time;
    }

    /// How each connection ends behind its first answer from now on; `None`: it does not.
    pub fn close_after_answer(&self, how: Option<How>) {
        locked(&self.mood).close_after_answer = how;
    }

    /// Closes connections that are idle for so long from now on; `None`: lets them be.
    pub fn idle_limit(&self, limit: Option<Duration>) {
        locked(&self.mood).idle_limit = limit;
    }

    /// For so long the server neither reads nor answers. Then it goes on where it stopped, as after a path's outage.
    pub fn black_hole(&self, time: Duration) {
        locked(&self.mood).hole_until = Some(Instant::now() + time);
        self.server.set_stage(Stage::HandshakeDelay(time));
    }

    /// What it has seen.
    pub fn counts(&self) -> Counts {
        self.server.with_journal(|journal| {
            let mut counts = Counts { queries: self.queries.load(Relaxed), ..Counts::default() };
            for connection in &journal.connections {
                counts.connections += 1;
                counts.open += usize::from(connection.is_open());
                if let Handshake::Done { resumed, .. } = connection.handshake {
                    *(if resumed { &mut counts.resumed } else { &mut counts.full }) += 1;
                }
            }
            counts
        })
    }

    /// Goes down: no port, no connections. [`DotServer::restart`] brings it back.
    pub fn go_down(&self) {
        self.server.go_down(How::Fin);
    }

    /// Looks after what lasts.
    fn tick(&self) {
        let mood = *locked(&self.mood);
        if mood.hole_until.is_some() {
            if let Some(left) = mood.hole() {
                self.server.set_stage(Stage::HandshakeDelay(left));
            } else {
                locked(&self.mood).hole_until = None;
                self.recover();
            }
        }
        if let Some(limit) = mood.idle_limit {
            self.server.close_idle(limit, How::CloseNotify);
        }
        // hours of messages are of no use to anybody
        self.server.clear_messages();
    }
}

/// Ticks for as long as the server is there.
fn watch(troubled: &Weak<Troubled>) {
    while let Some(troubled) = troubled.upgrade() {
        troubled.tick();
        drop(troubled);
        thread::sleep(TICK);
    }
}
