//! The layers of the house: a file imports only from files of lower layers.
//!
//! `docs/architecture.md` has the same table for people, and another test compares the two.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Layer and files, from the top of the house to its ground.
const LAYERS: &[(u8, &[&str])] = &[
    (16, &["main"]),
    (15, &["daemon"]),
    (14, &["service"]),
    (13, &["worker"]),
    (12, &["listen/udp", "listen/stream"]),
    (11, &["relay"]),
    (10, &["query"]),
    (9, &["keeper", "pending", "rules", "upstream/solo"]),
    (8, &["memory", "upstream/group", "upstream/survey"]),
    (7, &["upstream/calm", "upstream/inquiry", "upstream/roster"]),
    (6, &["ask", "cli", "upstream/attempt", "upstream/finder", "upstream/place"]),
    (5, &["config/file", "pins", "upstream/connection", "upstream/lookup"]),
    (
        4,
        &[
            "cache/answers",
            "config/relations",
            "dns/crossing",
            "dns/presentation",
            "system_dns/switch",
            "upstream/establish",
            "upstream/plain",
            "upstream/session",
        ],
    ),
    (
        3,
        &[
            "cache/snapshot",
            "config/given",
            "dns/finding",
            "dns/keepalive",
            "dns/privacy",
            "dns/refusal",
            "dns/reuse",
            "dns/special",
            "dns/transfer",
            "listen/certificate",
            "listen/seats",
            "sockets",
            "system_dns/ledger",
            "upstream/plan",
            "upstream/server",
            "upstream/shared",
        ],
    ),
    (
        2,
        &[
            "cache/shelf",
            "config/values",
            "control",
            "dns/edit",
            "listen/datagrams",
            "listen/limits",
            "listen/shift",
            "log",
            "system_dns/decision",
            "system_dns/trial",
            "upstream/health",
            "upstream/inflight",
            "upstream/outcome",
            "upstream/tally",
            "upstream/tls",
        ],
    ),
    (
        1,
        &[
            "cache/index",
            "cache/joined",
            "cache/ring",
            "config/place_text",
            "config/settings",
            "dns/message",
            "dns/suffix",
            "effort",
            "listen/crowd",
            "listen/desk",
            "listen/handshake",
            "log_lines",
            "log_sinks",
            "network_watch",
            "report",
            "system_dns/facts",
            "system_dns/verdict",
            "upstream/alarms",
            "upstream/awaited",
            "upstream/refused",
        ],
    ),
    (
        0,
        &[
            "ahead",
            "bell",
            "clock",
            "config/options",
            "counted",
            "dns/framing",
            "dns/name",
            "hashed",
            "inherited",
            "metrics",
            "moment",
            "network_changes",
            "own_listeners",
            "pace",
            "pem_pair",
            "port_holder",
            "privileges",
            "pulse",
            "sandbox",
            "spares",
            "system_calls",
            "system_dns/programs",
            "system_dns/resolv_conf",
            "systemd",
            "upstream/allowance",
            "upstream/approach",
            "upstream/intake",
            "upstream/lifetime",
            "upstream/outage",
            "upstream/presented",
            "upstream/renewal",
            "upstream/tempo",
            "upstream/tickets",
        ],
    ),
];

/// Files that may hold `unsafe`.
const UNSAFE: &[&str] = &["inherited", "listen/datagrams"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file but the map and the tests, as `folder/name`, with its text up to its tests.
fn files() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![source()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(source()).unwrap().with_extension("").to_string_lossy().into_owned();
            if name != "lib" && !name.ends_with("_tests") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
                found.insert(name, lines.join("\n"));
            }
        }
    }
    found
}

fn layer(name: &str) -> Option<u8> {
    LAYERS.iter().find(|(_, names)| names.contains(&name)).map(|(layer, _)| *layer)
}

/// The files that a file's text names by `crate::`, `super::` or the library's name.
fn imports(name: &str, text: &str) -> Vec<String> {
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut found = Vec::new();
    for (prefix, base) in [("crate::", ""), ("super::", folder), ("dot_proxy::", "")] {
        for (at, _) in text.match_indices(prefix) {
            let rest = &text[at + prefix.len()..];
            found.extend(
                expanded(rest).into_iter().map(|path| if base.is_empty() { path } else { format!("{base}/{path}") }),
            );
        }
    }
    found
}

/// `a::b::c` and `a::{b, c}` as `a`, `a/b`, `a/c`.
fn expanded(path: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let first = word(path);
    let mut found = vec![first.clone()];
    let Some(rest) = path[first.len()..].strip_prefix("::") else { return found };
    match rest.strip_prefix('{') {
        Some(list) => {
            let list = list.split('}').next().unwrap_or_default();
            found.extend(list.split(',').map(|item| format!("{first}/{}", word(item.trim()))));
        }
        None => found.push(format!("{first}/{}", word(rest))),
    }
    found
}

#[test]
fn every_file_has_its_layer_and_every_layer_its_files() {
    let files = files();
    for name in files.keys() {
        assert!(layer(name).is_some(), "src/{name}.rs stands in no layer; give it one in {}", file!());
    }
    for name in LAYERS.iter().flat_map(|(_, names)| *names) {
        assert!(files.contains_key(*name), "src/{name}.rs is gone");
    }
    let mut names: Vec<&str> = files.keys().map(|name| name.rsplit('/').next().unwrap_or(name)).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two files have the same name: {names:?}");
}

#[test]
fn imports_lead_downward_only() {
    let files = files();
    let mut seen = 0;
    for (name, text) in &files {
        for import in imports(name, text).iter().filter(|import| files.contains_key(*import) && *import != name) {
            assert!(layer(import) < layer(name), "src/{name}.rs imports from src/{import}.rs, which is no lower layer");
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} imports were found: the test no longer sees them");
}

#[test]
fn unsafe_code_stays_in_its_files() {
    for (name, text) in files() {
        let has = text.contains("unsafe {") || text.contains("unsafe fn") || text.contains("unsafe impl");
        assert!(!has || UNSAFE.contains(&name.as_str()), "src/{name}.rs has unsafe code");
    }
}

#[test]
fn files_stay_small_enough_to_read() {
    for (name, text) in files() {
        let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 420, "src/{name}.rs has {lines} lines of code: give the new idea a room of its own");
    }
}

#[test]
fn the_architecture_page_shows_the_same_layers() {
    let page = fs::read_to_string(source().join("../docs/architecture.md")).unwrap();
    for (layer, names) in LAYERS {
        let row = page.lines().find(|line| line.starts_with(&format!("| {layer} |"))).unwrap_or_default();
        for name in *names {
            assert!(row.contains(&format!("`{name}.rs`")), "docs/architecture.md: layer {layer} lacks {name}.rs");
        }
    }
}
