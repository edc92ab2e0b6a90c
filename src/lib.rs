//! The DNS-over-TLS forwarder dot-proxy, as a library so that tests and fuzzers reach every part.
#![deny(missing_docs)]

/// The DNS wire format, as far as a relay must know it.
pub mod dns {
    pub mod crossing;
    pub mod edit;
    pub mod framing;
    pub mod message;
    pub mod name;
    pub mod privacy;
    pub mod transfer;
}
