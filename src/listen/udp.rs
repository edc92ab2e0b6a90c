//! A UDP socket at work: queries in by the batch, answers out by the batch.

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use super::crowd::Crowd;
use super::datagrams::{Arrivals, BATCH, Datagram, Inbox, LocalAddress, Outbox, Outgoing};
use super::shift::Duty;
use crate::dns::crossing::Link;
use crate::dns::edit::truncate;
use crate::dns::message::{self, HEADER, Message};
use crate::hashed::BuildAsGiven;
use crate::moment;
use crate::pace;
use crate::pending::Pending;
use crate::query::{Path, Verdict};
use crate::relay::Relay;
use crate::sockets::UdpListener;
use crate::spares;

/// Answers that wait for the socket. One turn of a busy resolver's connection may bring thousands; what is more than
/// this is given up.
const BACKLOG: usize = 128 * BATCH;

/// Datagrams that are looked at before the first of them is judged: long enough for what the memory has of them to come,
/// and few enough for all that has been found out to stay near.
const AT_ONCE: usize = 8;

/// Batches received when the service is told to stop: more than a socket's buffer usually holds.
const LAST_BATCHES: usize = 32;
/// Places for queries under way that stay when there is none.
const PLACES: usize = 256;

/// Where an answer goes.
#[derive(Clone, Copy)]
struct Origin {
    peer: SocketAddr,
    local: Option<LocalAddress>,
    identity: u64,
}

/// Serves one socket until the other end of `stop` is gone; what has been received by then is still answered.
pub async fn serve(listener: UdpListener, path: Rc<Path>, mut stop: oneshot::Receiver<Infallible>) {
    let mut service = Service {
        socket: listener.socket,
        duty: listener.duty,
        room: None,
        inbox: Inbox::new(listener.many_addresses),
        outbox: Outbox::default(),
        desk: Desk { path, outgoing: Vec::new(), pending: HashSet::default(), hashes: RandomState::new() },
        crowd: Crowd::new(PLACES),
        ask: Relay::new,
        stopped: false,
    };
    poll_fn(|context| {
        if !service.stopped && Pin::new(&mut stop).poll(context).is_ready() {
            // what has arrived by now is still answered
            for _ in 0..LAST_BATCHES {
                service.receive(context, BATCH);
            }
            service.stopped = true;
        }
        service.poll(context)
    })
    .await;
}

/// The queries of a socket, and their answers.
struct Desk {
    path: Rc<Path>,
    outgoing: Vec<Outgoing>,
    /// The identities of those under way.
    pending: HashSet<u64, BuildAsGiven>,
    hashes: RandomState,
}

struct Service<A, F: Future> {
    socket: Arrivals,
    /// Whether this worker looks at it.
    duty: Rc<Duty>,
    /// While the socket takes no more answers: where it is heard when it does.
    room: Option<UdpSocket>,
    inbox: Inbox,
    outbox: Outbox,
    desk: Desk,
    /// The queries that are asked.
    crowd: Crowd<F, Origin>,
    ask: A,
    stopped: bool,
}

impl<A: Fn(Rc<Path>, Pending) -> F, F: Future<Output = Vec<u8>>> Service<A, F> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.crowd.listen(context);
        if !self.stopped {
            self.receive(context, self.duty.batch().min(BATCH));
        }
        self.crowd.poll(context, |done| self.desk.answered(done));
        self.send(context);
        // a stopped socket stays for the answers of what it has received
        if self.stopped && self.crowd.is_empty() && self.desk.outgoing.is_empty() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Receives and judges one batch, of `most` datagrams; the worker's other sockets have their turn before the next.
    fn receive(&mut self, context: &mut Context<'_>, most: usize) {
        if !self.duty.poll(context) {
            return self.socket.look_away();
        }
        if let Err(error) = self.socket.watch() {
            // whoever looks at it already goes on
            return log::warn!("watching a udp socket: {error}");
        }
        let Poll::Ready(ready) = self.socket.poll(context) else { return };
        let mut ready = match ready {
            Ok(ready) => ready,
            // the runtime is going down
            Err(error) => return log::debug!("receiving datagrams: {error}"),
        };
        let received = self.inbox.receive(self.socket.as_fd(), most);
        // what was received in one call has come at one moment
        let _held = moment::hold();
        self.duty.looked(moment::instant(), pace::done);
        match received {
            Ok(count) => {
                pace::asked(count);
                if count < most {
                    // there was room for more: nothing waits, and the kernel will say when something does
                    ready.clear_ready();
                }
                self.take_in();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ready.clear_ready();
            }
            // what one client's network did to a datagram says nothing about the socket
            Err(error) => log::debug!("receiving a datagram: {error}"),
        }
        if self.socket.poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
    }

    /// Judges what has just been received.
    fn take_in(&mut self) {
        let (path, rules) = (self.desk.path.clone(), self.desk.path.rules());
        let link = Link::Datagram { limit: usize::from(rules.udp_payload_limit) };
        let (mut datagrams, now) = (self.inbox.datagrams(), moment::instant());
        loop {
            let next = datagrams.by_ref().take(AT_ONCE);
            let mut some: SmallVec<[_; AT_ONCE]> = SmallVec::new();
            for datagram in next {
                some.push((path.look(&rules, datagram.bytes, datagram.peer.ip(), link), datagram));
            }
            if some.is_empty() {
                return;
            }
            for (looked, datagram) in &mut some {
                path.counters().udp_queries.add(1);
                match path.judge(&rules, looked, now) {
                    Verdict::Silence => {}
                    Verdict::Reply(bytes) => {
                        let Datagram { peer, local, .. } = *datagram;
                        self.desk.hand_in(Outgoing { bytes, peer, local });
                    }
                    Verdict::Relay(pending) | Verdict::Transfer(pending) => {
                        let Some(origin) = self.desk.admit(datagram) else { continue };
                        let done = self.crowd.begin(origin, (self.ask)(path.clone(), pending));
                        done.into_iter().for_each(|done| self.desk.answered(done));
                    }
                }
            }
        }
    }

    fn send(&mut self, context: &mut Context<'_>) {
        if let Some(room) = &self.room {
            if room.poll_send_ready(context).is_pending() {
                return;
            }
            self.room = None;
        }
        let Desk { path, outgoing, .. } = &mut self.desk;
        let mut done = 0;
        while done < outgoing.len() {
            let error = match self.outbox.send(self.socket.as_fd(), &outgoing[done..]) {
                Ok(sent) => {
                    done += sent;
                    continue;
                }
                Err(error) => error,
            };
            if error.kind() == ErrorKind::WouldBlock {
                match self.socket.departures() {
                    Ok(room) => {
                        // asked once, so that it tells
                        if room.poll_send_ready(context).is_pending() {
                            self.room = Some(room);
                            break;
                        }
                        continue;
                    }
                    Err(error) => log::debug!("waiting to send answers: {error}"),
                }
            } else if shorten(&mut outgoing[done], &error) {
                continue;
            } else {
                log::debug!("sending an answer: {error}");
            }
            path.counters().unsent_answers.add(1);
            done += 1;
        }
        outgoing.drain(..done).for_each(|answer| spares::give(answer.bytes));
    }
}

impl Desk {
    /// Where the answer to a query goes, unless that to a first copy of it is on its way (RFC 5452 §5).
    fn admit(&mut self, datagram: &Datagram<'_>) -> Option<Origin> {
        let (peer, local, identity) = (datagram.peer, datagram.local, self.identity(datagram));
        if !self.pending.insert(identity) {
            self.path.counters().retransmissions.add(1);
            return None;
        }
        Some(Origin { peer, local, identity })
    }

    /// What a query on its way is known by: a client repeats all of it when it hears nothing. The address that was asked is
    /// part of it, since some clients ask several at once with one ID and take an answer from each. Nobody outside can find
    /// two that are alike, and nobody ever will by chance.
    fn identity(&self, Datagram { bytes, peer, local }: &Datagram<'_>) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        let port_and_id = u32::from(peer.port()) << 16 | u32::from(message::id(bytes));
        match peer {
            SocketAddr::V4(peer) => hasher.write_u64(u64::from(peer.ip().to_bits()) << 32 | u64::from(port_and_id)),
            SocketAddr::V6(peer) => (peer.ip(), peer.scope_id(), port_and_id).hash(&mut hasher),
        }
        if let Some(local) = local {
            local.hash(&mut hasher);
        }
        hasher.write(&bytes[HEADER..]);
        hasher.finish()
    }

    fn answered(&mut self, (Origin { peer, local, identity }, answer): (Origin, Option<Vec<u8>>)) {
        self.pending.remove(&identity);
        if let Some(bytes) = answer {
            self.hand_in(Outgoing { bytes, peer, local });
        }
    }

    fn hand_in(&mut self, answer: Outgoing) {
        if self.outgoing.len() < BACKLOG {
            self.outgoing.push(answer);
        } else {
            self.path.counters().unsent_answers.add(1);
        }
    }
}

/// An answer too long for the path to its client is cut, once (RFC 9715 R4).
fn shorten(answer: &mut Outgoing, error: &io::Error) -> bool {
    if error.raw_os_error() != Some(libc::EMSGSIZE) {
        return false;
    }
    let short = match Message::parse(&answer.bytes) {
        Ok(view) if !view.is_truncated() => truncate(&view, 512),
        _ => return false,
    };
    answer.bytes = short;
    true
}
