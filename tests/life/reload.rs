//! Reload: all of a new configuration or nothing of it, and nothing that is under way is disturbed.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use testkit::proxy_process::Signal;
use testkit::{Act, DotServer, Pki, Proxy, TcpClient, UdpClient, a_for, config_for, default_answer, inspect, query};

use crate::conformance::bench::{Bench, binary};
use crate::life::control::{ask_reload, status};

const PATIENCE: Duration = Duration::from_secs(10);

/// Writes another configuration and has it read; gives exit status and what was said.
fn reload(proxy: &Proxy, config: &str) -> (i32, String) {
    fs::write(proxy.config_file(), config).unwrap();
    ask_reload(proxy)
}

fn config_of(bench: &Bench) -> String {
    config_for(&[(bench.server.address(), "upstream.test")], bench.pki.ca_file())
}

fn answers(proxy: &Proxy, name: &str) -> bool {
    let answer = UdpClient::connect(proxy.address()).ask(&query(1, name, 1));
    answer.is_some_and(|answer| inspect::a_records(&answer) == [a_for(name)])
}

#[test]
fn c141_a_bad_configuration_changes_nothing_and_says_why() {
    let bench = Bench::start();
    assert!(answers(&bench.proxy, "before.test"));
    let bad =
        config_of(&bench).replace("[upstream]\n", "[upstream]\ndeadlin = \"1s\"\n") + "[privacy]\npadding = true\n";
    let (code, said) = reload(&bench.proxy, &bad);
    assert_eq!(code, 1);
    assert!(said.contains("reload refused, the service runs on as before"), "{said}");
    assert!(said.contains("dot-proxy.toml:5: upstream.deadlin: no such option; did you mean deadline?"), "{said}");
    assert!(answers(&bench.proxy, "after.test"));
    // nothing of the bad file holds, not even what was right in it, and the connection is the same one
    assert_eq!(bench.server.journal().accepted(), 1);
    assert!(status(&bench.proxy).1.contains("last reload: refused, nothing was changed"));
    // a file that is gone, one that is none, and a CA that is none
    fs::remove_file(bench.proxy.config_file()).unwrap();
    assert_eq!(ask_reload(&bench.proxy).0, 1);
    assert_eq!(reload(&bench.proxy, "\u{0}").0, 1);
    let no_ca = config_of(&bench).replace("ca.pem", "none.pem");
    assert_eq!(reload(&bench.proxy, &no_ca).0, 1);
    assert!(answers(&bench.proxy, "still.test"));
    assert_eq!(reload(&bench.proxy, &config_of(&bench)).0, 0);
}

#[test]
fn c141_everything_reloadable_takes_effect_at_once() {
    let pki = Pki::new();
    let (first, second) =
        (DotServer::start(pki.server(&["upstream.test"])), DotServer::start(pki.server(&["second.test"])));
    let servers = [(first.address(), "upstream.test"), (second.address(), "second.test")];
    let config = config_for(&servers, pki.ca_file()).replace("workers = 1", "workers = 2");
    let proxy = Proxy::builder(binary()).config(&config).start();
    assert!(answers(&proxy, "one.test"));
    let mut client = TcpClient::connect(proxy.address());
    client.send(&query(1, "kept.test", 1));
    assert!(client.recv(PATIENCE).unwrap().is_some());

    // the other server alone, clients refused but on this address, another time-out
    let servers = [(second.address(), "second.test")];
    let config = config_for(&servers, pki.ca_file()).replace("workers = 1", "workers = 2").replace(
        "[listen]\n",
        "[listen]\nallow = [\"127.0.0.1\"]\ntcp-idle-timeout = \"400ms\"\nudp-payload-limit = 600\n",
    ) + "[privacy]\npadding = true\n[special-names]\nhome-arpa = \"forward\"\n";
    assert_eq!(reload(&proxy, &config).0, 0);
    // both workers: twenty clients reach either
    for number in 0..20 {
        assert!(answers(&proxy, &format!("two{number}.test")));
    }
    assert!(answers(&proxy, "x.home.arpa"), "forwarded now");
    assert!(second.wait_for(|journal| journal.messages.len() == 21, PATIENCE));
    assert!(second.journal().messages.iter().all(|message| message.octets.len() % 128 == 0), "padded");
    assert!(second.journal().accepted() <= 2, "one for each worker");
    assert_eq!(first.journal().messages.len(), 2, "nothing more goes to the server that is gone");
    // the connection that was open ends after the new time
    let began = Instant::now();
    assert!(client.wait_for_end(PATIENCE).is_some(), "closed");
    assert!(began.elapsed() < Duration::from_secs(5));
    // and the connection to the first server was closed, politely
    assert!(first.wait_for(|journal| journal.connections.iter().all(|connection| !connection.is_open()), PATIENCE));
}

#[test]
fn c141_connections_of_unchanged_servers_stay_and_what_is_in_flight_is_answered() {
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                vec![Act::AnswerAfter(Duration::from_millis(700), default_answer(&received.message))]
            })
        },
        "",
    );
    let client = UdpClient::connect(bench.proxy.address());
    client.send(&query(1, "held.test", 1));
    assert!(bench.server.wait_for(|journal| !journal.messages.is_empty(), PATIENCE));
    for _ in 0..5 {
        let (code, said) = reload(&bench.proxy, &(config_of(&bench) + "[privacy]\npadding = true\n"));
        assert_eq!((code, said.trim()), (0, "configuration reloaded"));
    }
    assert_eq!(inspect::a_records(&client.recv(PATIENCE).unwrap()), [a_for("held.test")]);
    assert!(answers(&bench.proxy, "next.test"));
    assert_eq!(bench.server.journal().accepted(), 1);
    // a server whose CA has changed is another one
    let other = Pki::new();
    fs::write(bench.pki.ca_file(), fs::read(other.ca_file()).unwrap()).unwrap();
    assert_eq!(reload(&bench.proxy, &config_of(&bench)).0, 0);
    let answer = UdpClient::connect(bench.proxy.address()).ask(&query(1, "strict.test", 1)).unwrap();
    assert_eq!(inspect::rcode(&answer), 2, "the certificate of its old CA is no longer good enough");
}

#[test]
fn c141_twenty_reloads_under_load_lose_nothing() {
    let bench = Bench::start();
    let (plain, padded) = (config_of(&bench), config_of(&bench) + "[privacy]\npadding = true\n");
    let client = UdpClient::connect(bench.proxy.address());
    let mut stream = TcpClient::connect(bench.proxy.address());
    for round in 0..20_u16 {
        for number in 0..25 {
            let name = format!("n{}.test", round * 25 + number);
            client.send(&query(round * 25 + number, &name, 1));
            stream.send(&query(round * 25 + number, &name, 1));
        }
        // in one step, as an editor does it: the last reload may be reading, and the empty file is a configuration, too
        let next = bench.proxy.config_file().with_extension("next");
        fs::write(&next, if round % 2 == 0 { &padded } else { &plain }).unwrap();
        fs::rename(next, bench.proxy.config_file()).unwrap();
        bench.proxy.signal(Signal::SIGHUP);
        for number in 0..25 {
            let answer = client.recv(PATIENCE).unwrap_or_else(|| panic!("round {round}, {number}: lost over UDP"));
            assert_eq!(inspect::a_records(&answer), [a_for(&inspect::question_name(&answer))]);
            let answer =
                stream.recv(PATIENCE).unwrap().unwrap_or_else(|| panic!("round {round}, {number}: lost over TCP"));
            assert_eq!(inspect::a_records(&answer), [a_for(&inspect::question_name(&answer))]);
        }
    }
    assert!(bench.proxy.wait_for_log("SIGHUP: configuration reloaded", PATIENCE));
    assert_eq!(bench.server.journal().accepted(), 1);
}

#[test]
fn what_only_a_restart_changes_is_named_and_the_rest_applies() {
    let bench = Bench::start();
    let config = config_of(&bench).replace("workers = 1", "workers = 3").replace("127.0.0.1:0", "127.0.0.1:1")
        + "[privacy]\npadding = true\n";
    let (code, said) = reload(&bench.proxy, &config);
    assert_eq!(code, 0);
    assert!(said.contains("workers, listen.addresses: a change takes effect at a restart"), "{said}");
    assert!(answers(&bench.proxy, "padded.test"));
    assert!(bench.server.journal().messages.iter().all(|message| message.octets.len() % 128 == 0));
    assert!(status(&bench.proxy).1.contains("waiting for a restart: workers, listen.addresses"));
}

#[test]
fn what_the_sandbox_has_given_up_is_refused_with_the_reason() {
    let bench = Bench::start();
    if !bench.proxy.log().contains("tcp connections go to port") {
        return crate::conformance::namespace::skipped("hardware: this kernel has no Landlock for ports");
    }
    let port = bench.server.address().port();
    let other = config_of(&bench).replace(&format!(":{port}#"), ":9#");
    let (code, said) = reload(&bench.proxy, &other);
    assert_eq!(code, 1);
    assert!(said.contains("port 9 is none of those that the running process may connect to"), "{said}");
    let elsewhere = config_of(&bench).replace(&bench.pki.ca_file().display().to_string(), "/proc/version");
    let (code, said) = reload(&bench.proxy, &elsewhere);
    assert_eq!(code, 1);
    assert!(said.contains("/proc/version: is in no folder that the running process may read"), "{said}");
    assert!(answers(&bench.proxy, "after.test"));
}

#[test]
fn c140_a_reload_is_told_in_one_message_and_ends_with_ready_good_or_bad() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let config = config_for(&[(server.address(), "upstream.test")], pki.ca_file());
    let socket_path = pki.directory().join("notify");
    let socket = crate::life::inherited::notify_socket(&socket_path);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let proxy = Proxy::builder(binary()).config(&config).env("NOTIFY_SOCKET", socket_path.to_str().unwrap()).start();
    assert!(told(&socket).starts_with("READY=1\nSTATUS=serving"));
    for (text, end) in
        [(config.as_str(), "usable"), ("broken = 1", "the last reload was refused"), (config.as_str(), "usable")]
    {
        fs::write(proxy.config_file(), text).unwrap();
        proxy.signal(Signal::SIGHUP);
        let first = told(&socket);
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        let micros = first.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{first}"));
        let micros: i64 = micros.lines().next().unwrap().parse().unwrap();
        assert!((now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000 - micros) < 10_000_000);
        let last = told(&socket);
        assert!(last.starts_with("READY=1\nSTATUS=serving") && last.trim_end().ends_with(end), "{last}");
    }
}

fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let count = socket.recv(&mut buffer).expect("nothing was told");
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}
