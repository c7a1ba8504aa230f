//! The tables of decisions: certificate, policy and accounts, and what is decided, one sentence a case.
//!
//! A file in `decisions/` is an array of `[[case]]`. Each case has `what`, a fact in a short sentence, and
//! `rule`, the document and section that says so with its sentence in our words; where the product does
//! otherwise, or the papers say nothing and it had to choose, `differs` tells so. The rest of a case is what
//! `decisions/notation.rs` says, and it is read strictly: a key that is not known fails. All cases of a file
//! run, and all that fail are told.
//!
//! [MS-RCMP] is cited as v16.0 (2024-04-23) has it, and so are its notes: <2> the comparison of names, which
//! v11.0 has in 3.5.2, <3> and <4> the strings of altSecurityIdentities, which are <2> and <3> in v11.0.
//!
//! What accounts have stored is never made by the code that is tested: `decisions/stored.rs` reads the
//! certificate with another parser and writes the value as the digest of [MS-RCMP], section 5, says.

mod cases;
#[path = "decisions/notation.rs"]
mod notation;
#[path = "decisions/stored.rs"]
mod stored;

use dtyp::NtStatus;
use notation::{Case, Setting};
use rcmp_service::policy::{AuthorityPolicy, Grant, Grants};
use rcmp_service::trace::Step;
use rcmp_service::{Answer, Binding, Policy, Reason, Strength, Validation};
use std::path::{Path, PathBuf};

/// There are no fewer cases than this; the number only grows.
const CASES_MIN: usize = 420;

/// The files of cases, each of which has its test below.
const FILES: [&str; 13] = [
    "ambiguity",
    "authorities",
    "binding",
    "chain",
    "comparison",
    "grants",
    "issuer",
    "methods",
    "restrictions",
    "sid",
    "strong-forms",
    "tuples",
    "weak-forms",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/decisions")
}

/// Looks at the cases of some files, and tells all that fail.
#[track_caller]
fn cases(files: &[&str], check: impl Fn(&Case)) {
    cases::run(&folder(), files, check);
}

#[track_caller]
fn table(file: &str) {
    cases(&[file], |case| {
        let answer = case.setting().answer().expect("the policy makes sense");
        assert_eq!(decided(&answer), case.expect.decided());
        let reason = answer.reason;
        assert_eq!(reason.event_id(), case.expect.event, "the event");
        assert_eq!(answer.status, case.expect.status(), "the status");
        assert_eq!(answer.authoritative, answer.status != NtStatus::DS_BUSY, "authoritative");
        if let Reason::Chain(error) = reason {
            assert_eq!(Some(error.name()), case.expect.chain.as_deref(), "the chain");
        }
    });
}

/// What was decided, in the words of the tables.
fn decided(answer: &Answer) -> String {
    match &answer.mapped {
        None => answer.reason.name().to_owned(),
        Some(mapped) => {
            let strength = match mapped.strength {
                Strength::Weak => "weak".to_owned(),
                Strength::Strong(form) => format!("strong by {form}"),
            };
            format!("{} by {}, {strength}", mapped.record.account.name, mapped.method)
        }
    }
}

/// The account that it maps.
fn account(answer: &Answer) -> Option<&str> {
    answer.mapped.as_ref().map(|mapped| mapped.record.account.name.as_str())
}

#[test]
fn the_folder_holds_as_many_cases_as_promised() {
    cases::count(&folder(), &FILES, &[], CASES_MIN);
}

#[test]
fn the_methods_follow_each_other_on_absence_alone() {
    table("methods");
}

#[test]
fn what_is_ambiguous_maps_no_account() {
    table("ambiguity");
}

#[test]
fn strong_forms_find_and_bind() {
    table("strong-forms");
}

#[test]
fn weak_forms_find_and_do_not_bind() {
    table("weak-forms");
}

#[test]
fn the_binding_weighs_names() {
    table("binding");
}

#[test]
fn a_sid_of_another_account_ends_the_request() {
    table("sid");
}

#[test]
fn a_form_counts_for_whom_it_is_granted() {
    table("grants");
}

#[test]
fn the_rules_of_authorities_only_take_away() {
    table("authorities");
}

#[test]
fn policies_of_an_issuing_authority_make_names_strong() {
    table("tuples");
}

#[test]
fn values_are_compared_as_the_policy_says() {
    table("comparison");
}

#[test]
fn a_certificate_without_a_verified_path_maps_no_account() {
    table("chain");
}

#[test]
fn restrictions_come_last_and_are_not_told() {
    table("restrictions");
}

#[test]
fn an_issuer_is_the_weakest_of_names() {
    table("issuer");
}

#[test]
fn an_explanation_decides_the_same() {
    cases(&FILES, |case| {
        let setting = case.setting();
        let (answer, steps) = setting.explanation().expect("the policy makes sense");
        assert_eq!(decided(&answer), decided(&setting.answer().expect("the policy makes sense")));
        assert!(matches!(steps.last(), Some(Step::Decided { reason }) if *reason == answer.reason));
    });
}

/// An issuer is its key: what maps for the authority's own signature is refused for every other one.
#[test]
fn a_signature_by_another_key_maps_no_account() {
    cases(&FILES, |case| {
        let mut setting = case.setting();
        if setting.policy.validation == Validation::Off {
            return;
        }
        setting.certificate = case.certificate.signed_by_unknown_ca();
        let answer = setting.answer().expect("the policy makes sense");
        let unverified =
            matches!(answer.reason, Reason::Chain(_) | Reason::NoMethod | Reason::MalformedCertificate);
        assert!(unverified, "{}", decided(&answer));
    });
}

/// Without a verified chain it is not known which CA vouches by a strong form.
#[test]
fn nothing_is_strong_without_a_verified_chain() {
    cases(&FILES, |case| {
        let mut setting = case.setting();
        setting.trust = None;
        setting.policy.validation = Validation::Off;
        setting.policy.grants = Grants::standard(Validation::Chain);
        for binding in [Binding::Off, Binding::Compat] {
            setting.policy.binding = binding;
            let answer = setting.answer().expect("the policy makes sense");
            let strength = answer.mapped.as_ref().map(|mapped| mapped.strength);
            assert!(!matches!(strength, Some(Strength::Strong(_))), "{}", decided(&answer));
        }
    });
}

/// A stricter policy, and what is stricter about it.
type Stricter = (String, Setting);

/// The same with a stricter binding or backdating, in general or for one authority.
fn more_binding(setting: &Setting) -> Vec<Stricter> {
    let mut all = Vec::new();
    let mut stricter = |what: String, change: &dyn Fn(&mut Policy)| {
        let mut setting = setting.clone();
        change(&mut setting.policy);
        all.push((what, setting));
    };
    for binding in [Binding::Compat, Binding::Full] {
        if binding > setting.policy.binding {
            stricter(format!("binding {}", binding.name()), &|policy| policy.binding = binding);
        }
        for (role, key) in setting.authorities() {
            stricter(format!("binding {} for {role}", binding.name()), &|policy| {
                let entry = policy.authorities.entry(key).or_insert_with(AuthorityPolicy::default);
                entry.binding = entry.binding.max(Some(binding));
            });
        }
    }
    stricter("no backdating".into(), &|policy| policy.backdating_s = 0);
    all
}

/// The same without one of the anchors, and without the intermediates that only it vouches for.
fn fewer_anchors(setting: &Setting) -> Vec<Stricter> {
    let trust = setting.trust.iter().filter(|trust| trust.anchors.len() > 1);
    trust
        .flat_map(|trust| &trust.anchors)
        .map(|anchor| {
            let mut setting = setting.clone();
            setting.trust.iter_mut().for_each(|trust| trust.remove(*anchor));
            (format!("without anchor {anchor:?}"), setting)
        })
        .collect()
}

/// The same without one of the grants.
fn fewer_grants(setting: &Setting) -> Vec<Stricter> {
    let without = |grants: &Grants, at: usize| {
        let mut left: Vec<Grant> = grants.iter().cloned().collect();
        let gone = left.remove(at);
        (gone.form, Grants::new(left))
    };
    let general = (0..setting.policy.grants.iter().count()).map(|at| {
        let mut setting = setting.clone();
        let (form, left) = without(&setting.policy.grants, at);
        setting.policy.grants = left;
        (format!("without the grant of {form}"), setting)
    });
    let own = setting.policy.authorities.iter().flat_map(|(key, entry)| {
        let grants = entry.grants.iter();
        grants.flat_map(move |grants| (0..grants.iter().count()).map(move |at| (key, without(grants, at))))
    });
    let own = own.map(|(key, (form, left))| {
        let mut setting = setting.clone();
        if let Some(entry) = setting.policy.authorities.get_mut(key) {
            entry.grants = Some(left);
        }
        (format!("without an authority's grant of {form}"), setting)
    });
    general.chain(own).collect()
}

/// What a stricter policy maps that this one does not.
fn widened(setting: &Setting, stricter: Vec<Stricter>) -> Vec<String> {
    let before = setting.answer().expect("the policy makes sense");
    let mut widened = Vec::new();
    for (what, setting) in stricter {
        // A policy that could map no account is refused as a whole, which is strict enough.
        let Ok(after) = setting.answer() else { continue };
        if account(&after).is_some() && account(&after) != account(&before) {
            widened.push(format!("{what}: {} instead of {}", decided(&after), decided(&before)));
        }
    }
    widened
}

#[test]
fn a_stricter_binding_never_maps_more() {
    cases(&FILES, |case| {
        let setting = case.setting();
        let widened = widened(&setting, more_binding(&setting));
        assert!(widened.is_empty(), "{}", widened.join("; "));
    });
}

/// A certificate has one verified path, the first that is found, and the rules of what is on it. Where there
/// are two, another is found when an anchor is gone; cases in which that is so say why.
#[test]
fn fewer_anchors_never_map_more_but_where_there_are_two_paths() {
    cases(&FILES, |case| {
        let setting = case.setting();
        told(&widened(&setting, fewer_anchors(&setting)), case.two_ways.as_deref());
    });
}

/// A form that is not granted is as good as absent, so a certificate that names two accounts is the other's
/// when the one is no longer for its authority to name. Cases in which that is so say why.
#[test]
fn fewer_grants_never_map_more_but_for_certificates_that_name_two() {
    cases(&FILES, |case| {
        let setting = case.setting();
        told(&widened(&setting, fewer_grants(&setting)), case.names_two.as_deref());
    });
}

/// Exceptions are told, and are exceptions.
#[track_caller]
fn told(widened: &[String], why: Option<&str>) {
    match why {
        None => assert!(widened.is_empty(), "{}", widened.join("; ")),
        Some(why) => assert!(!widened.is_empty(), "it is no exception: {why}"),
    }
}
