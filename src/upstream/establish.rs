//! An authenticated stream to a server: TCP, then TLS, within one limit of time.

use std::cell::Cell;
use std::time::{Duration, Instant};
use std::{fmt, io};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::intake::Intake;
use super::refused::Refusal;
use super::server::{Turn, UpstreamServer};

/// How the log calls the step that authenticates the server.
const TLS_STEP: &str = "tls handshake";

/// A stream to a resolver, authenticated as its profile asks.
pub type UpstreamStream = TlsStream<Intake<TcpStream>>;

/// How long each step to a stream took.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Took {
    /// The TCP connection.
    pub tcp: Duration,
    /// The TLS handshake.
    pub tls: Duration,
}

/// Why there is no stream: at which step it failed, and how.
#[derive(Clone, Debug)]
pub struct NoStream {
    step: &'static str,
    why: String,
    /// Whether the server's machine refused the connection: nobody listens there.
    pub is_refused: bool,
    /// If the server was reached and refused, why.
    pub refusal: Option<Refusal>,
}

impl fmt::Display for NoStream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.step, self.why)
    }
}

impl NoStream {
    fn at(step: &'static str, why: impl fmt::Display) -> NoStream {
        NoStream { step, why: why.to_string(), is_refused: false, refusal: None }
    }

    /// The handshake failed; a server that was refused is counted by the check that it failed.
    fn at_handshake(error: &io::Error, server: &UpstreamServer) -> NoStream {
        let own = error.get_ref().and_then(|own| own.downcast_ref::<rustls::Error>());
        let refusal = own.and_then(|own| server.authenticity()?.refusal(own));
        let why = match &refusal {
            Some(refusal) => {
                server.tally().refused(refusal.check);
                refusal.to_string()
            }
            None => error.to_string(),
        };
        NoStream { step: TLS_STEP, why, is_refused: false, refusal }
    }
}

/// Makes a stream to the server, authenticated as its profile asks, or says at which step it failed.
///
/// Not one octet of a query exists here: strict means that there is nothing to send before the handshake is done. Nor is
/// there another way than TLS, whatever the profile. While somebody else makes a connection to this server, nobody has a
/// turn.
///
/// # Errors
/// [`NoStream`] if a step fails, or all of them together take longer than `limit`.
pub async fn establish(
    server: &UpstreamServer,
    _turn: Turn<'_>,
    limit: Duration,
) -> Result<(UpstreamStream, Took), NoStream> {
    let Some((config, name)) = server.tls() else {
        return Err(NoStream::at("plain DNS", "its servers cannot be asked over TLS"));
    };
    let step = Cell::new("tcp connect");
    let began = Instant::now();
    let attempt = async {
        let tcp = TcpStream::connect(server.settings().address).await;
        let tcp = tcp.map_err(|error| NoStream {
            is_refused: error.kind() == io::ErrorKind::ConnectionRefused,
            ..NoStream::at(step.get(), error)
        })?;
        prepare(&tcp).map_err(|error| NoStream::at("tcp options", error))?;
        let connected = Instant::now();
        step.set(TLS_STEP);
        let connecting = TlsConnector::from(config).connect(name, Intake::new(tcp));
        let stream = connecting.await.map_err(|error| NoStream::at_handshake(&error, server))?;
        Ok((stream, Took { tcp: connected - began, tls: connected.elapsed() }))
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(result) => result,
        Err(_) => Err(NoStream::at(step.get(), format_args!("no reply within {} ms", limit.as_millis()))),
    }
}

/// Small writes leave at once, and data that nobody acknowledges ends the connection.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    const UNACKNOWLEDGED_MS: u32 = 10_000;
    tcp.set_nodelay(true)?;
    nix::sys::socket::setsockopt(tcp, nix::sys::socket::sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS)?;
    Ok(())
}
