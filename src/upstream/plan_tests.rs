//! The course of a query, with the clock in the test's hands.

use std::time::{Duration, Instant};

use super::{CONNECT_STAGGER, Plan, Standing, Step};
use crate::upstream::health::Rest;

const SECOND: Duration = Duration::from_millis(1200);
const DEADLINE: Duration = Duration::from_secs(4);

struct Course {
    plan: Plan,
    start: Instant,
    servers: Vec<Standing>,
    patience: Duration,
}

impl Course {
    fn new(servers: &[Standing], repeatable: bool) -> Course {
        let start = Instant::now();
        let plan = Plan::new(start + DEADLINE, SECOND, repeatable);
        Course { plan, start, servers: servers.to_vec(), patience: SECOND }
    }

    /// The step `ms` after the start.
    fn at(&self, ms: u64) -> Step {
        let now = self.start + Duration::from_millis(ms);
        self.plan.next(now, self.servers.len(), |server| self.servers[server], |_, _, _| self.patience)
    }

    fn asked(&mut self, server: usize, connection: u64, ms: u64) {
        self.plan.asked(server, connection, self.start + Duration::from_millis(ms));
    }

    fn wait(&self, ms: u64) -> Step {
        Step::Wait(self.start + Duration::from_millis(ms))
    }

    fn resting(&self, until: u64, probe: u64) -> Standing {
        let at = |ms| self.start + Duration::from_millis(ms);
        Standing::Resting(Rest { until: at(until), probe_at: at(probe) })
    }
}

use Standing::{Connecting, Idle, Open};

#[test]
fn the_first_server_is_asked_and_a_second_only_when_it_is_late() {
    let mut course = Course::new(&[Open(1), Idle], true);
    assert_eq!(course.at(0), Step::Ask(0));
    course.asked(0, 1, 0);
    assert_eq!(course.at(0), course.wait(1200));
    assert_eq!(course.at(1200), Step::Ask(1));
    course.asked(1, 2, 1200);
    course.servers[1] = Open(2);
    assert_eq!(course.at(1201), course.wait(2400));
    // nobody is left who is not being asked: wait for either, and look again
    assert_eq!(course.at(2400), course.wait(3600));
    assert_eq!(course.at(3600), course.wait(4000));
    assert_eq!(course.at(4000), Step::GiveUp);
}

#[test]
fn a_slow_connection_attempt_brings_in_the_next_server_early() {
    let mut course = Course::new(&[Connecting(1), Idle, Idle], true);
    course.asked(0, 1, 0);
    let stagger = u64::try_from(CONNECT_STAGGER.as_millis()).unwrap_or(0);
    assert_eq!(course.at(10), course.wait(stagger));
    assert_eq!(course.at(stagger), Step::Ask(1));
    // once the connection stands, the answer has its own time
    course.servers[0] = Open(1);
    assert_eq!(course.at(stagger), course.wait(1200));
}

#[test]
fn a_lone_server_is_asked_again_only_over_another_connection() {
    let mut course = Course::new(&[Open(1)], true);
    course.asked(0, 1, 0);
    assert_eq!(course.at(1200), course.wait(2400));
    assert_eq!(course.at(1500), course.wait(2700));
    // the silent connection was retired
    course.servers[0] = Idle;
    assert_eq!(course.at(1500), Step::Ask(0));
}

#[test]
fn a_connection_that_merely_ends_is_made_anew_and_one_that_fails_is_not() {
    let mut course = Course::new(&[Idle, Idle], true);
    course.asked(0, 1, 0);
    course.plan.lost(1, true, true);
    assert_eq!(course.at(1), Step::Ask(0));
    course.asked(0, 2, 1);
    course.plan.lost(2, false, false);
    assert_eq!(course.at(2), Step::Ask(1));
}

#[test]
fn a_query_that_was_sent_and_lost_twice_is_suspect_to_that_server() {
    let mut course = Course::new(&[Idle, Idle], true);
    for (connection, sent, suspect) in [(0, false, false), (1, true, false), (2, false, false), (3, true, true)] {
        course.asked(0, connection, connection);
        course.plan.lost(connection, sent, true);
        assert_eq!((course.plan.is_suspect(0), course.plan.is_suspect(1)), (suspect, false), "{connection}");
    }
}

#[test]
fn no_server_gets_more_than_three_copies() {
    let mut course = Course::new(&[Idle], true);
    for connection in 0..3 {
        assert_eq!(course.at(connection), Step::Ask(0));
        course.asked(0, connection, connection);
        course.plan.lost(connection, true, false);
    }
    assert_eq!(course.at(4), Step::GiveUp);
}

#[test]
fn connections_that_merely_end_use_up_no_copies_and_are_no_loop() {
    let mut course = Course::new(&[Idle], true);
    for connection in 0..8 {
        assert_eq!(course.at(connection), Step::Ask(0));
        course.asked(0, connection, connection);
        course.plan.lost(connection, true, true);
    }
    assert_eq!(course.at(9), Step::GiveUp);
}

#[test]
fn copies_that_wait_for_an_answer_count_as_well() {
    let mut course = Course::new(&[Idle], true);
    for (connection, ms) in [(0, 0), (1, 1200), (2, 2400)] {
        assert_eq!(course.at(ms), Step::Ask(0));
        course.asked(0, connection, ms);
    }
    // all three connections fell silent and were retired
    assert_eq!(course.at(3600), course.wait(4000));
}

#[test]
fn a_server_that_has_not_the_query_yet_comes_before_one_that_is_silent() {
    let mut course = Course::new(&[Open(1), Idle], true);
    course.asked(0, 1, 0);
    // the silent connection was retired
    course.servers[0] = Idle;
    assert_eq!(course.at(1200), Step::Ask(1));
    course.asked(1, 2, 1200);
    course.servers[1] = Open(2);
    assert_eq!(course.at(2400), Step::Ask(0));
}

#[test]
fn what_must_not_be_done_twice_is_not_sent_twice() {
    let mut course = Course::new(&[Open(1), Idle], false);
    course.asked(0, 1, 0);
    assert_eq!(course.at(3000), course.wait(4000));
    course.plan.lost(1, false, false);
    assert_eq!(course.at(3000), Step::Ask(1));
    course.asked(1, 2, 3000);
    course.plan.lost(2, true, true);
    assert_eq!(course.at(3001), Step::GiveUp);
}

#[test]
fn resting_servers_are_passed_over_and_probed_when_nobody_else_is_left() {
    let mut course = Course::new(&[Idle, Idle], true);
    course.servers[0] = course.resting(9000, 800);
    assert_eq!(course.at(0), Step::Ask(1));
    course.servers[1] = course.resting(9000, 500);
    assert_eq!(course.at(0), course.wait(500));
    assert_eq!(course.at(500), Step::Ask(1));
    course.servers = vec![course.resting(9000, 5000); 2];
    assert_eq!(course.at(0), Step::GiveUp);
}

#[test]
fn who_has_waited_in_vain_leaves_the_next_attempts_to_others() {
    let mut course = Course::new(&[Idle], true);
    course.asked(0, 1, 0);
    course.plan.lost(1, false, false);
    // an attempt is due every ten milliseconds
    course.servers[0] = course.resting(9000, 10);
    assert_eq!(course.at(5), course.wait(250));
    assert_eq!(Course { plan: Plan::new(course.start + DEADLINE, SECOND, true), ..course }.at(10), Step::Ask(0));
    let mut course = Course::new(&[Idle], true);
    course.asked(0, 1, 0);
    course.plan.lost(1, false, false);
    course.servers[0] = course.resting(9000, 10);
    assert_eq!(course.at(250), Step::Ask(0));
    course.servers[0] = Open(2);
    assert_eq!(course.at(5), Step::Ask(0), "once it answers, everybody asks");
    course.servers[0] = course.resting(9000, 600);
    assert_eq!(course.at(250), course.wait(600));
}

#[test]
fn a_doubtful_server_is_asked_only_when_nobody_else_is_left() {
    let doubtful = Standing::Doubtful { connection: None, connecting: false };
    let mut course = Course::new(&[doubtful, Idle], true);
    assert_eq!(course.at(0), Step::Ask(1));
    course.asked(1, 1, 0);
    course.servers[1] = Open(1);
    assert_eq!(course.at(1200), Step::Ask(0));
    let alone = Course::new(&[doubtful], true);
    assert_eq!(alone.at(0), Step::Ask(0));
    // nothing is known against the first of two doubtful ones that does not hold for the other
    let both = Course::new(&[doubtful, doubtful], true);
    assert_eq!(both.at(0), Step::Ask(0));
}

#[test]
fn a_doubtful_server_that_does_not_connect_brings_in_the_next_early() {
    let doubtful = Standing::Doubtful { connection: Some(1), connecting: true };
    let mut course = Course::new(&[doubtful, Standing::Doubtful { connection: None, connecting: false }], true);
    course.asked(0, 1, 0);
    assert_eq!(course.at(250), Step::Ask(1));
}

#[test]
fn what_stands_in_the_way_of_a_second_try_is_looked_at_again() {
    // a handshake slower than the stagger must not put off the second try for ever
    let mut lone = Course::new(&[Connecting(1)], true);
    lone.asked(0, 1, 0);
    assert_eq!(lone.at(250), lone.wait(1200));
    lone.servers[0] = Idle;
    assert_eq!(lone.at(1200), Step::Ask(0));
    // nor must a rest that is nearly over
    let mut pair = Course::new(&[Open(1), Idle], true);
    pair.asked(0, 1, 0);
    pair.servers[1] = pair.resting(1350, 1350);
    assert_eq!(pair.at(1200), pair.wait(2400));
    pair.servers[1] = Idle;
    assert_eq!(pair.at(2400), Step::Ask(1));
}

#[test]
fn nobody_waits_for_a_probe() {
    let doubtful = Standing::Doubtful { connection: Some(1), connecting: false };
    let mut course = Course::new(&[doubtful, Idle], true);
    course.plan.probed(0, 1, course.start);
    course.asked(1, 2, 0);
    course.servers[1] = Open(2);
    course.plan.lost(2, true, false);
    course.servers[1] = Idle;
    // the one who was really asked failed: somebody else at once, though the probe is out
    assert_eq!(course.at(10), Step::Ask(1));
    course.asked(1, 3, 10);
    course.plan.lost(3, true, false);
    course.servers[1] = course.resting(9000, 9000);
    // nobody but the probe is left: its answer will do
    assert_eq!(course.at(20), course.wait(4000));
}

#[test]
fn a_late_answer_brings_in_another_server_before_the_second_try() {
    let mut course = Course::new(&[Open(1), Idle], true);
    course.patience = Duration::from_millis(80);
    course.asked(0, 1, 0);
    assert_eq!(course.at(10), course.wait(80));
    assert_eq!(course.at(80), Step::Ask(1));
    // where nobody else is there, the second try has its own time
    let mut lone = Course::new(&[Open(1)], true);
    lone.patience = Duration::from_millis(80);
    lone.asked(0, 1, 0);
    assert_eq!(lone.at(80), lone.wait(1200));
    assert_eq!(lone.at(1200), lone.wait(2400));
}

#[test]
fn an_answer_that_another_may_better_is_bettered_once() {
    let mut course = Course::new(&[Open(1), Idle, Idle], true);
    course.asked(0, 1, 0);
    assert!(course.plan.unsatisfied(1, course.start));
    assert_eq!(course.at(5), Step::Ask(1));
    course.asked(1, 2, 5);
    course.servers[1] = Open(2);
    assert!(course.plan.seeks_better());
    // not longer than a second try may take
    assert_eq!(course.at(6), course.wait(1200));
    assert_eq!(course.at(1200), Step::GiveUp);
    // and no third one, whatever the second says or does
    assert!(!course.plan.unsatisfied(2, course.start));
    course.plan.lost(2, true, false);
    assert_eq!(course.at(7), Step::GiveUp);
}

#[test]
fn an_answer_is_not_bettered_by_servers_that_rest_or_are_being_tried_nor_by_the_same_one() {
    let mut course = Course::new(&[Open(1), Standing::Doubtful { connection: Some(2), connecting: true }], true);
    course.servers.push(course.resting(9000, 500));
    course.asked(0, 1, 0);
    assert!(course.plan.unsatisfied(1, course.start));
    assert_eq!(course.at(1), Step::GiveUp);
    let mut once = Course::new(&[Open(1), Idle], false);
    once.asked(0, 1, 0);
    assert!(!once.plan.unsatisfied(1, once.start));
}

/// Nobody else would find out that it is well again.
#[test]
fn an_answer_may_be_bettered_by_a_server_whose_rest_has_passed() {
    for connection in [None, Some(2)] {
        let doubtful = Standing::Doubtful { connection, connecting: false };
        let mut course = Course::new(&[Open(1), doubtful, doubtful], true);
        course.asked(0, 1, 0);
        assert!(course.plan.unsatisfied(1, course.start));
        assert_eq!(course.at(1), Step::Ask(1));
        course.servers[2] = Idle;
        assert_eq!(course.at(1), Step::Ask(2), "one that is well goes before it");
        course.asked(2, 3, 1);
        course.plan.lost(3, true, false);
        assert_eq!(course.at(2), Step::GiveUp);
    }
}

#[test]
fn who_was_to_better_an_answer_is_asked_again_if_its_connection_merely_ended_and_another_if_it_was_not_asked() {
    let mut course = Course::new(&[Open(1), Open(2), Idle], true);
    course.asked(0, 1, 0);
    assert!(course.plan.unsatisfied(1, course.start));
    course.asked(1, 2, 5);
    course.plan.lost(2, true, true);
    course.servers[1] = Idle;
    assert_eq!(course.at(6), Step::Ask(1));
    course.asked(1, 3, 6);
    course.plan.lost(3, false, false);
    assert_eq!(course.at(7), Step::Ask(2));
    course.asked(2, 4, 7);
    assert_eq!(course.at(8), course.wait(1200));
    course.plan.lost(4, false, false);
    assert_eq!(course.at(9), Step::GiveUp);
    // nor for ever
    let mut course = Course::new(&[Open(1), Idle], true);
    course.asked(0, 1, 0);
    assert!(course.plan.unsatisfied(1, course.start));
    let asked = (0..100).take_while(|&number| {
        let is_asked = course.at(1) == Step::Ask(1);
        course.asked(1, 10 + number, 1);
        course.plan.lost(10 + number, true, true);
        is_asked
    });
    assert_eq!(asked.count(), 8);
    let mut late = Course::new(&[Open(1), Idle], true);
    late.asked(0, 1, 0);
    assert!(late.plan.unsatisfied(1, late.start));
    assert_eq!(late.at(1200), Step::GiveUp);
}

#[test]
fn a_server_that_is_asked_already_is_the_second_opinion() {
    let mut course = Course::new(&[Open(1), Open(2), Idle], true);
    course.patience = Duration::from_millis(80);
    course.asked(0, 1, 0);
    course.asked(1, 2, 80);
    assert!(course.plan.unsatisfied(1, course.start + Duration::from_millis(90)));
    assert_eq!(course.at(91), course.wait(1290));
    assert!(!course.plan.unsatisfied(2, course.start + Duration::from_millis(95)));
}

#[test]
fn all_who_are_well_are_asked_at_once_and_each_once() {
    let mut course = Course::new(&[Open(1), Standing::Doubtful { connection: None, connecting: false }, Idle], true);
    course.servers.extend([course.resting(9000, 8000), Connecting(5)]);
    course.plan = course.plan.to_all();
    for (server, connection) in [(0, 1), (2, 3), (4, 5)] {
        assert_eq!(course.at(0), Step::Ask(server));
        course.asked(server, connection, 0);
        course.servers[2] = if server == 0 { Idle } else { Open(3) };
    }
    course.servers[4] = Open(5);
    assert_eq!(course.at(0), course.wait(1200));
    // one that fails is not asked again while others may answer
    course.plan.lost(1, true, false);
    course.servers[0] = Idle;
    assert_eq!(course.at(1), course.wait(1200));
    // but over a connection that merely ended it is
    course.plan.lost(3, true, true);
    course.servers[2] = Idle;
    assert_eq!(course.at(2), Step::Ask(2));
}

#[test]
fn where_all_are_asked_all_may_better_an_answer() {
    let mut course = Course::new(&[Open(1), Open(2), Open(3)], true);
    course.plan = course.plan.to_all();
    for server in 0..3 {
        assert_eq!(course.at(0), Step::Ask(server));
        course.asked(server, server as u64 + 1, 0);
    }
    assert!(course.plan.unsatisfied(2, course.start) && course.plan.unsatisfied(3, course.start));
    assert_eq!(course.at(10), course.wait(1200));
    assert!(!course.plan.unsatisfied(1, course.start), "nobody is left");
}

#[test]
fn what_must_not_be_done_twice_is_put_to_one_alone() {
    let mut course = Course::new(&[Open(1), Open(2)], false);
    course.plan = course.plan.to_all();
    assert_eq!(course.at(0), Step::Ask(0));
    course.asked(0, 1, 0);
    assert_eq!(course.at(1), course.wait(4000));
}
