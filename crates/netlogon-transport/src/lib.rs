//! [MS-NRPC]: the secure channel and generic pass-through, server and client.
