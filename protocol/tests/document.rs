//! `docs/PROTOCOL.md` says what the code does.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

use millstream_protocol::batch::ColumnKind;
use millstream_protocol::control::{
    GapReason, OnExpiry, QueueMode, QueueVerb, RecordState, SettleFault, SettleVerb, WhenFull,
};
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::frame::FrameKind;
use millstream_protocol::limits;
use millstream_protocol::wire::{MessageKind, Phase};
use millstream_protocol::{AckLevel, Durability};

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PROTOCOL.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the table whose first column has this title.
fn table(title: &str) -> Vec<Vec<String>> {
    let document = document();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    let mut lines = document.lines();
    lines
        .find(|line| line.starts_with('|') && cells(line)[0] == title)
        .unwrap_or_else(|| panic!("no table of {title}"));
    lines.next();
    lines
        .take_while(|line| line.starts_with('|'))
        .map(cells)
        .collect()
}

/// Number and name of every row, which must be those of the code, in the same order.
fn assert_named<T: Debug>(title: &str, all: &[T], code: impl Fn(&T) -> u16) {
    let written: Vec<(u16, String)> = table(title)
        .into_iter()
        .map(|row| (row[0].parse().unwrap(), row[1].clone()))
        .collect();
    let real: Vec<(u16, String)> = all
        .iter()
        .map(|value| (code(value), format!("{value:?}")))
        .collect();
    assert_eq!(written, real, "the table of {title}");
}

#[test]
fn every_number_is_written_as_it_is() {
    assert_named("kind", MessageKind::ALL, |kind| kind.code().into());
    assert_named("frame kind", FrameKind::ALL, |kind| kind.code().into());
    assert_named("column", ColumnKind::ALL, |kind| kind.code().into());
    assert_named("durability", Durability::ALL, |durability| {
        durability.code().into()
    });
    assert_named("acknowledgement level", AckLevel::ALL, |level| {
        level.code().into()
    });
    assert_named("gap reason", GapReason::ALL, |reason| reason.code().into());
    assert_named("queue mode", QueueMode::ALL, |mode| mode.code().into());
    assert_named("expiry", OnExpiry::ALL, |expired| expired.code().into());
    assert_named("full queue", WhenFull::ALL, |full| full.code().into());
    assert_named("queue verb", QueueVerb::ALL, |verb| verb.code().into());
    assert_named("record state", RecordState::ALL, |state| {
        state.code().into()
    });
    assert_named("settle verb", SettleVerb::ALL, |verb| verb.code().into());
    assert_named("fault", SettleFault::ALL, |fault| fault.code().into());
    assert_named("effect", Effect::ALL, |effect| effect.code().into());
    assert_named("code", ErrorCode::ALL, |code| code.code());
}

#[test]
fn the_table_of_codes_says_what_may_be_retried() {
    for (row, code) in table("code").into_iter().zip(ErrorCode::ALL) {
        assert_eq!(
            row[2],
            if code.is_retriable() { "yes" } else { "no" },
            "{code}"
        );
    }
}

#[test]
fn the_table_of_messages_says_who_sends_them_and_how_long_they_are() {
    for (row, kind) in table("kind").into_iter().zip(MessageKind::ALL) {
        let to_server = kind.may_come(Phase::Server) || kind.may_come(Phase::ServerBeforeHello);
        let to_client = kind.may_come(Phase::Client) || kind.may_come(Phase::ClientBeforeWelcome);
        let sender = match (to_server, to_client) {
            (true, true) => "both",
            (true, false) => "client",
            (false, true) => "server",
            (false, false) => panic!("{kind:?} goes nowhere"),
        };
        assert_eq!(row[2], sender, "{kind:?}");
        assert_eq!(row[4], kind.body_bytes_max().to_string(), "{kind:?}");
    }
}

#[test]
fn the_table_of_messages_says_whom_they_are_about() {
    use millstream_protocol::wire::{Next, StreamId, WireHeader, next_message};
    for (row, kind) in table("kind").into_iter().zip(MessageKind::ALL) {
        let phase = [Phase::Server, Phase::Client, Phase::ServerBeforeHello]
            .into_iter()
            .chain([Phase::ClientBeforeWelcome])
            .find(|phase| kind.may_come(*phase))
            .unwrap();
        let passes = |stream| {
            let header = WireHeader::bare(*kind, StreamId(stream), 1).encode();
            matches!(next_message(&header, phase), Ok(Next::Message { .. }))
        };
        let about = match (passes(0), passes(7)) {
            (true, true) => "any",
            (true, false) => "0",
            (false, true) => "not 0",
            (false, false) => panic!("{kind:?} never passes"),
        };
        assert_eq!(row[3], about, "{kind:?}");
    }
}

/// Names and values of limits, as the table writes them.
macro_rules! limits {
    ($($name:ident),+ $(,)?) => {
        vec![$((format!("`{}`", stringify!($name)), format!("{}", limits::$name))),+]
    };
}

#[test]
fn the_table_of_limits_has_the_values_of_the_code() {
    let real = limits![
        FRAME_HEADER_BYTES,
        WIRE_HEADER_BYTES,
        FRAME_ALIGN,
        LAYOUT_VERSION,
        WIRE_VERSION,
        FRAME_BYTES_MAX,
        BODY_BYTES_MAX,
        RECORDS_PER_FRAME_MAX,
        TOPIC_NAME_BYTES_MAX,
        KEY_BYTES_MAX,
        ID_BYTES_MAX,
        GROUP_BYTES_MAX,
        HEADERS_MAX,
        HEADERS_BYTES_MAX,
        NOTED_HEADERS_MAX,
        NOTED_HEADERS_BYTES_MAX,
        HELLO_BYTES_MAX,
        CONTROL_BYTES_MAX,
        SENTENCE_BYTES_MAX,
        AGENT_BYTES_MAX,
        TOPICS_PER_LIST_MAX,
        ACK_RUNS_MAX,
        PRE_HELLO_BYTES_MAX,
        PRE_HELLO_MS,
        HEARTBEAT_MS,
        HEARTBEATS_MISSED_MAX,
        STREAMS_PER_CONNECTION_MAX,
        CONNECTIONS_MAX,
        CONNECTIONS_PER_ADDRESS_MAX,
        PUBLISH_WINDOW_BYTES,
        PUBLISH_WINDOW_FRAMES,
        PRODUCER_FRAMES_KEPT,
        PRODUCER_WINDOW_MS,
        PRODUCERS_PER_TOPIC_MAX,
        READ_CREDIT_BYTES_MAX,
        DELIVERY_BYTES_MAX,
        DELIVERY_PRELUDE_BYTES,
        LEASE_MS_MIN,
        LEASE_MS_MAX,
        DELIVERIES_MAX,
        BACKOFF_MS_MAX,
        BACKOFF_MULTIPLIER_MILLI_MAX,
        REASON_BYTES_MAX,
        ATTEMPT_COUNTS,
        QUEUES_PER_LIST_MAX,
        QUEUE_RECORDS_PER_LIST_MAX,
        CURSORS_PER_LIST_MAX,
        WORK_WINDOW_MESSAGES_MAX,
        WORK_WINDOW_BYTES_MAX,
        WORK_RECORDS_MAX,
        WORK_BYTES_MAX,
        WORK_PRELUDE_BYTES,
        WORK_ENTRY_BYTES,
        RECEIVE_WAIT_MS_MAX,
        SETTLES_MAX,
        SETTLE_BYTES_MAX,
        SETTLE_PRELUDE_BYTES,
        SETTLE_ENTRY_BYTES,
        SETTLES_UNANSWERED_MAX,
        SETTLE_FAULTS_MAX,
    ];
    let written: Vec<(String, String)> = table("limit")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    assert_eq!(written, real);
}

#[test]
fn every_golden_vector_is_named_and_every_one_named_is_there() {
    let files: BTreeSet<String> =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.trim_end_matches(".hex").to_owned())
            .collect();
    let document = document();
    let mut named = BTreeSet::new();
    let mut last = String::new();
    // A name in back quotes; one that begins with a dash replaces the end of the one before.
    for name in document.split('`').skip(1).step_by(2) {
        if name.starts_with("frame-") || name.starts_with("message-") {
            last = name.to_owned();
        } else if let Some(end) = name.strip_prefix('-') {
            let stem = last.rsplit_once('-').map_or("", |(stem, _)| stem);
            last = format!("{stem}-{end}");
        } else {
            continue;
        }
        assert!(files.contains(&last), "{last} is no golden vector");
        named.insert(last.clone());
    }
    // What has no body is explained by the header alone.
    for bare in [
        "pong",
        "close-stream",
        "stream-closed",
        "topic-deleted",
        "cursor-deleted",
    ] {
        named.insert(format!("message-{bare}"));
    }
    let missing: Vec<_> = files.difference(&named).collect();
    assert!(missing.is_empty(), "not named in the document: {missing:?}");
}

/// The fixed part of a golden message's body: all that is not the elements of a text.
fn root_bytes(golden: &str) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/v1")
        .join(format!("message-{golden}.hex"));
    let text = std::fs::read_to_string(path).unwrap();
    let (mut bytes, mut is_text) = (0, false);
    for (hex, label) in text.lines().filter_map(|line| line.split_once('#')) {
        // Long parts go on in lines without a label.
        let label = label
            .trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit());
        if !label.trim().is_empty() {
            is_text = label.contains(": text");
        }
        bytes += if is_text {
            0
        } else {
            hex.split_whitespace().count()
        };
    }
    bytes - 32
}

#[test]
fn the_headings_of_archives_say_how_long_their_roots_are() {
    let archives = [
        ("Hello", "hello"),
        ("Welcome", "welcome"),
        ("Goodbye", "goodbye"),
        ("Error", "error"),
        ("CreateTopic", "create-topic"),
        ("DeleteTopic, DescribeTopic", "delete-topic"),
        ("ListTopics", "list-topics"),
        ("TopicInfo", "topic-info"),
        ("SetRetention", "set-retention"),
        ("DescribeRetention", "describe-retention"),
        ("Retention", "retention"),
        ("OpenPublisher", "open-publisher"),
        ("PublisherOpened", "publisher-opened"),
        ("OpenProducer", "open-producer"),
        ("ProducerOpened", "producer-opened"),
        ("OpenReader", "open-reader-time"),
        ("ReaderOpened", "reader-opened"),
        ("Gap", "gap"),
        ("CreateQueue", "create-queue"),
        ("SetQueue", "set-queue"),
        ("DeleteQueue, DescribeQueue", "delete-queue"),
        ("ListQueues", "list-queues"),
        ("ControlQueue", "control-queue"),
        ("RedriveQueue", "redrive-queue"),
        ("PeekQueue", "peek-queue"),
        ("ListLeases", "list-leases"),
        ("QueueInfo", "queue-info"),
        ("QueueDone", "queue-done"),
        ("OpenConsumer", "open-consumer"),
        ("ConsumerOpened", "consumer-opened"),
        ("SetCursor", "set-cursor"),
        ("DescribeCursor, DeleteCursor", "describe-cursor"),
        ("ListCursors", "list-cursors"),
        ("CursorInfo", "cursor-info"),
    ];
    let document = document();
    for (heading, golden) in archives {
        let line = format!("### {heading}: {} bytes", root_bytes(golden));
        assert!(
            document.lines().any(|found| found == line),
            "no heading {line:?}"
        );
    }
    let lists = [
        ("TopicList", "topic-list", 2 * root_bytes("topic-info")),
        ("QueueList", "queue-list", root_bytes("queue-info")),
        ("PeekedList", "peeked-list", 19),
        ("LeaseList", "lease-list", 22),
        ("CursorList", "cursor-list", root_bytes("cursor-info")),
    ];
    for (heading, golden, entries_bytes) in lists {
        let line = format!(
            "### {heading}: {} bytes",
            root_bytes(golden) - entries_bytes
        );
        assert!(
            document.lines().any(|found| found == line),
            "no heading {line:?}"
        );
    }
}
