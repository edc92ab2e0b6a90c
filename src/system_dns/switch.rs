//! `dot-proxy system-dns`: points the machine's lookups at dot-proxy, and back.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use super::decision::{self, Manager, Notice};
use super::facts::{self, RESOLV_CONF};
use super::ledger::{FOLDER, Ledger, State};
use super::programs::{Outcome, Programs};
use super::resolv_conf::{Author, ResolvConf, listed};
use super::trial::{self, Reply};
use super::verdict::{self, Verdict};

/// How long a manager may take to act on what it was told.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a manager may take to write what it wrote before.
const RETURN: Duration = Duration::from_secs(3);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(100);
/// Servers that the C library reads.
const SERVERS: usize = 3;
/// Exit status of `status` if it was never enabled.
const NOT_ENABLED: u8 = 3;

/// What to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verb {
    /// Point the machine at dot-proxy.
    Enable {
        /// Even if dot-proxy does not answer.
        force: bool,
    },
    /// Put back what was there.
    Disable {
        /// Even over changes that somebody has made since.
        force: bool,
    },
    /// Say what is so.
    Status,
}

/// The addresses at which programs can ask dot-proxy: those with port 53, loopback first.
///
/// # Errors
/// If there is none.
pub fn servers(listen: &[SocketAddr]) -> Result<Vec<IpAddr>, String> {
    let at_port_53 = listen.iter().filter(|address| address.port() == 53);
    let mut found: Vec<IpAddr> = at_port_53
        .map(|address| match address.ip() {
            IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            address => address,
        })
        .collect();
    found.sort_by_key(|address| !address.is_loopback());
    found.dedup();
    found.truncate(SERVERS);
    if found.is_empty() {
        return Err(
            "listen.addresses has no address with port 53, and programs that read resolv.conf know no other".to_owned()
        );
    }
    Ok(found)
}

/// The machine below a root directory, and a way to tell what was done.
pub struct Switch<'a> {
    root: PathBuf,
    programs: Programs,
    tell: &'a mut dyn FnMut(&str),
}

impl Switch<'_> {
    /// The machine whose files and programs lie below `root`; `tell` takes every line that is said.
    pub fn new<'a>(root: &Path, tell: &'a mut dyn FnMut(&str)) -> Switch<'a> {
        Switch { root: root.to_owned(), programs: Programs::below(root), tell }
    }

    /// Whether files may be changed.
    fn privileged(&self) -> Result<(), String> {
        if self.root == Path::new("/") && !geteuid().is_root() {
            return Err("changing the system's DNS needs root: run it with sudo".to_owned());
        }
        Ok(())
    }

    fn fault(&self, error: &io::Error) -> String {
        let name = if self.root == Path::new("/") { "the system's DNS" } else { "DNS below the given root" };
        format!("{name}: {error}")
    }

    /// Points the machine at dot-proxy, which is asked at `servers` first.
    ///
    /// # Errors
    /// Why it was not done; everything is as before then.
    pub fn enable(&mut self, servers: &[IpAddr], force: bool) -> Result<u8, String> {
        self.privileged()?;
        let servers = self.answering(servers, force)?;
        if let Some(ledger) = Ledger::open(&self.root).map_err(|error| self.fault(&error))? {
            if ledger.servers == servers
                && ledger.foreign().is_empty()
                && matches!(self.verdict(&servers), Verdict::InForce(_))
            {
                (self.tell)(&format!("already enabled: lookups go to dot-proxy at {}", listed(&servers, " and ")));
                return Ok(0);
            }
            // from the start: what is there now may have come since, and is what disabling has to bring back
            for warning in self.back(&ledger, false)? {
                (self.tell)(&format!("warning: {warning}"));
            }
            ledger.close().map_err(|error| self.fault(&error))?;
        }
        let facts = facts::observe(&self.root, &self.programs)
            .map_err(|error| format!("/etc/resolv.conf cannot be read: {error}"))?;
        let plan = decision::plan(&facts, &servers)?;
        let ledger = Ledger::begin(&self.root, &plan, &servers)
            .map_err(|error| format!("nothing was changed: {}", self.fault(&error)))?;
        match self.forth(&ledger, force) {
            Ok(notes) => {
                (self.tell)(&format!(
                    "enabled through {}: lookups go to dot-proxy at {}",
                    plan.manager,
                    listed(&servers, " and ")
                ));
                for note in notes {
                    (self.tell)(&format!("note: {note}"));
                }
                (self.tell)("`dot-proxy system-dns disable` puts everything back");
                Ok(0)
            }
            Err(why) => {
                let outcome = match self.back(&ledger, true) {
                    Ok(_) => ledger.close().map_err(|error| error.to_string()),
                    Err(error) => Err(error),
                };
                let outcome = match outcome {
                    Ok(()) => "everything was put back".to_owned(),
                    Err(error) => format!("not everything could be put back: {error}; see /{FOLDER}"),
                };
                Err(format!("not enabled: {why}; {outcome}"))
            }
        }
    }

    /// The addresses at which dot-proxy answers, or all of them if it need not.
    fn answering(&mut self, servers: &[IpAddr], force: bool) -> Result<Vec<IpAddr>, String> {
        let trials = trial::ask(servers);
        let with = |wanted: fn(&Reply) -> bool| -> Vec<IpAddr> {
            trials.iter().filter(|trial| wanted(&trial.reply)).map(|trial| trial.address.ip()).collect()
        };
        let working = with(|reply| *reply == Reply::Works);
        let mut problems = Vec::new();
        for trial in &trials {
            match &trial.reply {
                Reply::Works => {}
                Reply::Fails(why) => problems.push(format!("dot-proxy answers at {} with {why}", trial.address)),
                Reply::Silent(why) => problems.push(format!("dot-proxy does not answer at {}: {why}", trial.address)),
            }
        }
        if !working.is_empty() {
            for problem in problems {
                (self.tell)(&format!("note: {problem}; this address is left out"));
            }
            return Ok(working);
        }
        if force {
            for problem in problems {
                (self.tell)(&format!("warning: {problem}"));
            }
            let heard = with(|reply| !matches!(reply, Reply::Silent(_)));
            return Ok(if heard.is_empty() { servers.to_vec() } else { heard });
        }
        Err(format!(
            "{}\nnothing was changed: this machine would have no DNS; start dot-proxy (`systemctl start dot-proxy.socket`), \
             see what it says (`journalctl -u dot-proxy`), or use --force",
            problems.join("\n")
        ))
    }

    /// Makes all changes, tells everybody, and waits until lookups go to dot-proxy.
    fn forth(&mut self, ledger: &Ledger, force: bool) -> Result<Vec<String>, String> {
        ledger.apply().map_err(|error| error.to_string())?;
        for notice in &ledger.notices {
            self.notify(*notice, ledger.manager)?;
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let why = match self.verdict(&ledger.servers) {
                Verdict::InForce(notes) => match self.through_the_file(force) {
                    Ok(()) => return Ok(notes),
                    Err(why) => why,
                },
                Verdict::Not(why) => why,
            };
            if Instant::now() >= end {
                return Err(why);
            }
            if ledger.notices.contains(&Notice::Links) {
                self.notify(Notice::Links, ledger.manager)?;
            }
            thread::sleep(LOOK);
        }
    }

    /// Asks as a program would: the first server of the file.
    fn through_the_file(&self, force: bool) -> Result<(), String> {
        let file = facts::content(&self.root).ok().flatten().unwrap_or_default();
        let first = file.nameservers.first().copied();
        match trial::ask(first.as_slice()).into_iter().next().map(|trial| (trial.address, trial.reply)) {
            Some((_, Reply::Works)) => Ok(()),
            _ if force => Ok(()),
            Some((address, Reply::Fails(why) | Reply::Silent(why))) => {
                Err(format!("a query to {address}, which /etc/resolv.conf names, had no answer: {why}"))
            }
            None => Err("/etc/resolv.conf names no server".to_owned()),
        }
    }

    /// Puts everything back that is as it was written, and with `all` also what was changed since. Gives what a manager
    /// said to it that could not be told; it will see the files when it starts again.
    fn back(&mut self, ledger: &Ledger, all: bool) -> Result<Vec<String>, String> {
        ledger.undo(all).map_err(|error| self.fault(&error))?;
        if ledger.manager == Manager::DebianResolvconf
            || ledger.changes.iter().any(|change| change.path == decision::RESOLVCONF_HOOK)
        {
            // its record is no file of a plan; that it is not there is no fault
            let _ = self.programs.run("resolvconf -d lo.dot-proxy");
        }
        let mut faults = Vec::new();
        // systemd-resolved first, so that NetworkManager has somebody to tell
        for notice in [Notice::Resolved, Notice::NetworkManager, Notice::Resolvconf, Notice::Dhcpcd] {
            if ledger.notices.contains(&notice) {
                faults.extend(self.notify(notice, ledger.manager).err());
            }
        }
        for (number, change) in ledger.changes.iter().enumerate().filter(|(_, change)| !change.ours) {
            let returned = self.returned(ledger, number);
            if !returned {
                ledger.restore(number).map_err(|error| format!("/{}: {error}", change.path))?;
            }
        }
        Ok(faults)
    }

    /// Whether a manager has written what it wrote before, or what it would write by now.
    fn returned(&self, ledger: &Ledger, number: usize) -> bool {
        let end = Instant::now() + RETURN;
        let of_manager = |file: &ResolvConf| {
            let author = match ledger.manager {
                Manager::NetworkManager => Author::NetworkManager,
                _ => Author::Openresolv,
            };
            file.author == Some(author)
        };
        let original = ledger.original(number).map(|octets| ResolvConf::read(&octets)).unwrap_or_default();
        loop {
            let now = facts::content(&self.root).ok().flatten().unwrap_or_default();
            let ours = now.names_only(&ledger.servers) && !original.names_only(&ledger.servers);
            if ledger.state(number) == State::Original && !ours {
                return true;
            }
            if Instant::now() >= end {
                let is_file = ledger.changes.get(number).is_some_and(|change| change.path == RESOLV_CONF);
                return is_file && of_manager(&original) && of_manager(&now) && !ours;
            }
            thread::sleep(LOOK);
        }
    }

    /// Tells a manager that something has changed.
    fn notify(&self, notice: Notice, manager: Manager) -> Result<(), String> {
        let must = |line: &str| match self.programs.run(line) {
            Outcome::Done(_) => Ok(()),
            Outcome::Missing => Err(format!("`{line}` cannot be run, there is no such program")),
            Outcome::Failed(why) => Err(why),
        };
        match notice {
            Notice::NetworkManager => must("systemctl reload NetworkManager.service"),
            Notice::Resolved => must("systemctl restart systemd-resolved.service").or_else(|_| {
                // it was started often of late, by us
                let _ = self.programs.run("systemctl reset-failed systemd-resolved.service");
                must("systemctl restart systemd-resolved.service")
            }),
            // it fails with any hook of anybody, such as that of a server that does not run; the file tells what it did
            Notice::Resolvconf => match self.programs.run("resolvconf -u") {
                Outcome::Missing => Err(format!("there is no `resolvconf`, though {manager} manages DNS")),
                Outcome::Done(_) | Outcome::Failed(_) => Ok(()),
            },
            Notice::Links => {
                let devices = self.programs.run("nmcli -t -f DEVICE,STATE device").text().unwrap_or_default();
                for device in devices.lines().filter_map(|line| line.strip_suffix(":connected")) {
                    // a link that systemd-resolved does not know has nothing to forget
                    let _ = self.programs.run(&format!("resolvectl revert {device}"));
                }
                Ok(())
            }
            Notice::Dhcpcd => {
                // it may not run
                let _ = self.programs.run("dhcpcd -n");
                Ok(())
            }
        }
    }

    fn verdict(&self, servers: &[IpAddr]) -> Verdict {
        let resolved = facts::runs(&self.programs, "systemd-resolved.service").then(|| {
            let said = |line| self.programs.run(line).text().unwrap_or_default();
            verdict::resolved(&said("resolvectl dns"), &said("resolvectl domain"))
        });
        match facts::content(&self.root) {
            Ok(file) => verdict::judge(servers, file.as_ref(), resolved.as_ref()),
            Err(error) => Verdict::Not(format!("/etc/resolv.conf cannot be read: {error}")),
        }
    }

    /// Puts back what was there.
    ///
    /// # Errors
    /// What could not be put back, or was not, since somebody has changed it.
    pub fn disable(&mut self, force: bool) -> Result<u8, String> {
        self.privileged()?;
        let Some(ledger) = Ledger::open(&self.root).map_err(|error| self.fault(&error))? else {
            (self.tell)("not enabled: nothing to undo");
            return Ok(0);
        };
        let foreign: Vec<String> = ledger.foreign().iter().map(|change| format!("/{}", change.path)).collect();
        for warning in self.back(&ledger, force)? {
            (self.tell)(&format!("warning: {warning}"));
        }
        if !force && !foreign.is_empty() {
            return Err(format!(
                "{} was changed by somebody since dot-proxy wrote it, and is left as it is; everything else was put back\n\
                 what was there before is kept in /{FOLDER}: `dot-proxy system-dns disable --force` puts it back, and \
                 removing that folder leaves it as it is for good",
                foreign.join(" and ")
            ));
        }
        let manager = ledger.manager;
        ledger.close().map_err(|error| self.fault(&error))?;
        (self.tell)(&format!("disabled: {manager} is as it was before"));
        Ok(0)
    }

    /// Says what manages DNS, whether lookups go to dot-proxy, and whether it answers.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn status(&mut self, servers: &[IpAddr]) -> Result<u8, String> {
        let ledger = Ledger::open(&self.root).map_err(|error| self.fault(&error))?;
        let asked = ledger.as_ref().map_or(servers, |ledger| &ledger.servers).to_vec();
        let verdict = self.verdict(&asked);
        let status = match &ledger {
            None => {
                let facts = facts::observe(&self.root, &self.programs)
                    .map_err(|error| format!("/etc/resolv.conf cannot be read: {error}"))?;
                (self.tell)(&format!("not enabled; DNS is managed by {}", decision::manager(&facts)));
                NOT_ENABLED
            }
            Some(ledger) => {
                (self.tell)(&format!(
                    "enabled through {}, for dot-proxy at {}",
                    ledger.manager,
                    listed(&asked, " and ")
                ));
                for change in ledger.foreign() {
                    (self.tell)(&format!("/{} was changed by somebody since dot-proxy wrote it", change.path));
                }
                if servers != ledger.servers && ledger.servers.iter().any(|server| !servers.contains(server)) {
                    (self.tell)(&format!(
                        "the configuration now has dot-proxy at {}: `dot-proxy system-dns enable` follows",
                        listed(servers, " and ")
                    ));
                }
                u8::from(matches!(verdict, Verdict::Not(_)))
            }
        };
        match verdict {
            Verdict::InForce(notes) => {
                (self.tell)("lookups go to dot-proxy");
                for note in notes {
                    (self.tell)(&format!("note: {note}"));
                }
            }
            Verdict::Not(why) if ledger.is_some() => {
                (self.tell)(&format!("lookups do not go to dot-proxy: {why}; `dot-proxy system-dns enable` mends it"));
            }
            Verdict::Not(why) => (self.tell)(&format!("lookups do not go to dot-proxy: {why}")),
        }
        for trial in trial::ask(&asked) {
            match trial.reply {
                Reply::Works => (self.tell)(&format!("dot-proxy answers at {}", trial.address)),
                Reply::Fails(why) => (self.tell)(&format!("dot-proxy answers at {} with {why}", trial.address)),
                Reply::Silent(why) => (self.tell)(&format!("dot-proxy does not answer at {}: {why}", trial.address)),
            }
        }
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::servers;

    #[test]
    fn programs_ask_at_the_addresses_with_port_53() {
        let found = |words: &[&str]| {
            let listen: Vec<_> = words.iter().map(|word| word.parse().unwrap()).collect();
            servers(&listen).map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(found(&["127.0.0.1:53", "[::1]:53"]).unwrap(), ["127.0.0.1", "::1"]);
        assert_eq!(found(&["192.0.2.1:53", "0.0.0.0:53", "[::]:53"]).unwrap(), ["127.0.0.1", "::1", "192.0.2.1"]);
        assert_eq!(found(&["127.0.0.1:5300", "127.0.0.2:53"]).unwrap(), ["127.0.0.2"]);
        assert!(found(&["127.0.0.1:5300"]).unwrap_err().contains("port 53"));
    }
}
