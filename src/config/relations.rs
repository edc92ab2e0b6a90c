//! What must hold between the values of a configuration (pure).

use std::net::SocketAddr;

use super::given::Given;
use super::options::{self, Opt};
use super::values::{DNS_PORT, DOT_PORT, ServerEntry, Value};

/// Durations that must be shorter than the deadline.
pub fn durations(given: &Given<'_>) -> Vec<String> {
    let deadline = given.duration(&options::DEADLINE);
    let too_long = [&options::CONNECT_TIMEOUT, &options::SECOND_TRY_AFTER].into_iter();
    let problem = |option: &Opt| {
        let written = if given.places.contains_key(&option.path()) { option } else { &options::DEADLINE };
        let (place, path, limit) = (given.place(written), option.path(), humantime::format_duration(deadline));
        format!("{place}: {path}: is not shorter than upstream.deadline ({limit}); accepted: a shorter duration")
    };
    too_long.filter(|option| given.duration(option) >= deadline).map(problem).collect()
}

/// What TLS towards clients takes: a certificate and its key together, and no port that is for plain DNS, nor plain DNS
/// one that is for TLS (RFC 7858 §3.1). Values that were refused, as `problems` say, are not called missing.
pub fn tls(given: &Given<'_>, problems: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let (certificate, key) = (&options::TLS_CERTIFICATE, &options::TLS_KEY);
    let is_wrong = |option: &Opt| problems.iter().any(|problem| problem.contains(&option.path()));
    for option in [&options::TLS_ADDRESSES, certificate, key, &options::TLS_CLIENT_CA] {
        let missing = [certificate, key].into_iter().find(|needed| !given.is_set(needed) && !is_wrong(needed));
        if let Some(missing) = missing.filter(|_| given.is_set(option)) {
            let (place, path, missing) = (given.place(option), option.path(), missing.path());
            found.push(format!(
                "{place}: {path}: is set without {missing}; accepted: with listen.tls-certificate and \
                 listen.tls-key, the PEM files of a certificate and its key"
            ));
        }
    }
    let plain = given.addresses(&options::ADDRESSES);
    for (option, forbidden, what) in [
        (&options::ADDRESSES, DOT_PORT, "of DNS over TLS alone"),
        (&options::TLS_ADDRESSES, DNS_PORT, "of plain DNS alone"),
    ] {
        for address in given.addresses(option) {
            let (place, path) = (given.place(option), option.path());
            if address.port() == forbidden {
                found.push(format!(
                    "{place}: {path}: {address}: port {forbidden} is that {what} (RFC 7858); accepted: another port"
                ));
            } else if option.key != options::ADDRESSES.key && address.port() != 0 && plain.contains(address) {
                found.push(format!(
                    "{place}: {path}: {address} is one of listen.addresses as well; accepted: another port"
                ));
            }
        }
    }
    found
}

/// A server that is one of our own listeners would ask us what we ask it.
pub fn loops(given: &Given<'_>) -> Vec<String> {
    let Some(Value::Servers(servers)) = given.values.get(&options::SERVERS.path()) else { return Vec::new() };
    let place = given.place(&options::SERVERS);
    let mut found = Vec::new();
    for option in [&options::ADDRESSES, &options::TLS_ADDRESSES] {
        let own = given.addresses(option);
        let is_own = |server: &SocketAddr| own.iter().any(|own| reaches(*own, *server));
        for address in servers.iter().map(ServerEntry::address).filter(is_own) {
            let path = option.path();
            found.push(format!(
                "{place}: upstream.servers: {address} is dot-proxy's own address ({path}); accepted: a resolver's"
            ));
        }
    }
    found
}

/// Whether a listener on `own` is what a connection to `server` of this machine reaches.
fn reaches(own: SocketAddr, server: SocketAddr) -> bool {
    let everywhere = own.ip().is_unspecified() && server.ip().is_loopback() && own.is_ipv4() == server.is_ipv4();
    own.port() != 0 && own.port() == server.port() && (own.ip() == server.ip() || everywhere)
}
