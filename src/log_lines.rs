//! Which log lines are written, and in what form (pure): repeated lines are counted instead of written, and nothing that
//! came in a packet can break a line.

use std::time::{Duration, Instant};

use log::Level;

/// The longest line, in octets.
const LONGEST: usize = 2048;
/// How long a line is held back after it was written.
const WINDOW: Duration = Duration::from_secs(10);
/// How many different lines are remembered.
const REMEMBERED: usize = 64;
/// Lines in one second, above debug, before the rest of the second is only counted.
const PER_SECOND: u32 = 100;

/// The text as one line: control characters as `\DDD` octets, and no longer than a line may be.
pub fn clean(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(LONGEST));
    for character in text.chars() {
        if line.len() + character.len_utf8() > LONGEST {
            line.push('…');
            break;
        }
        if character.is_control() {
            for octet in character.encode_utf8(&mut [0; 4]).bytes() {
                line.push_str(&format!("\\{octet:03}"));
            }
        } else {
            line.push(character);
        }
    }
    line
}

#[derive(Debug)]
struct Held {
    level: Level,
    line: String,
    until: Instant,
    count: u64,
}

/// Lines written of late, with how often each was held back.
#[derive(Debug, Default)]
pub struct Repeats {
    held: Vec<Held>,
    second: Option<Instant>,
    in_second: u32,
    suppressed: u64,
}

impl Repeats {
    /// Lets a line through to `write`, or counts it. Lines for debugging are all let through: whoever asks for them
    /// wants each.
    pub fn pass(&mut self, level: Level, line: &str, now: Instant, mut write: impl FnMut(Level, &str)) {
        if level >= Level::Debug {
            write(level, line);
            return;
        }
        if let Some(held) = self.held.iter_mut().find(|held| held.level == level && held.line == line) {
            held.count += 1;
            return;
        }
        if !self.within_rate(now, &mut write) {
            self.suppressed += 1;
            return;
        }
        if self.held.len() >= REMEMBERED {
            say(&self.held.remove(0), &mut write);
        }
        self.held.push(Held { level, line: line.to_owned(), until: now + WINDOW, count: 0 });
        write(level, line);
    }

    fn within_rate(&mut self, now: Instant, write: &mut impl FnMut(Level, &str)) -> bool {
        if self.second.is_none_or(|second| now >= second + Duration::from_secs(1)) {
            self.second = Some(now);
            self.in_second = 0;
            self.say_suppressed(write);
        }
        self.in_second += 1;
        self.in_second <= PER_SECOND
    }

    fn say_suppressed(&mut self, write: &mut impl FnMut(Level, &str)) {
        if self.suppressed > 0 {
            write(
                Level::Warn,
                &format!("{} log lines suppressed: more than {PER_SECOND} in a second", self.suppressed),
            );
            self.suppressed = 0;
        }
    }

    /// Says how often the lines were repeated whose time has passed.
    pub fn expire(&mut self, now: Instant, mut write: impl FnMut(Level, &str)) {
        self.held.retain(|held| {
            let keep = now < held.until;
            if !keep {
                say(held, &mut write);
            }
            keep
        });
    }

    /// Says all that was held back: the end is near.
    pub fn finish(&mut self, mut write: impl FnMut(Level, &str)) {
        for held in self.held.drain(..) {
            say(&held, &mut write);
        }
        self.say_suppressed(&mut write);
    }
}

fn say(held: &Held, write: &mut impl FnMut(Level, &str)) {
    if held.count > 0 {
        write(held.level, &format!("{} (repeated {} times)", held.line, held.count));
    }
}

#[cfg(test)]
mod tests {
    use super::{PER_SECOND, Repeats, WINDOW, clean};
    use log::Level;
    use std::time::{Duration, Instant};

    #[test]
    fn nothing_breaks_a_line() {
        assert_eq!(clean("a\nb\u{1b}[31m\u{85}ü"), "a\\010b\\027[31m\\194\\133ü");
        let long = clean(&"ä".repeat(5000));
        assert!(long.len() <= 2052 && long.ends_with('…'));
    }

    #[test]
    fn a_repeated_line_is_written_once_and_counted() {
        let (mut repeats, mut seen, start) = (Repeats::default(), Vec::new(), Instant::now());
        for ms in 0..1000 {
            repeats.pass(Level::Warn, "down", start + Duration::from_millis(ms), |_, line| seen.push(line.to_owned()));
        }
        assert_eq!(seen, ["down"]);
        repeats.expire(start + WINDOW, |_, line| seen.push(line.to_owned()));
        assert_eq!(seen, ["down", "down (repeated 999 times)"]);
        repeats.expire(start + WINDOW * 2, |_, line| seen.push(line.to_owned()));
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn a_flood_of_different_lines_is_bounded_and_counted() {
        let (mut repeats, mut seen, start) = (Repeats::default(), Vec::new(), Instant::now());
        for number in 0..5000 {
            repeats.pass(Level::Error, &format!("line {number}"), start, |_, line| seen.push(line.to_owned()));
        }
        assert_eq!(seen.len(), PER_SECOND as usize);
        repeats.pass(Level::Error, "later", start + Duration::from_secs(1), |_, line| seen.push(line.to_owned()));
        assert_eq!(seen[PER_SECOND as usize..], ["4900 log lines suppressed: more than 100 in a second", "later"]);
        assert!(repeats.held.len() <= super::REMEMBERED);
    }

    #[test]
    fn lines_for_debugging_are_all_written() {
        let (mut repeats, mut count) = (Repeats::default(), 0);
        for _ in 0..500 {
            repeats.pass(Level::Debug, "same", Instant::now(), |_, _| count += 1);
        }
        assert_eq!(count, 500);
    }

    #[test]
    fn the_end_says_what_was_held_back() {
        let (mut repeats, mut seen) = (Repeats::default(), Vec::new());
        for _ in 0..3 {
            repeats.pass(Level::Info, "x", Instant::now(), |_, _| {});
        }
        repeats.finish(|_, line| seen.push(line.to_owned()));
        assert_eq!(seen, ["x (repeated 2 times)"]);
    }
}
