//! Certificates from files, CRLs from files and URLs, and OCSP responders: what path validation
//! ([`rcmp_service::trust`]) needs from files and the network.
//!
//! Only configured hosts are contacted, by plain HTTP without redirects or proxies, and with limits of time
//! and length.

pub mod certificates;
pub mod crls;
mod fetch;
pub mod responder;
