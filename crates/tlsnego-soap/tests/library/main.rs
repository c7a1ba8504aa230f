//! Both sides, each beside the other and beside programs of others.

mod clocks;
mod hostile;
mod matrix;
mod metadata;
mod peers;
mod support;
mod trace;
mod trust13;
mod vector;
