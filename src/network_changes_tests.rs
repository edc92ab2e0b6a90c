#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_MULTIPART, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteType,
};

use super::{Burst, LinkNotice, Network, Notice, Suspension};

/// An answer to a request for what there is.
const LEARN: u16 = NLM_F_MULTIPART;

fn link(index: u32, flags: LinkFlags) -> LinkNotice {
    LinkNotice { header: LinkHeader { index, flags, ..LinkHeader::default() }, name: Some(format!("eth{index}")) }
}

fn address(index: u32, ip: &str, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    (message.header.index, message.header.prefix_len) = (index, prefix);
    message.attributes = vec![AddressAttribute::Local(ip.parse().unwrap())];
    message
}

fn tentative(mut message: AddressMessage, flags: AddressFlags) -> Notice {
    message.attributes.push(AddressAttribute::Flags(flags));
    Notice::NewAddress(message)
}

fn route(to: Option<(&str, u8)>, gateway: &str, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    let gateway: IpAddr = gateway.parse().unwrap();
    message.header.address_family = if gateway.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    (message.header.table, message.header.kind) = (RouteHeader::RT_TABLE_MAIN, RouteType::Unicast);
    message.attributes = vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(index)];
    if let Some((to, length)) = to {
        message.header.destination_prefix_length = length;
        message.attributes.push(RouteAttribute::Destination(to.parse::<IpAddr>().unwrap().into()));
    }
    message
}

/// A machine with one link, one address, one default route, and resolvers of both families.
fn machine() -> Network {
    let mut network = Network::new(vec!["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()]);
    for known in [
        Notice::NewLink(link(2, LinkFlags::Up | LinkFlags::Running)),
        Notice::NewAddress(address(2, "198.51.100.7", 24)),
        Notice::NewRoute(route(None, "198.51.100.1", 2)),
    ] {
        assert_eq!(network.take(LEARN, &known), None, "what there is already is no change");
    }
    network
}

fn says(network: &mut Network, message: Notice) -> String {
    network.take(0, &message).unwrap_or_default()
}

#[test]
fn an_address_counts_when_it_comes_and_when_it_goes_and_not_when_its_lifetime_is_prolonged() {
    let mut network = machine();
    let known = || Notice::NewAddress(address(2, "198.51.100.7", 24));
    assert_eq!(says(&mut network, known()), "");
    let other = || address(2, "198.51.100.8", 24);
    assert_eq!(says(&mut network, Notice::NewAddress(other())), "address 198.51.100.8/24 new");
    assert_eq!(says(&mut network, Notice::NewAddress(other())), "");
    assert_eq!(says(&mut network, Notice::DelAddress(other())), "address 198.51.100.8/24 gone");
    assert_eq!(says(&mut network, Notice::DelAddress(other())), "", "it was gone already");
    let shorter = Notice::NewAddress(address(2, "198.51.100.7", 16));
    assert_eq!(says(&mut network, shorter), "address 198.51.100.7/16 new");
}

#[test]
fn an_address_counts_only_once_it_can_be_the_source_of_a_connection() {
    let mut network = machine();
    let new = || address(2, "2001:db8::7", 64);
    assert_eq!(says(&mut network, tentative(new(), AddressFlags::Tentative)), "");
    assert_eq!(says(&mut network, Notice::DelAddress(new())), "", "a duplicate never was one");
    assert_eq!(says(&mut network, tentative(new(), AddressFlags::Permanent)), "address 2001:db8::7/64 new");
    let optimistic = AddressFlags::Tentative | AddressFlags::Optimistic;
    let other = address(2, "2001:db8::8", 64);
    assert_eq!(says(&mut network, tentative(other, optimistic)), "address 2001:db8::8/64 new");
    for scope in [AddressScope::Link, AddressScope::Host] {
        let mut local = address(2, "fe80::7", 64);
        local.header.scope = scope;
        assert_eq!(says(&mut network, Notice::NewAddress(local)), "");
    }
}

#[test]
fn a_link_counts_when_it_fails_or_works_again_if_something_goes_by_it() {
    let mut network = machine();
    let works = LinkFlags::Up | LinkFlags::Running;
    let promiscuous = Notice::NewLink(link(2, works | LinkFlags::Promisc));
    assert_eq!(says(&mut network, promiscuous), "", "statistics and modes are no change");
    let no_carrier = || Notice::NewLink(link(2, LinkFlags::Up));
    assert_eq!(says(&mut network, no_carrier()), "link eth2 down");
    assert_eq!(says(&mut network, Notice::NewLink(link(2, LinkFlags::empty()))), "");
    assert_eq!(says(&mut network, Notice::NewLink(link(2, works))), "link eth2 up");
    // a container's: no address, no route
    for flags in [works, LinkFlags::empty(), works] {
        assert_eq!(says(&mut network, Notice::NewLink(link(9, flags))), "");
    }
    assert_eq!(says(&mut network, Notice::DelLink(link(9, works))), "");
    let mut port = link(2, works);
    port.header.interface_family = AddressFamily::Bridge;
    assert_eq!(says(&mut network, Notice::DelLink(port)), "", "it left a bridge and is still there");
    assert_eq!(says(&mut network, Notice::DelLink(link(2, works))), "link eth2 gone");
}

#[test]
fn a_route_counts_if_it_leads_to_a_resolver() {
    let mut network = machine();
    let new = Notice::NewRoute;
    let mut other = |message| network.take(0, &message).unwrap_or_default();
    assert_eq!(other(new(route(None, "198.51.100.1", 2))), "", "it is there");
    assert_eq!(other(new(route(Some(("10.1.0.0", 16)), "198.51.100.9", 2))), "", "to elsewhere");
    assert_eq!(other(new(route(Some(("192.0.2.0", 24)), "198.51.100.9", 2))), "route to 192.0.2.0/24 by eth2 new");
    assert_eq!(other(new(route(None, "fe80::1", 7))), "default route by an unknown link new");
    let gone = || Notice::DelRoute(route(None, "198.51.100.1", 2));
    assert_eq!(other(gone()), "default route by eth2 gone");
    assert_eq!(other(new(route(None, "198.51.100.1", 2))), "default route by eth2 new");
    for change in [
        |message: &mut RouteMessage| message.header.kind = RouteType::Local,
        |message: &mut RouteMessage| message.header.table = 255,
        |message: &mut RouteMessage| message.attributes.push(RouteAttribute::Table(51820)),
        |message: &mut RouteMessage| message.header.flags = RouteFlags::Cloned,
    ] {
        let mut noise = route(None, "198.51.100.99", 2);
        change(&mut noise);
        assert_eq!(other(new(noise)), "");
    }
}

#[test]
fn a_route_that_takes_the_place_of_another_counts_both_ways() {
    let mut network = machine();
    let replace =
        |network: &mut Network, gateway: &str| network.take(NLM_F_REPLACE, &Notice::NewRoute(route(None, gateway, 2)));
    assert_eq!(replace(&mut network, "198.51.100.1"), None, "a lease that was renewed");
    for gateway in ["198.51.100.2", "198.51.100.1", "198.51.100.2"] {
        assert!(replace(&mut network, gateway).is_some(), "{gateway}");
    }
}

#[test]
fn routes_that_fell_with_link_or_address_are_new_when_they_come_back() {
    let mut network = machine();
    let back = || Notice::NewRoute(route(None, "198.51.100.1", 2));
    says(&mut network, Notice::NewLink(link(2, LinkFlags::empty())));
    assert_eq!(says(&mut network, back()), "default route by eth2 new");
    says(&mut network, Notice::DelAddress(address(2, "198.51.100.7", 24)));
    assert_eq!(says(&mut network, back()), "default route by eth2 new");
    network.forget();
    assert_eq!(says(&mut network, back()), "default route by an unknown link new");
}

#[test]
fn a_route_by_several_links_names_them() {
    let mut network = machine();
    says(&mut network, Notice::NewLink(link(3, LinkFlags::Up | LinkFlags::Running)));
    let mut message = route(None, "198.51.100.1", 0);
    let hop = |index, gateway: &str| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = index;
        hop.attributes = vec![RouteAttribute::Gateway(RouteAddress::from(gateway.parse::<IpAddr>().unwrap()))];
        hop
    };
    message.attributes = vec![RouteAttribute::MultiPath(vec![hop(2, "198.51.100.1"), hop(3, "203.0.113.1")])];
    assert_eq!(says(&mut network, Notice::NewRoute(message)), "default route by eth2 and eth3 new");
    assert_eq!(says(&mut network, Notice::NewLink(link(3, LinkFlags::Up))), "link eth3 down");
}

#[test]
fn other_resolvers_make_other_routes_matter() {
    let mut network = machine();
    let vpn = || Notice::NewRoute(route(Some(("10.0.0.0", 8)), "198.51.100.9", 2));
    assert_eq!(says(&mut network, vpn()), "");
    network.lead_to(vec!["10.0.0.53".parse().unwrap()]);
    assert_eq!(says(&mut network, vpn()), "route to 10.0.0.0/8 by eth2 new");
}

#[test]
fn changes_are_told_after_some_quiet_and_never_later_than_a_second() {
    let (mut burst, start) = (Burst::default(), Instant::now());
    let at = |ms| start + Duration::from_millis(ms);
    assert_eq!(burst.due(), None);
    burst.add("one".to_owned(), at(0));
    assert_eq!(burst.due(), Some(at(200)));
    burst.add("two".to_owned(), at(150));
    assert_eq!(burst.due(), Some(at(350)));
    for ms in [300, 500, 700, 900, 990] {
        burst.add("more".to_owned(), at(ms));
    }
    assert_eq!(burst.due(), Some(at(1000)));
    assert_eq!(burst.tell(), "one, two, more, and 4 more");
    assert_eq!(burst.due(), None);
    burst.add("again".to_owned(), at(5000));
    assert_eq!((burst.due(), burst.tell().as_str()), (Some(at(5200)), "again"));
}

#[test]
fn suspend_is_seen_by_the_clock_that_stood_still_meanwhile() {
    let mut suspension = Suspension::default();
    let secs = Duration::from_secs;
    assert_eq!(suspension.seen(secs(5000), secs(1000)), None, "what it slept before the start is nothing new");
    assert_eq!(suspension.seen(secs(5100), secs(1100)), None);
    assert_eq!(suspension.seen(secs(5102), secs(1101)), None, "a second may be rounding");
    assert_eq!(suspension.seen(secs(16_603), secs(1102)), Some(secs(11_500)));
    assert_eq!(suspension.seen(secs(16_604), secs(1103)), None, "told once");
    // the process was held up between its two looks at the clocks: less sleep, and no more afterwards
    assert_eq!(suspension.seen(secs(16_610), secs(1120)), None);
    assert_eq!(suspension.seen(secs(16_630), secs(1129)), None);
}
