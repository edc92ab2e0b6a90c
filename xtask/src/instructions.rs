//! `cargo xtask instructions`: what the pure parts of the path of a query cost, in instructions. Valgrind counts them, so that
//! neither other programs nor the processor's temper make a difference.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The numbers that hold, beside the benchmark.
const BASELINE: &str = "benches/instructions.toml";
/// How far a part may be from its number, in percent.
const TOLERANCE: f64 = 3.0;
/// Turns of the two runs whose difference counts: what a run needs once falls away, and so many turns apart it makes no
/// difference that each run's random hashes make it need a little more or less.
const TURNS: [u32; 2] = [2000, 34_000];
/// How often each part is counted, for the mean: what a store costs depends on where random hashes fall.
const RUNS: u64 = 5;
const PARTS: [&str; 8] = ["view-query", "view-answer", "edit", "key", "cache-hit", "cache-store", "plan", "route"];

/// Builds the benchmark; where it is then.
fn program(root: &Path) -> Result<PathBuf, String> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["bench", "--locked", "--bench", "parts", "--no-run", "--message-format", "json"]).current_dir(root);
    let output = command.output().map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().filter(|line| line.contains("\"name\":\"parts\"")).find_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        rest.split_once('"').map(|(path, _)| PathBuf::from(path))
    });
    found.ok_or_else(|| "cargo does not say where the benchmark is".to_owned())
}

/// How many instructions one run takes.
fn counted(program: &Path, part: &str, turns: u32) -> Result<u64, String> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = command.env("PART", part).env("TURNS", turns.to_string()).output();
    let output = output.map_err(|error| format!("valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let count = text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    count.filter(|_| output.status.success()).ok_or_else(|| format!("{part}: no count:\n{text}"))
}

fn read(text: &str) -> BTreeMap<&str, f64> {
    let entries = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    entries.filter_map(|(part, count)| Some((part, count.parse().ok()?))).collect()
}

/// Counts, and compares with the numbers that hold, or with `write` puts new ones in their place.
///
/// # Errors
/// A part takes more or fewer instructions than its number says, or cannot be counted.
pub fn run(root: &Path, write: bool) -> Result<String, String> {
    let (program, file) = (program(root)?, root.join(BASELINE));
    let known = fs::read_to_string(&file).unwrap_or_default();
    let known = read(&known);
    let (mut out, mut wrong) = (String::new(), Vec::new());
    let mut lines =
        "# Instructions of each part for one turn; made by `cargo xtask instructions --write`.\n".to_owned();
    for part in PARTS {
        let mut sum = 0;
        for _ in 0..RUNS {
            let [few, many] = [counted(&program, part, TURNS[0])?, counted(&program, part, TURNS[1])?];
            sum += many.saturating_sub(few) / u64::from(TURNS[1] - TURNS[0]);
        }
        let each = sum / RUNS;
        let _ = writeln!(lines, "{part} = {each}");
        let was = known.get(part).copied();
        #[expect(clippy::cast_precision_loss, reason = "a count of instructions is far below 2^52")]
        let change = was.map(|was| (each as f64 / was - 1.0) * 100.0);
        let said = change.map_or("new".to_owned(), |change| format!("{change:+.1} %"));
        let _ = writeln!(out, "{part:<12} {each:>6} instructions, {said}");
        if change.is_none_or(|change| change.abs() > TOLERANCE) {
            wrong.push(part);
        }
    }
    if write {
        fs::write(&file, lines).map_err(|error| format!("{}: {error}", file.display()))?;
        return Ok(out);
    }
    if wrong.is_empty() {
        return Ok(out);
    }
    Err(format!(
        "{out}more than {TOLERANCE} % away from {BASELINE}: {}; if that is meant, `cargo xtask instructions --write`",
        wrong.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::{BASELINE, PARTS, read};
    use std::path::Path;

    #[test]
    fn every_part_has_its_number() {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(BASELINE));
        let text = text.unwrap_or_default();
        let known = read(&text);
        assert!(PARTS.iter().all(|part| known.contains_key(part)) && known.len() == PARTS.len());
    }
}
