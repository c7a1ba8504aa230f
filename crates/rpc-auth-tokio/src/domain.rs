use dcerpc::limits::source_of;
use dtyp::FileTime;
use netlogon_tokio::{Asker, LogonRequest, Servers};
use netlogon_transport::client::NetworkLogon;
use netlogon_transport::message::{
    ALLOW_COMPUTER_ACCOUNTS, ALLOW_SERVER_ACCOUNTS, LogonIdentity, LogonReply, USER_FLAG_GUEST,
    USER_FLAG_LM_KEY, USER_FLAG_NO_ENCRYPTION,
};
use rpc_auth::ntlm::{NtlmProof, ProofChecker, ProofVerdict, SessionBaseKey};
use rpc_auth::{BoxFuture, IdentitySource, UserIdentity};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Has proofs checked by the domain controllers of one domain, over our secure channel ([MS-APDS] 3.1).
///
/// If no controller decides in time, the client is refused. A local account of the same name is never asked.
pub struct DomainChecker {
    servers: Arc<Servers>,
    /// NetBIOS name, for logs and identities.
    domain: String,
    timeout: Duration,
    parameter_control: u32,
}

impl DomainChecker {
    /// A checker over the domain's servers. `timeout` is for one proof, failover included. With
    /// `allow_computers` the accounts of computers may log on, too.
    pub const fn new(
        servers: Arc<Servers>,
        domain: String,
        timeout: Duration,
        allow_computers: bool,
    ) -> Self {
        let parameter_control =
            if allow_computers { ALLOW_SERVER_ACCOUNTS | ALLOW_COMPUTER_ACCOUNTS } else { 0 };
        Self { servers, domain, timeout, parameter_control }
    }

    fn request<'a>(&self, proof: &'a NtlmProof) -> LogonRequest<'a> {
        LogonRequest {
            logon: NetworkLogon {
                identity: LogonIdentity {
                    domain: &proof.domain,
                    parameter_control: self.parameter_control,
                    user: &proof.user,
                    workstation: &proof.workstation,
                },
                challenge: proof.server_challenge,
                nt_response: &proof.nt_response,
                lm_response: &proof.lm_response,
            },
            asker: Some(Asker::Source(source_of(proof.source))),
        }
    }
}

impl ProofChecker for DomainChecker {
    fn check<'a>(&'a self, proof: &'a NtlmProof) -> BoxFuture<'a, ProofVerdict> {
        Box::pin(async move {
            match self.servers.ask(&self.request(proof), Instant::now() + self.timeout).await {
                Some(answered) => verdict(&self.domain, answered.answer),
                None => ProofVerdict::Unavailable(format!("no domain controller of {} decided", self.domain)),
            }
        })
    }
}

/// What a controller's answer means. Guests, and keys that are no secret, are refused.
fn verdict(domain: &str, reply: LogonReply) -> ProofVerdict {
    let rejected = |what: &str| ProofVerdict::rejected(format!("domain controller of {domain}: {what}"));
    if !reply.status.is_success() {
        return rejected(&reply.status.to_string());
    }
    let Some(user) = reply.validation else {
        return rejected("success without a user");
    };
    if user.user_flags & (USER_FLAG_GUEST | USER_FLAG_NO_ENCRYPTION | USER_FLAG_LM_KEY) != 0 {
        return rejected(&format!("a guest or a weak key (UserFlags 0x{:x})", user.user_flags));
    }
    if *user.session_key.expose() == [0; 16] {
        return rejected("a session key of zeroes");
    }
    let Some(sid) = user.user_sid() else {
        return rejected("a SID that cannot be");
    };
    let identity = UserIdentity {
        sid: Some(sid),
        groups: user.group_sids(),
        name: user.effective_name,
        domain: user.logon_domain_name,
        source: IdentitySource::DomainController { domain: domain.to_owned() },
        password: None,
        delegated_by: Vec::new(),
        expires: Some(user.kick_off_time).filter(|end| *end != FileTime::UNSET && *end < FileTime::NEVER),
    };
    ProofVerdict::Accepted {
        session_base_key: SessionBaseKey::new(*user.session_key.expose()),
        identity: Box::new(identity),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtyp::{FileTime, NtStatus, Sid};
    use netlogon_tokio::{ClientAccount, PoolLimits, ServerSource};
    use netlogon_transport::message::LogonValidation;
    use netlogon_transport::secret::{SharedSecret, UserSessionKey};
    use netlogon_transport::secrets::ChannelType;

    fn reply(change: impl FnOnce(&mut LogonReply, &mut LogonValidation)) -> LogonReply {
        let mut reply = LogonReply { validation: None, authoritative: true, status: NtStatus::SUCCESS };
        let mut user = LogonValidation {
            kick_off_time: FileTime::NEVER,
            effective_name: "alice".into(),
            user_id: 1104,
            primary_group_id: 513,
            groups: vec![(1200, 7)],
            user_flags: 0x120,
            session_key: UserSessionKey::new([1; 16]),
            logon_domain_name: "CORP".into(),
            logon_domain_id: Sid::new(5, &[21, 1, 2, 3]).expect("a SID"),
            extra_sids: vec![],
        };
        change(&mut reply, &mut user);
        reply.validation = Some(user);
        reply
    }

    #[test]
    fn a_user_has_the_sids_of_the_answer() {
        let ProofVerdict::Accepted { identity, session_base_key } = verdict("CORP", reply(|_, _| {})) else {
            panic!("accepted")
        };
        let domain = Sid::new(5, &[21, 1, 2, 3]).expect("a SID");
        assert_eq!(
            (identity.sid, identity.groups),
            (
                domain.with_rid(1104),
                vec![domain.with_rid(513).expect("a SID"), domain.with_rid(1200).expect("a SID")]
            )
        );
        assert_eq!(session_base_key.expose(), &[1; 16]);
        assert_eq!(identity.source, IdentitySource::DomainController { domain: "CORP".into() });
    }

    #[test]
    fn a_user_ends_when_the_controller_says_that_the_account_ends() {
        let end = FileTime::from_unix(1_900_000_000);
        for (kick_off_time, expected) in
            [(FileTime::UNSET, None), (FileTime::NEVER, None), (FileTime(u64::MAX), None), (end, Some(end))]
        {
            let reply = reply(|_, user| user.kick_off_time = kick_off_time);
            let ProofVerdict::Accepted { identity, .. } = verdict("CORP", reply) else { panic!("accepted") };
            assert_eq!(identity.expires, expected, "{kick_off_time}");
        }
    }

    #[test]
    fn guests_weak_keys_and_refusals_are_rejected() {
        for flag in [1, 2, 8] {
            let reply = reply(|_, user| user.user_flags |= flag);
            assert!(matches!(verdict("CORP", reply), ProofVerdict::Rejected { .. }), "UserFlags {flag}");
        }
        let zero = reply(|_, user| user.session_key = UserSessionKey::new([0; 16]));
        assert!(matches!(verdict("CORP", zero), ProofVerdict::Rejected { .. }));
        for status in [NtStatus::WRONG_PASSWORD, NtStatus::ACCOUNT_DISABLED, NtStatus(0x4000_0000)] {
            let reply = reply(|reply, _| reply.status = status);
            assert!(matches!(verdict("CORP", reply), ProofVerdict::Rejected { .. }), "{status}");
        }
        let nothing = LogonReply { validation: None, authoritative: true, status: NtStatus::SUCCESS };
        assert!(matches!(verdict("CORP", nothing), ProofVerdict::Rejected { .. }));
    }

    #[tokio::test]
    async fn without_a_domain_controller_the_proof_is_not_decided() {
        // Nothing listens at tcpmux's port.
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let account = ClientAccount {
            domain: "CORP".into(),
            computer: "SSO1".into(),
            account: "SSO1$".into(),
            channel_type: ChannelType::WORKSTATION,
            secrets: Arc::new(SharedSecret::from_password("secret")),
            now: || 0,
        };
        let limits = PoolLimits { connections_max: 1, queue_max: 1 };
        let servers = Servers::new(ServerSource::Listed(vec![address.to_string()]), account, limits, None);
        let checker = DomainChecker::new(Arc::new(servers), "CORP".into(), Duration::from_secs(5), false);
        let proof = NtlmProof {
            user: "alice".into(),
            domain: "CORP".into(),
            workstation: String::new(),
            server_challenge: [0; 8],
            nt_response: vec![0; 64],
            lm_response: vec![],
            source: "2001:db8::7".parse().expect("an address"),
        };
        let source = "2001:db8::".parse().expect("an address");
        assert_eq!(checker.request(&proof).asker, Some(Asker::Source(source)), "the host's /64");
        assert!(matches!(checker.check(&proof).await, ProofVerdict::Unavailable(_)));
    }
}
