//! Looks up where servers are, by asking plain resolvers that the configuration names for this alone.
//!
//! What they say is not trusted: whoever is found must prove who it is before it gets a query. Only names of resolvers
//! are asked for, never what a client asks.

use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::task::JoinSet;

use super::inflight::Asked;
use super::plain::ask;
use crate::config::settings::{Endpoint, Search, Wanted};
use crate::dns::finding::{self, DESIGNATION, Host, MOST, Said, Useless, addresses, designated, hosts, rtype};
use crate::dns::message::Message;
use crate::dns::name::is_within;

/// How long one resolver may take for one answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often each resolver is asked: a datagram may get lost.
const ROUNDS: usize = 2;
/// The port of a designated resolver on TLS that names none (RFC 9461 §4.2, RFC 7858 §3.1).
const DOT_PORT: u16 = 853;

/// What a look-up has found.
#[derive(Debug)]
pub struct Found {
    /// Where servers are, in the order of the answer, at least one.
    pub endpoints: Vec<Endpoint>,
    /// For how many seconds this holds.
    pub ttl: u32,
    /// Why not all could be looked up, if so.
    pub missing: Option<String>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

/// What hosts of equal priority are drawn with, once for the process: an order that changed with every look-up would move
/// all queries each time.
static DRAW: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Looks up.
///
/// # Errors
/// Why nothing was found.
pub async fn look_up(search: Search) -> Result<Found, String> {
    let Search { wanted, resolvers } = search;
    let found = match wanted {
        Wanted::Host { name, port } => all_addresses(&resolvers, name.wire()).await.map(|(said, missing)| {
            let endpoint = |ip| Endpoint { address: SocketAddr::new(ip, port), host: None };
            let endpoints = said.what.into_iter().map(endpoint).collect();
            Found { endpoints, ttl: said.ttl, missing, left_out: Vec::new() }
        }),
        Wanted::Service { name, within } => {
            let read = |answer: &[u8]| hosts(answer, &*DRAW);
            match query(&resolvers, name.wire(), rtype::SRV, read).await {
                Ok(said) => places(resolvers, said, within.map(|domain| domain.wire().to_vec())).await,
                Err(why) => Err(why),
            }
        }
        Wanted::Designation => {
            let read = |answer: &[u8]| designated(answer, DOT_PORT);
            match query(&resolvers, DESIGNATION, rtype::SVCB, read).await {
                Ok(said) => places(resolvers, said, None).await,
                Err(why) => Err(why),
            }
        }
    };
    found.map_err(|useless| match useless {
        Useless::Failed(why) => why,
        Useless::Nothing(why) => why.to_owned(),
    })
}

/// The places of these hosts, each by the addresses that came along, or else by a look-up of its name.
async fn places(resolvers: Vec<SocketAddr>, said: Said<Host>, within: Option<Vec<u8>>) -> Result<Found, Useless> {
    let mut found = Found { endpoints: Vec::new(), ttl: said.ttl, missing: None, left_out: Vec::new() };
    let mut asking = JoinSet::new();
    let mut by_host: Vec<(String, u16, Vec<IpAddr>)> = Vec::new();
    for host in said.what {
        let text = finding::host_text(&host.name).filter(|text| ServerName::try_from(text.as_str()).is_ok());
        let Some(text) = text else {
            found.left_out.push("a host whose name no certificate could carry".to_owned());
            continue;
        };
        if within.as_ref().is_some_and(|domain| !is_within(&host.name, domain)) {
            found.left_out.push(format!(
                "{text}, which is not within the domain of the service: anybody on the way could have named it; write the \
                 name to be verified behind the service, such as #{text}"
            ));
            continue;
        }
        if host.addresses.is_empty() {
            let (index, resolvers) = (by_host.len(), resolvers.clone());
            asking.spawn_local(async move { (index, all_addresses(&resolvers, &host.name).await) });
        }
        by_host.push((text, host.port, host.addresses));
    }
    let mut nothing = None;
    while let Some(done) = asking.join_next().await {
        let Ok((index, result)) = done else { continue };
        match result {
            Ok((said, missing)) => {
                found.ttl = found.ttl.min(said.ttl);
                found.missing = found.missing.or(missing);
                by_host[index].2 = said.what;
            }
            Err(Useless::Failed(why)) => found.missing = Some(format!("{}: {why}", by_host[index].0)),
            Err(Useless::Nothing(why)) => nothing = Some(Useless::Failed(format!("{}: {why}", by_host[index].0))),
        }
    }
    for (host, port, addresses) in by_host {
        let endpoint = |ip| Endpoint { address: SocketAddr::new(ip, port), host: Some(host.clone()) };
        found.endpoints.extend(addresses.into_iter().map(endpoint).take(MOST.saturating_sub(found.endpoints.len())));
    }
    if !found.endpoints.is_empty() {
        return Ok(found);
    }
    let left_out = found.left_out.pop().map(|left_out| Useless::Failed(format!("left out: {left_out}")));
    Err(found
        .missing
        .map(Useless::Failed)
        .or(nothing)
        .or(left_out)
        .unwrap_or(Useless::Nothing("no host has an address")))
}

/// All addresses of a name, in an order that stays, and why one of the two kinds could not be had, if so.
async fn all_addresses(resolvers: &[SocketAddr], name: &[u8]) -> Result<(Said<IpAddr>, Option<String>), Useless> {
    let of = |qtype: u16| query(resolvers, name, qtype, move |answer: &[u8]| addresses(answer, qtype));
    let (v4, v6) = tokio::join!(of(rtype::A), of(rtype::AAAA));
    let (mut all, mut missing, mut nothing) = (Said { what: Vec::new(), ttl: u32::MAX }, None, None);
    for result in [v4, v6] {
        match result {
            Ok(said) => {
                all.what.extend(said.what);
                all.ttl = all.ttl.min(said.ttl);
            }
            Err(Useless::Failed(why)) => missing = Some(why),
            Err(why) => nothing = Some(why),
        }
    }
    all.what.sort_unstable();
    all.what.dedup();
    all.what.truncate(MOST);
    match (all.what.is_empty(), missing, nothing) {
        (false, missing, _) => Ok((all, missing)),
        (true, Some(why), _) => Err(Useless::Failed(why)),
        (true, None, Some(Useless::Nothing("there is no such record")) | None) => {
            Err(Useless::Nothing("it has no address"))
        }
        (true, None, Some(why)) => Err(why),
    }
}

/// Asks the resolvers in their order until one gives an answer that says something, be it that there is nothing.
async fn query<T>(
    resolvers: &[SocketAddr],
    name: &[u8],
    qtype: u16,
    read: impl Fn(&[u8]) -> Result<T, Useless>,
) -> Result<T, Useless> {
    let bytes = finding::question(name, qtype);
    let garbled = |_| Useless::Failed("the question cannot be read".to_owned());
    let asked = Rc::new(Asked::new(&Message::parse(&bytes).map_err(garbled)?, &bytes));
    let mut last = Useless::Failed("there is no resolver to ask".to_owned());
    for resolver in resolvers.iter().cycle().take(ROUNDS * resolvers.len()) {
        let why = match tokio::time::timeout(PATIENCE, ask(*resolver, &asked)).await {
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(answer)) => match read(&answer) {
                Err(Useless::Failed(why)) => why,
                result => return result,
            },
        };
        last = Useless::Failed(format!("{resolver}: {why}"));
    }
    Err(last)
}
