//! The listening socket in its three states: accepting, not there, and there with a full queue.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::waker::{Waker, Woken, waker};

/// Keeps a port for this process without listening on it, so that "refused" does not become somebody else's service.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    _reserved: Socket,
}

impl Port {
    pub(crate) fn reserve(address: SocketAddr) -> Self {
        let reserved = bound(address);
        let address = reserved.local_addr().expect("a bound socket").as_socket().expect("an IP address");
        Self { address, _reserved: reserved }
    }
}

fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("a socket");
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match socket.bind(&address.into()) {
            Ok(()) => return socket,
            // a process that is just being started elsewhere still has a copy of the listener that was closed here
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("bind {address}: {error}"),
        }
    }
}

/// What there is on the port.
pub(crate) enum Listening {
    Nothing,
    Accepting { waker: Waker, thread: Option<JoinHandle<()>> },
    FullQueue { _listener: Socket, _fillers: Vec<TcpStream> },
}

impl Listening {
    /// Accepts and hands each connection to `serve`, until dropped.
    pub(crate) fn accept(port: &Port, serve: impl Fn(TcpStream) + Send + 'static) -> Self {
        let socket = bound(port.address);
        socket.listen(1024).unwrap_or_else(|error| panic!("listen {}: {error}", port.address));
        socket.set_nonblocking(true).expect("a socket");
        let listener = TcpListener::from(socket);
        let (waker, wakeup) = waker();
        let run = move || {
            loop {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).expect("a socket");
                        serve(stream);
                    }
                    Err(_) => {
                        if wakeup.readable(&listener) == Woken::Called {
                            break;
                        }
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("testkit-accept".into()).spawn(run).expect("a thread");
        Self::Accepting { waker, thread: Some(thread) }
    }

    /// Listens with a queue that is full, so that the kernel drops every further SYN.
    pub(crate) fn full_queue(port: &Port) -> Self {
        let listener = bound(port.address);
        listener.listen(0).unwrap_or_else(|error| panic!("listen {}: {error}", port.address));
        let fillers: Vec<TcpStream> =
            std::iter::from_fn(|| TcpStream::connect_timeout(&port.address, Duration::from_millis(150)).ok())
                .take(16)
                .collect();
        assert!(fillers.len() < 16, "the kernel takes more connections than the queue is long");
        Self::FullQueue { _listener: listener, _fillers: fillers }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Self::Accepting { waker, thread } = self {
            waker.wake();
            // joined, so that the port is really closed when this returns
            let _ = thread.take().map(JoinHandle::join);
        }
    }
}
