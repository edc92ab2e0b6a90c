//! Messages with mistakes in them, the same ones for the same seed.

/// How many messages each hostile test sends: a taste by default, a million in CI.
pub(crate) fn amount() -> usize {
    std::env::var("DOT_PROXY_HOSTILE").ok().and_then(|text| text.parse().ok()).unwrap_or(60_000)
}

/// A generator of numbers (xorshift64*): nothing here needs better ones, and a seed tells all.
pub(crate) struct Numbers(u64);

impl Numbers {
    /// Numbers from this seed, which must not be 0.
    pub(crate) fn new(seed: u64) -> Numbers {
        Numbers(seed)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let wide = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(wide).unwrap() % limit
    }

    fn octet(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// The message with up to four mistakes: octets changed, bits flipped, parts cut off, repeated or put in.
    pub(crate) fn mutated(&mut self, message: &[u8]) -> Vec<u8> {
        let mut bytes = message.to_vec();
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len().max(1));
            match self.below(7) {
                0 if !bytes.is_empty() => bytes[at] = self.octet(),
                1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                2 => bytes.truncate(at),
                3 => {
                    let part = bytes[at..].to_vec();
                    bytes.extend(part.iter().take(300));
                }
                4 => {
                    let octets: Vec<u8> = (0..self.below(40)).map(|_| self.octet()).collect();
                    let behind = bytes.split_off(at);
                    bytes.extend(octets);
                    bytes.extend(behind);
                }
                // the counts of a header are where parsers trust most
                5 if bytes.len() > 12 => bytes[4 + self.below(8)] = self.octet(),
                6 if bytes.len() > 13 => bytes[12] = [0xc0, 0x3f, 0x40, 0x80, 0xff][self.below(5)],
                _ => bytes.push(self.octet()),
            }
        }
        bytes.truncate(4000);
        bytes
    }
}
