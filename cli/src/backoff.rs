//! How long a queue waits before it delivers a record again, as people write it.
//!
//! ```text
//! FIRST[..CAP][xMULTIPLIER][~JITTER%]
//!
//! 10ms         every wait is 10 ms
//! 1s..5m       1 s, 2 s, 4 s and so on, at most 5 min
//! 1s..5mx3     three times as long each time
//! 1s..5m~20%   each wait up to a fifth shorter or longer
//! ```

use std::fmt;
use std::str::FromStr;

use millstream_client::Backoff;
use millstream_protocol::limits::{BACKOFF_MS_MAX, BACKOFF_MULTIPLIER_MILLI_MAX};

use crate::quantity::{parse_time_ms, show_ms};

/// The multiplier of a back-off that has a cap and names none.
const MULTIPLIER_MILLI: u32 = 2000;

/// A back-off that is given on the command line or shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackoffText(pub(crate) Backoff);

impl FromStr for BackoffText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, jitter_percent) = match text.rsplit_once('~') {
            None => (text, 0),
            Some((text, jitter)) => (text, parse_jitter(jitter)?),
        };
        let (times, multiplier) = match text.rsplit_once('x') {
            None => (text, None),
            Some((times, multiplier)) => (times, Some(parse_multiplier(multiplier)?)),
        };
        let (first, cap) = match times.split_once("..") {
            None => (times, None),
            Some((first, cap)) => (first, Some(parse_wait("the cap", cap)?)),
        };
        let first_ms = parse_wait("the first wait", first)?;
        let cap_ms = match (cap, multiplier) {
            (Some(cap_ms), _) if cap_ms < first_ms => {
                return Err(format!(
                    "the cap {} is shorter than the first wait {}",
                    show_ms(cap_ms.into()),
                    show_ms(first_ms.into()),
                ));
            }
            (Some(cap_ms), _) => cap_ms,
            (None, Some(_)) => BACKOFF_MS_MAX,
            (None, None) => first_ms,
        };
        let multiplier_milli = match (multiplier, cap) {
            (Some(multiplier_milli), _) => multiplier_milli,
            (None, Some(_)) => MULTIPLIER_MILLI,
            (None, None) => 1000,
        };
        Ok(Self(Backoff {
            first_ms,
            cap_ms,
            multiplier_milli,
            jitter_percent,
        }))
    }
}

fn parse_wait(what: &str, text: &str) -> Result<u32, String> {
    let wait_ms = parse_time_ms(text.trim())
        .map_err(|error| format!("{what} of a back-off such as 1s..5mx2~20%: {error}"))?;
    u32::try_from(wait_ms)
        .ok()
        .filter(|wait_ms| *wait_ms <= BACKOFF_MS_MAX)
        .ok_or_else(|| format!("{what} is at most {}", show_ms(BACKOFF_MS_MAX.into())))
}

fn parse_multiplier(text: &str) -> Result<u32, String> {
    let most = BACKOFF_MULTIPLIER_MILLI_MAX / 1000;
    let wrong = || format!("the multiplier behind the x is a number from 1 to {most}: x2, x1.5");
    let multiplier: f64 = text.trim().parse().map_err(|_| wrong())?;
    if !(1.0..=f64::from(most)).contains(&multiplier) {
        return Err(wrong());
    }
    // Within its bounds, and a thousandth is as fine as it gets.
    Ok((multiplier * 1000.0).round() as u32)
}

fn parse_jitter(text: &str) -> Result<u8, String> {
    text.trim()
        .strip_suffix('%')
        .and_then(|percent| percent.trim().parse().ok())
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| "the jitter behind the ~ is a percentage from 0% to 100%: ~20%".to_owned())
}

impl fmt::Display for BackoffText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Backoff {
            first_ms,
            cap_ms,
            multiplier_milli,
            jitter_percent,
        } = self.0;
        f.write_str(&show_ms(first_ms.into()))?;
        if multiplier_milli != 1000 {
            let multiplier = f64::from(multiplier_milli) / 1000.0;
            write!(f, "..{}x{multiplier}", show_ms(cap_ms.into()))?;
        }
        if jitter_percent != 0 {
            write!(f, "~{jitter_percent}%")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Backoff, String> {
        text.parse().map(|text: BackoffText| text.0)
    }

    fn backoff(first_ms: u32, cap_ms: u32, multiplier_milli: u32, jitter_percent: u8) -> Backoff {
        Backoff {
            first_ms,
            cap_ms,
            multiplier_milli,
            jitter_percent,
        }
    }

    #[test]
    fn a_wait_alone_never_grows() {
        assert_eq!(parse("10ms"), Ok(backoff(10, 10, 1000, 0)));
        assert_eq!(parse("0"), Ok(backoff(0, 0, 1000, 0)));
        assert_eq!(parse("1h30m"), Ok(backoff(5_400_000, 5_400_000, 1000, 0)));
        assert_eq!(parse("1s~50%"), Ok(backoff(1000, 1000, 1000, 50)));
    }

    #[test]
    fn a_cap_makes_it_double_unless_told_otherwise() {
        assert_eq!(parse("1s..5m"), Ok(backoff(1000, 300_000, 2000, 0)));
        assert_eq!(parse("1s..5mx3"), Ok(backoff(1000, 300_000, 3000, 0)));
        assert_eq!(parse("1s .. 5m x 1.5"), Ok(backoff(1000, 300_000, 1500, 0)));
        assert_eq!(parse("1s..5mx2~20%"), Ok(backoff(1000, 300_000, 2000, 20)));
    }

    #[test]
    fn a_multiplier_without_a_cap_grows_to_the_longest_wait_there_is() {
        assert_eq!(parse("10msx2"), Ok(backoff(10, BACKOFF_MS_MAX, 2000, 0)));
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for text in [
            "10ms",
            "0s",
            "1s..5mx2",
            "1s..5mx2~20%",
            "90s~1%",
            "1s..7dx1.25",
        ] {
            let shown = parse(text).map(|backoff| BackoffText(backoff).to_string());
            let again = shown.as_deref().map(parse);
            assert_eq!(again, Ok(parse(text)), "{text}: {shown:?}");
        }
        let usual = BackoffText(Backoff::default()).to_string();
        assert_eq!(usual, "1s..5mx2~20%");
        assert_eq!(parse(&usual), Ok(Backoff::default()));
    }

    #[test]
    fn errors_say_which_part_is_wrong() {
        for (wrong, said) in [
            ("", "first wait"),
            ("soon", "first wait"),
            ("-1s", "first wait"),
            ("1s..", "cap"),
            ("1s..soon", "cap"),
            ("5m..1s", "shorter than the first wait"),
            ("8d", "at most"),
            ("1sx0", "multiplier"),
            ("1sx", "multiplier"),
            ("1sx101", "multiplier"),
            ("1sxNaN", "multiplier"),
            ("1s~20", "jitter"),
            ("1s~101%", "jitter"),
            ("1s~", "jitter"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }
}
