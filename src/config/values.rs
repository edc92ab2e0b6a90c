//! Single values of the configuration, from TOML or from words of the command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use rustls::pki_types::ServerName;
use toml::de::{DeArray, DeTable, DeValue};

use super::options::Kind;
use super::settings::{Authentication, ClientCertificate, Pin, Profile, Roots, Server, TlsTerms, Transport};
use crate::dns::name::Domain;

/// Where systemd keeps the credentials of the service, for as long as it runs (systemd.exec(5)).
const CREDENTIALS: &str = "/run/credentials/dot-proxy.service";
/// The port of DNS over TLS (RFC 7858 §3.1).
pub const DOT_PORT: u16 = 853;
/// The port of plain DNS (RFC 1035 §4.2).
pub const DNS_PORT: u16 = 53;
/// What a server begins with that is asked in plain DNS.
const PLAIN: &str = "plain:";

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
    /// Domains.
    Domains(Vec<Domain>),
    /// Servers.
    Servers(Vec<ServerEntry>),
}

/// A server as one entry of the configuration gives it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerEntry {
    label: String,
    address: SocketAddr,
    /// Nothing for plain DNS.
    tls: Option<TlsEntry>,
}

/// What an entry says of TLS.
#[derive(Clone, Debug, Eq, PartialEq)]
struct TlsEntry {
    authentication: Authentication,
    ca_file: Option<PathBuf>,
    post_quantum: Option<bool>,
    client: Option<ClientCertificate>,
}

/// The values of a group for what its entries leave open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupTerms {
    /// Who may have issued certificates.
    pub roots: Roots,
    /// Whether the post-quantum hybrid key exchange is offered.
    pub post_quantum: bool,
    /// What servers are shown.
    pub client: Option<ClientCertificate>,
    /// What happens when a server cannot be authenticated.
    pub profile: Profile,
}

impl ServerEntry {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is asked in plain DNS.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// The server, with the group's values for what the entry leaves open.
    pub fn server(&self, group: &GroupTerms) -> Server {
        let transport = match &self.tls {
            None => Transport::Plain,
            Some(tls) => Transport::Tls(TlsTerms {
                authentication: tls.authentication.clone(),
                roots: tls.ca_file.clone().map_or_else(|| group.roots.clone(), Roots::File),
                post_quantum: tls.post_quantum.unwrap_or(group.post_quantum),
                client: tls.client.clone().or_else(|| group.client.clone()),
                profile: group.profile,
            }),
        };
        Server { label: self.label.clone(), address: self.address, transport }
    }

    /// Whether it would be the same server as this one, however each is written.
    fn is_same(&self, other: &ServerEntry) -> bool {
        let terms = |entry: &ServerEntry| entry.tls.clone().map(|tls| (tls.authentication, tls.ca_file, tls.client));
        self.address == other.address && terms(self) == terms(other)
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
        (Kind::Addresses { .. } | Kind::Networks | Kind::Domains, DeValue::Array(array)) => {
            read_words(kind, &strings(array)?)
        }
        (Kind::Servers { plain }, DeValue::Array(array)) => {
            let entries = array.iter().map(|entry| server(entry.get_ref())).collect::<Result<_, _>>();
            entries.and_then(|entries| servers(entries, *plain))
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
        Kind::Domains => words.map(Domain::parse).collect::<Result<_, _>>().and_then(domains),
        Kind::Servers { plain } => {
            words.map(server_text).collect::<Result<_, _>>().and_then(|entries| servers(entries, *plain))
        }
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

/// Domains, of which none is there twice.
fn domains(domains: Vec<Domain>) -> Result<Value, String> {
    if domains.is_empty() {
        return Err("no domain given".to_owned());
    }
    match domains.iter().enumerate().find(|(index, one)| domains[..*index].contains(one)) {
        Some((_, twice)) => Err(format!("{twice} is listed twice")),
        None => Ok(Value::Domains(domains)),
    }
}

/// `address[:port][#name]`, or `plain:address[:port]`.
fn server_text(text: &str) -> Result<ServerEntry, String> {
    if let Some(place) = text.strip_prefix(PLAIN) {
        if place.contains('#') {
            return Err(format!("{text:?}: nobody is authenticated in plain DNS; leave the name out"));
        }
        return Ok(ServerEntry { label: text.to_owned(), address: server_address(place, DNS_PORT)?, tls: None });
    }
    let (place, name) = match text.split_once('#') {
        Some((place, name)) => (place, Some(name)),
        None => (text, None),
    };
    let tls =
        TlsEntry { authentication: authentication(name, Vec::new())?, ca_file: None, post_quantum: None, client: None };
    Ok(ServerEntry { label: text.to_owned(), address: server_address(place, DOT_PORT)?, tls: Some(tls) })
}

/// An address that can be connected to.
fn server_address(place: &str, port: u16) -> Result<SocketAddr, String> {
    let Some(address) = address(place, port) else {
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
    Ok(address)
}

fn authentication(name: Option<&str>, pins: Vec<Pin>) -> Result<Authentication, String> {
    match (name, pins) {
        (None, pins) if pins.is_empty() => Ok(Authentication::Address),
        (None, pins) => Ok(Authentication::Pins(pins)),
        (Some(name), pins) => {
            let wrong = || format!("{name:?} is no host name that a certificate could carry");
            match ServerName::try_from(name).map_err(|_| wrong())? {
                ServerName::DnsName(_) if pins.is_empty() => Ok(Authentication::Name(name.to_owned())),
                ServerName::DnsName(_) => Ok(Authentication::NameAndPins(name.to_owned(), pins)),
                _ => Err(format!("{}; leave it out to have the address itself verified", wrong())),
            }
        }
    }
}

fn server(value: &DeValue<'_>) -> Result<ServerEntry, String> {
    match value {
        DeValue::String(text) => server_text(text),
        DeValue::Table(table) => server_table(table),
        other => Err(format!("{} in the array does not fit here", type_of(other))),
    }
}

/// The keys of a server's table, the first of which it must have.
const SERVER_KEYS: &[&str] =
    &["address", "transport", "name", "pins", "ca-file", "post-quantum", "client-certificate", "client-key"];

fn server_table(table: &DeTable<'_>) -> Result<ServerEntry, String> {
    let (mut place, mut name, mut pins, mut ca_file, mut post_quantum) = (None, None, Vec::new(), None, None);
    let (mut certificate, mut key_file, mut plain) = (None, None, false);
    let path = |text: &str| file_path(text).map(PathBuf::from);
    for (key, value) in table {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("address", DeValue::String(text)) => place = Some(text.to_string()),
            ("transport", DeValue::String(text)) => match text.as_ref() {
                "plain" => plain = true,
                "tls" => plain = false,
                other => return Err(format!("transport of a server: {other:?} is neither \"tls\" nor \"plain\"")),
            },
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
            ("ca-file", DeValue::String(text)) => ca_file = Some(path(text)?),
            ("post-quantum", DeValue::Boolean(value)) => post_quantum = Some(*value),
            ("client-certificate", DeValue::String(text)) => certificate = Some(path(text)?),
            ("client-key", DeValue::String(text)) => key_file = Some(path(text)?),
            (key, other) if SERVER_KEYS.contains(&key) => {
                return Err(format!("{key} of a server: {} does not fit here", type_of(other)));
            }
            (key, _) => return Err(format!("a server has no key {key:?}")),
        }
    }
    let place = place.ok_or_else(|| "a server without the key address".to_owned())?;
    if plain {
        let fits = |key: &str| ["address", "transport"].contains(&key);
        if let Some(key) = table.iter().map(|(key, _)| key.get_ref()).find(|key| !fits(key)) {
            return Err(format!("{place:?}: {key} means nothing in plain DNS; leave it out"));
        }
        let address = server_address(&place, DNS_PORT)?;
        return Ok(ServerEntry { label: format!("{PLAIN}{place}"), address, tls: None });
    }
    let client = match (certificate, key_file) {
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        (None, None) => None,
        _ => return Err(format!("{place:?}: client-certificate and client-key are of use only together")),
    };
    let label = name.as_ref().map_or_else(|| place.clone(), |name| format!("{place}#{name}"));
    let (address, authentication) = (server_address(&place, DOT_PORT)?, authentication(name.as_deref(), pins)?);
    Ok(ServerEntry { label, address, tls: Some(TlsEntry { authentication, ca_file, post_quantum, client }) })
}

/// Servers of one group: no two the same, and none in plain DNS unless it is allowed and all are.
fn servers(entries: Vec<ServerEntry>, plain: bool) -> Result<Value, String> {
    if entries.is_empty() {
        return Err("no server given".to_owned());
    }
    let in_clear = entries.iter().find(|entry| entry.is_plain());
    if let Some(clear) = in_clear.filter(|_| !plain) {
        return Err(format!(
            "{:?} is plain DNS, which only a [[route]] may name for domains of its own: no other query leaves in clear",
            clear.label
        ));
    }
    if let (Some(clear), Some(tls)) = (in_clear, entries.iter().find(|entry| !entry.is_plain())) {
        return Err(format!(
            "{:?} is plain DNS and {:?} is not: queries would fall from TLS to clear; give each a route of its own, or \
             leave one out",
            clear.label, tls.label
        ));
    }
    match entries.iter().enumerate().find(|(index, one)| entries[..*index].iter().any(|other| one.is_same(other))) {
        Some((_, twice)) => Err(format!("{:?} is listed twice", twice.label)),
        None => Ok(Value::Servers(entries)),
    }
}
