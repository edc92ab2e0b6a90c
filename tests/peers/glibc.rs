//! The C library's own resolver, whose `resolv.conf` points at the proxy on port 53 of a network of its own.

use std::fs;

use testkit::Pki;

use super::programs::{ADDRESS, NAME, available, command};
use crate::conformance::bench::binary;

const SCRIPT: &str = r#"
set -eu
ip link set lo up
# the C library looks for IPv4 addresses only where the machine has one besides loopback
ip address add 198.51.100.1/32 dev lo
mount --bind resolv.conf /etc/resolv.conf
mount --bind nsswitch.conf /etc/nsswitch.conf
unbound -d -c unbound.conf > unbound.log 2>&1 &
unbound=$!
"$PROGRAM" --config dot-proxy.toml > proxy.log 2>&1 &
proxy=$!
trap 'kill $unbound $proxy' EXIT
for try in $(seq 200); do grep -q ready proxy.log && break; sleep 0.05; done
for try in $(seq 200); do getent ahostsv4 up.peer.example > /dev/null && break; sleep 0.05; done
for number in $(seq 20); do getent ahostsv4 "n$number.peer.example"; done
getent hosts nowhere.home.arpa && exit 3
kill -TERM $proxy
wait $proxy && echo stopped
trap 'kill $unbound' EXIT
cat proxy.log
"#;

#[test]
fn getent_is_answered() {
    if !available(&["unbound", "unshare", "getent", "ip", "mount"]) {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("DOT_PROXY_NO_SKIPS").is_none(), "needs root");
        println!("skipped: needs root for a network of its own");
        return;
    }
    let pki = Pki::new();
    let folder = pki.directory();
    let (certificate, key) = pki.server(&[NAME]).write_pem(folder, "server");
    fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:5 attempts:1\n").unwrap();
    fs::write(folder.join("nsswitch.conf"), "hosts: files dns\n").unwrap();
    fs::write(
        folder.join("unbound.conf"),
        format!(
            "server:\n interface: 127.0.0.1@853\n tls-port: 853\n tls-service-pem: {}\n tls-service-key: {}\n username: \"\"\n \
             chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n module-config: \"iterator\"\n local-zone: peer.example. redirect\n \
             local-data: \"peer.example. 300 IN A {ADDRESS}\"\nremote-control:\n control-enable: no\n",
            certificate.display(),
            key.display()
        ),
    )
    .unwrap();
    fs::write(
        folder.join("dot-proxy.toml"),
        format!("[upstream]\nservers = [\"127.0.0.1#{NAME}\"]\nca-file = \"{}\"\n", pki.ca_file().display()),
    )
    .unwrap();
    let output = command("unshare")
        .args(["--net", "--mount", "sh", "-c", SCRIPT])
        .env("PROGRAM", binary())
        .current_dir(folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = fs::read_to_string(folder.join("proxy.log")).unwrap_or_default();
    assert!(output.status.success(), "{}\n{text}\n{}\n{log}", output.status, String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().filter(|line| line.starts_with(ADDRESS) && line.contains("STREAM")).count(), 20, "{text}");
    assert!(text.contains("stopped\n") && text.contains("SIGTERM: stopping"), "{text}");
    assert!(text.contains("listening on [::1]:53"), "{text}");
}
