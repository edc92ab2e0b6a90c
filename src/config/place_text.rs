//! Where something is, as people write it: an address or a host, each with a port or without.

use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::ServerName;

use crate::dns::name::Domain;

/// An address with a port, or with the default one.
pub fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = || text.parse::<IpAddr>().ok();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6);
    text.parse().ok().or_else(|| bare().or_else(bracketed).map(|ip| SocketAddr::new(ip, port)))
}

/// A host name and its port; `None` if it can be none.
pub fn host_and_port(text: &str, usual: u16) -> Option<(&str, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
        None => (text, usual),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_name = matches!(ServerName::try_from(host), Ok(ServerName::DnsName(_))) && Domain::parse(host).is_ok();
    // what ends in digits is an address with a mistake in it
    let is_number = host.rsplit('.').next().is_none_or(|last| last.bytes().all(|octet| octet.is_ascii_digit()));
    (is_name && !is_number).then_some((host, port))
}
