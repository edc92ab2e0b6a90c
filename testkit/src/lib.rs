//! Test bench of dot-proxy.
