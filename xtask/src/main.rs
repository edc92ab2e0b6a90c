//! `cargo xtask docs [--check]`, `cargo xtask demo`, `cargo xtask fault-server`, `cargo xtask instructions`,
//! `cargo xtask layout [--check]`, `cargo xtask soak` and `cargo xtask workers`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a development tool talks to its user")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use xtask::{demo, documents, fault_server, instructions, layout, soak, soak_stand, workers};

fn main() -> ExitCode {
    let command = Command::new("xtask")
        .about("Development tasks of dot-proxy.")
        .subcommand_required(true)
        .subcommand(Command::new("docs").about("Writes the files that are made from the table of options.").arg(
            Arg::new("check").long("check").action(ArgAction::SetTrue).help("Only says whether they are up to date."),
        ))
        .subcommand(Command::new("demo").about("Shows the main job on this machine alone, without the internet."))
        .subcommand(fault_server_command())
        .subcommand(
            Command::new("instructions")
                .about("Counts the instructions of the parts of a query's path, and compares them with benches/instructions.toml.")
                .arg(Arg::new("write").long("write").action(ArgAction::SetTrue).help("Puts the counts there.")),
        )
        .subcommand(
            Command::new("layout")
                .about("Finds the functions that a query passes through, and has the linker put them together.")
                .arg(
                    Arg::new("check")
                        .long("check")
                        .action(ArgAction::SetTrue)
                        .help("Only says whether layout/hot.ld still has them."),
                )
                .arg(program_arg()),
        )
        .subcommand(soak_command())
        .subcommand(
            Command::new("workers").about("Measures how much more two workers serve than one.").arg(program_arg()),
        );
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let result = match command.get_matches().subcommand() {
        Some(("docs", matches)) if matches.get_flag("check") => documents::check(&root),
        Some(("docs", _)) => documents::write(&root),
        Some(("fault-server", matches)) => run_fault_server(matches),
        Some(("instructions", matches)) => instructions::run(&root, matches.get_flag("write")),
        Some(("layout", matches)) => {
            program_of(matches, &root).and_then(|program| layout::run(&root, &program, matches.get_flag("check")))
        }
        Some(("soak", matches)) => run_soak(matches, &root),
        Some(("workers", matches)) => program_of(matches, &root).and_then(|program| workers::run(&program)),
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
                .help("Milliseconds between a query, or a ClientHello, and its answer."),
        )
}

fn run_fault_server(matches: &ArgMatches) -> Result<String, String> {
    let listen: Vec<String> = matches.get_many("listen").into_iter().flatten().cloned().collect();
    let answer_after = Duration::from_millis(matches.get_one("answer-after").copied().unwrap_or_default());
    let ca_file = matches.get_one::<String>("ca-file").map(String::as_str).unwrap_or_default();
    fault_server::run(&listen, answer_after, Path::new(ca_file), std::io::stdin().lock(), std::io::stdout())?;
    Ok(String::new())
}

fn soak_command() -> Command {
    let tests: Vec<String> = soak::TESTS.iter().map(|(name, about, _)| format!("{name}  {about}")).collect();
    Command::new("soak")
        .about("Tests for an hour under mixed faults, or one of the other long tests.")
        .after_help(format!("Tests for --only, named after their numbers in docs/faults.md:\n{}", tests.join("\n")))
        .arg(
            Arg::new("minutes")
                .long("minutes")
                .default_value("60")
                .value_parser(clap::value_parser!(f64))
                .help("How long faults are mixed, after a first round of them."),
        )
        .arg(
            Arg::new("only")
                .long("only")
                .value_parser(soak::TESTS.iter().map(|(name, ..)| *name).collect::<Vec<_>>())
                .help("Another long test in its place."),
        )
        .arg(
            Arg::new("scale")
                .long("scale")
                .default_value("1")
                .value_parser(clap::value_parser!(f64))
                .help("Which part of its full length the other test takes."),
        )
        .arg(program_arg())
}

fn program_arg() -> Arg {
    Arg::new("dot-proxy")
        .long("dot-proxy")
        .value_name("PATH")
        .help("The program under test. By default it is built, as for a release.")
}

fn program_of(matches: &ArgMatches, root: &Path) -> Result<PathBuf, String> {
    matches.get_one::<String>("dot-proxy").map_or_else(|| soak_stand::program(root), |path| Ok(path.into()))
}

fn run_soak(matches: &ArgMatches, root: &Path) -> Result<String, String> {
    let number = |name: &str| matches.get_one::<f64>(name).copied().unwrap_or_default().max(0.0);
    let program = program_of(matches, root)?;
    let only = matches.get_one::<String>("only");
    match soak::TESTS.iter().find(|(name, ..)| only.is_some_and(|only| only == name)) {
        Some((_, _, test)) => test(&program, number("scale")),
        None => soak::mixed(&program, number("minutes")),
    }
}
