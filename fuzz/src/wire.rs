//! The byte stream of a connection.
//!
//! The first byte is the phase, the second how many of the next bytes are cuts, the rest the
//! stream. It is taken as it is and, so that the fuzzer gets past checksums it cannot guess, with
//! them made to fit. Claims: whole or in pieces, the stream splits into the same messages and ends
//! with the same error; a header that passed encodes to the same bytes; what is asked for is more
//! than what is there, and no more than the largest message.

use millstream_protocol::checksum::crc32c;
use millstream_protocol::limits::WIRE_HEADER_BYTES;
use millstream_protocol::wire::{MessageKind, Next, Phase, WireError, WireHeader, next_message};

use crate::Outcome;

/// What a stream splits into.
#[derive(Debug, PartialEq, Eq)]
struct Split {
    messages: Vec<(WireHeader, Vec<u8>)>,
    end: Result<usize, WireError>,
}

/// Runs all claims over `data`.
pub fn check(data: &[u8]) -> Outcome {
    let Some(([phase, cuts], rest)) = data.split_first_chunk() else {
        return Outcome::Refused;
    };
    let phase = match phase % 4 {
        0 => Phase::ServerBeforeHello,
        1 => Phase::Server,
        2 => Phase::ClientBeforeWelcome,
        _ => Phase::Client,
    };
    let Some((cuts, stream)) = rest.split_at_checked(usize::from(*cuts)) else {
        return Outcome::Refused;
    };
    let plain = check_stream(stream, cuts, phase);
    let mut repaired = stream.to_vec();
    repair(&mut repaired, phase);
    let repaired = check_stream(&repaired, cuts, phase);
    if plain || repaired {
        Outcome::Accepted
    } else {
        Outcome::Refused
    }
}

/// Whether at least one message was in it.
fn check_stream(stream: &[u8], cuts: &[u8], phase: Phase) -> bool {
    let whole = split(&[stream], phase);
    let mut pieces = Vec::new();
    let mut rest = stream;
    for cut in cuts {
        let (piece, behind) = rest.split_at(usize::from(*cut).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    assert_eq!(
        split(&pieces, phase),
        whole,
        "whole or in pieces is the same"
    );
    let mut at = 0;
    for (header, body) in &whole.messages {
        let again = [header.encode().as_slice(), body].concat();
        assert_eq!(stream.get(at..at + again.len()), Some(again.as_slice()));
        assert!(header.kind.may_come(phase));
        at += again.len();
    }
    !whole.messages.is_empty()
}

fn split(pieces: &[&[u8]], phase: Phase) -> Split {
    let (mut buffer, mut messages) = (Vec::new(), Vec::new());
    let mut need = 1;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while buffer.len() >= need {
            match next_message(&buffer, phase) {
                Ok(Next::Message {
                    header,
                    body,
                    consumed,
                }) => {
                    messages.push((header, body.to_vec()));
                    buffer.drain(..consumed);
                    need = 1;
                }
                Ok(Next::Need(bytes)) => {
                    assert!(bytes > buffer.len(), "more is asked for than is there");
                    assert!(bytes <= WIRE_HEADER_BYTES + MessageKind::Frames.body_bytes_max());
                    need = bytes;
                }
                Err(error) => {
                    return Split {
                        messages,
                        end: Err(error),
                    };
                }
            }
        }
    }
    Split {
        messages,
        end: Ok(buffer.len()),
    }
}

/// Makes the checksums of the messages of a stream fit, as far as they are whole.
fn repair(stream: &mut [u8], phase: Phase) {
    let mut rest = stream;
    while rest.len() >= WIRE_HEADER_BYTES {
        let (header, behind) = rest.split_at_mut(WIRE_HEADER_BYTES);
        (header[1], header[2], header[3]) = (0, 0, 0);
        header[12..16].fill(0);
        let asked = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let body_bytes = asked.min(behind.len());
        header[4..8].copy_from_slice(&(body_bytes as u32).to_le_bytes());
        let (body, next) = behind.split_at_mut(body_bytes);
        let covered = match MessageKind::from_code(header[0]) {
            Some(MessageKind::Publish) => 0,
            Some(MessageKind::Frames) => body.len().min(32),
            Some(kind) if kind.may_come(phase) => body.len(),
            _ => return,
        };
        let body_crc = if covered == 0 {
            0
        } else {
            crc32c(&body[..covered])
        };
        header[24..28].copy_from_slice(&body_crc.to_le_bytes());
        let header_crc = crc32c(&header[..28]);
        header[28..32].copy_from_slice(&header_crc.to_le_bytes());
        rest = next;
    }
}
