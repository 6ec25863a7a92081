//! A data folder looked at from above the log, without opening it: names, checkpoints, frames.
//!
//! For checks that know what the frames mean. Reads only; every frame given was checked whole.

use std::io;
use std::path::Path;

use millstream_protocol::frame::{FrameKind, StoredFrame};
use millstream_protocol::{Durability, Offset};

use crate::checkpoints;
use crate::disk::DiskFolder;
use crate::layout::{Identity, segment_name};
use crate::lock::FolderLock;
use crate::manifest::{LogId, LogState, Manifest, SegmentNumber, SegmentState, State};
use crate::still::{FrameAt, Still};
use crate::verify::VerifyError;

/// A folder that nobody else uses while this lives.
#[derive(Debug)]
pub struct Inspection {
    folder: DiskFolder,
    state: State,
    _kept_out: Option<FolderLock>,
}

/// One log of an [`Inspection`].
#[derive(Debug, Clone, Copy)]
pub struct InspectedLog<'a> {
    folder: &'a DiskFolder,
    folder_id: [u8; 16],
    id: LogId,
    state: &'a LogState,
}

impl Inspection {
    /// Looks at the folder `path`, and keeps brokers out meanwhile.
    ///
    /// # Errors
    ///
    /// When the folder as a whole can't be looked at.
    pub fn open(path: &Path) -> Result<Self, VerifyError> {
        let kept_out = FolderLock::observe(path).map_err(VerifyError::Lock)?;
        let folder = DiskFolder::open(path).map_err(VerifyError::Folder)?;
        let (state, _) = Manifest::inspect(&folder).map_err(VerifyError::Manifest)?;
        Ok(Self {
            folder,
            state,
            _kept_out: kept_out,
        })
    }

    /// What the manifest says.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The log whose topic has this name.
    #[must_use]
    pub fn log(&self, name: &str) -> Option<InspectedLog<'_>> {
        let (id, state) = self.state.log_named(name)?;
        Some(InspectedLog {
            folder: &self.folder,
            folder_id: self.state.folder_id,
            id,
            state,
        })
    }

    /// All logs.
    pub fn logs(&self) -> impl Iterator<Item = InspectedLog<'_>> {
        self.state
            .logs
            .values()
            .filter_map(|log| self.log(&log.name))
    }

    /// The checkpoints there are, newest first: file name, and content or what is wrong with it.
    ///
    /// # Errors
    ///
    /// The folder can't be listed.
    pub fn checkpoints(&self) -> io::Result<Vec<(String, io::Result<Vec<u8>>)>> {
        checkpoints::read_all(&self.folder)
    }
}

impl InspectedLog<'_> {
    /// Name of its topic.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Drawn when the topic was made.
    #[must_use]
    pub fn incarnation(&self) -> [u8; 16] {
        self.state.incarnation
    }

    /// When its records count as safe.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.state.durability
    }

    /// Whether a segment of it was ever dropped: then what was in it is no longer here.
    #[must_use]
    pub fn was_trimmed(&self) -> bool {
        let first = self.state.segments.first_key_value();
        first.is_none_or(|(number, _)| number.0 > 1)
    }

    /// The first offset that is kept, of segments whose end is known.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        let kept = |segment: &&SegmentState| !segment.quarantined;
        let first = self.state.segments.values().find(kept);
        Offset(
            first
                .and_then(|segment| segment.end)
                .map_or(0, |end| end.base_offset),
        )
    }

    /// No offset given out so far reaches this one.
    #[must_use]
    pub fn offsets_end(&self) -> Offset {
        let known = self.state.next_offset.filter(|_| !self.state.open);
        Offset(known.unwrap_or(self.state.offset_ceiling))
    }

    /// Gives every good frame that ends behind `from`, in order, to `visit`. What is damaged is passed
    /// over as far as its length is known, and else ends its segment: `verify` says where.
    ///
    /// # Errors
    ///
    /// A segment can't be opened.
    pub fn frames(&self, from: Offset, visit: &mut dyn FnMut(&StoredFrame<'_>)) -> io::Result<()> {
        for (number, segment) in &self.state.segments {
            let passed = segment.end.is_some_and(|end| end.end_offset <= from.0);
            if segment.quarantined || passed {
                continue;
            }
            let name = segment_name(self.id, *number);
            if let (Some(still), _) = Still::open(self.folder, &name)? {
                self.frames_of(still, *number, segment, from, visit);
            }
        }
        Ok(())
    }

    fn frames_of(
        &self,
        mut still: Still,
        number: SegmentNumber,
        segment: &SegmentState,
        from: Offset,
        visit: &mut dyn FnMut(&StoredFrame<'_>),
    ) {
        let identity = identity_of(self.folder_id, (self.id, self.state), (number, segment));
        let end = segment
            .end
            .map_or(still.len_bytes(), |end| end.end_position);
        let mut place = identity.first_frame();
        while place.position < end {
            let bytes = match still.frame(place, end) {
                FrameAt::Good(stored) if stored.header().fields.kind == FrameKind::Seal => return,
                FrameAt::Good(stored) => {
                    if stored.header().next_offset() > from {
                        visit(&stored);
                    }
                    stored.frame_bytes()
                }
                FrameAt::Bad(_, Some(header)) if header.fields.kind != FrameKind::Seal => {
                    header.frame_bytes()
                }
                FrameAt::Bad(..) | FrameAt::Unreadable(_) => {
                    let at = place.position;
                    let known = self.state.damage.iter().find(|gap| {
                        gap.segment == number
                            && (gap.first_position..gap.next_position).contains(&at)
                    });
                    match known {
                        Some(gap) => gap.next_position - at,
                        None => return,
                    }
                }
            };
            place.position = place.position.saturating_add(bytes);
        }
    }
}

/// What the first page of a segment says, by the manifest.
pub(crate) fn identity_of(
    folder_id: [u8; 16],
    (id, log): (LogId, &LogState),
    (number, segment): (SegmentNumber, &SegmentState),
) -> Identity {
    Identity {
        folder_id,
        incarnation: log.incarnation,
        log: id,
        segment: number,
        nonce: segment.nonce,
        len_bytes: u32::try_from(segment.len_bytes).unwrap_or(u32::MAX),
    }
}
