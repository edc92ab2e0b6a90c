//! Our own listeners, and whether a connection to some address would end there: who asks a resolver that is ourselves
//! asks in a circle.

use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;

/// Whether a listener on `own` is certainly what a connection to `server` from this machine reaches.
pub fn reaches(own: SocketAddr, server: SocketAddr) -> bool {
    let server = SocketAddr::new(server.ip().to_canonical(), server.port());
    let everywhere = own.ip().is_unspecified() && server.ip().is_loopback() && own.is_ipv4() == server.is_ipv4();
    own.port() != 0 && own.port() == server.port() && (own.ip() == server.ip() || everywhere)
}

/// The addresses of the sockets that clients are served on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OwnListeners {
    sockets: Vec<SocketAddr>,
}

impl OwnListeners {
    /// These.
    pub fn new(sockets: impl IntoIterator<Item = SocketAddr>) -> OwnListeners {
        OwnListeners { sockets: sockets.into_iter().collect() }
    }

    /// The listener that a connection to `server` would reach: one on the same address, or one on all addresses if it is
    /// an address of this machine.
    pub fn at(&self, server: SocketAddr) -> Option<SocketAddr> {
        let server = SocketAddr::new(server.ip().to_canonical(), server.port());
        let everywhere = |own: &SocketAddr| {
            // an inherited [::] serves IPv4 as well, unless the socket unit says otherwise
            let same_family = own.is_ipv6() || server.is_ipv4();
            own.port() == server.port() && own.ip().is_unspecified() && same_family && is_here(server.ip())
        };
        self.sockets.iter().copied().find(|own| reaches(*own, server) || everywhere(own))
    }
}

/// Whether this machine has the address. Where the machine does not say, only loopback is certain.
fn is_here(ip: IpAddr) -> bool {
    let of_interface = |found: &nix::ifaddrs::InterfaceAddress| {
        let address = found.address.as_ref()?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    ip.is_loopback() || getifaddrs().is_ok_and(|mut all| all.any(|found| of_interface(&found) == Some(ip)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::OwnListeners;
    use std::net::SocketAddr;

    fn at(own: &str, server: &str) -> bool {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        OwnListeners::new([address(own)]).at(address(server)).is_some()
    }

    #[test]
    fn a_listener_is_met_at_its_address_and_a_wildcard_at_every_address_of_the_machine() {
        assert!(at("127.0.0.1:53", "127.0.0.1:53") && at("192.0.2.1:853", "192.0.2.1:853"));
        assert!(!at("127.0.0.1:53", "127.0.0.1:54") && !at("127.0.0.1:53", "127.0.0.2:53"));
        assert!(at("0.0.0.0:53", "127.8.9.1:53") && at("[::]:53", "[::1]:53") && at("[::]:53", "127.0.0.1:53"));
        assert!(at("127.0.0.1:53", "[::ffff:127.0.0.1]:53"));
        assert!(!at("0.0.0.0:53", "[::1]:53") && !at("0.0.0.0:53", "192.0.2.1:53"), "not of this machine");
    }
}
