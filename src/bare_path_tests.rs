//! The path of a query without any server, for tests of what is answered here.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::answers::Usage;
use crate::config::settings::{LocalOrForward, Policy, SpecialNames};
use crate::dns::crossing::Switches;
use crate::dns::reuse::Lifetimes;
use crate::dns::suffix::Suffixes;
use crate::memory::{Memory, Shared};
use crate::query::Path;
use crate::rules::{Groups, Rules};
use crate::upstream::group::{Conduct, Group};
use crate::upstream::outcome;

/// A path for clients on this machine, with a memory of so many octets.
pub(crate) fn bare_path(memory: usize) -> Rc<Path> {
    let second = Duration::from_secs(1);
    let limits =
        outcome::Limits { connect: second, idle: second, deadline: second, in_flight: 1, queue: 1, connections: 1 };
    let conduct =
        Conduct { policy: Policy::InOrder, second_try_after: second, hedge_percent: 0, second_opinion: true, limits };
    let none = || Group::new(Vec::new(), conduct, Arc::default());
    let lifetimes = Lifetimes { min: 0, max: 3600, max_negative: 3600, failure: 0 };
    let usage = Usage { lifetimes, stale: 0, prefetch: false };
    let rules = Rules {
        memory: Rc::new(Memory::new(Arc::new(Shared::new(memory)), usage, Switches::default())),
        groups: Groups { all: none(), upstream: Rc::new(none()), routes: Suffixes::default() },
        allow: vec![IpAddr::from([127, 0, 0, 1]).into()],
        switches: Switches::default(),
        special_names: SpecialNames {
            home_arpa: LocalOrForward::Local,
            resolver_arpa: LocalOrForward::Local,
            onion: LocalOrForward::Local,
        },
        deadline: second,
        udp_payload_limit: 1232,
    };
    Rc::new(Path::new(rules, Arc::default()))
}
