//! Asks dot-proxy a real query, as a program of the machine would.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::dns::message::{HEADER, Message, rcode};

/// The time for one query: more than dot-proxy takes to say that no resolver answers.
const LIMIT: Duration = Duration::from_secs(5);
/// The query but for its ID: the servers of the root, a question that tells nobody anything and that every resolver
/// can answer, with EDNS so that a failure comes with its reason.
const QUERY: &[u8] = b"\x01\x00\0\x01\0\0\0\0\0\x01\0\0\x02\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";
/// The option that carries a reason (RFC 8914 §2).
const EXTENDED_ERROR: u16 = 15;

/// How a query ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// With an answer.
    Works,
    /// With a response that is none; which, and why.
    Fails(String),
    /// With nothing; why.
    Silent(String),
}

/// What one address did over UDP and TCP: the worse of the two.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trial {
    /// The address.
    pub address: SocketAddr,
    /// How it ended.
    pub reply: Reply,
}

/// Asks all addresses at once, each over UDP and TCP, and waits no longer than five seconds.
pub fn ask(addresses: &[IpAddr]) -> Vec<Trial> {
    let asked: Vec<_> = addresses
        .iter()
        .map(|&address| SocketAddr::new(address, 53))
        .map(|address| {
            (
                address,
                thread::spawn(move || over("udp", by_udp(address))),
                thread::spawn(move || over("tcp", by_tcp(address))),
            )
        })
        .collect();
    let end = |thread: thread::JoinHandle<Reply>| {
        thread.join().unwrap_or_else(|_| Reply::Silent("the query could not be made".to_owned()))
    };
    asked.into_iter().map(|(address, udp, tcp)| Trial { address, reply: worse(end(udp), end(tcp)) }).collect()
}

fn worse(one: Reply, other: Reply) -> Reply {
    match (&one, &other) {
        (Reply::Silent(_), _) | (Reply::Fails(_), Reply::Works | Reply::Fails(_)) => one,
        _ => other,
    }
}

fn over(protocol: &str, result: io::Result<Reply>) -> Reply {
    match result {
        Ok(reply) => reply,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Reply::Silent(format!("no answer over {protocol} within {} s", LIMIT.as_secs()))
        }
        Err(error) => Reply::Silent(format!("no answer over {protocol}: {error}")),
    }
}

fn query() -> Vec<u8> {
    // different each time is all that is needed: nobody stands between two programs of a machine
    let [high, low, ..] = RandomState::new().hash_one(0u8).to_be_bytes();
    [&[high, low], QUERY].concat()
}

fn left(end: Instant) -> io::Result<Duration> {
    end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or(io::ErrorKind::TimedOut.into())
}

fn by_udp(address: SocketAddr) -> io::Result<Reply> {
    let (query, end) = (query(), Instant::now() + LIMIT);
    let local: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local)?;
    socket.connect(address)?;
    socket.send(&query)?;
    let mut answer = vec![0; 4096];
    loop {
        socket.set_read_timeout(Some(left(end)?))?;
        let length = socket.recv(&mut answer)?;
        if let Some(reply) = judged(&query, &answer[..length]) {
            return Ok(reply);
        }
    }
}

fn by_tcp(address: SocketAddr) -> io::Result<Reply> {
    let (query, end) = (query(), Instant::now() + LIMIT);
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_write_timeout(Some(LIMIT))?;
    // the query has less than 256 octets
    stream.write_all(&[&[0, u8::try_from(query.len()).unwrap_or_default()], &query[..]].concat())?;
    let mut receive = |length: usize| {
        let mut octets = vec![0; length];
        let mut have = 0;
        while have < length {
            stream.set_read_timeout(Some(left(end)?))?;
            match stream.read(&mut octets[have..])? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                more => have += more,
            }
        }
        Ok(octets)
    };
    let length = receive(2)?;
    let answer = receive(usize::from(u16::from_be_bytes([length[0], length[1]])))?;
    judged(&query, &answer).ok_or_else(|| io::Error::other("what came is no answer to the query"))
}

/// What a message says about the query; nothing if it is about another.
fn judged(query: &[u8], answer: &[u8]) -> Option<Reply> {
    let message = Message::parse(answer).ok()?;
    let about_it = answer.len() >= HEADER && answer[..2] == query[..2] && message.is_response();
    if !about_it {
        return None;
    }
    let name = match message.rcode() {
        rcode::NOERROR | rcode::NXDOMAIN => return Some(Reply::Works),
        rcode::SERVFAIL => "SERVFAIL".to_owned(),
        rcode::REFUSED => "REFUSED".to_owned(),
        other => format!("response code {other}"),
    };
    let reason = message.opt().and_then(|opt| opt.option(EXTENDED_ERROR)).map(|data| {
        let text = String::from_utf8_lossy(data.get(2..).unwrap_or_default());
        let code = data.get(..2).map_or(0, |code| u16::from_be_bytes([code[0], code[1]]));
        if text.is_empty() { format!("extended error {code}") } else { text.into_owned() }
    });
    Some(Reply::Fails(reason.map_or(name.clone(), |reason| format!("{name}: {reason}"))))
}

#[cfg(test)]
mod tests {
    use super::{Reply, judged, query, worse};

    #[test]
    fn a_failure_is_told_with_its_reason() {
        let query = query();
        let mut answer = query.clone();
        answer[2] |= 0x80;
        assert_eq!(judged(&query, &answer), Some(Reply::Works));
        answer[3] = 2;
        assert_eq!(judged(&query, &answer), Some(Reply::Fails("SERVFAIL".to_owned())));
        let length = answer.len();
        answer[length - 1] = 8;
        answer.extend(b"\0\x0f\0\x04\0\x16no");
        assert_eq!(judged(&query, &answer), Some(Reply::Fails("SERVFAIL: no".to_owned())));
        answer[0] ^= 1;
        assert_eq!(judged(&query, &answer), None);
        assert_eq!(judged(&query, &query), None);
        assert_eq!(judged(&query, b"x"), None);
    }

    #[test]
    fn of_two_replies_the_worse_one_counts() {
        let (fails, silent) = (Reply::Fails(String::new()), Reply::Silent(String::new()));
        assert_eq!(worse(Reply::Works, fails.clone()), fails);
        assert_eq!(worse(silent.clone(), fails.clone()), silent);
        assert_eq!(worse(fails, silent.clone()), silent);
        assert_eq!(worse(Reply::Works, Reply::Works), Reply::Works);
    }
}
