//! The TLS handshake with a client: limited in time, and whoever fails it is counted, not reported, so that strangers
//! cannot fill the log.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{HandshakeKind, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::dns::framing::RECORD;
use crate::metrics::Counters;

/// How long a handshake may take at most (RFC 9210 §4.4).
pub const LONGEST: Duration = Duration::from_secs(10);

/// The stream inside, or nothing if there is none after `limit` or after an error. A client that speaks no TLS, or not
/// as it must, is told by an alert.
pub async fn shake_hands(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    limit: Duration,
    counters: &Counters,
) -> Option<Box<TlsStream<TcpStream>>> {
    // one record at a time: what a client does not read stays where it is counted
    let accept = TlsAcceptor::from(config).accept_with(stream, |tls| tls.set_buffer_limit(Some(RECORD)));
    let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "not finished in time"));
    // on the heap, since it is large and soon over
    match tokio::time::timeout(limit, Box::pin(accept)).await.unwrap_or_else(late) {
        Ok(stream) => {
            counters.tls_handshakes.add(1);
            counters.tls_resumed.add(u64::from(stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)));
            Some(Box::new(stream))
        }
        Err(error) => {
            counters.tls_failures.add(1);
            log::debug!("a client's handshake: {error}");
            None
        }
    }
}
