//! Names that a forwarder answers itself: `home.arpa` (RFC 8375 §4), `resolver.arpa` (RFC 9462 §6.4) and, where it keeps
//! answers, `onion` (RFC 7686 §2.4).

use super::edit::reply;
use super::message::{CLASS_IN, HEADER, Message, Question, rcode, rtype};
use super::name;
use crate::config::settings::{LocalOrForward, SpecialNames};

const HOME_ARPA: &[u8] = b"\x04home\x04arpa\0";
const RESOLVER_ARPA: &[u8] = b"\x08resolver\x04arpa\0";
const ONION: &[u8] = b"\x05onion\0";

/// Time to live of a negative answer of ours, in seconds (RFC 6303 §3 gives three hours to all its zones).
const NEGATIVE_TTL: u32 = 10_800;

/// A zone that is kept home.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Zone {
    /// Names of a home network.
    HomeArpa,
    /// Names by which a client finds out what else its resolver speaks. The resolver behind us would name itself, and
    /// take the client past this proxy.
    ResolverArpa,
    /// Names of hidden services, which the DNS does not know and should not hear of.
    Onion,
}

impl Zone {
    fn name(self) -> &'static [u8] {
        match self {
            Zone::HomeArpa => HOME_ARPA,
            Zone::ResolverArpa => RESOLVER_ARPA,
            Zone::Onion => ONION,
        }
    }

    /// Whether the zone, or a name below it, is this one.
    pub fn holds(self, name: &[u8]) -> bool {
        name::is_within(name, self.name())
    }
}

/// The zone that a name lies in, if it is one of ours.
pub fn zone_of(qname: &[u8]) -> Option<Zone> {
    [Zone::HomeArpa, Zone::ResolverArpa, Zone::Onion].into_iter().find(|zone| zone.holds(qname))
}

/// Whether a validator asks for the proof that `home.arpa` is not signed, which only the real zone above it has
/// (RFC 8375 §4).
pub fn is_delegation_proof(question: &Question<'_>) -> bool {
    question.qtype() == rtype::DS && name::same(question.name(), HOME_ARPA)
}

/// The zone of ours that answers a question here, as it is configured: none if it is forwarded, if the domain of the
/// `route` that the name leads to says where within the zone it belongs, or if a validator wants a proof.
pub fn kept(names: SpecialNames, question: &Question<'_>, dnssec_ok: bool, route: Option<&[u8]>) -> Option<Zone> {
    let zone = zone_of(question.name()).filter(|_| question.qclass() == CLASS_IN)?;
    if route.is_some_and(|domain| zone.holds(domain)) {
        return None;
    }
    let (forward, dnssec_ok) = match zone {
        Zone::HomeArpa => (names.home_arpa, dnssec_ok),
        Zone::ResolverArpa => (names.resolver_arpa, false),
        Zone::Onion => (names.onion, false),
    };
    let is_forwarded = forward == LocalOrForward::Forward || dnssec_ok && is_delegation_proof(question);
    (!is_forwarded).then_some(zone)
}

/// The answer: nothing there, with the SOA that says for how long (RFC 2308 §3). Below `home.arpa` and in `onion` no name
/// exists; the other zones themselves, and what a client may look for in `resolver.arpa`, exist without data.
pub fn answer(query: &Message<'_>, question: &Question<'_>, zone: Zone) -> Vec<u8> {
    let apex = question.name().len() - zone.name().len();
    let code = match zone {
        Zone::HomeArpa if apex > 0 => rcode::NXDOMAIN,
        Zone::HomeArpa | Zone::ResolverArpa => rcode::NOERROR,
        Zone::Onion => rcode::NXDOMAIN,
    };
    reply(query, code, Some(&soa(HEADER + apex)), None)
}

/// An SOA record owned by the name that stands at `owner` in the message.
fn soa(owner: usize) -> Vec<u8> {
    let [high, low] = u16::try_from(owner).unwrap_or(0).to_be_bytes();
    let pointer = [high | 0xc0, low];
    let mut rdata = pointer.to_vec();
    rdata.extend(b"\x06nobody\x07invalid\0");
    for number in [1, 3600, 1200, 604_800, NEGATIVE_TTL] {
        rdata.extend(number.to_be_bytes());
    }
    let mut record = pointer.to_vec();
    record.extend(rtype::SOA.to_be_bytes());
    record.extend(1_u16.to_be_bytes());
    record.extend(NEGATIVE_TTL.to_be_bytes());
    record.extend(u16::try_from(rdata.len()).unwrap_or(0).to_be_bytes());
    record.extend(rdata);
    record
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Zone, answer, is_delegation_proof, zone_of};
    use crate::dns::message::Message;
    use domain::base::{Message as Judge, Rtype};
    use domain::rdata::Soa;

    #[test]
    fn zones_are_matched_by_whole_labels() {
        assert_eq!(zone_of(b"\x04HoMe\x04aRpA\0"), Some(Zone::HomeArpa));
        assert_eq!(zone_of(b"\x04_dns\x08resolver\x04arpa\0"), Some(Zone::ResolverArpa));
        assert_eq!(zone_of(b"\x06myhome\x04arpa\0"), None);
        assert_eq!(zone_of(b"\x04home\x04arpa\x07example\0"), None);
        assert_eq!(zone_of(b"\0"), None);
        assert_eq!(zone_of(b"\x03abc\x05OniON\0"), Some(Zone::Onion));
    }

    #[test]
    fn a_negative_answer_has_an_soa_that_another_implementation_reads() {
        let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01x\x04HOME\x04arpa\0\0\x01\0\x01";
        let view = Message::parse(query).unwrap();
        let bytes = answer(&view, &view.question().unwrap(), Zone::HomeArpa);
        let judge = Judge::from_octets(&bytes).unwrap();
        assert_eq!(bytes[3] & 15, 3);
        let record = judge.authority().unwrap().limit_to::<Soa<_>>().next().unwrap().unwrap();
        assert_eq!(record.owner().to_string(), "HOME.arpa");
        assert_eq!(record.data().minimum().as_secs(), 10_800);
        assert_eq!(record.rtype(), Rtype::SOA);
    }

    #[test]
    fn only_ds_at_the_apex_proves_the_delegation() {
        let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x04home\x04arpa\0\0\x2b\0\x01";
        assert!(is_delegation_proof(&Message::parse(query).unwrap().question().unwrap()));
        let below = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01x\x04home\x04arpa\0\0\x2b\0\x01";
        assert!(!is_delegation_proof(&Message::parse(below).unwrap().question().unwrap()));
    }
}
