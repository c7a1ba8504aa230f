//! Credential cache files of MIT Kerberos, version 4: a client's tickets.

use super::etype::{Etype, Key};
use super::initiator::Credential;
use super::messages::{COMPONENTS_MAX, Principal};
use crate::der::text_without_nul;
use dtyp::{ByteOrder, DecodeError, DecodeErrorKind, Encode, FileTime, Reader};
use zeroize::Zeroizing;

/// The first two bytes of a file.
const VERSION: [u8; 2] = [5, 4];
/// Credentials of one file; a user has a handful.
const CREDENTIALS_MAX: usize = 1024;
/// Addresses or authorization data of one credential.
const ELEMENTS_MAX: u32 = 64;
/// The realm under which MIT Kerberos keeps settings in the form of credentials.
const SETTINGS_REALM: &str = "X-CACHECONF:";

/// A client's tickets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialCache {
    /// The client that the cache was made for.
    pub client: Principal,
    /// The tickets whose session keys are of types that are used here, in the order of the file.
    pub credentials: Vec<Credential>,
}

impl CredentialCache {
    /// Reads a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut file = Reader::new(bytes).with_order(ByteOrder::Big);
        if file.array("ccache version")? != VERSION {
            return Err(DecodeError { what: "ccache version", offset: 0, kind: DecodeErrorKind::BadValue });
        }
        let header_len = file.u16("ccache header")?;
        file.take("ccache header", header_len.into())?;
        let client = read_principal(&mut file)?;
        let mut credentials = Vec::new();
        let mut count = 0;
        while file.remaining() > 0 {
            count += 1;
            if count > CREDENTIALS_MAX {
                return Err(file.error("ccache", DecodeErrorKind::TooMany(CREDENTIALS_MAX)));
            }
            credentials.extend(read_credential(&mut file)?);
        }
        Ok(Self { client, credentials })
    }

    /// The ticket for a service that lives longest, if it is valid at `now`.
    pub fn find(&self, service: &Principal, now: FileTime) -> Option<&Credential> {
        let valid = self.credentials.iter().filter(|c| c.service.is_same_service(service) && c.endtime > now);
        valid.max_by_key(|credential| credential.endtime)
    }

    /// The ticket-granting ticket of the client's own realm, if it is valid at `now`.
    pub fn ticket_granting(&self, now: FileTime) -> Option<&Credential> {
        self.find(&Principal::ticket_granting(&self.client.realm), now)
    }
}

fn data<'a>(file: &mut Reader<'a>, what: &'static str) -> Result<&'a [u8], DecodeError> {
    let len = file.u32(what)?;
    file.take(what, len as usize)
}

fn text(file: &mut Reader<'_>, what: &'static str) -> Result<String, DecodeError> {
    let bad = file.error(what, DecodeErrorKind::BadText);
    text_without_nul(data(file, what)?).ok_or(bad)
}

fn read_principal(file: &mut Reader<'_>) -> Result<Principal, DecodeError> {
    let name_type = file.u32("ccache name type")? as i32;
    let count = file.u32("ccache components")?;
    if count as usize > COMPONENTS_MAX {
        return Err(file.error("ccache components", DecodeErrorKind::TooMany(COMPONENTS_MAX)));
    }
    let realm = text(file, "ccache realm")?;
    let components = (0..count).map(|_| text(file, "ccache component")).collect::<Result<_, _>>()?;
    Ok(Principal { realm, name_type, components })
}

/// One credential; `None` of a setting, and of a key of another type.
fn read_credential(file: &mut Reader<'_>) -> Result<Option<Credential>, DecodeError> {
    let client = read_principal(file)?;
    let service = read_principal(file)?;
    let etype = i32::from(file.u16("ccache key type")? as i16);
    let key = Zeroizing::new(data(file, "ccache key")?.to_vec());
    let [_authtime, _starttime, endtime, _renew_till] = [
        file.u32("ccache authtime")?,
        file.u32("ccache starttime")?,
        file.u32("ccache endtime")?,
        file.u32("ccache renew-till")?,
    ];
    file.u8("ccache is_skey")?;
    file.u32("ccache flags")?;
    for what in ["ccache addresses", "ccache authorization data"] {
        let count = file.u32(what)?;
        if count > ELEMENTS_MAX {
            return Err(file.error(what, DecodeErrorKind::TooMany(ELEMENTS_MAX as usize)));
        }
        for _ in 0..count {
            file.u16(what)?;
            data(file, what)?;
        }
    }
    let ticket = data(file, "ccache ticket")?.to_vec();
    data(file, "ccache second ticket")?;
    if service.realm == SETTINGS_REALM {
        return Ok(None);
    }
    let key = Etype::from_number(etype).and_then(|etype| Key::new(etype, &key));
    let endtime = FileTime::from_unix(endtime.into());
    Ok(key.map(|key| Credential { client, service, key, endtime, ticket }))
}

impl Encode for CredentialCache {
    fn encode(&self, out: &mut Vec<u8>) {
        fn data(out: &mut Vec<u8>, bytes: &[u8]) {
            out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            out.extend_from_slice(bytes);
        }
        fn principal(out: &mut Vec<u8>, principal: &Principal) {
            out.extend_from_slice(&principal.name_type.to_be_bytes());
            out.extend_from_slice(&(principal.components.len() as u32).to_be_bytes());
            data(out, principal.realm.as_bytes());
            principal.components.iter().for_each(|component| data(out, component.as_bytes()));
        }
        out.extend_from_slice(&VERSION);
        out.extend_from_slice(&[0; 2]);
        principal(out, &self.client);
        for credential in &self.credentials {
            principal(out, &credential.client);
            principal(out, &credential.service);
            out.extend_from_slice(&(credential.key.etype().number() as u16).to_be_bytes());
            data(out, credential.key.expose());
            let endtime = credential.endtime.to_unix() as u32;
            for time in [0, 0, endtime, 0] {
                out.extend_from_slice(&time.to_be_bytes());
            }
            // is_skey, flags, no addresses, no authorization data.
            out.extend_from_slice(&[0; 1 + 4 + 4 + 4]);
            data(out, &credential.ticket);
            data(out, &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kerberos::test::{HOUR, NOW, key, service};

    fn credential(name: &str, end: FileTime) -> Credential {
        Credential {
            client: service("alice"),
            service: service(name),
            key: key(Etype::Aes256Sha1, 0x33),
            endtime: end,
            ticket: vec![0x61, 0],
        }
    }

    #[test]
    fn finds_the_ticket_that_lives_longest() {
        let credentials = vec![
            credential("sso/srv", NOW - HOUR),
            credential("sso/srv", NOW + HOUR),
            credential("krbtgt/FAR.TEST", NOW + HOUR),
            credential("krbtgt/RPC.TEST", NOW + HOUR),
        ];
        let cache = CredentialCache { client: service("alice"), credentials };
        assert_eq!(cache.find(&service("SSO/srv"), NOW), Some(&cache.credentials[1]));
        assert_eq!(cache.find(&service("sso/srv"), NOW + HOUR), None, "expired");
        assert_eq!(cache.find(&service("cifs/srv"), NOW), None);
        assert_eq!(cache.ticket_granting(NOW), Some(&cache.credentials[3]));
    }

    #[test]
    fn comes_back_and_is_refused_when_it_is_cut() {
        let cache = CredentialCache {
            client: service("alice"),
            credentials: vec![credential("sso/srv", NOW + HOUR)],
        };
        let bytes = cache.to_bytes();
        assert_eq!(CredentialCache::decode(&bytes).as_ref(), Ok(&cache));
        let empty = CredentialCache { credentials: Vec::new(), ..cache }.to_bytes().len();
        for end in 0..bytes.len() {
            assert_eq!(CredentialCache::decode(&bytes[..end]).is_ok(), end == empty, "{end}");
        }
        assert!(CredentialCache::decode(&[5, 3, 0, 0]).is_err(), "another version");
    }

    #[test]
    fn skips_settings_and_keys_of_other_types() {
        let mut cache = CredentialCache {
            client: service("alice"),
            credentials: vec![credential("sso/srv", NOW + HOUR)],
        };
        cache.credentials[0].service.realm = SETTINGS_REALM.to_owned();
        assert_eq!(CredentialCache::decode(&cache.to_bytes()).map(|cache| cache.credentials), Ok(Vec::new()));
        cache.credentials[0].service = service("sso/srv");
        let mut bytes = cache.to_bytes();
        let key = bytes.windows(32).position(|window| window == [0x33; 32]).expect("the key");
        bytes[key - 5] = 23;
        assert_eq!(CredentialCache::decode(&bytes).map(|cache| cache.credentials), Ok(Vec::new()));
    }
}
