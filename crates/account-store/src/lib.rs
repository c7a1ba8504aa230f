//! Accounts, groups and machine accounts: one trait, one battery of tests, several backends.
