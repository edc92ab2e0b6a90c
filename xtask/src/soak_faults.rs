//! Everything that goes wrong in the long test, one after the other. Each leaves the servers as it found them.

use std::time::Duration;

use testkit::{How, Stage};

use crate::soak_load::Load;
use crate::soak_stand::{ANSWER_AFTER, Stand, pause};

/// Something that goes wrong for some seconds.
pub struct Fault {
    /// What happens.
    pub text: &'static str,
    /// Has it happen, and returns when it is over.
    pub happen: fn(&Stand, &Load),
}

/// All of them.
pub const FAULTS: &[Fault] = &[
    Fault { text: "resets", happen: |stand, _| closes(stand, How::Rst) },
    Fault { text: "FINs without notice", happen: |stand, _| closes(stand, How::Fin) },
    Fault { text: "orderly ends", happen: |stand, _| closes(stand, How::CloseNotify) },
    Fault { text: "silence on all open connections", happen: silence },
    Fault { text: "a black hole for one server", happen: hole },
    Fault {
        text: "failing handshakes at one server",
        happen: |stand, _| unusable(stand, Stage::CloseAfterClientHello),
    },
    Fault {
        text: "an alert in one server's handshake",
        happen: |stand, _| unusable(stand, Stage::ProtocolVersionAlert),
    },
    Fault {
        text: "silence in one server's handshake",
        happen: |stand, _| unusable(stand, Stage::SilenceAfterServerHello),
    },
    Fault { text: "one server out of reach", happen: |stand, _| unusable(stand, Stage::BlackHoleSyn) },
    Fault { text: "one server refusing", happen: |stand, _| unusable(stand, Stage::RefuseConnections) },
    Fault { text: "a restart of both servers", happen: restart },
    Fault { text: "slow answers", happen: slow },
];

fn closes(stand: &Stand, how: How) {
    for _ in 0..5 {
        pause(Duration::from_secs(1));
        for server in &stand.servers {
            server.server().close_all(how);
        }
    }
}

fn silence(stand: &Stand, _: &Load) {
    for server in &stand.servers {
        server.server().freeze_existing();
    }
    pause(Duration::from_secs(5));
}

fn hole(stand: &Stand, _: &Load) {
    stand.servers[0].black_hole(Duration::from_secs(5));
    pause(Duration::from_secs(7));
}

/// The first server lets nobody in, and those who are in must leave.
fn unusable(stand: &Stand, stage: Stage) {
    let server = &stand.servers[0];
    server.server().set_stage(stage);
    server.server().close_all(How::Rst);
    pause(Duration::from_secs(5));
    server.recover();
}

fn restart(stand: &Stand, load: &Load) {
    // what is on its way when the servers go is lost with them
    load.excuse(true);
    pause(ANSWER_AFTER * 5);
    for server in &stand.servers {
        server.go_down();
    }
    pause(Duration::from_secs(2));
    for server in &stand.servers {
        server.server().restart();
    }
    load.excuse(false);
    pause(Duration::from_secs(3));
}

/// Later than the second try, sooner than the deadline.
fn slow(stand: &Stand, _: &Load) {
    for time in [Duration::from_millis(800), Duration::from_millis(2500), ANSWER_AFTER] {
        for server in &stand.servers {
            server.answer_after(time);
        }
        pause(Duration::from_secs(4));
    }
}
