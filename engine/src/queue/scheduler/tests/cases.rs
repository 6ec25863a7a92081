//! What the scheduler promises, by name.

use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    lease_us: 1_000,
    deliveries_max: 3,
    backoff: Backoff {
        first_us: 0,
        cap_us: 0,
        multiplier_milli: 1_000,
        jitter_percent: 0,
    },
    expired: OnExpiry::DeadLetter,
    age_max_us: 0,
    dead_letters: DeadLetters::Kept,
};

struct Queue {
    scheduler: Scheduler,
    now: Now,
    effects: Vec<Effect>,
}

impl Queue {
    fn bounded(mode: Mode, policy: Policy, bounds: Bounds) -> Self {
        let durable = Durable::new(Offset(0));
        Self {
            scheduler: Scheduler::bounded(mode, policy, &durable, bounds),
            now: Now {
                boot_us: 1,
                wall_us: 1,
            },
            effects: Vec::new(),
        }
    }

    fn new(mode: Mode) -> Self {
        Self::bounded(mode, POLICY, Bounds::of(mode))
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        self.effects.clear();
        self.scheduler.step(self.now, input, &mut self.effects);
        self.effects.clone()
    }

    fn grants(&mut self, input: Input) -> Vec<Grant> {
        let effects = self.step(input).into_iter();
        let grants = effects.filter_map(|effect| match effect {
            Effect::Deliver(grant) => Some(grant),
            _ => None,
        });
        grants.collect()
    }

    fn publish(&mut self, count: u32) -> Vec<Grant> {
        let first = self.scheduler.next_scan();
        self.grants(Input::Scanned(Scanned::Run {
            first,
            count,
            bytes_each: 10,
            append_us: 1,
        }))
    }

    fn publish_one(&mut self, group: u64, priority: u8, due_us: u64) -> Vec<Grant> {
        let offset = self.scheduler.next_scan();
        self.grants(Input::Scanned(Scanned::One {
            offset,
            bytes: 10,
            append_us: 1,
            group,
            priority,
            due_us,
            expires_us: 0,
        }))
    }

    fn attach(&mut self, number: u64, messages: u32) -> Vec<Grant> {
        let consumer = ConsumerId(number);
        self.step(Input::Attach {
            consumer,
            lease_us: 0,
        });
        self.window(number, messages, 1 << 30)
    }

    fn window(&mut self, number: u64, messages: u32, bytes: u64) -> Vec<Grant> {
        self.grants(Input::Window {
            consumer: ConsumerId(number),
            messages,
            bytes,
        })
    }

    fn receive(&mut self, number: u64, messages: u32) -> Vec<Effect> {
        self.step(Input::Receive {
            consumer: ConsumerId(number),
            messages,
            bytes: 1 << 30,
            until_boot_us: self.now.boot_us + 500,
            lease_us: 0,
        })
    }

    fn settle(&mut self, grant: Grant, offset: u64, verb: Verb) -> Vec<Effect> {
        self.step(Input::Settle {
            consumer: grant.consumer,
            settle: Settle {
                offset: Offset(offset),
                lease: grant.lease,
                verb,
                tag: 0,
            },
        })
    }
}

fn records(grants: &[Grant], consumer: u64) -> u32 {
    let mine = grants.iter().filter(|grant| grant.consumer.0 == consumer);
    mine.map(|grant| grant.count).sum()
}

#[test]
fn consumers_share_what_is_ready() {
    let mut queue = Queue::new(Mode::Plain);
    for number in 1..=3 {
        queue.attach(number, 100);
    }
    let grants = queue.publish(60);
    assert_eq!([1, 2, 3].map(|number| records(&grants, number)), [20; 3]);
}

#[test]
fn one_record_wakes_one_pull_and_the_next_record_the_next() {
    let mut queue = Queue::new(Mode::Plain);
    for number in 1..=2 {
        queue.attach(number, 0);
        assert_eq!(queue.receive(number, 5), []);
    }
    assert_eq!(records(&queue.publish(1), 1), 1);
    assert_eq!(records(&queue.publish(1), 2), 1);
    assert_eq!(queue.publish(1), []);
}

#[test]
fn a_pull_takes_all_there_is_in_one_step() {
    let mut queue = Queue::new(Mode::Plain);
    queue.attach(1, 0);
    queue.publish(150);
    let effects = queue.receive(1, 1_000);
    let over = Effect::ReceiveOver {
        consumer: ConsumerId(1),
        granted: 150,
    };
    // 64, 64, 22.
    assert_eq!(effects.len(), 4);
    assert_eq!(effects.last(), Some(&over));
}

#[test]
fn a_pull_that_finds_nothing_is_over_when_its_time_comes() {
    let mut queue = Queue::new(Mode::Plain);
    queue.attach(1, 0);
    queue.receive(1, 5);
    assert_eq!(queue.scheduler.next_wake().boot_us, Some(501));
    queue.now.boot_us = 501;
    let over = Effect::ReceiveOver {
        consumer: ConsumerId(1),
        granted: 0,
    };
    assert_eq!(queue.step(Input::Tick), [over]);
    assert_eq!(queue.publish(1), []);
}

#[test]
fn extending_one_record_of_a_run_leaves_the_others() {
    let mut queue = Queue::new(Mode::Plain);
    queue.attach(1, 10);
    let run = queue.publish(10)[0];
    queue.now.boot_us = 600;
    queue.settle(run, 4, Verb::Extend { lease_us: 0 });
    queue.now.boot_us = 1_001;
    let again = queue.grants(Input::Tick);
    assert_eq!(records(&again, 1), 9);
    assert!(
        again
            .iter()
            .all(|grant| grant.first.0 != 4 && grant.attempts == 2)
    );
    assert_eq!(queue.settle(run, 4, Verb::Ack).len(), 1, "still leased");
}

#[test]
fn a_slot_used_again_has_another_number() {
    let mut queue = Queue::new(Mode::Plain);
    queue.attach(1, 1);
    let mut seen = std::collections::HashSet::new();
    let mut grants = queue.publish(100);
    for _ in 0..99 {
        let grant = grants[0];
        assert!(seen.insert(grant.lease));
        queue.settle(grant, grant.first.0, Verb::Ack);
        let effects = std::mem::take(&mut queue.effects);
        grants = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Deliver(grant) => Some(*grant),
                _ => None,
            })
            .collect();
        let late = queue.settle(grant, grant.first.0, Verb::Ack);
        assert!(matches!(late[..], [Effect::Settled { result: Err(_), .. }]));
    }
    assert_eq!(queue.scheduler.leases.slots(), 1);
}

#[test]
fn the_last_record_may_go_over_the_bytes() {
    let mut queue = Queue::new(Mode::Plain);
    queue.attach(1, 0);
    queue.publish(10);
    assert_eq!(records(&queue.window(1, 10, 25), 1), 3);
    assert_eq!(queue.window(1, 10, 30), []);
}

#[test]
fn a_blocked_group_holds_up_no_other() {
    let mut queue = Queue::new(Mode::Grouped);
    queue.attach(1, 100);
    let head = queue.publish_one(1, 0, 0)[0];
    for _ in 0..50 {
        assert_eq!(queue.publish_one(1, 0, 0), []);
    }
    assert_eq!(records(&queue.publish_one(2, 0, 0), 1), 1);
    queue.settle(head, 0, Verb::RetryAfter { delay_us: 100 });
    assert_eq!(records(&queue.publish_one(3, 0, 0), 1), 1);
    assert_eq!(queue.scheduler.counts().delayed, 1);
    queue.now.wall_us += 100;
    let again = queue.grants(Input::Tick);
    assert_eq!(
        (again[0].first.0, again[0].attempts, again.len()),
        (0, 2, 1)
    );
}

#[test]
fn it_looks_further_ahead_when_all_waits_behind_a_blocked_group() {
    let bounds = Bounds {
        look_ahead: 10,
        ..Bounds::of(Mode::Grouped)
    };
    let mut queue = Queue::bounded(Mode::Grouped, POLICY, bounds);
    queue.attach(1, 5);
    for _ in 0..31 {
        assert!(queue.scheduler.wants() > 0);
        queue.publish_one(1, 0, 0);
    }
    assert_eq!(records(&queue.publish_one(2, 0, 0), 1), 1);
    queue.window(1, 0, 1);
    assert_eq!(queue.scheduler.wants(), 0);
}

#[test]
fn higher_priority_comes_first_then_redeliveries() {
    let mut queue = Queue::new(Mode::Prioritised);
    queue.publish(2);
    for priority in [1, 5, 5] {
        queue.publish_one(0, priority, 0);
    }
    let order: Vec<u64> = queue
        .attach(1, 9)
        .iter()
        .map(|grant| grant.first.0)
        .collect();
    assert_eq!(order, [3, 4, 2, 0]);
}

#[test]
fn records_too_old_are_dropped_in_runs() {
    let policy = Policy {
        age_max_us: 100,
        expired: OnExpiry::Drop,
        ..POLICY
    };
    let mut queue = Queue::bounded(Mode::Plain, policy, Bounds::of(Mode::Plain));
    queue.publish(1_000);
    queue.now.wall_us = 101;
    queue.attach(1, 10);
    let expected = Entry::Settled {
        first: Offset(0),
        count: 1_000,
    };
    assert_eq!(queue.effects, [Effect::Journal(expected)]);
    let totals = queue.scheduler.counts().totals;
    assert_eq!((totals.expired, totals.dropped), (1_000, 1_000));
}

#[test]
fn delayed_records_take_bounded_memory_and_come_back_in_order() {
    let bounds = Bounds {
        delayed_max: 300,
        ..Bounds::of(Mode::Plain)
    };
    let mut queue = Queue::bounded(Mode::Plain, POLICY, bounds);
    let mut far: Vec<FarEntry> = Vec::new();
    let keep = |far: &mut Vec<FarEntry>, effects: Vec<Effect>| {
        for effect in effects {
            if let Effect::Far { entries } = effect {
                far.extend(entries);
            }
        }
    };
    for offset in 0..4_000u64 {
        queue.publish_one(0, 0, 100 + offset * 7_919 % 4_000);
        keep(&mut far, queue.effects.clone());
        assert!(queue.scheduler.delayed.len() <= 300);
        assert!(queue.scheduler.wants() > 0);
    }
    assert_eq!(queue.scheduler.counts().delayed, 4_000);
    queue.attach(1, 1);
    let (mut last_us, mut done) = (0, 0);
    while done < 4_000 {
        let wanted = queue.scheduler.wants_near(queue.now);
        if wanted > 0 && !far.is_empty() {
            far.sort_by_key(|entry| entry.due_us);
            let entries: Vec<FarEntry> = far.drain(..wanted.min(far.len())).collect();
            let horizon_wall_us = far.first().map_or(u64::MAX, |entry| entry.due_us);
            let effects = queue.step(Input::Near {
                entries,
                horizon_wall_us,
            });
            keep(&mut far, effects);
        }
        assert!(queue.scheduler.delayed.len() <= 300);
        queue.now.wall_us = queue
            .scheduler
            .next_wake()
            .wall_us
            .unwrap()
            .max(queue.now.wall_us);
        for grant in queue.grants(Input::Tick) {
            let due_us = 100 + grant.first.0 * 7_919 % 4_000;
            assert!(due_us >= last_us && due_us <= queue.now.wall_us);
            last_us = due_us;
            done += 1;
            queue.settle(grant, grant.first.0, Verb::Ack);
        }
    }
}

#[test]
fn what_is_far_is_asked_for_ten_seconds_before_it_is_due() {
    let bounds = Bounds {
        delayed_max: 2,
        ..Bounds::of(Mode::Plain)
    };
    let mut queue = Queue::bounded(Mode::Plain, POLICY, bounds);
    for _ in 0..3 {
        queue.publish_one(0, 0, 60_000_000);
    }
    queue.step(Input::Purge { to: Offset(1) });
    assert_eq!(queue.scheduler.counts().delayed, 2, "one more, far");
    assert_eq!(queue.scheduler.next_wake().wall_us, Some(50_000_000));
    assert_eq!(queue.scheduler.wants_near(queue.now), 0);
    queue.now.wall_us = 50_000_000;
    assert_eq!(queue.scheduler.wants_near(queue.now), 2);
}

#[test]
fn what_was_purged_does_not_come_back_from_the_far_store() {
    let bounds = Bounds {
        delayed_max: 2,
        ..Bounds::of(Mode::Plain)
    };
    let mut queue = Queue::bounded(Mode::Plain, POLICY, bounds);
    for _ in 0..3 {
        queue.publish_one(0, 0, 60);
    }
    let Some(Effect::Far { entries }) = queue.effects.pop() else {
        panic!("nothing is far");
    };
    queue.step(Input::Purge { to: Offset(3) });
    queue.now.wall_us = 60;
    queue.attach(1, 10);
    let near = Input::Near {
        entries,
        horizon_wall_us: u64::MAX,
    };
    assert_eq!(queue.step(near), []);
    assert_eq!(queue.scheduler.counts().unsettled_scanned, 0);
    assert_eq!(queue.scheduler.floor(), Offset(3));
}

#[test]
fn what_is_on_its_way_to_the_far_store_is_not_forgotten() {
    let bounds = Bounds {
        delayed_max: 2,
        ..Bounds::of(Mode::Plain)
    };
    let mut queue = Queue::bounded(Mode::Plain, POLICY, bounds);
    for _ in 0..3 {
        queue.publish_one(0, 0, 60_000_000);
    }
    assert!(matches!(queue.effects[..], [Effect::Far { .. }]));
    // The store is asked before the effect was carried out, and has nothing.
    let near = Input::Near {
        entries: Vec::new(),
        horizon_wall_us: u64::MAX,
    };
    queue.scheduler.step(queue.now, near, &mut queue.effects);
    queue.step(Input::Purge { to: Offset(1) });
    assert_eq!(queue.scheduler.next_wake().wall_us, Some(50_000_000));
}

#[test]
fn a_journal_that_is_folded_in_twice_says_the_same() {
    let at = Offset;
    let moved = |number, offset| Entry::Moved {
        number,
        offset: at(offset),
        attempts: 3,
        first_us: 1,
        last_us: 2,
        why: Reason::MaxDeliveries,
        text: "".into(),
    };
    let attempted = |offset| Entry::Attempted {
        offset: at(offset),
        attempts: 2,
        due_us: 0,
        first_us: 1,
        last_us: 2,
    };
    let settled = |first, count| Entry::Settled {
        first: at(first),
        count,
    };
    let journal = [
        settled(0, 2),
        attempted(3),
        attempted(4),
        attempted(6),
        moved(1, 3),
        settled(5, 1),
        Entry::Applied { through: 1 },
        moved(2, 4),
        Entry::Purged { to: at(3) },
    ];
    let (mut once, mut twice) = (Durable::new(at(0)), Durable::new(at(0)));
    for entry in &journal {
        once.apply(entry);
    }
    for entry in journal.iter().chain(&journal) {
        twice.apply(entry);
    }
    let bytes = |durable: &Durable| {
        let mut bytes = Vec::new();
        durable.encode(&mut bytes);
        bytes
    };
    assert_eq!(bytes(&once), bytes(&twice));
}

#[test]
fn a_group_goes_on_behind_a_record_dropped_out_of_turn() {
    let mut queue = Queue::new(Mode::Grouped);
    for group in [1, 1, 2] {
        queue.publish_one(group, 0, 0);
    }
    let grants = queue.attach(1, 2);
    assert_eq!((grants[0].first.0, grants[1].first.0), (0, 2));
    queue.window(1, 0, 1);
    queue.settle(grants[0], 0, Verb::Release);
    queue.settle(grants[1], 2, Verb::Retry);
    queue.step(Input::DropOldest {
        messages: 1,
        cause: Reason::LimitReached,
    });
    let order: Vec<u64> = queue
        .window(1, 9, 1 << 30)
        .iter()
        .map(|grant| grant.first.0)
        .collect();
    assert_eq!(order, [2, 1]);
}

#[test]
fn nothing_is_delivered_while_too_many_moves_are_under_way() {
    let bounds = Bounds {
        moves_max: 2,
        ..Bounds::of(Mode::Plain)
    };
    let mut queue = Queue::bounded(Mode::Plain, POLICY, bounds);
    queue.publish(10);
    let run = queue.attach(1, 2)[0];
    for offset in 0..2 {
        queue.settle(run, offset, Verb::Reject { reason: "".into() });
    }
    assert_eq!(queue.scheduler.counts().moving, 2);
    assert_eq!(queue.scheduler.counts().leased, 1);
    assert_eq!(queue.scheduler.floor(), Offset(0));
    let grants = queue.grants(Input::Applied { through: 1 });
    assert_eq!(records(&grants, 1), 1);
    assert_eq!(queue.scheduler.floor(), Offset(1));
}

#[test]
fn what_was_dropped_from_the_middle_does_not_stay_in_memory() {
    let policy = Policy {
        dead_letters: DeadLetters::Dropped,
        ..POLICY
    };
    for mode in [Mode::Prioritised, Mode::Grouped] {
        let mut queue = Queue::bounded(mode, policy, Bounds::of(mode));
        for offset in 0..5_000 {
            queue.publish_one(1 + offset % 7, (offset % 5) as u8, 0);
            if offset >= 10 {
                queue.step(Input::DropOldest {
                    messages: 1,
                    cause: Reason::LimitReached,
                });
            }
        }
        assert_eq!(queue.scheduler.counts().ready, 10);
        let kept = queue.scheduler.ready.singles() as u64 + queue.scheduler.groups.waiting();
        assert!(kept < 200, "{kept} records in memory for 10");
        assert_eq!(
            queue.attach(1, 100).len(),
            if mode == Mode::Grouped { 7 } else { 10 }
        );
    }
}

#[test]
fn times_of_leases_that_are_over_do_not_stay_in_memory() {
    let mut queue = Queue::new(Mode::Plain);
    queue.attach(1, 0);
    queue.publish(1_000);
    for offset in 0..1_000 {
        let effects = queue.receive(1, 1);
        let Some(Effect::Deliver(grant)) = effects.first() else {
            panic!("{effects:?}");
        };
        queue.settle(*grant, offset, Verb::Extend { lease_us: 5 });
        queue.settle(*grant, offset, Verb::Ack);
    }
    assert!(queue.scheduler.leases.timers() < 100);
}

#[test]
#[should_panic(expected = "scanned from 5, but 3 comes next")]
fn a_hole_in_the_scan_is_a_defect() {
    let mut queue = Queue::new(Mode::Plain);
    queue.publish(3);
    queue.step(Input::Scanned(Scanned::Void {
        first: Offset(5),
        next: Offset(6),
    }));
}

#[test]
fn runs_that_follow_each_other_are_one_entry() {
    let settled = |first, count| Entry::Settled {
        first: Offset(first),
        count,
    };
    let applied = Entry::Applied { through: 3 };
    let entries = [
        settled(5, 1),
        settled(6, 4),
        settled(2, 1),
        applied.clone(),
        settled(3, 1),
    ];
    let mut bytes = Vec::new();
    Entry::encode_all(&entries, &mut bytes);
    let mut read = Vec::new();
    Entry::decode_all(&bytes, |entry| read.push(entry)).unwrap();
    assert_eq!(read, [settled(5, 5), settled(2, 1), applied, settled(3, 1)]);
    assert_eq!(bytes.len(), 11);
}

#[test]
fn a_long_text_is_cut_where_a_character_ends() {
    let moved = |text: &str| Entry::Moved {
        number: 1,
        offset: Offset(1),
        attempts: 1,
        first_us: 1,
        last_us: 1,
        why: Reason::Rejected,
        text: text.into(),
    };
    let mut bytes = Vec::new();
    Entry::encode_all([&moved(&"\u{20ac}".repeat(100))], &mut bytes);
    let mut read = Vec::new();
    Entry::decode_all(&bytes, |entry| read.push(entry)).unwrap();
    assert_eq!(read, [moved(&"\u{20ac}".repeat(85))]);
}

proptest! {
    #[test]
    fn any_entry_is_read_as_it_was_written(
        numbers in any::<[u64; 5]>(), attempts in any::<u16>(), kind in 0..5, why in 1..6u64,
        text in ".{0,80}",
    ) {
        let [first, second, third, fourth, fifth] = numbers;
        let first = first.min(u64::MAX - 1);
        let entry = match kind {
            0 => Entry::Settled { first: Offset(first), count: second.min(u64::MAX - first) },
            1 => Entry::Attempted {
                offset: Offset(first), attempts, due_us: third, first_us: fourth, last_us: fifth,
            },
            2 => Entry::Moved {
                number: second.min(u64::MAX - 1), offset: Offset(first), attempts,
                first_us: fourth, last_us: fifth, why: Reason::from_code(why).unwrap(),
                text: entry::cut(&text).into(),
            },
            3 => Entry::Applied { through: third },
            _ => Entry::Purged { to: Offset(third) },
        };
        let mut bytes = Vec::new();
        Entry::encode_all([&entry], &mut bytes);
        let mut read = Vec::new();
        Entry::decode_all(&bytes, |entry| read.push(entry)).unwrap();
        prop_assert_eq!(read, [entry]);
        for end in 1..bytes.len() {
            let cut = Entry::decode_all(&bytes[..end], |_| ());
            prop_assert!(cut.is_err(), "{} of {} bytes", end, bytes.len());
        }
    }

    #[test]
    fn bytes_of_strangers_are_refused_or_read_without_harm(bytes in proptest::collection::vec(
        prop_oneof![0..8u8, any::<u8>()], 0..120,
    )) {
        let mut durable = Durable::new(Offset(3));
        let _ = Entry::decode_all(&bytes, |entry| durable.apply(&entry));
        let mut again = Vec::new();
        durable.encode(&mut again);
        prop_assert_eq!(Durable::decode(&again), Ok(durable));
        if let Ok(read) = Durable::decode(&bytes) {
            let mut again = Vec::new();
            read.encode(&mut again);
            prop_assert_eq!(Durable::decode(&again), Ok(read));
        }
    }
}

#[test]
fn what_is_acknowledged_together_is_one_entry_and_a_stranger_among_it_is_refused_alone() {
    let mut queue = Queue::new(Mode::Plain);
    queue.attach(1, 64);
    let grant = queue.publish(64)[0];
    let mut acks = Acks::of(&Settle::ack(Offset(2), grant.lease)).unwrap();
    for offset in [3, 9, 4] {
        assert!(acks.join(&Settle::ack(Offset(offset), grant.lease)));
    }
    for refused in [
        Settle::ack(Offset(3), grant.lease),
        Settle::ack(Offset(1), grant.lease),
        Settle::ack(Offset(66), grant.lease),
        Settle::ack(Offset(5), LeaseNumber(grant.lease.0 + 1)),
    ] {
        assert!(!acks.join(&refused), "{refused:?}");
    }
    let consumer = ConsumerId(1);
    let settled = |first, count| {
        let first = Offset(first);
        Effect::Journal(Entry::Settled { first, count })
    };
    let effects = queue.step(Input::Acks { consumer, acks });
    assert_eq!(effects, [settled(2, 3), settled(9, 1)]);
    acks.bits = 0b1_1000;
    let effects = queue.step(Input::Acks { consumer, acks });
    assert_eq!(effects.first(), Some(&settled(5, 2)));
    acks.bits = 0b11_1000;
    let effects = queue.step(Input::Acks { consumer, acks });
    let refused = |effect: &&Effect| matches!(effect, Effect::Settled { result: Err(_), .. });
    assert_eq!(effects.iter().filter(refused).count(), 2);
    assert!(effects.contains(&settled(7, 1)), "{effects:?}");
    queue.scheduler.check_everything();
}

#[test]
fn numbered_acknowledgements_go_together_while_their_numbers_follow_and_are_told_as_one() {
    let mut queue = Queue::new(Mode::Plain);
    queue.attach(1, 64);
    let grant = queue.publish(64)[0];
    let ack = |offset, tag| Settle {
        tag,
        ..Settle::ack(Offset(offset), grant.lease)
    };
    let mut acks = Acks::of(&ack(2, 7)).unwrap();
    assert!(acks.join(&ack(5, 8)));
    for refused in [ack(6, 8), ack(6, 10), ack(6, 0), ack(4, 9), ack(1, 9)] {
        assert!(!acks.join(&refused), "{refused:?}");
    }
    assert!(acks.join(&ack(6, 9)));
    let mut untold = Acks::of(&Settle::ack(Offset(2), grant.lease)).unwrap();
    assert!(!untold.join(&ack(3, 1)));
    let consumer = ConsumerId(1);
    let told = |tag, count, result| Effect::Settled {
        consumer,
        tag,
        count,
        result,
    };
    let effects = queue.step(Input::Acks { consumer, acks });
    assert!(effects.contains(&told(7, 3, Ok(()))), "{effects:?}");
    // Once more, and one that is held still.
    acks.bits |= 0b10;
    let effects = queue.step(Input::Acks { consumer, acks });
    let lost = Err(SettleRefusal::LeaseLost);
    for (tag, result) in [(7, lost), (8, Ok(())), (9, lost), (10, lost)] {
        assert!(
            effects.contains(&told(tag, 1, result)),
            "{tag}: {effects:?}"
        );
    }
    queue.scheduler.check_everything();
}
