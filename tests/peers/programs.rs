//! Real programs beside the proxy: resolvers that speak DNS over TLS, and clients.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::{Pki, Proxy, UdpClient, config_for, inspect, query};

use crate::conformance::bench::binary;

/// The name in every resolver's certificate.
pub(crate) const NAME: &str = "upstream.test";
/// The address that every resolver answers for any name below `peer.example`.
pub(crate) const ADDRESS: &str = "192.0.2.53";

/// Whether all these programs are there. A test without them says so and ends; in CI that is a failure.
pub(crate) fn available(programs: &[&str]) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let found = |program: &&&str| path.split(':').any(|folder| Path::new(folder).join(program).is_file());
    let missing: Vec<_> = programs.iter().filter(|program| !found(program)).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("DOT_PROXY_NO_SKIPS").is_none(), "not installed: {missing:?}");
    println!("skipped: not installed: {missing:?}");
    false
}

/// A command with the folders of system programs in its path.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())).stdin(Stdio::null());
    command
}

/// What a client program printed; it must end well.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// A port that was free for both protocols a moment ago, for programs that cannot be asked to choose one.
fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // other tests have hundreds of sockets for datagrams
        if UdpSocket::bind(address).is_ok() {
            return address.port();
        }
    }
}

/// A resolver that runs until it is dropped, and what it needs.
pub(crate) struct Resolver {
    child: Child,
    pub(crate) pki: Pki,
    /// Where it speaks DNS over TLS.
    pub(crate) address: SocketAddr,
    /// Where it speaks plain DNS, if it does.
    pub(crate) plain: u16,
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // an error says that it has ended by itself
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Resolver {
    /// Starts a program with a configuration made from (folder, certificate, key, TLS port, plain port).
    fn start(program: &str, arguments: &[&str], config: impl Fn(&Path, &Path, &Path, u16, u16) -> String) -> Resolver {
        let pki = Pki::new();
        let folder = pki.directory().to_owned();
        let (certificate, key) = pki.server(&[NAME, "127.0.0.1"]).write_pem(&folder, "server");
        let (port, plain) = (free_port(), free_port());
        let file = folder.join("configuration");
        fs::write(&file, config(&folder, &certificate, &key, port, plain)).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let mut command = command(program);
        for argument in arguments {
            command.arg(argument.replace("CONFIG", file.to_str().unwrap()).replace("FOLDER", folder.to_str().unwrap()));
        }
        let child = command.current_dir(&folder).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut resolver = Resolver { child, pki, address, plain };
        let last = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            let ended = resolver.child.try_wait().unwrap().is_some();
            let said = || fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(!ended && Instant::now() < last, "{program} did not start:\n{}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        resolver
    }

    pub(crate) fn unbound() -> Resolver {
        Resolver::start("unbound", &["-d", "-c", "CONFIG"], |_, certificate, key, port, _| {
            format!(
                "server:\n interface: 127.0.0.1@{port}\n tls-port: {port}\n tls-service-pem: {}\n tls-service-key: {}\n \
                 do-daemonize: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n num-threads: 1\n \
                 incoming-num-tcp: 100\n access-control: 127.0.0.0/8 allow\n module-config: \"iterator\"\n \
                 local-zone: peer.example. redirect\n local-data: \"peer.example. 300 IN A {ADDRESS}\"\n\
                 remote-control:\n control-enable: no\n",
                certificate.display(),
                key.display()
            )
        })
    }

    pub(crate) fn knot() -> Resolver {
        Resolver::start("kresd", &["-n", "-c", "CONFIG", "FOLDER"], |_, certificate, key, port, _| {
            format!(
                "net.listen('127.0.0.1', {port}, {{ kind = 'tls' }})\nnet.tls('{}', '{}')\n\
                 modules.unload('ta_update')\nmodules.unload('ta_signal_query')\nmodules.unload('priming')\n\
                 modules.unload('detect_time_skew')\nmodules.unload('detect_time_jump')\ntrust_anchors.remove('.')\n\
                 modules = {{ 'policy' }}\ncache.size = 10 * MB\n\
                 policy.add(policy.all(policy.ANSWER({{ [kres.type.A] = {{ rdata = kres.str2ip('{ADDRESS}'), ttl = 300 }} }})))\n",
                certificate.display(),
                key.display()
            )
        })
    }

    pub(crate) fn dnsdist() -> Resolver {
        Resolver::start(
            "dnsdist",
            &["--supervised", "--disable-syslog", "-C", "CONFIG"],
            |_, certificate, key, port, plain| {
                format!(
                    "setLocal('127.0.0.1:{plain}')\naddTLSLocal('127.0.0.1:{port}', '{}', '{}', {{ maxInFlight = 10000 }})\n\
                 setSecurityPollSuffix('')\naddAction(AllRule(), SpoofAction({{'{ADDRESS}'}}, {{ ttl = 300 }}))\n\
                 newServer{{ address = '127.0.0.1:9', healthCheckMode = 'up' }}\n",
                    certificate.display(),
                    key.display()
                )
            },
        )
    }

    /// BIND with a zone of `records` addresses that one key may transfer and change.
    pub(crate) fn bind(secret: &str, records: usize) -> Resolver {
        // it goes on without a port that somebody has taken meanwhile
        let found = (0..3).find_map(|_| Resolver::bind_at_free_ports(secret, records));
        found.expect("the zone is not loaded, three times")
    }

    fn bind_at_free_ports(secret: &str, records: usize) -> Option<Resolver> {
        let resolver = Resolver::start("named", &["-g", "-c", "CONFIG"], |folder, certificate, key, port, plain| {
            let zone: PathBuf = folder.join("zone.db");
            let mut text =
                "$TTL 300\n@ IN SOA ns hostmaster 1 3600 600 86400 300\n@ IN NS ns\nns IN A 192.0.2.1\n".to_owned();
            for number in 0..records {
                text += &format!(
                    "h{number} IN A 10.{}.{}.{}\nh{number} IN TXT \"{}\"\n",
                    number >> 16,
                    number >> 8 & 255,
                    number & 255,
                    "x".repeat(200)
                );
            }
            fs::write(&zone, text).unwrap();
            let folder = folder.display();
            format!(
                "options {{ directory \"{folder}\"; pid-file \"{folder}/pid\"; session-keyfile \"{folder}/session.key\"; \
                 listen-on port {plain} {{ 127.0.0.1; }}; listen-on port {port} tls here {{ 127.0.0.1; }}; \
                 listen-on-v6 {{ none; }}; recursion no; dnssec-validation no; managed-keys-directory \"{folder}\"; }};\n\
                 controls {{ }};\nkey \"k\" {{ algorithm hmac-sha256; secret \"{secret}\"; }};\n\
                 tls here {{ cert-file \"{}\"; key-file \"{}\"; }};\n\
                 zone \"zone.example\" {{ type primary; file \"{}\"; allow-transfer {{ key k; }}; allow-update {{ key k; }}; }};\n",
                certificate.display(),
                key.display(),
                zone.display()
            )
        });
        // its sockets are open before its zone is loaded
        let client = UdpClient::connect(SocketAddr::from(([127, 0, 0, 1], resolver.plain)));
        let is_loaded = || client.ask(&query(1, "zone.example", 6)).is_some_and(|answer| inspect::rcode(&answer) == 0);
        let last = Instant::now() + Duration::from_secs(20);
        while !is_loaded() {
            if Instant::now() >= last {
                let said = fs::read_to_string(resolver.pki.directory().join("log")).unwrap_or_default();
                println!("the zone is not loaded:\n{said}");
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(resolver)
    }

    /// The real program, with this resolver behind it.
    pub(crate) fn proxy(&self) -> Proxy {
        let config = config_for(&[(self.address, NAME)], self.pki.ca_file()).replace("\"debug\"", "\"info\"");
        Proxy::builder(binary()).config(&config).start()
    }
}
