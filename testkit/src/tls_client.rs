//! A DNS-over-TLS client: for the daemon's own TLS listener, and to check the bench's server.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use socket2::SockRef;

use crate::dns_client::{Ended, Framing, PATIENCE, left};
use crate::inspect;
use crate::message::framed;
use crate::pki::{Identity, Pki};
use crate::tls_settings::Versions;

/// A client over TLS.
#[derive(Debug)]
pub struct TlsClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
    framing: Framing,
}

/// A configuration that trusts this CA, speaks TLS 1.2 and 1.3 and offers ALPN "dot". Share it to resume sessions.
pub fn client_config(pki: &Pki) -> ClientConfig {
    config(pki, None, Versions::Both)
}

/// [`client_config`] with a client certificate.
pub fn client_config_with_identity(pki: &Pki, identity: &Identity) -> ClientConfig {
    config(pki, Some(identity), Versions::Both)
}

/// [`client_config`] with these versions of TLS.
pub fn client_config_speaking(pki: &Pki, versions: Versions) -> ClientConfig {
    config(pki, None, versions)
}

fn config(pki: &Pki, identity: Option<&Identity>, versions: Versions) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions.list())
        .expect("versions the provider knows")
        .with_root_certificates(pki.roots());
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .expect("a key that fits its certificate"),
    };
    config.alpn_protocols = vec![b"dot".to_vec()];
    config
}

impl TlsClient {
    /// Connects and shakes hands, or says why not.
    pub fn connect(server: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let mut socket = TcpStream::connect_timeout(&server, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(name.to_owned()).expect("a server name");
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        tls.set_buffer_limit(None);
        Ok(Self { stream: StreamOwned::new(tls, socket), framing: Framing::default() })
    }

    /// The TLS state.
    pub fn tls(&self) -> &ClientConnection {
        &self.stream.conn
    }

    /// Whether the session was resumed.
    pub fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Sends a message with its length prefix in one record. A closed connection is seen at the next receive.
    pub fn send(&mut self, message: &[u8]) {
        self.send_raw(&framed(message));
    }

    /// Sends these octets of the stream in one record (up to 16,384 octets).
    pub fn send_raw(&mut self, octets: &[u8]) {
        let _ = self.stream.write_all(octets).and_then(|()| self.stream.flush());
    }

    /// Waits for a message: `Ok(None)` if none came in time, `Err` if the stream ended.
    pub fn recv(&mut self, timeout: Duration) -> Result<Option<Vec<u8>>, Ended> {
        let stream = &mut self.stream;
        let read = |buffer: &mut [u8], time| {
            stream.sock.set_read_timeout(Some(time))?;
            stream.read(buffer)
        };
        self.framing.next(timeout, read, Ended::CloseNotify)
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

    /// Sends close_notify and goes on reading.
    pub fn close_notify(&mut self) {
        self.stream.conn.send_close_notify();
        let _ = self.stream.flush();
    }

    /// Sends FIN (no close_notify) and goes on reading.
    pub fn half_close(&self) {
        let _ = self.stream.sock.shutdown(Shutdown::Write);
    }

    /// The certificate that the server has shown.
    pub fn certificate(&self) -> Vec<u8> {
        self.tls().peer_certificates().and_then(|chain| chain.first()).expect("a certificate").to_vec()
    }

    /// Resets the connection.
    pub fn reset(self) {
        SockRef::from(&self.stream.sock).set_linger(Some(Duration::ZERO)).expect("a socket");
    }
}
