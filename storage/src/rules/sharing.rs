//! Publishers and a reader on segments that all of them have mapped, small enough for Miri: see
//! `tools/miri`. The background threads' work is done by the test's own thread.

use std::sync::mpsc::{Receiver, TryRecvError};

use super::*;
use crate::crash::Piece;

/// Records of each publisher.
const RECORDS: u8 = if cfg!(miri) { 4 } else { 60 };
/// A few of them fill a segment.
const BODY_BYTES: usize = if cfg!(miri) { 2_000 } else { 9_000 };
const SEGMENT_BYTES: u32 = if cfg!(miri) { 24 << 10 } else { 64 << 10 };

fn open_by_hand(folder: &HeapFolder) -> Store {
    let options = StoreOptions {
        sync_workers: 1,
        segment_bytes_first: SEGMENT_BYTES,
        segment_bytes_max: SEGMENT_BYTES,
    };
    Store::open_by_hand(Arc::new(folder.clone()), &options).unwrap()
}

/// Works until whoever holds the other end of `done` has ended.
fn work_until<T>(store: &Store, done: &Receiver<T>) {
    let pieces = [Piece::Sync, Piece::Prepare, Piece::Fetch];
    while !matches!(done.try_recv(), Err(TryRecvError::Disconnected)) {
        if !pieces.into_iter().any(|piece| store.work_by_hand(piece)) {
            std::thread::yield_now();
        }
    }
}

/// Every fifth claim is given up half filled, the others are synced.
fn publish_all(log: &Arc<Log>, publisher: u8) {
    let mut appender = Appender::new(log);
    for number in 0..RECORDS {
        let body = vec![publisher * 100 + number; BODY_BYTES];
        if number % 5 == 3 {
            let fields = PublisherFields::single(BODY_BYTES as u32);
            let given_up = loop {
                let half = |room: &mut crate::BodyWriter<'_>| room.put(&body[..BODY_BYTES / 2]);
                match appender.try_append_with(&fields, half) {
                    Err(AppendError::Rotating) => park_until(|cx| appender.poll_room(cx)),
                    done => break done,
                }
            };
            assert!(matches!(given_up, Err(AppendError::ShortFill { .. })));
        }
        publish_synced(&mut appender, &body);
    }
}

fn check(records: &Records) {
    assert_eq!(records.len(), 2 * usize::from(RECORDS));
    let mut next = [0, 100];
    for (_, body) in records {
        let next = &mut next[usize::from(body[0] >= 100)];
        assert_eq!(body[0], *next, "each publisher's records are in its order");
        assert_eq!(*body, vec![body[0]; BODY_BYTES]);
        *next += 1;
    }
}

#[test]
fn publishers_and_a_reader_share_segments() {
    let folder = HeapFolder::new();
    let store = open_by_hand(&folder);
    let log = log_of(&store, Durability::Synced);
    let given_up = (0..RECORDS).filter(|number| number % 5 == 3).count() as u64;
    let end = Offset(2 * (u64::from(RECORDS) + given_up));
    std::thread::scope(|threads| {
        let (running, done) = mpsc::channel::<()>();
        for publisher in 0..2 {
            let (log, running) = (Arc::clone(&log), running.clone());
            threads.spawn(move || {
                publish_all(&log, publisher);
                drop(running);
            });
        }
        let log = Arc::clone(&log);
        threads.spawn(move || {
            check(&read(&log, end).0);
            drop(running);
        });
        work_until(&store, &done);
    });
    assert!(log.chain().numbers().len() > 1, "segments were rotated");
    drop(log);
    while store.work_by_hand(Piece::Sync) || store.work_by_hand(Piece::Prepare) {}
    store.close().unwrap();
    drop(store);
    let store = open_by_hand(&folder);
    let log = store.log(&topic()).unwrap();
    std::thread::scope(|threads| {
        let (running, done) = mpsc::channel::<()>();
        threads.spawn(move || {
            check(&read(&log, end).0);
            drop(running);
        });
        work_until(&store, &done);
    });
}
