//! A UDP socket at work: queries in by the batch, answers out by the batch.

use std::cell::RefCell;
use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::datagrams::{Arrivals, BATCH, Datagram, Inbox, LocalAddress, Outbox, Outgoing};
use crate::bell::Bell;
use crate::dns::crossing::Link;
use crate::dns::edit::truncate;
use crate::dns::message::{self, HEADER, Message};
use crate::pace;
use crate::query::{Path, Verdict};
use crate::sockets::UdpListener;

/// Answers that wait for the socket. One turn of a busy resolver's connection may bring thousands; what is more than
/// this is given up.
const BACKLOG: usize = 128 * BATCH;
/// Batches received in one turn before the worker's other sockets have theirs.
const BATCHES_PER_TURN: usize = 2;

/// Turns of receiving when the service is told to stop: more than a socket's buffer usually holds.
const LAST_TURNS: usize = 16;

/// What a query on its way is known by: a client repeats all of it when it hears nothing. The address that was asked is
/// part of it, since some clients ask several at once with one ID and take an answer from each.
type Identity = (SocketAddr, Option<LocalAddress>, u16, u64);

/// What the socket's task shares with the tasks of its queries.
struct Desk {
    path: Rc<Path>,
    outgoing: RefCell<Vec<Outgoing>>,
    bell: Bell,
    pending: RefCell<HashSet<Identity>>,
    hashes: RandomState,
}

impl Desk {
    fn hand_in(&self, bytes: Vec<u8>, peer: SocketAddr, local: Option<LocalAddress>) {
        let mut outgoing = self.outgoing.borrow_mut();
        if outgoing.len() >= BACKLOG {
            self.path.counters().unsent_answers.add(1);
            return;
        }
        outgoing.push(Outgoing { bytes, peer, local });
        self.bell.ring();
    }
}

/// Serves one socket until `stop` says so; what has been received by then is still answered.
pub async fn serve(listener: UdpListener, path: Rc<Path>, mut stop: watch::Receiver<bool>) {
    let desk = Rc::new(Desk {
        path,
        outgoing: RefCell::default(),
        bell: Bell::default(),
        pending: RefCell::default(),
        hashes: RandomState::new(),
    });
    let mut service = Service {
        socket: listener.socket,
        room: None,
        inbox: Inbox::new(listener.many_addresses),
        outbox: Outbox::default(),
        desk,
        stopped: false,
    };
    // an error means that the main thread is gone, and so is the service
    let mut stop = pin!(stop.wait_for(|&stop| stop));
    poll_fn(|context| {
        if !service.stopped && stop.as_mut().poll(context).is_ready() {
            // what has arrived by now is still answered
            for _ in 0..LAST_TURNS {
                service.receive(context);
            }
            service.stopped = true;
        }
        service.poll(context)
    })
    .await;
}

struct Service {
    socket: Arrivals,
    /// While the socket takes no more answers: where it is heard when it does.
    room: Option<UdpSocket>,
    inbox: Inbox,
    outbox: Outbox,
    desk: Rc<Desk>,
    stopped: bool,
}

impl Service {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.desk.bell.listen(context);
        if !self.stopped {
            self.receive(context);
        }
        self.send(context);
        // a stopped socket stays for the answers of what it has received
        if self.stopped && self.desk.pending.borrow().is_empty() && self.desk.outgoing.borrow().is_empty() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn receive(&mut self, context: &mut Context<'_>) {
        for _ in 0..BATCHES_PER_TURN {
            let Poll::Ready(ready) = self.socket.poll(context) else { return };
            let mut ready = match ready {
                Ok(ready) => ready,
                // the runtime is going down
                Err(error) => return log::debug!("receiving datagrams: {error}"),
            };
            match self.inbox.receive(self.socket.as_fd()) {
                Ok(count) => {
                    pace::brought(count);
                    if count < BATCH {
                        // there was room for more: nothing waits, and the kernel will say when something does
                        ready.clear_ready();
                    }
                    let link = Link::Datagram { limit: usize::from(self.desk.path.rules().udp_payload_limit) };
                    for datagram in self.inbox.datagrams() {
                        handle(&self.desk, &datagram, link);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                // what one client's network did to a datagram says nothing about the socket
                Err(error) => log::debug!("receiving a datagram: {error}"),
            }
        }
        if self.socket.poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
    }

    fn send(&mut self, context: &mut Context<'_>) {
        if let Some(room) = &self.room {
            if room.poll_send_ready(context).is_pending() {
                return;
            }
            self.room = None;
        }
        let mut outgoing = self.desk.outgoing.borrow_mut();
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
            self.desk.path.counters().unsent_answers.add(1);
            done += 1;
        }
        outgoing.drain(..done).for_each(|answer| self.desk.path.take_back(answer.bytes));
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

fn handle(desk: &Rc<Desk>, datagram: &Datagram<'_>, link: Link) {
    let (peer, local) = (datagram.peer, datagram.local);
    desk.path.counters().udp_queries.add(1);
    match desk.path.receive(datagram.bytes, peer.ip(), link) {
        Verdict::Silence => {}
        Verdict::Reply(bytes) => desk.hand_in(bytes, peer, local),
        Verdict::Relay(pending) | Verdict::Transfer(pending) => {
            let question = &datagram.bytes[HEADER..];
            let identity = (peer, local, message::id(datagram.bytes), desk.hashes.hash_one(question));
            if !desk.pending.borrow_mut().insert(identity) {
                // the answer to the first copy is on its way (RFC 5452 §5)
                desk.path.counters().retransmissions.add(1);
                return;
            }
            let desk = desk.clone();
            tokio::task::spawn_local(async move {
                let answer = desk.path.relay(pending).await;
                desk.pending.borrow_mut().remove(&identity);
                desk.hand_in(answer, peer, local);
            });
        }
    }
}
