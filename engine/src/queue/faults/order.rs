//! What must be in the journal before what.

use millstream_storage::Folder;

use super::*;

/// Fills whole segments of the journal with entries of a queue that is not there.
pub(super) fn grow_journal(setup: &Setup) {
    let mut appender = Appender::new(&setup.journal());
    let mut body = vec![0_u8; 200 << 10];
    body[..8].copy_from_slice(&[1, 1, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let fields = PublisherFields::single(u32::try_from(body.len()).unwrap());
    for _ in 0..12 {
        let end = loop {
            match appender.try_append_with(&fields, |room| room.put(&body)) {
                Ok(appended) => break appended.end,
                Err(AppendError::Rotating) => park_until(|cx| appender.poll_room(cx)),
                Err(error) => panic!("{error}"),
            }
        };
        appender.announce();
        park_until(|cx| appender.poll_reached(Level::Synced, end, cx)).unwrap();
    }
}

#[test]
fn q2_nothing_follows_from_a_settle_before_the_journal_has_it() {
    let setup = Setup::new();
    let wanted = NewQueue {
        name: name("jobs"),
        topic: None,
        mode: QueueMode::Grouped,
        start: Start::Earliest,
        settings: settings(),
    };
    let entry = setup.queues.create(&wanted).unwrap();
    let appender = Appender::new(&entry.queue.topic);
    let mut publisher = Publisher::new(Level::Synced, appender, &setup.queues);
    for body in ["first", "second"] {
        let message = Message::new(body).group("g");
        publisher.publish_blocking(message).unwrap();
    }
    let mut consumer = Consumer::open(&entry.queue, &ConsumerOptions::new().prefetch(1));
    let first = consumer.next_blocking().unwrap().unwrap();
    setup.fill_journal();
    first.ack();
    consumer.flush_settles();
    assert!(
        consumer.try_next().is_none(),
        "the group goes on though the ack is not in the journal"
    );
    setup.heap.set_full(false);
    let second = ends(move || {
        let second = consumer.next_blocking().unwrap().unwrap();
        second.as_bytes().to_vec()
    });
    assert_eq!(second, b"second");
    setup.close();
}

#[test]
fn q6_with_the_newest_checkpoint_damaged_the_one_before_and_the_journal_say_all() {
    let setup = Setup::new();
    let entry = setup.queue(settings());
    setup.publish(&entry, ["1", "2", "3", "4", "5", "left"]);
    let mut consumer = puller(&entry);
    let mut taken = take(&mut consumer, 6);
    let left = taken.pop().unwrap();
    for delivery in taken {
        delivery.ack_confirmed_blocking().unwrap();
        grow_journal(&setup);
        setup.queues.checkpoint(&setup.journal()).unwrap();
    }
    let killed = setup.heap.duplicate();
    let checkpoints = killed.list("").unwrap().into_iter();
    let newest = checkpoints
        .filter(|file| file.starts_with("checkpoint-"))
        .max();
    let newest = newest.unwrap();
    let mut bytes = killed.read_file(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    killed.remove(&newest).unwrap();
    killed.create_file(&newest, &bytes).unwrap();
    drop((left, consumer));
    setup.close();
    let setup = Setup::over(killed);
    let entry = setup.queues.entry(&name("jobs")).unwrap();
    let again = take(&mut puller(&entry), 1);
    assert_eq!(again[0].as_bytes(), b"left", "the five are settled");
    drop(again);
    setup.close();
}
