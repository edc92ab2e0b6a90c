//! Tables whose keys are hashed already, or random: hashing them again would gain nothing.

use std::hash::{BuildHasherDefault, Hasher};

/// Takes a number for its own hash.
#[derive(Default)]
pub struct AsGiven(u64);

/// Makes tables that take a number for its own hash.
pub type BuildAsGiven = BuildHasherDefault<AsGiven>;

impl Hasher for AsGiven {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        octets.iter().for_each(|&octet| self.0 = self.0.rotate_left(8) ^ u64::from(octet));
    }

    fn write_u16(&mut self, number: u16) {
        // a table takes its position from the low bits and its tag from the high ones
        self.0 = u64::from(number) | u64::from(number) << 48;
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
