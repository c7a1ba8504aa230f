//! The directory finds, our comparison decides: which candidates a question names.

use crate::failed::Failed;
use crate::log_limiter::LogLimiter;
use account_store::Matches;
use tokio::time::Instant;
use tracing::warn;

/// Certificates choose how often this is said.
static AMBIGUOUS: LogLimiter = LogLimiter::new();

/// Where an account has to be found; `None` if no directory holds what is asked for.
pub(crate) use account_store::index::{is_at, place_on_server as wanted};

/// What is known after the candidates were compared.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<T> {
    None,
    One(T),
    Many(Matches),
}

/// The answer for the accounts that match. If not all candidates came, one account that matches is not known
/// to be the only one: several are ambiguous all the same, more candidates than the limit count as ambiguous,
/// and a limit of the server is an error.
pub(crate) fn decide<T>(
    mut matching: Vec<T>,
    name: impl Fn(&T) -> &str,
    candidates: usize,
    candidates_max: usize,
    is_cut: bool,
) -> Result<Found<T>, Failed> {
    let names = |matching: &[T]| {
        Matches::Many(matching.iter().take(Matches::NAMES_MAX).map(|one| name(one).to_owned()).collect())
    };
    match matching.len() {
        2.. => Ok(Found::Many(names(&matching))),
        _ if is_cut && candidates > candidates_max => {
            if let Some(left_out) = AMBIGUOUS.allow(Instant::now()) {
                warn!(
                    candidates_max,
                    left_out, "Certificate is ambiguous: the directory has more candidates than the limit"
                );
            }
            Ok(Found::Many(names(&matching)))
        }
        _ if is_cut => Err(Failed::server_limit(candidates)),
        1 => Ok(matching.pop().map_or(Found::None, Found::One)),
        _ => Ok(Found::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use account_store::Query;
    use account_store::battery::domain;

    #[test]
    fn input_that_no_directory_holds_is_not_sent() {
        for text in ["", "bob@corp.example\0.evil.example", "\0", &"a".repeat(4097)] {
            for query in [
                Query::UserPrincipalName(text.to_owned()),
                Query::ServicePrincipalName(text.to_owned()),
                Query::Name(text.to_owned()),
                Query::AltSecurityIdentity(format!("X509:<S>CN={text}")),
            ] {
                assert_eq!(wanted(&domain(), &query), None, "{query:?}");
            }
        }
        assert!(wanted(&domain(), &Query::Name("bob".to_owned())).is_some());
    }

    #[test]
    fn what_is_cut_off_is_ambiguous_or_an_error_and_never_one() {
        let decided = |matching: &[&'static str], candidates, is_cut| {
            decide(matching.to_vec(), |name| name, candidates, 5, is_cut)
        };
        let many = |names: &[&str]| {
            Ok(Found::Many(Matches::Many(names.iter().map(|name| (*name).to_owned()).collect())))
        };
        assert_eq!(decided(&[], 5, false), Ok(Found::None));
        assert_eq!(decided(&["a"], 5, false), Ok(Found::One("a")));
        assert_eq!(decided(&["a", "b"], 2, false), many(&["a", "b"]));
        assert_eq!(decided(&["a", "b"], 3, true), many(&["a", "b"]));
        assert_eq!(decided(&["a"], 6, true), many(&["a"]));
        assert_eq!(decided(&[], 6, true), many(&[]));
        assert!(decided(&["a"], 3, true).is_err() && decided(&[], 0, true).is_err());
    }
}
