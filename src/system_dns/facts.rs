//! What manages DNS on this machine: looked up once, judged elsewhere.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::programs::{Outcome, Programs};
use super::resolv_conf::ResolvConf;

/// The file that programs read, below the root directory.
pub const RESOLV_CONF: &str = "etc/resolv.conf";
/// The largest resolv.conf that is read; the C library's own limits lie far below.
const MAX_SIZE: u64 = 64 * 1024;

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// What `/etc/resolv.conf` is.
    pub file: Form,
    /// What it says, through any link; nothing if it does not exist or hangs in the air.
    pub content: Option<ResolvConf>,
    /// Why it could not be replaced.
    pub locked: Option<Locked>,
    /// Whether systemd-resolved runs.
    pub resolved: bool,
    /// NetworkManager, if it runs.
    pub network_manager: Option<NetworkManager>,
    /// Which resolvconf is installed.
    pub resolvconf: Option<Resolvconf>,
    /// Whether ISC's DHCP client would call hooks.
    pub dhclient: bool,
    /// The configuration of dhcpcd.
    pub dhcpcd: Option<Vec<u8>>,
    /// The configuration of openresolv.
    pub openresolv: Option<Vec<u8>>,
}

/// What kind of file `/etc/resolv.conf` is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Form {
    /// There is none.
    #[default]
    Missing,
    /// A file.
    File,
    /// A link; its target as an absolute path below the root, followed once.
    Link(PathBuf),
}

/// Why a file cannot be replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Locked {
    /// It has the immutable or the append-only attribute.
    Immutable,
    /// Its file system is mounted read-only.
    ReadOnly,
}

/// How NetworkManager is configured to treat DNS.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NetworkManager {
    /// `dns` of `[main]`; empty for its default.
    pub dns: String,
    /// `rc-manager` of `[main]`; empty for its default.
    pub rc_manager: String,
    /// `systemd-resolved` of `[main]` is not false.
    pub tells_resolved: bool,
}

/// The two programs called resolvconf; the third, a name of resolvectl, is systemd-resolved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resolvconf {
    /// Debian's.
    Debian,
    /// openresolv.
    Openresolv,
}

/// Looks at the machine below `root`.
///
/// # Errors
/// If `/etc/resolv.conf` cannot be looked at.
pub fn observe(root: &Path, programs: &Programs) -> io::Result<Facts> {
    let path = root.join(RESOLV_CONF);
    let file = form(&path)?;
    let locked = if file == Form::File { locked(&path) } else { None };
    Ok(Facts {
        locked,
        file,
        content: content(root)?,
        resolved: runs(programs, "systemd-resolved.service"),
        network_manager: runs(programs, "NetworkManager.service")
            .then(|| network_manager(&programs.run("NetworkManager --print-config").text().unwrap_or_default())),
        resolvconf: resolvconf(programs),
        dhclient: root.join("etc/dhcp/dhclient-enter-hooks.d").is_dir(),
        dhcpcd: fs::read(root.join("etc/dhcpcd.conf")).ok(),
        openresolv: fs::read(root.join("etc/resolvconf.conf")).ok(),
    })
}

/// Whether a unit runs.
pub fn runs(programs: &Programs, unit: &str) -> bool {
    matches!(programs.run(&format!("systemctl is-active --quiet {unit}")), Outcome::Done(_))
}

fn form(path: &Path) -> io::Result<Form> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => {
            let target = fs::read_link(path)?;
            let folder = Path::new("/").join(Path::new(RESOLV_CONF).parent().unwrap_or(Path::new("")));
            Ok(Form::Link(straight(&folder.join(target))))
        }
        Ok(found) if found.is_file() => Ok(Form::File),
        Ok(_) => Err(io::Error::other("it is neither a file nor a link")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Form::Missing),
        Err(error) => Err(error),
    }
}

/// A path without `.` and `..`.
fn straight(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// What `/etc/resolv.conf` says now, through links, the targets of which lie below the root as well.
///
/// # Errors
/// If it exists and cannot be read.
pub fn content(root: &Path) -> io::Result<Option<ResolvConf>> {
    let mut path = root.join(RESOLV_CONF);
    // links to links are rare, and rings are none of ours
    for _ in 0..8 {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                let folder = path.parent().unwrap_or(root).strip_prefix(root).unwrap_or(Path::new(""));
                let target = straight(&Path::new("/").join(folder).join(fs::read_link(&path)?));
                path = root.join(target.strip_prefix("/").unwrap_or(&target));
            }
            Ok(found) if found.len() > MAX_SIZE => return Err(io::Error::other("larger than any resolv.conf")),
            Ok(_) => return Ok(Some(ResolvConf::read(&fs::read(&path)?))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether the file withstands being written, found out without writing.
fn locked(path: &Path) -> Option<Locked> {
    match OpenOptions::new().write(true).open(path).err()?.raw_os_error()? {
        libc::EPERM => Some(Locked::Immutable),
        libc::EROFS => Some(Locked::ReadOnly),
        _ => None,
    }
}

/// Reads the `[main]` section of what NetworkManager prints as its configuration.
fn network_manager(text: &str) -> NetworkManager {
    let mut found = NetworkManager { tells_resolved: true, ..NetworkManager::default() };
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        let Some((key, value)) = line.split_once('=').filter(|_| section == "main") else { continue };
        match key.trim() {
            "dns" => value.trim().clone_into(&mut found.dns),
            "rc-manager" => value.trim().clone_into(&mut found.rc_manager),
            "systemd-resolved" => found.tells_resolved = !matches!(value.trim(), "false" | "no" | "0" | "off"),
            _ => {}
        }
    }
    found
}

fn resolvconf(programs: &Programs) -> Option<Resolvconf> {
    let path = programs.find("resolvconf")?;
    let real = fs::canonicalize(&path).ok()?;
    if real.file_name().is_some_and(|name| name == "resolvectl" || name == "systemd-resolve") {
        return None;
    }
    let said = programs.run("resolvconf --version").text().unwrap_or_default();
    Some(if said.starts_with("Debian resolvconf") { Resolvconf::Debian } else { Resolvconf::Openresolv })
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
