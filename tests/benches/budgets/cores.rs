//! Who runs where: what serves has a core of its own, and the generator another one. If they moved about, or
//! slept between calls, waking a processor up and filling its caches would be most of what is measured.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::LazyLock;

/// The server's core and the generator's; on a machine with one core no thread is pinned.
static CORES: LazyLock<Option<[usize; 2]>> = LazyLock::new(|| {
    let ours = sched_getaffinity(None).unwrap();
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| ours.is_set(*core));
    Some([cores.next()?, cores.next()?])
});

/// Starts something on the server's core: threads and processes that it starts stay there. We go on on the
/// other one.
pub(crate) fn apart<T>(start: impl FnOnce() -> T) -> T {
    let Some([servers, generators]) = *CORES else { return start() };
    pin(servers);
    let started = start();
    pin(generators);
    started
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).unwrap();
}
