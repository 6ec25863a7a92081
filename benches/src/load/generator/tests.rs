//! Loads on a broker that keeps everything in memory, and does one thing wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::*;
use crate::broker::Kind;
use crate::load::{Delivered, Parameters, Target};

/// What it does wrong to the tenth message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    Loses,
    Doubles,
    Reorders,
    Damages,
    DoublesLast,
    /// The first five are let go, and it says so; one of the others is gone as well, or none.
    LetsGo {
        more: usize,
    },
}

/// Messages that it says were let go.
const LET_GO: usize = 5;

#[derive(Default)]
struct Topic {
    messages: Vec<Vec<u8>>,
    /// The next one for a worker of a queue.
    next: usize,
}

struct Fake {
    fault: Fault,
    topics: Mutex<BTreeMap<String, Arc<Mutex<Topic>>>>,
    /// Publishers that got as far as their tenth message.
    struck: Arc<Mutex<u64>>,
}

impl Fake {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            topics: Mutex::default(),
            struck: Arc::default(),
        }
    }

    fn topic(&self, name: &str) -> Arc<Mutex<Topic>> {
        let mut topics = self.topics.lock().unwrap();
        Arc::clone(topics.entry(name.to_owned()).or_default())
    }
}

impl Broker for Fake {
    fn target(&self) -> Target {
        Target::default()
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn create(&self, topic: &str, _: Kind) -> Result<(), Failure> {
        self.topic(topic);
        Ok(())
    }

    fn remove(&self, topic: &str) -> Result<(), Failure> {
        self.topics.lock().unwrap().remove(topic);
        Ok(())
    }

    fn publisher(&self, topic: &str, _: usize) -> Result<Box<dyn Publish>, Failure> {
        Ok(Box::new(Publishing {
            topic: self.topic(topic),
            fault: self.fault,
            struck: Arc::clone(&self.struck),
            sent: 0,
            acknowledged: 0,
        }))
    }

    fn receiver(&self, topic: &str, kind: Kind) -> Result<Box<dyn Receive>, Failure> {
        Ok(Box::new(Receiving {
            topic: self.topic(topic),
            kind,
            next: match self.fault {
                Fault::LetsGo { more } => LET_GO + more,
                _ => 0,
            },
            let_go: match self.fault {
                Fault::LetsGo { .. } => LET_GO as u64,
                _ => 0,
            },
            doubles_last: self.fault == Fault::DoublesLast,
        }))
    }
}

struct Publishing {
    topic: Arc<Mutex<Topic>>,
    fault: Fault,
    struck: Arc<Mutex<u64>>,
    sent: u64,
    acknowledged: u64,
}

impl Publish for Publishing {
    fn send(&mut self, messages: &[u8], message_bytes: usize) -> Result<(), Failure> {
        let mut topic = self.topic.lock().unwrap();
        for body in messages.chunks(message_bytes) {
            self.sent += 1;
            *self.struck.lock().unwrap() += u64::from(self.sent == 10);
            let mut body = body.to_vec();
            match (self.fault, self.sent) {
                (Fault::Loses, 10) => continue,
                (Fault::Doubles, 10) => topic.messages.push(body.clone()),
                (Fault::Damages, 10) => *body.last_mut().unwrap() ^= 1,
                (Fault::Reorders, 10) => {
                    let place = topic.messages.len() - 1;
                    topic.messages.insert(place, body);
                    continue;
                }
                _ => {}
            }
            topic.messages.push(body);
        }
        Ok(())
    }

    fn acknowledged(&mut self, _: Duration) -> Result<u64, Failure> {
        let more = self.sent - self.acknowledged;
        self.acknowledged = self.sent;
        Ok(more)
    }
}

struct Receiving {
    topic: Arc<Mutex<Topic>>,
    kind: Kind,
    next: usize,
    let_go: u64,
    doubles_last: bool,
}

impl Receive for Receiving {
    fn receive(&mut self, _: Duration, take: &mut dyn FnMut(&[u8])) -> Result<u64, Failure> {
        let mut topic = self.topic.lock().unwrap();
        let next = match self.kind {
            Kind::Stream => self.next,
            Kind::Queue => topic.next,
        };
        let end = topic.messages.len().min(next + 100);
        for body in &topic.messages[next..end] {
            take(body);
        }
        if next == end && end > 0 && std::mem::take(&mut self.doubles_last) {
            take(&topic.messages[end - 1]);
            return Ok(1);
        }
        self.next = end;
        topic.next = end;
        Ok((end - next) as u64)
    }

    fn let_go(&self) -> u64 {
        self.let_go
    }
}

fn found(fault: Fault, course: Course, kind: Kind) -> Delivered {
    let load = Load {
        course,
        kind,
        topics: 1,
        silence: Duration::from_millis(500),
        crowd: None,
        yardsticks: false,
        parameters: Parameters {
            message_bytes: 32,
            batch: 5,
            window: 100,
            publishers: 2,
            receivers: 2,
            rate: 20_000,
            messages: 1000,
            seconds: 0.05,
            ..Parameters::default()
        },
    };
    // On a busy machine a publisher may come too late for a run of so short a time: then another one.
    for _ in 0..100 {
        let fake = Fake::new(fault);
        let run = run(&fake, &load, "t", &|_| {}).unwrap();
        if *fake.struck.lock().unwrap() == 2 {
            assert!(run.delivered.received >= 18, "{:?}", run.delivered);
            return Delivered {
                received: 0,
                ..run.delivered
            };
        }
    }
    panic!("no run of a hundred had time for ten messages");
}

/// Of each of so many publishers one message was treated so, and seen by so many.
fn wanted(fault: Fault, times: u64) -> Delivered {
    let of = |which| if fault == which { times } else { 0 };
    Delivered {
        received: 0,
        lost: of(Fault::Loses) + of(Fault::Damages),
        doubled: of(Fault::Doubles) + of(Fault::DoublesLast),
        reordered: of(Fault::Reorders),
        damaged: of(Fault::Damages),
        let_go: 0,
    }
}

#[test]
fn a_broker_that_does_all_right_is_found_whole() {
    for course in [Course::Publish, Course::Receive, Course::Through] {
        for kind in [Kind::Stream, Kind::Queue] {
            assert!(found(Fault::None, course, kind).is_whole(), "{course:?}");
        }
    }
}

#[test]
fn what_a_broker_was_told_to_let_go_is_not_lost_and_no_more_may_be_missing() {
    let course = Course::Publish;
    let right = found(Fault::LetsGo { more: 0 }, course, Kind::Stream);
    assert_eq!((right.let_go, right.is_whole()), (LET_GO as u64, true));
    let wrong = found(Fault::LetsGo { more: 1 }, course, Kind::Stream);
    assert_eq!((wrong.let_go, wrong.lost), (LET_GO as u64, 1));
}

#[test]
fn each_fault_of_a_stream_is_found_in_each_course() {
    for fault in [Fault::Loses, Fault::Doubles, Fault::Damages] {
        // Two publishers; where receivers run along, each of two sees it.
        for (course, seen_by) in [
            (Course::Publish, 1),
            (Course::Receive, 2),
            (Course::Through, 2),
        ] {
            let found = found(fault, course, Kind::Stream);
            assert_eq!(found, wanted(fault, 2 * seen_by), "{fault:?} {course:?}");
        }
    }
}

#[test]
fn messages_in_another_order_are_found() {
    // The one before may be the other publisher's: at least the stored ones lie side by side.
    let found = found(Fault::Reorders, Course::Receive, Kind::Stream);
    assert_eq!(found, wanted(Fault::Reorders, 4));
}

#[test]
fn each_fault_of_a_queue_is_found() {
    for fault in [Fault::Loses, Fault::Doubles, Fault::Damages] {
        let found = found(fault, Course::Receive, Kind::Queue);
        assert_eq!(found, wanted(fault, 2), "{fault:?}");
    }
}

#[test]
fn a_message_doubled_behind_the_last_is_found() {
    let stored = found(Fault::DoublesLast, Course::Receive, Kind::Stream);
    assert_eq!(stored, wanted(Fault::DoublesLast, 2));
    let published = found(Fault::DoublesLast, Course::Publish, Kind::Stream);
    assert_eq!(published, wanted(Fault::DoublesLast, 1));
}
