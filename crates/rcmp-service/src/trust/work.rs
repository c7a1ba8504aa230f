use super::refusal::{ChainError, Fault};

/// Most comparisons of names, nodes of policies and steps between CAs for one certificate: tens of milliseconds at
/// most. Real hierarchies, bridges between governments among them, need some thousand.
pub(super) const WORK_MAX: usize = 250_000;

/// What is left of the work that one certificate may cause.
#[derive(Debug)]
pub(super) struct Work(usize);

impl Work {
    pub(super) const fn new() -> Self {
        Self(WORK_MAX)
    }

    /// Takes some; fails when there is none left.
    pub(super) fn spend(&mut self, units: usize) -> Result<(), Fault> {
        match self.0.checked_sub(units) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => {
                self.0 = 0;
                Err(Fault::limit(ChainError::TooComplex, "comparisons", WORK_MAX, WORK_MAX + 1))
            }
        }
    }
}
