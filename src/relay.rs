//! A query that must be asked, as a future: nearly always one on the usual course, which is so plain that it is small and
//! quick; for any other there is one in a box.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::pending::Pending;
use crate::query::{Beginning, Path};
use crate::upstream::calm::Calm;

/// The future of a query that must be asked; it gives the reply that the client gets.
pub struct Relay {
    path: Rc<Path>,
    /// Nothing once it is on another course.
    pending: Option<Pending>,
    course: Course,
}

/// How a query is asked.
enum Course {
    /// Not yet.
    New,
    /// The server that comes first will answer.
    Usual(Calm),
    /// Whatever else.
    Other(Pin<Box<dyn Future<Output = Vec<u8>>>>),
}

impl Relay {
    /// A query that is asked when it is first polled.
    pub fn new(path: Rc<Path>, pending: Pending) -> Relay {
        Relay { path, pending: Some(pending), course: Course::New }
    }

    fn take_another_course(
        &mut self,
        pending: Pending,
        beginning: Beginning,
        context: &mut Context<'_>,
    ) -> Poll<Vec<u8>> {
        let mut course: Pin<Box<dyn Future<Output = _>>> = Box::pin(self.path.clone().relay(pending, beginning));
        let reply = course.as_mut().poll(context);
        self.course = Course::Other(course);
        reply
    }
}

impl Future for Relay {
    type Output = Vec<u8>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<u8>> {
        let Relay { path, pending, course } = &mut *self;
        let beginning = match (&mut *course, &*pending) {
            (Course::Other(course), _) => return course.as_mut().poll(context),
            // somebody polls what is over
            (_, None) => return Poll::Pending,
            (Course::New, Some(pending)) => match path.set_out(pending, context) {
                Ok(calm) => {
                    *course = Course::Usual(calm);
                    return Poll::Pending;
                }
                Err(behind) => Beginning { behind, begun: None },
            },
            (Course::Usual(calm), Some(pending)) => match path.conclude(pending, calm.outcome(context)) {
                Ok(reply) => return Poll::Ready(reply),
                Err(outcome) => match std::mem::replace(course, Course::New) {
                    Course::Usual(calm) => Beginning { behind: None, begun: Some((calm, outcome)) },
                    Course::New | Course::Other(_) => Beginning::default(),
                },
            },
        };
        match pending.take() {
            Some(pending) => self.take_another_course(pending, beginning, context),
            None => Poll::Pending,
        }
    }
}
