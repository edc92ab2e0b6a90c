//! Certificates made at run time: a CA, good server certificates and every wrong one a verifier has to refuse.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use crate::folder::readable_folder;

/// A certification authority with an intermediate under it, and a directory for PEM files that goes away with it.
pub struct Pki {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
    ca_file: PathBuf,
}

/// What certificate to issue. Starts as a good server certificate without names.
#[derive(Clone, Debug)]
pub struct Certificate {
    names: Vec<String>,
    common_name: String,
    validity: (OffsetDateTime, OffsetDateTime),
    purpose: ExtendedKeyUsagePurpose,
    signer: Signer,
    key_pem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signer {
    Root,
    Intermediate { include_intermediate: bool },
    Itself,
}

impl Certificate {
    /// A server certificate for these SANs: DNS names (wildcards too) or IP addresses.
    pub fn for_names(names: &[&str]) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            common_name: "dot-proxy test certificate".into(),
            validity: (now - Duration::days(1), now + Duration::days(30)),
            purpose: ExtendedKeyUsagePurpose::ServerAuth,
            signer: Signer::Root,
            key_pem: None,
        }
    }

    /// The name stands in the subject's CN only; there is no SAN at all.
    pub fn common_name_only(name: &str) -> Self {
        Self { common_name: name.into(), ..Self::for_names(&[]) }
    }

    /// Explicit validity.
    #[must_use]
    pub fn valid(mut self, not_before: OffsetDateTime, not_after: OffsetDateTime) -> Self {
        self.validity = (not_before, not_after);
        self
    }

    /// Expired an hour ago.
    #[must_use]
    pub fn expired(self) -> Self {
        let now = OffsetDateTime::now_utc();
        self.valid(now - Duration::days(30), now - Duration::hours(1))
    }

    /// Valid from tomorrow on.
    #[must_use]
    pub fn not_yet_valid(self) -> Self {
        let now = OffsetDateTime::now_utc();
        self.valid(now + Duration::days(1), now + Duration::days(30))
    }

    /// Valid since the year 2000.
    #[must_use]
    pub fn valid_for_long(self) -> Self {
        self.valid(OffsetDateTime::UNIX_EPOCH + Duration::days(10_957), OffsetDateTime::now_utc() + Duration::days(30))
    }

    /// Valid in January 2000 only.
    #[must_use]
    pub fn long_expired(self) -> Self {
        let begin = OffsetDateTime::UNIX_EPOCH + Duration::days(10_957);
        self.valid(begin, begin + Duration::days(31))
    }

    /// For client authentication only.
    #[must_use]
    pub fn client_auth_only(mut self) -> Self {
        self.purpose = ExtendedKeyUsagePurpose::ClientAuth;
        self
    }

    /// Signed by the intermediate, which the server sends or forgets.
    #[must_use]
    pub fn via_intermediate(mut self, include_intermediate: bool) -> Self {
        self.signer = Signer::Intermediate { include_intermediate };
        self
    }

    /// Signed by its own key.
    #[must_use]
    pub fn self_signed(mut self) -> Self {
        self.signer = Signer::Itself;
        self
    }

    /// Uses the key of another identity: a renewed certificate whose pin stays.
    #[must_use]
    pub fn same_key_as(mut self, other: &Identity) -> Self {
        self.key_pem = Some(other.key_pem.clone());
        self
    }
}

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate first, then what the server sends along.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
    public_key: Vec<u8>,
    key_pem: String,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            public_key: self.public_key.clone(),
            key_pem: self.key_pem.clone(),
        }
    }
}

impl Identity {
    /// The pin of RFC 7858 §4.2: base64 of the SHA-256 of the SubjectPublicKeyInfo.
    pub fn spki_pin(&self) -> String {
        BASE64.encode(digest(&SHA256, &self.public_key).as_ref())
    }

    /// The chain as PEM.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| pem(certificate)).collect()
    }

    /// The key as PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Writes `NAME.crt` and `NAME.key` into a directory and gives their paths.
    pub fn write_pem(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (chain, key) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
        fs::write(&chain, self.chain_pem()).expect("a writable directory");
        fs::write(&key, &self.key_pem).expect("a writable directory");
        (chain, key)
    }
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

impl Pki {
    /// A new CA with new keys; its certificate lies in [`Self::ca_file`].
    pub fn new() -> Self {
        let root = CertifiedIssuer::self_signed(authority("dot-proxy test root"), new_key()).expect("a root");
        let intermediate =
            CertifiedIssuer::signed_by(authority("dot-proxy test intermediate"), new_key(), &root).expect("a CA");
        let directory = readable_folder();
        let ca_file = directory.path().join("ca.pem");
        fs::write(&ca_file, root.pem()).expect("a writable directory");
        Self { root, intermediate, directory, ca_file }
    }

    /// The CA certificate as a PEM file.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// The CA certificate.
    pub fn ca(&self) -> CertificateDer<'static> {
        self.root.der().clone()
    }

    /// The CA as a rustls root store.
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca()).expect("a CA certificate");
        Arc::new(roots)
    }

    /// A directory for more files; it goes away with the CA.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A good server certificate for these names or addresses.
    pub fn server(&self, names: &[&str]) -> Identity {
        self.issue(&Certificate::for_names(names))
    }

    /// A good client certificate.
    pub fn client(&self, name: &str) -> Identity {
        self.issue(&Certificate::for_names(&[name]).client_auth_only())
    }

    /// Issues what is asked for, good or bad.
    pub fn issue(&self, wanted: &Certificate) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names = wanted.names.iter().map(|name| subject_alt_name(name)).collect();
        params.distinguished_name = distinguished_name(&wanted.common_name);
        (params.not_before, params.not_after) = wanted.validity;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![wanted.purpose.clone()];
        params.use_authority_key_identifier_extension = wanted.signer != Signer::Itself;

        let key = wanted.key_pem.as_deref().map_or_else(new_key, |pem| KeyPair::from_pem(pem).expect("a key"));
        let certificate = match wanted.signer {
            Signer::Root => params.signed_by(&key, &self.root),
            Signer::Intermediate { .. } => params.signed_by(&key, &self.intermediate),
            Signer::Itself => params.self_signed(&key),
        };
        let mut chain = vec![certificate.expect("a certificate").der().clone()];
        if wanted.signer == (Signer::Intermediate { include_intermediate: true }) {
            chain.push(self.intermediate.der().clone());
        }
        Identity {
            chain,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            public_key: key.subject_public_key_info(),
            key_pem: key.serialize_pem(),
        }
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key pair")
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn subject_alt_name(name: &str) -> SanType {
    match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into().expect("an ASCII name")),
    }
}

fn pem(certificate: &[u8]) -> String {
    let base64 = BASE64.encode(certificate);
    let lines: Vec<&str> =
        base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
