//! Every state a record can be in, against everything that can happen to it.

use super::*;

const CONSUMER: ConsumerId = ConsumerId(1);
const OTHER: ConsumerId = ConsumerId(2);
const START: Now = Now {
    boot_us: 1_000,
    wall_us: 1_000,
};
const LEASE_US: u64 = 100;
const DUE_US: u64 = 5_000;
const EXPIRES_US: u64 = 10_000;

/// Where the record is before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unscanned,
    Ready,
    /// Ready, but another of its group is with a consumer.
    Behind,
    Leased,
    Delayed,
    Far,
    Moving,
    Settled,
}

use Standing::{Behind, Delayed, Far, Leased, Moving, Ready, Settled, Unscanned};

const STANDINGS: [Standing; 8] = [
    Unscanned, Ready, Behind, Leased, Delayed, Far, Moving, Settled,
];

/// What happens, and where the record is then in each case, in the order of `STANDINGS`: its state,
/// the attempts with it, and `!` if the settle was refused.
const TABLE: [(&str, [&str; 8]); 22] = [
    (
        "told of it",
        [
            "ready 0",
            "ready 0",
            "ready 0",
            "leased 1",
            "delayed 0",
            "far 0",
            "moving 1",
            "settled",
        ],
    ),
    (
        "somebody has room",
        [
            "unscanned",
            "leased 1",
            "ready 0",
            "leased 1",
            "delayed 0",
            "far 0",
            "moving 1",
            "settled",
        ],
    ),
    (
        "room, but paused",
        [
            "unscanned",
            "ready 0",
            "ready 0",
            "leased 1",
            "delayed 0",
            "far 0",
            "moving 1",
            "settled",
        ],
    ),
    (
        "ack",
        [
            "unscanned!",
            "ready 0!",
            "ready 0!",
            "settled",
            "delayed 0!",
            "far 0!",
            "moving 1!",
            "settled!",
        ],
    ),
    (
        "retry",
        [
            "unscanned!",
            "ready 0!",
            "ready 0!",
            "delayed 1",
            "delayed 0!",
            "far 0!",
            "moving 1!",
            "settled!",
        ],
    ),
    (
        "retry at once",
        [
            "unscanned!",
            "ready 0!",
            "ready 0!",
            "ready 1",
            "delayed 0!",
            "far 0!",
            "moving 1!",
            "settled!",
        ],
    ),
    (
        "reject",
        [
            "unscanned!",
            "ready 0!",
            "ready 0!",
            "moving 1",
            "delayed 0!",
            "far 0!",
            "moving 1!",
            "settled!",
        ],
    ),
    (
        "release",
        [
            "unscanned!",
            "ready 0!",
            "ready 0!",
            "ready 0",
            "delayed 0!",
            "far 0!",
            "moving 1!",
            "settled!",
        ],
    ),
    (
        "extend",
        [
            "unscanned!",
            "ready 0!",
            "ready 0!",
            "leased 1",
            "delayed 0!",
            "far 0!",
            "moving 1!",
            "settled!",
        ],
    ),
    (
        "gone",
        [
            "unscanned!",
            "ready 0!",
            "ready 0!",
            "settled",
            "delayed 0!",
            "far 0!",
            "moving 1!",
            "settled!",
        ],
    ),
    (
        "redrive",
        [
            "unscanned!",
            "ready 0!",
            "ready 0!",
            "moving 1",
            "delayed 0!",
            "far 0!",
            "moving 1!",
            "settled!",
        ],
    ),
    (
        "another's ack",
        [
            "unscanned!",
            "ready 0!",
            "ready 0!",
            "leased 1!",
            "delayed 0!",
            "far 0!",
            "moving 1!",
            "settled!",
        ],
    ),
    (
        "leases end",
        [
            "unscanned",
            "ready 0",
            "ready 0",
            "ready 1",
            "delayed 0",
            "far 0",
            "moving 1",
            "settled",
        ],
    ),
    (
        "delays pass",
        [
            "unscanned",
            "ready 0",
            "ready 0",
            "leased 1",
            "ready 0",
            "far 0",
            "moving 1",
            "settled",
        ],
    ),
    (
        "expired, with room",
        [
            "unscanned",
            "moving 0",
            "ready 0",
            "leased 1",
            "moving 0",
            "far 0",
            "moving 1",
            "settled",
        ],
    ),
    (
        "closed",
        [
            "unscanned",
            "ready 0",
            "ready 0",
            "ready 0",
            "delayed 0",
            "far 0",
            "moving 1",
            "settled",
        ],
    ),
    (
        "lost",
        [
            "unscanned",
            "ready 0",
            "ready 0",
            "ready 1",
            "delayed 0",
            "far 0",
            "moving 1",
            "settled",
        ],
    ),
    (
        "purged",
        [
            "settled", "settled", "settled", "settled", "settled", "settled", "moving 1", "settled",
        ],
    ),
    (
        "oldest dropped",
        [
            "unscanned",
            "moving 0",
            "moving 0",
            "leased 1",
            "delayed 0",
            "far 0",
            "moving 1",
            "settled",
        ],
    ),
    (
        "moves applied",
        [
            "unscanned",
            "ready 0",
            "ready 0",
            "leased 1",
            "delayed 0",
            "far 0",
            "settled",
            "settled",
        ],
    ),
    (
        "near",
        [
            "unscanned",
            "ready 0",
            "ready 0",
            "leased 1",
            "delayed 0",
            "far 0",
            "moving 1",
            "settled",
        ],
    ),
    (
        "restart",
        [
            "ready 0", "ready 0", "ready 0", "ready 0", "ready 0", "ready 0", "moving 0", "settled",
        ],
    ),
];

struct Table {
    scheduler: Scheduler,
    durable: Durable,
    subject: u64,
    lease: LeaseNumber,
    now: Now,
    far: Vec<FarEntry>,
    refused: bool,
}

impl Table {
    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.scheduler.step(self.now, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Journal(entry) => self.durable.apply(&entry),
                Effect::Deliver(grant) if grant.first.0 == self.subject => {
                    self.lease = grant.lease;
                }
                Effect::Settled { result, .. } => self.refused |= result.is_err(),
                Effect::Far { entries } => self.far.extend(entries),
                _ => {}
            }
        }
    }

    fn room(&mut self, consumer: ConsumerId, messages: u32) {
        self.step(Input::Window {
            consumer,
            messages,
            bytes: 1 << 30,
        });
    }

    fn settle(&mut self, verb: Verb) {
        let settle = Settle {
            offset: Offset(self.subject),
            lease: self.lease,
            verb,
            tag: 1,
        };
        let consumer = CONSUMER;
        self.step(Input::Settle { consumer, settle });
    }

    fn scan(&mut self, offset: u64, due_us: u64) {
        self.step(Input::Scanned(Scanned::One {
            offset: Offset(offset),
            bytes: 10,
            append_us: 1,
            group: 1,
            priority: 0,
            due_us,
            expires_us: if offset == self.subject {
                EXPIRES_US
            } else {
                0
            },
        }));
    }

    fn new(standing: Standing) -> Self {
        let mode = if standing == Behind {
            Mode::Grouped
        } else {
            Mode::Plain
        };
        let mut table = Self {
            scheduler: scheduler(mode, &Durable::new(Offset(0))),
            durable: Durable::new(Offset(0)),
            subject: u64::from(standing == Behind),
            lease: LeaseNumber(0),
            now: START,
            far: Vec::new(),
            refused: false,
        };
        for consumer in [CONSUMER, OTHER] {
            table.step(Input::Attach {
                consumer,
                lease_us: 0,
            });
        }
        table.bring(standing);
        table
    }

    /// Brings the record where it is to stand: leased once before, but where that can't be.
    fn bring(&mut self, standing: Standing) {
        match standing {
            Unscanned => {}
            Ready => self.scan(0, 0),
            Behind => {
                self.scan(0, 0);
                self.room(OTHER, 1);
                self.scan(1, 0);
            }
            Delayed => self.scan(0, DUE_US),
            Far => {
                self.scan(0, DUE_US);
                self.scan(1, DUE_US - 1);
                self.scan(2, DUE_US - 2);
            }
            Leased | Moving | Settled => {
                self.scan(0, 0);
                self.room(CONSUMER, 1);
                self.room(CONSUMER, 0);
                match standing {
                    Moving => self.settle(Verb::Reject { reason: "".into() }),
                    Settled => self.settle(Verb::Ack),
                    _ => {}
                }
            }
        }
    }

    fn happen(&mut self, event: &str) {
        let consumer = CONSUMER;
        match event {
            "told of it" => {
                let to = self.subject;
                for offset in self.scheduler.next_scan().0..=to {
                    self.scan(offset, 0);
                }
                self.scan(to, 0);
            }
            "somebody has room" => self.room(OTHER, 10),
            "room, but paused" => {
                self.step(Input::Pause);
                self.room(OTHER, 10);
            }
            "ack" => self.settle(Verb::Ack),
            "retry" => self.settle(Verb::Retry),
            "retry at once" => self.settle(Verb::RetryAfter { delay_us: 0 }),
            "reject" => self.settle(Verb::Reject { reason: "".into() }),
            "release" => self.settle(Verb::Release),
            "extend" => self.settle(Verb::Extend { lease_us: 0 }),
            "gone" => self.settle(Verb::Gone),
            "redrive" => self.settle(Verb::Redrive),
            "another's ack" => {
                let settle = Settle {
                    offset: Offset(self.subject),
                    lease: self.lease,
                    verb: Verb::Ack,
                    tag: 1,
                };
                let consumer = OTHER;
                self.step(Input::Settle { consumer, settle });
            }
            "leases end" => {
                self.now.boot_us += LEASE_US;
                self.step(Input::Tick);
            }
            "delays pass" => {
                self.now.wall_us = DUE_US;
                self.step(Input::Tick);
            }
            "expired, with room" => {
                self.now.wall_us = EXPIRES_US;
                self.step(Input::Tick);
                self.room(OTHER, 10);
            }
            "closed" => self.step(Input::Detach {
                consumer,
                cause: Detached::Closed,
            }),
            "lost" => self.step(Input::Detach {
                consumer,
                cause: Detached::Lost,
            }),
            "purged" => self.step(Input::Purge {
                to: Offset(self.subject + 1),
            }),
            "oldest dropped" => self.step(Input::DropOldest {
                messages: 1,
                cause: Reason::LimitReached,
            }),
            "moves applied" => self.step(Input::Applied { through: 9 }),
            "near" => {
                let entries = std::mem::take(&mut self.far);
                self.step(Input::Near {
                    entries,
                    horizon_wall_us: u64::MAX,
                });
            }
            "restart" => {
                let mode = self.scheduler.mode;
                self.scheduler = scheduler(mode, &self.durable);
                for offset in self.scheduler.next_scan().0..=self.subject {
                    self.scan(offset, 0);
                }
            }
            _ => panic!("{event} is not known"),
        }
    }

    fn outcome(&self) -> String {
        let peeked = self.scheduler.peek(Offset(self.subject), 1);
        let found = peeked.iter().find(|one| one.offset.0 == self.subject);
        let told = if self.refused { "!" } else { "" };
        match found {
            Some(one) => format!("{:?} {}{told}", one.state, one.attempts).to_lowercase(),
            None if self.scheduler.next_scan().0 <= self.subject => format!("unscanned{told}"),
            None => format!("settled{told}"),
        }
    }
}

fn scheduler(mode: Mode, durable: &Durable) -> Scheduler {
    let policy = Policy {
        lease_us: LEASE_US,
        deliveries_max: 3,
        backoff: Backoff {
            first_us: 1_000,
            cap_us: 1_000,
            multiplier_milli: 1_000,
            jitter_percent: 0,
        },
        expired: OnExpiry::DeadLetter,
        age_max_us: 0,
        dead_letters: DeadLetters::Kept,
    };
    let bounds = Bounds {
        delayed_max: 2,
        ..Bounds::of(mode)
    };
    Scheduler::bounded(mode, policy, durable, bounds)
}

#[test]
fn every_state_and_event_has_its_outcome() {
    for (event, outcomes) in TABLE {
        for (standing, expected) in STANDINGS.into_iter().zip(outcomes) {
            let mut table = Table::new(standing);
            let before = table.outcome();
            table.happen(event);
            let outcome = table.outcome();
            assert_eq!(outcome, expected, "{standing:?} ({before}), {event}");
            table.scheduler.check_everything();
            let mut lasting = table.scheduler.durable();
            for entry in &table.far {
                lasting.add_far(entry);
            }
            assert_eq!(lasting, table.durable, "{standing:?}, {event}: what lasts");
        }
    }
}
