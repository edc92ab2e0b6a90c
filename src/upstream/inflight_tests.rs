//! Whom an answer is for, and who keeps an ID.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Instant;

use super::{Asked, Ids, InFlight, Match};
use crate::dns::message::Message;

const QUERY: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03www\x04test\0\0\x01\0\x01";

fn asked(bytes: &[u8]) -> Rc<Asked> {
    Rc::new(Asked::new(&Message::parse(bytes).unwrap(), bytes))
}

fn response(id: u16, code: u8, from: usize, to: &[u8]) -> Vec<u8> {
    let mut bytes = QUERY.to_vec();
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    bytes[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    bytes[from..from + to.len()].copy_from_slice(to);
    bytes
}

fn table() -> InFlight<u8> {
    let mut table = InFlight::default();
    assert_eq!(table.insert(asked(QUERY), 7, Instant::now(), || 500), 500);
    table
}

#[test]
fn only_the_same_question_on_the_same_id_matches() {
    let mut table = table();
    for stray in [
        response(501, 0, 0, &501_u16.to_be_bytes()),
        response(500, 0, 13, b"xxx"),
        response(500, 0, 23, &[28]),
        response(500, 0, 25, &[3]),
        response(500, 0, 5, &[2]),
        response(500, 0, 5, &[0]),
        response(500, 0, 5, &[1])[..20].to_vec(),
    ] {
        assert_eq!(table.take(&stray), Match::Stray, "{stray:?}");
        assert_eq!(table.len(), 1);
    }
    assert!(matches!(table.take(&response(500, 0, 13, b"wWW")), Match::Answer(7, ..)));
    assert_eq!(table.take(&response(500, 0, 13, b"www")), Match::Stray);
}

#[test]
fn an_error_may_leave_the_question_out() {
    let mut table = table();
    let mut bare = response(500, 5, 5, &[0])[..12].to_vec();
    assert!(matches!(table.take(&bare), Match::Answer(7, ..)));
    let header_only = b"\0\x01\x01\0\0\0\0\0\0\0\0\0";
    table.insert(asked(header_only), 8, Instant::now(), || 500);
    bare[3] = 0x80;
    assert!(matches!(table.take(&bare), Match::Answer(8, ..)));
}

#[test]
fn what_is_no_response_ends_trust_and_what_runs_out_is_garbled() {
    let mut table = table();
    assert_eq!(table.take(&[0; 11]), Match::NoResponse);
    assert_eq!(table.take(&response(500, 0, 2, &[1])), Match::NoResponse);
    assert_eq!(table.take(&response(500, 0, 2, &[6 << 3])), Match::Stray);
    assert_eq!(table.take(&response(500, 0, 7, &[9])), Match::Garbled(7));
}

#[test]
fn an_id_is_taken_once_and_drawn_again_when_taken() {
    let mut table = table();
    let mut draws = [500, 500, 501].into_iter();
    assert_eq!(table.insert(asked(QUERY), 8, Instant::now(), || draws.next().unwrap()), 501);
    assert!(matches!(table.take(&response(501, 0, 0, &501_u16.to_be_bytes())), Match::Answer(8, ..)));
}

#[test]
fn an_unknown_operation_is_matched_by_its_id() {
    let mut table = InFlight::default();
    let mut bytes = response(9, 0, 2, &[0x78, 0])[..14].to_vec();
    table.insert(Rc::new(Asked::opaque(&bytes)), 1, Instant::now(), || 9);
    bytes[2] |= 0x80;
    assert!(matches!(table.take(&bytes), Match::Answer(1, ..)));
}

#[test]
fn ids_do_not_count_up() {
    let mut ids = Ids::default();
    let drawn: Vec<u16> = (0..2000).map(|_| ids.draw()).collect();
    assert!(drawn.iter().collect::<HashSet<_>>().len() > 1900);
    assert!(drawn.windows(2).filter(|pair| pair[1] == pair[0].wrapping_add(1)).count() < 10);
}
