//! The bench itself is tested against a plain rustls client, so that a failing test of the daemon blames the daemon.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use testkit::inspect::{a_records, id, rcode};
use testkit::journal::{Handshake, PeerEnd};
use testkit::message::{a_for, framed};
use testkit::record::rtype::A;
use testkit::tls_client::{client_config, client_config_with_identity};
use testkit::{
    Act, Certificate, DotServer, Ended, How, Pki, Stage, TcpClient, TlsClient, Versions, default_answer, query,
};

const SOON: Duration = Duration::from_secs(5);
const NOTHING: Duration = Duration::from_millis(150);

struct Bench {
    pki: Pki,
    config: Arc<ClientConfig>,
    server: DotServer,
}

fn bench(change: impl FnOnce(testkit::DotServerBuilder) -> testkit::DotServerBuilder) -> Bench {
    let pki = Pki::new();
    let config = Arc::new(client_config(&pki));
    let server = change(DotServer::builder().identity(pki.server(&["upstream.test"]))).start();
    Bench { pki, config, server }
}

fn scripted(script: impl Fn(&testkit::Received) -> Vec<Act> + Send + Sync + 'static) -> Bench {
    bench(|builder| builder.script(script))
}

impl Bench {
    fn try_connect(&self) -> std::io::Result<TlsClient> {
        TlsClient::connect(self.server.address(), "upstream.test", &self.config)
    }

    fn connect(&self) -> TlsClient {
        self.try_connect().expect("a TLS connection")
    }
}

#[test]
fn answers_by_default_with_the_address_of_the_name() {
    let bench = bench(|builder| builder);
    let mut client = bench.connect();
    let answer = client.ask(&query(77, "Www.Example.test", A)).expect("an answer");
    assert_eq!((id(&answer), rcode(&answer)), (77, 0));
    assert_eq!(a_records(&answer), [a_for("www.example.test")]);
    drop(client);
    assert!(bench.server.wait_for(|journal| journal.open() == 0, SOON));

    let journal = bench.server.journal();
    let connection = &journal.connections[0];
    let hello = connection.hello.as_ref().expect("a ClientHello");
    assert_eq!(hello.server_name.as_deref(), Some("upstream.test"));
    assert_eq!(hello.alpn, [b"dot"]);
    assert_eq!(hello.versions, [0x0304, 0x0303]);
    assert!(!hello.offers_tls11_or_older() && !hello.early_data && !hello.pre_shared_key);
    assert!(!hello.groups.is_empty() && !hello.key_shares.is_empty());
    assert!(matches!(&connection.handshake, Handshake::Done { resumed: false, version: 0x0304, .. }));
    assert_eq!(connection.first_octets[..2], [22, 3]);
    assert!(connection.peer_end.is_some());
    assert_eq!(journal.messages_named("www.example.TEST").len(), 1);
}

#[test]
fn sees_where_records_begin_and_end() {
    for versions in [Versions::Tls12, Versions::Tls13] {
        let bench = bench(|builder| builder.tls_versions(versions));
        let mut client = bench.connect();
        let (first, second) = (framed(&query(1, "one.test", A)), framed(&query(2, "two.test", A)));
        client.send_raw(&[first.clone(), second.clone()].concat());
        client.send_raw(&first[..5]);
        client.send_raw(&first[5..]);
        for expected in [1, 2, 1] {
            assert_eq!(id(&client.recv(SOON).unwrap().expect("an answer")), expected);
        }
        let records: Vec<_> = bench.server.journal().records.into_iter().map(|record| record.plaintext).collect();
        assert_eq!(records, [[first.clone(), second].concat(), first[..5].to_vec(), first[5..].to_vec()]);
    }
}

#[test]
fn resumes_sessions_until_it_forgets_them() {
    for versions in [Versions::Tls12, Versions::Tls13] {
        let bench = bench(|builder| builder.tls_versions(versions));
        let ask = || {
            let mut client = bench.connect();
            client.ask(&query(1, "a.test", A)).expect("an answer");
            client.is_resumed()
        };
        assert!(!ask());
        assert!(ask(), "{versions:?}");
        bench.server.forget_sessions();
        assert!(!ask());
        assert!(bench.server.wait_for(|journal| journal.established() == 3, SOON));
        let resumed: Vec<bool> = bench.server.journal().connections.iter().map(|c| c.is_resumed()).collect();
        assert_eq!(resumed, [false, true, false]);
    }
    let bench = bench(|builder| builder.tickets(0));
    for _ in 0..2 {
        let mut client = bench.connect();
        client.ask(&query(1, "a.test", A)).expect("an answer");
        assert!(!client.is_resumed());
    }
}

#[test]
fn delays_one_answer_without_holding_up_the_next() {
    let bench = scripted(|received| match received.nth {
        0 => vec![Act::AnswerAfter(Duration::from_millis(200), default_answer(&received.message))],
        _ => vec![Act::Default],
    });
    let mut client = bench.connect();
    client.send(&query(1, "slow.test", A));
    client.send(&query(2, "fast.test", A));
    let start = Instant::now();
    assert_eq!(id(&client.recv(SOON).unwrap().unwrap()), 2);
    assert!(start.elapsed() < Duration::from_millis(150));
    assert_eq!(id(&client.recv(SOON).unwrap().unwrap()), 1);
    assert!(start.elapsed() >= Duration::from_millis(190));
    let journal = bench.server.journal();
    assert_eq!((journal.max_in_flight(0), journal.connections[0].in_flight()), (2, 0));
}

#[test]
fn cuts_the_stream_as_told() {
    let bench = scripted(|received| {
        let answer = default_answer(&received.message);
        match received.nth {
            0 => vec![Act::OneOctetRecords(answer)],
            1 => vec![Act::KeyUpdate, Act::Raw([framed(&answer), framed(&answer)].concat()), Act::KeyUpdate],
            2 => vec![
                Act::Raw(framed(&answer)[..7].to_vec()),
                Act::Sleep(NOTHING),
                Act::Raw(framed(&answer)[7..].to_vec()),
            ],
            _ => vec![Act::Silence],
        }
    });
    let mut client = bench.connect();
    assert!(client.ask(&query(1, "a.test", A)).is_some());
    assert!(client.ask(&query(2, "a.test", A)).is_some());
    assert_eq!(id(&client.recv(SOON).unwrap().unwrap()), 2);
    client.send(&query(3, "a.test", A));
    assert_eq!(client.recv(NOTHING / 3), Ok(None));
    assert_eq!(id(&client.recv(SOON).unwrap().unwrap()), 3);
    client.send(&query(4, "a.test", A));
    assert_eq!(client.recv(NOTHING), Ok(None));
}

#[test]
fn ends_connections_as_told() {
    let bench = scripted(|received| {
        let answer = default_answer(&received.message);
        vec![match received.name.as_str() {
            "notify.test" => Act::CloseNotifyAndFin,
            "fin.test" => Act::Fin,
            "rst.test" => Act::Rst,
            _ => Act::AnswerCloseFinInOneSegment(answer),
        }]
    });
    let cases = [("notify.test", Ended::CloseNotify), ("fin.test", Ended::Fin), ("rst.test", Ended::Rst)];
    for (name, expected) in cases {
        let mut client = bench.connect();
        client.send(&query(1, name, A));
        assert_eq!(client.recv(SOON), Err(expected), "{name}");
    }
    let mut client = bench.connect();
    client.send(&query(9, "last.test", A));
    assert_eq!(id(&client.recv(SOON).unwrap().unwrap()), 9);
    assert_eq!(client.recv(SOON), Err(Ended::CloseNotify));
    drop(client);
    assert!(bench.server.wait_for(|journal| journal.open() == 0, SOON));
    let ends: Vec<_> = bench.server.journal().connections.iter().map(|c| c.server_end.unwrap().0).collect();
    assert_eq!(ends, [How::CloseNotify, How::Fin, How::Rst, How::CloseNotify]);
}

#[test]
fn closes_all_from_outside_and_sees_how_the_peer_ends() {
    let bench = bench(|builder| builder);
    for (how, expected) in [(How::CloseNotify, Ended::CloseNotify), (How::Fin, Ended::Fin), (How::Rst, Ended::Rst)] {
        let mut client = bench.connect();
        client.ask(&query(1, "a.test", A)).expect("an answer");
        bench.server.close_all(how);
        assert_eq!(client.recv(SOON), Err(expected));
        drop(client);
        assert!(bench.server.wait_for(|journal| journal.open() == 0, SOON), "{how:?}");
    }
    let mut client = bench.connect();
    client.ask(&query(1, "a.test", A)).expect("an answer");
    client.close_notify();
    client.half_close();
    assert!(bench.server.wait_for(|journal| journal.open() == 0, SOON));
    let client = bench.connect();
    client.reset();
    assert!(bench.server.wait_for(|journal| journal.accepted() == 5 && journal.open() == 0, SOON));
    let connections = bench.server.journal().connections;
    assert!(connections[3].peer_close_notify.is_some());
    assert_eq!(connections[3].peer_end.unwrap().0, PeerEnd::Fin);
    assert_eq!(connections[4].peer_end.unwrap().0, PeerEnd::Rst);
}

#[test]
fn freezes_what_exists_and_serves_what_is_new() {
    let bench = bench(|builder| builder);
    let mut old = bench.connect();
    old.ask(&query(1, "a.test", A)).expect("an answer");
    bench.server.freeze_existing();
    old.send(&query(2, "b.test", A));
    assert_eq!(old.recv(NOTHING), Ok(None));
    let mut new = bench.connect();
    assert!(new.ask(&query(3, "c.test", A)).is_some());
    drop(old);
    assert!(bench.server.wait_for(|journal| journal.connections[0].peer_end.is_some(), SOON));
    assert!(bench.server.with_journal(|journal| journal.messages_named("b.test").is_empty()));

    bench.server.set_script(|_| vec![Act::GoSilent]);
    new.send(&query(4, "d.test", A));
    assert_eq!(new.recv(NOTHING), Ok(None));
    bench.server.close_all(How::Rst);
    assert_eq!(new.recv(SOON), Err(Ended::Rst));
}

#[test]
fn goes_down_and_comes_up_on_the_same_port() {
    let bench = bench(|builder| builder);
    let mut client = bench.connect();
    bench.server.stop_accepting();
    assert!(bench.try_connect().is_err());
    assert!(client.ask(&query(1, "a.test", A)).is_some(), "what exists lives on");
    bench.server.go_down(How::Fin);
    assert_eq!(client.recv(SOON), Err(Ended::Fin));
    bench.server.restart();
    assert!(bench.connect().ask(&query(1, "a.test", A)).is_some());
}

#[test]
fn goes_wrong_at_each_stage() {
    let mut bench = bench(|builder| builder.stage(Stage::RefuseConnections));
    let refused = TcpClient::try_connect(bench.server.address()).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    bench.server.set_stage(Stage::BlackHoleSyn);
    let start = Instant::now();
    let socket = std::net::TcpStream::connect_timeout(&bench.server.address(), Duration::from_millis(400));
    assert_eq!(socket.expect_err("no SYN gets through").kind(), std::io::ErrorKind::TimedOut);
    assert!(start.elapsed() >= Duration::from_millis(390));

    for stage in [Stage::AcceptThenSilence, Stage::SilenceAfterServerHello] {
        bench.server.set_stage(stage);
        let mut socket = TcpClient::connect(bench.server.address());
        socket.send_raw(&client_hello(&bench));
        let received = socket.stream().set_read_timeout(Some(NOTHING)).and_then(|()| {
            let mut octets = [0; 4096];
            std::io::Read::read(&mut socket.stream(), &mut octets).map(|length| octets[..length].to_vec())
        });
        match stage {
            Stage::AcceptThenSilence => assert!(received.is_err()),
            _ => {
                let flight = received.expect("a ServerHello");
                assert_eq!((flight[0], flight[5]), (22, 2));
                assert_eq!(
                    flight.len(),
                    5 + usize::from(u16::from_be_bytes([flight[3], flight[4]])),
                    "one record only"
                );
            }
        }
        assert_eq!(socket.recv(NOTHING), Ok(None));
    }

    for stage in
        [Stage::RstAfterAccept, Stage::CloseAfterClientHello, Stage::Tls11ServerHello, Stage::ProtocolVersionAlert]
    {
        bench.server.set_stage(stage);
        let error = bench.try_connect().map(|_| ()).expect_err("no handshake").to_string();
        let expected = match stage {
            Stage::RstAfterAccept => "reset",
            Stage::CloseAfterClientHello => "end of file",
            Stage::Tls11ServerHello => "ServerDoesNotSupportTls12Or13",
            _ => "ProtocolVersion",
        };
        assert!(error.contains(expected), "{stage:?}: {error}");
    }

    bench.server.set_stage(Stage::PlainDns);
    let mut plain = TcpClient::connect(bench.server.address());
    assert!(plain.ask(&query(5, "plain.test", A)).is_some());
    assert!(bench.server.with_journal(|journal| !journal.messages_named("plain.test")[0].tls));

    bench.server.set_stage(Stage::HandshakeDelay(NOTHING));
    let start = Instant::now();
    assert!(bench.connect().ask(&query(6, "late.test", A)).is_some());
    assert!(start.elapsed() >= NOTHING);

    bench.server.set_stage(Stage::Normal);
    bench.server.set_identity(bench.pki.issue(&Certificate::for_names(&["upstream.test"]).expired()));
    bench.config = Arc::new(client_config(&bench.pki));
    assert!(bench.try_connect().map(|_| ()).expect_err("expired").to_string().contains("expired"));
    let failed = |journal: &testkit::Journal| matches!(&journal.connections.last().unwrap().handshake, Handshake::Failed(why) if why.contains("xpired"));
    assert!(bench.server.wait_for(failed, SOON), "{:?}", bench.server.journal().connections.last());
}

fn client_hello(bench: &Bench) -> Vec<u8> {
    let name = "upstream.test".try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::clone(&bench.config), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn selects_an_alpn_protocol_nobody_offered() {
    let bench = bench(|builder| builder.select_unoffered_alpn("h2"));
    let error = bench.try_connect().map(|_| ()).expect_err("refused").to_string();
    assert!(error.contains("SelectedUnofferedApplicationProtocol"), "{error}");
}

#[test]
fn asks_for_a_client_certificate() {
    let pki = Pki::new();
    let server =
        DotServer::builder().identity(pki.server(&["127.0.0.1"])).require_client_certificate(pki.roots()).start();
    let with = Arc::new(client_config_with_identity(&pki, &pki.client("client.test")));
    let mut client = TlsClient::connect(server.address(), "127.0.0.1", &with).expect("a TLS connection");
    assert!(client.ask(&query(1, "a.test", A)).is_some());
    let without = Arc::new(client_config(&pki));
    let refused = TlsClient::connect(server.address(), "127.0.0.1", &without)
        .and_then(|mut client| client.ask(&query(1, "a.test", A)).ok_or_else(|| std::io::Error::other("no answer")));
    assert!(refused.is_err());
}

#[test]
fn listens_on_other_addresses() {
    for address in ["127.0.0.2:0", "[::1]:0"] {
        let bench = bench(|builder| builder.listen(address));
        assert!(bench.connect().ask(&query(1, "a.test", A)).is_some());
    }
}

#[test]
fn retries_with_another_group_and_counts_names() {
    use rustls::crypto::aws_lc_rs::kx_group::SECP384R1;
    let bench = bench(|builder| {
        builder
            .kx_groups(&[SECP384R1])
            .script(|received| if received.count_so_far == 1 { vec![Act::Silence] } else { vec![Act::Default] })
    });
    let mut client = bench.connect();
    client.send(&query(1, "Twice.test", A));
    client.send(&query(2, "twice.test", A));
    assert_eq!(id(&client.recv(SOON).unwrap().unwrap()), 2);
    let connection = bench.server.journal().connections.remove(0);
    assert_eq!(connection.hellos, 2);
    assert!(matches!(connection.handshake, Handshake::Done { retried: true, group: Some(24), .. }));
}

#[test]
fn is_fast_enough_for_load_tests() {
    let bench = bench(|builder| builder);
    let mut client = bench.connect();
    let (batches, size) = (40, 500);
    let start = Instant::now();
    for batch in 0..batches {
        let queries: Vec<u8> = (0..size).flat_map(|n| framed(&query(n, &format!("n{batch}.test"), A))).collect();
        client.send_raw(&queries);
        for _ in 0..size {
            client.recv(SOON).unwrap().expect("an answer");
        }
    }
    let rate = f64::from(batches * u32::from(size)) / start.elapsed().as_secs_f64();
    assert!(rate > 2_000.0, "{rate} queries/s even for a busy machine is too slow");
}

#[test]
fn closes_connections_that_are_idle_and_no_others() {
    let bench = bench(|builder| builder);
    let mut idle = bench.connect();
    let limit = Duration::from_millis(300);
    let deadline = Instant::now() + SOON;
    // the second one is busy whenever idle ones are looked for
    let mut busy = bench.connect();
    let end = loop {
        assert!(busy.ask(&query(1, "busy.test", A)).is_some());
        bench.server.close_idle(limit, How::CloseNotify);
        match idle.recv(NOTHING / 10) {
            Ok(None) => assert!(Instant::now() < deadline, "the idle connection is still there"),
            Ok(Some(_)) => panic!("nothing was asked"),
            Err(end) => break end,
        }
    };
    assert_eq!(end, Ended::CloseNotify);
    assert!(busy.ask(&query(2, "busy.test", A)).is_some());
}
