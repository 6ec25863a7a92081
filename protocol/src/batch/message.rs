//! One message as its publisher makes it.

use bytes::Bytes;

use super::Record;

/// One message: a body and options.
///
/// Options beyond key and headers are kept and given back; what reads them decides what they mean.
/// Limits are checked when the message goes into a batch. Without options it is 40 bytes to hand
/// around; the first option allocates room for all of them.
///
/// ```
/// use millstream_protocol::batch::Message;
/// let message = Message::new("hello").key("customer 7").header("trace", "af31");
/// assert_eq!(message.body(), "hello");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Message {
    pub(super) body: Bytes,
    options: Option<Box<Options>>,
}

/// All that a message may have besides its body: empty or zero where it has not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Options {
    pub(super) key: Bytes,
    pub(super) id: Bytes,
    pub(super) group: Bytes,
    pub(super) headers: Vec<(String, Bytes)>,
    pub(super) due_at_us: u64,
    pub(super) expires_at_us: u64,
    pub(super) published_at_us: u64,
    pub(super) priority: u8,
}

impl Options {
    const NONE: Self = Self {
        key: Bytes::new(),
        id: Bytes::new(),
        group: Bytes::new(),
        headers: Vec::new(),
        due_at_us: 0,
        expires_at_us: 0,
        published_at_us: 0,
        priority: 0,
    };
}

/// An option that was set to nothing is as one that never was.
impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.body == other.body && self.options_or_none() == other.options_or_none()
    }
}

impl Eq for Message {}

impl Message {
    /// A message with this body and no options. Takes the bytes over without a copy where it can.
    #[must_use]
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            options: None,
        }
    }

    /// A record as the message it was made from: its body, and all its options.
    ///
    /// Costs reference counts and a copy of the names of headers.
    #[must_use]
    pub fn from_record(record: &Record) -> Self {
        let mut message = Self::new(record.body());
        let (Some(options), Some(batch)) = (record.options_ref(), record.batch()) else {
            return message;
        };
        let taken = |value: Option<&[u8]>| value.map_or_else(Bytes::new, |v| batch.slice_ref(v));
        *message.options_mut() = Options {
            key: taken(options.key()),
            id: taken(options.id()),
            group: taken(options.group()),
            headers: options
                .headers()
                .map(|(name, value)| (name.to_owned(), batch.slice_ref(value)))
                .collect(),
            due_at_us: options.due_at_us().unwrap_or(0),
            expires_at_us: options.expires_at_us().unwrap_or(0),
            published_at_us: options.published_at_us().unwrap_or(0),
            priority: options.priority(),
        };
        message
    }

    /// Its options: all empty where it has none.
    pub(super) fn options_or_none(&self) -> &Options {
        static NONE: Options = Options::NONE;
        self.options.as_deref().unwrap_or(&NONE)
    }

    fn options_mut(&mut self) -> &mut Options {
        self.options.get_or_insert_default()
    }

    /// Takes away the headers of which `keep` says no, by name and value.
    #[must_use]
    pub fn keep_headers(mut self, mut keep: impl FnMut(&str, &[u8]) -> bool) -> Self {
        if let Some(options) = &mut self.options {
            options.headers.retain(|(name, value)| keep(name, value));
        }
        self
    }

    /// Sets the key: at most 1,024 bytes; an empty one is none.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.options_mut().key = key.into();
        self
    }

    /// Adds a header: at most 32, and 4,096 bytes of names and values together; names may repeat.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.options_mut().headers.push((name.into(), value.into()));
        self
    }

    /// Sets the publisher's own name for the message: at most 255 bytes; an empty one is none.
    #[must_use]
    pub fn id(mut self, id: impl Into<Bytes>) -> Self {
        self.options_mut().id = id.into();
        self
    }

    /// Sets the group whose messages are delivered in order: at most 255 bytes; empty is none.
    #[must_use]
    pub fn group(mut self, group: impl Into<Bytes>) -> Self {
        self.options_mut().group = group.into();
        self
    }

    /// Sets the time before which it is not due, in microseconds of the Unix epoch; 0 is none.
    #[must_use]
    pub fn due_at_us(mut self, due_at_us: u64) -> Self {
        self.options_mut().due_at_us = due_at_us;
        self
    }

    /// Sets the time after which it is worthless, in microseconds of the Unix epoch; 0 is none.
    #[must_use]
    pub fn expires_at_us(mut self, expires_at_us: u64) -> Self {
        self.options_mut().expires_at_us = expires_at_us;
        self
    }

    /// Sets the time at which it was made, in microseconds of the Unix epoch; 0 is none.
    #[must_use]
    pub fn published_at_us(mut self, published_at_us: u64) -> Self {
        self.options_mut().published_at_us = published_at_us;
        self
    }

    /// Sets the priority: higher goes first, 0 is what a message has that says nothing.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.options_mut().priority = priority;
        self
    }

    /// The body.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Whether it has no options, so that alone it travels as its body and nothing else.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.options
            .as_deref()
            .is_none_or(|options| *options == Options::NONE)
    }
}

impl From<Bytes> for Message {
    fn from(body: Bytes) -> Self {
        Self::new(body)
    }
}

impl From<Vec<u8>> for Message {
    fn from(body: Vec<u8>) -> Self {
        Self::new(body)
    }
}

impl From<String> for Message {
    fn from(body: String) -> Self {
        Self::new(body)
    }
}

impl From<&str> for Message {
    fn from(body: &str) -> Self {
        Self::new(Bytes::copy_from_slice(body.as_bytes()))
    }
}

impl From<&[u8]> for Message {
    fn from(body: &[u8]) -> Self {
        Self::new(Bytes::copy_from_slice(body))
    }
}

impl<const N: usize> From<&[u8; N]> for Message {
    fn from(body: &[u8; N]) -> Self {
        Self::from(body.as_slice())
    }
}
