//! Queries to the resolver and answers back, with each switch.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::time::Duration;

use super::{Link, Passage, Switches, padded, to_resolver};
use crate::dns::edit::{put_opt, put_option};
use crate::dns::keepalive::granted_keepalive;
use crate::dns::message::{Message, ReadMessage};
use crate::dns::privacy::Family;

const UDP: Link = Link::Datagram { limit: 1232 };
const TCP: Link = Link::Stream { idle: Duration::from_secs(10), encrypted: false };
const TLS: Link = Link::Stream { idle: Duration::from_secs(10), encrypted: true };
const OFF: Switches = Switches { padding: false, remove_client_subnet: false };
const PADDING: Switches = Switches { padding: true, remove_client_subnet: false };
const SUBNET: Switches = Switches { padding: false, remove_client_subnet: true };

/// The answer as this client gets it.
fn to_client(passage: &Passage, answer: Vec<u8>, query: &Message<'_>) -> Vec<u8> {
    passage.to_client(ReadMessage::new(answer), query)
}

fn query(name: &[u8], options: Option<&[(u16, &[u8])]>) -> Vec<u8> {
    let mut bytes = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(options.is_some())];
    bytes.extend(name);
    bytes.extend([0, 1, 0, 1]);
    add_opt(&mut bytes, options);
    bytes
}

fn add_opt(bytes: &mut Vec<u8>, options: Option<&[(u16, &[u8])]>) {
    if let Some(options) = options {
        let mut rdata = Vec::new();
        for (code, data) in options {
            put_option(&mut rdata, *code, data);
        }
        put_opt(bytes, 1232, 0x8000, &rdata);
    }
}

/// An answer to `query` with `size` octets of TXT and these options.
fn answer(query: &[u8], size: u16, options: Option<&[(u16, &[u8])]>) -> Vec<u8> {
    let end = Message::parse(query).unwrap().questions_end();
    let mut bytes = query[..end].to_ascii_lowercase();
    bytes[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, u8::from(options.is_some())]);
    bytes[..2].copy_from_slice(&[0xee, 0xee]);
    bytes.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60]);
    bytes.extend(size.to_be_bytes());
    bytes.extend(vec![0; usize::from(size)]);
    add_opt(&mut bytes, options);
    bytes
}

const NAME: &[u8] = b"\x03wWw\x04Test\0";

#[test]
fn by_default_only_the_keepalive_option_stays_behind() {
    let plain = query(NAME, Some(&[(8, &[0, 1, 24, 0, 192, 0, 2]), (10, b"cookie!!"), (12, &[0; 9])]));
    let (edited, _) = to_resolver(&Message::parse(&plain).unwrap(), OFF, UDP, Family::V4).unwrap();
    assert_eq!(edited, None);
    let with = query(NAME, Some(&[(3, b""), (11, b""), (65001, b"x")]));
    let (edited, _) = to_resolver(&Message::parse(&with).unwrap(), OFF, TCP, Family::V4).unwrap();
    assert_eq!(edited.unwrap(), query(NAME, Some(&[(3, b""), (65001, b"x")])));
}

#[test]
fn the_answer_comes_back_with_id_case_and_without_keepalive() {
    let asked = query(NAME, Some(&[]));
    let asked = Message::parse(&asked).unwrap();
    let (_, passage) = to_resolver(&asked, OFF, UDP, Family::V4).unwrap();
    let back = to_client(&passage, answer(asked.bytes(), 10, Some(&[(11, b"\x01\x2c"), (15, b"\0\x16")])), &asked);
    let back = Message::parse(&back).unwrap();
    assert_eq!((back.id(), back.question().unwrap().name()), (0x0102, NAME));
    assert_eq!(back.opt().unwrap().options().map(|entry| entry.code).collect::<Vec<_>>(), [15]);
}

#[test]
fn a_client_on_a_stream_that_asks_is_told_our_own_time_out() {
    let asked = query(NAME, Some(&[(11, b"")]));
    let asked = Message::parse(&asked).unwrap();
    let (_, passage) = to_resolver(&asked, OFF, TCP, Family::V4).unwrap();
    let back = to_client(&passage, answer(asked.bytes(), 10, Some(&[(11, b"\x01\x2c")])), &asked);
    assert_eq!(granted_keepalive(&Message::parse(&back).unwrap()), Some(Duration::from_secs(10)));
    let (_, passage) = to_resolver(&asked, OFF, UDP, Family::V4).unwrap();
    let back = to_client(&passage, answer(asked.bytes(), 10, Some(&[(11, b"\x01\x2c")])), &asked);
    assert_eq!(granted_keepalive(&Message::parse(&back).unwrap()), None);
}

#[test]
fn an_opt_record_that_nobody_asked_for_does_not_reach_the_client() {
    let asked = query(NAME, None);
    let asked = Message::parse(&asked).unwrap();
    let (_, passage) = to_resolver(&asked, OFF, UDP, Family::V4).unwrap();
    let back = to_client(&passage, answer(asked.bytes(), 10, Some(&[])), &asked);
    assert_eq!(Message::parse(&back).unwrap().opt_count(), 0);
}

#[test]
fn padding_is_put_in_and_taken_out() {
    for extra in 0..140_u8 {
        let label = [&[extra % 60 + 1][..], &vec![b'a'; usize::from(extra % 60) + 1], b"\x04Test\0"].concat();
        for options in [None, Some(&[(12_u16, &b"own"[..]), (10, b"cookie!!")][..])] {
            let asked = query(&label, options);
            let asked = Message::parse(&asked).unwrap();
            let (sent, passage) = to_resolver(&asked, PADDING, UDP, Family::V4).unwrap();
            let sent = sent.unwrap();
            assert_eq!(sent.len() % 128, 0);
            let codes: Vec<u16> =
                Message::parse(&sent).unwrap().opt().unwrap().options().map(|entry| entry.code).collect();
            assert_eq!(codes.iter().filter(|&&code| code == 12).count(), 1);
            let back = to_client(&passage, answer(asked.bytes(), 300, Some(&[(12, &[0; 100])])), &asked);
            assert_eq!(back.len(), answer(asked.bytes(), 300, options.map(|_| &[][..])).len());
        }
    }
}

#[test]
fn the_size_of_a_datagram_is_judged_after_the_padding_is_gone() {
    let asked = query(NAME, None);
    let asked = Message::parse(&asked).unwrap();
    let (_, passage) = to_resolver(&asked, PADDING, UDP, Family::V4).unwrap();
    let back = to_client(&passage, answer(asked.bytes(), 400, Some(&[(12, &[0; 200])])), &asked);
    assert!(!Message::parse(&back).unwrap().is_truncated() && back.len() < 512);
}

#[test]
fn an_extended_code_for_an_opt_record_of_ours_is_no_answer() {
    let asked = query(NAME, None);
    let asked = Message::parse(&asked).unwrap();
    let (_, passage) = to_resolver(&asked, PADDING, UDP, Family::V4).unwrap();
    let mut badvers = answer(asked.bytes(), 0, Some(&[]));
    let at = badvers.len() - 6;
    badvers[at] = 1;
    assert_eq!(Message::parse(&badvers).unwrap().opt().unwrap().extended_rcode(), 1);
    let back = to_client(&passage, badvers, &asked);
    assert_eq!((back[3] & 15, Message::parse(&back).unwrap().opt_count()), (2, 0));
}

#[test]
fn client_subnet_is_blanked_and_given_back() {
    let own = [0, 1, 24, 0, 198, 51, 100];
    for (options, returned) in [(Some(&[(8_u16, &own[..])][..]), true), (Some(&[][..]), false), (None, false)] {
        let asked = query(NAME, options);
        let asked = Message::parse(&asked).unwrap();
        let (sent, passage) = to_resolver(&asked, SUBNET, UDP, Family::V6).unwrap();
        let sent = sent.unwrap();
        let seen: Vec<(u16, Vec<u8>)> = Message::parse(&sent)
            .unwrap()
            .opt()
            .unwrap()
            .options()
            .map(|entry| (entry.code, entry.data.to_vec()))
            .collect();
        assert_eq!(seen, [(8, vec![0, 2, 0, 0])]);
        let back = to_client(&passage, answer(asked.bytes(), 10, Some(&[(8, &[0, 2, 0, 0])])), &asked);
        let back = Message::parse(&back).unwrap();
        assert_eq!(back.opt().and_then(|opt| opt.option(8)), returned.then_some(&own[..]));
        assert_eq!(back.opt().is_some(), options.is_some());
    }
}

#[test]
fn a_signed_message_crosses_as_it_is() {
    let mut signed = query(NAME, Some(&[(11, b""), (8, &own_subnet())]));
    signed[11] = 2;
    signed.extend(b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\x03abc");
    let asked = Message::parse(&signed).unwrap();
    let all = Switches { padding: true, remove_client_subnet: true };
    let (sent, passage) = to_resolver(&asked, all, TCP, Family::V4).unwrap();
    assert_eq!(sent, None);
    let mut back = answer(&signed, 10, Some(&[(11, b"\x01\x2c"), (12, b"\0")]));
    back[11] = 2;
    back.extend(b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\x03abc");
    let seen = to_client(&passage, back.clone(), &asked);
    assert_eq!(seen[2..], back[2..]);
    assert_eq!(seen[..2], [1, 2]);
}

fn own_subnet() -> [u8; 7] {
    [0, 1, 24, 0, 198, 51, 100]
}

#[test]
fn datagrams_are_cut_at_the_smaller_limit() {
    for (size, options, cut) in
        [(470_u16, None, false), (600, None, true), (1000, Some(&[][..]), false), (1300, Some(&[][..]), true)]
    {
        let asked = query(NAME, options);
        let asked = Message::parse(&asked).unwrap();
        let (_, passage) = to_resolver(&asked, OFF, UDP, Family::V4).unwrap();
        let back = to_client(&passage, answer(asked.bytes(), size, options), &asked);
        assert_eq!(Message::parse(&back).unwrap().is_truncated(), cut, "{size}");
        assert_eq!(Message::parse(&back).unwrap().opt().is_some(), options.is_some());
        let (_, passage) = to_resolver(&asked, OFF, TCP, Family::V4).unwrap();
        assert_eq!(
            to_client(&passage, answer(asked.bytes(), size, options), &asked).len(),
            answer(asked.bytes(), size, options).len()
        );
    }
}

/// The options of a message, in their order.
fn codes(message: &[u8]) -> Vec<u16> {
    let view = Message::parse(message).unwrap();
    view.opt().map_or(Vec::new(), |opt| opt.options().map(|entry| entry.code).collect())
}

#[test]
fn answers_are_padded_for_clients_on_tls_that_pad() {
    let resolvers_own: &[(u16, &[u8])] = &[(12, &[0; 300]), (15, b"\0\x12")];
    for (options, link, seen) in [
        (Some(&[(12, &b"\0"[..])][..]), TLS, &[15, 12][..]),
        (Some(&[(12, b""), (11, b"")]), TLS, &[15, 11, 12]),
        // who does not pad gets no padding, least of all that of another link
        (Some(&[(11, b"")]), TLS, &[15, 11]),
        (Some(&[]), TLS, &[15]),
        (None, TLS, &[]),
        // in clear text padding is the affair of those who sent it
        (Some(&[(12, b"")]), TCP, &[12, 15]),
        (Some(&[(12, b"")]), UDP, &[12, 15]),
    ] {
        let asked = query(NAME, options);
        let asked = Message::parse(&asked).unwrap();
        for switches in [OFF, SUBNET] {
            let (_, passage) = to_resolver(&asked, switches, link, Family::V4).unwrap();
            for size in [0, 400, 401, 402, 403, 404, 405] {
                let back = to_client(&passage, answer(asked.bytes(), size, Some(resolvers_own)), &asked);
                assert_eq!(codes(&back), seen, "{options:?} {link:?}");
                assert!(link != TLS || seen.last() != Some(&12) || back.len().is_multiple_of(468), "{}", back.len());
            }
        }
    }
    // an answer of the largest size stays one
    let asked = query(NAME, Some(&[(12, b"")]));
    let asked = Message::parse(&asked).unwrap();
    let (_, passage) = to_resolver(&asked, OFF, TLS, Family::V4).unwrap();
    assert_eq!(to_client(&passage, answer(asked.bytes(), 65_475, Some(&[])), &asked).len(), 65_535);
    // without OPT there is no place for padding
    assert!(codes(&to_client(&passage, answer(asked.bytes(), 10, None), &asked)).is_empty());
}

#[test]
fn replies_of_our_own_are_padded_as_answers_are() {
    for (options, link, whole) in [
        (Some(&[(12, &b""[..])][..]), TLS, true),
        (Some(&[]), TLS, false),
        (None, TLS, false),
        (Some(&[(12, b"")]), TCP, false),
    ] {
        let asked = query(NAME, options);
        let asked = Message::parse(&asked).unwrap();
        let own = crate::dns::edit::reply(&asked, 2, None, None);
        assert_eq!(padded(own.clone(), &asked, link).len().is_multiple_of(468), whole);
        let (_, passage) = to_resolver(&asked, OFF, link, Family::V4).unwrap();
        assert_eq!(passage.own_reply(own, &asked).len().is_multiple_of(468), whole);
    }
}
