//! `operators` of `[sso]`: which local users may change the master secret by the socket of the service.

use super::Checker;
use sso_secret::Recipient;
use std::path::PathBuf;
use toml::Spanned;

/// A user or group of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// A user by name.
    User(String),
    /// The members of a group, by its name.
    Group(String),
    /// A user by number.
    Uid(u32),
}

/// The number of users that have none here: processes of another user namespace appear under it
/// (user_namespaces(7)).
pub const OVERFLOW_UID: u32 = 65534;
/// Names of accounts and groups that services without an account of their own share.
pub const SHARED: [&str; 4] = ["nobody", "nogroup", "daemon", "users"];

/// Where operators reach the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorSocket {
    /// The path.
    pub path: PathBuf,
    /// The group whose members can connect, by name or number.
    pub group: String,
}

impl Operator {
    /// Reads `user:NAME`, `group:NAME` or `uid:N`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let is_name = |name: &str| !name.is_empty() && name.parse::<u32>().is_err();
        match text.split_once(':') {
            Some(("user" | "group", name)) if SHARED.contains(&name) => {
                Err("many services and users share this one")
            }
            Some(("uid", number)) if number.parse() == Ok(OVERFLOW_UID) => {
                Err("many services and users share this one")
            }
            Some(("user", name)) if is_name(name) => Ok(Self::User(name.to_owned())),
            Some(("group", name)) if is_name(name) => Ok(Self::Group(name.to_owned())),
            Some(("uid", number)) => {
                number.parse().map(Self::Uid).map_err(|_| "this is not the number of a user")
            }
            _ => Err("this is not an operator"),
        }
    }
}

impl Checker<'_> {
    pub(super) fn operators(
        &mut self,
        list: &Option<Spanned<Vec<Spanned<String>>>>,
        socket: Option<&Spanned<PathBuf>>,
        group: Option<&String>,
    ) -> (Vec<Operator>, Option<OperatorSocket>) {
        let help = "name users or groups that may change the secret, or remove the key: then only root and the owner of the folder may";
        let mut operators = Vec::new();
        for entry in self.restricting("operators", list, help).to_vec() {
            match Operator::parse(entry.get_ref()) {
                Ok(operator) => operators.push(operator),
                Err(why) => self.problem(
                    entry.span(),
                    why,
                    "write \"user:NAME\", \"group:NAME\" or \"uid:NUMBER\" for an account of this machine",
                ),
            }
        }
        let path = match (socket, list) {
            (Some(path), _) => path,
            (None, Some(list)) => {
                self.problem(
                    list.span(),
                    "operators reach the service by a socket, and there is none",
                    "name its path: operator_socket = \"/run/rcmpd/operators.sock\"",
                );
                return (operators, None);
            }
            (None, None) => return (operators, None),
        };
        let only_group = match &operators[..] {
            [Operator::Group(group)] => Some(group.clone()),
            _ => None,
        };
        let group = group.cloned().or(only_group);
        if group.is_none() {
            self.problem(
                path.span(),
                "no group can connect to this socket",
                "name the group that all operators are members of: operator_group = \"…\"",
            );
        }
        let socket = group.map(|group| OperatorSocket { path: self.path(path.get_ref()), group });
        (operators, socket)
    }

    pub(super) fn backup_recipients(
        &mut self,
        list: &Option<Spanned<Vec<Spanned<String>>>>,
    ) -> Vec<Recipient> {
        let help =
            "name public keys of `rcmpd sso recipient`, or remove the key: then operators make no backups";
        let mut recipients = Vec::new();
        for entry in self.restricting("backup_recipients", list, help).to_vec() {
            match Recipient::parse(entry.get_ref()) {
                Some(recipient) => recipients.push(recipient),
                None => self.problem(
                    entry.span(),
                    "this is no recipient",
                    "write what `rcmpd sso recipient` prints: \"rcmpd-recipient-1:…\"",
                ),
            }
        }
        recipients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_accounts_of_their_own() {
        assert_eq!(Operator::parse("user:carol"), Ok(Operator::User("carol".to_owned())));
        assert_eq!(Operator::parse("group:sso-operators"), Ok(Operator::Group("sso-operators".to_owned())));
        assert_eq!(Operator::parse("uid:1000"), Ok(Operator::Uid(1000)));
        for wrong in [
            "",
            "carol",
            "user:",
            "user:1000",
            "group:27",
            "uid:carol",
            "uid:-1",
            "uid:4294967296",
            "gid:5",
            "user:nobody",
            "group:nogroup",
            "uid:65534",
        ] {
            assert!(Operator::parse(wrong).is_err(), "{wrong}");
        }
    }
}
