//! Hears from the kernel when the machine's network changes: a netlink socket around [`Network`] and [`Burst`].

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ALIGNTO, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator, Parseable, parse_string,
};
use netlink_packet_route::address::{AddressHeader, AddressMessage};
use netlink_packet_route::link::LinkHeader;
use netlink_packet_route::route::{RouteHeader, RouteMessage};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use nix::time::{ClockId, clock_gettime};
use tokio::net::UnixDatagram;

use crate::network_changes::{Burst, LinkNotice, Network, Notice, Suspension};

/// What is told without being asked: links, and the addresses and routes of both families.
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE;
/// The kernel sends no more at once.
const BUFFER: usize = 32 * 1024;

/// The machine's network, watched.
pub struct NetworkWatch {
    /// A netlink socket, and no Unix one: of that type only what all sockets of datagrams can is used.
    socket: UnixDatagram,
    buffer: Vec<u8>,
    /// What there is already is asked for, one thing after the other.
    to_ask: VecDeque<Question>,
    asked: bool,
    network: Network,
    burst: Burst,
}

impl NetworkWatch {
    /// Begins to listen; needs a runtime. Of routes only those to these resolvers count.
    ///
    /// # Errors
    /// If the kernel, or whoever confines the process, allows no such socket.
    pub fn open(resolvers: Vec<IpAddr>) -> io::Result<NetworkWatch> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let opened = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(std::os::fd::AsRawFd::as_raw_fd(&opened), &NetlinkAddr::new(0, GROUPS.unsigned_abs()))?;
        Ok(NetworkWatch {
            socket: UnixDatagram::from_std(StdDatagram::from(opened))?,
            buffer: vec![0; BUFFER],
            to_ask: everything(),
            asked: false,
            network: Network::new(resolvers),
            burst: Burst::default(),
        })
    }

    /// Other resolvers from now on.
    pub fn lead_to(&mut self, resolvers: Vec<IpAddr>) {
        self.network.lead_to(resolvers);
    }

    /// Waits for a change, and for what comes with it; says what it is in a few words. Nothing is lost if the wait is
    /// given up.
    ///
    /// # Errors
    /// If nothing more can be heard.
    pub async fn changed(&mut self) -> io::Result<String> {
        loop {
            if !self.asked
                && let Some(&question) = self.to_ask.front()
            {
                self.socket.send(&question.request()).await?;
                self.to_ask.pop_front();
                self.asked = true;
            }
            let due = self.burst.due();
            let received = tokio::select! {
                // changes that never end are told in time as well
                biased;
                () = until(due) => return Ok(self.burst.tell()),
                received = self.socket.recv(&mut self.buffer) => received,
            };
            match received {
                Ok(length) => self.read(length),
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    // more than the socket could hold: what was lost is unknown
                    self.network.forget();
                    (self.to_ask, self.asked) = (everything(), false);
                    self.burst.add("much at once".to_owned(), Instant::now());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the messages of one datagram.
    fn read(&mut self, length: usize) {
        let mut rest = &self.buffer[..length];
        while let Ok(buffer) = NetlinkBuffer::new_checked(&rest) {
            let length = buffer.length() as usize;
            match NetlinkMessage::<Notice>::deserialize(rest) {
                Ok(NetlinkMessage { header, payload: NetlinkPayload::InnerMessage(message), .. }) => {
                    if let Some(change) = self.network.take(header.flags, &message) {
                        log::debug!("network: {change}");
                        self.burst.add(change, Instant::now());
                    }
                }
                // all of what was asked for has come, or nothing of it will
                Ok(NetlinkMessage { payload: NetlinkPayload::Done(_) | NetlinkPayload::Error(_), .. }) => {
                    self.asked = false;
                }
                Ok(_) => {}
                Err(error) => log::debug!("network: a message of the kernel cannot be read: {error}"),
            }
            let next = length.next_multiple_of(NLMSG_ALIGNTO.into());
            rest = rest.get(next..).unwrap_or_default();
        }
    }
}

/// What can be asked of the kernel, after `rtnetlink(7)`: the type of the message, and how long its fixed part is.
#[derive(Clone, Copy)]
struct Question(u16, usize);

impl Question {
    /// The request for all there is of it, of whatever address family.
    fn request(self) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        let mut octets = vec![0; header.buffer_len() + self.1];
        header.length = u32::try_from(octets.len()).unwrap_or_default();
        (header.message_type, header.flags) = (self.0, NLM_F_REQUEST | NLM_F_DUMP);
        header.emit(&mut octets);
        octets
    }
}

/// Requests for what there is: links first, since their names are told with the rest.
fn everything() -> VecDeque<Question> {
    let question = |kind, fixed: &dyn Emitable| Question(kind, fixed.buffer_len());
    VecDeque::from([
        question(libc::RTM_GETLINK, &LinkHeader::default()),
        question(libc::RTM_GETADDR, &AddressHeader::default()),
        question(libc::RTM_GETROUTE, &RouteHeader::default()),
    ])
}

impl NetlinkDeserializable for Notice {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Notice, DecodeError> {
        Ok(match header.message_type {
            libc::RTM_NEWLINK => Notice::NewLink(link(payload)?),
            libc::RTM_DELLINK => Notice::DelLink(link(payload)?),
            libc::RTM_NEWADDR => Notice::NewAddress(AddressMessage::parse(payload)?),
            libc::RTM_DELADDR => Notice::DelAddress(AddressMessage::parse(payload)?),
            libc::RTM_NEWROUTE => Notice::NewRoute(RouteMessage::parse(payload)?),
            libc::RTM_DELROUTE => Notice::DelRoute(RouteMessage::parse(payload)?),
            other => return Err(DecodeError::from(format!("type {other} was not asked for"))),
        })
    }
}

/// A link. What drivers tell of themselves is not read, and so need not be known.
fn link(payload: &[u8]) -> Result<LinkNotice, DecodeError> {
    let header = LinkHeader::parse(payload)?;
    let attributes = payload.get(header.buffer_len()..).unwrap_or_default();
    let name = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == libc::IFLA_IFNAME);
    Ok(LinkNotice { header, name: name.and_then(|name| parse_string(name.value()).ok()) })
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => pending().await,
    }
}

/// Whether the machine has just come out of suspend, and how long it slept.
pub fn resumed(suspension: &mut Suspension) -> Option<Duration> {
    let time = |clock| clock_gettime(clock).ok().map(Duration::from);
    // in this order a pause between the two looks like less sleep, never like more
    let since_boot = time(ClockId::CLOCK_BOOTTIME)?;
    suspension.seen(since_boot, time(ClockId::CLOCK_MONOTONIC)?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail loudly")]

    use super::everything;
    use crate::network_changes::Notice;
    use netlink_packet_core::{NetlinkBuffer, NetlinkDeserializable, NetlinkHeader};
    use netlink_packet_route::link::LinkFlags;

    fn told(message_type: u16, payload: &[u8]) -> Option<Notice> {
        let mut header = NetlinkHeader::default();
        header.message_type = message_type;
        Notice::deserialize(&header, payload).ok()
    }

    /// A link that is up and has a carrier.
    fn fixed() -> Vec<u8> {
        [&[0, 0][..], &1_u16.to_ne_bytes(), &7_u32.to_ne_bytes(), &0x41_u32.to_ne_bytes(), &[0; 4]].concat()
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut octets =
            [&u16::try_from(4 + value.len()).unwrap().to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    #[test]
    fn a_link_is_known_by_its_name_whatever_else_its_driver_says() {
        // what it says of address families makes no sense
        let payload =
            [fixed(), attribute(libc::IFLA_AF_SPEC, &[9; 3]), attribute(libc::IFLA_IFNAME, b"eth7\0")].concat();
        for kind in [libc::RTM_NEWLINK, libc::RTM_DELLINK] {
            let link = match (kind, told(kind, &payload)) {
                (libc::RTM_NEWLINK, Some(Notice::NewLink(link))) | (libc::RTM_DELLINK, Some(Notice::DelLink(link))) => {
                    link
                }
                _ => panic!("it was not read as it was told"),
            };
            assert_eq!((link.header.index, link.name.as_deref()), (7, Some("eth7")));
            assert!(link.header.flags.contains(LinkFlags::Up | LinkFlags::Running));
        }
        assert!(matches!(told(libc::RTM_NEWLINK, &fixed()), Some(Notice::NewLink(link)) if link.name.is_none()));
    }

    #[test]
    fn what_is_too_short_or_was_not_asked_for_is_not_read() {
        assert!(told(libc::RTM_NEWLINK, &fixed()[..15]).is_none());
        assert!(told(libc::RTM_NEWADDR, &[2, 24]).is_none());
        assert!(told(libc::RTM_NEWNEIGH, &[0; 64]).is_none());
    }

    #[test]
    fn what_there_is_is_asked_for_by_whole_messages() {
        let kinds = everything().into_iter().map(|question| {
            let request = question.request();
            let buffer = NetlinkBuffer::new_checked(&request).unwrap();
            assert_eq!(buffer.length() as usize, request.len());
            (buffer.message_type(), buffer.payload().len())
        });
        // their fixed parts, as rtnetlink(7) has them
        let expected = [(libc::RTM_GETLINK, 16), (libc::RTM_GETADDR, 8), (libc::RTM_GETROUTE, 12)];
        assert_eq!(kinds.collect::<Vec<_>>(), expected);
    }
}
