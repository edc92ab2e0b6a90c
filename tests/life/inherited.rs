//! Sockets handed over as a service manager does, and what it is told.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use testkit::proxy_process::Signal;
use testkit::tls_client::client_config;
use testkit::{DotServer, Pki, Proxy, TcpClient, TlsClient, UdpClient, a_for, config_for, inspect, query};

use crate::conformance::bench::binary;
use crate::conformance::namespace::in_namespace;
use crate::conformance::o_tls::{NAME, config_with_tls};
use crate::life::control::status;

const PATIENCE: Duration = Duration::from_secs(10);

/// A server, and a folder for the script that stands in for the service manager.
struct Stage {
    pki: Pki,
    server: DotServer,
}

impl Stage {
    fn new() -> Stage {
        let pki = Pki::new();
        let server = DotServer::start(pki.server(&["upstream.test"]));
        Stage { pki, server }
    }

    fn config(&self) -> String {
        config_for(&[(self.server.address(), "upstream.test")], self.pki.ca_file())
    }

    /// A program that hands these descriptors over from 3 upward, sets the variables, and becomes dot-proxy.
    fn manager(&self, fds: &[&dyn AsFd], variables: &[(&str, &str)]) -> PathBuf {
        use std::os::fd::AsRawFd;
        let mut script = "#!/bin/bash\n".to_owned();
        // first out of the way, to numbers that the shell finds free: one to be handed over may itself be number 3,
        // and any number chosen here may be one of them
        for (index, fd) in fds.iter().enumerate() {
            fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
            script += &format!("exec {{spare{index}}}<&{}\n", fd.as_fd().as_raw_fd());
        }
        for index in 0..fds.len() {
            script += &format!("exec {}<&${{spare{index}}} {{spare{index}}}<&-\n", 3 + index);
        }
        for (name, value) in variables {
            script += &format!("export {name}={value}\n");
        }
        script += &format!("exec {} \"$@\"\n", binary().display());
        let path = self.pki.directory().join("manager");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

fn is_served(address: SocketAddr, over_tcp: bool, name: &str) {
    let query = query(3, name, 1);
    let answer =
        if over_tcp { TcpClient::connect(address).ask(&query) } else { UdpClient::connect(address).ask(&query) };
    assert_eq!(inspect::a_records(&answer.expect("no answer")), [a_for(name)]);
}

#[test]
fn c142_sockets_are_told_apart_by_what_they_are() {
    let stage = Stage::new();
    let (v4, v6) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap());
    let (tcp, wildcard) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("0.0.0.0:0").unwrap());
    let manager = stage.manager(
        &[&tcp, &v6, &wildcard, &v4],
        &[("LISTEN_PID", "$$"), ("LISTEN_FDS", "4"), ("LISTEN_FDNAMES", "streams:six:wild:four")],
    );
    let proxy = Proxy::builder(&manager).config(&stage.config()).start();
    is_served(tcp.local_addr().unwrap(), true, "tcp.test");
    is_served(v4.local_addr().unwrap(), false, "four.test");
    is_served(v6.local_addr().unwrap(), false, "six.test");
    // nobody told this socket to report addresses but us
    is_served(SocketAddr::from(([127, 0, 0, 9], wildcard.local_addr().unwrap().port())), false, "wild.test");
    for line in ["(tcp, from streams)", "(udp, from six)", "(udp, from wild)", "(udp, from four)"] {
        assert!(proxy.log().contains(line), "{line}: {}", proxy.log());
    }
    assert_eq!(proxy.addresses().len(), 4);
}

/// How a socket that was handed over is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Speaks {
    Udp,
    Tcp,
    Tls,
}

#[test]
fn c142_r37_every_mix_of_udp_tcp_and_tls_in_any_order_is_served_as_its_names_say() {
    let stage = Stage::new();
    let config = config_with_tls(&stage.pki, &stage.server, "");
    let trust = Arc::new(client_config(&stage.pki));
    let all: Vec<(Speaks, &str, &str)> = vec![
        (Speaks::Udp, "127.0.0.1:0", "dns"),
        (Speaks::Tcp, "127.0.0.1:0", "dns"),
        (Speaks::Tls, "127.0.0.1:0", "tls"),
        (Speaks::Udp, "[::1]:0", "six"),
        (Speaks::Tcp, "[::1]:0", "six"),
        (Speaks::Tls, "[::1]:0", "dot"),
    ];
    // every subset, each in another order
    for subset in 1_usize..64 {
        let mut chosen: Vec<&(Speaks, &str, &str)> =
            all.iter().enumerate().filter(|(index, _)| subset >> index & 1 == 1).map(|(_, socket)| socket).collect();
        let turn = subset % chosen.len();
        chosen.rotate_left(turn);
        if subset % 2 == 0 {
            chosen.reverse();
        }
        let sockets: Vec<(Speaks, OwnedFd, SocketAddr)> = chosen
            .iter()
            .map(|(speaks, address, _)| match speaks {
                Speaks::Udp => {
                    let socket = UdpSocket::bind(address).unwrap();
                    let address = socket.local_addr().unwrap();
                    (*speaks, socket.into(), address)
                }
                Speaks::Tcp | Speaks::Tls => {
                    let socket = TcpListener::bind(address).unwrap();
                    let address = socket.local_addr().unwrap();
                    (*speaks, socket.into(), address)
                }
            })
            .collect();
        let fds: Vec<&dyn AsFd> = sockets.iter().map(|(_, fd, _)| fd as &dyn AsFd).collect();
        let names: Vec<&str> = chosen.iter().map(|(_, _, name)| *name).collect();
        let (count, names) = (fds.len().to_string(), names.join(":"));
        let variables = [("LISTEN_PID", "$$"), ("LISTEN_FDS", count.as_str()), ("LISTEN_FDNAMES", names.as_str())];
        let proxy = Proxy::builder(&stage.manager(&fds, &variables)).config(&config).start();
        for (number, (speaks, _, address)) in sockets.iter().enumerate() {
            let name = format!("mix{subset}-{number}.test");
            match speaks {
                Speaks::Udp => is_served(*address, false, &name),
                Speaks::Tcp => is_served(*address, true, &name),
                Speaks::Tls => {
                    let mut client = TlsClient::connect(*address, NAME, &trust).unwrap();
                    let answer = client.ask(&query(3, &name, 1)).expect("no answer");
                    assert_eq!(inspect::a_records(&answer), [a_for(&name)]);
                }
            }
        }
        // the address of the configuration is bound where no socket for TLS was handed over
        let own = usize::from(!sockets.iter().any(|(speaks, ..)| *speaks == Speaks::Tls));
        assert_eq!(proxy.addresses().len(), sockets.len() + own, "{}", proxy.log());
        let status = status(&proxy).1;
        for ((speaks, _, address), (_, _, name)) in sockets.iter().zip(&chosen) {
            let line = format!("{address} ({}), from {name}", format!("{speaks:?}").to_lowercase());
            assert!(status.contains(&line), "{line}: {status}");
        }
    }
}

#[test]
fn c142_sockets_whose_name_or_port_is_wrong_for_tls_are_refused_with_what_to_do() {
    let stage = Stage::new();
    let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let with_tls = config_with_tls(&stage.pki, &stage.server, "");
    let refused = |fd: &dyn AsFd, name: &str, config: &str| {
        let variables = [("LISTEN_PID", "$$"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", name)];
        Proxy::builder(&stage.manager(&[fd], &variables)).config(config).start_expecting_failure()
    };
    let (status, said) = refused(&tcp, "tls", &stage.config());
    assert_eq!(status.code(), Some(78));
    let address = tcp.local_addr().unwrap();
    assert!(said.contains(&format!("inherited socket tls ({address}): is for DNS over TLS")), "{said}");
    assert!(said.contains("set listen.tls-certificate and listen.tls-key"), "{said}");
    let (status, said) = refused(&udp, "tls", &with_tls);
    assert!(status.code() == Some(1) && said.contains("inherited socket tls (fd 3): is a UDP socket"), "{said}");
}

#[test]
fn c133_handed_over_sockets_of_the_two_well_known_ports_are_for_what_they_are_known() {
    in_namespace(&[], || {
        let stage = Stage::new();
        let config = config_with_tls(&stage.pki, &stage.server, "");
        // bound once: a process that another test starts meanwhile may inherit one, and keep its port for a while
        let (plain, tls) = (TcpListener::bind("127.0.0.1:53").unwrap(), TcpListener::bind("127.0.0.1:853").unwrap());
        for (socket, name, said) in
            [(&tls, "dns", "port 853 is for DNS over TLS"), (&plain, "tls", "port 53 is for plain DNS")]
        {
            let variables = [("LISTEN_PID", "$$"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", name)];
            let manager = stage.manager(&[socket], &variables);
            let (status, log) = Proxy::builder(&manager).config(&config).start_expecting_failure();
            assert!(status.code() == Some(1) && log.contains(said), "{log}");
        }
        let variables = [("LISTEN_PID", "$$"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "tls:dns")];
        let proxy = Proxy::builder(&stage.manager(&[&tls, &plain], &variables)).config(&config).start();
        is_served(proxy.addresses()[1], true, "plain.test");
        let mut client = TlsClient::connect(proxy.addresses()[0], NAME, &Arc::new(client_config(&stage.pki))).unwrap();
        assert!(client.ask(&query(1, "tls.test", 1)).is_some());
    });
}

#[test]
fn c142_sockets_for_another_process_are_let_alone() {
    let stage = Stage::new();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let manager = stage.manager(&[&udp], &[("LISTEN_PID", "1"), ("LISTEN_FDS", "1")]);
    let proxy = Proxy::builder(&manager).config(&stage.config()).start();
    assert_ne!(proxy.address(), udp.local_addr().unwrap());
    is_served(proxy.address(), false, "own.test");
}

#[test]
fn c142_r37_a_socket_that_nobody_claims_is_named() {
    let stage = Stage::new();
    let (unix, listener) = (UnixDatagram::unbound().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    for fd in [&unix as &dyn AsFd, &connection] {
        let manager = stage
            .manager(&[&listener, fd], &[("LISTEN_PID", "$$"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "good:odd")]);
        let (status, said) = Proxy::builder(&manager).config(&stage.config()).start_expecting_failure();
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("inherited socket odd (fd 4): "), "{said}");
    }
}

#[test]
fn c143_r37_a_restart_with_handed_over_sockets_loses_no_query() {
    let stage = Stage::new();
    let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let manager = stage.manager(&[&udp, &tcp], &[("LISTEN_PID", "$$"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "a:b")]);
    let config = stage.config().replace("workers = 1", "workers = 2");
    let mut proxy = Proxy::builder(&manager).config(&config).start();
    let client = UdpClient::connect(udp.local_addr().unwrap());
    let mut number = 0;
    for round in 0..5 {
        let first = number;
        // before, during and after the restart
        for _ in 0..10 {
            client.send(&query(number, &format!("n{number}.test"), 1));
            number += 1;
        }
        proxy.signal(Signal::SIGTERM);
        for _ in 0..10 {
            client.send(&query(number, &format!("n{number}.test"), 1));
            number += 1;
        }
        let status = proxy.wait_exit(PATIENCE).expect("it does not end");
        assert!(status.success());
        let mut waiting = TcpClient::connect(tcp.local_addr().unwrap());
        waiting.send(&query(99, "waiting.test", 1));
        client.send(&query(number, &format!("n{number}.test"), 1));
        number += 1;
        proxy = Proxy::builder(&manager).config(&config).start();
        for _ in first..number {
            let answer = client.recv(PATIENCE).unwrap_or_else(|| panic!("an answer is missing in round {round}"));
            assert_eq!(inspect::a_records(&answer), [a_for(&inspect::question_name(&answer))]);
        }
        assert!(waiting.recv(PATIENCE).unwrap().is_some());
    }
}

/// A socket that everybody may write to, as the service manager's own.
pub(crate) fn notify_socket(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    socket
}

/// What was told, message by message.
fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let count = socket.recv(&mut buffer).expect("nothing was told");
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

fn is_told_everything(stage: &Stage, socket: &UnixDatagram, path: &str) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let manager = stage.manager(&[], &[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "400000"), ("WATCHDOG_PID", "$$")]);
    let mut proxy = Proxy::builder(&manager).config(&stage.config()).start();
    assert!(told(socket).starts_with("READY=1\nSTATUS="));
    // signs of life while nobody asks anything
    for _ in 0..3 {
        assert_eq!(told(socket), "WATCHDOG=1\n");
    }
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.wait_exit(PATIENCE).expect("it does not end").success());
    let rest: Vec<String> =
        std::iter::repeat_with(|| told(socket)).take_while(|text| !text.starts_with("STOPPING=1")).collect();
    assert!(rest.iter().all(|text| text == "WATCHDOG=1\n"), "{rest:?}");
}

#[test]
fn c139_c144_the_service_manager_is_told_ready_alive_and_stopping() {
    let stage = Stage::new();
    let path = stage.pki.directory().join("notify");
    let socket = notify_socket(&path);
    is_told_everything(&stage, &socket, path.to_str().unwrap());
}

#[test]
fn c151_a_socket_of_the_abstract_namespace_is_told_as_well() {
    let stage = Stage::new();
    let name = format!("dot-proxy-test-{}", stage.server.address().port());
    let socket = UnixDatagram::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
    is_told_everything(&stage, &socket, &format!("@{name}"));
}

#[test]
fn c144_a_stuck_process_gives_no_sign_of_life() {
    let stage = Stage::new();
    let path = stage.pki.directory().join("notify");
    let socket = notify_socket(&path);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "400000"), ("WATCHDOG_PID", "$$")];
    let proxy = Proxy::builder(&stage.manager(&[], &variables)).config(&stage.config()).start();
    assert!(told(&socket).starts_with("READY=1"));
    proxy.signal(Signal::SIGSTOP);
    socket.set_read_timeout(Some(Duration::from_millis(900))).unwrap();
    let mut buffer = [0; 64];
    while socket.recv(&mut buffer).is_ok() {}
    assert!(socket.recv(&mut buffer).is_err());
    proxy.signal(Signal::SIGCONT);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(told(&socket), "WATCHDOG=1\n");
}
