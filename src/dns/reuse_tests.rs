#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use super::{Keep, Kept, KeyRoom, Lifetimes, Ttls, is_for_everybody, keep, key};
use crate::dns::edit::option;
use crate::dns::message::{Message, rcode};

const DAY: u32 = 86_400;
const LIFETIMES: Lifetimes = Lifetimes { min: 0, max: DAY, max_negative: 3600, failure: 1 };
const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;

/// Codes and content of EDNS options.
type Options<'a> = &'a [(u16, &'a [u8])];

/// A query for `www.Example.` with these flags, and EDNS with these flags and options.
fn query(flags: [u8; 2], edns: Option<(u16, Options<'_>)>) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(b"\x03www\x07Example\0\0\x01\0\x01");
    if let Some((flags, options)) = edns {
        bytes[11] = 1;
        let mut rdata = Vec::new();
        for (code, data) in options {
            rdata.extend(code.to_be_bytes());
            rdata.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            rdata.extend(*data);
        }
        bytes.extend(b"\0\0\x29\x04\xd0\0\0");
        bytes.extend(flags.to_be_bytes());
        bytes.extend(u16::try_from(rdata.len()).unwrap().to_be_bytes());
        bytes.extend(rdata);
    }
    bytes
}

fn octets(bytes: &[u8]) -> Option<Vec<u8>> {
    let handled = |code| code == option::KEEPALIVE;
    key(&Message::parse(bytes).unwrap(), handled, &mut KeyRoom::default()).map(|key| key.octets().to_vec())
}

#[test]
fn a_key_tells_all_variants_apart_but_not_the_case() {
    let variants = [
        query([1, 0], None),
        query([0, 0], None),
        query([1, 0x20], None),
        query([1, 0x10], None),
        query([1, 0x40], None),
        query([1, 0], Some((0, &[]))),
        query([1, 0], Some((0x8000, &[]))),
        query([1, 0], Some((0x4000, &[]))),
        query([1, 0], Some((1, &[]))),
    ];
    let keys: Vec<_> = variants.iter().map(|bytes| octets(bytes).unwrap()).collect();
    for (index, key) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(key), "{index}");
    }
    let mut shouted = variants[0].clone();
    shouted[12..].make_ascii_uppercase();
    assert_eq!(octets(&shouted).unwrap(), keys[0]);
    let handled = query([1, 0], Some((0, &[(option::KEEPALIVE, b"")])));
    assert_eq!(octets(&handled).unwrap(), keys[5]);
}

#[test]
fn what_is_not_understood_is_never_answered_from_memory() {
    for code in [3, 8, 10, 12, 65_001] {
        assert_eq!(octets(&query([1, 0], Some((0, &[(code, b"1234")])))), None, "{code}");
    }
    for flags in [[0x03, 0], [0x05, 0], [1, 0x80], [1, 3], [0x29, 0]] {
        assert_eq!(octets(&query(flags, None)), None, "{flags:?}");
    }
    let mut version = query([1, 0], Some((0, &[])));
    let at = version.len() - 11 + 6;
    version[at] = 1;
    assert_eq!(octets(&version), None);
    let mut half = query([1, 0], Some((0, &[(option::KEEPALIVE, b"")])));
    let at = half.len() - 5;
    half[at] = 6;
    half.extend([0, 11]);
    assert_eq!(octets(&half), None, "an option that has no length");
    let mut behind = query([1, 0], None);
    behind.push(0);
    assert_eq!(octets(&behind), None, "octets behind the message");
    for qtype in [249, 251, 252, 253, 254] {
        let mut bytes = query([1, 0], None);
        let at = bytes.len() - 3;
        bytes[at] = qtype;
        assert_eq!(octets(&bytes), None, "{qtype}");
    }
    let mut any = query([1, 0], None);
    let at = any.len() - 3;
    any[at] = 255;
    assert!(octets(&any).is_some());
}

/// Records by section, type, TTL and content, all owned by the question's name.
type Records<'a> = [(u8, u16, u32, &'a [u8])];

fn answer(code: u8, records: &Records<'_>) -> Vec<u8> {
    let mut bytes = query([0x81, 0x80 | code], None);
    for (section, rtype, ttl, rdata) in records {
        bytes[7 + 2 * usize::from(*section)] += 1;
        bytes.extend([0xc0, 12]);
        bytes.extend(rtype.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend(u16::try_from(rdata.len()).unwrap().to_be_bytes());
        bytes.extend(*rdata);
    }
    bytes
}

fn soa(minimum: u32) -> Vec<u8> {
    let mut rdata = vec![0xc0, 16, 0xc0, 16];
    for number in [1, 2, 3, 4, minimum] {
        rdata.extend(number.to_be_bytes());
    }
    rdata
}

fn kept(bytes: &[u8], lifetimes: Lifetimes) -> Option<(Keep, Ttls)> {
    let mut ttls = Ttls::new();
    let asked = query([1, 0], None);
    keep(&Message::parse(&asked).unwrap().question().unwrap(), &Message::parse(bytes).unwrap(), lifetimes, &mut ttls)
        .map(|keep| (keep, ttls))
}

fn summary(code: u8, records: &Records<'_>) -> Option<(Kept, u32, Vec<u32>)> {
    let (keep, ttls) = kept(&answer(code, records), LIFETIMES)?;
    Some((keep.kind, keep.lifetime, ttls.iter().map(|&(_, ttl)| ttl).collect()))
}

#[test]
fn the_smallest_ttl_of_all_sections_counts() {
    let records: &Records<'_> = &[(0, A, 300, b"1234"), (1, 2, 100, b"\0"), (2, A, 200, b"1234")];
    assert_eq!(summary(0, records), Some((Kept::Positive, 100, vec![300, 100, 200])));
    assert_eq!(summary(0, &[(0, A, 0, b"1234")]), None);
    assert_eq!(summary(0, &[(0, A, 0x8000_0001, b"1234")]), None);
    assert_eq!(summary(0, &[(0, A, 8 * DAY, b"1234")]), Some((Kept::Positive, DAY, vec![DAY])));
    let (_, ttls) = kept(&answer(0, records), LIFETIMES).unwrap();
    let places: Vec<u16> = ttls.iter().map(|&(place, _)| place).collect();
    let at = |place: u16| answer(0, records)[usize::from(place) + 2..][..2].to_vec();
    assert_eq!(places.into_iter().map(at).collect::<Vec<_>>(), [[1, 44], [0, 100], [0, 200]]);
}

#[test]
fn nothing_is_kept_for_as_long_as_its_soa_says() {
    let (short, long) = (soa(5), soa(7200));
    let negative = |ttl: u32| Some((Kept::Negative, ttl, vec![ttl]));
    assert_eq!(summary(3, &[(1, SOA, 3600, &short)]), negative(5));
    assert_eq!(summary(0, &[(1, SOA, 7, &long)]), negative(7));
    assert_eq!(summary(0, &[(1, SOA, 7200, &long)]), negative(3600));
    // the longest goes before the shortest
    let lifetimes = Lifetimes { min: 60, max_negative: 2, ..LIFETIMES };
    let (keep, ttls) = kept(&answer(3, &[(1, SOA, 3600, &short)]), lifetimes).unwrap();
    assert_eq!((keep.lifetime, ttls[0].1), (2, 2));
    assert_eq!(summary(3, &[]), None);
    assert_eq!(summary(0, &[]), None);
    assert_eq!(summary(0, &[(1, 2, 300, b"\0")]), None, "a referral");
    let alias: &Records<'_> = &[(0, CNAME, 60, b"\xc0\x10"), (1, SOA, 3600, &short)];
    assert_eq!(summary(0, alias), Some((Kept::Negative, 5, vec![60, 5])));
    assert_eq!(summary(0, &[(0, CNAME, 60, b"\xc0\x10")]), None);
    assert_eq!(summary(3, &[(1, SOA, 3600, b"\0\0\0\0\0\x05")]), None, "no whole soa");
}

#[test]
fn other_answers_are_not_kept() {
    let record: &Records<'_> = &[(0, A, 300, b"1234")];
    for code in [rcode::FORMERR, rcode::NOTIMP, rcode::REFUSED, 9] {
        assert_eq!(summary(code, record), None, "{code}");
    }
    let change = |at: usize, value: u8| {
        let mut bytes = answer(0, record);
        bytes[at] = value;
        kept(&bytes, LIFETIMES)
    };
    assert!(change(0, 0).is_some());
    assert_eq!(change(2, 0x83), None, "truncated");
    assert_eq!(change(2, 0x01), None, "no response");
    assert_eq!(change(2, 0xa1), None, "another operation");
    assert_eq!(change(13, b'x'), None, "another name");
    let mut behind = answer(0, record);
    behind.push(0);
    assert_eq!(kept(&behind, LIFETIMES), None);
}

#[test]
fn failures_are_kept_for_a_moment() {
    assert_eq!(summary(2, &[]), Some((Kept::Failure, 1, vec![])));
    assert_eq!(kept(&answer(2, &[]), Lifetimes { failure: 0, ..LIFETIMES }), None);
}

#[test]
fn the_configuration_can_stretch_and_cut_lifetimes() {
    let lifetimes = Lifetimes { min: 60, max: 600, ..LIFETIMES };
    let one = |ttl| kept(&answer(0, &[(0, A, ttl, b"1234")]), lifetimes).map(|(keep, _)| keep.lifetime);
    assert_eq!((one(0), one(5), one(100), one(900)), (Some(60), Some(60), Some(100), Some(600)));
    let (keep, ttls) = kept(&answer(3, &[(1, SOA, 3600, &soa(5))]), lifetimes).unwrap();
    assert_eq!((keep.lifetime, ttls[0].1), (60, 60));
}

#[test]
fn the_opt_record_has_no_ttl_and_its_options_decide() {
    let with = |flags: u16, options: Options<'_>| {
        let mut bytes = query([0x81, 0x80], Some((flags, options)));
        let opt = bytes.split_off(12 + 17);
        let mut whole = answer(0, &[(0, A, 300, b"1234")]);
        whole[11] = 1;
        whole.extend(opt);
        whole
    };
    let (keep, ttls) = kept(&with(0x8000, &[]), LIFETIMES).unwrap();
    assert_eq!((keep.lifetime, ttls.len()), (300, 1));
    let everybody = |options: Options<'_>| is_for_everybody(&Message::parse(&with(0, options)).unwrap());
    assert!(everybody(&[]) && everybody(&[(option::EXTENDED_ERROR, b"\0\x03")]));
    assert!(everybody(&[(option::CLIENT_SUBNET, b"\0\x01\x00\x00")]));
    assert!(!everybody(&[(option::CLIENT_SUBNET, b"\0\x01\x18\x18\x01\x02\x03")]));
    assert!(!everybody(&[(10, b"12345678")]));
    assert!(!everybody(&[(65_001, b"")]));
}
