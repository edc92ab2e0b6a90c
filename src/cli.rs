//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::file::{DEFAULT_PATH, Overrides, Source};
use crate::config::options::{ADDRESSES, Opt, SERVERS};
use crate::system_dns::switch::Verb;

/// What to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Serve until told to stop.
    Run,
    /// Say whether the configuration would do, and stop.
    Check,
    /// Show how the running service fares.
    Status {
        /// As JSON.
        json: bool,
    },
    /// Have the running service read its configuration again.
    Reload,
    /// Have the running service forget answers.
    Flush {
        /// Those for this name; all if there is none.
        name: Option<String>,
        /// And those for all names below it.
        and_below: bool,
    },
    /// Show what a server presents, with the pins of its keys.
    Pins {
        /// The server, as `address[:port][#name]`.
        server: String,
        /// Who may have issued its certificate, instead of the system's trust store.
        ca_file: Option<PathBuf>,
    },
    /// Ask one question, and show the answer and the way that it took.
    Query {
        /// The name, as people write it.
        name: String,
        /// The type, by mnemonic or number.
        rtype: String,
        /// The servers, instead of those that the configuration has for the name.
        server: Option<String>,
        /// Who may have issued their certificates, instead of what the configuration says.
        ca_file: Option<PathBuf>,
    },
    /// Point the machine's lookups at this program, or back, or say where they go.
    SystemDns(Verb),
}

/// What the command line asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invocation {
    /// What to do.
    pub action: Action,
    /// Where the configuration comes from.
    pub source: Source,
    /// The control socket of the running service, if it was named.
    pub socket: Option<PathBuf>,
    /// The directory below which the files and programs of the machine lie; `/` but in tests.
    pub root: PathBuf,
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

/// Where the running service is asked.
fn socket() -> Arg {
    Arg::new("socket")
        .long("socket")
        .value_name("PATH")
        .value_parser(value_parser!(PathBuf))
        .help("Asks at this control socket instead of the one that the configuration names.")
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
        .subcommand(
            Command::new("status")
                .about(
                    "Shows how the running service fares: listeners, privileges, workers, resolvers. Exit status 0: it \
                     serves; 1: degraded; 3: it does not run.",
                )
                .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Shows it as JSON."))
                .arg(socket()),
        )
        .subcommand(
            Command::new("reload")
                .about(
                    "Has the running service read its configuration again, waits, and tells what came of it. Exit status 0: \
                     applied; 1: refused, and nothing was changed; 3: it does not run.",
                )
                .arg(socket()),
        )
        .subcommand(flush())
        .subcommand(pins())
        .subcommand(query())
        .subcommand(system_dns())
}

/// The command that forgets answers.
fn flush() -> Command {
    Command::new("flush")
        .about(
            "Has the running service forget the answers in its memory: all of them, or those for one name. Exit status 0: \
             done; 3: it does not run.",
        )
        .arg(Arg::new("name").value_name("NAME").help("Only those for this name, of all types."))
        .arg(
            Arg::new("below")
                .long("below")
                .action(ArgAction::SetTrue)
                .requires("name")
                .help("And those for all names below it."),
        )
        .arg(socket())
}

/// The command that shows what a server presents.
fn pins() -> Command {
    Command::new("pins")
        .about(
            "Shows the certificates that a server presents, the pins of their keys and who vouches for them; no query is \
             sent. Exit status 0: shown; 1: no TLS connection came about; 78: the server or the file cannot be used.",
        )
        .arg(Arg::new("server").value_name("SERVER").required(true).help("The server, as address[:port][#name]."))
        .arg(
            Arg::new("ca-file")
                .long("ca-file")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Asks the CA certificates of this PEM file who the server is, instead of the system's trust store."),
        )
}

/// The command that asks one question.
fn query() -> Command {
    Command::new("query")
        .about(
            "Asks one question as the service would, and shows the answer, the server, TLS, the certificates that were \
             presented, what was verified and how long each stage took. Exit status 0: the answer is NOERROR or NXDOMAIN; \
             1: another one, or none; 78: name, type, server or configuration cannot be used.",
        )
        .arg(Arg::new("name").value_name("NAME").required(true).help("The name that is asked for."))
        .arg(
            Arg::new("type")
                .value_name("TYPE")
                .default_value("A")
                .help("The type that is asked for, such as AAAA, or TYPE28."),
        )
        .arg(
            Arg::new("server")
                .long("server")
                .value_name("SERVER")
                .help("Asks this server, written as for --upstream, whatever routes the configuration has."),
        )
        .arg(
            Arg::new("ca-file").long("ca-file").value_name("FILE").value_parser(value_parser!(PathBuf)).help(
                "Asks the CA certificates of this PEM file who the server is, instead of those of the configuration.",
            ),
        )
}

/// The command that changes the machine around the service.
fn system_dns() -> Command {
    let force = |help: &'static str| Arg::new("force").long("force").action(ArgAction::SetTrue).help(help);
    Command::new("system-dns")
        .about("Points the machine's lookups at this service, reversibly; see SYSTEM DNS in dot-proxy(8).")
        .subcommand_required(true)
        .arg(
            Arg::new("root")
                .long("root")
                .value_name("DIRECTORY")
                .global(true)
                .hide(true)
                .default_value("/")
                .value_parser(value_parser!(PathBuf)),
        )
        .subcommand(
            Command::new("enable")
                .about("Points the machine's lookups at this service, if it answers.")
                .arg(force("Also if the service does not answer, or answers with a failure.")),
        )
        .subcommand(
            Command::new("disable")
                .about("Puts back what was there before.")
                .arg(force("Also over what somebody has changed since.")),
        )
        .subcommand(Command::new("status").about("Says what manages DNS here and whether lookups go to this service."))
}

/// What follows `system-dns`.
fn verb(matches: &ArgMatches) -> Option<Verb> {
    let (name, matches) = matches.subcommand()?;
    Some(match name {
        "enable" => Verb::Enable { force: matches.get_flag("force") },
        "disable" => Verb::Disable { force: matches.get_flag("force") },
        _ => Verb::Status,
    })
}

/// Reads the arguments, the program's name first.
///
/// # Errors
/// Help, version, or what is wrong with them; `exit` of the error prints it and ends the process.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    let words = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect();
    let overrides = Overrides { listen: words("listen"), upstream: words("upstream") };
    let source = Source { path: matches.get_one::<PathBuf>("config").cloned(), overrides };
    let path = |inner: &ArgMatches, name: &str| inner.get_one::<PathBuf>(name).cloned();
    let (mut socket, mut root) = (None, PathBuf::from("/"));
    let action = match matches.subcommand() {
        Some(("check", _)) => Action::Check,
        Some(("status", inner)) => {
            socket = path(inner, "socket");
            Action::Status { json: inner.get_flag("json") }
        }
        Some(("reload", inner)) => {
            socket = path(inner, "socket");
            Action::Reload
        }
        Some(("flush", inner)) => {
            socket = path(inner, "socket");
            Action::Flush { name: inner.get_one::<String>("name").cloned(), and_below: inner.get_flag("below") }
        }
        Some(("pins", inner)) => Action::Pins {
            server: inner.get_one::<String>("server").cloned().unwrap_or_default(),
            ca_file: path(inner, "ca-file"),
        },
        Some(("query", inner)) => {
            let word = |name: &str| inner.get_one::<String>(name).cloned();
            Action::Query {
                name: word("name").unwrap_or_default(),
                rtype: word("type").unwrap_or_default(),
                server: word("server"),
                ca_file: path(inner, "ca-file"),
            }
        }
        Some(("system-dns", inner)) => {
            root = path(inner, "root").unwrap_or(root);
            verb(inner).map_or(Action::Run, Action::SystemDns)
        }
        _ => Action::Run,
    };
    Ok(Invocation { action, source, socket, root })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Action, Verb, command, parse};

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
        assert_eq!((run.action, run.source.path), (Action::Run, None));
        assert_eq!(run.source.overrides.listen, ["127.0.0.1:1", "[::1]:1"]);
        assert_eq!(run.source.overrides.upstream, ["192.0.2.1"]);
        let check = arguments("dot-proxy check --config /x").unwrap();
        assert_eq!((check.action, check.source.path), (Action::Check, Some("/x".into())));
        let status = arguments("dot-proxy status --json --socket /y").unwrap();
        assert_eq!((status.action, status.socket), (Action::Status { json: true }, Some("/y".into())));
    }

    #[test]
    fn the_verbs_of_system_dns_have_their_flags() {
        for (line, verb) in [
            ("enable", Verb::Enable { force: false }),
            ("enable --force", Verb::Enable { force: true }),
            ("disable --force", Verb::Disable { force: true }),
            ("status", Verb::Status),
        ] {
            let found = arguments(&format!("dot-proxy system-dns {line} --config /x")).unwrap();
            assert_eq!(
                (found.action, found.root, found.source.path),
                (Action::SystemDns(verb), "/".into(), Some("/x".into()))
            );
        }
        assert_eq!(arguments("dot-proxy system-dns status --root /y").unwrap().root, std::path::Path::new("/y"));
        assert_eq!(arguments("dot-proxy system-dns").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_query_has_a_type_unless_another_is_given() {
        let query = |line: &str| arguments(line).unwrap().action;
        let wanted = |rtype: &str, server: Option<&str>, ca_file: Option<&str>| Action::Query {
            name: "a.test".to_owned(),
            rtype: rtype.to_owned(),
            server: server.map(Into::into),
            ca_file: ca_file.map(Into::into),
        };
        assert_eq!(query("dot-proxy query a.test"), wanted("A", None, None));
        assert_eq!(
            query("dot-proxy query --server 192.0.2.1#x.test a.test MX --ca-file /z"),
            wanted("MX", Some("192.0.2.1#x.test"), Some("/z"))
        );
        assert_eq!(arguments("dot-proxy query").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn unknown_words_are_refused() {
        for line in ["dot-proxy statsu", "dot-proxy --lissten x", "dot-proxy --config"] {
            assert_eq!(arguments(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
