//! A server of plain DNS over UDP and TCP at one port, for what a route sends in clear.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::inspect;

/// How a query came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// In a datagram.
    Udp,
    /// On a stream.
    Tcp,
}

/// A query that came: how, from where, and its octets.
#[derive(Clone, Debug)]
pub struct Seen {
    /// How.
    pub way: Way,
    /// From where.
    pub from: SocketAddr,
    /// Its octets.
    pub query: Vec<u8>,
}

/// What is sent back for a query, message by message; the count says how many queries with this name came before.
type Script = dyn Fn(&Seen, usize) -> Vec<Vec<u8>> + Send + Sync;

/// The server, until it is dropped.
pub struct PlainServer {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl PlainServer {
    /// Starts one on 127.0.0.1 that answers as `script` says.
    pub fn start(script: impl Fn(&Seen, usize) -> Vec<Vec<u8>> + Send + Sync + 'static) -> PlainServer {
        // the port that the kernel chose for one may be taken for the other
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("an address")) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("an address");
        udp.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
        tcp.set_nonblocking(true).expect("a socket");
        let (seen, stop): (Arc<Mutex<Vec<Seen>>>, Arc<AtomicBool>) = Default::default();
        let script: Arc<Script> = Arc::new(script);
        let desk = Desk { seen: seen.clone(), stop: stop.clone(), script };
        let other = desk.clone();
        let threads =
            vec![thread::spawn(move || desk.serve_datagrams(&udp)), thread::spawn(move || other.accept(&tcp))];
        PlainServer { address, seen, stop, threads }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What came so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("nobody panics").clone()
    }
}

impl Drop for PlainServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

#[derive(Clone)]
struct Desk {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    script: Arc<Script>,
}

impl Desk {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn answers(&self, way: Way, from: SocketAddr, query: &[u8]) -> Vec<Vec<u8>> {
        let one = Seen { way, from, query: query.to_vec() };
        let mut seen = self.seen.lock().expect("nobody panics");
        let name = inspect::question_name(query);
        let before = seen.iter().filter(|other| inspect::question_name(&other.query) == name).count();
        seen.push(one.clone());
        drop(seen);
        (self.script)(&one, before)
    }

    fn serve_datagrams(&self, socket: &UdpSocket) {
        let mut buffer = [0; 65_535];
        while !self.is_over() {
            let Ok((count, from)) = socket.recv_from(&mut buffer) else { continue };
            for answer in self.answers(Way::Udp, from, &buffer[..count]) {
                socket.send_to(&answer, from).expect("a datagram");
            }
        }
    }

    fn accept(&self, listener: &TcpListener) {
        while !self.is_over() {
            match listener.accept() {
                Ok((stream, from)) => self.serve_stream(&stream, from),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// One query on each connection is all that these tests send.
    fn serve_stream(&self, mut stream: &TcpStream, from: SocketAddr) {
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
        let mut length = [0; 2];
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut query).is_err() {
            return;
        }
        for answer in self.answers(Way::Tcp, from, &query) {
            let length = u16::try_from(answer.len()).expect("a message");
            stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat()).expect("a stream");
        }
    }
}
