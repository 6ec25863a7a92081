//! What becomes of publishes: acknowledged, refused, unknown.

use millstream_client::core::{Event, ReadyFrame, Stored, Unpublished};
use millstream_client::{BatchBuilder, ConnectionError, Effect, ErrorCode, Offset, Refusal};
use millstream_protocol::control::{AckRun, ErrorMessage, Goodbye, PublishAck};
use millstream_protocol::wire::{MessageKind, StreamId};

use crate::script::{HEARTBEAT, Session, ack, bare, encoded, refusal};

/// Publishes `messages` one by one, each its own frame, all of them sent.
fn sent(session: &mut Session, stream: StreamId, messages: u64) {
    for number in 0..messages {
        let body = number.to_string();
        session.core.publish(stream, &body.into()).unwrap();
        assert_eq!(session.publishes().len(), 1);
    }
}

fn stored(stream: StreamId, publish: u64, first: u64) -> Event {
    Event::Published {
        stream,
        publish,
        stored: Stored {
            first: Offset(first),
            duplicate: false,
        },
    }
}

fn because(code: ErrorCode, effect: Effect) -> Refusal {
    Refusal {
        code,
        effect,
        retriable: code.is_retriable(),
        message: "because".into(),
    }
}

#[test]
fn acknowledgements_are_cumulative_and_runs_give_offsets() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    sent(&mut session, stream, 2);
    for body in ["a", "b", "c"] {
        session.core.publish(stream, &body.into()).unwrap();
    }
    session.sent();
    sent(&mut session, stream, 1);
    // Publishes 1 and 2 lie together, 3 with its three records and 4 behind somebody else's.
    session.feed(&ack(stream, 4, &[(2, 10), (2, 20)]));
    let expected = [
        stored(stream, 1, 10),
        stored(stream, 2, 11),
        stored(stream, 3, 20),
        stored(stream, 4, 23),
    ];
    assert_eq!(session.events(), expected);
}

#[test]
fn streams_are_acknowledged_apart() {
    let mut session = Session::new();
    let (one, two) = (session.open_publisher(), session.open_publisher());
    sent(&mut session, one, 3);
    sent(&mut session, two, 2);
    session.feed(&ack(two, 2, &[(2, 100)]));
    session.feed(&ack(one, 1, &[(1, 7)]));
    session.feed(&ack(one, 3, &[(1, 9), (1, 12)]));
    let expected = [
        stored(two, 1, 100),
        stored(two, 2, 101),
        stored(one, 1, 7),
        stored(one, 2, 9),
        stored(one, 3, 12),
    ];
    assert_eq!(session.events(), expected);
}

#[test]
fn duplicates_are_told_with_the_offsets_of_their_first_time() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    sent(&mut session, stream, 3);
    let runs = [(1, false, 90), (1, true, 12), (1, false, 91)];
    let runs = runs.map(|(publishes, duplicates, base)| AckRun {
        publishes,
        duplicates,
        base_offset: Offset(base),
    });
    session.feed(&encoded(|out| PublishAck::encode(&runs, stream, 3, out)));
    let duplicate = Event::Published {
        stream,
        publish: 2,
        stored: Stored {
            first: Offset(12),
            duplicate: true,
        },
    };
    let expected = [stored(stream, 1, 90), duplicate, stored(stream, 3, 91)];
    assert_eq!(session.events(), expected);
}

#[test]
fn a_refusal_fails_what_follows_and_lets_what_was_before_be_acknowledged() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    sent(&mut session, stream, 3);
    session.core.publish(stream, &"waits".into()).unwrap();
    session.feed(&refusal(stream, 2, ErrorCode::StorageFull));
    let why = because(ErrorCode::StorageFull, Effect::NotApplied);
    let unpublished = |publishes| Event::Unpublished {
        stream,
        publishes,
        why: Unpublished::Refused(why.clone()),
    };
    let ended = Event::StreamEnded {
        stream,
        refusal: Some(why.clone()),
    };
    assert_eq!(
        session.events(),
        [unpublished(2..4), unpublished(4..5), ended]
    );
    assert!(session.core.publish(stream, &"late".into()).is_err());
    assert!(session.sent().is_empty(), "what waited is not sent");
    session.feed(&ack(stream, 1, &[(1, 3)]));
    session.feed(&bare(MessageKind::StreamClosed, stream, 0));
    assert_eq!(session.events(), [stored(stream, 1, 3)]);
}

#[test]
fn what_waited_on_a_refused_stream_holds_nothing_up() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    sent(&mut session, stream, 1);
    let mut batch = BatchBuilder::new();
    batch.push_body(b"waits").unwrap();
    let frame = ReadyFrame::of_batch(&batch).unwrap();
    session.core.publish_frame(stream, frame).unwrap();
    session.core.publish(stream, &"waits too".into()).unwrap();
    session.feed(&refusal(stream, 2, ErrorCode::StorageFull));
    assert!(matches!(
        &session.events()[..],
        [Event::Unpublished { publishes, .. }, Event::StreamEnded { .. }] if *publishes == (2..4)
    ));
    session.core.close();
    assert!(
        session.sent().is_empty(),
        "the first publish is yet to be answered"
    );
    session.feed(&ack(stream, 1, &[(1, 0)]));
    assert_eq!(session.sent()[0].0.kind, MessageKind::Goodbye);
}

#[test]
fn what_a_failed_log_leaves_unknown_is_unknown_but_for_what_was_never_sent() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    sent(&mut session, stream, 2);
    session.core.publish(stream, &"waits".into()).unwrap();
    let error = ErrorMessage {
        effect: Effect::Unknown,
        ..ErrorMessage::new(ErrorCode::TopicPoisoned, "because")
    };
    session.feed(&encoded(|out| error.encode(stream, 1, out)));
    let refused = |publishes, effect| Event::Unpublished {
        stream,
        publishes,
        why: Unpublished::Refused(because(ErrorCode::TopicPoisoned, effect)),
    };
    let events = session.events();
    assert_eq!(events[0], refused(1..3, Effect::Unknown));
    assert_eq!(events[1], refused(3..4, Effect::NotApplied));
}

#[test]
fn a_stream_that_is_closed_without_a_word_leaves_what_was_sent_unknown() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    sent(&mut session, stream, 1);
    session.core.publish(stream, &"waits".into()).unwrap();
    session.feed(&bare(MessageKind::StreamClosed, stream, 0));
    let unpublished = |publishes, why| Event::Unpublished {
        stream,
        publishes,
        why,
    };
    let expected = [
        unpublished(1..2, Unpublished::Unacknowledged),
        unpublished(2..3, Unpublished::StreamClosed),
        Event::StreamEnded {
            stream,
            refusal: None,
        },
    ];
    assert_eq!(session.events(), expected);
}

#[test]
fn a_lost_connection_leaves_what_was_sent_unknown_and_the_rest_not_sent() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    sent(&mut session, stream, 3);
    session.feed(&ack(stream, 1, &[(1, 0)]));
    session.core.publish(stream, &"waits".into()).unwrap();
    session.events();
    session.core.end_of_input();
    let lost = ConnectionError::ClosedByServer { reason: "".into() };
    let unpublished = |publishes, why| Event::Unpublished {
        stream,
        publishes,
        why,
    };
    let expected = [
        unpublished(2..4, Unpublished::Unknown(lost.clone())),
        unpublished(4..5, Unpublished::NotSent(lost.clone())),
        Event::Ended(lost),
    ];
    assert_eq!(session.events(), expected);
    assert!(session.sent().is_empty());
    session.core.end_of_input();
    assert!(session.events().is_empty(), "a connection ends once");
}

#[test]
fn a_servers_goodbye_is_the_reason_it_closed() {
    let mut session = Session::new();
    let goodbye = Goodbye {
        reason: "maintenance".to_owned(),
    };
    session.feed(&encoded(|out| goodbye.encode(StreamId::CONNECTION, 0, out)));
    assert!(
        session.events().is_empty(),
        "what is under way may still be answered"
    );
    session.core.end_of_input();
    let reason = "maintenance".into();
    let ended = ConnectionError::ClosedByServer { reason };
    assert!(ended.to_string().contains("maintenance"));
    assert_eq!(session.events(), [Event::Ended(ended)]);
}

#[test]
fn an_error_of_the_connection_ends_it() {
    let mut session = Session::new();
    session.feed(&refusal(StreamId::CONNECTION, 0, ErrorCode::ShuttingDown));
    let [Event::Ended(ended)] = &session.events()[..] else {
        panic!("one event");
    };
    assert_eq!(ended.code(), Some(ErrorCode::ShuttingDown));
    assert!(ended.is_retriable());
}

#[test]
fn an_idle_connection_pings_and_a_silent_server_is_lost() {
    let mut session = Session::new();
    assert_eq!(session.core.deadline(), Some(session.now + HEARTBEAT));
    session.now += HEARTBEAT;
    session.core.tick(session.now);
    assert_eq!(session.sent()[0].0.kind, MessageKind::Ping);
    session.now += HEARTBEAT;
    session.feed(&bare(MessageKind::Pong, StreamId::CONNECTION, 0));
    session.now += 3 * HEARTBEAT;
    session.core.tick(session.now);
    let ms = 3 * HEARTBEAT.as_millis() as u64;
    assert_eq!(
        session.events(),
        [Event::Ended(ConnectionError::Silent { ms })]
    );
    assert_eq!(session.core.deadline(), None);
}

#[test]
fn pings_are_answered_once_for_many() {
    let mut session = Session::new();
    for correlation in 1..=1000 {
        session.feed(&bare(MessageKind::Ping, StreamId::CONNECTION, correlation));
    }
    let sent = session.sent();
    assert_eq!(sent.len(), 1, "a flood of pings costs one answer");
    assert_eq!(
        (sent[0].0.kind, sent[0].0.correlation),
        (MessageKind::Pong, 1000)
    );
}
