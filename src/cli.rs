//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, value_parser};

use crate::config::file::{DEFAULT_PATH, Overrides};
use crate::config::options::{ADDRESSES, Opt, SERVERS};

/// What to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Serve until told to stop.
    Run,
    /// Say whether the configuration would do, and stop.
    Check,
}

/// What the command line asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invocation {
    /// What to do.
    pub action: Action,
    /// The configuration file, if one was named.
    pub config: Option<PathBuf>,
    /// Values in place of the file's.
    pub overrides: Overrides,
}

/// A flag that takes the place of an option of the file.
fn flag(option: &'static Opt, value: &'static str) -> Arg {
    let name = option.flag.unwrap_or_default().trim_start_matches('-');
    let help = format!(
        "{} May be given more than once, or with commas. Replaces {}. [default: {}]",
        option.summary,
        option.path(),
        option.default.trim_matches(['[', ']']).replace('"', "")
    );
    Arg::new(name).long(name).value_name(value).action(ArgAction::Append).global(true).help(help)
}

/// The command line as clap sees it; help and manual page are made from it.
pub fn command() -> Command {
    Command::new("dot-proxy")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves plain DNS and relays every query inside TLS to the configured resolvers.")
        .after_help("Without a command it runs in the foreground. See dot-proxy(8) and dot-proxy.toml(5).")
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .global(true)
                .value_parser(value_parser!(PathBuf))
                .help(format!("Reads this configuration file instead of {DEFAULT_PATH}, which may be missing.")),
        )
        .arg(flag(&ADDRESSES, "ADDRESS"))
        .arg(flag(&SERVERS, "SERVER"))
        .subcommand(Command::new("run").about("Serves until SIGTERM or SIGINT; the default."))
        .subcommand(
            Command::new("check")
                .about("Says whether the configuration would do and what will be verified of each server."),
        )
}

/// Reads the arguments, the program's name first.
///
/// # Errors
/// Help, version, or what is wrong with them; `exit` of the error prints it and ends the process.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    let words = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect();
    Ok(Invocation {
        action: if matches.subcommand_name() == Some("check") { Action::Check } else { Action::Run },
        config: matches.get_one::<PathBuf>("config").cloned(),
        overrides: Overrides { listen: words("listen"), upstream: words("upstream") },
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Action, command, parse};

    fn arguments(line: &str) -> Result<super::Invocation, clap::Error> {
        parse(line.split(' ').map(Into::into))
    }

    #[test]
    fn the_command_line_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn flags_stand_before_or_behind_the_command() {
        let run = arguments("dot-proxy --listen 127.0.0.1:1 --listen [::1]:1 --upstream 192.0.2.1").unwrap();
        assert_eq!((run.action, run.config), (Action::Run, None));
        assert_eq!(run.overrides.listen, ["127.0.0.1:1", "[::1]:1"]);
        assert_eq!(run.overrides.upstream, ["192.0.2.1"]);
        let check = arguments("dot-proxy check --config /x").unwrap();
        assert_eq!((check.action, check.config), (Action::Check, Some("/x".into())));
    }

    #[test]
    fn unknown_words_are_refused() {
        for line in ["dot-proxy statsu", "dot-proxy --lissten x", "dot-proxy --config"] {
            assert_eq!(arguments(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
