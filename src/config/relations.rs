//! What must hold between the values of a configuration (pure).

use std::net::SocketAddr;

use super::given::Given;
use super::options::{self, Opt};
use super::values::{DNS_PORT, DOT_PORT, ServerEntry};
use crate::own_listeners::reaches;

/// Durations that must be shorter than the deadline.
pub fn durations(given: &Given) -> Vec<String> {
    let deadline = given.duration(&options::DEADLINE);
    let too_long = [&options::CONNECT_TIMEOUT, &options::SECOND_TRY_AFTER].into_iter();
    let problem = |option: &Opt| {
        let written = if given.places.contains_key(&option.path()) { option } else { &options::DEADLINE };
        let (place, path, limit) = (given.place(written), option.path(), humantime::format_duration(deadline));
        format!("{place}: {path}: is not shorter than upstream.deadline ({limit}); accepted: a shorter duration")
    };
    too_long.filter(|option| given.duration(option) >= deadline).map(problem).collect()
}

/// The shortest time of an answer in memory is not longer than the longest.
pub fn cache(given: &Given) -> Option<String> {
    let (min, max) = (&options::CACHE_MIN_TTL, &options::CACHE_MAX_TTL);
    let written = if given.places.contains_key(&min.path()) { min } else { max };
    let (place, limit) = (given.place(written), humantime::format_duration(given.duration(max)));
    (given.duration(min) > given.duration(max)).then(|| {
        format!(
            "{place}: cache.min-ttl: is longer than cache.max-ttl ({limit}); accepted: a duration that is not longer"
        )
    })
}

/// What TLS towards clients takes: a certificate and its key together, and no port that is for plain DNS, nor plain DNS
/// one that is for TLS (RFC 7858 §3.1). Values that were refused, as `problems` say, are not called missing.
pub fn tls(given: &Given, problems: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let (certificate, key) = (&options::TLS_CERTIFICATE, &options::TLS_KEY);
    for option in [&options::TLS_ADDRESSES, certificate, key, &options::TLS_CLIENT_CA] {
        let missing =
            [certificate, key].into_iter().find(|needed| !given.is_set(needed) && !is_wrong(needed, problems));
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

/// A certificate for resolvers comes with its key. Values that were refused, as `problems` say, are not called missing.
pub fn client_certificates(given: &Given, problems: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let own = [(given, &options::CLIENT_CERTIFICATE, &options::CLIENT_KEY)].into_iter();
    let routes =
        given.routes.iter().map(|route| (route, &options::ROUTE_CLIENT_CERTIFICATE, &options::ROUTE_CLIENT_KEY));
    for (table, certificate, key) in own.chain(routes) {
        for (option, needed) in [(certificate, key), (key, certificate)] {
            if table.is_set(option) && !table.is_set(needed) && !is_wrong(needed, problems) {
                let (place, path, needed) = (table.place(option), option.path(), needed.path());
                found.push(format!(
                    "{place}: {path}: is set without {needed}; accepted: both, the PEM files of a certificate and its key"
                ));
            }
        }
    }
    found
}

/// What a route takes: domains that no other route has, and servers; for servers in plain DNS nothing that concerns TLS.
pub fn routes(given: &Given, problems: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, route) in given.routes.iter().enumerate() {
        for needed in [&options::ROUTE_DOMAINS, &options::ROUTE_SERVERS] {
            if !route.is_set(needed) && !is_wrong(needed, problems) {
                let (place, path, accepted) = (&route.name, needed.path(), needed.kind.accepted());
                found.push(format!("{place}: {path}: is missing; accepted: {accepted}"));
            }
        }
        for domain in route.domains(&options::ROUTE_DOMAINS) {
            let has = |other: &&Given| other.domains(&options::ROUTE_DOMAINS).contains(domain);
            if let Some(other) = given.routes[..index].iter().find(has) {
                let place = route.place(&options::ROUTE_DOMAINS);
                found.push(format!(
                    "{place}: route.domains: {domain} is a domain of the route at {} as well; accepted: in one of the two",
                    other.name
                ));
            }
        }
        let is_plain = route.servers(&options::ROUTE_SERVERS).iter().any(ServerEntry::is_plain);
        for option in [
            &options::ROUTE_PROFILE,
            &options::ROUTE_CA_FILE,
            &options::ROUTE_CLIENT_CERTIFICATE,
            &options::ROUTE_CLIENT_KEY,
            &options::ROUTE_POST_QUANTUM,
        ] {
            if is_plain && route.places.contains_key(&option.path()) {
                let (place, path) = (route.place(option), option.path());
                found.push(format!("{place}: {path}: means nothing in plain DNS; accepted: a route without it"));
            }
        }
    }
    found
}

/// Each worker may have a connection to each server.
pub fn connections(given: &Given) -> Option<String> {
    let connections = given.number::<usize>(&options::CONNECTIONS).ok()?;
    let workers = given.workers().ok()?;
    let is_own = |option: &&&Opt| given.places.contains_key(&option.path());
    let written = [&options::CONNECTIONS, &options::WORKERS].into_iter().find(|option| is_own(&option))?;
    (connections < workers).then(|| {
        let place = given.place(written);
        format!("{place}: upstream.connections: is less than workers ({workers}); accepted: {workers} or more")
    })
}

/// Whether a value of this option was refused.
fn is_wrong(option: &Opt, problems: &[String]) -> bool {
    problems.iter().any(|problem| problem.contains(&format!(": {}: ", option.path())))
}

/// A server that is a name needs somebody who knows its address.
pub fn names(given: &Given) -> Vec<String> {
    let mut found = Vec::new();
    let own = std::iter::once((given, &options::SERVERS, &options::BOOTSTRAP));
    let routes = given.routes.iter().map(|route| (route, &options::ROUTE_SERVERS, &options::ROUTE_BOOTSTRAP));
    for (table, servers, bootstrap) in own.chain(routes) {
        if table.is_set(bootstrap) || given.is_set(&options::BOOTSTRAP) {
            continue;
        }
        for entry in table.servers(servers).iter().filter(|entry| entry.needs_bootstrap()) {
            let (place, path, (name, address)) = (table.place(servers), servers.path(), entry.example());
            found.push(format!(
                "{place}: {path}: {name:?} is a name, and no address to connect to; write its address before it, such as \
                 \"{address}\", or give it the key addresses in a table, or name a plain resolver that may be asked for it, \
                 such as {} = [\"192.0.2.53\"]",
                bootstrap.path()
            ));
        }
    }
    found
}

/// A server that is one of our own listeners would ask us what we ask it.
pub fn loops(given: &Given) -> Vec<String> {
    let mut found = Vec::new();
    let routes = given.routes.iter().map(|route| (route, &options::ROUTE_SERVERS));
    for (table, servers) in [(given, &options::SERVERS)].into_iter().chain(routes) {
        let place = table.place(servers);
        let bootstrap =
            if servers.section == options::SERVERS.section { &options::BOOTSTRAP } else { &options::ROUTE_BOOTSTRAP };
        for option in [&options::ADDRESSES, &options::TLS_ADDRESSES] {
            let own = given.addresses(option);
            let is_own = |server: &SocketAddr| own.iter().any(|own| reaches(*own, *server));
            let servers_at =
                table.servers(servers).iter().flat_map(ServerEntry::addresses).map(|at| (servers, place, at));
            let asked = table.addresses(bootstrap).iter().map(|at| (bootstrap, table.place(bootstrap), *at));
            for (listed, place, address) in servers_at.chain(asked).filter(|(.., at)| is_own(at)) {
                let (key, path) = (listed.path(), option.path());
                found.push(format!(
                    "{place}: {key}: {address} is dot-proxy's own address ({path}); accepted: a resolver's"
                ));
            }
        }
    }
    found
}
