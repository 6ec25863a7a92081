//! What a run of the simulator did, to be told.

use std::fmt;

/// Declares the counts, so that each is added up and told.
macro_rules! tally {
    ($($field:ident: $text:literal),* $(,)?) => {
        /// What was done.
        #[derive(Debug, Default, Clone, Copy)]
        pub(super) struct Tally {
            $(pub(super) $field: u64,)*
        }

        impl Tally {
            pub(super) fn add(&mut self, other: Self) {
                $(self.$field += other.$field;)*
            }
        }

        impl fmt::Display for Tally {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let counts = [$((self.$field, $text)),*];
                for (at, (count, text)) in counts.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}{count} {text}")?;
                }
                Ok(())
            }
        }
    };
}

tally! {
    crashes: "crashes",
    power_losses: "of them power losses",
    at_start: "during a start",
    lives: "lives",
    runs: "programs",
    operations: "operations of theirs",
    failures: "failures planned",
    records: "records",
    synced: "acknowledged as synced and there at the end",
    lost: "unacknowledged lost",
    cuts: "cuts",
    ended: "segments ended",
    trimmed: "segments trimmed",
    reused: "files of theirs used again",
    closes: "clean stops",
    again: "recoveries repeated without a changed byte",
}
