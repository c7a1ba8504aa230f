//! The hours at which an account may log on (logonHours, [MS-ADA1]).

use dtyp::FileTime;

/// `logonHours`: one bit an hour from Sunday midnight UTC. 1601-01-01 was a Monday.
pub(crate) fn is_allowed_hour(hours: &[u8; 21], now: FileTime) -> bool {
    let hour = (now.0 / 36_000_000_000 + 24) % 168;
    hours[(hour / 8) as usize] & 1 << (hour % 8) != 0
}

/// The end of the allowed hours that `now` lies in; `NEVER` when all hours are allowed.
pub(crate) fn end_of_allowed_hours(hours: &[u8; 21], now: FileTime) -> FileTime {
    let hour = now.0 / 36_000_000_000;
    match (1..=168).find(|ahead| !is_allowed_hour(hours, FileTime((hour + ahead) * 36_000_000_000))) {
        Some(ahead) => FileTime((hour + ahead) * 36_000_000_000),
        None => FileTime::NEVER,
    }
}
