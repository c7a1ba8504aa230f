//! Both sides, each beside the other and beside programs of others.

mod matrix;
mod peers;
mod support;
