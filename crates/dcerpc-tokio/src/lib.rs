//! Sockets and tasks for DCE/RPC: listeners, interface registry, client channel.
