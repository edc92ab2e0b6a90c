//! Changes and the way back, whatever was there and wherever it stops.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::super::decision::{
    Manager, NETWORK_MANAGER_DROP_IN, NewFile, Notice, OPENRESOLV, Plan, RESOLVCONF_HOOK, RESOLVED_DROP_IN,
};
use super::super::facts::RESOLV_CONF;
use super::{FOLDER, LIST, Ledger, PREPARED, State, put};

fn servers() -> Vec<IpAddr> {
    vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]
}

/// A root with one file of each kind that a plan can meet.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("etc/systemd")).unwrap();
    fs::create_dir_all(root.path().join("var/lib")).unwrap();
    symlink("../run/somewhere", root.path().join("etc/resolv.conf")).unwrap();
    // neither UTF-8 nor a line end, and a mode of its own
    fs::write(root.path().join(OPENRESOLV), b"caf\xe9").unwrap();
    fs::set_permissions(root.path().join(OPENRESOLV), fs::Permissions::from_mode(0o604)).unwrap();
    root
}

fn plan() -> Plan {
    let file = |path, content: &str, mode| NewFile { path, content: content.to_owned(), mode };
    Plan {
        manager: Manager::Openresolv,
        files: vec![
            file(RESOLVED_DROP_IN, "one\n", 0o644),
            file(RESOLVCONF_HOOK, "two\n", 0o755),
            file(RESOLV_CONF, "three\n", 0o644),
            file(OPENRESOLV, "four\n", 0o644),
        ],
        watched: vec![NETWORK_MANAGER_DROP_IN],
        notices: vec![Notice::Links, Notice::Resolvconf],
    }
}

/// All that is below a folder: mode, owner, target or content.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::symlink_metadata(&path).unwrap();
            let octets = if data.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if data.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path, (data.mode(), data.uid(), octets));
        }
    }
    found
}

#[test]
fn everything_is_as_before() {
    let root = root();
    let root = root.path();
    let before = tree(root);
    let ledger = Ledger::begin(root, &plan(), &servers()).unwrap();
    ledger.apply().unwrap();
    assert_eq!(fs::read(root.join(RESOLV_CONF)).unwrap(), b"three\n");
    assert!(!fs::symlink_metadata(root.join(RESOLV_CONF)).unwrap().is_symlink());
    assert_eq!(fs::metadata(root.join(OPENRESOLV)).unwrap().mode() & 0o777, 0o604);
    assert_eq!(fs::metadata(root.join(RESOLVCONF_HOOK)).unwrap().mode() & 0o777, 0o755);
    assert_eq!(fs::metadata(root.join("etc/systemd/resolved.conf.d")).unwrap().mode() & 0o777, 0o755);
    assert!(ledger.foreign().is_empty());
    // another process reads what this one wrote
    let read = Ledger::open(root).unwrap().unwrap();
    assert_eq!(read, ledger);
    read.undo(false).unwrap();
    // and once more does no harm
    read.undo(false).unwrap();
    read.close().unwrap();
    assert_eq!(tree(root), before);
    assert_eq!(Ledger::open(root).unwrap(), None);
}

#[test]
fn wherever_it_was_interrupted_everything_is_as_before() {
    for done in 0..=plan().files.len() {
        let root = root();
        let root = root.path();
        let before = tree(root);
        // an earlier one ended while it was prepared
        fs::create_dir_all(root.join(PREPARED)).unwrap();
        fs::write(root.join(PREPARED).join("0.original"), "half").unwrap();
        let ledger = Ledger::begin(root, &plan(), &servers()).unwrap();
        for (number, change) in ledger.changes.iter().enumerate().take(done) {
            super::new_folder(root.join(change.path).parent().unwrap()).unwrap();
            put(&ledger.copy_of(number, "ours"), &root.join(change.path)).unwrap();
        }
        let read = Ledger::open(root).unwrap().unwrap();
        assert!(read.foreign().is_empty(), "{done}");
        read.undo(false).unwrap();
        read.close().unwrap();
        assert_eq!(tree(root), before, "{done}");
    }
}

#[test]
fn what_somebody_changed_stays_unless_all_is_asked() {
    let root = root();
    let root = root.path();
    let before = tree(root);
    let ledger = Ledger::begin(root, &plan(), &servers()).unwrap();
    ledger.apply().unwrap();
    fs::write(root.join(RESOLV_CONF), "somebody's\n").unwrap();
    fs::remove_file(root.join(OPENRESOLV)).unwrap();
    let foreign: Vec<&str> = ledger.foreign().iter().map(|change| change.path).collect();
    assert_eq!(foreign, [RESOLV_CONF, OPENRESOLV]);
    ledger.undo(false).unwrap();
    assert_eq!(fs::read(root.join(RESOLV_CONF)).unwrap(), b"somebody's\n");
    assert!(!root.join(RESOLVED_DROP_IN).exists());
    assert_eq!(ledger.state(0), State::Original);
    ledger.undo(true).unwrap();
    ledger.close().unwrap();
    assert_eq!(tree(root), before);
}

#[test]
fn a_changed_mode_is_a_change() {
    let root = root();
    let ledger = Ledger::begin(root.path(), &plan(), &servers()).unwrap();
    ledger.apply().unwrap();
    fs::set_permissions(root.path().join(RESOLV_CONF), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(ledger.state(2), State::Foreign);
}

#[test]
fn a_list_that_names_other_files_is_refused() {
    let root = root();
    let root = root.path();
    Ledger::begin(root, &plan(), &servers()).unwrap();
    let list = root.join(FOLDER).join(LIST);
    let text = fs::read_to_string(&list).unwrap();
    for (old, new) in [
        ("etc/resolv.conf\"", "etc/shadow\""),
        ("folders = [", "folders = [\"home\", "),
        ("\"links\"", "\"lynx\""),
        ("manager = 4", "manager = 9"),
        ("ours = true", "ours = 1"),
        ("[[change]]", "[[change"),
    ] {
        assert!(text.contains(old), "{old}: {text}");
        fs::write(&list, text.replace(old, new)).unwrap();
        assert!(Ledger::open(root).unwrap_err().to_string().contains("cannot be understood"), "{new}");
    }
}

#[test]
fn a_record_that_others_could_have_written_is_not_used() {
    let root = root();
    let root = root.path();
    Ledger::begin(root, &plan(), &servers()).unwrap();
    for folder in [root.join(FOLDER), root.join("var/lib/dot-proxy")] {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o775)).unwrap();
        assert!(Ledger::open(root).unwrap_err().to_string().contains("root alone"), "{}", folder.display());
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert!(Ledger::open(root).unwrap().is_some());
}
