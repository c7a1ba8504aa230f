//! Entries of a directory, Active Directory's or another one's, as accounts and groups.

use crate::Problem;
use crate::lines::Entry;
use crate::record::{Record, Records};
use account_store::fold::casefold;
use dtyp::{Decode, FileTime, Sid};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::{self, BufRead};

/// `userAccountControl`: the account is disabled ([MS-ADTS] 2.2.16).
const DISABLED: u32 = 0x2;
/// `userAccountControl`: the account of a trusted domain.
const INTERDOMAIN_TRUST: u32 = 0x800;

/// `groupType`: created by the system, in the domain BUILTIN ([MS-ADTS] 2.2.12).
const GROUP_BUILTIN: u32 = 0x1;
const GROUP_GLOBAL: u32 = 0x2;
const GROUP_LOCAL: u32 = 0x4;
const GROUP_UNIVERSAL: u32 = 0x8;
const GROUP_SECURITY: u32 = 0x8000_0000;

const GROUP_CLASSES: [&str; 5] =
    ["group", "groupofnames", "groupofuniquenames", "groupofmembers", "posixgroup"];
const ACCOUNT_CLASSES: [&str; 6] =
    ["user", "person", "organizationalperson", "inetorgperson", "posixaccount", "account"];

/// One of these shows that the search asked for operational attributes (RFC 4512, section 3.4; RFC 4530).
const OPERATIONAL: [&str; 4] = ["createtimestamp", "modifytimestamp", "entryuuid", "nsuniqueid"];

/// What an entry becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Account,
    Group,
    /// Not a user, a computer or a security group.
    LeftOut,
}

/// A whole file.
pub(crate) struct Directory {
    entries: Vec<(Record, Kind)>,
    /// By DN, as it is compared: the SID or the name by which members are named; none of what is left out.
    places: HashMap<String, Option<String>>,
    pub(crate) left_out: u64,
    /// The line where a server said that its answer is whole.
    end: Option<u64>,
}

impl Directory {
    pub(crate) fn read(input: &mut (dyn BufRead + Send)) -> io::Result<Self> {
        let mut directory = Self { entries: Vec::new(), places: HashMap::new(), left_out: 0, end: None };
        let mut records = Records::new(input);
        while let Some(record) = records.next()? {
            let line = record.line;
            directory.add(record).map_err(|why| Problem { line, why })?;
        }
        Ok(directory)
    }

    fn add(&mut self, record: Record) -> Result<(), String> {
        if self.end.is_some() {
            return Err("there is a record after the result of the search".to_owned());
        }
        match record.values.first().map(|(name, _)| name.as_str()) {
            Some("dn") => {}
            // ldbsearch and ldapsearch write references to other servers so.
            Some("ref") => return Ok(()),
            // ldapsearch ends with the result.
            Some("search" | "result") => {
                let result = text(&record, "result")?.unwrap_or_default();
                if result.split(' ').next() != Some("0") {
                    return Err(format!(
                        "the search ended with result {result:?}, so entries are missing: search again"
                    ));
                }
                // A page ends with a cookie for the next one, and the last page without (RFC 2696).
                let pages = text(&record, "pagedresults")?.unwrap_or_default();
                let is_last = pages.split_once("cookie=").is_none_or(|(_, cookie)| cookie.trim().is_empty());
                self.end = is_last.then_some(record.line);
                return Ok(());
            }
            _ => return Err("a record begins with its dn".to_owned()),
        }
        if let Some(change) = text(&record, "changetype")?
            && change != "add"
        {
            return Err(format!("changetype {change:?} is not read: the file has to have whole entries"));
        }
        let part = record.values.iter().find(|(name, _)| name.contains(";range="));
        if let Some((name, _)) = part {
            return Err(format!(
                "{name}: only a part of the values is here: name the attributes of the search, without this one"
            ));
        }
        let kind = kind(&record)?;
        let dn = text(&record, "dn")?.unwrap_or_default();
        let place = match kind {
            Kind::LeftOut => None,
            _ => match sid(&record, "objectsid")?.first() {
                Some(sid) => Some(sid.clone()),
                None => name(&record)?,
            },
        };
        if self.places.insert(folded(&dn), place).is_some() {
            return Err(format!("the entry {dn:?} is there twice"));
        }
        match kind {
            Kind::LeftOut => self.left_out += 1,
            _ => self.entries.push((record, kind)),
        }
        Ok(())
    }

    pub(crate) fn into_entries(self) -> impl Iterator<Item = Entry> + Send {
        let Self { entries, places, end, .. } = self;
        let count = entries.len();
        let entries = entries.into_iter().map(move |(record, kind)| {
            let problem = |why| Problem { line: record.line, why };
            let object = match kind {
                Kind::Account => account(&record, &places),
                _ => group(&record, &places),
            };
            Ok((record.line, object.map_err(problem)?))
        });
        let last = end.map(|line| {
            let object = [("type", json!("end")), ("entries", json!(count))];
            Ok((line, object.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()))
        });
        entries.chain(last)
    }
}

/// A DN as it is compared: without regard to case and to spaces around its separators.
fn folded(dn: &str) -> String {
    let mut folded = String::with_capacity(dn.len());
    let (mut is_escaped, mut skips_spaces) = (false, true);
    for c in casefold(dn).chars() {
        if skips_spaces && c == ' ' {
            continue;
        }
        skips_spaces = !is_escaped && matches!(c, ',' | '=' | '+' | ';');
        while skips_spaces && folded.ends_with(' ') && !folded.ends_with("\\ ") {
            folded.pop();
        }
        folded.push(c);
        is_escaped = c == '\\' && !is_escaped;
    }
    folded
}

fn kind(record: &Record) -> Result<Kind, String> {
    let classes: Vec<String> =
        texts(record, "objectclass")?.iter().map(|class| class.to_ascii_lowercase()).collect();
    let is_one_of = |of: &[&str]| classes.iter().any(|class| of.contains(&class.as_str()));
    if classes.is_empty() {
        return Err("objectClass is missing, so it is not known what this is".to_owned());
    }
    if is_one_of(&GROUP_CLASSES) {
        let Some(group_type) = number(record, "grouptype")? else {
            return match is_one_of(&["group"]) {
                true => {
                    Err("groupType is missing, so it is not known whether this is a security group"
                        .to_owned())
                }
                false => Ok(Kind::Group),
            };
        };
        let is_security = group_type & GROUP_SECURITY != 0 && group_type & GROUP_BUILTIN == 0;
        return Ok(if is_security { Kind::Group } else { Kind::LeftOut });
    }
    let flags = number(record, "useraccountcontrol")?.unwrap_or_default();
    let is_account = is_one_of(&ACCOUNT_CLASSES)
        && !is_one_of(&["contact"])
        && flags & INTERDOMAIN_TRUST == 0
        && name(record)?.is_some();
    Ok(if is_account { Kind::Account } else { Kind::LeftOut })
}

fn has_class(record: &Record, class: &str) -> Result<bool, String> {
    Ok(texts(record, "objectclass")?.iter().any(|of| of.eq_ignore_ascii_case(class)))
}

/// The name of an account or a group.
fn name(record: &Record) -> Result<Option<String>, String> {
    let classes = texts(record, "objectclass")?;
    let is_group = classes.iter().any(|class| GROUP_CLASSES.contains(&&*class.to_ascii_lowercase()));
    match text(record, "samaccountname")? {
        Some(name) => Ok(Some(name)),
        None => text(record, if is_group { "cn" } else { "uid" }),
    }
}

fn named(record: &Record, kind: &str) -> Result<Map<String, Value>, String> {
    let name = name(record)?.ok_or("sAMAccountName and cn are missing, so the group has no name")?;
    let mut object = Map::new();
    object.insert("type".to_owned(), kind.into());
    object.insert("name".to_owned(), name.into());
    if let Some(sid) = sid(record, "objectsid")?.into_iter().next() {
        object.insert("sid".to_owned(), sid.into());
    }
    Ok(object)
}

/// Members or groups that are named by DN, as the import names them.
fn places(
    record: &Record,
    attribute: &str,
    places: &HashMap<String, Option<String>>,
) -> Result<Vec<Value>, String> {
    let mut found = Vec::new();
    for dn in texts(record, attribute)? {
        match places.get(&folded(&dn)) {
            Some(Some(place)) => found.push(Value::from(place.as_str())),
            // Its entry is in the file, and is left out.
            Some(None) => {}
            None => return Err(format!("{attribute}: the file has no entry {dn:?}: search for it, too")),
        }
    }
    Ok(found)
}

fn group(record: &Record, of: &HashMap<String, Option<String>>) -> Result<Map<String, Value>, String> {
    let mut object = named(record, "group")?;
    if let Some(group_type) = number(record, "grouptype")? {
        let scopes = [(GROUP_GLOBAL, "global"), (GROUP_LOCAL, "local"), (GROUP_UNIVERSAL, "universal")];
        let scope = scopes.iter().find(|(bit, _)| group_type & bit != 0);
        let (_, scope) = scope.ok_or_else(|| format!("groupType {group_type:#x} has no scope"))?;
        object.insert("scope".to_owned(), (*scope).into());
    }
    let mut members = places(record, "member", of)?;
    members.extend(places(record, "uniquemember", of)?);
    members.extend(texts(record, "memberuid")?.into_iter().map(Value::from));
    object.insert("members".to_owned(), members.into());
    let groups = places(record, "memberof", of)?;
    if !groups.is_empty() {
        object.insert("member_of".to_owned(), groups.into());
    }
    Ok(object)
}

/// Attributes with one text, and the field of the account; a field of the profile has a point.
const TEXTS: [(&str, &str); 7] = [
    ("userprincipalname", "user_principal_name"),
    ("displayname", "profile.full_name"),
    ("mail", "profile.mail"),
    ("scriptpath", "profile.logon_script"),
    ("profilepath", "profile.profile_path"),
    ("homedirectory", "profile.home_directory"),
    ("homedrive", "profile.home_directory_drive"),
];

fn account(record: &Record, of: &HashMap<String, Option<String>>) -> Result<Map<String, Value>, String> {
    let mut object = named(record, "account")?;
    let mut profile = Map::new();
    for (attribute, field) in TEXTS {
        let values = texts(record, attribute)?;
        // Of several addresses, it is not known which is meant.
        let [value] = values.as_slice() else { continue };
        // There it is a path of Unix.
        if attribute == "homedirectory" && has_class(record, "posixaccount")? {
            continue;
        }
        match field.strip_prefix("profile.") {
            Some(field) => profile.insert(field.to_owned(), value.as_str().into()),
            None => object.insert(field.to_owned(), value.as_str().into()),
        };
    }
    if !profile.contains_key("full_name")
        && let Some(name) = text(record, "cn")?
    {
        profile.insert("full_name".to_owned(), name.into());
    }
    if !profile.is_empty() {
        object.insert("profile".to_owned(), profile.into());
    }
    let lists = [
        ("service_principal_names", texts(record, "serviceprincipalname")?),
        ("alt_security_identities", texts(record, "altsecurityidentities")?),
        ("extra_sids", sid(record, "sidhistory")?),
    ];
    for (field, values) in lists.into_iter().filter(|(_, values)| !values.is_empty()) {
        object.insert(field.to_owned(), values.into());
    }
    let groups = places(record, "memberof", of)?;
    if !groups.is_empty() {
        object.insert("member_of".to_owned(), groups.into());
    }
    state(record, &mut object)?;
    Ok(object)
}

/// Whether and when the account may be used, and what only Active Directory says.
fn state(record: &Record, object: &mut Map<String, Value>) -> Result<(), String> {
    let flags = number(record, "useraccountcontrol")?;
    if has_class(record, "user")? && flags.is_none() {
        return Err(
            "userAccountControl is missing, so it is not known whether the account is enabled".to_owned()
        );
    }
    // Locks of other directories are in attributes that a search returns only if it asks for them.
    if flags.is_none() && !OPERATIONAL.iter().any(|name| octets(record, name).is_some()) {
        return Err(
            "operational attributes are missing, so it is not known whether the account is locked: search \
                    with '*' '+'"
                .to_owned(),
        );
    }
    if has_class(record, "computer")? {
        object.insert("kind".to_owned(), "computer".into());
    }
    let is_locked = text(record, "nsaccountlock")?.is_some_and(|value| !value.eq_ignore_ascii_case("FALSE"))
        || text(record, "pwdaccountlockedtime")?.is_some();
    match flags {
        Some(flags) if is_locked => drop(object.insert("flags".to_owned(), (flags | DISABLED).into())),
        Some(flags) => drop(object.insert("flags".to_owned(), flags.into())),
        None if is_locked => drop(object.insert("flags".to_owned(), (0x200 | DISABLED).into())),
        None => {}
    }
    if let Some(expires) = expires(record)? {
        object.insert("expires".to_owned(), expires.0.into());
    }
    for (attribute, field) in [
        ("primarygroupid", "primary_group_id"),
        ("logoncount", "logon_count"),
        ("badpwdcount", "bad_password_count"),
    ] {
        if let Some(number) = number(record, attribute)? {
            object.insert(field.to_owned(), number.into());
        }
    }
    if let Some(time) = text(record, "whencreated")? {
        object.insert("created".to_owned(), generalized_time("whenCreated", &time)?.0.into());
    }
    if let Some(set) = file_time(record, "pwdlastset")?.filter(|time| time.0 != 0) {
        object.insert("password_last_set".to_owned(), set.0.into());
    }
    if let Some(hours) = octets(record, "logonhours") {
        let hex: String = hours.iter().map(|octet| format!("{octet:02x}")).collect();
        object.insert("logon_hours".to_owned(), hex.into());
    }
    Ok(())
}

/// The first end that a directory has for an account; none if it does not end.
fn expires(record: &Record) -> Result<Option<FileTime>, String> {
    let mut ends = Vec::new();
    // 0 and the greatest number are never ([MS-ADA1] 2.1).
    ends.extend(file_time(record, "accountexpires")?.filter(|time| time.0 != 0 && time.0 < i64::MAX as u64));
    for attribute in ["krbprincipalexpiration", "pwdendtime"] {
        if let Some(time) = text(record, attribute)? {
            ends.push(generalized_time(attribute, &time)?);
        }
    }
    if let Some(days) = text(record, "shadowexpire")? {
        let days: i64 = days.parse().map_err(|_| format!("shadowExpire: {days:?} is no number"))?;
        let seconds = days.checked_mul(86_400).ok_or("shadowExpire is too large")?;
        // shadow(5): without a number, or with -1, it does not expire.
        ends.extend((days >= 0).then(|| FileTime::from_unix(seconds)));
    }
    Ok(ends.into_iter().min_by_key(|time| time.0))
}

/// `YYYYMMDDHHMMSS`, a fraction, and `Z` (RFC 4517, section 3.3.13).
fn generalized_time(attribute: &str, time: &str) -> Result<FileTime, String> {
    let wrong = || format!("{attribute}: {time:?} is no time in UTC");
    let text = time.strip_suffix('Z').ok_or_else(wrong)?;
    let (text, fraction) = text.split_once('.').unwrap_or((text, ""));
    if text.len() != 14 || !text.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let part = |at: usize, len: usize| text[at..at + len].parse::<u16>().unwrap_or(u16::MAX);
    let (date, time) = ([part(0, 4), part(4, 2), part(6, 2)], [part(8, 2), part(10, 2), part(12, 2)]);
    FileTime::from_civil(date, time).ok_or_else(wrong)
}

fn octets<'a>(record: &'a Record, attribute: &str) -> Option<&'a [u8]> {
    record.values.iter().find(|(name, _)| name == attribute).map(|(_, value)| value.as_slice())
}

fn texts(record: &Record, attribute: &str) -> Result<Vec<String>, String> {
    let values = record.values.iter().filter(|(name, _)| name == attribute);
    let text = |value: &[u8]| String::from_utf8(value.to_vec());
    values.map(|(_, value)| text(value).map_err(|_| format!("{attribute}: a value is no UTF-8"))).collect()
}

/// The only value of an attribute.
fn text(record: &Record, attribute: &str) -> Result<Option<String>, String> {
    let mut values = texts(record, attribute)?;
    match values.len() {
        0 | 1 => Ok(values.pop()),
        // uid and cn may have several: the first is the name.
        _ if matches!(attribute, "uid" | "cn") => Ok(values.into_iter().next()),
        count => Err(format!("{attribute} has {count} values")),
    }
}

/// A number of 32 bits, which Active Directory writes with a sign.
fn number(record: &Record, attribute: &str) -> Result<Option<u32>, String> {
    let Some(text) = text(record, attribute)? else { return Ok(None) };
    let wrong = || format!("{attribute}: {text:?} is no number of 32 bits");
    let number: i64 = text.parse().map_err(|_| wrong())?;
    match i32::try_from(number) {
        Ok(number) => Ok(Some(number.cast_unsigned())),
        Err(_) => u32::try_from(number).map(Some).map_err(|_| wrong()),
    }
}

fn file_time(record: &Record, attribute: &str) -> Result<Option<FileTime>, String> {
    let Some(text) = text(record, attribute)? else { return Ok(None) };
    text.parse().map(|time| Some(FileTime(time))).map_err(|_| format!("{attribute}: {text:?} is no FILETIME"))
}

/// SIDs as text, from octets ([MS-DTYP] 2.4.2.2) or text, which Samba's tools write.
fn sid(record: &Record, attribute: &str) -> Result<Vec<String>, String> {
    let values = record.values.iter().filter(|(name, _)| name == attribute);
    values
        .map(|(_, value)| {
            let text = std::str::from_utf8(value).ok().and_then(|text| text.parse::<Sid>().ok());
            let sid = text.or_else(|| Sid::from_bytes("SID", value).ok());
            sid.map(|sid| sid.to_string()).ok_or_else(|| format!("{attribute}: a value is no SID"))
        })
        .collect()
}
