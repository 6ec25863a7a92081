//! Programs for the scheduler beside the model: what is done, one operation after the other.

use super::model::{At, Kind, Record};
use super::pair::Pair;
use super::*;

/// What is done, and two numbers that say with what.
pub(super) type Operation = (u8, u16, u16);

fn policy(pick: u16) -> Policy {
    Policy {
        lease_us: 100,
        deliveries_max: [3, 0, 1, 2][usize::from(pick % 4)],
        backoff: Backoff {
            first_us: [0, 50, 200][usize::from(pick / 4 % 3)],
            cap_us: 400,
            multiplier_milli: 2000,
            jitter_percent: 20,
        },
        expired: [OnExpiry::DeadLetter, OnExpiry::Drop][usize::from(pick / 12 % 2)],
        age_max_us: [0, 0, 500][usize::from(pick / 24 % 3)],
        dead_letters: [DeadLetters::Kept, DeadLetters::Kept, DeadLetters::Dropped]
            [usize::from(pick / 72 % 3)],
    }
}

fn bounds(pick: u16) -> Bounds {
    Bounds {
        delayed_max: [4, 1000][usize::from(pick % 2)],
        look_ahead: 16,
        moves_max: [1000, 5][usize::from(pick / 2 % 2)],
        leases_max: [1000, 6][usize::from(pick / 4 % 2)],
    }
}

/// Between any two steps the process may end, a consumer be lost, or somebody settle what is not his.
fn operate(pair: &mut Pair, (what, a, b): Operation) {
    match what {
        0..20 => publish(pair, a, b),
        20..44 => pair.scan(usize::from(a % 40), usize::from(b % 3)),
        44..50 => {
            if pair.model.workers.len() < 5 {
                let consumer = pair.attach(u64::from(a % 3) * 60);
                window(pair, consumer, b);
            }
        }
        50..54 => {
            if let Some(consumer) = worker(pair, a) {
                let cause = if b % 2 == 0 {
                    Detached::Closed
                } else {
                    Detached::Lost
                };
                pair.step(Input::Detach { consumer, cause });
            }
        }
        54..62 => {
            let consumer = worker(pair, a).unwrap_or(ConsumerId(999));
            window(pair, consumer, b);
        }
        62..70 => {
            let consumer = worker(pair, a).unwrap_or(ConsumerId(999));
            pair.step(Input::Receive {
                consumer,
                messages: u32::from(b % 9),
                bytes: [0, 1_000, 1 << 30][usize::from(a / 8 % 3)],
                until_boot_us: pair.now.boot_us + u64::from(b / 9 % 150),
                lease_us: [0, 35][usize::from(a / 24 % 2)],
            });
        }
        70..170 => settle(pair, what, a, b),
        170..180 => settle_wrongly(pair, a, b),
        180..205 => {
            pair.now.boot_us += u64::from(a % 60);
            pair.now.wall_us += u64::from(b % 60);
            if b % 4 > 0 {
                pair.step(Input::Tick);
            }
        }
        205..209 => pair.step(if b % 3 == 0 {
            Input::Pause
        } else {
            Input::Resume
        }),
        209..212 => pair.step(Input::SetPolicy(policy(a))),
        212..216 => {
            let span = pair.end() - pair.model.floor();
            let to = pair.model.floor() + usize::from(a) % (span / 2 + 1);
            pair.step(Input::Purge {
                to: Offset(to as u64),
            });
        }
        216..221 => drop_oldest(pair, u64::from(a % 5)),
        221..232 => {
            let back = u64::from(a % 4);
            let through = (pair.model.next_move - 1).saturating_sub(back);
            pair.step(Input::Applied { through });
        }
        232..240 => pair.near(usize::from(a % 5)),
        240..246 => damage(pair, a),
        246.. => pair.restart((a % 2 == 0).then_some(())),
    }
}

/// In a grouped queue one at a time: whether the next of a group is ready once the one before it was
/// dropped depends on where that stood, which the model does not know.
fn drop_oldest(pair: &mut Pair, messages: u64) {
    let together = match pair.model.mode {
        Mode::Grouped => messages.min(1),
        Mode::Plain | Mode::Prioritised => messages,
    };
    for _ in 0..messages / together.max(1) {
        pair.step(Input::DropOldest {
            messages: together,
            cause: Reason::LimitReached,
        });
    }
}

fn publish(pair: &mut Pair, a: u16, b: u16) {
    let special = b.is_multiple_of(3);
    let wall_us = pair.now.wall_us;
    let record = Record {
        kind: match b % 16 {
            7 => Kind::Void,
            _ if special => Kind::Special,
            _ => Kind::Plain,
        },
        bytes: u32::from(a / 256 % 3 * 40),
        append_us: wall_us,
        group: 0,
        priority: 0,
        due_us: 0,
        expires_us: 0,
        at: At::Unscanned,
        attempts: 0,
        first_us: 0,
        last_us: 0,
    };
    for more in 0..a % 12 {
        let mut record = record.clone();
        if record.kind == Kind::Special {
            let pick = (a ^ b)
                .wrapping_mul(31)
                .wrapping_add(more.wrapping_mul(977))
                >> 3;
            record.group = u64::from(pick % 4);
            record.priority = [0, 0, 3, 9][usize::from(pick / 4 % 4)];
            record.due_us =
                [0, 0, 0, wall_us + u64::from(pick / 16 % 300)][usize::from(pick / 2 % 4)];
            record.expires_us = [0, 0, 0, wall_us + 100][usize::from(pick / 64 % 4)];
        }
        pair.publish(record);
    }
}

fn worker(pair: &Pair, pick: u16) -> Option<ConsumerId> {
    let workers = &pair.model.workers;
    let worker = workers.get(usize::from(pick) % workers.len().max(1));
    worker.map(|worker| worker.id)
}

fn window(pair: &mut Pair, consumer: ConsumerId, pick: u16) {
    pair.step(Input::Window {
        consumer,
        messages: [4, 0, 1, 90, 12][usize::from(pick % 5)],
        bytes: [1 << 30, 1 << 30, 200, 0][usize::from(pick / 5 % 4)],
    });
}

fn verb(what: u8, pick: u16) -> Verb {
    match what {
        70..120 => Verb::Ack,
        120..132 => Verb::Retry,
        132..138 => Verb::RetryAfter {
            delay_us: u64::from(pick % 400),
        },
        138..144 => Verb::Reject {
            reason: "no".repeat(usize::from(pick % 200)).into(),
        },
        144..152 => Verb::Release,
        152..162 => Verb::Extend {
            lease_us: u64::from(pick % 3) * 70,
        },
        162..166 => Verb::Gone,
        _ => Verb::Redrive,
    }
}

fn settle(pair: &mut Pair, what: u8, a: u16, b: u16) {
    let held: Vec<_> = pair.model.held().collect();
    let Some((at, one)) = held.get(usize::from(a) % held.len().max(1)) else {
        return;
    };
    let settle = Settle {
        offset: Offset(*at as u64),
        lease: one.lease,
        verb: verb(what, b),
        tag: u64::from(b % 2),
    };
    let consumer = one.consumer;
    let input = match Acks::of(&settle).filter(|_| b % 4 >= 2) {
        Some(mut acks) => {
            for (other, also) in &held {
                // Now and then one that is under another lease, or not held at all.
                let (astray, skipped) = (b & 3 << 10 == 0, b >> (other % 8) & 1 == 0);
                if *other > *at && !skipped && (also.lease == one.lease || astray) {
                    let offset = Offset((*other + usize::from(astray)) as u64);
                    let tag = acks.tag * u64::from(acks.count() + 1);
                    acks.join(&Settle {
                        tag,
                        ..Settle::ack(offset, one.lease)
                    });
                }
            }
            Input::Acks { consumer, acks }
        }
        None => Input::Settle { consumer, settle },
    };
    if b & 256 == 0 {
        pair.step(input);
    } else {
        pair.absorb(input);
    }
}

/// With a lease of former times, another's, or for another record.
fn settle_wrongly(pair: &mut Pair, a: u16, b: u16) {
    let Some(grant) = pair.grants.get(usize::from(a) % pair.grants.len().max(1)) else {
        return;
    };
    let settle = Settle {
        offset: grant.first + u64::from(b % 4),
        lease: LeaseNumber(grant.lease.0 + u64::from(b / 4 % 2)),
        verb: verb(70 + (a % 100) as u8, b),
        tag: 0,
    };
    let consumer = match b / 8 % 3 {
        0 => worker(pair, a).unwrap_or(grant.consumer),
        _ => grant.consumer,
    };
    let acks = Acks::of(&settle).filter(|_| b & 64 > 0);
    pair.step(match acks {
        Some(acks) => Input::Acks { consumer, acks },
        None => Input::Settle { consumer, settle },
    });
}

/// What comes next in the topic can no longer be read.
fn damage(pair: &mut Pair, a: u16) {
    let first = pair.scheduler.next_scan();
    let next = (first.0 as usize + usize::from(a % 4)).min(pair.end());
    let next = Offset(next as u64);
    if next > first {
        pair.step(Input::Scanned(Scanned::Void { first, next }));
    }
}

/// Runs a program to its end, and then until every record is settled.
pub(super) fn run(picks: (u16, u16, u16), operations: &[Operation]) {
    let mode = [Mode::Plain, Mode::Grouped, Mode::Prioritised][usize::from(picks.0 % 3)];
    let mut pair = Pair::new(mode, policy(picks.1), bounds(picks.2));
    for operation in operations {
        operate(&mut pair, *operation);
    }
    pair.drain();
}
