//! A sealing key that does not leave its PKCS#11 token.
//!
//! The token has a secret key (`CKK_GENERIC_SECRET` or any that it allows for `CKM_SHA256_HMAC`), found by
//! its label. The 32 octets of the source are HMAC-SHA256 under that key over `rcmpd sealing key 1: token: `
//! and the salt. HMAC needs no choice of wrapping mechanism, on which tokens differ, and the key may be
//! marked sensitive and not extractable.

use crate::memory::Locked;
use crate::source::{PassphraseCost, SealingSource, SourceError, SourceKey, SourceKind};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use zeroize::{Zeroize, Zeroizing};

const CONTEXT: &[u8] = b"rcmpd sealing key 1: token: ";

/// A module is initialised once in a process. It stays so: another part of the process may use it too.
static MODULES: Mutex<Vec<(PathBuf, Pkcs11)>> = Mutex::new(Vec::new());

/// A key in a token.
pub struct TokenKey {
    module: PathBuf,
    token: String,
    serial: Option<String>,
    key: String,
    pin: Box<dyn Fn() -> Result<Zeroizing<String>, SourceError> + Send + Sync>,
}

impl TokenKey {
    /// The module is a shared library, such as `/usr/lib/softhsm/libsofthsm2.so`. Token and key are named by
    /// their labels. `pin` fetches the user's PIN.
    pub fn new(
        module: &Path,
        token: &str,
        key: &str,
        pin: impl Fn() -> Result<Zeroizing<String>, SourceError> + Send + Sync + 'static,
    ) -> Self {
        let (module, token, key) = (module.to_owned(), token.to_owned(), key.to_owned());
        Self { module, token, serial: None, key, pin: Box::new(pin) }
    }

    /// The same in the token with this serial number only.
    pub fn with_serial(self, serial: Option<String>) -> Self {
        Self { serial, ..self }
    }

    /// Makes the key in the token: 32 octets, sensitive and not extractable. A key of this label is never
    /// replaced.
    pub fn create(&self) -> Result<(), SourceError> {
        let session = self.session(true)?;
        if !self.find(&session)?.is_empty() {
            return Err(SourceError::Unusable("exists already in the token".to_owned()));
        }
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Label(self.key.as_bytes().to_vec()),
            Attribute::ValueLen(32.into()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ];
        session.generate_key(&Mechanism::GenericSecretKeyGen, &template).map(drop).map_err(unusable)
    }

    fn session(&self, is_writer: bool) -> Result<Session, SourceError> {
        let module = self.module()?;
        let slots = module.get_slots_with_initialized_token().map_err(unusable)?;
        let is_named = |slot: &Slot| {
            module.get_token_info(*slot).is_ok_and(|info| {
                let serial = info.serial_number().trim_end();
                info.label().trim_end() == self.token
                    && self.serial.as_deref().is_none_or(|expected| expected == serial)
            })
        };
        // Before a login: another token of this label must not get the PIN, and would count it as a wrong
        // one.
        let slot = match slots.into_iter().filter(is_named).collect::<Vec<_>>().as_slice() {
            [] => return Err(SourceError::Missing),
            [slot] => *slot,
            _ => {
                return Err(SourceError::Unusable(
                    "is ambiguous: several tokens have this label; name one by serial=NUMBER".to_owned(),
                ));
            }
        };
        let session = match is_writer {
            true => module.open_rw_session(slot),
            false => module.open_ro_session(slot),
        };
        let session = session.map_err(unusable)?;
        let pin = (self.pin)()?;
        match session.login(UserType::User, Some(&AuthPin::new(pin.as_str().into()))) {
            // A login counts for all sessions of the process.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => Err(unusable(error)),
        }
    }

    fn module(&self) -> Result<Pkcs11, SourceError> {
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, module)) = modules.iter().find(|(path, _)| *path == self.module) {
            return Ok(module.clone());
        }
        let module = Pkcs11::new(&self.module).map_err(unusable)?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(unusable(error)),
        }
        modules.push((self.module.clone(), module.clone()));
        Ok(module)
    }

    fn find(&self, session: &Session) -> Result<Vec<ObjectHandle>, SourceError> {
        let template =
            [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(self.key.as_bytes().to_vec())];
        session.find_objects(&template).map_err(unusable)
    }
}

impl SealingSource for TokenKey {
    fn name(&self) -> String {
        let serial = self.serial.as_ref().map(|serial| format!(";serial={serial}")).unwrap_or_default();
        format!("pkcs11:token={}{serial};object={}", self.token, self.key)
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Pkcs11
    }

    fn key(&self, salt: &[u8; 32], _: Option<PassphraseCost>) -> Result<SourceKey, SourceError> {
        let session = self.session(false)?;
        let key = match self.find(&session)?.as_slice() {
            [] => return Err(SourceError::Missing),
            [key] => *key,
            _ => {
                return Err(SourceError::Unusable(
                    "is ambiguous: the token has several keys of this label".to_owned(),
                ));
            }
        };
        let mut mac =
            session.sign(&Mechanism::Sha256Hmac, key, &[CONTEXT, salt].concat()).map_err(unusable)?;
        let octets = mac.as_slice().try_into().map(Locked::copy);
        mac.zeroize();
        octets.map_err(|_| SourceError::Unusable("gave a MAC that has not 32 octets".to_owned()))
    }
}

fn unusable(error: Error) -> SourceError {
    SourceError::Unusable(format!("cannot be used: {error}"))
}
