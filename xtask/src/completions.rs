//! What the shells complete, made from the command line.

use clap_complete::{Generator, Shell, generate};
use dot_proxy::cli;

/// Path and content of the files for bash, zsh and fish.
pub(crate) fn all() -> Vec<(&'static str, String)> {
    vec![
        ("packaging/completions/dot-proxy.bash", made_for(Shell::Bash)),
        ("packaging/completions/_dot-proxy", made_for(Shell::Zsh)),
        ("packaging/completions/dot-proxy.fish", made_for(Shell::Fish)),
    ]
}

fn made_for(shell: impl Generator) -> String {
    let mut out = Vec::new();
    generate(shell, &mut cli::command(), "dot-proxy", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}
