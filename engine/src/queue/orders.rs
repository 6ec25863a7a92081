//! A lease's end against its ack against the loss of its consumer, in every order.
//!
//! The production queue, its ring, baton, scheduler and journal, in one thread: what several threads
//! would do is cut into steps, and every interleaving of the steps is played. (What may happen within
//! a step is the business of loom, over the cells that the steps are made of.) Whatever the order:
//! the ack is answered; if it was accepted the record never comes again, also after a kill; if it
//! was refused the record comes to somebody else, once, and the attempt counted.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use millstream_storage::crash::{CrashFolder, End};
use millstream_storage::{Store, StoreOptions};

use super::consumer::{Consumer, ConsumerOptions};
use super::delivery::Delivery;
use super::error::SettleError;
use super::nth::hands::Hands;
use super::{QueueOptions, Queues};
use crate::block_on::block_on;
use crate::broker::Broker;
use crate::{Backoff, Message};

const LEASE: Duration = Duration::from_secs(4);

/// One step of somebody; each does his own in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The worker sends his ack.
    Ack,
    /// And looks whether it was answered.
    Look,
    /// The lease's time is over.
    Pass,
    /// The thread that looks after times runs.
    Time,
    /// The worker's connection is gone.
    Lose,
    /// Another one asks for a record.
    Take,
    /// What is written is synced, and what waits is done.
    Work,
}

/// Who does what, in his order.
const ACTORS: [&[Step]; 5] = [
    &[Step::Ack, Step::Look],
    &[Step::Pass, Step::Time],
    &[Step::Lose],
    &[Step::Take],
    &[Step::Work],
];

type Answer = Result<(), SettleError>;

struct Played {
    folder: CrashFolder,
    hands: Hands,
    store: Arc<Store>,
    queues: Arc<Queues>,
    broker: Broker,
    worker: Option<Consumer>,
    held: Option<Delivery>,
    ack: Option<Pin<Box<dyn Future<Output = Answer>>>>,
    answer: Option<Answer>,
    other: Consumer,
    taken: Vec<Delivery>,
}

fn open(folder: &CrashFolder, hands: &Hands) -> (Arc<Store>, Arc<Queues>, Broker) {
    let options = StoreOptions {
        sync_workers: 1,
        segment_bytes_first: 64 << 10,
        segment_bytes_max: 64 << 10,
    };
    let store = Store::open_by_hand(Arc::new(folder.clone()), &options).unwrap();
    let store = Arc::new(store);
    hands.set_store(&store);
    let queues = Queues::open(&store).unwrap();
    hands.set_queues(&queues);
    let broker = Broker::of_parts(Arc::clone(&store), Arc::clone(&queues));
    (store, queues, broker)
}

fn puller(broker: &Broker) -> Consumer {
    let options = ConsumerOptions::new().prefetch(0);
    broker.consumer("jobs", options).unwrap()
}

fn receive(hands: &Hands, consumer: &mut Consumer) -> Vec<Delivery> {
    hands.work_off();
    consumer.receive_blocking(1, Duration::ZERO).unwrap()
}

impl Played {
    /// One record, leased to a worker; another one has nothing.
    fn new() -> Self {
        let (folder, hands) = (CrashFolder::new(), Hands::new());
        let (store, queues, broker) = open(&folder, &hands);
        let options = QueueOptions::new().lease(LEASE).backoff(Backoff {
            first_ms: 0,
            cap_ms: 0,
            multiplier_milli: 1000,
            jitter_percent: 0,
        });
        broker.create_queue("jobs", options).unwrap();
        let mut publisher = broker.publisher("jobs").unwrap();
        publisher.publish_blocking(Message::new("job")).unwrap();
        let mut worker = puller(&broker);
        // Only the worker's lease is to end.
        let long = ConsumerOptions::new().prefetch(0).lease(LEASE * 100);
        let other = broker.consumer("jobs", long).unwrap();
        let held = receive(&hands, &mut worker).pop().unwrap();
        assert_eq!(held.attempts(), 1);
        Self {
            folder,
            hands,
            store,
            queues,
            broker,
            worker: Some(worker),
            held: Some(held),
            ack: None,
            answer: None,
            other,
            taken: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ack => {
                let held = self.held.take().unwrap();
                self.ack = Some(Box::pin(held.ack_confirmed()));
                self.poll();
            }
            Step::Look => self.poll(),
            Step::Pass => self.hands.pass_ms(5_000),
            Step::Time => {
                self.queues.keeper.work_by_hand();
            }
            Step::Lose => self.worker.take().unwrap().lose(),
            Step::Take => {
                let none_waited_for = Duration::ZERO;
                let taken = self.other.receive_blocking(1, none_waited_for);
                self.taken.extend(taken.unwrap());
            }
            Step::Work => self.hands.work_off(),
        }
    }

    fn poll(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        if let Some(ack) = &mut self.ack
            && let Poll::Ready(answer) = ack.as_mut().poll(&mut cx)
        {
            self.answer = Some(answer);
            self.ack = None;
        }
    }

    /// What came of it in the end, and after a kill.
    fn finish(mut self) -> Answer {
        let answer = match self.ack.take() {
            Some(ack) => block_on(ack),
            None => self.answer.unwrap(),
        };
        self.hands.pass_ms(100);
        self.taken.extend(receive(&self.hands, &mut self.other));
        self.taken.extend(receive(&self.hands, &mut self.other));
        match answer {
            Ok(()) => assert!(self.taken.is_empty(), "acked, and delivered again"),
            Err(SettleError::LeaseLost) => {
                assert_eq!(self.taken.len(), 1, "neither acked nor delivered, or twice");
                assert_eq!(self.taken[0].attempts(), 2, "the first attempt counts");
            }
            Err(error) => panic!("{error}"),
        }
        self.hands.work_off();
        self.folder.strike_now(End::Kill, 1);
        let Self {
            hands,
            queues,
            taken,
            other,
            store,
            broker,
            folder,
            ..
        } = self;
        queues.close();
        drop((taken, other, queues, broker, store));
        let (folder, _) = folder.take_left().unwrap();
        let (_store, _queues, broker) = open(&folder, &hands);
        let again = receive(&hands, &mut puller(&broker));
        assert_eq!(again.is_empty(), answer.is_ok(), "after a kill");
        answer
    }
}

/// Calls `each` with every interleaving of what the actors do.
fn interleave(
    done: &mut [usize; ACTORS.len()],
    so_far: &mut Vec<Step>,
    each: &mut impl FnMut(&[Step]),
) {
    let mut ended = true;
    for (at, actor) in ACTORS.iter().enumerate() {
        if let Some(step) = actor.get(done[at]) {
            ended = false;
            done[at] += 1;
            so_far.push(*step);
            interleave(done, so_far, each);
            so_far.pop();
            done[at] -= 1;
        }
    }
    if ended {
        each(so_far);
    }
}

#[test]
fn a_lease_ends_once_in_whatever_order_expiry_ack_and_loss_come() {
    let (mut accepted, mut refused) = (0, 0);
    interleave(&mut [0; ACTORS.len()], &mut Vec::new(), &mut |order| {
        struct Named<'a>(&'a [Step]);
        impl Drop for Named<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("in the order {:?}", self.0);
                }
            }
        }
        let named = Named(order);
        let mut played = Played::new();
        for step in order {
            played.step(*step);
        }
        match played.finish() {
            Ok(()) => accepted += 1,
            Err(_) => refused += 1,
        }
        drop(named);
    });
    println!("{accepted} acks accepted, {refused} refused");
    assert_eq!(accepted + refused, 1260, "every order was played");
    assert!(accepted > 0 && refused > 0);
}
