//! What goes out, when, and in which order.

use millstream_client::core::{Event, NotTaken, Place, ReadyFrame};
use millstream_client::{BatchBuilder, ErrorCode, Message, TopicErrorCause};
use millstream_protocol::AckLevel;
use millstream_protocol::control::{OpenProducer, Welcome, features};
use millstream_protocol::wire::{MessageKind, StreamId};
use proptest::prelude::*;

use crate::script::{Published, Session, ack, publisher_opened, topic, welcome};

fn published(stream: StreamId, number: u64, bodies: &[&str]) -> Published {
    Published {
        stream: stream.0,
        number,
        bodies: bodies.iter().map(|body| body.as_bytes().to_vec()).collect(),
    }
}

fn batch(bodies: &[&str]) -> ReadyFrame {
    let mut batch = BatchBuilder::new();
    for body in bodies {
        batch.push_body(body.as_bytes()).unwrap();
    }
    ReadyFrame::of_batch(&batch).unwrap()
}

#[test]
fn a_message_goes_at_once_and_what_waits_goes_together() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    let place = session.core.publish(stream, &"a".into()).unwrap();
    assert_eq!(
        place,
        Place {
            publish: 1,
            record: 0
        }
    );
    assert_eq!(session.publishes(), [published(stream, 1, &["a"])]);
    assert!(!session.core.has_output());
    // The socket is busy: nobody asks for more, so these gather.
    for (record, body) in ["b", "c", "d"].into_iter().enumerate() {
        let place = session.core.publish(stream, &body.into()).unwrap();
        let record = record as u16;
        assert_eq!(place, Place { publish: 2, record });
    }
    assert_eq!(
        session.publishes(),
        [published(stream, 2, &["b", "c", "d"])]
    );
    session.core.publish(stream, &"e".into()).unwrap();
    session.core.publish(stream, &"f".into()).unwrap();
    assert_eq!(session.pass().len(), 1);
    assert!(!session.core.has_output(), "the stream has had its turn");
}

#[test]
fn a_batch_stays_its_own_frame_in_its_place() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    let core = &mut session.core;
    core.publish(stream, &"a".into()).unwrap();
    core.publish(stream, &"b".into()).unwrap();
    assert_eq!(core.publish_frame(stream, batch(&["c", "d"])), Ok(2));
    assert_eq!(core.publish_frame(stream, batch(&["e"])), Ok(3));
    let place = core.publish(stream, &"f".into());
    assert_eq!(
        place,
        Ok(Place {
            publish: 4,
            record: 0
        })
    );
    let expected = [
        published(stream, 1, &["a", "b"]),
        published(stream, 2, &["c", "d"]),
        published(stream, 3, &["e"]),
        published(stream, 4, &["f"]),
    ];
    assert_eq!(session.publishes(), expected);
}

#[test]
fn large_bodies_are_frames_that_are_not_copied() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    let body = bytes::Bytes::from(vec![7; 1 << 20]);
    let large = Message::new(body.clone());
    let frame = ReadyFrame::of_large(&large).unwrap();
    assert!(ReadyFrame::of_large(&large.key("k")).is_none());
    assert!(ReadyFrame::of_large(&Message::new("small")).is_none());
    assert!(ReadyFrame::of_large(&Message::new(vec![0; 17 << 20])).is_none());
    session.core.publish(stream, &"small".into()).unwrap();
    session.core.publish_frame(stream, frame).unwrap();
    let mut out = millstream_client::core::Outgoing::default();
    assert!(session.core.transmit(session.now, &mut out));
    assert_eq!(out.body.as_ptr(), body.as_ptr());
    assert!(out.head.len() < 512);
}

#[test]
fn gathered_messages_are_sealed_before_they_grow_large() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    let body = vec![1; 1000];
    for _ in 0..200 {
        session.core.publish(stream, &body[..].into()).unwrap();
    }
    let sent = session.publishes();
    assert!(
        sent.iter().all(|frame| frame.bodies.len() <= 65),
        "64 KiB frames"
    );
    assert_eq!(
        sent.iter().map(|frame| frame.bodies.len()).sum::<usize>(),
        200
    );
    let numbers: Vec<_> = sent.iter().map(|frame| frame.number).collect();
    assert_eq!(numbers, (1..=sent.len() as u64).collect::<Vec<_>>());
}

#[test]
fn bodies_gather_with_messages_up_to_the_same_bound() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    let core = &mut session.core;
    let place = |record| Ok(Place { publish: 1, record });
    assert_eq!(core.publish(stream, &"a".into()), place(0));
    assert_eq!(core.publish_body(stream, b"b"), place(1));
    assert_eq!(core.publish(stream, &"c".into()), place(2));
    let too_large = core.publish_body(stream, &vec![0; 17 << 20]);
    assert!(matches!(too_large, Err(NotTaken::Message(_))));
    assert_eq!(
        session.publishes(),
        [published(stream, 1, &["a", "b", "c"])]
    );
    for _ in 0..200 {
        session.core.publish_body(stream, &[1; 1000]).unwrap();
    }
    let sent = session.publishes();
    let bodies = sent.iter().map(|frame| frame.bodies.len());
    assert_eq!((sent.len(), bodies.sum::<usize>()), (4, 200));
    let unknown = session.core.publish_body(StreamId(99), b"x");
    assert_eq!(unknown, Err(NotTaken::StreamEnded));
}

#[test]
fn a_message_with_an_id_is_a_frame_of_its_own() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    let id = |body: &'static str| Message::new(body).id("once");
    let messages = [
        "a".into(),
        Message::new("b").key("k"),
        id("c"),
        id("d"),
        "e".into(),
        "f".into(),
    ];
    let places = messages.map(|message| session.core.publish(stream, &message).unwrap());
    let places = places.map(|place| (place.publish, place.record));
    assert_eq!(places, [(1, 0), (1, 1), (2, 0), (3, 0), (4, 0), (4, 1)]);
    let frames = session.publishes().into_iter().map(|p| p.bodies.len());
    assert_eq!(frames.collect::<Vec<_>>(), [2, 1, 1, 2]);
}

#[test]
fn messages_with_options_gather_too() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    session.core.publish(stream, &"a".into()).unwrap();
    session
        .core
        .publish(stream, &Message::new("b").key("k"))
        .unwrap();
    session.core.publish(stream, &"c".into()).unwrap();
    assert_eq!(
        session.publishes(),
        [published(stream, 1, &["a", "b", "c"])]
    );
}

#[test]
fn streams_take_turns() {
    let mut session = Session::new();
    let (one, two) = (session.open_publisher(), session.open_publisher());
    for _ in 0..3 {
        session.core.publish_frame(one, batch(&["1"])).unwrap();
        session.core.publish_frame(two, batch(&["2"])).unwrap();
    }
    let order: Vec<_> = session.publishes().iter().map(|sent| sent.stream).collect();
    assert_eq!(order, [one.0, two.0, one.0, two.0, one.0, two.0]);
}

#[test]
fn the_window_of_bytes_holds_messages_back() {
    let mut session = Session::with(&Welcome {
        publish_window_bytes: 1000,
        ..welcome()
    });
    let stream = session.open_publisher();
    let body = [0; 400];
    let mut taken = 0;
    while session.core.publish(stream, &body[..].into()).is_ok() {
        taken += 1;
        session.sent();
    }
    assert_eq!(taken, 3, "the one that passes the window is the last");
    assert!(!session.core.has_room(stream));
    let full = session.core.publish(stream, &"x".into());
    assert_eq!(full, Err(NotTaken::WindowFull));
    // Two frames are on their way; the third waits here until one is acknowledged.
    assert!(session.publishes().is_empty());
    session.feed(&ack(stream, 1, &[(1, 0)]));
    assert!(session.core.has_room(stream));
    assert_eq!(session.publishes().len(), 1);
}

#[test]
fn a_frame_larger_than_the_window_goes_alone() {
    let mut session = Session::with(&Welcome {
        publish_window_bytes: 100,
        ..welcome()
    });
    let stream = session.open_publisher();
    let large = "x".repeat(500);
    session
        .core
        .publish(stream, &large.as_str().into())
        .unwrap();
    assert_eq!(session.publishes().len(), 1);
    assert!(!session.core.has_room(stream));
    session.feed(&ack(stream, 1, &[(1, 0)]));
    session.core.publish(stream, &"a".into()).unwrap();
    session
        .core
        .publish_frame(stream, batch(&[&large]))
        .unwrap();
    assert_eq!(session.publishes(), [published(stream, 2, &["a"])]);
    session.feed(&ack(stream, 2, &[(1, 1)]));
    assert_eq!(session.publishes(), [published(stream, 3, &[&large])]);
}

#[test]
fn the_window_of_frames_makes_messages_gather() {
    let mut session = Session::with(&Welcome {
        publish_window_frames: 2,
        ..welcome()
    });
    let stream = session.open_publisher();
    for body in ["a", "b"] {
        session.core.publish(stream, &body.into()).unwrap();
        assert_eq!(session.publishes().len(), 1);
    }
    for body in ["c", "d", "e"] {
        session.core.publish(stream, &body.into()).unwrap();
        assert!(session.publishes().is_empty());
    }
    session.feed(&ack(stream, 2, &[(2, 0)]));
    assert_eq!(
        session.publishes(),
        [published(stream, 3, &["c", "d", "e"])]
    );
}

#[test]
fn what_breaks_a_limit_is_not_taken() {
    let mut session = Session::with(&Welcome {
        frame_bytes_max: 1024,
        ..welcome()
    });
    let stream = session.open_publisher();
    let large = "x".repeat(1000);
    let taken = session.core.publish(stream, &large.as_str().into());
    assert!(matches!(taken, Err(NotTaken::Message(_))), "{taken:?}");
    let taken = session.core.publish_frame(stream, batch(&[&large]));
    let (frame_bytes, frame_bytes_max) = (1064, 1024);
    assert_eq!(
        taken,
        Err(NotTaken::TooLarge {
            frame_bytes,
            frame_bytes_max
        })
    );
    let taken = session
        .core
        .publish(stream, &Message::new("a").key("k".repeat(1025)));
    assert!(matches!(taken, Err(NotTaken::Message(_))), "{taken:?}");
    assert!(ReadyFrame::of_batch(&BatchBuilder::new()).is_none());
    assert!(session.publishes().is_empty());
    session.core.publish(stream, &"fits".into()).unwrap();
    assert_eq!(session.publishes(), [published(stream, 1, &["fits"])]);
}

#[test]
fn a_stream_takes_nothing_before_it_is_open_and_after_it_is_closed() {
    let mut session = Session::new();
    let open = millstream_protocol::control::OpenPublisher {
        topic: topic("t"),
        ack: millstream_client::AckLevel::Topic,
        create: false,
    };
    let stream = session.core.open_publisher(&open).unwrap();
    let early = session.core.publish(stream, &"a".into());
    assert_eq!(early, Err(NotTaken::StreamEnded));
    session.feed(&publisher_opened(stream));
    session.core.publish(stream, &"a".into()).unwrap();
    session.core.close_stream(stream);
    let late = session.core.publish(stream, &"b".into());
    assert_eq!(late, Err(NotTaken::StreamEnded));
}

#[test]
fn a_closed_stream_sends_and_hears_of_what_it_took() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    session.core.publish(stream, &"a".into()).unwrap();
    session.core.close_stream(stream);
    assert_eq!(session.publishes(), [published(stream, 1, &["a"])]);
    session.feed(&ack(stream, 1, &[(1, 5)]));
    assert!(matches!(session.events()[..], [Event::Published { .. }]));
    let sent = session.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0.kind, MessageKind::CloseStream);
}

#[test]
fn closing_sends_all_hears_all_and_says_goodbye() {
    let mut session = Session::new();
    let stream = session.open_publisher();
    session.core.publish(stream, &"a".into()).unwrap();
    session.core.close();
    assert!(session.core.check_open().is_err());
    assert_eq!(session.publishes(), [published(stream, 1, &["a"])]);
    assert!(!session.core.is_finished());
    session.feed(&ack(stream, 1, &[(1, 0)]));
    assert!(!session.core.is_finished(), "the goodbye is yet to be sent");
    let sent = session.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0.kind, MessageKind::Goodbye);
    assert!(session.core.is_finished());
}

/// What a test does to a publisher.
#[derive(Debug, Clone)]
enum Step {
    Message(usize),
    Batch(usize),
    Pass,
    Ack,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3000_usize).prop_map(Step::Message),
        1 => (1..5_usize).prop_map(Step::Batch),
        2 => Just(Step::Pass),
        1 => Just(Step::Ack),
    ]
}

proptest! {
    #[test]
    fn what_was_taken_is_sent_once_in_order_within_the_window(
        steps in prop::collection::vec(step(), 1..200)
    ) {
        let limits = Welcome { publish_window_bytes: 20_000, publish_window_frames: 5, ..welcome() };
        let mut session = Session::with(&limits);
        let stream = session.open_publisher();
        let (mut taken, mut sent, mut in_flight) = (Vec::new(), Vec::new(), Vec::new());
        let mut number = 0;
        let mut offset = 0;
        for step in steps {
            match step {
                Step::Message(bytes) => {
                    let body = vec![taken.len() as u8; bytes];
                    if session.core.publish(stream, &body[..].into()).is_ok() {
                        taken.push(body);
                    }
                }
                Step::Batch(records) => {
                    let mut batch = BatchBuilder::new();
                    let bodies: Vec<_> =
                        (0..records).map(|i| vec![(taken.len() + i) as u8; 100]).collect();
                    for body in &bodies {
                        batch.push_body(body).unwrap();
                    }
                    let frame = ReadyFrame::of_batch(&batch).unwrap();
                    if session.core.publish_frame(stream, frame).is_ok() {
                        taken.extend(bodies);
                    }
                }
                Step::Pass => {
                    for (header, body) in session.pass() {
                        let frame = crate::script::published(&(header, body.clone()));
                        prop_assert_eq!(frame.number, number + in_flight.len() as u64 + 1);
                        in_flight.push((body.len(), frame.bodies.len()));
                        sent.extend(frame.bodies);
                    }
                    let bytes: usize = in_flight.iter().map(|(bytes, _)| *bytes).sum();
                    prop_assert!(in_flight.len() <= 5);
                    prop_assert!(bytes <= 20_000 || in_flight.len() == 1);
                }
                Step::Ack => {
                    let records: u64 = in_flight.iter().map(|(_, records)| *records as u64).sum();
                    if !in_flight.is_empty() {
                        number += in_flight.len() as u64;
                        session.feed(&ack(stream, number, &[(in_flight.len() as u32, offset)]));
                        offset += records;
                        in_flight.clear();
                    }
                }
            }
        }
        prop_assert_eq!(&taken[..sent.len()], &sent[..]);
    }
}

#[test]
fn a_server_that_knows_no_producers_is_not_asked_for_one() {
    let open = OpenProducer {
        topic: topic("t"),
        producer: topic("till"),
        ack: AckLevel::Topic,
        create: true,
        epoch: 0,
        acknowledged: 0,
    };
    let mut old = Session::new();
    let refused = old.core.open_producer(&open).unwrap_err();
    let TopicErrorCause::Refused(refusal) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refusal.code, ErrorCode::Unsupported);
    assert!(old.sent().is_empty());
    let mut new = Session::with(&Welcome {
        features: features::PRODUCERS,
        ..welcome()
    });
    new.core.open_producer(&open).unwrap();
    assert_eq!(new.sent()[0].0.kind, MessageKind::OpenProducer);
}
