//! Whole conversations by chance: any split of the bytes, any damage, well-framed nonsense.

use millstream_protocol::control::Retention;

use super::*;

/// A retention, another one for each number.
fn hours(number: u64) -> Retention {
    Retention {
        bytes: number << 30,
        age_ms: number * 3_600_000,
    }
}

/// What may be asked in any order, by number.
fn step(script: Script, kind: u8, index: u64, topic: &str) -> Script {
    match kind % 18 {
        0 => script.ping(index),
        1 => script.describe(1000 + index, topic),
        2 => script.describe(1000 + index, "absent"),
        3 => script.publish(77, 1, b"never opened"),
        4 => script.create(1000 + index, topic, Durability::Synced),
        5 => script.list(1000 + index, Some("zzz")),
        6 => script.close(78, index),
        7 => script.window(79, 1),
        8 => script.receive(79, index, 1, 1),
        9 => script.describe_queue(1000 + index, "absent"),
        10 => script.list_queues(1000 + index, None),
        11 => script.peek(1000 + index, "absent", index, 1),
        12 => script.list_cursors(1000 + index, Some(("absent", "absent"))),
        13 => script.set_cursor(1000 + index, "absent", "absent", index),
        14 => script.consumer(1000 + index as u32, "absent", 1),
        15 => script.describe_retention(1000 + index, topic),
        16 => script.set_retention(1000 + index, topic, hours(index)),
        _ => script.credit(2, 1 + index as u32),
    }
}

/// Each stream's part of what was said, in its order; the connection is stream 0.
fn by_stream(said: &[Said]) -> Vec<(u32, Vec<String>)> {
    let mut streams = std::collections::BTreeMap::<u32, Vec<String>>::new();
    for said in said {
        let stream = match said {
            Said::Error { stream, .. }
            | Said::StreamClosed { stream, .. }
            | Said::PublisherOpened { stream, .. }
            | Said::Acked { stream, .. }
            | Said::ReaderOpened { stream, .. }
            | Said::Record { stream, .. }
            | Said::Gap { stream, .. } => *stream,
            _ => 0,
        };
        // How far a topic has come when it is asked about is a matter of timing.
        let text = match said {
            Said::Topic { correlation, info } => format!("topic {correlation} {}", info.name),
            Said::ReaderOpened { .. } => "reader opened".to_owned(),
            Said::Pong(_) => continue,
            other => format!("{other:?}"),
        };
        streams.entry(stream).or_default().push(text);
    }
    streams.into_iter().collect()
}

fn converse(broker: &Broker, script: &Script, cuts: &[usize], publishes: u64) -> Vec<Said> {
    let mut wire = Wire::new(broker);
    let mut rest = &script.0[..];
    for cut in cuts {
        let (piece, behind) = rest.split_at(1 + cut % rest.len().max(1).min(rest.len()));
        wire.feed(piece);
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    wire.feed(rest);
    wire.until(|said| {
        said.iter()
            .filter(|said| matches!(said, Said::Record { .. }))
            .count() as u64
            == publishes
            && said
                .iter()
                .any(|said| matches!(said, Said::StreamClosed { stream: 1, .. }))
    });
    wire.ear.said
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_the_input_says_the_same(
        kinds in prop::collection::vec((any::<u8>(), 0usize..3000), 1..40),
        cuts in prop::collection::vec(0usize..4000, 0..60),
    ) {
        let (_folder, broker) = broker();
        let script = |topic: &str| {
            let mut script = Script::hello()
                .create(1, topic, Durability::Stored)
                .publisher(1, topic, AckLevel::Topic)
                .reader(2, topic, Start::Earliest, 32 << 20);
            let mut publishes = 0;
            for (index, (kind, bytes)) in kinds.iter().enumerate() {
                if kind % 2 == 0 {
                    publishes += 1;
                    script = script.publish(1, publishes, &vec![*kind; *bytes]);
                } else {
                    script = step(script, kind / 2, index as u64, topic);
                }
            }
            (script.close(1, 5), publishes)
        };
        let (whole, publishes) = script("whole");
        let at_once = converse(&broker, &whole, &[], publishes);
        let (split, _) = script("split");
        let in_pieces = converse(&broker, &split, &cuts, publishes);
        let named = |said: &[Said]| {
            let text = format!("{:?}", by_stream(said));
            text.replace("whole", "split")
        };
        prop_assert_eq!(named(&at_once), named(&in_pieces));
    }

    #[test]
    fn garbage_ends_in_an_error_or_in_waiting(
        garbage in prop::collection::vec(any::<u8>(), 1..2000),
        greeted in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let (_folder, broker) = broker();
        let mut wire = if greeted { open(&broker) } else { Wire::new(&broker) };
        let (first, second) = garbage.split_at(cut.index(garbage.len()));
        wire.feed(first);
        wire.feed(second);
        if wire.session.is_closed() {
            let last_is_error = matches!(wire.ear.said.last(), Some(Said::Error { stream: 0, .. }));
            prop_assert!(last_is_error);
        } else {
            prop_assert!(garbage.len() < 32, "a header's checksum does not match by chance");
        }
    }

    #[test]
    fn a_flipped_bit_is_never_accepted(
        bit in any::<prop::sample::Index>(),
    ) {
        let (_folder, broker) = broker();
        let mut wire = open(&broker);
        wire.feed(&Script::default().publisher(1, "t", AckLevel::Stored).0);
        let mut publish = Script::default().publish(1, 1, b"every bit of this counts").0;
        let bit = bit.index(publish.len() * 8);
        publish[bit / 8] ^= 1 << (bit % 8);
        wire.feed(&publish);
        let error = wire.ear.said.iter().any(|said| matches!(said, Said::Error { .. }));
        prop_assert!(error, "{:?}", wire.ear.said);
        prop_assert_eq!(broker.topic("t").unwrap().next_offset, Offset(0));
    }

    #[test]
    fn whole_messages_of_nonsense_are_answered_and_never_believed(
        messages in prop::collection::vec(
            (nonsense_kind(), 0u32..5, 0u64..4, prop::collection::vec(any::<u8>(), 0..120)),
            1..60,
        ),
    ) {
        let (_folder, broker) = broker();
        let mut wire = open(&broker);
        wire.feed(
            &Script::default()
                .publisher(1, "t", AckLevel::Stored)
                .reader(2, "t", Start::Earliest, 1000)
                .0,
        );
        for (kind, stream, correlation, body) in &messages {
            wire.feed(&whole_message(*kind, *stream, *correlation, body));
        }
        wire.feed(&Script::default().ping(99).0);
        if wire.session.is_closed() {
            let refused = wire.ear.said.iter().any(|said| {
                matches!(said, Said::Error { stream: 0, correlation: 0, .. })
            });
            let left = messages.iter().any(|(kind, ..)| *kind == MessageKind::Goodbye);
            prop_assert!(refused || left, "{:?}", wire.ear.said);
        } else {
            let answered = wire.ear.said.contains(&Said::Pong(99));
            prop_assert!(answered, "{:?}", wire.ear.said);
        }
        prop_assert_eq!(broker.topic("t").unwrap().next_offset, Offset(0));
    }
}

/// What a client may send; a goodbye is rare, since it ends everything.
fn nonsense_kind() -> impl Strategy<Value = MessageKind> {
    prop_oneof![
        9 => prop::sample::select(vec![
            MessageKind::Ping,
            MessageKind::Pong,
            MessageKind::CreateTopic,
            MessageKind::DeleteTopic,
            MessageKind::DescribeTopic,
            MessageKind::ListTopics,
            MessageKind::OpenPublisher,
            MessageKind::Publish,
            MessageKind::OpenReader,
            MessageKind::Credit,
            MessageKind::CloseStream,
        ]),
        1 => Just(MessageKind::Goodbye),
    ]
}

/// A message whose header and checksums are right, whatever its body is.
fn whole_message(kind: MessageKind, stream: u32, correlation: u64, body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(kind.body_bytes_max())];
    let about_stream = matches!(
        kind,
        MessageKind::OpenPublisher
            | MessageKind::Publish
            | MessageKind::OpenReader
            | MessageKind::Credit
            | MessageKind::CloseStream
    );
    let body_crc = match kind {
        MessageKind::Publish => 0,
        _ => millstream_protocol::checksum::crc32c(body),
    };
    let header = WireHeader {
        kind,
        body_bytes: body.len() as u32,
        stream: StreamId(if about_stream { stream.max(1) } else { 0 }),
        correlation,
        body_crc,
    };
    [&header.encode()[..], body].concat()
}
