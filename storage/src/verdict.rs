//! What recovery does with an unsealed segment, as a table over what its bytes and slots show (S2).
//!
//! ```text
//!            0 ………… proven ………… attempted ………… tail
//! frames end  rot: gap,  can't be told:   a tear, or
//! here        go on at   cut, possibly    just the end:
//!             proven     acknowledged     cut
//! ```

/// Where the unbroken run of good frames ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stopped {
    /// Below what a finished sync covered.
    BelowProven,
    /// Exactly at what a finished sync covered, or behind it and before `attempted`.
    BeforeAttempted,
    /// Where the last sync that was begun would have ended, or behind.
    AtOrPastAttempted,
}

/// What the bytes at the stop are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Found {
    /// A good seal: the segment was ended here.
    Seal,
    /// Anything else: nothing, a torn frame, junk.
    NoFrame,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// The segment is whole; the prefix goes on in the next one.
    Sealed,
    /// Rot: report a gap up to the proven watermark, go on behind it. Nothing is cut.
    Gap,
    /// The log ends here. What was never begun to be synced was never acknowledged as synced.
    Cut,
    /// The log ends here, and what was cut may have been acknowledged.
    CutPossiblyAcknowledged,
}

/// One row for each combination; the last column is the rule it follows from.
const TABLE: [(Stopped, Found, Verdict); 6] = [
    // A seal below the proven watermark is not this use's seal: frames were proven behind it.
    (Stopped::BelowProven, Found::Seal, Verdict::Gap),
    (Stopped::BelowProven, Found::NoFrame, Verdict::Gap),
    // The seal checks out, and nothing of this segment can lie behind it.
    (Stopped::BeforeAttempted, Found::Seal, Verdict::Sealed),
    (
        Stopped::BeforeAttempted,
        Found::NoFrame,
        Verdict::CutPossiblyAcknowledged,
    ),
    (Stopped::AtOrPastAttempted, Found::Seal, Verdict::Sealed),
    (Stopped::AtOrPastAttempted, Found::NoFrame, Verdict::Cut),
];

/// Looks the combination up.
pub(crate) fn verdict(stopped: Stopped, found: Found) -> Verdict {
    TABLE
        .iter()
        .find(|(at, what, _)| (*at, *what) == (stopped, found))
        .map(|(_, _, verdict)| *verdict)
        .expect("the table has a row for each combination")
}

impl Stopped {
    /// Where `position` lies between the watermarks.
    pub(crate) fn of(position: u32, proven: u32, attempted: u32) -> Self {
        if position < proven {
            Self::BelowProven
        } else if position < attempted {
            Self::BeforeAttempted
        } else {
            Self::AtOrPastAttempted
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_one_row() {
        for stopped in [
            Stopped::BelowProven,
            Stopped::BeforeAttempted,
            Stopped::AtOrPastAttempted,
        ] {
            for found in [Found::Seal, Found::NoFrame] {
                let rows = TABLE
                    .iter()
                    .filter(|row| (row.0, row.1) == (stopped, found));
                assert_eq!(rows.count(), 1, "{stopped:?} {found:?}");
                let decided = verdict(stopped, found);
                // Nothing is ever cut below what a sync proved.
                assert_eq!(decided == Verdict::Gap, stopped == Stopped::BelowProven);
                // Only between the watermarks can a cut have taken something acknowledged.
                assert_eq!(
                    decided == Verdict::CutPossiblyAcknowledged,
                    stopped == Stopped::BeforeAttempted && found == Found::NoFrame
                );
            }
        }
    }

    #[test]
    fn watermarks_are_compared_by_position() {
        assert_eq!(Stopped::of(9, 10, 20), Stopped::BelowProven);
        assert_eq!(Stopped::of(10, 10, 20), Stopped::BeforeAttempted);
        assert_eq!(Stopped::of(19, 10, 20), Stopped::BeforeAttempted);
        assert_eq!(Stopped::of(20, 10, 20), Stopped::AtOrPastAttempted);
        assert_eq!(Stopped::of(20, 20, 20), Stopped::AtOrPastAttempted);
    }
}
