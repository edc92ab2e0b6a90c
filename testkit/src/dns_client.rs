//! Clients over UDP and TCP that see everything a DNS client can see: also the difference between FIN and reset.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::inspect;
use crate::message::framed;

/// How long [`UdpClient::ask`] and its like wait.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// TLS only: close_notify, with or without a FIN behind it.
    CloseNotify,
    /// FIN; in TLS without close_notify.
    Fin,
    /// FIN in the middle of a message.
    FinInsideMessage,
    /// Reset.
    Rst,
    /// Something else.
    Other(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Rst,
            ErrorKind::UnexpectedEof => Self::Fin,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// Whether a read ended because its time was over.
pub(crate) fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The time left, as a read timeout: the kernel takes zero for "no limit", so it is never zero.
pub(crate) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1))
}

/// A UDP client.
#[derive(Debug)]
pub struct UdpClient {
    socket: UdpSocket,
    server: SocketAddr,
    connected: bool,
}

impl UdpClient {
    /// A connected socket: the kernel drops answers from any address but the server's.
    pub fn connect(server: SocketAddr) -> Self {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        Self::connect_from(any.parse().unwrap(), server)
    }

    /// A connected socket with a chosen source address.
    pub fn connect_from(source: SocketAddr, server: SocketAddr) -> Self {
        let client = Self::unconnected_from(source, server);
        client.socket.connect(server).unwrap_or_else(|error| panic!("connect {server}: {error}"));
        Self { connected: true, ..client }
    }

    /// An unconnected socket: it takes answers from anywhere, see [`Self::recv_from`].
    pub fn unconnected_from(source: SocketAddr, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind(source).unwrap_or_else(|error| panic!("bind {source}: {error}"));
        Self { socket, server, connected: false }
    }

    /// The socket, for options the client does not know.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The client's own address.
    pub fn local_address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket")
    }

    /// Sends a datagram. A pending "port unreachable" is not a failure of this one.
    pub fn send(&self, datagram: &[u8]) {
        let send = || {
            if self.connected { self.socket.send(datagram) } else { self.socket.send_to(datagram, self.server) }
        };
        match send() {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => drop(send()),
            Err(error) => panic!("send to {}: {error}", self.server),
            Ok(_) => {}
        }
    }

    /// Waits for a datagram.
    pub fn recv(&self, timeout: Duration) -> Option<Vec<u8>> {
        self.recv_from(timeout).map(|(datagram, _)| datagram)
    }

    /// Waits for a datagram and tells where it came from. "Port unreachable" is not an answer: the wait goes on.
    pub fn recv_from(&self, timeout: Duration) -> Option<(Vec<u8>, SocketAddr)> {
        let deadline = Instant::now() + timeout;
        let mut buffer = vec![0; 65_535];
        loop {
            self.socket.set_read_timeout(Some(left(deadline))).expect("a socket");
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    buffer.truncate(length);
                    return Some((buffer, from));
                }
                Err(_) if Instant::now() >= deadline => return None,
                // a machine that is stopped and goes on interrupts its waits
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted) => {}
                Err(error) if timed_out(&error) => {}
                Err(error) => panic!("receive from {}: {error}", self.server),
            }
        }
    }

    /// Sends a query and waits up to [`PATIENCE`] for the answer with its ID; other datagrams are dropped.
    pub fn ask(&self, query: &[u8]) -> Option<Vec<u8>> {
        self.ask_within(query, PATIENCE)
    }

    /// [`Self::ask`] with another limit.
    pub fn ask_within(&self, query: &[u8], timeout: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + timeout;
        self.send(query);
        loop {
            let answer = self.recv(left(deadline))?;
            if inspect::id(&answer) == inspect::id(query) {
                return Some(answer);
            }
        }
    }
}

/// How long [`keep_asking`] waits before it takes answers for lost.
const LOST_AFTER: Duration = Duration::from_millis(500);

/// Has all these queries under way at any time, until it is over: each is sent again when its answer has come, and all of
/// them when answers were lost. The ID of each is its index. Counts the answers.
pub fn keep_asking(client: &UdpClient, queries: &[Vec<u8>], answers: &AtomicU64, over: &AtomicBool) {
    let send_all = || queries.iter().for_each(|query| client.send(query));
    send_all();
    while !over.load(Relaxed) {
        match client.recv(LOST_AFTER) {
            Some(answer) => {
                answers.fetch_add(1, Relaxed);
                client.send(&queries[usize::from(inspect::id(&answer))]);
            }
            None => send_all(),
        }
    }
}

/// Length-prefixed messages read from any stream whose reads can time out.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    received: Vec<u8>,
    messages: std::collections::VecDeque<Vec<u8>>,
}

impl Framing {
    /// The next message; `read` is called with the time that is left.
    pub(crate) fn next(
        &mut self,
        timeout: Duration,
        mut read: impl FnMut(&mut [u8], Duration) -> io::Result<usize>,
        at_end: Ended,
    ) -> Result<Option<Vec<u8>>, Ended> {
        let deadline = Instant::now() + timeout;
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(Some(message));
            }
            match read(&mut buffer, left(deadline)) {
                Ok(0) if self.received.is_empty() => return Err(at_end),
                Ok(0) => return Err(Ended::FinInsideMessage),
                Ok(length) => {
                    self.received.extend_from_slice(&buffer[..length]);
                    self.messages.extend(inspect::take_messages(&mut self.received));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if timed_out(&error) => {
                    if Instant::now() >= deadline {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A client over plain TCP.
#[derive(Debug)]
pub struct TcpClient {
    stream: TcpStream,
    framing: Framing,
}

impl TcpClient {
    /// Connects; panics if nobody listens.
    pub fn connect(server: SocketAddr) -> Self {
        Self::try_connect(server).unwrap_or_else(|error| panic!("connect {server}: {error}"))
    }

    /// Connects, or says why not.
    pub fn try_connect(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, framing: Framing::default() })
    }

    /// Connects from a chosen source address.
    pub fn connect_from(source: SocketAddr, server: SocketAddr) -> Self {
        Self::with_socket(server, |socket| socket.bind(&source.into()).expect("a free source address"))
    }

    /// Connects with a small receive buffer, so that a client that does not read is soon full.
    pub fn connect_with_receive_buffer(server: SocketAddr, octets: usize) -> Self {
        // before the connect: the window is announced in the SYN
        Self::with_socket(server, |socket| socket.set_recv_buffer_size(octets).expect("a socket"))
    }

    fn with_socket(server: SocketAddr, prepare: impl FnOnce(&Socket)) -> Self {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).expect("a socket");
        prepare(&socket);
        socket.connect_timeout(&server.into(), PATIENCE).unwrap_or_else(|error| panic!("connect {server}: {error}"));
        socket.set_tcp_nodelay(true).expect("a socket");
        Self { stream: socket.into(), framing: Framing::default() }
    }

    /// The stream, for options the client does not know.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The client's own address.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket")
    }

    /// Sends a message with its length prefix in one segment. A closed connection is seen at the next receive.
    pub fn send(&self, message: &[u8]) {
        self.send_raw(&framed(message));
    }

    /// Sends these octets of the stream in one write. A closed connection is seen at the next receive.
    pub fn send_raw(&self, octets: &[u8]) {
        let _ = self.try_send_raw(octets);
    }

    /// Sends these octets of the stream, or says why not.
    pub fn try_send_raw(&self, octets: &[u8]) -> io::Result<()> {
        (&self.stream).write_all(octets)
    }

    /// Waits for a message: `Ok(None)` if none came in time, `Err` if the stream ended.
    pub fn recv(&mut self, timeout: Duration) -> Result<Option<Vec<u8>>, Ended> {
        let stream = &self.stream;
        let read = |buffer: &mut [u8], time| {
            stream.set_read_timeout(Some(time))?;
            (&mut &*stream).read(buffer)
        };
        self.framing.next(timeout, read, Ended::Fin)
    }

    /// Sends a query and waits up to [`PATIENCE`] for the answer with its ID; other messages are dropped.
    pub fn ask(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        self.send(query);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.recv(left(deadline)).ok()??;
            if inspect::id(&answer) == inspect::id(query) {
                return Some(answer);
            }
        }
    }

    /// Waits until the server ends the stream; messages are dropped. `None` if it does not in time.
    pub fn wait_for_end(&mut self, timeout: Duration) -> Option<Ended> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.recv(left(deadline)) {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(ended) => return Some(ended),
            }
        }
    }

    /// Sends FIN and goes on reading.
    pub fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Resets the connection.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a socket");
    }
}
