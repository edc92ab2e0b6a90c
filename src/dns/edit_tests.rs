//! Edits and replies on hand-made messages.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use super::{
    Entangled, ExtendedError, address_to, option, put_opt, put_option, reply, reply_to_unreadable, truncate,
    with_opt_rdata, with_own_opt, without_opt, without_options,
};
use crate::dns::message::{Message, rcode};
use proptest::prelude::*;

const QUESTION: &[u8] = b"\x03wWw\x07example\x03com\0\0\x01\0\x01";

/// A message with the question, `options` in an OPT record, and `behind` as `records` further additional records.
fn message(flags: [u8; 2], options: &[(u16, &[u8])], behind: &[u8], records: u8) -> Vec<u8> {
    let mut rdata = Vec::new();
    for (code, data) in options {
        put_option(&mut rdata, *code, data);
    }
    let mut bytes = vec![0xab, 0xcd, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, 1 + records];
    bytes.extend(QUESTION);
    put_opt(&mut bytes, 4096, 0xffff, &rdata);
    bytes.extend(behind);
    bytes
}

/// An A record whose owner is a pointer to `target`.
fn pointing(target: u8) -> Vec<u8> {
    [&[0xc0, target][..], b"\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04"].concat()
}

#[test]
fn a_reply_repeats_only_what_it_may() {
    let query = message([0x7f, 0xff], &[(10, b"cookie!!")], b"", 0);
    let error = ExtendedError::new(ExtendedError::NETWORK_ERROR, "no route");
    let bytes = reply(&Message::parse(&query).unwrap(), rcode::SERVFAIL, None, Some(&error));
    // opcode 15, RD and CD stay; AA, TC, Z and AD do not; QR and RA are set
    assert_eq!(bytes[..4], [0xab, 0xcd, 0xf9, 0x92]);
    let made = Message::parse(&bytes).unwrap();
    assert_eq!(made.question().unwrap().bytes, QUESTION);
    let opt = made.opt().unwrap();
    assert_eq!((opt.flags(), opt.version(), opt.udp_size()), (0x8000, 0, 1232));
    assert_eq!(opt.option(option::EXTENDED_ERROR), Some(&b"\0\x17no route"[..]));
    assert_eq!(opt.options().count(), 1);
}

#[test]
fn a_reply_has_an_opt_record_only_if_the_query_had_one() {
    let bytes = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], QUESTION].concat();
    let error = ExtendedError::new(22, "x".repeat(500));
    let bytes = reply(&Message::parse(&bytes).unwrap(), rcode::SERVFAIL, None, Some(&error));
    assert_eq!(Message::parse(&bytes).unwrap().opt_count(), 0);
    assert_eq!(
        reply_to_unreadable(&[0, 7, 0x29, 0x10, 9, 9, 9, 9, 9, 9, 9, 9])[..],
        [0, 7, 0xa9, 0x90 | 1, 0, 0, 0, 0, 0, 0, 0, 0]
    );
}

#[test]
fn a_long_text_is_cut_between_characters() {
    let query = message([1, 0], &[], b"", 0);
    let bytes = reply(&Message::parse(&query).unwrap(), 2, None, Some(&ExtendedError::new(23, "ä".repeat(99) + "b")));
    let data = Message::parse(&bytes).unwrap().opt().unwrap().option(15).unwrap().to_vec();
    assert_eq!(std::str::from_utf8(&data[2..]).unwrap().chars().count(), 60);
    assert!(bytes.len() <= 512);
}

#[test]
fn an_answer_takes_the_id_and_the_case_of_the_query() {
    let mut answer = message([0x81, 0x80], &[], b"", 0);
    let asked = [&[0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03WWW\x07EXAMPLE\x03com\0\0\x01\0\x01"].concat();
    address_to(&mut answer, 9, Message::parse(&asked).unwrap().question().as_ref());
    assert_eq!(answer[..2], [0, 9]);
    assert_eq!(answer[12..29], asked[12..29]);
}

#[test]
fn truncation_keeps_opt_as_far_as_it_fits() {
    let bytes = message([0x81, 0x80], &[(15, b"\0\x16gone"), (65001, &[7; 600])], b"", 0);
    let view = Message::parse(&bytes).unwrap();
    let whole = truncate(&view, 1232);
    assert_eq!(Message::parse(&whole).unwrap().opt().unwrap().options().count(), 2);
    let small = truncate(&view, 512);
    let small = Message::parse(&small).unwrap();
    assert!(small.is_truncated() && small.bytes().len() <= 512);
    assert_eq!(small.opt().unwrap().option(15), Some(&b"\0\x16gone"[..]));
    assert_eq!((small.opt().unwrap().options().count(), small.opt().unwrap().flags()), (1, 0xffff));
}

#[test]
fn a_truncated_signed_answer_is_its_question_alone() {
    let tsig = b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\x03abc";
    let bytes = message([0x81, 0x80], &[], tsig, 1);
    let small = truncate(&Message::parse(&bytes).unwrap(), 512);
    assert_eq!((small.len(), &small[6..12]), (12 + QUESTION.len(), &[0; 6][..]));
}

#[test]
fn unwanted_options_go_and_the_others_stay_as_they_were() {
    let bytes = message([1, 0], &[(3, b""), (11, b"\0\x64"), (65001, b"x"), (11, b"")], b"", 0);
    let view = Message::parse(&bytes).unwrap();
    let edited = without_options(&view, |code| code == 11).unwrap();
    assert_eq!(edited, message([1, 0], &[(3, b""), (65001, b"x")], b"", 0));
    assert_eq!(without_options(&view, |code| code == 4), None);
}

#[test]
fn nothing_moves_under_a_pointer() {
    // the last record's owner points at the record before it, which stands behind OPT
    let opt_end = 12 + QUESTION.len() + 11 + 6;
    let behind = [
        b"\x01a\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04".to_vec(),
        pointing(u8::try_from(opt_end).unwrap()),
    ]
    .concat();
    let bytes = message([1, 0], &[(11, b"\0\x64")], &behind, 2);
    let view = Message::parse(&bytes).unwrap();
    assert_eq!(with_opt_rdata(&view, b"").unwrap_err(), Entangled);
    let blanked = without_options(&view, |code| code == 11).unwrap();
    assert_eq!(blanked, message([1, 0], &[(12, b"\0\0")], &behind, 2));
    let cut = without_opt(&view);
    assert_eq!((Message::parse(&cut).unwrap().additional_count(), cut.len()), (0, 12 + QUESTION.len()));
}

#[test]
fn records_behind_that_point_before_opt_stay() {
    let bytes = message([1, 0], &[(11, b"\0\x64")], &pointing(12), 1);
    let view = Message::parse(&bytes).unwrap();
    assert_eq!(without_options(&view, |code| code == 11).unwrap(), message([1, 0], &[], &pointing(12), 1));
    let cut = without_opt(&view);
    assert_eq!(Message::parse(&cut).unwrap().additional_count(), 1);
}

#[test]
fn an_own_opt_record_is_added_at_the_end_only() {
    let plain = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], QUESTION].concat();
    let made = with_own_opt(&Message::parse(&plain).unwrap(), b"\0\x0c\0\0").unwrap();
    assert_eq!(Message::parse(&made).unwrap().opt().unwrap().option(12), Some(&b""[..]));
    let trailing = [&plain[..], b"!"].concat();
    assert_eq!(with_own_opt(&Message::parse(&trailing).unwrap(), b"").unwrap_err(), Entangled);
}

proptest! {
    /// Whatever is edited stays a message that can be read, with the records that were meant to stay.
    #[test]
    fn edits_keep_messages_readable(
        options in proptest::collection::vec((0_u16..20, proptest::collection::vec(any::<u8>(), 0..30)), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..40), records in 0_u8..3, limit in 512_usize..1500
    ) {
        let options: Vec<(u16, &[u8])> = options.iter().map(|(code, data)| (*code, &data[..])).collect();
        let bytes = message([0x81, 0], &options, &tail, records);
        let Ok(view) = Message::parse(&bytes) else { return Ok(()) };
        if let Some(edited) = without_options(&view, |code| code == 11 || code == 8) {
            let edited = Message::parse(&edited).unwrap();
            prop_assert!(edited.opt().unwrap().options().all(|entry| entry.code != 11 && entry.code != 8));
            prop_assert_eq!(edited.additional_count(), view.additional_count());
        }
        let bare = without_opt(&view);
        prop_assert!(Message::parse(&bare).is_ok());
        let short = truncate(&view, limit);
        prop_assert!(short.len() <= limit);
        prop_assert!(Message::parse(&short).unwrap().is_truncated());
    }
}
