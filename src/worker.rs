//! One worker: a thread with its own runtime, sockets and upstream connections. It shares nothing but the servers'
//! health and session tickets, so that the path of a query takes no lock as long as the first server is well.
//! Between two queries it takes orders: other settings, or a sign of life.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::cache::answers::Usage;
use crate::config::settings::{Cache, Policy, Settings};
use crate::dns::crossing::Switches;
use crate::dns::reuse::Lifetimes;
use crate::dns::suffix::Suffixes;
use crate::listen::datagrams::Arrivals;
use crate::listen::limits::Limits;
use crate::listen::seats::Seats;
use crate::listen::shift::Duty;
use crate::listen::stream::Transport;
use crate::listen::{stream, udp};
use crate::memory::{Memory, Shared};
use crate::metrics::Counters;
use crate::pace;
use crate::query::Path;
use crate::rules::{Groups, Rules};
use crate::sockets::{Share, UdpListener};
use crate::upstream::group::{Conduct, Group};
use crate::upstream::outcome::{self, Vacancy};
use crate::upstream::server::{Servers, UpstreamServer};

/// Tasks polled between two looks at the sockets: fewer than tokio's 61, since each task here is short and fresh
/// datagrams should not wait.
const EVENT_INTERVAL: u32 = 31;
/// How long the goodbyes to resolvers may take at the end.
const GOODBYE: Duration = Duration::from_millis(50);

/// What a reload brings, and a start as well.
pub struct Terms {
    /// The whole configuration.
    pub settings: Settings,
    /// The servers of each group, shared by all workers: those of all queries, then those of the routes in their order.
    pub servers: Servers,
    /// For each group, why it has no server, if it has none.
    pub vacancies: Vec<Option<Vacancy>>,
    /// The memory of the process.
    pub memory: Arc<Shared>,
    /// How clients on TLS are met, the same by all workers.
    pub tls: Option<Arc<ServerConfig>>,
}

/// What the main thread asks of a worker.
pub enum Order {
    /// Work under other terms from now on. Nothing that is under way is disturbed.
    Renew(Arc<Terms>, oneshot::Sender<()>),
    /// The network has changed: begin connections to resolvers anew.
    NetworkChanged(oneshot::Sender<()>),
    /// Show that you take turns.
    Beat(oneshot::Sender<()>),
}

/// What a worker works with.
pub struct Work {
    /// The terms at the start.
    pub terms: Arc<Terms>,
    /// This worker's sockets.
    pub sockets: Vec<Share>,
    /// Whether this worker looks at them.
    pub duty: Duty,
    /// The places of all clients' connections.
    pub seats: Arc<Seats>,
    /// This worker's counters.
    pub counters: Arc<Counters>,
    /// How often to show that this worker is alive.
    pub heartbeat: Duration,
    /// What is asked of this worker while it works.
    pub orders: mpsc::UnboundedReceiver<Order>,
    /// Becomes true when the service stops.
    pub stop: watch::Receiver<bool>,
}

/// Starts a worker on a thread of its own; the thread ends after `stop`, or with an error.
///
/// # Errors
/// If the thread cannot be made.
pub fn start(number: usize, work: Work) -> io::Result<JoinHandle<io::Result<()>>> {
    std::thread::Builder::new().name(format!("worker {number}")).spawn(move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(EVENT_INTERVAL)
            .on_thread_park(pace::before_sleep)
            .on_thread_unpark(pace::after_sleep)
            .build_local(LocalOptions::default())?;
        runtime.block_on(run(number, work))
    })
}

/// How resolvers are asked.
fn conduct(settings: &Settings, policy: Policy) -> Conduct {
    let upstream = &settings.upstream;
    let limits = outcome::Limits {
        connect: upstream.connect_timeout,
        idle: upstream.idle_timeout,
        deadline: upstream.deadline,
        in_flight: upstream.in_flight,
        queue: upstream.queue,
        connections: upstream.connections,
    };
    Conduct {
        policy,
        second_try_after: upstream.second_try_after,
        hedge_percent: upstream.hedge_share,
        second_opinion: upstream.second_opinion,
        limits,
    }
}

/// The limits of each connection of a client.
fn stream_limits(settings: &Settings) -> Limits {
    let listen = &settings.listen;
    Limits {
        idle: listen.tcp_idle_timeout,
        write: listen.tcp_write_timeout,
        in_flight: listen.tcp_in_flight,
        unread: listen.tcp_unread,
    }
}

/// The groups of these terms, with the connections that there were `before` to servers that stay.
fn groups(terms: &Terms, before: &Group) -> Groups {
    let settings = &terms.settings;
    let mut each_once: Vec<Arc<UpstreamServer>> = Vec::new();
    for server in terms.servers.iter().flatten() {
        if !each_once.iter().any(|known| Arc::ptr_eq(known, server)) {
            each_once.push(server.clone());
        }
    }
    let all = before.renewed(each_once, conduct(settings, Policy::InOrder));
    let group = |index: usize, policy: Policy| {
        let servers = terms.servers.get(index).cloned().unwrap_or_default();
        let vacancy = terms.vacancies.get(index).cloned().flatten();
        Rc::new(all.renewed(servers, conduct(settings, policy)).vacant(vacancy))
    };
    let (upstream, mut routes) = (group(0, settings.upstream.group.policy), Suffixes::default());
    for (index, route) in settings.routes.iter().enumerate() {
        let group = group(index + 1, route.group.policy);
        route.domains.iter().for_each(|domain| routes.insert(domain, group.clone()));
    }
    Groups { all, upstream, routes }
}

/// How answers in memory are used.
fn usage(cache: &Cache) -> Usage {
    let lifetimes = Lifetimes::new(cache.min_ttl, cache.max_ttl, cache.max_negative_ttl, cache.failure_ttl);
    Usage { lifetimes, stale: u32::try_from(cache.stale.as_secs()).unwrap_or(u32::MAX), prefetch: cache.prefetch }
}

/// The rules of the path that leads to these groups.
fn rules(terms: &Terms, groups: Groups) -> Rules {
    let settings = &terms.settings;
    let (listen, privacy) = (&settings.listen, settings.privacy);
    let switches = Switches { padding: privacy.padding, remove_client_subnet: privacy.remove_client_subnet };
    let memory = Memory::new(terms.memory.clone(), usage(&settings.cache), switches);
    Rules {
        groups,
        memory: Rc::new(memory),
        allow: listen.allow.clone(),
        switches,
        special_names: settings.special_names,
        deadline: settings.upstream.deadline,
        udp_payload_limit: listen.udp_payload_limit,
    }
}

/// What of a worker lives under terms.
struct Workplace {
    path: Rc<Path>,
    hall: Rc<stream::Hall>,
}

impl Workplace {
    fn new(terms: &Terms, counters: Arc<Counters>, seats: Arc<Seats>, number: usize, duty: Rc<Duty>) -> Workplace {
        let settings = &terms.settings;
        let nobody = Group::new(Vec::new(), conduct(settings, Policy::InOrder), counters.clone());
        let path = Rc::new(Path::new(rules(terms, groups(terms, &nobody)), counters));
        let hall = Rc::new(stream::Hall::new(path.clone(), stream_limits(settings), seats, number, duty));
        hall.meet_with(terms.tls.clone());
        Workplace { path, hall }
    }

    fn renew(&self, terms: &Terms) {
        let settings = &terms.settings;
        let groups = groups(terms, &self.path.rules().groups.all);
        self.path.renew(rules(terms, groups));
        self.hall.renew(stream_limits(settings));
        self.hall.meet_with(terms.tls.clone());
    }

    /// Takes orders until the main thread gives no more.
    async fn take_orders(&self, mut orders: mpsc::UnboundedReceiver<Order>) {
        while let Some(order) = orders.recv().await {
            let done = match order {
                Order::Renew(terms, done) => {
                    self.renew(&terms);
                    done
                }
                Order::NetworkChanged(done) => {
                    self.path.rules().groups.start_afresh();
                    done
                }
                Order::Beat(done) => done,
            };
            // whoever asked may have given up waiting
            let _ = done.send(());
        }
    }
}

async fn run(number: usize, work: Work) -> io::Result<()> {
    let Work { terms, sockets, duty, seats, counters, heartbeat, orders, mut stop } = work;
    let duty = Rc::new(duty);
    let workplace = Rc::new(Workplace::new(&terms, counters, seats, number, duty.clone()));
    drop(terms);
    let Workplace { path, hall } = &*workplace;
    let (mut datagrams, mut accepting, mut serving) = (JoinSet::new(), JoinSet::new(), Vec::new());
    for Share { udp, tcp, tls } in sockets {
        if let Some(socket) = udp {
            let many_addresses = socket.local_addr()?.ip().is_unspecified();
            let mut socket = Arrivals::new(socket);
            if duty.is_first() {
                // if it cannot, nobody would
                socket.watch()?;
            }
            let listener = UdpListener { socket, many_addresses, duty: duty.clone() };
            let (serve, stop) = oneshot::channel();
            serving.push(serve);
            datagrams.spawn_local(udp::serve(listener, path.clone(), stop));
        }
        for (listener, transport) in [(tcp, Transport::Tcp), (tls, Transport::Tls)] {
            let Some(listener) = listener else { continue };
            let accept = stream::accept(listener, hall.clone(), transport);
            accepting.spawn_local(async move { accept.await.map(|never| match never {}) });
        }
    }
    accepting.spawn_local(beat(heartbeat, path.clone()));
    let porter = hall.clone();
    accepting.spawn_local(async move { match porter.make_room().await {} });
    let clerk = workplace.clone();
    let clerk = tokio::task::spawn_local(async move { clerk.take_orders(orders).await });
    tokio::select! {
        // an error means that the main thread is gone, and so is the service
        _ = stop.wait_for(|&stop| stop) => {}
        Some(ended) = accepting.join_next() => {
            return Err(ended.ok().and_then(Result::err).unwrap_or_else(|| io::Error::other("a listener ended by itself")));
        }
        Some(_) = datagrams.join_next() => {
            return Err(io::Error::other("the task of a udp socket ended by itself"));
        }
    }
    drop(serving);
    accepting.shutdown().await;
    hall.stop();
    let last = Instant::now() + path.rules().deadline + Duration::from_millis(500);
    while Instant::now() < last && (path.active() > 0 || !hall.is_empty()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // the sockets stayed open for the answers of what had been received
    drop(
        tokio::time::timeout(Duration::from_millis(100), async { while datagrams.join_next().await.is_some() {} })
            .await,
    );
    clerk.abort();
    path.rules().groups.all.close();
    tokio::time::sleep(GOODBYE).await;
    Ok(())
}

/// Counts for as long as this worker's runtime takes turns: a worker that is stuck does not.
async fn beat(interval: Duration, path: Rc<Path>) -> io::Result<()> {
    loop {
        path.counters().heartbeats.add(1);
        tokio::time::sleep(interval).await;
    }
}
