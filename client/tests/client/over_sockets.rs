//! The async client over real sockets.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use millstream_client::{
    AckLevel, Action, BatchBuilder, Client, ConnectError, ConnectOptions, ConnectionError,
    Durability, Effect, ErrorCode, GapReason, Message, Offset, PublishError, PublisherOptions,
    ReadError, ReaderOptions, Receipt, Start, TopicErrorCause, TopicOptions,
};
use millstream_protocol::frame::{FrameKind, ProducerStamp};
use millstream_protocol::limits::PUBLISH_WINDOW_BYTES;

use crate::fake::{Fake, Fault};

/// Messages of a mebibyte that fill the window.
const WINDOW_MIB: u64 = PUBLISH_WINDOW_BYTES as u64 >> 20;

async fn connected() -> (Fake, Client) {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.address).await.unwrap();
    (fake, client)
}

fn receipt(first: u64, last: u64) -> Receipt {
    Receipt {
        first: Offset(first),
        last: Offset(last),
        level: Durability::Synced,
        duplicate: false,
    }
}

#[tokio::test]
async fn what_is_published_is_read() {
    let (fake, client) = connected().await;
    publish_and_read(&fake, &client).await;
}

#[tokio::test]
async fn a_client_that_polls_does_as_another() {
    let fake = Fake::tcp();
    for time in [Duration::from_nanos(1), Duration::MAX] {
        let options = ConnectOptions::new().poll(time);
        let client = Client::connect_with(&fake.address, &options).await.unwrap();
        client.topics().await.unwrap();
        client.close().await.unwrap();
    }
    let options = ConnectOptions::new().poll(Duration::from_millis(1));
    let client = Client::connect_with(&fake.address, &options).await.unwrap();
    publish_and_read(&fake, &client).await;
}

pub(crate) async fn publish_and_read(fake: &Fake, client: &Client) {
    let mut orders = client.publisher("orders").await.unwrap();
    assert_eq!(orders.topic().as_str(), "orders");
    assert_eq!(orders.level(), Durability::Synced);
    assert_eq!(orders.publish("one").await, Ok(receipt(0, 0)));
    let two = Message::new("two").key("k").header("h", "v");
    assert_eq!(orders.publish(two).await, Ok(receipt(1, 1)));
    let mut batch = BatchBuilder::new();
    batch.push_body(b"three").unwrap();
    batch.push_body(b"four").unwrap();
    assert_eq!(orders.publish_batch(&batch).await, Ok(receipt(2, 3)));
    assert_eq!(fake.frame_counts("orders"), [1, 1, 2]);

    let mut reader = client.reader("orders", Start::Earliest).await.unwrap();
    assert_eq!(
        (reader.start_offset(), reader.end_offset()),
        (Offset(0), Offset(4))
    );
    for (offset, body) in ["one", "two", "three", "four"].into_iter().enumerate() {
        assert_eq!(reader.next_offset(), Offset(offset as u64));
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!(record.offset(), Offset(offset as u64));
        assert_eq!(record.as_bytes(), body.as_bytes());
        assert_eq!(record.key().is_some(), body == "two");
    }
    assert!(reader.try_next().is_none());
    // It goes on with what comes later.
    let (record, _) = tokio::join!(reader.next(), orders.publish("five"));
    assert_eq!(record.unwrap().unwrap().as_bytes(), b"five");
}

#[tokio::test]
async fn reading_starts_where_it_is_told_and_stops_where_it_is_told() {
    let (_fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    let mut batch = BatchBuilder::new();
    for number in 0..10 {
        batch.push_body(&[number]).unwrap();
    }
    publisher.publish_batch(&batch).await.unwrap();
    // Both in the middle of a frame.
    let mut reader = client.reader("t", Start::Offset(Offset(4))).await.unwrap();
    reader.stop_at(Offset(7));
    let mut read = Vec::new();
    while let Some(record) = reader.next().await {
        read.push(record.unwrap().as_bytes()[0]);
    }
    assert_eq!(read, [4, 5, 6]);
    let mut reader = client.reader("t", Start::Latest).await.unwrap();
    reader.stop_at(reader.end_offset());
    assert!(reader.next().await.is_none(), "there is nothing");
    let refused = client
        .reader("t", Start::Offset(Offset(11)))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::OffsetOutOfRange));
    assert!(
        refused.to_string().contains("cannot read the topic \"t\""),
        "{refused}"
    );
}

#[tokio::test]
async fn tickets_resolve_in_any_order_and_unread_ones_do_no_harm() {
    let (fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    let mut tickets = Vec::new();
    for number in 0..10_000_u32 {
        let ticket = publisher.enqueue(&number.to_le_bytes()).await.unwrap();
        if number % 3 != 0 {
            tickets.push((u64::from(number), ticket));
        }
    }
    for (number, ticket) in tickets.into_iter().rev() {
        assert_eq!(ticket.await, Ok(receipt(number, number)));
    }
    let expected: Vec<_> = (0..10_000_u32)
        .map(|number| number.to_le_bytes().to_vec())
        .collect();
    publisher.publish(&u32::MAX.to_le_bytes()).await.unwrap();
    assert_eq!(fake.bodies("t")[..10_000], expected);
    assert!(
        fake.frame_counts("t").len() < 10_000,
        "what waited went together"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_handle_keeps_its_order() {
    let (fake, client) = connected().await;
    let publisher = client.publisher("t").await.unwrap();
    let mut tasks = Vec::new();
    for handle in 0..8_u8 {
        // Half of them share a stream.
        let mut publisher = if handle % 2 == 0 {
            publisher.clone()
        } else {
            client.publisher("t").await.unwrap()
        };
        tasks.push(tokio::spawn(async move {
            let mut last = None;
            let mut tickets = Vec::new();
            for number in 0..500_u16 {
                let mut body = vec![handle];
                body.extend_from_slice(&number.to_be_bytes());
                if number % 7 == 0 {
                    body.resize(20_000, 0);
                }
                if number % 50 == 0 {
                    last = Some(publisher.publish(body).await.unwrap().last);
                } else {
                    tickets.push(publisher.enqueue(body).await.unwrap());
                }
            }
            let mut before = None;
            for ticket in tickets {
                let first = ticket.await.unwrap().first;
                assert!(before < Some(first), "offsets rise in the order of calls");
                before = Some(first);
            }
            last
        }));
    }
    for task in tasks {
        assert!(task.await.unwrap().is_some());
    }
    let bodies = fake.bodies("t");
    assert_eq!(bodies.len(), 8 * 500);
    for handle in 0..8 {
        let numbers: Vec<_> = bodies
            .iter()
            .filter(|body| body[0] == handle)
            .map(|body| [body[1], body[2]])
            .collect();
        assert!(numbers.is_sorted() && numbers.len() == 500);
    }
}

#[tokio::test]
async fn enqueueing_waits_while_the_window_is_full() {
    let (fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    let mut other = publisher.clone();
    fake.hold_acks(true);
    let body = vec![1; 1 << 20];
    let mut tickets = Vec::new();
    for _ in 0..WINDOW_MIB {
        tickets.push(publisher.enqueue(body.clone()).await.unwrap());
    }
    let mut waits = Box::pin(publisher.enqueue(body.clone()));
    let mut waits_too = Box::pin(other.enqueue_body(b"small"));
    tokio::select! {
        biased;
        _ = &mut waits => panic!("the window is full"),
        _ = &mut waits_too => panic!("the window is full"),
        () = tokio::task::yield_now() => {}
    }
    // Whoever waits may go away; the next in line is served.
    drop(waits);
    fake.hold_acks(false);
    assert_eq!(
        waits_too.await.unwrap().await,
        Ok(receipt(WINDOW_MIB, WINDOW_MIB))
    );
    for (number, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.await, Ok(receipt(number as u64, number as u64)));
    }
}

#[tokio::test]
async fn who_comes_when_there_is_room_again_goes_behind_who_waited() {
    let (fake, client) = connected().await;
    let mut first = client.publisher("t").await.unwrap();
    let mut late = first.clone();
    fake.hold_acks(true);
    let body = vec![1; 1 << 20];
    let mut tickets = Vec::new();
    for _ in 0..WINDOW_MIB {
        tickets.push(first.enqueue(body.clone()).await.unwrap());
    }
    let mut waits = Box::pin(first.enqueue("waited"));
    assert!(polled(waits.as_mut()).await.is_none());
    fake.hold_acks(false);
    for ticket in tickets {
        ticket.await.unwrap();
    }
    // There is room, and who waits for it was not asked yet.
    let mut comes = Box::pin(late.enqueue("late"));
    assert!(polled(comes.as_mut()).await.is_none());
    let (waited, came) = tokio::join!(waits, comes);
    let (waited, came) = tokio::join!(waited.unwrap(), came.unwrap());
    assert_eq!(
        (waited.unwrap().first, came.unwrap().first),
        (Offset(WINDOW_MIB), Offset(WINDOW_MIB + 1))
    );
    // Nobody waits any more.
    assert!(
        polled(Box::pin(late.enqueue("now")).as_mut())
            .await
            .is_some()
    );
}

/// Polls once.
async fn polled<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn topics_are_created_listed_described_deleted() {
    let (_fake, client) = connected().await;
    let stored = TopicOptions::new().durability(Durability::Stored);
    let info = client.create_topic("a", stored).await.unwrap();
    assert_eq!(
        (info.name.as_str(), info.durability),
        ("a", Durability::Stored)
    );
    client.create_topic("a", stored).await.unwrap();
    let exists = client
        .create_topic("a", TopicOptions::new())
        .await
        .unwrap_err();
    assert_eq!(exists.code(), Some(ErrorCode::TopicExists));
    assert_eq!(
        (exists.effect(), exists.is_retriable()),
        (Effect::NotApplied, false)
    );
    for name in ["g", "b", "f", "c", "e", "d"] {
        client
            .create_topic(name, TopicOptions::new())
            .await
            .unwrap();
    }
    let names = async |client: &Client| {
        let topics = client.topics().await.unwrap();
        topics
            .iter()
            .map(|topic| topic.name.to_string())
            .collect::<String>()
    };
    assert_eq!(names(&client).await, "abcdefg", "three a page");
    client.delete_topic("d").await.unwrap();
    assert_eq!(names(&client).await, "abcefg");
    let gone = client.topic("d").await.unwrap_err();
    assert_eq!(
        (gone.action, gone.code()),
        (Action::Describe, Some(ErrorCode::TopicNotFound))
    );
    let gone = client.delete_topic("d").await.unwrap_err();
    assert!(
        gone.to_string()
            .starts_with("cannot delete the topic \"d\": "),
        "{gone}"
    );
    let invalid = client
        .create_topic("a/b", TopicOptions::new())
        .await
        .unwrap_err();
    assert!(matches!(invalid.cause, TopicErrorCause::Name(_)));
    assert_eq!(invalid.code(), Some(ErrorCode::TopicNameInvalid));
}

#[tokio::test]
async fn a_publisher_creates_its_topic_unless_told_not_to() {
    let (_fake, client) = connected().await;
    let options = PublisherOptions::new().create(false);
    let missing = client.publisher_with("t", options).await.unwrap_err();
    assert_eq!(missing.code(), Some(ErrorCode::TopicNotFound));
    client.publisher("t").await.unwrap();
    let stored = options.ack(AckLevel::Stored);
    let mut publisher = client.publisher_with("t", stored).await.unwrap();
    assert_eq!(
        publisher.publish("a").await.unwrap().level,
        Durability::Stored
    );
    let missing = client.reader("nowhere", Start::Earliest).await.unwrap_err();
    assert_eq!(missing.code(), Some(ErrorCode::TopicNotFound));
}

#[tokio::test]
async fn a_full_disk_fails_what_is_under_way_and_the_next_call_opens_anew() {
    let (fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    let mut clone = publisher.clone();
    publisher.publish("a").await.unwrap();
    fake.fault(Fault::Refuse(ErrorCode::StorageFull));
    let error = publisher.publish("b").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::StorageFull));
    assert_eq!(
        (error.effect(), error.is_retriable()),
        (Effect::NotApplied, true)
    );
    assert!(
        error.to_string().starts_with("cannot publish to t: "),
        "{error}"
    );
    assert_eq!(publisher.publish("c").await, Ok(receipt(1, 1)));
    assert_eq!(clone.publish("d").await, Ok(receipt(2, 2)));
    assert_eq!(fake.bodies("t"), [b"a", b"c", b"d"]);
    assert_eq!(fake.publishers_opened(), 2, "clones go on sharing a stream");
}

#[tokio::test]
async fn a_refusal_that_lasts_is_given_again() {
    let (fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    fake.fault(Fault::Refuse(ErrorCode::TopicPoisoned));
    for _ in 0..3 {
        let error = publisher.publish("a").await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::TopicPoisoned));
        assert_eq!(
            (error.effect(), error.is_retriable()),
            (Effect::NotApplied, false)
        );
    }
    assert!(fake.bodies("t").is_empty());
}

#[tokio::test]
async fn a_message_over_a_limit_is_named_and_harms_no_other() {
    let (_fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    let error = publisher
        .publish(Message::new("a").key(vec![0; 2000]))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TooLarge));
    assert!(error.to_string().contains("key: 2000"), "{error}");
    let error = publisher.publish(vec![0; 17 << 20]).await.unwrap_err();
    assert_eq!(
        (error.code(), error.effect()),
        (Some(ErrorCode::TooLarge), Effect::NotApplied)
    );
    let error = publisher
        .publish_batch(&BatchBuilder::new())
        .await
        .unwrap_err();
    assert!(matches!(error, PublishError::EmptyBatch { .. }));
    assert_eq!(publisher.publish("b").await, Ok(receipt(0, 0)));
}

#[tokio::test]
async fn a_lost_connection_leaves_what_was_sent_unknown() {
    let (fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    let mut reader = client.reader("t", Start::Latest).await.unwrap();
    fake.fault(Fault::Hangup);
    let error = publisher.publish("a").await.unwrap_err();
    assert!(
        matches!(error, PublishError::OutcomeUnknown { .. }),
        "{error:?}"
    );
    assert_eq!(
        (error.effect(), error.is_retriable()),
        (Effect::Unknown, true)
    );
    assert!(error.to_string().contains("unknown"), "{error}");
    let error = publisher.publish("b").await.unwrap_err();
    assert!(matches!(error, PublishError::NotSent { .. }), "{error:?}");
    assert_eq!(error.effect(), Effect::NotApplied);
    let error = reader.next().await.unwrap().unwrap_err();
    assert!(error.is_final() && error.is_retriable(), "{error:?}");
    assert!(reader.next().await.is_none());
    let error = client.topic("t").await.unwrap_err();
    assert_eq!(error.effect(), Effect::NotApplied);
    assert!(matches!(
        client.close().await,
        Err(ConnectionError::ClosedByServer { .. })
    ));
}

#[tokio::test]
async fn a_killed_server_ends_all_that_waits() {
    let (mut fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    let mut reader = client.reader("t", Start::Latest).await.unwrap();
    fake.hold_acks(true);
    let ticket = publisher.enqueue("a").await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().as_bytes(), b"a");
    fake.kill();
    assert_eq!(ticket.await.unwrap_err().effect(), Effect::Unknown);
    assert!(reader.next().await.unwrap().is_err());
}

#[tokio::test]
async fn a_damaged_delivery_is_refused_and_ends_the_reader() {
    let (fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    publisher.publish("some body").await.unwrap();
    fake.fault(Fault::DamageDelivery);
    let mut reader = client.reader("t", Start::Earliest).await.unwrap();
    let error = reader.next().await.unwrap().unwrap_err();
    assert!(
        matches!(error, ReadError::Corrupt { at: Offset(0), .. }),
        "{error:?}"
    );
    assert!(error.is_final());
    assert!(reader.next().await.is_none());
}

#[tokio::test]
async fn gaps_are_told_and_unused_numbers_passed_over() {
    for (reason, told) in [
        (GapReason::Trimmed, true),
        (GapReason::Damaged, true),
        (GapReason::Void, false),
    ] {
        let (fake, client) = connected().await;
        let mut publisher = client.publisher("t").await.unwrap();
        publisher.publish("a").await.unwrap();
        publisher.publish("b").await.unwrap();
        fake.fault(Fault::Gap(reason));
        let mut reader = client.reader("t", Start::Earliest).await.unwrap();
        if told {
            let (first, next) = (Offset(0), Offset(1));
            let error = reader.next().await.unwrap().unwrap_err();
            assert_eq!(
                error,
                ReadError::Gap {
                    first,
                    next,
                    reason
                }
            );
            assert!(!error.is_final());
            assert_eq!(reader.next_offset(), Offset(1));
        }
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!((record.offset(), record.as_bytes()), (Offset(1), &b"b"[..]));
    }
}

#[tokio::test]
async fn compressed_batches_are_expanded_and_one_that_cannot_be_is_passed_over() {
    let (fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    let mut batch = BatchBuilder::new();
    for _ in 0..3 {
        batch.push_body(&[7; 10_000]).unwrap();
    }
    assert!(batch.compress());
    publisher.publish_batch(&batch).await.unwrap();
    // Two batches whose columns are sound, as a hostile client may publish them: the payload block
    // of one is no lz4, the other would expand past the limit of a frame.
    let mut sent = Vec::new();
    batch.encode_frame(ProducerStamp::NONE, &mut sent);
    let damaged = |at: std::ops::Range<usize>, with: u8| {
        let mut sent = sent.clone();
        sent[at].fill(with);
        let crc = millstream_protocol::checksum::crc32c(&sent[32..]);
        sent[12..16].copy_from_slice(&crc.to_le_bytes());
        sent
    };
    fake.put("t", &damaged(64 + 12..64 + 40, 0xff));
    fake.put("t", &damaged(64 + 10..64 + 12, 0x7f));
    publisher.publish("after").await.unwrap();

    let mut reader = client.reader("t", Start::Earliest).await.unwrap();
    for _ in 0..3 {
        assert_eq!(
            reader.next().await.unwrap().unwrap().as_bytes(),
            [7; 10_000]
        );
    }
    for (wanted, part) in [((3, 6), "lz4"), ((6, 9), "expands")] {
        let error = reader.next().await.unwrap().unwrap_err();
        assert!(
            !error.is_final() && error.to_string().contains(part),
            "{error}"
        );
        let ReadError::Unreadable { first, next, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!((first.0, next.0), wanted);
    }
    assert_eq!(reader.next().await.unwrap().unwrap().as_bytes(), b"after");
}

#[tokio::test]
async fn unused_numbers_inside_a_delivery_are_passed_over_and_the_stop_holds_behind_them() {
    let (fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    publisher.publish("a").await.unwrap();
    let mut void = BatchBuilder::new();
    void.push_body(b"given up").unwrap();
    void.push_body(b"given up").unwrap();
    let mut sent = Vec::new();
    void.encode_frame(ProducerStamp::NONE, &mut sent);
    sent[32] = FrameKind::Void.code();
    let crc = millstream_protocol::checksum::crc32c(&sent[32..]);
    sent[12..16].copy_from_slice(&crc.to_le_bytes());
    fake.put("t", &sent);
    publisher.publish("b").await.unwrap();
    // Two frames a delivery: the void one comes together with the one before or behind it.
    for start in [0, 1] {
        let mut reader = client
            .reader("t", Start::Offset(Offset(start)))
            .await
            .unwrap();
        let mut stops = client
            .reader("t", Start::Offset(Offset(start)))
            .await
            .unwrap();
        stops.stop_at(Offset(2));
        if start == 0 {
            assert_eq!(reader.next().await.unwrap().unwrap().as_bytes(), b"a");
            assert_eq!(stops.next().await.unwrap().unwrap().as_bytes(), b"a");
        }
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!((record.offset(), record.as_bytes()), (Offset(3), &b"b"[..]));
        assert!(stops.next().await.is_none());
    }
}

#[tokio::test]
async fn a_reader_that_waits_hears_of_the_end_of_its_stream() {
    let (fake, client) = connected().await;
    client.create_topic("t", TopicOptions::new()).await.unwrap();
    let mut reader = client.reader("t", Start::Latest).await.unwrap();
    let end = async {
        tokio::task::yield_now().await;
        fake.fault(Fault::EndReaders(ErrorCode::TopicNotFound));
    };
    let (ended, ()) = tokio::join!(reader.next(), end);
    let error = ended.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TopicNotFound));
    assert!(error.to_string().starts_with("cannot read t: "), "{error}");
    assert!(reader.next().await.is_none());
    client.reader("t", Start::Latest).await.unwrap();
}

#[tokio::test]
async fn a_small_credit_reads_everything() {
    let (_fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    for number in 0..100_usize {
        publisher
            .enqueue_body(&vec![1; number * 50])
            .await
            .unwrap()
            .await
            .unwrap();
    }
    for credit_bytes in [1, 100, 5000] {
        let options = ReaderOptions::new().credit_bytes(credit_bytes);
        let mut reader = client
            .reader_with("t", Start::Earliest, options)
            .await
            .unwrap();
        for number in 0..100_usize {
            assert_eq!(
                reader.next().await.unwrap().unwrap().as_bytes().len(),
                number * 50
            );
        }
    }
}

#[tokio::test]
async fn runs_give_what_is_at_hand_and_lose_nothing() {
    let (_fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    for number in 0..100_u64 {
        publisher
            .enqueue(&number.to_le_bytes())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let mut reader = client.reader("t", Start::Earliest).await.unwrap();
    reader.stop_at(reader.end_offset());
    let mut wanted = 0;
    while let Some(run) = reader.next_run().await {
        // Not every run is taken, nor all of one.
        for record in run.take(wanted as usize % 3) {
            assert_eq!(record.unwrap().offset(), Offset(wanted));
            wanted += 1;
        }
        assert_eq!(reader.next_offset(), Offset(wanted));
        if wanted % 3 == 0 {
            assert_eq!(
                reader.next().await.unwrap().unwrap().offset(),
                Offset(wanted)
            );
            wanted += 1;
        }
    }
    assert_eq!(wanted, 100);
}

#[tokio::test]
async fn closing_waits_for_what_was_published_and_ends_every_handle() {
    let (fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    let tickets = [
        publisher.enqueue("a").await.unwrap(),
        publisher.enqueue("b").await.unwrap(),
    ];
    client.close().await.unwrap();
    for (number, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.await, Ok(receipt(number as u64, number as u64)));
    }
    let error = publisher.publish("c").await.unwrap_err();
    let cause = ConnectionError::ClosedHere;
    let topic = publisher.topic().clone();
    assert_eq!(error, PublishError::NotSent { topic, cause });
    assert_eq!(fake.bodies("t"), [b"a", b"b"]);
}

#[tokio::test]
async fn what_was_enqueued_is_published_although_all_handles_are_gone() {
    let (fake, client) = connected().await;
    let mut publisher = client.publisher("t").await.unwrap();
    for _ in 0..10 {
        drop(publisher.enqueue("a").await.unwrap());
    }
    drop((client, publisher));
    // The goodbye is the last thing the server hears.
    while fake.goodbyes() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fake.bodies("t").len(), 10);
}

#[tokio::test]
async fn streams_are_given_back() {
    let (_fake, client) = connected().await;
    for _ in 0..600 {
        let _ = client.publisher("t").await.unwrap();
        let _ = client.reader("t", Start::Earliest).await.unwrap();
    }
    let mut held = Vec::new();
    let refused = loop {
        match client.publisher("t").await {
            Ok(publisher) => held.push(publisher),
            Err(error) => break error,
        }
    };
    assert!(matches!(
        refused.cause,
        TopicErrorCause::StreamsInUse { streams: 256 }
    ));
    assert!(refused.is_retriable());
    held.clear();
    // The close is answered before the next request is.
    client.topics().await.unwrap();
    client.publisher("t").await.unwrap();
}

#[tokio::test]
async fn an_unanswered_request_times_out() {
    let fake = Fake::tcp();
    let options = ConnectOptions::new()
        .request_timeout(Duration::from_millis(1))
        .name("tester");
    let client = Client::connect_with(&fake.address, &options).await.unwrap();
    fake.fault(Fault::Mute);
    let error = client
        .create_topic("t", TopicOptions::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TimedOut));
    assert_eq!(error.effect(), Effect::Unknown);
    assert!(error.to_string().contains("unknown"), "{error}");
    assert_eq!(fake.hellos(), ["tester"]);
    assert_eq!(client.server().server, "script");
}

#[tokio::test]
async fn nobody_there_is_told_apart_from_somebody_else() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = Client::connect(format!("millstream://{free}"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ConnectError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(error.is_retriable() && error.code().is_none());
    assert!(error.to_string().contains(&free.to_string()), "{error}");

    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("millstream://{}", other.local_addr().unwrap());
    let serve = async {
        let (mut socket, _) = other.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut socket, b"SSH-2.0-OpenSSH\r\n")
            .await
            .unwrap();
        socket
    };
    let (connected, _socket) = tokio::join!(Client::connect(&address), serve);
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error:?}");
    assert!(!error.is_retriable());

    let options = ConnectOptions::new().timeout(Duration::from_millis(1));
    let error = Client::connect_with(&address, &options).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::TimedOut { ms: 1, .. }),
        "{error:?}"
    );

    let error = Client::connect("localhost").await.unwrap_err();
    assert!(matches!(error, ConnectError::Address(_)), "{error:?}");
}

#[test]
fn a_runtime_that_goes_away_ends_the_connection() {
    let fake = Fake::tcp();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (client, mut publisher, ticket) = runtime.block_on(async {
        let client = Client::connect(&fake.address).await.unwrap();
        let mut publisher = client.publisher("t").await.unwrap();
        fake.hold_acks(true);
        let ticket = publisher.enqueue("a").await.unwrap();
        (client, publisher, ticket)
    });
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        assert!(ticket.await.is_err());
        assert!(publisher.publish("b").await.is_err());
        assert!(client.topics().await.is_err());
    });
}
