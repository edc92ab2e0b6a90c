//! Waits for a socket or for a wake-up from another thread, whichever comes first: a thread blocked in `read` alone
//! could not be told to freeze, to reset its connection or to end.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The end that wakes.
pub(crate) struct Waker(UnixStream);

/// The end that is woken.
pub(crate) struct Wakeup(UnixStream);

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Something happened on the socket.
    Socket,
    /// Somebody called [`Waker::wake`].
    Called,
    /// The time is over.
    Timeout,
}

/// Two connected ends.
pub(crate) fn waker() -> (Waker, Wakeup) {
    let (writer, reader) = UnixStream::pair().expect("a socket pair");
    for end in [&writer, &reader] {
        end.set_nonblocking(true).expect("a socket");
    }
    (Waker(writer), Wakeup(reader))
}

impl Waker {
    /// Ends the current or the next wait.
    pub(crate) fn wake(&self) {
        // a full buffer means that a wake-up is on its way already
        let _ = (&self.0).write(&[1]);
    }
}

impl Wakeup {
    /// Waits for data or an end of the stream on `socket`.
    pub(crate) fn readable(&self, socket: impl AsFd) -> Woken {
        self.wait(Some((socket.as_fd(), PollFlags::POLLIN)), None)
    }

    /// Waits for the peer's FIN or RST without reading anything.
    pub(crate) fn peer_end(&self, socket: impl AsFd) -> Woken {
        self.wait(Some((socket.as_fd(), PollFlags::from_bits_retain(nix::libc::POLLRDHUP))), None)
    }

    /// Waits for nothing but a wake-up or the time.
    pub(crate) fn pause(&self, time: Option<Duration>) -> Woken {
        self.wait(None, time)
    }

    fn wait(&self, socket: Option<(BorrowedFd<'_>, PollFlags)>, time: Option<Duration>) -> Woken {
        let deadline = time.map(|time| Instant::now() + time);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // poll counts milliseconds: round up, or the last fraction would be spent in a busy loop
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
            });
            let mut fds = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            fds.extend(socket.map(|(fd, flags)| PollFd::new(fd, flags)));
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => panic!("poll: {error}"),
            }
            // nix does not know POLLRDHUP and says None for it
            let events = |at: usize| fds.get(at).is_some_and(|fd| fd.any() != Some(false));
            if events(0) {
                let _ = (&self.0).read(&mut [0; 64]);
                return Woken::Called;
            }
            if events(1) {
                return Woken::Socket;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Woken::Timeout;
            }
        }
    }
}
