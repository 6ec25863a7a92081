//! The committed prefix of a log as all who ask have walked it together (L1).

use millstream_protocol::Offset;

use crate::chain::Chain;
use crate::sync::{Frontier, Mutex, lock};
use crate::walker::{Step, Walker};

/// How far the prefix was walked; each frame is walked over once, under the lock.
#[derive(Debug)]
pub(crate) struct Prefix {
    walker: Mutex<Option<Walker>>,
}

impl Prefix {
    pub(crate) fn new() -> Self {
        Self {
            walker: Mutex::new(None),
        }
    }

    /// Walks from where the last walk ended to the end of what is committed, and raises `committed` to it.
    pub(crate) fn walk(&self, chain: &Chain, committed: &Frontier) -> u64 {
        walk(&mut lock(&self.walker), chain, committed)
    }

    /// Does the same, and brings `walker` there, which was nowhere yet or is far behind.
    pub(crate) fn catch_up(
        &self,
        walker: &mut Option<Walker>,
        (chain, committed): (&Chain, &Frontier),
    ) {
        let mut prefix = lock(&self.walker);
        walk(&mut prefix, chain, committed);
        let left = match (walker, &*prefix) {
            (Some(walker), Some(prefix)) => walker.catch_up(prefix),
            (None, None) | (Some(_), None) => None,
            (walker @ None, Some(prefix)) => walker.replace(prefix.clone()),
        };
        drop(prefix);
        // Outside of the lock: it may be the last that keeps a segment mapped.
        drop(left);
    }
}

fn walk(prefix: &mut Option<Walker>, chain: &Chain, committed: &Frontier) -> u64 {
    loop {
        let Some(walker) = prefix.as_mut() else {
            match chain.live_behind(None) {
                Some(first) => *prefix = Some(Walker::new(first)),
                None => return committed.get(),
            }
            continue;
        };
        let step = walker.advance(Offset(u64::MAX), u32::MAX);
        committed.raise(walker.offset().0);
        if !matches!(step, Step::Sealed) {
            return committed.get();
        }
        // Segments between that are finished were synced, and so raised `committed` already.
        match chain.live_behind(Some(walker.segment().number())) {
            Some(next) => *walker = Walker::new(next),
            None => return committed.get(),
        }
    }
}
