//! A client over HTTP beside a service with an application that counts and echoes.

mod caller;
mod support;
