//! Landlock: which files the process may still read and to which ports it may still connect, whatever happens inside it.
//!
//! It holds for threads started afterwards, so it comes before them. UDP is left alone, since every answer to a client
//! is a datagram; sockets of the service manager and of the system log stay within reach.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The rights to files that are ruled on. Later versions of the kernel's interface would also rule on sockets of other
/// programs, which the log and the service manager need.
const FILES: ABI = ABI::V5;
/// The first version that rules on ports.
const PORTS: ABI = ABI::V4;
/// Where systems keep CA certificates, and what the links there lead to.
const TRUST_STORES: &[&str] = &[
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/lib/ssl",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki",
    "/var/lib/ca-certificates",
];

/// What the process needs once it serves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reach {
    /// Folders whose files it may read, at a reload.
    pub folders: BTreeSet<PathBuf>,
    /// The folder in which it may remove its control socket.
    pub clean_up: Option<PathBuf>,
    /// The folder in which it may write the last good time.
    pub memory: Option<PathBuf>,
    /// TCP ports that it may connect to.
    pub ports: BTreeSet<u16>,
}

impl Reach {
    /// Lets the folder of this file be read: the one it is named in, and the one that links lead to.
    pub fn file(&mut self, path: &Path) {
        let real = path.canonicalize().ok();
        self.folders
            .extend([Some(path), real.as_deref()].into_iter().flatten().filter_map(Path::parent).map(PathBuf::from));
    }

    /// Whether this file is in one of the folders.
    pub fn covers(&self, path: &Path) -> bool {
        let real = path.canonicalize();
        let real = real.as_deref().unwrap_or(path);
        self.folders.iter().any(|folder| real.starts_with(folder.canonicalize().as_deref().unwrap_or(folder)))
    }

    /// Lets the system's trust store be read.
    pub fn trust_store(&mut self) {
        self.folders.extend(TRUST_STORES.iter().map(PathBuf::from));
        let probed = openssl_probe::probe();
        for folder in probed.cert_dir {
            self.folders.extend(folder.canonicalize().ok());
            self.folders.insert(folder);
        }
        if let Some(file) = probed.cert_file {
            self.file(&file);
        }
    }
}

/// What holds from now on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Confined {
    /// Whether only the folders can be read, and nothing written but the last good time.
    pub files: bool,
    /// The only ports that can be connected to, if the kernel can hold it.
    pub ports: Option<BTreeSet<u16>>,
}

impl Confined {
    /// Whether a connection to this port can be made.
    pub fn allows(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }

    /// Whether all of it holds.
    pub fn is_whole(&self) -> bool {
        self.files && self.ports.is_some()
    }
}

impl fmt::Display for Confined {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files =
            if self.files { "only its configuration and certificates can be read" } else { "files are not confined" };
        out.write_str(files)?;
        match &self.ports {
            Some(ports) => {
                let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
                write!(out, ", tcp connections go to port {} only", ports.join(", "))
            }
            None => out.write_str(", ports are not confined"),
        }
    }
}

/// Confines the process to `reach`, as far as the kernel can.
///
/// # Errors
/// If the kernel refuses what it says it can.
pub fn confine(reach: &Reach) -> Result<Confined, String> {
    let status = restrict(reach).map_err(|error| error.to_string())?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } if status.ruleset != RulesetStatus::NotEnforced => {
            effective_abi
        }
        _ => ABI::Unsupported,
    };
    Ok(Confined { files: abi >= ABI::V1, ports: (abi >= PORTS).then(|| reach.ports.clone()) })
}

fn restrict(reach: &Reach) -> Result<RestrictionStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(FILES))?
        .handle_access(AccessNet::from_all(PORTS))?
        // signals only within; the abstract sockets of a container's service manager stay within reach
        .scope(Scope::Signal)?;
    let folders = reach.folders.iter().map(|folder| (folder, read));
    let clean_up = reach.clean_up.iter().map(|folder| (folder, BitFlags::from(AccessFs::RemoveFile)));
    let write = read | AccessFs::WriteFile | AccessFs::MakeReg;
    let memory = reach.memory.iter().map(|folder| (folder, write));
    let mut created = ruleset.create()?;
    for (folder, access) in folders.chain(clean_up).chain(memory) {
        // what is not there needs no right
        if let Ok(fd) = PathFd::new(folder) {
            created = created.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    for &port in &reach.ports {
        created = created.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
    }
    created.restrict_self()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Confined, Reach};
    use std::collections::BTreeSet;

    #[test]
    fn a_file_is_reached_where_it_is_named_and_where_links_lead() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        std::fs::create_dir(&real).unwrap();
        std::fs::write(real.join("file"), "").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(real.join("file"), &link).unwrap();
        let mut reach = Reach::default();
        reach.file(&link);
        assert!(reach.folders.contains(folder.path()));
        assert!(reach.folders.contains(&real.canonicalize().unwrap()));
    }

    #[test]
    fn what_holds_is_said() {
        let whole = Confined { files: true, ports: Some(BTreeSet::from([853, 8853])) };
        assert!(whole.is_whole() && whole.allows(853) && !whole.allows(53));
        assert!(whole.to_string().ends_with("tcp connections go to port 853, 8853 only"));
        let none = Confined::default();
        assert!(!none.is_whole() && none.allows(53));
        assert_eq!(none.to_string(), "files are not confined, ports are not confined");
    }
}
