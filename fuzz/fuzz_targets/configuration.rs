//! Any text as a configuration: accepted, or refused with a place.
#![no_main]

use dot_proxy::config::file::{Overrides, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (&str, &str)| {
    let (text, word) = data;
    if let Err(error) = parse("f", text, &Overrides::default()) {
        assert!(error.to_string().lines().all(|line| line.starts_with("f:")), "{error}");
    }
    let overrides = Overrides { listen: vec![word.to_owned()], upstream: vec![word.to_owned()] };
    let _ = parse("f", "", &overrides);
});
