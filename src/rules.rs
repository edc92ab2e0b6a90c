//! What a configuration says of the path of a query: who is served, who is asked, and what is answered here.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::settings::SpecialNames;
use crate::dns::crossing::{Link, Switches};
use crate::dns::edit::{ExtendedError, reply};
use crate::dns::message::{Message, opcode, rcode, rtype};
use crate::dns::special;
use crate::dns::suffix::Suffixes;
use crate::memory::Memory;
use crate::upstream::group::Group;

/// Who is asked.
pub struct Groups {
    /// All servers, each once. The groups have their connections from here, so that a server of two groups has one.
    pub all: Group,
    /// The servers of all queries that no route takes.
    pub upstream: Rc<Group>,
    /// The servers of each domain that has a route.
    pub routes: Suffixes<Rc<Group>>,
}

impl Groups {
    /// The network is another one: connections begin anew, and so does what is known of outages.
    pub fn start_afresh(&self) {
        self.all.start_afresh();
        std::iter::once(&self.upstream).chain(self.routes.values()).for_each(|group| group.end_outage());
    }

    /// The group for a query, with the domain of the route that leads there, in wire form, if one does.
    pub fn group_for(&self, query: &Message<'_>) -> (&Rc<Group>, Option<&[u8]>) {
        match query.question().and_then(|question| self.routes.longest(question.name())) {
            Some((domain, group)) => (group, Some(domain)),
            None => (&self.upstream, None),
        }
    }
}

/// What a configuration says of the path, and a reload changes.
pub struct Rules {
    /// Who is asked.
    pub groups: Groups,
    /// What was answered before.
    pub memory: Rc<Memory>,
    /// Networks whose clients are served.
    pub allow: Vec<IpNet>,
    /// What is changed on the way to the resolver.
    pub switches: Switches,
    /// Names answered here.
    pub special_names: SpecialNames,
    /// The time that one query may take in all.
    pub deadline: Duration,
    /// The largest answer over UDP, in octets.
    pub udp_payload_limit: u16,
}

impl Rules {
    /// Whether this client is served.
    pub fn allows(&self, client: IpAddr) -> bool {
        // a dual-stack socket shows IPv4 clients as mapped addresses
        let client = client.to_canonical();
        self.allow.iter().any(|network| network.contains(&client))
    }

    /// Queries that are answered here: operations that cannot be relayed, and names that must not leave, unless the
    /// domain of a `route` says where within their zone they belong.
    pub fn own_answer(&self, query: &Message<'_>, link: Link, route: Option<&[u8]>) -> Option<Vec<u8>> {
        if query.opcode() == opcode::DSO {
            // on a shared connection the resolver would enter a stateful session for everybody (RFC 8490 §5.1)
            let bare = [&query.bytes()[..4], &[0; 8]].concat();
            return Message::parse_questions(&bare).ok().map(|bare| reply(&bare, rcode::NOTIMP, None, None));
        }
        let question = query.question().filter(|_| query.opcode() == opcode::QUERY)?;
        if question.qtype() == rtype::AXFR && matches!(link, Link::Datagram { .. }) {
            let error = ExtendedError::new(ExtendedError::NOT_SUPPORTED, "zone transfers are relayed over TCP only");
            return Some(reply(query, rcode::REFUSED, None, Some(&error)));
        }
        let dnssec_ok = query.opt().is_some_and(|opt| opt.flags() & 0x8000 != 0);
        let zone = special::kept(self.special_names, &question, dnssec_ok, route)?;
        Some(special::answer(query, &question, zone))
    }

    /// As many queries at a time as the connections and their queues take.
    pub fn most_active(&self) -> usize {
        let limits = self.groups.all.limits();
        // where no server is known yet, as many may wait for the first
        self.groups.all.servers().len().max(1) * (limits.in_flight + limits.queue)
    }
}
