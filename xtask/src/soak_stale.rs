//! An outage of all servers, for a program that may give stale answers (RFC 8767): every known name is answered, at once.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use testkit::{MessageBuilder, Opt, inspect};

use crate::soak_stand::{Stand, pause};
use crate::soak_watch::MEMORY_LEEWAY;

const NAMES: u64 = 1000;
const RATE: u32 = 500;
/// By then the outage is known: nothing has come for longer than a stale answer is held back.
const KNOWN: Duration = Duration::from_secs(5);
/// What is told of an answer that is stale.
const STALE: u16 = 3;

/// What became of the queries of one time.
#[derive(Default)]
struct Outcome {
    sent: u64,
    fresh: u64,
    stale: u64,
    failed: u64,
    /// How long each answer took.
    times: Vec<Duration>,
}

impl Outcome {
    fn answered(&self) -> u64 {
        self.fresh + self.stale
    }

    /// The time within which so many of 1,000 answers came; they are in order.
    fn part(&self, part: usize) -> Duration {
        self.times.get(self.times.len() * part / 1000).copied().unwrap_or_default()
    }
}

/// Asks for the names in turn, at a steady pace, for this long.
fn ask(stand: &Stand, time: Duration) -> Result<Outcome, String> {
    let text = |error: std::io::Error| format!("a socket: {error}");
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(text)?;
    socket.connect(stand.proxy.address()).map_err(text)?;
    let (mut outcome, begin) = (Outcome::default(), Instant::now());
    let mut waiting = vec![None; 1 << 16];
    let mut buffer = vec![0; 4096];
    let (mut due, end) = (begin, begin + time);
    loop {
        let now = Instant::now();
        if now >= end + Duration::from_secs(5) || now >= end && waiting.iter().all(Option::is_none) {
            outcome.times.sort_unstable();
            return Ok(outcome);
        }
        if now >= due && now < end {
            let id = u16::try_from(outcome.sent & 0xffff).unwrap_or_default();
            let name = format!("n{}.soak.example.net", outcome.sent % NAMES);
            let query = MessageBuilder::query(id, &name, 1).opt(Opt::new(1232)).build();
            waiting[usize::from(id)] = Some(now);
            socket.send(&query).map_err(text)?;
            outcome.sent += 1;
            due += Duration::from_secs(1) / RATE;
            continue;
        }
        let patience = due.max(now + Duration::from_millis(1)).saturating_duration_since(now);
        socket.set_read_timeout(Some(patience.min(Duration::from_millis(50)))).map_err(text)?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let message = &buffer[..length];
                let Some(sent) = waiting[usize::from(inspect::id(message))].take() else { continue };
                outcome.times.push(sent.elapsed());
                match (inspect::rcode(message), inspect::ede(message)) {
                    (0, None) => outcome.fresh += 1,
                    (0, Some(STALE)) => outcome.stale += 1,
                    _ => outcome.failed += 1,
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(text(error)),
        }
    }
}

/// Ten minutes without any server.
///
/// # Errors
/// A name went without its answer, or answers took their time although the outage was known.
pub(crate) fn answers(program: &Path, scale: f64) -> Result<String, String> {
    let stand = Stand::with_cache(program, 2, "max-ttl = \"1s\"\nstale = \"1d\"", "");
    // each name is asked for once, and is then past its time
    let before = ask(&stand, Duration::from_secs(2) * 2)?;
    pause(Duration::from_millis(1100));
    // a short outage first, as long as names rest: what it needs once is there
    for server in &stand.servers {
        server.go_down();
    }
    let first = ask(&stand, KNOWN)?;
    drop(ask(&stand, Duration::from_secs(35))?);
    for server in &stand.servers {
        server.server().restart();
    }
    drop(ask(&stand, Duration::from_secs(35))?);
    let start = stand.held()?;
    for server in &stand.servers {
        server.go_down();
    }
    drop(ask(&stand, KNOWN)?);
    let then = ask(&stand, Duration::from_secs(600).mul_f64(scale))?;
    for server in &stand.servers {
        server.server().restart();
    }
    pause(Duration::from_secs(1));
    // the first to be asked for, at a rest of 30 s, find out that it is over
    drop(ask(&stand, Duration::from_secs(35))?);
    let after = ask(&stand, Duration::from_secs(10))?;
    let held = stand.settled(start, MEMORY_LEEWAY);
    let in_ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let text = format!(
        "before {} answers of {}; in the first {} s {} of {}, half within {:.2} ms, all within {:.0} ms; then {} of {}, {} of them stale, half within \
         {:.2} ms, 99 of 100 within {:.2} ms, all within {:.0} ms; 45 s after the end {} of {}, {} stale",
        before.answered(),
        before.sent,
        KNOWN.as_secs(),
        first.answered(),
        first.sent,
        in_ms(first.part(500)),
        in_ms(first.part(999)),
        then.answered(),
        then.sent,
        then.stale,
        in_ms(then.part(500)),
        in_ms(then.part(990)),
        in_ms(then.part(999)),
        after.answered(),
        after.sent,
        after.stale
    );
    let held = held.map_err(|why| format!("{why}\n{text}"))?;
    let missed = first.sent - first.answered() + then.sent - then.answered() + after.sent - after.answered();
    let is_slow = then.part(500) >= Duration::from_millis(2);
    if missed > 0 || is_slow || after.stale > 0 {
        Err(format!("{text}\n{held}"))
    } else {
        Ok(format!("{text}\n{held}"))
    }
}
