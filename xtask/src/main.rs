//! `cargo xtask docs [--check]` and `cargo xtask demo`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a development tool talks to its user")]

use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command};
use xtask::{demo, documents};

fn main() -> ExitCode {
    let command = Command::new("xtask")
        .about("Development tasks of dot-proxy.")
        .subcommand_required(true)
        .subcommand(Command::new("docs").about("Writes the files that are made from the table of options.").arg(
            Arg::new("check").long("check").action(ArgAction::SetTrue).help("Only says whether they are up to date."),
        ))
        .subcommand(Command::new("demo").about("Shows the main job on this machine alone, without the internet."));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let result = match command.get_matches().subcommand() {
        Some(("docs", matches)) if matches.get_flag("check") => documents::check(&root),
        Some(("docs", _)) => documents::write(&root),
        _ => demo::run(&root),
    };
    match result {
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
