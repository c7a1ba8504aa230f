//! A decision in one short line, for the audit record: what was found by which form, and what it was worth.

use crate::mapping::Strength;
use crate::trace::Step;
use crate::trust::Revocation;
use account_store::Matches;
use std::fmt::Write;

/// Parts of a trail; a certificate with many names makes no long lines.
const PARTS_MAX: usize = 24;

/// The steps of a decision as words between spaces: `chain=verified upn=alice sid=counts strong`. A form that found nobody
/// is left out; one that the authority may not vouch for has a `?`.
pub fn trail(steps: &[Step]) -> String {
    let mut text = String::new();
    let mut parts = 0;
    for step in steps {
        if parts == PARTS_MAX {
            text.push_str(" …");
            break;
        }
        let before = text.len();
        if !text.is_empty() {
            text.push(' ');
        }
        let written = text.len();
        part(step, &mut text);
        match text.len() == written {
            true => text.truncate(before),
            false => parts += 1,
        }
    }
    text
}

fn part(step: &Step, text: &mut String) {
    // Writing to a string cannot fail.
    let _ = match step {
        Step::Chain { path: Ok(_) } => write!(text, "chain=verified"),
        Step::Chain { path: Err(error) } => write!(text, "chain={}", error.name()),
        Step::Revocation { status: Revocation::Good } => write!(text, "revocation=good"),
        Step::Revocation { status: Revocation::Revoked { .. } } => write!(text, "revocation=revoked"),
        Step::Revocation { status: Revocation::Unknown { why, .. } } => {
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
        Step::Weighed { evidence, strength, .. } => {
            for evidence in evidence {
                let _ = write!(text, "{}={} ", evidence.form, evidence.state.name());
            }
            match strength {
                Strength::Weak => write!(text, "weak"),
                Strength::Strong(_) => write!(text, "strong"),
            }
        }
        Step::ChainNotVerified | Step::Skipped { .. } | Step::Decided { .. } => Ok(()),
    };
}
