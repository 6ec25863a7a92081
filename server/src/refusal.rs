//! The errors a server answers with, as messages.

use millstream_protocol::control::{ControlError, ErrorMessage};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::wire::StreamId;

/// An error without effect.
pub(crate) fn refused(code: ErrorCode, sentence: impl Into<String>) -> ErrorMessage {
    ErrorMessage::new(code, sentence)
}

/// The answer to a request whose body is not what its header says.
pub(crate) fn bad_body(error: &ControlError) -> ErrorMessage {
    refused(error.code(), error.to_string())
}

/// The whole message for a connection that is one too many.
pub(crate) fn too_many(sentence: &str) -> Vec<u8> {
    let mut message = Vec::new();
    refused(ErrorCode::Limit, sentence).encode(StreamId::CONNECTION, 0, &mut message);
    message
}
