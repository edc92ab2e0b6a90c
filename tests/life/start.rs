//! The start: what is refused, with which words and which exit status.

use std::net::TcpListener;
use std::process::Command;

use testkit::{Pki, Proxy, UdpClient, config_for, inspect, query};

use crate::conformance::bench::{Bench, binary};
use crate::conformance::namespace::{in_namespace, run as run_command};

fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(binary()).args(arguments).output().unwrap();
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_and_version_are_told() {
    let (status, help, _) = run(&["--help"]);
    assert_eq!(status, 0);
    for word in ["--config", "--listen", "--upstream", "check", "run", "/etc/dot-proxy/dot-proxy.toml"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert_eq!(run(&["--version"]).1, format!("dot-proxy {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_arguments_end_with_status_2() {
    let (status, _, said) = run(&["statsu"]);
    assert_eq!(status, 2);
    assert!(said.contains("statsu"), "{said}");
}

#[test]
fn a_wrong_configuration_ends_with_status_78_and_every_problem() {
    let (status, said) = Proxy::builder(binary())
        .config("workers = 0\n[upstream]\nservers = [\"dns.test\"]\n")
        .start_expecting_failure();
    assert_eq!(status.code(), Some(78));
    assert!(said.contains(":1: workers: 0 is out of range"), "{said}");
    assert!(said.contains(":3: upstream.servers: \"dns.test\" is a name"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn a_wrong_flag_is_named() {
    let (status, _, said) = run(&["--listen", "nowhere"]);
    assert_eq!(status, 78);
    assert!(said.starts_with("--listen: \"nowhere\" is no address"), "{said}");
}

#[test]
fn r39_a_taken_port_ends_with_status_1_and_names_who_holds_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!("[listen]\naddresses = [\"{}\"]\n", taken.local_addr().unwrap());
    let (status, said) = Proxy::builder(binary()).config(&config).start_expecting_failure();
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains("cannot listen on 127.0.0.1:") && said.contains(&format!("(process {}", std::process::id())),
        "{said}"
    );
}

#[test]
fn why_it_does_not_start_is_said_also_where_the_log_goes_elsewhere() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!("[listen]\naddresses = [\"{}\"]\n[log]\ntarget = \"syslog\"\n", taken.local_addr().unwrap());
    let (status, said) = Proxy::builder(binary()).config(&config).start_expecting_failure();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("cannot listen on 127.0.0.1:"), "{said}");
}

#[test]
fn r27_check_says_what_will_be_verified_and_opens_no_socket() {
    let pki = Pki::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let pin = pki.server(&["b.test"]).spki_pin();
    let file = pki.directory().join("check.toml");
    let text = format!(
        "[listen]\naddresses = [\"{}\"]\n[upstream]\nca-file = \"{}\"\nservers = [\"192.0.2.1#a.test\", \"192.0.2.2\",\n\
         {{ address = \"192.0.2.3\", pins = [\"{pin}\"] }}, {{ address = \"192.0.2.4\", name = \"b.test\", pins = [\"{pin}\"] }}]\n",
        taken.local_addr().unwrap(),
        pki.ca_file().display()
    );
    std::fs::write(&file, text).unwrap();
    let (status, said, problems) = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!((status, problems.as_str()), (0, ""));
    for line in [
        "upstream 192.0.2.1#a.test: a certificate for the name a.test",
        "upstream 192.0.2.2: a certificate for its address",
        "upstream 192.0.2.3: one of 1 pinned keys",
        "upstream 192.0.2.4#b.test: a certificate for the name b.test and one of 1 pinned keys",
        "configuration ok",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    // where its key alone decides, nobody need have issued its certificate
    assert!(said.contains("whatever its certificate says\n"), "{said}");
}

#[test]
fn the_command_line_alone_is_enough_for_a_trial() {
    let bench = Bench::start();
    let config = config_for(&[(bench.server.address(), "upstream.test")], bench.pki.ca_file());
    // addresses and server of the file are replaced
    let config = config.replace("127.0.0.1:0", "192.0.2.77:53").replace("#upstream.test", "#other.test");
    let server = format!("{}#upstream.test", bench.server.address());
    let proxy = Proxy::builder(binary())
        .config(&config)
        .arg("--listen")
        .arg("127.0.0.1:0,[::1]:0")
        .arg("--upstream")
        .arg(&server)
        .start();
    assert_eq!(proxy.addresses().len(), 2);
    for address in proxy.addresses() {
        let answer = UdpClient::connect(*address).ask(&query(1, "www.test", 1)).unwrap();
        assert_eq!(inspect::rcode(&answer), 0);
    }
}

#[test]
fn c148_r38_an_address_that_is_not_there_yet_is_bound_when_asked_and_served_when_it_comes() {
    in_namespace(&[], || {
        let pki = Pki::new();
        let server = testkit::DotServer::start(pki.server(&["upstream.test"]));
        let config = config_for(&[(server.address(), "upstream.test")], pki.ca_file());
        let config = config.replace("127.0.0.1:0", "192.0.2.7:5353\", \"[2001:db8::7]:5353");
        let (status, said) = Proxy::builder(binary()).config(&config).start_expecting_failure();
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("192.0.2.7:5353") && said.contains("set listen.free-bind"), "{said}");
        let free =
            config.replace("[listen]\n", "[listen]\nfree-bind = true\nallow = [\"192.0.2.7\", \"2001:db8::7\"]\n");
        let proxy = Proxy::builder(binary()).config(&free).start();
        run_command("ip addr add 192.0.2.7/32 dev lo");
        run_command("ip addr add 2001:db8::7/128 dev lo nodad");
        for address in proxy.addresses() {
            let answer = UdpClient::connect(*address).ask(&query(1, "www.test", 1)).unwrap();
            assert_eq!(inspect::a_records(&answer), [testkit::a_for("www.test")]);
        }
    });
}

#[test]
fn r38_r40_a_start_without_any_network_is_ready_at_once_and_needs_no_name() {
    in_namespace(&[], || {
        // the default resolvers: nothing can be looked up and nobody can be reached
        let proxy = Proxy::builder(binary()).config("workers = 1\n[listen]\naddresses = [\"127.0.0.1:0\"]\n").start();
        let answer = UdpClient::connect(proxy.address()).ask(&query(1, "www.test", 1)).unwrap();
        assert_eq!(inspect::rcode(&answer), 2);
    });
}

#[test]
fn r38_a_machine_without_ipv6_is_served_on_its_other_addresses() {
    in_namespace(&[], || {
        run_command("sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1");
        let addresses = "workers = 1\n[listen]\naddresses = [\"127.0.0.1:0\", \"[::1]:0\"]\n";
        let proxy = Proxy::builder(binary()).config(addresses).start();
        assert_eq!(proxy.addresses().len(), 1);
        assert!(proxy.log().contains("going on without it, since this machine has no IPv6"), "{}", proxy.log());
        let (status, said) =
            Proxy::builder(binary()).config("[listen]\naddresses = [\"[::1]:0\"]\n").start_expecting_failure();
        assert!(status.code() == Some(1) && said.contains("cannot listen on [::1]:0"), "{said}");
    });
}
