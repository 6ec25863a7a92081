//! What holds for every batch, every frame and every message.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod raw;

use bytes::Bytes;
use millstream_protocol::batch::{
    BatchBuilder, BatchView, Checked, ColumnKind, Columns, Message, PushError, Record, RecordRef,
    RecordRun, decompress,
};
use millstream_protocol::control::{AckRun, Credit};
use millstream_protocol::control::{ErrorMessage, Goodbye, ListTopics, OpenReader, PublishAck};
use millstream_protocol::error::{Effect, ErrorCode};
use millstream_protocol::frame::{
    FrameHeader, FrameKind, FramePlace, ProducerStamp, PublisherFields, check_publish,
    check_stored, frame_bytes,
};
use millstream_protocol::limits::BODY_BYTES_MAX;
use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, WireHeader, next_message};
use millstream_protocol::{Offset, Start, TopicName};
use proptest::collection::vec;
use proptest::prelude::*;
use raw::{NONCE_HALF, POSITION, SEED, publish, stored};

/// Bytes, mostly few, sometimes more than the builder gathers.
fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..40),
        1 => vec(any::<u8>(), 4090..4110),
        1 => (any::<u8>(), 0..3000_usize).prop_map(|(byte, bytes)| std::vec![byte; bytes]),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = || prop_oneof![2 => Just(Vec::new()), 1 => vec(any::<u8>(), 0..20)];
    let word = || prop_oneof![2 => Just(0), 1 => any::<u64>()];
    let headers = prop_oneof![3 => Just(Vec::new()), 1 => vec(("\\PC{1,5}", bytes()), 0..4)];
    let words = (
        word(),
        word(),
        word(),
        prop_oneof![2 => Just(0), 1 => any::<u8>()],
    );
    (body(), bytes(), bytes(), bytes(), headers, words).prop_map(
        |(body, key, id, group, headers, (due, expires, published, priority))| {
            let message = Message::new(body).key(key).id(id).group(group);
            let message = message
                .due_at_us(due)
                .expires_at_us(expires)
                .published_at_us(published);
            headers
                .into_iter()
                .fold(message.priority(priority), |message, (name, value)| {
                    message.header(name, value)
                })
        },
    )
}

/// Batches of messages without options as often as with some.
fn messages() -> impl Strategy<Value = Vec<Message>> {
    prop_oneof![
        vec(message(), 1..12),
        vec(body().prop_map(Message::new), 1..12),
        vec(message(), 1..=1),
    ]
}

fn builder(messages: &[Message]) -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    for message in messages {
        builder.push(message).unwrap();
    }
    builder
}

fn body_of(builder: &BatchBuilder) -> Vec<u8> {
    let mut body = Vec::new();
    builder.write_body(&mut body);
    body
}

/// The message a record was.
fn back(record: RecordRef<'_>, body: &[u8]) -> Message {
    let message = Message::from(body)
        .key(record.key().unwrap_or_default().to_vec())
        .id(record.id().unwrap_or_default().to_vec())
        .group(record.group().unwrap_or_default().to_vec())
        .due_at_us(record.due_at_us().unwrap_or(0))
        .expires_at_us(record.expires_at_us().unwrap_or(0))
        .published_at_us(record.published_at_us().unwrap_or(0))
        .priority(record.priority());
    record.headers().fold(message, |message, (name, value)| {
        message.header(name, value.to_vec())
    })
}

fn back_owned(record: &Record) -> Message {
    match record.options_ref() {
        Some(options) => back(options, record.as_bytes()),
        None => Message::new(record.body()),
    }
}

/// A run of stored frames: published batches, some compressed, void frames between them.
#[derive(Debug, Clone)]
struct Stored {
    run: Vec<u8>,
    records: Vec<(u64, Message)>,
    next_offset: u64,
}

fn stored_run() -> impl Strategy<Value = Stored> {
    vec((messages(), any::<bool>(), 0..4_u16), 1..6).prop_map(|batches| {
        let (mut run, mut records, mut offset) = (Vec::new(), Vec::new(), 1000);
        for (messages, compress, void_records) in batches {
            let position = POSITION + u32::try_from(run.len()).unwrap();
            if void_records > 0 {
                let fields = PublisherFields {
                    kind: FrameKind::Void,
                    record_count: void_records,
                    ..PublisherFields::single(24)
                };
                run.extend(stored(fields, &[0xee; 24], offset, position));
                offset += u64::from(void_records);
            }
            let position = POSITION + u32::try_from(run.len()).unwrap();
            let mut builder = builder(&messages);
            if compress {
                builder.compress();
            }
            run.extend(stored(
                builder.fields(),
                &body_of(&builder),
                offset,
                position,
            ));
            for message in messages {
                records.push((offset, message));
                offset += 1;
            }
        }
        Stored {
            run,
            records,
            next_offset: offset,
        }
    })
}

/// A failing case is printed, and becomes a test with a name; no file of seeds is kept.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 192,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

const PLACE: FramePlace = FramePlace {
    seed: SEED,
    nonce_half: NONCE_HALF,
    position: POSITION,
};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_batch_gives_back_what_was_put_into_it(messages in messages()) {
        let builder = builder(&messages);
        let mut frame = Vec::new();
        builder.encode_frame(ProducerStamp::NONE, &mut frame);
        prop_assert_eq!(frame.len(), 64 + builder.body_bytes() as usize);
        let published = check_publish(&frame).unwrap();
        prop_assert_eq!(published.fields(), &builder.fields());
        let fields = builder.fields();
        prop_assert_eq!(&frame, &publish(&fields, published.body()));
        let view = BatchView::check(
            fields.kind, fields.record_count, false, published.body()).unwrap();
        let again: Vec<_> = view.iter().map(|record| back(record, record.body())).collect();
        prop_assert_eq!(again, messages);
    }

    #[test]
    fn a_used_builder_writes_what_a_new_one_does(first in messages(), second in messages()) {
        let mut used = builder(&first);
        used.compress();
        used.clear();
        prop_assert!(used.is_empty() && !used.fields().compressed);
        for message in &second {
            used.push(message).unwrap();
        }
        prop_assert_eq!(body_of(&used), body_of(&builder(&second)));
    }

    #[test]
    fn a_compressed_batch_expands_to_the_plain_one(messages in messages()) {
        let mut builder = builder(&messages);
        let plain_fields = builder.fields();
        let plain = body_of(&builder);
        if builder.compress() {
            let fields = builder.fields();
            prop_assert!(fields.compressed && fields.kind == FrameKind::Batch);
            let body = body_of(&builder);
            prop_assert_eq!(body.len(), fields.body_bytes as usize);
            prop_assert!(body.len() < plain.len());
            check_publish(&publish(&fields, &body)).unwrap();
            let expanded = decompress(&body, BODY_BYTES_MAX).unwrap();
            if plain_fields.kind == FrameKind::Batch {
                prop_assert_eq!(&expanded, &plain);
            }
            let view = BatchView::check(
                FrameKind::Batch, fields.record_count, false, &expanded).unwrap();
            prop_assert_eq!(view.len(), messages.len());
        } else {
            prop_assert_eq!(body_of(&builder), plain);
        }
    }

    #[test]
    fn a_builder_keeps_to_its_bound(messages in vec(message(), 1..20), max in 0..6000_usize) {
        let mut builder = BatchBuilder::with_bytes_max(max);
        for message in &messages {
            let before = (builder.len(), body_of(&builder));
            match builder.push(message) {
                Ok(()) => prop_assert_eq!(builder.len(), before.0 + 1),
                Err(error) => {
                    prop_assert_eq!((builder.len(), body_of(&builder)), before);
                    let mut alone = BatchBuilder::with_bytes_max(max);
                    let fits = alone.push(message).is_ok();
                    prop_assert_eq!(fits, error == PushError::Full);
                }
            }
            prop_assert!(builder.is_empty() || builder.body_bytes() as usize <= max);
            prop_assert_eq!(builder.body_bytes() as usize, body_of(&builder).len());
        }
    }

    #[test]
    fn a_run_gives_every_record_from_an_offset_on(
        stored in stored_run(),
        from in 990..1060_u64,
        checked in prop_oneof![Just(Checked::Yes), Just(Checked::No)],
    ) {
        let mut run = RecordRun::new(Bytes::from(stored.run), PLACE, checked, Offset(from));
        let wanted: Vec<_> =
            stored.records.into_iter().filter(|(offset, _)| *offset >= from).collect();
        let mut found = Vec::new();
        for record in run.by_ref() {
            let record = record.unwrap();
            prop_assert_eq!(record.append_time_us(), 1_790_000_000_000_000);
            prop_assert_eq!(record.key(), record.options_ref().and_then(|r| r.key())
                .map(Bytes::copy_from_slice));
            found.push((record.offset().0, back_owned(&record)));
        }
        prop_assert_eq!(found, wanted);
        prop_assert_eq!(run.next_offset().0, stored.next_offset.max(from));
    }

    #[test]
    fn records_put_into_another_batch_stay_as_they_were(stored in stored_run()) {
        let run = RecordRun::new(Bytes::from(stored.run), PLACE, Checked::Yes, Offset(0));
        let records: Vec<Record> = run.map(Result::unwrap).collect();
        let wanted: Vec<Message> = stored.records.into_iter().map(|(_, message)| message).collect();
        let mut copied = BatchBuilder::new();
        for (record, message) in records.iter().zip(&wanted) {
            prop_assert_eq!(&Message::from_record(record), message);
            copied.push_record(record).unwrap();
        }
        prop_assert_eq!(records.len(), wanted.len());
        prop_assert_eq!(copied.fields(), builder(&wanted).fields());
        prop_assert_eq!(body_of(&copied), body_of(&builder(&wanted)));
    }

    #[test]
    fn skipping_gives_what_going_through_gives(
        stored in stored_run(),
        skips in vec((0..6_usize, 0..12_u64), 1..8),
        checked in prop_oneof![Just(Checked::Yes), Just(Checked::No)],
    ) {
        let mut run = RecordRun::new(Bytes::from(stored.run), PLACE, checked, Offset(0));
        let mut wanted = stored.records.into_iter().peekable();
        for (taken, ahead) in skips {
            for _ in 0..taken {
                let record = run.next().map(|record| record.unwrap().offset().0);
                prop_assert_eq!(record, wanted.next().map(|(offset, _)| offset));
            }
            let to = run.next_offset() + ahead;
            run.skip_to(to);
            prop_assert!(run.next_offset() >= to);
            while wanted.next_if(|(offset, _)| *offset < to.0).is_some() {}
        }
        let rest: Vec<_> = run
            .map(|record| record.unwrap())
            .map(|record| (record.offset().0, back_owned(&record)))
            .collect();
        prop_assert_eq!(rest, wanted.collect::<Vec<_>>());
    }

    #[test]
    fn views_are_the_records_of_the_iterator(
        stored in stored_run(),
        from in 990..1060_u64,
        steps in vec((0..3_usize, 0..4_usize, 0..8_u64), 1..8),
        checked in prop_oneof![Just(Checked::Yes), Just(Checked::No)],
    ) {
        let bytes = Bytes::from(stored.run);
        let mut run = RecordRun::new(bytes.clone(), PLACE, checked, Offset(from));
        let mut owned = RecordRun::new(bytes, PLACE, checked, Offset(from));
        for (records, views, ahead) in steps {
            for _ in 0..records {
                let record = run.next().map(|record| record.unwrap().offset());
                prop_assert_eq!(record, owned.next().map(|record| record.unwrap().offset()));
            }
            for _ in 0..views {
                let view = run.next_view().map(Result::unwrap);
                let record = owned.next().map(Result::unwrap);
                prop_assert_eq!(view.is_some(), record.is_some());
                let Some((view, record)) = view.zip(record) else { break };
                prop_assert_eq!(view.offset(), record.offset());
                prop_assert_eq!(view.append_time_us(), record.append_time_us());
                prop_assert_eq!(view.key().map(Bytes::copy_from_slice), record.key());
                prop_assert!(view.headers().eq(record.headers()));
                let message = match view.options_ref() {
                    Some(options) => back(options, view.as_bytes()),
                    None => Message::from(view.as_bytes()),
                };
                prop_assert_eq!(message, back_owned(&record));
                prop_assert_eq!(back_owned(&view.to_record()), back_owned(&record));
            }
            prop_assert_eq!(run.next_offset(), owned.next_offset());
            let to = run.next_offset() + ahead;
            run.skip_to(to);
            owned.skip_to(to);
        }
    }

    #[test]
    fn columns_are_those_some_record_uses(messages in messages(), compress in any::<bool>()) {
        let mut builder = builder(&messages);
        if compress {
            builder.compress();
        }
        let body = body_of(&builder);
        let fields = builder.fields();
        let columns = Columns::of(&fields, &body);
        let view = BatchView::check(fields.kind, fields.record_count, fields.compressed, &body);
        let view = view.unwrap();
        prop_assert_eq!(columns.is_empty(), !view.has_options());
        type Has = fn(&RecordRef<'_>) -> bool;
        let options: [(ColumnKind, Has); 8] = [
            (ColumnKind::Key, |record| record.key().is_some()),
            (ColumnKind::Headers, |record| record.headers().len() > 0),
            (ColumnKind::Id, |record| record.id().is_some()),
            (ColumnKind::Group, |record| record.group().is_some()),
            (ColumnKind::DueAt, |record| record.due_at_us().is_some()),
            (ColumnKind::ExpiresAt, |record| record.expires_at_us().is_some()),
            (ColumnKind::PublishedAt, |record| record.published_at_us().is_some()),
            (ColumnKind::Priority, |record| record.priority() > 0),
        ];
        for (kind, has) in options {
            prop_assert_eq!(columns.has(kind), view.iter().any(|record| has(&record)));
        }
        let sizes: Vec<usize> = view.iter().map(|record| record.body_bytes()).collect();
        let wanted: Vec<usize> = messages.iter().map(|message| message.body().len()).collect();
        prop_assert_eq!(sizes, wanted);
    }

    #[test]
    fn columns_of_any_bytes_are_some(body in vec(any::<u8>(), 0..80)) {
        let fields = PublisherFields { kind: FrameKind::Batch, ..PublisherFields::single(0) };
        let columns = Columns::of(&fields, &body);
        prop_assert!(ColumnKind::ALL.iter().filter(|kind| columns.has(**kind)).count() <= 8);
    }

    #[test]
    fn a_flipped_bit_of_a_stored_frame_is_refused(messages in messages(), at in any::<u64>()) {
        let builder = builder(&messages);
        let mut frame = stored(builder.fields(), &body_of(&builder), 5, POSITION);
        prop_assert_eq!(frame.len(), frame_bytes(builder.body_bytes()) as usize);
        let bit = usize::try_from(at % (8 * frame.len() as u64)).unwrap();
        check_stored(&frame, SEED, POSITION, NONCE_HALF).unwrap();
        frame[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(check_stored(&frame, SEED, POSITION, NONCE_HALF).is_err());
    }

    #[test]
    fn a_flipped_bit_of_a_publish_is_refused(messages in messages(), at in any::<u64>()) {
        let mut frame = Vec::new();
        builder(&messages).encode_frame(ProducerStamp::NONE, &mut frame);
        let bit = usize::try_from(at % (8 * frame.len() as u64)).unwrap();
        frame[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(check_publish(&frame).is_err());
    }

    #[test]
    fn a_header_reads_as_it_was_written(
        (id, epoch, sequence) in (1..u64::MAX, any::<u64>(), any::<u64>()),
        (record_count, body_bytes) in (1..=u16::MAX, 0..BODY_BYTES_MAX as u32),
        (base, append_time_us) in (0..u64::MAX / 2, any::<u64>()),
        (body_crc, position) in any::<(u32, u32)>(),
        compressed in any::<bool>(),
    ) {
        let producer = ProducerStamp { id, epoch, sequence };
        let kind = FrameKind::Batch;
        let fields = PublisherFields { kind, compressed, record_count, body_bytes, producer };
        let header = FrameHeader { fields, body_crc, base_offset: Offset(base), append_time_us };
        let mut bytes = [0; 64];
        bytes[8..].copy_from_slice(&header.encode(SEED, position));
        prop_assert_eq!(FrameHeader::decode(&bytes, SEED, position), Ok(header));
    }
}

/// One message of a client, encoded.
fn client_message() -> impl Strategy<Value = Vec<u8>> {
    let stream = (1..u32::MAX).prop_map(StreamId);
    let encoded = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        bytes
    };
    prop_oneof![
        (any::<u64>()).prop_map(|correlation| {
            WireHeader::bare(MessageKind::Ping, StreamId::CONNECTION, correlation)
                .encode()
                .to_vec()
        }),
        (stream.clone(), 1..u32::MAX, any::<u64>()).prop_map(
            move |(stream, bytes, correlation)| {
                encoded(&|out| Credit { bytes }.encode(stream, correlation, out))
            }
        ),
        (stream.clone(), "[a-z.]{3,40}", any::<u32>()).prop_map(move |(stream, name, credit)| {
            let topic = TopicName::parse(&name.replace("...", "x")).unwrap();
            let start = Start::Offset(Offset(u64::from(credit)));
            let message = OpenReader {
                topic,
                start,
                credit_bytes: credit,
            };
            encoded(&|out| message.encode(stream, 0, out))
        }),
        (stream, messages(), any::<u64>()).prop_map(|(stream, messages, number)| {
            let mut frame = Vec::new();
            builder(&messages).encode_frame(ProducerStamp::NONE, &mut frame);
            let bytes = u32::try_from(frame.len()).unwrap();
            [
                WireHeader::publish(stream, number, bytes)
                    .encode()
                    .as_slice(),
                &frame,
            ]
            .concat()
        }),
        "\\PC{0,30}".prop_map(move |reason| {
            encoded(&|out| {
                Goodbye {
                    reason: reason.clone(),
                }
                .encode(StreamId(0), 0, out)
            })
        }),
    ]
}

/// The messages of a connection whose bytes arrive in pieces, and what is left over.
fn split_all(pieces: &[&[u8]]) -> (Vec<(WireHeader, Vec<u8>)>, usize) {
    let (mut buffer, mut messages) = (Vec::new(), Vec::new());
    let mut need = 1;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while buffer.len() >= need {
            match next_message(&buffer, Phase::Server).unwrap() {
                Next::Message {
                    header,
                    body,
                    consumed,
                } => {
                    messages.push((header, body.to_vec()));
                    buffer.drain(..consumed);
                    need = 1;
                }
                Next::Need(bytes) => {
                    assert!(bytes > buffer.len(), "what is needed is more than there is");
                    need = bytes;
                }
            }
        }
    }
    (messages, buffer.len())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_split_of_the_stream_decodes_alike(
        messages in vec(client_message(), 1..6),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let bytes = messages.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        let whole = split_all(&[&bytes]);
        prop_assert_eq!(&split_all(&pieces), &whole);
        prop_assert_eq!(whole.1, 0);
        let again: Vec<Vec<u8>> = whole
            .0
            .iter()
            .map(|(header, body)| [header.encode().as_slice(), body].concat())
            .collect();
        prop_assert_eq!(again, messages);
    }

    #[test]
    fn a_flipped_bit_of_a_message_is_refused(bytes in client_message(), at in any::<u64>()) {
        let mut bytes = bytes;
        let bit = usize::try_from(at % (8 * bytes.len() as u64)).unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let refused = match next_message(&bytes, Phase::Server) {
            Err(_) => true,
            Ok(Next::Message { header, body, .. }) => {
                header.kind == MessageKind::Publish && check_publish(body).is_err()
            }
            Ok(Next::Need(_)) => false,
        };
        prop_assert!(refused);
    }

    #[test]
    fn errors_round_trip(
        code in prop::sample::select(ErrorCode::ALL),
        effect in prop::sample::select(Effect::ALL),
        retriable in any::<bool>(),
        message in "\\PC{0,100}",
        at in any::<(u32, u64)>(),
    ) {
        let error = ErrorMessage { code, effect, retriable, message };
        let mut bytes = Vec::new();
        error.encode(StreamId(at.0), at.1, &mut bytes);
        match next_message(&bytes, Phase::Client).unwrap() {
            Next::Message { header, body, consumed } => {
                prop_assert_eq!((header.stream.0, header.correlation), at);
                prop_assert_eq!(ErrorMessage::decode(body), Ok(error));
                prop_assert_eq!(consumed, bytes.len());
            }
            Next::Need(_) => prop_assert!(false),
        }
    }

    #[test]
    fn acknowledgements_round_trip(
        runs in vec((1..1_u32 << 31, any::<bool>(), any::<u64>()), 1..50),
    ) {
        let runs: Vec<AckRun> = runs
            .into_iter()
            .map(|(publishes, duplicates, base)| AckRun { publishes, duplicates, base_offset: Offset(base) })
            .collect();
        let mut bytes = Vec::new();
        PublishAck::encode(&runs, StreamId(1), 9, &mut bytes);
        let ack = PublishAck::decode(&bytes[32..]).unwrap();
        prop_assert_eq!(ack.runs().collect::<Vec<_>>(), runs);
    }

    #[test]
    fn topic_names_round_trip(name in "\\PC{1,60}") {
        let Ok(after) = TopicName::parse(&name) else { return Ok(()) };
        let list = ListTopics { after: Some(after) };
        let mut bytes = Vec::new();
        list.encode(StreamId::CONNECTION, 1, &mut bytes);
        prop_assert_eq!(ListTopics::decode(&bytes[32..]), Ok(list));
    }
}
