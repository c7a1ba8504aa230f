//! The life of the master secret: sealed at rest, generations, backups, and what callers seal under it.
