use std::fmt;

/// [MS-DTYP] 2.3.3 FILETIME: 100-nanosecond steps since 1601-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FileTime(pub u64);

const STEPS_PER_SECOND: u64 = 10_000_000;
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
}

impl From<std::time::SystemTime> for FileTime {
    fn from(time: std::time::SystemTime) -> Self {
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let start = Self::from_unix(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        Self(start.0.saturating_add(u64::from(since.subsec_nanos() / 100)).min(Self::NEVER.0))
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
        // Days are counted from 1600-03-01, so that the leap day ends a year and 400-year cycles start with it.
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
    fn saturates_instead_of_wrapping() {
        assert_eq!(FileTime::from_unix(i64::MIN), FileTime::UNSET);
        assert_eq!(FileTime::from_unix(i64::MAX), FileTime::NEVER);
        assert_eq!(FileTime(u64::MAX).to_string(), "never");
        assert_eq!(FileTime::UNSET.to_string(), "unset");
    }
}
