//! `cargo xtask docs [--check]`, `cargo xtask demo` and `cargo xtask fault-server`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a development tool talks to its user")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use xtask::{demo, documents, fault_server};

fn main() -> ExitCode {
    let command = Command::new("xtask")
        .about("Development tasks of dot-proxy.")
        .subcommand_required(true)
        .subcommand(Command::new("docs").about("Writes the files that are made from the table of options.").arg(
            Arg::new("check").long("check").action(ArgAction::SetTrue).help("Only says whether they are up to date."),
        ))
        .subcommand(Command::new("demo").about("Shows the main job on this machine alone, without the internet."))
        .subcommand(fault_server_command());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let result = match command.get_matches().subcommand() {
        Some(("docs", matches)) if matches.get_flag("check") => documents::check(&root),
        Some(("docs", _)) => documents::write(&root),
        Some(("fault-server", matches)) => run_fault_server(matches),
        _ => demo::run(&root),
    };
    match result {
        Ok(text) if text.is_empty() => ExitCode::SUCCESS,
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn fault_server_command() -> Command {
    Command::new("fault-server")
        .about("Serves DNS over TLS, and goes wrong on command.")
        .after_help(format!("Commands, a line each on standard input:\n{}", fault_server::COMMANDS))
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("ADDRESS:PORT")
                .action(ArgAction::Append)
                .required(true)
                .help("Where to listen; port 0 takes a free one. Once for each server."),
        )
        .arg(
            Arg::new("ca-file")
                .long("ca-file")
                .value_name("PATH")
                .required(true)
                .help("Where to write the CA certificate."),
        )
        .arg(
            Arg::new("answer-after")
                .long("answer-after")
                .value_name("MS")
                .default_value("0")
                .value_parser(clap::value_parser!(u64))
                .help("Milliseconds between a query and its answer."),
        )
}

fn run_fault_server(matches: &ArgMatches) -> Result<String, String> {
    let listen: Vec<String> = matches.get_many("listen").into_iter().flatten().cloned().collect();
    let answer_after = Duration::from_millis(matches.get_one("answer-after").copied().unwrap_or_default());
    let ca_file = matches.get_one::<String>("ca-file").map(String::as_str).unwrap_or_default();
    fault_server::run(&listen, answer_after, Path::new(ca_file), std::io::stdin().lock(), std::io::stdout())?;
    Ok(String::new())
}
