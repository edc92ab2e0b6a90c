//! Accepted and refused configurations, with what is said of the refused ones.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail loudly")]

use std::time::Duration;

use super::{Overrides, Source, load, parse, renew};
use crate::config::options::{OPTIONS, SECTIONS, is_repeated};
use crate::config::settings::{
    Authentication, ClientCertificate, Pin, Policy, Profile, Roots, Server, Settings, TlsTerms, Transport,
};

fn accepted(text: &str) -> Settings {
    parse("f.toml", text, &Overrides::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn from(path: &std::path::Path) -> Source {
    Source { path: Some(path.to_owned()), overrides: Overrides::default() }
}

fn refused(text: &str) -> String {
    parse("f.toml", text, &Overrides::default()).unwrap_err().to_string()
}

#[test]
fn the_empty_file_is_the_default_service() {
    let settings = accepted("");
    let addresses: Vec<String> = settings.listen.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["127.0.0.1:53", "[::1]:53"]);
    assert_eq!(settings.upstream.group.members.len(), 4);
    for server in settings.upstream.group.servers() {
        let terms = server.tls().unwrap();
        assert_eq!(terms.authentication, Authentication::Name("cloudflare-dns.com".to_owned()));
        assert_eq!((server.address.port(), &terms.roots, terms.post_quantum), (853, &Roots::System, true));
        assert_eq!((&terms.client, terms.profile), (&None, Profile::Strict));
    }
    assert_eq!(settings.upstream.group.servers().filter(|server| server.address.is_ipv6()).count(), 2);
    assert_eq!(settings.upstream.deadline, Duration::from_secs(4));
    assert_eq!((settings.upstream.hedge_share, settings.upstream.connections), (5, 32));
    assert_eq!((settings.upstream.group.policy, settings.routes.len()), (Policy::InOrder, 0));
    assert!((1..=4).contains(&settings.workers));
}

#[test]
fn servers_are_read_in_every_form() {
    let pin = Pin::of(b"x").to_string();
    let text = format!(
        "[upstream]\nca-file = \"/ca.pem\"\nservers = [\"192.0.2.1\", \"192.0.2.1:8853#a.test\", \"2001:db8::1#a.test\",\n\
         \"[2001:db8::2]\", \"[2001:db8::3]:99#b.test\", {{ address = \"192.0.2.9\", pins = [\"{pin}\"] }},\n\
         {{ address = \"192.0.2.9:853\", name = \"c.test\", pins = [\"{pin}\"], ca-file = \"/other.pem\", post-quantum = false }}]"
    );
    let group = accepted(&text).upstream.group;
    let servers: Vec<Server> = group.servers().cloned().collect();
    let addresses: Vec<String> = servers.iter().map(|server| server.address.to_string()).collect();
    assert_eq!(
        addresses,
        [
            "192.0.2.1:853",
            "192.0.2.1:8853",
            "[2001:db8::1]:853",
            "[2001:db8::2]:853",
            "[2001:db8::3]:99",
            "192.0.2.9:853",
            "192.0.2.9:853"
        ]
    );
    let terms: Vec<&TlsTerms> = servers.iter().filter_map(Server::tls).collect();
    assert_eq!(terms[0].authentication, Authentication::Address);
    assert_eq!(terms[5].authentication, Authentication::Pins(vec![Pin::of(b"x")]));
    assert_eq!(terms[6].authentication, Authentication::NameAndPins("c.test".to_owned(), vec![Pin::of(b"x")]));
    assert_eq!((&terms[6].roots, terms[6].post_quantum), (&Roots::File("/other.pem".into()), false));
    assert_eq!(terms[5].roots, Roots::File("/ca.pem".into()));
}

#[test]
fn what_is_wrong_is_said_with_file_line_key_and_what_would_do() {
    for (text, said) in [
        (
            "[upstream]\n\ndeadline = \"90s\"",
            "f.toml:3: upstream.deadline: \"90s\" is out of range; accepted: a duration from 500ms to 30s, such as \"2s\" or \"1500ms\"",
        ),
        (
            "[upstream]\ndeadline = 4",
            "f.toml:2: upstream.deadline: a whole number does not fit here; accepted: a duration",
        ),
        ("[log]\nlevel = \"loud\"", "f.toml:2: log.level: \"loud\" is not a choice; accepted: \"error\" or \"warn\""),
        ("workers = 0", "f.toml:1: workers: 0 is out of range; accepted: a whole number from 1 to 64"),
        ("[listen]\nadresses = []", "f.toml:2: listen.adresses: no such option; did you mean addresses?"),
        ("[lisen]", "f.toml:1: lisen: no such option; did you mean [listen]?"),
        ("deadline = \"4s\"", "f.toml:1: deadline: no such option here; it belongs into [upstream]"),
        (
            "[listen]\nworkers = 2",
            "f.toml:2: listen.workers: no such option here; it belongs at the top of the file, before the first table",
        ),
        ("listen = 3", "f.toml:1: listen: is a table; write [listen] and its keys below"),
        (
            "[listen]\naddresses = [\"localhost\"]",
            "f.toml:2: listen.addresses: \"localhost\" is no address; accepted: an array of addresses",
        ),
        ("[listen]\naddresses = []", "f.toml:2: listen.addresses: no address given"),
        ("[listen]\naddresses = [\"::1\", \"[::1]:53\"]", "f.toml:2: listen.addresses: [::1]:53 is listed twice"),
        (
            "[upstream]\nservers = [\"dns.example\"]",
            "is a name, and no address to connect to; write its address before it, such as \"192.0.2.1#dns.example\"",
        ),
        (
            "[upstream]\nservers = [\"192.0.2.1#not a name\"]",
            "\"not a name\" is no host name that a certificate could carry",
        ),
        ("[upstream]\nservers = [\"192.0.2.1#192.0.2.1\"]", "leave it out to have the address itself verified"),
        (
            "[upstream]\nservers = [{ address = \"192.0.2.1\", pins = [\"abc\"] }]",
            "\"abc\" is no pin: 44 characters of base64",
        ),
        ("[upstream]\nservers = [{ address = \"192.0.2.1\", pins = [] }]", "pins is empty"),
        ("[upstream]\nservers = [{ address = \"192.0.2.1\", verify = false }]", "a server has no key \"verify\""),
        ("[upstream]\nservers = [{ name = \"a.test\" }]", "a server without the key address"),
        ("[upstream]\nservers = [\"0.0.0.0\"]", "\"0.0.0.0\" cannot be connected to"),
        ("[upstream]\nverify = false", "f.toml:2: upstream.verify: no such option; accepted here: servers"),
        ("[upstream]\nca-file = \"ca.pem\"", "f.toml:2: upstream.ca-file: \"ca.pem\" is not an absolute path"),
        (
            "[upstream]\ndeadline = \"1s\"",
            "f.toml:2: upstream.connect-timeout: is not shorter than upstream.deadline (1s)",
        ),
        ("workers = \n", "f.toml:1: not TOML:"),
        ("workers = 1\nworkers = 2", "f.toml:2: not TOML:"),
    ] {
        let problem = refused(text);
        assert!(problem.contains(said), "{text:?}: {problem}");
    }
}

#[test]
fn all_problems_of_a_file_are_said_at_once() {
    assert_eq!(refused("workers = 0\n[log]\nlevel = 3\n[x]").lines().count(), 3);
}

#[test]
fn an_unknown_key_is_refused_in_every_section() {
    for section in SECTIONS {
        let text = format!("{}\nzzz = 1", section.header());
        assert!(refused(&text).contains("zzz: no such option; accepted here: "), "{section:?}");
    }
}

#[test]
fn every_default_is_a_value_that_the_file_may_give() {
    let route = "[[route]]\ndomains = [\"corp.test\"]\nservers = [\"192.0.2.1\"]";
    let with_route = accepted(route);
    for option in OPTIONS.iter().filter(|option| is_repeated(option) && !option.default.is_empty()) {
        assert_eq!(accepted(&format!("{route}\n{} = {}", option.key, option.default)), with_route, "{}", option.path());
    }
    let defaults = accepted("");
    for option in OPTIONS.iter().filter(|option| !is_repeated(option) && !option.default.is_empty()) {
        let line = format!("{} = {}", option.key, option.default);
        let text = if option.section.is_empty() { line } else { format!("[{}]\n{line}", option.section) };
        assert_eq!(accepted(&text), defaults, "{}", option.path());
    }
}

#[test]
fn the_command_line_replaces_the_file() {
    let overrides = Overrides {
        listen: vec!["127.0.0.1:5300,[::1]:5300".to_owned()],
        upstream: vec!["192.0.2.1#a.test".to_owned()],
    };
    let settings = parse("f", "[listen]\naddresses = [\"192.0.2.7\"]", &overrides).unwrap();
    assert_eq!(settings.listen.addresses.len(), 2);
    assert_eq!(settings.upstream.group.members.len(), 1);
    let bad = Overrides { listen: vec!["nowhere".to_owned()], upstream: Vec::new() };
    let problem = parse("f", "", &bad).unwrap_err().to_string();
    assert!(problem.starts_with("--listen: \"nowhere\" is no address; accepted: "), "{problem}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let problem = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        load(&from(&path)).unwrap_err().to_string()
    };
    assert!(problem("latin", b"# caf\xe9").contains("latin: cannot be read: octet 5 is not UTF-8"));
    assert!(problem("large", &vec![b'#'; 1024 * 1024 + 1]).contains("larger than 1 MiB"));
    let missing = load(&from(&folder.path().join("missing"))).unwrap_err().to_string();
    assert!(missing.contains("missing: cannot be read: "), "{missing}");
    assert!(load(&from(folder.path())).unwrap_err().to_string().contains("not a regular file"));
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(load(&from(&pipe)).unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn a_reload_keeps_what_only_a_restart_changes_and_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let source = from(&folder.path().join("f.toml"));
    let write = |text: &str| std::fs::write(source.file(), text).unwrap();
    write("workers = 2\n[listen]\naddresses = [\"127.0.0.1:5353\"]\n");
    let running = load(&source).unwrap();
    assert!(running.waiting.is_empty());
    write("workers = 3\nuser = \"x\"\n[listen]\ntcp-idle-timeout = \"3s\"\n");
    let renewed = renew(&source, &running).unwrap();
    assert_eq!(renewed.waiting, ["workers", "user", "listen.addresses"]);
    let mut expected = running.settings.clone();
    expected.listen.tcp_idle_timeout = Duration::from_secs(3);
    assert_eq!(renewed.settings, expected);
    // the next one is compared with what is in force
    write("workers = 2\n[listen]\naddresses = [\"127.0.0.1:5353\"]\n");
    let back = renew(&source, &renewed).unwrap();
    assert_eq!((&back.settings, back.waiting), (&running.settings, Vec::new()));
    write("workers = 0\n");
    assert!(renew(&source, &running).unwrap_err().to_string().contains(":1: workers: 0 is out of range"));
}

#[test]
fn credentials_and_accounts_are_read() {
    let roots = accepted("[upstream]\nca-file = \"credential:ca\"")
        .upstream
        .group
        .servers()
        .next()
        .unwrap()
        .tls()
        .unwrap()
        .roots
        .clone();
    assert_eq!(roots, Roots::File("/run/credentials/dot-proxy.service/ca".into()));
    for bad in ["credential:", "credential:../x", "credential:a/b"] {
        assert!(refused(&format!("[upstream]\nca-file = \"{bad}\"")).contains("is no name of a credential"), "{bad}");
    }
    for bad in ["", "-x", "a b", "a:b"] {
        assert!(refused(&format!("user = \"{bad}\"")).contains("is no name of a user or group"), "{bad}");
    }
    assert_eq!(accepted("user = \"65532\"\ngroup = \"_dns\"").process.group.as_deref(), Some("_dns"));
}

#[test]
fn tls_towards_clients_takes_a_certificate_and_its_key() {
    let whole = "tls-certificate = \"/a.crt\"\ntls-key = \"/a.key\"\n";
    assert_eq!(
        (accepted("").listen.tls, accepted("[listen]\ntls-addresses = []").listen.tls_addresses),
        (None, vec![])
    );
    let listen = accepted(&format!("[listen]\n{whole}tls-addresses = [\"192.0.2.1\", \"[::1]:8853\"]")).listen;
    let addresses: Vec<String> = listen.tls_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.1:853", "[::1]:8853"]);
    let settings = accepted(&format!("[listen]\n{whole}tls-client-ca = \"/ca.crt\""));
    let files: Vec<String> = settings.files().map(|path| path.display().to_string()).collect();
    assert_eq!(files, ["/a.crt", "/a.key", "/ca.crt"]);
    for (lines, said) in [
        (
            "tls-addresses = [\"::1\"]",
            "f.toml:2: listen.tls-addresses: is set without listen.tls-certificate; accepted: with",
        ),
        ("tls-certificate = \"/a\"", "f.toml:2: listen.tls-certificate: is set without listen.tls-key; accepted: with"),
        ("tls-key = \"/a\"", "f.toml:2: listen.tls-key: is set without listen.tls-certificate; accepted: with"),
        ("tls-client-ca = \"/a\"", "f.toml:2: listen.tls-client-ca: is set without listen.tls-certificate"),
        (
            "tls-certificate = \"a.crt\"\ntls-key = \"/a.key\"",
            "f.toml:2: listen.tls-certificate: \"a.crt\" is not an absolute path",
        ),
    ] {
        let problems = refused(&format!("[listen]\n{lines}"));
        assert!(problems.starts_with(said) && problems.lines().count() == 1, "{problems}");
    }
    for (lines, said) in [
        ("tls-addresses = [\"::1\", \"192.0.2.1:53\"]", "192.0.2.1:53: port 53 is that of plain DNS alone"),
        (
            "addresses = [\"[::1]:853\"]",
            "f.toml:4: listen.addresses: [::1]:853: port 853 is that of DNS over TLS alone",
        ),
        (
            "addresses = [\"[::1]:99\"]\ntls-addresses = [\"[::1]:99\"]",
            "f.toml:5: listen.tls-addresses: [::1]:99 is one of listen.addresses as well",
        ),
    ] {
        let problems = refused(&format!("[listen]\n{whole}{lines}"));
        assert!(problems.contains(said), "{problems}");
    }
}

#[test]
fn tls_is_given_up_at_a_restart_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.toml");
    let whole = "[listen]\ntls-certificate = \"/a.crt\"\ntls-key = \"/a.key\"\ntls-addresses = [\"::1\"]\n";
    std::fs::write(&path, whole).unwrap();
    let running = load(&from(&path)).unwrap();
    // another certificate is taken at once
    std::fs::write(&path, whole.replace("/a.", "/b.")).unwrap();
    let renewed = renew(&from(&path), &running).unwrap();
    assert!(renewed.waiting.is_empty());
    assert_eq!(renewed.settings.listen.tls.unwrap().key, std::path::Path::new("/b.key"));
    // none at all is not, as long as there are sockets for it
    std::fs::write(&path, "").unwrap();
    let renewed = renew(&from(&path), &running).unwrap();
    assert_eq!(renewed.waiting, ["listen.tls-addresses", "listen.tls-certificate", "listen.tls-key"]);
    assert_eq!(renewed.settings, running.settings);
    // and what is incoherent is refused, whatever is kept
    std::fs::write(&path, "[listen]\ntls-key = \"/a.key\"\n").unwrap();
    assert!(renew(&from(&path), &running).is_err());
}

#[test]
fn r40_a_server_that_is_an_own_address_is_a_loop_and_one_that_is_a_name_needs_its_address() {
    let said = refused("[listen]\naddresses = [\"127.0.0.1:853\"]\n[upstream]\nservers = [\"127.0.0.1#a.test\"]");
    assert!(said.contains("f.toml:4: upstream.servers: 127.0.0.1:853 is dot-proxy's own address"), "{said}");
    let mapped = "[listen]\naddresses = [\"127.0.0.1:853\"]\n[upstream]\nservers = [\"[::ffff:127.0.0.1]:853#a.test\"]";
    assert!(refused(mapped).contains("[::ffff:127.0.0.1]:853 is dot-proxy's own address"), "{}", refused(mapped));
    let pair = "tls-certificate = \"/a.crt\"\ntls-key = \"/a.key\"";
    for own in ["127.0.0.1:853", "0.0.0.0:853"] {
        let tls =
            format!("[listen]\n{pair}\ntls-addresses = [\"{own}\"]\n[upstream]\nservers = [\"127.0.0.1#a.test\"]");
        let said = refused(&tls);
        assert!(said.contains("127.0.0.1:853 is dot-proxy's own address (listen.tls-addresses)"), "{said}");
    }
    let said = refused("[upstream]\nservers = [\"dns.example\"]");
    assert!(said.contains("is a name, and no address to connect to; write its address before it"), "{said}");
}

/// A route for this domain with these lines.
fn route(domain: &str, lines: &str) -> String {
    format!("[[route]]\ndomains = [\"{domain}\"]\n{lines}\n")
}

#[test]
fn routes_are_read_with_what_they_inherit() {
    let upstream = "[upstream]\nprofile = \"opportunistic\"\npolicy = \"spread\"\nca-file = \"/ca.pem\"\n\
                    client-certificate = \"/c.crt\"\nclient-key = \"/c.key\"\npost-quantum = false\n";
    let own = "servers = [\"192.0.2.2#b.test\"]\nprofile = \"opportunistic\"\npolicy = \"fastest\"\nca-file = \"/b.pem\"\n\
               post-quantum = true\nclient-certificate = \"/b.crt\"\nclient-key = \"/b.key\"";
    let text = upstream.to_owned()
        + &route("Corp.Example.", "servers = [\"192.0.2.1#a.test\"]")
        + &route("b.example", own)
        + &route("c.example", "servers = [\"plain:192.0.2.3\", \"plain:[fd00::1]:5353\"]");
    let settings = accepted(&text);
    let client = |name: &str| {
        Some(ClientCertificate { certificate: format!("/{name}.crt").into(), key: format!("/{name}.key").into() })
    };
    let [first, second, third] = &settings.routes[..] else { panic!("three routes") };
    assert_eq!((first.to_string().as_str(), first.domains[0].wire()), ("corp.example", &b"\x04corp\x07example\0"[..]));
    // how weak a route is says the route alone
    assert_eq!((first.group.profile, first.group.policy), (Profile::Strict, Policy::InOrder));
    let terms = first.group.servers().next().unwrap().tls().unwrap();
    assert_eq!(
        (terms.profile, &terms.roots, terms.post_quantum),
        (Profile::Strict, &Roots::File("/ca.pem".into()), false)
    );
    assert_eq!(terms.client, client("c"));
    assert_eq!((second.group.profile, second.group.policy), (Profile::Opportunistic, Policy::Fastest));
    let terms = second.group.servers().next().unwrap().tls().unwrap();
    assert_eq!((&terms.roots, terms.post_quantum, &terms.client), (&Roots::File("/b.pem".into()), true, &client("b")));
    let plain: Vec<String> = third.group.servers().map(|server| server.address.to_string()).collect();
    assert_eq!(plain, ["192.0.2.3:53", "[fd00::1]:5353"]);
    assert!(third.group.servers().all(|server| server.transport == Transport::Plain));
    let files: Vec<String> = settings.files().map(|path| path.display().to_string()).collect();
    for file in ["/ca.pem", "/b.pem", "/c.crt", "/c.key", "/b.crt", "/b.key"] {
        assert!(files.iter().any(|found| found == file), "{file}: {files:?}");
    }
}

#[test]
fn what_is_wrong_with_a_route_is_said_with_its_place() {
    let servers = "servers = [\"192.0.2.1#a.test\"]";
    let plain = "servers = [\"plain:192.0.2.1\"]";
    for (text, said) in [
        (
            "[[route]]\nservers = [\"192.0.2.1\"]".to_owned(),
            "f.toml:1: route.domains: is missing; accepted: an array of domains",
        ),
        (format!("\n{}", route("a.test", "")), "f.toml:2: route.servers: is missing; accepted: an array of servers"),
        ("[route]\n".to_owned(), "f.toml:1: route: is a table; write [[route]] and its keys below"),
        (route(".", servers), "f.toml:2: route.domains: \".\" is not a domain"),
        (route("*.a.test", servers), "leave \"*.\" out"),
        (route("a.test\", \"A.test.", servers), "f.toml:2: route.domains: a.test is listed twice"),
        (
            route("a.test", servers) + &route("A.TEST", servers),
            "f.toml:5: route.domains: a.test is a domain of the route at f.toml:1 as well; accepted: in one of the two",
        ),
        (
            route("a.test", &format!("{servers}\nservrs = 1")),
            "f.toml:4: route.servrs: no such option; did you mean servers?",
        ),
        (
            route("a.test", &format!("{servers}\ndeadline = \"1s\"")),
            "f.toml:4: route.deadline: no such option here; it belongs into [upstream]",
        ),
        (
            route("a.test", &format!("{servers}\nclient-key = \"/k\"")),
            "f.toml:4: route.client-key: is set without route.client-certificate; accepted: both",
        ),
        (route("a.test", "servers = [\"plain:192.0.2.1#a.test\"]"), "nobody is authenticated in plain DNS"),
        (
            route("a.test", &format!("{plain}\nprofile = \"strict\"")),
            "f.toml:4: route.profile: means nothing in plain DNS",
        ),
        (
            route("a.test", "servers = [{ address = \"192.0.2.1\", transport = \"plain\", name = \"a.test\" }]"),
            "name means nothing in plain DNS",
        ),
        (
            route("a.test", "servers = [{ address = \"192.0.2.1\", transport = \"quic\" }]"),
            "transport of a server: \"quic\" is neither \"tls\" nor \"plain\"",
        ),
        (
            route("a.test", "servers = [{ address = \"192.0.2.1\", client-key = \"/k\" }]"),
            "client-certificate and client-key are of use only together",
        ),
        (
            route("a.test", "servers = [\"plain:192.0.2.1\", \"plain:192.0.2.1:53\"]"),
            "\"plain:192.0.2.1:53\" is listed twice",
        ),
        (
            "[upstream]\nclient-certificate = \"/c\"".to_owned(),
            "f.toml:2: upstream.client-certificate: is set without upstream.client-key; accepted: both",
        ),
        (
            "[upstream]\nhedge-share = 101".to_owned(),
            "f.toml:2: upstream.hedge-share: 101 is out of range; accepted: a whole number from 0 to 100",
        ),
        (
            "workers = 4\n[upstream]\nconnections = 3".to_owned(),
            "f.toml:3: upstream.connections: is less than workers (4); accepted: 4 or more",
        ),
        ("workers = 33".to_owned(), "f.toml:1: upstream.connections: is less than workers (33)"),
    ] {
        let problem = refused(&text);
        assert!(problem.contains(said), "{text:?}: {problem}");
        assert_eq!(problem.lines().count(), 1, "{text:?}: {problem}");
    }
}

#[test]
fn a_server_may_have_a_certificate_of_its_own_for_us() {
    let own = "{ address = \"192.0.2.1\", client-certificate = \"/o.crt\", client-key = \"/o.key\" }";
    let text = format!(
        "[upstream]\nclient-certificate = \"/c.crt\"\nclient-key = \"/c.key\"\nservers = [\"192.0.2.1\", {own}]"
    );
    let settings = accepted(&text);
    let shown: Vec<String> = settings.servers().map(|server| server.transport.to_string()).collect();
    assert!(shown[0].ends_with("it is shown the certificate /c.crt") && shown[1].ends_with("/o.crt"), "{shown:?}");
}

#[test]
fn r25_plain_dns_is_named_in_a_route_only_and_never_beside_tls() {
    for text in [
        "[upstream]\nservers = [\"plain:192.0.2.1\"]",
        "[upstream]\nservers = [\"192.0.2.1#a.test\", \"plain:192.0.2.1\"]",
        "[upstream]\nservers = [{ address = \"192.0.2.1\", transport = \"plain\" }]",
    ] {
        let said = refused(text);
        assert!(
            said.contains(
                "f.toml:2: upstream.servers: \"plain:192.0.2.1\" is plain DNS, which only a [[route]] may name"
            ),
            "{said}"
        );
    }
    let by_flag = Overrides { listen: Vec::new(), upstream: vec!["plain:192.0.2.1".to_owned()] };
    assert!(
        parse("f", "", &by_flag).unwrap_err().to_string().starts_with("--upstream: \"plain:192.0.2.1\" is plain DNS")
    );
    let said = refused(&route("a.test", "servers = [\"192.0.2.2\", \"plain:192.0.2.1\"]"));
    assert!(said.contains("queries would fall from TLS to clear"), "{said}");
    // and the other way: what [upstream] says makes no route plain, and a plain route leaves [upstream] as it is
    let settings = accepted(&route("a.test", "servers = [\"plain:192.0.2.1\"]"));
    assert!(settings.upstream.group.servers().all(|server| server.tls().is_some()));
    assert_eq!(accepted("").upstream, settings.upstream);
}

#[test]
fn r40_a_loop_through_a_route_is_found() {
    let said = refused(&route("a.test", "servers = [\"plain:127.0.0.1\"]"));
    assert!(
        said.contains("f.toml:3: route.servers: 127.0.0.1:53 is dot-proxy's own address (listen.addresses)"),
        "{said}"
    );
}

#[test]
fn a_reload_cannot_take_the_connections_of_workers_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let source = from(&folder.path().join("f.toml"));
    std::fs::write(source.file(), "workers = 4\n").unwrap();
    let running = load(&source).unwrap();
    std::fs::write(source.file(), "workers = 1\n[upstream]\nconnections = 2\n").unwrap();
    let said = renew(&source, &running).unwrap_err().to_string();
    assert!(said.contains("f.toml:3: upstream.connections: is less than workers (4)"), "{said}");
    assert!(load(&source).is_ok());
}

#[test]
fn r40_names_are_accepted_with_somebody_to_ask_or_with_their_addresses() {
    let bootstrap = "bootstrap = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]";
    let shown = |servers: &str| {
        let settings = accepted(&format!("[upstream]\n{bootstrap}\nservers = [{servers}]"));
        let sources: Vec<String> = settings.sources().map(|source| format!("{}: {source}", source.label)).collect();
        let servers = settings.servers().map(|server| format!("{}: {}", server.label, server.transport));
        sources.into_iter().chain(servers).collect::<Vec<_>>().join("\n")
    };
    let asked = "issued by the system's trust store; looked up in plain DNS at 192.0.2.53:53, [2001:db8::53]:5353";
    for (servers, expected) in [
        (
            "\"dns.example:8853\"",
            "dns.example:8853: all addresses of the host, each with a certificate for the name dns.example",
        ),
        ("\"dns.example#other.test\"", "all addresses of the host, each with a certificate for the name other.test"),
        (
            "\"srv:_dot._tcp.dns.example\"",
            "all hosts of the service within dns.example, each with a certificate for its own name",
        ),
        (
            "\"srv:_dot._tcp.dns.example.#a.test\"",
            "all hosts of the service, each with a certificate for the name a.test",
        ),
    ] {
        let said = shown(servers);
        assert!(said.contains(expected) && said.ends_with(asked), "{said}");
    }
    let said = shown("\"ddr:192.168.1.1\"");
    assert!(said.contains("the resolvers that it designates") && said.ends_with("at 192.168.1.1:53"), "{said}");
    let said = shown("{ address = \"dns.example:8853\", addresses = [\"192.0.2.1\", \"[2001:db8::1]:853\"] }");
    let of = |address| format!("dns.example:8853 ({address}): a certificate for the name dns.example");
    assert!(said.contains(&of("192.0.2.1:8853")) && said.contains(&of("[2001:db8::1]:853")), "{said}");
    // a profile that lets everybody pass cannot be that of a designation
    let settings = accepted("[upstream]\nprofile = \"opportunistic\"\nservers = [\"ddr:192.168.1.1\"]");
    assert!(settings.sources().all(|source| source.terms.profile == Profile::Strict));
    let route = accepted(&format!(
        "[upstream]\n{bootstrap}\n[[route]]\ndomains = [\"a.test\"]\nservers = [\"dns.example\"]\n\
         [[route]]\ndomains = [\"b.test\"]\nbootstrap = [\"192.0.2.54\"]\nservers = [\"dns.example\"]"
    ));
    let first: Vec<String> = route.sources().map(|source| source.search.resolvers[0].to_string()).collect();
    assert_eq!(first, ["192.0.2.53:53", "192.0.2.54:53"]);
}

#[test]
fn r40_names_that_nobody_could_find_or_verify_are_refused() {
    for (lines, expected) in [
        (
            "servers = [\"dns.example\"]",
            "f.toml:2: upstream.servers: \"dns.example\" is a name, and no address to connect to",
        ),
        (
            "servers = [\"dns.example\"]",
            "or name a plain resolver that may be asked for it, such as upstream.bootstrap",
        ),
        ("servers = [\"srv:_dot._tcp.dns.example\"]", "write its address before it, such as \"192.0.2.1#dns.example\""),
        ("servers = [\"192.0.2.256\"]", "\"192.0.2.256\" is no address"),
        ("servers = [\"plain:dns.example\"]", "\"dns.example\" is no address"),
        ("servers = [\"srv:dns.example\"]", "is no service"),
        ("servers = [\"srv:_dot._tcp\"]", "is no service"),
        ("servers = [\"ddr:dns.example\"]", "\"dns.example\" is no address"),
        ("servers = [\"ddr:192.0.2.1#a.test\"]", "the designation says who they are"),
        ("servers = [{ address = \"192.0.2.1\", addresses = [\"192.0.2.2\"] }]", "is an address already"),
        ("servers = [{ address = \"dns.example\", addresses = [] }]", "addresses is empty"),
        ("servers = [{ address = \"dns.example\", addresses = [\"a.test\"] }]", "\"a.test\" is no address"),
        (
            "bootstrap = [\"dns.example\"]",
            "f.toml:2: upstream.bootstrap: \"dns.example\" is no address; accepted: an array",
        ),
        ("bootstrap = [\"127.0.0.1\"]", "f.toml:2: upstream.bootstrap: 127.0.0.1:53 is dot-proxy's own address"),
        ("servers = [\"ddr:127.0.0.1\"]", "f.toml:2: upstream.servers: 127.0.0.1:53 is dot-proxy's own address"),
    ] {
        let said = refused(&format!("[upstream]\n{lines}"));
        assert!(said.contains(expected), "{lines}: {said}");
    }
}

#[test]
fn the_cache_has_a_size_in_octets_and_times_that_agree() {
    for (text, octets) in [("16MiB", 16 << 20), ("1GiB", 1 << 30), ("2048KiB", 2 << 20), ("1048576", 1 << 20), ("0", 0)]
    {
        assert_eq!(accepted(&format!("[cache]\nsize = \"{text}\"\n")).cache.size, octets, "{text}");
    }
    for (text, why) in [("512KiB", "is out of range"), ("5GiB", "is out of range"), ("16 Mb", "is no size")] {
        let said = refused(&format!("[cache]\nsize = \"{text}\"\n"));
        assert!(said.starts_with("f.toml:2: cache.size: ") && said.contains(why), "{said}");
    }
    let said = refused("[cache]\nmax-ttl = \"30s\"\nmin-ttl = \"1m\"\n");
    assert!(said.starts_with("f.toml:3: cache.min-ttl: is longer than cache.max-ttl (30s)"), "{said}");
    assert_eq!(accepted("[cache]\nmax-ttl = \"1m\"\nmin-ttl = \"1m\"\n").cache.min_ttl, Duration::from_secs(60));
}
