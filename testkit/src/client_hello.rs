//! Reads the raw ClientHello: what a client really offers, not what a TLS library lets through.

use std::time::Instant;

/// The facts of one ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// When it was complete.
    pub at: Instant,
    /// Size of the handshake message.
    pub size: usize,
    /// The version field of the message itself; 0x0303 also for TLS 1.3.
    pub legacy_version: u16,
    /// Cipher suites in their order.
    pub cipher_suites: Vec<u16>,
    /// All extension types in their order.
    pub extensions: Vec<u16>,
    /// Server name, if sent.
    pub server_name: Option<String>,
    /// ALPN protocols in their order.
    pub alpn: Vec<Vec<u8>>,
    /// The list of `supported_versions`; empty if the extension is missing.
    pub versions: Vec<u16>,
    /// The list of `supported_groups`.
    pub groups: Vec<u16>,
    /// The groups for which a key share is sent.
    pub key_shares: Vec<u16>,
    /// Whether the `early_data` extension is present.
    pub early_data: bool,
    /// Whether the `pre_shared_key` extension is present.
    pub pre_shared_key: bool,
    /// Whether a TLS 1.2 session ticket or session ID is offered. (TLS 1.3 clients send a made-up session ID.)
    pub session_ticket: bool,
}

/// A cursor that ends quietly: what is cut off reads as missing.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn number(&mut self, octets: usize) -> Option<usize> {
        Some(self.take(octets)?.iter().fold(0, |number, octet| (number << 8) | usize::from(*octet)))
    }

    fn word(&mut self) -> Option<u16> {
        self.take(2).map(|octets| u16::from_be_bytes([octets[0], octets[1]]))
    }

    /// A part with its length in front.
    fn part(&mut self, length_octets: usize) -> Option<Cursor<'a>> {
        let length = self.number(length_octets)?;
        self.take(length).map(Cursor)
    }

    fn words(mut self) -> Vec<u16> {
        std::iter::from_fn(|| self.word()).collect()
    }
}

impl ClientHello {
    /// Whether TLS 1.1 or older is offered.
    pub fn offers_tls11_or_older(&self) -> bool {
        if self.versions.is_empty() {
            self.legacy_version < 0x0303
        } else {
            // GREASE values (0x?a?a) are larger than every real version
            self.versions.iter().any(|version| *version < 0x0303)
        }
    }

    /// Reads the handshake message (its four-octet header included); `None` if it is none or malformed.
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let mut handshake = Cursor(message);
        if handshake.number(1)? != 1 {
            return None;
        }
        let mut body = handshake.part(3)?;
        let legacy_version = body.word()?;
        body.take(32)?;
        body.part(1)?;
        let cipher_suites = body.part(2)?.words();
        body.part(1)?;
        let mut hello = Self {
            at: Instant::now(),
            size: message.len(),
            legacy_version,
            cipher_suites,
            extensions: Vec::new(),
            server_name: None,
            alpn: Vec::new(),
            versions: Vec::new(),
            groups: Vec::new(),
            key_shares: Vec::new(),
            early_data: false,
            pre_shared_key: false,
            session_ticket: false,
        };
        if let Some(mut extensions) = body.part(2) {
            while let (Some(kind), Some(data)) = (extensions.word(), extensions.part(2)) {
                hello.extensions.push(kind);
                hello.extension(kind, data);
            }
        }
        Some(hello)
    }

    fn extension(&mut self, kind: u16, mut data: Cursor<'_>) -> Option<()> {
        match kind {
            0 => {
                let mut names = data.part(2)?;
                names.take(1)?;
                self.server_name = Some(String::from_utf8_lossy(names.part(2)?.0).into_owned());
            }
            10 => self.groups = data.part(2)?.words(),
            16 => {
                let mut protocols = data.part(2)?;
                self.alpn = std::iter::from_fn(|| protocols.part(1)).map(|protocol| protocol.0.to_vec()).collect();
            }
            35 => self.session_ticket = !data.0.is_empty(),
            41 => self.pre_shared_key = true,
            42 => self.early_data = true,
            43 => self.versions = data.part(1)?.words(),
            51 => {
                let mut shares = data.part(2)?;
                while let (Some(group), Some(_)) = (shares.word(), shares.part(2)) {
                    self.key_shares.push(group);
                }
            }
            _ => {}
        }
        Some(())
    }
}
