//! When to ping, and when a silent peer is given up. Reads no clock: it is told the time.

use std::time::{Duration, Instant};

use millstream_protocol::limits::HEARTBEATS_MISSED_MAX;

/// What a tick asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing yet.
    Quiet,
    /// A ping is due.
    Ping,
    /// Nothing came for this long: the peer is gone.
    Lost(Duration),
}

/// The idle times of one connection.
///
/// A side that sent nothing for one heartbeat, or heard nothing for one, sends a ping; one that
/// heard nothing for three gives up.
#[derive(Debug)]
pub(super) struct Heartbeat {
    every: Duration,
    received: Instant,
    sent: Instant,
    /// A ping is out that nothing was heard since.
    asked: bool,
}

impl Heartbeat {
    pub(super) const fn new(now: Instant, every: Duration) -> Self {
        Self {
            every,
            received: now,
            sent: now,
            asked: false,
        }
    }

    pub(super) const fn received(&mut self, now: Instant) {
        self.received = now;
        self.asked = false;
    }

    pub(super) const fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    /// When to tick next, at the latest.
    pub(super) fn deadline(&self) -> Instant {
        self.ping_at().min(self.lost_at())
    }

    pub(super) fn tick(&mut self, now: Instant) -> Beat {
        if now >= self.lost_at() {
            return Beat::Lost(now.duration_since(self.received));
        }
        if now < self.ping_at() {
            return Beat::Quiet;
        }
        self.asked = true;
        self.sent = now;
        Beat::Ping
    }

    fn ping_at(&self) -> Instant {
        let idle_since = if self.asked {
            self.sent
        } else {
            self.sent.min(self.received)
        };
        idle_since + self.every
    }

    fn lost_at(&self) -> Instant {
        let missed = u32::try_from(HEARTBEATS_MISSED_MAX).unwrap_or(u32::MAX);
        self.received + self.every.saturating_mul(missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    #[test]
    fn an_idle_side_pings_and_a_silent_peer_is_lost_after_three() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut beat = Heartbeat::new(start, EVERY);
        assert_eq!(beat.deadline(), at(10));
        assert_eq!(beat.tick(at(9)), Beat::Quiet);
        assert_eq!(beat.tick(at(10)), Beat::Ping);
        assert_eq!(beat.deadline(), at(20));
        assert_eq!(beat.tick(at(20)), Beat::Ping);
        assert_eq!(beat.tick(at(29)), Beat::Quiet);
        assert_eq!(beat.tick(at(30)), Beat::Lost(Duration::from_secs(30)));
    }

    #[test]
    fn a_busy_sender_that_hears_nothing_asks() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut beat = Heartbeat::new(start, EVERY);
        beat.sent(at(9));
        assert_eq!(beat.tick(at(10)), Beat::Ping);
        beat.received(at(11));
        beat.sent(at(12));
        assert_eq!(beat.tick(at(20)), Beat::Quiet);
        assert_eq!(beat.tick(at(21)), Beat::Ping);
        assert_eq!(beat.deadline(), at(31));
    }
}
