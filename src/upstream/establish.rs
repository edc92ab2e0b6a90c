//! An authenticated stream to a server: TCP, then TLS, within one limit of time.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::server::{Turn, UpstreamServer};

/// Octets read from the socket at once, before decryption.
const SOCKET_BUFFER: usize = 32 * 1024;
/// A stream to a resolver, authenticated as its profile asks.
pub type UpstreamStream = TlsStream<BufReader<TcpStream>>;

/// Makes a stream to the server, authenticated as its profile asks, or says at which step it failed.
///
/// Not one octet of a query exists here: strict means that there is nothing to send before the handshake is done. Nor is
/// there another way than TLS, whatever the profile. While somebody else makes a connection to this server, nobody has a
/// turn.
pub async fn establish(server: &UpstreamServer, _turn: Turn<'_>, limit: Duration) -> Result<UpstreamStream, String> {
    let Some((config, name)) = server.tls() else {
        return Err("plain DNS: its servers cannot be asked over TLS".to_owned());
    };
    let step = Cell::new("tcp connect");
    let attempt = async {
        let tcp =
            TcpStream::connect(server.settings().address).await.map_err(|error| format!("tcp connect: {error}"))?;
        prepare(&tcp).map_err(|error| format!("tcp options: {error}"))?;
        step.set("tls handshake");
        let buffered = BufReader::with_capacity(SOCKET_BUFFER, tcp);
        let connecting = TlsConnector::from(config).connect(name, buffered);
        connecting.await.map_err(|error| format!("tls handshake: {error}"))
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(result) => result,
        Err(_) => Err(format!("{}: no reply within {} ms", step.get(), limit.as_millis())),
    }
}

/// Small writes leave at once, and data that nobody acknowledges ends the connection.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    const UNACKNOWLEDGED_MS: u32 = 10_000;
    tcp.set_nodelay(true)?;
    nix::sys::socket::setsockopt(tcp, nix::sys::socket::sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS)?;
    Ok(())
}
