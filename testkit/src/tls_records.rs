//! Cuts a TCP stream into TLS records, so that the journal knows which plaintext came in which record.

/// What has been received and not yet been cut.
#[derive(Default)]
pub(crate) struct TlsRecords {
    received: Vec<u8>,
    at: usize,
}

impl TlsRecords {
    pub(crate) fn push(&mut self, octets: &[u8]) {
        self.received.drain(..self.at);
        self.at = 0;
        self.received.extend_from_slice(octets);
    }

    /// The next whole record, header included.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let rest = &self.received[self.at..];
        let header = rest.get(..5)?;
        let length = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
        let record = rest.get(..length)?.to_vec();
        self.at += length;
        Some(record)
    }
}

/// The length of the first record in a flight.
pub(crate) fn first_record_length(flight: &[u8]) -> usize {
    match flight.get(3..5) {
        Some(length) => (5 + usize::from(u16::from_be_bytes([length[0], length[1]]))).min(flight.len()),
        None => flight.len(),
    }
}
