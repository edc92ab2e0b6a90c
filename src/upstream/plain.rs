//! One exchange with a server in plain DNS, which only a route that names it can ask for: UDP, and TCP when the answer
//! was cut (RFC 7766 §5).
//!
//! Each exchange has a socket, and so a source port, of its own, connected to the server: nobody else's datagrams arrive
//! there (RFC 5452 §9.2).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::inflight::{Asked, Ids, InFlight, Match};
use super::outcome::{Outcome, Trouble};
use super::server::UpstreamServer;
use crate::dns::framing::put;
use crate::dns::message::{ReadMessage, set_id};

/// The largest datagram there is.
const DATAGRAM: usize = 65_535;
/// How long the whole of an answer is waited for that is there in part.
const WHOLE: Duration = Duration::from_secs(2);
/// TC in the second octet of the flags.
const TRUNCATED: u8 = 0x02;

/// Asks, and waits for the answer until `deadline`. After `patience` without one the server is told of as silent, and the
/// answer is still welcome.
pub async fn exchange(server: &UpstreamServer, asked: Rc<Asked>, patience: Duration, deadline: Instant) -> Outcome {
    let tally = server.tally();
    tally.queries.add(1);
    let mut asking = std::pin::pin!(ask(server.settings().address, &asked));
    let first = tokio::time::timeout(patience, asking.as_mut()).await;
    let result = match first {
        Ok(result) => result,
        Err(_) => {
            let silent = Trouble::Ended(format!("no answer for {} ms", patience.as_millis()));
            server.barren(Instant::now(), 0, &silent);
            match tokio::time::timeout_at(deadline.into(), asking.as_mut()).await {
                Ok(result) => result,
                Err(_) => return Outcome::Lost { sent: true, blameless: false, trouble: silent },
            }
        }
    };
    match result {
        Ok(answer) => {
            tally.answers.add(1);
            tally.octets_sent.add(asked.bytes().len() as u64);
            tally.octets_received.add(answer.len() as u64);
            server.answered();
            Outcome::Answer(ReadMessage::new(answer))
        }
        Err(error) => {
            let trouble = Trouble::Ended(format!("plain dns: {error}"));
            server.failed(Instant::now(), 0, &trouble);
            Outcome::Lost { sent: true, blameless: false, trouble }
        }
    }
}

/// One exchange with whoever listens at this address, under a random ID and from a port of its own. It waits for as long as
/// the caller does. An answer that was cut is the result only where TCP brings no whole one: some networks let no TCP pass,
/// and a part, marked as such, is more than nothing.
///
/// # Errors
/// If the network refuses it.
pub async fn ask(server: SocketAddr, asked: &Rc<Asked>) -> io::Result<Vec<u8>> {
    let id = Ids::default().draw();
    let mut query = asked.bytes().to_vec();
    set_id(&mut query, id);
    let from = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((from, 0)).await?;
    socket.connect(server).await?;
    socket.send(&query).await?;
    let mut buffer = vec![0; DATAGRAM];
    let cut = loop {
        let count = socket.recv(&mut buffer).await?;
        let answer = &buffer[..count];
        // a datagram that does not answer this query is somebody's attempt, and none of ours
        match found(asked, id, answer) {
            Match::Answer(..) if answer[2] & TRUNCATED != 0 => break Some(answer.to_vec()),
            Match::Answer(..) => return Ok(answer.to_vec()),
            // some cut within a record, or count what they have left out (RFC 2181 §9)
            Match::Garbled(()) if answer[2] & TRUNCATED != 0 => break None,
            Match::Garbled(()) | Match::Stray | Match::NoResponse => {}
        }
    };
    let whole = ask_over_tcp(server, asked, id, &query);
    let Some(cut) = cut else { return whole.await };
    Ok(tokio::time::timeout(WHOLE, whole).await.ok().and_then(Result::ok).unwrap_or(cut))
}

async fn ask_over_tcp(server: SocketAddr, asked: &Rc<Asked>, id: u16, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = Vec::with_capacity(2 + query.len());
    put(&mut framed, query);
    stream.write_all(&framed).await?;
    loop {
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        if let Match::Answer(..) = found(asked, id, &answer) {
            return Ok(answer);
        }
    }
}

/// What the message is to this query under this ID.
fn found<'a>(asked: &Rc<Asked>, id: u16, message: &'a [u8]) -> Match<'a, ()> {
    let mut table = InFlight::default();
    table.insert(asked.clone(), (), Instant::now(), || id);
    table.take(message)
}
