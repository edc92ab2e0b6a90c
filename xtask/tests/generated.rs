//! Generated files: up to date, complete, and true.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail loudly")]

use std::path::Path;

use dot_proxy::config::file::{Overrides, parse};
use dot_proxy::config::options::{OPTIONS, Opt, SECTIONS};
use xtask::documents;

fn content(name: &str) -> String {
    documents::all().into_iter().find(|(path, _)| path.ends_with(name)).unwrap().1
}

#[test]
fn committed_files_are_up_to_date() {
    documents::check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap_or_else(|stale| panic!("{stale}"));
}

/// Where an option is set in the example: the index of its line, its section and its key.
struct Setting<'a> {
    line: usize,
    section: &'a str,
    key: &'a str,
}

/// The lines that set an option, and the lines that open a section, with their comment sign.
fn settings_of(example: &str) -> (Vec<Setting<'_>>, Vec<Setting<'_>>) {
    let (mut settings, mut headers, mut section) = (Vec::new(), Vec::new(), "");
    for (line, text) in example.lines().enumerate() {
        let bare = text.strip_prefix('#').unwrap_or(text);
        if bare.starts_with('[') {
            section = bare.trim_matches(['[', ']']);
            headers.push(Setting { line, section, key: "" });
        } else if let Some((key, _)) =
            bare.split_once(" = ").filter(|_| text.starts_with('#') && !bare.starts_with(' '))
        {
            settings.push(Setting { line, section, key });
        }
    }
    (settings, headers)
}

/// Keys that mean nothing alone: a certificate is of no use without its key.
const TOGETHER: &[(&str, &[&str])] = &[
    ("listen", &["tls-certificate", "tls-key", "tls-client-ca"]),
    ("upstream", &["client-certificate", "client-key"]),
    ("route", &["client-certificate", "client-key"]),
];

/// Whether a key, uncommented, brings this other one of its section with it.
fn brings(setting: &Setting<'_>, other: &Setting<'_>) -> bool {
    let together = |(section, keys): &(&str, &[&str])| {
        *section == setting.section && keys.contains(&setting.key) && keys.contains(&other.key)
    };
    // a route is nothing without its header, its domains and its servers
    let completes = setting.section == "route" && ["", "domains", "servers"].contains(&other.key);
    setting.section == other.section && (setting.key == other.key || completes || TOGETHER.iter().any(together))
}

#[test]
fn every_commented_key_loads_when_it_is_uncommented() {
    let example = content("dot-proxy.toml");
    let defaults = parse("example", &example, &Overrides::default()).unwrap();
    assert_eq!(defaults, parse("empty", "", &Overrides::default()).unwrap());
    let (settings, headers) = settings_of(&example);
    let found: Vec<String> = settings.iter().map(|one| format!("{}.{}", one.section, one.key)).collect();
    let known: Vec<String> = OPTIONS.iter().map(|option| format!("{}.{}", option.section, option.key)).collect();
    assert_eq!(found, known);
    let uncommented = |chosen: &dyn Fn(&Setting<'_>) -> bool| {
        let mut lines: Vec<&str> = example.lines().collect();
        for one in settings.iter().chain(&headers).filter(|one| chosen(one)) {
            lines[one.line] = lines[one.line].trim_start_matches('#');
        }
        parse("example", &lines.join("\n"), &Overrides::default()).unwrap_or_else(|error| panic!("{error}"))
    };
    for setting in &settings {
        let changed = uncommented(&|other| brings(setting, other));
        let is_it = |option: &&&Opt| option.section == setting.section && option.key == setting.key;
        let is_default = OPTIONS.iter().find(is_it).is_some_and(|option| !option.default.is_empty());
        if setting.section == "route" {
            assert_eq!(changed.routes.len(), 1, "{}", setting.key);
        } else {
            assert!(!is_default || changed == defaults, "{}", setting.key);
        }
    }
    assert_eq!(uncommented(&|_| true).routes.len(), 1);
}

#[test]
fn a_key_that_is_none_is_refused_in_every_section_of_the_example() {
    for section in SECTIONS.iter().filter(|section| !section.name.is_empty()) {
        let (line, header) = (format!("{}\n", section.header()), section.header());
        let commented = if section.repeated { format!("#{line}") } else { line };
        let planted = content("dot-proxy.toml").replace(&commented, &format!("{header}\nplanted = 1\n"));
        let problem = parse("example", &planted, &Overrides::default()).unwrap_err().to_string();
        assert!(problem.contains(&format!("{}.planted: no such option", section.name)), "{problem}");
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
