//! Harness of the tests that need a whole process or a foreign peer.
