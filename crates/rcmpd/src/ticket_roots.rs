//! The roots that the nodes of a farm share, from the files of a configuration.

use crate::config::SecretRef;
use anyhow::Context;
use ticket::{Root, Roots};

/// Reads the keys that a section names. `seal_with` is the generation that seals; without it the highest one.
pub(crate) fn read(keys: &[SecretRef], seal_with: Option<u32>, section: &str) -> anyhow::Result<Roots> {
    let unusable = || format!("cannot use the keys of {section}");
    let read = |key: &SecretRef| anyhow::Ok(Root::from_line(&key.read()?)?);
    let roots = keys.iter().map(read).collect::<anyhow::Result<_>>().with_context(unusable)?;
    let roots = Roots::new(roots).with_context(unusable)?;
    match seal_with {
        None => Ok(roots),
        Some(generation) => roots
            .sealing_with(generation)
            .with_context(|| format!("{}: none has the generation {generation} of seal_with", unusable())),
    }
}
