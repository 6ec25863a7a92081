//! A queue as it is shown: as an object of JSON, and in lines for people.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_client::{
    DeadLetter, OnExpiry, QueueInfo, QueueMode, QueueSettings, QueueTotals, WhenFull,
};
use millstream_protocol::limits::ATTEMPT_COUNTS;
use serde::Serialize;

use crate::backoff::BackoffText;
use crate::quantity::{show_bytes, show_ms};

/// A queue as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct QueueObject<'a> {
    queue: &'a str,
    topic: &'a str,
    queue_id: u32,
    mode: &'static str,
    /// The topic was made with it and goes with it.
    own_topic: bool,
    paused: bool,
    ready: u64,
    leased: u64,
    delayed: u64,
    /// On their way to another queue.
    moving: u64,
    /// In the queue that its dead letters go to.
    dead: u64,
    /// Since the oldest ready record was published; null when none is ready.
    oldest_ready_s: Option<f64>,
    consumers: u32,
    rates: RatesObject,
    /// Acknowledged records by how often they were delivered; the last key counts all above, too.
    attempts: BTreeMap<u16, u64>,
    /// All records before it are settled.
    floor_offset: u64,
    next_offset: u64,
    settings: SettingsObject,
    totals: TotalsObject,
}

#[derive(Debug, Serialize)]
struct RatesObject {
    delivered_per_s: f64,
    acked_per_s: f64,
}

/// Limits that are not set are null.
#[derive(Debug, Serialize)]
struct SettingsObject {
    lease_ms: u32,
    max_deliveries: Option<u32>,
    backoff: String,
    /// The queue that dead letters go to.
    dead_letter: Option<String>,
    expired: &'static str,
    max_messages: Option<u64>,
    max_bytes: Option<u64>,
    max_age_ms: Option<u64>,
    when_full: &'static str,
}

/// What a queue did since the server started.
#[derive(Debug, Serialize)]
struct TotalsObject {
    delivered: u64,
    acked: u64,
    retried: u64,
    rejected: u64,
    dead_lettered: u64,
    expired: u64,
    dropped: u64,
    released: u64,
    lease_expired: u64,
    lease_lost: u64,
    damaged: u64,
    redriven: u64,
}

impl<'a> QueueObject<'a> {
    pub(super) fn of(info: &'a QueueInfo) -> Self {
        Self {
            queue: info.name.as_str(),
            topic: info.topic.as_str(),
            queue_id: info.queue_id,
            mode: mode_name(info.mode),
            own_topic: info.own_topic,
            paused: info.paused,
            ready: info.ready,
            leased: info.leased,
            delayed: info.delayed,
            moving: info.moving,
            dead: info.dead,
            oldest_ready_s: oldest_ready(info).map(|age| age.as_secs_f64()),
            consumers: info.consumers,
            rates: RatesObject {
                delivered_per_s: per_second(info.delivered_milli),
                acked_per_s: per_second(info.acked_milli),
            },
            attempts: attempts(&info.attempts),
            floor_offset: info.floor.0,
            next_offset: info.next.0,
            settings: SettingsObject::of(info),
            totals: TotalsObject::of(&info.totals),
        }
    }
}

impl SettingsObject {
    fn of(info: &QueueInfo) -> Self {
        let settings = &info.settings;
        let set = |limit: u64| (limit != 0).then_some(limit);
        Self {
            lease_ms: settings.lease_ms,
            max_deliveries: (settings.deliveries_max != 0).then_some(settings.deliveries_max),
            backoff: BackoffText(settings.backoff).to_string(),
            dead_letter: dead_letter_queue(info),
            expired: expired_name(settings.expired),
            max_messages: set(settings.messages_max),
            max_bytes: set(settings.bytes_max),
            max_age_ms: set(settings.age_max_ms),
            when_full: full_name(settings.when_full),
        }
    }
}

impl TotalsObject {
    const fn of(totals: &QueueTotals) -> Self {
        let QueueTotals {
            delivered,
            acked,
            retried,
            rejected,
            dead_lettered,
            expired,
            dropped,
            released,
            lease_expired,
            lease_lost,
            damaged,
            redriven,
        } = *totals;
        Self {
            delivered,
            acked,
            retried,
            rejected,
            dead_lettered,
            expired,
            dropped,
            released,
            lease_expired,
            lease_lost,
            damaged,
            redriven,
        }
    }
}

/// The name of the queue that dead letters of this one go to.
pub(super) fn dead_letter_queue(info: &QueueInfo) -> Option<String> {
    match &info.settings.dead_letter {
        DeadLetter::Own => Some(format!("{}.dead", info.name)),
        DeadLetter::Queue(queue) => Some(queue.to_string()),
        DeadLetter::Nowhere => None,
    }
}

pub(super) const fn mode_name(mode: QueueMode) -> &'static str {
    match mode {
        QueueMode::Plain => "plain",
        QueueMode::Grouped => "grouped",
        QueueMode::Prioritised => "prioritised",
    }
}

const fn expired_name(expired: OnExpiry) -> &'static str {
    match expired {
        OnExpiry::Drop => "drop",
        OnExpiry::DeadLetter => "dead-letter",
    }
}

const fn full_name(full: WhenFull) -> &'static str {
    match full {
        WhenFull::Refuse => "refuse",
        WhenFull::Wait => "wait",
        WhenFull::DropOldest => "drop-oldest",
    }
}

fn oldest_ready(info: &QueueInfo) -> Option<Duration> {
    (info.ready > 0).then(|| Duration::from_micros(info.oldest_ready_us))
}

fn per_second(milli: u64) -> f64 {
    milli as f64 / 1000.0
}

fn attempts(counts: &[u64; ATTEMPT_COUNTS]) -> BTreeMap<u16, u64> {
    (1..)
        .zip(counts.iter().copied())
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// What `queue show` tells people.
pub(super) fn summary(info: &QueueInfo) -> String {
    let mut lines = Lines::default();
    lines.add("queue", format!("{} ({})", info.name, mode_name(info.mode)));
    let own = if info.own_topic { ", its own" } else { "" };
    lines.add("topic", format!("{}{own}", info.topic));
    lines.add("state", if info.paused { "paused" } else { "delivering" });
    let ready = match oldest_ready(info) {
        None => "0".to_owned(),
        Some(age) => format!("{}, the oldest for {}", info.ready, rounded(age)),
    };
    lines.add("ready", ready);
    lines.add("leased", info.leased);
    lines.add("delayed", info.delayed);
    if info.moving > 0 {
        lines.add("moving", info.moving);
    }
    let dead = match dead_letter_queue(info) {
        None => "not kept".to_owned(),
        Some(queue) => format!("{} in {queue}", info.dead),
    };
    lines.add("dead", dead);
    lines.add("consumers", info.consumers);
    let delivered = per_second(info.delivered_milli);
    let acked = per_second(info.acked_milli);
    lines.add(
        "rates",
        format!("{delivered:.1} delivered/s, {acked:.1} acked/s"),
    );
    lines.add("attempts", attempts_text(&info.attempts));
    lines.add("offsets", format!("{} to {}", info.floor, info.next));
    settings_lines(&info.settings, &mut lines);
    lines.add("since start", totals_text(&info.totals));
    lines.0
}

fn settings_lines(settings: &QueueSettings, lines: &mut Lines) {
    lines.add("lease", show_ms(settings.lease_ms.into()));
    let deliveries = match settings.deliveries_max {
        0 => "without end".to_owned(),
        most => format!("at most {most}"),
    };
    lines.add("deliveries", deliveries);
    lines.add("back-off", BackoffText(settings.backoff));
    lines.add("expired", expired_name(settings.expired));
    let mut limits = Vec::new();
    if settings.messages_max != 0 {
        limits.push(format!("{} messages", settings.messages_max));
    }
    if settings.bytes_max != 0 {
        limits.push(show_bytes(settings.bytes_max));
    }
    if settings.age_max_ms != 0 {
        limits.push(show_ms(settings.age_max_ms));
    }
    let limits = match limits.as_slice() {
        [] => "none".to_owned(),
        limits => format!(
            "{}, then {}",
            limits.join(", "),
            full_name(settings.when_full)
        ),
    };
    lines.add("limits", limits);
}

/// A name and what it stands for on each line, in two columns.
#[derive(Debug, Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: impl ToString) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(&format!("{name:<12}{}", value.to_string()));
    }
}

/// Without figures that nobody reads.
fn rounded(age: Duration) -> String {
    match age.as_secs() {
        0 => show_ms(u64::from(age.subsec_millis())),
        seconds => show_ms(seconds * 1000),
    }
}

fn attempts_text(counts: &[u64; ATTEMPT_COUNTS]) -> String {
    let last = counts.len();
    let texts: Vec<String> = attempts(counts)
        .into_iter()
        .map(|(attempts, count)| match attempts {
            1 => format!("{count} acked at once"),
            n if usize::from(n) == last => format!("{count} at delivery {n} or later"),
            n => format!("{count} at delivery {n}"),
        })
        .collect();
    if texts.is_empty() {
        return "none acked".to_owned();
    }
    texts.join(", ")
}

fn totals_text(totals: &QueueTotals) -> String {
    let QueueTotals {
        delivered,
        acked,
        retried,
        rejected,
        dead_lettered,
        expired,
        dropped,
        released,
        lease_expired,
        lease_lost,
        damaged,
        redriven,
    } = *totals;
    let always = [("delivered", delivered), ("acked", acked)];
    let sometimes = [
        ("retried", retried),
        ("rejected", rejected),
        ("dead-lettered", dead_lettered),
        ("expired", expired),
        ("dropped", dropped),
        ("released", released),
        ("leases expired", lease_expired),
        ("late settles", lease_lost),
        ("damaged", damaged),
        ("redriven", redriven),
    ];
    let shown: Vec<String> = always
        .into_iter()
        .chain(sometimes.into_iter().filter(|(_, count)| *count > 0))
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use millstream_client::Offset;
    use millstream_protocol::TopicName;

    use super::*;

    fn info() -> QueueInfo {
        let name = TopicName::parse("emails").unwrap();
        let mut attempts = [0; ATTEMPT_COUNTS];
        attempts[0] = 950;
        attempts[2] = 50;
        QueueInfo {
            name: name.clone(),
            topic: name,
            queue_id: 3,
            mode: QueueMode::Grouped,
            own_topic: true,
            paused: false,
            settings: QueueSettings::default(),
            ready: 2,
            leased: 1,
            delayed: 0,
            moving: 0,
            dead: 10,
            oldest_ready_us: 1_500_000,
            consumers: 8,
            floor: Offset(1000),
            next: Offset(1013),
            delivered_milli: 12_500,
            acked_milli: 12_000,
            totals: QueueTotals {
                delivered: 1100,
                acked: 1000,
                retried: 100,
                ..QueueTotals::default()
            },
            attempts,
        }
    }

    #[test]
    fn the_object_has_what_scripts_ask_for() {
        let info = info();
        let object = serde_json::to_value(QueueObject::of(&info)).unwrap();
        for (pointer, value) in [
            ("/queue", serde_json::json!("emails")),
            ("/ready", 2.into()),
            ("/leased", 1.into()),
            ("/delayed", 0.into()),
            ("/dead", 10.into()),
            ("/oldest_ready_s", 1.5.into()),
            ("/consumers", 8.into()),
            ("/rates/delivered_per_s", 12.5.into()),
            ("/rates/acked_per_s", 12.0.into()),
            ("/attempts", serde_json::json!({"1": 950, "3": 50})),
            ("/settings/backoff", "1s..5mx2~20%".into()),
            ("/settings/dead_letter", "emails.dead".into()),
            ("/settings/max_messages", serde_json::Value::Null),
            ("/totals/acked", 1000.into()),
        ] {
            assert_eq!(object.pointer(pointer), Some(&value), "{pointer}");
        }
    }

    #[test]
    fn nothing_ready_has_no_age() {
        let none = QueueInfo {
            ready: 0,
            oldest_ready_us: 0,
            ..info()
        };
        assert!(QueueObject::of(&none).oldest_ready_s.is_none());
    }

    #[test]
    fn people_read_lines() {
        let text = summary(&info());
        for line in [
            "queue       emails (grouped)",
            "ready       2, the oldest for 1s",
            "dead        10 in emails.dead",
            "attempts    950 acked at once, 50 at delivery 3",
            "back-off    1s..5mx2~20%",
            "limits      none",
            "since start 1100 delivered, 1000 acked, 100 retried",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
