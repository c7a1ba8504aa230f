//! Credential cache files of a client.

use dtyp::{Encode, FileTime};
use rpc_auth::kerberos::{CredentialCache, KerberosInitiator, Principal, TgsRequest};
use rpc_auth::{Initiator, InitiatorStep};

/// Reads `bytes` as a cache: what is read is written and read the same again, and its tickets can be used.
pub fn check(bytes: &[u8]) {
    let Ok(cache) = CredentialCache::decode(bytes) else { return };
    assert_eq!(CredentialCache::decode(&cache.to_bytes()).as_ref(), Ok(&cache));
    let start = FileTime::from_unix(0);
    for credential in &cache.credentials {
        let found = cache.find(&credential.service, start);
        assert!(
            found.is_some_and(|found| found.endtime >= credential.endtime) || credential.endtime <= start
        );
        let initiator = Box::new(KerberosInitiator::new(credential.clone()));
        if let Ok(step) = initiator.step(None, start, &mut |bytes: &mut [u8]| bytes.fill(1)) {
            assert!(
                matches!(step, InitiatorStep::Continue { token, .. } if token.len() > credential.ticket.len())
            );
        }
        let service = Principal::ticket_granting(&credential.client.realm);
        if let Ok((request, message)) =
            TgsRequest::new(credential, service, start, &mut |bytes: &mut [u8]| bytes.fill(1))
        {
            assert!(request.reply(&message).is_err(), "a request is no reply");
        }
    }
}
