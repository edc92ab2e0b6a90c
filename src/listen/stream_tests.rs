//! Streams that hold back what they were given, as TLS does.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Hall, Limits, converse};
use crate::bare_path_tests::bare_path;
use crate::dns::framing::put;
use crate::listen::limits::Places;
use crate::listen::seats::Seats;
use crate::listen::shift::Shift;

const WRITE: Duration = Duration::from_millis(200);

/// A client that says something once and reads nothing ever: what is written is taken, and goes nowhere.
struct Deaf {
    says: Vec<u8>,
    holds: bool,
}

impl AsyncRead for Deaf {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.says.is_empty() {
            return Poll::Pending;
        }
        buffer.put_slice(&std::mem::take(&mut self.says));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.holds = true;
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.holds { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.holds = true;
        Poll::Pending
    }
}

/// A query that is answered here.
fn own_query() -> Vec<u8> {
    let message = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01x\x04home\x04arpa\0\0\x01\0\x01";
    let mut framed = Vec::new();
    put(&mut framed, message);
    framed
}

fn hall(idle: Duration) -> Rc<Hall> {
    let limits = Limits { idle, write: WRITE, in_flight: 9, unread: 99_999 };
    let seats = Arc::new(Seats::new(Places::new(9, 9, Instant::now()), 1));
    let (path, duty) = (bare_path(0), Rc::new(Shift::of(1).duty(0)));
    Rc::new(Hall::new(path, limits, seats, 0, duty))
}

/// How long a connection lasts whose client says this.
fn lasts(says: Vec<u8>, idle: Duration) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (hall, client, began) = (hall(idle), IpAddr::from([127, 0, 0, 1]), Instant::now());
    let (seat, desk) = hall.admit(client).unwrap();
    let conversation = converse(Deaf { says, holds: false }, client, seat, desk, hall.clone(), true);
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), conversation).await });
    assert!(ended.is_ok() && hall.is_empty(), "it never ends");
    began.elapsed()
}

#[test]
fn answers_that_the_stream_holds_back_wait_no_longer_than_others() {
    let idle = Duration::from_secs(15);
    assert!((WRITE..idle).contains(&lasts(own_query(), idle)));
}

#[test]
fn a_goodbye_that_nobody_takes_ends_the_connection_all_the_same() {
    let idle = Duration::from_millis(300);
    assert!(lasts(Vec::new(), idle) >= idle + WRITE);
}
