//! How the fields of a control message become bytes.

use rkyv::primitive::{ArchivedU32, ArchivedU64};
use rkyv::rancor::Fallible;
use rkyv::ser::{Allocator, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::with::{ArchiveWith, SerializeWith};
use rkyv::{Archive, Archived, Place};

use super::ControlError;
use crate::checksum::crc32c;
use crate::error::{Effect, ErrorCode};
use crate::limits::{TOPIC_NAME_BYTES_MAX, WIRE_HEADER_BYTES};
use crate::wire::{MessageKind, StreamId, WireHeader};
use crate::{AckLevel, Durability, Offset, TopicName, TopicNameError};

/// Something that is one number in a message.
pub(super) trait Numbered: Copy {
    /// The number as it is in memory.
    type Number: Archive<Resolver = ()> + Into<u64> + Copy;

    /// The number.
    fn number(self) -> Self::Number;

    /// What the number stands for.
    fn from_number(number: Self::Number) -> Option<Self>;
}

macro_rules! numbered {
    ($($type:ty: $number:ty),+) => {$(
        impl Numbered for $type {
            type Number = $number;

            fn number(self) -> $number {
                self.code()
            }

            fn from_number(number: $number) -> Option<Self> {
                Self::from_code(number)
            }
        }
    )+};
}

numbered!(Durability: u8, AckLevel: u8, Effect: u8, ErrorCode: u16, super::GapReason: u8);
numbered!(super::QueueMode: u8, super::OnExpiry: u8, super::WhenFull: u8);
numbered!(super::QueueVerb: u8, super::RecordState: u8);

impl Numbered for Offset {
    type Number = u64;

    fn number(self) -> u64 {
        self.0
    }

    fn from_number(number: u64) -> Option<Self> {
        Some(Self(number))
    }
}

/// Archives what stands for a number as that number.
pub(super) struct Number;

impl<T: Numbered> ArchiveWith<T> for Number {
    type Archived = Archived<T::Number>;
    type Resolver = ();

    fn resolve_with(field: &T, (): (), out: Place<Self::Archived>) {
        field.number().resolve((), out);
    }
}

impl<T: Numbered, S: Fallible + ?Sized> SerializeWith<T, S> for Number {
    fn serialize_with(_: &T, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

/// Archives a text as its bytes, without what is over `MAX`.
pub(super) struct Text<const MAX: usize>;

/// A text that may be absent, which is archived as an empty one.
pub(super) trait MaybeText {
    /// The text, or nothing.
    fn text(&self) -> &str;
}

impl MaybeText for String {
    fn text(&self) -> &str {
        self
    }
}

impl MaybeText for TopicName {
    fn text(&self) -> &str {
        self.as_str()
    }
}

impl<T: MaybeText> MaybeText for Option<T> {
    fn text(&self) -> &str {
        self.as_ref().map_or("", MaybeText::text)
    }
}

/// As much of `text` as fits `bytes_max`, whole characters.
fn cut(text: &str, bytes_max: usize) -> &[u8] {
    let end = text.floor_char_boundary(bytes_max);
    text.as_bytes().get(..end).unwrap_or_default()
}

impl<T: MaybeText, const MAX: usize> ArchiveWith<T> for Text<MAX> {
    type Archived = ArchivedVec<u8>;
    type Resolver = VecResolver;

    fn resolve_with(field: &T, resolver: VecResolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_slice(cut(field.text(), MAX), resolver, out);
    }
}

impl<T, S, const MAX: usize> SerializeWith<T, S> for Text<MAX>
where
    T: MaybeText,
    S: Fallible + Allocator + Writer + ?Sized,
{
    fn serialize_with(field: &T, serializer: &mut S) -> Result<VecResolver, S::Error> {
        ArchivedVec::serialize_from_slice(cut(field.text(), MAX), serializer)
    }
}

/// What a number stands for.
pub(super) fn number<T: Numbered>(
    field: &'static str,
    number: T::Number,
) -> Result<T, ControlError> {
    T::from_number(number).ok_or(ControlError::Number {
        field,
        found: number.into(),
    })
}

/// An offset.
pub(super) fn offset(number: &ArchivedU64) -> Offset {
    Offset(number.to_native())
}

/// A text of at most `bytes_max`.
pub(super) fn text(
    field: &'static str,
    bytes: &[u8],
    bytes_max: usize,
) -> Result<String, ControlError> {
    if bytes.len() > bytes_max {
        return Err(ControlError::TextTooLong {
            field,
            bytes: bytes.len(),
            bytes_max,
        });
    }
    let text = str::from_utf8(bytes).map_err(|_| ControlError::TextNotUtf8 { field })?;
    Ok(text.to_owned())
}

/// A topic's name.
pub(super) fn topic_name(bytes: &[u8]) -> Result<TopicName, ControlError> {
    if bytes.len() > TOPIC_NAME_BYTES_MAX {
        return Err(TopicNameError::TooLong { bytes: bytes.len() }.into());
    }
    let name = str::from_utf8(bytes).map_err(|_| TopicNameError::NotUtf8)?;
    Ok(TopicName::parse(name)?)
}

/// A 32-bit number that must not be zero.
pub(super) fn positive(field: &'static str, number: &ArchivedU32) -> Result<u32, ControlError> {
    match number.to_native() {
        0 => Err(ControlError::Number { field, found: 0 }),
        number => Ok(number),
    }
}

/// A name, or nothing.
pub(super) fn maybe_name(bytes: &[u8]) -> Result<Option<TopicName>, ControlError> {
    match bytes {
        [] => Ok(None),
        name => topic_name(name).map(Some),
    }
}

/// A list that keeps to its limit.
pub(super) const fn bounded(
    field: &'static str,
    found: usize,
    max: usize,
) -> Result<(), ControlError> {
    if found > max {
        return Err(ControlError::ListTooLong { field, found });
    }
    Ok(())
}

/// A body that has exactly `LEN` bytes.
pub(super) fn fixed<const LEN: usize>(body: &[u8]) -> Result<&[u8; LEN], ControlError> {
    body.try_into()
        .map_err(|_| ControlError::Length { found: body.len() })
}

/// A number that stands for nothing in its field.
pub(super) const fn wrong(field: &'static str, found: u64) -> ControlError {
    ControlError::Number { field, found }
}

/// A number that keeps to its limit.
pub(super) const fn at_most(field: &'static str, found: u64, max: u64) -> Result<(), ControlError> {
    if found > max {
        return Err(wrong(field, found));
    }
    Ok(())
}

/// Appends a message: room for the header, the body as `write` makes it, then the header.
pub(super) fn append(
    kind: MessageKind,
    stream: StreamId,
    correlation: u64,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; WIRE_HEADER_BYTES]);
    write(out);
    let Some((place, body)) = out
        .get_mut(start..)
        .and_then(|message| message.split_first_chunk_mut())
    else {
        return;
    };
    let header = WireHeader {
        kind,
        body_bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
        stream,
        correlation,
        body_crc: crc32c(body),
    };
    *place = header.encode();
}

/// Gives an archived message its `encode` and `decode`; it has a `read` from its archived form.
macro_rules! archived_message {
    ($($name:ident: $kind:ident),+ $(,)?) => {$(
        impl $name {
            /// Appends the whole message, wire header and body.
            ///
            /// Texts for people are cut to their limit.
            pub fn encode(
                &self,
                stream: $crate::wire::StreamId,
                correlation: u64,
                out: &mut Vec<u8>,
            ) {
                let kind = $crate::wire::MessageKind::$kind;
                $crate::control::layout::append(kind, stream, correlation, out, |out| {
                    self.write_body(out);
                });
            }

            /// Reads a body and checks every reference and value in it.
            ///
            /// # Errors
            ///
            /// The first field that is not as it must be.
            pub fn decode(body: &[u8]) -> Result<Self, $crate::control::ControlError> {
                let archived =
                    rkyv::access::<rkyv::Archived<Self>, rkyv::rancor::Failure>(body)
                        .map_err(|_| $crate::control::ControlError::Archive)?;
                let message = Self::read(archived)?;
                // One message has one form: what is not in it would go unseen and unchecked.
                let mut packed = Vec::with_capacity(body.len());
                message.write_body(&mut packed);
                if packed != body {
                    return Err($crate::control::ControlError::NotPacked);
                }
                Ok(message)
            }

            fn write_body(&self, out: &mut Vec<u8>) {
                rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Panic>(self, out)
                    .unwrap_or_else(|never| match never {});
            }
        }
    )+};
}

pub(super) use archived_message;
