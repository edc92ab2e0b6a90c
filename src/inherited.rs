//! Sockets that the service manager has bound and handed over (sd_listen_fds(3)): told apart by what they are, never by
//! their order. One that nobody here can serve is an error that names it.
#![expect(unsafe_code, reason = "the environment can only be changed by an unsafe call")]

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use listenfd::ListenFd;
use nix::sys::socket::{getsockopt, sockopt};

/// What kind of socket was handed over.
#[derive(Debug)]
pub enum Kind {
    /// Datagrams.
    Udp(UdpSocket),
    /// Connections.
    Tcp(TcpListener),
    /// Connections of TLS, as the name says.
    Tls(TcpListener),
}

/// Names by which a unit says that its sockets are for DNS over TLS (`FileDescriptorName=`).
const TLS_NAMES: &[&str] = &["tls", "dot"];
/// The port of DNS over TLS, which is for nothing else, and that of plain DNS, which is not for TLS (RFC 7858 §3.1).
const DOT_PORT: u16 = 853;
const DNS_PORT: u16 = 53;

/// A socket that was handed over.
#[derive(Debug)]
pub struct Inherited {
    /// The name that the socket's unit gives it (`FileDescriptorName=`).
    pub name: String,
    /// Where it is bound.
    pub address: SocketAddr,
    /// The socket.
    pub kind: Kind,
}

/// A socket was handed over that cannot be served.
#[derive(Debug)]
pub struct Unclaimed {
    index: usize,
    name: String,
    why: String,
}

impl fmt::Display for Unclaimed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unclaimed { index, name, why } = self;
        write!(
            out,
            "inherited socket {} (fd {}): {why}; dot-proxy serves UDP sockets and listening TCP sockets of IPv4 and IPv6, see \
             ListenDatagram= and ListenStream= of its socket unit",
            name,
            3 + index
        )
    }
}

impl std::error::Error for Unclaimed {}

/// Takes the sockets that were handed over to this process; none if there are none.
///
/// To be called before any thread exists, since it cleans the environment.
///
/// # Errors
/// The first socket that cannot be served.
pub fn take() -> Result<Vec<Inherited>, Unclaimed> {
    // reads only, and marks the descriptors so that no child inherits them
    let names: Vec<String> =
        sd_notify::listen_fds_with_names().map(|fds| fds.map(|(_, name)| name).collect()).unwrap_or_default();
    let mut fds = ListenFd::from_env();
    // SAFETY: no thread exists yet that could read the environment at the same time; the caller sees to it
    unsafe { std::env::remove_var("LISTEN_FDNAMES") };
    let mut taken = Vec::new();
    for index in 0..fds.len() {
        let name = names.get(index).cloned().unwrap_or_else(|| "unknown".to_owned());
        let inherited = classify(&mut fds, index, &name).map_err(|why| Unclaimed { index, name, why })?;
        taken.push(inherited);
    }
    Ok(taken)
}

fn classify(fds: &mut ListenFd, index: usize, name: &str) -> Result<Inherited, String> {
    let text = |error: io::Error| error.to_string();
    let is_for_tls = TLS_NAMES.contains(&name);
    let name = name.to_owned();
    let right_port = |address: SocketAddr| match (is_for_tls, address.port()) {
        (true, DNS_PORT) => Err("port 53 is for plain DNS, and its name is one for DNS over TLS".to_owned()),
        (false, DOT_PORT) => Err("port 853 is for DNS over TLS; give it the name tls (FileDescriptorName=)".to_owned()),
        _ => Ok(address),
    };
    if let Ok(Some(socket)) = fds.take_udp_socket(index) {
        if is_for_tls {
            return Err("is a UDP socket, and its name is one for DNS over TLS, which is spoken over TCP".to_owned());
        }
        socket.set_nonblocking(true).map_err(text)?;
        let address = socket.local_addr().map_err(text).and_then(right_port)?;
        return Ok(Inherited { name, address, kind: Kind::Udp(socket) });
    }
    match fds.take_tcp_listener(index) {
        Ok(Some(listener)) => {
            if !getsockopt(&listener, sockopt::AcceptConn).map_err(|error| error.to_string())? {
                return Err("is a connection, not a listening socket (Accept=yes is not for this service)".to_owned());
            }
            listener.set_nonblocking(true).map_err(text)?;
            let address = listener.local_addr().map_err(text).and_then(right_port)?;
            let kind = if is_for_tls { Kind::Tls(listener) } else { Kind::Tcp(listener) };
            Ok(Inherited { name, address, kind })
        }
        Ok(None) => Err("was taken already".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
