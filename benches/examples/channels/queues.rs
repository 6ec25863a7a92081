//! Bounded channels, singly: none of them sends several at once.

use std::hint::spin_loop;
use std::path::Path;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use millstream_benches::embed::Parcel;
use millstream_benches::embed::hop::{Hopped, Put, Shape, Take, hop};

use crate::{Contender, trip};

/// Slots of a channel.
const SLOTS: usize = 1 << 10;

/// A channel: its two ends, and how each is used.
trait Channel {
    type Sender: Clone + Send;
    type Receiver: Send;
    fn ends() -> (Self::Sender, Self::Receiver);
    fn send(sender: &mut Self::Sender, parcel: Parcel);
    fn try_receive(receiver: &mut Self::Receiver) -> Option<Parcel>;
}

struct Sending<C: Channel>(C::Sender);

impl<C: Channel> Put for Sending<C> {
    #[inline]
    fn put(&mut self, parcels: &[Parcel]) {
        for parcel in parcels {
            C::send(&mut self.0, *parcel);
        }
    }
}

struct Taking<C: Channel>(C::Receiver);

impl<C: Channel> Take for Taking<C> {
    #[inline]
    fn take(&mut self, mut each: impl FnMut(&[u8])) -> u64 {
        let mut taken = 0;
        while let Some(parcel) = C::try_receive(&mut self.0) {
            each(&parcel.0);
            taken += 1;
        }
        if taken == 0 {
            spin_loop();
        }
        taken
    }
}

fn hop_through<C: Channel>(_: &Path, shape: Shape, each: u64) -> Option<Hopped> {
    if shape.batch > 1 {
        return None;
    }
    let (sender, receiver) = C::ends();
    let senders = (0..shape.producers).map(|_| Sending::<C>(sender.clone()));
    Some(hop(senders.collect(), Taking::<C>(receiver), 1, each))
}

fn trip_through<C: Channel>(_: &Path) -> Option<u64> {
    let pair = || {
        let (sender, receiver) = C::ends();
        (Sending::<C>(sender), Taking::<C>(receiver))
    };
    Some(trip::p50_ns(pair(), pair()))
}

struct Crossbeam;

impl Channel for Crossbeam {
    type Sender = crossbeam_channel::Sender<Parcel>;
    type Receiver = crossbeam_channel::Receiver<Parcel>;
    fn ends() -> (Self::Sender, Self::Receiver) {
        crossbeam_channel::bounded(SLOTS)
    }
    #[inline]
    fn send(sender: &mut Self::Sender, parcel: Parcel) {
        sender.send(parcel).expect("the receiver takes all");
    }
    #[inline]
    fn try_receive(receiver: &mut Self::Receiver) -> Option<Parcel> {
        receiver.try_recv().ok()
    }
}

struct Queue;

impl Channel for Queue {
    type Sender = Arc<ArrayQueue<Parcel>>;
    type Receiver = Arc<ArrayQueue<Parcel>>;
    fn ends() -> (Self::Sender, Self::Receiver) {
        let queue = Arc::new(ArrayQueue::new(SLOTS));
        (Arc::clone(&queue), queue)
    }
    #[inline]
    fn send(sender: &mut Self::Sender, mut parcel: Parcel) {
        while let Err(back) = sender.push(parcel) {
            parcel = back;
            spin_loop();
        }
    }
    #[inline]
    fn try_receive(receiver: &mut Self::Receiver) -> Option<Parcel> {
        receiver.pop()
    }
}

struct Kanal;

impl Channel for Kanal {
    type Sender = kanal::Sender<Parcel>;
    type Receiver = kanal::Receiver<Parcel>;
    fn ends() -> (Self::Sender, Self::Receiver) {
        kanal::bounded(SLOTS)
    }
    #[inline]
    fn send(sender: &mut Self::Sender, parcel: Parcel) {
        sender.send(parcel).expect("the receiver takes all");
    }
    #[inline]
    fn try_receive(receiver: &mut Self::Receiver) -> Option<Parcel> {
        receiver.try_recv().ok().flatten()
    }
}

struct Flume;

impl Channel for Flume {
    type Sender = flume::Sender<Parcel>;
    type Receiver = flume::Receiver<Parcel>;
    fn ends() -> (Self::Sender, Self::Receiver) {
        flume::bounded(SLOTS)
    }
    #[inline]
    fn send(sender: &mut Self::Sender, parcel: Parcel) {
        sender.send(parcel).expect("the receiver takes all");
    }
    #[inline]
    fn try_receive(receiver: &mut Self::Receiver) -> Option<Parcel> {
        receiver.try_recv().ok()
    }
}

struct Std;

impl Channel for Std {
    type Sender = std::sync::mpsc::SyncSender<Parcel>;
    type Receiver = std::sync::mpsc::Receiver<Parcel>;
    fn ends() -> (Self::Sender, Self::Receiver) {
        std::sync::mpsc::sync_channel(SLOTS)
    }
    #[inline]
    fn send(sender: &mut Self::Sender, parcel: Parcel) {
        sender.send(parcel).expect("the receiver takes all");
    }
    #[inline]
    fn try_receive(receiver: &mut Self::Receiver) -> Option<Parcel> {
        receiver.try_recv().ok()
    }
}

struct Tokio;

impl Channel for Tokio {
    type Sender = tokio::sync::mpsc::Sender<Parcel>;
    type Receiver = tokio::sync::mpsc::Receiver<Parcel>;
    fn ends() -> (Self::Sender, Self::Receiver) {
        tokio::sync::mpsc::channel(SLOTS)
    }
    #[inline]
    fn send(sender: &mut Self::Sender, parcel: Parcel) {
        sender
            .blocking_send(parcel)
            .expect("the receiver takes all");
    }
    #[inline]
    fn try_receive(receiver: &mut Self::Receiver) -> Option<Parcel> {
        receiver.try_recv().ok()
    }
}

fn contender<C: Channel>(name: &'static str, package: &'static str) -> Contender {
    Contender {
        name,
        package,
        keeps: "memory",
        share: 1,
        hop: hop_through::<C>,
        trip: trip_through::<C>,
    }
}

pub(crate) fn contenders() -> Vec<Contender> {
    vec![
        contender::<Crossbeam>("crossbeam-channel", "crossbeam-channel"),
        contender::<Queue>("crossbeam ArrayQueue", "crossbeam-queue"),
        contender::<Kanal>("kanal", "kanal"),
        contender::<Flume>("flume", "flume"),
        contender::<Std>("std sync_channel", "std"),
        contender::<Tokio>("tokio mpsc", "tokio"),
    ]
}
