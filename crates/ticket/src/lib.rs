//! Sealed tickets of a farm: versioned, authenticated, bound to a purpose, without I/O.
