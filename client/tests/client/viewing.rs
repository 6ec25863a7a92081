//! Records that are borrowed from a reader's run, beside those that are owned.

use millstream_client::{
    BatchBuilder, Client, GapReason, Message, Offset, ReadError, Reader, Record, RecordView,
    Records, Start, blocking,
};
use millstream_protocol::checksum::crc32c;
use millstream_protocol::frame::ProducerStamp;

use crate::fake::{Fake, Fault};

/// What is told of a record: offset, time, body, key, headers.
type Told = (u64, u64, Vec<u8>, Option<Vec<u8>>, Vec<(String, Vec<u8>)>);
/// What a run gives, in one way or the other.
type Given = Option<Result<Told, ReadError>>;
/// Asks a run for what comes next.
type Ask = fn(&mut Records<'_>) -> Given;

fn owned(header: (&str, &[u8])) -> (String, Vec<u8>) {
    (header.0.to_owned(), header.1.to_owned())
}

fn of_record(record: &Record) -> Told {
    (
        record.offset().0,
        record.append_time_us(),
        record.as_bytes().to_vec(),
        record.key().map(|key| key.to_vec()),
        record.headers().map(owned).collect(),
    )
}

fn of_view(record: &RecordView<'_>) -> Told {
    (
        record.offset().0,
        record.append_time_us(),
        record.as_bytes().to_vec(),
        record.key().map(<[u8]>::to_vec),
        record.headers().map(owned).collect(),
    )
}

const RECORD: Ask = |run| Some(run.next()?.map(|record| of_record(&record)));
const VIEW: Ask = |run| Some(run.next_view()?.map(|record| of_view(&record)));

/// Orders in which the two ways take turns.
const TURNS: [&[Ask]; 5] = [
    &[RECORD],
    &[VIEW],
    &[VIEW, RECORD],
    &[RECORD, VIEW, VIEW],
    &[VIEW, VIEW, RECORD, RECORD, RECORD],
];

/// All that the topic gives, asked for in turns, at most `of_run` of a run before the next one.
async fn read(reader: &mut Reader, turns: &[Ask], of_run: usize) -> Vec<Result<Told, ReadError>> {
    let mut given = Vec::new();
    let mut turns = turns.iter().cycle();
    while let Some(mut run) = reader.next_run().await {
        for _ in 0..of_run {
            let Some(next) = turns.next().unwrap()(&mut run) else {
                break;
            };
            given.push(next);
        }
    }
    given
}

async fn connected() -> (Fake, Client) {
    let fake = Fake::tcp();
    let client = Client::connect(&fake.address).await.unwrap();
    (fake, client)
}

fn batch(messages: &[Message]) -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    for message in messages {
        batch.push(message).unwrap();
    }
    batch
}

fn compressed() -> BatchBuilder {
    let mut batch = batch(&[(); 3].map(|()| Message::new(vec![7; 10_000]).key("k")));
    assert!(batch.compress());
    batch
}

/// A batch whose columns are sound and whose payload block is no lz4, as a hostile client sends it.
fn unreadable() -> Vec<u8> {
    let mut sent = Vec::new();
    compressed().encode_frame(ProducerStamp::NONE, &mut sent);
    sent[64 + 12..64 + 40].fill(0xff);
    let crc = crc32c(&sent[32..]);
    sent[12..16].copy_from_slice(&crc.to_le_bytes());
    sent
}

/// Five frames of every shape, eleven records.
async fn publish(client: &Client) {
    let mut publisher = client.publisher("t").await.unwrap();
    publisher.publish("single").await.unwrap();
    let bodies = ["a", "", "ccc"].map(Message::from);
    publisher.publish_batch(&batch(&bodies)).await.unwrap();
    publisher.publish_batch(&compressed()).await.unwrap();
    let options = Message::new("e").key("k").header("h", "v");
    let some = [Message::from("d"), options, Message::from("f")];
    publisher.publish_batch(&batch(&some)).await.unwrap();
    publisher.publish("").await.unwrap();
}

#[tokio::test]
async fn views_and_records_are_of_one_run() {
    let (_fake, client) = connected().await;
    publish(&client).await;
    let mut reader = client.reader("t", Start::Earliest).await.unwrap();
    let mut wanted = Vec::new();
    for _ in 0..11 {
        wanted.push(Ok(of_record(&reader.next().await.unwrap().unwrap())));
    }
    for from in 0..11 {
        for turns in TURNS {
            for of_run in [1, 2, usize::MAX] {
                let start = Start::Offset(Offset(from));
                let mut reader = client.reader("t", start).await.unwrap();
                reader.stop_at(reader.end_offset());
                let given = read(&mut reader, turns, of_run).await;
                assert_eq!(given, wanted[from as usize..]);
                assert_eq!(reader.next_offset(), Offset(11));
            }
        }
    }
}

#[tokio::test]
async fn the_stop_holds_for_views() {
    let (_fake, client) = connected().await;
    publish(&client).await;
    for stop in 0..12 {
        for turns in TURNS {
            let mut reader = client.reader("t", Start::Earliest).await.unwrap();
            reader.stop_at(Offset(stop.min(11)));
            let given = read(&mut reader, turns, usize::MAX).await;
            let offsets = given.into_iter().map(|told| told.unwrap().0);
            assert!(offsets.eq(0..stop.min(11)));
            assert_eq!(reader.next_offset(), Offset(stop.min(11)));
        }
    }
    // What was waited for and not taken is behind a stop that is set later, too.
    let mut reader = client.reader("t", Start::Earliest).await.unwrap();
    let mut run = reader.next_run().await.unwrap();
    assert_eq!(run.next_view().unwrap().unwrap().offset(), Offset(0));
    assert!(reader.next_run().await.is_some());
    reader.stop_at(Offset(1));
    assert!(reader.next_run().await.is_none());
}

#[tokio::test]
async fn errors_come_between_views_as_between_records() {
    for turns in TURNS {
        for of_run in [1, 2, usize::MAX] {
            let (fake, client) = connected().await;
            let mut publisher = client.publisher("t").await.unwrap();
            for body in ["before the gap", "a", "b"] {
                publisher.publish(body).await.unwrap();
            }
            fake.put("t", &unreadable());
            publisher.publish("c").await.unwrap();
            fake.fault(Fault::Gap(GapReason::Trimmed));
            let mut reader = client.reader("t", Start::Earliest).await.unwrap();
            reader.stop_at(Offset(7));
            let given = read(&mut reader, turns, of_run).await;
            let told = given.iter().map(|given| match given {
                Ok((offset, ..)) => (*offset, *offset + 1),
                Err(ReadError::Gap { first, next, .. }) => (first.0, next.0),
                Err(ReadError::Unreadable { first, next, .. }) => (first.0, next.0),
                Err(error) => panic!("{error}"),
            });
            assert!(told.eq([(0, 1), (1, 2), (2, 3), (3, 6), (6, 7)]));
            let errors = given.iter().map(Result::is_err);
            assert!(errors.eq([true, false, false, true, false]));
        }
    }
}

#[tokio::test]
async fn what_is_damaged_or_out_of_order_ends_the_views() {
    for turns in TURNS {
        for fault in [Fault::DamageDelivery, Fault::ShortenDelivery] {
            let (fake, client) = connected().await;
            let mut publisher = client.publisher("t").await.unwrap();
            let bodies = ["a", "b", "c"].map(Message::from);
            publisher.publish_batch(&batch(&bodies)).await.unwrap();
            publisher.publish("some body").await.unwrap();
            fake.fault(fault.clone());
            let mut reader = client.reader("t", Start::Earliest).await.unwrap();
            reader.stop_at(Offset(4));
            let given = read(&mut reader, turns, usize::MAX).await;
            let (last, before) = given.split_last().unwrap();
            assert!(before.iter().map(|g| g.as_ref().unwrap().0).eq(0..3));
            let error = last.as_ref().unwrap_err();
            assert!(error.is_final());
            match error {
                ReadError::Corrupt { at, .. } => assert_eq!(at.0, 3),
                ReadError::OutOfOrder { wanted, found, .. } => {
                    assert_eq!((wanted.0, found.0), (3, 3));
                    assert_eq!(fault, Fault::ShortenDelivery);
                }
                error => panic!("{error}"),
            }
        }
    }
}

#[test]
fn runs_of_a_blocking_reader_give_views() {
    let fake = Fake::tcp();
    let client = blocking::Client::connect(&fake.address).unwrap();
    let mut publisher = client.publisher("t").unwrap();
    let bodies = ["a", "b", "c"].map(Message::from);
    publisher.publish_batch(&batch(&bodies)).unwrap();
    let mut reader = client.reader("t", Start::Earliest).unwrap();
    reader.stop_at(reader.end_offset());
    let mut read = Vec::new();
    while let Some(mut run) = reader.next_run() {
        while let Some(record) = run.next_view() {
            read.push(record.unwrap().to_record());
        }
    }
    assert_eq!(read.len(), 3);
    assert!(read.iter().map(Record::as_bytes).eq([b"a", b"b", b"c"]));
}
