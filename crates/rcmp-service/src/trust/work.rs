use super::refusal::{ChainError, Fault};

/// Most comparisons of names, nodes of policies and steps between CAs for one certificate: tens of
/// milliseconds at most. Real hierarchies, bridges between governments among them, need some thousand.
pub(super) const WORK_MAX: usize = 250_000;
/// Most signatures that are checked for one certificate: as many CAs of one name, or CAs' certificates that a
/// client sends. At most 10 ms.
pub(super) const SIGNATURE_CHECKS_MAX: usize = 32;

/// What is left of the work that one certificate may cause.
#[derive(Debug)]
pub(super) struct Work {
    comparisons: usize,
    signatures: usize,
}

impl Work {
    pub(super) const fn new() -> Self {
        Self { comparisons: WORK_MAX, signatures: SIGNATURE_CHECKS_MAX }
    }

    /// Takes some comparisons; fails when there are none left.
    pub(super) fn spend(&mut self, units: usize) -> Result<(), Fault> {
        match self.comparisons.checked_sub(units) {
            Some(left) => {
                self.comparisons = left;
                Ok(())
            }
            None => {
                self.comparisons = 0;
                Err(Fault::limit(ChainError::TooComplex, "comparisons", WORK_MAX, WORK_MAX + 1))
            }
        }
    }

    /// Takes the check of a signature; fails when there is none left.
    pub(super) fn spend_signature(&mut self) -> Result<(), Fault> {
        match self.signatures.checked_sub(1) {
            Some(left) => {
                self.signatures = left;
                Ok(())
            }
            None => {
                let (limit, found) = (SIGNATURE_CHECKS_MAX, SIGNATURE_CHECKS_MAX + 1);
                Err(Fault::limit(ChainError::TooComplex, "signatures to check", limit, found))
            }
        }
    }
}
