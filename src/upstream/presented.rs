//! A certificate as a server presents it, read for people.
//!
//! It is read to be shown and never to be judged: the verifier judges the octets themselves. What it holds comes from
//! whoever answers at the address, so nothing of it reaches a terminal or a log line as it is.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::time::Time;

/// What one certificate says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Presented {
    /// Whose it is, as in RFC 4514.
    pub subject: String,
    /// Who issued it, likewise.
    pub issuer: String,
    /// The first second of its validity, in seconds since 1970.
    pub not_before: u64,
    /// The last second of its validity, in seconds since 1970.
    pub not_after: u64,
    /// The names and addresses that it is for (RFC 5280 §4.2.1.6); of other kinds of names nothing is said.
    pub names: Vec<String>,
    /// Its public key, as SubjectPublicKeyInfo in DER.
    pub public_key_info: Vec<u8>,
    /// Whether it names itself as its issuer.
    pub is_self_issued: bool,
}

impl Presented {
    /// Reads a certificate.
    ///
    /// # Errors
    /// If it has not the form of RFC 5280 §4.1.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Presented, String> {
        let unreadable = |error: x509_cert::der::Error| format!("cannot be read: {error}");
        let certificate = Certificate::from_der(certificate).map_err(unreadable)?;
        let body = certificate.tbs_certificate();
        let seconds = |time: Time| time.to_unix_duration().as_secs();
        let names = match body.get_extension::<SubjectAltName>().map_err(unreadable)? {
            Some((_, names)) => names.0.iter().filter_map(name).collect(),
            None => Vec::new(),
        };
        Ok(Presented {
            subject: printable(&body.subject().to_string()),
            issuer: printable(&body.issuer().to_string()),
            not_before: seconds(body.validity().not_before),
            not_after: seconds(body.validity().not_after),
            names,
            public_key_info: body.subject_public_key_info().to_der().map_err(unreadable)?,
            is_self_issued: body.subject() == body.issuer(),
        })
    }

    /// The names that it is for, with commas, or that there are none.
    pub fn names_in_words(&self) -> String {
        if self.names.is_empty() { "no name at all".to_owned() } else { self.names.join(", ") }
    }
}

/// A name of the kinds that a resolver is authenticated by.
fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(printable(name.as_ref())),
        GeneralName::IpAddress(octets) => {
            let octets = octets.as_bytes();
            let v4 = || <[u8; 4]>::try_from(octets).map(IpAddr::from);
            v4().or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// The text with everything escaped that could move a cursor or hide what follows.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            ' '..='~' => out.push(letter),
            other => out.extend(other.escape_debug()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Presented, printable};
    use crate::config::settings::Pin;
    use rustls::pki_types::CertificateDer;
    use testkit::{Certificate, Pki};

    #[test]
    fn a_certificate_tells_its_names_its_issuer_its_dates_and_its_key() {
        let pki = Pki::new();
        let identity = pki.issue(&Certificate::for_names(&["a.test", "*.b.test", "192.0.2.1", "2001:db8::1"]));
        let read = Presented::read(&identity.chain[0]).unwrap();
        assert_eq!(
            (read.subject.as_str(), read.issuer.as_str()),
            ("CN=dot-proxy test certificate", "CN=dot-proxy test root")
        );
        assert_eq!(read.names, ["a.test", "*.b.test", "192.0.2.1", "2001:db8::1"]);
        assert_eq!(Pin::of(&read.public_key_info).to_string(), identity.spki_pin());
        assert_eq!(read.not_after - read.not_before, 31 * 86_400);
        assert!(!read.is_self_issued);
        let alone = Presented::read(&pki.issue(&Certificate::for_names(&[]).self_signed()).chain[0]).unwrap();
        assert_eq!((alone.is_self_issued, alone.names_in_words().as_str()), (true, "no name at all"));
    }

    #[test]
    fn what_is_no_certificate_is_refused_and_what_it_says_cannot_colour_a_line() {
        for bad in [&b""[..], b"\x30\x00", &[0x30; 40]] {
            assert!(Presented::read(&CertificateDer::from(bad)).is_err());
        }
        let identity = Pki::new().issue(&Certificate::common_name_only("\u{1b}[31mred\n\u{202e}b\u{fc}ro"));
        let read = Presented::read(&identity.chain[0]).unwrap();
        assert!(!read.subject.contains(['\u{1b}', '\n', '\u{202e}']), "{}", read.subject);
        assert_eq!(printable("a\u{7f}\u{fc}\u{202e}"), "a\\u{7f}\u{fc}\\u{202e}");
    }
}
