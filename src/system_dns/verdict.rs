//! Whether the machine's lookups go to dot-proxy: judged from what is in force, not from what was written.

use std::net::{IpAddr, Ipv4Addr};

use super::resolv_conf::{ResolvConf, listed};

/// Where systemd-resolved listens itself.
const STUBS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

/// What systemd-resolved uses, as `resolvectl` tells it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Resolved {
    /// Servers for everything.
    pub servers: Vec<IpAddr>,
    /// The links that have servers of their own.
    pub links: Vec<Link>,
}

/// A link with servers of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// The domains whose names go to its servers, `~.` for all names.
    pub domains: Vec<String>,
}

/// Whether lookups go to dot-proxy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// They do; with what is still to be said.
    InForce(Vec<String>),
    /// They do not, or not all; why.
    Not(String),
}

/// Reads what `resolvectl dns` and `resolvectl domain` print.
pub fn resolved(servers: &str, domains: &str) -> Resolved {
    let domains: Vec<(&str, &str)> = domains.lines().filter_map(|line| line.split_once(':')).collect();
    let mut found = Resolved::default();
    for (who, values) in servers.lines().filter_map(|line| line.split_once(':')) {
        let mut words = values.split_whitespace().peekable();
        if who == "Global" {
            // an address may carry a port, a link and a name, none of which dot-proxy's has
            found.servers = words.map(|word| word.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))).collect();
        } else if words.peek().is_some() {
            let name = who.split_once('(').map_or(who, |(_, name)| name.trim_end_matches(')'));
            let domains = domains.iter().find(|(link, _)| *link == who).map_or("", |(_, domains)| domains);
            let domains = domains.split_whitespace().map(str::to_owned).collect();
            found.links.push(Link { name: name.to_owned(), domains });
        }
    }
    found
}

/// Judges: `file` is the resolv.conf in force, `resolved` what systemd-resolved uses, if it runs.
pub fn judge(ours: &[IpAddr], file: Option<&ResolvConf>, resolved: Option<&Resolved>) -> Verdict {
    let Some(file) = file else { return Verdict::Not("there is no /etc/resolv.conf".to_owned()) };
    let by_stub = resolved.is_some() && file.names_only(&STUBS);
    if !by_stub && !file.names_only(ours) {
        return Verdict::Not(format!("/etc/resolv.conf names {}, not {} alone", file.servers(), listed(ours, " and ")));
    }
    let Some(resolved) = resolved else { return Verdict::InForce(Vec::new()) };
    if resolved.servers.is_empty() || !resolved.servers.iter().all(|server| ours.contains(server)) {
        let uses = if resolved.servers.is_empty() { "no server".to_owned() } else { listed(&resolved.servers, ", ") };
        return Verdict::Not(format!("systemd-resolved uses {uses}, not {} alone", listed(ours, " and ")));
    }
    if let Some(link) = resolved.links.iter().find(|link| link.domains.iter().any(|domain| domain == "~.")) {
        return Verdict::Not(format!(
            "systemd-resolved asks the servers of the link {} as well, since it has the domain ~.; take that out of the \
             configuration of the link",
            link.name
        ));
    }
    let mut notes = Vec::new();
    for link in resolved.links.iter().filter(|link| !link.domains.is_empty()) {
        let domains: Vec<&str> = link.domains.iter().map(|domain| domain.trim_start_matches('~')).collect();
        notes.push(format!("names below {} go to the servers of the link {}", domains.join(", "), link.name));
    }
    Verdict::InForce(notes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use std::net::IpAddr;

    use super::{ResolvConf, Verdict, judge, resolved};

    fn ours() -> Vec<IpAddr> {
        vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]
    }

    fn file(text: &str) -> Option<ResolvConf> {
        Some(ResolvConf::read(text.as_bytes()))
    }

    #[test]
    fn a_file_is_in_force_if_it_names_nobody_else() {
        for (text, expected) in [
            ("nameserver 127.0.0.1\n", ""),
            ("nameserver ::1\nnameserver 127.0.0.1\n", ""),
            ("nameserver 127.0.0.1\nnameserver 192.0.2.1\n", "names 127.0.0.1, 192.0.2.1, not 127.0.0.1 and ::1 alone"),
            ("nameserver 127.0.0.53\n", "names 127.0.0.53"),
            ("search x\n", "names no server"),
        ] {
            match judge(&ours(), file(text).as_ref(), None) {
                Verdict::InForce(notes) => assert!(expected.is_empty() && notes.is_empty(), "{text}"),
                Verdict::Not(why) => assert!(!expected.is_empty() && why.contains(expected), "{text}: {why}"),
            }
        }
        assert!(matches!(judge(&ours(), None, None), Verdict::Not(_)));
    }

    #[test]
    fn systemd_resolved_is_judged_by_what_it_uses() {
        let stub = file("nameserver 127.0.0.53\n");
        for (servers, domains, expected) in [
            ("Global: 127.0.0.1 ::1\nLink 2 (eth0): 192.0.2.1\n", "Global: ~.\nLink 2 (eth0):\n", Ok(0)),
            ("Global: 127.0.0.1\nLink 2 (eth0): 192.0.2.1\n", "Global: ~.\nLink 2 (eth0): corp.example\n", Ok(1)),
            ("Global: 127.0.0.1\nLink 2 (eth0):\n", "Global: ~.\nLink 2 (eth0): ~.\n", Ok(0)),
            ("Global: 127.0.0.1\nLink 2 (eth0): 192.0.2.1\n", "Link 2 (eth0): ~.\n", Err("the link eth0 as well")),
            ("Global:\nLink 2 (eth0): 192.0.2.1\n", "", Err("uses no server")),
            ("Global: 127.0.0.1 192.0.2.1\n", "", Err("uses 127.0.0.1, 192.0.2.1")),
            ("Global: 127.0.0.1#name\n", "", Err("systemd-resolved uses")),
            ("", "", Err("uses no server")),
        ] {
            match (judge(&ours(), stub.as_ref(), Some(&resolved(servers, domains))), expected) {
                (Verdict::InForce(notes), Ok(count)) => assert_eq!(notes.len(), count, "{servers}{domains}{notes:?}"),
                (Verdict::Not(why), Err(words)) => assert!(why.contains(words), "{why}"),
                (found, _) => assert!(expected.is_err() && expected.is_ok(), "{servers}{domains}: {found:?}"),
            }
        }
    }
}
