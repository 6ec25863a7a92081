//! What a consumer stream brings, what it sends, and what becomes of settles.

use std::time::Duration;

use millstream_client::core::{Event, RefusedSettle, SettleRequest, Unsettled};
use millstream_client::{ConnectionError, ErrorCode, Offset};
use millstream_protocol::control::{
    Leaser, Receive, ReceiveOver, Settle, SettleFault, SettleVerb, Window,
};
use millstream_protocol::limits::{SETTLES_MAX, WORK_WINDOW_MESSAGES_MAX};
use millstream_protocol::wire::{MessageKind, StreamId};

use crate::script::{
    BOOT_EPOCH, LEASE_MS, QUEUE_ID, Sent, Session, bare, encoded, refusal, settle_ack, work,
};

fn settle(offset: u64, verb: SettleVerb) -> SettleRequest {
    SettleRequest {
        offset: Offset(offset),
        lease: 100 + offset,
        verb,
        arg_us: 0,
        reason: "".into(),
    }
}

fn ack(session: &mut Session, stream: StreamId, offsets: std::ops::Range<u64>) {
    for offset in offsets {
        let settle = settle(offset, SettleVerb::Ack);
        session.core.settle(stream, settle).unwrap();
    }
}

/// The number of the first settle of a message, and the offsets it names.
fn settles((header, body): &Sent) -> (u64, Vec<u64>) {
    assert_eq!(header.kind, MessageKind::Settle);
    let settle = Settle::decode(body).unwrap();
    let leaser = Leaser {
        queue_id: QUEUE_ID,
        boot_epoch: BOOT_EPOCH,
    };
    assert_eq!(settle.leaser, leaser);
    let offsets = settle.entries().map(|entry| {
        assert_eq!(entry.lease, 100 + entry.offset.0);
        entry.offset.0
    });
    (header.correlation, offsets.collect())
}

fn refused(stream: StreamId, number: u64, offset: u64) -> Event {
    let refused = RefusedSettle {
        number,
        offset: Offset(offset),
        lease: 100 + offset,
        verb: SettleVerb::Ack,
        fault: SettleFault::LeaseLost,
    };
    Event::SettleRefused { stream, refused }
}

#[test]
fn work_is_handed_on_with_its_leases() {
    let mut session = Session::new();
    let stream = session.open_consumer(10);
    session.feed(&work(stream, &[(5, 105), (9, 109)]));
    let [Event::Worked { work, .. }] = &session.events()[..] else {
        panic!("one event");
    };
    let lease = Duration::from_millis(LEASE_MS.into());
    for (item, offset) in work.iter().zip([5, 9]) {
        assert_eq!(item.entry.offset, Offset(offset));
        assert_eq!(item.record.offset(), Offset(offset));
        assert_eq!(item.entry.lease, 100 + offset);
        assert_eq!(item.record.as_bytes(), offset.to_string().as_bytes());
        assert_eq!(item.record.append_time_us(), 1_000_000);
        assert_eq!(item.until, session.now + lease);
    }
}

#[test]
fn settles_that_wait_travel_together_and_are_numbered() {
    let mut session = Session::new();
    let stream = session.open_consumer(10);
    ack(&mut session, stream, 0..100);
    let sent = session.sent();
    assert_eq!(sent.len(), 1, "one message for all that waited");
    assert_eq!(settles(&sent[0]), (1, (0..100).collect()));
    // No answer is waited for.
    ack(&mut session, stream, 100..103);
    assert_eq!(settles(&session.sent()[0]), (101, vec![100, 101, 102]));
    ack(&mut session, stream, 103..103 + SETTLES_MAX as u64 + 1);
    let sent = session.sent();
    let firsts: Vec<_> = sent.iter().map(|sent| settles(sent).0).collect();
    assert_eq!(firsts, [104, 104 + SETTLES_MAX as u64]);
}

#[test]
fn outcomes_are_matched_by_number() {
    let mut session = Session::new();
    let stream = session.open_consumer(10);
    ack(&mut session, stream, 50..60);
    session.sent();
    session.feed(&settle_ack(stream, 4, &[2, 3]));
    session.feed(&settle_ack(stream, 10, &[9]));
    let settled = |through| Event::Settled { stream, through };
    let expected = [
        refused(stream, 2, 51),
        refused(stream, 3, 52),
        settled(4),
        refused(stream, 9, 58),
        settled(10),
    ];
    assert_eq!(session.events(), expected);
}

#[test]
fn every_verb_travels_with_its_argument() {
    let mut session = Session::new();
    let stream = session.open_consumer(10);
    let all = [
        (SettleVerb::Ack, 0, ""),
        (SettleVerb::Retry, 0, ""),
        (SettleVerb::RetryAfter, 5_000, ""),
        (SettleVerb::Reject, 0, "no such customer"),
        (SettleVerb::Release, 0, ""),
        (SettleVerb::Extend, 7_000, ""),
    ];
    for (verb, arg_us, reason) in all {
        let settle = SettleRequest {
            arg_us,
            reason: reason.into(),
            ..settle(1, verb)
        };
        session.core.settle(stream, settle).unwrap();
    }
    let sent = session.sent();
    let entries = Settle::decode(&sent[0].1).unwrap().entries();
    let found: Vec<_> = entries.map(|e| (e.verb, e.arg_us, e.text)).collect();
    assert_eq!(found, all);
}

#[test]
fn windows_and_receives_go_out_one_receive_at_a_time() {
    let mut session = Session::new();
    let stream = session.open_consumer(0);
    let window = Window {
        messages: 5,
        bytes: 1000,
    };
    session.core.set_window(stream, window);
    let receive = Receive {
        messages: 3,
        bytes: 0,
        wait_ms: 20_000,
        lease_ms: 0,
    };
    session.core.receive_work(stream, &receive);
    session.core.receive_work(stream, &receive);
    let sent = session.sent();
    assert_eq!(sent.len(), 2, "the second receive waits for nobody");
    assert_eq!(Window::decode(&sent[0].1).unwrap(), window);
    assert_eq!(Receive::decode(&sent[1].1).unwrap(), receive);
    let number = sent[1].0.correlation;
    let over = ReceiveOver { granted: 1 };
    session.feed(&work(stream, &[(1, 101)]));
    session.feed(&encoded(|out| over.encode(stream, number, out)));
    let events = session.events();
    assert!(matches!(events[0], Event::Worked { .. }));
    assert_eq!(events[1], Event::ReceiveOver { stream, granted: 1 });
    session.core.receive_work(stream, &receive);
    assert_eq!(session.sent().len(), 1);
}

#[test]
fn a_lost_connection_leaves_what_was_sent_unknown_and_the_rest_unchanged() {
    let mut session = Session::new();
    let stream = session.open_consumer(10);
    ack(&mut session, stream, 0..3);
    session.sent();
    session.feed(&settle_ack(stream, 1, &[]));
    ack(&mut session, stream, 3..5);
    session.events();
    session.core.end_of_input();
    let lost = ConnectionError::ClosedByServer { reason: "".into() };
    let unsettled = |settles, why| Event::Unsettled {
        stream,
        settles,
        why,
    };
    let expected = [
        unsettled(2..4, Unsettled::Unanswered),
        unsettled(4..6, Unsettled::Unchanged),
        Event::Ended(lost),
    ];
    assert_eq!(session.events(), expected);
    let late = settle(9, SettleVerb::Ack);
    assert_eq!(session.core.settle(stream, late), None);
}

#[test]
fn a_refused_stream_is_over_while_its_connection_is_not() {
    let mut session = Session::new();
    let stream = session.open_consumer(10);
    ack(&mut session, stream, 0..1);
    session.sent();
    session.feed(&refusal(stream, 1, ErrorCode::QueueNotFound));
    session.feed(&bare(MessageKind::StreamClosed, stream, 0));
    let events = session.events();
    let unsettled = Event::Unsettled {
        stream,
        settles: 1..2,
        why: Unsettled::Unchanged,
    };
    assert_eq!(events[1], unsettled);
    assert!(
        matches!(&events[0], Event::StreamEnded { refusal: Some(refusal), .. }
            if refusal.code == ErrorCode::QueueNotFound)
    );
    assert_eq!(events.len(), 2);
    assert!(session.core.check_open().is_ok());
    session.feed(&work(stream, &[(1, 1)]));
    assert!(
        session.events().is_empty(),
        "what crossed the end is for nobody"
    );
}

#[test]
fn an_error_is_about_the_settles_from_its_number_on() {
    let mut session = Session::new();
    let stream = session.open_consumer(10);
    ack(&mut session, stream, 0..4);
    session.sent();
    ack(&mut session, stream, 4..5);
    session.feed(&settle_ack(stream, 1, &[]));
    session.events();
    session.feed(&refusal(stream, 3, ErrorCode::WindowExceeded));
    let unsettled = |settles, why| Event::Unsettled {
        stream,
        settles,
        why,
    };
    let expected = [
        unsettled(2..3, Unsettled::Unanswered),
        unsettled(3..6, Unsettled::Unchanged),
    ];
    assert_eq!(session.events()[1..], expected);
}

#[test]
fn a_stream_is_closed_once_its_settles_are_answered() {
    let mut session = Session::new();
    let stream = session.open_consumer(10);
    ack(&mut session, stream, 0..2);
    session.core.close_stream(stream);
    let late = settle(9, SettleVerb::Ack);
    assert_eq!(session.core.settle(stream, late), None);
    assert_eq!(settles(&session.sent()[0]).0, 1);
    session.feed(&settle_ack(stream, 1, &[]));
    assert!(session.sent().is_empty());
    session.feed(&settle_ack(stream, 2, &[]));
    assert_eq!(session.sent()[0].0.kind, MessageKind::CloseStream);
    session.feed(&bare(MessageKind::StreamClosed, stream, 0));
    session.events();
    let idle = session.open_consumer(10);
    session.core.close_stream(idle);
    assert_eq!(session.sent()[0].0.kind, MessageKind::CloseStream);
}

#[test]
fn closing_waits_for_the_answers_to_settles() {
    let mut session = Session::new();
    let stream = session.open_consumer(10);
    ack(&mut session, stream, 0..2);
    session.core.close();
    assert_eq!(session.sent()[0].0.kind, MessageKind::Settle);
    session.feed(&settle_ack(stream, 2, &[1]));
    assert_eq!(session.sent()[0].0.kind, MessageKind::Goodbye);
    assert_eq!(session.events()[0], refused(stream, 1, 0));
}

#[test]
fn answers_it_made_up_end_the_connection() {
    let check = |bytes: &dyn Fn(StreamId) -> Vec<u8>, part: &str| {
        let mut session = Session::new();
        let stream = session.open_consumer(10);
        ack(&mut session, stream, 0..3);
        session.sent();
        session.feed(&settle_ack(stream, 1, &[]));
        session.feed(&bytes(stream));
        let what = session.violation();
        assert!(what.contains(part), "{what}");
    };
    check(&|s| settle_ack(s, 4, &[]), "settle 4, of 3 sent");
    check(&|s| settle_ack(s, 1, &[]), "settle 1, of 3 sent and 1");
    check(&|s| settle_ack(s, 3, &[1]), "refused settle 1");
    let over = ReceiveOver { granted: 0 };
    check(
        &|s| encoded(|out| over.encode(s, 1, out)),
        "ended receive 1",
    );
    check(&|s| crate::script::consumer_opened(s, 1), "out of place");
    check(&|_| settle_ack(StreamId(9), 1, &[]), "never opened");
    check(&|_| work(StreamId(9), &[(1, 1)]), "never opened");
    let mut damaged = work(StreamId(1), &[(1, 1)]);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    check(&|_| damaged.clone(), "crc");
}

#[test]
fn work_ahead_of_the_consumer_is_bounded() {
    let mut session = Session::new();
    let stream = session.open_consumer(WORK_WINDOW_MESSAGES_MAX);
    let leases: Vec<_> = (0..4096).map(|offset| (offset, offset)).collect();
    let full = work(stream, &leases);
    let messages = 2 * WORK_WINDOW_MESSAGES_MAX / 4096;
    for _ in 0..messages {
        session.feed(&full);
    }
    session.events();
    // As many more as were taken.
    for _ in 0..4096 {
        session.core.work_taken(stream, 4);
    }
    session.feed(&full);
    assert!(session.core.check_open().is_ok());
    session.events();
    session.feed(&work(stream, &[(1, 1)]));
    assert!(session.violation().contains("were not taken"));
}
