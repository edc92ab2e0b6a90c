//! The DNS-over-TLS forwarder dot-proxy, as a library so that tests and fuzzers reach every part.
