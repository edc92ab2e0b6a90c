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

#[test]
fn the_shells_complete_every_command_and_every_flag() {
    for file in ["dot-proxy.bash", "_dot-proxy", "dot-proxy.fish"] {
        let completions = content(file);
        for command in dot_proxy::cli::command().get_subcommands() {
            assert!(completions.contains(command.get_name()), "{file}: {}", command.get_name());
        }
        for flag in OPTIONS.iter().filter_map(|option| option.flag) {
            // fish writes a long flag as `-l name`
            assert!(completions.contains(flag.trim_start_matches('-')), "{file}: {flag}");
        }
    }
}

/// Debian's format, and nothing that a reader would have to look for elsewhere.
#[test]
fn the_copyright_file_has_the_text_of_every_licence_it_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let file = xtask::copyright::file(&root).unwrap_or_else(|problem| panic!("{problem}"));
    let paragraphs: Vec<&str> = file.split("\n\n").collect();
    let field = |paragraph: &str, name: &str| -> Option<String> {
        paragraph.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    let texts: Vec<String> = paragraphs
        .iter()
        .filter(|text| text.starts_with("License:"))
        .map(|text| field(text, "License:").unwrap())
        .collect();
    let crates: Vec<&&str> = paragraphs.iter().filter(|text| text.starts_with("Files:")).collect();
    assert!(crates.len() > 40, "only {}", crates.len());
    for one in crates {
        assert!(field(one, "Copyright:").is_some_and(|holder| !holder.is_empty()), "{one}");
        for name in field(one, "License:").unwrap().split([' ', ',']).filter(|word| !["", "or", "and"].contains(word)) {
            assert!(texts.iter().any(|text| text == name), "no text of {name}: {one}");
        }
    }
    for name in ["rustls", "tokio", "aws-lc-sys", "ring"] {
        assert_eq!(file.contains(&format!("Files: vendor/{name}/*")), name != "ring", "{name}");
    }
    assert!(!file.contains("TERMS AND CONDITIONS FOR USE"));
}
