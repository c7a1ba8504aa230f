//! The library as its users see it: both roles, sessions, and OpenSSL as the other side.

mod negotiation;
mod openssl;
mod sessions;
mod support;
