//! Places in a topic and times to come, as given on the command line.

use std::str::FromStr;

use jiff::{Span, SpanRelativeTo, Timestamp};
use millstream_protocol::{Offset, Start};

/// A place in a topic: `start`, `end`, an offset, an age such as `-15m`, or an RFC 3339 time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartPoint(pub(crate) Start);

impl FromStr for StartPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, Timestamp::now())
    }
}

impl StartPoint {
    fn parse(text: &str, now: Timestamp) -> Result<Self, String> {
        let wrong =
            || "give start, end, an offset, an age such as -15m, or an RFC 3339 time".to_owned();
        if let Ok(offset) = text.parse::<u64>() {
            return Ok(Self(Start::Offset(Offset(offset))));
        }
        let time = match text {
            "start" => return Ok(Self(Start::Earliest)),
            "end" => return Ok(Self(Start::Latest)),
            _ => match text.strip_prefix('-') {
                Some(age) => before(now, age).ok_or_else(wrong)?,
                None => text.parse().map_err(|_| wrong())?,
            },
        };
        // Nothing was appended before 1970, so an earlier time means the same as 1970.
        Ok(Self(Start::Time(
            u64::try_from(time.as_microsecond()).unwrap_or(0),
        )))
    }
}

fn before(now: Timestamp, age: &str) -> Option<Timestamp> {
    let span: Span = age.parse().ok()?;
    let age = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    if age.is_negative() {
        return None;
    }
    now.checked_sub(age).ok()
}

/// An RFC 3339 time before which a message is not due, in microseconds of the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DueTime(pub(crate) u64);

impl FromStr for DueTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| "give an RFC 3339 time, such as 2030-01-31T09:00:00Z".to_owned();
        let time: Timestamp = text.parse().map_err(wrong)?;
        // What was due before 1970 is due.
        Ok(Self(u64::try_from(time.as_microsecond()).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Start, String> {
        let now = Timestamp::from_second(1_000_000).unwrap();
        StartPoint::parse(text, now).map(|point| point.0)
    }

    #[test]
    fn words_and_offsets() {
        assert_eq!(parse("start"), Ok(Start::Earliest));
        assert_eq!(parse("end"), Ok(Start::Latest));
        assert_eq!(parse("0"), Ok(Start::Offset(Offset(0))));
        assert_eq!(
            parse("18446744073709551615"),
            Ok(Start::Offset(Offset(u64::MAX)))
        );
    }

    #[test]
    fn ages_count_back_from_now() {
        assert_eq!(
            parse("-15m"),
            Ok(Start::Time((1_000_000 - 900) * 1_000_000))
        );
        assert_eq!(
            parse("-1d"),
            Ok(Start::Time((1_000_000 - 86_400) * 1_000_000))
        );
        assert_eq!(
            parse("-1h30m"),
            Ok(Start::Time((1_000_000 - 5_400) * 1_000_000))
        );
        assert_eq!(parse("-1000w"), Ok(Start::Time(0)));
    }

    #[test]
    fn times_carry_their_zone() {
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Ok(Start::Time(0)));
        assert_eq!(parse("1970-01-01T00:00:01.5Z"), Ok(Start::Time(1_500_000)));
    }

    #[test]
    fn all_else_is_refused() {
        for wrong in ["", "begin", "-", "-15", "--15m", "1970-01-01", "15m", "-3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_to_come_has_its_zone() {
        let due = |text: &str| text.parse().map(|DueTime(us)| us);
        assert_eq!(due("1970-01-01T00:00:01.5Z"), Ok(1_500_000));
        assert_eq!(due("1970-01-01T01:00:00+01:00"), Ok(0));
        assert_eq!(due("1969-01-01T00:00:00Z"), Ok(0));
        for wrong in ["", "tomorrow", "2030-01-31", "2030-01-31T09:00:00", "10s"] {
            assert!(due(wrong).is_err(), "{wrong}");
        }
    }
}
