//! The view against hand-made messages, and against another implementation as judge.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use super::{Malformed, Message, Signature, rtype};
use proptest::prelude::*;

/// A query for `www.example.com A` with the given counts and what follows the question.
fn query(counts: [u16; 4], tail: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0x01, 0x00];
    for count in counts {
        bytes.extend(count.to_be_bytes());
    }
    bytes.extend(b"\x03www\x07example\x03com\0\0\x01\0\x01");
    bytes.extend(tail);
    bytes
}

const OPT: &[u8] = b"\0\0\x29\x04\xd0\0\0\x80\0\0\x06\0\x0b\0\x02\0\x64";
const TSIG: &[u8] = b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\x03abc";

#[test]
fn finds_question_opt_and_end() {
    let bytes = query([1, 0, 0, 1], &[OPT, b"trailing"].concat());
    let message = Message::parse(&bytes).unwrap();
    let question = message.question().unwrap();
    assert_eq!((message.id(), question.qtype(), question.qclass()), (0x1234, 1, 1));
    assert_eq!(question.name(), b"\x03www\x07example\x03com\0");
    let opt = message.opt().unwrap();
    assert_eq!((opt.udp_size(), opt.flags(), opt.version()), (1232, 0x8000, 0));
    assert_eq!(opt.option(11), Some(&b"\0\x64"[..]));
    assert_eq!(message.end(), bytes.len() - 8);
    assert_eq!(message.signature(), None);
}

#[test]
fn knows_a_signature_only_as_the_last_record() {
    let signed = query([1, 0, 0, 2], &[OPT, TSIG].concat());
    assert_eq!(Message::parse(&signed).unwrap().signature(), Some(Signature::Tsig));
    let wrong_place = query([1, 0, 0, 2], &[TSIG, OPT].concat());
    assert_eq!(Message::parse(&wrong_place).unwrap().signature(), None);
    let sig0 = query([1, 0, 0, 1], b"\0\0\x18\0\xff\0\0\0\0\0\x04\0\0\x05\x02");
    assert_eq!(Message::parse(&sig0).unwrap().signature(), Some(Signature::Sig0));
}

#[test]
fn refuses_what_does_not_fit() {
    assert_eq!(Message::parse(&[0; 11]).unwrap_err(), Malformed::Short);
    assert_eq!(Message::parse(&query([2, 0, 0, 0], b"")).unwrap_err(), Malformed::Question);
    assert_eq!(Message::parse(&query([1, 0, 0, 1], b"")).unwrap_err(), Malformed::Record);
    assert_eq!(Message::parse(&query([1, 0, 0, 1], &OPT[..16])).unwrap_err(), Malformed::Record);
    assert_eq!(Message::parse(&query([1, 65535, 0, 0], OPT)).unwrap_err(), Malformed::Record);
    let looping = [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\xc0\x0c\0\x01\0\x01"].concat();
    assert_eq!(Message::parse(&looping).unwrap_err(), Malformed::Question);
}

#[test]
fn an_option_that_runs_out_ends_the_options() {
    let bytes = query([1, 0, 0, 1], b"\0\0\x29\x04\xd0\0\0\0\0\0\x09\0\x03\0\0\0\x0b\0\x09\0");
    let opt = Message::parse(&bytes).unwrap().opt().unwrap();
    let mut options = opt.options();
    assert_eq!(options.by_ref().map(|option| option.code).collect::<Vec<_>>(), [3]);
    assert!(!options.is_exhausted());
}

proptest! {
    /// Whatever the octets, the view neither panics nor gives a place outside the message.
    #[test]
    fn any_octets_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert!(message.end() <= bytes.len());
            for record in message.records() {
                prop_assert!(record.end <= message.end());
            }
        }
    }

    /// What `domain` builds, the view reads alike.
    #[test]
    fn agrees_with_another_implementation(
        labels in proptest::collection::vec("[a-zA-Z0-9]{1,20}", 1..5),
        answers in 0_u8..9, qtype in any::<u16>(), udp_size in any::<u16>(), with_opt in any::<bool>()
    ) {
        use domain::base::{Name, MessageBuilder, Rtype, iana::Class};
        let name: Name<Vec<u8>> = labels.join(".").parse().unwrap();
        let mut question = MessageBuilder::new_vec().question();
        question.push((&name, Rtype::from_int(qtype), Class::IN)).unwrap();
        let mut answer = question.answer();
        for last in 0..answers {
            answer.push((&name, 300, domain::rdata::A::from_octets(192, 0, 2, last))).unwrap();
        }
        let mut additional = answer.additional();
        if with_opt {
            additional.opt(|opt| { opt.set_udp_payload_size(udp_size); Ok(()) }).unwrap();
        }
        let bytes = additional.finish();
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!(message.question().unwrap().qtype(), qtype);
        prop_assert_eq!(message.question().unwrap().name(), name.as_slice());
        prop_assert_eq!(message.records().filter(|record| record.rtype == 1).count(), usize::from(answers));
        prop_assert_eq!(message.opt().map(|opt| opt.udp_size()), with_opt.then_some(udp_size));
        prop_assert_eq!(message.records().any(|record| record.rtype == rtype::OPT), with_opt);
        prop_assert_eq!(message.end(), bytes.len());
    }
}
