//! Reading a whole list of a store page by page, past the entries that are damaged.

use account_store::StoreError;
use anyhow::Context;
use dtyp::Sid;

/// Entries that are read at once.
const PAGE: usize = 1000;

/// Passes all entries of a list to `look`, in ascending order of SID. An entry that is damaged is passed to
/// `skipped` by its relative identifier, and the others are read.
pub(super) async fn walk<T>(
    read: impl AsyncFn(u32, usize) -> Result<Vec<T>, StoreError>,
    sid: impl Fn(&T) -> Sid,
    mut look: impl FnMut(T),
    mut skipped: impl FnMut(u32, &StoreError),
) -> anyhow::Result<()> {
    let (mut after, mut limit) = (0, PAGE);
    loop {
        match read(after, limit).await {
            Ok(page) => {
                let Some(last) = page.last() else { return Ok(()) };
                after = sid(last).split_rid().map_or(u32::MAX, |(_, rid)| rid);
                page.into_iter().for_each(&mut look);
            }
            Err(StoreError::Damaged(_)) if limit > 1 => limit = 1,
            Err(error @ StoreError::Damaged(_)) => {
                after = damaged_after(&read, after).await?.context(error.to_string())?;
                skipped(after, &error);
                limit = PAGE;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The relative identifier of the first entry after `after`, which is damaged: the smallest one after which
/// the next entry can be read, or after which there is none. `None` if there is no such.
async fn damaged_after<T>(
    read: &impl AsyncFn(u32, usize) -> Result<Vec<T>, StoreError>,
    after: u32,
) -> anyhow::Result<Option<u32>> {
    let (mut bad, mut good) = (after, i32::MAX as u32);
    let is_good = async |after| match read(after, 1).await {
        Ok(_) => Ok(true),
        Err(StoreError::Damaged(_)) => Ok(false),
        Err(error) => Err(anyhow::Error::from(error)),
    };
    if !is_good(good).await? {
        return Ok(None);
    }
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        match is_good(middle).await? {
            true => good = middle,
            false => bad = middle,
        }
    }
    Ok(Some(good))
}
