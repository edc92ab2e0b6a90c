//! From the text of a configuration file, and what the command line puts in its place, to [`Settings`].
//!
//! The file is read against the table of options, value by value, so that every problem is reported with its place, and
//! all problems of a file at once.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::options::{self, Applies, OPTIONS, Opt, SECTIONS};
use super::settings::{
    ClientTls, Listen, LocalOrForward, LogSettings, LogTarget, Privacy, Process, Roots, Sandbox, Settings,
    SpecialNames, Upstream,
};
use super::values::{self, DNS_PORT, DOT_PORT, ServerEntry, Value};

/// Where the configuration is looked for unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/dot-proxy/dot-proxy.toml";
/// The largest file that is read.
const MAX_SIZE: u64 = 1024 * 1024;
/// Workers used without being told: more gain little for a forwarder, and each keeps its own connections.
const DEFAULT_WORKERS_AT_MOST: usize = 4;

/// What the command line puts in place of the file's values.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Overrides {
    /// `--listen`.
    pub listen: Vec<String>,
    /// `--upstream`.
    pub upstream: Vec<String>,
}

/// Why a configuration is refused: one problem a line, each with its place, its key and what would be accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    fn one(problem: String) -> ConfigError {
        ConfigError { problems: vec![problem] }
    }
}

/// Where a configuration comes from, the same at the start and at every reload.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Source {
    /// The file that was named.
    pub path: Option<PathBuf>,
    /// Values in its place.
    pub overrides: Overrides,
}

impl Source {
    /// The file that is read, if there is one.
    pub fn file(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(DEFAULT_PATH))
    }

    fn text(&self) -> Result<String, ConfigError> {
        match read(self.file()) {
            Ok(text) => Ok(text),
            Err(error) if self.path.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(ConfigError::one(format!("{}: cannot be read: {error}", self.file().display()))),
        }
    }
}

/// A configuration that was accepted, with the values that it was made from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Loaded {
    /// What the program works with.
    pub settings: Settings,
    /// Options whose changed values wait for a restart; the settings have those that are in force.
    pub waiting: Vec<String>,
    values: HashMap<String, Value>,
}

/// Reads the configuration: from the file that was named, or from the default path if there is a file, or else all
/// defaults.
///
/// # Errors
/// If the file cannot be read, or what it says cannot be accepted.
pub fn load(source: &Source) -> Result<Loaded, ConfigError> {
    accept(&source.file().display().to_string(), &source.text()?, &source.overrides, None)
}

/// Reads the configuration again. What takes effect at a restart alone stays as it is in `running`.
///
/// # Errors
/// As [`load`].
pub fn renew(source: &Source, running: &Loaded) -> Result<Loaded, ConfigError> {
    accept(&source.file().display().to_string(), &source.text()?, &source.overrides, Some(running))
}

fn read(path: &Path) -> std::io::Result<String> {
    let invalid = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    // a pipe is not waited for
    let file = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(invalid("not a regular file"));
    }
    let mut octets = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > MAX_SIZE {
        return Err(invalid("larger than 1 MiB, which no configuration is"));
    }
    String::from_utf8(octets)
        .map_err(|error| invalid(&format!("octet {} is not UTF-8", error.utf8_error().valid_up_to())))
}

/// Reads the text of a file called `name`.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(name: &str, text: &str, overrides: &Overrides) -> Result<Settings, ConfigError> {
    accept(name, text, overrides, None).map(|loaded| loaded.settings)
}

fn accept(name: &str, text: &str, overrides: &Overrides, running: Option<&Loaded>) -> Result<Loaded, ConfigError> {
    let mut reader = Reader { name, text, problems: Vec::new(), values: HashMap::new(), places: HashMap::new() };
    match DeTable::parse(text) {
        Ok(table) => reader.table("", table.get_ref()),
        Err(error) => {
            let place = reader.place(&error.span().unwrap_or(0..0));
            let message = error.message().trim().replace('\n', "; ");
            return Err(ConfigError::one(format!("{place}: not TOML: {message}")));
        }
    }
    reader.overrides(overrides);
    reader.defaults();
    // of the file as it is written, whatever of it waits
    reader.relations();
    reader.tls_relations();
    let waiting = running.map_or_else(Vec::new, |running| reader.keep_from(running));
    // of the addresses that are served
    reader.no_loop();
    if !reader.problems.is_empty() {
        return Err(ConfigError { problems: reader.problems });
    }
    let settings = reader.settings().map_err(|problem| ConfigError::one(format!("{name}: {problem}")))?;
    Ok(Loaded { settings, waiting, values: reader.values })
}

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    problems: Vec<String>,
    values: HashMap<String, Value>,
    places: HashMap<String, String>,
}

impl Reader<'_> {
    /// File and line.
    fn place(&self, span: &Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        format!("{}:{}", self.name, before.matches('\n').count() + 1)
    }

    /// Reads the top of the file, or one of its sections.
    fn table(&mut self, section: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let place = self.place(&key.span());
            let key = key.get_ref().as_ref();
            if let Some(option) = options::find(section, key) {
                self.option(option, value, place);
                continue;
            }
            let known = |name: &&(&str, &str)| section.is_empty() && !name.0.is_empty() && name.0 == key;
            match (SECTIONS.iter().find(known), value.get_ref()) {
                (Some((name, _)), DeValue::Table(inner)) => self.table(name, inner),
                (Some((name, _)), _) => {
                    self.problems.push(format!("{place}: {name}: is a table; write [{name}] and its keys below"));
                }
                (None, _) => self.problems.push(format!("{place}: {}", unknown(section, key))),
            }
        }
    }

    fn option(&mut self, option: &'static Opt, value: &Spanned<DeValue<'_>>, place: String) {
        match values::read(&option.kind, value.get_ref()) {
            Ok(read) => {
                self.values.insert(option.path(), read);
                self.places.insert(option.path(), place);
            }
            Err(why) => {
                self.problems.push(format!("{place}: {}: {why}; accepted: {}", option.path(), option.kind.accepted()));
            }
        }
    }

    fn overrides(&mut self, overrides: &Overrides) {
        for (option, words) in [(&options::ADDRESSES, &overrides.listen), (&options::SERVERS, &overrides.upstream)] {
            let flag = option.flag.unwrap_or_default();
            if words.is_empty() {
                continue;
            }
            match values::read_words(&option.kind, words) {
                Ok(read) => {
                    self.values.insert(option.path(), read);
                    self.places.insert(option.path(), flag.to_owned());
                }
                Err(why) => self.problems.push(format!("{flag}: {why}; accepted: {}", option.kind.accepted())),
            }
        }
    }

    fn defaults(&mut self) {
        for option in OPTIONS.iter().filter(|option| !option.default.is_empty()) {
            if self.values.contains_key(&option.path()) {
                continue;
            }
            match DeValue::parse(option.default).map(|value| values::read(&option.kind, value.get_ref())) {
                Ok(Ok(value)) => drop(self.values.insert(option.path(), value)),
                // a test reads every default
                problem => self.problems.push(format!("default of {}: {problem:?}", option.path())),
            }
        }
    }

    /// Puts back what takes effect at a restart alone, and names what of it has changed.
    fn keep_from(&mut self, running: &Loaded) -> Vec<String> {
        let mut waiting = Vec::new();
        for path in OPTIONS.iter().filter(|option| option.applies == Applies::Restart).map(|option| option.path()) {
            let kept = running.values.get(&path);
            if self.values.get(&path) == kept {
                continue;
            }
            match kept.cloned() {
                Some(kept) => drop(self.values.insert(path.clone(), kept)),
                None => drop(self.values.remove(&path)),
            }
            waiting.push(path);
        }
        // as long as there are sockets for TLS they need what they had
        let has = |values: &HashMap<String, Value>| values.contains_key(&options::TLS_CERTIFICATE.path());
        if has(&running.values) && !has(&self.values) {
            for path in [&options::TLS_CERTIFICATE, &options::TLS_KEY, &options::TLS_CLIENT_CA].map(Opt::path) {
                if let Some(kept) = running.values.get(&path) {
                    self.values.insert(path.clone(), kept.clone());
                    waiting.push(path);
                }
            }
        }
        waiting
    }

    /// What must hold between two values.
    fn relations(&mut self) {
        let deadline = self.duration(&options::DEADLINE);
        for option in [&options::CONNECT_TIMEOUT, &options::SECOND_TRY_AFTER] {
            if self.duration(option) < deadline {
                continue;
            }
            let place = self.places.get(&option.path()).or_else(|| self.places.get(&options::DEADLINE.path()));
            let place = place.cloned().unwrap_or_else(|| self.name.to_owned());
            let (path, limit) = (option.path(), humantime::format_duration(deadline));
            self.problems.push(format!(
                "{place}: {path}: is not shorter than upstream.deadline ({limit}); accepted: a shorter duration"
            ));
        }
    }

    /// What TLS towards clients takes: a certificate and its key together, and no port that is for plain DNS, nor plain
    /// DNS one that is for TLS (RFC 7858 §3.1).
    fn tls_relations(&mut self) {
        let mut problems = Vec::new();
        let place = |option: &Opt| self.places.get(&option.path()).cloned().unwrap_or_else(|| self.name.to_owned());
        let (certificate, key) = (&options::TLS_CERTIFICATE, &options::TLS_KEY);
        let is_set = |option: &Opt| match self.values.get(&option.path()) {
            Some(Value::Addresses(addresses)) => !addresses.is_empty(),
            found => found.is_some(),
        };
        let is_wrong = |option: &Opt| self.problems.iter().any(|problem| problem.contains(&option.path()));
        for option in [&options::TLS_ADDRESSES, certificate, key, &options::TLS_CLIENT_CA] {
            let missing = [certificate, key].into_iter().find(|needed| !is_set(needed) && !is_wrong(needed));
            if let Some(missing) = missing.filter(|_| is_set(option)) {
                let (place, path, missing) = (place(option), option.path(), missing.path());
                problems.push(format!(
                    "{place}: {path}: is set without {missing}; accepted: with listen.tls-certificate and \
                     listen.tls-key, the PEM files of a certificate and its key"
                ));
            }
        }
        let plain = self.addresses(&options::ADDRESSES);
        for (option, forbidden, what) in [
            (&options::ADDRESSES, DOT_PORT, "of DNS over TLS alone"),
            (&options::TLS_ADDRESSES, DNS_PORT, "of plain DNS alone"),
        ] {
            for address in self.addresses(option) {
                let (place, path) = (place(option), option.path());
                if address.port() == forbidden {
                    problems.push(format!(
                        "{place}: {path}: {address}: port {forbidden} is that {what} (RFC 7858); accepted: another port"
                    ));
                } else if option.key != options::ADDRESSES.key && address.port() != 0 && plain.contains(address) {
                    problems.push(format!(
                        "{place}: {path}: {address} is one of listen.addresses as well; accepted: another port"
                    ));
                }
            }
        }
        self.problems.extend(problems);
    }

    fn addresses(&self, option: &Opt) -> &[SocketAddr] {
        match self.values.get(&option.path()) {
            Some(Value::Addresses(addresses)) => addresses,
            _ => &[],
        }
    }

    /// A server that is one of our own listeners would ask us what we ask it.
    fn no_loop(&mut self) {
        let Some(Value::Servers(servers)) = self.values.get(&options::SERVERS.path()) else { return };
        let place = self.places.get(&options::SERVERS.path()).cloned().unwrap_or_else(|| self.name.to_owned());
        let mut problems = Vec::new();
        for option in [&options::ADDRESSES, &options::TLS_ADDRESSES] {
            let own = self.addresses(option);
            for address in
                servers.iter().map(ServerEntry::address).filter(|server| own.iter().any(|own| reaches(*own, *server)))
            {
                let path = option.path();
                problems.push(format!(
                    "{place}: upstream.servers: {address} is dot-proxy's own address ({path}); accepted: a resolver's"
                ));
            }
        }
        self.problems.extend(problems);
    }

    fn duration(&self, option: &Opt) -> Duration {
        match self.values.get(&option.path()) {
            Some(Value::Duration(duration)) => *duration,
            _ => Duration::ZERO,
        }
    }

    fn number<T: TryFrom<u64>>(&self, option: &Opt) -> Result<T, String> {
        match self.values.get(&option.path()) {
            Some(Value::Integer(number)) => {
                T::try_from(*number).map_err(|_| format!("{}: too large here", option.path()))
            }
            _ => Err(format!("{}: no value", option.path())),
        }
    }

    fn boolean(&self, option: &Opt) -> bool {
        self.values.get(&option.path()) == Some(&Value::Boolean(true))
    }

    fn word(&self, option: &Opt) -> &str {
        match self.values.get(&option.path()) {
            Some(Value::Word(word)) => word,
            _ => "",
        }
    }

    fn path(&self, option: &Opt) -> Option<PathBuf> {
        match self.values.get(&option.path()) {
            Some(Value::Path(path)) => Some(PathBuf::from(path)),
            _ => None,
        }
    }

    fn account(&self, option: &Opt) -> Option<String> {
        match self.values.get(&option.path()) {
            Some(Value::Account(name)) => Some(name.clone()),
            _ => None,
        }
    }

    fn local_or_forward(&self, option: &Opt) -> LocalOrForward {
        if self.word(option) == "forward" { LocalOrForward::Forward } else { LocalOrForward::Local }
    }

    fn settings(&self) -> Result<Settings, String> {
        let workers = match self.values.get(&options::WORKERS.path()) {
            Some(_) => self.number(&options::WORKERS)?,
            None => std::thread::available_parallelism().map_or(1, usize::from).min(DEFAULT_WORKERS_AT_MOST),
        };
        Ok(Settings {
            workers,
            process: Process {
                user: self.account(&options::USER),
                group: self.account(&options::GROUP),
                sandbox: match self.word(&options::SANDBOX) {
                    "required" => Sandbox::Required,
                    "off" => Sandbox::Off,
                    _ => Sandbox::BestEffort,
                },
            },
            listen: self.listen()?,
            upstream: self.upstream()?,
            privacy: Privacy {
                padding: self.boolean(&options::PADDING),
                remove_client_subnet: self.boolean(&options::REMOVE_CLIENT_SUBNET),
            },
            special_names: SpecialNames {
                home_arpa: self.local_or_forward(&options::HOME_ARPA),
                resolver_arpa: self.local_or_forward(&options::RESOLVER_ARPA),
            },
            control: self.path(&options::CONTROL_SOCKET),
            log: LogSettings {
                level: self.word(&options::LOG_LEVEL).parse().map_err(|_| "log.level: no value".to_owned())?,
                target: if self.word(&options::LOG_TARGET) == "syslog" { LogTarget::Syslog } else { LogTarget::Stderr },
            },
        })
    }

    fn listen(&self) -> Result<Listen, String> {
        let Some(Value::Networks(allow)) = self.values.get(&options::ALLOW.path()) else {
            return Err("listen.allow: no value".to_owned());
        };
        let tls = match (self.path(&options::TLS_CERTIFICATE), self.path(&options::TLS_KEY)) {
            (Some(certificate), Some(key)) => {
                Some(ClientTls { certificate, key, client_ca: self.path(&options::TLS_CLIENT_CA) })
            }
            _ => None,
        };
        Ok(Listen {
            addresses: self.addresses(&options::ADDRESSES).to_vec(),
            tls_addresses: self.addresses(&options::TLS_ADDRESSES).to_vec(),
            tls,
            free_bind: self.boolean(&options::FREE_BIND),
            allow: allow.clone(),
            udp_payload_limit: self.number(&options::UDP_PAYLOAD_LIMIT)?,
            tcp_idle_timeout: self.duration(&options::TCP_IDLE_TIMEOUT),
            tcp_write_timeout: self.duration(&options::TCP_WRITE_TIMEOUT),
            tcp_connections: self.number(&options::TCP_CONNECTIONS)?,
            tcp_connections_per_client: self.number(&options::TCP_CONNECTIONS_PER_CLIENT)?,
            tcp_in_flight: self.number(&options::TCP_IN_FLIGHT)?,
            tcp_unread: self.number(&options::TCP_UNREAD)?,
        })
    }

    fn upstream(&self) -> Result<Upstream, String> {
        let Some(Value::Servers(entries)) = self.values.get(&options::SERVERS.path()) else {
            return Err("upstream.servers: no value".to_owned());
        };
        let roots = self.path(&options::CA_FILE).map_or(Roots::System, Roots::File);
        let post_quantum = self.boolean(&options::POST_QUANTUM);
        Ok(Upstream {
            servers: entries.iter().map(|entry: &ServerEntry| entry.server(&roots, post_quantum)).collect(),
            deadline: self.duration(&options::DEADLINE),
            connect_timeout: self.duration(&options::CONNECT_TIMEOUT),
            second_try_after: self.duration(&options::SECOND_TRY_AFTER),
            idle_timeout: self.duration(&options::IDLE_TIMEOUT),
            in_flight: self.number(&options::IN_FLIGHT)?,
            queue: self.number(&options::QUEUE)?,
        })
    }
}

/// Whether a listener on `own` is what a connection to `server` of this machine reaches.
fn reaches(own: SocketAddr, server: SocketAddr) -> bool {
    let everywhere = own.ip().is_unspecified() && server.ip().is_loopback() && own.is_ipv4() == server.is_ipv4();
    own.port() != 0 && own.port() == server.port() && (own.ip() == server.ip() || everywhere)
}

/// What to say of a key that is none.
fn unknown(section: &str, key: &str) -> String {
    let own = OPTIONS.iter().filter(|option| option.section == section).map(|option| option.key.to_owned());
    let sections = SECTIONS.iter().filter(|(name, _)| section.is_empty() && !name.is_empty());
    let known: Vec<String> = own.chain(sections.map(|(name, _)| format!("[{name}]"))).collect();
    let path = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
    if let Some(elsewhere) = OPTIONS.iter().find(|option| option.key == key) {
        let place = match elsewhere.section {
            "" => "at the top of the file, before the first table".to_owned(),
            section => format!("into [{section}]"),
        };
        return format!("{path}: no such option here; it belongs {place}");
    }
    let similar = |name: &&String| strsim::jaro_winkler(name.trim_matches(['[', ']']), key) > 0.85;
    match known.iter().find(similar) {
        Some(name) => format!("{path}: no such option; did you mean {name}?"),
        None => format!("{path}: no such option; accepted here: {}", known.join(", ")),
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod file_tests;
