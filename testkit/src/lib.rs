//! Test bench of dot-proxy: everything its tests need around the daemon, and nothing of the daemon itself.
//!
//! - [`pki`]: certificates made at run time, good ones and bad ones;
//! - [`message`], [`record`] and [`inspect`]: DNS messages built and read octet by octet, also the wrong ones;
//! - [`dns_client`] and [`tls_client`]: clients that tell a timeout from a FIN from a reset;
//!
//! The bench never imports dot-proxy, so that one mistake cannot be made on both sides at once.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test bench fails loudly"
)]

pub mod dns_client;
pub mod inspect;
pub mod message;
pub mod pki;
pub mod record;
pub mod tls_client;

pub use dns_client::{Ended, TcpClient, UdpClient};
pub use message::{MessageBuilder, a_for, answer_to, framed, query};
pub use pki::{Certificate, Identity, Pki};
pub use record::{Opt, Rr, Section, name_wire};
pub use tls_client::TlsClient;
