//! A secret of one line in a file, in the environment, or in a credential of systemd.

use account_store::FileAccess;
use pem_file::input;
use std::fmt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// A file of one line.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A systemd credential: a file below `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// Why a secret is not there.
#[derive(Debug)]
pub struct SecretMissing {
    place: String,
    /// What is wrong with it, as the end of a sentence about it.
    why: String,
}

impl fmt::Display for SecretMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the secret in {} {}", self.place, self.why)
    }
}

impl std::error::Error for SecretMissing {}

impl SecretRef {
    /// Reads a reference; relative paths start at `base`.
    pub fn parse(text: &str, base: &Path) -> Option<Self> {
        match text.split_once(':')? {
            ("file", path) if !path.is_empty() => Some(Self::File(base.join(path))),
            ("env", name) if !name.is_empty() => Some(Self::Environment(name.to_owned())),
            ("cred", name) if !name.is_empty() && !name.contains('/') && name != ".." => {
                Some(Self::Credential(name.to_owned()))
            }
            _ => None,
        }
    }

    /// Fetches the secret, without the end of its line. A file that every user can read is refused, and so
    /// are several lines: other programs take the first of them.
    pub fn read(&self) -> Result<Zeroizing<String>, SecretMissing> {
        let (place, secret) = match self {
            Self::File(path) => (path.display().to_string(), read_file(path)),
            Self::Environment(name) => (
                format!("the environment variable {name}"),
                std::env::var(name).map_err(|error| format!("cannot be read: {error}")),
            ),
            Self::Credential(name) => {
                let place = format!("the credential {name}");
                match std::env::var_os("CREDENTIALS_DIRECTORY") {
                    Some(directory) => (place, read_file(&Path::new(&directory).join(name))),
                    None => (place, Err("cannot be read: $CREDENTIALS_DIRECTORY is not set; systemd sets it for units with LoadCredential=".into())),
                }
            }
        };
        match secret.map(Zeroizing::new) {
            Ok(secret) => match secret.trim_end_matches(['\r', '\n']) {
                "" => Err(SecretMissing { place, why: "cannot be read: it is empty".into() }),
                trimmed if trimmed.contains('\n') => {
                    let why =
                        "cannot be used: it has more than one line; write the secret in one line".into();
                    Err(SecretMissing { place, why })
                }
                trimmed => Ok(Zeroizing::new(trimmed.to_owned())),
            },
            Err(why) => Err(SecretMissing { place, why }),
        }
    }
}

/// A secret in a file that every user can read is no secret.
fn read_file(path: &Path) -> Result<String, String> {
    // A path of a configuration starts at its folder, so only an option of a command is standard input.
    let bytes = match input::is_standard(path) {
        true => Zeroizing::new(input::read(path).map_err(|error| format!("cannot be read: {error}"))?),
        false => FileAccess::Group.read(path).map_err(|error| error.to_string())?,
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| "cannot be read: it is not UTF-8 text".to_owned())?;
    // Editors of Windows and PowerShell write a byte order mark, and UTF-16 has NULs.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.contains('\0') {
        true => {
            Err("cannot be read: there are NUL characters in it, as in UTF-16 text; save it as UTF-8"
                .to_owned())
        }
        false => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_by_reference_and_without_their_line_s_end() {
        let directory = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str, mode: u32| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(path, mode).expect("it is ours");
        };
        write("secret", "pass word\r\n", 0o640);
        let secret = SecretRef::parse("file:secret", directory.path()).expect("a reference");
        assert_eq!(secret.read().expect("it is there").as_str(), "pass word");
        // Several lines are no secret: other programs take the first of them.
        for several in ["pass word\nnext\n", "pass word\r\n\r\nnext", "\npass word\n"] {
            write("secret", several, 0o640);
            let refused = secret.read().expect_err("it has several lines").to_string();
            assert!(refused.contains("secret cannot be used: it has more than one line"), "{refused}");
        }
        for one in ["pass word", "pass word\n", "pass word\n\r\n\n"] {
            write("secret", one, 0o640);
            assert_eq!(secret.read().expect("it is there").as_str(), "pass word");
        }
        write("secret", "pass word\r\n", 0o644);
        let refused = secret.read().expect_err("every user can read it").to_string();
        assert!(refused.contains("can be used by every user (mode 644): chmod 600"), "{refused}");
        assert!(!refused.contains("pass word"), "{refused}");
        write("empty", "\n", 0o600);
        let empty = SecretRef::parse("file:empty", directory.path()).expect("a reference");
        assert!(empty.read().expect_err("it is empty").to_string().contains("it is empty"));
        let missing = SecretRef::parse("env:RCMPD_NO_SUCH_VARIABLE", directory.path()).expect("a reference");
        assert!(missing.read().is_err());
    }
}
