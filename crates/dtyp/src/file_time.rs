use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// [MS-DTYP] 2.3.3 FILETIME: 100-nanosecond steps since 1601-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FileTime(pub u64);

const STEPS_PER_SECOND: u64 = 10_000_000;
const NANOSECONDS_PER_STEP: u32 = 100;
const UNIX_EPOCH_SECONDS: u64 = 11_644_473_600;

impl FileTime {
    /// Not set.
    pub const UNSET: Self = Self(0);
    /// Never: the largest value of a signed 64-bit integer, by which [MS-PAC] says that a time does not come.
    pub const NEVER: Self = Self(0x7fff_ffff_ffff_ffff);

    /// The start of a second of the Unix clock; saturates before 1601 and at `NEVER`.
    pub fn from_unix(seconds: i64) -> Self {
        let steps = (i128::from(seconds) + i128::from(UNIX_EPOCH_SECONDS)) * i128::from(STEPS_PER_SECOND);
        Self(steps.clamp(0, i128::from(Self::NEVER.0)) as u64)
    }

    /// The second of the Unix clock this lies in; negative before 1970.
    pub fn to_unix(self) -> i64 {
        (self.0 / STEPS_PER_SECOND) as i64 - UNIX_EPOCH_SECONDS as i64
    }

    /// A time of the form `YYYYMMDDhhmmss[.f]Z` (GeneralizedTime of RFC 4517 3.3.13), without its fraction.
    pub fn from_generalized_time(text: &str) -> Option<Self> {
        let text = text.strip_suffix('Z')?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() != 14 || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let number = |at: usize, len: usize| whole[at..at + len].parse::<u16>().ok();
        let date = [number(0, 4)?, number(4, 2)?, number(6, 2)?];
        Self::from_civil(date, [number(8, 2)?, number(10, 2)?, number(12, 2)?])
    }

    /// `[year, month, day]` and `[hour, minute, second]` in UTC; `None` if there is no such day or second.
    /// Saturates like [`FileTime::from_unix`].
    pub fn from_civil([year, month, day]: [u16; 3], [hour, minute, second]: [u16; 3]) -> Option<Self> {
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if is_leap => 29,
            2 => 28,
            _ => return None,
        };
        if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let [year, month, day, hour, minute, second] =
            [year, month, day, hour, minute, second].map(i64::from);
        // Years begin in March, so that the leap day comes last.
        let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        let days = year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468;
        Some(Self::from_unix(((days * 24 + hour) * 60 + minute) * 60 + second))
    }

    /// The time from `earlier` to this time; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        let steps = self.0.saturating_sub(earlier.0);
        Duration::new(steps / STEPS_PER_SECOND, (steps % STEPS_PER_SECOND) as u32 * NANOSECONDS_PER_STEP)
    }
}

/// 100-nanosecond steps of a duration, rounded down.
fn steps(duration: Duration) -> u64 {
    let whole = duration.as_secs().saturating_mul(STEPS_PER_SECOND);
    whole.saturating_add(u64::from(duration.subsec_nanos() / NANOSECONDS_PER_STEP))
}

/// Saturates at [`FileTime::NEVER`].
impl Add<Duration> for FileTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(steps(duration)).min(Self::NEVER.0))
    }
}

/// Saturates at the first instant, 1601-01-01T00:00:00Z.
impl Sub<Duration> for FileTime {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(steps(duration)))
    }
}

impl From<std::time::SystemTime> for FileTime {
    fn from(time: std::time::SystemTime) -> Self {
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self::from_unix(0) + since
    }
}

/// RFC 3339 in UTC to the second; `never` and `unset` for the two special values.
impl fmt::Display for FileTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UNSET => return f.write_str("unset"),
            time if time >= Self::NEVER => return f.write_str("never"),
            _ => {}
        }
        let seconds = self.0 / STEPS_PER_SECOND;
        // Days are counted from 1600-03-01, so that the leap day ends a year and 400-year cycles start with
        // it.
        let (days, second) = (seconds / 86_400 + 306, seconds % 86_400);
        let (cycle, day_of_cycle) = (days / 146_097, days % 146_097);
        let year_of_cycle =
            (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
        let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = (month_from_march + 2) % 12 + 1;
        let year = 1600 + 400 * cycle + year_of_cycle + u64::from(month <= 2);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
            second / 3600,
            second / 60 % 60,
            second % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_known_instants() {
        // `date -u -d @N +%FT%TZ` for each.
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_704_067_199, "2023-12-31T23:59:59Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-11_644_473_599, "1601-01-01T00:00:01Z"),
        ] {
            assert_eq!(FileTime::from_unix(unix).to_string(), text);
            assert_eq!(FileTime::from_unix(unix).to_unix(), unix);
        }
        assert_eq!(FileTime(133_500_000_000_000_000).to_string(), "2024-01-17T21:20:00Z");
    }

    #[test]
    fn reads_civil_dates_and_refuses_days_that_do_not_exist() {
        // `date -u -d "DATE TIME" +%s` for each.
        for (date, time, unix) in [
            ([1970, 1, 1], [0, 0, 0], 0),
            ([2000, 2, 29], [23, 59, 59], 951_868_799),
            ([2026, 12, 31], [12, 30, 1], 1_798_720_201),
            ([2100, 3, 1], [0, 0, 0], 4_107_542_400),
            ([1601, 1, 1], [0, 0, 1], -11_644_473_599),
        ] {
            assert_eq!(
                FileTime::from_civil(date, time),
                Some(FileTime::from_unix(unix)),
                "{date:?} {time:?}"
            );
        }
        assert_eq!(FileTime::from_civil([0, 1, 1], [0, 0, 0]), Some(FileTime::UNSET), "before 1601");
        for (date, time) in [
            ([2100, 2, 29], [0, 0, 0]),
            ([2023, 2, 29], [0, 0, 0]),
            ([2024, 4, 31], [0, 0, 0]),
            ([2024, 0, 1], [0, 0, 0]),
            ([2024, 13, 1], [0, 0, 0]),
            ([2024, 1, 0], [0, 0, 0]),
            ([2024, 1, 32], [0, 0, 0]),
            ([2024, 1, 1], [24, 0, 0]),
            ([2024, 1, 1], [0, 60, 0]),
            ([2024, 1, 1], [0, 0, 60]),
        ] {
            assert_eq!(FileTime::from_civil(date, time), None, "{date:?} {time:?}");
        }
    }

    #[test]
    fn generalized_times_are_whole_or_none() {
        let expected = FileTime::from_civil([2026, 11, 30], [8, 29, 43]);
        for text in ["20261130082943Z", "20261130082943.0Z", "20261130082943.999Z"] {
            assert_eq!(FileTime::from_generalized_time(text), expected, "{text}");
        }
        for text in [
            "",
            "Z",
            "20261130082943",
            "2026113008294Z",
            "20261130082943.Z",
            "20261330082943Z",
            "20261130082943+0100",
            "2026113008294\u{661}Z",
        ] {
            assert_eq!(FileTime::from_generalized_time(text), None, "{text}");
        }
    }

    #[test]
    fn adds_subtracts_and_measures_durations() {
        let start = FileTime::from_unix(1_704_067_199);
        let later = start + Duration::new(1, 999);
        assert_eq!(later.0 - start.0, 10_000_009, "100-nanosecond steps, rounded down");
        assert_eq!(later.since(start), Duration::new(1, 900));
        assert_eq!(start.since(later), Duration::ZERO);
        assert_eq!(later - Duration::new(1, 900), start);
        assert_eq!(start + Duration::MAX, FileTime::NEVER);
        assert_eq!(start - Duration::MAX, FileTime::UNSET);
        assert_eq!(FileTime::NEVER + Duration::from_secs(1), FileTime::NEVER);
    }

    #[test]
    fn saturates_instead_of_wrapping() {
        assert_eq!(FileTime::from_unix(i64::MIN), FileTime::UNSET);
        assert_eq!(FileTime::from_unix(i64::MAX), FileTime::NEVER);
        assert_eq!(FileTime(u64::MAX).to_string(), "never");
        assert_eq!(FileTime::UNSET.to_string(), "unset");
    }
}
