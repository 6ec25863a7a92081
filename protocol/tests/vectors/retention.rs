//! Messages about how much of a topic is kept.

use millstream_protocol::control::{ControlError, DescribeRetention, Retention, SetRetention};
use millstream_protocol::wire::{MessageKind, StreamId};

use super::messages::{CONNECTION, Decoded, archived, decoded, decoded_is, name, vector};
use super::{Vector, parts};

decoded!(SetRetention, DescribeRetention, Retention);

/// The newest 64 MiB, and of those what is younger than 7 days.
const WEEK: Retention = Retention {
    bytes: 64 << 20,
    age_ms: 7 * 86_400_000,
};

pub(super) fn all() -> Vec<Vector> {
    let topic = [
        (6, "topic: text"),
        (4, "root: topic, relative pointer"),
        (4, "root: topic, length"),
    ];
    let retention = [(8, "root: bytes"), (8, "root: age ms")];
    vec![
        archived!(
            "message-set-retention",
            "Keeps the newest 64 MiB of \"orders\", and of those what is younger than 7 days.",
            SetRetention,
            (CONNECTION, 8),
            SetRetention {
                topic: name("orders"),
                retention: WEEK,
            },
            &[topic.as_slice(), &retention].concat()
        ),
        archived!(
            "message-describe-retention",
            "Asks how much of \"orders\" is kept.",
            DescribeRetention,
            (CONNECTION, 9),
            DescribeRetention {
                topic: name("orders")
            },
            &topic
        ),
        archived!(
            "message-retention",
            "Answers request 9: the newest 64 MiB, and of those what is younger than 7 days.",
            Retention,
            (CONNECTION, 9),
            WEEK,
            &retention
        ),
    ]
}
