//! The pages of conformance and of faults, and the tests that exist, say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The numbers in the names of test functions that begin with `letter`, such as `c043_...`; a name may carry several, of
/// either letter: `c148_r38_...`.
fn numbers_of_tests(letter: char) -> BTreeSet<u16> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> = vec![root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line == "#[test]" {
                    is_test = true;
                } else if let Some(name) = line.strip_prefix("fn ").filter(|_| is_test) {
                    is_test = false;
                    let numbers = name.split('_').map_while(|part| {
                        let mut letters = part.chars();
                        Some((letters.next()?, letters.as_str().parse::<u16>().ok()?))
                    });
                    found.extend(numbers.filter(|(first, _)| *first == letter).map(|(_, number)| number));
                } else if line.starts_with("#[ignore") {
                    is_test = false;
                }
            }
        }
    }
    found
}

/// Number and state of each row of a page whose rows begin with `| number`.
fn rows(page: &str) -> BTreeMap<u16, String> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(number) = cells.get(1).and_then(|cell| cell.trim_end_matches(" ★").parse().ok()) else { continue };
        assert!(found.insert(number, cells[3].to_owned()).is_none(), "{page} has {number} twice");
    }
    found
}

/// Whether every row that says "tested" has a test of its number, and no other row has.
fn agree(page: &str, rows: &BTreeMap<u16, String>, tests: &BTreeSet<u16>) {
    for (number, state) in rows {
        let says_tested = state.starts_with("tested");
        assert_eq!(says_tested, tests.contains(number), "{page}, number {number}: {state:?}");
        assert!(!state.is_empty(), "{page}: number {number} has no state");
    }
}

#[test]
fn the_page_of_faults_agrees_with_the_tests() {
    let page = "docs/faults.md";
    let (tests, rows) = (numbers_of_tests('r'), rows(page));
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), (1..=40).collect::<Vec<u16>>());
    agree(page, &rows, &tests);
}

#[test]
fn the_page_of_conformance_agrees_with_the_tests() {
    let (tests, rows) = (numbers_of_tests('c'), rows("docs/conformance.md"));
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), (1..=161).collect::<Vec<u16>>());
    agree("docs/conformance.md", &rows, &tests);
    assert!(tests.len() > 90, "only {} numbers have tests", tests.len());
}
