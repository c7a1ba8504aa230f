//! [MS-RCMP], the Remote Certificate Mapping Protocol: which account is this certificate's, and what may it do?
//!
//! It knows no Netlogon: a question comes in, an answer goes out, and whoever carries them is somebody else. Mapping
//! itself is pure: certificate and policy give queries, matches give a decision.

pub mod message;
#[cfg(test)]
mod test;
