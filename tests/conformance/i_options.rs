//! Theme I: EDNS options that stay, that never cross, and that nobody touches.

use std::net::SocketAddr;

use testkit::message::MessageBuilder;
use testkit::script::default_builder;
use testkit::{Act, Opt, Received, Rr, Section, TcpClient, UdpClient, framed, inspect, name_wire, query};

use super::bench::{Bench, binary};
use super::resolvers::{LONG, config_of, named, rcode_of};

/// tcp-keepalive.
const KEEPALIVE: u16 = 11;

/// Everything the privacy section can switch on.
pub(crate) const ALL_PRIVACY: &str = "[privacy]\npadding = true\nremove-client-subnet = true\n";

/// A SIG(0) record of the right shape; its signature is made up.
pub(crate) fn sig0() -> Rr {
    let mut rdata = vec![0, 0, 13, 0, 0, 0, 0, 0, 0x66, 0, 0, 0, 0x65, 0, 0, 0, 0x12, 0x34];
    rdata.extend(name_wire("key.test"));
    rdata.extend([0x5a; 64]);
    Rr::new(".", 24, 0, &rdata).class(255)
}

/// A signed query with these options, under TSIG or SIG(0).
pub(crate) fn signed(id: u16, name: &str, opt: &Opt, with_tsig: bool) -> Vec<u8> {
    let asked = MessageBuilder::query(id, name, 1);
    if with_tsig {
        asked.opt(opt.clone()).tsig().build()
    } else {
        asked.record(Section::Additional, &opt.record()).record(Section::Additional, &sig0()).build()
    }
}

/// The message that the server got last, without its ID.
pub(crate) fn last_at_server(bench: &Bench) -> Vec<u8> {
    bench.server.with_journal(|journal| journal.messages.last().unwrap().octets[2..].to_vec())
}

/// TIMEOUT 300 in every answer, with or without OPT in the query.
fn granting(received: &Received) -> Vec<Act> {
    let opt = Opt::new(1232).option(10, &[7; 16]).option(KEEPALIVE, &300_u16.to_be_bytes());
    vec![Act::Answer(default_builder(&received.message).opt(opt).build())]
}

#[test]
fn c082_keepalive_of_the_server_reaches_no_client() {
    let bench = Bench::with(|server| server.script(granting), "");
    let udp = UdpClient::connect(bench.proxy.address());
    let mut tcp = TcpClient::connect(bench.proxy.address());
    for with_opt in [true, false] {
        let mut asked = MessageBuilder::query(1, "a.test", 1);
        if with_opt {
            asked = asked.opt(Opt::new(1232));
        }
        for answer in [udp.ask(&asked.build()).unwrap(), tcp.ask(&asked.build()).unwrap()] {
            assert_eq!(inspect::rcode(&answer), 0);
            assert_eq!(inspect::option(&answer, KEEPALIVE), None);
            // what is not of one hop came through, so an answer without OPT proves nothing by accident
            assert_eq!(inspect::option(&answer, 10).is_some(), with_opt);
        }
    }
}

#[test]
fn c082_keepalive_of_a_client_is_answered_by_the_proxy_itself() {
    let bench = Bench::with(|server| server.script(granting), "");
    let asked = |id| MessageBuilder::query(id, "a.test", 1).opt(Opt::new(1232).option(KEEPALIVE, &[]).option(3, &[]));
    let answer = TcpClient::connect(bench.proxy.address()).ask(&asked(1).build()).unwrap();
    // its own idle timeout: ten seconds
    assert_eq!(inspect::option(&answer, KEEPALIVE), Some(100_u16.to_be_bytes().to_vec()));
    let answer = UdpClient::connect(bench.proxy.address()).ask(&asked(2).build()).unwrap();
    assert_eq!(inspect::option(&answer, KEEPALIVE), None);
    for message in &bench.server.journal().messages {
        assert_eq!(inspect::option(&message.octets, KEEPALIVE), None, "a client's keepalive went upstream");
        assert_eq!(inspect::option(&message.octets, 3), Some(Vec::new()));
    }
}

/// In signed messages nothing is touched, this option either.
#[test]
fn c082_signed_messages_keep_it() {
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                let opt = Opt::new(1232).option(KEEPALIVE, &300_u16.to_be_bytes());
                vec![Act::Answer(default_builder(&received.message).opt(opt).tsig().build())]
            })
        },
        "",
    );
    let asked = signed(9, "a.test", &Opt::new(1232).option(KEEPALIVE, &[]), true);
    let answer = TcpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
    assert_eq!(last_at_server(&bench), asked[2..]);
    assert_eq!(inspect::option(&answer, KEEPALIVE), Some(300_u16.to_be_bytes().to_vec()));
}

#[test]
fn c083_r30_by_default_nothing_is_added_and_nothing_removed() {
    let bench = Bench::start();
    let ecs: [&[u8]; 4] =
        [&[0, 1, 24, 0, 198, 51, 100], &[0, 2, 56, 0, 0x20, 1, 0xd, 0xb8, 1, 2, 3], &[0, 1, 0, 0], &[0, 2, 0, 0]];
    let cookies: [&[u8]; 2] = [&[1; 8], &[2; 24]];
    let opts = ecs.map(|data| Opt::new(4096).option(8, data)).into_iter();
    let opts = opts.chain(cookies.map(|data| Opt::new(512).flags(0x8000).option(10, data)));
    let opts = opts.chain([Opt::new(0), Opt::new(1232).option(12, &[0; 40]).option(3, &[]).option(65_001, b"x")]);
    let mut queries: Vec<Vec<u8>> = opts.map(|opt| MessageBuilder::query(7, "a.test", 1).opt(opt).build()).collect();
    queries.push(query(7, "a.test", 1));
    for asked in queries {
        let answer = UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
        assert_eq!(inspect::rcode(&answer), 0);
        assert_eq!(last_at_server(&bench), asked[2..]);
        assert_eq!(inspect::opt(&answer).is_some(), inspect::opt(&asked).is_some());
        TcpClient::connect(bench.proxy.address()).ask(&asked).unwrap();
        assert_eq!(last_at_server(&bench), asked[2..]);
    }
}

/// See also the tests of 129 and 130, which are done with all privacy options on.
#[test]
fn c086_signed_messages_are_not_padded_or_altered() {
    let bench = Bench::with(|server| server, ALL_PRIVACY);
    let opt = Opt::new(1232).option(8, &[0, 1, 24, 0, 198, 51, 100]).option(12, &[0; 5]);
    for with_tsig in [true, false] {
        let asked = signed(9, "a.test", &opt, with_tsig);
        assert_eq!(rcode_of(&bench.proxy, &asked), 0);
        assert_eq!(last_at_server(&bench), asked[2..], "TSIG: {with_tsig}");
    }
    // without a signature the same query is changed
    let asked = MessageBuilder::query(9, "a.test", 1).opt(opt).build();
    assert_eq!(rcode_of(&bench.proxy, &asked), 0);
    assert_ne!(last_at_server(&bench), asked[2..]);
}

/// A thousand queries for a marker name, some that succeed and some that fail in every way, from a marked address.
#[test]
fn c089_names_and_clients_are_not_logged_at_the_default_level() {
    let bench = Bench::with(
        |server| {
            server.script(|received| {
                let answer = |message| vec![Act::Answer(message)];
                match received.count_so_far % 7 {
                    0 => vec![Act::Rst],
                    1 => answer(received.message[..14].to_vec()),
                    2 => vec![Act::Default, Act::CloseNotifyAndFin],
                    3 => answer(default_builder(&received.message).rcode(2).build()),
                    4 => vec![Act::Raw(framed(&[0; 3]))],
                    5 => answer(query(1, "marker-in-a-stray.test", 1)),
                    _ => vec![Act::Default],
                }
            })
        },
        "",
    );
    let config = config_of(
        &[named(&bench.server)],
        Some(bench.pki.ca_file()),
        "deadline = \"500ms\"\nconnect-timeout = \"400ms\"\nsecond-try-after = \"400ms\"",
    );
    let config = config.replace("level = \"debug\"", "");
    let mut proxy = testkit::Proxy::builder(binary()).config(&config).start();
    let source: SocketAddr = "127.0.77.99:0".parse().unwrap();
    let client = UdpClient::connect_from(source, proxy.address());
    for batch in 0..20 {
        for number in 0..50 {
            client.send(&query(number, &format!("marker{}.test", batch * 50 + number), 1));
        }
        // what cannot be read is a failure too
        client.send(&[&query(99, "marker.test", 1)[..16], &[0xff; 3]].concat());
        for _ in 0..51 {
            assert!(client.recv(LONG).is_some(), "a query without an answer");
        }
    }
    let mut tcp = TcpClient::connect_from(source, proxy.address());
    tcp.send_raw(&framed(&query(1, "marker.test", 1)));
    tcp.send_raw(&framed(&query(2, "marker.test", 252)));
    let _ = tcp.recv(LONG);
    tcp.reset();
    proxy.signal(testkit::proxy_process::Signal::SIGTERM);
    assert!(proxy.wait_exit(LONG).is_some());
    let log = proxy.log();
    assert!(log.contains("upstream_lost") || log.contains("failures"), "nothing failed: nothing was tested\n{log}");
    assert!(!log.contains("marker") && !log.contains("127.0.77.99"), "{log}");
}
