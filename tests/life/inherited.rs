//! Sockets handed over as a service manager does, and what it is told.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use testkit::proxy_process::Signal;
use testkit::{DotServer, Pki, Proxy, TcpClient, UdpClient, a_for, config_for, inspect, query};

use crate::conformance::bench::binary;

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
        // first out of the way, since a descriptor to be handed over may itself be number 3
        for (index, fd) in fds.iter().enumerate() {
            fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
            script += &format!("exec {}<&{}\n", 60 + index, fd.as_fd().as_raw_fd());
        }
        for index in 0..fds.len() {
            script += &format!("exec {}<&{}\nexec {}<&-\n", 3 + index, 60 + index, 60 + index);
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
