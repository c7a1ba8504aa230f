//! `u:Timestamp` (WS-Security 1.1, section 10): dates in UTC, as .NET writes them, and how long they
//! count.

use crate::names::UTILITY;
use crate::reason::Reason;
use crate::tree::{Document, NodeId};
use dtyp::FileTime;
use std::time::Duration;

/// How old a message may be, whatever its Expires says. The difference of clocks is a part of it: WCF grants
/// both, and so takes messages of a clock that is nearly ten minutes behind.
pub const AGE_MAX: Duration = Duration::from_secs(5 * 60);

/// When a message was made, and until when it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// `u:Created`.
    pub created: FileTime,
    /// `u:Expires`.
    pub expires: FileTime,
}

impl Timestamp {
    /// Reads a Timestamp: `u:Created`, then `u:Expires`, and no more.
    pub(crate) fn read(document: &Document, node: NodeId) -> Result<Self, Reason> {
        let shape = Reason::Shape("u:Timestamp");
        let [created, expires] = document.elements(node).collect::<Vec<_>>()[..] else { return Err(shape) };
        if !document.is(created, UTILITY.name("Created")) || !document.is(expires, UTILITY.name("Expires")) {
            return Err(shape);
        }
        let time = |node| document.text(node).and_then(|text| parse_time(text.trim()));
        let (Some(created), Some(expires)) = (time(created), time(expires)) else { return Err(shape) };
        Ok(Self { created, expires })
    }

    /// Whether the message counts now: its clock differs by less than `skew`, it is not expired, and not
    /// older than [`AGE_MAX`], or than a larger skew. Returns until when its signature is cached: from then
    /// on a copy is too old.
    ///
    /// # Errors
    /// If it does not count.
    pub fn check(&self, now: FileTime, skew: Duration) -> Result<FileTime, Reason> {
        let Self { created, expires } = *self;
        let age = AGE_MAX.max(skew);
        let problem = if expires <= created {
            "it expires before it is created"
        } else if created >= now + skew {
            "created in the future"
        } else if created + age <= now {
            "created too long ago"
        } else if expires + skew <= now {
            "expired"
        } else {
            return Ok((expires + skew).min(created + age));
        };
        let from_future = created > now;
        let offset = if from_future { created.since(now) } else { now.since(created) };
        Err(Reason::Timestamp { problem, offset, from_future })
    }
}

/// A date of XML schema in UTC, such as `2026-11-29T23:47:18.123Z`. Digits behind the seventh decimal are
/// cut.
pub fn parse_time(text: &str) -> Option<FileTime> {
    let text = text.strip_suffix('Z')?;
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (text, ""),
    };
    let octets = whole.as_bytes();
    if octets.len() != 19 || !fraction.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    for (at, separator) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        if octets[at] != separator {
            return None;
        }
    }
    let number = |range: std::ops::Range<usize>| {
        octets[range].iter().try_fold(0u16, |number, octet| {
            octet.is_ascii_digit().then(|| number * 10 + u16::from(octet - b'0'))
        })
    };
    let date = [number(0..4)?, number(5..7)?, number(8..10)?];
    let time = [number(11..13)?, number(14..16)?, number(17..19)?];
    let steps =
        fraction.bytes().chain(*b"0000000").take(7).fold(0, |n, octet| n * 10 + u64::from(octet - b'0'));
    FileTime::from_civil(date, time).map(|second| FileTime(second.0 + steps))
}

/// The date with milliseconds, as .NET writes it.
pub fn format_time(time: FileTime) -> String {
    let milliseconds = time.0 / 10_000 % 1000;
    let seconds = time.to_string();
    let seconds = seconds.strip_suffix('Z').unwrap_or(&seconds);
    format!("{seconds}.{milliseconds:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_written() {
        let time = parse_time("2026-11-29T23:47:18.123Z").expect("a date");
        assert_eq!(time.to_string(), "2026-11-29T23:47:18Z");
        assert_eq!(format_time(time), "2026-11-29T23:47:18.123Z");
        assert_eq!(parse_time("2026-11-29T23:47:18.1230000000Z"), Some(time));
        assert_eq!(
            parse_time("2026-11-29T23:47:18Z").map(format_time).as_deref(),
            Some("2026-11-29T23:47:18.000Z")
        );
        for wrong in [
            "2026-11-29T23:47:18",
            "2026-11-29T23:47:18.Z",
            "2026-11-29 23:47:18Z",
            "2026-02-29T00:00:00Z",
            "2026-11-29T24:00:00Z",
            "+026-11-29T23:47:18Z",
            "2026-11-29T23:47:18+01:00",
            "",
            "Z",
            "2026-11-29T23:47:18.1a3Z",
            "2026-11-29T23:47:\u{661}8Z",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_limits_are_exact() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let now = FileTime::from_unix(1_800_000_000);
        let check = |created: FileTime, valid: Duration| {
            Timestamp { created, expires: created + valid }.check(now, minutes(5))
        };
        let second = Duration::from_secs(1);
        check(now + minutes(5) - second, minutes(5)).expect("nearly in the future");
        check(now + minutes(5), minutes(5)).expect_err("in the future");
        check(now - minutes(5) + second, minutes(5)).expect("nearly too old");
        check(now - minutes(5), minutes(5)).expect_err("too old");
        check(now - minutes(5), minutes(60)).expect_err("too old");
        check(now, Duration::ZERO).expect_err("expires when it is created");
        let late = check(now - minutes(6), minutes(5)).expect_err("too old");
        assert_eq!(late.to_string(), "timestamp rejected: created too long ago, clock offset -360 s");
        // The skew is granted to Expires as well, and a larger one to the age.
        let with = |age: u64, valid: Duration, skew: u64| {
            let created = now - minutes(age);
            Timestamp { created, expires: created + valid }.check(now, minutes(skew))
        };
        with(3, minutes(1), 3).expect("within the skew");
        assert_eq!(
            with(3, minutes(1), 2),
            Err(Reason::Timestamp { problem: "expired", offset: minutes(3), from_future: false })
        );
        with(4, minutes(5), 0).expect("without a skew it may take a while to arrive");
        with(5, minutes(6), 0).expect_err("too old");
        with(9, minutes(5), 10).expect("within a large skew");
        with(10, minutes(5), 10).expect_err("outside of a large skew");
    }
}
