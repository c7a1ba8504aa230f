//! What the service manager (systemd) and this process tell each other: the sockets that it has opened, and
//! the states that it is notified of.

pub mod notification;
pub mod sockets;
