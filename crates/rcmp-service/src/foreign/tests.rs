use super::*;
use crate::test::{FABRIKAM as THEIRS, bob, extra, group, sid};
use dtyp::Encode;
use pac::{Buffer, BufferType, ClientInfo, Pac};
use proptest::prelude::*;
use std::collections::HashSet;

const OURS: &str = "S-1-5-21-3623811015-3361044348-30300820";
const THIRD: &str = "S-1-5-21-7-8-9";
const IDENTITY: Sid = Sid::SERVICE_ASSERTED_IDENTITY;

/// An answer of FABRIKAM's and what it is held against; CONTOSO is ours.
#[derive(Clone, Debug)]
struct Case {
    response_domain: String,
    logon_info: LogonInfo,
    client_info: Option<ClientInfo>,
    upn_dns_info: Option<UpnDnsInfo>,
    requestor_sid: Option<Sid>,
    from: ForeignDomain,
    claim: SidClaim,
}

impl Case {
    fn good() -> Self {
        let logon_info = bob();
        let user_sid = logon_info.user_sid().expect("it is a domain's");
        Self {
            response_domain: "fabrikam".into(),
            client_info: Some(ClientInfo {
                client_id: FileTime(133_500_000_000_000_002),
                name: "bob".into(),
            }),
            upn_dns_info: Some(UpnDnsInfo {
                upn: "bob@Mail.Fabrikam.example".into(),
                is_constructed: false,
                dns_domain_name: "FABRIKAM.EXAMPLE.".into(),
                extended: Some(("bob".into(), user_sid)),
            }),
            requestor_sid: Some(user_sid),
            logon_info,
            from: ForeignDomain {
                netbios: "FABRIKAM".into(),
                sid: sid(THEIRS),
                names: vec!["fabrikam.example".into(), "mail.fabrikam.example".into()],
                foreign_sids: ForeignSids::Refuse,
            },
            claim: SidClaim::Account(user_sid),
        }
    }

    fn info(&mut self) -> &mut LogonInfo {
        &mut self.logon_info
    }

    /// Renames the account wherever its name is said.
    fn name(&mut self, name: &str) {
        self.logon_info.effective_name = name.into();
        self.client_info = None;
        self.upn_dns_info = None;
    }

    fn upn(&mut self, upn: &str) {
        self.upn_dns_info.as_mut().expect("it is there").upn = upn.into();
    }

    fn dns(&mut self, name: &str) {
        self.upn_dns_info.as_mut().expect("it is there").dns_domain_name = name.into();
    }

    /// Leaves out what would contradict another RID or domain.
    fn alone(&mut self) -> &mut LogonInfo {
        (self.upn_dns_info, self.requestor_sid, self.claim) = (None, None, SidClaim::Absent);
        self.info()
    }

    fn message(&self) -> Vec<u8> {
        let mut logon_info = self.logon_info.clone();
        logon_info.user_flags |= logon_info.presence_flags();
        let mut encoded = Vec::new();
        logon_info.encode(&mut encoded);
        let buffers = [
            Some((BufferType::LOGON_INFO, encoded)),
            self.client_info.as_ref().map(|info| (BufferType::CLIENT_INFO, info.to_bytes())),
            self.upn_dns_info.as_ref().map(|info| (BufferType::UPN_DNS_INFO, info.to_bytes())),
            self.requestor_sid.map(|sid| (BufferType::REQUESTOR_SID, sid.to_bytes())),
        ];
        let buffers = buffers.into_iter().flatten().map(|(buffer_type, data)| Buffer { buffer_type, data });
        Response::encode(&Pac { buffers: buffers.collect() }.to_bytes(), &self.response_domain)
    }

    fn validate_sharing(&self, message: &[u8]) -> Result<ForeignAccount, ResponseRejection> {
        let ours = Domain { netbios: "CONTOSO".into(), dns: "contoso.example".into(), sid: sid(OURS) };
        validate_response(message, &self.from, &ours, self.claim, Some(IDENTITY))
    }

    fn validate_bytes(&self, message: &[u8]) -> Result<ForeignAccount, ResponseRejection> {
        let validated = self.validate_sharing(message)?;
        only_theirs(&validated);
        Ok(validated)
    }

    fn validate(&self) -> Result<ForeignAccount, ResponseRejection> {
        self.validate_bytes(&self.message())
    }
}

fn read(validated: &ForeignAccount) -> VerifiedPac {
    let message = validated.message();
    let response = Response::decode(&message).expect("our own");
    assert_eq!(response.domain, "FABRIKAM");
    VerifiedPac::decode(response.auth_data).expect("our own")
}

/// What holds of everything that is validated, whatever the peer said.
fn only_theirs(validated: &ForeignAccount) {
    let pac = read(validated);
    let info = &pac.logon_info;
    assert_eq!((validated.sid, pac.requestor_sid), (pac.user_sid, Some(pac.user_sid)));
    assert_eq!((&validated.name, validated.domain.as_str()), (&info.effective_name.text, "FABRIKAM"));
    assert_eq!((info.logon_domain_name.text.as_str(), info.logon_domain_id), ("FABRIKAM", sid(THEIRS)));
    assert!(!info.effective_name.text.contains(['\\', '/', '@', '"']));
    let upn_dns_info = pac.upn_dns_info.as_ref().expect("it is always there");
    let (_, suffix) = upn_dns_info.upn.split_once('@').expect("it has a suffix");
    assert!(suffix.trim_end_matches('.').to_ascii_lowercase().ends_with("fabrikam.example"), "{suffix}");
    assert_eq!(upn_dns_info.dns_domain_name, "FABRIKAM.EXAMPLE");
    let sids = info.groups();
    let (identity, theirs): (Vec<_>, Vec<SidAndAttributes>) =
        sids.iter().copied().partition(|member| member.sid == IDENTITY);
    assert_eq!(identity.len(), 1);
    assert!(theirs.iter().all(|member| member.sid.rid_in(&sid(THEIRS)).is_some_and(|rid| rid != 0)));
    assert!(sids.iter().all(|member| member.attributes == GROUP));
    assert!(theirs.iter().all(|member| !validated.dropped.contains(&member.sid)));
    assert_eq!(info.resource_groups, None);
    for text in [&info.logon_script, &info.profile_path, &info.home_directory, &info.home_directory_drive] {
        assert_eq!(text.text, "");
    }
    assert_eq!((info.user_session_key, info.reserved1, info.reserved3), ([0; 16], [0; 2], 0));
    assert_eq!(info.user_account_control & !USER_ACCOUNT_CONTROL, 0);
}

/// Edits a good answer, and says what becomes of it.
fn check(what: &str, edit: impl FnOnce(&mut Case), expect: Result<(), ResponseRejection>) {
    let mut case = Case::good();
    edit(&mut case);
    assert_eq!(case.validate().map(|_| ()), expect, "{what}");
    if expect != Err(ResponseRejection::ForeignSid) {
        case.from.foreign_sids = ForeignSids::Drop;
        assert_eq!(case.validate().map(|_| ()), expect, "{what}, where foreign SIDs are dropped");
    }
}

type Edit = fn(&mut Case);

#[rustfmt::skip]
const LIES: &[(ResponseRejection, &str, Edit)] = &[
    (ResponseRejection::MalformedPac, "a requestor that is another", |case| case.requestor_sid = Some(sid(OURS))),
    (ResponseRejection::MalformedPac, "another name in the client info", |case| case.info().effective_name = "carol".into()),
    (ResponseRejection::MalformedPac, "flags without SIDs", |case| {
        case.info().user_flags = 0x20;
        case.info().extra_sids.clear();
    }),
    (ResponseRejection::NoUserId, "the first extra SID as the account", |case| case.alone().user_id = 0),
    (ResponseRejection::Nameless, "a domain without names", |case| {
        case.upn_dns_info = None;
        case.from.names.clear();
    }),
    (ResponseRejection::OurDomain, "our name", |case| case.response_domain = "Contoso".into()),
    (ResponseRejection::OurDomain, "our DNS name", |case| case.response_domain = "contoso.example.".into()),
    (ResponseRejection::OurDomain, "our name, configured for the peer", |case| {
        case.from.netbios = "CONTOSO".into();
        case.response_domain = "CONTOSO".into();
    }),
    (ResponseRejection::OtherDomain, "a third domain's name", |case| case.response_domain = "NORTHWIND".into()),
    (ResponseRejection::OtherDomain, "the peer's DNS name", |case| case.response_domain = "fabrikam.example".into()),
    (ResponseRejection::OtherDomain, "a name that looks the same", |case| case.response_domain = "FABRI\u{212a}AM".into()),
    (ResponseRejection::OurLogonDomainName, "our name in the PAC", |case| case.info().logon_domain_name = "contoso".into()),
    (ResponseRejection::OurLogonDomainName, "our DNS name in the PAC", |case| case.info().logon_domain_name = "CONTOSO.EXAMPLE".into()),
    (ResponseRejection::OtherLogonDomainName, "a third name in the PAC", |case| case.info().logon_domain_name = "NORTHWIND".into()),
    (ResponseRejection::OtherLogonDomainName, "no name in the PAC", |case| case.info().logon_domain_name = "".into()),
    (ResponseRejection::OtherLogonDomainName, "a name in the PAC with more behind", |case| case.info().logon_domain_name = "FABRIKAM\n".into()),
    (ResponseRejection::OurLogonDomainId, "our SID", |case| case.alone().logon_domain_id = sid(OURS)),
    (ResponseRejection::OurLogonDomainId, "our SID, configured for the peer", |case| {
        case.alone().logon_domain_id = sid(OURS);
        case.from.sid = sid(OURS);
    }),
    (ResponseRejection::OtherLogonDomainId, "a third SID", |case| case.alone().logon_domain_id = sid(THIRD)),
    (ResponseRejection::OtherLogonDomainId, "BUILTIN", |case| case.alone().logon_domain_id = sid("S-1-5-32")),
    (ResponseRejection::OtherLogonDomainId, "a SID below the peer's", |case| case.alone().logon_domain_id = sid("S-1-5-21-1000-2000-3000-1")),
    (ResponseRejection::OtherLogonDomainId, "a SID above the peer's", |case| case.alone().logon_domain_id = sid("S-1-5-21-1000-2000")),
    (ResponseRejection::EffectiveName, "no name", |case| case.name("")),
    (ResponseRejection::EffectiveName, "a domain before the name", |case| case.name(r"CONTOSO\administrator")),
    (ResponseRejection::EffectiveName, "a domain before the name, by a slash", |case| case.name("CONTOSO/administrator")),
    (ResponseRejection::EffectiveName, "a domain behind the name", |case| case.name("administrator@contoso.example")),
    (ResponseRejection::EffectiveName, "quotes", |case| case.name("\"bob\"")),
    (ResponseRejection::EffectiveName, "a line feed", |case| case.name("bob\nadministrator")),
    (ResponseRejection::EffectiveName, "an escape", |case| case.name("bob\u{9b}2J")),
    (ResponseRejection::EffectiveName, "a long name", |case| case.name(&"b".repeat(257))),
    (ResponseRejection::UpnForm, "no suffix", |case| case.upn("bob")),
    (ResponseRejection::UpnForm, "no principal name beside a DNS name", |case| case.upn("")),
    (ResponseRejection::UpnForm, "nothing before the suffix", |case| case.upn("@fabrikam.example")),
    (ResponseRejection::UpnForm, "two suffixes", |case| case.upn("administrator@contoso.example@fabrikam.example")),
    (ResponseRejection::UpnForm, "a domain in the principal name", |case| case.upn(r"CONTOSO\bob@fabrikam.example")),
    (ResponseRejection::UpnForm, "a control character in the principal name", |case| case.upn("bob\r@fabrikam.example")),
    (ResponseRejection::OurUpnSuffix, "our suffix", |case| case.upn("administrator@CONTOSO.example")),
    (ResponseRejection::OurUpnSuffix, "our suffix with a dot", |case| case.upn("administrator@contoso.example.")),
    (ResponseRejection::OurUpnSuffix, "our suffix, configured as the peer's DNS name", |case| {
        case.from.names = vec!["contoso.example".into()];
        case.upn("bob@contoso.example");
    }),
    (ResponseRejection::OtherUpnSuffix, "a third suffix", |case| case.upn("bob@northwind.example")),
    (ResponseRejection::OtherUpnSuffix, "a suffix below the peer's", |case| case.upn("bob@sub.fabrikam.example")),
    (ResponseRejection::OtherUpnSuffix, "a suffix below ours", |case| case.upn("bob@sub.contoso.example")),
    (ResponseRejection::OtherUpnSuffix, "a suffix that ends like the peer's", |case| case.upn("bob@notfabrikam.example")),
    (ResponseRejection::OtherUpnSuffix, "a suffix with two dots behind", |case| case.upn("bob@fabrikam.example..")),
    (ResponseRejection::OtherUpnSuffix, "an empty suffix", |case| {
        case.from.names.push("".into());
        case.upn("bob@");
    }),
    (ResponseRejection::OurDnsDomainName, "our DNS name", |case| case.dns("Contoso.Example")),
    (ResponseRejection::OtherDnsDomainName, "a third DNS name", |case| case.dns("northwind.example")),
    (ResponseRejection::OtherDnsDomainName, "no DNS name", |case| case.dns("")),
    (ResponseRejection::LogonServer, "no server", |case| case.info().logon_server = "".into()),
    (ResponseRejection::LogonServer, "a long server", |case| case.info().logon_server = "FABRIKAMSERVER-1".into()),
    (ResponseRejection::LogonServer, "a path as the server", |case| case.info().logon_server = r"\\FABDC1".into()),
    (ResponseRejection::LogonServer, "a line feed in the server", |case| case.info().logon_server = "FABDC1\n".into()),
    (ResponseRejection::NoPrimaryGroup, "no primary group", |case| case.info().primary_group_id = 0),
    (ResponseRejection::NoGroupId, "a group without a RID", |case| case.info().group_ids.push(group(0))),
    (ResponseRejection::TooManyGroups, "many groups", |case| case.info().group_ids = vec![group(513); GROUPS_MAX]),
    (ResponseRejection::TooManyGroups, "many resource groups", |case| {
        case.info().resource_groups = Some(ResourceGroups { domain: sid(THEIRS), groups: vec![group(1400); GROUPS_MAX] });
    }),
    (ResponseRejection::TooManyGroups, "many SIDs", |case| case.info().extra_sids = vec![extra("S-1-18-1"); GROUPS_MAX]),
    (ResponseRejection::OurSid, "a group of ours", |case| case.info().extra_sids.push(extra(&format!("{OURS}-512")))),
    (ResponseRejection::OurSid, "our domain", |case| case.info().extra_sids.push(extra(OURS))),
    (ResponseRejection::OurSid, "something below our groups", |case| case.info().extra_sids.push(extra(&format!("{OURS}-512-1")))),
    (ResponseRejection::OurResourceGroups, "resource groups of ours", |case| {
        case.info().resource_groups = Some(ResourceGroups { domain: sid(OURS), groups: vec![group(1001)] });
    }),
    (ResponseRejection::OurResourceGroups, "no resource groups of ours", |case| {
        case.info().resource_groups = Some(ResourceGroups { domain: sid(OURS), groups: vec![] });
    }),
    (ResponseRejection::BuiltinSid, "Administrators", |case| case.info().extra_sids.push(extra("S-1-5-32-544"))),
    (ResponseRejection::BuiltinSid, "BUILTIN", |case| case.info().extra_sids.push(extra("S-1-5-32"))),
    (ResponseRejection::BuiltinSid, "Administrators as a resource group", |case| {
        case.info().resource_groups = Some(ResourceGroups { domain: sid("S-1-5-32"), groups: vec![group(544)] });
    }),
    (ResponseRejection::ForeignSid, "a third domain's group", |case| case.info().extra_sids.push(extra(&format!("{THIRD}-1105")))),
    (ResponseRejection::ForeignSid, "the peer's domain", |case| case.info().extra_sids.push(extra(THEIRS))),
    (ResponseRejection::ForeignSid, "a SID without a RID", |case| case.info().extra_sids.push(extra(&format!("{THEIRS}-0")))),
    (ResponseRejection::ForeignSid, "two RIDs", |case| case.info().extra_sids.push(extra(&format!("{THEIRS}-513-1")))),
    (ResponseRejection::ForeignSid, "Everyone", |case| case.info().extra_sids.push(extra("S-1-1-0"))),
    (ResponseRejection::ForeignSid, "Enterprise Domain Controllers", |case| case.info().extra_sids.push(extra("S-1-5-9"))),
    (ResponseRejection::ForeignSid, "Local System", |case| case.info().extra_sids.push(extra("S-1-5-18"))),
    (ResponseRejection::ForeignSid, "a mark with more behind", |case| case.info().extra_sids.push(extra("S-1-5-15-1"))),
    (ResponseRejection::ForeignSid, "a mark of another number", |case| case.info().extra_sids.push(extra("S-1-5-21-0-0-0-498"))),
    (ResponseRejection::ForeignSid, "a system label", |case| case.info().extra_sids.push(extra("S-1-16-16384"))),
    (ResponseRejection::ForeignSid, "a third domain's resource groups", |case| {
        case.info().resource_groups = Some(ResourceGroups { domain: sid(THIRD), groups: vec![group(1001)] });
    }),
    (ResponseRejection::SidMismatch, "an account that is not the certificate's", |case| {
        case.claim = SidClaim::Account(sid(&format!("{THEIRS}-500")));
    }),
    (ResponseRejection::SidMismatch, "an account of ours in the certificate", |case| {
        case.claim = SidClaim::Account(sid(&format!("{OURS}-1104")));
    }),
];

#[test]
fn no_lie_is_accepted() {
    for (expect, what, edit) in LIES {
        check(what, edit, Err(*expect));
    }
}

#[test]
fn every_rejection_has_a_lie_a_name_and_a_sentence() {
    let lies: HashSet<ResponseRejection> = LIES.iter().map(|(rejection, ..)| *rejection).collect();
    for rejection in ResponseRejection::ALL {
        // Bytes that are no response come below.
        assert!(
            lies.contains(&rejection) || rejection == ResponseRejection::MalformedResponse,
            "{rejection:?}"
        );
        assert!(!rejection.text().ends_with('.'));
    }
    let distinct = |text: fn(ResponseRejection) -> &'static str| {
        ResponseRejection::ALL.into_iter().map(text).collect::<HashSet<_>>().len()
    };
    assert_eq!((distinct(ResponseRejection::name), distinct(ResponseRejection::text)), (25, 25));
}

#[test]
fn what_may_be_left_out_or_differ_is_accepted() {
    let cases: &[(&str, Edit)] = &[
        ("nothing", |_| {}),
        ("no SID in the certificate", |case| case.claim = SidClaim::Absent),
        ("the PAC's one buffer", |case| {
            case.alone();
            case.client_info = None;
        }),
        ("another name of the peer's", |case| case.dns("mail.fabrikam.example")),
        ("a dot behind the suffix", |case| case.upn("bob@fabrikam.example.")),
        ("a configured name with a dot", |case| case.from.names[0].push('.')),
        ("a space in the name", |case| case.name("bob miller")),
        ("the longest name", |case| case.name(&"\u{1f98a}".repeat(256))),
        ("a machine", |case| case.name("WEB01$")),
        ("no group but the primary one", |case| case.info().group_ids.clear()),
        ("nothing extra", |case| {
            case.info().extra_sids.clear();
            case.info().resource_groups = None;
        }),
        ("many groups", |case| {
            case.alone().extra_sids.clear();
            case.info().resource_groups = None;
            case.info().group_ids = vec![group(513); GROUPS_MAX];
        }),
    ];
    for (what, edit) in cases {
        check(what, edit, Ok(()));
    }
}

#[test]
fn a_good_answer_comes_back_with_what_is_the_peer_s_to_say() {
    let validated = Case::good().validate().expect("it is good");
    assert_eq!((validated.name.as_str(), validated.domain.as_str()), ("bob", "FABRIKAM"));
    assert_eq!(validated.sid, sid(&format!("{THEIRS}-1104")));
    let dropped: Vec<String> = validated.dropped.iter().map(Sid::to_string).collect();
    let marks = ["S-1-18-1", "S-1-5-21-0-0-0-496", "S-1-5-21-0-0-0-497", "S-1-5-15", "S-1-5-65-1"];
    assert_eq!(dropped[..5], marks);
    assert_eq!(dropped[5..], [format!("{THEIRS}-1400")], "a domain-local group of the peer's");

    let VerifiedPac { logon_info, client_info, upn_dns_info, buffer_types, .. } = read(&validated);
    let member = |sid| SidAndAttributes { sid, attributes: 0x7 };
    let said = Case::good().logon_info;
    let expect = LogonInfo {
        logon_script: "".into(),
        profile_path: "".into(),
        home_directory: "".into(),
        home_directory_drive: "".into(),
        group_ids: [513, 1200].map(|rid| GroupMembership { rid, attributes: 0x7 }).to_vec(),
        user_flags: 0x20,
        user_session_key: [0; 16],
        logon_server: Text { room: 2, ..Text::from("FABDC1") },
        logon_domain_name: Text { room: 2, ..Text::from("FABRIKAM") },
        reserved1: [0; 2],
        user_account_control: 0x10,
        sub_auth_status: 0,
        last_successful_logon: FileTime::UNSET,
        last_failed_logon: FileTime::UNSET,
        failed_logon_count: 0,
        reserved3: 0,
        extra_sids: vec![member(sid(&format!("{THEIRS}-1300"))), member(IDENTITY)],
        resource_groups: None,
        ..said
    };
    assert_eq!(logon_info, expect);
    let client_id = FileTime(133_500_000_000_000_002);
    assert_eq!(client_info, Some(ClientInfo { client_id, name: "bob".into() }));
    let expect = UpnDnsInfo {
        upn: "bob@Mail.Fabrikam.example".into(),
        is_constructed: false,
        dns_domain_name: "FABRIKAM.EXAMPLE".into(),
        extended: Some(("bob".into(), validated.sid)),
    };
    assert_eq!(upn_dns_info, Some(expect));
    let types = [
        BufferType::LOGON_INFO,
        BufferType::CLIENT_INFO,
        BufferType::UPN_DNS_INFO,
        BufferType::REQUESTOR_SID,
    ];
    assert_eq!(buffer_types, types);
}

#[test]
fn what_is_missing_is_made_up_and_what_cannot_be_shown_is_blanked() {
    let mut case = Case::good();
    (case.client_info, case.upn_dns_info) = (None, None);
    case.info().full_name = "Bob\u{1b}[31m".into();
    let pac = read(&case.validate().expect("it is good"));
    let upn_dns_info = pac.upn_dns_info.expect("it is always there");
    assert_eq!((upn_dns_info.upn.as_str(), upn_dns_info.is_constructed), ("bob@fabrikam.example", true));
    assert_eq!(pac.client_info.map(|info| info.client_id), Some(case.logon_info.logon_time));
    assert_eq!(pac.logon_info.full_name.text, "");
    case.info().full_name = "B".repeat(257).as_str().into();
    assert_eq!(read(&case.validate().expect("it is good")).logon_info.full_name.text, "");
    case.info().full_name = "B".repeat(256).as_str().into();
    assert_eq!(read(&case.validate().expect("it is good")).logon_info.full_name.text.len(), 256);
}

#[test]
fn sids_of_third_domains_are_dropped_where_that_is_wanted() {
    let mut case = Case::good();
    case.from.foreign_sids = ForeignSids::Drop;
    let third = [format!("{THIRD}-1105"), "S-1-5-18".into(), format!("{THEIRS}-0")];
    case.info().extra_sids = third.iter().map(|text| extra(text)).collect();
    case.info().resource_groups =
        Some(ResourceGroups { domain: sid(THIRD), groups: vec![group(1), group(2)] });
    let validated = case.validate().expect("they are dropped");
    let dropped: Vec<String> = validated.dropped.iter().map(Sid::to_string).collect();
    assert_eq!(dropped[..3], third);
    assert_eq!(dropped[3..], [format!("{THIRD}-1"), format!("{THIRD}-2")]);
    assert_eq!(read(&validated).logon_info.extra_sids.len(), 1, "our own");
}

#[test]
fn nothing_is_said_of_an_identity_that_is_not_ours() {
    let case = Case::good();
    let ours = Domain { netbios: "CONTOSO".into(), dns: "contoso.example".into(), sid: sid(OURS) };
    let validated =
        validate_response(&case.message(), &case.from, &ours, SidClaim::Absent, None).expect("it is good");
    assert!(read(&validated).logon_info.extra_sids.iter().all(|extra| extra.sid.authority() != 18));
}

#[test]
fn no_truncated_answer_is_accepted_and_what_follows_one_is_ignored() {
    let case = Case::good();
    let mut message = case.message();
    for len in 0..message.len() {
        assert_eq!(case.validate_bytes(&message[..len]), Err(ResponseRejection::MalformedResponse), "{len}");
    }
    let response = Response::decode(&message).expect("our own");
    // Behind the last buffer, a SID of 28 bytes, are 4 that only fill up.
    for len in 8..response.auth_data.len() - 4 {
        let message = Response::encode(&response.auth_data[..len], "FABRIKAM");
        assert_eq!(case.validate_bytes(&message), Err(ResponseRejection::MalformedPac), "{len}");
    }
    let validated = case.validate();
    message.extend_from_slice(b"more");
    assert_eq!(case.validate_bytes(&message), validated);
}

#[test]
fn whatever_byte_is_wrong_only_what_is_theirs_is_accepted() {
    let case = Case::good();
    let message = case.message();
    for at in 0..message.len() {
        for value in [0x00, 0x01, 0x0a, 0x40, 0x5c, 0x7f, 0x80, 0xff, message[at] ^ 0x20] {
            let mut wrong = message.clone();
            wrong[at] = value;
            // What holds of an answer is looked at wherever there is one.
            let _ = case.validate_bytes(&wrong);
        }
    }
}

fn any_name() -> impl Strategy<Value = String> {
    let known = [
        "bob",
        "FABRIKAM",
        "Fabrikam",
        "CONTOSO",
        "contoso.example",
        "fabrikam.example",
        "NORTHWIND",
        "",
        "FABDC1",
    ];
    let upns = [
        "bob@fabrikam.example",
        "bob@contoso.example",
        "@",
        "bob@",
        "bob@MAIL.fabrikam.example.",
        r"CONTOSO\bob",
    ];
    prop_oneof![
        6 => prop::sample::select([&known[..], &upns[..]].concat()).prop_map(str::to_owned),
        1 => "\\PC{0,20}",
        1 => "[\\x01-\\x7f]{0,20}",
    ]
}

fn any_sid() -> impl Strategy<Value = Sid> {
    let known = [OURS, THEIRS, THIRD, "S-1-5-32", "S-1-18", "S-1-5-21-0-0-0", "S-1-5", "S-1-5-65"];
    let domain = prop_oneof![
        4 => Just(sid(THEIRS)),
        4 => prop::sample::select(known.to_vec()).prop_map(sid),
        1 => (0_u64..1 << 48, prop::collection::vec(any::<u32>(), 0..=15))
            .prop_filter_map("a SID", |(authority, parts)| Sid::new(authority, &parts)),
    ];
    let rid = prop_oneof![Just(0_u32), Just(1), Just(15), 490_u32..600, any::<u32>()];
    (domain, prop::option::weighted(0.8, rid))
        .prop_map(|(domain, rid)| rid.and_then(|rid| domain.with_rid(rid)).unwrap_or(domain))
}

prop_compose! {
    /// An answer with one field or another of it changed.
    fn any_case()(
        names in prop::collection::vec((0_usize..7, any_name()), 0..3),
        domain in prop::option::weighted(0.1, any_sid()),
        rids in prop::collection::vec(any::<u32>(), 0..4),
        extra_sids in prop::collection::vec((any_sid(), any::<u32>()), 0..4),
        resource in prop::option::of((any_sid(), prop::collection::vec(any::<u32>(), 0..3))),
        numbers in any::<(u32, u32, u32)>(),
        drops: bool,
        agrees in prop::bool::weighted(0.9),
    ) -> Case {
        let mut case = Case::good();
        if drops {
            case.from.foreign_sids = ForeignSids::Drop;
        }
        case.claim = SidClaim::Absent;
        let info = &mut case.logon_info;
        info.logon_domain_id = domain.unwrap_or(info.logon_domain_id);
        info.group_ids.extend(rids.into_iter().map(group));
        info.extra_sids = extra_sids.into_iter().map(|(sid, attributes)| SidAndAttributes { sid, attributes }).collect();
        info.resource_groups = resource.map(|(domain, rids)| {
            ResourceGroups { domain, groups: rids.into_iter().map(group).collect() }
        });
        (info.user_id, info.primary_group_id, info.user_account_control) = numbers;
        let mut upn_dns_info = case.upn_dns_info.take().expect("it is there");
        for (which, name) in names {
            match which {
                0 => case.response_domain = name,
                1 => info.effective_name = name.as_str().into(),
                2 => info.full_name = name.as_str().into(),
                3 => info.logon_server = name.as_str().into(),
                4 => info.logon_domain_name = name.as_str().into(),
                5 => upn_dns_info.upn = name,
                _ => upn_dns_info.dns_domain_name = name,
            }
        }
        if agrees {
            let name = info.effective_name.text.clone();
            upn_dns_info.extended = info.user_sid().map(|sid| (name.clone(), sid));
            case.client_info.as_mut().expect("it is there").name = name;
            case.requestor_sid = info.user_sid();
        }
        case.upn_dns_info = Some(upn_dns_info);
        case
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What holds of an answer is looked at in `believe_bytes`.
    #[test]
    fn whatever_a_peer_says_only_what_is_theirs_is_accepted(case in any_case()) {
        let refused = case.validate().is_err();
        let info = &case.logon_info;
        let is_ours = |domain: &Sid| is_within(domain, &sid(OURS)) || is_builtin(domain);
        let lies = info.extra_sids.iter().any(|extra| is_ours(&extra.sid))
            || info.resource_groups.as_ref().is_some_and(|resource| is_ours(&resource.domain))
            || info.logon_domain_id != sid(THEIRS)
            || !case.response_domain.eq_ignore_ascii_case("FABRIKAM");
        prop_assert!(refused || !lies);
    }
}

/// Of domains of one forest: the configuration lists our DNS name among the suffixes of the peer.
#[test]
fn our_dns_name_is_a_suffix_of_a_peer_that_shares_it() {
    let mut case = Case::good();
    case.from.names.push("contoso.example".into());
    case.upn("bob@contoso.example");
    let account = case.validate_sharing(&case.message()).expect("it is shared");
    assert_eq!(account.user_principal_name(), Some("bob@contoso.example"));
    case.dns("contoso.example");
    assert_eq!(case.validate().map(drop), Err(ResponseRejection::OurDnsDomainName));
}
