//! The scheduler of a queue beside its model.
//!
//! Six bytes choose mode, policy and bounds; each five behind them are one operation and two numbers
//! that say with what: publish, scan, attach, settle rightly and wrongly, let time pass, purge, end
//! the process. Claims: after every operation all effects and all state are the model's, what the
//! journal folds to is what a checkpoint would hold, and in the end every record can be settled.

use crate::Outcome;

/// Runs all claims over `data`.
pub fn check(data: &[u8]) -> Outcome {
    if millstream::fuzzing::scheduler(data) {
        Outcome::Accepted
    } else {
        Outcome::Refused
    }
}
