//! Messages of queues, consumers and cursors: what they refuse, and that they read as written.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use bytes::Bytes;
use millstream_protocol::batch::{BatchBuilder, Message, PushError, Record};
use millstream_protocol::control::{
    Backoff, ControlError, CreateQueue, CursorInfo, CursorList, DeadLetter, FaultEntry, LeaseInfo,
    LeaseList, Leaser, ListCursors, OnExpiry, OpenConsumer, PeekedList, PeekedRecord, QueueInfo,
    QueueList, QueueMode, QueueSettings, QueueTotals, Receive, ReceiveOver, RecordState, Settle,
    SettleAck, SettleEntry, SettleFault, SettleVerb, WhenFull, Window, Work, WorkEntry,
    WorkRecords,
};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::frame::{FrameError, ProducerStamp, check_noted, check_publish};
use millstream_protocol::limits::{
    BACKOFF_MS_MAX, CURSORS_PER_LIST_MAX, LEASE_MS_MAX, QUEUE_RECORDS_PER_LIST_MAX,
    QUEUES_PER_LIST_MAX, SETTLE_BYTES_MAX, SETTLE_FAULTS_MAX, SETTLES_MAX, WORK_RECORDS_MAX,
    WORK_WINDOW_BYTES_MAX, WORK_WINDOW_MESSAGES_MAX,
};
use millstream_protocol::wire::{Next, Phase, StreamId, next_message};
use millstream_protocol::{Offset, Start, TopicName};
use proptest::collection::vec;
use proptest::prelude::*;

const STREAM: StreamId = StreamId(7);
const LEASER: Leaser = Leaser {
    queue_id: 3,
    boot_epoch: 9,
};

fn body_of(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes.split_off(32)
}

fn name(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

fn number(field: &'static str, found: u64) -> ControlError {
    ControlError::Number { field, found }
}

fn create() -> CreateQueue {
    CreateQueue {
        name: name("jobs"),
        topic: None,
        mode: QueueMode::Plain,
        start: Start::Earliest,
        settings: QueueSettings::default(),
    }
}

#[test]
fn settings_out_of_their_bounds_are_named() {
    type Change = fn(&mut QueueSettings);
    let cases: [(&str, Change); 8] = [
        ("lease ms: 9 is not from 10 to 86400000", |s| s.lease_ms = 9),
        ("lease ms: 86400001 is not from 10 to 86400000", |s| {
            s.lease_ms = LEASE_MS_MAX + 1;
        }),
        ("deliveries max: 10001 is not from 0 to 10000", |s| {
            s.deliveries_max = 10_001;
        }),
        (
            "back-off cap ms: 604800001 is not from 0 to 604800000",
            |s| {
                s.backoff.cap_ms = BACKOFF_MS_MAX + 1;
            },
        ),
        ("back-off first ms: 300001 is not from 0 to 300000", |s| {
            s.backoff.first_ms = 300_001;
        }),
        (
            "back-off multiplier in thousandths: 999 is not from 1000 to 100000",
            |s| s.backoff.multiplier_milli = 999,
        ),
        (
            "back-off multiplier in thousandths: 100001 is not from 1000 to 100000",
            |s| s.backoff.multiplier_milli = 100_001,
        ),
        ("back-off jitter percent: 101 is not from 0 to 100", |s| {
            s.backoff.jitter_percent = 101;
        }),
    ];
    assert_eq!(QueueSettings::default().check(), Ok(()));
    for (wanted, change) in cases {
        let mut settings = QueueSettings::default();
        change(&mut settings);
        assert_eq!(settings.check().unwrap_err().to_string(), wanted);
    }
}

#[test]
fn choices_that_are_none_are_named() {
    let good = body_of(|out| create().encode(StreamId(0), 1, out));
    assert_eq!(CreateQueue::decode(&good), Ok(create()));
    // The root is the last 82 bytes: two texts, mode, start, settings.
    let root = good.len() - 82;
    let settings = root + 26;
    let changed = |at: usize, value: u8| {
        let mut body = good.clone();
        body[at] = value;
        CreateQueue::decode(&body).unwrap_err()
    };
    assert_eq!(changed(root + 16, 0), number("mode", 0));
    assert_eq!(changed(root + 16, 4), number("mode", 4));
    assert_eq!(changed(root + 17, 5), number("start", 5));
    assert_eq!(changed(settings + 21, 4), number("dead letter", 4));
    assert_eq!(changed(settings + 30, 3), number("expired", 3));
    assert_eq!(changed(settings + 55, 0), number("when full", 0));
    // A queue that is not named by a choice that names one, and the other way around.
    assert!(matches!(
        changed(settings + 21, 3),
        ControlError::TopicName(_)
    ));
    let mut other = create();
    other.settings.dead_letter = DeadLetter::Queue(name("lost"));
    let mut body = body_of(|out| other.encode(StreamId(0), 1, out));
    let which = body.len() - 82 + 26 + 21;
    assert_eq!(CreateQueue::decode(&body), Ok(other));
    body[which] = 1;
    assert_eq!(CreateQueue::decode(&body), Err(ControlError::NotPacked));
}

#[test]
fn a_cursor_to_go_on_behind_has_topic_and_name() {
    let mut list = ListCursors {
        topic: None,
        after_topic: Some(name("t")),
        after_name: None,
    };
    let body = body_of(|out| list.encode(StreamId(0), 1, out));
    let field = "bytes of the name to go on behind";
    assert_eq!(ListCursors::decode(&body), Err(number(field, 0)));
    list.after_topic = None;
    list.after_name = Some(name("audit"));
    let body = body_of(|out| list.encode(StreamId(0), 1, out));
    assert_eq!(ListCursors::decode(&body), Err(number(field, 5)));
}

#[test]
fn lists_keep_to_their_limits() {
    let too_long = |field, found| ControlError::ListTooLong { field, found };
    let longest = || name(&"x".repeat(255));
    let settings = QueueSettings {
        dead_letter: DeadLetter::Queue(longest()),
        ..QueueSettings::default()
    };
    let info = QueueInfo {
        name: longest(),
        topic: longest(),
        queue_id: 1,
        mode: QueueMode::Plain,
        own_topic: true,
        paused: false,
        settings,
        ready: 0,
        leased: 0,
        delayed: 0,
        moving: 0,
        dead: 0,
        oldest_ready_us: 0,
        consumers: 0,
        floor: Offset(0),
        next: Offset(0),
        delivered_milli: 0,
        acked_milli: 0,
        totals: QueueTotals::default(),
        attempts: [0; 16],
    };
    let queues = |count| {
        let queues = vec![info.clone(); count];
        body_of(|out| QueueList { queues, more: true }.encode(StreamId(0), 1, out))
    };
    let full = queues(QUEUES_PER_LIST_MAX);
    assert!(full.len() <= 65_536, "{} bytes", full.len());
    assert_eq!(QueueList::decode(&full).unwrap().queues.len(), 32);
    let error = QueueList::decode(&queues(33)).unwrap_err();
    assert_eq!(error, too_long("queues", 33));
    assert_eq!(error.code(), ErrorCode::TooLarge);

    let cursor = CursorInfo {
        topic: longest(),
        name: longest(),
        offset: Offset(0),
        end_offset: Offset(0),
        updated_us: 0,
    };
    let cursors = |count| {
        let cursors = vec![cursor.clone(); count];
        let more = false;
        body_of(|out| CursorList { cursors, more }.encode(StreamId(0), 1, out))
    };
    let full = cursors(CURSORS_PER_LIST_MAX);
    assert!(full.len() <= 65_536 && CursorList::decode(&full).is_ok());
    let error = CursorList::decode(&cursors(65)).unwrap_err();
    assert_eq!(error, too_long("cursors", 65));

    let record = PeekedRecord {
        offset: Offset(0),
        state: RecordState::Ready,
        attempts: 0,
        due_us: 0,
    };
    let peeked = |count| {
        let records = vec![record; count];
        body_of(|out| PeekedList { records }.encode(StreamId(0), 1, out))
    };
    let full = peeked(QUEUE_RECORDS_PER_LIST_MAX);
    assert!(full.len() <= 65_536 && PeekedList::decode(&full).is_ok());
    let error = PeekedList::decode(&peeked(1025)).unwrap_err();
    assert_eq!(error, too_long("records", 1025));

    let lease = LeaseInfo {
        offset: Offset(0),
        consumer: 0,
        attempts: 1,
        left_ms: 0,
    };
    let leases = vec![lease; 1025];
    let body = body_of(|out| LeaseList { leases }.encode(StreamId(0), 1, out));
    assert_eq!(
        LeaseList::decode(&body).unwrap_err(),
        too_long("leases", 1025)
    );
}

#[test]
fn windows_and_receives_keep_to_their_limits() {
    let window = |messages, bytes| {
        Window::decode(&body_of(|out| {
            Window { messages, bytes }.encode(STREAM, 0, out);
        }))
    };
    assert!(window(0, 0).is_ok());
    assert!(window(WORK_WINDOW_MESSAGES_MAX, WORK_WINDOW_BYTES_MAX).is_ok());
    assert_eq!(window(65_537, 0), Err(number("messages", 65_537)));
    assert_eq!(
        window(1, WORK_WINDOW_BYTES_MAX + 1),
        Err(number("bytes", WORK_WINDOW_BYTES_MAX + 1))
    );
    assert_eq!(
        Window::decode(&[0; 11]),
        Err(ControlError::Length { found: 11 })
    );
    let good = Receive {
        messages: 1,
        bytes: 0,
        wait_ms: 300_000,
        lease_ms: LEASE_MS_MAX,
    };
    let again = |receive: Receive| Receive::decode(&body_of(|out| receive.encode(STREAM, 4, out)));
    assert_eq!(again(good), Ok(good));
    let messages = 0;
    assert_eq!(
        again(Receive { messages, ..good }),
        Err(number("messages", 0))
    );
    let wait_ms = 300_001;
    assert_eq!(
        again(Receive { wait_ms, ..good }),
        Err(number("wait ms", 300_001))
    );
    let lease_ms = LEASE_MS_MAX + 1;
    assert_eq!(
        again(Receive { lease_ms, ..good }),
        Err(number("lease ms", 86_400_001))
    );
    assert_eq!(
        ReceiveOver::decode(&65_537_u32.to_le_bytes()),
        Err(number("granted", 65_537))
    );
    assert_eq!(
        ReceiveOver::decode(&[]),
        Err(ControlError::Length { found: 0 })
    );
}

fn ack(offset: u64) -> SettleEntry<'static> {
    SettleEntry {
        offset: Offset(offset),
        lease: 1,
        verb: SettleVerb::Ack,
        arg_us: 0,
        text: "",
    }
}

fn settle(entries: &[SettleEntry<'_>]) -> Vec<u8> {
    body_of(|out| Settle::encode(LEASER, entries.iter().copied(), STREAM, 1, out))
}

#[test]
fn a_settle_names_the_field_that_is_wrong() {
    let good = settle(&[ack(1), ack(2)]);
    assert_eq!(Settle::decode(&good).unwrap().count(), 2);
    let changed = |at: usize, value: u8| {
        let mut body = good.clone();
        body[at] = value;
        Settle::decode(&body).unwrap_err()
    };
    assert_eq!(changed(8, 0), number("count", 0));
    assert!(matches!(changed(8, 1), ControlError::Length { .. }));
    assert!(matches!(changed(8, 3), ControlError::Length { .. }));
    assert_eq!(changed(12, 1), number("reserved bytes 12..16", 1));
    assert_eq!(changed(16 + 24, 0), number("verb", 0));
    assert_eq!(changed(16 + 24, 7), number("verb", 7));
    assert_eq!(changed(16 + 25, 1), number("reserved bytes of a settle", 1));
    assert_eq!(changed(16 + 28, 1), number("reserved bytes of a settle", 1));
    assert_eq!(changed(16 + 16, 1), number("argument", 1));
    assert!(matches!(
        changed(16 + 26, 1),
        ControlError::TextTooLong {
            field: "reason",
            bytes: 1,
            bytes_max: 0
        }
    ));
    let mut long = good.clone();
    long.push(0);
    assert!(matches!(
        Settle::decode(&long).unwrap_err(),
        ControlError::Length { .. }
    ));
    let over = SettleEntry {
        verb: SettleVerb::RetryAfter,
        arg_us: 604_800_000_001,
        ..ack(1)
    };
    assert_eq!(
        Settle::decode(&settle(&[over])).unwrap_err(),
        number("argument", 604_800_000_001)
    );
}

#[test]
fn settles_and_answers_keep_to_their_limits() {
    let full = settle(&vec![ack(1); SETTLES_MAX]);
    assert!(full.len() <= SETTLE_BYTES_MAX);
    assert_eq!(Settle::decode(&full).unwrap().entries().count(), 4096);
    assert_eq!(
        Settle::decode(&settle(&vec![ack(1); SETTLES_MAX + 1])).unwrap_err(),
        number("count", 4097)
    );
    // A reason is cut between characters.
    let text = "\u{e9}".repeat(200);
    let reject = SettleEntry {
        verb: SettleVerb::Reject,
        text: &text,
        ..ack(1)
    };
    let body = settle(&[reject]);
    assert_eq!(body.len(), 16 + reject.len_bytes());
    let settle = Settle::decode(&body).unwrap();
    assert_eq!(settle.entries().next().unwrap().text, "\u{e9}".repeat(128));

    let faults: Vec<FaultEntry> = (1..=SETTLE_FAULTS_MAX as u64 + 1)
        .map(|number| FaultEntry {
            number,
            fault: SettleFault::LeaseLost,
        })
        .collect();
    let ack = |through, faults: &[FaultEntry]| {
        body_of(|out| SettleAck::encode(through, faults, STREAM, out))
    };
    assert!(SettleAck::decode(&ack(4096, &faults[..4096])).is_ok());
    assert_eq!(
        SettleAck::decode(&ack(4097, &faults)).unwrap_err(),
        ControlError::ListTooLong {
            field: "faults",
            found: 4097
        }
    );
    assert_eq!(
        SettleAck::decode(&ack(1, &faults[..2])).unwrap_err(),
        number("number", 2)
    );
    assert_eq!(
        SettleAck::decode(&ack(5, &[faults[1], faults[1]])).unwrap_err(),
        number("number", 2)
    );
    assert_eq!(
        SettleAck::decode(&ack(0, &[])).unwrap_err(),
        number("through", 0)
    );
    assert!(matches!(
        SettleAck::decode(&[1; 9]),
        Err(ControlError::Length { found: 9 })
    ));
    let mut body = ack(5, &faults[..1]);
    body[17] = 1;
    assert_eq!(
        SettleAck::decode(&body).unwrap_err(),
        number("fault", 0x0101)
    );
}

fn entry(offset: u64) -> WorkEntry {
    WorkEntry {
        offset: Offset(offset),
        lease: offset << 8,
        append_us: 5,
        first_us: 0,
        left_ms: 1000,
        attempts: 1,
    }
}

fn work(entries: &[WorkEntry], batch: &BatchBuilder) -> Vec<u8> {
    body_of(|out| Work::encode(entries, batch, STREAM, 1, out))
}

#[test]
fn work_names_the_field_that_is_wrong() {
    let mut batch = BatchBuilder::new();
    batch.push_body(b"one").unwrap();
    batch.push_body(b"two").unwrap();
    let good = work(&[entry(4), entry(9)], &batch);
    assert!(Work::decode(&good).is_ok());
    let changed = |at: usize, value: u8| {
        let mut body = good.clone();
        body[at] = value;
        Work::decode(&body).unwrap_err()
    };
    assert_eq!(changed(0, 0), number("count", 0));
    assert!(matches!(changed(0, 1), ControlError::Frame(_)));
    assert!(matches!(
        changed(2, 1),
        ControlError::Number { field: "count", .. }
    ));
    assert_eq!(changed(4, 1), number("reserved bytes 4..8", 1));
    assert_eq!(changed(8 + 36, 0), number("attempts", 0));
    assert_eq!(changed(8 + 38, 1), number("reserved bytes of a record", 1));
    let last = good.len() - 1;
    let error = changed(last, 1);
    assert!(matches!(
        error,
        ControlError::Frame(FrameError::BodyCrc { .. })
    ));
    assert_eq!(error.code(), ErrorCode::BadChecksum);
    assert!(matches!(
        Work::decode(&good[..7]),
        Err(ControlError::Length { found: 7 })
    ));
    assert!(WorkRecords::new(Bytes::from(good[..last].to_vec())).is_err());
    // One entry for two records: the frame itself is sound.
    let mut frame = Vec::new();
    batch.encode_frame(ProducerStamp::NONE, &mut frame);
    let mut single = BatchBuilder::new();
    single.push_body(b"one").unwrap();
    let mut body = work(&[entry(4)], &single);
    body.truncate(48);
    body.extend_from_slice(&frame);
    assert_eq!(Work::decode(&body).unwrap_err(), number("count", 1));
}

#[test]
fn a_full_message_of_work_fits_its_limit() {
    let mut batch = BatchBuilder::new();
    let entries: Vec<WorkEntry> = (0..WORK_RECORDS_MAX as u64).map(entry).collect();
    for _ in &entries {
        batch.push_body(b"").unwrap();
    }
    let mut bytes = Vec::new();
    Work::encode(&entries, &batch, STREAM, 1, &mut bytes);
    let Next::Message { body, .. } = next_message(&bytes, Phase::Client).unwrap() else {
        panic!("a whole message");
    };
    assert_eq!(Work::decode(body).unwrap().entries().len(), 4096);
}

#[test]
fn notes_fit_behind_all_headers_a_publisher_may_give() {
    let mut message = Message::new("x");
    for _ in 0..32 {
        message = message.header("n", vec![0; 127]);
    }
    let mut batch = BatchBuilder::new();
    batch.push(&message).unwrap();
    for _ in 0..8 {
        message = message.header("m", vec![0; 255]);
    }
    assert!(matches!(
        batch.push(&message),
        Err(PushError::FieldTooLarge {
            field: "header count",
            found: 40,
            max: 32
        })
    ));
    batch.push_noted(&message).unwrap();
    let mut frame = Vec::new();
    batch.encode_frame(ProducerStamp::NONE, &mut frame);
    assert!(check_noted(&frame).is_ok());
    let error = check_publish(&frame).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge, "{error}");
    assert!(matches!(
        batch.push_noted(&message.header("one", "more")),
        Err(PushError::FieldTooLarge {
            field: "header count",
            found: 41,
            max: 40
        })
    ));
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn settings() -> impl Strategy<Value = QueueSettings> {
    let numbers = any::<(u32, u32, u32, u32, u32, u8)>();
    let limits = any::<(u64, u64, u64)>();
    let dead = prop_oneof![
        Just(DeadLetter::Own),
        Just(DeadLetter::Nowhere),
        "[a-z]{1,20}".prop_map(|queue| DeadLetter::Queue(name(&queue))),
    ];
    let choices = (
        prop::sample::select(OnExpiry::ALL),
        prop::sample::select(WhenFull::ALL),
    );
    (numbers, limits, dead, choices).prop_map(|(numbers, limits, dead_letter, choices)| {
        let (lease_ms, deliveries_max, first_ms, cap_ms, multiplier_milli, jitter_percent) =
            numbers;
        QueueSettings {
            lease_ms,
            deliveries_max,
            backoff: Backoff {
                first_ms,
                cap_ms,
                multiplier_milli,
                jitter_percent,
            },
            dead_letter,
            expired: choices.0,
            messages_max: limits.0,
            bytes_max: limits.1,
            age_max_ms: limits.2,
            when_full: choices.1,
        }
    })
}

fn work_entry() -> impl Strategy<Value = WorkEntry> {
    (any::<(u64, u64, u64, u64, u32)>(), 1..u16::MAX).prop_map(|(numbers, attempts)| WorkEntry {
        offset: Offset(numbers.0),
        lease: numbers.1,
        append_us: numbers.2,
        first_us: numbers.3,
        left_ms: numbers.4,
        attempts,
    })
}

fn settle_entry() -> impl Strategy<Value = (u64, u64, SettleVerb, u64, String)> {
    let verb = prop::sample::select(SettleVerb::ALL);
    (
        any::<(u64, u64)>(),
        verb,
        0..86_400_000_000_u64,
        "\\PC{0,20}",
    )
        .prop_map(|((offset, lease), verb, arg, text)| match verb {
            SettleVerb::RetryAfter | SettleVerb::Extend => {
                (offset, lease, verb, arg, String::new())
            }
            SettleVerb::Reject => (offset, lease, verb, 0, text),
            _ => (offset, lease, verb, 0, String::new()),
        })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn queues_and_consumers_round_trip(
        settings in settings(),
        mode in prop::sample::select(QueueMode::ALL),
        topic in prop::option::of("[a-z]{1,20}"),
        numbers in any::<(u32, u64, u32)>(),
    ) {
        let create = CreateQueue {
            name: name("q"),
            topic: topic.map(|topic| name(&topic)),
            mode,
            start: Start::Time(numbers.1),
            settings,
        };
        let body = body_of(|out| create.encode(StreamId(0), 1, out));
        prop_assert_eq!(CreateQueue::decode(&body), Ok(create));
        let open = OpenConsumer {
            queue: name("q"),
            window_messages: numbers.0,
            window_bytes: numbers.1,
            lease_ms: numbers.2,
            name: String::new(),
        };
        let body = body_of(|out| open.encode(STREAM, 1, out));
        prop_assert_eq!(OpenConsumer::decode(&body), Ok(open));
    }

    #[test]
    fn work_gives_back_what_was_put_into_it(
        records in vec((work_entry(), vec(any::<u8>(), 0..50), any::<bool>()), 1..40),
    ) {
        let mut batch = BatchBuilder::new();
        let mut messages = Vec::new();
        for (index, (_, body, keyed)) in records.iter().enumerate() {
            let mut message = Message::from(body.as_slice());
            if *keyed {
                message = message.key(index.to_string()).header("h", "v").priority(3);
            }
            batch.push(&message).unwrap();
            messages.push(message);
        }
        let entries: Vec<WorkEntry> = records.iter().map(|(entry, ..)| *entry).collect();
        let mut bytes = Vec::new();
        Work::encode(&entries, &batch, STREAM, 4, &mut bytes);
        let Next::Message { body, consumed, .. } =
            next_message(&bytes, Phase::Client).unwrap() else { panic!("a whole message") };
        prop_assert_eq!(consumed, bytes.len());
        prop_assert!(Work::decode(body).unwrap().entries().eq(entries.iter().copied()));
        let given: Vec<(WorkEntry, Record)> =
            WorkRecords::new(Bytes::copy_from_slice(body)).unwrap().collect();
        prop_assert_eq!(given.len(), entries.len());
        for ((entry, record), message) in given.iter().zip(&messages) {
            prop_assert_eq!(record.offset(), entry.offset);
            prop_assert_eq!(record.append_time_us(), entry.append_us);
            prop_assert_eq!(&Message::from_record(record), message);
        }
        prop_assert!(given.iter().map(|(entry, _)| *entry).eq(entries));
    }

    #[test]
    fn a_flipped_bit_of_work_is_refused(count in 1..9_u64, at in any::<u64>()) {
        let mut batch = BatchBuilder::new();
        let entries: Vec<WorkEntry> = (0..count).map(entry).collect();
        for _ in &entries {
            batch.push_body(b"body").unwrap();
        }
        let mut bytes = Vec::new();
        Work::encode(&entries, &batch, STREAM, 4, &mut bytes);
        let bit = usize::try_from(at % (8 * bytes.len() as u64)).unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let refused = match next_message(&bytes, Phase::Client) {
            Err(_) => true,
            Ok(Next::Message { body, .. }) => Work::decode(body).is_err(),
            Ok(Next::Need(_)) => false,
        };
        prop_assert!(refused);
    }

    #[test]
    fn settles_round_trip(entries in vec(settle_entry(), 1..30)) {
        let entries: Vec<SettleEntry<'_>> = entries
            .iter()
            .map(|(offset, lease, verb, arg_us, text)| SettleEntry {
                offset: Offset(*offset),
                lease: *lease,
                verb: *verb,
                arg_us: *arg_us,
                text,
            })
            .collect();
        let body = settle(&entries);
        let again = Settle::decode(&body).unwrap();
        prop_assert_eq!(again.leaser, LEASER);
        prop_assert_eq!(again.entries().collect::<Vec<_>>(), entries);
    }

    #[test]
    fn any_bytes_are_settles_work_or_refused(body in vec(any::<u8>(), 0..120)) {
        if let Ok(again) = Settle::decode(&body) {
            let entries: Vec<_> = again.entries().collect();
            prop_assert_eq!(entries.len(), again.count() as usize);
        }
        let _ = Work::decode(&body);
        let _ = SettleAck::decode(&body);
    }
}
