//! How long a resolver keeps an idle connection, as it says in its answers (RFC 7828).

use std::time::Duration;

use super::edit::option;
use super::message::Message;

/// The idle time-out that the resolver grants in an answer (RFC 7828 §3.2.2); `Some(0)` asks to close.
pub fn granted_keepalive(answer: &Message<'_>) -> Option<Duration> {
    let data = answer.opt()?.option(option::KEEPALIVE)?;
    let tenths = u16::from_be_bytes(data.try_into().ok()?);
    Some(Duration::from_millis(u64::from(tenths) * 100))
}
