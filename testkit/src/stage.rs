//! Where the server goes wrong before a query is ever answered.

use std::time::Duration;

/// How far a new connection gets. Connections that exist are not touched by a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// All is well.
    #[default]
    Normal,
    /// Nobody listens: connections are refused.
    RefuseConnections,
    /// The listener's queue is full: the kernel drops SYNs.
    BlackHoleSyn,
    /// Accepts, then neither reads nor writes.
    AcceptThenSilence,
    /// Accepts and resets at once.
    RstAfterAccept,
    /// Sends FIN when the ClientHello has arrived.
    CloseAfterClientHello,
    /// Sends only the first record of its flight (the ServerHello), then neither reads nor writes.
    SilenceAfterServerHello,
    /// Answers the ClientHello this much later.
    HandshakeDelay(Duration),
    /// Speaks DNS over plain TCP, no TLS.
    PlainDns,
    /// Answers the ClientHello with a ServerHello of TLS 1.1.
    Tls11ServerHello,
    /// Answers the ClientHello with the fatal alert protocol_version, as a server of TLS 1.1 only does.
    ProtocolVersionAlert,
}

/// A ServerHello as a server of TLS 1.1 sends it.
pub(crate) fn tls11_server_hello() -> Vec<u8> {
    let mut hello = vec![22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    hello.extend_from_slice(&[0x11; 32]);
    // no session ID, TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, no compression
    hello.extend_from_slice(&[0, 0xc0, 0x13, 0]);
    hello
}

/// The fatal alert protocol_version.
pub(crate) const PROTOCOL_VERSION_ALERT: [u8; 7] = [21, 3, 2, 0, 2, 2, 70];
