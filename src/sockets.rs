//! The one provider of listening sockets: bound here, or handed over by the service manager. Nothing else can tell the
//! difference.

use std::fmt;
use std::io;
use std::net::{
    IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

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
/// So many workers share one UDP socket, which divides the load evenly however few the clients are. With one each, the
/// kernel divides the clients, and one worker may have most of them. How many more could share one without waiting for each
/// other at it has not been measured.
const SHARED_BY: usize = 2;
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
    pub duty: Duty,
}

/// The sockets of one address, for every worker.
pub struct Bound {
    /// The address, with the port that the kernel chose if none was given.
    pub address: SocketAddr,
    /// Where they came from, for people.
    pub origin: String,
    udp: Vec<(StdUdpSocket, Duty)>,
    tcp: Vec<StdTcpListener>,
    tls: Vec<StdTcpListener>,
}

/// One worker's share of a [`Bound`].
pub struct Share {
    /// Datagrams, and who looks at the socket.
    pub udp: Option<(StdUdpSocket, Duty)>,
    /// Connections.
    pub tcp: Option<StdTcpListener>,
    /// Connections of TLS.
    pub tls: Option<StdTcpListener>,
}

/// Makes sockets that were handed over ready for `workers`, which all serve the same ones.
///
/// # Errors
/// If a socket cannot be prepared or shared.
pub fn adopt(inherited: Vec<Inherited>, workers: usize) -> Result<Vec<Bound>, BindError> {
    let adopted = inherited.into_iter().map(|Inherited { name, address, kind }| {
        let fault = |kind| move |source: io::Error| BindError { address, kind, source };
        let (udp, tcp, tls) = Default::default();
        let mut bound = Bound { address, origin: format!("from {name}"), udp, tcp, tls };
        match kind {
            Kind::Udp(socket) => {
                prepare_udp(socket.as_fd(), address).map_err(fault("udp"))?;
                bound.udp = shared(&socket, workers).map_err(fault("udp"))?;
            }
            Kind::Tcp(listener) => {
                let shares: io::Result<_> = (0..workers).map(|_| listener.try_clone()).collect();
                bound.tcp = shares.map_err(fault("tcp"))?;
            }
            Kind::Tls(listener) => {
                let shares: io::Result<_> = (0..workers).map(|_| listener.try_clone()).collect();
                bound.tls = shares.map_err(fault("tls"))?;
            }
        }
        Ok(bound)
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

/// Binds every address for each of `workers`; with `free`, also those that this machine does not have yet. Where the
/// machine has no IPv6 at all, loopback and wildcard of IPv6 are left out as long as there is another address.
///
/// # Errors
/// The first address that cannot be had.
pub fn bind_all(addresses: &[SocketAddr], free: bool, workers: usize) -> Result<Vec<Bound>, BindError> {
    bind_those_there_are(addresses, |address| bind_address(address, free, workers))
}

/// Binds every address for TLS, likewise.
///
/// # Errors
/// The first address that cannot be had.
pub fn bind_all_for_tls(addresses: &[SocketAddr], free: bool, workers: usize) -> Result<Vec<Bound>, BindError> {
    bind_those_there_are(addresses, |address| {
        let (tls, address) = bind_each(address, free, workers, "tls")?;
        Ok(Bound { address, origin: "own".to_owned(), udp: Vec::new(), tcp: Vec::new(), tls })
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

fn bind_address(address: SocketAddr, free: bool, workers: usize) -> Result<Bound, BindError> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_both(address, free, workers) {
            // with port 0 another process may have the other protocol's port of that number
            Err(error) if tries > 0 && error.source.raw_os_error() == Some(libc::EADDRINUSE) => {}
            result => return result,
        }
    }
}

fn bind_both(address: SocketAddr, free: bool, workers: usize) -> Result<Bound, BindError> {
    let (tcp, address) = bind_each(address, free, workers, "tcp")?;
    let fault = |source: io::Error| BindError { address, kind: "udp", source };
    let udp: io::Result<Vec<_>> = if workers <= SHARED_BY {
        bind_udp(address, free).and_then(|socket| shared(&socket, workers))
    } else {
        let own = || bind_udp(address, free).and_then(|socket| shared(&socket, 1));
        (0..workers).map(|_| own()).collect::<io::Result<Vec<_>>>().map(|own| own.into_iter().flatten().collect())
    };
    Ok(Bound { address, origin: "own".to_owned(), udp: udp.map_err(fault)?, tcp, tls: Vec::new() })
}

/// One socket for all of so many workers.
fn shared(socket: &StdUdpSocket, workers: usize) -> io::Result<Vec<(StdUdpSocket, Duty)>> {
    Duty::shared_by(workers).into_iter().map(|duty| Ok((socket.try_clone()?, duty))).collect()
}

/// A listener for each worker, and their address with the port that the first got.
fn bind_each(
    address: SocketAddr,
    free: bool,
    workers: usize,
    kind: &'static str,
) -> Result<(Vec<StdTcpListener>, SocketAddr), BindError> {
    let fault = |source: io::Error| BindError { address, kind, source };
    let first = bind_tcp(address, free).map_err(fault)?;
    let address = first.local_addr().map_err(fault)?;
    let mut listeners = vec![first];
    while listeners.len() < workers {
        listeners.push(bind_tcp(address, free).map_err(fault)?);
    }
    Ok((listeners, address))
}

/// A socket of its own for a worker: the kernel spreads clients over all that share an address.
fn new_socket(address: SocketAddr, free: bool, kind: SockType) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
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
    /// Takes out one worker's sockets; all are missing when every worker has its own.
    pub fn share(&mut self) -> Share {
        Share { udp: self.udp.pop(), tcp: self.tcp.pop(), tls: self.tls.pop() }
    }

    /// What is served here, for people.
    pub fn protocols(&self) -> &'static str {
        match (self.udp.is_empty(), self.tcp.is_empty()) {
            _ if !self.tls.is_empty() => "tls",
            (false, true) => "udp",
            (true, false) => "tcp",
            _ => "udp, tcp",
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::bind_all;
    use nix::sys::stat::fstat;
    use std::collections::HashSet;

    #[test]
    fn every_worker_gets_sockets_of_the_same_port_for_both_protocols() {
        let mut bound = bind_all(&["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()], false, 3).unwrap();
        for bound in &mut bound {
            assert_ne!(bound.address.port(), 0);
            for _ in 0..3 {
                let share = bound.share();
                assert_eq!(share.udp.unwrap().0.local_addr().unwrap(), bound.address);
                assert_eq!(share.tcp.unwrap().local_addr().unwrap(), bound.address);
            }
            assert!(bound.share().udp.is_none());
        }
    }

    #[test]
    fn two_workers_share_one_udp_socket_and_more_have_their_own() {
        for (workers, sockets) in [(1, 1), (2, 1), (3, 3)] {
            let mut bound = bind_all(&["127.0.0.1:0".parse().unwrap()], false, workers).unwrap();
            let shares: Vec<_> = (0..workers).map(|_| bound[0].share().udp.unwrap().0).collect();
            let different: HashSet<u64> = shares.iter().map(|socket| fstat(socket).unwrap().st_ino).collect();
            assert_eq!(different.len(), sockets, "{workers}");
        }
    }

    #[test]
    fn a_taken_port_is_named_with_its_holder() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let text = bind_all(&[address], false, 1).err().unwrap().to_string();
        assert!(text.starts_with(&format!("cannot listen on {address} (tcp): ")), "{text}");
        assert!(text.contains(&format!("(process {}", std::process::id())), "{text}");
    }

    #[test]
    fn both_wildcards_can_be_listened_on_together() {
        let v4 = bind_all(&["0.0.0.0:0".parse().unwrap()], false, 2).unwrap();
        let both = bind_all(&[format!("[::]:{}", v4[0].address.port()).parse().unwrap()], false, 2);
        assert!(both.is_ok());
    }
}
