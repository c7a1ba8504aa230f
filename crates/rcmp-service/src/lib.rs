//! [MS-RCMP], the Remote Certificate Mapping Protocol: which account is this certificate's, and what may it do?
//!
//! It knows no Netlogon: a question comes in, an answer goes out, and whoever carries them is somebody else. Mapping
//! itself is pure: certificate and policy give queries, matches give a decision.

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
pub mod message;
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

pub use answer::logoff_time;
pub use claim::SidClaim;
pub use context::{CallContext, TraceParent};
pub use domains::{Domains, DomainsError, PeerDomain, RoutedBy};
pub use form::{Form, Method, Strength};
pub use forward::{Forwarder, MapCertificate, NoServers, PeerQuestion, PeerReply, PeerService};
pub use policy::{Binding, Contradiction, MapsNothing, Policy, Validation};
pub use question::{Answer, Asker, Elsewhere, ForeignAccount, Mapped, Question};
pub use reason::Reason;
pub use response_rejection::Disbelief;
pub use scope::{Scope, is_account_or_group};
pub use service::{Mapper, MapperParts, OcspTransport, has_method};
