#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use testkit::{MessageBuilder, Opt, Rr, Section, answer_to, query};

use super::{
    extended_errors, flags_text, question_text, rcode_of, rcode_text, read_name, read_type, record_text, type_text,
};
use crate::dns::message::Message;

/// Each record of the message as it is written.
fn lines(message: &[u8]) -> Vec<String> {
    let message = Message::parse(message).unwrap();
    message.records().map(|record| record_text(&message, &record)).collect()
}

/// The one record with this data, owned by `a.test`, without its owner, TTL and class.
fn written(rtype: u16, rdata: &[u8]) -> String {
    let answer = answer_to(&query(1, "a.test", rtype)).answer(&Rr::new("a.test", rtype, 60, rdata)).build();
    lines(&answer)[0].strip_prefix("a.test. 60 IN ").unwrap().to_owned()
}

#[test]
fn a_name_is_read_as_it_is_written_with_its_escapes() {
    for (text, wire) in [
        ("a.test", &b"\x01a\x04test\0"[..]),
        ("A.test.", b"\x01A\x04test\0"),
        (".", b"\0"),
        ("a\\.b.test", b"\x03a.b\x04test\0"),
        ("\\065\\000\\\\.test", b"\x03A\0\\\x04test\0"),
        ("_dns.x\\032y", b"\x04_dns\x03x y\0"),
    ] {
        assert_eq!(read_name(text).unwrap(), wire, "{text}");
    }
    let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    assert_eq!(read_name(&long).unwrap().len(), 255);
    let (too_long, long_label) = (format!("{long}d"), "a".repeat(64));
    for bad in [
        "",
        "..",
        ".a",
        "a..b",
        "a b",
        "b\u{fc}ro",
        "a\\",
        "a\\25",
        "a\\256",
        "a\\2x5",
        "a\\\n",
        &too_long,
        &long_label,
    ] {
        assert!(read_name(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_name_that_was_written_is_read_back() {
    let wire: Vec<u8> = [&b"\x3f"[..], &(0..63).collect::<Vec<u8>>(), b"\x04\xff.\\@\0"].concat();
    let text = crate::dns::name::Printable(&wire).to_string();
    assert_eq!(read_name(&text).unwrap(), wire, "{text}");
}

#[test]
fn a_type_is_a_mnemonic_or_a_number() {
    for (text, number) in [("A", 1), ("aaaa", 28), ("Https", 65), ("CAA", 257), ("TYPE65", 65), ("type65535", 65_535)] {
        assert_eq!(read_type(text), Some(number), "{text}");
        assert_eq!(read_type(&type_text(number)), Some(number));
    }
    for bad in ["", "TYPE", "TYPE65536", "TYPE+1", "TYPE-1", "1", "AAAAA", "T\u{fc}\u{fc}\u{fc}1"] {
        assert_eq!(read_type(bad), None, "{bad}");
    }
    assert_eq!((type_text(65), type_text(65_280)), ("HTTPS".to_owned(), "TYPE65280".to_owned()));
}

#[test]
fn records_of_the_known_types_are_written_as_zone_files_have_them() {
    let soa =
        [&b"\x02ns\0\x02me\0"[..], &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 255, 255, 255, 255]].concat();
    for (rtype, rdata, text) in [
        (1, &[192, 0, 2, 1][..], "A 192.0.2.1"),
        (28, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "AAAA 2001:db8::1"),
        (5, b"\x01b\0", "CNAME b."),
        (2, b"\0", "NS ."),
        (12, b"\x03h.i\0", "PTR h\\.i."),
        (15, b"\x01\x02\x02mx\0", "MX 258 mx."),
        (16, b"\x03a\"b\0\x02\x07\\", "TXT \"a\\\"b\" \"\" \"\\007\\\\\""),
        (6, &soa, "SOA ns. me. 1 2 3 4 4294967295"),
        (33, b"\0\x01\0\x02\x03\x55\x01h\0", "SRV 1 2 853 h."),
        (257, b"\x80\x05issueca.test", "CAA 128 issue \"ca.test\""),
    ] {
        assert_eq!(written(rtype, rdata), text);
    }
}

#[test]
fn names_in_data_may_be_compressed() {
    // the question's name begins at octet 12, its second label at octet 14
    let mx = answer_to(&query(1, "a.test", 15));
    let pointers = |rdata: &[u8]| mx.clone().answer(&Rr { name: vec![0xc0, 12], ..Rr::new("", 15, 60, rdata) }).build();
    assert_eq!(lines(&pointers(b"\0\x0a\x04mail\xc0\x0e")), ["a.test. 60 IN MX 10 mail.test."]);
    // one that leads forward, or to itself, makes no name
    assert_eq!(lines(&pointers(b"\0\x0a\xc0\x28")), ["a.test. 60 IN TYPE15 \\# 4 000ac028"]);
    let looped = mx.clone().answer(&Rr { name: vec![0xc0, 24], ..Rr::new("", 1, 60, &[1, 2, 3, 4]) }).build();
    assert_eq!(lines(&looped), ["(unreadable) 60 IN A 1.2.3.4"]);
}

#[test]
fn what_is_not_known_or_has_another_form_is_written_octet_by_octet() {
    for (rtype, rdata, text) in [
        (65, &b"\0\x01\0"[..], "TYPE65 \\# 3 000100"),
        (65_280, b"", "TYPE65280 \\# 0"),
        (1, &[1, 2, 3], "TYPE1 \\# 3 010203"),
        (5, b"\x01b\0!", "TYPE5 \\# 4 01620021"),
        (5, b"\x05b", "TYPE5 \\# 2 0562"),
        (16, b"", "TYPE16 \\# 0"),
        (16, b"\x05abc", "TYPE16 \\# 4 05616263"),
        (15, b"\0", "TYPE15 \\# 1 00"),
        (33, b"\0\x01\0\x02\x03", "TYPE33 \\# 5 0001000203"),
        (6, b"\0\0\0\0", "TYPE6 \\# 4 00000000"),
        (257, b"\0\x09issue", "TYPE257 \\# 7 00096973737565"),
        (257, b"\0\x01 x", "TYPE257 \\# 4 00012078"),
    ] {
        assert_eq!(written(rtype, rdata), text);
    }
    let chaos = answer_to(&query(1, "a.test", 1)).answer(&Rr::a("a.test", [1, 2, 3, 4], 60).class(3)).build();
    assert_eq!(lines(&chaos), ["a.test. 60 CH TYPE1 \\# 4 01020304"]);
}

#[test]
fn the_header_the_question_and_the_extended_errors_are_written() {
    let opt = Opt::new(1232).ext_rcode(1).option(15, b"\0\x12go \x1b away").option(15, b"\xff\xff").option(15, b"\0");
    let answer = answer_to(&query(1, "a.test", 65)).opt(opt).build();
    let message = Message::parse(&answer).unwrap();
    assert_eq!(question_text(&message.question().unwrap()), "a.test. IN HTTPS");
    assert_eq!(extended_errors(&message), ["18 (Prohibited): \"go \\027 away\"", "65535"]);
    assert_eq!((rcode_text(rcode_of(&message)).as_str(), rcode_text(3000).as_str()), ("BADVERS", "RCODE3000"));
    let flags = MessageBuilder::empty(1).flags(0x8530).build();
    assert_eq!(flags_text(&Message::parse(&flags).unwrap()), "qr aa rd ad cd");
}

#[test]
fn no_message_that_can_be_read_breaks_the_writing() {
    let whole = answer_to(&query(1, "a.test", 6))
        .record(Section::Authority, &Rr::soa("test", 300, 300))
        .answer(&Rr::txt("a.test", b"text", 1))
        .answer(&Rr::new("a.test", 33, 1, b"\0\x01\0\x02\x03\x55\xc0\x0c"))
        .answer(&Rr::new("a.test", 257, 1, b"\x80\x05issueca.test"))
        .opt(Opt::new(1232).option(15, b"\0\x12text"))
        .build();
    let mut readable = 0;
    for at in 0..whole.len() {
        for octet in 0..=255 {
            let mut changed = whole.clone();
            changed[at] = octet;
            let Ok(message) = Message::parse(&changed) else { continue };
            readable += 1;
            for text in lines(&changed).into_iter().chain(extended_errors(&message)) {
                assert!(text.bytes().all(|octet| (0x20..=0x7e).contains(&octet)), "{text:?}");
            }
        }
    }
    assert!(readable > 1000, "{readable}");
}
