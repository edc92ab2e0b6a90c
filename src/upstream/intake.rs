//! Octets of a socket on their way to TLS, which asks for a few thousand at a time: where much comes they are fetched by the
//! larger batch. A connection that never brings much has no memory for that.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Octets fetched at once where much comes.
const BATCH: usize = 32 * 1024;
/// Reads in a row that must each have brought all that was asked for: the certificates of a handshake may fill one.
const FULL: u8 = 2;

/// A socket, or whatever stands for one, with a batch of what it has brought.
#[derive(Debug)]
pub struct Intake<S> {
    socket: S,
    /// Nothing until much has come.
    batch: Box<[u8]>,
    /// What of the batch has not been asked for yet.
    start: usize,
    end: usize,
    /// Reads in a row that were full.
    full: u8,
}

impl<S> Intake<S> {
    /// An intake that holds nothing.
    pub fn new(socket: S) -> Intake<S> {
        Intake { socket, batch: Box::default(), start: 0, end: 0, full: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Intake<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Intake { socket, batch, start, end, full } = &mut *self;
        if start == end {
            let (before, wanted) = (out.filled().len(), out.remaining());
            if wanted >= batch.len() {
                ready!(Pin::new(socket).poll_read(context, out))?;
                let is_full = wanted > 0 && out.filled().len() - before == wanted;
                *full = if is_full { full.saturating_add(1) } else { 0 };
                if *full >= FULL && batch.is_empty() {
                    *batch = vec![0; BATCH].into();
                }
                return Poll::Ready(Ok(()));
            }
            let mut room = ReadBuf::new(batch);
            ready!(Pin::new(socket).poll_read(context, &mut room))?;
            (*start, *end) = (0, room.filled().len());
        }
        let count = out.remaining().min(*end - *start);
        out.put_slice(&batch[*start..*start + count]);
        *start += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Intake<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{BATCH, Intake};
    use proptest::prelude::*;
    use std::io::{self, ErrorKind};
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};
    use tokio::io::{AsyncRead, ReadBuf};

    /// A socket that brings what it has in these portions, and then ends, or fails.
    struct Portions {
        octets: Vec<u8>,
        portions: Vec<usize>,
        fails: bool,
        reads: usize,
    }

    impl AsyncRead for Portions {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.reads += 1;
            let portion = self.portions.pop().unwrap_or(usize::MAX);
            if portion == 0 {
                return Poll::Pending;
            }
            let count = portion.min(out.remaining()).min(self.octets.len());
            if count == 0 && self.fails {
                return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
            }
            out.put_slice(&self.octets[..count]);
            self.octets.drain(..count);
            Poll::Ready(Ok(()))
        }
    }

    fn intake(octets: &[u8], portions: &[usize]) -> Intake<Portions> {
        Intake::new(Portions { octets: octets.to_vec(), portions: portions.to_vec(), fails: false, reads: 0 })
    }

    /// What one read brings; nothing if it must wait.
    fn read(intake: &mut Intake<Portions>, wanted: usize) -> Option<io::Result<Vec<u8>>> {
        let mut room = vec![0; wanted];
        let mut out = ReadBuf::new(&mut room);
        match Pin::new(intake).poll_read(&mut Context::from_waker(Waker::noop()), &mut out) {
            Poll::Ready(result) => Some(result.map(|()| out.filled().to_vec())),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_connection_that_brings_little_has_no_memory_for_more() {
        let mut few = intake(&[7; 20_000], &[100; 500]);
        for _ in 0..200 {
            assert_eq!(read(&mut few, 4096).unwrap().unwrap().len(), 100);
        }
        assert!(few.batch.is_empty());
        // a handshake with many certificates
        let mut handshake = intake(&[7; 6000], &[]);
        while !read(&mut handshake, 4096).unwrap().unwrap().is_empty() {}
        assert!(handshake.batch.is_empty());
    }

    #[test]
    fn where_much_comes_it_is_fetched_by_the_batch() {
        let mut much = intake(&vec![7; 10 * BATCH], &[]);
        let mut total = 0;
        loop {
            match read(&mut much, 1000).unwrap().unwrap().len() {
                0 => break,
                count => total += count,
            }
        }
        assert_eq!((total, much.batch.len()), (10 * BATCH, BATCH));
        assert!(much.socket.reads < 16, "{}", much.socket.reads);
    }

    #[test]
    fn what_has_come_before_a_failure_is_given_first() {
        let mut broken = intake(&[7; 3000], &[]);
        broken.socket.fails = true;
        for _ in 0..3 {
            assert_eq!(read(&mut broken, 1000).unwrap().unwrap(), [7; 1000]);
        }
        assert!(read(&mut broken, 1000).unwrap().is_err());
    }

    proptest! {
        /// In whatever portions the octets come and are asked for, they stay what they are.
        #[test]
        fn octets_go_through_in_order(
            length in 0_usize..100_000,
            portions in proptest::collection::vec(0_usize..40_000, 0..40),
            wanted in proptest::collection::vec(1_usize..40_000, 1..20)
        ) {
            let octets: Vec<u8> = (0..=250).cycle().take(length).collect();
            let (mut intake, mut seen) = (intake(&octets, &portions), Vec::new());
            for &wanted in wanted.iter().cycle() {
                match read(&mut intake, wanted) {
                    None => {}
                    Some(Ok(some)) if some.is_empty() => break,
                    Some(some) => seen.extend(some.unwrap()),
                }
            }
            prop_assert_eq!(seen, octets);
        }
    }
}
