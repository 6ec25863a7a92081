//! Hello and welcome: from a fresh socket to a [`Core`].

use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use millstream_protocol::control::{ErrorMessage, Goodbye, Hello, Magic, Welcome, features};
use millstream_protocol::limits::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, PUBLISH_WINDOW_BYTES, PUBLISH_WINDOW_FRAMES, WIRE_VERSION,
};
use millstream_protocol::wire::{MessageKind, Next, Phase, StreamId, WireHeader, next_message};

use super::Core;
use crate::error::{ConnectionError, Refusal};

/// The shortest and the longest heartbeat a server may ask for.
const HEARTBEAT_MS: std::ops::RangeInclusive<u32> = 10..=3_600_000;

/// A session before the server's welcome.
///
/// ```
/// use std::time::Instant;
/// use bytes::BytesMut;
/// use millstream_client::core::Greeting;
///
/// let greeting = Greeting::new("example");
/// let to_send = greeting.hello();
/// assert!(to_send.len() <= 512);
/// // Nothing came yet, so there is no core yet.
/// assert!(greeting.receive(Instant::now(), &mut BytesMut::new())?.is_none());
/// # Ok::<(), millstream_client::ConnectionError>(())
/// ```
#[derive(Debug)]
pub struct Greeting {
    name: String,
}

impl Greeting {
    /// A session of a client that calls itself `name`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// The first bytes to send.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        let hello = Hello {
            magic: Magic,
            version_min: WIRE_VERSION,
            version_max: WIRE_VERSION,
            features: features::ALL,
            client: self.name.clone(),
        };
        let mut bytes = Vec::new();
        hello.encode(StreamId::CONNECTION, 0, &mut bytes);
        bytes
    }

    /// Takes the welcome off `input` once all of it is there, and gives the core of the session.
    ///
    /// # Errors
    ///
    /// The server refused, said goodbye, or sent something else.
    pub fn receive(
        &self,
        now: Instant,
        input: &mut BytesMut,
    ) -> Result<Option<Core>, ConnectionError> {
        let (header, body, consumed) = match next_message(input, Phase::ClientBeforeWelcome) {
            Err(error) => return Err(ConnectionError::protocol(error)),
            Ok(Next::Need(_)) => return Ok(None),
            Ok(Next::Message {
                header,
                body,
                consumed,
            }) => (header, body, consumed),
        };
        let welcome = read_welcome(&header, body)?;
        input.advance(consumed);
        let limits = ServerLimits::of(&welcome)?;
        Ok(Some(Core::new(now, welcome, limits)))
    }
}

fn read_welcome(header: &WireHeader, body: &[u8]) -> Result<Welcome, ConnectionError> {
    match header.kind {
        MessageKind::Welcome => Welcome::decode(body).map_err(ConnectionError::protocol),
        MessageKind::Error => match ErrorMessage::decode(body) {
            Ok(error) => Err(ConnectionError::Refused(Refusal::of(error))),
            Err(error) => Err(ConnectionError::protocol(error)),
        },
        MessageKind::Goodbye => match Goodbye::decode(body) {
            Ok(goodbye) => Err(ConnectionError::ClosedByServer {
                reason: goodbye.reason.into(),
            }),
            Err(error) => Err(ConnectionError::protocol(error)),
        },
        kind => Err(ConnectionError::protocol(format_args!(
            "it sent {kind:?} before its welcome"
        ))),
    }
}

/// What the server lets this client have, as its welcome says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Most bytes of one frame: header, body and padding.
    pub frame_bytes_max: u32,
    /// Most bytes of frames a publisher stream may have in flight.
    pub publish_window_bytes: u32,
    /// Most frames a publisher stream may have in flight.
    pub publish_window_frames: u32,
    /// How long a side may send nothing.
    pub heartbeat: Duration,
}

impl ServerLimits {
    /// Takes the limits a server told, as far as this client goes along with them.
    fn of(welcome: &Welcome) -> Result<Self, ConnectionError> {
        let odd = |field: &str, value: u32| {
            Err(ConnectionError::protocol(format_args!(
                "its welcome says {field} {value}"
            )))
        };
        if welcome.version != WIRE_VERSION {
            return Err(ConnectionError::protocol(format_args!(
                "its welcome chose version {}, where {WIRE_VERSION} was offered",
                welcome.version
            )));
        }
        if (welcome.frame_bytes_max as usize) < FRAME_HEADER_BYTES {
            return odd("frame_bytes_max", welcome.frame_bytes_max);
        }
        if welcome.publish_window_bytes == 0 {
            return odd("publish_window_bytes", 0);
        }
        if welcome.publish_window_frames == 0 {
            return odd("publish_window_frames", 0);
        }
        if !HEARTBEAT_MS.contains(&welcome.heartbeat_ms) {
            return odd("heartbeat_ms", welcome.heartbeat_ms);
        }
        let frame_bytes_max = u32::try_from(FRAME_BYTES_MAX).unwrap_or(u32::MAX);
        Ok(Self {
            frame_bytes_max: welcome.frame_bytes_max.min(frame_bytes_max),
            publish_window_bytes: welcome.publish_window_bytes.min(PUBLISH_WINDOW_BYTES),
            publish_window_frames: welcome.publish_window_frames.min(PUBLISH_WINDOW_FRAMES),
            heartbeat: Duration::from_millis(u64::from(welcome.heartbeat_ms)),
        })
    }
}
