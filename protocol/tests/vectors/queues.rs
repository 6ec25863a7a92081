//! Messages about queues and cursors.

use millstream_protocol::control::{
    Backoff, ControlError, ControlQueue, CreateQueue, CursorInfo, CursorList, DeadLetter,
    DeleteCursor, DeleteQueue, DescribeCursor, DescribeQueue, LeaseInfo, LeaseList, ListCursors,
    ListLeases, ListQueues, OnExpiry, PeekQueue, PeekedList, PeekedRecord, QueueDone, QueueInfo,
    QueueList, QueueMode, QueueSettings, QueueTotals, QueueVerb, RecordState, RedriveQueue,
    SetCursor, SetQueue, WhenFull,
};
use millstream_protocol::wire::{MessageKind, StreamId};
use millstream_protocol::{Offset, Start};

use super::messages::{CONNECTION, Decoded, archived, decoded, decoded_is, name, vector};
use super::{Vector, parts};

decoded!(
    CreateQueue,
    SetQueue,
    DeleteQueue,
    DescribeQueue,
    ListQueues,
    ControlQueue,
    RedriveQueue,
    PeekQueue,
    ListLeases,
    QueueInfo,
    QueueList,
    QueueDone,
    PeekedList,
    LeaseList,
    SetCursor,
    DescribeCursor,
    ListCursors,
    DeleteCursor,
    CursorInfo,
    CursorList
);

const NAME: [(usize, &str); 2] = [
    (4, "root: name, relative pointer"),
    (4, "root: name, length"),
];

/// The fixed part of settings.
const SETTINGS: [(usize, &str); 14] = [
    (4, "settings: lease ms"),
    (4, "settings: deliveries max"),
    (4, "settings: back-off first ms"),
    (4, "settings: back-off cap ms"),
    (4, "settings: back-off multiplier in thousandths"),
    (1, "settings: back-off jitter percent"),
    (1, "settings: dead letters, which"),
    (4, "settings: dead letters, queue, relative pointer"),
    (4, "settings: dead letters, queue, length"),
    (1, "settings: expired"),
    (8, "settings: messages max"),
    (8, "settings: bytes max"),
    (8, "settings: age max ms"),
    (1, "settings: when full"),
];

const TOTALS: [(usize, &str); 12] = [
    (8, "totals: delivered"),
    (8, "totals: acked"),
    (8, "totals: retried"),
    (8, "totals: rejected"),
    (8, "totals: dead-lettered"),
    (8, "totals: expired"),
    (8, "totals: dropped"),
    (8, "totals: released"),
    (8, "totals: lease expired"),
    (8, "totals: lease lost"),
    (8, "totals: damaged"),
    (8, "totals: redriven"),
];

fn settings() -> QueueSettings {
    QueueSettings {
        lease_ms: 60_000,
        deliveries_max: 3,
        backoff: Backoff {
            first_ms: 500,
            cap_ms: 60_000,
            multiplier_milli: 1500,
            jitter_percent: 10,
        },
        dead_letter: DeadLetter::Queue(name("lost")),
        expired: OnExpiry::Drop,
        messages_max: 1_000_000,
        bytes_max: 1 << 30,
        age_max_ms: 86_400_000,
        when_full: WhenFull::DropOldest,
    }
}

fn info(queue: &str) -> QueueInfo {
    QueueInfo {
        name: name(queue),
        topic: name("orders"),
        queue_id: 7,
        mode: QueueMode::Grouped,
        own_topic: false,
        paused: true,
        settings: settings(),
        ready: 1000,
        leased: 64,
        delayed: 3,
        moving: 1,
        dead: 12,
        oldest_ready_us: 2_500_000,
        consumers: 2,
        floor: Offset(41),
        next: Offset(1109),
        delivered_milli: 12_345,
        acked_milli: 12_000,
        totals: QueueTotals {
            delivered: 100,
            acked: 90,
            retried: 4,
            rejected: 2,
            dead_lettered: 3,
            expired: 1,
            dropped: 5,
            released: 6,
            lease_expired: 7,
            lease_lost: 8,
            damaged: 9,
            redriven: 10,
        },
        attempts: [80, 5, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    }
}

pub(crate) fn all() -> Vec<Vector> {
    let mut vectors = making();
    vectors.extend(asking());
    vectors.extend(telling());
    vectors.extend(answers());
    vectors.extend(lists());
    vectors.extend(cursors());
    vectors
}

fn making() -> Vec<Vector> {
    let create = [
        &[(7, "name: text"), (6, "topic: text")],
        [(4, "dead-letter queue: text")].as_slice(),
        &NAME,
        &[
            (4, "root: topic, relative pointer"),
            (4, "root: topic, length"),
            (1, "root: mode"),
            (1, "root: start, which"),
            (8, "root: start, value"),
        ],
        &SETTINGS,
    ]
    .concat();
    let own = [
        &[(4, "name: text"), (0, "topic: text")],
        [(0, "dead-letter queue: text")].as_slice(),
        create.get(3..).unwrap(),
    ]
    .concat();
    let set = [
        &[(7, "name: text"), (4, "dead-letter queue: text")],
        NAME.as_slice(),
        &SETTINGS,
    ]
    .concat();
    vec![
        archived!(
            "message-create-queue",
            "Creates \"billing\" over \"orders\" from record 41, in order of groups.",
            CreateQueue,
            (CONNECTION, 10),
            CreateQueue {
                name: name("billing"),
                topic: Some(name("orders")),
                mode: QueueMode::Grouped,
                start: Start::Offset(Offset(41)),
                settings: settings(),
            },
            &create
        ),
        archived!(
            "message-create-queue-own",
            "Creates \"jobs\" and a topic of that name, as queues are when nothing else is said.",
            CreateQueue,
            (CONNECTION, 10),
            CreateQueue {
                name: name("jobs"),
                topic: None,
                mode: QueueMode::Plain,
                start: Start::Earliest,
                settings: QueueSettings::default(),
            },
            &own
        ),
        archived!(
            "message-set-queue",
            "Gives \"billing\" settings.",
            SetQueue,
            (CONNECTION, 11),
            SetQueue {
                name: name("billing"),
                settings: settings(),
            },
            &set
        ),
    ]
}

fn asking() -> Vec<Vector> {
    let named = [&[(7, "name: text")], NAME.as_slice()].concat();
    let after = [
        (4, "root: after, relative pointer"),
        (4, "root: after, length"),
    ];
    vec![
        archived!(
            "message-delete-queue",
            "Deletes \"billing\".",
            DeleteQueue,
            (CONNECTION, 12),
            DeleteQueue {
                name: name("billing")
            },
            &named
        ),
        archived!(
            "message-describe-queue",
            "Asks about \"billing\".",
            DescribeQueue,
            (CONNECTION, 13),
            DescribeQueue {
                name: name("billing")
            },
            &named
        ),
        archived!(
            "message-list-queues",
            "Asks for the queues behind \"billing\".",
            ListQueues,
            (CONNECTION, 14),
            ListQueues {
                after: Some(name("billing"))
            },
            &[&[(7, "after: text")], after.as_slice()].concat()
        ),
        archived!(
            "message-peek-queue",
            "Asks for 100 records of \"billing\" from 41 on that are not settled.",
            PeekQueue,
            (CONNECTION, 15),
            PeekQueue {
                name: name("billing"),
                from: Offset(41),
                max: 100,
            },
            &[named.as_slice(), &[(8, "root: from"), (4, "root: max")]].concat()
        ),
        archived!(
            "message-list-leases",
            "Asks for 100 leases of \"billing\".",
            ListLeases,
            (CONNECTION, 16),
            ListLeases {
                name: name("billing"),
                max: 100,
            },
            &[named.as_slice(), &[(4, "root: max")]].concat()
        ),
    ]
}

fn telling() -> Vec<Vector> {
    let named = [&[(7, "name: text")], NAME.as_slice()].concat();
    let redrive = [
        &[(4, "name: text"), (8, "reason: text")],
        [(7, "source: text"), (2, "key: text")].as_slice(),
        &NAME,
        &[
            (8, "root: records max"),
            (4, "root: per second"),
            (4, "root: reason, relative pointer"),
            (4, "root: reason, length"),
            (4, "root: source, relative pointer"),
            (4, "root: source, length"),
            (4, "root: key, relative pointer"),
            (4, "root: key, length"),
        ],
    ]
    .concat();
    vec![
        archived!(
            "message-control-queue",
            "Purges \"billing\".",
            ControlQueue,
            (CONNECTION, 17),
            ControlQueue {
                name: name("billing"),
                verb: QueueVerb::Purge,
            },
            &[named.as_slice(), &[(1, "root: verb")]].concat()
        ),
        archived!(
            "message-redrive-queue",
            "Sends up to 1000 letters in \"lost\" back to \"billing\", 50 each second: those of key\n\
             \"c7\" that were rejected.",
            RedriveQueue,
            (CONNECTION, 18),
            RedriveQueue {
                name: name("lost"),
                records_max: 1000,
                per_second: 50,
                reason: Some("rejected".into()),
                source: Some(name("billing")),
                key: Some("c7".into()),
            },
            &redrive
        ),
    ]
}

/// The fixed part of a queue's description, without its settings.
fn info_parts() -> Vec<(usize, &'static str)> {
    [
        &[
            (4, "name, relative pointer"),
            (4, "name, length"),
            (4, "topic, relative pointer"),
            (4, "topic, length"),
            (4, "queue id"),
            (1, "mode"),
            (1, "own topic"),
            (1, "paused"),
        ],
        SETTINGS.as_slice(),
        &[
            (8, "ready"),
            (8, "leased"),
            (8, "delayed"),
            (8, "moving"),
            (8, "dead"),
            (8, "oldest ready"),
            (4, "consumers"),
            (8, "floor"),
            (8, "next"),
            (8, "delivered a second, in thousandths"),
            (8, "acked a second, in thousandths"),
        ],
        &TOTALS,
        &[(128, "attempts")],
    ]
    .concat()
}

fn answers() -> Vec<Vector> {
    let texts = [
        (7, "name: text"),
        (6, "topic: text"),
        (4, "dead-letter queue: text"),
    ];
    vec![
        archived!(
            "message-queue-info",
            "\"billing\" over \"orders\" is paused; record 41 is the first that is not settled.",
            QueueInfo,
            (CONNECTION, 13),
            info("billing"),
            &[texts.as_slice(), &info_parts()].concat()
        ),
        archived!(
            "message-queue-done",
            "Answers request 17: it was done to 1067 records.",
            QueueDone,
            (CONNECTION, 17),
            QueueDone { records: 1067 },
            &[(8, "root: records")]
        ),
    ]
}

fn lists() -> Vec<Vector> {
    let queues = [
        &[
            (7, "queue 0: name: text"),
            (6, "queue 0: topic: text"),
            (4, "queue 0: dead-letter queue: text"),
        ],
        info_parts().as_slice(),
        &[
            (4, "root: queues, relative pointer"),
            (4, "root: queues, count"),
            (1, "root: more"),
        ],
    ]
    .concat();
    let peeked = [
        (8, "record 0: offset"),
        (1, "record 0: state"),
        (2, "record 0: attempts"),
        (8, "record 0: due"),
        (4, "root: records, relative pointer"),
        (4, "root: records, count"),
    ];
    let leases = [
        (8, "lease 0: offset"),
        (8, "lease 0: consumer"),
        (2, "lease 0: attempts"),
        (4, "lease 0: left ms"),
        (4, "root: leases, relative pointer"),
        (4, "root: leases, count"),
    ];
    vec![
        archived!(
            "message-queue-list",
            "One queue, and more to come.",
            QueueList,
            (CONNECTION, 14),
            QueueList {
                queues: vec![info("billing")],
                more: true,
            },
            &queues
        ),
        archived!(
            "message-peeked-list",
            "Record 44 was delivered twice and is due at noon on 21 November 2026, UTC.",
            PeekedList,
            (CONNECTION, 15),
            PeekedList {
                records: vec![PeekedRecord {
                    offset: Offset(44),
                    state: RecordState::Delayed,
                    attempts: 2,
                    due_us: 1_795_262_400_000_000,
                }]
            },
            &peeked
        ),
        archived!(
            "message-lease-list",
            "Record 45 is with consumer 3, for the first time, for 12 more seconds.",
            LeaseList,
            (CONNECTION, 16),
            LeaseList {
                leases: vec![LeaseInfo {
                    offset: Offset(45),
                    consumer: 3,
                    attempts: 1,
                    left_ms: 12_000,
                }]
            },
            &leases
        ),
    ]
}

fn cursors() -> Vec<Vector> {
    let texts = [(6, "topic: text"), (5, "name: text")];
    let root = [
        (4, "topic, relative pointer"),
        (4, "topic, length"),
        (4, "name, relative pointer"),
        (4, "name, length"),
    ];
    let named = [texts.as_slice(), &root].concat();
    let info_root = [(8, "offset"), (8, "end offset"), (8, "updated")];
    let list = [
        (6, "topic: text"),
        (6, "after topic: text"),
        (5, "after name: text"),
        (4, "root: topic, relative pointer"),
        (4, "root: topic, length"),
        (4, "root: after topic, relative pointer"),
        (4, "root: after topic, length"),
        (4, "root: after name, relative pointer"),
        (4, "root: after name, length"),
    ];
    let cursor = || CursorInfo {
        topic: name("orders"),
        name: name("audit"),
        offset: Offset(500),
        end_offset: Offset(1109),
        updated_us: 1_795_262_400_000_000,
    };
    let tail = [
        (4, "root: cursors, relative pointer"),
        (4, "root: cursors, count"),
        (1, "root: more"),
    ];
    vec![
        archived!(
            "message-set-cursor",
            "Sets the cursor \"audit\" of \"orders\" to record 500.",
            SetCursor,
            (CONNECTION, 20),
            SetCursor {
                topic: name("orders"),
                name: name("audit"),
                offset: Offset(500),
            },
            &[named.as_slice(), &[(8, "offset")]].concat()
        ),
        archived!(
            "message-describe-cursor",
            "Asks about it.",
            DescribeCursor,
            (CONNECTION, 21),
            DescribeCursor {
                topic: name("orders"),
                name: name("audit"),
            },
            &named
        ),
        archived!(
            "message-list-cursors",
            "Asks for the cursors of \"orders\" behind \"audit\".",
            ListCursors,
            (CONNECTION, 22),
            ListCursors {
                topic: Some(name("orders")),
                after_topic: Some(name("orders")),
                after_name: Some(name("audit")),
            },
            &list
        ),
        archived!(
            "message-delete-cursor",
            "Deletes it.",
            DeleteCursor,
            (CONNECTION, 6),
            DeleteCursor {
                topic: name("orders"),
                name: name("audit"),
            },
            &named
        ),
        archived!(
            "message-cursor-info",
            "It is at record 500 of 1109.",
            CursorInfo,
            (CONNECTION, 21),
            cursor(),
            &[named.as_slice(), &info_root].concat()
        ),
        archived!(
            "message-cursor-list",
            "It is the only one.",
            CursorList,
            (CONNECTION, 22),
            CursorList {
                cursors: vec![cursor()],
                more: false,
            },
            &[named.as_slice(), &info_root, &tail].concat()
        ),
    ]
}
