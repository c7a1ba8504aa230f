//! The clock by which the age of a revision is judged.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// A moment, as the time since the start of the machine. It counts while the machine is suspended
/// (`CLOCK_BOOTTIME`), other than [`std::time::Instant`]: what was read before counts no longer after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        Self(Duration::try_from(time).unwrap_or_default())
    }

    pub(crate) fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_passes() {
        let begun = Moment::now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(begun.elapsed() >= Duration::from_millis(2));
        assert!(begun < Moment::now() && begun.before(Duration::from_secs(1)) < begun);
    }
}
