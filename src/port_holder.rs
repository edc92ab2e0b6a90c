//! Who holds a port that cannot be bound: process and unit, as far as `/proc` shows them, and the command that helps.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use nix::unistd::{Uid, User};

/// Whoever has a socket on the port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Its process ID and name, if they can be seen.
    process: Option<(u32, String)>,
    /// The unit of the service manager that it belongs to.
    unit: Option<String>,
    /// The user that made the socket, by number.
    user: u32,
    port: u16,
}

/// Looks for whoever stands in the way of a socket on `address`; `protocol` is "tcp" or "udp". Below `root` instead of
/// `/`, for tests.
pub fn find(root: &Path, address: SocketAddr, protocol: &str) -> Option<Holder> {
    let tables = [protocol.to_owned(), format!("{protocol}6")];
    let table = |name: &String| fs::read_to_string(root.join("proc/net").join(name)).unwrap_or_default();
    let (user, inode) = tables.iter().find_map(|name| socket_in(&table(name), address, protocol == "tcp"))?;
    let pid = owner_of(root, inode);
    let read = |pid: u32, file: &str| fs::read_to_string(root.join(format!("proc/{pid}/{file}"))).ok();
    let process = pid.map(|pid| (pid, read(pid, "comm").unwrap_or_default().trim().to_owned()));
    let unit = pid.and_then(|pid| unit_of(&read(pid, "cgroup")?));
    Some(Holder { process, unit, user, port: address.port() })
}

/// User and inode of the first socket in a table of `/proc/net` that would stand in the way.
fn socket_in(table: &str, wanted: SocketAddr, listening_only: bool) -> Option<(u32, u64)> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = local_address(fields.get(1)?)?;
        let collides = local.port() == wanted.port()
            && (local.ip() == wanted.ip() || local.ip().is_unspecified() || wanted.ip().is_unspecified());
        if !collides || listening_only && *fields.get(3)? != LISTEN {
            return None;
        }
        Some((fields.get(7)?.parse().ok()?, fields.get(9)?.parse().ok()?))
    })
}

/// `0100007F:0035`: words of the address in the machine's order of octets, then the port.
fn local_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<u32>> = address
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok())
        .collect();
    let octets: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(four) => IpAddr::from(four),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets.as_slice()).ok()?)).to_canonical(),
    };
    Some(SocketAddr::new(ip, port))
}

/// The process that has the socket open. Those of other users can be seen by root alone.
fn owner_of(root: &Path, inode: u64) -> Option<u32> {
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir(root.join("proc")).ok()?.flatten();
    let mut pids: Vec<u32> = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // the service manager also keeps the sockets that it has handed to a service, whose number is higher
    pids.sort_unstable_by(|one, other| other.cmp(one));
    pids.into_iter().find(|pid| {
        let open = fs::read_dir(root.join(format!("proc/{pid}/fd"))).into_iter().flatten().flatten();
        open.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == link.as_str()))
    })
}

/// The innermost unit in a process's control group.
fn unit_of(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| {
        line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path))
    })?;
    let is_unit = |part: &&str| [".service", ".scope", ".socket"].iter().any(|end| part.ends_with(end));
    path.split('/').rev().find(is_unit).map(str::to_owned)
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.process, &self.unit) {
            (Some((1, name)), _) => write!(
                out,
                "held by {name} (process 1) for a socket unit; `systemctl list-sockets` shows which, and `systemctl disable --now` ends it"
            ),
            (Some((pid, name)), Some(unit)) if unit == "systemd-resolved.service" => write!(
                out,
                "held by {name} (process {pid}, {unit}); to have it without its own listener, write \"[Resolve]\" and \
                 \"DNSStubListener=no\" into /etc/systemd/resolved.conf.d/no-stub.conf and run `systemctl restart {unit}`"
            ),
            (Some((pid, name)), Some(unit)) if unit.ends_with(".service") => {
                write!(out, "held by {name} (process {pid}, {unit}); `systemctl disable --now {unit}` ends it")
            }
            (Some((pid, name)), Some(unit)) => {
                write!(out, "held by {name} (process {pid}, {unit}); `kill {pid}` ends it")
            }
            (Some((pid, name)), None) => write!(out, "held by {name} (process {pid}); `kill {pid}` ends it"),
            (None, _) => {
                let user = User::from_uid(Uid::from_raw(self.user)).ok().flatten();
                let user = user.map_or_else(|| format!("with number {}", self.user), |user| user.name);
                write!(out, "held by a process of the user {user}; `sudo ss -lpn 'sport = :{}'` shows which", self.port)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Holder, find, local_address, unit_of};
    use std::fs;
    use std::net::UdpSocket;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    #[test]
    fn this_process_is_found_on_its_own_port() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        for wanted in [address, format!("0.0.0.0:{}", address.port()).parse().unwrap()] {
            let holder = find(Path::new("/"), wanted, "udp").unwrap();
            assert_eq!(holder.process.as_ref().unwrap().0, std::process::id(), "{holder}");
        }
        assert_eq!(find(Path::new("/"), "127.0.0.2:1".parse().unwrap(), "udp"), None);
        let v6 = UdpSocket::bind("[::1]:0").unwrap().local_addr().unwrap();
        assert_eq!(find(Path::new("/"), v6, "tcp"), None);
    }

    #[test]
    fn addresses_are_read_in_the_order_of_this_machine() {
        if cfg!(target_endian = "little") {
            assert_eq!(local_address("0100007F:0035"), "127.0.0.1:53".parse().ok());
            assert_eq!(local_address("00000000000000000000000001000000:0035"), "[::1]:53".parse().ok());
            assert_eq!(local_address("0000000000000000FFFF00000100007F:0035"), "127.0.0.1:53".parse().ok());
        }
        assert_eq!(local_address("nonsense"), None);
    }

    #[test]
    fn the_unit_is_the_innermost_one() {
        assert_eq!(unit_of("0::/system.slice/dnsmasq.service\n").as_deref(), Some("dnsmasq.service"));
        assert_eq!(unit_of("0::/user.slice/user-0.slice/session-1.scope").as_deref(), Some("session-1.scope"));
        let old = "12:pids:/x.service\n1:name=systemd:/system.slice/named.service\n";
        assert_eq!(unit_of(old).as_deref(), Some("named.service"));
        assert_eq!(unit_of("0::/\n"), None);
    }

    /// A `/proc` with one listening socket on 127.0.0.53:53, held by this process of this unit.
    fn holder(pid: u32, comm: &str, cgroup: &str) -> Holder {
        let root = tempfile::tempdir().unwrap();
        let proc = root.path().join("proc");
        fs::create_dir_all(proc.join("net")).unwrap();
        let line =
            "  0: 3500007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000   992        0 4711 1 0\n";
        fs::write(proc.join("net/tcp"), format!("  sl  local_address ...\n{line}")).unwrap();
        let folder = proc.join(pid.to_string());
        fs::create_dir_all(folder.join("fd")).unwrap();
        symlink("socket:[4711]", folder.join("fd/9")).unwrap();
        fs::write(folder.join("comm"), format!("{comm}\n")).unwrap();
        fs::write(folder.join("cgroup"), cgroup).unwrap();
        find(root.path(), "0.0.0.0:53".parse().unwrap(), "tcp").unwrap()
    }

    #[test]
    fn each_kind_of_holder_comes_with_the_command_that_helps() {
        let resolved = holder(77, "systemd-resolve", "0::/system.slice/systemd-resolved.service\n").to_string();
        assert!(resolved.contains("DNSStubListener=no") && resolved.contains("process 77"), "{resolved}");
        let dnsmasq = holder(78, "dnsmasq", "0::/system.slice/dnsmasq.service\n").to_string();
        assert!(dnsmasq.ends_with("`systemctl disable --now dnsmasq.service` ends it"), "{dnsmasq}");
        let manager = holder(1, "systemd", "0::/init.scope\n").to_string();
        assert!(manager.contains("systemctl list-sockets"), "{manager}");
        let by_hand = holder(79, "unbound", "0::/user.slice/session-3.scope\n").to_string();
        assert!(by_hand.contains("`kill 79`"), "{by_hand}");
        let hidden = Holder { process: None, unit: None, user: 3_999_992, port: 53 }.to_string();
        assert_eq!(
            hidden,
            "held by a process of the user with number 3999992; `sudo ss -lpn 'sport = :53'` shows which"
        );
        let roots = Holder { process: None, unit: None, user: 0, port: 53 }.to_string();
        assert!(roots.starts_with("held by a process of the user root; "), "{roots}");
    }
}
