//! The server's method, in the order of evaluation that ARCHITECTURE.md records.

use crate::administrators::{AccessRules, Denial};
use crate::message::{NdrRange, Request, SIZE, write_failure, write_secret};
use crate::{MasterSecret, REMOTE_GET_MASTER_SECRET, ReturnCode};
use dcerpc::pdu::FaultStatus;
use dcerpc::security::AuthLevel;
use dcerpc::server::Call;
use rpc_auth::UserIdentity;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

/// The future of an object-safe async method.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where the secret is kept.
pub trait MasterSecrets: Send + Sync {
    /// Whether the secret can be asked for; no secret is read.
    fn state(&self) -> BoxFuture<'_, SecretState>;

    /// The newest secret; `None` if there is none.
    fn current(&self) -> BoxFuture<'_, Result<Option<CurrentSecret>, StoreFailed>>;
}

/// Whether a secret can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretState {
    /// The store is open.
    Open,
    /// The store is not open, for the reason that is named: it is sealed, or could not be read.
    NotOpen(String),
    /// The server is shutting down.
    Stopping,
}

/// The newest secret.
#[derive(Clone, Debug)]
pub struct CurrentSecret {
    /// The octets.
    pub secret: MasterSecret,
    /// Its generation, for the audit log and metrics.
    pub generation: u64,
}

/// The store could not answer. That is never "no secret".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFailed(pub String);

/// What is still known of a user who authenticated some time ago on this connection.
pub trait Accounts: Send + Sync {
    /// The user as of now. `None` if the account is gone or may not be used any more. An identity that
    /// another authority proved is returned as it is.
    fn refresh(
        &self,
        user: Arc<UserIdentity>,
    ) -> BoxFuture<'_, Result<Option<Arc<UserIdentity>>, StoreFailed>>;
}

/// The audit log.
pub trait DeliveryAudit: Send + Sync {
    /// Records a delivery before the secret leaves. It returns after the record is on the disk, or fails;
    /// then the secret does not leave.
    fn record<'a>(&'a self, delivery: &'a Delivery<'a>) -> BoxFuture<'a, Result<(), AuditFailed>>;
}

/// The record was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditFailed(pub String);

/// A delivery that is about to happen.
#[derive(Clone, Debug)]
pub struct Delivery<'a> {
    /// Where the call came from.
    pub address: SocketAddr,
    /// The user.
    pub user: &'a UserIdentity,
    /// The mechanism: the RPC `auth_type`.
    pub auth_type: u8,
    /// The entry of the list that matched.
    pub entry: String,
    /// The generation.
    pub generation: u64,
}

/// A call with its connection.
#[derive(Debug)]
pub struct MasterSecretCall {
    /// Source address.
    pub address: SocketAddr,
    /// The call.
    pub call: Call,
}

/// How a call ended, for the runtime and for those who watch.
#[derive(Debug)]
pub struct Answer {
    /// The stub, or the fault.
    pub reply: Result<Vec<u8>, FaultStatus>,
    /// What happened.
    pub outcome: Outcome,
    /// The user, if the call was protected well enough to have one.
    pub user: Option<Arc<UserIdentity>>,
    /// Octets behind the parameters, which were ignored.
    pub trailing: usize,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The secret of this generation was delivered.
    Delivered {
        /// The generation.
        generation: u64,
    },
    /// The user may not have it.
    Denied(Denial),
    /// The method returned another code, for the reason that is named.
    Failed {
        /// The code.
        code: ReturnCode,
        /// Why, for the log.
        detail: String,
    },
    /// The call had no user under privacy.
    NotProtected,
    /// The runtime's fault: the method's number or the stub is wrong.
    Fault(FaultStatus),
}

impl Outcome {
    /// The return value; `None` if the call ended with a fault.
    pub const fn code(&self) -> Option<ReturnCode> {
        match self {
            Self::Delivered { .. } => Some(ReturnCode::SUCCESS),
            Self::Denied(_) => Some(ReturnCode::ACCESS_DENIED),
            Self::Failed { code, .. } => Some(*code),
            Self::NotProtected | Self::Fault(_) => None,
        }
    }
}

/// The server of the interface.
#[derive(Clone)]
pub struct MasterSecretServer {
    secrets: Arc<dyn MasterSecrets>,
    accounts: Arc<dyn Accounts>,
    audit: Arc<dyn DeliveryAudit>,
}

impl std::fmt::Debug for MasterSecretServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterSecretServer")
    }
}

impl MasterSecretServer {
    /// A server of these parts.
    pub fn new(
        secrets: Arc<dyn MasterSecrets>,
        accounts: Arc<dyn Accounts>,
        audit: Arc<dyn DeliveryAudit>,
    ) -> Self {
        Self { secrets, accounts, audit }
    }

    /// Answers a call by the rules of this moment.
    ///
    /// 1. The level. Below privacy, or without a user, the answer is fault 5 and nothing of the stub is read.
    /// 2. The method's number and the stub.
    /// 3. The method.
    pub async fn answer(&self, rules: &AccessRules, range: NdrRange, call: &MasterSecretCall) -> Answer {
        let MasterSecretCall { address, call } = call;
        let fault = |status, outcome, user| Answer { reply: Err(status), outcome, user, trailing: 0 };
        let caller = call.security.as_ref().filter(|security| security.level == AuthLevel::PRIVACY);
        let user = caller.and_then(|security| Arc::clone(&security.identity).downcast::<UserIdentity>().ok());
        let (Some(caller), Some(user)) = (caller, user) else {
            return fault(FaultStatus::ACCESS_DENIED, Outcome::NotProtected, None);
        };
        let request = match call.opnum {
            REMOTE_GET_MASTER_SECRET => Request::read(&call.stub, call.syntax, call.order, range),
            _ => Err(FaultStatus::OP_RANGE_ERROR),
        };
        let request = match request {
            Ok(request) => request,
            Err(status) => return fault(status, Outcome::Fault(status), Some(user)),
        };
        let method = self.decide(rules, *address, caller.auth_type.0, Arc::clone(&user), request.size);
        let decided = without_panic(method).await;
        let decided = decided.unwrap_or_else(|| Err(failed(ReturnCode::EXCEPTION, "the method panicked")));
        let (reply, outcome) = match decided {
            Ok(CurrentSecret { secret, generation }) => {
                (write_secret(&secret, call.syntax), Outcome::Delivered { generation })
            }
            Err(outcome) => {
                let code = outcome.code().unwrap_or(ReturnCode::EXCEPTION);
                (write_failure(code, call.syntax), outcome)
            }
        };
        Answer { reply: Ok(reply), outcome, user: Some(user), trailing: request.trailing }
    }

    /// The method in the order of evaluation: what can be decided at all, the caller, then the buffer, then
    /// the secret. A stranger learns nothing of the store.
    async fn decide(
        &self,
        rules: &AccessRules,
        address: SocketAddr,
        auth_type: u8,
        user: Arc<UserIdentity>,
        size: u32,
    ) -> Result<CurrentSecret, Outcome> {
        // These come first because without them it cannot be decided who an administrator is.
        match self.secrets.state().await {
            SecretState::Open => {}
            SecretState::NotOpen(why) => return Err(failed(ReturnCode::UNEXPECTED, why)),
            SecretState::Stopping => {
                return Err(failed(ReturnCode::SERVER_UNAVAILABLE, "the server is stopping"));
            }
        }
        if rules.administrators.0.is_empty() {
            return Err(failed(ReturnCode::NOT_CONFIGURED, "no administrator is configured"));
        }
        let store_failed = |StoreFailed(why)| failed(ReturnCode::EXCEPTION, why);
        let user = self.accounts.refresh(user).await.map_err(store_failed)?;
        let user = user.ok_or(Outcome::Denied(Denial::AccountGone))?;
        let entry = rules.check(&user).map_err(Outcome::Denied)?.to_string();
        match size {
            0 => return Err(failed(ReturnCode::INVALID_ARGUMENT, "the buffer has no octets")),
            size if size < SIZE => {
                return Err(failed(ReturnCode::OUT_OF_MEMORY, format!("the buffer has {size} octets")));
            }
            _ => {}
        }
        let current = self.secrets.current().await.map_err(store_failed)?;
        let current = current.ok_or_else(|| failed(ReturnCode::NO_SECRET, "there is no secret"))?;
        let generation = current.generation;
        let delivery = Delivery { address, user: &user, auth_type, entry, generation };
        match self.audit.record(&delivery).await {
            Ok(()) => Ok(current),
            Err(AuditFailed(why)) => Err(failed(ReturnCode::UNEXPECTED, why)),
        }
    }
}

fn failed(code: ReturnCode, detail: impl Into<String>) -> Outcome {
    Outcome::Failed { code, detail: detail.into() }
}

/// The result of a future; `None` if it panicked.
async fn without_panic<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        // After a panic the future is not polled again, and what it shares is read-only or behind its own
        // locks.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}

#[cfg(test)]
mod tests;
