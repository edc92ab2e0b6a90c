//! Messages on a stream: two octets of length before each (RFC 1035 §4.2.2, RFC 7766 §8).

/// The largest message, its prefix included.
const LARGEST: usize = 2 + 65_535;
/// The most plaintext that one TLS record carries (RFC 8446 §5.1).
pub const RECORD: usize = 16_384;

/// Appends a message with its length. A message is never longer than its prefix can say.
pub fn put(out: &mut Vec<u8>, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(&message[..usize::from(length)]);
}

/// How many octets of a buffer of whole framed messages to write at once, so that each TLS record holds whole
/// messages as far as they fit into one (RFC 7858 §3.3).
///
/// The buffer begins with a prefix. A message longer than a record is given whole, to be split by TLS.
pub fn record_length(buffer: &[u8]) -> usize {
    let mut end = 0;
    while let Some(prefix) = buffer.get(end..end + 2) {
        let next = end + 2 + usize::from(u16::from_be_bytes([prefix[0], prefix[1]]));
        if next > RECORD && end > 0 {
            return end;
        }
        end = next;
        if end >= RECORD {
            break;
        }
    }
    end.min(buffer.len())
}

/// Room that a stream has to begin with: most that are ever opened bring a few messages.
const FIRST: usize = 2048;

/// Octets read from a stream, given out message by message.
#[derive(Debug)]
pub struct Inflow {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Its room whenever it is empty.
    usual: usize,
    /// What that becomes on a stream that brings as much at once as there is room for.
    most: usize,
}

impl Inflow {
    /// Room for up to `most` octets at once, a small part of it until more comes; it grows for a message that needs more.
    pub fn up_to(most: usize) -> Inflow {
        let usual = most.min(FIRST);
        Inflow { buffer: vec![0; usual], start: 0, end: 0, usual, most }
    }

    /// Whether messages are to be taken before more is read: a whole one is there, and so many octets are in all.
    pub fn is_time_to_take(&self, octets: usize) -> bool {
        let (wanted, there) = (self.wanted(), self.end - self.start);
        wanted >= 2 && there >= wanted.max(octets)
    }

    /// Where to read into; never empty unless all room is taken by more than one message. After reading, tell
    /// [`Self::filled`].
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() != self.usual {
                // a large message is rare, its memory is not kept for it
                self.buffer = vec![0; self.usual];
            }
        }
        let wanted = self.wanted();
        if self.start + wanted > self.buffer.len() || self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if wanted > self.buffer.len() || self.end == self.buffer.len() {
                self.buffer.resize(wanted.max(self.buffer.len() * 2).min(LARGEST.max(self.usual)), 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// `count` octets were read into the room.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
        if self.end == self.buffer.len() {
            self.usual = self.most;
        }
    }

    /// The next whole message, without its prefix.
    pub fn next_message(&mut self) -> Option<&mut [u8]> {
        let wanted = self.wanted();
        if wanted < 2 || self.end - self.start < wanted {
            return None;
        }
        let at = self.start + 2;
        self.start += wanted;
        Some(&mut self.buffer[at..self.start])
    }

    /// The whole messages that have come and were not taken, without their prefixes.
    pub fn messages(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.buffer[self.start..self.end];
        std::iter::from_fn(move || {
            let (prefix, behind) = rest.split_first_chunk()?;
            let (message, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*prefix)))?;
            rest = behind;
            Some(message)
        })
    }

    /// Whether part of a message has come.
    pub fn is_partial(&self) -> bool {
        self.start < self.end
    }

    /// Octets of the message at the front, its prefix included; 0 while its prefix has not come.
    fn wanted(&self) -> usize {
        match self.buffer[self.start..self.end] {
            [high, low, ..] => 2 + usize::from(u16::from_be_bytes([high, low])),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST, Inflow, RECORD, put, record_length};
    use proptest::prelude::*;

    #[test]
    fn records_hold_whole_messages() {
        let mut buffer = Vec::new();
        for _ in 0..40 {
            put(&mut buffer, &[7; 1000]);
        }
        assert_eq!(record_length(&buffer), 16 * 1002);
        buffer.clear();
        put(&mut buffer, &[7; 60_000]);
        put(&mut buffer, &[7; 10]);
        assert_eq!(record_length(&buffer), 60_002);
        assert_eq!(record_length(&buffer[60_002..]), 12);
        assert_eq!(record_length(&[]), 0);
        let mut exact = Vec::new();
        put(&mut exact, &vec![7; RECORD - 2]);
        put(&mut exact, &[7; 3]);
        assert_eq!(record_length(&exact), RECORD);
    }

    #[test]
    fn a_stream_that_brings_little_takes_little() {
        let mut inflow = Inflow::up_to(32_768);
        let mut message = Vec::new();
        put(&mut message, &[7; 100]);
        let mut bring = |messages: usize| {
            let (octets, room) = (message.repeat(messages), inflow.room());
            let count = octets.len().min(room.len());
            room[..count].copy_from_slice(&octets[..count]);
            inflow.filled(count);
            while inflow.next_message().is_some() {}
            (inflow.start, inflow.end) = (0, 0);
            inflow.room().len()
        };
        assert_eq!((bring(1), bring(10)), (FIRST, FIRST));
        assert_eq!((bring(40), bring(1)), (32_768, 32_768), "one that brought much once may do so again");
    }

    proptest! {
        /// As long as it is not time to take messages there is room for more, and then they are all there to be seen.
        #[test]
        fn until_it_is_time_to_take_messages_there_is_room(
            lengths in proptest::collection::vec(prop_oneof![0_usize..3000, 60_000_usize..65_536], 1..12),
            cut in 1000_usize..20_000
        ) {
            let mut stream = Vec::new();
            for (number, &length) in (0..).zip(&lengths) {
                put(&mut stream, &vec![number; length]);
            }
            let (mut inflow, mut seen) = (Inflow::up_to(32_768), Vec::new());
            while !stream.is_empty() {
                while !inflow.is_time_to_take(32_768) && !stream.is_empty() {
                    let room = inflow.room();
                    prop_assert!(!room.is_empty());
                    let count = room.len().min(stream.len()).min(cut);
                    room[..count].copy_from_slice(&stream[..count]);
                    stream.drain(..count);
                    inflow.filled(count);
                }
                let shown: Vec<_> = inflow.messages().map(<[u8]>::to_vec).collect();
                let taken: Vec<_> = std::iter::from_fn(|| inflow.next_message().map(|message| message.to_vec())).collect();
                prop_assert_eq!(&shown, &taken);
                prop_assert!(!taken.is_empty() || stream.is_empty());
                seen.extend(taken.iter().map(Vec::len));
            }
            prop_assert_eq!(seen, lengths);
        }

        /// However the octets come in, the messages come out as they were put in, and memory stays bounded.
        #[test]
        fn any_segmentation_gives_the_same_messages(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..8),
            cuts in proptest::collection::vec(1_usize..3000, 1..60), most in 2_usize..6000
        ) {
            let mut stream = Vec::new();
            for message in &messages {
                put(&mut stream, message);
            }
            let (mut inflow, mut seen, mut cut) = (Inflow::up_to(most), Vec::new(), cuts.iter().cycle());
            while !stream.is_empty() {
                let room = inflow.room();
                prop_assert!(!room.is_empty());
                let count = room.len().min(stream.len()).min(*cut.next().unwrap_or(&1));
                room[..count].copy_from_slice(&stream[..count]);
                stream.drain(..count);
                inflow.filled(count);
                while let Some(message) = inflow.next_message() {
                    seen.push(message.to_vec());
                }
                prop_assert!(inflow.buffer.len() <= 65_537);
            }
            prop_assert!(!inflow.is_partial());
            prop_assert_eq!(seen, messages);
        }
    }
}
