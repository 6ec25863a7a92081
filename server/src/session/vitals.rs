//! Whether a peer is alive, and whether it should hear from us: decided only when the clock is read.

use std::time::{Duration, Instant};

use millstream_protocol::limits::{HEARTBEAT_MS, HEARTBEATS_MISSED_MAX, PRE_HELLO_MS};

use crate::limits::{CLOCK_TIME, SLOWEST_BYTES_PER_SECOND};

/// What the clock says of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All is well.
    Fine,
    /// Nothing was sent for a heartbeat.
    Ping,
    /// No hello in time.
    NoHello,
    /// Nothing was heard for too many heartbeats.
    Silent,
    /// A message was begun and is not coming to its end.
    Stuck,
}

/// What a session did since the clock was last read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Observed {
    pub(crate) greeted: bool,
    /// Whether it reads nothing for reasons of its own.
    pub(crate) held: bool,
    /// Bytes of the message that has begun and is not whole; 0: none.
    pub(crate) partial_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Vitals {
    opened: Option<Instant>,
    heard: Option<Instant>,
    sent: Option<Instant>,
    partial: Option<Instant>,
    heard_since: bool,
    sent_since: bool,
    finished_since: bool,
}

impl Vitals {
    pub(crate) const fn new() -> Self {
        Self {
            opened: None,
            heard: None,
            sent: None,
            partial: None,
            heard_since: false,
            sent_since: false,
            finished_since: false,
        }
    }

    /// Bytes arrived, and whether some of them ended a message.
    pub(crate) const fn heard(&mut self, finished_message: bool) {
        self.heard_since = true;
        self.finished_since |= finished_message;
    }

    pub(crate) const fn sent(&mut self) {
        self.sent_since = true;
    }

    /// Whether nothing came or went since the clock was last read.
    pub(crate) const fn quiet(&self) -> bool {
        !self.heard_since && !self.sent_since
    }

    /// Reads the clock.
    pub(crate) fn tick(&mut self, now: Instant, seen: Observed) -> Verdict {
        let opened = *self.opened.get_or_insert(now);
        let heard = note(&mut self.heard, now, &mut self.heard_since, seen.held);
        let sent = note(&mut self.sent, now, &mut self.sent_since, false);
        let finished = std::mem::take(&mut self.finished_since) || seen.held;
        if finished || seen.partial_bytes == 0 {
            self.partial = None;
        }
        let since = |then: Instant| now.saturating_duration_since(then);
        let patience = Duration::from_millis(HEARTBEAT_MS * HEARTBEATS_MISSED_MAX);
        if !seen.greeted && since(opened) >= Duration::from_millis(PRE_HELLO_MS) {
            return Verdict::NoHello;
        }
        if since(heard) >= patience {
            return Verdict::Silent;
        }
        if seen.partial_bytes > 0 {
            let begun = *self.partial.get_or_insert(now);
            let seconds = seen.partial_bytes as u64 / SLOWEST_BYTES_PER_SECOND;
            if since(begun) >= patience + Duration::from_secs(seconds) {
                return Verdict::Stuck;
            }
        }
        if seen.greeted && since(sent) >= Duration::from_millis(HEARTBEAT_MS) {
            return Verdict::Ping;
        }
        Verdict::Fine
    }

    /// When the clock is to be read again.
    pub(crate) fn next(&self, now: Instant, greeted: bool) -> Instant {
        match self.opened {
            Some(opened) if !greeted => {
                let due = opened + Duration::from_millis(PRE_HELLO_MS);
                if due > now { due } else { now + CLOCK_TIME }
            }
            _ => now + CLOCK_TIME,
        }
    }
}

/// Moves `last` to `now` if something happened since; when it last did.
fn note(last: &mut Option<Instant>, now: Instant, since: &mut bool, excused: bool) -> Instant {
    if std::mem::take(since) || excused {
        *last = Some(now);
    }
    *last.get_or_insert(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Observed = Observed {
        greeted: true,
        held: false,
        partial_bytes: 0,
    };

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn no_hello_in_time_is_noticed_when_it_is_due() {
        let (mut vitals, start) = (Vitals::new(), Instant::now());
        let seen = Observed {
            greeted: false,
            ..FINE
        };
        assert_eq!(vitals.tick(start, seen), Verdict::Fine);
        let due = vitals.next(start, false);
        assert_eq!(due, after(start, PRE_HELLO_MS));
        vitals.heard(false);
        assert_eq!(
            vitals.tick(due, seen),
            Verdict::NoHello,
            "a trickle does not help"
        );
    }

    #[test]
    fn silence_is_answered_with_pings_and_then_the_end() {
        let (mut vitals, start) = (Vitals::new(), Instant::now());
        assert_eq!(vitals.tick(start, FINE), Verdict::Fine);
        assert_eq!(vitals.tick(after(start, HEARTBEAT_MS), FINE), Verdict::Ping);
        vitals.sent();
        assert_eq!(
            vitals.tick(after(start, HEARTBEAT_MS + 1), FINE),
            Verdict::Fine
        );
        let end = HEARTBEAT_MS * HEARTBEATS_MISSED_MAX;
        assert_eq!(vitals.tick(after(start, end), FINE), Verdict::Silent);
    }

    #[test]
    fn a_session_that_does_not_read_blames_nobody_for_silence() {
        let (mut vitals, start) = (Vitals::new(), Instant::now());
        let held = Observed { held: true, ..FINE };
        for minutes in 0..10 {
            vitals.sent();
            assert_eq!(
                vitals.tick(after(start, minutes * 60_000), held),
                Verdict::Fine
            );
        }
    }

    #[test]
    fn a_message_must_come_to_its_end() {
        let (mut vitals, start) = (Vitals::new(), Instant::now());
        let partial = Observed {
            partial_bytes: 100,
            ..FINE
        };
        let mut stuck = None;
        for second in 0..60 {
            vitals.heard(false);
            vitals.sent();
            if vitals.tick(after(start, second * 1000), partial) == Verdict::Stuck {
                stuck.get_or_insert(second);
            }
        }
        assert_eq!(stuck, Some(30));
        vitals.heard(true);
        vitals.sent();
        assert_eq!(
            vitals.tick(after(start, 60_000), partial),
            Verdict::Fine,
            "another one"
        );
    }
}
