//! A connection of its own for one query: zone transfers, whose many messages would hold up everybody else
//! (RFC 9103 §6.4), and messages whose signature covers the ID (RFC 2931), which no shared connection could promise.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::establish::establish;
use super::group::Group;
use super::inflight::{Asked, Ids, InFlight, Match};
use super::inquiry::Failure;
use super::outcome::Trouble;
use super::server::{OpenConnection, Turn, UpstreamServer};
use crate::dns::framing::{Inflow, put};
use crate::dns::message::{HEADER, id, is_response, set_id};
use crate::metrics::Counters;

/// Octets of plaintext read at once.
const READ_BUFFER: usize = 32 * 1024;

/// A stream of either kind.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A stream to the server: authenticated TLS, or plain TCP where a route names the server so.
async fn reach(server: &UpstreamServer, turn: Turn<'_>, limit: Duration) -> Result<Box<dyn Stream>, String> {
    if server.is_plain() {
        let connecting = tokio::net::TcpStream::connect(server.settings().address);
        return match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(format!("tcp connect: {error}")),
            Err(_) => Err(format!("tcp connect: no reply within {} ms", limit.as_millis())),
        };
    }
    let (stream, _) = establish(server, turn, limit).await.map_err(|error| error.to_string())?;
    let is_resumed = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let tally = server.tally();
    if is_resumed { &tally.handshakes_resumed } else { &tally.handshakes_full }.add(1);
    Ok(Box::new(stream))
}

/// A connection over which one query was sent.
pub struct Solo {
    stream: Box<dyn Stream>,
    inflow: Inflow,
    id: u16,
    /// Holds the query until its first answer, with which it is compared.
    first: InFlight<()>,
    counters: Arc<Counters>,
    _open: OpenConnection,
}

impl Solo {
    /// Connects to the first server of the group that lets itself be authenticated, and sends the query, under its own
    /// ID or a random one.
    ///
    /// # Errors
    /// If no server could be reached by `deadline`.
    pub async fn ask(
        group: &Group,
        asked: std::rc::Rc<Asked>,
        keep_id: bool,
        deadline: Instant,
    ) -> Result<Solo, Failure> {
        let mut failure = group.no_answer();
        // servers that rest after failures come last
        let now = Instant::now();
        let (resting, awake): (Vec<_>, Vec<_>) = group.servers().partition(|server| server.rest(now).is_some());
        for server in awake.into_iter().chain(resting) {
            let left = deadline.saturating_duration_since(Instant::now()).min(group.limits().connect);
            if left.is_zero() {
                break;
            }
            let Some(open) = server.admit(group.limits().connections) else {
                failure.note(server.label(), false, Trouble::TooMany);
                continue;
            };
            let Ok(turn) = tokio::time::timeout(left, server.turn()).await else { continue };
            // boxed, since the future of every query has room for this way
            let mut stream = match Box::pin(reach(server, turn, left)).await {
                Ok(stream) => stream,
                Err(why) => {
                    failure.note(server.label(), false, Trouble::Connect(why));
                    continue;
                }
            };
            let draw = if keep_id { id(asked.bytes()) } else { Ids::default().draw() };
            let mut framed = Vec::with_capacity(2 + asked.bytes().len());
            put(&mut framed, asked.bytes());
            set_id(&mut framed[2..], draw);
            let mut first = InFlight::default();
            first.insert(asked.clone(), (), Instant::now(), || draw);
            let sent = async {
                stream.write_all(&framed).await?;
                stream.flush().await
            };
            group.counters().upstream_queries.add(1);
            let left = deadline.saturating_duration_since(Instant::now());
            let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
            return match tokio::time::timeout(left, sent).await.unwrap_or_else(|_| Err(late())) {
                Ok(()) => Ok(Solo {
                    stream,
                    inflow: Inflow::up_to(READ_BUFFER),
                    id: draw,
                    first,
                    counters: group.counters().clone(),
                    _open: open,
                }),
                Err(error) => {
                    // the server may have it: what comes this way is never sent twice
                    failure.note(server.label(), true, Trouble::Ended(error.to_string()));
                    Err(failure)
                }
            };
        }
        Err(failure)
    }

    /// The next message of the answer. The first must repeat the question, later ones need not (RFC 5936 §2.2.1).
    ///
    /// # Errors
    /// If none comes within `limit`, or the connection ends.
    pub async fn next(&mut self, limit: Duration) -> Result<Vec<u8>, Trouble> {
        match tokio::time::timeout(limit, self.read()).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::Ended(format!("nothing came for {} s", limit.as_secs()))),
        }
    }

    async fn read(&mut self) -> Result<Vec<u8>, Trouble> {
        loop {
            while let Some(message) = self.inflow.next_message() {
                if !self.first.is_empty() {
                    match self.first.take(message) {
                        Match::Answer((), ..) => return Ok(message.to_vec()),
                        Match::Garbled(()) => return Err(Trouble::Garbled),
                        Match::Stray => self.counters.upstream_strays.add(1),
                        Match::NoResponse => {
                            let why = "the server sent something that is no response";
                            return Err(Trouble::Ended(why.to_owned()));
                        }
                    }
                } else if message.len() >= HEADER && is_response(message) && id(message) == self.id {
                    return Ok(message.to_vec());
                } else {
                    self.counters.upstream_strays.add(1);
                }
            }
            let count =
                self.stream.read(self.inflow.room()).await.map_err(|error| Trouble::Ended(error.to_string()))?;
            if count == 0 {
                return Err(Trouble::Ended("closed by the server".to_owned()));
            }
            self.inflow.filled(count);
        }
    }
}
