//! The library as its users see it: both roles, sessions, and OpenSSL and JSSE as the other side.

mod cookies;
mod negotiation;
mod peers;
mod sessions;
mod support;
