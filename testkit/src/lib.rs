//! Test bench of dot-proxy: everything its tests need around the daemon, and nothing of the daemon itself.
//!
//! - [`pki`]: certificates made at run time, good ones and bad ones;
//! - [`message`], [`record`] and [`inspect`]: DNS messages built and read octet by octet, also the wrong ones;
//! - [`dot_server`]: a DNS-over-TLS server that does what its [`script`] says and writes down what it saw in its [`journal`];
//! - [`plain_server`]: a server of plain DNS;
//! - [`dns_client`] and [`tls_client`]: clients that tell a timeout from a FIN from a reset;
//! - [`proxy_process`]: a starter for the real binary.
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

mod alpn_forgery;
pub mod client_hello;
mod conversation;
mod delay_line;
pub mod dns_client;
pub mod dot_server;
mod folder;
pub mod inspect;
pub mod journal;
mod listening;
pub mod message;
pub mod pki;
pub mod plain_server;
pub mod proxy_process;
pub mod record;
pub mod script;
pub mod stage;
pub mod tls_client;
mod tls_records;
mod tls_settings;
mod waker;
mod wire;

pub use client_hello::ClientHello;
pub use dns_client::{Ended, TcpClient, UdpClient, keep_asking};
pub use dot_server::{DotServer, DotServerBuilder};
pub use journal::{How, Journal};
pub use message::{MessageBuilder, a_for, answer_to, framed, query};
pub use pki::{Certificate, Identity, Pki};
pub use proxy_process::{Proxy, config_for};
pub use record::{Opt, Rr, Section, name_wire};
pub use script::{Act, Received, default_answer};
pub use stage::Stage;
pub use tls_client::TlsClient;
pub use tls_settings::Versions;
