//! Root's rights given up for good: user, groups, capabilities, and every way to get them back; then proven.
//!
//! To be called before any thread exists, since capabilities belong to single threads.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fmt;

use caps::CapSet;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{
    Gid, Group, ResGid, ResUid, Uid, User, getgrouplist, getgroups, getresgid, getresuid, setgroups, setresgid,
    setresuid,
};

/// The user that serves unless another is named.
const OWN_USER: &str = "dot-proxy";
/// Who serves where there is no such user: a trial from a checkout, a container without accounts.
const NOBODY: &str = "nobody";

/// What stands in the way.
#[derive(Debug)]
pub struct PrivilegeError(String);

impl fmt::Display for PrivilegeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for PrivilegeError {}

/// Who serves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The user's name, or its number where it has none.
    pub name: String,
    uid: Uid,
    gid: Gid,
    groups: BTreeSet<u32>,
    /// Whether user and groups must be changed to it.
    change: bool,
}

impl Identity {
    /// Who serves, given what the configuration says and who started the program.
    ///
    /// # Errors
    /// If the user or the group does not exist.
    pub fn resolve(user: Option<&str>, group: Option<&str>) -> Result<Identity, PrivilegeError> {
        if !Uid::effective().is_root() {
            return Ok(Identity::present());
        }
        let account = match user {
            Some(user) => find_user(user)?,
            None => match find_user(OWN_USER) {
                Ok(account) => account,
                Err(_) => find_user(NOBODY)?,
            },
        };
        let gid = match group {
            Some(group) => find_group(group)?,
            None => account.gid,
        };
        let mut groups: BTreeSet<u32> = account.groups;
        groups.insert(gid.as_raw());
        // root serves with whatever groups it has, but nobody else keeps them
        if account.uid.is_root() && group.is_none() {
            return Ok(Identity::present());
        }
        Ok(Identity { name: account.name, uid: account.uid, gid, groups, change: true })
    }

    /// The user and the groups that the process has.
    fn present() -> Identity {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        let groups = getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        Identity { name, uid, gid, groups, change: false }
    }

    /// Whether this is the user that a trial falls back to.
    pub fn is_makeshift(&self, configured: Option<&str>) -> bool {
        self.change && configured.is_none() && self.name != OWN_USER
    }

    /// Whether root's user ID is kept.
    pub fn is_root(&self) -> bool {
        self.uid.is_root()
    }

    /// The numbers of user and group, for files that shall be theirs.
    pub fn owner(&self) -> (u32, u32) {
        (self.uid.as_raw(), self.gid.as_raw())
    }
}

struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
    groups: BTreeSet<u32>,
}

fn find_user(name: &str) -> Result<Account, PrivilegeError> {
    let look_up = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    let found = look_up.map_err(|error| PrivilegeError(format!("user {name}: cannot be looked up: {error}")))?;
    match (found, name.parse()) {
        (Some(user), _) => {
            let groups = CString::new(user.name.as_str()).ok().and_then(|c| getgrouplist(&c, user.gid).ok());
            let groups = groups.unwrap_or_default().into_iter().map(Gid::as_raw).collect();
            Ok(Account { name: user.name, uid: user.uid, gid: user.gid, groups })
        }
        // containers have users that are nothing but a number
        (None, Ok(number)) => {
            let (uid, gid) = (Uid::from_raw(number), Gid::from_raw(number));
            Ok(Account { name: name.to_owned(), uid, gid, groups: BTreeSet::new() })
        }
        (None, Err(_)) => Err(PrivilegeError(format!(
            "user {name}: there is no such user; make it (systemd-sysusers does for {OWN_USER}), or set another one with \
             the option user"
        ))),
    }
}

fn find_group(name: &str) -> Result<Gid, PrivilegeError> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => {
            Err(PrivilegeError(format!("group {name}: there is no such group; set another one with the option group")))
        }
        Err(error) => Err(PrivilegeError(format!("group {name}: cannot be looked up: {error}"))),
    }
}

/// What the process could still do, as the kernel says.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Observed {
    /// Real, effective and saved.
    uids: [u32; 3],
    gids: [u32; 3],
    groups: BTreeSet<u32>,
    /// Capabilities in force, to be had, or to be handed on.
    capabilities: usize,
    /// Capabilities that a program with privileges of its own could have.
    bounding: usize,
    no_new_privs: bool,
    dumpable: bool,
    /// Whether becoming root was tried and worked.
    root_again: bool,
}

/// What was given up, as it was proven.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Privileges {
    /// The user, by name and number.
    pub user: String,
    /// The group, by number.
    pub group: u32,
    /// Capabilities in force, to be had, or to be handed on.
    pub capabilities: usize,
    /// Whether new privileges are out of reach.
    pub no_new_privs: bool,
    /// Capabilities left in the bounding set, of no use under no_new_privs; only root can empty it.
    pub bounding: usize,
}

/// Becomes `identity`, drops all capabilities and every way to new ones, and proves it.
///
/// # Errors
/// If a step fails, or if afterwards the process could do more than it should: nothing may be served then.
pub fn give_up(identity: &Identity) -> Result<Privileges, PrivilegeError> {
    let failed = |what: &'static str| {
        move |error: &dyn fmt::Display| PrivilegeError(format!("giving up privileges: {what}: {error}"))
    };
    let id = |what: String| {
        move |error: Errno| {
            PrivilegeError(format!(
                "giving up privileges: {what}: {error}; start as that user, with the right to become it, or, where \
                 root is nobody outside of a container, with user = \"root\""
            ))
        }
    };
    // first, as long as there is the right to: what is not in this set no program can ever bring back
    if let Err(error) = caps::clear(None, CapSet::Bounding) {
        log::debug!("the bounding set stays: {error}");
    }
    if identity.change {
        let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).map_err(id(format!("groups of {}", identity.name)))?;
        let (uid, gid) = (identity.uid, identity.gid);
        setresgid(gid, gid, gid).map_err(id(format!("group {gid}")))?;
        setresuid(uid, uid, uid).map_err(id(format!("user {}", identity.name)))?;
    }
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        // a strict unit forbids the call where there is nothing to give up
        if !caps::read(None, set).is_ok_and(|left| left.is_empty()) {
            caps::clear(None, set).map_err(|error| failed("capabilities")(&error))?;
        }
    }
    prctl::set_no_new_privs().map_err(|error| failed("no_new_privs")(&error))?;
    prctl::set_dumpable(false).map_err(|error| failed("dumpable")(&error))?;
    let observed = observe(identity).map_err(|error| failed("looking at what is left")(&error))?;
    prove(identity, &observed)?;
    let user = format!("{} ({})", identity.name, identity.uid);
    let Observed { capabilities, bounding, no_new_privs, .. } = observed;
    Ok(Privileges { user, group: identity.gid.as_raw(), capabilities, no_new_privs, bounding })
}

fn observe(identity: &Identity) -> Result<Observed, String> {
    let text = |error: Errno| error.to_string();
    // the proof of the pudding: root must not come back, neither as user nor as group
    let zero = (Uid::from_raw(0), Gid::from_raw(0));
    let root_again =
        !identity.is_root() && (setresuid(zero.0, zero.0, zero.0).is_ok() || setresgid(zero.1, zero.1, zero.1).is_ok());
    let ResUid { real, effective, saved } = getresuid().map_err(text)?;
    let uids = [real, effective, saved].map(Uid::as_raw);
    let ResGid { real, effective, saved } = getresgid().map_err(text)?;
    let gids = [real, effective, saved].map(Gid::as_raw);
    let count = |set| caps::read(None, set).map(|left| left.len()).map_err(|error| error.to_string());
    let mut capabilities = 0;
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        capabilities += count(set)?;
    }
    Ok(Observed {
        uids,
        gids,
        groups: getgroups().map_err(text)?.into_iter().map(Gid::as_raw).collect(),
        capabilities,
        bounding: count(CapSet::Bounding)?,
        no_new_privs: prctl::get_no_new_privs().map_err(text)?,
        dumpable: prctl::get_dumpable().map_err(text)?,
        root_again,
    })
}

/// Whether what is left is what should be (pure).
fn prove(identity: &Identity, observed: &Observed) -> Result<(), PrivilegeError> {
    let (uid, gid) = identity.owner();
    let problem = if observed.root_again {
        "root could come back"
    } else if observed.uids != [uid; 3] {
        "another user is left"
    } else if observed.gids != [gid; 3] {
        "another group is left"
    } else if observed.groups != identity.groups {
        "other groups are left"
    } else if observed.capabilities > 0 {
        "capabilities are left"
    } else if !observed.no_new_privs {
        "programs could bring new privileges"
    } else if observed.dumpable {
        "other processes could look inside"
    } else {
        return Ok(());
    };
    Err(PrivilegeError(format!("giving up privileges: {problem}; nothing is served like this ({observed:?})")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Identity, Observed, find_group, find_user, prove};
    use nix::unistd::{Gid, Uid};
    use std::collections::BTreeSet;

    fn identity() -> Identity {
        let groups = BTreeSet::from([7, 9]);
        Identity { name: "x".to_owned(), uid: Uid::from_raw(5), gid: Gid::from_raw(7), groups, change: true }
    }

    fn good() -> Observed {
        Observed {
            uids: [5; 3],
            gids: [7; 3],
            groups: BTreeSet::from([9, 7]),
            capabilities: 0,
            bounding: 0,
            no_new_privs: true,
            dumpable: false,
            root_again: false,
        }
    }

    #[test]
    fn whatever_is_left_is_found() {
        prove(&identity(), &good()).unwrap();
        // what cannot be emptied without root's rights is no danger under no_new_privs
        prove(&identity(), &Observed { bounding: 41, ..good() }).unwrap();
        for (bad, word) in [
            (Observed { uids: [5, 5, 0], ..good() }, "another user"),
            (Observed { gids: [0, 7, 7], ..good() }, "another group"),
            (Observed { groups: BTreeSet::from([0, 7, 9]), ..good() }, "other groups"),
            (Observed { capabilities: 1, ..good() }, "capabilities"),
            (Observed { no_new_privs: false, ..good() }, "new privileges"),
            (Observed { dumpable: true, ..good() }, "look inside"),
            (Observed { root_again: true, ..good() }, "root could come back"),
        ] {
            let said = prove(&identity(), &bad).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn accounts_are_found_by_name_and_by_number_and_missing_ones_are_named() {
        assert!(find_user("root").unwrap().uid.is_root());
        assert_eq!(find_user("4000000").unwrap().gid, Gid::from_raw(4_000_000));
        let said = find_user("no-such-user").err().unwrap().to_string();
        assert!(said.contains("user no-such-user: there is no such user"), "{said}");
        assert_eq!(find_group("12").unwrap(), Gid::from_raw(12));
        assert!(find_group("no-such-group").is_err());
    }
}
