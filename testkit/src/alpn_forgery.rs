//! Makes a TLS 1.2 ServerHello select an ALPN protocol the client never offered.
//!
//! No honest library does it, but in TLS 1.2 the ServerHello is in clear and a client has to refuse it before the
//! Finished message could betray the forgery. In TLS 1.3 the extension is encrypted under keys that depend on the
//! ServerHello, so there the forgery is not possible from the outside.

/// Changes the ALPN extension of a flight that begins with a ServerHello; puts one in if there is none.
pub(crate) fn forge(flight: &[u8], protocol: &[u8]) -> Option<Vec<u8>> {
    if *flight.first()? != 22 || *flight.get(5)? != 2 {
        return None;
    }
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*flight.get(at)?, *flight.get(at + 1)?])));
    let record_end = 5 + word(3)?;
    let hello_end = 9 + word(7)?;
    // record header 5, handshake header 4, version 2, random 32, session ID, cipher suite 2, compression 1
    let session = usize::from(*flight.get(43)?);
    let extensions_at = 44 + session + 3;

    let mut extensions = Vec::new();
    let mut at = extensions_at + 2;
    while at + 4 <= hello_end {
        let end = at + 4 + word(at + 2)?;
        if word(at)? != 16 {
            extensions.extend_from_slice(flight.get(at..end)?);
        }
        at = end;
    }
    let length = u8::try_from(protocol.len()).ok()?;
    extensions.extend_from_slice(&[0, 16, 0, length + 3, 0, length + 1, length]);
    extensions.extend_from_slice(protocol);

    let head = flight.get(9..extensions_at)?;
    let hello_length = head.len() + 2 + extensions.len();
    let record_length = 4 + hello_length + (record_end - hello_end);
    let mut forged = flight.get(..3)?.to_vec();
    forged.extend_from_slice(&u16::try_from(record_length).ok()?.to_be_bytes());
    forged.extend_from_slice(&[2, 0]);
    forged.extend_from_slice(&u16::try_from(hello_length).ok()?.to_be_bytes());
    forged.extend_from_slice(head);
    forged.extend_from_slice(&u16::try_from(extensions.len()).ok()?.to_be_bytes());
    forged.extend_from_slice(&extensions);
    forged.extend_from_slice(flight.get(hello_end..)?);
    Some(forged)
}
