//! The proof of a password that a service was given, for a domain controller to check.

use super::acceptor::ServerNames;
use super::crypto::NtHash;
use super::initiator::{NtlmCredentials, answer};
use super::proof::NtlmProof;
use crate::Entropy;
use dtyp::FileTime;
use std::net::IpAddr;

/// A user and its password, as a client sent them to a service.
#[derive(Clone, Debug)]
pub struct PlainUser<'a> {
    /// UserName, or a user principal name if `domain` is empty.
    pub user: &'a str,
    /// DomainName.
    pub domain: &'a str,
    /// The NT hash of the password.
    pub hash: NtHash,
    /// Where the client is.
    pub source: IpAddr,
}

impl NtlmProof {
    /// The proof of a user at the service that `server` names, as if both had spoken NTLM: the CHALLENGE and
    /// its answer are made here, from random octets ([MS-NLMP] 3.3.2). Nothing in it promises a MIC, because
    /// there are no messages. The workstation is the service itself.
    pub fn of_password(
        PlainUser { user, domain, hash, source }: PlainUser<'_>,
        server: &ServerNames,
        now: FileTime,
        entropy: Entropy<'_>,
    ) -> Self {
        let credentials = NtlmCredentials {
            user: user.to_owned(),
            domain: domain.to_owned(),
            workstation: server.netbios_computer.clone(),
            hash,
            spn: String::new(),
        };
        let (mut server_challenge, mut client_challenge) = ([0; 8], [0; 8]);
        entropy(&mut server_challenge);
        entropy(&mut client_challenge);
        let answer = answer(&credentials, &server_challenge, client_challenge, server.target_info(now), now);
        let NtlmCredentials { user, domain, workstation, .. } = credentials;
        Self {
            user,
            domain,
            workstation,
            server_challenge,
            nt_response: answer.nt_response,
            lm_response: answer.lm_response,
            source,
        }
    }
}
