//! `cargo xtask fault-server`: troubled servers for programs in other languages, such as `benches/faults/run`.
//!
//! One line of standard input is a command and gets one line of JSON in return; the end of standard input is the end.
//! The first line, written unasked, says where the servers listen and which CA has issued their certificate.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::Pki;
use testkit::journal::How;

use crate::troubled::Troubled;

/// The name in the servers' certificate, beside their addresses.
pub const NAME: &str = "upstream.test";

/// The commands, for `--help`. SERVER is a number from 0, or `all`.
pub const COMMANDS: &str = "\
counts                      what each server has seen
SERVER rst                  resets all connections
SERVER silence              lets all connections go silent for good; new ones work
SERVER hole SECONDS         for so long neither reads nor answers
SERVER close-after-answer   closes each connection behind its first answer
SERVER idle-limit SECONDS   closes connections that are idle for so long
SERVER down                 closes the port and all connections
SERVER up                   opens the port again";

/// Serves on these addresses until `input` ends, and copies the CA certificate to `ca_file`.
///
/// # Errors
/// What did not work.
pub fn run(
    listen: &[String],
    answer_after: Duration,
    ca_file: &Path,
    input: impl BufRead,
    mut output: impl Write,
) -> Result<(), String> {
    let pki = Pki::new();
    std::fs::copy(pki.ca_file(), ca_file).map_err(|error| format!("{}: {error}", ca_file.display()))?;
    let identity = pki.server(&[NAME, "127.0.0.1", "127.0.0.2"]);
    let servers: Vec<_> =
        listen.iter().map(|address| Troubled::start(identity.clone(), address, answer_after)).collect();
    let addresses: Vec<String> = servers.iter().map(|one| one.server().address().to_string()).collect();
    let mut say = |value: &Value| {
        writeln!(output, "{value}").and_then(|()| output.flush()).map_err(|error| format!("standard output: {error}"))
    };
    say(&json!({ "name": NAME, "servers": addresses }))?;
    for line in input.lines() {
        let line = line.map_err(|error| format!("standard input: {error}"))?;
        let answer = obey(&line, &servers).unwrap_or_else(|error| json!({ "error": error }));
        say(&answer)?;
    }
    Ok(())
}

/// Does what a line says.
fn obey(line: &str, servers: &[Arc<Troubled>]) -> Result<Value, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if words == ["counts"] {
        return Ok(servers.iter().map(|server| counts(server)).collect());
    }
    let &[which, command, ref rest @ ..] = words.as_slice() else { return Err(format!("no such command: {line}")) };
    let chosen = if which == "all" {
        servers
    } else {
        let number: Option<usize> = which.parse().ok();
        number.and_then(|number| servers.get(number..=number)).ok_or(format!("no such server: {which}"))?
    };
    for server in chosen {
        match (command, rest) {
            ("rst", []) => server.server().close_all(How::Rst),
            ("silence", []) => server.server().freeze_existing(),
            ("hole", [time]) => server.black_hole(seconds(time)?),
            ("close-after-answer", []) => server.close_after_answer(Some(How::CloseNotify)),
            ("idle-limit", [time]) => server.idle_limit(Some(seconds(time)?)),
            ("down", []) => server.go_down(),
            ("up", []) => server.server().restart(),
            _ => return Err(format!("no such command: {line}")),
        }
    }
    Ok(json!({}))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text.parse().ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
    parsed.ok_or(format!("no time in seconds: {text}"))
}

fn counts(server: &Troubled) -> Value {
    let counts = server.counts();
    json!({
        "connections": counts.connections,
        "full": counts.full,
        "resumed": counts.resumed,
        "queries": counts.queries,
        "open": counts.open,
    })
}
