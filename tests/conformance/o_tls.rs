//! Theme O: TLS towards clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use rustls::{ClientConfig, ClientConnection};
use testkit::message::{a_for, answer_to};
use testkit::proxy_process::Signal;
use testkit::script::default_builder;
use testkit::tls_client::{client_config, client_config_speaking, client_config_with_identity};
use testkit::{
    Act, DotServer, DotServerBuilder, Ended, Journal, MessageBuilder, Opt, Pki, Proxy, Received, Rr, TcpClient,
    TlsClient, UdpClient, Versions, config_for, framed, inspect, query,
};

use super::bench::{Bench, binary};
use super::namespace::skipped;
use super::setup::{QUIET, SOON, arrives, counter, release};
use crate::life::duty::{burden, with_burden};

/// The name in the proxy's certificate.
pub(crate) const NAME: &str = "proxy.test";

/// A configuration that serves TLS beside plain DNS, with a new certificate; `lines` go into its table `[listen]`.
pub(crate) fn config_with_tls(pki: &Pki, server: &DotServer, lines: &str) -> String {
    let (certificate, key) = pki.server(&[NAME]).write_pem(pki.directory(), "proxy");
    let tls = format!(
        "[listen]\ntls-addresses = [\"127.0.0.1:0\"]\ntls-certificate = \"{}\"\ntls-key = \"{}\"\n{lines}\n",
        certificate.display(),
        key.display()
    );
    config_for(&[(server.address(), "upstream.test")], pki.ca_file()).replace("[listen]\n", &tls)
}

/// A bench whose proxy serves TLS as well.
pub(crate) fn with_tls(shape: impl FnOnce(DotServerBuilder) -> DotServerBuilder, lines: &str) -> Bench {
    let pki = Pki::new();
    let server = shape(DotServer::builder().identity(pki.server(&["upstream.test"]))).start();
    let proxy = Proxy::builder(binary()).config(&config_with_tls(&pki, &server, lines)).start();
    Bench { pki, server, proxy }
}

/// Where the proxy serves TLS.
pub(crate) fn tls_address(proxy: &Proxy) -> SocketAddr {
    *proxy.addresses_of("tls").first().unwrap_or_else(|| panic!("no address for TLS in\n{}", proxy.log()))
}

pub(crate) fn connect(bench: &Bench) -> TlsClient {
    connect_with(bench, &Arc::new(client_config(&bench.pki)))
}

fn connect_with(bench: &Bench, config: &Arc<ClientConfig>) -> TlsClient {
    TlsClient::connect(tls_address(&bench.proxy), NAME, config).expect("a handshake")
}

fn hold(received: &Received) -> Vec<Act> {
    vec![if received.name.starts_with("held") { Act::Silence } else { Act::Default }]
}

fn next(client: &mut TlsClient) -> Vec<u8> {
    client.recv(SOON).expect("an open connection").expect("an answer in time")
}

pub(crate) fn assert_answers(answer: &[u8], id: u16, name: &str) {
    assert_eq!((inspect::id(answer), inspect::a_records(answer)), (id, vec![a_for(name)]), "{name}");
}

/// Everything that comes on a plain connection until it ends.
fn everything(mut stream: &TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return all,
            Ok(count) => all.extend(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("the connection does not end: {error}"),
        }
    }
}

#[test]
fn c133_the_listener_of_tls_speaks_only_tls_and_the_other_never() {
    let bench = with_tls(|server| server, "");
    let (plain, tls) = (bench.proxy.address(), tls_address(&bench.proxy));
    let mut stream = TcpStream::connect(tls).unwrap();
    stream.write_all(&framed(&query(1, "clear.test", 1))).unwrap();
    let said = everything(&stream);
    assert!(said.is_empty() || said[0] == 21, "neither silence nor an alert: {said:?}");
    // and no datagrams
    let udp = UdpClient::connect(tls);
    udp.send(&query(2, "datagram.test", 1));
    assert_eq!(udp.recv(QUIET), None);
    assert!(TlsClient::connect(plain, NAME, &Arc::new(client_config(&bench.pki))).is_err());
    assert!(bench.server.journal().messages.is_empty());
    assert_answers(&TcpClient::connect(plain).ask(&query(3, "plain.test", 1)).unwrap(), 3, "plain.test");
    assert_answers(&connect(&bench).ask(&query(4, "tls.test", 1)).unwrap(), 4, "tls.test");
    // the ports of the two are no matter of choice
    let config = config_with_tls(&bench.pki, &bench.server, "");
    for (old, new, said) in [
        (
            "\naddresses = [\"127.0.0.1:0\"]",
            "\naddresses = [\"127.0.0.1:853\"]",
            "listen.addresses: 127.0.0.1:853: port 853",
        ),
        (
            "tls-addresses = [\"127.0.0.1:0\"]",
            "tls-addresses = [\"127.0.0.1:53\"]",
            "listen.tls-addresses: 127.0.0.1:53: port 53",
        ),
    ] {
        assert!(config.contains(old));
        let (status, log) = Proxy::builder(binary()).config(&config.replace(old, new)).start_expecting_failure();
        assert_eq!(status.code(), Some(78));
        assert!(log.contains(said), "{log}");
    }
}

#[test]
fn c134_pipelined_queries_are_answered_out_of_order_inside_tls() {
    let bench = with_tls(|server| server.script(hold), "");
    let mut client = connect(&bench);
    client.send_raw(&[framed(&query(1, "held.test", 1)), framed(&query(2, "quick.test", 1))].concat());
    assert_answers(&next(&mut client), 2, "quick.test");
    release(&bench.server, "held.test");
    assert_answers(&next(&mut client), 1, "held.test");
    // a frame may come in as many records as it has octets, and a record may hold many frames
    for octet in framed(&query(3, "slow.test", 1)) {
        client.send_raw(&[octet]);
    }
    assert_answers(&next(&mut client), 3, "slow.test");
    let many: Vec<u8> = (0..300).flat_map(|id| framed(&query(id, "many.test", 1))).collect();
    client.send_raw(&many);
    let mut seen: Vec<u16> = (0..300).map(|_| inspect::id(&next(&mut client))).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..300).collect::<Vec<u16>>());
}

#[test]
fn c134_size_is_no_limit_inside_tls() {
    let bench = with_tls(
        |server| {
            server.script(|received| {
                let texts = vec![0; 255].repeat(250);
                vec![Act::Answer(answer_to(&received.message).answer(&Rr::new("big.test", 16, 60, &texts)).build())]
            })
        },
        "",
    );
    let mut client = connect(&bench);
    let asked = MessageBuilder::query(1, "big.test", 16).opt(Opt::new(512)).build();
    for _ in 0..3 {
        let answer = client.ask(&asked).unwrap();
        assert!(answer.len() > 63_000 && answer[2] & 2 == 0, "{}", answer.len());
    }
    // several at once fill more than one record can hold
    for _ in 0..20 {
        client.send(&asked);
    }
    for _ in 0..20 {
        assert!(next(&mut client).len() > 63_000);
    }
}

#[test]
fn c134_a_client_that_says_goodbye_or_just_ends_gets_its_answers() {
    let bench = with_tls(|server| server.script(hold), "");
    for polite in [true, false] {
        let mut client = connect(&bench);
        let name = format!("held-{polite}.test");
        client.send(&query(14, &name, 1));
        if polite {
            client.close_notify();
        } else {
            client.half_close();
        }
        assert!(arrives(&bench.server, &name, 1));
        assert_eq!(client.recv(QUIET), Ok(None));
        release(&bench.server, &name);
        assert_answers(&next(&mut client), 14, &name);
        assert_eq!(client.recv(SOON), Err(Ended::CloseNotify));
    }
}

#[test]
fn c134_every_orderly_end_is_said_by_close_notify() {
    let mut bench = with_tls(|server| server.script(hold), "tcp-idle-timeout = \"1s\"\ntcp-connections-per-client = 2");
    let mut idle = connect(&bench);
    let asked = Instant::now();
    idle.ask(&query(1, "idle.test", 1)).unwrap();
    assert_eq!(idle.wait_for_end(SOON), Some(Ended::CloseNotify));
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&asked.elapsed()));
    // a length that no message has
    let mut wrong = connect(&bench);
    wrong.send_raw(&[0, 3, 1, 2, 3]);
    assert_eq!(wrong.wait_for_end(SOON), Some(Ended::CloseNotify));
    // whoever makes room for another
    let mut first = connect(&bench);
    first.ask(&query(2, "first.test", 1)).unwrap();
    let mut second = connect(&bench);
    second.ask(&query(3, "second.test", 1)).unwrap();
    let mut third = connect(&bench);
    third.ask(&query(4, "third.test", 1)).unwrap();
    assert_eq!(first.wait_for_end(SOON), Some(Ended::CloseNotify));
    // the end of the service, after the answers
    third.send(&query(5, "held.test", 1));
    assert!(arrives(&bench.server, "held.test", 1));
    bench.proxy.signal(Signal::SIGTERM);
    assert_eq!(third.recv(QUIET), Ok(None));
    release(&bench.server, "held.test");
    assert_answers(&next(&mut third), 5, "held.test");
    assert_eq!(third.recv(SOON), Err(Ended::CloseNotify));
    assert!(bench.proxy.wait_exit(Duration::from_secs(10)).unwrap().success());
}

#[test]
fn c134_a_client_that_never_reads_is_closed_and_costs_bounded_memory() {
    let bench = with_tls(
        |server| {
            server.script(|received| {
                let text = vec![0; 60_000];
                vec![Act::Answer(answer_to(&received.message).answer(&Rr::new("big.test", 16, 60, &text)).build())]
            })
        },
        "tcp-write-timeout = \"2s\"",
    );
    let mut other = connect(&bench);
    other.ask(&query(1, "big.test", 16)).unwrap();
    let (memory, files) = (bench.proxy.rss_kib(), bench.proxy.open_files());
    let mut deaf = connect(&bench);
    for id in 0..2000 {
        deaf.send(&query(id, "big.test", 16));
        if id % 100 == 0 {
            assert!(bench.proxy.rss_kib() < memory + 40_000, "{} KiB", bench.proxy.rss_kib() - memory);
        }
    }
    let deadline = Instant::now() + Duration::from_secs(12);
    while bench.proxy.open_files() > files && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(bench.proxy.open_files(), files);
    assert!(other.ask(&query(2, "big.test", 16)).is_some());
}

#[test]
fn c134_a_reset_connection_leaves_nothing_behind() {
    let bench = with_tls(|server| server.script(hold), "");
    connect(&bench).ask(&query(1, "before.test", 1)).unwrap();
    let mut lasting = connect(&bench);
    lasting.ask(&query(1, "lasting.test", 1)).unwrap();
    let baseline = bench.proxy.open_files();
    let mut client = connect(&bench);
    for id in 0..50 {
        client.send(&query(id, "held.test", 1));
    }
    assert!(arrives(&bench.server, "held.test", 50));
    client.reset();
    release(&bench.server, "held.test");
    let deadline = Instant::now() + SOON;
    while bench.proxy.open_files() > baseline && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(bench.proxy.open_files() <= baseline);
    assert_answers(&lasting.ask(&query(2, "after.test", 1)).unwrap(), 2, "after.test");
}

#[test]
fn c134_the_idle_time_is_told_inside_tls() {
    let bench = with_tls(|server| server, "tcp-idle-timeout = \"3s\"");
    let asked = MessageBuilder::query(21, "keep.test", 1).opt(Opt::new(1232).option(11, &[])).build();
    let answer = connect(&bench).ask(&asked).unwrap();
    assert_eq!(inspect::option(&answer, 11), Some(30_u16.to_be_bytes().to_vec()));
}

#[test]
fn c134_sessions_are_resumed_by_tickets_and_never_with_early_data() {
    for versions in [Versions::Tls12, Versions::Tls13] {
        let mut bench = with_tls(|server| server, "");
        let mut config = client_config_speaking(&bench.pki, versions);
        config.enable_early_data = true;
        let config = Arc::new(config);
        let mut first = connect_with(&bench, &config);
        first.ask(&query(1, "first.test", 1)).unwrap();
        assert!(!first.is_resumed());
        for id in 2..6 {
            let mut again = connect_with(&bench, &config);
            assert!(again.is_resumed(), "{versions:?}, {id}");
            assert!(!again.tls().is_early_data_accepted());
            assert_answers(&again.ask(&query(id, "again.test", 1)).unwrap(), id, "again.test");
        }
        let log_before = bench.proxy.log();
        assert_eq!(counter(&mut bench, "tls_resumed"), 4, "{log_before}");
    }
}

#[test]
fn c134_all_workers_take_each_others_tickets() {
    if !Uid::effective().is_root() {
        return skipped("needs root");
    }
    let pki = Pki::new();
    let server = DotServer::builder().identity(pki.server(&["upstream.test"])).script(with_burden).start();
    let config = config_with_tls(&pki, &server, "").replace("workers = 1", "workers = 2").replace("size = \"0\"", "");
    let bench = Bench { proxy: Proxy::builder(binary()).config(&config).start(), pki, server };
    let config = Arc::new(client_config(&bench.pki));
    connect_with(&bench, &config).ask(&query(1, "first.test", 1)).unwrap();
    let _burden = burden(&bench.proxy);
    // until each has served somebody
    for id in (0..1000).take_while(|&id| id < 20 || bench.server.with_journal(Journal::accepted) < 2) {
        let mut again = connect_with(&bench, &config);
        assert!(again.is_resumed());
        assert!(again.ask(&query(id, &format!("again{id}.test"), 1)).is_some());
    }
    assert_eq!(bench.server.with_journal(Journal::accepted), 2);
}

#[test]
fn c135_alpn_dot_is_chosen_none_is_accepted_and_another_refused() {
    let mut bench = with_tls(|server| server, "");
    for (offered, chosen) in
        [(vec![&b"dot"[..]], Some(&b"dot"[..])), (vec![b"h2", b"dot"], Some(b"dot")), (vec![], None)]
    {
        let mut config = client_config(&bench.pki);
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let mut client = connect_with(&bench, &Arc::new(config));
        assert_eq!(client.tls().alpn_protocol(), chosen);
        assert_answers(&client.ask(&query(1, "alpn.test", 1)).unwrap(), 1, "alpn.test");
    }
    let mut config = client_config(&bench.pki);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let refused = TlsClient::connect(tls_address(&bench.proxy), NAME, &Arc::new(config)).unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    for versions in [Versions::Tls12, Versions::Tls13] {
        let config = Arc::new(client_config_speaking(&bench.pki, versions));
        assert!(connect_with(&bench, &config).ask(&query(2, "version.test", 1)).is_some());
    }
    assert_eq!(counter(&mut bench, "tls_failures"), 1);
}

/// An answer that is itself padded, for the link of the resolver.
fn padded_answer(received: &Received) -> Vec<Act> {
    let mut builder = default_builder(&received.message);
    if inspect::opt(&received.message).is_some() {
        builder = builder.opt(Opt::new(1232).option(12, &[0; 77]).option(15, b"\0\x03"));
    }
    vec![Act::Answer(builder.build())]
}

#[test]
fn c136_padded_queries_get_padded_answers_and_others_none() {
    let bench = with_tls(|server| server.script(padded_answer), "");
    let mut client = connect(&bench);
    let options = |answer: &[u8]| -> Vec<u16> {
        inspect::opt(answer).map_or(Vec::new(), |opt| opt.options.into_iter().map(|(code, _)| code).collect())
    };
    for id in 0..60_u16 {
        let name = format!("{}.pad.test", "x".repeat(usize::from(id) + 1));
        let opt = Opt::new(1232).option(12, &vec![0; usize::from(id)]);
        let answer = client.ask(&MessageBuilder::query(id, &name, 1).opt(opt).build()).unwrap();
        assert_eq!(answer.len() % 468, 0, "{}", answer.len());
        assert_eq!(options(&answer), [15, 12], "padding comes last, and once");
        assert_answers(&answer, id, &name);
    }
    // with an OPT record but without padding: none, and not the resolver's
    let answer = client.ask(&MessageBuilder::query(1, "bare.test", 1).opt(Opt::new(1232)).build()).unwrap();
    assert_eq!(options(&answer), [15]);
    let answer = client.ask(&query(2, "none.test", 1)).unwrap();
    assert_eq!(inspect::opt(&answer), None);
    // replies of the proxy's own
    let padded = |name: &str| MessageBuilder::query(3, name, 1).opt(Opt::new(1232).option(12, &[0; 9])).build();
    let answer = client.ask(&padded("x.home.arpa")).unwrap();
    assert_eq!((inspect::rcode(&answer), answer.len() % 468), (3, 0));
    // where anybody can read it padding is of no use, and the message is left alone
    let answer = TcpClient::connect(bench.proxy.address()).ask(&padded("tcp.test")).unwrap();
    assert_eq!(options(&answer), [12, 15]);
}

#[test]
fn c136_padding_makes_no_message_too_long_and_goes_both_ways() {
    let pki = Pki::new();
    let server = DotServer::builder()
        .identity(pki.server(&["upstream.test"]))
        .script(|received| {
            let text = vec![0; if received.name.starts_with("big") { 65_440 } else { 10 }];
            let rr = Rr::new(&received.name, 16, 60, &text);
            vec![Act::Answer(answer_to(&received.message).answer(&rr).opt(Opt::new(1232)).build())]
        })
        .start();
    let config = config_with_tls(&pki, &server, "") + "[privacy]\npadding = true\n";
    let bench = Bench { proxy: Proxy::builder(binary()).config(&config).start(), pki, server };
    let mut client = connect(&bench);
    let padded = |name: &str| MessageBuilder::query(3, name, 16).opt(Opt::new(1232).option(12, &[0; 9])).build();
    let big = client.ask(&padded("big.test")).unwrap();
    assert!(big.len() > 65_440);
    assert_eq!(client.ask(&padded("small.test")).unwrap().len(), 468);
    assert!(bench.server.journal().messages.iter().all(|message| message.octets.len() % 128 == 0));
}

/// The beginning of a greeting.
fn half_a_hello(pki: &Pki) -> Vec<u8> {
    let name = NAME.try_into().unwrap();
    let mut greeting = Vec::new();
    ClientConnection::new(Arc::new(client_config(pki)), name).unwrap().write_tls(&mut greeting).unwrap();
    greeting.truncate(greeting.len() / 2);
    greeting
}

#[test]
fn c137_a_handshake_that_stalls_is_closed_after_ten_seconds() {
    let mut bench = with_tls(|server| server, "tcp-idle-timeout = \"60s\"");
    let address = tls_address(&bench.proxy);
    let began = Instant::now();
    let silent = TcpStream::connect(address).unwrap();
    let mut half = TcpStream::connect(address).unwrap();
    half.write_all(&half_a_hello(&bench.pki)).unwrap();
    // others are served meanwhile
    assert!(connect(&bench).ask(&query(1, "meanwhile.test", 1)).is_some());
    assert!(everything(&silent).is_empty() && everything(&half).is_empty());
    assert!((Duration::from_secs(9)..Duration::from_secs(12)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(counter(&mut bench, "tls_failures"), 2);
}

#[test]
fn c137_stalled_handshakes_take_the_places_of_their_own_client_and_fill_no_log() {
    let pki = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let lines = "tcp-idle-timeout = \"2s\"\ntcp-connections = 40\ntcp-connections-per-client = 3";
    let config = config_with_tls(&pki, &server, lines).replace("level = \"debug\"", "level = \"info\"");
    let mut bench = Bench { proxy: Proxy::builder(binary()).config(&config).start(), pki, server };
    let log_lines = bench.proxy.log_lines();
    let address = tls_address(&bench.proxy);
    let began = Instant::now();
    let stalled: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(address).unwrap()).collect();
    for mut stream in &stalled[..15] {
        // those that came too early may be gone already
        drop(stream.write_all(b"GET / HTTP/1.1\r\n\r\n"));
    }
    // one of the silent makes room for whoever speaks
    assert!(connect(&bench).ask(&query(1, "speaks.test", 1)).is_some());
    let deadline = Instant::now() + SOON;
    for stream in &stalled {
        everything(stream);
    }
    assert!(Instant::now() < deadline && began.elapsed() < Duration::from_secs(4));
    assert_eq!(bench.proxy.log_lines(), log_lines, "{}", bench.proxy.log());
    assert!(counter(&mut bench, "tcp_limited") >= 27);
}

#[test]
fn clients_must_show_a_certificate_where_their_ca_is_set() {
    let pki = Pki::new();
    let clients = Pki::new();
    let server = DotServer::start(pki.server(&["upstream.test"]));
    let line = format!("tls-client-ca = \"{}\"", clients.ca_file().display());
    let proxy = Proxy::builder(binary()).config(&config_with_tls(&pki, &server, &line)).start();
    let bench = Bench { pki, server, proxy };
    let known = client_config_with_identity(&bench.pki, &clients.client("client.test"));
    let mut client = connect_with(&bench, &Arc::new(known));
    assert_answers(&client.ask(&query(1, "known.test", 1)).unwrap(), 1, "known.test");
    let stranger = client_config_with_identity(&bench.pki, &Pki::new().client("client.test"));
    for config in [client_config(&bench.pki), stranger] {
        // in TLS 1.3 the client believes itself connected before the server has judged its certificate
        let address = tls_address(&bench.proxy);
        if let Ok(mut client) = TlsClient::connect(address, NAME, &Arc::new(config)) {
            client.send(&query(2, "stranger.test", 1));
            assert!(client.recv(SOON).is_err(), "a stranger is served");
        }
    }
    assert!(bench.server.journal().messages_named("stranger.test").is_empty());
}

#[test]
fn an_idle_client_on_tls_costs_little_memory() {
    let mut bench = with_tls(|server| server, "tcp-idle-timeout = \"60s\"\ntcp-connections-per-client = 1000");
    let config = Arc::new(client_config(&bench.pki));
    let warm: Vec<TlsClient> = (0..50).map(|_| connect_with(&bench, &config)).collect();
    let memory = bench.proxy.rss_kib();
    let many: Vec<TlsClient> = (0..400)
        .map(|_| {
            let mut client = connect_with(&bench, &config);
            client.ask(&query(1, "idle.test", 1)).unwrap();
            client
        })
        .collect();
    let each = (bench.proxy.rss_kib().saturating_sub(memory)) * 1024 / 400;
    println!("an idle client on TLS costs {each} octets");
    assert!(each < 24 * 1024, "{each} octets");
    drop((warm, many));
    assert_eq!(counter(&mut bench, "tls_handshakes"), 450);
}

#[test]
fn c137_a_client_that_is_not_allowed_gets_no_handshake() {
    let mut bench = with_tls(|server| server, "allow = [\"127.0.0.1\"]");
    // the same machine, from another of its addresses
    let from = SocketAddr::from(([127, 0, 0, 9], 0));
    let socket = TcpClient::connect_from(from, tls_address(&bench.proxy));
    let mut greeting = ClientConnection::new(Arc::new(client_config(&bench.pki)), NAME.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    greeting.write_tls(&mut hello).unwrap();
    // it may be closed already
    let _ = socket.try_send_raw(&hello);
    assert!(everything(socket.stream()).is_empty(), "not one octet");
    let mut friend = connect(&bench);
    friend.send(&query(7, "friend.test", 1));
    assert_answers(&next(&mut friend), 7, "friend.test");
    assert_eq!(counter(&mut bench, "prohibited"), 1);
}
