//! Consumers: what each may still be given, and whose turn it is.

use std::collections::{BTreeMap, VecDeque};

use super::input::ConsumerId;
use super::leases::ListHead;

/// Pulls of one consumer that may wait at once.
pub(crate) const RECEIVES_MAX: usize = 64;

/// A pull that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Receive {
    pub(super) number: u64,
    pub(super) messages: u32,
    pub(super) bytes: u64,
    pub(super) lease_us: u64,
}

/// One consumer.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) id: ConsumerId,
    /// 0: the policy's.
    pub(super) lease_us: u64,
    window_messages: u32,
    window_bytes: u64,
    /// Leased to it now.
    pub(super) held_messages: u32,
    pub(super) held_bytes: u64,
    pub(super) receives: VecDeque<Receive>,
    /// Its leases.
    pub(super) leases: ListHead,
    /// It stands in `hungry`.
    queued: bool,
}

impl Consumer {
    /// Records its window still takes; 0 once its bytes are used up.
    pub(super) const fn room(&self) -> u32 {
        if self.held_bytes >= self.window_bytes {
            return 0;
        }
        self.window_messages.saturating_sub(self.held_messages)
    }

    /// Bytes its window still takes; the last record may go over.
    pub(super) const fn room_bytes(&self) -> u64 {
        self.window_bytes.saturating_sub(self.held_bytes)
    }

    fn is_hungry(&self) -> bool {
        !self.receives.is_empty() || self.room() > 0
    }
}

/// All consumers of a queue.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    seats: Vec<Option<Consumer>>,
    free: Vec<u32>,
    by_id: BTreeMap<ConsumerId, u32>,
    /// Who has room, in turn; some may have lost it meanwhile.
    hungry: VecDeque<u32>,
    next_receive: u64,
    waiting_receives: usize,
}

impl Consumers {
    pub(super) fn attach(&mut self, id: ConsumerId, lease_us: u64) {
        if let Some(consumer) = self.seat_of(id).and_then(|seat| self.get_mut(seat)) {
            consumer.lease_us = lease_us;
            return;
        }
        let consumer = Consumer {
            id,
            lease_us,
            window_messages: 0,
            window_bytes: 0,
            held_messages: 0,
            held_bytes: 0,
            receives: VecDeque::new(),
            leases: ListHead::default(),
            queued: false,
        };
        let seat = match self.free.pop() {
            Some(seat) => seat,
            None => {
                let Ok(seat) = u32::try_from(self.seats.len()) else {
                    return;
                };
                self.seats.push(None);
                seat
            }
        };
        if let Some(place) = self.seats.get_mut(seat as usize) {
            *place = Some(consumer);
            self.by_id.insert(id, seat);
        }
    }

    /// Takes a consumer away, whose leases are gone.
    pub(super) fn detach(&mut self, seat: u32) {
        let Some(place) = self.seats.get_mut(seat as usize) else {
            return;
        };
        if let Some(consumer) = place.take() {
            self.by_id.remove(&consumer.id);
            self.waiting_receives -= consumer.receives.len();
            if consumer.queued {
                self.hungry.retain(|queued| *queued != seat);
            }
            self.free.push(seat);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn seat_of(&self, id: ConsumerId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, seat: u32) -> Option<&Consumer> {
        self.seats.get(seat as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, seat: u32) -> Option<&mut Consumer> {
        self.seats.get_mut(seat as usize)?.as_mut()
    }

    pub(super) fn set_window(&mut self, seat: u32, messages: u32, bytes: u64) {
        if let Some(consumer) = self.get_mut(seat) {
            consumer.window_messages = messages;
            consumer.window_bytes = bytes;
        }
        self.feed(seat);
    }

    /// Lines up a pull; its number, or `None` if too many wait.
    pub(super) fn add_receive(&mut self, seat: u32, mut receive: Receive) -> Option<u64> {
        self.next_receive += 1;
        receive.number = self.next_receive;
        let consumer = self.get_mut(seat)?;
        if consumer.receives.len() >= RECEIVES_MAX {
            return None;
        }
        consumer.receives.push_back(receive);
        self.waiting_receives += 1;
        self.feed(seat);
        Some(receive.number)
    }

    /// Takes a pull off its line, if it still waits.
    pub(super) fn end_receive(&mut self, id: ConsumerId, number: u64) -> Option<Receive> {
        let seat = self.seat_of(id)?;
        let receives = &mut self.get_mut(seat)?.receives;
        let at = receives
            .iter()
            .position(|receive| receive.number == number)?;
        let receive = receives.remove(at);
        self.waiting_receives -= 1;
        receive
    }

    pub(super) const fn waiting_receives(&self) -> usize {
        self.waiting_receives
    }

    pub(super) fn waits(&self, id: ConsumerId, number: u64) -> bool {
        self.seat_of(id)
            .and_then(|seat| self.get(seat))
            .is_some_and(|consumer| consumer.receives.iter().any(|one| one.number == number))
    }

    /// A record came back from a consumer.
    pub(super) fn give_room(&mut self, seat: u32, bytes: u32) {
        self.give_room_of(seat, 1, bytes);
    }

    /// So many records of `bytes_each` came back from a consumer.
    pub(super) fn give_room_of(&mut self, seat: u32, records: u32, bytes_each: u32) {
        let Some(consumer) = self.get_mut(seat) else {
            return;
        };
        consumer.held_messages -= records;
        consumer.held_bytes -= u64::from(bytes_each) * u64::from(records);
        if !consumer.queued {
            self.feed(seat);
        }
    }

    /// Puts a consumer in line, at its end, if it takes more.
    pub(super) fn feed(&mut self, seat: u32) {
        if let Some(consumer) = self.get_mut(seat)
            && !consumer.queued
            && consumer.is_hungry()
        {
            consumer.queued = true;
            self.hungry.push_back(seat);
        }
    }

    /// Takes the consumer out of the line whose turn it is.
    pub(super) fn next_hungry(&mut self) -> Option<u32> {
        while let Some(seat) = self.hungry.pop_front() {
            if let Some(consumer) = self.get_mut(seat) {
                consumer.queued = false;
                if consumer.is_hungry() {
                    return Some(seat);
                }
            }
        }
        None
    }

    /// Puts a consumer back whose turn came to nothing.
    pub(super) fn keep_turn(&mut self, seat: u32) {
        if let Some(consumer) = self.get_mut(seat)
            && !consumer.queued
        {
            consumer.queued = true;
            self.hungry.push_front(seat);
        }
    }

    pub(super) fn is_anybody_hungry(&self) -> bool {
        let mut seats = self.hungry.iter();
        seats.any(|seat| self.get(*seat).is_some_and(Consumer::is_hungry))
    }

    /// How many stand in line; some may have lost their room meanwhile.
    pub(super) fn hungry(&self) -> usize {
        self.hungry.len()
    }

    /// Looks at everything again.
    pub(super) fn check(&self) {
        let receives: usize = self.iter().map(|consumer| consumer.receives.len()).sum();
        assert_eq!(receives, self.waiting_receives, "pulls that wait");
        let queued = self.iter().filter(|consumer| consumer.queued).count();
        assert_eq!(queued, self.hungry.len(), "consumers in line");
        for consumer in self.iter() {
            assert!(consumer.queued || !consumer.is_hungry(), "one is forgotten");
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Consumer> {
        self.seats.iter().flatten()
    }
}
