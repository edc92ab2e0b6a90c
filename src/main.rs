//! The program dot-proxy.

fn main() -> std::process::ExitCode {
    dot_proxy::daemon::main(std::env::args_os())
}
