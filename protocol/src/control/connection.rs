//! Hello, welcome, goodbye and errors.

use rkyv::{Archive, Serialize};

use super::ControlError;
use super::layout::{Number, Numbered, Text, archived_message, number, text};
use crate::error::{Effect, ErrorCode};
use crate::limits::{AGENT_BYTES_MAX, SENTENCE_BYTES_MAX};

/// The first four bytes of a hello's root: `MLST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Magic;

impl Magic {
    /// The number the bytes `MLST` make.
    pub const NUMBER: u32 = u32::from_le_bytes(*b"MLST");
}

impl Numbered for Magic {
    type Number = u32;

    fn number(self) -> u32 {
        Self::NUMBER
    }

    fn from_number(number: u32) -> Option<Self> {
        (number == Self::NUMBER).then_some(Self)
    }
}

/// A client's first message.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct Hello {
    /// What makes it a hello of this protocol.
    #[rkyv(with = Number)]
    pub magic: Magic,
    /// The oldest version the client speaks.
    pub version_min: u16,
    /// The newest version the client speaks.
    pub version_max: u16,
    /// What the client can do beyond the version: see [`features`](super::features).
    pub features: u64,
    /// What the client calls itself, for people.
    #[rkyv(with = Text<AGENT_BYTES_MAX>)]
    pub client: String,
}

impl Hello {
    fn read(archived: &ArchivedHello) -> Result<Self, ControlError> {
        let magic = archived.magic.to_native();
        let version_min = archived.version_min.to_native();
        let version_max = archived.version_max.to_native();
        if magic != Magic::NUMBER {
            return Err(ControlError::Magic { found: magic });
        }
        if version_min > version_max {
            let found = u64::from(version_max);
            return Err(ControlError::Number {
                field: "version max",
                found,
            });
        }
        Ok(Self {
            magic: Magic,
            version_min,
            version_max,
            features: archived.features.to_native(),
            client: text("client", &archived.client, AGENT_BYTES_MAX)?,
        })
    }
}

/// The server's answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct Welcome {
    /// The version the connection speaks from now on.
    pub version: u16,
    /// The features of the hello the server has, too.
    pub features: u64,
    /// What the server calls itself, for people.
    #[rkyv(with = Text<AGENT_BYTES_MAX>)]
    pub server: String,
    /// The id of the server's data folder.
    pub folder_id: [u8; 16],
    /// How often the folder was opened; rises with every start.
    pub boot_epoch: u32,
    /// The most bytes of a frame.
    pub frame_bytes_max: u32,
    /// The most bytes of frames a publisher stream may have unacknowledged.
    pub publish_window_bytes: u32,
    /// The most frames a publisher stream may have unacknowledged.
    pub publish_window_frames: u32,
    /// A side that has sent nothing for this long sends a ping.
    pub heartbeat_ms: u32,
}

impl Welcome {
    fn read(archived: &ArchivedWelcome) -> Result<Self, ControlError> {
        Ok(Self {
            version: archived.version.to_native(),
            features: archived.features.to_native(),
            server: text("server", &archived.server, AGENT_BYTES_MAX)?,
            folder_id: archived.folder_id,
            boot_epoch: archived.boot_epoch.to_native(),
            frame_bytes_max: archived.frame_bytes_max.to_native(),
            publish_window_bytes: archived.publish_window_bytes.to_native(),
            publish_window_frames: archived.publish_window_frames.to_native(),
            heartbeat_ms: archived.heartbeat_ms.to_native(),
        })
    }
}

/// The last message of a side that closes the connection in good order.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct Goodbye {
    /// Why, for people.
    #[rkyv(with = Text<SENTENCE_BYTES_MAX>)]
    pub reason: String,
}

impl Goodbye {
    fn read(archived: &ArchivedGoodbye) -> Result<Self, ControlError> {
        Ok(Self {
            reason: text("reason", &archived.reason, SENTENCE_BYTES_MAX)?,
        })
    }
}

/// Something failed.
///
/// About a stream, it ends the stream: of a publisher's stream, the correlation is the first
/// publish the error is about, and earlier ones are still acknowledged. About the connection, it
/// answers the request of that correlation, or, with correlation 0, says why the connection closes.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize)]
pub struct ErrorMessage {
    /// What went wrong.
    #[rkyv(with = Number)]
    pub code: ErrorCode,
    /// Whether the request took effect.
    #[rkyv(with = Number)]
    pub effect: Effect,
    /// Whether the same request may succeed later.
    pub retriable: bool,
    /// What went wrong, for people: one sentence.
    #[rkyv(with = Text<SENTENCE_BYTES_MAX>)]
    pub message: String,
}

impl ErrorMessage {
    /// An error without effect that can be retried as its code says.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let (effect, retriable) = (Effect::NotApplied, code.is_retriable());
        Self {
            code,
            effect,
            retriable,
            message: message.into(),
        }
    }

    fn read(archived: &ArchivedErrorMessage) -> Result<Self, ControlError> {
        Ok(Self {
            code: number("code", archived.code.to_native())?,
            effect: number("effect", archived.effect)?,
            retriable: archived.retriable,
            message: text("message", &archived.message, SENTENCE_BYTES_MAX)?,
        })
    }
}

archived_message!(Hello: Hello, Welcome: Welcome, Goodbye: Goodbye, ErrorMessage: Error);
