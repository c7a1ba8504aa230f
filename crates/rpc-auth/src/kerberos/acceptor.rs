//! The acceptor: AP-REQ in, AP-REP out, AP-REP' in (RFC 4120 3.2.3, [MS-KILE] 3.4.5).

use super::context::{KerberosContext, Role};
use super::etype::{BLOCK_LEN, Etype, Key, usage};
use super::keytab::{Keytab, KeytabEntry, SharedKeytab};
use super::messages::{
    self, AD_IF_RELEVANT, AD_WIN2K_PAC, AP_USE_SESSION_KEY, ApRep, ApReq, Authenticator, AuthorizationData,
    EncApRepPart, EncTicketPart, EncryptedData, Principal, TICKET_ANONYMOUS, TICKET_INVALID,
    TICKET_TRANSITED_POLICY_CHECKED,
};
use super::replay::ReplayCache;
use super::{TOKEN_LEN_MAX, gss, ticket_pac};
use crate::{Acceptor, BoxFuture, Entropy, IdentitySource, Leg, Refusal, RefusalReason, Step, UserIdentity};
use dtyp::FileTime;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How far a client's clock may differ (RFC 4120 3.2.3).
pub const SKEW_DEFAULT: Duration = Duration::from_secs(300);
/// Keys that are tried on one ticket: four versions of four services. A ticket that none opens costs that
/// many decryptions.
const KEYS_TRIED_MAX: usize = 16;

/// What all Kerberos acceptors of a server share.
#[derive(Debug)]
pub struct KerberosConfig {
    /// The keys of the services.
    pub keytab: Arc<SharedKeytab>,
    /// The services whose tickets are accepted, as `class/host` or `class/host@REALM`. A ticket must name one
    /// of them, and must open under the key of one of them. If the list is empty, each principal of the
    /// keytab is one. Where the keytab has one entry for an account with several names, the list has the
    /// account's name and the others.
    pub services: Vec<String>,
    /// The realms that may be clients. No other is accepted.
    pub client_realms: Vec<ClientRealm>,
    /// How far a client's clock may differ.
    pub skew: Duration,
    /// The authenticators that were accepted. All acceptors that share a key must share it.
    pub replay: Arc<ReplayCache>,
}

/// A realm that may be a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRealm {
    /// The realm, in its exact spelling.
    pub name: String,
    /// What its tickets have.
    pub kind: RealmKind,
}

/// What the tickets of a realm's clients have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealmKind {
    /// A domain of Active Directory: a PAC with SIDs, without which a ticket is refused.
    ActiveDirectory,
    /// A realm of MIT Kerberos or Heimdal: a PAC may be missing, and may have no SIDs. Then the client has a
    /// principal only.
    Mit,
}

/// Waits for a client's AP-REQ.
#[derive(Debug)]
pub struct KerberosAcceptor {
    config: Arc<KerberosConfig>,
}

/// Waits for a client's AP-REP'.
struct ThirdLeg {
    session_key: Key,
    subkey: Key,
    /// The acceptor's first number, which the client has to repeat.
    send_first: u32,
    receive_first: u32,
    user: UserIdentity,
}

impl KerberosAcceptor {
    /// An acceptor for one context.
    pub const fn new(config: Arc<KerberosConfig>) -> Self {
        Self { config }
    }
}

impl Acceptor for KerberosAcceptor {
    fn accept<'a>(self: Box<Self>, leg: Leg<'a>) -> BoxFuture<'a, Result<Step, Refusal>>
    where
        Self: 'a,
    {
        Box::pin(std::future::ready(self.config.first_leg(leg)))
    }
}

impl Acceptor for ThirdLeg {
    fn accept<'a>(self: Box<Self>, leg: Leg<'a>) -> BoxFuture<'a, Result<Step, Refusal>>
    where
        Self: 'a,
    {
        Box::pin(std::future::ready(self.finish(leg)))
    }
}

/// A ticket that a key of the keytab opened.
struct OpenTicket<'a> {
    entry: &'a KeytabEntry,
    key: Key,
    part: EncTicketPart,
}

impl KerberosConfig {
    /// The checks in the order of RFC 4120 3.2.3; the first one that fails gives the reason.
    fn first_leg(&self, leg: Leg<'_>) -> Result<Step, Refusal> {
        let Leg { token, level, now, entropy } = leg;
        if token.len() > TOKEN_LEN_MAX {
            return Err(Refusal::new(RefusalReason::Token, format!("a token of {} bytes", token.len())));
        }
        let req = ApReq::decode(gss::unframe(token)?).map_err(Refusal::malformed)?;
        if req.options & AP_USE_SESSION_KEY != 0 {
            return Err(Refusal::new(
                RefusalReason::Flags,
                "the client asks for user-to-user authentication",
            ));
        }
        let keytab = self.keytab.load();
        let ticket = self.open_ticket(&keytab, &req)?;
        let session_key = ticket.session_key(&req)?;
        let authenticator = session_key
            .decrypt(usage::AP_REQ_AUTHENTICATOR, &req.authenticator.cipher)
            .ok_or_else(|| Refusal::new(RefusalReason::Decrypt, "the authenticator does not decrypt"))?;
        let authenticator = Authenticator::decode(&authenticator).map_err(Refusal::malformed)?;
        check_critical(ticket.part.authorization_data.as_ref())?;
        check_critical(authenticator.authorization_data.as_ref())?;
        self.check_client_and_times(&ticket.part, &authenticator, now)?;
        gss::check_flags(authenticator.checksum.as_ref(), level)?;
        let user = self.identify(&ticket)?;
        // Last, and before anything is sent: a client that is refused takes no room from those that are not.
        let client = &ticket.part.client;
        let ctime = messages::with_microseconds(authenticator.ctime, authenticator.cusec);
        // From `ctime + skew` on, the check of the clock refuses it; the rest is for clocks that are set
        // back.
        let expires = ctime + self.skew + self.skew;
        if !self.replay.insert(&req.authenticator.cipher, &user, now, expires) {
            return Err(Refusal::new(RefusalReason::Replay, format!("client={client}")));
        }
        let etype = session_key.etype();
        let mut bytes = Zeroizing::new(vec![0; etype.key_len()]);
        entropy(&mut bytes);
        // INVARIANT: the bytes are as many as the type's key has.
        let subkey = Key::new(etype, &bytes).expect("a key of its length");
        let send_first = sequence_number(entropy);
        let mut part = Zeroizing::new(Vec::new());
        EncApRepPart {
            ctime: authenticator.ctime,
            cusec: authenticator.cusec,
            subkey: Some((&subkey).into()),
            seq_number: Some(send_first),
        }
        .encode(&mut part);
        let token = ap_rep(&session_key, &part, entropy);
        let receive_first = authenticator.seq_number.unwrap_or(0);
        let next = ThirdLeg { session_key, subkey, send_first, receive_first, user };
        Ok(Step::Continue { token, next: Box::new(next) })
    }

    /// Whether tickets may name this service, and whether its keys may open one.
    fn serves(&self, principal: &Principal) -> bool {
        self.services.is_empty() || self.services.iter().any(|service| principal.is_service(service))
    }

    /// Finds the key that opens the ticket. Realm and name of the service are not encrypted, so the key
    /// decides which service the ticket is for.
    fn open_ticket<'a>(&self, keytab: &'a Keytab, req: &ApReq) -> Result<OpenTicket<'a>, Refusal> {
        let (service, sealed) = (&req.ticket.service, &req.ticket.enc_part);
        let own = |entry: &&KeytabEntry| entry.principal.is_same_service(service);
        let is_entry = keytab.entries.iter().any(|entry| own(&entry));
        let asked = || {
            let kvno = sealed.kvno.map_or("none".to_owned(), |kvno| kvno.to_string());
            let held = keytab.kvnos(sealed.etype);
            format!(
                "service={service} etype={}/{} kvno={kvno} held={held:?}",
                sealed.etype, req.authenticator.etype
            )
        };
        let refuse = |reason| Err(Refusal::new(reason, asked()));
        let of_realm = |entry: &KeytabEntry| entry.principal.realm.eq_ignore_ascii_case(&service.realm);
        let has_realm = keytab.entries.iter().any(of_realm);
        if !self.serves(service) || !has_realm || (!is_entry && self.services.is_empty()) {
            return refuse(RefusalReason::Spn);
        }
        let Some(etype) = Etype::from_number(sealed.etype) else { return refuse(RefusalReason::Etype) };
        if keytab.kvnos(sealed.etype).is_empty() {
            return refuse(RefusalReason::Etype);
        }
        let mut candidates = keytab.candidates(etype, sealed.kvno);
        // The keys of the service that is named come first, in their order.
        candidates.sort_by_key(|(entry, _)| !own(entry));
        if candidates.is_empty() {
            return refuse(RefusalReason::Kvno);
        }
        let own_are_tried = !is_entry || candidates.iter().any(|(entry, _)| own(entry));
        let opened = candidates.into_iter().take(KEYS_TRIED_MAX).find_map(|(entry, key)| {
            let part = key.decrypt(usage::TICKET, &sealed.cipher)?;
            Some((entry, key, part))
        });
        let Some((entry, key, part)) = opened else {
            return refuse(if own_are_tried { RefusalReason::Decrypt } else { RefusalReason::Kvno });
        };
        // A ticket for another service of the keytab was given the name of this one.
        let has_key = |other: &&KeytabEntry| own(other) && other.key == entry.key;
        let is_renamed =
            !of_realm(entry) || (is_entry && !keytab.entries.iter().any(|other| has_key(&other)));
        if is_renamed || !self.serves(&entry.principal) {
            return Err(Refusal::new(
                RefusalReason::Spn,
                format!("{} opened-by={}", asked(), entry.principal),
            ));
        }
        let part = EncTicketPart::decode(&part).map_err(Refusal::malformed)?;
        Ok(OpenTicket { entry, key, part })
    }

    fn check_client_and_times(
        &self,
        part: &EncTicketPart,
        authenticator: &Authenticator,
        now: FileTime,
    ) -> Result<(), Refusal> {
        let client = &part.client;
        let by = &authenticator.client;
        if client.realm != by.realm || client.components != by.components {
            return Err(Refusal::new(
                RefusalReason::Token,
                format!("ticket of {client}, authenticator of {by}"),
            ));
        }
        if part.flags & TICKET_ANONYMOUS != 0 || client.is_anonymous() {
            return Err(Refusal::new(RefusalReason::Anonymous, format!("client={client}")));
        }
        let start = part.starttime.unwrap_or(part.authtime);
        let end = part.endtime;
        if part.flags & TICKET_INVALID != 0 || start > now + self.skew || now > end + self.skew {
            let is_invalid = part.flags & TICKET_INVALID != 0;
            return Err(Refusal::new(
                RefusalReason::TicketTime,
                format!("client={client} valid from {start} to {end}, now {now}, invalid flag {is_invalid}"),
            ));
        }
        let ctime = messages::with_microseconds(authenticator.ctime, authenticator.cusec);
        let (sign, skew) = match ctime > now {
            true => ('+', ctime.since(now)),
            false => ('-', now.since(ctime)),
        };
        if skew > self.skew {
            return Err(Refusal::new(
                RefusalReason::Skew,
                format!("client={client} skew={sign}{}s allowed={}s", skew.as_secs(), self.skew.as_secs()),
            ));
        }
        Ok(())
    }

    /// The user of a ticket: by its PAC, or by its principal alone.
    fn identify(&self, ticket: &OpenTicket<'_>) -> Result<UserIdentity, Refusal> {
        let part = &ticket.part;
        let client = &part.client;
        let realm = self.client_realms.iter().find(|realm| realm.name == client.realm);
        let realm = realm.ok_or_else(|| Refusal::new(RefusalReason::Realm, format!("client={client}")))?;
        let pac = match &part.authorization_data {
            Some(data) => ticket_pac::find(data)?,
            None => None,
        };
        let has_pac = pac.is_some();
        let pac =
            pac.map(|bytes| ticket_pac::verify(&bytes, &ticket.key, client, part.authtime)).transpose()?;
        let (account, delegated_by) = pac.map_or((None, Vec::new()), |pac| (pac.account, pac.delegated_by));
        let is_foreign = client.realm != ticket.entry.principal.realm;
        let (name, sid, groups) = match account {
            Some(account) => (account.name, Some(account.sid), account.groups),
            None if realm.kind == RealmKind::ActiveDirectory => {
                let reason = if has_pac { RefusalReason::PacWithoutLogonInfo } else { RefusalReason::Pac };
                let detail = if has_pac { "the PAC has no SIDs" } else { "the ticket has no PAC" };
                return Err(Refusal::new(reason, format!("client={client}: {detail}")));
            }
            None if is_foreign && part.flags & TICKET_TRANSITED_POLICY_CHECKED == 0 => {
                return Err(Refusal::new(RefusalReason::Transited, format!("client={client}")));
            }
            None => (client.name(), None, Vec::new()),
        };
        Ok(UserIdentity {
            name,
            domain: client.realm.clone(),
            sid,
            groups,
            source: IdentitySource::Ticket { keytab_principal: ticket.entry.principal.to_string() },
            password: None,
            delegated_by,
            expires: Some(part.endtime + self.skew),
        })
    }
}

impl OpenTicket<'_> {
    /// The session key, which must be of a type that is accepted, and under which the authenticator must be.
    fn session_key(&self, req: &ApReq) -> Result<Key, Refusal> {
        let etype = self.part.key.etype;
        self.part.key.key().filter(|_| req.authenticator.etype == etype).ok_or_else(|| {
            Refusal::new(
                RefusalReason::Etype,
                format!("client={} etype={}/{etype}", self.part.client, req.ticket.enc_part.etype),
            )
        })
    }
}

impl ThirdLeg {
    fn finish(self, leg: Leg<'_>) -> Result<Step, Refusal> {
        let Self { session_key, subkey, send_first, receive_first, user } = self;
        let part = open_ap_rep(&session_key, leg.token)?;
        if part.seq_number != Some(send_first) || part.subkey.is_some() {
            return Err(Refusal::new(
                RefusalReason::Token,
                format!("client={}@{}: the third token does not answer the second", user.name, user.domain),
            ));
        }
        let mut seed = Zeroizing::new([0; BLOCK_LEN]);
        (leg.entropy)(&mut *seed);
        let user = Some(Arc::new(user));
        let context = KerberosContext::new(Role::Acceptor, &subkey, send_first, receive_first, &seed, user);
        Ok(Step::Complete { token: Vec::new(), context: Box::new(context) })
    }
}

/// Refuses authorization data that is critical: it may restrict the ticket in a way that is not known here.
/// All that is known comes inside of AD-IF-RELEVANT (RFC 4120 5.2.6).
fn check_critical(data: Option<&AuthorizationData>) -> Result<(), Refusal> {
    let critical = data.into_iter().flatten().find(|(number, _)| *number != AD_IF_RELEVANT);
    match critical {
        None => Ok(()),
        Some((AD_WIN2K_PAC, _)) => Err(Refusal::new(RefusalReason::Pac, "a PAC outside of AD-IF-RELEVANT")),
        Some((number, _)) => Err(Refusal::new(
            RefusalReason::Token,
            format!("critical authorization data of the type {number}"),
        )),
    }
}

/// A number from 1 to 0x3fffffff, which no peer takes for a negative one.
pub(crate) fn sequence_number(entropy: Entropy<'_>) -> u32 {
    let mut bytes = [0; 4];
    entropy(&mut bytes);
    (u32::from_ne_bytes(bytes) & 0x3fff_ffff).max(1)
}

/// An AP-REP around an encoded EncAPRepPart.
pub(crate) fn ap_rep(session_key: &Key, part: &[u8], entropy: Entropy<'_>) -> Vec<u8> {
    let enc_part = EncryptedData::seal(session_key, usage::AP_REP, part, entropy);
    let mut token = Vec::with_capacity(enc_part.cipher.len() + 64);
    ApRep { enc_part }.encode(&mut token);
    token
}

/// Opens an AP-REP under the session key, which is also the key of the third token.
pub(crate) fn open_ap_rep(session_key: &Key, token: &[u8]) -> Result<EncApRepPart, Refusal> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(Refusal::new(RefusalReason::Token, format!("a token of {} bytes", token.len())));
    }
    let ApRep { enc_part } = ApRep::decode(token).map_err(Refusal::malformed)?;
    let refused = || Refusal::new(RefusalReason::Decrypt, "an AP-REP does not decrypt");
    if enc_part.etype != session_key.etype().number() {
        return Err(refused());
    }
    let part = session_key.decrypt(usage::AP_REP, &enc_part.cipher).ok_or_else(refused)?;
    EncApRepPart::decode(&part).map_err(Refusal::malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MechanismContext;
    use crate::kerberos::messages::EncryptionKey;
    use crate::kerberos::test::{
        ALICE, AP_REP, AP_REP_3, AP_REQ, AUTHENTICATOR, Attempt, ENC_TICKET_PART, HOUR, NOW, accept,
        client_info, config, counting, first_leg, key, logon_info, logon_info_buffer, service, signed_pac,
        unhex, wrapped,
    };
    use crate::kerberos::{Credential, KerberosInitiator, Ticket};
    use crate::{Initiator, InitiatorStep};
    use dcerpc::security::{AuthLevel, ProtectedFragment, Protection};
    use dtyp::hex;
    use pac::{Buffer, BufferType, DelegationInfo};

    const AES: Etype = Etype::Aes256Sha1;

    fn refusal(config: &Arc<KerberosConfig>, attempt: &Attempt) -> Refusal {
        match first_leg(config, &attempt.token()) {
            Err(refusal) => refusal,
            Ok(_) => panic!("accepted"),
        }
    }

    fn reason(config: KerberosConfig, attempt: &Attempt) -> Result<(), RefusalReason> {
        first_leg(&Arc::new(config), &attempt.token()).map(|_| ()).map_err(|refusal| refusal.reason)
    }

    fn credential(attempt: &Attempt) -> Credential {
        let token = attempt.token();
        let req = ApReq::decode(&token).expect("ours");
        let mut ticket = Vec::new();
        req.ticket.encode(&mut ticket);
        Credential {
            client: attempt.ticket.client.clone(),
            service: attempt.service.clone(),
            key: attempt.session_key.clone(),
            endtime: attempt.ticket.endtime,
            ticket,
        }
    }

    type Contexts = (Box<dyn MechanismContext>, Box<dyn MechanismContext>);

    /// All three legs with our own initiator, whose random bytes start from `seed`.
    fn exchange(config: &Arc<KerberosConfig>, attempt: &Attempt, seed: usize) -> Result<Contexts, Refusal> {
        let mut entropy = counting();
        entropy(&mut vec![0; seed]);
        let initiator = Box::new(KerberosInitiator::new(credential(attempt)));
        let InitiatorStep::Continue { token, next } = initiator.step(None, NOW, &mut entropy)? else {
            panic!("one leg")
        };
        let Step::Continue { token, next: acceptor } = first_leg(config, &token)? else { panic!("one leg") };
        let InitiatorStep::Complete { token, context: client } =
            next.step(Some(&token), NOW, &mut entropy)?
        else {
            panic!("more than two tokens")
        };
        match accept(acceptor, &token, AuthLevel::PRIVACY)? {
            Step::Complete { token, context } if token.is_empty() => Ok((client, context)),
            _ => panic!("a fourth token"),
        }
    }

    #[test]
    fn the_parts_of_an_ap_req_are_those_of_the_vectors() {
        let (service_key, session_key) = (key(AES, 0x11), key(AES, 0x33));
        let req = ApReq::decode(&unhex(AP_REQ)).expect("the vector");
        let ticket = service_key.decrypt(usage::TICKET, &req.ticket.enc_part.cipher).expect("the key");
        assert_eq!(*ticket, unhex(ENC_TICKET_PART));
        let authenticator = session_key.decrypt(usage::AP_REQ_AUTHENTICATOR, &req.authenticator.cipher);
        assert_eq!(*authenticator.expect("the key"), unhex(AUTHENTICATOR));
        let part = open_ap_rep(&session_key, &unhex(AP_REP)).expect("the vector");
        assert_eq!(part.seq_number, Some(0x0102_0304));
        let subkey: Vec<u8> = (0..32).collect();
        assert_eq!(part.subkey.and_then(|subkey| subkey.key()), Key::new(AES, &subkey));
        assert_eq!(part.cusec, 0x06b022);
        // The third token, made again.
        let part = open_ap_rep(&session_key, &unhex(AP_REP_3)).expect("the vector");
        assert_eq!(part.subkey, None);
        let mut plain = Vec::new();
        part.encode(&mut plain);
        let confounder = unhex("00112233445566778899aabbccddeeff");
        let token = ap_rep(&session_key, &plain, &mut |bytes: &mut [u8]| bytes.copy_from_slice(&confounder));
        assert_eq!(hex(&token), hex(&unhex(AP_REP_3)));
    }

    #[test]
    fn a_ticket_with_a_pac_gives_the_sids() {
        for etype in Etype::ALL {
            let config = Arc::new(config(etype));
            let (client, mut server) = exchange(&config, &Attempt::new(etype), 0).expect("accepted");
            let user = server.user().expect("a user");
            assert_eq!((&user.name[..], &user.domain[..]), ("alice", "RPC.TEST"));
            assert_eq!(user.sid.map(|sid| sid.to_string()).as_deref(), Some(ALICE));
            let groups: Vec<String> = user.groups.iter().map(ToString::to_string).collect();
            let domain = "S-1-5-21-3623811015-3361044348-30300820";
            assert_eq!(groups, [format!("{domain}-513"), format!("{domain}-1107"), "S-1-18-1".to_owned()]);
            let keytab_principal = "sso/srv@RPC.TEST".to_owned();
            assert_eq!(user.source, IdentitySource::Ticket { keytab_principal });
            assert_eq!(user.expires, Some(NOW + HOUR + SKEW_DEFAULT));
            assert_eq!(user.delegated_by, [""; 0]);
            assert_eq!(client.user(), None);
            // The list of mechanisms, and a fragment of the client's.
            let mut client = client;
            let mic = client.sign_mech_list(b"list");
            assert_eq!(server.verify_mech_list(b"list", &mic), Ok(()));
            let protection = Protection { level: AuthLevel::INTEGRITY, header_signing: true };
            let mut body = *b"body";
            let token = client.sign_mech_list(b"body");
            let fragment = ProtectedFragment { header: &[], body: &mut body, trailer: &[], token: &token };
            assert_eq!(server.unprotect(protection, fragment), Ok(()), "a MIC over the body");
        }
    }

    /// What is changed, the reason of the refusal, and the change.
    type Refused = (&'static str, RefusalReason, Box<dyn Fn(&mut Attempt)>);

    const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

    const fn minutes(n: u64) -> std::time::Duration {
        std::time::Duration::from_secs(60 * n)
    }

    /// Changes of the service, the keys and the client.
    fn of_other_services_keys_and_clients() -> Vec<Refused> {
        vec![
            ("user-to-user", RefusalReason::Flags, Box::new(|a| a.options |= AP_USE_SESSION_KEY)),
            ("another service", RefusalReason::Spn, Box::new(|a| a.service = service("cifs/srv"))),
            ("another host", RefusalReason::Spn, Box::new(|a| a.service = service("sso/srv2"))),
            ("another realm", RefusalReason::Spn, Box::new(|a| a.service.realm = "OTHER.TEST".to_owned())),
            ("an RC4 ticket", RefusalReason::Etype, Box::new(|a| a.etype = 23)),
            ("a ticket of a type without a key", RefusalReason::Etype, Box::new(|a| a.etype = 17)),
            ("a type of the future", RefusalReason::Etype, Box::new(|a| a.etype = 99)),
            (
                "an RC4 session key",
                RefusalReason::Etype,
                Box::new(|a| {
                    a.ticket.key = EncryptionKey { etype: 23, bytes: Zeroizing::new(vec![0x33; 16]) };
                    a.authenticator_etype = 23;
                }),
            ),
            (
                "an authenticator of another type",
                RefusalReason::Etype,
                Box::new(|a| a.authenticator_etype = 17),
            ),
            ("an unknown version", RefusalReason::Kvno, Box::new(|a| a.kvno = Some(3))),
            ("another key", RefusalReason::Decrypt, Box::new(|a| a.service_key = key(AES, 0x12))),
            ("another session key", RefusalReason::Decrypt, Box::new(|a| a.session_key = key(AES, 0x34))),
            ("another client", RefusalReason::Token, Box::new(|a| a.authenticator.client = service("bob"))),
            (
                "the anonymous flag",
                RefusalReason::Anonymous,
                Box::new(|a| a.ticket.flags |= TICKET_ANONYMOUS),
            ),
            (
                "the anonymous principal",
                RefusalReason::Anonymous,
                Box::new(|a| {
                    a.ticket.client = service("WELLKNOWN/ANONYMOUS");
                    a.authenticator.client = service("WELLKNOWN/ANONYMOUS");
                }),
            ),
            (
                "another client's realm",
                RefusalReason::Token,
                Box::new(|a| {
                    a.authenticator.client.realm = "OTHER.TEST".to_owned();
                }),
            ),
        ]
    }

    /// Changes of times, flags, checksums and authorization data.
    fn of_other_times_and_contents() -> Vec<Refused> {
        vec![
            (
                "not valid yet",
                RefusalReason::TicketTime,
                Box::new(|a| {
                    a.ticket.starttime = Some(NOW + minutes(5) + SECOND);
                }),
            ),
            (
                "expired",
                RefusalReason::TicketTime,
                Box::new(|a| a.ticket.endtime = NOW - minutes(5) - SECOND),
            ),
            ("the invalid flag", RefusalReason::TicketTime, Box::new(|a| a.ticket.flags |= TICKET_INVALID)),
            (
                "a clock ahead",
                RefusalReason::Skew,
                Box::new(|a| a.authenticator.ctime = NOW + minutes(5) + SECOND),
            ),
            (
                "a clock behind",
                RefusalReason::Skew,
                Box::new(|a| {
                    a.authenticator.ctime = NOW - minutes(5) - SECOND;
                }),
            ),
            ("no checksum", RefusalReason::Flags, Box::new(|a| a.authenticator.checksum = None)),
            (
                "no DCE style",
                RefusalReason::Flags,
                Box::new(|a| {
                    a.authenticator.checksum = Some((gss::CHECKSUM_TYPE, gss::checksum(0x3e)));
                }),
            ),
            (
                "no confidentiality",
                RefusalReason::Level,
                Box::new(|a| {
                    a.authenticator.checksum = Some((gss::CHECKSUM_TYPE, gss::checksum(0x102e)));
                }),
            ),
            (
                "a realm that is not listed",
                RefusalReason::Realm,
                Box::new(|a| {
                    a.ticket.client.realm = "OTHER.TEST".to_owned();
                    a.authenticator.client.realm = "OTHER.TEST".to_owned();
                }),
            ),
            (
                "critical data of an unknown type in the ticket",
                RefusalReason::Token,
                Box::new(|a| a.ticket.authorization_data.as_mut().expect("a PAC").push((96, Vec::new()))),
            ),
            (
                "critical data of an unknown type in the authenticator",
                RefusalReason::Token,
                Box::new(|a| a.authenticator.authorization_data = Some(vec![(143, vec![0, 0x40, 0, 0])])),
            ),
            ("no PAC", RefusalReason::Pac, Box::new(|a| a.ticket.authorization_data = None)),
        ]
    }

    fn changed(change: &dyn Fn(&mut Attempt)) -> Result<(), RefusalReason> {
        let mut attempt = Attempt::new(AES);
        change(&mut attempt);
        reason(config(AES), &attempt)
    }

    #[test]
    fn each_refusal_has_its_reason() {
        for (what, expect, change) in
            of_other_services_keys_and_clients().into_iter().chain(of_other_times_and_contents())
        {
            assert_eq!(changed(&*change), Err(expect), "{what}");
        }
        let config = Arc::new(config(AES));
        let long = vec![0x6e; TOKEN_LEN_MAX + 1];
        for token in [&[][..], &[0x60], &[0x6e, 0], &long] {
            let refused = first_leg(&config, token).map(|_| ()).map_err(|refusal| refusal.reason);
            assert_eq!(refused, Err(RefusalReason::Token));
        }
    }

    #[test]
    fn what_may_differ_is_accepted() {
        assert_eq!(changed(&|_| ()), Ok(()));
        assert_eq!(changed(&|a| a.kvno = None), Ok(()));
        assert_eq!(changed(&|a| a.ticket.starttime = None), Ok(()));
        let in_small = |a: &mut Attempt| a.service.realm = "rpc.test".to_owned();
        assert_eq!(changed(&in_small), Ok(()), "case counts for no service");
        assert_eq!(changed(&|a| a.authenticator.seq_number = None), Ok(()), "as Impacket");
        for edge in [NOW + minutes(5), NOW - minutes(5)] {
            assert_eq!(changed(&|a| a.authenticator.ctime = edge), Ok(()), "the last second of the skew");
        }
    }

    #[test]
    fn a_refusal_has_the_facts_that_an_operator_needs() {
        let detail = |change: &dyn Fn(&mut Attempt)| {
            let mut attempt = Attempt::new(AES);
            change(&mut attempt);
            refusal(&Arc::new(config(AES)), &attempt).detail
        };
        let kvno = detail(&|a| a.kvno = Some(7));
        assert_eq!(kvno, "service=sso/srv@RPC.TEST etype=18/18 kvno=7 held=[2]");
        let session = detail(&|a| {
            a.ticket.key = EncryptionKey { etype: 23, bytes: Zeroizing::new(vec![0x33; 16]) };
            a.authenticator_etype = 23;
        });
        assert!(session.contains("etype=18/23"), "{session}");
        let rc4 = detail(&|a| {
            a.etype = 23;
            a.authenticator_etype = 23;
        });
        assert!(rc4.contains("etype=23/23"), "{rc4}");
        let ahead = NOW + std::time::Duration::from_secs(301);
        let skew = detail(&|a| a.authenticator.ctime = ahead);
        assert!(skew.contains("skew=+301s allowed=300s"), "{skew}");
    }

    #[test]
    fn the_key_decides_which_service_a_ticket_is_for() {
        let with_host = |services: &[&str]| {
            let mut keytab = Keytab::clone(&config(AES).keytab.load());
            keytab.push(service("host/srv"), FileTime::UNSET, 2, &key(AES, 0x22));
            let services = services.iter().map(|&service| service.to_owned()).collect();
            KerberosConfig { keytab: Arc::new(SharedKeytab::new(keytab)), services, ..config(AES) }
        };
        // A ticket for `host/srv`, as it is and with the other name.
        let host = |name: &str| {
            let mut attempt = Attempt::new(AES);
            attempt.service_key = key(AES, 0x22);
            attempt.service = service(name);
            let buffers =
                vec![logon_info_buffer(&logon_info()), client_info("alice", attempt.ticket.authtime)];
            let pac = signed_pac(&attempt.service_key, buffers);
            attempt.with_pac(&pac)
        };
        for services in [&["sso/srv"][..], &["SSO/srv@RPC.TEST"]] {
            assert_eq!(reason(with_host(services), &host("host/srv")), Err(RefusalReason::Spn));
            assert_eq!(reason(with_host(services), &host("sso/srv")), Err(RefusalReason::Spn), "renamed");
            assert_eq!(reason(with_host(services), &Attempt::new(AES)), Ok(()));
        }
        for services in [&[][..], &["host/srv", "sso/srv"]] {
            assert_eq!(reason(with_host(services), &host("host/srv")), Ok(()));
            assert_eq!(reason(with_host(services), &host("sso/srv")), Err(RefusalReason::Spn), "renamed");
        }
        let renamed = refusal(&Arc::new(with_host(&["sso/srv"])), &host("sso/srv"));
        assert!(renamed.detail.ends_with("opened-by=host/srv@RPC.TEST"), "{}", renamed.detail);
        // The other name of an account opens under the account's key, and under no other.
        let alias = with_host(&["sso/srv", "alias/srv"]);
        let mut attempt = Attempt::new(AES);
        attempt.service = service("alias/srv");
        assert_eq!(reason(alias, &attempt), Ok(()));
        let alias = with_host(&["sso/srv", "alias/srv"]);
        assert_eq!(reason(alias, &host("alias/srv")), Err(RefusalReason::Spn));
    }

    #[test]
    fn keys_may_be_rotated_while_tickets_of_both_versions_come() {
        let config = Arc::new(config(AES));
        let mut rotated = Keytab::clone(&config.keytab.load());
        rotated.push(service("sso/srv"), FileTime::from_unix(1), 3, &key(AES, 0x99));
        let fresh = |seed: u8| {
            let mut attempt = Attempt::new(AES);
            attempt.service_key = key(AES, 0x99);
            attempt.kvno = Some(3);
            attempt.confounder = [seed; 16];
            let buffers =
                vec![logon_info_buffer(&logon_info()), client_info("alice", attempt.ticket.authtime)];
            let pac = signed_pac(&attempt.service_key, buffers);
            attempt.with_pac(&pac)
        };
        let Ok(Step::Continue { .. }) = first_leg(&config, &Attempt::new(AES).token()) else {
            panic!("refused")
        };
        assert_eq!(refusal(&config, &fresh(1)).reason, RefusalReason::Kvno);
        config.keytab.store(rotated);
        let mut old = Attempt::new(AES);
        old.confounder = [2; 16];
        for attempt in [&old, &fresh(3)] {
            assert!(first_leg(&config, &attempt.token()).is_ok());
        }
        let mut unversioned = fresh(4);
        unversioned.kvno = None;
        assert!(first_leg(&config, &unversioned.token()).is_ok(), "each key is tried");
    }

    #[test]
    fn an_authenticator_is_accepted_once_whatever_the_service_is_called() {
        let mut two = config(AES);
        two.services.push("alias/srv".to_owned());
        let two = Arc::new(two);
        let attempt = Attempt::new(AES);
        assert!(first_leg(&two, &attempt.token()).is_ok());
        assert_eq!(refusal(&two, &attempt).reason, RefusalReason::Replay);
        let mut renamed = attempt;
        renamed.service = service("alias/srv");
        // Another listener shares keys and cache.
        let other = Arc::new(KerberosConfig {
            keytab: Arc::clone(&two.keytab),
            services: two.services.clone(),
            client_realms: two.client_realms.clone(),
            skew: two.skew,
            replay: Arc::clone(&two.replay),
        });
        assert_eq!(refusal(&other, &renamed).reason, RefusalReason::Replay);
    }

    #[test]
    fn a_client_that_is_refused_takes_no_room_in_the_replay_cache() {
        let alice = Attempt::new(AES);
        let mut other_realm = Attempt::new(AES);
        other_realm.ticket.client.realm = "EVIL.TEST".to_owned();
        other_realm.authenticator.client.realm = "EVIL.TEST".to_owned();
        let mut without_pac = Attempt::new(AES);
        without_pac.ticket.authorization_data = None;
        let mut without_privacy = Attempt::new(AES);
        without_privacy.authenticator.checksum = Some((gss::CHECKSUM_TYPE, gss::checksum(0x102e)));
        let config = Arc::new(config(AES));
        for (attempt, expect) in [
            (other_realm, RefusalReason::Realm),
            (without_pac, RefusalReason::Pac),
            (without_privacy, RefusalReason::Level),
        ] {
            for _ in 0..2 {
                assert_eq!(refusal(&config, &attempt).reason, expect);
            }
            assert!(config.replay.is_empty(), "{expect:?}");
        }
        assert!(first_leg(&config, &alice.token()).is_ok());
        assert_eq!(refusal(&config, &alice).reason, RefusalReason::Replay);
        assert_eq!(config.replay.len(), 1);
    }

    #[test]
    fn one_account_is_one_client_of_the_replay_cache_however_its_name_is_spelled() {
        let config = Arc::new(KerberosConfig { replay: Arc::new(ReplayCache::new(3)), ..config(AES) });
        let under = |name: String, seed: u8| {
            let mut attempt = Attempt::new(AES);
            let authtime = attempt.ticket.authtime;
            attempt.confounder = [seed; 16];
            attempt.ticket.client.components = vec![name.clone()];
            attempt.authenticator.client.components = vec![name.clone()];
            let buffers = vec![logon_info_buffer(&logon_info()), client_info(&name, authtime)];
            attempt.with_pac(&signed_pac(&key(AES, 0x11), buffers))
        };
        let mut bob = Attempt::new(AES);
        bob.confounder = [99; 16];
        let mut info = logon_info();
        info.user_id += 1;
        let authtime = bob.ticket.authtime;
        let bob = bob.with_pac(&signed_pac(
            &key(AES, 0x11),
            vec![logon_info_buffer(&info), client_info("alice", authtime)],
        ));
        assert!(first_leg(&config, &bob.token()).is_ok());
        for n in 0..20 {
            // A KDC takes a name in any case, and puts it into the ticket as it was asked for.
            let spell = |(bit, c): (usize, char)| if n >> bit & 1 == 1 { c.to_ascii_uppercase() } else { c };
            let name = "alice".chars().enumerate().map(spell).collect();
            assert!(first_leg(&config, &under(name, n).token()).is_ok(), "{n}");
        }
        assert_eq!(config.replay.len(), 3);
        assert_eq!(refusal(&config, &bob).reason, RefusalReason::Replay, "alice evicts her own");
    }

    #[test]
    fn many_binds_of_one_user_in_one_second_pass() {
        let config = Arc::new(config(AES));
        let attempt = Attempt::new(AES);
        std::thread::scope(|scope| {
            for n in 0..64 {
                let (config, attempt) = (&config, &attempt);
                scope.spawn(move || exchange(config, attempt, n).expect("accepted"));
            }
        });
        assert_eq!(config.replay.len(), 64);
    }

    #[test]
    fn the_third_token_must_answer_the_second() {
        let third = |part: &dyn Fn(u32) -> EncApRepPart| {
            let attempt = Attempt::new(AES);
            let Ok(Step::Continue { token, next }) = first_leg(&Arc::new(config(AES)), &attempt.token())
            else {
                panic!("refused")
            };
            let sent = open_ap_rep(&attempt.session_key, &token).expect("ours");
            assert_eq!((sent.ctime, sent.cusec), (NOW, 0));
            let number = sent.seq_number.expect("a number");
            assert!((1..=0x3fff_ffff).contains(&number));
            let mut plain = Vec::new();
            part(number).encode(&mut plain);
            let token = ap_rep(&attempt.session_key, &plain, &mut |bytes: &mut [u8]| bytes.fill(1));
            accept(next, &token, AuthLevel::PRIVACY).map(|_| ()).map_err(|refusal| refusal.reason)
        };
        let part = |seq_number| EncApRepPart { ctime: NOW, cusec: 1, subkey: None, seq_number };
        assert_eq!(third(&|number| part(Some(number))), Ok(()));
        assert_eq!(third(&|number| part(Some(number + 1))), Err(RefusalReason::Token));
        assert_eq!(third(&|_| part(None)), Err(RefusalReason::Token));
        let subkey = Some(EncryptionKey::from(&key(AES, 5)));
        let with_subkey = third(&|number| EncApRepPart { subkey: subkey.clone(), ..part(Some(number)) });
        assert_eq!(with_subkey, Err(RefusalReason::Token));
        // The acceptor's own token comes back.
        let attempt = Attempt::new(AES);
        let Ok(Step::Continue { token, next }) = first_leg(&Arc::new(config(AES)), &attempt.token()) else {
            panic!("refused")
        };
        let reflected =
            accept(next, &token, AuthLevel::PRIVACY).map(|_| ()).map_err(|refusal| refusal.reason);
        assert_eq!(reflected, Err(RefusalReason::Token));
    }

    #[test]
    fn refuses_each_single_bit_change_of_an_ap_req() {
        let token = Attempt::new(AES).token();
        for bit in 0..token.len() * 8 {
            let mut changed = token.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok(step) = first_leg(&Arc::new(config(AES)), &changed) else { continue };
            // In the clear are mutual-required and its unused neighbours, the name type, and letters of upper
            // or lower case; a version in the ticket that is 0 is one that is missing.
            let (req, sent) =
                (ApReq::decode(&changed).expect("accepted"), ApReq::decode(&token).expect("ours"));
            assert_eq!(req.authenticator.cipher, sent.authenticator.cipher, "bit {bit}");
            assert_eq!(req.ticket.enc_part.cipher, sent.ticket.enc_part.cipher, "bit {bit}");
            assert!(req.ticket.service.is_same_service(&sent.ticket.service), "bit {bit}");
            drop(step);
        }
    }

    #[test]
    fn a_pac_must_be_there_once_and_be_signed_by_the_key_of_the_ticket() {
        let service_key = key(AES, 0x11);
        let authtime = Attempt::new(AES).ticket.authtime;
        let buffers = || vec![logon_info_buffer(&logon_info()), client_info("alice", authtime)];
        let pac = signed_pac(&service_key, buffers());
        let refused = |attempt: Attempt| reason(config(AES), &attempt);
        let bad = Err(RefusalReason::Pac);
        assert_eq!(refused(Attempt::new(AES).with_pac(&pac)), Ok(()));
        for bit in (0..pac.len() * 8).step_by(7) {
            let mut changed = pac.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let taken = refused(Attempt::new(AES).with_pac(&changed));
            // The octets of the KDC's signature are not covered by the server's.
            let of_kdc =
                pac.windows(12).position(|window| window == [0xa5; 12]).expect("the KDC's signature");
            assert_eq!(taken.is_ok(), (of_kdc..of_kdc + 12).contains(&(bit / 8)), "bit {bit}");
        }
        assert_eq!(refused(Attempt::new(AES).with_pac(&signed_pac(&key(AES, 0x12), buffers()))), bad);
        assert_eq!(
            refused(Attempt::new(AES).with_pac(&signed_pac(&key(Etype::Aes128Sha1, 0x11), buffers()))),
            bad
        );
        for (name, time) in [("alicf", authtime), ("Alice", authtime), ("alice", authtime + HOUR)] {
            let buffers = vec![logon_info_buffer(&logon_info()), client_info(name, time)];
            assert_eq!(
                refused(Attempt::new(AES).with_pac(&signed_pac(&service_key, buffers))),
                bad,
                "{name} {time}"
            );
        }
        let without = vec![logon_info_buffer(&logon_info())];
        assert_eq!(
            refused(Attempt::new(AES).with_pac(&signed_pac(&service_key, without))),
            bad,
            "no CLIENT_INFO"
        );
        let with_data = |data| {
            let mut attempt = Attempt::new(AES);
            attempt.ticket.authorization_data = Some(data);
            attempt
        };
        assert_eq!(refused(with_data(wrapped(&[&pac, &pac]))), bad, "twice in one element");
        assert_eq!(refused(with_data([wrapped(&[&pac]), wrapped(&[&pac])].concat())), bad, "twice");
        assert_eq!(refused(with_data(vec![(AD_WIN2K_PAC, pac.clone())])), bad, "outside of AD-IF-RELEVANT");
        let mut of_client = Attempt::new(AES);
        of_client.authenticator.authorization_data = of_client.ticket.authorization_data.take();
        assert_eq!(refused(of_client), bad, "in the authenticator");
        // HMAC-MD5 under an AES key.
        let mut weaker = pac.clone();
        let server = weaker.windows(4).rposition_of(&16i32.to_le_bytes(), 2);
        weaker[server..server + 4].copy_from_slice(&(-138i32).to_le_bytes());
        assert_eq!(refused(Attempt::new(AES).with_pac(&weaker)), bad);
    }

    trait Positions {
        /// Where the element comes up for the `n`-th time from the end.
        fn rposition_of(self, element: &[u8], n: usize) -> usize;
    }

    impl Positions for std::slice::Windows<'_, u8> {
        fn rposition_of(self, element: &[u8], n: usize) -> usize {
            let found: Vec<usize> =
                self.enumerate().filter(|(_, w)| *w == element).map(|(at, _)| at).collect();
            found[found.len() - n]
        }
    }

    #[test]
    fn a_pac_without_sids_is_for_realms_that_have_none() {
        let service_key = key(AES, 0x11);
        let authtime = Attempt::new(AES).ticket.authtime;
        let pac = signed_pac(&service_key, vec![client_info("alice", authtime)]);
        let of_kind = |kind| {
            let client_realms = vec![
                ClientRealm { name: "RPC.TEST".to_owned(), kind },
                ClientRealm { name: "FAR.TEST".to_owned(), kind },
            ];
            KerberosConfig { client_realms, ..config(AES) }
        };
        let attempt = Attempt::new(AES).with_pac(&pac);
        let refused = reason(of_kind(RealmKind::ActiveDirectory), &attempt);
        assert_eq!(refused, Err(RefusalReason::PacWithoutLogonInfo));
        let (_, server) = exchange(&Arc::new(of_kind(RealmKind::Mit)), &attempt, 0).expect("accepted");
        let user = server.user().expect("a user");
        assert_eq!((&user.name[..], &user.domain[..], user.sid), ("alice", "RPC.TEST", None));
        let account = server.into_security_context().account();
        assert_eq!(account, Some(user.account()), "its connections count as those of a proved account");
        let mut none = Attempt::new(AES);
        none.ticket.authorization_data = None;
        assert_eq!(reason(of_kind(RealmKind::Mit), &none), Ok(()), "no PAC at all");
        // A PAC that does not verify is no PAC that is missing.
        let forged =
            Attempt::new(AES).with_pac(&signed_pac(&key(AES, 0x12), vec![client_info("alice", authtime)]));
        assert_eq!(reason(of_kind(RealmKind::Mit), &forged), Err(RefusalReason::Pac));

        let foreign = |checked: bool, pac: Option<&[u8]>| {
            let mut attempt = Attempt::new(AES);
            attempt.ticket.client.realm = "FAR.TEST".to_owned();
            attempt.authenticator.client.realm = "FAR.TEST".to_owned();
            if !checked {
                attempt.ticket.flags &= !TICKET_TRANSITED_POLICY_CHECKED;
            }
            attempt.ticket.authorization_data = pac.map(|pac| wrapped(&[pac]));
            attempt
        };
        assert_eq!(reason(of_kind(RealmKind::Mit), &foreign(true, Some(&pac))), Ok(()));
        for pac in [None, Some(&pac[..])] {
            assert_eq!(reason(of_kind(RealmKind::Mit), &foreign(false, pac)), Err(RefusalReason::Transited));
        }
        let buffers = vec![logon_info_buffer(&logon_info()), client_info("alice", authtime)];
        let with_sids = signed_pac(&service_key, buffers);
        let child = foreign(false, Some(&with_sids));
        assert_eq!(reason(of_kind(RealmKind::ActiveDirectory), &child), Ok(()), "a child domain");
    }

    #[test]
    fn delegation_is_reported() {
        let service_key = key(AES, 0x11);
        let authtime = Attempt::new(AES).ticket.authtime;
        let delegated = |services: &[&str]| {
            let transited = services.iter().map(|&service| service.into()).collect();
            let mut data = Vec::new();
            DelegationInfo { target: "sso/srv".into(), transited }.encode(&mut data);
            let mut info = logon_info();
            info.extra_sids[0].sid = dtyp::Sid::SERVICE_ASSERTED_IDENTITY;
            let buffers = vec![
                logon_info_buffer(&info),
                client_info("alice", authtime),
                Buffer { buffer_type: BufferType::DELEGATION_INFO, data },
            ];
            let attempt = Attempt::new(AES).with_pac(&signed_pac(&service_key, buffers));
            let (_, server) = exchange(&Arc::new(config(AES)), &attempt, 0).expect("accepted");
            server.user().expect("a user")
        };
        let user = delegated(&["web/front@RPC.TEST"]);
        assert_eq!(user.delegated_by, ["web/front@RPC.TEST"]);
        assert!(user.is_delegated());
        assert!(user.groups.contains(&dtyp::Sid::SERVICE_ASSERTED_IDENTITY));
        assert!(delegated(&[]).is_delegated());
    }

    #[test]
    fn groups_for_deny_only_grant_nothing() {
        let service_key = key(AES, 0x11);
        let mut info = logon_info();
        info.group_ids[1].attributes = super::super::ticket_pac::USE_FOR_DENY_ONLY;
        let buffers = vec![logon_info_buffer(&info), client_info("alice", Attempt::new(AES).ticket.authtime)];
        let attempt = Attempt::new(AES).with_pac(&signed_pac(&service_key, buffers));
        let (_, server) = exchange(&Arc::new(config(AES)), &attempt, 0).expect("accepted");
        let user = server.user().expect("a user");
        assert!(user.groups.iter().all(|group| !group.to_string().ends_with("-1107")), "{:?}", user.groups);
    }

    #[test]
    fn a_delegated_ticket_granting_ticket_and_a_large_pac_do_no_harm() {
        let service_key = key(AES, 0x11);
        let mut info = logon_info();
        let domain = info.logon_domain_id;
        info.extra_sids = (0..1500)
            .map(|rid| pac::SidAndAttributes {
                sid: domain.with_rid(10_000 + rid).expect("room"),
                attributes: 7,
            })
            .collect();
        let buffers = vec![logon_info_buffer(&info), client_info("alice", Attempt::new(AES).ticket.authtime)];
        let mut attempt = Attempt::new(AES).with_pac(&signed_pac(&service_key, buffers));
        let mut checksum = gss::checksum(gss::ASKED | 1);
        checksum.extend_from_slice(&[1, 0, 3, 0, 1, 2, 3]);
        attempt.authenticator.checksum = Some((gss::CHECKSUM_TYPE, checksum));
        let token = attempt.token();
        assert!((50_000..TOKEN_LEN_MAX).contains(&token.len()), "{}", token.len());
        assert!(first_leg(&Arc::new(config(AES)), &token).is_ok());
        // Our initiator sends what fits into a bind, and no more.
        let start = |attempt: &Attempt, len: usize| {
            let mut credential = credential(attempt);
            let mut ticket = Ticket::decode(&credential.ticket).expect("ours");
            ticket.enc_part.cipher.resize(len, 0);
            credential.ticket.clear();
            ticket.encode(&mut credential.ticket);
            Box::new(KerberosInitiator::new(credential)).step(None, NOW, &mut counting()).is_ok()
        };
        assert!(start(&attempt, 60 * 1024));
        assert!(!start(&attempt, 64_000));
    }
}
