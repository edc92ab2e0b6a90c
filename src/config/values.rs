//! Single values of the configuration, from TOML or from words of the command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use rustls::pki_types::ServerName;
use toml::de::{DeArray, DeTable, DeValue};

use super::options::{Kind, MEBIBYTE};
use super::place_text::{address, host_and_port};
use super::settings::{
    Authentication, ClientCertificate, Member, Pin, Profile, Roots, Search, Server, Source, TlsTerms, Transport, Wanted,
};
use crate::dns::name::Domain;

/// Units of sizes.
const UNITS: [(&str, u64); 4] = [("KiB", 1024), ("MiB", MEBIBYTE), ("GiB", 1024 * MEBIBYTE), ("", 1)];
/// Where systemd keeps the credentials of the service, for as long as it runs (systemd.exec(5)).
const CREDENTIALS: &str = "/run/credentials/dot-proxy.service";
/// The port of DNS over TLS (RFC 7858 §3.1).
pub const DOT_PORT: u16 = 853;
/// The port of plain DNS (RFC 1035 §4.2).
pub const DNS_PORT: u16 = 53;
/// What a server begins with that is asked in plain DNS.
const PLAIN: &str = "plain:";
/// What a service begins with whose hosts are servers.
const SERVICE: &str = "srv:";
/// What a plain resolver begins with that designates servers.
const DESIGNATION: &str = "ddr:";

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
    place: Place,
    /// Nothing for plain DNS.
    tls: Option<TlsEntry>,
}

/// Where the servers of an entry are.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Place {
    /// At this address.
    At(SocketAddr),
    /// Under a name, at these addresses.
    Known(Vec<SocketAddr>),
    /// Where a look-up says.
    Sought(Wanted),
    /// Where this plain resolver says.
    Designated(SocketAddr),
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
    /// Who is asked for the addresses of servers given by name.
    pub bootstrap: Vec<SocketAddr>,
}

impl ServerEntry {
    /// The addresses that it gives: of its servers, or of the resolver that is asked for them.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let (one, many) = match &self.place {
            Place::At(address) | Place::Designated(address) => (Some(*address), &[][..]),
            Place::Known(addresses) => (None, addresses.as_slice()),
            Place::Sought(_) => (None, &[][..]),
        };
        one.into_iter().chain(many.iter().copied())
    }

    /// Whether somebody must be asked for its addresses.
    pub fn needs_bootstrap(&self) -> bool {
        matches!(self.place, Place::Sought(_))
    }

    /// What it is called, and how it could be written with an address.
    pub fn example(&self) -> (&str, String) {
        let name = match &self.tls {
            Some(TlsEntry {
                authentication: Authentication::Name(name) | Authentication::NameAndPins(name, _),
                ..
            }) => name,
            _ => &self.label,
        };
        (&self.label, format!("192.0.2.1#{name}"))
    }

    /// Whether it is asked in plain DNS.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Its servers, with the group's values for what the entry leaves open.
    pub fn members(&self, group: &GroupTerms) -> Vec<Member> {
        let terms = self.tls.as_ref().map(|tls| TlsTerms {
            authentication: tls.authentication.clone(),
            roots: tls.ca_file.clone().map_or_else(|| group.roots.clone(), Roots::File),
            post_quantum: tls.post_quantum.unwrap_or(group.post_quantum),
            client: tls.client.clone().or_else(|| group.client.clone()),
            profile: group.profile,
        });
        let server = |label: String, address: SocketAddr| {
            let transport = terms.clone().map_or(Transport::Plain, Transport::Tls);
            Member::Server(Server { label, address, transport })
        };
        let source = |wanted: Wanted, resolvers: Vec<SocketAddr>, terms: TlsTerms| {
            let search = Search { wanted, resolvers };
            Member::Source(Source { label: self.label.clone(), search, terms })
        };
        match (&self.place, &terms) {
            (Place::At(address), _) => vec![server(self.label.clone(), *address)],
            (Place::Known(addresses), _) => {
                addresses.iter().map(|address| server(format!("{} ({address})", self.label), *address)).collect()
            }
            (Place::Sought(wanted), Some(terms)) => {
                vec![source(wanted.clone(), group.bootstrap.clone(), terms.clone())]
            }
            (Place::Designated(resolver), Some(terms)) => {
                // who designates is believed only with a proof (RFC 9462 §4.2)
                let terms = TlsTerms { profile: Profile::Strict, ..terms.clone() };
                vec![source(Wanted::Designation, vec![*resolver], terms)]
            }
            // what is looked up is never asked in plain DNS
            (Place::Sought(_) | Place::Designated(_), None) => Vec::new(),
        }
    }

    /// Whether it would be the same server as this one, however each is written.
    fn is_same(&self, other: &ServerEntry) -> bool {
        let terms = |entry: &ServerEntry| entry.tls.clone().map(|tls| (tls.authentication, tls.ca_file, tls.client));
        self.place == other.place && terms(self) == terms(other)
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
        (Kind::Size { min, max }, DeValue::String(text)) => match octets(text) {
            Some(size) if size == 0 || (*min..=*max).contains(&size) => Ok(Value::Integer(size)),
            Some(_) => Err(format!("{text:?} is out of range")),
            None => Err(format!("{text:?} is no size")),
        },
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
        (Kind::Addresses { .. } | Kind::Networks | Kind::Domains | Kind::Resolvers, DeValue::Array(array)) => {
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
        Kind::Resolvers => {
            words.map(|word| server_address(word, DNS_PORT)).collect::<Result<_, _>>().map(Value::Addresses)
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

/// A size such as "16MiB" in octets.
fn octets(text: &str) -> Option<u64> {
    let (number, unit) = UNITS.iter().find_map(|&(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
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

/// `address[:port][#name]`, `plain:address[:port]`, or a name or a resolver that is asked for servers.
fn server_text(text: &str) -> Result<ServerEntry, String> {
    if let Some(place) = text.strip_prefix(PLAIN) {
        if place.contains('#') {
            return Err(format!("{text:?}: nobody is authenticated in plain DNS; leave the name out"));
        }
        let place = Place::At(server_address(place, DNS_PORT)?);
        return Ok(ServerEntry { label: text.to_owned(), place, tls: None });
    }
    let (place, name) = match text.split_once('#') {
        Some((place, name)) => (place, Some(name)),
        None => (text, None),
    };
    let (place, authentication) = tls_place(place, name, Vec::new(), &[])?;
    let tls = TlsEntry { authentication, ca_file: None, post_quantum: None, client: None };
    Ok(ServerEntry { label: text.to_owned(), place, tls: Some(tls) })
}

/// Where the servers of an entry on TLS are, and how they are authenticated: by the name, or else by what the place says.
fn tls_place(
    text: &str,
    name: Option<&str>,
    pins: Vec<Pin>,
    known: &[String],
) -> Result<(Place, Authentication), String> {
    if let Some(service) = text.strip_prefix(SERVICE) {
        if !known.is_empty() {
            return Err(format!("{text:?}: addresses mean nothing for a service, which names its own; leave them out"));
        }
        let service = service.strip_suffix('.').unwrap_or(service);
        let domain = Domain::parse(service)?;
        let base = service.split('.').skip_while(|label| label.starts_with('_')).collect::<Vec<_>>().join(".");
        if !service.starts_with('_') || base.is_empty() {
            return Err(format!("{text:?} is no service; write it such as \"srv:_dot._tcp.dns.example\""));
        }
        let within = if name.is_some() { None } else { Some(Domain::parse(&base)?) };
        let authentication = authentication(Some(name.unwrap_or(&base)), pins)?;
        return Ok((Place::Sought(Wanted::Service { name: domain, within }), authentication));
    }
    if let Some(resolver) = text.strip_prefix(DESIGNATION) {
        if name.is_some() || !pins.is_empty() || !known.is_empty() {
            return Err(format!("{text:?}: the designation says who they are; leave name, pins and addresses out"));
        }
        let address = server_address(resolver, DNS_PORT)?;
        return Ok((Place::Designated(address), Authentication::Designated("resolver.arpa".to_owned(), address.ip())));
    }
    let Some((host, port)) = host_and_port(text, DOT_PORT) else {
        if !known.is_empty() {
            return Err(format!("{text:?} is an address already; give addresses to a server whose address is a name"));
        }
        return Ok((Place::At(server_address(text, DOT_PORT)?), authentication(name, pins)?));
    };
    let authentication = authentication(Some(name.unwrap_or(host)), pins)?;
    if known.is_empty() {
        return Ok((Place::Sought(Wanted::Host { name: Domain::parse(host)?, port }), authentication));
    }
    let addresses = known.iter().map(|address| server_address(address, port)).collect::<Result<_, _>>()?;
    Ok((Place::Known(addresses), authentication))
}

/// An address that can be connected to.
fn server_address(place: &str, port: u16) -> Result<SocketAddr, String> {
    let Some(address) = address(place, port) else {
        return Err(format!("{place:?} is no address"));
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
const SERVER_KEYS: &[&str] = &[
    "address",
    "addresses",
    "transport",
    "name",
    "pins",
    "ca-file",
    "post-quantum",
    "client-certificate",
    "client-key",
];

fn server_table(table: &DeTable<'_>) -> Result<ServerEntry, String> {
    let (mut place, mut name, mut pins, mut ca_file, mut post_quantum) = (None, None, Vec::new(), None, None);
    let (mut certificate, mut key_file, mut plain, mut known) = (None, None, false, Vec::new());
    let path = |text: &str| file_path(text).map(PathBuf::from);
    for (key, value) in table {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("address", DeValue::String(text)) => place = Some(text.to_string()),
            ("addresses", DeValue::Array(array)) => {
                known = strings(array)?;
                if known.is_empty() {
                    return Err("addresses is empty".to_owned());
                }
            }
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
        let address = Place::At(server_address(&place, DNS_PORT)?);
        return Ok(ServerEntry { label: format!("{PLAIN}{place}"), place: address, tls: None });
    }
    let client = match (certificate, key_file) {
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        (None, None) => None,
        _ => return Err(format!("{place:?}: client-certificate and client-key are of use only together")),
    };
    let label = name.as_ref().map_or_else(|| place.clone(), |name| format!("{place}#{name}"));
    let (place, authentication) = tls_place(&place, name.as_deref(), pins, &known)?;
    Ok(ServerEntry { label, place, tls: Some(TlsEntry { authentication, ca_file, post_quantum, client }) })
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
