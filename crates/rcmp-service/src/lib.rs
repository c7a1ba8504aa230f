//! [MS-RCMP], the Remote Certificate Mapping Protocol: which account a certificate belongs to, and what the
//! account may do.
//!
//! A [`Question`] comes in, an [`Answer`] goes out. The crate does not depend on Netlogon, which carries
//! both. Mapping itself is pure: certificate and policy give queries, and what they match gives a decision.
//!
//! [`MapCertificate`] is the handler, a tower service; [`Mapper`] decides by the accounts of one domain, and
//! [`Forwarder`] asks other domains. A decision and its message are two steps, [`Mapper::decide`] and
//! [`Mapper::respond`].
//!
//! ```
//! use account_store::{Account, AccountAdmin, Change, Domain, Group, GroupScope, MemoryStore, Put};
//! use rcmp_service::message::{MappingFlags, Request};
//! use rcmp_service::{Asker, MapCertificate, Mapper, MapperParts, Policy, Question, Reason, Validation, Binding};
//! use std::sync::Arc;
//! use tower::Service;
//!
//! # fn ready<T>(future: impl Future<Output = T>) -> T {
//! #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
//! #     match std::pin::pin!(future).poll(&mut context) {
//! #         std::task::Poll::Ready(value) => value,
//! #         std::task::Poll::Pending => unreachable!("a store in memory waits for nothing"),
//! #     }
//! # }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let upn = vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3];
//! # let mut params = rcgen::CertificateParams::default();
//! # params.subject_alt_names = vec![rcgen::SanType::OtherName((upn, "alice@contoso.example".into()))];
//! # let certificate = params.self_signed(&rcgen::KeyPair::generate()?)?.der().to_vec();
//! let sid: dtyp::Sid = "S-1-5-21-3623811015-3361044348-30300820".parse()?;
//! let store = MemoryStore::new(Domain { netbios: "CONTOSO".into(), dns: "contoso.example".into(), sid });
//! let users = Group { name: "Domain Users".into(), sid: sid.with_rid(513).unwrap(), scope: GroupScope::Global };
//! let mut alice = Account::new("alice", sid.with_rid(1013).unwrap());
//! alice.user_principal_name = Some("alice@contoso.example".into());
//! let changes = [Change::PutGroup(Put::New, users), Change::PutAccount(Put::New, Box::new(alice))];
//! ready(store.apply(&mut changes.into_iter().map(Ok)))?;
//!
//! // The asker has verified the chain, and names are enough. The defaults are stricter.
//! let policy = Policy { validation: Validation::Off, binding: Binding::Off, ..Policy::default() };
//! let (store, server) = (Arc::new(store), "DC1".to_owned());
//! let mapper = Mapper::new(MapperParts { policy, trust: None, responder: None, store, server })?;
//! let mut handler = MapCertificate::new(Arc::new(mapper), None);
//!
//! let request = Request { flags: MappingFlags::UPN, certificate: &certificate, issuers: vec![] };
//! let asker = Asker::machine("WEB01$", sid.with_rid(1100).unwrap(), true);
//! let now = dtyp::FileTime::from_unix(1_767_225_600);
//! let Ok(answer) = ready(handler.call(Question::new(request.encode().unwrap(), asker, now)));
//! assert!(matches!(answer.reason, Reason::Mapped(_)));
//! assert_eq!(answer.mapped.unwrap().record.account.name, "alice");
//! # Ok(())
//! # }
//! ```

mod answer;
mod binding;
pub mod certificate;
mod claim;
pub mod context;
mod der;
pub mod domains;
pub mod explain;
pub mod foreign;
mod form;
mod forward;
pub mod issuers;
mod logon_hours;
pub mod mapping;
pub mod mapping_audit;
pub mod message;
mod miss_limiter;
pub mod policy;
pub mod proof;
mod question;
mod reason;
mod response_rejection;
mod scope;
mod service;
#[cfg(test)]
mod test;
pub mod trace;
pub mod trust;

pub use account_store::visible;
pub use answer::logoff_time;
pub use claim::SidClaim;
pub use context::{CallContext, TraceParent};
pub use domains::{Domains, DomainsError, PeerDomain, RoutedBy, Suffixes};
pub use foreign::ForeignAccount;
pub use form::{Form, Method, Strength};
pub use forward::{Forwarder, MapCertificate, NoServers, PeerQuestion, PeerReply, PeerService};
pub use miss_limiter::{MissLimits, Misses};
pub use policy::{Binding, Contradiction, MapsNothing, Policy, PolicyDraft, Validation};
pub use question::{Answer, Asked, Asker, Elsewhere, Issuers, Mapped, Question, QuestionBody};
pub use reason::Reason;
pub use response_rejection::ResponseRejection;
pub use scope::{Scope, is_account_or_group};
pub use service::{Ask, Decision, Mapper, MapperParts, OcspTransport, has_method};
