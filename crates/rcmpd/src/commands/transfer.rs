//! `rcmpd import` and `rcmpd export`.

use crate::config::Config;
use std::path::Path;

pub(super) async fn import(_: &Path, _: &Config, _: bool) -> anyhow::Result<u8> {
    anyhow::bail!("not yet")
}

pub(super) async fn export(_: &Path, _: &Config, _: bool) -> anyhow::Result<u8> {
    anyhow::bail!("not yet")
}
