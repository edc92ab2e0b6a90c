//! Generated files: up to date, complete, and true.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail loudly")]

use std::path::Path;

use dot_proxy::config::file::{Overrides, parse};
use dot_proxy::config::options::{OPTIONS, SECTIONS};
use xtask::documents;

fn content(name: &str) -> String {
    documents::all().into_iter().find(|(path, _)| path.ends_with(name)).unwrap().1
}

#[test]
fn committed_files_are_up_to_date() {
    documents::check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap_or_else(|stale| panic!("{stale}"));
}

/// The lines that set an option, without their comment sign.
fn settings_of(example: &str) -> Vec<&str> {
    example.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| !line.starts_with(' ')).collect()
}

/// Keys that mean nothing alone: a certificate is of no use without its key.
const TOGETHER: &[&str] = &["tls-certificate = ", "tls-key = "];

/// Whether a key, uncommented, brings this other one with it.
fn brings(setting: &str, other: &str) -> bool {
    let needs_both = setting.starts_with("tls-client-ca = ") || TOGETHER.iter().any(|key| setting.starts_with(key));
    setting == other || needs_both && TOGETHER.iter().any(|key| other.starts_with(key))
}

#[test]
fn every_commented_key_loads_when_it_is_uncommented() {
    let example = content("dot-proxy.toml");
    let defaults = parse("example", &example, &Overrides::default()).unwrap();
    assert_eq!(defaults, parse("empty", "", &Overrides::default()).unwrap());
    let settings = settings_of(&example);
    assert_eq!(settings.len(), OPTIONS.len());
    for setting in &settings {
        let lines: Vec<&str> = example
            .lines()
            .map(|line| line.strip_prefix('#').filter(|other| brings(setting, other)).unwrap_or(line))
            .collect();
        let changed =
            parse("example", &lines.join("\n"), &Overrides::default()).unwrap_or_else(|error| panic!("{error}"));
        let has_default = OPTIONS
            .iter()
            .any(|option| !option.default.is_empty() && setting.starts_with(&format!("{} =", option.key)));
        assert!(!has_default || changed == defaults, "{setting}");
    }
    let all: Vec<&str> = example
        .lines()
        .map(|line| line.strip_prefix('#').filter(|setting| !setting.starts_with(' ')).unwrap_or(line))
        .collect();
    parse("example", &all.join("\n"), &Overrides::default()).unwrap();
}

#[test]
fn a_key_that_is_none_is_refused_in_every_section_of_the_example() {
    for (section, _) in SECTIONS.iter().filter(|(section, _)| !section.is_empty()) {
        let header = format!("[{section}]\n");
        let planted = content("dot-proxy.toml").replace(&header, &format!("{header}planted = 1\n"));
        let problem = parse("example", &planted, &Overrides::default()).unwrap_err().to_string();
        assert!(problem.contains(&format!("{section}.planted: no such option")), "{problem}");
    }
}

#[test]
fn the_manual_names_every_option_and_every_flag() {
    let (file, program) = (content("dot-proxy.toml.5"), content("dot-proxy.8"));
    for option in OPTIONS {
        assert!(file.contains(&format!(".B {}\n", option.key.replace('-', "\\-"))), "{}", option.path());
        if let Some(flag) = option.flag {
            assert!(program.contains(&flag.replace('-', "\\-")), "{flag}");
        }
    }
}
