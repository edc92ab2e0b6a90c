//! One worker: a thread with its own runtime, sockets and upstream connections. It shares nothing but the servers'
//! health and session tickets, so that the path of a query takes no lock as long as the first server is well.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::settings::Settings;
use crate::dns::crossing::Switches;
use crate::listen::limits::Places;
use crate::listen::{stream, udp};
use crate::metrics::Counters;
use crate::query::Path;
use crate::sockets::{Share, UdpListener};
use crate::upstream::connection;
use crate::upstream::group::Group;
use crate::upstream::server::UpstreamServer;

/// Tasks polled between two looks at the sockets: fewer than tokio's 61, since each task here is short and fresh
/// datagrams should not wait.
const EVENT_INTERVAL: u32 = 31;
/// How long the goodbyes to resolvers may take at the end.
const GOODBYE: Duration = Duration::from_millis(50);

/// What a worker works with.
pub struct Work {
    /// The whole configuration.
    pub settings: Arc<Settings>,
    /// The servers, shared by all workers.
    pub servers: Vec<Arc<UpstreamServer>>,
    /// This worker's sockets.
    pub sockets: Vec<Share>,
    /// This worker's counters.
    pub counters: Arc<Counters>,
    /// How often to show that this worker is alive, if anybody watches.
    pub heartbeat: Option<Duration>,
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
            .build_local(LocalOptions::default())?;
        runtime.block_on(run(work))
    })
}

async fn run(work: Work) -> io::Result<()> {
    let Work { settings, servers, sockets, counters, heartbeat, mut stop } = work;
    let (listen, upstream) = (&settings.listen, &settings.upstream);
    let limits = connection::Limits {
        connect: upstream.connect_timeout,
        idle: upstream.idle_timeout,
        deadline: upstream.deadline,
        in_flight: upstream.in_flight,
        queue: upstream.queue,
    };
    let group = Rc::new(Group::new(servers, limits, upstream.second_try_after, counters.clone()));
    let switches =
        Switches { padding: settings.privacy.padding, remove_client_subnet: settings.privacy.remove_client_subnet };
    let path = Rc::new(Path::new(
        group.clone(),
        listen.allow.clone(),
        switches,
        settings.special_names,
        upstream.deadline,
        counters,
    ));
    let places = Places::new(listen.tcp_connections.div_ceil(settings.workers), listen.tcp_connections_per_client);
    let limits = stream::Limits {
        idle: listen.tcp_idle_timeout,
        write: listen.tcp_write_timeout,
        in_flight: listen.tcp_in_flight,
        unread: listen.tcp_unread,
    };
    let hall = Rc::new(stream::Hall::new(path.clone(), limits, places));
    let (mut datagrams, mut accepting) = (JoinSet::new(), JoinSet::new());
    for Share { udp, tcp } in sockets {
        if let Some(socket) = udp {
            let many_addresses = socket.local_addr()?.ip().is_unspecified();
            let listener = UdpListener { socket: UdpSocket::from_std(socket)?, many_addresses };
            let limit = usize::from(listen.udp_payload_limit);
            datagrams.spawn_local(udp::serve(listener, path.clone(), limit, stop.clone()));
        }
        if let Some(listener) = tcp {
            accepting.spawn_local(stream::accept(TcpListener::from_std(listener)?, hall.clone()));
        }
    }
    if let Some(interval) = heartbeat {
        accepting.spawn_local(beat(interval, path.clone()));
    }
    let stopped = stop.clone();
    tokio::select! {
        // an error means that the main thread is gone, and so is the service
        _ = stop.wait_for(|&stop| stop) => {}
        Some(_) = accepting.join_next() => return Err(io::Error::other("a listener ended by itself")),
        // a socket's task also ends by itself when the stop has come
        Some(_) = datagrams.join_next() => {
            if !*stopped.borrow() {
                return Err(io::Error::other("the task of a udp socket ended by itself"));
            }
        }
    }
    accepting.shutdown().await;
    hall.stop();
    let last = Instant::now() + upstream.deadline + Duration::from_millis(500);
    while Instant::now() < last && (path.active() > 0 || !hall.is_empty()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // the sockets stayed open for the answers of what had been received
    drop(
        tokio::time::timeout(Duration::from_millis(100), async { while datagrams.join_next().await.is_some() {} })
            .await,
    );
    group.close();
    tokio::time::sleep(GOODBYE).await;
    Ok(())
}

/// Counts for as long as this worker's runtime takes turns: a worker that is stuck does not.
async fn beat(interval: Duration, path: Rc<Path>) {
    loop {
        path.counters().heartbeats.add(1);
        tokio::time::sleep(interval).await;
    }
}
