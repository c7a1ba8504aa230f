//! A decision in one short line, for the audit record: what was found by which form, and what it was worth.

use crate::form::Strength;
use crate::trace::Step;
use crate::trust::Revocation;
use account_store::Matches;
use std::fmt::Write;

/// Questions in a trail; a certificate with many names makes no long lines.
const PARTS_MAX: usize = 24;

/// The steps of a decision as words between spaces: `chain=verified upn=alice sid=counts strong`. A form that
/// found no account is left out; one that the authority may not vouch for has a `?`.
pub fn trail(steps: &[Step]) -> String {
    let mut text = String::new();
    let mut parts = 0;
    for step in steps {
        let is_question = matches!(step, Step::Asked { .. } | Step::Differs { .. });
        let mut part = String::new();
        self::part(step, &mut part);
        if part.is_empty() {
            continue;
        }
        if is_question {
            parts += 1;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        // What was decided by is always told; of many questions only the first are.
        match is_question && parts > PARTS_MAX {
            true if parts == PARTS_MAX + 1 => text.push('…'),
            true => drop(text.pop()),
            false => text.push_str(&part),
        }
    }
    text
}

fn part(step: &Step, text: &mut String) {
    // Writing to a string cannot fail.
    let _ = match step {
        Step::Chain { path: Ok(_) } => write!(text, "chain=verified"),
        Step::Chain { path: Err(refusal) } => write!(text, "chain={}", refusal.error.name()),
        Step::Revocation { status: Revocation::Good, .. } => write!(text, "revocation=good"),
        Step::Revocation { status: Revocation::Revoked { .. }, .. } => write!(text, "revocation=revoked"),
        Step::Revocation { status: Revocation::Unknown { why, .. }, .. } => {
            write!(text, "revocation={}", why.name())
        }
        Step::NotApplicable { method, .. } => write!(text, "{method}=not_applicable"),
        Step::Asked { form, found, granted, .. } => {
            let doubt = if *granted { "" } else { "?" };
            match found {
                None => write!(text, "{form}=error"),
                Some(Matches::None) => Ok(()),
                Some(Matches::One(record)) => write!(text, "{form}{doubt}={}", record.account.name),
                Some(Matches::Many(names)) => write!(text, "{form}{doubt}={}", names.join("|")),
            }
        }
        Step::Differs { form, .. } => write!(text, "{form}=differs"),
        Step::BindingChecked { evidence, strength, .. } => {
            for evidence in evidence {
                let _ = write!(text, "{}={} ", evidence.form, evidence.state.name());
            }
            match strength {
                Strength::Weak => write!(text, "weak"),
                Strength::Strong(_) => write!(text, "strong"),
            }
        }
        Step::Routed { domain, by, .. } => write!(text, "routed={domain}({})", by.name()),
        Step::ChainNotVerified | Step::Skipped { .. } | Step::Decided { .. } => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::{Form, Method};
    use crate::policy::Binding;
    use account_store::{Account, Query, Record};
    use std::sync::Arc;

    #[test]
    fn a_long_trail_keeps_its_verdict() {
        let sid = "S-1-5-21-1-2-3-1001".parse().expect("a SID");
        let record = Arc::new(Record { account: Account::new("alice", sid), memberships: vec![] });
        let asked = |found| Step::Asked {
            method: Method::Upn,
            form: Form::Upn,
            query: Query::Name("alice".into()),
            found: Some(found),
            stale_s: None,
            error: None,
            granted: true,
        };
        let mut steps = vec![asked(Matches::None); 64];
        assert_eq!(trail(&steps), "", "a method that found no account is left out");
        steps = vec![asked(Matches::One(Arc::clone(&record))); 64];
        let (strength, binding) = (Strength::Weak, Binding::Full);
        steps.push(Step::BindingChecked {
            record,
            forms: vec![Form::Upn],
            evidence: vec![],
            strength,
            binding,
        });
        let text = trail(&steps);
        assert_eq!(text.matches("upn=alice").count(), PARTS_MAX);
        assert!(text.ends_with("… weak"), "{text}");
    }
}
