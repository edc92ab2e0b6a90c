//! Why a server was not authenticated: which check failed, in words, and what can be done about it (RFC 8310 §6).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, Error, OtherError};

use super::presented::Presented;
use crate::clock::date;

/// A check that a server's certificate or key can fail. Each has a text and a counter of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Check {
    /// The certificate is not for the name.
    Name,
    /// The certificate is not for the address, which is verified where no name is given.
    Address,
    /// The certificate is past its validity.
    Expired,
    /// The certificate is before its validity, by the clock of this machine.
    NotYetValid,
    /// The certificate vouches for itself, and nobody else does.
    SelfSigned,
    /// No trusted CA vouches for the certificate.
    Issuer,
    /// The key is none of the pinned ones.
    Pin,
    /// Anything else: a form, a purpose, an algorithm, or a signature that is wrong.
    Other,
}

impl Check {
    /// What can be done about it, in one sentence.
    pub fn advice(self) -> &'static str {
        match self {
            Check::Name => {
                "if this is the server that you mean, write the name that its certificate carries behind \"#\"; if not, \
                 the address is wrong, or somebody else answers there"
            }
            Check::Address => {
                "write the server as address#name with a name that its certificate carries, if that is the one you mean"
            }
            Check::Expired => {
                "whoever runs the server must renew its certificate; look at the clock of this machine, too"
            }
            Check::NotYetValid => "set the clock of this machine; if it is right, whoever runs the server is too early",
            Check::SelfSigned => {
                "give the server its pin, once you know from whoever runs it that the key is right, or have it show a \
                 certificate that a CA has issued"
            }
            Check::Issuer => {
                "name the CA's file as ca-file, if it is one of your own; otherwise the server does not send the \
                 certificates between its own and the CA's, or somebody else answers there"
            }
            Check::Pin => {
                "ask whoever runs the server whether its key was renewed, and only then write the new pin beside the old one"
            }
            Check::Other => "whoever runs the server must give it another certificate, or somebody else answers there",
        }
    }

    /// One word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Check::Name => "name",
            Check::Address => "address",
            Check::Expired => "expired",
            Check::NotYetValid => "not-yet-valid",
            Check::SelfSigned => "self-signed",
            Check::Issuer => "issuer",
            Check::Pin => "pin",
            Check::Other => "other",
        }
    }
}

/// A server that failed a check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Which.
    pub check: Check,
    /// In words, with what was wanted and what was found.
    pub why: String,
    /// What it presented, its own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.why)
    }
}

/// The server's certificate has none of the pinned keys.
#[derive(Debug)]
pub struct NotPinned {
    /// The pin of the key that it has.
    pub found: String,
}

impl fmt::Display for NotPinned {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "wrong pin: the server's public key matches none of the configured pins, its pin is {}", self.found)
    }
}

impl std::error::Error for NotPinned {}

impl NotPinned {
    /// As the library takes errors of others.
    pub fn into_error(self) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

/// The server's certificate is not good for the address of the resolver that designated it.
#[derive(Debug)]
pub struct NotDesignated(pub IpAddr);

impl fmt::Display for NotDesignated {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "wrong address: the certificate is not for {}, whose resolver designated the server (RFC 9462 section 4.2)",
            self.0
        )
    }
}

impl std::error::Error for NotDesignated {}

impl NotDesignated {
    /// As the library takes errors of others.
    pub fn into_error(self) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

impl Refusal {
    /// What the verdict on a chain of certificates, the server's own first, means. `wanted` is what the first had to be for.
    pub fn new(verdict: &Error, chain: Vec<CertificateDer<'static>>, wanted: &ServerName<'_>) -> Refusal {
        let presented = chain.first().ok_or_else(String::new).and_then(Presented::read);
        let (check, why) = judge(verdict, presented.as_ref().ok(), wanted);
        Refusal { check, why, chain }
    }

    /// The server's signature over the handshake is wrong, or of a kind that is not accepted, whatever its certificate says.
    pub fn unproven(verdict: &Error) -> Refusal {
        let why = format!("the server did not prove that it has the key of its certificate ({verdict})");
        Refusal { check: Check::Other, why, chain: Vec::new() }
    }
}

fn judge(verdict: &Error, presented: Option<&Presented>, wanted: &ServerName<'_>) -> (Check, String) {
    use CertificateError as Wrong;
    let Error::InvalidCertificate(wrong) = verdict else { return (Check::Other, verdict.to_string()) };
    let names = presented.map_or_else(|| "something else".to_owned(), Presented::names_in_words);
    let is_self_issued = presented.is_some_and(|one| one.is_self_issued);
    match wrong {
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => match wanted {
            ServerName::IpAddress(address) => {
                let address = IpAddr::from(*address);
                (
                    Check::Address,
                    format!("wrong address: the certificate is for {names}, and not for the address {address}"),
                )
            }
            other => {
                (Check::Name, format!("wrong name: the certificate is for {names}, and not for {}", other.to_str()))
            }
        },
        Wrong::Expired | Wrong::ExpiredContext { .. } => {
            let until = presented.map_or_else(String::new, |one| format!(" on {}", date(one.not_after)));
            (Check::Expired, format!("expired: the certificate ceased to be valid{until}"))
        }
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
            let from = presented.map_or_else(|| "later".to_owned(), |one| format!("on {}", date(one.not_before)));
            let clock = match wrong {
                Wrong::NotValidYetContext { time, .. } => format!(", and it is judged as of {}", date(time.as_secs())),
                _ => String::new(),
            };
            (Check::NotYetValid, format!("not valid yet: the certificate begins to be valid {from}{clock}"))
        }
        Wrong::Other(OtherError(own)) if own.is::<NotPinned>() => (Check::Pin, own.to_string()),
        Wrong::Other(OtherError(own)) if own.is::<NotDesignated>() => (Check::Address, own.to_string()),
        // a certificate of this kind often says that it is a CA's, which is an error of its own
        Wrong::UnknownIssuer | Wrong::BadSignature | Wrong::Other(_) if is_self_issued => {
            (Check::SelfSigned, "self-signed: the certificate vouches for itself, and no trusted CA does".to_owned())
        }
        Wrong::UnknownIssuer | Wrong::BadSignature => {
            let issuer =
                presented.map_or_else(String::new, |one| format!(", which names as its issuer {}", one.issuer));
            (Check::Issuer, format!("unknown issuer: no trusted CA vouches for the certificate{issuer}"))
        }
        other => (Check::Other, format!("the certificate cannot be used: {other}")),
    }
}
