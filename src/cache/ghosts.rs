//! Keys that have lately left without having been of use, by a few bits of each: should one come back, it was worth keeping
//! (pure). It may forget, and it may take one key for another, neither of which does more than to misplace an answer.

/// Keys that were here.
pub struct Ghosts {
    /// At the place of a key, its fingerprint; 0 for none.
    prints: Box<[u16]>,
}

impl Ghosts {
    /// Room for so many octets.
    pub fn new(octets: usize) -> Ghosts {
        Ghosts { prints: vec![0; (octets / size_of::<u16>()).max(1)].into() }
    }

    /// Octets in all.
    pub fn octets(&self) -> usize {
        self.prints.len() * size_of::<u16>()
    }

    fn place(&self, hash: u64) -> (usize, u16) {
        let [a, b, c, d, e, f, ..] = hash.to_be_bytes();
        let at = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(0) % self.prints.len();
        (at, u16::from_be_bytes([e, f]) | 1)
    }

    /// A key leaves.
    pub fn add(&mut self, hash: u64) {
        let (at, print) = self.place(hash);
        self.prints[at] = print;
    }

    /// Whether a key was here; if so it is none of them any more.
    pub fn take(&mut self, hash: u64) -> bool {
        let (at, print) = self.place(hash);
        let found = self.prints[at] == print;
        if found {
            self.prints[at] = 0;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::Ghosts;

    #[test]
    fn a_key_is_found_once_after_it_has_left() {
        let mut ghosts = Ghosts::new(1024);
        let hash = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        assert!(!ghosts.take(hash(1)));
        ghosts.add(hash(1));
        ghosts.add(hash(2));
        assert!(ghosts.take(hash(1)) && !ghosts.take(hash(1)) && ghosts.take(hash(2)));
        assert_eq!(ghosts.octets(), 1024);
    }
}
