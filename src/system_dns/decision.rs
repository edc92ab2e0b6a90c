//! From what was found on the machine to what is done about it: one pure function.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use super::facts::{Facts, Form, Locked, NetworkManager, RESOLV_CONF, Resolvconf};
use super::resolv_conf::{Author, ResolvConf, SIGNATURE, listed, written};

/// Drop-in of systemd-resolved; the name makes it the last one.
pub const RESOLVED_DROP_IN: &str = "etc/systemd/resolved.conf.d/zz-dot-proxy.conf";
/// Drop-in of NetworkManager; the name makes it the last one.
pub const NETWORK_MANAGER_DROP_IN: &str = "etc/NetworkManager/conf.d/zz-dot-proxy.conf";
/// What Debian's resolvconf runs before it writes: its scripts go by their names, and `libc` is the one that writes.
pub const RESOLVCONF_HOOK: &str = "etc/resolvconf/update.d/dot-proxy";
/// The configuration of openresolv.
pub const OPENRESOLV: &str = "etc/resolvconf.conf";
/// Where openresolv puts a resolv.conf that is not its own.
pub const OPENRESOLV_COPY: &str = "etc/resolv.conf.bak";
/// What ISC's DHCP client reads before it acts.
pub const DHCLIENT_HOOK: &str = "etc/dhcp/dhclient-enter-hooks.d/dot-proxy";
/// The configuration of dhcpcd.
pub const DHCPCD: &str = "etc/dhcpcd.conf";

/// Every file that is ever touched.
pub const PATHS: [&str; 8] = [
    RESOLV_CONF,
    RESOLVED_DROP_IN,
    NETWORK_MANAGER_DROP_IN,
    RESOLVCONF_HOOK,
    OPENRESOLV,
    OPENRESOLV_COPY,
    DHCLIENT_HOOK,
    DHCPCD,
];

/// Who manages DNS on a machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Manager {
    /// systemd-resolved.
    Resolved,
    /// systemd-resolved, told by NetworkManager.
    ResolvedAndNetworkManager,
    /// NetworkManager writes resolv.conf.
    NetworkManager,
    /// Debian's resolvconf writes resolv.conf.
    DebianResolvconf,
    /// openresolv writes resolv.conf.
    Openresolv,
    /// Nobody: a file that stays as it is written.
    File,
}

impl Manager {
    /// All of them.
    pub const ALL: [Manager; 6] = [
        Manager::Resolved,
        Manager::ResolvedAndNetworkManager,
        Manager::NetworkManager,
        Manager::DebianResolvconf,
        Manager::Openresolv,
        Manager::File,
    ];
}

impl fmt::Display for Manager {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Manager::Resolved => "systemd-resolved",
            Manager::ResolvedAndNetworkManager => "systemd-resolved with NetworkManager",
            Manager::NetworkManager => "NetworkManager",
            Manager::DebianResolvconf => "resolvconf",
            Manager::Openresolv => "openresolv",
            Manager::File => "the file /etc/resolv.conf",
        })
    }
}

/// What must be told of a change, in the order in which it is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Notice {
    /// NetworkManager reads its configuration again.
    NetworkManager,
    /// What NetworkManager has told systemd-resolved is forgotten.
    Links,
    /// systemd-resolved starts again, with an empty cache.
    Resolved,
    /// resolvconf writes again.
    Resolvconf,
    /// dhcpcd reads its configuration again.
    Dhcpcd,
}

impl Notice {
    /// All of them, with the words that stand for them.
    pub const ALL: [(Notice, &str); 5] = [
        (Notice::NetworkManager, "network-manager"),
        (Notice::Links, "links"),
        (Notice::Resolved, "resolved"),
        (Notice::Resolvconf, "resolvconf"),
        (Notice::Dhcpcd, "dhcpcd"),
    ];
}

/// A file that is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewFile {
    /// One of [`PATHS`].
    pub path: &'static str,
    /// What it says.
    pub content: String,
    /// Its mode where there was no file before.
    pub mode: u32,
}

/// What is done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// Who manages DNS.
    pub manager: Manager,
    /// The files that are written.
    pub files: Vec<NewFile>,
    /// Files that the manager writes when it is told; they are put back if it does not.
    pub watched: Vec<&'static str>,
    /// Who is told.
    pub notices: Vec<Notice>,
}

impl Plan {
    fn new(manager: Manager) -> Plan {
        Plan { manager, files: Vec::new(), watched: Vec::new(), notices: Vec::new() }
    }

    fn write(&mut self, path: &'static str, content: String) {
        self.files.push(NewFile { path, content, mode: 0o644 });
    }
}

/// Decides what makes all lookups of the machine go to `servers`.
///
/// # Errors
/// If a file stands in the way; which, and what to do.
pub fn plan(facts: &Facts, servers: &[IpAddr]) -> Result<Plan, String> {
    let before = facts.content.clone().unwrap_or_default();
    let manager = manager(facts);
    let mut plan = Plan::new(manager);
    match manager {
        Manager::Resolved | Manager::ResolvedAndNetworkManager => {
            if manager == Manager::ResolvedAndNetworkManager {
                // what it would go on telling about its links takes precedence over the drop-in of systemd-resolved
                plan.write(NETWORK_MANAGER_DROP_IN, silent_network_manager());
                plan.notices.extend([Notice::NetworkManager, Notice::Links]);
            }
            plan.write(RESOLVED_DROP_IN, resolved_drop_in(servers, &before));
            plan.notices.push(Notice::Resolved);
            match target(facts) {
                Target::Stub => {}
                Target::DebianResolvconf if facts.resolvconf == Some(Resolvconf::Debian) => {
                    debian_resolvconf(&mut plan, servers);
                }
                // the uplink file names the servers of all links, and a file of somebody else's whatever it likes
                _ => plan.write(RESOLV_CONF, written(servers, &before)),
            }
        }
        Manager::DebianResolvconf => debian_resolvconf(&mut plan, servers),
        Manager::Openresolv => {
            plan.write(OPENRESOLV, openresolv(facts.openresolv.as_deref().unwrap_or_default(), servers));
            plan.watched.extend([RESOLV_CONF, OPENRESOLV_COPY]);
            plan.notices.push(Notice::Resolvconf);
        }
        Manager::NetworkManager => {
            plan.write(NETWORK_MANAGER_DROP_IN, network_manager_drop_in(servers, &before));
            plan.watched.push(RESOLV_CONF);
            plan.notices.push(Notice::NetworkManager);
        }
        Manager::File => {
            if facts.network_manager.as_ref().is_some_and(touches_files) {
                // it leaves the link alone that is there now, and would not leave a file alone
                plan.write(NETWORK_MANAGER_DROP_IN, silent_network_manager());
                plan.notices.push(Notice::NetworkManager);
            }
            if facts.dhclient {
                let hook = format!(
                    "{SIGNATURE}# dhclient would write /etc/resolv.conf at every lease\nmake_resolv_conf() {{ :; }}\n"
                );
                plan.write(DHCLIENT_HOOK, hook);
            }
            if before.author == Some(Author::Dhcpcd)
                && let Some(settings) = &facts.dhcpcd
            {
                // before everything else: behind the line `interface` it would be about one interface only
                let settings = String::from_utf8_lossy(settings);
                plan.write(DHCPCD, format!("{SIGNATURE}nohook resolv.conf\n\n{settings}"));
                plan.notices.push(Notice::Dhcpcd);
            }
            plan.write(RESOLV_CONF, written(servers, &before));
        }
    }
    unlocked(facts, &plan)?;
    Ok(plan)
}

/// Refuses to write, or to have written, what cannot be written.
fn unlocked(facts: &Facts, plan: &Plan) -> Result<(), String> {
    let touched = plan.watched.contains(&RESOLV_CONF) || plan.files.iter().any(|file| file.path == RESOLV_CONF);
    match facts.locked.filter(|_| touched) {
        None => Ok(()),
        Some(Locked::Immutable) => {
            Err("/etc/resolv.conf cannot be changed: somebody gave it the immutable attribute to keep it as it is; \
             `chattr -i /etc/resolv.conf` takes it away"
                .to_owned())
        }
        Some(Locked::ReadOnly) => {
            Err("/etc/resolv.conf cannot be changed: its file system is mounted read-only".to_owned())
        }
    }
}

/// What a link leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Target {
    /// A file that names systemd-resolved's own server.
    Stub,
    /// The file that names the servers which systemd-resolved uses.
    Uplink,
    DebianResolvconf,
    NetworkManager,
    Other,
    /// There is no link.
    None,
}

fn target(facts: &Facts) -> Target {
    let Form::Link(path) = &facts.file else { return Target::None };
    let is = |names: &[&str]| names.iter().any(|name| path == Path::new(name));
    if is(&["/run/systemd/resolve/stub-resolv.conf", "/usr/lib/systemd/resolv.conf", "/lib/systemd/resolv.conf"]) {
        Target::Stub
    } else if is(&["/run/systemd/resolve/resolv.conf"]) {
        Target::Uplink
    } else if is(&["/run/resolvconf/resolv.conf", "/etc/resolvconf/run/resolv.conf"]) {
        Target::DebianResolvconf
    } else if is(&["/run/NetworkManager/resolv.conf", "/var/run/NetworkManager/resolv.conf"]) {
        Target::NetworkManager
    } else {
        Target::Other
    }
}

/// Who manages DNS on the machine.
pub fn manager(facts: &Facts) -> Manager {
    let author = facts.content.as_ref().and_then(|content| content.author);
    if facts.resolved {
        // without a configuration of its own it would take a file over as soon as there is one
        return match &facts.network_manager {
            Some(settings) if settings.tells_resolved || touches_files(settings) => Manager::ResolvedAndNetworkManager,
            _ => Manager::Resolved,
        };
    }
    match (target(facts), facts.resolvconf) {
        (Target::DebianResolvconf, Some(Resolvconf::Debian)) => return Manager::DebianResolvconf,
        (Target::None, Some(Resolvconf::Openresolv)) if author != Some(Author::NetworkManager) => {
            return Manager::Openresolv;
        }
        _ => {}
    }
    match (&facts.network_manager, target(facts)) {
        (Some(settings), Target::None | Target::NetworkManager)
            if touches_files(settings) && !hands_over(settings, facts.resolvconf, author) =>
        {
            Manager::NetworkManager
        }
        _ => Manager::File,
    }
}

/// Whether NetworkManager gives what it knows to a resolvconf, which does not write to the file that is there.
fn hands_over(settings: &NetworkManager, resolvconf: Option<Resolvconf>, author: Option<Author>) -> bool {
    let chosen = ["", "auto", "resolvconf"].contains(&settings.rc_manager.as_str());
    chosen && resolvconf.is_some() && author != Some(Author::NetworkManager)
}

/// Whether NetworkManager writes files that are not links of somebody else's.
fn touches_files(settings: &NetworkManager) -> bool {
    settings.dns != "none" && settings.rc_manager != "unmanaged"
}

fn debian_resolvconf(plan: &mut Plan, servers: &[IpAddr]) {
    // the record is in a folder that is empty after a start of the machine, the hook is not; behind an address of the
    // loopback network no further server is taken
    let records: String = servers.iter().map(|server| format!("nameserver {server}\\n")).collect();
    let hook = format!(
        "#!/bin/sh\n{SIGNATURE}# resolvconf calls this in its folder of records, before it writes resolv.conf\n\
         printf '{records}' >lo.dot-proxy\n"
    );
    plan.files.push(NewFile { path: RESOLVCONF_HOOK, content: hook, mode: 0o755 });
    plan.notices.push(Notice::Resolvconf);
}

fn openresolv(before: &[u8], servers: &[IpAddr]) -> String {
    let before = String::from_utf8_lossy(before);
    let end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    format!("{before}{end}\n{SIGNATURE}name_servers=\"{}\"\nresolv_conf_local_only=YES\n", listed(servers, " "))
}

fn network_manager_drop_in(servers: &[IpAddr], before: &ResolvConf) -> String {
    let mut out = format!(
        "{SIGNATURE}[main]\n# no server of its own in between\ndns=default\n\n\
         # with these it asks no server that a network offers\n[global-dns]\n"
    );
    for (key, words) in [("searches", &before.search), ("options", &before.options)] {
        if !words.is_empty() {
            out.push_str(&format!("{key}={}\n", words.join(",")));
        }
    }
    out.push_str(&format!("\n[global-dns-domain-*]\nservers={}\n", listed(servers, ",")));
    out
}

fn silent_network_manager() -> String {
    format!(
        "{SIGNATURE}[main]\n# neither resolv.conf nor systemd-resolved hears of the servers that networks offer\ndns=none\nsystemd-resolved=false\n"
    )
}

fn resolved_drop_in(servers: &[IpAddr], before: &ResolvConf) -> String {
    let mut domains = before.search.clone();
    domains.push("~.".to_owned());
    format!(
        "{SIGNATURE}[Resolve]\n# the empty value forgets the servers of other files\nDNS=\nDNS={}\nFallbackDNS=\n\
         # all names go to these servers, and not to those of a link\nDomains={}\n\
         # TLS begins in dot-proxy\nDNSOverTLS=no\n",
        listed(servers, " "),
        domains.join(" ")
    )
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
