//! Theme I: padding, and client subnets blanked; both undone on the way back.

use testkit::message::MessageBuilder;
use testkit::script::default_builder;
use testkit::{Act, Opt, Received, Rr, TcpClient, UdpClient, inspect, query};

use super::bench::Bench;
use super::resolvers::SERVFAIL;

const PADDING: &str = "[privacy]\npadding = true\n";
const BLANK_SUBNET: &str = "[privacy]\nremove-client-subnet = true\n";
const CLIENT_SUBNET: u16 = 8;
const PADDING_OPTION: u16 = 12;

/// All data of the options with this code.
fn options(message: &[u8], code: u16) -> Vec<Vec<u8>> {
    let options = inspect::opt(message).expect("an OPT record").options;
    options.into_iter().filter(|(of, _)| *of == code).map(|(_, data)| data).collect()
}

/// A name whose wire form has this many octets, three at least.
fn name_of(octets: usize) -> String {
    let (mut left, mut labels) = (octets - 1, Vec::new());
    while left > 0 {
        // no rest of one octet, which would be a label without a letter
        let label = if left == 65 { 62 } else { left.saturating_sub(1).min(63) };
        labels.push("x".repeat(label));
        left -= label + 1;
    }
    labels.join(".")
}

#[test]
fn c084_r30_every_query_is_a_multiple_of_128_octets() {
    let bench = Bench::with(|server| server, PADDING);
    let mut client = TcpClient::connect(bench.proxy.address());
    let filled = |length: usize| Opt::new(1232).option(65_001, &vec![7; length]);
    let mut lengths = Vec::new();
    for length in 0..256_u16 {
        let padded = filled(usize::from(length)).option(PADDING_OPTION, &[0; 9]).option(PADDING_OPTION, &[1; 2]);
        for opt in [filled(usize::from(length)), padded] {
            let asked = MessageBuilder::query(length, "a.test", 1).opt(opt);
            assert_eq!(inspect::rcode(&client.ask(&asked.build()).unwrap()), 0);
        }
        if length >= 3 {
            let asked = query(length, &name_of(length.into()), 1);
            lengths.push(asked.len());
            assert_eq!(inspect::rcode(&client.ask(&asked).unwrap()), 0);
        }
    }
    lengths.dedup();
    assert_eq!(lengths.len(), 253, "the names are not what they should be");
    let journal = bench.server.journal();
    assert_eq!(journal.messages.len(), 2 * 256 + 253);
    for message in &journal.messages {
        assert_eq!(message.octets.len() % 128, 0);
        let padding = options(&message.octets, PADDING_OPTION);
        assert_eq!(padding.len(), 1);
        assert!(padding[0].iter().all(|octet| *octet == 0) && padding[0].len() < 128);
    }
}

#[test]
fn c084_padding_makes_no_message_too_long() {
    let bench = Bench::with(|server| server, PADDING);
    let mut client = TcpClient::connect(bench.proxy.address());
    for total in [65_407, 65_408, 65_409, 65_500, 65_530, 65_532, 65_535] {
        let bare = MessageBuilder::query(1, "a.test", 1).opt(Opt::new(1232).option(65_001, &[])).build().len();
        let asked = MessageBuilder::query(1, "a.test", 1).opt(Opt::new(1232).option(65_001, &vec![7; total - bare]));
        assert_eq!(asked.build().len(), total);
        assert_eq!(inspect::rcode(&client.ask(&asked.build()).unwrap()), 0);
        let sent = bench.server.journal().messages.last().unwrap().octets.clone();
        assert!(sent.len() >= total);
        // the last whole block ends at 65,408
        assert!(sent.len().is_multiple_of(128) || total > 65_404, "{total}: {}", sent.len());
    }
}

/// An answer padded to 468 octets, or by as many as `extra` says, with a text that makes it `plain` octets without OPT.
fn padded_answer(received: &Received, plain: usize, padded: usize) -> Vec<Act> {
    let with = |text: usize, padding: Option<usize>| {
        let answer = default_builder(&received.message).answer(&Rr::txt("t.test", &vec![b'x'; text], 60));
        match padding {
            Some(length) => answer.opt(Opt::new(1232).option(PADDING_OPTION, &vec![0; length])).build(),
            None => answer.build(),
        }
    };
    let opt_of_default = if inspect::opt(&received.message).is_some() { 11 } else { 0 };
    let text = (1..plain).find(|text| with(*text, None).len() - opt_of_default == plain).expect("a text of this size");
    let length = padded - with(text, Some(0)).len();
    vec![Act::Answer(with(text, Some(length)))]
}

#[test]
fn c085_padding_of_answers_is_removed() {
    let bench = Bench::with(|server| server.script(|received| padded_answer(received, 300, 468)), PADDING);
    let udp = UdpClient::connect(bench.proxy.address());
    let answer = udp.ask(&query(1, "a.test", 1)).unwrap();
    assert_eq!((answer.len(), inspect::opt(&answer)), (300, None));
    let answer = udp.ask(&MessageBuilder::query(2, "a.test", 1).opt(Opt::new(1232)).build()).unwrap();
    assert_eq!(answer.len(), 311);
    assert!(options(&answer, PADDING_OPTION).is_empty());
    let answer = TcpClient::connect(bench.proxy.address()).ask(&query(3, "a.test", 1)).unwrap();
    assert_eq!((answer.len(), inspect::opt(&answer)), (300, None));
}

#[test]
fn c085_the_size_of_an_answer_is_judged_without_its_padding() {
    let bench = Bench::with(|server| server.script(|received| padded_answer(received, 500, 936)), PADDING);
    let udp = UdpClient::connect(bench.proxy.address());
    let answer = udp.ask(&query(1, "a.test", 1)).unwrap();
    assert_eq!((answer.len(), inspect::flags(&answer) & 0x0200), (500, 0));
    let answer = udp.ask(&MessageBuilder::query(2, "a.test", 1).opt(Opt::new(512)).build()).unwrap();
    assert_eq!((answer.len(), inspect::flags(&answer) & 0x0200), (511, 0));
}

/// What the server does with ECS here: it returns what it got, with a scope.
fn returning_subnet(received: &Received) -> Vec<Act> {
    let opt = match inspect::option(&received.message, CLIENT_SUBNET) {
        Some(mut data) => {
            data[3] = 20;
            Opt::new(1232).option(CLIENT_SUBNET, &data)
        }
        None => Opt::new(1232),
    };
    vec![Act::Answer(default_builder(&received.message).opt(opt).build())]
}

/// A client's subnet options: none, networks of both families, and "use none".
const SUBNETS: [Option<&[u8]>; 5] = [
    None,
    Some(&[0, 1, 24, 0, 198, 51, 100]),
    Some(&[0, 2, 56, 0, 0x20, 1, 0xd, 0xb8, 1, 2, 3]),
    Some(&[0, 1, 0, 0]),
    Some(&[0, 2, 0, 0]),
];

#[test]
fn c087_r30_the_server_is_asked_to_use_no_subnet() {
    let bench = Bench::with(|server| server.script(returning_subnet), BLANK_SUBNET);
    let udp = UdpClient::connect(bench.proxy.address());
    let mut queries = vec![query(1, "a.test", 1)];
    queries.extend(SUBNETS.map(|subnet| {
        let opt = subnet.iter().fold(Opt::new(1232).option(3, &[]), |opt, data| opt.option(CLIENT_SUBNET, data));
        MessageBuilder::query(1, "a.test", 1).opt(opt).build()
    }));
    for asked in queries {
        udp.ask(&asked).unwrap();
        let sent = bench.server.journal().messages.last().unwrap().octets.clone();
        // one option: the family of the transport, source 0, scope 0, no address
        assert_eq!(options(&sent, CLIENT_SUBNET), [vec![0, 1, 0, 0]]);
        assert_eq!(inspect::option(&sent, 3), inspect::option(&asked, 3), "another option was lost");
    }
}

#[test]
fn c088_a_client_gets_back_the_subnet_it_sent() {
    let bench = Bench::with(|server| server.script(returning_subnet), BLANK_SUBNET);
    let udp = UdpClient::connect(bench.proxy.address());
    let mut tcp = TcpClient::connect(bench.proxy.address());
    for subnet in SUBNETS {
        let opt = subnet.iter().fold(Opt::new(1232), |opt, data| opt.option(CLIENT_SUBNET, data));
        let asked = MessageBuilder::query(1, "a.test", 1).opt(opt).build();
        for answer in [udp.ask(&asked).unwrap(), tcp.ask(&asked).unwrap()] {
            let expected: Vec<Vec<u8>> = subnet.iter().map(|data| data.to_vec()).collect();
            assert_eq!(options(&answer, CLIENT_SUBNET), expected);
        }
    }
    let answer = udp.ask(&query(2, "a.test", 1)).unwrap();
    assert_eq!(inspect::opt(&answer), None);
}

/// Without the switch the server's own scope is the client's to see.
#[test]
fn c088_a_scope_crosses_when_nothing_was_blanked() {
    let bench = Bench::with(|server| server.script(returning_subnet), "");
    let asked =
        MessageBuilder::query(1, "a.test", 1).opt(Opt::new(1232).option(CLIENT_SUBNET, &[0, 1, 24, 0, 198, 51, 100]));
    let answer = UdpClient::connect(bench.proxy.address()).ask(&asked.build()).unwrap();
    assert_eq!(options(&answer, CLIENT_SUBNET), [vec![0, 1, 24, 20, 198, 51, 100]]);
}

/// Statement 131: it needs an OPT record that the proxy added, and that is what padding does.
#[test]
fn c131_an_extended_error_to_our_own_opt_is_no_success() {
    for (rcode, expected) in [(16, SERVFAIL), (23, SERVFAIL), (2, 2), (3, 3)] {
        let script = move |received: &Received| {
            let answer = default_builder(&received.message).opt(Opt::new(1232)).rcode(rcode);
            vec![Act::Answer(answer.build())]
        };
        let bench = Bench::with(|server| server.script(script), PADDING);
        let plain = query(1, "a.test", 1);
        let udp = UdpClient::connect(bench.proxy.address()).ask(&plain).unwrap();
        let tcp = TcpClient::connect(bench.proxy.address()).ask(&plain).unwrap();
        for answer in [udp, tcp] {
            assert_eq!(inspect::rcode(&answer), expected, "{rcode}");
            assert_eq!(inspect::opt(&answer), None);
            assert_eq!(inspect::question_octets(&answer), inspect::question_octets(&plain));
        }
        // with an OPT record of its own a client sees the whole code
        let asked = MessageBuilder::query(1, "a.test", 1).opt(Opt::new(1232)).build();
        assert_eq!(inspect::rcode(&UdpClient::connect(bench.proxy.address()).ask(&asked).unwrap()), rcode);
    }
}
