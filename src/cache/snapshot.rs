//! Answers as octets that outlive the process (pure): versioned, checksummed, and of use only where the same resolvers are
//! asked.
//!
//! ```text
//! magic and version 8 · length of the rest 8 · view 32 · written at 8 · records · SHA-256 of all before 32
//! record: variant 5 · mark 1 · age in ms 8 · lifetime in s 4 · octets of places 2 · octets of the message 2 · both
//! ```

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN, digest};

use super::shelf::{Stamp, Stored};
use crate::dns::message::Message;

/// What such a file begins with, and the version of its form.
const MAGIC: &[u8; 8] = b"dotprxy\x01";
/// Octets before the records.
const HEAD: usize = 8 + 8 + VIEW + 8;
/// Octets of a view.
pub const VIEW: usize = SHA256_OUTPUT_LEN;
/// Octets of a record before its places and its message.
const RECORD: usize = 5 + 1 + 8 + 4 + 2 + 2;

/// Whose answers they are: a digest of the resolvers, and of what is sent to them.
pub type View = [u8; VIEW];

/// The digest of a text that tells views apart.
pub fn view_of(text: &str) -> View {
    let mut view = [0; VIEW];
    view.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    view
}

/// Octets in the making.
pub struct Snapshot {
    octets: Vec<u8>,
    now: u64,
}

impl Snapshot {
    /// An empty one. `wall`: seconds since 1970; `now`: milliseconds of the clock of the stamps.
    pub fn new(view: &View, wall: u64, now: u64) -> Snapshot {
        let mut octets = MAGIC.to_vec();
        octets.extend([0; 8]);
        octets.extend(view);
        octets.extend(wall.to_le_bytes());
        Snapshot { octets, now }
    }

    /// Adds an answer.
    pub fn add(&mut self, entry: &Stored<'_>) {
        let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes();
        self.octets.extend(entry.variant);
        self.octets.push(entry.stamp.mark);
        self.octets.extend(self.now.saturating_sub(entry.stamp.stored_at).to_le_bytes());
        self.octets.extend(entry.stamp.lifetime.to_le_bytes());
        self.octets.extend(short(entry.places.len()));
        self.octets.extend(short(entry.body.len()));
        self.octets.extend(entry.places);
        self.octets.extend(entry.body);
    }

    /// The octets, complete.
    pub fn finish(mut self) -> Vec<u8> {
        let length = u64::try_from(self.octets.len() - 16 + SHA256_OUTPUT_LEN).unwrap_or(u64::MAX);
        self.octets[8..16].copy_from_slice(&length.to_le_bytes());
        let mut context = Context::new(&SHA256);
        context.update(&self.octets);
        self.octets.extend(context.finish().as_ref());
        self.octets
    }
}

/// Reads the octets of an earlier process and shows each answer to `restore`, aged by the time since; how many there were.
/// What follows them is let be.
///
/// # Errors
/// Why they are of no use, in words.
pub fn read(
    octets: &[u8],
    view: &View,
    wall: u64,
    now: u64,
    mut restore: impl FnMut(&Stored<'_>),
) -> Result<usize, &'static str> {
    let damaged = "it is damaged, or was written in part";
    if !octets.starts_with(MAGIC) {
        return Err("it is none of this version");
    }
    let length = octets.get(8..16).and_then(|octets| octets.try_into().ok()).map(u64::from_le_bytes).ok_or(damaged)?;
    let end = usize::try_from(length).ok().and_then(|length| length.checked_add(16)).ok_or(damaged)?;
    let (whole, sum) = octets.get(..end).and_then(<[u8]>::split_last_chunk::<SHA256_OUTPUT_LEN>).ok_or(damaged)?;
    if whole.len() < HEAD || digest(&SHA256, whole).as_ref() != sum {
        return Err(damaged);
    }
    if whole[16..16 + VIEW] != view[..] {
        return Err("other resolvers are asked now than then");
    }
    let written = whole[HEAD - 8..HEAD].try_into().map_or(u64::MAX, u64::from_le_bytes);
    let Some(since) = wall.checked_sub(written) else { return Err("it is from the future, or the clock is wrong") };
    let (mut rest, mut count) = (&whole[HEAD..], 0);
    while let Some((entry, behind)) = record(rest, since.saturating_mul(1000), now) {
        if Message::parse(entry.body).is_ok_and(|view| view.question().is_some()) {
            restore(&entry);
            count += 1;
        }
        rest = behind;
    }
    Ok(count)
}

fn record(octets: &[u8], since: u64, now: u64) -> Option<(Stored<'_>, &[u8])> {
    let (head, rest) = octets.split_first_chunk::<RECORD>()?;
    let [a, b, c, d, e, mark, rest_of_head @ ..] = *head;
    let (age, rest_of_head) = rest_of_head.split_first_chunk::<8>()?;
    let (lifetime, rest_of_head) = rest_of_head.split_first_chunk::<4>()?;
    let (places, rest_of_head) = rest_of_head.split_first_chunk::<2>()?;
    let body = rest_of_head.first_chunk::<2>()?;
    let (places, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*places)))?;
    let (body, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*body)))?;
    let stored_at = now.saturating_sub(u64::from_le_bytes(*age).saturating_add(since));
    let stamp = Stamp { stored_at, lifetime: u32::from_le_bytes(*lifetime), retry_at: 0, mark };
    Some((Stored { variant: [a, b, c, d, e], stamp, uses: 0, places, body }, rest))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Snapshot, View, read, view_of};
    use crate::cache::shelf::{Stamp, Stored};

    const BODY: &[u8] = b"\x12\x34\x81\x80\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";

    fn written(view: &View) -> Vec<u8> {
        let mut snapshot = Snapshot::new(view, 1_000_000, 90_000);
        let stamp = Stamp { stored_at: 80_000, lifetime: 60, retry_at: 5, mark: 2 };
        let entry = Stored { variant: [1, 2, 3, 4, 5], stamp, uses: 3, places: &[0, 9], body: BODY };
        snapshot.add(&entry);
        snapshot.add(&Stored { body: b"none", ..entry });
        snapshot.finish()
    }

    #[test]
    fn answers_come_back_older_by_the_time_between() {
        let view = view_of("one");
        let mut octets = written(&view);
        octets.extend(b"what a longer one has left");
        let mut seen = Vec::new();
        let count = read(&octets, &view, 1_000_007, 500_000, |entry| {
            seen.push((entry.variant, entry.stamp, entry.uses, entry.places.to_vec(), entry.body.to_vec()));
        });
        let stamp = Stamp { stored_at: 500_000 - 17_000, lifetime: 60, retry_at: 0, mark: 2 };
        assert_eq!((count, seen), (Ok(1), vec![([1, 2, 3, 4, 5], stamp, 0, vec![0, 9], BODY.to_vec())]));
    }

    #[test]
    fn what_is_not_whole_and_ones_own_is_not_read() {
        let view = view_of("one");
        let octets = written(&view);
        let why = |octets: &[u8], view: &View, wall| read(octets, view, wall, 0, |_| unreachable!()).unwrap_err();
        assert!(why(&octets, &view_of("two"), 1_000_000).contains("other resolvers"));
        assert!(why(&octets, &view, 999_999).contains("future"));
        assert!(why(b"", &view, 0).contains("version"));
        assert!(why(b"dotprxy\x02", &view, 0).contains("version"));
        for end in 8..octets.len() {
            assert!(why(&octets[..end], &view, 1_000_000).contains("damaged"), "{end}");
        }
        for at in 8..octets.len() {
            let mut bent = octets.clone();
            bent[at] ^= 0x10;
            assert!(why(&bent, &view, 1_000_000).contains("damaged"), "{at}");
        }
    }
}
