//! The open streams of a session, and the memory of those it ended itself.

use std::collections::VecDeque;

use millstream_protocol::limits::STREAMS_PER_CONNECTION_MAX;
use millstream_protocol::wire::StreamId;

use super::consuming::ConsumerStream;
use super::publishing::PublisherStream;
use super::reading::ReaderStream;
use crate::limits::STREAMS_ENDED_MAX;

/// A stream, by what it does.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Asked for; messages on it wait for the answer.
    Opening,
    Publisher(Box<PublisherStream>),
    Reader(Box<ReaderStream>),
    Consumer(Box<ConsumerStream>),
}

/// Streams by rising number: found by binary search, or at once when it is the one of last time.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: Vec<(StreamId, Stream)>,
    last: usize,
    /// Streams ended by an error whose late messages mean nothing, oldest first.
    ended: VecDeque<StreamId>,
}

impl Streams {
    pub(crate) const fn is_full(&self) -> bool {
        self.open.len() >= STREAMS_PER_CONNECTION_MAX
    }

    /// Whether the stream was ended by this side, so that late messages for it are no mistake.
    pub(crate) fn was_ended(&self, id: StreamId) -> bool {
        self.ended.contains(&id)
    }

    fn place(&self, id: StreamId) -> Result<usize, usize> {
        self.open.binary_search_by_key(&id, |(open, _)| *open)
    }

    pub(crate) fn get(&mut self, id: StreamId) -> Option<&mut Stream> {
        if self.open.get(self.last).is_none_or(|(last, _)| *last != id) {
            self.last = self.place(id).ok()?;
        }
        self.open.get_mut(self.last).map(|(_, stream)| stream)
    }

    /// Puts `stream` in the place of the one of the same number.
    pub(crate) fn insert(&mut self, id: StreamId, stream: Stream) {
        self.ended.retain(|ended| *ended != id);
        match self.place(id) {
            Ok(place) => {
                if let Some((_, old)) = self.open.get_mut(place) {
                    *old = stream;
                }
            }
            Err(place) => self.open.insert(place, (id, stream)),
        }
    }

    /// Forgets a stream the client closed.
    pub(crate) fn remove(&mut self, id: StreamId) {
        if let Ok(place) = self.place(id) {
            self.open.remove(place);
        }
    }

    /// Forgets a stream this side ended, but not that it did.
    pub(crate) fn end(&mut self, id: StreamId) {
        self.remove(id);
        if self.ended.len() == STREAMS_ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(id);
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (StreamId, &mut Stream)> {
        self.open.iter_mut().map(|(id, stream)| (*id, stream))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.open.iter().map(|(_, stream)| stream)
    }

    /// The numbers of all open streams.
    pub(crate) fn ids(&self) -> Vec<StreamId> {
        self.open.iter().map(|(id, _)| *id).collect()
    }

    pub(crate) const fn len(&self) -> usize {
        self.open.len()
    }

    /// The stream in place `index`.
    pub(crate) fn at(&mut self, index: usize) -> Option<(StreamId, &mut Stream)> {
        self.open.get_mut(index).map(|(id, stream)| (*id, stream))
    }

    /// Drops all readers.
    pub(crate) fn drop_readers(&mut self) {
        self.open
            .retain(|(_, stream)| !matches!(stream, Stream::Reader(_)));
    }
}
