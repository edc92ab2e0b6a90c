//! Real resolvers behind the proxy, real clients before it.

use std::fs;
use std::process::Command;

use testkit::Proxy;

use super::programs::{ADDRESS, Resolver, available, command, output};

fn ask(program: &str, proxy: &Proxy, arguments: &[&str]) -> Command {
    let mut command = command(program);
    command.arg("@127.0.0.1").args(["-p", &proxy.address().port().to_string()]).args(arguments);
    command
}

/// dig and kdig, over UDP and TCP, with EDNS options and without.
fn serves(resolver: &Resolver) {
    let proxy = resolver.proxy();
    for program in ["dig", "kdig"] {
        for (number, arguments) in
            [&[][..], &["+tcp"], &["+noedns"], &["+dnssec", "+bufsize=512"], &["+tcp", "+nsid"]].iter().enumerate()
        {
            let name = format!("{program}{number}.peer.example");
            let mut asked = arguments.to_vec();
            asked.extend(["+short", &name, "A"]);
            assert_eq!(output(&mut ask(program, &proxy, &asked)).trim(), ADDRESS, "{program} {asked:?}");
        }
    }
}

#[test]
fn unbound_answers_through_the_proxy() {
    if available(&["unbound", "dig", "kdig"]) {
        serves(&Resolver::unbound());
    }
}

#[test]
fn knot_resolver_answers_through_the_proxy() {
    if available(&["kresd", "dig", "kdig"]) {
        serves(&Resolver::knot());
    }
}

#[test]
fn dnsdist_answers_through_the_proxy() {
    if available(&["dnsdist", "dig", "kdig"]) {
        serves(&Resolver::dnsdist());
    }
}

#[test]
fn dnsperf_gets_every_answer_over_udp_and_tcp() {
    if !available(&["dnsdist", "dnsperf"]) {
        return;
    }
    const QUERIES: usize = 100_000;
    let resolver = Resolver::dnsdist();
    let proxy = resolver.proxy();
    let data = resolver.pki.directory().join("queries");
    let lines: String = (0..QUERIES).map(|number| format!("n{number}.peer.example A\n")).collect();
    fs::write(&data, lines).unwrap();
    for mode in ["udp", "tcp"] {
        let port = proxy.address().port().to_string();
        let said = output(
            command("dnsperf")
                .args(["-s", "127.0.0.1", "-p", &port, "-n", "1", "-c", "10", "-q", "100", "-m", mode])
                .arg("-d")
                .arg(&data),
        );
        assert!(said.contains(&format!("Queries completed:    {QUERIES} (100.00%)")), "{said}");
        assert!(said.contains("Queries lost:         0 (0.00%)"), "{said}");
        assert!(said.contains(&format!("NOERROR {QUERIES} (100.00%)")), "{said}");
    }
}

const SECRET: &str = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IDEyMzQ=";

/// The records that dig printed, in order.
fn records(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.starts_with(';') && !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn c122_c129_a_signed_transfer_through_the_proxy_equals_the_direct_one() {
    if !available(&["named", "dig"]) {
        return;
    }
    let resolver = Resolver::bind(SECRET, 4000);
    let key = format!("hmac-sha256:k:{SECRET}");
    let proxy = resolver.proxy();
    let arguments = ["-y", &key, "zone.example", "AXFR", "+tcp"];
    let through = output(&mut ask("dig", &proxy, &arguments));
    let direct = output(command("dig").args(["@127.0.0.1", "-p", &resolver.plain.to_string()]).args(arguments));
    assert!(!through.contains("Couldn't verify") && !through.contains("failed"), "{through}");
    // dig appends the signature of each message, which differs by time
    let without = |text: &str| records(text).into_iter().filter(|line| !line.contains("TSIG")).collect::<Vec<_>>();
    assert_eq!(without(&through).len(), 8004);
    assert_eq!(without(&through), without(&direct));
    let soa = output(&mut ask("dig", &proxy, &["-y", &key, "zone.example", "SOA"]));
    assert!(soa.contains("status: NOERROR") && soa.contains("TSIG") && !soa.contains("verify"), "{soa}");
    // without the key it is refused, whole
    let refused = ask("dig", &proxy, &["zone.example", "AXFR", "+tcp"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stdout).contains("Transfer failed"));
}

#[test]
fn c127_an_update_through_the_proxy_is_done_once() {
    if !available(&["named", "dig", "nsupdate"]) {
        return;
    }
    let resolver = Resolver::bind(SECRET, 1);
    let proxy = resolver.proxy();
    let script = resolver.pki.directory().join("update");
    let port = proxy.address().port();
    fs::write(
        &script,
        format!("server 127.0.0.1 {port}\nzone zone.example\nupdate add new.zone.example 300 A 192.0.2.99\nsend\n"),
    )
    .unwrap();
    output(command("nsupdate").arg("-y").arg(format!("hmac-sha256:k:{SECRET}")).arg(&script));
    assert_eq!(output(&mut ask("dig", &proxy, &["+short", "new.zone.example", "A"])).trim(), "192.0.2.99");
    let serial = output(&mut ask("dig", &proxy, &["+short", "zone.example", "SOA"]));
    assert_eq!(serial.split(' ').nth(2), Some("2"), "{serial}");
}
