//! A question put to a server over one connection, whose outcome is awaited.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::awaited::Awaited;
use super::connection::Connection;
use super::inflight::Asked;
use super::outcome::{Outcome, Trouble};

/// The shortest silence that means anything after a long rest, where the server's own times are known; a single query may
/// take its server some time.
pub const WOKEN: Duration = Duration::from_millis(400);

/// A question put to a server.
pub struct Attempt {
    /// Over which connection.
    pub connection: Rc<Connection>,
    /// To which server, by its place among those that may be asked.
    pub server: usize,
    /// When.
    pub asked_at: Instant,
    /// Whether it was put because the answer of another server was late.
    pub hedge: bool,
    outcome: Awaited<Outcome>,
}

impl Attempt {
    /// Puts it.
    ///
    /// # Errors
    /// If the connection takes no more.
    pub fn put(
        asked: Rc<Asked>,
        connection: Rc<Connection>,
        server: usize,
        now: Instant,
        hedge: bool,
    ) -> Result<Attempt, Trouble> {
        let outcome = connection.ask(asked)?;
        Ok(Attempt { connection, server, asked_at: now, hedge, outcome })
    }

    /// What became of it.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        let gone = || Outcome::Lost { sent: true, blameless: false, trouble: Trouble::Ended("dropped".to_owned()) };
        Pin::new(&mut self.outcome).poll(context).map(|outcome| outcome.unwrap_or_else(gone))
    }
}
