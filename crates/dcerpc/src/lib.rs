//! DCE/RPC without sockets: PDUs, NDR, associations, the endpoint mapper's and the management interface's messages.
