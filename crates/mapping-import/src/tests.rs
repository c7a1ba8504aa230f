//! Rules from sss-certmap(5), krb5.conf(5) and Keycloak's settings, and what they are here. Expectations are
//! written by hand.

use super::Dialect::{Keycloak, Mit, Sssd};
use super::*;
use proptest::prelude::*;

fn authorities() -> Vec<KnownAuthority> {
    [
        ("certs/my.pem", "DC=DOMAIN,DC=MY,CN=My-CA"),
        ("certs/contoso.pem", r#"C=US,O="Contoso, Ltd.",CN=Contoso Root"#),
        ("certs/\"new\" \\ key.pem", "O=Tail,OU=b+CN=a.b"),
        ("certs/twin-1.pem", "CN=Twin"),
        ("certs/twin-2.pem", "CN=Twin"),
    ]
    .into_iter()
    .map(|(file, subject)| KnownAuthority {
        file: file.to_owned(),
        subject: subject.parse().expect("a name"),
    })
    .collect()
}

const STRONG: &str =
    r#"map: LDAPU1:(altSecurityIdentities=X509:<I>{issuer_dn!ad_x500}<SR>{serial_number!hex_ur})"#;
const WEAK: &str = r#"map: LDAP:(altSecurityIdentities=X509:<I>{issuer_dn!ad_x500}<S>{subject_dn!ad_x500})"#;
const UPN: &str = "map: (userPrincipalName={subject_nt_principal})";

/// What stands behind `[mapping]` but `binding` and `validation`, which are the same nearly everywhere.
struct Fragment {
    methods: &'static str,
    validation: &'static str,
    rest: &'static str,
}

const fn fragment(methods: &'static str, rest: &'static str) -> Fragment {
    Fragment { methods, validation: "chain", rest }
}

/// Dialect, rules, the fragment, and a part of each note.
#[rustfmt::skip]
fn translated() -> Vec<(Dialect, String, Fragment, Vec<&'static str>)> {
    const STORED: &str = "extended_key_usage = [\"client-auth\"]\nrequire_extended_key_usage = true\ngrant = [\"issuer-serial\"]\n";
    macro_rules! proved {
        ($words:literal) => { concat!("extended_key_usage = [\"client-auth\"]\nrequire_extended_key_usage = true\ngrant = [", $words, ", \"issuer-serial\", \"sid\"]\n") };
    }
    const NAMES: &str = "extended_key_usage = [\"client-auth\"]\nrequire_extended_key_usage = true\ngrant = [{ form = \"upn\", for = [\"@contoso.example\"] }, { form = \"issuer-serial\", for = [\"@contoso.example\"] }, { form = \"sid\", for = [\"@contoso.example\"] }]\n";
    vec![
        // sss_certmap: mapping rules, behind the default matching rule.
        (Sssd, STRONG.into(), fragment(r#"["subject"]"#, STORED), vec!["without a matching rule", "digitalSignature"]),
        (Sssd, WEAK.into(), fragment(r#"["subject"]"#, proved!(r#""issuer-subject""#)), vec!["without", "digitalSignature", "issuer and subject alone"]),
        (Sssd, UPN.into(), fragment(r#"["upn"]"#, proved!(r#""upn""#)), vec!["without", "digitalSignature", "a user principal name alone"]),
        (Sssd, "map: (userPrincipal={subject_principal})".into(), fragment(r#"["upn"]"#, proved!(r#""upn""#)), vec!["without", "digitalSignature", "PKINIT", "alone"]),
        (Sssd, "map: (altSecurityIdentities=X509:<I>{issuer_dn!ad}<S>{subject_dn!ad})".into(), fragment(r#"["subject"]"#, proved!(r#""issuer-subject""#)), vec!["without", "digitalSignature", "alone"]),
        (Sssd, "map: (altSecurityIdentities=X509:<S>{subject_dn!ad_x500})".into(), fragment(r#"["subject"]"#, proved!(r#""subject""#)), vec!["without", "digitalSignature", "a subject alone"]),
        (Sssd, "map: (altSecurityIdentities=X509:<RFC822>{subject_rfc822_name})".into(), fragment(r#"["subject"]"#, proved!(r#""rfc822""#)), vec!["without", "digitalSignature", "a mail address alone"]),
        (Sssd, "map: (altSecurityIdentities=X509:<I>{issuer_dn!ad_x500})".into(), fragment(r#"["issuer"]"#, proved!(r#""issuer""#)), vec!["without", "digitalSignature", "issuer's name alone"]),
        (Sssd, "map: LDAPU1:(altSecurityIdentities=X509:<SHA1-PUKEY>{cert!sha1_u})".into(), fragment(r#"["subject"]"#, "extended_key_usage = [\"client-auth\"]\nrequire_extended_key_usage = true\nsha1_pukey = \"thumbprint\"\ngrant = [\"sha1-pukey\"]\n"), vec!["without", "digitalSignature"]),
        (Sssd, "map: LDAPU1:(altSecurityIdentities=X509:<I>{issuer_dn!ad_x500}<SID>{sid})".into(), fragment(r#"["subject"]"#, "extended_key_usage = [\"client-auth\"]\nrequire_extended_key_usage = true\ngrant = [\"issuer-sid\"]\n"), vec!["without", "digitalSignature"]),
        (Sssd, "map: (altSecurityIdentities=X509:<I>{issuer_dn!ad_x500}<SR>{serial_number!hex_r})".into(), fragment(r#"["subject"]"#, STORED), vec!["without", "digitalSignature", "LDAPU1 only"]),
        (Sssd, "map: (servicePrincipalName=host/{subject_dns_name})".into(), fragment(r#"["upn"]"#, proved!(r#""dns""#)), vec!["without", "digitalSignature", "a DNS name alone"]),
        (Sssd, "map: (|(userPrincipalName={subject_nt_principal})(altSecurityIdentities=X509:<I>{issuer_dn!ad_x500}<S>{subject_dn!ad_x500}))".into(),
            fragment(r#"["upn", "subject"]"#, proved!(r#""upn", "issuer-subject""#)), vec!["without", "digitalSignature", "a user principal name alone", "issuer and subject alone"]),
        // Matching rules.
        (Sssd, format!("match: <EKU>clientAuth\n{STRONG}"), fragment(r#"["subject"]"#, STORED), vec![]),
        (Sssd, format!("match: KRB5:<KU>digitalSignature<EKU>clientAuth\n{STRONG}"), fragment(r#"["subject"]"#, STORED), vec!["digitalSignature"]),
        (Sssd, format!("match: ||<EKU>clientAuth<EKU>msScLogin\n{STRONG}"), fragment(r#"["subject"]"#, "extended_key_usage = [\"client-auth\", \"smartcard-logon\"]\nrequire_extended_key_usage = true\ngrant = [\"issuer-serial\"]\n"), vec![]),
        (Sssd, format!("match: ||<EKU>serverAuth<EKU>pkinit<EKU>1.3.6.1.5.2.3.5<EKU>2.5.29.37.0<EKU>1.2.3.4\n{STRONG}"),
            fragment(r#"["subject"]"#, "extended_key_usage = [\"server-auth\", \"1.3.6.1.5.2.3.4\", \"pkinit-kdc\", \"any\", \"1.2.3.4\"]\nrequire_extended_key_usage = true\ngrant = [\"issuer-serial\"]\n"), vec![]),
        (Sssd, format!("match: <ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$\n{STRONG}"),
            fragment(r#"["subject"]"#, "grant = []\n\n[[mapping.authority]]\ncertificate = \"certs/my.pem\"\ndirect = true\nmethods = [\"subject\"]\ngrant = [\"issuer-serial\"]\n"), vec!["no extended key usage"]),
        (Sssd, format!(r"match: <ISSUER>^CN=Contoso Root,O=Contoso\\, Ltd\.,C=US$<EKU>clientAuth{}{STRONG}", "\n"),
            fragment(r#"["subject"]"#, "extended_key_usage = [\"client-auth\"]\nrequire_extended_key_usage = true\ngrant = []\n\n[[mapping.authority]]\ncertificate = \"certs/contoso.pem\"\ndirect = true\nmethods = [\"subject\"]\ngrant = [\"issuer-serial\"]\n"), vec![]),
        // The values of one relative name are a set, hex is an escape, and a file's name is quoted.
        (Sssd, format!(r"match: <ISSUER>^CN=a\\2eb\+OU=b,O=Tail$<EKU>clientAuth{}{STRONG}", "\n"),
            fragment(r#"["subject"]"#, "extended_key_usage = [\"client-auth\"]\nrequire_extended_key_usage = true\ngrant = []\n\n[[mapping.authority]]\ncertificate = 'certs/\"new\" \\ key.pem'\ndirect = true\nmethods = [\"subject\"]\ngrant = [\"issuer-serial\"]\n"), vec![]),
        (Sssd, "match: <ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$<EKU>clientAuth\nmap: LDAPU1:(altSecurityIdentities=X509:<SKI>{subject_key_id!hex_u})".into(),
            fragment(r#"["subject"]"#, "extended_key_usage = [\"client-auth\"]\nrequire_extended_key_usage = true\ngrant = []\n\n[[mapping.authority]]\ncertificate = \"certs/my.pem\"\ndirect = true\nmethods = [\"subject\"]\ngrant = [\"ski\"]\n"), vec![]),
        (Sssd, format!("match: <SAN:ntPrincipalName>.*@contoso\\.example$<EKU>clientAuth\n{UPN}"), fragment(r#"["upn"]"#, NAMES), vec!["names no issuer", "alone"]),
        (Sssd, format!("match: <SAN>^.*@contoso\\.example$<EKU>clientAuth\n{UPN}"), fragment(r#"["upn"]"#, NAMES), vec!["PKINIT", "names no issuer", "alone"]),
        (Sssd, format!("match: <ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$<SAN:ntPrincipalName>@contoso\\.example$<EKU>clientAuth\n{UPN}"),
            fragment(r#"["upn"]"#, "extended_key_usage = [\"client-auth\"]\nrequire_extended_key_usage = true\ngrant = []\n\n[[mapping.authority]]\ncertificate = \"certs/my.pem\"\ndirect = true\nmethods = [\"upn\"]\ngrant = [{ form = \"upn\", for = [\"@contoso.example\"] }, { form = \"issuer-serial\", for = [\"@contoso.example\"] }, { form = \"sid\", for = [\"@contoso.example\"] }]\n"), vec!["certs/my.pem is trusted", "alone"]),
        // Sections: priorities make the order, an authority's rule stands before the general one, other
        // sections are not read.
        (Sssd, format!("[sssd]\nservices = nss\n# rules\n[certmap/my.domain/general]\nmatchrule = <EKU>clientAuth\nmaprule = {}\npriority = 20\n\n[certmap/my.domain/ca]\nmatchrule = <ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$<EKU>clientAuth\nmaprule = {}\ndomains = my.domain, your.domain\npriority = 10\n", &STRONG[5..], &UPN[5..]),
            fragment(r#"["upn", "subject"]"#, "extended_key_usage = [\"client-auth\"]\nrequire_extended_key_usage = true\ngrant = [\"issuer-serial\"]\n\n[[mapping.authority]]\ncertificate = \"certs/my.pem\"\ndirect = true\nmethods = [\"upn\"]\ngrant = [\"upn\", \"issuer-serial\", \"sid\"]\n"), vec!["my.domain, your.domain", "alone"]),
        // Rules that differ in one condition are alternatives.
        (Sssd, format!("match: <EKU>clientAuth\n{STRONG}\nmatch: <EKU>msScLogin\n{STRONG}"), fragment(r#"["subject"]"#, "extended_key_usage = [\"client-auth\", \"smartcard-logon\"]\nrequire_extended_key_usage = true\ngrant = [\"issuer-serial\"]\n"), vec![]),
        // MIT Kerberos.
        (Mit, "<EKU>clientAuth<KU>digitalSignature".into(), fragment(r#"["upn"]"#, proved!(r#""upn""#)), vec!["digitalSignature", "selects", "alone"]),
        (Mit, "pkinit_cert_match = &&<EKU>msScLogin<ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$".into(),
            fragment(r#"["upn"]"#, "extended_key_usage = [\"smartcard-logon\"]\nrequire_extended_key_usage = true\ngrant = []\n\n[[mapping.authority]]\ncertificate = \"certs/my.pem\"\ndirect = true\nmethods = [\"upn\"]\ngrant = [\"upn\", \"issuer-serial\", \"sid\"]\n"), vec!["selects", "alone"]),
        (Mit, "[realms]\n  CONTOSO.EXAMPLE = {\n    kdc = dc1\n    pkinit_anchors = FILE:/ca.pem\n    pkinit_require_crl_checking = true\n    pkinit_cert_match = ||<SAN>.*@contoso\\.example$<SAN>.*@EXAMPLE\\.COM$\n  }\n".into(),
            Fragment { validation: "chain+crl", ..fragment(r#"["upn"]"#, "grant = [{ form = \"upn\", for = [\"@contoso.example\", \"@EXAMPLE.COM\"] }, { form = \"issuer-serial\", for = [\"@contoso.example\", \"@EXAMPLE.COM\"] }, { form = \"sid\", for = [\"@contoso.example\", \"@EXAMPLE.COM\"] }]\n") }, vec!["pkinit_anchors", "PKINIT", "selects", "names no issuer", "alone", "no extended"]),
        (Mit, "<EKU>msScLogin\n<EKU>clientAuth\n".into(), fragment(r#"["upn"]"#, "extended_key_usage = [\"smartcard-logon\", \"client-auth\"]\nrequire_extended_key_usage = true\ngrant = [\"upn\", \"issuer-serial\", \"sid\"]\n"), vec!["selects", "alone"]),
        // Keycloak.
        (Keycloak, "Subject's Alternative Name otherName (UPN) = (.*)".into(), fragment(r#"["upn"]"#, "grant = [\"upn\", \"issuer-serial\", \"sid\"]\n"), vec!["user principal name", "alone"]),
        (Keycloak, r#"{"alias":"x509","config":{"x509-cert-auth.mapping-source-selection":"Subject's Alternative Name otherName (UPN)","x509-cert-auth.regular-expression":"(.*?)(?:$)","x509-cert-auth.mapper-selection":"Username or Email","x509-cert-auth.extendedkeyusage":"1.3.6.1.5.5.7.3.2","x509-cert-auth.keyusage":"digitalSignature","x509-cert-auth.crl-checking-enabled":"true","x509-cert-auth.crl-relative-path":"crl.pem","x509-cert-auth.crldp-checking-enabled":"true","x509-cert-auth.ocsp-checking-enabled":"false","x509-cert-auth.timestamp-validation-enabled":"false"}}"#.into(),
            Fragment { validation: "chain+crl", ..fragment(r#"["upn"]"#, proved!(r#""upn""#)) }, vec!["never followed", "crl.pem", "digitalSignature", "dates are always checked", "user principal name", "alone"]),
        (Keycloak, r#"{"authenticatorConfig":[{"alias":"idp","config":{"defaultProvider":"x"}},{"alias":"x509","config":{"x509-cert-auth.mapping-source-selection":"Certificate Serial Number and IssuerDN","x509-cert-auth.mapper-selection":"Custom Attribute Mapper","x509-cert-auth.mapper-selection.user-attribute-name":"serial##issuer","x509-cert-auth.serialnumber-hex-enabled":true}}]}"#.into(),
            fragment(r#"["subject"]"#, "grant = [\"issuer-serial\"]\n"), vec!["has to be converted"]),
    ]
}

/// Line, part and a piece of the reason.
type Told = (usize, &'static str, &'static str);

/// Dialect, rules, and what is told of each problem.
#[rustfmt::skip]
fn refused() -> Vec<(Dialect, String, Vec<Told>)> {
    let map = |filter: &str| format!("map: {filter}");
    let matched = |rule: &str| format!("match: {rule}\n{STRONG}");
    vec![
        (Sssd, String::new(), vec![(0, "", "there is no rule")]),
        (Sssd, "[sssd]\nservices = nss".into(), vec![(0, "", "there is no rule")]),
        // Mapping rules of the manual page.
        (Sssd, map("(userCertificate;binary={cert!bin})"), vec![(1, "(userCertificate;binary={cert!bin})", "whole certificates")]),
        (Sssd, map("LDAP:(userCertificate;binary={cert!bin})"), vec![(1, "(userCertificate;binary={cert!bin})", "whole certificates")]),
        (Sssd, map("(ipacertmapdata=X509:<I>{issuer_dn!nss_x500}<S>{subject_dn!nss_x500})"), vec![(1, "(ipacertmapdata=X509:<I>{issuer_dn!nss_x500}<S>{subject_dn!nss_x500})", "ipaCertMapData")]),
        (Sssd, map("(|(userPrincipal={subject_principal})(samAccountName={subject_principal.short_name}))"), vec![(1, "(samAccountName={subject_principal.short_name})", "a part of a name")]),
        (Sssd, map("(|(userPrincipal={subject_pkinit_principal})(uid={subject_pkinit_principal.short_name}))"), vec![(1, "(userPrincipal={subject_pkinit_principal})", "PKINIT"), (1, "(uid={subject_pkinit_principal.short_name})", "PKINIT")]),
        (Sssd, map("(|(userPrincipalName={subject_nt_principal})(samAccountName={subject_nt_principal.short_name}))"), vec![(1, "(samAccountName={subject_nt_principal.short_name})", "a part of a name")]),
        (Sssd, map("(|(mail={subject_rfc822_name})(uid={subject_rfc822_name.short_name}))"), vec![(1, "(mail={subject_rfc822_name})", "mail address"), (1, "(uid={subject_rfc822_name.short_name})", "a part of a name")]),
        (Sssd, map("(|(fqdn={subject_dns_name})(host={subject_dns_name.short_name}))"), vec![(1, "(fqdn={subject_dns_name})", "service principal name"), (1, "(host={subject_dns_name.short_name})", "a part of a name")]),
        (Sssd, map("(uri={subject_uri})"), vec![(1, "(uri={subject_uri})", "accounts are not found by this attribute")]),
        (Sssd, map("(ip={subject_ip_address})"), vec![(1, "(ip={subject_ip_address})", "accounts are not found by this attribute")]),
        (Sssd, map("(orig_dn={subject_directory_name})"), vec![(1, "(orig_dn={subject_directory_name})", "accounts are not found by this attribute")]),
        (Sssd, map("LDAPU1:(serial={serial_number})"), vec![(1, "(serial={serial_number})", "accounts are not found by this attribute")]),
        (Sssd, map("LDAPU1:(dgst={cert!sha256})"), vec![(1, "(dgst={cert!sha256})", "digests")]),
        (Sssd, map("LDAPU1:(uid={subject_dn_component.uid})"), vec![(1, "(uid={subject_dn_component.uid})", "a part of a distinguished name")]),
        (Sssd, map("LDAPU1:(domain={issuer_dn_component.[-2]}.{issuer_dn_component.dc[-1]})"), vec![(1, "(domain={issuer_dn_component.[-2]}.{issuer_dn_component.dc[-1]})", "a part of a distinguished name")]),
        (Sssd, map("LDAPU1:(objectsid={sid})"), vec![(1, "(objectsid={sid})", "evidence")]),
        (Sssd, map("LDAPU1:(uidNumber={sid.rid})"), vec![(1, "(uidNumber={sid.rid})", "a part of a SID")]),
        (Sssd, map("(samAccountName={subject_nt_principal})"), vec![(1, "(samAccountName={subject_nt_principal})", "the name of the account")]),
        (Sssd, map("(userPrincipalName={subject_rfc822_name})"), vec![(1, "(userPrincipalName={subject_rfc822_name})", "nothing else")]),
        // Values of altSecurityIdentities that Windows does not write.
        (Sssd, map("(altSecurityIdentities=X509:<I>{issuer_dn!ad_ldap}<S>{subject_dn!ad_ldap})"), vec![(1, "(altSecurityIdentities=X509:<I>{issuer_dn!ad_ldap}<S>{subject_dn!ad_ldap})", "the reverse")]),
        (Sssd, map("(altSecurityIdentities=X509:<I>{issuer_dn!nss_x500}<S>{subject_dn!ad_x500})"), vec![(1, "(altSecurityIdentities=X509:<I>{issuer_dn!nss_x500}<S>{subject_dn!ad_x500})", "not of NSS")]),
        (Sssd, map("(altSecurityIdentities=X509:<I>{issuer_dn}<S>{subject_dn})"), vec![(1, "(altSecurityIdentities=X509:<I>{issuer_dn}<S>{subject_dn})", "neither")]),
        (Sssd, map("LDAPU1:(altSecurityIdentities=X509:<I>{issuer_dn!ad_x500}<SR>{serial_number!hex_u})"), vec![(1, "(altSecurityIdentities=X509:<I>{issuer_dn!ad_x500}<SR>{serial_number!hex_u})", "from the last to the first")]),
        (Sssd, map("LDAPU1:(altSecurityIdentities=X509:<SKI>{subject_key_id!hex_c})"), vec![(1, "(altSecurityIdentities=X509:<SKI>{subject_key_id!hex_c})", "from its first byte on")]),
        (Sssd, map("LDAPU1:(altSecurityIdentities=X509:<SKI>{subject_key_id!hex_u})"), vec![(1, "LDAPU1:(altSecurityIdentities=X509:<SKI>{subject_key_id!hex_u})", "granted it by name")]),
        (Sssd, map("(altSecurityIdentities=Kerberos:{subject_principal})"), vec![(1, "(altSecurityIdentities=Kerberos:{subject_principal})", "not a known value of altSecurityIdentities")]),
        (Sssd, map("(altSecurityIdentities=X509:<I>CN=a<S>{subject_dn!ad_x500})"), vec![(1, "(altSecurityIdentities=X509:<I>CN=a<S>{subject_dn!ad_x500})", "not a known value of altSecurityIdentities")]),
        // Filters.
        (Sssd, map("(&(objectClass=user)(userPrincipalName={subject_nt_principal}))"), vec![(1, "(&(objectClass=user)(userPrincipalName={subject_nt_principal}))", "conditions on accounts")]),
        (Sssd, map("(|(objectClass=user)(userPrincipalName={subject_nt_principal}))"), vec![(1, "(objectClass=user)", "without a part of the certificate")]),
        (Sssd, map("userPrincipalName={subject_nt_principal}"), vec![(1, "userPrincipalName={subject_nt_principal}", "not a filter")]),
        (Sssd, map("(userPrincipalName={subject_nt_principal}"), vec![(1, "(userPrincipalName={subject_nt_principal}", "not a filter")]),
        (Sssd, map("(|)"), vec![(1, "(|)", "not a filter")]),
        (Sssd, map("SQL:(a={cert})"), vec![(1, "SQL:(a={cert})", "unknown kind of mapping rule")]),
        // Matching rules of the manual page.
        (Sssd, matched("<SUBJECT>.*,DC=MY,DC=DOMAIN"), vec![(1, "<SUBJECT>.*,DC=MY,DC=DOMAIN", "a pattern for subjects")]),
        (Sssd, matched(r"<SUBJECT>^CN=.* \(Admin\),DC=MY,DC=DOMAIN$"), vec![(1, r"<SUBJECT>^CN=.* \(Admin\),DC=MY,DC=DOMAIN$", "a pattern for subjects")]),
        (Sssd, matched("<ISSUER>CN=My-CA,DC=MY,DC=DOMAIN"), vec![(1, "<ISSUER>CN=My-CA,DC=MY,DC=DOMAIN", "without ^ and $")]),
        (Sssd, matched("<ISSUER>^CN=My.CA,DC=MY,DC=DOMAIN$"), vec![(1, "<ISSUER>^CN=My.CA,DC=MY,DC=DOMAIN$", "a dot without a backslash")]),
        (Sssd, matched("<ISSUER>^CN=(My|Your)-CA,DC=MY,DC=DOMAIN$"), vec![(1, "<ISSUER>^CN=(My|Your)-CA,DC=MY,DC=DOMAIN$", "this is a pattern")]),
        (Sssd, matched(r"<ISSUER>^CN=\w,DC=MY$"), vec![(1, r"<ISSUER>^CN=\w,DC=MY$", "a backslash")]),
        (Sssd, matched(r"<ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN\$"), vec![(1, r"<ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN\$", "a backslash")]),
        (Sssd, matched("<ISSUER>^DC=DOMAIN,DC=MY,CN=My-CA$"), vec![(1, "<ISSUER>^DC=DOMAIN,DC=MY,CN=My-CA$", "no CA certificate of this name")]),
        (Sssd, matched("<ISSUER>^CN=my-ca,DC=MY,DC=DOMAIN$"), vec![(1, "<ISSUER>^CN=my-ca,DC=MY,DC=DOMAIN$", "no CA certificate of this name")]),
        (Sssd, matched("<ISSUER>^CN=Twin$"), vec![(1, "<ISSUER>^CN=Twin$", "more than one")]),
        (Sssd, matched("<ISSUER>^Twin$"), vec![(1, "<ISSUER>^Twin$", "not a distinguished name")]),
        (Sssd, matched("<KU>digitalSignature,keyEncipherment"), vec![(1, "<KU>digitalSignature,keyEncipherment", "key usages other")]),
        (Sssd, matched("<EKU>clientAuth,1.3.6.1.5.2.3.4"), vec![(1, "<EKU>clientAuth,1.3.6.1.5.2.3.4", "several extended key usages")]),
        (Sssd, matched("<EKU>clientAuth<EKU>msScLogin"), vec![(1, "<EKU>msScLogin", "several extended key usages")]),
        (Sssd, matched("<EKU>1.02.3"), vec![(1, "<EKU>1.02.3", "not an extended key usage")]),
        (Sssd, matched(r"<SAN>.*@MY\.REALM"), vec![(1, r"<SAN>.*@MY\.REALM", "by its suffix only")]),
        (Sssd, matched("<SAN:ntPrincipalName>.*@MY.AD.REALM"), vec![(1, "<SAN:ntPrincipalName>.*@MY.AD.REALM", "by its suffix only")]),
        (Sssd, matched("<SAN:ntPrincipalName>.*@MY.AD.REALM$"), vec![(1, "<SAN:ntPrincipalName>.*@MY.AD.REALM$", "by its suffix only")]),
        (Sssd, matched(r"<SAN:pkinit>.*@MY\.PKINIT\.REALM$"), vec![(1, r"<SAN:pkinit>.*@MY\.PKINIT\.REALM$", "PKINIT is not used")]),
        (Sssd, matched("<SAN:1.2.3.4>test"), vec![(1, "<SAN:1.2.3.4>test", "only user principal names")]),
        (Sssd, matched("<SAN:otherName>MTIz"), vec![(1, "<SAN:otherName>MTIz", "only user principal names")]),
        (Sssd, matched(r"<SAN:rfc822Name>.*@email\.domain"), vec![(1, r"<SAN:rfc822Name>.*@email\.domain", "only user principal names")]),
        (Sssd, matched("<SAN:uniformResourceIdentifier>URN:.*"), vec![(1, "<SAN:uniformResourceIdentifier>URN:.*", "only user principal names")]),
        (Sssd, matched(r"<SAN:ntPrincipalName>.*@contoso\.example$"), vec![(2, &STRONG[5..], "only if the account is found by that name")]),
        (Sssd, matched("||<EKU>clientAuth<KU>digitalSignature"), vec![(1, "||<EKU>clientAuth<KU>digitalSignature", "alternatives of different kinds")]),
        (Sssd, matched("clientAuth"), vec![(1, "clientAuth", "not a matching rule")]),
        (Sssd, matched("NSS:<EKU>clientAuth"), vec![(1, "NSS:<EKU>clientAuth", "unknown kind of matching rule")]),
        (Sssd, matched("<POLICY>1.2.3"), vec![(1, "<POLICY>1.2.3", "unknown keyword")]),
        // Sections of sssd.conf(5).
        (Sssd, "[certmap/my.domain/rule_name]\nmatchrule = <ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$\nmaprule = (userCertificate;binary={cert!bin})\ndomains = my.domain, your.domain\npriority = 10".into(), vec![(3, "(userCertificate;binary={cert!bin})", "whole certificates")]),
        (Sssd, "[certmap/files/myname]\nmatchrule = <ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$<SUBJECT>^CN=User.Name,DC=MY,DC=DOMAIN$".into(), vec![(2, "<SUBJECT>^CN=User.Name,DC=MY,DC=DOMAIN$", "a pattern for subjects"), (1, "[certmap/files/myname]", "without a mapping rule")]),
        (Sssd, format!("[certmap/a/b]\nmaprule = {}\npriority = 4294967296", &UPN[5..]), vec![(3, "4294967296", "a priority")]),
        (Sssd, format!("[certmap/a/b]\nmaprule = {0}\n[certmap/c/d]\nmaprule = {0}", &UPN[5..]), vec![(3, "[certmap/c/d]", "several domains")]),
        (Sssd, format!("[certmap/a/b]\nmaprule = {}\ncolour = red", &UPN[5..]), vec![(3, "colour = red", "unknown setting")]),
        (Sssd, format!("[certmap/a/b]\nmaprule = {0}\n  (more)", &UPN[5..]), vec![(3, "(more)", "may continue the previous line")]),
        (Sssd, format!("[certmap/a/b]\nmaprule = {0}\nmaprule = {0}", &UPN[5..]), vec![(3, "maprule = (userPrincipalName={subject_nt_principal})", "there twice")]),
        // Rules beside each other.
        (Sssd, format!("match: <EKU>clientAuth\n{STRONG}\nmatch: <EKU>clientAuth\n{UPN}"), vec![(3, "<EKU>clientAuth", "not defined")]),
        (Sssd, format!("match: <EKU>clientAuth\npriority: 1\n{STRONG}\nmatch: <EKU>clientAuth\n{UPN}"), vec![(4, "<EKU>clientAuth", "certificates of the same issuers")]),
        (Sssd, format!("match: <EKU>clientAuth\npriority: 1\n{STRONG}\nmatch: <EKU>clientAuth<ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$\n{UPN}"), vec![(4, "<EKU>clientAuth<ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$", "never used")]),
        (Sssd, format!("match: <EKU>clientAuth\n{STRONG}\nmatch: <EKU>msScLogin\n{UPN}"), vec![(3, "<EKU>msScLogin", "of every certificate alike"), (3, "<EKU>msScLogin", "not defined")]),
        (Sssd, format!("match: <EKU>clientAuth<ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$\npriority: 1\n{STRONG}\nmatch: <EKU>clientAuth\n{UPN}"), vec![(4, "<EKU>clientAuth", "the methods of the rules for some")]),
        (Mit, "<EKU>pkinit<ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$\n<EKU>pkinit<ISSUER>^CN=Contoso Root,O=Contoso\\\\, Ltd\\.,C=US$\n<EKU>msScLogin<ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$".into(), vec![(3, "<EKU>msScLogin<ISSUER>^CN=My-CA,DC=MY,DC=DOMAIN$", "of every certificate alike")]),
        // krb5.conf(5).
        (Mit, "pkinit_cert_match = ||<SUBJECT>.*DoE.*<SAN>.*@EXAMPLE.COM".into(), vec![(1, "<SUBJECT>.*DoE.*", "a pattern for subjects"), (1, "<SAN>.*@EXAMPLE.COM", "by its suffix only"), (1, "||<SUBJECT>.*DoE.*<SAN>.*@EXAMPLE.COM", "different kinds")]),
        (Mit, "pkinit_cert_match = &&<EKU>msScLogin,clientAuth<ISSUER>.*DoE.*".into(), vec![(1, "<EKU>msScLogin,clientAuth", "several"), (1, "<ISSUER>.*DoE.*", "without ^ and $")]),
        (Mit, "pkinit_cert_match = <EKU>msScLogin,clientAuth<KU>digitalSignature".into(), vec![(1, "<EKU>msScLogin,clientAuth", "several")]),
        (Mit, "<EKU>1.2.3.4".into(), vec![(1, "<EKU>1.2.3.4", "not an extended key usage")]),
        (Mit, "<SAN:pkinit>a".into(), vec![(1, "<SAN:pkinit>a", "unknown keyword")]),
        (Mit, "[realms]\nA = {\npkinit_cert_match = <EKU>pkinit\n}\nB = {\npkinit_cert_match = <EKU>pkinit\n}".into(), vec![(6, "pkinit_cert_match = <EKU>pkinit", "several realms")]),
        (Mit, "pkinit_cert_match = \"<EKU>pkinit\"".into(), vec![(1, "pkinit_cert_match = \"<EKU>pkinit\"", "in quotes")]),
        (Mit, "}".into(), vec![(1, "}", "no block")]),
        // Keycloak.
        (Keycloak, r#"{"x509-cert-auth.timestamp-validation-enabled":"true"}"#.into(), vec![(0, "Match SubjectDN using regular expression", "a part of a distinguished name")]),
        (Keycloak, "{\n\"x509-cert-auth.mapping-source-selection\": \"Match SubjectDN using regular expression\",\n\"x509-cert-auth.regular-expression\": \"CN=(.*?)(?:,|$)\"}".into(), vec![(2, "Match SubjectDN using regular expression", "a part of a distinguished name")]),
        (Keycloak, "Subject's e-mail = (.*?)(?:$)".into(), vec![(1, "Subject's e-mail", "mail address")]),
        (Keycloak, "Subject's Alternative Name E-mail = ".into(), vec![(1, "Subject's Alternative Name E-mail", "mail address")]),
        (Keycloak, "Subject's Common Name = (.*)".into(), vec![(1, "Subject's Common Name", "a part of a distinguished name")]),
        (Keycloak, "Match IssuerDN using regular expression = O=(.*)".into(), vec![(1, "Match IssuerDN using regular expression", "all its certificates to one account")]),
        (Keycloak, "Issuer's Common Name = ".into(), vec![(1, "Issuer's Common Name", "all its certificates to one account")]),
        (Keycloak, "Certificate Serial Number = ".into(), vec![(1, "Certificate Serial Number", "unique for its issuer")]),
        (Keycloak, "SHA-256 Thumbprint = ".into(), vec![(1, "SHA-256 Thumbprint", "digests")]),
        (Keycloak, "Full Certificate in PEM format = ".into(), vec![(1, "Full Certificate in PEM format", "digests")]),
        (Keycloak, "Shoe size = 42".into(), vec![(1, "Shoe size", "unknown source")]),
        (Keycloak, "Subject's Alternative Name otherName (UPN) = (.*)@contoso".into(), vec![(1, "x509-cert-auth.regular-expression = (.*)@contoso", "compared as a whole")]),
        (Keycloak, "Subject's Alternative Name otherName (UPN) = \nx509-cert-auth.ocsp-checking-enabled = true\nx509-cert-auth.certificate-policy = 1.2.3\nx509-cert-auth.extendedkeyusage = 1.2.3,1.2.4\nx509-cert-auth.keyusage = keyAgreement\nx509-cert-auth.novelty = 1".into(),
            vec![(3, "x509-cert-auth.certificate-policy = 1.2.3", "policies"), (4, "x509-cert-auth.extendedkeyusage = 1.2.3,1.2.4", "several"), (5, "x509-cert-auth.keyusage = keyAgreement", "key usages"), (6, "x509-cert-auth.novelty = 1", "unknown setting"), (2, "x509-cert-auth.ocsp-checking-enabled = true", "OCSP")]),
        (Keycloak, "{".into(), vec![(1, "", "not JSON")]),
        (Keycloak, r#"[{"x509-cert-auth.a":"b"},{"x509-cert-auth.a":"b"}]"#.into(), vec![(0, "", "more than one")]),
        (Keycloak, r#"{"config":{"a":"b"}}"#.into(), vec![(0, "", "there is no rule")]),
    ]
}

/// What is printed is understood where it is pasted, once the authorities that are believed are named.
fn is_a_mapping(fragment: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mapping.toml");
    let trust = match fragment.contains("chain+crl") {
        true => "[mapping]\nanchors = [\"ca.pem\"]\ncrls = [\"ca.crl\"]\n",
        false => "[mapping]\nanchors = [\"ca.pem\"]\n",
    };
    std::fs::write(&path, fragment.replacen("[mapping]\n", trust, 1)).expect("written");
    rcmpd::config::load_mapping(&path).unwrap_or_else(|error| panic!("{fragment}\n{error}"));
}

#[test]
fn translates_what_can_be_expressed() {
    for (dialect, rules, fragment, notes) in translated() {
        let import =
            import(dialect, &rules, &authorities()).unwrap_or_else(|refused| panic!("{rules}\n{refused}"));
        let expected = format!(
            "# Imported: {}\n\n[mapping]\nmethods = {}\nbinding = \"full\"\nvalidation = \"{}\"\n{}",
            dialect.name(),
            fragment.methods,
            fragment.validation,
            fragment.rest
        );
        assert_eq!(import.toml, expected, "{rules}");
        is_a_mapping(&import.toml);
        assert_eq!(import.notes.len(), notes.len(), "{rules}\n{:#?}", import.notes);
        for (note, part) in import.notes.iter().zip(notes) {
            assert!(note.contains(part), "{rules}\n{note}\n{part}");
        }
    }
}

#[test]
fn refuses_what_cannot_be_expressed_and_says_why() {
    for (dialect, rules, expected) in refused() {
        let Err(refused) = import(dialect, &rules, &authorities()) else { panic!("{rules}: was translated") };
        let told: Vec<_> = refused
            .problems
            .iter()
            .map(|problem| (problem.line, problem.part.as_str(), problem.why.as_str()))
            .collect();
        assert_eq!(told.len(), expected.len(), "{rules}\n{told:#?}");
        for ((line, part, why), (line_expected, part_expected, why_expected)) in
            told.into_iter().zip(expected)
        {
            assert_eq!((line, part), (line_expected, part_expected), "{rules}");
            assert!(why.contains(why_expected), "{rules}\n{why}\n{why_expected}");
        }
        assert!(refused.problems.iter().all(|problem| !problem.instead.is_empty()), "{rules}");
    }
}

#[test]
fn every_beginning_of_every_example_is_translated_or_refused() {
    let translated = translated().into_iter().map(|(dialect, rules, ..)| (dialect, rules));
    for (dialect, rules) in
        translated.chain(refused().into_iter().map(|(dialect, rules, _)| (dialect, rules)))
    {
        for end in (0..=rules.len()).filter(|end| rules.is_char_boundary(*end)) {
            if let Ok(import) = import(dialect, &rules[..end], &authorities()) {
                toml::from_str::<toml::Table>(&import.toml).expect("it is TOML");
                assert!(import.toml.contains("binding = \"full\""));
            }
        }
    }
}

#[test]
fn hostile_texts_end_soon() {
    let known = authorities();
    let long = "x".repeat(TEXT_LEN_MAX + 1);
    for dialect in [Sssd, Mit, Keycloak] {
        let refused = import(dialect, &long, &known).expect_err("too long");
        assert!(refused.problems[0].why.contains("1 MiB"));
        for unit in [
            "(",
            "(|",
            "{\"a\":",
            "[",
            "<ISSUER>^CN=",
            "match: <EKU>1.2.3\n",
            "a = {\n",
            "\u{1b}",
            "map: (a)\n",
            "||<SAN>@a$",
        ] {
            let text = unit.repeat(TEXT_LEN_MAX / unit.len());
            for prefix in ["", "map: ", "match: ", "<"] {
                let Err(refused) = import(dialect, &format!("{prefix}{text}")[..TEXT_LEN_MAX / 2], &known)
                else {
                    continue;
                };
                assert!((1..=PROBLEMS_MAX).contains(&refused.problems.len()));
            }
        }
    }
}

#[test]
fn a_terminal_is_not_told_what_to_do() {
    let refused = import(Sssd, "map: (a\u{1b}[2J={cert})", &[]).expect_err("refused");
    assert_eq!(refused.problems[0].part, "(a\u{1b}[2J={cert})");
    assert!(refused.to_string().starts_with("line 1: (a\\u{1b}[2J={cert}): whole certificates"));
}

proptest! {
    #[test]
    fn any_text_is_translated_or_refused(
        which in 0_usize..3,
        parts in prop::collection::vec(prop::sample::select(vec![
            "match: ", "map: ", "<ISSUER>", "<SAN>", "<EKU>", "<KU>", "^CN=My-CA,DC=MY,DC=DOMAIN$", ".*@a\\.b$", "clientAuth", "\n", "||", "&&",
            "(|", "(", ")", "altSecurityIdentities=X509:", "<I>{issuer_dn!ad}", "<SR>{serial_number!hex_r}", "[certmap/a/b]\n", "maprule = ",
            "matchrule = ", "priority = 1\n", "{", "}", "\\", "\u{e9}", "\"x509-cert-auth.", "\":\"", "pkinit_cert_match = ", "=", ",", "+", "#",
        ]), 0..24),
        noise in ".{0,24}",
    ) {
        let dialect = [Sssd, Mit, Keycloak][which];
        let text = parts.concat() + &noise;
        let once = import(dialect, &text, &authorities());
        prop_assert_eq!(&once, &import(dialect, &text, &authorities()));
        match once {
            Ok(import) => { toml::from_str::<toml::Table>(&import.toml).expect("it is TOML"); }
            Err(refused) => prop_assert!(!refused.problems.is_empty()),
        }
    }
}
