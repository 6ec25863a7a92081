//! What a reader stream brings, and the credit that bounds it.

use millstream_client::core::{Delivery, Event};
use millstream_client::{GapReason, Offset};
use millstream_protocol::control::{Credit, Gap};
use millstream_protocol::frame::FramePlace;
use millstream_protocol::wire::{MessageKind, StreamId};

use crate::script::{PLACE, Session, bare, delivery, encoded, stored};

fn gap(stream: StreamId, first: u64, next: u64, reason: GapReason) -> Vec<u8> {
    let (first_offset, next_offset) = (Offset(first), Offset(next));
    let gap = Gap {
        first_offset,
        next_offset,
        reason,
    };
    encoded(|out| gap.encode(stream, 1, out))
}

fn credits(session: &mut Session) -> Vec<u32> {
    let sent = session.sent();
    let credits = sent.iter().map(|(header, body)| {
        assert_eq!(header.kind, MessageKind::Credit);
        Credit::decode(body).unwrap().bytes
    });
    credits.collect()
}

#[test]
fn frames_are_handed_on_as_they_came() {
    let mut session = Session::new();
    let stream = session.open_reader(10_000, 5);
    let frames = stored(&[b"a", b"b"], 5, 12_288);
    session.feed(&delivery(stream, 12_288, 5..7, &frames));
    let expected = Delivery {
        frames: frames.into(),
        place: PLACE,
        next_offset: Offset(7),
    };
    let delivered = Event::Delivered {
        stream,
        delivery: expected,
    };
    assert_eq!(session.events(), [delivered]);
}

#[test]
fn deliveries_and_gaps_follow_one_another() {
    let mut session = Session::new();
    let stream = session.open_reader(10_000, 5);
    // The first frame may begin before the start.
    let frames = stored(&[b"3", b"4", b"5"], 3, 12_288);
    session.feed(&delivery(stream, 12_288, 3..6, &frames));
    session.feed(&gap(stream, 6, 20, GapReason::Trimmed));
    session.feed(&delivery(stream, 0, 20..21, &stored(&[b"20"], 20, 0)));
    let events = session.events();
    assert_eq!(events.len(), 3);
    let (first, next, reason) = (Offset(6), Offset(20), GapReason::Trimmed);
    assert_eq!(
        events[1],
        Event::Gap {
            stream,
            first,
            next,
            reason
        }
    );
    let Event::Delivered { delivery, .. } = &events[2] else {
        panic!("{events:?}");
    };
    assert_eq!(
        delivery.place,
        FramePlace {
            position: 0,
            ..PLACE
        }
    );
}

#[test]
fn credit_goes_back_as_bytes_are_consumed_many_at_once() {
    let mut session = Session::new();
    let stream = session.open_reader(1000, 0);
    let frame = stored(&[&[1; 64]], 0, 12_288);
    assert_eq!(frame.len(), 128);
    session.feed(&delivery(stream, 12_288, 0..1, &frame));
    session.core.consumed(stream, 128);
    assert!(credits(&mut session).is_empty(), "not worth a message yet");
    session.feed(&delivery(
        stream,
        12_416,
        1..2,
        &stored(&[&[1; 64]], 1, 12_416),
    ));
    session.core.consumed(stream, 128);
    assert_eq!(credits(&mut session), [256]);
    session.core.consumed(stream, 249);
    assert!(
        credits(&mut session).is_empty(),
        "all before was given back"
    );
    session.core.consumed(stream, 1);
    assert_eq!(credits(&mut session), [250]);
}

#[test]
fn one_frame_may_overdraw_the_credit() {
    let mut session = Session::new();
    let stream = session.open_reader(100, 0);
    let frame = stored(&[&[1; 1000]], 0, 12_288);
    session.feed(&delivery(stream, 12_288, 0..1, &frame));
    assert!(matches!(session.events()[..], [Event::Delivered { .. }]));
    session.core.consumed(stream, frame.len() as u32);
    assert_eq!(credits(&mut session), [frame.len() as u32]);
}

#[test]
fn what_crosses_the_end_of_a_stream_is_for_nobody() {
    let mut session = Session::new();
    let stream = session.open_reader(1000, 0);
    session.core.close_stream(stream);
    assert_eq!(session.sent()[0].0.kind, MessageKind::CloseStream);
    session.feed(&delivery(stream, 12_288, 0..1, &stored(&[b"a"], 0, 12_288)));
    session.feed(&gap(stream, 1, 2, GapReason::Void));
    session.feed(&bare(MessageKind::StreamClosed, stream, 0));
    session.feed(&gap(stream, 2, 3, GapReason::Void));
    session.core.consumed(stream, 1000);
    session.core.gap_taken(stream);
    assert!(session.events().is_empty());
    assert!(session.sent().is_empty());
}

#[test]
fn a_stream_ended_by_the_server_says_so_once() {
    let mut session = Session::new();
    let stream = session.open_reader(1000, 0);
    session.feed(&bare(MessageKind::StreamClosed, stream, 0));
    let ended = Event::StreamEnded {
        stream,
        refusal: None,
    };
    assert_eq!(session.events(), [ended]);
    session.core.close_stream(stream);
    assert!(session.sent().is_empty());
}
