//! What of the kernel's messages about links, addresses and routes means that connections to resolvers had better begin
//! anew, when to tell of it, and whether the machine has slept (pure).
//!
//! Most of what the kernel tells means nothing here: lifetimes that are prolonged, statistics, neighbours, links of
//! containers, routes to elsewhere. So what is there already is remembered, and only a difference counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_MULTIPART, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType, RouteVia,
};

/// Quiet after which a change is told: an address and its routes come within milliseconds of each other.
const QUIET: Duration = Duration::from_millis(200);
/// How long a change is kept back at most, however many follow it.
const LONGEST: Duration = Duration::from_secs(1);
/// Changes that are named; of more only the number is told.
const NAMED: usize = 3;
/// The table of routes that a route without another one goes to, beside the main one.
const TABLE_DEFAULT: u32 = 253;
/// What the clocks may drift apart by other reasons than suspend.
const SUSPENDED: Duration = Duration::from_secs(1);

/// What the kernel tells of a link, as far as it matters.
#[derive(Clone, Debug)]
pub struct LinkNotice {
    /// What is told of every link.
    pub header: LinkHeader,
    /// Its name.
    pub name: Option<String>,
}

/// What the kernel tells of the network. Of all that it can tell no more is read than this, which is little of the crate.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A link is new, or another one than it was.
    NewLink(LinkNotice),
    /// A link is gone.
    DelLink(LinkNotice),
    /// An address is new.
    NewAddress(AddressMessage),
    /// An address is gone.
    DelAddress(AddressMessage),
    /// A route is new.
    NewRoute(RouteMessage),
    /// A route is gone.
    DelRoute(RouteMessage),
}

/// A link, as far as it matters.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Link {
    name: String,
    works: bool,
}

/// A way of the kernel to some resolver: gateways and numbers of links.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Route {
    to: IpNet,
    priority: u32,
    by: Vec<(Option<IpAddr>, u32)>,
}

/// What is known of the machine's network.
#[derive(Debug, Default)]
pub struct Network {
    resolvers: Vec<IpAddr>,
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpNet)>,
    routes: BTreeSet<Route>,
}

impl Network {
    /// Nothing is known yet. Of routes only those to these resolvers will matter.
    pub fn new(resolvers: Vec<IpAddr>) -> Network {
        Network { resolvers, ..Network::default() }
    }

    /// Other resolvers from now on.
    pub fn lead_to(&mut self, resolvers: Vec<IpAddr>) {
        self.resolvers = resolvers;
    }

    /// Messages were lost: what was known may no longer be so.
    pub fn forget(&mut self) {
        *self = Network::new(std::mem::take(&mut self.resolvers));
    }

    /// Takes a message with the flags of its header; says in a few words what has changed, if it matters. Answers to a
    /// request for what there is change nothing.
    pub fn take(&mut self, flags: u16, message: &Notice) -> Option<String> {
        let change = match message {
            Notice::NewLink(link) => self.link(link),
            Notice::DelLink(link) => self.link_gone(link),
            Notice::NewAddress(address) => self.address(address),
            Notice::DelAddress(address) => self.address_gone(address),
            Notice::NewRoute(route) => self.route(route, flags & NLM_F_REPLACE != 0),
            Notice::DelRoute(route) => self.route_gone(route),
        };
        change.filter(|_| flags & NLM_F_MULTIPART == 0)
    }

    fn link(&mut self, message: &LinkNotice) -> Option<String> {
        let (index, name) = named(message)?;
        // up for the administrator, and with a carrier
        let works = message.header.flags.contains(LinkFlags::Up | LinkFlags::Running);
        let before = self.links.insert(index, Link { name, works });
        if before?.works == works {
            return None;
        }
        let used = self.is_used(index);
        if !works {
            self.forget_routes(index);
        }
        used.then(|| format!("link {} {}", self.name(index), if works { "up" } else { "down" }))
    }

    fn link_gone(&mut self, message: &LinkNotice) -> Option<String> {
        let (index, name) = named(message)?;
        let used = self.is_used(index);
        self.links.remove(&index);
        self.addresses.retain(|(link, _)| *link != index);
        self.forget_routes(index);
        used.then(|| format!("link {name} gone"))
    }

    fn address(&mut self, message: &AddressMessage) -> Option<String> {
        let (index, address) = routed(message)?;
        let flags = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(*flags),
            _ => None,
        });
        let flags = flags.unwrap_or(AddressFlags::from_bits_retain(message.header.flags.bits().into()));
        // not yet, or never, the source of a connection
        let unproven = flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
        if unproven || flags.contains(AddressFlags::Dadfailed) {
            return None;
        }
        self.addresses.insert((index, address)).then(|| format!("address {address} new"))
    }

    fn address_gone(&mut self, message: &AddressMessage) -> Option<String> {
        let (index, address) = routed(message)?;
        let known = self.addresses.remove(&(index, address));
        if known {
            self.forget_routes(index);
        }
        known.then(|| format!("address {address} gone"))
    }

    fn route(&mut self, message: &RouteMessage, replaces: bool) -> Option<String> {
        let route = self.leading(message)?;
        if replaces {
            self.routes.retain(|other| *other == route || (&other.to, other.priority) != (&route.to, route.priority));
        }
        let said = format!("{} new", self.described(&route));
        self.routes.insert(route).then_some(said)
    }

    fn route_gone(&mut self, message: &RouteMessage) -> Option<String> {
        let route = self.leading(message)?;
        self.routes.remove(&route);
        Some(format!("{} gone", self.described(&route)))
    }

    /// The route of a message, if it leads to a resolver.
    fn leading(&self, message: &RouteMessage) -> Option<Route> {
        let header = &message.header;
        let default: IpAddr = match header.address_family {
            AddressFamily::Inet => IpAddr::from([0; 4]),
            AddressFamily::Inet6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        let (mut to, mut table, mut priority) = (default, u32::from(header.table), 0);
        let (mut gateway, mut link, mut by) = (None, 0, Vec::new());
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => to = ip(address)?,
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Priority(number) => priority = *number,
                RouteAttribute::Oif(index) => link = *index,
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::Via(via) => gateway = via_ip(via),
                RouteAttribute::MultiPath(hops) => by.extend(hops.iter().map(|hop| {
                    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(address) => ip(address),
                        RouteAttribute::Via(via) => via_ip(via),
                        _ => None,
                    });
                    (gateway, hop.interface_index)
                })),
                _ => {}
            }
        }
        if by.is_empty() {
            by.push((gateway, link));
        }
        let to = IpNet::new(to, header.destination_prefix_length).ok()?;
        let counts = header.kind == RouteType::Unicast
            && !header.flags.contains(RouteFlags::Cloned)
            && [RouteHeader::RT_TABLE_MAIN.into(), TABLE_DEFAULT].contains(&table)
            && self.resolvers.iter().any(|resolver| to.contains(resolver));
        counts.then_some(Route { to, priority, by })
    }

    fn described(&self, route: &Route) -> String {
        let what = match route.to.prefix_len() {
            0 => "default route".to_owned(),
            _ => format!("route to {}", route.to),
        };
        let links: BTreeSet<&str> = route.by.iter().map(|(_, link)| self.name(*link)).collect();
        format!("{what} by {}", Vec::from_iter(links).join(" and "))
    }

    fn name(&self, index: u32) -> &str {
        self.links.get(&index).map_or("an unknown link", |link| &link.name)
    }

    /// Whether a connection to a resolver may go by this link.
    fn is_used(&self, index: u32) -> bool {
        self.addresses.iter().any(|(link, _)| *link == index)
            || self.routes.iter().any(|route| route.by.iter().any(|(_, link)| *link == index))
    }

    /// Of routes that fall with a link or with its address the kernel tells nothing: those that come back are new.
    fn forget_routes(&mut self, index: u32) {
        self.routes.retain(|route| route.by.iter().all(|(_, link)| *link != index));
    }
}

/// Number and name of a link, unless the message is about its place in a bridge.
fn named(LinkNotice { header, name }: &LinkNotice) -> Option<(u32, String)> {
    let index = header.index;
    (header.interface_family == AddressFamily::Unspec)
        .then(|| (index, name.clone().unwrap_or_else(|| format!("number {index}"))))
}

/// Link and address, if it is one that resolvers elsewhere can be reached from.
fn routed(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            // the other end, where there is one
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    let header = &message.header;
    matches!(header.scope, AddressScope::Universe | AddressScope::Site)
        .then(|| IpNet::new(local.or(address)?, header.prefix_len).ok())
        .flatten()
        .map(|address| (header.index, address))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(address) => Some(IpAddr::V4(*address)),
        RouteVia::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// Changes that come together and are told as one.
#[derive(Debug, Default)]
pub struct Burst {
    said: Vec<String>,
    more: usize,
    /// When the first and the last of them came.
    times: Option<(Instant, Instant)>,
}

impl Burst {
    /// Adds a change.
    pub fn add(&mut self, change: String, now: Instant) {
        if self.said.len() < NAMED {
            self.said.push(change);
        } else {
            self.more += 1;
        }
        self.times = Some((self.times.map_or(now, |(first, _)| first), now));
    }

    /// When what there is will be told; `None` if there is nothing.
    pub fn due(&self) -> Option<Instant> {
        self.times.map(|(first, last)| (last + QUIET).min(first + LONGEST))
    }

    /// All of it in one line, for people; another burst begins.
    pub fn tell(&mut self) -> String {
        let Burst { said, more, .. } = std::mem::take(self);
        let rest = if more == 0 { String::new() } else { format!(", and {more} more") };
        said.join(", ") + &rest
    }
}

/// Sees that the machine was suspended: one clock counts that time, the other does not.
#[derive(Debug, Default)]
pub struct Suspension {
    slept: Option<Duration>,
}

impl Suspension {
    /// How long the machine has slept since this was last asked, if it has. The two times are those since the machine
    /// started, with and without suspend.
    pub fn seen(&mut self, since_boot: Duration, awake: Duration) -> Option<Duration> {
        let slept = since_boot.saturating_sub(awake);
        let before = self.slept.replace(self.slept.unwrap_or_default().max(slept))?;
        slept.checked_sub(before).filter(|&more| more > SUSPENDED)
    }
}

#[cfg(test)]
#[path = "network_changes_tests.rs"]
mod tests;
