//! [MS-SSP]: the master secret server and its client, without sockets.
