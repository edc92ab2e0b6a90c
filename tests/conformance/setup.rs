//! A bench whose configuration is not the default one, and what many themes ask of a bench.

use std::time::Duration;

use testkit::proxy_process::Signal;
use testkit::{DotServer, DotServerBuilder, Pki, Proxy, config_for, default_answer, framed};

use super::bench::{Bench, binary};

/// Longer than anything takes that works, shorter than a test's patience.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// How long a client listens that should hear nothing.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

/// A configuration to be changed.
#[derive(Default)]
pub(crate) struct Setup {
    addresses: Option<String>,
    listen: String,
    upstream: String,
    cache: Option<String>,
    extra: String,
    quiet: bool,
}

impl Setup {
    /// The addresses to listen on.
    pub(crate) fn addresses(mut self, addresses: &[&str]) -> Setup {
        self.addresses = Some(format!("addresses = {addresses:?}"));
        self
    }

    /// Lines for the table `[listen]`.
    pub(crate) fn listen(mut self, lines: &str) -> Setup {
        self.listen = format!("[listen]\n{lines}\n");
        self
    }

    /// Lines for the table `[upstream]`.
    pub(crate) fn upstream(mut self, lines: &str) -> Setup {
        self.upstream = format!("[upstream]\n{lines}\n");
        self
    }

    /// With answers from memory, and these lines in the table `[cache]`.
    pub(crate) fn cache(mut self, lines: &str) -> Setup {
        self.cache = Some(lines.to_owned());
        self
    }

    /// Whole tables for the end of the file.
    pub(crate) fn extra(mut self, tables: &str) -> Setup {
        tables.clone_into(&mut self.extra);
        self
    }

    /// The log as an operator has it, without lines for debugging.
    pub(crate) fn default_log(mut self) -> Setup {
        self.quiet = true;
        self
    }

    /// Starts the proxy before a server made as `shape` says.
    pub(crate) fn start(self, shape: impl FnOnce(DotServerBuilder) -> DotServerBuilder) -> Bench {
        let pki = Pki::new();
        let server = shape(DotServer::builder().identity(pki.server(&["upstream.test"]))).start();
        let mut config = config_for(&[(server.address(), "upstream.test")], pki.ca_file());
        let mut replace = |old: &str, new: &str| {
            assert!(config.contains(old), "{config}");
            config = config.replace(old, new);
        };
        if let Some(addresses) = &self.addresses {
            replace("addresses = [\"127.0.0.1:0\"]", addresses);
        }
        if !self.listen.is_empty() {
            replace("[listen]\n", &self.listen);
        }
        if !self.upstream.is_empty() {
            replace("[upstream]\n", &self.upstream);
        }
        if let Some(cache) = &self.cache {
            replace("size = \"0\"", cache);
        }
        if self.quiet {
            replace("level = \"debug\"", "level = \"info\"");
        }
        let proxy = Proxy::builder(binary()).config(&(config + &self.extra)).start();
        Bench { pki, server, proxy }
    }
}

/// Stops the proxy and reads one of the counters that it names at its end.
pub(crate) fn counter(bench: &mut Bench, name: &str) -> u64 {
    bench.proxy.signal(Signal::SIGTERM);
    bench.proxy.wait_exit(Duration::from_secs(10)).expect("an orderly stop");
    let log = bench.proxy.log();
    let line = log.lines().find(|line| line.contains("stopped;")).unwrap_or_else(|| panic!("no counters in\n{log}"));
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.map_or(0, |value| value.parse().expect("a number"))
}

/// Waits until the server has had `count` messages for this name.
pub(crate) fn arrives(server: &DotServer, name: &str, count: usize) -> bool {
    server.wait_for(|journal| journal.messages_named(name).len() >= count, SOON)
}

/// Answers, as the default script does, all messages for this name, which the server's script has left unanswered.
pub(crate) fn release(server: &DotServer, name: &str) {
    let held: Vec<_> = server.with_journal(|journal| journal.messages_named(name).into_iter().cloned().collect());
    for message in held {
        server.send_raw(message.connection, &framed(&default_answer(&message.octets)));
    }
}

/// How many messages the server has had.
pub(crate) fn messages(server: &DotServer) -> usize {
    server.with_journal(|journal| journal.messages.len())
}
