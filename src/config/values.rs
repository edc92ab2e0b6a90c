//! Single values of the configuration, from TOML or from words of the command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use rustls::pki_types::ServerName;
use toml::de::{DeArray, DeTable, DeValue};

use super::options::Kind;
use super::settings::{Authentication, Pin, Roots, Server};

/// Where systemd keeps the credentials of the service, for as long as it runs (systemd.exec(5)).
const CREDENTIALS: &str = "/run/credentials/dot-proxy.service";
/// The port of DNS over TLS (RFC 7858 §3.1).
pub const DOT_PORT: u16 = 853;
/// The port of plain DNS (RFC 1035 §4.2).
pub const DNS_PORT: u16 = 53;

/// A value of the kind that its option takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// A whole number.
    Integer(u64),
    /// A switch.
    Boolean(bool),
    /// A length of time.
    Duration(Duration),
    /// A word out of a list.
    Word(String),
    /// A path.
    Path(String),
    /// A user or a group.
    Account(String),
    /// Addresses to listen on.
    Addresses(Vec<SocketAddr>),
    /// Networks.
    Networks(Vec<IpNet>),
    /// Servers.
    Servers(Vec<ServerEntry>),
}

/// A server as one entry of the configuration gives it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerEntry {
    label: String,
    address: SocketAddr,
    authentication: Authentication,
    ca_file: Option<PathBuf>,
    post_quantum: Option<bool>,
}

impl ServerEntry {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server, with the group's values for what the entry leaves open.
    pub fn server(&self, roots: &Roots, post_quantum: bool) -> Server {
        Server {
            label: self.label.clone(),
            address: self.address,
            authentication: self.authentication.clone(),
            roots: self.ca_file.clone().map_or_else(|| roots.clone(), Roots::File),
            post_quantum: self.post_quantum.unwrap_or(post_quantum),
        }
    }
}

/// Reads a TOML value of this kind.
///
/// # Errors
/// What is wrong with it.
pub fn read(kind: &Kind, value: &DeValue<'_>) -> Result<Value, String> {
    match (kind, value) {
        (Kind::Integer { min, max }, DeValue::Integer(number)) => {
            let text = number.as_str();
            match u64::from_str_radix(text, number.radix()) {
                Ok(number) if (*min..=*max).contains(&number) => Ok(Value::Integer(number)),
                _ => Err(format!("{text} is out of range")),
            }
        }
        (Kind::Boolean, DeValue::Boolean(value)) => Ok(Value::Boolean(*value)),
        (Kind::Duration { min, max }, DeValue::String(text)) => match humantime::parse_duration(text) {
            Ok(duration) if (*min..=*max).contains(&duration) => Ok(Value::Duration(duration)),
            Ok(_) => Err(format!("{text:?} is out of range")),
            Err(_) => Err(format!("{text:?} is no duration")),
        },
        (Kind::Choice(words), DeValue::String(text)) if words.contains(&text.as_ref()) => {
            Ok(Value::Word(text.to_string()))
        }
        (Kind::Choice(_), DeValue::String(text)) => Err(format!("{text:?} is not a choice")),
        (Kind::Path, DeValue::String(text)) => file_path(text).map(Value::Path),
        (Kind::Account, DeValue::String(text)) => account(text).map(Value::Account),
        (Kind::Addresses { .. } | Kind::Networks, DeValue::Array(array)) => read_words(kind, &strings(array)?),
        (Kind::Servers, DeValue::Array(array)) => {
            array.iter().map(|entry| server(entry.get_ref())).collect::<Result<_, _>>().and_then(servers)
        }
        (_, other) => Err(format!("{} does not fit here", type_of(other))),
    }
}

/// Reads a list given as words, as on the command line; each may be several, separated by commas.
///
/// # Errors
/// What is wrong with it.
pub fn read_words(kind: &Kind, words: &[String]) -> Result<Value, String> {
    let mut words = words.iter().flat_map(|word| word.split(',')).map(str::trim);
    match kind {
        Kind::Addresses { port, optional } => {
            let addresses: Vec<SocketAddr> = words.map(|word| listen_address(word, *port)).collect::<Result<_, _>>()?;
            if addresses.is_empty() && !optional {
                return Err("no address given".to_owned());
            }
            match addresses.iter().enumerate().find(|(index, one)| one.port() != 0 && addresses[..*index].contains(one))
            {
                Some((_, twice)) => Err(format!("{twice} is listed twice")),
                None => Ok(Value::Addresses(addresses)),
            }
        }
        Kind::Networks => words.map(network).collect::<Result<_, _>>().map(Value::Networks),
        Kind::Servers => words.map(server_text).collect::<Result<_, _>>().and_then(servers),
        _ => words.next().map(|word| Value::Word(word.to_owned())).ok_or_else(|| "no value".to_owned()),
    }
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

fn strings(array: &DeArray<'_>) -> Result<Vec<String>, String> {
    let string = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Ok(text.to_string()),
        other => Err(format!("{} in the array does not fit here", type_of(other))),
    };
    array.iter().map(|entry| string(entry.get_ref())).collect()
}

/// An absolute path, or a credential that the service manager has put into a directory for this service alone
/// (systemd.exec(5), `LoadCredential=`).
fn file_path(text: &str) -> Result<String, String> {
    let Some(name) = text.strip_prefix("credential:") else {
        return if text.starts_with('/') {
            Ok(text.to_owned())
        } else {
            Err(format!("{text:?} is not an absolute path"))
        };
    };
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(format!("{name:?} is no name of a credential"));
    }
    // the commands that somebody runs beside the service find its credentials where systemd keeps them
    let directory = std::env::var("CREDENTIALS_DIRECTORY").unwrap_or_else(|_| CREDENTIALS.to_owned());
    Ok(format!("{directory}/{name}"))
}

/// A name as useradd(8) takes it, or a number.
fn account(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-$@\\".contains(c);
    if text.is_empty() || text.len() > 256 || text.starts_with('-') || !text.chars().all(fits) {
        return Err(format!("{text:?} is no name of a user or group"));
    }
    Ok(text.to_owned())
}

/// An address with a port, or with the default one.
fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = || text.parse::<IpAddr>().ok();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6);
    text.parse().ok().or_else(|| bare().or_else(bracketed).map(|ip| SocketAddr::new(ip, port)))
}

fn listen_address(text: &str, port: u16) -> Result<SocketAddr, String> {
    address(text, port).ok_or_else(|| format!("{text:?} is no address"))
}

fn network(text: &str) -> Result<IpNet, String> {
    let host = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(host).ok_or_else(|| format!("{text:?} is no network"))
}

/// `address[:port][#name]`.
fn server_text(text: &str) -> Result<ServerEntry, String> {
    let (place, name) = match text.split_once('#') {
        Some((place, name)) => (place, Some(name)),
        None => (text, None),
    };
    entry(text.to_owned(), place, name, Vec::new())
}

fn entry(label: String, place: &str, name: Option<&str>, pins: Vec<Pin>) -> Result<ServerEntry, String> {
    let Some(address) = address(place, DOT_PORT) else {
        let is_name = ServerName::try_from(place).is_ok();
        return Err(if is_name {
            format!(
                "{place:?} is a name, and no address to connect to; write its address before it, such as \"192.0.2.1#{place}\""
            )
        } else {
            format!("{place:?} is no address")
        });
    };
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(format!("{place:?} cannot be connected to"));
    }
    let authentication = match (name, pins) {
        (None, pins) if pins.is_empty() => Authentication::Address,
        (None, pins) => Authentication::Pins(pins),
        (Some(name), pins) => {
            let wrong = || format!("{name:?} is no host name that a certificate could carry");
            match ServerName::try_from(name).map_err(|_| wrong())? {
                ServerName::DnsName(_) if pins.is_empty() => Authentication::Name(name.to_owned()),
                ServerName::DnsName(_) => Authentication::NameAndPins(name.to_owned(), pins),
                _ => return Err(format!("{}; leave it out to have the address itself verified", wrong())),
            }
        }
    };
    Ok(ServerEntry { label, address, authentication, ca_file: None, post_quantum: None })
}

fn server(value: &DeValue<'_>) -> Result<ServerEntry, String> {
    match value {
        DeValue::String(text) => server_text(text),
        DeValue::Table(table) => server_table(table),
        other => Err(format!("{} in the array does not fit here", type_of(other))),
    }
}

fn server_table(table: &DeTable<'_>) -> Result<ServerEntry, String> {
    let (mut place, mut name, mut pins, mut ca_file, mut post_quantum) = (None, None, Vec::new(), None, None);
    for (key, value) in table {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("address", DeValue::String(text)) => place = Some(text.to_string()),
            ("name", DeValue::String(text)) => name = Some(text.to_string()),
            ("pins", DeValue::Array(array)) => {
                let pin = |text: &String| {
                    Pin::parse(text).ok_or_else(|| format!("{text:?} is no pin: 44 characters of base64"))
                };
                pins = strings(array)?.iter().map(pin).collect::<Result<_, _>>()?;
                if pins.is_empty() {
                    return Err("pins is empty".to_owned());
                }
            }
            ("ca-file", DeValue::String(text)) => ca_file = Some(PathBuf::from(file_path(text)?)),
            ("post-quantum", DeValue::Boolean(value)) => post_quantum = Some(*value),
            (key @ ("address" | "name" | "pins" | "ca-file" | "post-quantum"), other) => {
                return Err(format!("{key} of a server: {} does not fit here", type_of(other)));
            }
            (key, _) => return Err(format!("a server has no key {key:?}")),
        }
    }
    let place = place.ok_or_else(|| "a server without the key address".to_owned())?;
    let label = name.as_ref().map_or_else(|| place.clone(), |name| format!("{place}#{name}"));
    let entry = entry(label, &place, name.as_deref(), pins)?;
    Ok(ServerEntry { ca_file, post_quantum, ..entry })
}

fn servers(entries: Vec<ServerEntry>) -> Result<Value, String> {
    if entries.is_empty() {
        return Err("no server given".to_owned());
    }
    let same = |one: &ServerEntry, other: &ServerEntry| {
        (one.address, &one.authentication, &one.ca_file) == (other.address, &other.authentication, &other.ca_file)
    };
    match entries.iter().enumerate().find(|(index, one)| entries[..*index].iter().any(|other| same(one, other))) {
        Some((_, twice)) => Err(format!("{:?} is listed twice", twice.label)),
        None => Ok(Value::Servers(entries)),
    }
}
