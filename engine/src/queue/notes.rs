//! The broker's own headers on records it moved: why a dead letter died, whom a redriven one is for.

use millstream_protocol::Offset;
use millstream_protocol::batch::{Message, Record, RecordRef};

use super::scheduler::{PendingMove, Reason};

/// Why the record is a dead letter.
pub const REASON: &str = "ms-reason";
/// What the consumer that rejected it said.
pub const REASON_TEXT: &str = "ms-reason-text";
/// The queue it died in.
pub const QUEUE: &str = "ms-queue";
/// The topic it came from.
pub const TOPIC: &str = "ms-topic";
/// Its offset there.
pub const OFFSET: &str = "ms-offset";
/// How often it was delivered.
pub const ATTEMPTS: &str = "ms-attempts";
/// When it was first delivered, microseconds of the Unix epoch.
pub const FIRST_US: &str = "ms-first-us";
/// When it was last delivered.
pub const LAST_US: &str = "ms-last-us";
/// The only queue that a redriven record is for.
pub const FOR_QUEUE: &str = "ms-for-queue";

/// All of them.
const ALL: [&str; 9] = [
    REASON,
    REASON_TEXT,
    QUEUE,
    TOPIC,
    OFFSET,
    ATTEMPTS,
    FIRST_US,
    LAST_US,
    FOR_QUEUE,
];

/// The name of a reason, as headers and filters have it.
pub(super) const fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::MaxDeliveries => "max-deliveries",
        Reason::Rejected => "rejected",
        Reason::Expired => "expired",
        Reason::LimitReached => "limit",
        Reason::Redriven => "redriven",
    }
}

/// The queue a record is for, when it is for one alone.
pub(super) fn addressee<'a>(record: &RecordRef<'a>) -> Option<&'a [u8]> {
    header(record, FOR_QUEUE)
}

/// The value of the first header of that name.
pub(super) fn header<'a>(record: &RecordRef<'a>, wanted: &str) -> Option<&'a [u8]> {
    record
        .headers()
        .find_map(|(name, value)| (name == wanted).then_some(value))
}

/// A header's value as text.
pub(super) fn header_text(record: &Record, wanted: &str) -> Option<String> {
    record.headers().find_map(|(name, value)| {
        (name == wanted).then(|| String::from_utf8_lossy(value).into_owned())
    })
}

/// `record` as a message that is due at once, never expires and is not looked up by its id, without
/// the broker's notes of an earlier move.
pub(super) fn unnoted(record: &Record) -> Message {
    kept(record).keep_headers(|name, _| !ALL.contains(&name))
}

/// `record` as the dead letter that `moved` makes of it. It is due at once and never expires; its id
/// stays with the original, which was counted when it was published.
pub(super) fn dead_letter(
    record: &Record,
    moved: &PendingMove,
    queue: &str,
    topic: &str,
) -> Message {
    let number = |number: u64| number.to_string();
    let mut message = unnoted(record)
        .header(REASON, reason_name(moved.why))
        .header(QUEUE, queue.to_owned())
        .header(TOPIC, topic.to_owned())
        .header(OFFSET, number(record.offset().0))
        .header(ATTEMPTS, number(u64::from(moved.attempts)))
        .header(FIRST_US, number(moved.first_us))
        .header(LAST_US, number(moved.last_us));
    if !moved.text.is_empty() {
        message = message.header(REASON_TEXT, String::from(&*moved.text));
    }
    message
}

/// A record as [`unnoted`] gives it, the notes on it included. Its id was counted when it was first
/// published.
pub(super) fn kept(record: &Record) -> Message {
    Message::from_record(record)
        .id("")
        .due_at_us(0)
        .expires_at_us(0)
}

/// A dead letter as it goes back to the queue it died in.
pub(super) fn redriven(record: &Record, queue: &str) -> Message {
    unnoted(record).header(FOR_QUEUE, queue.to_owned())
}

/// A letter whose record can no longer be read: the notes tell which it was.
pub(super) fn unreadable(moved: &PendingMove, queue: &str, topic: &str) -> Message {
    Message::new("")
        .header(REASON, "unreadable")
        .header(QUEUE, queue.to_owned())
        .header(TOPIC, topic.to_owned())
        .header(OFFSET, Offset::to_string(&moved.offset))
        .header(ATTEMPTS, u64::from(moved.attempts).to_string())
}
