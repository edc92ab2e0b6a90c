//! Domain names in wire form (RFC 1035 §3.1, §4.1.4): skipping, comparing and printing them.
//!
//! Nothing here allocates but the printing and the reading of text, and nothing follows a compression pointer: a relay needs to know where a
//! name ends in the message, not what it expands to.

use std::fmt;

/// The longest name in wire form, the root label included (RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 255;

/// Where the name that begins at `at` ends in `message`: behind its root label or its first compression pointer.
///
/// `None` if the name runs past the end, has a label type other than 00 and 11, or is longer than 255 octets.
#[inline]
pub fn skip(message: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    loop {
        let length = *message.get(end)?;
        match length >> 6 {
            0 if length == 0 => return (end + 1 - at <= MAX_NAME).then_some(end + 1),
            0 => end += 1 + usize::from(length),
            3 => return (end + 2 <= message.len()).then_some(end + 2),
            _ => return None,
        }
        if end - at > MAX_NAME {
            return None;
        }
    }
}

/// Where the uncompressed name at `at` ends; `None` also if it holds a compression pointer.
///
/// The first question of a message has nothing before it that a pointer could name.
#[inline]
pub fn skip_uncompressed(message: &[u8], at: usize) -> Option<usize> {
    let end = skip(message, at)?;
    (!ends_in_pointer(message, at, end)).then_some(end)
}

fn ends_in_pointer(message: &[u8], at: usize, end: usize) -> bool {
    let mut here = at;
    while here < end {
        let length = message[here];
        if length >> 6 == 3 {
            return true;
        }
        here += 1 + usize::from(length);
    }
    false
}

/// Whether two uncompressed names are the same by RFC 4343: octet by octet, ASCII letters without their case.
///
/// Length octets are below 64 and so never mistaken for letters.
#[inline]
pub fn same(left: &[u8], right: &[u8]) -> bool {
    // hardly anybody changes the case of a name on its way, and octets are compared by the dozen
    left == right || left.eq_ignore_ascii_case(right)
}

/// Whether the uncompressed `name` is `zone` or lies below it, by whole labels (RFC 4343 §3).
pub fn is_within(name: &[u8], zone: &[u8]) -> bool {
    // the end is compared first: with hardly any name a look at its labels is needed
    let Some(start) = name.len().checked_sub(zone.len()).filter(|&start| same(&name[start..], zone)) else {
        return false;
    };
    let mut here = 0;
    while here < start && name[here] != 0 {
        here += 1 + usize::from(name[here]);
    }
    here == start
}

/// An uncompressed name in presentation form (RFC 1035 §5.1): whatever is not a printable ASCII character stands as
/// `\DDD`, so that a name from a packet can neither split nor colour a log line.
#[derive(Clone, Copy)]
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest == [0] {
            return out.write_str(".");
        }
        while let [length, tail @ ..] = rest {
            let (label, tail) = tail.split_at(tail.len().min(usize::from(*length)));
            if label.is_empty() {
                break;
            }
            for &octet in label {
                match octet {
                    b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => write!(out, "\\{}", char::from(octet))?,
                    0x21..=0x7e => write!(out, "{}", char::from(octet))?,
                    _ => write!(out, "\\{octet:03}")?,
                }
            }
            out.write_str(".")?;
            rest = tail;
        }
        Ok(())
    }
}

/// A domain out of the configuration, never the root: an uncompressed name with letters in lower case.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Domain(Box<[u8]>);

impl Domain {
    /// Reads the form that people write, with or without a dot at the end. Internationalized names are read in their
    /// ASCII form alone (RFC 5890 §2.3.2.1).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Domain, String> {
        let mut wire = Vec::with_capacity(text.len() + 2);
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(format!("{text:?} is not a domain that can be told from others"));
        }
        for label in name.split('.') {
            let fits = |octet: u8| octet.is_ascii_alphanumeric() || b"-_/".contains(&octet);
            match u8::try_from(label.len()) {
                _ if label == "*" => {
                    return Err(format!("{text:?}: all names below a domain are meant anyway, leave \"*.\" out"));
                }
                _ if !label.is_ascii() => {
                    return Err(format!("{text:?}: write the ASCII form of the name, with \"xn--\""));
                }
                Ok(length @ 1..=63) if label.bytes().all(fits) => wire.push(length),
                _ => return Err(format!("{text:?} is no domain name")),
            }
            wire.extend(label.bytes().map(|octet| octet.to_ascii_lowercase()));
        }
        wire.push(0);
        if wire.len() > MAX_NAME {
            Err(format!("{text:?} is longer than a name can be"))
        } else {
            Ok(Domain(wire.into()))
        }
    }

    /// Its octets in wire form, in lower case.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(Printable(&self.0).to_string().trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Domain, Printable, is_within, same, skip, skip_uncompressed};

    const WWW: &[u8] = b"\x03wWw\x07ExAmPlE\x03cOm\0";

    #[test]
    fn a_name_ends_behind_its_root_label_or_first_pointer() {
        assert_eq!(skip(WWW, 0), Some(WWW.len()));
        assert_eq!(skip(b"\x01a\xc0\x0c!", 0), Some(4));
        assert_eq!(skip(b"\0", 0), Some(1));
        assert_eq!(skip_uncompressed(WWW, 0), Some(WWW.len()));
        // a pointer whose low octet is zero looks like a root label from behind
        assert_eq!(skip_uncompressed(b"\x01a\xc0\0", 0), None);
    }

    #[test]
    fn a_name_that_runs_out_is_too_long_or_has_an_unknown_label_type_is_refused() {
        for bad in [&b""[..], b"\x03ab", b"\x01a", b"\xc0", b"\x41abc\0", b"\x80\0"] {
            assert_eq!(skip(bad, 0), None, "{bad:?}");
        }
        let long = b"\x3f".iter().chain(&[b'a'; 63]).copied().collect::<Vec<_>>().repeat(4);
        assert_eq!(skip(&[long.clone(), vec![0]].concat(), 0), None);
        assert_eq!(skip(&[&long[..192], b"\x3d", &[b'a'; 61], b"\0"].concat(), 0), Some(255));
    }

    #[test]
    fn names_are_compared_without_case_and_by_whole_labels() {
        assert!(same(WWW, b"\x03www\x07example\x03com\0"));
        assert!(!same(WWW, b"\x03wwx\x07example\x03com\0"));
        let zone = b"\x04home\x04arpa\0";
        assert!(is_within(b"\x04HoMe\x04aRpA\0", zone));
        assert!(is_within(b"\x01x\x04home\x04arpa\0", zone));
        assert!(!is_within(b"\x06myhome\x04arpa\0", zone));
        assert!(!is_within(b"\x04home\x04arpa\x07example\0", zone));
        assert!(!is_within(b"\x04arpa\0", zone));
        // the octets of the zone inside a label are not its labels
        assert!(!is_within(b"\x0bx\x04home\x04arpa\0", zone));
    }

    #[test]
    fn what_a_name_holds_cannot_break_a_log_line() {
        assert_eq!(Printable(b"\x01a\x03\n\x1b.\x02\xc3\xa4\0").to_string(), "a.\\010\\027\\..\\195\\164.");
        assert_eq!(Printable(b"\0").to_string(), ".");
    }

    #[test]
    fn a_domain_is_read_in_any_case_and_printed_without_its_last_dot() {
        for text in ["Corp.Example", "corp.example."] {
            let domain = Domain::parse(text).unwrap();
            assert_eq!((domain.wire(), domain.to_string()), (&b"\x04corp\x07example\0"[..], "corp.example".to_owned()));
        }
        assert!(Domain::parse("0/25.2.0.192.in-addr.arpa").is_ok() && Domain::parse("_tcp.a-b").is_ok());
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        assert_eq!(Domain::parse(&long).unwrap().wire().len(), 255);
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "*.corp.example",
            "b\u{fc}ro.example",
            "a b",
            &format!("{long}d"),
            &"a".repeat(64),
        ] {
            assert!(Domain::parse(bad).is_err(), "{bad}");
        }
    }
}
