//! The whole process, as its users and operators meet it.
