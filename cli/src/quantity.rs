//! Sizes and durations as people write them.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// Units of size, each with its factor; longer suffixes come before those they end with.
const UNITS: [(&str, usize); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("k", 1 << 10),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("B", 1),
];

/// Reads a size such as `4096`, `64k` or `1MiB`; every unit is a power of 1024.
pub(crate) fn parse_bytes(text: &str) -> Result<NonZeroUsize, String> {
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, *factor)))
        .unwrap_or((text, 1));
    number
        .trim_end()
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| "a size is a number above 0 and a unit: 4096, 64KiB, 1MiB".to_owned())
}

/// Reads a duration above zero such as `500ms`, `2m` or `1h 30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration is written like 500ms, 30s, 1h30m or 7d".to_owned();
    let span: Span = text.parse().map_err(|_| wrong())?;
    let signed = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| wrong())?;
    match Duration::try_from(signed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(wrong()),
    }
}

/// Reads a duration in milliseconds; `0` is none at all.
pub(crate) fn parse_time_ms(text: &str) -> Result<u64, String> {
    if matches!(text, "0" | "0s" | "0ms") {
        return Ok(0);
    }
    let ms = parse_duration(text)?.as_micros().div_ceil(1000);
    Ok(u64::try_from(ms).unwrap_or(u64::MAX))
}

/// Reads a limit on time, in milliseconds: `none` and `0` are none.
pub(crate) fn parse_time_limit(text: &str) -> Result<u64, String> {
    if text == "none" {
        return Ok(0);
    }
    parse_time_ms(text).map_err(|error| format!("{error}, or none"))
}

/// Reads a limit on a size, in bytes: `none` and `0` are none.
pub(crate) fn parse_bytes_limit(text: &str) -> Result<u64, String> {
    if matches!(text, "none" | "0") {
        return Ok(0);
    }
    let bytes = parse_bytes(text).map_err(|error| format!("{error}, or none"))?;
    Ok(bytes.get() as u64)
}

/// Reads a limit on a count: `none` and `0` are none.
pub(crate) fn parse_count_limit(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        number => number
            .parse()
            .map_err(|_| "a limit is a number, or none".to_owned()),
    }
}

/// Reads a rate such as `50/s`, or `50`, in records a second.
pub(crate) fn parse_rate(text: &str) -> Result<NonZeroU32, String> {
    text.strip_suffix("/s")
        .unwrap_or(text)
        .parse()
        .map_err(|_| "a rate is a number of records a second above 0: 50/s".to_owned())
}

/// Writes a duration as it is read: `0s`, `250ms`, `90s`, `5m`, `1h30m`.
pub(crate) fn show_ms(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1000, "s"),
    ];
    let mut text = String::new();
    let mut rest = ms;
    for (unit_ms, name) in UNITS {
        if rest >= unit_ms {
            text.push_str(&format!("{}{name}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    if rest > 0 {
        text.push_str(&format!("{rest}ms"));
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

/// Writes a size for people: three or four figures and a unit.
pub(crate) fn show_bytes(bytes: u64) -> String {
    const NAMES: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut rest = bytes as f64 / 1024.0;
    let mut names = NAMES.iter();
    let mut name = names.next();
    while rest >= 1024.0
        && let Some(next) = names.next()
    {
        rest /= 1024.0;
        name = Some(next);
    }
    format!("{rest:.1} {}", name.unwrap_or(&"KiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        let bytes = |text| parse_bytes(text).map(NonZeroUsize::get);
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("64k"), Ok(65_536));
        assert_eq!(bytes("1MiB"), Ok(1 << 20));
        assert_eq!(bytes("1 MiB"), Ok(1 << 20));
        assert_eq!(bytes("12B"), Ok(12));
        for wrong in [
            "",
            "0",
            "MiB",
            "-1",
            "1.5M",
            "99999999999999999999",
            "99999999999G",
        ] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_positive() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(2 * 86_400)));
        for wrong in ["", "0s", "-5s", "5", "1 month"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_may_be_none() {
        assert_eq!(parse_time_limit("none"), Ok(0));
        assert_eq!(parse_time_limit("0"), Ok(0));
        assert_eq!(parse_time_limit("1d"), Ok(86_400_000));
        assert_eq!(parse_bytes_limit("none"), Ok(0));
        assert_eq!(parse_bytes_limit("1MiB"), Ok(1 << 20));
        assert_eq!(parse_count_limit("none"), Ok(0));
        assert_eq!(parse_count_limit("12"), Ok(12));
        for wrong in ["", "no", "-1", "1x"] {
            assert!(parse_time_limit(wrong).is_err(), "{wrong}");
            assert!(parse_bytes_limit(wrong).is_err(), "{wrong}");
            assert!(parse_count_limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_are_for_a_second() {
        let rate = |text| parse_rate(text).map(NonZeroU32::get);
        assert_eq!(rate("50/s"), Ok(50));
        assert_eq!(rate("50"), Ok(50));
        for wrong in ["", "0", "0/s", "50/m", "fast"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_read() {
        for (ms, shown) in [
            (0, "0s"),
            (10, "10ms"),
            (1000, "1s"),
            (1500, "1s500ms"),
            (90_000, "1m30s"),
            (300_000, "5m"),
            (5_400_000, "1h30m"),
            (604_800_000, "7d"),
        ] {
            assert_eq!(show_ms(ms), shown);
            assert_eq!(parse_time_ms(shown), Ok(ms));
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!(show_bytes(0), "0 B");
        assert_eq!(show_bytes(1023), "1023 B");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_bytes(300 << 20), "300.0 MiB");
        assert_eq!(show_bytes(u64::MAX), "16384.0 PiB");
    }
}
