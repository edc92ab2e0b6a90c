//! Any stream in any pieces: the same messages come out, and memory stays bounded.
#![no_main]

use dot_proxy::dns::framing::{Inflow, put, record_length};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (u16, Vec<u8>, &[u8])| {
    let (capacity, cuts, stream) = data;
    let mut inflow = Inflow::up_to(usize::from(capacity).max(2));
    let (mut rest, mut seen) = (stream, Vec::new());
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let room = inflow.room();
        assert!(!room.is_empty() && room.len() <= 131_074);
        let count = room.len().min(rest.len()).min(usize::from(*cuts.next().unwrap_or(&1)).max(1));
        room[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        inflow.filled(count);
        while let Some(message) = inflow.next_message() {
            put(&mut seen, message);
        }
    }
    assert!(stream.starts_with(&seen));
    assert_eq!(inflow.is_partial(), seen.len() < stream.len());
    let mut written = 0;
    while written < seen.len() {
        let length = record_length(&seen[written..]);
        assert!(length > 0);
        written += length;
    }
});
