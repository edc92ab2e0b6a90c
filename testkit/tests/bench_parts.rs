//! The parts of the bench besides the server: certificates, messages, plain clients, the process starter.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use testkit::inspect::{self, all_records, counts, ede, opt, qclass, qtype, question_name};
use testkit::message::{a_for, flag, framed};
use testkit::proxy_process::Signal;
use testkit::record::rtype::{A, TSIG, TXT};
use testkit::record::{DO, name_wire};
use testkit::tls_client::client_config;
use testkit::{
    Certificate, DotServer, Ended, MessageBuilder, Opt, Pki, Proxy, Rr, Section, TcpClient, TlsClient, UdpClient,
    answer_to, config_for, default_answer, query,
};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn certificates_are_good_or_bad_as_asked() {
    let pki = Pki::new();
    let names = Certificate::for_names(&["dns.upstream.test"]);
    let good = [
        names.clone(),
        Certificate::for_names(&["*.upstream.test"]),
        names.clone().via_intermediate(true),
        Certificate::for_names(&["other.test", "dns.upstream.test", "127.0.0.1"]),
    ];
    let bad = [
        names.clone().expired(),
        names.clone().not_yet_valid(),
        names.clone().client_auth_only(),
        names.clone().via_intermediate(false),
        names.self_signed(),
        Certificate::common_name_only("dns.upstream.test"),
        Certificate::for_names(&["other.test"]),
        Certificate::for_names(&["*.test"]),
        Certificate::for_names(&["*.dns.upstream.test"]),
    ];
    let server = DotServer::start(pki.server(&["dns.upstream.test"]));
    let connects = |certificate: &Certificate| {
        server.set_identity(pki.issue(certificate));
        let config = Arc::new(client_config(&pki));
        TlsClient::connect(server.address(), "dns.upstream.test", &config).map(|_| ())
    };
    for certificate in &good {
        connects(certificate).unwrap_or_else(|error| panic!("{certificate:?}: {error}"));
    }
    for certificate in &bad {
        assert!(connects(certificate).is_err(), "{certificate:?}");
    }
}

#[test]
fn pins_follow_the_key_and_not_the_certificate() {
    let pki = Pki::new();
    let first = pki.server(&["a.test"]);
    let renewed = pki.issue(&Certificate::for_names(&["b.test"]).same_key_as(&first));
    assert_eq!(first.spki_pin(), renewed.spki_pin());
    assert_ne!(first.spki_pin(), pki.server(&["a.test"]).spki_pin());
    assert_eq!(first.spki_pin().len(), 44);

    // rustls reads the same SubjectPublicKeyInfo out of the certificate
    let parsed = rustls::server::ParsedCertificate::try_from(&first.chain[0]).unwrap();
    let spki = parsed.subject_public_key_info();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki);
    assert_eq!(first.spki_pin(), data_encoding::BASE64.encode(hash.as_ref()));

    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let (chain, key) = first.write_pem(pki.directory(), "server");
    assert_eq!(CertificateDer::from_pem_file(chain).unwrap(), first.chain[0]);
    assert_eq!(PrivateKeyDer::from_pem_file(key).unwrap().secret_der(), first.key.secret_der());
    assert_eq!(CertificateDer::from_pem_file(pki.ca_file()).unwrap(), pki.ca());
}

#[test]
fn messages_are_built_and_read_back() {
    let asked = MessageBuilder::query(0x1234, "A.b", TXT)
        .ad(true)
        .bit(flag::Z, true)
        .qclass(3)
        .record(Section::Authority, &Rr::soa("b", 1, 2))
        .opt(Opt::new(1232).version(1).flags(DO | 1).option(65001, &[1, 2]).option(65001, &[]))
        .tsig()
        .build();
    assert_eq!(asked[..4], [0x12, 0x34, 0x01, 0x60]);
    assert_eq!((question_name(&asked).as_str(), qtype(&asked), qclass(&asked)), ("A.b", TXT, 3));
    assert_eq!(counts(&asked), [1, 0, 1, 2]);
    let read = opt(&asked).unwrap();
    assert_eq!(read, Opt::new(1232).version(1).flags(DO | 1).option(65001, &[1, 2]).option(65001, &[]));
    assert_eq!(all_records(&asked).unwrap().pop().unwrap().1.rtype, TSIG);

    let answer =
        answer_to(&asked).a([192, 0, 2, 1], 60).rcode(23).opt(Opt::new(512).option(15, &[0, 22])).rcode(23).build();
    assert_eq!((inspect::rcode(&answer), ede(&answer)), (23, Some(22)));
    assert_eq!(inspect::flags(&answer) & (flag::QR | flag::RA | flag::RD | flag::AD), flag::QR | flag::RA | flag::RD);
    assert_eq!(inspect::a_records(&answer), [[192, 0, 2, 1]]);
    assert_eq!(inspect::question_octets(&answer), inspect::question_octets(&asked));

    let wrong = MessageBuilder::query(1, "a", A).qdcount(2).trailing(&[0xc0]).build();
    assert_eq!((counts(&wrong)[0], all_records(&wrong)), (2, None));
    let looping = MessageBuilder::empty(1).question_octets(&[0xc0, 12, 0, 1, 0, 1]).build();
    assert_eq!(question_name(&looping), "");
    assert_eq!(name_wire("."), [0]);
    assert_eq!(question_name(&query(1, "", A)), ".");
    assert_eq!(a_for("Example.TEST."), a_for("example.test"));
    assert_ne!(a_for("example.test"), a_for("example2.test"));
}

#[test]
fn plain_clients_tell_answer_timeout_fin_and_reset_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpClient::connect_with_receive_buffer(listener.local_addr().unwrap(), 4096);
    let server = TcpClientPeer(listener.accept().unwrap().0);
    assert_eq!(client.recv(Duration::from_millis(30)), Ok(None));
    server.write(&[framed(b"message one!"), framed(b"message two!"), vec![0, 9, 1]].concat());
    assert_eq!(client.recv(SOON), Ok(Some(b"message one!".to_vec())));
    assert_eq!(client.recv(SOON), Ok(Some(b"message two!".to_vec())));
    drop(server);
    assert_eq!(client.recv(SOON), Err(Ended::FinInsideMessage));

    for reset in [false, true] {
        let mut client = TcpClient::connect(listener.local_addr().unwrap());
        let server = listener.accept().unwrap().0;
        if reset {
            socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(server);
        assert_eq!(client.recv(SOON), Err(if reset { Ended::Rst } else { Ended::Fin }));
    }
}

struct TcpClientPeer(std::net::TcpStream);

impl TcpClientPeer {
    fn write(&self, octets: &[u8]) {
        std::io::Write::write_all(&mut &self.0, octets).unwrap();
    }
}

#[test]
fn udp_client_takes_the_answer_with_its_id() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let mut buffer = [0; 512];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&query(1, "stray", A), from).unwrap();
        server.send_to(&default_answer(&buffer[..length]), from).unwrap();
    });
    let client = UdpClient::connect_from("127.0.0.1:0".parse().unwrap(), address);
    let answer = client.ask(&query(2, "a.test", A)).unwrap();
    assert_eq!(inspect::a_records(&answer), [a_for("a.test")]);
    thread.join().unwrap();
    // nobody is there any more: the ICMP error is neither an answer nor a panic
    let start = Instant::now();
    assert_eq!(client.ask_within(&query(3, "a.test", A), Duration::from_millis(100)), None);
    assert!(start.elapsed() >= Duration::from_millis(95));
    client.send(&query(4, "a.test", A));
}

fn shell(script: &str) -> testkit::proxy_process::ProxyBuilder {
    Proxy::builder(Path::new("/bin/sh")).arg("-c").arg(script)
}

#[test]
fn a_process_is_started_watched_and_ended() {
    let script =
        "echo 'info: listening on 127.0.0.1:41234 (udp, tcp)' >&2; echo 'info: listening on [::1]:53 (udp)' >&2;
        trap 'echo got it >&2; exit 3' TERM; echo 'info: ready' >&2; while :; do sleep 0.05; done";
    let mut proxy = shell(script).start();
    assert_eq!(proxy.address(), "127.0.0.1:41234".parse().unwrap());
    assert_eq!(proxy.addresses()[1], "[::1]:53".parse().unwrap());
    assert!(proxy.rss_kib() > 100 && proxy.threads() == 1 && proxy.open_files() >= 3);
    assert!(proxy.cpu_time() < Duration::from_secs(5));
    assert!(proxy.wait_exit(Duration::ZERO).is_none());
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.wait_exit(SOON).unwrap().code(), Some(3));
    assert!(proxy.log().ends_with("got it"));

    let (status, log) = shell("echo 'error: no such key' >&2; exit 2").start_expecting_failure();
    assert_eq!((status.code(), log.as_str()), (Some(2), "error: no such key"));

    let running = shell("echo ready >&2; exec sleep 60").start();
    let stat = format!("/proc/{}/stat", running.pid());
    drop(running);
    assert!(!Path::new(&stat).exists());
}

#[test]
fn the_configuration_names_upstreams_and_ca() {
    let upstreams = [("127.0.0.1:8853".parse().unwrap(), "a.test"), ("[::1]:853".parse().unwrap(), "b.test")];
    let text = config_for(&upstreams, Path::new("/tmp/ca.pem"));
    assert!(text.contains(r#"servers = ["127.0.0.1:8853#a.test", "[::1]:853#b.test"]"#), "{text}");
    assert!(text.contains(r#"ca-file = "/tmp/ca.pem""#));
}
