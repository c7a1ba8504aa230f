//! Hierarchies drawn at random, which openssl judges with us: constraints, policies, key usages, path
//! lengths, self-issued CAs.
//!
//! Where we differ, on purpose, is in [`differs`], with the reason; nothing else may.

use super::*;
use crate::trust::policies::document::{Said, by_the_document};
use proptest::prelude::*;
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, KeyUsagePurpose};
use std::process::Command;
use std::sync::LazyLock;

/// How many hierarchies; each starts openssl once.
const CASES: u32 = 200;

/// anyPolicy; the other policies are 1.2.1.1 to 1.2.1.3.
const ANY: u8 = 0;

const NAMES: [(u8, &str); 10] = [
    (0x82, "www.a.example"),
    (0x82, "www.b.example"),
    (0x82, "A.example"),
    (0x81, "x@a.example"),
    (0x81, "x@sub.a.example"),
    (0x81, "y@b.example"),
    (0x86, "https://www.a.example/x"),
    (0x86, "http://u@b.example:80/"),
    (0x87, "\u{1}\u{2}\u{3}\u{4}"),
    (0x87, "\u{9}\u{2}\u{3}\u{4}"),
];

const BASES: [(u8, &str); 10] = [
    (0x82, "a.example"),
    (0x82, "b.example"),
    (0x82, ""),
    (0x81, "a.example"),
    (0x81, ".a.example"),
    (0x81, "x@a.example"),
    (0x86, "www.a.example"),
    (0x86, ".a.example"),
    (0x87, "\u{1}\u{2}\0\0\u{7f}\u{7f}\0\0"),
    (0xa4, "Contoso"),
];

#[derive(Clone, Debug)]
struct Drawn {
    self_issued: bool,
    path_len: Option<u8>,
    policies: Option<Vec<u8>>,
    mappings: Vec<(u8, u8)>,
    policy_constraints: (Option<u8>, Option<u8>),
    inhibit_any: Option<u8>,
    /// Indices into [`BASES`].
    permitted: Vec<usize>,
    excluded: Vec<usize>,
    server_only: bool,
}

#[derive(Clone, Debug)]
struct DrawnLeaf {
    policies: Option<Vec<u8>>,
    require_explicit: bool,
    /// Indices into [`NAMES`].
    names: Vec<usize>,
    mail_in_subject: Option<bool>,
    contoso: bool,
    key_usage: u8,
    server_only: bool,
}

fn rare<T: Clone + std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.2, of)
}

fn policies() -> impl Strategy<Value = Option<Vec<u8>>> {
    let list = prop::collection::btree_set(0u8..4, 1..4).prop_map(|all| all.into_iter().collect::<Vec<_>>());
    prop::option::weighted(0.8, list)
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let bases = || prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(0..BASES.len(), 1..4)];
    (
        prop::bool::weighted(0.2),
        rare(0u8..3),
        policies(),
        prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec((1u8..4, 1u8..4), 1..3)],
        (rare(0u8..3), rare(0u8..3)),
        rare(0u8..3),
        bases(),
        bases(),
        prop::bool::weighted(0.05),
    )
        .prop_map(
            |(
                self_issued,
                path_len,
                policies,
                mut mappings,
                policy_constraints,
                inhibit_any,
                permitted,
                excluded,
                server_only,
            )| {
                mappings.sort_unstable();
                mappings.dedup();
                Drawn {
                    self_issued,
                    path_len,
                    policies,
                    mappings,
                    policy_constraints,
                    inhibit_any,
                    permitted,
                    excluded,
                    server_only,
                }
            },
        )
}

fn drawn_leaf() -> impl Strategy<Value = DrawnLeaf> {
    (
        policies(),
        prop::bool::weighted(0.2),
        prop::collection::vec(0..NAMES.len(), 0..3),
        rare(any::<bool>()),
        any::<bool>(),
        prop_oneof![8 => Just(0u8), 1 => 1u8..4],
        prop::bool::weighted(0.05),
    )
        .prop_map(
            |(policies, require_explicit, names, mail_in_subject, contoso, key_usage, server_only)| {
                DrawnLeaf {
                    policies,
                    require_explicit,
                    names,
                    mail_in_subject,
                    contoso,
                    key_usage,
                    server_only,
                }
            },
        )
}

fn oid(policy: u8) -> Vec<u8> {
    match policy {
        ANY => der::encode(der::OID, &[&[0x55, 0x1d, 0x20, 0x00]]),
        policy => der::encode(der::OID, &[&[0x2a, 0x01, policy]]),
    }
}

fn custom(id: u64, critical: bool, value: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, id], value);
    extension.set_criticality(critical);
    extension
}

fn certificate_policies(policies: &Option<Vec<u8>>) -> Option<CustomExtension> {
    let list: Vec<u8> =
        policies.as_ref()?.iter().flat_map(|policy| der::encode(der::SEQUENCE, &[&oid(*policy)])).collect();
    Some(custom(32, false, der::encode(der::SEQUENCE, &[&list])))
}

fn counts(tag: u8, count: Option<u8>) -> Vec<u8> {
    count.map_or(Vec::new(), |count| der::encode(tag, &[&[count]]))
}

/// The text of a name or a base in its form.
fn general((tag, text): (u8, &str)) -> Vec<u8> {
    match tag {
        0xa4 => der::encode(tag, &[&organization(text)]),
        // 0x7f stands for a whole octet, which text cannot have.
        0x87 => {
            let octets: Vec<u8> =
                text.bytes().map(|octet| if octet == 0x7f { 0xff } else { octet }).collect();
            der::encode(tag, &[&octets])
        }
        _ => der::encode(tag, &[text.as_bytes()]),
    }
}

fn organization(text: &str) -> Vec<u8> {
    let attribute =
        [der::encode(der::OID, &[&[0x55, 0x04, 0x0a]]), der::encode(0x0c, &[text.as_bytes()])].concat();
    der::encode(der::SEQUENCE, &[&der::encode(der::SET, &[&der::encode(der::SEQUENCE, &[&attribute])])])
}

fn ca_extensions(drawn: &Drawn) -> Vec<CustomExtension> {
    let mut extensions: Vec<CustomExtension> = certificate_policies(&drawn.policies).into_iter().collect();
    if !drawn.mappings.is_empty() && drawn.policies.is_some() {
        let pair = |(from, to): &(u8, u8)| der::encode(der::SEQUENCE, &[&oid(*from), &oid(*to)]);
        let list: Vec<u8> = drawn.mappings.iter().flat_map(pair).collect();
        extensions.push(custom(33, true, der::encode(der::SEQUENCE, &[&list])));
    }
    let (explicit, mapping) = drawn.policy_constraints;
    if explicit.is_some() || mapping.is_some() {
        let value = [counts(0x80, explicit), counts(0x81, mapping)].concat();
        extensions.push(custom(36, true, der::encode(der::SEQUENCE, &[&value])));
    }
    if drawn.inhibit_any.is_some() {
        extensions.push(custom(54, true, counts(der::INTEGER, drawn.inhibit_any)));
    }
    let subtrees = |tag, bases: &[usize]| {
        let subtree = |at: &usize| der::encode(der::SEQUENCE, &[&general(BASES[*at])]);
        let list: Vec<u8> = bases.iter().flat_map(subtree).collect();
        if list.is_empty() { list } else { der::encode(tag, &[&list]) }
    };
    if !drawn.permitted.is_empty() || !drawn.excluded.is_empty() {
        let value = [subtrees(0xa0, &drawn.permitted), subtrees(0xa1, &drawn.excluded)].concat();
        extensions.push(custom(30, true, der::encode(der::SEQUENCE, &[&value])));
    }
    extensions
}

fn leaf_params(leaf: &DrawnLeaf) -> CertificateParams {
    let mut params = params("some user");
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, if leaf.contoso { "CONTOSO" } else { "Fabrikam" });
    params.distinguished_name.push(DnType::CommonName, "some user");
    if let Some(good) = leaf.mail_in_subject {
        let mail = DnType::CustomDnType(vec![1, 2, 840, 113549, 1, 9, 1]);
        let address = if good { "x@a.example" } else { "y@b.example" };
        params.distinguished_name.push(mail, rcgen::DnValue::Ia5String(address.try_into().unwrap()));
    }
    params.custom_extensions.extend(certificate_policies(&leaf.policies));
    if leaf.require_explicit {
        params.custom_extensions.push(custom(
            36,
            true,
            der::encode(der::SEQUENCE, &[&counts(0x80, Some(0))]),
        ));
    }
    if !leaf.names.is_empty() {
        let names: Vec<u8> = leaf.names.iter().flat_map(|at| general(NAMES[*at])).collect();
        params.custom_extensions.push(custom(17, false, der::encode(der::SEQUENCE, &[&names])));
    }
    params.key_usages = match leaf.key_usage {
        0 => vec![KeyUsagePurpose::DigitalSignature],
        1 => vec![],
        2 => vec![KeyUsagePurpose::KeyEncipherment],
        _ => vec![KeyUsagePurpose::KeyAgreement],
    };
    params.extended_key_usages = vec![match leaf.server_only {
        true => ExtendedKeyUsagePurpose::ServerAuth,
        false => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params
}

/// Why openssl accepts what we refuse, or the other way; `told` is what it says.
fn differs(
    cas: &[Drawn],
    leaf: &DrawnLeaf,
    by_the_document: bool,
    refusal: Option<ChainError>,
    told: &str,
) -> Option<&'static str> {
    let maps_any = |ca: &Drawn| {
        !ca.mappings.is_empty() && ca.policies.as_ref().is_some_and(|policies| policies.contains(&ANY))
    };
    match refusal {
        // keyAgreement is enough for it (RFC 5280 4.2.1.12); TLS has the client sign.
        Some(ChainError::NotForSigning) if leaf.key_usage == 3 => Some("keyAgreement"),
        // Where a CA asserts anyPolicy and maps policies, it maps from an anyPolicy that is inhibited, and
        // loses mappings below another anyPolicy. The tree of RFC 5280, step by step, decides.
        Some(ChainError::NoExplicitPolicy) if !by_the_document && cas.iter().any(maps_any) => {
            Some("mapping beside anyPolicy")
        }
        None if by_the_document && cas.iter().any(maps_any) && told.contains("no explicit policy") => {
            Some("mapping beside anyPolicy")
        }
        _ => None,
    }
}

/// The policies of a path, for the tree of RFC 5280.
fn said(cas: &[Drawn], leaf: &DrawnLeaf) -> Vec<Said> {
    let count = |count: Option<u8>| count.map(usize::from);
    let ca = |ca: &Drawn| Said {
        self_issued: ca.self_issued,
        policies: ca.policies.clone(),
        mappings: if ca.policies.is_some() { ca.mappings.clone() } else { Vec::new() },
        require_explicit: count(ca.policy_constraints.0),
        inhibit_mapping: count(ca.policy_constraints.1),
        inhibit_any: count(ca.inhibit_any),
    };
    let leaf = Said {
        policies: leaf.policies.clone(),
        require_explicit: leaf.require_explicit.then_some(0),
        ..Said::default()
    };
    cas.iter().map(ca).chain([leaf]).collect()
}

static KEYS: LazyLock<Vec<KeyPair>> =
    LazyLock::new(|| (0..6).map(|_| KeyPair::generate().unwrap()).collect());

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

fn agree(cas: &[Drawn], leaf: &DrawnLeaf, initial: &[u8], flags: (bool, bool, bool)) {
    let mut issuer = Issuer::new(ca_params("Root"), copy(&KEYS[0]));
    let root = ca_params("Root").self_signed(&KEYS[0]).unwrap().der().to_vec();
    let mut name = "Root".to_owned();
    let mut intermediates = Vec::new();
    for (at, drawn) in cas.iter().enumerate() {
        if !drawn.self_issued {
            name = format!("CA {at}");
        }
        let mut params = ca_params(&name);
        // Of several keys of one name openssl takes the first, unless the identifier says which.
        params.use_authority_key_identifier_extension = true;
        if let Some(len) = drawn.path_len {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(len));
        }
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        if drawn.server_only {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }
        params.custom_extensions = ca_extensions(drawn);
        intermediates.push(params.signed_by(&KEYS[at + 1], &issuer).unwrap().der().to_vec());
        issuer = Issuer::new(params, copy(&KEYS[at + 1]));
    }
    let leaf_der = leaf_params(leaf).signed_by(&KEYS[5], &issuer).unwrap().der().to_vec();

    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    write("root.pem", pem(&root));
    write("cas.pem", intermediates.iter().map(|der| pem(der)).collect());
    write("leaf.pem", pem(&leaf_der));
    let at = now().to_unix().to_string();
    let mut command = Command::new("openssl");
    command.current_dir(folder.path()).args([
        "verify",
        "-attime",
        &at,
        "-purpose",
        "sslclient",
        "-policy_check",
    ]);
    // Without a policy it takes the initial set for empty instead of any-policy.
    let dotted =
        |policy: &u8| if *policy == ANY { "2.5.29.32.0".to_owned() } else { format!("1.2.1.{policy}") };
    let asked = if initial.is_empty() { vec![dotted(&ANY)] } else { initial.iter().map(dotted).collect() };
    for policy in &asked {
        command.args(["-policy", policy]);
    }
    for (flag, option) in
        [(flags.0, "-explicit_policy"), (flags.1, "-inhibit_map"), (flags.2, "-inhibit_any")]
    {
        if flag {
            command.arg(option);
        }
    }
    command.args(["-CAfile", "root.pem"]);
    if !intermediates.is_empty() {
        command.args(["-untrusted", "cas.pem"]);
    }
    let output = command.arg("leaf.pem").output().expect("openssl is installed");

    let ours = Trust::new(Parts {
        anchors: vec![root],
        intermediates,
        extended_key_usages: vec![CLIENT_AUTH.to_vec()],
        policies: PolicyInputs {
            initial: initial.iter().map(|policy| oid(*policy)[2..].to_vec()).collect(),
            require_explicit_policy: flags.0,
            inhibit_policy_mapping: flags.1,
            inhibit_any_policy: flags.2,
        },
        ..Parts::default()
    });
    let ours = ours.unwrap().verify(&leaf_der, now());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let error = ours.as_ref().err().map(|refusal| refusal.error);
    let by_the_document = by_the_document(&said(cas, leaf), initial, flags).is_some();
    if ours.is_ok() != output.status.success() && differs(cas, leaf, by_the_document, error, &told).is_none()
    {
        panic!(
            "{:?}, and openssl says {told:?}: {flags:?} {initial:?} {cas:?} {leaf:?}",
            ours.map(|_| ()).map_err(|it| it.text(None))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn openssl_and_we_agree_on_drawn_hierarchies(
        cas in prop::collection::vec(drawn(), 0..4),
        leaf in drawn_leaf(),
        initial in prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(1u8..4, 1..3)],
        flags in (prop::bool::weighted(0.4), prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
    ) {
        agree(&cas, &leaf, &initial, flags);
    }
}
