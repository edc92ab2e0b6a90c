//! Messages to the service manager (sd_notify(3)): ready, status, stopping, alive. Without a service manager all of
//! them do nothing.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// The service serves.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// How the service fares, in one line.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The service reads its configuration again; [`ready`] says that it is done, whatever came of it. Both words of this
/// message must come in one datagram (systemd.service(5), `Type=notify-reload`).
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("reading the configuration")]),
        Err(error) => log::warn!("the service manager cannot be told of the reload: {error}"),
    }
}

/// The service takes no more queries.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("answering what is in flight")]);
}

/// The service is alive: every worker has shown so.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be told at the least, if the service manager watches this process.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn tell(states: &[NotifyState<'_>]) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    // the crate does not know sockets of the abstract namespace, which containers use
    let told = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => tell_abstract(name, states),
        None => sd_notify::notify(states),
    };
    if let Err(error) = told {
        log::warn!("the service manager cannot be told: {error}");
    }
}

fn tell_abstract(name: &[u8], states: &[NotifyState<'_>]) -> io::Result<()> {
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    let socket = UnixDatagram::unbound()?;
    socket.send_to_addr(text.as_bytes(), &SocketAddr::from_abstract_name(name)?).map(drop)
}
