//! What a topic remembers of one producer: its epoch, the sequence that is next, its last frames.
//!
//! ```text
//!  sequences   … forgotten │ kept: offset, records, checksum │ next ──▶
//!              OutOfSequence  Duplicate, or SequenceReused     Next     beyond: OutOfSequence
//! ```
//! Decides and remembers, and does nothing else. The caller holds the producer's lock from the check
//! until the frame is committed and noted (P1).

use std::collections::VecDeque;

use millstream_protocol::Offset;
use millstream_protocol::limits::PRODUCER_FRAMES_KEPT;

use super::ProducerError;

/// A frame as its producer numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Of its first record; the others follow.
    pub(crate) sequence: u64,
    pub(crate) records: u16,
    /// Of the fields and the body without the producer: what makes it the same frame (P2).
    pub(crate) crc: u32,
}

/// A frame that is in the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) piece: Piece,
    /// Offset of its first record.
    pub(crate) base: Offset,
}

impl Kept {
    /// The sequence after its last record.
    pub(crate) fn next_sequence(&self) -> u64 {
        let records = u64::from(self.piece.records);
        self.piece.sequence.saturating_add(records)
    }

    /// The offset after its last record.
    pub(crate) fn end(&self) -> Offset {
        self.base + u64::from(self.piece.records)
    }
}

/// What is to become of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is to be appended, and noted when that was done.
    Next,
    /// It is there.
    Duplicate(Kept),
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ledger {
    epoch: u64,
    next: u64,
    kept: VecDeque<Kept>,
}

impl Ledger {
    /// Of a producer that published nothing so far.
    pub(crate) const fn new(epoch: u64) -> Self {
        Self {
            epoch,
            next: 1,
            kept: VecDeque::new(),
        }
    }

    pub(crate) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The sequence of the next record.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// The last frame.
    pub(crate) fn last(&self) -> Option<&Kept> {
        self.kept.back()
    }

    pub(crate) fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.kept.iter()
    }

    /// What becomes of `piece`, sent by the instance that has `epoch`.
    pub(crate) fn check(&self, epoch: u64, piece: &Piece) -> Result<Verdict, ProducerError> {
        if epoch != self.epoch {
            return Err(ProducerError::Fenced {
                ours: epoch,
                current: self.epoch,
            });
        }
        let expected = self.next;
        let fits = expected.checked_add(u64::from(piece.records)).is_some();
        if piece.sequence == expected && fits {
            return Ok(Verdict::Next);
        }
        if piece.sequence >= expected {
            return Err(ProducerError::OutOfSequence { expected });
        }
        let sequence = piece.sequence;
        // The last one that does not begin behind it.
        let behind = self
            .kept
            .partition_point(|kept| kept.piece.sequence <= sequence);
        let there = behind.checked_sub(1).and_then(|at| self.kept.get(at));
        match there {
            Some(kept) if kept.piece == *piece => Ok(Verdict::Duplicate(*kept)),
            Some(kept) if sequence < kept.next_sequence() => {
                Err(ProducerError::SequenceReused { sequence })
            }
            _ => Err(ProducerError::OutOfSequence { expected }),
        }
    }

    /// Remembers a frame that was appended, or is found to be there. One that is known is no news.
    pub(crate) fn note(&mut self, kept: Kept) {
        let last = self.kept.back().map_or(0, Kept::next_sequence);
        if kept.piece.sequence < last {
            return;
        }
        if self.kept.len() == PRODUCER_FRAMES_KEPT {
            self.kept.pop_front();
        }
        self.next = self.next.max(kept.next_sequence());
        self.kept.push_back(kept);
    }

    /// A frame or an opening of this epoch was found.
    pub(crate) fn saw_epoch(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// Lets the instance with `epoch` publish, above what it knows to be acknowledged, and nobody
    /// before it; tells the last frame.
    pub(crate) fn take_over(
        &mut self,
        epoch: u64,
        acknowledged: u64,
    ) -> Result<Option<Kept>, ProducerError> {
        if epoch < self.epoch {
            return Err(ProducerError::Fenced {
                ours: epoch,
                current: self.epoch,
            });
        }
        self.epoch = epoch;
        self.next = self.next.max(acknowledged.saturating_add(1));
        Ok(self.last().copied())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn piece(sequence: u64, records: u16, crc: u32) -> Piece {
        Piece {
            sequence,
            records,
            crc,
        }
    }

    /// Checks and, if it is next, notes at `base`.
    fn publish(
        ledger: &mut Ledger,
        epoch: u64,
        piece: Piece,
        base: u64,
    ) -> Result<Verdict, ProducerError> {
        let verdict = ledger.check(epoch, &piece)?;
        if verdict == Verdict::Next {
            let base = Offset(base);
            ledger.note(Kept { piece, base });
        }
        Ok(verdict)
    }

    #[test]
    fn a_repeated_frame_is_a_duplicate_at_the_offset_of_the_first() {
        let mut ledger = Ledger::new(1);
        assert_eq!(
            publish(&mut ledger, 1, piece(1, 3, 7), 40),
            Ok(Verdict::Next)
        );
        assert_eq!(
            publish(&mut ledger, 1, piece(4, 1, 8), 50),
            Ok(Verdict::Next)
        );
        let again = publish(&mut ledger, 1, piece(1, 3, 7), 99);
        let Ok(Verdict::Duplicate(kept)) = again else {
            panic!("{again:?}");
        };
        assert_eq!((kept.base, kept.end()), (Offset(40), Offset(43)));
    }

    #[test]
    fn another_frame_under_a_used_sequence_is_refused() {
        let mut ledger = Ledger::new(1);
        publish(&mut ledger, 1, piece(1, 3, 7), 40).unwrap();
        for other in [piece(1, 3, 8), piece(1, 2, 7), piece(2, 1, 7)] {
            let sequence = other.sequence;
            let refused = Err(ProducerError::SequenceReused { sequence });
            assert_eq!(publish(&mut ledger, 1, other, 50), refused);
        }
    }

    #[test]
    fn a_gap_in_the_sequence_is_refused_with_what_is_expected() {
        let mut ledger = Ledger::new(1);
        let refused = |expected| Err(ProducerError::OutOfSequence { expected });
        assert_eq!(publish(&mut ledger, 1, piece(2, 1, 7), 0), refused(1));
        assert_eq!(publish(&mut ledger, 1, piece(0, 1, 7), 0), refused(1));
        publish(&mut ledger, 1, piece(1, 1, 7), 0).unwrap();
        assert_eq!(publish(&mut ledger, 1, piece(3, 1, 7), 1), refused(2));
        assert_eq!(
            publish(&mut ledger, 1, piece(u64::MAX, 1, 7), 1),
            refused(2)
        );
        ledger.take_over(1, u64::MAX - 1).unwrap();
        let last = publish(&mut ledger, 1, piece(u64::MAX, 1, 7), 1);
        assert_eq!(last, refused(u64::MAX), "its next would be none");
    }

    #[test]
    fn what_is_acknowledged_and_lost_is_never_given_out_again() {
        let mut ledger = Ledger::new(1);
        publish(&mut ledger, 1, piece(1, 1, 7), 0).unwrap();
        assert_eq!(ledger.take_over(2, 9).unwrap().unwrap().next_sequence(), 2);
        let refused = Err(ProducerError::OutOfSequence { expected: 10 });
        assert_eq!(publish(&mut ledger, 2, piece(5, 1, 7), 1), refused);
        assert_eq!(
            publish(&mut ledger, 2, piece(10, 1, 7), 1),
            Ok(Verdict::Next)
        );
        assert_eq!(
            publish(&mut ledger, 2, piece(5, 1, 7), 1),
            Err(ProducerError::OutOfSequence { expected: 11 })
        );
    }

    #[test]
    fn a_newer_epoch_fences_the_older_one() {
        let mut ledger = Ledger::new(1);
        publish(&mut ledger, 1, piece(1, 1, 7), 0).unwrap();
        ledger.take_over(2, 0).unwrap();
        let fenced = ProducerError::Fenced {
            ours: 1,
            current: 2,
        };
        assert_eq!(
            publish(&mut ledger, 1, piece(2, 1, 7), 1),
            Err(fenced.clone())
        );
        assert_eq!(
            publish(&mut ledger, 1, piece(1, 1, 7), 1),
            Err(fenced.clone()),
            "nor as a duplicate"
        );
        assert_eq!(ledger.take_over(1, 0), Err(fenced));
    }

    #[derive(Debug, Clone)]
    enum Op {
        Publish {
            back: u64,
            records: u16,
            crc: u32,
        },
        NewInstance,
        Resume {
            back: u64,
        },
        /// What is kept is read back, the last `again` frames of it twice.
        Restart {
            again: usize,
        },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (0..4_u64, 1..4_u16, 0..3_u32)
                .prop_map(|(back, records, crc)| Op::Publish { back, records, crc }),
            1 => Just(Op::NewInstance),
            1 => (0..3_u64).prop_map(|back| Op::Resume { back }),
            1 => (0..4_usize).prop_map(|again| Op::Restart { again }),
        ]
    }

    proptest! {
        /// The plain model: every record by its sequence, and the frame it came in.
        #[test]
        fn a_ledger_answers_as_a_plain_list_of_all_frames(ops in proptest::collection::vec(op(), 1..200)) {
            let mut ledger = Ledger::new(1);
            let (mut current, mut ours, mut base) = (1_u64, 1_u64, 0_u64);
            let mut frames: BTreeMap<u64, Kept> = BTreeMap::new();
            for op in ops {
                let next = frames.values().next_back().map_or(1, Kept::next_sequence);
                match op {
                    Op::Publish { back, records, crc } => {
                        let piece = piece((next + 1).saturating_sub(back), records, crc);
                        let there = frames.get(&piece.sequence).copied();
                        let wanted = if ours != current {
                            Err(ProducerError::Fenced { ours, current })
                        } else if piece.sequence == next {
                            Ok(Verdict::Next)
                        } else if piece.sequence > next || piece.sequence == 0 {
                            Err(ProducerError::OutOfSequence { expected: next })
                        } else if let Some(kept) = there.filter(|kept| kept.piece == piece) {
                            Ok(Verdict::Duplicate(kept))
                        } else {
                            Err(ProducerError::SequenceReused { sequence: piece.sequence })
                        };
                        prop_assert_eq!(publish(&mut ledger, ours, piece, base), wanted.clone());
                        if wanted == Ok(Verdict::Next) {
                            frames.insert(piece.sequence, Kept { piece, base: Offset(base) });
                            base += u64::from(records) + 5;
                        }
                    }
                    Op::NewInstance => {
                        current += 1;
                        ours = current;
                        let last = frames.values().next_back().copied();
                        prop_assert_eq!(ledger.take_over(ours, 0), Ok(last));
                    }
                    Op::Resume { back } => {
                        ours = current.saturating_sub(back).max(1);
                        prop_assert_eq!(ledger.take_over(ours, 0).is_ok(), ours == current);
                    }
                    Op::Restart { again } => {
                        let mut found = Ledger::new(0);
                        found.saw_epoch(current);
                        let kept: Vec<Kept> = ledger.kept().copied().collect();
                        let from = kept.len().saturating_sub(again);
                        for kept in kept.iter().chain(&kept[from..]) {
                            found.note(*kept);
                        }
                        prop_assert_eq!(&found, &ledger);
                        ledger = found;
                    }
                }
            }
        }
    }

    #[test]
    fn frames_beyond_the_window_are_forgotten_and_refused() {
        let mut ledger = Ledger::new(1);
        for sequence in 1..=PRODUCER_FRAMES_KEPT as u64 + 1 {
            publish(&mut ledger, 1, piece(sequence, 1, 7), sequence).unwrap();
        }
        let expected = PRODUCER_FRAMES_KEPT as u64 + 2;
        assert_eq!(
            ledger.check(1, &piece(1, 1, 7)),
            Err(ProducerError::OutOfSequence { expected })
        );
        assert!(matches!(
            ledger.check(1, &piece(2, 1, 7)),
            Ok(Verdict::Duplicate(_))
        ));
    }
}
