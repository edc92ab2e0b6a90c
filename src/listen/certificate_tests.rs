//! Pairs that can be used, those that cannot, and what is said of either.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail loudly")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use testkit::{Certificate as Wanted, Identity, Pki};

use super::{Certificate, ClientTls, Occasion};

/// Writes a pair whose key is for its owner alone.
fn written(pki: &Pki, identity: &Identity, name: &str) -> ClientTls {
    let (certificate, key) = identity.write_pem(pki.directory(), name);
    only_for_its_owner(&key);
    ClientTls { certificate, key, client_ca: None }
}

fn only_for_its_owner(key: &Path) {
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
}

fn read(settings: &ClientTls) -> (Certificate, Vec<String>) {
    Certificate::read(settings, Occasion::Start).unwrap_or_else(|fault| panic!("{fault}"))
}

fn refused(settings: &ClientTls) -> String {
    Certificate::read(settings, Occasion::Start).err().unwrap().to_string()
}

#[test]
fn a_good_pair_is_taken_without_a_word() {
    let pki = Pki::new();
    let identity = pki.issue(&Wanted::for_names(&["proxy.test"]).via_intermediate(true));
    let settings = written(&pki, &identity, "good");
    let (certificate, notes) = read(&settings);
    assert_eq!((certificate.pair.chain(), notes), (identity.chain.as_slice(), Vec::new()));
    let with_ca = ClientTls { client_ca: Some(pki.ca_file().to_owned()), ..settings };
    assert!(read(&with_ca).1.is_empty());
}

#[test]
fn what_cannot_be_used_is_named_with_the_option() {
    let pki = Pki::new();
    let good = written(&pki, &pki.server(&["proxy.test"]), "good");
    let other = written(&pki, &pki.server(&["proxy.test"]), "other");
    let nothing = pki.directory().join("nothing");
    fs::write(&nothing, "no PEM at all").unwrap();
    let missing = PathBuf::from("/nowhere/at-all");
    for (settings, said) in [
        (ClientTls { key: other.key, ..good.clone() }, "listen.tls-key FILE: is not the key of the certificate in "),
        (
            ClientTls { certificate: nothing.clone(), ..good.clone() },
            "listen.tls-certificate FILE: no certificate in it",
        ),
        (ClientTls { key: nothing.clone(), ..good.clone() }, "listen.tls-key FILE: no private key in it"),
        (
            ClientTls { certificate: missing.clone(), ..good.clone() },
            "listen.tls-certificate FILE: cannot be read: No such file",
        ),
        (ClientTls { key: missing.clone(), ..good.clone() }, "listen.tls-key FILE: cannot be read: No such file"),
        (ClientTls { key: "/proc".into(), ..good.clone() }, "listen.tls-key FILE: not a regular file"),
        (
            ClientTls { client_ca: Some(missing), ..good.clone() },
            "listen.tls-client-ca FILE: cannot be read: No such file",
        ),
        (ClientTls { client_ca: Some(nothing), ..good }, "listen.tls-client-ca FILE: no certificate in it"),
    ] {
        let problem = refused(&settings);
        let (option, rest) = said.split_once(" FILE").unwrap();
        assert!(problem.starts_with(option) && problem.contains(rest), "{problem}");
    }
}

#[test]
fn what_is_doubtful_is_taken_with_a_warning() {
    let pki = Pki::new();
    for (wanted, said) in [
        (Wanted::for_names(&["proxy.test"]).expired(), "has expired 1h ago"),
        (Wanted::for_names(&["proxy.test"]).not_yet_valid(), " only: clients will refuse it until then"),
    ] {
        let notes = read(&written(&pki, &pki.issue(&wanted), "doubtful")).1;
        assert!(notes.len() == 1 && notes[0].contains(said), "{notes:?}");
    }
    let settings = written(&pki, &pki.server(&["proxy.test"]), "open");
    fs::set_permissions(&settings.key, fs::Permissions::from_mode(0o644)).unwrap();
    let notes = read(&settings).1;
    assert!(notes.len() == 1 && notes[0].contains("every user may read or change it (mode 0644)"), "{notes:?}");
}

#[test]
fn tickets_live_as_long_as_the_files_say_the_same() {
    let pki = Pki::new();
    let identity = pki.server(&["proxy.test"]);
    let settings = written(&pki, &identity, "first");
    let first = read(&settings).0;
    let again = |settings: &ClientTls| Certificate::read(settings, Occasion::Reload(Some(&first))).unwrap().0;
    let is_same = |other: &Certificate| Arc::ptr_eq(&first.config, &other.config);
    assert!(is_same(&again(&settings)));
    assert!(is_same(&again(&written(&pki, &identity, "elsewhere"))));
    // a client that has shown nothing must not come in by a ticket from before
    assert!(!is_same(&again(&ClientTls { client_ca: Some(pki.ca_file().to_owned()), ..settings })));
    let renewed = pki.issue(&Wanted::for_names(&["proxy.test"]).same_key_as(&identity));
    assert!(!is_same(&again(&written(&pki, &renewed, "renewed"))));
}
