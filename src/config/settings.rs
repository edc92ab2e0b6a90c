//! The validated configuration. A value of these types is one that the program can work with.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;
use ipnet::IpNet;

use crate::dns::name::Domain;

/// The whole configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Threads that serve queries, at least one.
    pub workers: usize,
    /// Whose rights the process has, and which of them it keeps.
    pub process: Process,
    /// Towards the clients.
    pub listen: Listen,
    /// Towards the resolvers.
    pub upstream: Upstream,
    /// Domains with resolvers of their own; no domain is in two of them.
    pub routes: Vec<Route>,
    /// Answers from memory.
    pub cache: Cache,
    /// Changes for the sake of privacy.
    pub privacy: Privacy,
    /// Names answered here.
    pub special_names: SpecialNames,
    /// The control socket, if it was set.
    pub control: Option<PathBuf>,
    /// The log.
    pub log: LogSettings,
}

impl Settings {
    /// The groups of servers: that of all queries, then those of the routes in their order.
    pub fn groups(&self) -> impl Iterator<Item = &ServerGroup> {
        std::iter::once(&self.upstream.group).chain(self.routes.iter().map(|route| &route.group))
    }

    /// The servers of all groups that have addresses here, in the order of the groups.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.groups().flat_map(ServerGroup::servers)
    }

    /// The sources of all groups, in the order of the groups.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.groups().flat_map(ServerGroup::sources)
    }

    /// The ports of servers that are known from here, each with the entry.
    pub fn ports(&self) -> impl Iterator<Item = (&str, u16)> {
        let servers = self.servers().map(|server| (server.label.as_str(), server.address.port()));
        servers.chain(self.sources().filter_map(|source| match source.search.wanted {
            Wanted::Host { port, .. } => Some((source.label.as_str(), port)),
            Wanted::Service { .. } | Wanted::Designation => None,
        }))
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let terms = self.servers().filter_map(Server::tls).chain(self.sources().map(|source| &source.terms));
        let upstream = terms.flat_map(TlsTerms::files);
        upstream.chain(self.listen.tls.iter().flat_map(ClientTls::files))
    }

    /// Whether a file of it is a credential that the service manager handed over.
    pub fn uses_credentials(&self) -> bool {
        let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else { return false };
        self.files().any(|file| file.starts_with(&directory))
    }
}

/// Whose rights the process has, and which of them it keeps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Process {
    /// The user that serves, by name or number, if it was set.
    pub user: Option<String>,
    /// Its group, likewise.
    pub group: Option<String>,
    /// Whether the process confines itself.
    pub sandbox: Sandbox,
}

/// Whether the process confines itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sandbox {
    /// As far as the kernel can.
    BestEffort,
    /// All of it, or no start.
    Required,
    /// Not at all.
    Off,
}

/// Towards the clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listen {
    /// Addresses served over UDP and TCP, at least one.
    pub addresses: Vec<SocketAddr>,
    /// Addresses served over TLS; if there are any, so is `tls`.
    pub tls_addresses: Vec<SocketAddr>,
    /// What TLS towards the clients takes, if it is served.
    pub tls: Option<ClientTls>,
    /// Whether they may be missing on this machine.
    pub free_bind: bool,
    /// Networks whose clients are served.
    pub allow: Vec<IpNet>,
    /// The largest answer over UDP, in octets.
    pub udp_payload_limit: u16,
    /// How long an idle connection stays open.
    pub tcp_idle_timeout: Duration,
    /// How long a client may leave its answers unread.
    pub tcp_write_timeout: Duration,
    /// Connections of all clients.
    pub tcp_connections: usize,
    /// Connections of one client.
    pub tcp_connections_per_client: usize,
    /// Queries in flight on one connection.
    pub tcp_in_flight: usize,
    /// Octets of answers that wait for one connection.
    pub tcp_unread: usize,
}

/// TLS towards the clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientTls {
    /// The file of the certificate and of those that issued it.
    pub certificate: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
    /// The file of the CA certificates of clients, if they must have one of their own.
    pub client_ca: Option<PathBuf>,
}

impl ClientTls {
    /// The files that it names.
    fn files(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten().map(PathBuf::as_path)
    }
}

/// Towards the resolvers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    /// The resolvers of all queries that no route takes; all of them on TLS.
    pub group: ServerGroup,
    /// The time that one query may take in all.
    pub deadline: Duration,
    /// The time that one attempt to connect may take; shorter than the deadline.
    pub connect_timeout: Duration,
    /// When a second server is asked; shorter than the deadline.
    pub second_try_after: Duration,
    /// How long an unused connection stays open.
    pub idle_timeout: Duration,
    /// Queries in flight on one connection.
    pub in_flight: usize,
    /// Queries waiting for one server.
    pub queue: usize,
    /// How many queries may be asked a second time because the answer is unusually late, in percent: 0 to 100.
    pub hedge_share: u8,
    /// Whether another server is asked when one answers that it cannot or will not.
    pub second_opinion: bool,
    /// Connections to one server, those of all workers together; at least one for each worker.
    pub connections: usize,
}

/// Servers of which one answers for the others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerGroup {
    /// In order of preference, at least one; either all on TLS or all on plain DNS.
    pub members: Vec<Member>,
    /// What happens when one cannot be authenticated.
    pub profile: Profile,
    /// Which of them is asked first.
    pub policy: Policy,
}

impl ServerGroup {
    /// Those of its servers that have addresses in the configuration.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.members.iter().filter_map(|member| match member {
            Member::Server(server) => Some(server),
            Member::Source(_) => None,
        })
    }

    /// Where its other servers are found.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.members.iter().filter_map(|member| match member {
            Member::Server(_) => None,
            Member::Source(source) => Some(source),
        })
    }
}

/// One entry of a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Member {
    /// A server whose address is known.
    Server(Server),
    /// Servers whose addresses are looked up while the service runs.
    Source(Source),
}

/// Servers on TLS whose addresses are looked up, as often as their TTL asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    /// As the configuration writes it.
    pub label: String,
    /// What is looked up.
    pub search: Search,
    /// How they are spoken to; of their authentication, what is known before they are found.
    pub terms: TlsTerms,
}

/// A look-up: what is wanted, and who is asked in plain DNS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Search {
    /// What is wanted.
    pub wanted: Wanted,
    /// Who is asked, in this order; at least one.
    pub resolvers: Vec<SocketAddr>,
}

/// What is looked up to find servers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// All addresses of a host.
    Host {
        /// Its name.
        name: Domain,
        /// The port of each.
        port: u16,
    },
    /// All hosts and ports of a service (RFC 2782).
    Service {
        /// The service's name, such as `_dot._tcp.dns.example`.
        name: Domain,
        /// Hosts must lie within this domain, since their own names are what is verified; `None` if one name that the
        /// configuration gives is verified for all of them.
        within: Option<Domain>,
    },
    /// The resolvers that a plain resolver designates, verified by its address (RFC 9462 §4.2).
    Designation,
}

/// A place at which a server was found.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Endpoint {
    /// Its address.
    pub address: SocketAddr,
    /// The name of the host, where a record has named it.
    pub host: Option<String>,
}

impl Source {
    /// What its servers have in common, at no address yet.
    pub fn pattern(&self) -> Server {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Server { label: self.label.clone(), address: nowhere, transport: Transport::Tls(self.terms.clone()) }
    }

    /// The server at this place.
    pub fn server(&self, found: &Endpoint) -> Server {
        let mut terms = self.terms.clone();
        if let (Some(host), Wanted::Service { within: Some(_), .. } | Wanted::Designation) =
            (&found.host, &self.search.wanted)
        {
            terms.authentication = terms.authentication.for_host(host);
        }
        let label = format!("{} ({})", self.label, found.address);
        Server { label, address: found.address, transport: Transport::Tls(terms) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authentication = &self.terms.authentication;
        match &self.search.wanted {
            Wanted::Host { .. } => write!(out, "all addresses of the host, each with {authentication}")?,
            Wanted::Service { within: Some(domain), .. } => {
                write!(out, "all hosts of the service within {domain}, each with a certificate for its own name")?;
            }
            Wanted::Service { within: None, .. } => {
                write!(out, "all hosts of the service, each with {authentication}")?;
            }
            Wanted::Designation => {
                out.write_str(
                    "the resolvers that it designates, each with a certificate for its name and for this address",
                )?;
            }
        }
        let resolvers: Vec<String> = self.search.resolvers.iter().map(ToString::to_string).collect();
        if let Some(roots) = self.terms.issuers() {
            write!(out, ", issued by {roots}")?;
        }
        write!(out, "; looked up in plain DNS at {}", resolvers.join(", "))
    }
}

/// Domains with resolvers of their own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// These names and all below, at least one; never the root.
    pub domains: Vec<Domain>,
    /// Who is asked.
    pub group: ServerGroup,
}

impl fmt::Display for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domains: Vec<String> = self.domains.iter().map(ToString::to_string).collect();
        out.write_str(&domains.join(" "))
    }
}

/// Answers from memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cache {
    /// Octets that it may take; 0 for none.
    pub size: usize,
    /// The longest that an answer is used.
    pub max_ttl: Duration,
    /// The shortest.
    pub min_ttl: Duration,
    /// The longest that an answer is used which says that there is nothing.
    pub max_negative_ttl: Duration,
    /// How long a resolver's failure is.
    pub failure_ttl: Duration,
    /// How long after its time an answer may serve where there is none better.
    pub stale: Duration,
    /// Whether popular answers are asked for anew before their time is over.
    pub prefetch: bool,
    /// Whether answers outlive the process.
    pub persist: bool,
}

/// What happens when a resolver cannot be authenticated (RFC 8310 §5).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Profile {
    /// It gets no query.
    Strict,
    /// It gets queries all the same, inside TLS.
    Opportunistic,
}

/// Which server of a group is asked first.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Policy {
    /// The first in the configuration's order that works.
    InOrder,
    /// The one that answers soonest.
    Fastest,
    /// Each in turn.
    Spread,
    /// All at once; the first answer counts.
    Parallel,
}

/// A resolver, and how it is spoken to. Two that are equal may share a connection, others never.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Server {
    /// As the configuration writes it.
    pub label: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// What a query travels in.
    pub transport: Transport,
}

impl Server {
    /// The terms of TLS, if it is spoken.
    pub fn tls(&self) -> Option<&TlsTerms> {
        match &self.transport {
            Transport::Tls(terms) => Some(terms),
            Transport::Plain => None,
        }
    }
}

/// What a query travels in.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Transport {
    /// UDP and TCP, in clear (RFC 1035): in a route only.
    Plain,
    /// TLS (RFC 7858).
    Tls(TlsTerms),
}

impl fmt::Display for Transport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = match self {
            Transport::Plain => return out.write_str("plain DNS, not encrypted"),
            Transport::Tls(terms) => terms,
        };
        let TlsTerms { authentication, client, profile, .. } = terms;
        write!(out, "{authentication}")?;
        if let Some(roots) = terms.issuers() {
            write!(out, ", issued by {roots}")?;
        }
        if *profile == Profile::Opportunistic {
            out.write_str("; opportunistic, so used without as well")?;
        }
        match client {
            Some(client) => write!(out, "; it is shown the certificate {}", client.certificate.display()),
            None => Ok(()),
        }
    }
}

/// How TLS with a resolver is made.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct TlsTerms {
    /// How it is authenticated.
    pub authentication: Authentication,
    /// Who may have issued its certificate.
    pub roots: Roots,
    /// Whether the post-quantum hybrid key exchange is offered.
    pub post_quantum: bool,
    /// What it is shown if it asks for a certificate.
    pub client: Option<ClientCertificate>,
    /// What happens when it cannot be authenticated.
    pub profile: Profile,
}

impl TlsTerms {
    /// Who must have issued its certificate; nobody if its key alone decides.
    pub fn issuers(&self) -> Option<&Roots> {
        (!matches!(self.authentication, Authentication::Pins(_))).then_some(&self.roots)
    }

    /// The files that it names.
    fn files(&self) -> impl Iterator<Item = &Path> {
        let roots = match &self.roots {
            Roots::File(path) => Some(path.as_path()),
            Roots::System => None,
        };
        let pair = self.client.iter().flat_map(|client| [client.certificate.as_path(), client.key.as_path()]);
        roots.into_iter().chain(pair)
    }
}

/// The files of a certificate that resolvers are shown.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ClientCertificate {
    /// The certificate, and those that issued it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// How a resolver is authenticated (RFC 8310 §6). There is no way to write that it is not.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Authentication {
    /// Its certificate is valid and carries this name.
    Name(String),
    /// Its certificate is valid and carries its address.
    Address,
    /// Its public key is one of these.
    Pins(Vec<Pin>),
    /// Both: a valid certificate with this name, and one of these keys.
    NameAndPins(String, Vec<Pin>),
    /// A valid certificate with the name of the host, which the designation gives, and with the address of the resolver
    /// that designated it (RFC 9462 §4.2).
    Designated(String, IpAddr),
}

impl Authentication {
    /// With the name of the host as it was found in place of the one that was known before.
    fn for_host(&self, host: &str) -> Authentication {
        match self {
            Authentication::Name(_) => Authentication::Name(host.to_owned()),
            Authentication::NameAndPins(_, pins) => Authentication::NameAndPins(host.to_owned(), pins.clone()),
            Authentication::Designated(_, resolver) => Authentication::Designated(host.to_owned(), *resolver),
            Authentication::Address | Authentication::Pins(_) => self.clone(),
        }
    }
}

impl fmt::Display for Authentication {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Authentication::Name(name) => write!(out, "a certificate for the name {name}"),
            Authentication::Address => out.write_str("a certificate for its address"),
            Authentication::Pins(pins) => {
                write!(out, "one of {} pinned keys, whatever its certificate says", pins.len())
            }
            Authentication::NameAndPins(name, pins) => {
                write!(out, "a certificate for the name {name} and one of {} pinned keys", pins.len())
            }
            Authentication::Designated(name, resolver) => {
                write!(out, "a certificate for the name {name} and for the address {resolver} that designated it")
            }
        }
    }
}

/// The CA certificates that are trusted.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Roots {
    /// Those of the system.
    System,
    /// Those in this PEM file.
    File(PathBuf),
}

impl fmt::Display for Roots {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Roots::System => out.write_str("the system's trust store"),
            Roots::File(path) => write!(out, "{}", path.display()),
        }
    }
}

/// The SHA-256 of a SubjectPublicKeyInfo (RFC 7858 §4.2).
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a public key, given its SubjectPublicKeyInfo in DER.
    pub fn of(public_key_info: &[u8]) -> Pin {
        let mut value = [0; 32];
        value.copy_from_slice(digest::digest(&digest::SHA256, public_key_info).as_ref());
        Pin(value)
    }

    /// Reads the base64 form that stubby and kdig write as well. `None` if it is none, or not 32 octets.
    pub fn parse(text: &str) -> Option<Pin> {
        let octets = data_encoding::BASE64.decode(text.as_bytes()).ok()?;
        Some(Pin(octets.try_into().ok()?))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&data_encoding::BASE64.encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Pin({self})")
    }
}

/// Changes for the sake of privacy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Privacy {
    /// Queries are padded.
    pub padding: bool,
    /// Client subnets are blanked.
    pub remove_client_subnet: bool,
}

/// Names answered here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SpecialNames {
    /// Names below `home.arpa`.
    pub home_arpa: LocalOrForward,
    /// Names below `resolver.arpa`.
    pub resolver_arpa: LocalOrForward,
    /// Names below `onion`.
    pub onion: LocalOrForward,
}

/// What happens to a special name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LocalOrForward {
    /// It is answered here.
    Local,
    /// It is relayed like any other.
    Forward,
}

/// The log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogSettings {
    /// The least important lines that are written.
    pub level: log::LevelFilter,
    /// Where they go.
    pub target: LogTarget,
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// The system log.
    Syslog,
}

#[cfg(test)]
mod tests {
    use super::Pin;

    #[test]
    fn a_pin_is_read_as_it_is_written() {
        let pin = Pin::of(b"key");
        assert_eq!(Pin::parse(&pin.to_string()), Some(pin));
        for bad in ["", "AAAA", "not base64!", &pin.to_string()[1..]] {
            assert_eq!(Pin::parse(bad), None, "{bad}");
        }
    }
}
