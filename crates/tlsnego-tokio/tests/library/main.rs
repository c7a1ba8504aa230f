//! A client over HTTP beside a service with an application that counts and echoes, and beside a gateway.

mod caller;
mod gateway;
mod support;
