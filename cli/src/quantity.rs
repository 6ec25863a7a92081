//! Sizes and durations as people write them.

use std::num::NonZeroUsize;
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
    let wrong = || "a duration is written like 500ms, 30s, 2m or 1h30m".to_owned();
    let span: Span = text.parse().map_err(|_| wrong())?;
    let signed = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| wrong())?;
    match Duration::try_from(signed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(wrong()),
    }
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
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!(show_bytes(0), "0 B");
        assert_eq!(show_bytes(1023), "1023 B");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_bytes(300 << 20), "300.0 MiB");
        assert_eq!(show_bytes(u64::MAX), "16384.0 PiB");
    }
}
