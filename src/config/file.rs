//! From the text of a configuration file, and what the command line puts in its place, to [`Settings`].
//!
//! The file is read against the table of options, value by value, so that every problem is reported with its place, and
//! all problems of a file at once.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::given::{Given, Values};
use super::options::{self, Applies, OPTIONS, Opt, SECTIONS, Section};
use super::relations;
use super::settings::Settings;
use super::values;

/// Where the configuration is looked for unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/dot-proxy/dot-proxy.toml";
/// The largest file that is read.
const MAX_SIZE: u64 = 1024 * 1024;

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
    values: Values,
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
    let mut given = Given { name: name.to_owned(), ..Given::default() };
    let mut reader = Reader { name, text, problems: Vec::new() };
    match DeTable::parse(text) {
        Ok(table) => reader.file(table.get_ref(), &mut given),
        Err(error) => {
            let place = reader.place(&error.span().unwrap_or(0..0));
            let message = error.message().trim().replace('\n', "; ");
            return Err(ConfigError::one(format!("{place}: not TOML: {message}")));
        }
    }
    reader.overrides(overrides, &mut given);
    reader.defaults(&mut given);
    let mut problems = reader.problems;
    // of the file as it is written, whatever of it waits
    problems.extend(relations::durations(&given));
    problems.extend(relations::cache(&given));
    problems.extend(relations::tls(&given, &problems));
    problems.extend(relations::client_certificates(&given, &problems));
    problems.extend(relations::routes(&given, &problems));
    problems.extend(relations::names(&given));
    let too_few = relations::connections(&given);
    problems.extend(too_few.clone());
    let waiting = running.map_or_else(Vec::new, |running| keep_from(running, &mut given));
    // of the addresses that are served, and of the workers that there are
    problems.extend(relations::loops(&given));
    problems.extend(relations::connections(&given).filter(|_| too_few.is_none()));
    if !problems.is_empty() {
        return Err(ConfigError { problems });
    }
    let settings = given.settings().map_err(|problem| ConfigError::one(format!("{name}: {problem}")))?;
    Ok(Loaded { settings, waiting, values: given.values })
}

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// File and line.
    fn place(&self, span: &Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        format!("{}:{}", self.name, before.matches('\n').count() + 1)
    }

    /// Reads the options at the top of the file, and its sections.
    fn file(&mut self, file: &DeTable<'_>, given: &mut Given) {
        for (key, value) in file {
            let known = |section: &&Section| !section.name.is_empty() && section.name == key.get_ref();
            let Some(section) = SECTIONS.iter().find(known) else {
                self.entry("", key, value, given);
                continue;
            };
            match value.get_ref() {
                DeValue::Table(keys) if !section.repeated => self.table(section, keys, given),
                DeValue::Array(tables) if section.repeated && tables.iter().all(|one| table(one).is_some()) => {
                    for (span, keys) in tables.iter().filter_map(|one| Some((one.span(), table(one)?))) {
                        let mut route = Given { name: self.place(&span), ..Given::default() };
                        self.table(section, keys, &mut route);
                        given.routes.push(route);
                    }
                }
                _ => {
                    let (place, header) = (self.place(&key.span()), section.header());
                    self.problems
                        .push(format!("{place}: {}: is a table; write {header} and its keys below", section.name));
                }
            }
        }
    }

    /// Reads one section.
    fn table(&mut self, section: &Section, keys: &DeTable<'_>, given: &mut Given) {
        for (key, value) in keys {
            self.entry(section.name, key, value, given);
        }
    }

    fn entry(&mut self, section: &str, key: &Spanned<Cow<'_, str>>, value: &Spanned<DeValue<'_>>, given: &mut Given) {
        let place = self.place(&key.span());
        let Some(option) = options::find(section, key.get_ref()) else {
            self.problems.push(format!("{place}: {}", unknown(section, key.get_ref())));
            return;
        };
        match values::read(&option.kind, value.get_ref()) {
            Ok(read) => {
                given.values.insert(option.path(), read);
                given.places.insert(option.path(), place);
            }
            Err(why) => {
                self.problems.push(format!("{place}: {}: {why}; accepted: {}", option.path(), option.kind.accepted()));
            }
        }
    }

    fn overrides(&mut self, overrides: &Overrides, given: &mut Given) {
        for (option, words) in [(&options::ADDRESSES, &overrides.listen), (&options::SERVERS, &overrides.upstream)] {
            let flag = option.flag.unwrap_or_default();
            if words.is_empty() {
                continue;
            }
            match values::read_words(&option.kind, words) {
                Ok(read) => {
                    given.values.insert(option.path(), read);
                    given.places.insert(option.path(), flag.to_owned());
                }
                Err(why) => self.problems.push(format!("{flag}: {why}; accepted: {}", option.kind.accepted())),
            }
        }
    }

    fn defaults(&mut self, given: &mut Given) {
        for option in OPTIONS.iter().filter(|option| !option.default.is_empty()) {
            let value = match DeValue::parse(option.default).map(|value| values::read(&option.kind, value.get_ref())) {
                Ok(Ok(value)) => value,
                // a test reads every default
                problem => {
                    self.problems.push(format!("default of {}: {problem:?}", option.path()));
                    continue;
                }
            };
            if options::is_repeated(option) {
                for route in &mut given.routes {
                    route.values.entry(option.path()).or_insert_with(|| value.clone());
                }
            } else {
                given.values.entry(option.path()).or_insert(value);
            }
        }
    }
}

fn table<'a, 'b>(value: &'a Spanned<DeValue<'b>>) -> Option<&'a DeTable<'b>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

/// Puts back what takes effect at a restart alone, and names what of it has changed. No option of a route is of this
/// kind.
fn keep_from(running: &Loaded, given: &mut Given) -> Vec<String> {
    let mut waiting = Vec::new();
    for path in OPTIONS.iter().filter(|option| option.applies == Applies::Restart).map(|option| option.path()) {
        let kept = running.values.get(&path);
        if given.values.get(&path) == kept {
            continue;
        }
        match kept.cloned() {
            Some(kept) => drop(given.values.insert(path.clone(), kept)),
            None => drop(given.values.remove(&path)),
        }
        waiting.push(path);
    }
    // as long as there are sockets for TLS they need what they had
    let has = |values: &Values| values.contains_key(&options::TLS_CERTIFICATE.path());
    if has(&running.values) && !has(&given.values) {
        for path in [&options::TLS_CERTIFICATE, &options::TLS_KEY, &options::TLS_CLIENT_CA].map(Opt::path) {
            if let Some(kept) = running.values.get(&path) {
                given.values.insert(path.clone(), kept.clone());
                waiting.push(path);
            }
        }
    }
    waiting
}

/// What to say of a key that is none.
fn unknown(section: &str, key: &str) -> String {
    let own = OPTIONS.iter().filter(|option| option.section == section).map(|option| option.key.to_owned());
    let sections = SECTIONS.iter().filter(|other| section.is_empty() && !other.name.is_empty());
    let known: Vec<String> = own.chain(sections.map(Section::header)).collect();
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
