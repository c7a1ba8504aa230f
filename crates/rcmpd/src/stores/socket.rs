//! Accounts that another program answers for, as `[store.socket]` names it.

use super::Accounts;
use crate::config::{self, Config};
use crate::sso::socket_folder;
use anyhow::{Context, bail};
use dcerpc_tokio::{NO_LABELS, encode_family};
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use rustix::process::geteuid;
use std::fmt;
use std::sync::{Arc, OnceLock};
use store_socket::{Meter, Settings, SocketStore};

/// Counts of all stores of this process, one after the other: a reload opens the store again.
static METER: OnceLock<Arc<Meter>> = OnceLock::new();

/// The number of a user. A number is never looked up as a name. Blocks for the name service.
fn number(user: &str) -> anyhow::Result<u32> {
    if let Ok(number) = user.parse() {
        return Ok(number);
    }
    let found = uzers::get_user_by_name(user).map(|user| user.uid());
    found.with_context(|| {
        format!("there is no user {user} on this system (store.socket.peer): write the number that `id -u {user}` prints")
    })
}

/// Opens the accounts. The program is not asked before the first question.
pub(super) fn open(config: &Config, socket: &config::Socket) -> anyhow::Result<Accounts> {
    let peer = number(&socket.peer)?;
    if peer == config::OVERFLOW_UID {
        bail!("many programs run as {} (store.socket.peer): use a user of the program's own", socket.peer);
    }
    let path = socket.path.clone();
    let owners = [0, geteuid().as_raw(), peer];
    let store = SocketStore::open(Settings {
        domain: config.domain.clone(),
        path: socket.path.clone(),
        peer,
        check_place: Arc::new(move || socket_folder::check(&path, &owners, &owners)),
        timeout: socket.timeout,
        connections_max: socket.connections_max,
        fresh: socket.fresh,
        meter: Arc::clone(METER.get_or_init(Arc::default)),
    });
    Ok(Accounts::read_only(Arc::new(store)))
}

/// Writes the metrics, if a program is asked.
pub(crate) fn encode(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(meter) = METER.get() else { return Ok(()) };
    let one = |count| [(NO_LABELS, ConstCounter::new(count))];
    let help = "look-ups that the program of the accounts was asked for";
    encode_family(encoder, ("store_socket_questions", help, None), one(meter.questions()))?;
    let help = "connections to the program of the accounts that were made";
    encode_family(encoder, ("store_socket_connections", help, None), one(meter.connections()))?;
    let help = "failures of the program of the accounts and of look-ups, by step";
    let failures = meter.failures().map(|(step, count)| ([("step", step)], ConstCounter::new(count)));
    encode_family(encoder, ("store_socket_failures", help, None), failures)
}
