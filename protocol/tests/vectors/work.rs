//! Messages between a queue and its consumers.

use millstream_protocol::Offset;
use millstream_protocol::batch::{BatchBuilder, Message};
use millstream_protocol::control::{
    ConsumerOpened, ControlError, FaultEntry, Leaser, OpenConsumer, Receive, ReceiveOver, Settle,
    SettleAck, SettleEntry, SettleFault, SettleVerb, Window, Work, WorkEntry,
};
use millstream_protocol::wire::{MessageKind, StreamId};

use super::frames::header_parts;
use super::messages::{Decoded, STREAM, archived, decoded, decoded_is, name, vector};
use super::{Vector, parts};

decoded!(OpenConsumer, ConsumerOpened, Window, Receive, ReceiveOver);

const LEASER: Leaser = Leaser {
    queue_id: 7,
    boot_epoch: 2,
};

pub(crate) fn all() -> Vec<Vector> {
    let mut vectors = opening();
    vectors.extend(windows());
    vectors.push(work());
    vectors.extend(settles());
    vectors
}

fn opening() -> Vec<Vector> {
    vec![
        archived!(
            "message-open-consumer",
            "Opens stream 3 to consume \"billing\" as \"worker 1\", 64 records or 1 MiB at once.",
            OpenConsumer,
            (STREAM, 0),
            OpenConsumer {
                queue: name("billing"),
                window_messages: 64,
                window_bytes: 1 << 20,
                lease_ms: 0,
                name: "worker 1".into(),
            },
            &[
                (7, "queue: text"),
                (8, "name: text"),
                (4, "root: queue, relative pointer"),
                (4, "root: queue, length"),
                (4, "root: window messages"),
                (8, "root: window bytes"),
                (4, "root: lease ms"),
                (4, "root: name, relative pointer"),
                (4, "root: name, length"),
            ]
        ),
        archived!(
            "message-consumer-opened",
            "It is open, as consumer 3 of queue 7, in the second run of the broker.",
            ConsumerOpened,
            (STREAM, 0),
            ConsumerOpened {
                queue_id: 7,
                boot_epoch: 2,
                consumer: 3,
                lease_ms: 60_000,
                topic: name("orders"),
            },
            &[
                (6, "topic: text"),
                (4, "root: queue id"),
                (4, "root: boot epoch"),
                (8, "root: consumer"),
                (4, "root: lease ms"),
                (4, "root: topic, relative pointer"),
                (4, "root: topic, length"),
            ]
        ),
    ]
}

fn windows() -> Vec<Vector> {
    vec![
        archived!(
            "message-window",
            "From now on 128 records at once, however large.",
            Window,
            (STREAM, 0),
            Window {
                messages: 128,
                bytes: 0
            },
            &[(4, "messages"), (8, "bytes")]
        ),
        archived!(
            "message-receive",
            "Asks once for up to 10 records, for 5 seconds, with leases of 2 minutes.",
            Receive,
            (STREAM, 9),
            Receive {
                messages: 10,
                bytes: 1 << 16,
                wait_ms: 5000,
                lease_ms: 120_000,
            },
            &[
                (4, "messages"),
                (8, "bytes"),
                (4, "wait ms"),
                (4, "lease ms"),
            ]
        ),
        archived!(
            "message-receive-over",
            "It got 2.",
            ReceiveOver,
            (STREAM, 9),
            ReceiveOver { granted: 2 },
            &[(4, "granted")]
        ),
    ]
}

fn work() -> Vector {
    let entries = [
        WorkEntry {
            offset: Offset(41),
            lease: 0x0001_0000_0002,
            append_us: 1_790_000_000_000_000,
            first_us: 0,
            left_ms: 60_000,
            attempts: 1,
        },
        WorkEntry {
            offset: Offset(17),
            lease: 0x0001_0000_0003,
            append_us: 1_789_999_999_000_000,
            first_us: 1_789_999_999_500_000,
            left_ms: 60_000,
            attempts: 2,
        },
    ];
    let mut batch = BatchBuilder::new();
    batch.push(&Message::new("one").key("c7")).unwrap();
    batch.push(&Message::new("again")).unwrap();
    let mut bytes = Vec::new();
    Work::encode(&entries, &batch, STREAM, 1, &mut bytes);
    let entry = [
        (8, "offset"),
        (8, "lease"),
        (8, "append time"),
        (8, "first delivery"),
        (4, "left ms"),
        (2, "attempts"),
        (2, "reserved"),
    ];
    let body_bytes = batch.body_bytes() as usize;
    let all_parts = [
        parts(&[(4, "count"), (4, "reserved")]),
        parts(&entry),
        parts(&entry),
        header_parts(),
        parts(&[(body_bytes, "body of the frame")]),
    ]
    .concat();
    let mut frame = Vec::new();
    batch.encode_frame(Default::default(), &mut frame);
    vector(
        "message-work",
        "Record 41 for the first time, and record 17 for the second.",
        MessageKind::Work,
        (bytes, all_parts),
        move |_, body| {
            Work::decode(body)
                .is_ok_and(|work| work.entries().eq(entries) && work.frame().body() == &frame[64..])
        },
    )
}

fn settles() -> Vec<Vector> {
    let entry = |offset, verb, arg_us, text| SettleEntry {
        offset: Offset(offset),
        lease: 0x0001_0000_0000 + offset,
        verb,
        arg_us,
        text,
    };
    let entries = [
        entry(41, SettleVerb::Ack, 0, ""),
        entry(42, SettleVerb::Retry, 0, ""),
        entry(43, SettleVerb::RetryAfter, 1_500_000, ""),
        entry(44, SettleVerb::Reject, 0, "no such account"),
        entry(45, SettleVerb::Release, 0, ""),
        entry(46, SettleVerb::Extend, 0, ""),
    ];
    let mut settle = Vec::new();
    Settle::encode(LEASER, entries, STREAM, 12, &mut settle);
    let one = [
        (8, "offset"),
        (8, "lease"),
        (8, "argument"),
        (1, "verb"),
        (1, "reserved"),
        (2, "bytes of text"),
        (4, "reserved"),
    ];
    let prelude = [
        (4, "queue id"),
        (4, "boot epoch"),
        (4, "count"),
        (4, "reserved"),
    ];
    let settle_parts = [
        prelude.as_slice(),
        &one,
        &one,
        &one,
        &one,
        &[(15, "text")],
        &one,
        &one,
    ]
    .concat();
    let faults = [
        FaultEntry {
            number: 13,
            fault: SettleFault::LeaseLost,
        },
        FaultEntry {
            number: 15,
            fault: SettleFault::QueueGone,
        },
    ];
    let mut ack = Vec::new();
    SettleAck::encode(17, &faults, STREAM, &mut ack);
    let ack_parts = [
        (8, "through"),
        (8, "fault 0: number"),
        (1, "fault 0: which"),
        (7, "fault 0: reserved"),
        (8, "fault 1: number"),
        (1, "fault 1: which"),
        (7, "fault 1: reserved"),
    ];
    vec![
        vector(
            "message-settle",
            "Settles 12 to 17 of stream 3, one of each kind.",
            MessageKind::Settle,
            (settle, parts(&settle_parts)),
            move |_, body| {
                Settle::decode(body)
                    .is_ok_and(|settle| settle.leaser == LEASER && settle.entries().eq(entries))
            },
        ),
        vector(
            "message-settle-ack",
            "Settles up to 17 are on disk, but 13, whose lease was over, and 15.",
            MessageKind::SettleAck,
            (ack, parts(&ack_parts)),
            move |_, body| {
                SettleAck::decode(body)
                    .is_ok_and(|ack| ack.through == 17 && ack.faults().eq(faults))
            },
        ),
    ]
}
