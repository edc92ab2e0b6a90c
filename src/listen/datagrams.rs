//! Datagrams in batches: `recvmmsg` and `sendmmsg`, with the address that each datagram was sent to.
//!
//! One system call moves up to [`BATCH`] datagrams. The arrays that the kernel reads and writes are made once, and only
//! the parts that were used are reset, since touching all of them costs what batching saves.
#![expect(
    unsafe_code,
    reason = "the system calls for batches take raw pointers, and no crate offers both with PKTINFO"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes of structures and constants of the kernel, all of them small"
)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use libc::{c_int, c_uint, iovec, mmsghdr, sockaddr_in, sockaddr_in6, socklen_t};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// Datagrams moved by one system call at the most.
pub const BATCH: usize = 64;
/// Room for one datagram: the largest there is, and some octets more so that the slots do not all fall on the same
/// lines of the processor's cache. Pages that no datagram ever touches are never resident.
const SLOT: usize = 65_536 + 192;
/// Room for one control message of either family, in eight-octet words so that it is aligned as the kernel's is.
const CONTROL_WORDS: usize = 8;

/// The address of ours that a datagram was sent to, from which its answer must leave (RFC 2181 §4).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LocalAddress {
    ip: IpAddr,
    /// The interface, which a link-local address needs; 0 otherwise.
    interface: u32,
}

/// A datagram as received.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Its content.
    pub bytes: &'a [u8],
    /// Who sent it.
    pub peer: SocketAddr,
    /// Where it was sent, on sockets that serve more than one address.
    pub local: Option<LocalAddress>,
}

/// A datagram to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its content.
    pub bytes: Vec<u8>,
    /// To whom.
    pub peer: SocketAddr,
    /// From which address, if the socket serves more than one.
    pub local: Option<LocalAddress>,
}

/// A socket that says when datagrams come, and nothing else: the kernel would tell of room for more with every datagram
/// that leaves, and wake the worker for nothing each time.
pub struct Arrivals {
    socket: Arc<UdpSocket>,
    /// While it is watched.
    watched: Option<AsyncFd<Arc<UdpSocket>>>,
}

impl Arrivals {
    /// A socket that does not block, and is not watched yet.
    pub fn new(socket: UdpSocket) -> Arrivals {
        Arrivals { socket: Arc::new(socket), watched: None }
    }

    /// Watches the socket from now on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch(&mut self) -> io::Result<()> {
        if self.watched.is_none() {
            // SAFETY: what watches the socket shares in owning it, so that it stays open; it cannot be reached mutably, and
            // always gives the descriptor that it was made with
            let watched = unsafe { AsyncFd::register_with_interest(self.socket.clone(), Interest::READABLE) };
            self.watched = Some(watched?);
        }
        Ok(())
    }

    /// Watches it no more.
    pub fn look_away(&mut self) {
        self.watched = None;
    }

    /// Ready while datagrams may wait, until the guard is told that none does; never while the socket is not watched.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<AsyncFdReadyGuard<'_, Arc<UdpSocket>>>> {
        self.watched.as_ref().map_or(Poll::Pending, |watched| watched.poll_read_ready(context))
    }

    /// The socket once more, to wait until it takes more datagrams: rare, and worth watching only then.
    ///
    /// # Errors
    /// If there is no descriptor left, or what the kernel says.
    pub fn departures(&self) -> io::Result<tokio::net::UdpSocket> {
        tokio::net::UdpSocket::from_std(self.socket.try_clone()?)
    }
}

impl AsFd for Arrivals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket address of either family, as the kernel writes it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    family: libc::sa_family_t,
    v4: sockaddr_in,
    v6: sockaddr_in6,
}

const NAME_LENGTH: socklen_t = size_of::<Name>() as socklen_t;

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u64; CONTROL_WORDS]);

/// The arrays of one direction. The pointers in `headers` and `vectors` point into the other fields' heap memory, which
/// never moves, since none of them is ever resized.
struct Arrays {
    names: Box<[Name]>,
    controls: Box<[Control]>,
    vectors: Box<[iovec]>,
    headers: Box<[mmsghdr]>,
}

impl Arrays {
    fn new() -> Arrays {
        // SAFETY: all of these are plain C structures for which all zeros is a valid value
        let (name, vector, header) = unsafe { (zeroed::<Name>(), zeroed::<iovec>(), zeroed::<mmsghdr>()) };
        let mut arrays = Arrays {
            names: vec![name; BATCH].into(),
            controls: vec![Control([0; CONTROL_WORDS]); BATCH].into(),
            vectors: vec![vector; BATCH].into(),
            headers: vec![header; BATCH].into(),
        };
        for index in 0..BATCH {
            let header = &mut arrays.headers[index].msg_hdr;
            header.msg_name = (&raw mut arrays.names[index]).cast();
            header.msg_namelen = NAME_LENGTH;
            header.msg_iov = &raw mut arrays.vectors[index];
            header.msg_iovlen = 1;
        }
        arrays
    }
}

/// Receives datagrams.
pub struct Inbox {
    payload: Box<[u8]>,
    arrays: Arrays,
    with_local: bool,
    used: usize,
}

impl Inbox {
    /// An inbox; `with_local` for sockets that have been told to report the local address.
    pub fn new(with_local: bool) -> Inbox {
        let mut payload = vec![0; BATCH * SLOT].into_boxed_slice();
        let mut arrays = Arrays::new();
        for (vector, slot) in arrays.vectors.iter_mut().zip(payload.chunks_mut(SLOT)) {
            *vector = iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
        }
        Inbox { payload, arrays, with_local, used: BATCH }
    }

    /// Receives what waits, without waiting, up to `most` datagrams and a batch: the number of them, at least one.
    ///
    /// # Errors
    /// `WouldBlock` if nothing waits, or what the kernel says.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        for index in 0..self.used {
            let header = &mut self.arrays.headers[index].msg_hdr;
            header.msg_namelen = NAME_LENGTH;
            if self.with_local {
                header.msg_control = (&raw mut self.arrays.controls[index]).cast();
                header.msg_controllen = size_of::<Control>();
            }
        }
        self.used = 0;
        // SAFETY: the headers point to live memory of the lengths that they give, as `new` and the loop above set them
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.arrays.headers.as_mut_ptr(),
                most.min(BATCH) as c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        self.used = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.used)
    }

    /// The datagrams of the last call, without those of no address of ours or theirs.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        (0..self.used).filter_map(|index| {
            let header = &self.arrays.headers[index];
            let length = usize::try_from(header.msg_len).ok()?.min(SLOT);
            let start = index * SLOT;
            Some(Datagram {
                bytes: &self.payload[start..start + length],
                peer: address_of(&self.arrays.names[index], header.msg_hdr.msg_namelen)?,
                local: if self.with_local { local_of(&header.msg_hdr) } else { None },
            })
        })
    }
}

fn address_of(name: &Name, length: socklen_t) -> Option<SocketAddr> {
    if (length as usize) < size_of::<sockaddr_in>() {
        return None;
    }
    // SAFETY: the kernel filled in at least a whole sockaddr_in, whose first member tells which form it has; the
    // memory of the longer form belongs to the union and was initialised in any case
    unsafe {
        match c_int::from(name.family) {
            libc::AF_INET => {
                let ip = Ipv4Addr::from(name.v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(name.v4.sin_port))))
            }
            libc::AF_INET6 => {
                let v6 = name.v6;
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddr::V6(SocketAddrV6::new(
                    ip,
                    u16::from_be(v6.sin6_port),
                    v6.sin6_flowinfo,
                    v6.sin6_scope_id,
                )))
            }
            _ => None,
        }
    }
}

/// The local address out of the control messages of a received datagram.
fn local_of(header: &libc::msghdr) -> Option<LocalAddress> {
    // SAFETY: the header describes the control buffer that the kernel has just filled, and the macros stay inside it;
    // the data of each message is read unaligned
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    let ip = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                    return Some(LocalAddress { ip: ip.into(), interface: 0 });
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    let interface = if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
                    return Some(LocalAddress { ip: ip.into(), interface });
                }
                _ => message = libc::CMSG_NXTHDR(header, message),
            }
        }
        None
    }
}

/// Sends datagrams.
pub struct Outbox {
    arrays: Arrays,
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox { arrays: Arrays::new() }
    }
}

impl Outbox {
    /// Sends the first of these datagrams, without waiting: how many were taken, at least one.
    ///
    /// # Errors
    /// What the kernel says of the first one; nothing was sent then.
    pub fn send(&mut self, socket: BorrowedFd<'_>, datagrams: &[Outgoing]) -> io::Result<usize> {
        let count = datagrams.len().min(BATCH);
        for (index, datagram) in datagrams[..count].iter().enumerate() {
            let length = write_name(&mut self.arrays.names[index], datagram.peer);
            // the kernel only reads what is sent
            let base = datagram.bytes.as_ptr().cast_mut().cast();
            self.arrays.vectors[index] = iovec { iov_base: base, iov_len: datagram.bytes.len() };
            let control = &raw mut self.arrays.controls[index];
            let header = &mut self.arrays.headers[index].msg_hdr;
            header.msg_namelen = length;
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
            if let Some(local) = datagram.local {
                header.msg_control = control.cast();
                write_local(header, local);
            }
        }
        // SAFETY: the first `count` headers point to names, vectors and control messages of their stated lengths, and
        // the vectors to the datagrams, which are borrowed for the call
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), self.arrays.headers.as_mut_ptr(), count as c_uint, libc::MSG_DONTWAIT)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

fn write_name(name: &mut Name, address: SocketAddr) -> socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            name.v4 = sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            size_of::<sockaddr_in>() as socklen_t
        }
        SocketAddr::V6(v6) => {
            name.v6 = sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            size_of::<sockaddr_in6>() as socklen_t
        }
    }
}

/// Puts the one control message that names the source address into the header's control buffer.
fn write_local(header: &mut libc::msghdr, local: LocalAddress) {
    header.msg_controllen = size_of::<Control>();
    // SAFETY: the control buffer is aligned and large enough for one message of either form, and only its header and
    // data are written
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header);
        match local.ip {
            IpAddr::V4(ip) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let length = size_of::<libc::in_pktinfo>() as c_uint;
                (*message).cmsg_level = libc::IPPROTO_IP;
                (*message).cmsg_type = libc::IP_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(length) as usize;
                libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().write_unaligned(info);
                header.msg_controllen = libc::CMSG_SPACE(length) as usize;
            }
            IpAddr::V6(ip) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                    ipi6_ifindex: local.interface,
                };
                let length = size_of::<libc::in6_pktinfo>() as c_uint;
                (*message).cmsg_level = libc::IPPROTO_IPV6;
                (*message).cmsg_type = libc::IPV6_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(length) as usize;
                libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().write_unaligned(info);
                header.msg_controllen = libc::CMSG_SPACE(length) as usize;
            }
        }
    }
}

/// Tells the kernel never to cut an answer into fragments: one too long for its path is refused with EMSGSIZE, and can
/// go out as a short one with TC set (RFC 9715 R1 to R4). A forged path MTU then costs no more than a retry over TCP.
///
/// # Errors
/// What the kernel says.
pub fn forbid_fragments(socket: BorrowedFd<'_>, ipv4: bool) -> io::Result<()> {
    let four = set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
    if ipv4 {
        return four;
    }
    // a socket for both families has both options; one for IPv6 alone does without the other
    drop(four);
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
}

fn set_option(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the option takes an int, and gets the address and the size of one that lives for the call
    let result = unsafe {
        let size = size_of::<c_int>() as socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::{Arrivals, BATCH, Inbox, Outbox, Outgoing};
    use nix::sys::socket::{setsockopt, sockopt};
    use std::future::poll_fn;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn client() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    #[test]
    fn a_batch_comes_and_goes_in_order_and_whole() {
        let (server, client) = (UdpSocket::bind("127.0.0.1:0").unwrap(), client());
        let to = server.local_addr().unwrap();
        for size in 0..100_u16 {
            client.send_to(&vec![7; usize::from(size) * 10], to).unwrap();
        }
        let (mut inbox, mut outbox, mut seen) = (Inbox::new(false), Outbox::default(), Vec::new());
        while let Ok(count) = inbox.receive(server.as_fd(), BATCH) {
            assert!(count <= BATCH);
            seen.extend(inbox.datagrams().map(|one| Outgoing {
                bytes: one.bytes.to_vec(),
                peer: one.peer,
                local: one.local,
            }));
        }
        assert_eq!(seen.len(), 100);
        let mut rest = &seen[..];
        while !rest.is_empty() {
            let sent = outbox.send(server.as_fd(), rest).unwrap();
            rest = &rest[sent..];
        }
        let mut buffer = vec![0; 65_536];
        for size in 0..100 {
            assert_eq!(client.recv(&mut buffer).unwrap(), size * 10);
        }
    }

    #[test]
    fn what_is_not_wanted_yet_waits_for_whoever_comes_next() {
        let (server, client) = (UdpSocket::bind("127.0.0.1:0").unwrap(), client());
        for _ in 0..30 {
            client.send_to(b"?", server.local_addr().unwrap()).unwrap();
        }
        let (mut one, mut other) = (Inbox::new(false), Inbox::new(false));
        assert_eq!(one.receive(server.as_fd(), 8).unwrap(), 8);
        assert_eq!(other.receive(server.as_fd(), usize::MAX).unwrap(), 22);
        assert_eq!((one.datagrams().count(), other.datagrams().count()), (8, 22));
    }

    #[test]
    fn the_answer_leaves_from_the_address_that_was_asked() {
        let server = UdpSocket::bind("0.0.0.0:0").unwrap();
        setsockopt(&server, sockopt::Ipv4PacketInfo, &true).unwrap();
        let port = server.local_addr().unwrap().port();
        for address in ["127.0.0.1", "127.0.0.2", "127.8.9.10"] {
            let client = client();
            client.connect((address, port)).unwrap();
            client.send(b"?").unwrap();
            let mut inbox = Inbox::new(true);
            while inbox.receive(server.as_fd(), BATCH).is_err() {}
            let one = inbox.datagrams().next().unwrap();
            let answer = Outgoing { bytes: b"!".to_vec(), peer: one.peer, local: one.local };
            Outbox::default().send(server.as_fd(), &[answer]).unwrap();
            assert_eq!(client.recv(&mut [0; 9]).unwrap(), 1, "{address}");
        }
    }

    #[test]
    fn a_dual_stack_socket_answers_both_families_from_the_right_address() {
        let server = UdpSocket::bind("[::]:0").unwrap();
        setsockopt(&server, sockopt::Ipv6RecvPacketInfo, &true).unwrap();
        let port = server.local_addr().unwrap().port();
        for (from, address) in [("[::1]:0", "::1"), ("127.0.0.1:0", "127.0.0.3")] {
            let client = UdpSocket::bind(from).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.connect((address, port)).unwrap();
            client.send(b"?").unwrap();
            let mut inbox = Inbox::new(true);
            while inbox.receive(server.as_fd(), BATCH).is_err() {}
            let one = inbox.datagrams().next().unwrap();
            let answer = Outgoing { bytes: b"!".to_vec(), peer: one.peer, local: one.local };
            Outbox::default().send(server.as_fd(), &[answer]).unwrap();
            assert_eq!(client.recv(&mut [0; 9]).unwrap(), 1, "{address}");
        }
    }

    #[test]
    fn queries_wake_the_worker_and_answers_that_leave_do_not() {
        const ROUNDS: usize = 40;
        let (server, client) = (UdpSocket::bind("127.0.0.1:0").unwrap(), client());
        server.set_nonblocking(true).unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        let asking = std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                client.send(b"?").unwrap();
                client.recv(&mut [0; 9]).unwrap();
                // whatever the answer brings about has been noticed when the next query comes
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let woken: Arc<AtomicUsize> = Arc::default();
        let count = woken.clone();
        let counts = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().on_thread_unpark(counts).build().unwrap().block_on(async {
            let (mut socket, mut inbox, mut outbox) = (Arrivals::new(server), Inbox::new(false), Outbox::default());
            socket.watch().unwrap();
            // whoever asks for room is told at once, as there is some
            socket.departures().unwrap().writable().await.unwrap();
            for _ in 0..ROUNDS {
                let mut ready = poll_fn(|context| socket.poll(context)).await.unwrap();
                assert_eq!(inbox.receive(socket.as_fd(), BATCH).unwrap(), 1);
                ready.clear_ready();
                let peer = inbox.datagrams().next().unwrap().peer;
                outbox.send(socket.as_fd(), &[Outgoing { bytes: b"!".to_vec(), peer, local: None }]).unwrap();
            }
        });
        asking.join().unwrap();
        assert!(woken.load(Ordering::Relaxed) < ROUNDS + ROUNDS / 2, "{woken:?} times for {ROUNDS} queries");
    }
}
