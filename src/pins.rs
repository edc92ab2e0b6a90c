//! The command `pins`: what a server presents, with the pins of its keys, and who vouches for it. No query is sent.
//!
//! The connection is one of the opportunistic profile: the same checks as ever are made, and none of them ends it.

use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use crate::clock::date;
use crate::config::options::{Kind, SERVERS};
use crate::config::settings::{Authentication, Member, Pin, Profile, Roots, Server};
use crate::config::values::{GroupTerms, Value, read_words};
use crate::pem_pair::Moment;
use crate::upstream::establish::establish;
use crate::upstream::presented::Presented;
use crate::upstream::server::UpstreamServer;
use crate::upstream::tls::Sources;

/// The time for TCP and TLS together.
const LIMIT: Duration = Duration::from_secs(5);

/// Why there are no pins to tell.
#[derive(Debug)]
pub enum NoPins {
    /// What was given cannot be used.
    Given(String),
    /// The server shows no certificate.
    Unreached(String),
}

/// Connects to `server`, written `address[:port][#name]`, and hands each line of what there is to say to `tell`.
///
/// # Errors
/// If the server cannot be read, or the CA file, or if no handshake comes about within five seconds.
pub fn show(server: &str, ca_file: Option<PathBuf>, mut tell: impl FnMut(&str)) -> Result<(), NoPins> {
    let settings = read(server, ca_file).map_err(NoPins::Given)?;
    let given = |error: crate::upstream::tls::TlsError| NoPins::Given(error.to_string());
    let upstream =
        UpstreamServer::new(settings.clone(), &mut Sources::new(Moment::Start, Vec::new())).map_err(given)?;
    let unreached = |why: String| NoPins::Unreached(format!("{server}: {why}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| unreached(error.to_string()))?;
    let made = runtime.block_on(async { establish(&upstream, upstream.turn().await, LIMIT).await });
    let (stream, _) = made.map_err(|error| unreached(error.to_string()))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    tell(&format!("{server} presents"));
    let pin = tell_chain(chain, &mut tell);
    tell(&verdict(&settings, &upstream));
    if let Some(pin) = pin {
        tell("to pin the key of its own certificate, write in [upstream]:");
        tell(&format!("  servers = [{{ {}, pins = [\"{pin}\"] }}]", keys(&settings)));
    }
    tell(
        "Pins taken over a network that is not trusted prove nothing: compare them with what whoever runs the server says.",
    );
    Ok(())
}

/// Hands what each certificate of a chain says of itself to `tell`, and gives the pin of the first, if it can be read.
pub fn tell_chain(chain: &[CertificateDer<'_>], tell: &mut impl FnMut(&str)) -> Option<Pin> {
    let mut own = None;
    for (number, certificate) in chain.iter().enumerate() {
        match Presented::read(certificate) {
            Ok(one) => {
                let pin = Pin::of(&one.public_key_info);
                tell(&format!("  {number}: {}", one.subject));
                tell(&format!("     issued by {}", one.issuer));
                tell(&format!("     valid from {} to {}", date(one.not_before), date(one.not_after)));
                if number == 0 {
                    tell(&format!("     for {}", one.names_in_words()));
                    own = Some(pin);
                }
                tell(&format!("     pin {pin}"));
            }
            Err(why) => tell(&format!("  {number}: {why}")),
        }
    }
    own
}

/// The server as the configuration has it, with a certificate that is looked at and decides nothing.
fn read(server: &str, ca_file: Option<PathBuf>) -> Result<Server, String> {
    let kind: &Kind = &SERVERS.kind;
    let wrong = |why: String| format!("{why}; give address[:port][#name]");
    let roots = ca_file.map_or(Roots::System, Roots::File);
    let (profile, bootstrap) = (Profile::Opportunistic, Vec::new());
    let terms = GroupTerms { roots, post_quantum: true, client: None, profile, bootstrap };
    let Value::Servers(entries) = read_words(kind, &[server.to_owned()]).map_err(wrong)? else {
        return Err(wrong(format!("{server:?} is no server")));
    };
    let mut members = entries.iter().flat_map(|entry| entry.members(&terms));
    match (members.next(), members.next()) {
        (Some(Member::Server(server)), None) => Ok(server),
        (Some(Member::Source(_)), None) => Err(wrong(format!("{server:?} would have to be looked up first"))),
        _ => Err(wrong(format!("{server:?} is more than one server"))),
    }
}

/// Whether anybody vouches for the server.
fn verdict(settings: &Server, upstream: &UpstreamServer) -> String {
    let Some(terms) = settings.tls() else { return String::new() };
    let whom = match &terms.authentication {
        Authentication::Name(name) | Authentication::NameAndPins(name, _) | Authentication::Designated(name, _) => {
            format!("the name {name}")
        }
        Authentication::Address | Authentication::Pins(_) => format!("the address {}", settings.address.ip()),
    };
    match upstream.authenticity().and_then(|one| one.outcome()) {
        Some(Ok(())) => format!("{} vouches for {whom}", terms.roots),
        Some(Err(refusal)) => {
            format!("{} does not vouch for {whom}: {refusal}\n  {}", terms.roots, refusal.check.advice())
        }
        None => format!("whether {} vouches for {whom} is not known", terms.roots),
    }
}

/// The keys of its table but for the pins.
fn keys(settings: &Server) -> String {
    let address = format!("address = \"{}\"", settings.address);
    match settings.tls().map(|terms| &terms.authentication) {
        Some(Authentication::Name(name) | Authentication::NameAndPins(name, _)) => {
            format!("{address}, name = \"{name}\"")
        }
        _ => address,
    }
}
