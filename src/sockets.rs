//! The one provider of listening sockets: bound here, or handed over by the service manager. Nothing else can tell the
//! difference.

use std::fmt;
use std::io;
use std::net::{
    IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt, socket, sockopt,
};

use crate::config::options;
use crate::inherited::{Inherited, Kind};
use crate::listen::datagrams::{Arrivals, forbid_fragments};
use crate::listen::shift::Duty;
use crate::port_holder;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Octets of datagrams that may wait for a worker; the kernel may grant less.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// How often a free port is looked for that both UDP and TCP can have.
const PORT_TRIES: usize = 32;

/// A UDP socket, ready for its worker.
pub struct UdpListener {
    /// The socket.
    pub socket: Arrivals,
    /// Whether it serves more than one address, so that each datagram must tell its own.
    pub many_addresses: bool,
    /// Whether this worker looks at it.
    pub duty: Rc<Duty>,
}

/// The sockets of one address. All workers share them.
pub struct Bound {
    /// The address, with the port that the kernel chose if none was given.
    pub address: SocketAddr,
    /// Where they came from, for people.
    pub origin: String,
    udp: Option<StdUdpSocket>,
    tcp: Option<StdTcpListener>,
    tls: Option<StdTcpListener>,
}

/// What one worker has of a [`Bound`].
pub struct Share {
    /// Datagrams.
    pub udp: Option<StdUdpSocket>,
    /// Connections.
    pub tcp: Option<StdTcpListener>,
    /// Connections of TLS.
    pub tls: Option<StdTcpListener>,
}

/// Makes sockets that were handed over ready.
///
/// # Errors
/// If a socket cannot be prepared.
pub fn adopt(inherited: Vec<Inherited>) -> Result<Vec<Bound>, BindError> {
    let adopted = inherited.into_iter().map(|Inherited { name, address, kind }| {
        let (udp, tcp, tls) = Default::default();
        let bound = Bound { address, origin: format!("from {name}"), udp, tcp, tls };
        Ok(match kind {
            Kind::Udp(socket) => {
                prepare_udp(socket.as_fd(), address).map_err(|source| BindError { address, kind: "udp", source })?;
                Bound { udp: Some(socket), ..bound }
            }
            Kind::Tcp(listener) => Bound { tcp: Some(listener), ..bound },
            Kind::Tls(listener) => Bound { tls: Some(listener), ..bound },
        })
    });
    adopted.collect()
}

/// An address could not be bound.
#[derive(Debug)]
pub struct BindError {
    address: SocketAddr,
    kind: &'static str,
    source: io::Error,
}

impl BindError {
    /// Whether the address is one that every machine with IPv6 has.
    fn is_for_want_of_ipv6(&self) -> bool {
        let everywhere = matches!(self.address.ip(), IpAddr::V6(ip) if ip.is_loopback() || ip.is_unspecified());
        everywhere && matches!(self.source.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { address, kind, source } = self;
        let (protocol, option) =
            if *kind == "tls" { ("tcp", &options::TLS_ADDRESSES) } else { (*kind, &options::ADDRESSES) };
        write!(out, "cannot listen on {address} ({kind}): {source}")?;
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => {
                if let Some(holder) = port_holder::find(Path::new("/"), *address, protocol) {
                    write!(out, ": {holder}, or")?;
                } else {
                    write!(out, "; see who holds the port with `ss -lpn 'sport = :{}'`, or", address.port())?;
                }
                write!(out, " choose another address ({})", option.path())
            }
            Some(libc::EACCES) => write!(
                out,
                "; ports below 1024 need root, CAP_NET_BIND_SERVICE or the sysctl net.ipv4.ip_unprivileged_port_start"
            ),
            Some(libc::EADDRNOTAVAIL) => {
                write!(out, "; this machine has no such address; set listen.free-bind if it comes later")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {}

/// Binds every address; with `free`, also those that this machine does not have yet. Where the
/// machine has no IPv6 at all, loopback and wildcard of IPv6 are left out as long as there is another address.
///
/// # Errors
/// The first address that cannot be had.
pub fn bind_all(addresses: &[SocketAddr], free: bool) -> Result<Vec<Bound>, BindError> {
    bind_those_there_are(addresses, |address| bind_address(address, free))
}

/// Binds every address for TLS, likewise.
///
/// # Errors
/// The first address that cannot be had.
pub fn bind_all_for_tls(addresses: &[SocketAddr], free: bool) -> Result<Vec<Bound>, BindError> {
    bind_those_there_are(addresses, |address| {
        let (tls, address) = bind_stream(address, free, "tls")?;
        Ok(Bound { address, origin: "own".to_owned(), udp: None, tcp: None, tls: Some(tls) })
    })
}

fn bind_those_there_are(
    addresses: &[SocketAddr],
    bind: impl Fn(SocketAddr) -> Result<Bound, BindError>,
) -> Result<Vec<Bound>, BindError> {
    let (mut bound, mut left_out) = (Vec::new(), None);
    for &address in addresses {
        match bind(address) {
            Ok(one) => bound.push(one),
            Err(error) if error.is_for_want_of_ipv6() => {
                log::warn!("{error}; going on without it, since this machine has no IPv6");
                left_out = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match left_out {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

fn bind_address(address: SocketAddr, free: bool) -> Result<Bound, BindError> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_both(address, free) {
            // with port 0 another process may have the other protocol's port of that number
            Err(error) if tries > 0 && error.source.raw_os_error() == Some(libc::EADDRINUSE) => {}
            result => return result,
        }
    }
}

fn bind_both(address: SocketAddr, free: bool) -> Result<Bound, BindError> {
    let (tcp, address) = bind_stream(address, free, "tcp")?;
    let udp = bind_udp(address, free).map_err(|source| BindError { address, kind: "udp", source })?;
    Ok(Bound { address, origin: "own".to_owned(), udp: Some(udp), tcp: Some(tcp), tls: None })
}

/// A listener, and its address with the port that it got.
fn bind_stream(address: SocketAddr, free: bool, kind: &'static str) -> Result<(StdTcpListener, SocketAddr), BindError> {
    let bound = bind_tcp(address, free).and_then(|listener| Ok((listener.local_addr()?, listener)));
    bound.map(|(address, listener)| (listener, address)).map_err(|source| BindError { address, kind, source })
}

fn new_socket(address: SocketAddr, free: bool, kind: SockType) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if free {
        // of IPv6 sockets as well (ip(7))
        setsockopt(&fd, sockopt::IpFreebind, &true)?;
    }
    if address.is_ipv6() {
        // [::] and 0.0.0.0 can then be listened on together
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(fd)
}

fn bind_to(fd: &OwnedFd, address: SocketAddr) -> nix::Result<()> {
    match address {
        SocketAddr::V4(v4) => bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(*v4.ip(), v4.port()))),
        SocketAddr::V6(v6) => {
            bind(fd.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id())))
        }
    }
}

fn bind_tcp(address: SocketAddr, free: bool) -> io::Result<StdTcpListener> {
    let fd = new_socket(address, free, SockType::Stream)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind_to(&fd, address)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd.into())
}

fn bind_udp(address: SocketAddr, free: bool) -> io::Result<StdUdpSocket> {
    let fd = new_socket(address, free, SockType::Datagram)?;
    bind_to(&fd, address)?;
    prepare_udp(fd.as_fd(), address)?;
    Ok(fd.into())
}

fn prepare_udp(fd: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    // more than net.core.rmem_max only with CAP_NET_ADMIN; the default does as well
    if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        match setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER) {
            Ok(()) | Err(Errno::ENOBUFS | Errno::EPERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    forbid_fragments(fd, address.is_ipv4())?;
    if address.ip().is_unspecified() {
        if address.is_ipv4() {
            setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    }
    Ok(())
}

impl Bound {
    /// What one worker has of them.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn share(&self) -> io::Result<Share> {
        let listener = |listener: &Option<StdTcpListener>| listener.as_ref().map(StdTcpListener::try_clone).transpose();
        let udp = self.udp.as_ref().map(StdUdpSocket::try_clone).transpose()?;
        Ok(Share { udp, tcp: listener(&self.tcp)?, tls: listener(&self.tls)? })
    }

    /// What is served here, for people.
    pub fn protocols(&self) -> &'static str {
        match (&self.udp, &self.tcp) {
            _ if self.tls.is_some() => "tls",
            (Some(_), None) => "udp",
            (None, Some(_)) => "tcp",
            _ => "udp, tcp",
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::bind_all;

    #[test]
    fn every_worker_gets_the_sockets_of_one_port_for_both_protocols() {
        for bound in bind_all(&["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()], false).unwrap() {
            assert_ne!(bound.address.port(), 0);
            for _ in 0..3 {
                let share = bound.share().unwrap();
                assert_eq!(share.udp.unwrap().local_addr().unwrap(), bound.address);
                assert_eq!(share.tcp.unwrap().local_addr().unwrap(), bound.address);
            }
        }
    }

    #[test]
    fn a_port_of_our_own_is_taken_as_any_other() {
        let bound = bind_all(&["127.0.0.1:0".parse().unwrap()], false).unwrap();
        assert!(bind_all(&[bound[0].address], false).is_err());
    }

    #[test]
    fn a_taken_port_is_named_with_its_holder() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let text = bind_all(&[address], false).err().unwrap().to_string();
        assert!(text.starts_with(&format!("cannot listen on {address} (tcp): ")), "{text}");
        assert!(text.contains(&format!("(process {}", std::process::id())), "{text}");
    }

    #[test]
    fn both_wildcards_can_be_listened_on_together() {
        let v4 = bind_all(&["0.0.0.0:0".parse().unwrap()], false).unwrap();
        let both = bind_all(&[format!("[::]:{}", v4[0].address.port()).parse().unwrap()], false);
        assert!(both.is_ok());
    }
}
