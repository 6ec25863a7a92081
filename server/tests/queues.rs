//! Queues, consumers and cursors through sessions made of bytes alone.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod peer;
#[path = "queues/slow.rs"]
mod slow;

use millstream::Broker;
use millstream_protocol::control::{
    Backoff, ConsumerOpened, Leaser, QueueInfo, QueueSettings, QueueVerb, RecordState, SettleEntry,
    SettleFault, SettleVerb,
};
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::limits::WORK_WINDOW_MESSAGES_MAX;
use millstream_protocol::{AckLevel, Offset};

use peer::{Answer, Said, Script, Wire, Worked};

/// No faults.
const NONE: [u64; 0] = [];

fn broker() -> (tempfile::TempDir, Broker) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::open(folder.path()).unwrap();
    (folder, broker)
}

/// A session that has been greeted.
fn open(broker: &Broker) -> Wire {
    let mut wire = Wire::new(broker);
    wire.feed(&Script::hello().0);
    wire.ear.said.clear();
    wire
}

/// Settings under which what is retried comes again at once.
fn eager() -> QueueSettings {
    QueueSettings {
        backoff: Backoff {
            first_ms: 0,
            cap_ms: 0,
            ..Backoff::default()
        },
        ..QueueSettings::default()
    }
}

/// A queue `jobs` that holds so many records, whose bodies are their numbers.
fn filled(broker: &Broker, records: u64, settings: QueueSettings) {
    let mut wire = open(broker);
    wire.feed(&Script::default().queue(1, "jobs", settings).0);
    answer(&mut wire, 1);
    let mut script = Script::default().publisher(1, "jobs", AckLevel::Topic);
    for number in 1..=records {
        script = script.publish(1, number, &(number - 1).to_le_bytes());
    }
    wire.feed(&script.0);
    if records > 0 {
        wire.until_acked(1, records);
    }
}

fn answer(wire: &mut Wire, wanted: u64) -> Answer {
    let said = wire.until_any(|said| match said {
        Said::Queue { correlation, .. } => *correlation == wanted,
        Said::Error { correlation, .. } => *correlation == wanted,
        _ => false,
    });
    match said {
        Said::Queue { answer, .. } => answer,
        said => panic!("{said:?}"),
    }
}

fn info(wire: &mut Wire, correlation: u64) -> QueueInfo {
    wire.feed(&Script::default().describe_queue(correlation, "jobs").0);
    match answer(wire, correlation) {
        Answer::Queue(info) => *info,
        answer => panic!("{answer:?}"),
    }
}

/// Opens a consumer of `jobs` on stream 1.
fn consume(wire: &mut Wire, window: u32) -> (ConsumerOpened, Leaser) {
    wire.feed(&Script::default().consumer(1, "jobs", window).0);
    let said =
        wire.until_any(|said| matches!(said, Said::ConsumerOpened { .. } | Said::Error { .. }));
    let Said::ConsumerOpened { opened, .. } = said else {
        panic!("{said:?}")
    };
    let leaser = Leaser {
        queue_id: opened.queue_id,
        boot_epoch: opened.boot_epoch,
    };
    (opened, leaser)
}

fn worked(said: &[Said]) -> Vec<Worked> {
    let work = said.iter().filter_map(|said| match said {
        Said::Work { work, .. } => Some(work.clone()),
        _ => None,
    });
    work.collect()
}

/// Waits until so many records came, and takes them.
fn take_work(wire: &mut Wire, records: usize) -> Vec<Worked> {
    let mut found = worked(wire.until(|said| worked(said).len() >= records));
    assert_eq!(found.len(), records, "no more than wanted: {found:?}");
    wire.ear
        .said
        .retain(|said| !matches!(said, Said::Work { .. }));
    found.sort_by_key(|work| work.offset);
    found
}

fn entries(work: &[Worked], verb: SettleVerb) -> Vec<SettleEntry<'static>> {
    work.iter().map(|work| work.entry(verb)).collect()
}

/// Settles `work`, and waits for the answers: the faults among them.
fn settle(wire: &mut Wire, leaser: Leaser, first: u64, entries: &[SettleEntry<'_>]) -> Vec<u64> {
    wire.feed(&Script::default().settle(1, leaser, first, entries).0);
    let last = first + entries.len() as u64 - 1;
    let is_last = |said: &Said| matches!(said, Said::Settled { number, .. } if *number == last);
    let said = wire.until(|said| said.iter().any(is_last));
    let faults = said.iter().filter_map(|said| match said {
        Said::Settled {
            number,
            fault: Some(SettleFault::LeaseLost),
            ..
        } if *number >= first => Some(*number),
        _ => None,
    });
    faults.collect()
}

fn offsets(work: &[Worked]) -> Vec<u64> {
    work.iter().map(|work| work.offset).collect()
}

#[test]
fn queues_are_made_described_changed_listed_and_deleted() {
    let (_folder, broker) = broker();
    let mut wire = open(&broker);
    wire.feed(&Script::default().queue(1, "jobs", eager()).0);
    let Answer::Queue(made) = answer(&mut wire, 1) else {
        panic!("{:?}", wire.ear.said)
    };
    assert_eq!((made.name.as_str(), made.topic.as_str()), ("jobs", "jobs"));
    assert!(made.own_topic && !made.paused && made.ready == 0);
    assert_eq!(made.settings, eager());
    // Again is as good; otherwise is not.
    wire.feed(&Script::default().queue(2, "jobs", eager()).0);
    assert!(
        matches!(answer(&mut wire, 2), Answer::Queue(again) if again.queue_id == made.queue_id)
    );
    let other = QueueSettings {
        lease_ms: 5,
        ..QueueSettings::default()
    };
    wire.feed(&Script::default().set_queue(3, "jobs", other).0);
    wire.until_error(ErrorCode::QueueSettings);
    wire.feed(&Script::default().describe_queue(4, "none").0);
    wire.until_error(ErrorCode::QueueNotFound);
    let longer = QueueSettings {
        lease_ms: 90_000,
        ..eager()
    };
    wire.feed(&Script::default().set_queue(5, "jobs", longer.clone()).0);
    assert!(matches!(answer(&mut wire, 5), Answer::Queue(set) if set.settings == longer));
    wire.feed(&Script::default().list_queues(6, None).0);
    let Answer::Queues(list) = answer(&mut wire, 6) else {
        panic!("{:?}", wire.ear.said)
    };
    let names: Vec<&str> = list
        .queues
        .iter()
        .map(|queue| queue.name.as_str())
        .collect();
    assert_eq!((names, list.more), (vec!["jobs", "jobs.dead"], false));
    wire.feed(&Script::default().list_queues(7, Some("jobs")).0);
    assert!(matches!(answer(&mut wire, 7), Answer::Queues(list) if list.queues.len() == 1));
    wire.feed(&Script::default().delete(8, "jobs").0);
    wire.until_error(ErrorCode::TopicInUse);
    wire.feed(&Script::default().delete_queue(9, "jobs").0);
    assert_eq!(answer(&mut wire, 9), Answer::Done(0));
    wire.feed(&Script::default().queue(10, "$jobs", eager()).0);
    wire.until_error(ErrorCode::TopicNameInvalid);
}

#[test]
fn a_window_bounds_what_is_unsettled_and_settles_make_room() {
    let (_folder, broker) = broker();
    filled(&broker, 10, eager());
    let mut wire = open(&broker);
    let (opened, leaser) = consume(&mut wire, 3);
    assert_eq!(opened.topic.as_str(), "jobs");
    assert_eq!(
        (opened.lease_ms, opened.boot_epoch),
        (30_000, broker.boot_epoch())
    );
    let work = take_work(&mut wire, 3);
    assert_eq!(offsets(&work), [0, 1, 2]);
    for work in &work {
        assert_eq!(work.body, work.offset.to_le_bytes());
        assert_eq!((work.attempts, work.is_first), (1, true));
        assert!(work.left_ms <= 30_000);
    }
    assert_eq!(
        settle(&mut wire, leaser, 1, &entries(&work[..2], SettleVerb::Ack)),
        NONE
    );
    assert_eq!(offsets(&take_work(&mut wire, 2)), [3, 4]);
    wire.feed(&Script::default().window(1, 0).0);
    settle(&mut wire, leaser, 3, &entries(&work[2..], SettleVerb::Ack));
    let counts = info(&mut wire, 4);
    assert_eq!(
        (counts.floor, counts.leased, counts.ready),
        (Offset(3), 2, 5)
    );
    assert_eq!(counts.totals.acked, 3);
    wire.feed(&Script::default().window(1, 100).0);
    assert_eq!(offsets(&take_work(&mut wire, 5)), [5, 6, 7, 8, 9]);
}

#[test]
fn a_settle_with_a_lease_that_is_over_does_nothing() {
    let (_folder, broker) = broker();
    filled(&broker, 2, eager());
    let mut wire = open(&broker);
    let (_, leaser) = consume(&mut wire, 2);
    let work = take_work(&mut wire, 2);
    let ack = work[0].entry(SettleVerb::Ack);
    assert_eq!(settle(&mut wire, leaser, 1, &[ack, ack]), [2]);
    let other = SettleEntry {
        lease: work[1].lease ^ 1 << 40,
        ..work[1].entry(SettleVerb::Ack)
    };
    assert_eq!(settle(&mut wire, leaser, 3, &[other]), [3]);
    // Leases of another run of the broker, or of another queue of the name.
    for stale in [
        Leaser {
            boot_epoch: leaser.boot_epoch + 1,
            ..leaser
        },
        Leaser {
            queue_id: leaser.queue_id + 1,
            ..leaser
        },
    ] {
        let first = 4 + u64::from(stale.boot_epoch == leaser.boot_epoch);
        let ack = work[1].entry(SettleVerb::Ack);
        assert_eq!(settle(&mut wire, stale, first, &[ack]), [first]);
    }
    let ack = work[1].entry(SettleVerb::Ack);
    assert_eq!(settle(&mut wire, leaser, 6, &[ack]), NONE);
    assert_eq!(info(&mut wire, 9).floor, Offset(2));
}

#[test]
fn retry_counts_release_does_not() {
    let (_folder, broker) = broker();
    filled(&broker, 1, eager());
    let mut wire = open(&broker);
    let (_, leaser) = consume(&mut wire, 1);
    let mut attempts = Vec::new();
    for (number, verb) in [
        SettleVerb::Release,
        SettleVerb::Retry,
        SettleVerb::RetryAfter,
        SettleVerb::Release,
        SettleVerb::Extend,
    ]
    .into_iter()
    .enumerate()
    {
        let work = take_work(&mut wire, 1);
        attempts.push((work[0].attempts, work[0].is_first));
        settle(&mut wire, leaser, 1 + number as u64, &entries(&work, verb));
    }
    assert_eq!(
        attempts,
        [(1, true), (1, true), (2, false), (3, false), (3, false)]
    );
    assert_eq!(info(&mut wire, 9).leased, 1);
}

#[test]
fn numbers_out_of_sequence_end_the_stream_after_the_answers() {
    let (_folder, broker) = broker();
    filled(&broker, 2, eager());
    let mut wire = open(&broker);
    let (_, leaser) = consume(&mut wire, 2);
    let work = take_work(&mut wire, 2);
    let script = Script::default()
        .settle(1, leaser, 1, &entries(&work[..1], SettleVerb::Ack))
        .settle(1, leaser, 3, &entries(&work[1..], SettleVerb::Ack))
        .settle(1, leaser, 4, &entries(&work[1..], SettleVerb::Ack));
    wire.feed(&script.0);
    wire.until_any(|said| matches!(said, Said::StreamClosed { stream: 1, .. }));
    let [
        ..,
        Said::Settled {
            number: 1,
            fault: None,
            ..
        },
        Said::Error {
            stream: 1,
            correlation: 2,
            code: ErrorCode::OutOfSequence,
            effect: Effect::NotApplied,
            ..
        },
        Said::StreamClosed { .. },
    ] = &wire.ear.said[..]
    else {
        panic!("{:?}", wire.ear.said)
    };
    let counts = info(&mut wire, 9);
    assert_eq!(
        (counts.leased, counts.ready, counts.floor),
        (0, 1, Offset(1))
    );
}

#[test]
fn a_stream_that_is_closed_gives_back_uncounted() {
    let (_folder, broker) = broker();
    filled(&broker, 4, eager());
    let mut first = open(&broker);
    let (_, leaser) = consume(&mut first, 4);
    let work = take_work(&mut first, 4);
    let script = Script::default()
        .settle(1, leaser, 1, &entries(&work[..1], SettleVerb::Ack))
        .close(1, 77);
    first.feed(&script.0);
    first.until_any(|said| {
        matches!(
            said,
            Said::StreamClosed {
                stream: 1,
                correlation: 77
            }
        )
    });
    let answered = |said: &Said| {
        matches!(
            said,
            Said::Settled {
                number: 1,
                fault: None,
                ..
            }
        )
    };
    assert!(
        first.ear.said.iter().any(answered),
        "answered before it is closed"
    );
    let mut second = open(&broker);
    consume(&mut second, 9);
    let work = take_work(&mut second, 3);
    assert_eq!(offsets(&work), [1, 2, 3]);
    assert!(work.iter().all(|work| work.attempts == 1));
}

#[test]
fn a_goodbye_gives_back_uncounted_and_a_lost_connection_counts() {
    let (_folder, broker) = broker();
    filled(&broker, 3, eager());
    let mut polite = open(&broker);
    let (_, leaser) = consume(&mut polite, 3);
    let work = take_work(&mut polite, 3);
    let script = Script::default()
        .settle(1, leaser, 1, &entries(&work[..1], SettleVerb::Ack))
        .goodbye();
    polite.feed(&script.0);
    polite.until_any(|said| matches!(said, Said::Settled { number: 1, .. }));
    assert!(polite.session.is_closed(), "nothing is left to say");
    drop(polite);

    let mut lost = open(&broker);
    let (_, leaser) = consume(&mut lost, 3);
    let work = take_work(&mut lost, 2);
    assert!(work.iter().all(|work| work.attempts == 1));
    let ack = entries(&work[..1], SettleVerb::Ack);
    lost.feed(&Script::default().settle(1, leaser, 1, &ack).0);
    // What was sent before the end of the connection counts.
    drop(lost);

    let mut last = open(&broker);
    consume(&mut last, 3);
    let work = take_work(&mut last, 1);
    assert_eq!(
        (work[0].offset, work[0].attempts, work[0].is_first),
        (2, 2, false)
    );

    // Hanging up without a goodbye is being lost, too.
    last.session.input_ended();
    while !last.session.is_closed() {
        last.turn();
    }
    drop(last);
    let mut wire = open(&broker);
    consume(&mut wire, 3);
    assert_eq!(take_work(&mut wire, 1)[0].attempts, 3);
}

#[test]
fn a_receive_gets_what_there_is_and_ends() {
    let (_folder, broker) = broker();
    filled(&broker, 5, eager());
    let mut wire = open(&broker);
    consume(&mut wire, 0);
    wire.feed(&Script::default().receive(1, 11, 3, 60_000).0);
    let over = |correlation| move |said: &Said| matches!(said, Said::ReceiveOver { correlation: c, .. } if *c == correlation);
    let said = wire.until_any(over(11));
    assert!(matches!(
        said,
        Said::ReceiveOver {
            stream: 1,
            granted: 3,
            ..
        }
    ));
    assert_eq!(offsets(&take_work(&mut wire, 3)), [0, 1, 2]);
    wire.feed(&Script::default().receive(1, 12, 10, 60_000).0);
    assert!(matches!(
        wire.until_any(over(12)),
        Said::ReceiveOver { granted: 2, .. }
    ));
    assert_eq!(offsets(&take_work(&mut wire, 2)), [3, 4]);
    wire.feed(&Script::default().receive(1, 13, 1, 10).0);
    assert!(matches!(
        wire.until_any(over(13)),
        Said::ReceiveOver { granted: 0, .. }
    ));
    let script = Script::default()
        .receive(1, 14, 1, 300_000)
        .receive(1, 15, 1, 300_000);
    wire.feed(&script.0);
    wire.until_error(ErrorCode::WindowExceeded);
    wire.until_any(|said| matches!(said, Said::StreamClosed { stream: 1, .. }));
}

#[test]
fn a_server_that_stops_answers_and_gives_back_uncounted() {
    let (_folder, broker) = broker();
    filled(&broker, 3, eager());
    let mut wire = open(&broker);
    let (_, leaser) = consume(&mut wire, 3);
    let work = take_work(&mut wire, 3);
    let ack = entries(&work[..1], SettleVerb::Ack);
    wire.feed(&Script::default().settle(1, leaser, 1, &ack).0);
    wire.session.drain();
    wire.until_any(|said| matches!(said, Said::Goodbye(_)));
    let [
        ..,
        Said::Settled {
            number: 1,
            fault: None,
            ..
        },
        Said::Error {
            stream: 1,
            code: ErrorCode::ShuttingDown,
            ..
        },
        Said::StreamClosed { stream: 1, .. },
        Said::Goodbye(_),
    ] = &wire.ear.said[..]
    else {
        panic!("{:?}", wire.ear.said)
    };
    drop(wire);
    let mut wire = open(&broker);
    consume(&mut wire, 3);
    let work = take_work(&mut wire, 2);
    assert!(work.iter().all(|work| work.attempts == 1));
}

#[test]
fn a_queue_that_is_deleted_ends_its_streams() {
    let (_folder, broker) = broker();
    filled(&broker, 2, eager());
    let mut wire = open(&broker);
    let (_, leaser) = consume(&mut wire, 2);
    let work = take_work(&mut wire, 2);
    wire.feed(&Script::default().delete_queue(5, "jobs").0);
    assert_eq!(answer(&mut wire, 5), Answer::Done(2));
    wire.until_any(|said| matches!(said, Said::StreamClosed { stream: 1, .. }));
    wire.until_error(ErrorCode::QueueNotFound);
    // What it sent meanwhile means nothing.
    let before = wire.ear.said.len();
    let ack = entries(&work, SettleVerb::Ack);
    wire.feed(&Script::default().settle(1, leaser, 1, &ack).0);
    assert_eq!(wire.ear.said.len(), before, "{:?}", wire.ear.said);
}

#[test]
fn a_rejected_record_becomes_a_dead_letter_and_may_be_sent_back() {
    let (_folder, broker) = broker();
    filled(&broker, 1, eager());
    let mut wire = open(&broker);
    let (_, leaser) = consume(&mut wire, 1);
    let work = take_work(&mut wire, 1);
    let reject = SettleEntry {
        text: "no such account",
        ..work[0].entry(SettleVerb::Reject)
    };
    assert_eq!(settle(&mut wire, leaser, 1, &[reject]), NONE);
    wire.feed(&Script::default().consumer(2, "jobs.dead", 1).0);
    let letter = take_work(&mut wire, 1).remove(0);
    assert_eq!(letter.body, work[0].body);
    let note = |name: &str| {
        let found = letter.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(note("ms-reason"), Some("rejected"));
    assert_eq!(note("ms-reason-text"), Some("no such account"));
    assert_eq!(note("ms-queue"), Some("jobs"));
    assert_eq!(note("ms-offset"), Some("0"));
    wire.feed(&Script::default().close(2, 0).0);
    wire.until_any(|said| matches!(said, Said::StreamClosed { stream: 2, .. }));
    wire.feed(&Script::default().redrive(7, "jobs.dead").0);
    assert_eq!(answer(&mut wire, 7), Answer::Done(1));
    let again = take_work(&mut wire, 1).remove(0);
    assert_eq!((again.body, again.attempts), (work[0].body.clone(), 1));
    assert!(again.offset > work[0].offset);
}

#[test]
fn a_paused_queue_delivers_nothing_and_a_purged_one_has_nothing() {
    let (_folder, broker) = broker();
    filled(&broker, 6, eager());
    let mut wire = open(&broker);
    wire.feed(
        &Script::default()
            .control_queue(1, "jobs", QueueVerb::Pause)
            .0,
    );
    answer(&mut wire, 1);
    consume(&mut wire, 2);
    assert!(info(&mut wire, 2).paused);
    assert!(worked(&wire.ear.said).is_empty());
    wire.feed(
        &Script::default()
            .control_queue(3, "jobs", QueueVerb::Resume)
            .0,
    );
    let work = take_work(&mut wire, 2);
    wire.feed(&Script::default().peek(4, "jobs", 1, 3).leases(5, "jobs").0);
    let Answer::Peeked(peeked) = answer(&mut wire, 4) else {
        panic!("{:?}", wire.ear.said)
    };
    let states: Vec<_> = peeked.iter().map(|one| (one.offset.0, one.state)).collect();
    let (leased, ready) = (RecordState::Leased, RecordState::Ready);
    assert_eq!(states, [(1, leased), (2, ready), (3, ready)]);
    let Answer::Leases(mut leases) = answer(&mut wire, 5) else {
        panic!("{:?}", wire.ear.said)
    };
    leases.sort_by_key(|lease| lease.offset);
    let of: Vec<u64> = leases.iter().map(|lease| lease.offset.0).collect();
    assert_eq!(of, offsets(&work));
    wire.feed(
        &Script::default()
            .control_queue(6, "jobs", QueueVerb::Purge)
            .0,
    );
    assert_eq!(answer(&mut wire, 6), Answer::Done(6));
    let counts = info(&mut wire, 7);
    assert_eq!(
        (counts.ready, counts.leased, counts.floor),
        (0, 0, Offset(6))
    );
}

#[test]
fn cursors_are_set_described_listed_and_deleted() {
    let (_folder, broker) = broker();
    filled(&broker, 5, eager());
    let mut wire = open(&broker);
    wire.feed(&Script::default().describe_cursor(1, "jobs", "audit").0);
    wire.until_error(ErrorCode::CursorNotFound);
    wire.feed(&Script::default().set_cursor(2, "jobs", "audit", 3).0);
    let Answer::Cursor(set) = answer(&mut wire, 2) else {
        panic!("{:?}", wire.ear.said)
    };
    assert_eq!((set.offset, set.end_offset), (Offset(3), Offset(5)));
    let script = Script::default()
        .set_cursor(3, "jobs", "zeta", 1)
        .describe_cursor(4, "jobs", "audit")
        .list_cursors(5, None)
        .list_cursors(6, Some(("jobs", "audit")))
        .delete_cursor(7, "jobs", "audit")
        .list_cursors(8, None)
        .set_cursor(9, "none", "audit", 1);
    wire.feed(&script.0);
    assert!(matches!(answer(&mut wire, 4), Answer::Cursor(found) if found == set));
    let names = |answer: Answer| match answer {
        Answer::Cursors(list) => {
            let names = list.cursors.iter().map(|cursor| cursor.name.to_string());
            names.collect::<Vec<_>>()
        }
        answer => panic!("{answer:?}"),
    };
    assert_eq!(names(answer(&mut wire, 5)), ["audit", "zeta"]);
    assert_eq!(names(answer(&mut wire, 6)), ["zeta"]);
    assert_eq!(answer(&mut wire, 7), Answer::CursorDeleted);
    assert_eq!(names(answer(&mut wire, 8)), ["zeta"]);
    wire.until_error(ErrorCode::TopicNotFound);
}

#[test]
fn what_was_answered_is_settled_after_a_restart() {
    let (folder, broker) = broker();
    filled(&broker, 8, eager());
    let mut wire = open(&broker);
    let (_, leaser) = consume(&mut wire, 8);
    let work = take_work(&mut wire, 8);
    let even: Vec<Worked> = work
        .iter()
        .filter(|work| work.offset % 2 == 0)
        .cloned()
        .collect();
    assert_eq!(
        settle(&mut wire, leaser, 1, &entries(&even, SettleVerb::Ack)),
        NONE
    );
    wire.session.drain();
    wire.until_any(|said| matches!(said, Said::Goodbye(_)));
    drop(wire);
    broker.close().unwrap();
    drop(broker);
    let broker = Broker::open(folder.path()).unwrap();
    let mut wire = open(&broker);
    let (opened, _) = consume(&mut wire, 8);
    assert!(opened.boot_epoch > leaser.boot_epoch);
    let work = take_work(&mut wire, 4);
    assert_eq!(offsets(&work), [1, 3, 5, 7]);
    assert!(work.iter().all(|work| work.attempts == 1));
}

#[test]
fn what_does_not_belong_on_a_stream_ends_it() {
    let (_folder, broker) = broker();
    filled(&broker, 1, eager());
    let cases: [(Script, ErrorCode); 6] = [
        (Script::default().publish(1, 1, b"x"), ErrorCode::Malformed),
        (Script::default().credit(1, 1), ErrorCode::Malformed),
        (
            Script::default().consumer(1, "jobs", 1),
            ErrorCode::StreamInUse,
        ),
        (
            Script::default().window(1, WORK_WINDOW_MESSAGES_MAX + 1),
            ErrorCode::WindowExceeded,
        ),
        (
            Script::default().receive(1, 1, WORK_WINDOW_MESSAGES_MAX + 1, 1),
            ErrorCode::WindowExceeded,
        ),
        (Script::default().receive(1, 1, 0, 1), ErrorCode::Malformed),
    ];
    for (script, wanted) in cases {
        let mut wire = open(&broker);
        consume(&mut wire, 0);
        wire.feed(&script.0);
        wire.until_error(wanted);
        wire.until_any(|said| matches!(said, Said::StreamClosed { stream: 1, .. }));
        assert!(!wire.closed, "the connection goes on");
    }
    let mut wire = open(&broker);
    wire.feed(&Script::default().consumer(1, "none", 1).0);
    wire.until_error(ErrorCode::QueueNotFound);
    wire.feed(&Script::default().consumer(2, "jobs", u32::MAX).0);
    wire.until_error(ErrorCode::WindowExceeded);
    let ghost = Leaser {
        queue_id: 1,
        boot_epoch: 1,
    };
    let ack = SettleEntry {
        offset: Offset(0),
        lease: 1,
        verb: SettleVerb::Ack,
        arg_us: 0,
        text: "",
    };
    wire.feed(&Script::default().settle(9, ghost, 1, &[ack]).0);
    wire.until_error(ErrorCode::StreamUnknown);
}
