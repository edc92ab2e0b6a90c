//! The copyright file of the packages: who holds the rights in what is linked into the program, and under which licences, in
//! Debian's machine-readable format. Names come from the lock file, texts from the sources of the crates themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What stands in the place of the Apache License, which Debian does not want repeated.
const APACHE_CUT: &str = "[Here stands the Apache License, version 2.0, see the paragraph Apache-2.0 at the end.]";
/// First and last line of what is cut.
const APACHE: (&str, &str) = ("Apache License", "limitations under the License.");
/// Files end with the terms when they leave the appendix out.
const APACHE_SHORT_END: &str = "END OF TERMS AND CONDITIONS";

/// A crate that is linked into the program.
struct Linked {
    name: String,
    /// The licence expression that its manifest declares.
    declared: String,
    /// Where it comes from.
    home: String,
    /// For the crates whose licence files name nobody.
    authors: Vec<String>,
    /// The licence files: name and text.
    files: Vec<(String, String)>,
}

/// The file's content, from the workspace below `root`.
///
/// # Errors
/// What cannot be read, or the crate whose licence needs a person to look at it.
pub fn file(root: &Path) -> Result<String, String> {
    let crates = linked(root)?;
    let mut out = String::from(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: dot-proxy\n\
         Source: https://github.com/dot-proxy/dot-proxy\n\
         Comment: Made by `cargo xtask docs`. The program is linked with the crates named here as\n \
         vendor/NAME, which is where `cargo vendor` puts their sources; Cargo.lock has their versions.\n\n\
         Files: *\n\
         Copyright: The dot-proxy authors\n\
         License: MIT or Apache-2.0\n\n\
         Files: library/*\n\
         Copyright: The Rust Project Developers\n\
         License: MIT or Apache-2.0\n\
         Comment: The standard library of Rust.\n",
    );
    let mut texts = Texts::default();
    for one in &crates {
        texts.count(one);
    }
    for one in &crates {
        let license = texts.license(one)?;
        let _ = write!(out, "\nFiles: vendor/{}/*\nCopyright: {}\n", one.name, one.holders().join("\n           "));
        let _ = write!(out, "License: {license}\nComment: {}\n", one.home);
        if license == one.name {
            let _ = writeln!(out, " Declared as {}.", one.declared);
        }
    }
    for (label, text) in &texts.used {
        let _ = write!(out, "\nLicense: {label}\n{}", indented(text));
    }
    out.push_str(
        "\nLicense: Apache-2.0\n On Debian systems the full text of the Apache License, version 2.0, is in\n \
         /usr/share/common-licenses/Apache-2.0; elsewhere it is beside this file, in LICENSE-APACHE.\n",
    );
    Ok(out)
}

/// The licence texts, each once.
#[derive(Default)]
struct Texts {
    /// How many crates have the text: kind of licence, text without layout, number.
    counts: BTreeMap<(&'static str, String), usize>,
    /// What the crates refer to: name and text.
    used: BTreeMap<String, String>,
}

impl Texts {
    fn count(&mut self, one: &Linked) {
        for (_, text) in &one.files {
            if let [kind] = kinds(text)[..] {
                *self.counts.entry((kind, plain(&terms(text)))).or_default() += 1;
            }
        }
    }

    /// The crate's licence in the format's terms. A text that differs from the one which most crates have for a kind of licence
    /// gets a name of its own.
    fn license(&mut self, one: &Linked) -> Result<String, String> {
        let mut labels: BTreeMap<&str, String> = BTreeMap::new();
        for (file, text) in &one.files {
            let text = without_apache(text);
            if text.contains(APACHE_CUT) {
                labels.insert("Apache-2.0", "Apache-2.0".to_owned());
            }
            match kinds(&text)[..] {
                // a list of the other files, or the Apache License alone
                [] => {}
                [kind] if !text.contains(APACHE_CUT) => {
                    let words = plain(&terms(&text));
                    let of_kind = self.counts.iter().filter(|((other, _), _)| *other == kind);
                    let common =
                        of_kind.max_by_key(|(_, number)| **number).is_some_and(|((_, most), _)| *most == words);
                    let label = if common { kind.to_owned() } else { format!("{kind}-{}", one.name) };
                    self.used.entry(label.clone()).or_insert_with(|| terms(&text));
                    labels.insert(kind, label);
                }
                // several licences in one file, which says itself what is under which
                _ => {
                    if one.files.len() != 1 {
                        return Err(format!("{}: {file} has several licences and is not alone", one.name));
                    }
                    self.used.insert(one.name.clone(), text);
                    return Ok(one.name.clone());
                }
            }
        }
        expression(&one.declared, &labels)
            .map_err(|missing| format!("{}: declares {}, and has no text of {missing}", one.name, one.declared))
    }
}

/// The declared expression in Debian's words. Of alternatives, those without a text in the crate are left out.
fn expression(declared: &str, labels: &BTreeMap<&str, String>) -> Result<String, String> {
    let declared = declared.replace('/', " OR ");
    if declared.contains(['(', ')']) || declared.contains(" WITH ") {
        return Err("what the expression asks for, which needs a look".to_owned());
    }
    let mut all = Vec::new();
    for part in declared.split(" AND ") {
        let known: Vec<&str> = part.split(" OR ").filter_map(|id| labels.get(id.trim()).map(String::as_str)).collect();
        if known.is_empty() {
            return Err(part.to_owned());
        }
        all.push(known.join(" or "));
    }
    Ok(all.join(", and "))
}

impl Linked {
    /// Who holds the rights, as the licence files have it.
    fn holders(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for (_, text) in &self.files {
            for line in without_apache(text).lines().filter_map(holder) {
                if !found.contains(&line) {
                    found.push(line);
                }
            }
        }
        if found.is_empty() {
            found.clone_from(&self.authors);
        }
        if found.is_empty() {
            found.push(format!("The authors of {}", self.name));
        }
        found
    }
}

/// Who holds the rights, if the line says so, without its sign of comment.
fn holder(line: &str) -> Option<String> {
    let line = line.trim().trim_start_matches("//").trim();
    let rest = line.strip_prefix("Copyright ")?;
    // sentences of the licences themselves
    let named = !rest.starts_with(['[', '{']) && !rest.starts_with("notice") && !rest.starts_with("owner");
    named.then(|| rest.trim().to_owned())
}

/// The text without the Apache License, and with a note where it stood.
fn without_apache(text: &str) -> String {
    let mut out = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() == APACHE.0 {
            let rest: Vec<&str> = lines.clone().collect();
            let end = |mark: &str| rest.iter().position(|line| line.trim() == mark);
            if let Some(last) = end(APACHE.1).or_else(|| end(APACHE_SHORT_END)) {
                out.push(APACHE_CUT);
                lines.nth(last);
                continue;
            }
        }
        out.push(line);
    }
    out.join("\n")
}

/// The licences whose terms the text has, other than the Apache License.
fn kinds(text: &str) -> Vec<&'static str> {
    let words = plain(text);
    let marks = [
        ("BSD-3-Clause", "redistribution and use in source and binary forms"),
        ("ISC", "permission to use copy modify and or distribute this software"),
        ("MIT", "permission is hereby granted free of charge to any person obtaining"),
        ("Unicode-3.0", "unicode license v3"),
        ("Zlib", "this software is provided as is without any express or implied warranty"),
    ];
    marks.into_iter().filter(|(_, mark)| words.contains(mark)).map(|(kind, _)| kind).collect()
}

/// The terms alone: without title and without the lines on who holds the rights.
fn terms(text: &str) -> String {
    let titles = ["mit license", "the mit license mit", "isc license", "isc license isc"];
    let lines = text.lines().filter(|line| holder(line).is_none() && !titles.contains(&plain(line).as_str()));
    let lines: Vec<&str> = lines.map(|line| line.strip_prefix("// ").unwrap_or(line).trim_end()).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

/// The words alone, to compare texts whose layout differs.
fn plain(text: &str) -> String {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join(" ")
}

/// A text as the format wants it: a space before each line, a dot for an empty one.
fn indented(text: &str) -> String {
    text.lines()
        .map(|line| match line.trim_end() {
            "" => " .\n".to_owned(),
            line => format!(" {line}\n"),
        })
        .collect()
}

/// The crates that end up in the program, on the two architectures that packages are made for.
fn linked(root: &Path) -> Result<Vec<Linked>, String> {
    // the tree knows which optional crates the program really uses, the metadata know where their sources are
    let edges = ["--package", "dot-proxy", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"];
    let [one, other] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];
    let targets = ["--target", one, "--target", other];
    let tree = cargo(root, &[&["tree", "--locked"], &edges[..], &targets[..]].concat())?;
    // two versions of one crate are one paragraph
    let mut names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    names.remove("dot-proxy");
    // without the filter cargo fetches what other systems need
    let filter = ["--filter-platform", one, "--filter-platform", other];
    let metadata = cargo(root, &[&["metadata", "--locked", "--format-version", "1"], &filter[..]].concat())?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages: BTreeMap<&str, &Value> =
        list(&metadata["packages"]).iter().map(|package| (text(&package["name"]), package)).collect();
    let found = names.iter().map(|name| described(packages.get(name).ok_or(format!("cargo metadata: no {name}"))?));
    found.collect()
}

/// What cargo says.
fn cargo(root: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root).output();
    let output = output.map_err(|error| format!("cargo {}: {error}", arguments[0]))?;
    if !output.status.success() {
        return Err(format!("cargo {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("cargo {}: {error}", arguments[0]))
}

/// The crate with the licence files that lie beside its manifest.
fn described(package: &Value) -> Result<Linked, String> {
    let name = text(&package["name"]).to_owned();
    let folder = Path::new(text(&package["manifest_path"])).parent().unwrap_or(Path::new("."));
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lower = file.to_ascii_lowercase();
        let is_license =
            ["licen", "copying", "copyright", "notice", "unlicense"].iter().any(|word| lower.starts_with(word));
        if is_license && path.is_file() {
            files.push((file, fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?));
        }
    }
    files.sort();
    if let Some((file, _)) = files.iter().find(|(file, _)| file.to_ascii_lowercase().starts_with("notice")) {
        return Err(format!(
            "{name}: {file} must go with the program, section 4(d) of the Apache License; add it by hand"
        ));
    }
    let authors = list(&package["authors"]).iter().map(|author| text(author).to_owned()).collect();
    let home = [&package["repository"], &package["homepage"]].iter().map(|url| text(url)).find(|url| !url.is_empty());
    let home = home.unwrap_or("No home page.").to_owned();
    Ok(Linked { name, declared: text(&package["license"]).to_owned(), home, authors, files })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
