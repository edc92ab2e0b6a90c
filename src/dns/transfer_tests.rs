//! The forms of a transfer: whole, incremental, up to date, whole instead of incremental, in any number of messages.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use super::{Progress, Transfer};
use crate::dns::message::Message;

/// `S7` is an SOA of serial 7, `A` an address.
fn records(list: &str) -> Vec<Vec<u8>> {
    list.split_whitespace()
        .map(|item| match item.strip_prefix('S') {
            Some(serial) => {
                let serial: u32 = serial.parse().unwrap();
                let mut record = b"\xc0\x0c\0\x06\0\x01\0\0\0\x3c\0\x18\xc0\x0c\xc0\x0c".to_vec();
                record.extend(serial.to_be_bytes());
                record.extend([0; 16]);
                record
            }
            None => b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04".to_vec(),
        })
        .collect()
}

fn message(qtype: u8, code: u8, answers: &[Vec<u8>], authority: &[Vec<u8>]) -> Vec<u8> {
    let count = |list: &[Vec<u8>]| u8::try_from(list.len()).unwrap();
    let mut bytes = vec![0, 1, 0x84, code, 0, 1, 0, count(answers), 0, count(authority), 0, 0];
    bytes.extend(b"\x04zone\0\0");
    bytes.extend([qtype, 0, 1]);
    bytes.extend(answers.concat());
    bytes.extend(authority.concat());
    bytes
}

const AXFR: u8 = 252;
const IXFR: u8 = 251;

/// Feeds the records, `per` to a message, and gives the number of records after which the transfer was done.
fn done_after(qtype: u8, known: &str, list: &str, per: usize) -> Option<usize> {
    let query = message(qtype, 0, &[], &records(known));
    let mut transfer = Transfer::asked_by(&Message::parse(&query).unwrap()).unwrap();
    let mut seen = 0;
    for chunk in records(list).chunks(per) {
        seen += chunk.len();
        let bytes = message(qtype, 0, chunk, &[]);
        if transfer.observe(&Message::parse(&bytes).unwrap()) == Progress::Done {
            return Some(seen);
        }
    }
    None
}

#[test]
fn every_form_ends_with_its_closing_record_in_any_number_of_messages() {
    let forms = [
        (AXFR, "", "S5 A A A S5"),
        (AXFR, "", "S5 S5"),
        (IXFR, "S3", "S5 A A S5"),
        (IXFR, "S3", "S5 S3 A A S4 A S4 A S5 A S5"),
        (IXFR, "S3", "S5 S3 S5 S5"),
        (IXFR, "S3", "S5 S5"),
        (IXFR, "", "S5 A A S5"),
    ];
    for (qtype, known, list) in forms {
        let count = records(list).len();
        for per in 1..=count {
            assert_eq!(done_after(qtype, known, list, per), Some(count), "{qtype} {list} by {per}");
        }
        assert_eq!(done_after(qtype, known, list.rsplit_once(' ').unwrap().0, 1), None, "{list}");
    }
}

#[test]
fn a_single_soa_says_up_to_date_only_if_it_is_no_newer() {
    assert_eq!(done_after(IXFR, "S5", "S5", 1), Some(1));
    assert_eq!(done_after(IXFR, "S6", "S5", 1), Some(1));
    assert_eq!(done_after(IXFR, "S4", "S5", 1), None);
    // across the end of the numbers
    assert_eq!(done_after(IXFR, "S4294967295", "S2", 1), None);
}

#[test]
fn an_error_ends_and_an_empty_message_does_not() {
    let query = message(AXFR, 0, &[], &[]);
    let query = Message::parse(&query).unwrap();
    let mut transfer = Transfer::asked_by(&query).unwrap();
    let empty = message(AXFR, 0, &[], &[]);
    assert_eq!(transfer.observe(&Message::parse(&empty).unwrap()), Progress::More);
    let refused = message(AXFR, 5, &[], &[]);
    assert_eq!(transfer.observe(&Message::parse(&refused).unwrap()), Progress::Done);
    // BADVERS: the four bits of the header alone say that all is well
    let mut transfer = Transfer::asked_by(&query).unwrap();
    let mut extended = message(AXFR, 0, &[], &[]);
    extended[11] = 1;
    extended.extend(b"\0\0\x29\x04\xd0\x01\0\0\0\0\0");
    assert_eq!(transfer.observe(&Message::parse(&extended).unwrap()), Progress::Done);
    let other = message(1, 0, &[], &[]);
    assert!(Transfer::asked_by(&Message::parse(&other).unwrap()).is_none());
}

#[test]
fn an_answer_that_is_no_transfer_ends_at_once() {
    assert_eq!(done_after(AXFR, "", "A A", 2), Some(2));
}
