//! `cargo xtask soak`: tests that take their time. What they find out shows only after thousands of faults.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use testkit::proxy_process::Signal;
use testkit::{How, Stage};

use crate::soak_faults::FAULTS;
use crate::soak_load::{Load, Outcome};
use crate::soak_stale as stale;
use crate::soak_stand::{ANSWER_AFTER, Stand, pause};
use crate::soak_watch::MEMORY_LEEWAY;

/// A long test: the program, and which part of the full time it takes; what it found.
type Test = fn(&Path, f64) -> Result<String, String>;

/// The long tests that can be chosen, and what each is about.
pub const TESTS: &[(&str, &str, Test)] = &[
    ("r01", "10 min of a black hole, then the first query", after_a_black_hole),
    ("r04", "100,000 connections that end in every way", connections),
    ("r10", "10 min of 50 queries a second to good servers: few handshakes", few_handshakes),
    ("r14", "a minute with a tenth of the processor's time, then recovery", lack_of_time),
    ("stale", "10 min without any server at 500 queries a second for 1,000 names that are known", stale::answers),
    ("r34", "2 h without any server at 200 queries a second, then recovery", long_outage),
];

const SECOND: Duration = Duration::from_secs(1);
/// How much more memory may be held after connections by the hundred at once, in percent: how many there were at once is
/// chance, and the allocator gives back what it can. What leaked with each of 100,000 connections would be far more.
const KEPT: u64 = 50;

fn minutes(count: f64) -> Duration {
    SECOND.mul_f64(count * 60.0)
}

fn summary(outcome: &Outcome) -> String {
    format!(
        "{} queries, {} answered, {} lost, {} failed, {} that no server could answer, slowest {} ms",
        outcome.sent,
        outcome.answered,
        outcome.lost,
        outcome.failed,
        outcome.excused,
        outcome.slowest.as_millis()
    )
}

/// Every kind of fault in turn at 500 queries a second, for so many minutes.
///
/// # Errors
/// A client missed an answer that a server could have given, or the program holds more than at the start.
pub fn mixed(program: &Path, time: f64) -> Result<String, String> {
    let stand = Stand::new(program, 2, "");
    let load = stand.load(500)?;
    // once through all of it, so that what is needed once is there; then what it holds in peace
    let mut before = play(&stand, &load, Outcome::default());
    pause(10 * SECOND);
    let start = stand.held()?;
    let end = Instant::now() + minutes(time);
    let mut rounds = 1;
    while Instant::now() < end {
        before = play(&stand, &load, before);
        rounds += 1;
    }
    let held = stand.settled(start, MEMORY_LEEWAY);
    let outcome = load.finish();
    let counts = stand.counts();
    let text = format!(
        "{rounds} rounds of {} kinds of faults\n{}\n{} connections, {} full and {} resumed handshakes",
        FAULTS.len(),
        summary(&outcome),
        counts.connections,
        counts.full,
        counts.resumed
    );
    let held = held.map_err(|why| format!("{why}\n{text}"))?;
    if outcome.missed() > 0 {
        Err(format!("answers were missed\n{text}\n{held}"))
    } else {
        Ok(format!("{text}\n{held}"))
    }
}

/// One round of faults. Says at which an answer was missed: afterwards nobody could tell.
#[expect(clippy::print_stderr, reason = "a development tool talks to its user")]
fn play(stand: &Stand, load: &Load, mut before: Outcome) -> Outcome {
    for fault in FAULTS {
        (fault.happen)(stand, load);
        // until what was sent last is counted as lost
        pause(6 * SECOND);
        let now = load.outcome();
        let (lost, failed) = (now.lost - before.lost, now.failed - before.failed);
        if lost + failed > 0 {
            eprintln!("{}: {lost} lost, {failed} failed", fault.text);
        }
        before = now;
    }
    before
}

/// R10: 50 queries a second to servers that do nothing wrong.
fn few_handshakes(program: &Path, scale: f64) -> Result<String, String> {
    let stand = Stand::new(program, 2, "");
    let load = stand.load(50)?;
    pause(minutes(10.0 * scale));
    let (outcome, counts) = (load.finish(), stand.counts());
    let text = format!("{}\n{} full and {} resumed handshakes", summary(&outcome), counts.full, counts.resumed);
    let few = counts.full + counts.resumed <= 2 && counts.connections <= 2;
    if few && outcome.missed() == 0 {
        Ok(text)
    } else {
        Err(format!("more than 2 handshakes, or answers missed\n{text}"))
    }
}

/// R14: the process has a tenth of the time, in slices as under a quota, for a minute; then all of it again.
fn lack_of_time(program: &Path, scale: f64) -> Result<String, String> {
    let stand = Stand::new(program, 2, "");
    let load = stand.load(200)?;
    pause(2 * SECOND);
    load.excuse(true);
    let end = Instant::now() + minutes(scale);
    while Instant::now() < end {
        stand.proxy.signal(Signal::SIGSTOP);
        pause(SECOND.mul_f64(0.18));
        stand.proxy.signal(Signal::SIGCONT);
        pause(SECOND.mul_f64(0.02));
    }
    pause(5 * SECOND);
    load.excuse(false);
    pause(10 * SECOND);
    let (outcome, counts) = (load.finish(), stand.counts());
    let text = format!("{}\n{} connections were made", summary(&outcome), counts.connections);
    // fewer than one in four seconds, where every query could make one
    let few = counts.connections <= 15;
    if few && outcome.missed() == 0 && outcome.slowest < SECOND / 2 {
        Ok(text)
    } else {
        Err(format!("more than 15 connections, or answers missed or late 5 s after it\n{text}"))
    }
}

/// R1: everything silent for 10 minutes, asked now and then; the first query when it is over.
fn after_a_black_hole(program: &Path, scale: f64) -> Result<String, String> {
    let mut text = String::new();
    for rate in [0, 5] {
        let stand = Stand::new(program, 2, "");
        stand.ask_once("before.example.net").ok_or("no answer before anything was wrong")?;
        stand.cut_off();
        let load = stand.load(rate)?;
        load.excuse(true);
        pause(minutes(10.0 * scale));
        drop(load);
        stand.reconnect();
        let took = stand.ask_once("after.example.net");
        let _ = writeln!(text, "asked {rate} times a second meanwhile: first answer after {took:?}");
        // a handshake on loopback takes some milliseconds
        if took.is_none_or(|took| took > SECOND + Duration::from_millis(100)) {
            return Err(format!("{text}more than a second"));
        }
    }
    Ok(text.trim_end().to_owned())
}

/// R34: no server for 2 hours.
fn long_outage(program: &Path, scale: f64) -> Result<String, String> {
    let stand = Stand::new(program, 2, "");
    let load = stand.load(200)?;
    let outage = |time: Duration| {
        load.excuse(true);
        // what is on its way when the servers go is lost with them
        pause(ANSWER_AFTER * 5);
        for server in &stand.servers {
            server.go_down();
        }
        pause(time);
        for server in &stand.servers {
            server.server().restart();
        }
        // R3: found again within a second or so, which a query waits for
        load.excuse(false);
    };
    // a short one first: what an outage needs once is there
    pause(5 * SECOND);
    outage(10 * SECOND);
    pause(20 * SECOND);
    let start = stand.held()?;
    outage(minutes(120.0 * scale));
    pause(20 * SECOND);
    let held = stand.settled(start, MEMORY_LEEWAY);
    let outcome = load.finish();
    let text = summary(&outcome);
    let held = held.map_err(|why| format!("{why}\n{text}"))?;
    if outcome.missed() > 0 {
        Err(format!("answers were missed\n{text}\n{held}"))
    } else {
        Ok(format!("{text}\n{held}"))
    }
}

/// R4: connections that end by FIN, reset, time-out and in the handshake.
fn connections(program: &Path, scale: f64) -> Result<String, String> {
    // so many that a failure here and there, and the rest after it, still lets many connections be made
    let stand = Stand::new(program, 32, "connect-timeout = \"100ms\"\n");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of connections")]
    let wanted = (100_000.0 * scale) as usize;
    let load = stand.load(400)?;
    let mut kinds = [("FIN", 0), ("reset", 0), ("failed handshake", 0), ("time-out", 0)];
    let mut start = None;
    loop {
        for (index, (_, count)) in kinds.iter_mut().enumerate() {
            let before = stand.counts().connections;
            match index {
                0 => ended_by_answers(&stand, How::CloseNotify),
                1 => ended_by_answers(&stand, How::Rst),
                2 => never_made(&stand, Stage::CloseAfterClientHello),
                _ => never_made(&stand, Stage::AcceptThenSilence),
            }
            *count += stand.counts().connections - before;
        }
        let made = kinds.iter().map(|(_, count)| count).sum::<usize>();
        match start {
            // nothing counts yet: only after some rounds there have been as many connections at once as there ever are
            None if made >= wanted / 5 => {
                pause(10 * SECOND);
                start = Some((stand.held()?, stand.open_connections()?));
                kinds.iter_mut().for_each(|(_, count)| *count = 0);
            }
            Some(_) if made >= wanted => break,
            _ => {}
        }
    }
    let (start, open) = start.unwrap_or_default();
    let held = stand.settled(start, KEPT);
    let still_open = stand.open_connections()?;
    let outcome = load.finish();
    let told: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} by {kind}")).collect();
    let text = format!(
        "connections: {}\n{open} open at the start, {still_open} at the end\n{}",
        told.join(", "),
        summary(&outcome)
    );
    let held = held.map_err(|why| format!("{why}\n{text}"))?;
    if still_open > open {
        return Err(format!("more connections are open than at the start\n{text}"));
    }
    if kinds.iter().any(|(_, count)| *count == 0) {
        return Err(format!("some kind did not come to pass\n{text}"));
    }
    Ok(format!("{text}\n{held}"))
}

/// Connections that end behind their first answer.
fn ended_by_answers(stand: &Stand, how: How) {
    let set = |how| stand.servers.iter().for_each(|server| server.close_after_answer(how));
    set(Some(how));
    pause(10 * SECOND);
    set(None);
}

/// Connections that come to nothing, at all servers but the last: clients have their answers all the same.
fn never_made(stand: &Stand, stage: Stage) {
    let most = &stand.servers[..stand.servers.len() - 1];
    for _ in 0..5 {
        for server in most {
            server.server().set_stage(stage);
            server.server().close_all(How::Rst);
        }
        pause(SECOND);
        for server in most {
            server.recover();
        }
        // with an answer a server's rest is forgotten, and the next one is short again
        pause(SECOND / 2);
    }
}
