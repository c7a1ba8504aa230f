use super::*;
use crate::identity::Assurance;
use crate::scene::{alice, sid};
use crate::token::TokenSigner;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use std::collections::BTreeSet;
use std::time::Duration;

const PRESETS: [Preset; 4] = [Preset::Remote, Preset::Forwarded, Preset::LookupIdentity, Preset::None];
const ENCODINGS: [Encoding; 3] = [Encoding::Percent, Encoding::Utf8, Encoding::Structured];

fn facts() -> Facts<'static> {
    Facts { decision: "d0", certificate: Some(&[0xab; 32]), token: Some("a.b.c") }
}

/// An account of another domain, whose groups have names that ours have.
fn bob() -> Identity {
    Identity {
        domain: "FABRIKAM".to_owned(),
        is_ours: false,
        account: "bob".to_owned(),
        upn: None,
        full_name: None,
        mail: None,
        groups: vec![Group { sid: sid("S-1-5-21-9-9-9-1100"), name: Some("Staff".to_owned()) }],
        ..alice()
    }
}

fn groups(identity: Identity, names: &[&str]) -> Identity {
    let group = |(at, name): (usize, &&str)| Group {
        sid: sid(&format!("S-1-5-21-1-2-3-{at}")),
        name: Some((*name).to_owned()),
    };
    Identity { groups: names.iter().enumerate().map(group).collect(), ..identity }
}

#[track_caller]
fn check(format: &Format, identity: &Identity, expected: &[(&str, &str)]) {
    let written = format.write(identity, facts());
    for (name, value) in expected {
        let is = written.headers.get(*name).map(HeaderValue::as_bytes);
        let is = is.map(|value| str::from_utf8(value).expect("UTF-8"));
        assert_eq!(is, Some(*value), "{name} under {format:?}");
    }
}

#[test]
fn each_preset_says_who_it_is() {
    for (preset, expected) in [
        (
            Preset::Remote,
            [
                ("remote-user", r"CONTOSO\alice"),
                ("remote-groups", "Domain Users,Staff"),
                ("remote-name", "Alice Liddell"),
                ("remote-email", ""),
            ],
        ),
        (
            Preset::Forwarded,
            [
                ("x-forwarded-user", r"CONTOSO\alice"),
                ("x-forwarded-groups", "Domain Users,Staff"),
                ("x-forwarded-preferred-username", "Alice Liddell"),
                ("x-forwarded-email", ""),
            ],
        ),
        (
            Preset::LookupIdentity,
            [
                ("x-remote-user", r"CONTOSO\alice"),
                ("x-remote-user-groups", "Domain Users:Staff"),
                ("x-remote-user-fullname", "Alice Liddell"),
                ("x-remote-user-email", ""),
            ],
        ),
    ] {
        check(&Format { preset, ..Format::default() }, &alice(), &expected);
    }
    for preset in PRESETS {
        let own = [
            ("x-identity-sid", "S-1-5-21-1-2-3-1000"),
            ("x-identity-domain", "CONTOSO"),
            ("x-identity-account", "alice"),
            ("x-identity-upn", "alice@contoso.example"),
            ("x-identity-group-sids", "S-1-5-21-1-2-3-513,S-1-5-21-1-2-3-1100"),
            ("x-identity-method", "upn"),
            ("x-identity-strength", "strong"),
            ("x-identity-rule", "sid_extension"),
            ("x-identity-decision", "d0"),
            ("x-identity-stale", ""),
            ("x-identity-policy-revision", "7"),
            ("x-identity-certificate-sha256", &"ab".repeat(32)),
            ("x-identity-reference", ""),
            ("x-identity-token", "a.b.c"),
        ];
        check(&Format { preset, ..Format::default() }, &alice(), &own);
    }
}

#[test]
fn what_is_not_known_is_empty() {
    let nothing = Identity { method: None, assurance: Assurance::Unknown, ..groups(bob(), &[]) };
    let expected = [
        ("remote-groups", ""),
        ("remote-name", ""),
        ("x-identity-upn", ""),
        ("x-identity-group-sids", ""),
        ("x-identity-method", ""),
        ("x-identity-strength", "unknown"),
        ("x-identity-rule", ""),
    ];
    for encoding in ENCODINGS {
        check(&Format { encoding, ..Format::default() }, &nothing, &expected);
    }
    let weak = Identity { assurance: Assurance::Weak, ..alice() };
    check(&Format::default(), &weak, &[("x-identity-strength", "weak"), ("x-identity-rule", "")]);
    let stale = Identity { stale_s: Some(75), ..alice() };
    check(&Format::default(), &stale, &[("x-identity-stale", "75"), ("remote-user", r"CONTOSO\alice")]);
}

#[test]
fn every_header_is_there_for_every_user() {
    for preset in PRESETS {
        let format = Format { preset, value_len_max: 3, ..Format::default() };
        let names = |headers: &HeaderMap| headers.keys().map(ToString::to_string).collect::<BTreeSet<_>>();
        let advertised: BTreeSet<_> = format.advertised().map(|name| name.to_string()).collect();
        assert_eq!(names(&format.without_account()), advertised);
        assert!(format.without_account().values().all(HeaderValue::is_empty));
        for identity in [alice(), bob()] {
            let headers = format.write(&identity, Facts { token: None, ..facts() }).headers;
            assert_eq!(names(&headers), advertised);
            assert_eq!(headers.len(), advertised.len(), "each once");
        }
    }
}

#[test]
fn text_is_written_so_that_it_stays_one_value() {
    for (text, percent, utf8, structured) in [
        ("Alice", "Alice", "Alice", r#""Alice""#),
        ("Liddell, A: B; C", "Liddell, A: B; C", "Liddell, A: B; C", r#""Liddell, A: B; C""#),
        ("100%", "100%25", "100%25", r#""100%""#),
        ("%41", "%2541", "%2541", r#""%41""#),
        (r#"a"b\c"#, r#"a"b\c"#, r#"a"b\c"#, r#""a\"b\\c""#),
        ("Zoë", "Zo%C3%AB", "Zoë", r#"%"Zo%c3%ab""#),
        ("😀", "%F0%9F%98%80", "😀", r#"%"%f0%9f%98%80""#),
        ("a\r\nX: b", "a%0D%0AX: b", "a%0D%0AX: b", r#"%"a%0d%0aX: b""#),
        ("a\0b\u{7f}c", "a%00b%7Fc", "a%00b%7Fc", r#"%"a%00b%7fc""#),
        ("a\u{85}b", "a%C2%85b", "a%C2%85b", r#"%"a%c2%85b""#),
        (" a b ", "%20a b%20", "%20a b%20", r#"" a b ""#),
        ("\u{a0}a", "%C2%A0a", "%C2%A0a", r#"%"%c2%a0a""#),
        ("  ", "%20%20", "%20%20", r#""  ""#),
        ("\"ü%", "\"%C3%BC%25", "\"ü%25", r#"%"%22%c3%bc%25""#),
        // RFC 9651, section 3.3.8.
        (
            "This is intended for display to ü users.",
            "This is intended for display to %C3%BC users.",
            "This is intended for display to ü users.",
            r#"%"This is intended for display to %c3%bc users.""#,
        ),
    ] {
        let identity = Identity { full_name: Some(text.to_owned()), account: text.to_owned(), ..alice() };
        for (encoding, expected) in ENCODINGS.into_iter().zip([percent, utf8, structured]) {
            let format = Format { encoding, ..Format::default() };
            check(&format, &identity, &[("remote-name", expected), ("x-identity-account", expected)]);
        }
    }
}

#[test]
fn a_group_stays_one_group() {
    let identity = groups(alice(), &["a,b", "c:d", "50%", " e", "f ", "ü", "g\nh", r#"i"\"#]);
    for (preset, encoding, name, expected) in [
        (Preset::Remote, Encoding::Percent, "remote-groups", r#"a%2Cb,c:d,50%25,%20e,f%20,%C3%BC,g%0Ah,i"\"#),
        (Preset::Remote, Encoding::Utf8, "remote-groups", r#"a%2Cb,c:d,50%25,%20e,f%20,ü,g%0Ah,i"\"#),
        (
            Preset::LookupIdentity,
            Encoding::Percent,
            "x-remote-user-groups",
            r#"a,b:c%3Ad:50%25:%20e:f%20:%C3%BC:g%0Ah:i"\"#,
        ),
        (
            Preset::Forwarded,
            Encoding::Structured,
            "x-forwarded-groups",
            r#""a,b", "c:d", "50%", " e", "f ", %"%c3%bc", %"g%0ah", "i\"\\""#,
        ),
    ] {
        check(&Format { preset, encoding, ..Format::default() }, &identity, &[(name, expected)]);
    }
}

#[test]
fn a_group_is_named_where_the_name_is_ours() {
    let format = Format::default();
    check(&format, &bob(), &[("remote-groups", "S-1-5-21-9-9-9-1100")]);
    let group_names = HashMap::from([(sid("S-1-5-21-9-9-9-1100"), "Partners".to_owned())]);
    let named = Format { group_names, ..Format::default() };
    check(&named, &bob(), &[("remote-groups", "Partners"), ("x-identity-group-sids", "S-1-5-21-9-9-9-1100")]);
    let sids = Format { groups: GroupForm::Sids, ..named };
    check(&sids, &bob(), &[("remote-groups", "S-1-5-21-9-9-9-1100")]);
    check(&sids, &alice(), &[("remote-groups", "S-1-5-21-1-2-3-513,S-1-5-21-1-2-3-1100")]);
    // A name that another group has gives no membership.
    let posing = groups(alice(), &["S-1-5-32-544", "s-1-5-32-544", "", "Staff"]);
    let expected = "S-1-5-21-1-2-3-0,S-1-5-21-1-2-3-1,S-1-5-21-1-2-3-2,Staff";
    check(&format, &posing, &[("remote-groups", expected)]);
    let mut nameless = alice();
    nameless.groups.iter_mut().for_each(|group| group.name = None);
    check(&format, &nameless, &[("remote-groups", "S-1-5-21-1-2-3-513,S-1-5-21-1-2-3-1100")]);
}

#[test]
fn the_account_is_named_as_it_is_wanted() {
    let as_upn = |identity: Identity, upn: &str| Identity { upn: Some(upn.to_owned()), ..identity };
    let as_account = |account: &str| Identity { account: account.to_owned(), ..alice() };
    for (identity, domain, upn, plain) in [
        (alice(), r"CONTOSO\alice", "alice@contoso.example", "alice"),
        (bob(), r"FABRIKAM\bob", r"FABRIKAM\bob", r"FABRIKAM\bob"),
        (as_upn(bob(), "bob@fabrikam.example"), r"FABRIKAM\bob", "bob@fabrikam.example", r"FABRIKAM\bob"),
        // Names that pose as others.
        (as_upn(bob(), r"CONTOSO\alice"), r"FABRIKAM\bob", r"FABRIKAM\bob", r"FABRIKAM\bob"),
        (as_upn(bob(), r"CONTOSO\a@b"), r"FABRIKAM\bob", r"FABRIKAM\bob", r"FABRIKAM\bob"),
        (
            as_account(r"FABRIKAM\bob"),
            r"CONTOSO\FABRIKAM\bob",
            "alice@contoso.example",
            r"CONTOSO\FABRIKAM\bob",
        ),
    ] {
        for (user, expected) in [(UserForm::Domain, domain), (UserForm::Upn, upn), (UserForm::Plain, plain)] {
            let format = Format { user, ..Format::default() };
            assert_eq!(format.user(&identity), expected);
            check(&format, &identity, &[("remote-user", expected)]);
        }
    }
}

#[test]
fn what_is_too_long_is_left_out_whole() {
    let check = |names: &[&str], value_len_max: usize, expected: &[(&str, &str)], is_cut: bool| {
        let format = Format { value_len_max, ..Format::default() };
        let written = format.write(&groups(alice(), names), Facts { token: None, ..facts() });
        for (name, value) in expected {
            assert_eq!(written.headers[*name], *value, "{name}");
        }
        assert_eq!(written.is_cut, is_cut);
        assert_eq!(written.headers["x-identity-reference"], if is_cut { "d0" } else { "" });
    };
    // The longest other value is the hash's, of 64.
    let long = "g".repeat(64);
    check(&[&long], 64, &[("remote-groups", &long)], false);
    check(&[&format!("{long}g")], 64, &[("remote-groups", ""), ("remote-name", "Alice Liddell")], true);
    check(&[&long[..32], &long[..32]], 64, &[("remote-groups", "")], true);
    check(&["%".repeat(22).as_str()], 64, &[("remote-groups", "")], true);
    // Together: what an application decides by comes first.
    let (half, quarter) = ("g".repeat(4096), "g".repeat(1024));
    let sids = "S-1-5-21-1-2-3-0";
    check(&[&half], 4096, &[("remote-groups", &half), ("x-identity-group-sids", sids)], false);
    let many: Vec<&str> = [quarter.as_str()].into_iter().chain(std::iter::repeat_n("g", 130)).collect();
    let all = many.join(",");
    check(&many, 4096, &[("remote-groups", &all)], false);
    let many: Vec<&str> = std::iter::repeat_n("gggggggggggg", 220).collect();
    check(&many, 4096, &[("remote-groups", &many.join(",")), ("x-identity-group-sids", "")], true);
    let written = Format::default().write(&alice(), Facts { token: Some(&"t".repeat(4097)), ..facts() });
    assert!(written.is_cut && written.headers["x-identity-token"].is_empty());
}

#[test]
fn what_is_essential_stays_and_more_groups_bring_nothing_back() {
    let random = SystemRandom::new();
    let key = Ed25519KeyPair::generate_pkcs8(&random).expect("a key can be made");
    let (issuer, audience) = ("https://proxy.example".to_owned(), "app".to_owned());
    let signer = TokenSigner::new(key.as_ref(), issuer, audience, Duration::from_secs(60)).expect("a key");
    let counts = || (0..=70).chain((70..=2000).step_by(193)).chain([2000]);
    for (preset, encoding) in
        PRESETS.into_iter().flat_map(|preset| ENCODINGS.map(|encoding| (preset, encoding)))
    {
        for (value_len_max, name_len) in
            [256, 1100, 4096, 16_384].into_iter().flat_map(|max| [1, 40, 60, 240].map(|len| (max, len)))
        {
            let format = Format { preset, encoding, value_len_max, ..Format::default() };
            // One that percent-encoding makes longer, and one that it does not.
            let name = if name_len % 40 == 0 { "ü" } else { "g" }.repeat(name_len);
            let mut lost = BTreeSet::new();
            for count in counts() {
                let mut identity = Identity {
                    full_name: Some(name.clone()),
                    ..groups(alice(), &vec![name.as_str(); count])
                };
                // SIDs are as long as those of a domain.
                for (at, group) in identity.groups.iter_mut().enumerate() {
                    group.sid = sid(&format!("S-1-5-21-1111111111-2222222222-3333333333-{}", 1000 + at));
                }
                let user = format.user(&identity);
                let now = dtyp::FileTime::from_unix(1_900_000_000);
                let facts = Facts { token: None, ..facts() };
                let token = signer.sign((&identity, None), &user, &facts, (now, format.essential_len_max()));
                let written = format.write(&identity, Facts { token: token.as_deref(), ..facts });
                let said = format!("{preset:?} {encoding:?} {value_len_max} {name_len} {count}");
                let user_header = preset.headers().first().map(|(name, _)| *name);
                for name in ["x-identity-sid", "x-identity-account", "x-identity-token"]
                    .into_iter()
                    .chain(user_header)
                {
                    assert!(!written.headers[name].is_empty(), "{name}: {said}");
                }
                let empty = written
                    .headers
                    .iter()
                    .filter(|(_, value)| value.is_empty())
                    .map(|(name, _)| name.to_string());
                let mut empty: BTreeSet<_> = empty.collect();
                // An account without groups has an empty list, which is not cut; the reference is there when
                // something is.
                if count == 0 {
                    empty.retain(|name| !name.contains("group"));
                }
                empty.remove("x-identity-reference");
                let claims = token.as_deref().and_then(|token| token.split('.').nth(1)).expect("claims");
                let claims = BASE64URL.decode(claims).expect("base64url");
                let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
                if claims.get("groups").is_none() {
                    empty.insert("groups of the token".to_owned());
                }
                assert!(empty.is_superset(&lost), "{lost:?} and then {empty:?}: {said}");
                lost = empty;
                let all: usize = written.headers.values().map(HeaderValue::len).sum();
                assert!(all <= VALUES_LEN_MAX.max(value_len_max) + 2 * ESSENTIAL_LEN_MAX, "{all}: {said}");
            }
        }
    }
}

#[test]
fn a_name_of_the_operator_takes_the_place_of_ours() {
    let name = |text: &str| custom_name(text).expect(text);
    let names = [(Meaning::User, name("X-WEBAUTH-USER")), (Meaning::Token, name("X-Token"))];
    for preset in PRESETS {
        let format = Format { preset, names: names.clone().into(), ..Format::default() };
        check(&format, &alice(), &[("x-webauth-user", r"CONTOSO\alice"), ("x-token", "a.b.c")]);
        let written = format.write(&alice(), facts()).headers;
        let advertised: BTreeSet<_> = format.advertised().map(|name| name.to_string()).collect();
        let is: BTreeSet<_> = written.keys().map(ToString::to_string).collect();
        assert_eq!(is, advertised);
        for (plain, _) in preset
            .headers()
            .iter()
            .chain(&OWN)
            .filter(|(_, meaning)| matches!(meaning, Meaning::User | Meaning::Token))
        {
            assert!(!written.contains_key(*plain), "{plain}");
        }
        // The names that are not used stay ours, and so are the new ones.
        let known: Vec<_> = format.known().map(|name| name.to_string()).collect();
        for name in ["remote-user", "x-forwarded-user", "x-identity-token", "x-webauth-user", "x-token"] {
            assert_eq!(known.iter().filter(|known| *known == name).count(), 1, "{name}");
        }
    }
    // The longest identity: the account stays under its new name, and the reference under its own.
    let names = [(Meaning::User, name("X-WEBAUTH-USER")), (Meaning::Reference, name("X-Whole"))];
    let format = Format { names: names.into(), value_len_max: 256, ..Format::default() };
    let many: Vec<String> = (0..2000).map(|n| format!("Group {n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let written = format.write(&groups(alice(), &many), facts());
    assert!(written.is_cut);
    check(
        &format,
        &groups(alice(), &many),
        &[("x-webauth-user", r"CONTOSO\alice"), ("x-whole", "d0"), ("remote-groups", "")],
    );
}

#[test]
fn names_with_another_meaning_are_no_names_of_identity_headers() {
    for name in
        ["X-WEBAUTH-USER", "x-user", "Remote-User", "X-Forwarded-User", "X-Auth-Request-Email", "Oidc2"]
    {
        assert_eq!(custom_name(name).map(|name| name.to_string()), Ok(name.to_lowercase()), "{name}");
    }
    let long = format!("X-{}", "a".repeat(NAME_LEN_MAX - 1));
    for name in [
        "",
        " ",
        "X User",
        "X-User ",
        "X_User",
        "X.User",
        "X~User",
        "X-User:",
        "X-User\r\nY",
        "X\u{dc}ser",
        "-User",
        "X-",
        "X--User",
        "1-User",
        &long,
        // Framing, hop by hop, authentication.
        "Host",
        "content-length",
        "Content-Type",
        "Transfer-Encoding",
        "Connection",
        "TE",
        "Trailer",
        "Upgrade",
        "Keep-Alive",
        "Proxy",
        "Proxy-Authorization",
        "Authorization",
        "Cookie",
        "Set-Cookie",
        "WWW-Authenticate",
        "Location",
        "X-Accel-Redirect",
        // Address, scheme, host and path.
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Anything",
        "X-Real-IP",
        "X-Original-URL",
        // Ours, and the proxy's.
        "X-Identity-Sid",
        "X-Sidecar-Secret",
        "SSL-Client-Verify",
        "Client-Cert",
        "X-Forwarded-Client-Cert",
    ] {
        assert!(custom_name(name).is_err(), "{name}");
    }
}
