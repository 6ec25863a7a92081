//! The examples behind the golden files: how each is made, what it must decode to.

mod frames;
mod messages;
mod queues;
mod retention;
mod work;

use millstream_protocol::wire::MessageKind;

/// What reads some bytes.
pub(crate) type Reader<T> = Box<dyn Fn(&[u8]) -> T>;

/// One example.
pub(crate) struct Vector {
    /// The name of its file.
    pub(crate) name: &'static str,
    /// What it is, for the head of its file.
    pub(crate) meaning: &'static str,
    /// Its bytes, as they are encoded today.
    pub(crate) bytes: Vec<u8>,
    /// What runs of its bytes are.
    pub(crate) parts: Vec<Part>,
    /// The message it is, if it is one.
    pub(crate) message: Option<MessageKind>,
    /// Decodes bytes and asserts that they mean what the example means.
    pub(crate) decodes: Reader<()>,
    /// Whether bytes pass every check a receiver makes.
    pub(crate) accepts: Reader<bool>,
    /// Whether encoding must give the same bytes for ever; not so for what lz4 makes.
    pub(crate) encodes_alike: bool,
}

/// A run of bytes and what it is.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) bytes: usize,
    pub(crate) label: &'static str,
}

pub(crate) fn parts(list: &[(usize, &'static str)]) -> Vec<Part> {
    list.iter()
        .map(|(bytes, label)| Part {
            bytes: *bytes,
            label,
        })
        .collect()
}

pub(crate) fn all() -> Vec<Vector> {
    let mut vectors = frames::all();
    vectors.extend(messages::all());
    vectors.extend(retention::all());
    vectors.extend(queues::all());
    vectors.extend(work::all());
    vectors
}
