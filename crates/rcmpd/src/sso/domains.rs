//! The names that NTLM clients of the master secret server see.

use crate::config::{self, Config};
use rpc_auth::ntlm::ServerNames;

/// The names that a CHALLENGE carries. Where a domain controller checks proofs, they are those of our member
/// of its domain: hardened controllers compare them with the account of the channel ([MS-APDS] 3.1.5.2).
pub(super) fn server_names(config: &Config, ntlm: &config::Ntlm) -> ServerNames {
    let member_of =
        ntlm.domains.first().and_then(|domain| Some((&domain.peer.domain, domain.peer.names.first()?)));
    let (netbios, dns) = member_of.unwrap_or((&config.domain.netbios, &config.domain.dns));
    ServerNames::of_member(&config.server, netbios, dns)
}

/// Domains whose controllers would refuse each proof, because the CHALLENGE does not carry the names of the
/// channel's account.
pub(super) fn misfits(config: &Config, ntlm: &config::Ntlm) -> Vec<String> {
    let names = server_names(config, ntlm);
    let fit = |peer: &config::Peer| names.fit_channel(&peer.account, &peer.domain).err();
    let found = ntlm.domains.iter().filter_map(|domain| Some((&domain.peer.domain, fit(&domain.peer)?)));
    found.map(|(domain, misfit)| format!("[[sso.ntlm.domain]] {domain}: {misfit}")).collect()
}
