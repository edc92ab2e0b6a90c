//! Development tasks of dot-proxy, as a library so that tests reach them.

pub mod demo;
pub mod documents;
