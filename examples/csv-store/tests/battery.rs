//! The store keeps what every store keeps.

use account_store::battery::domain;
use account_store::{Account, AccountFlags, Record, StoreError};
use csv_store::{COLUMNS, CsvStore};

/// A field, quoted as a spreadsheet does it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The file with these accounts.
fn csv(records: &[Record]) -> String {
    let mut text = format!("\u{feff}{}\r\n", COLUMNS.join(","));
    for Record { account, memberships } in records {
        let group = |rid: u32, name: Option<&str>| format!("{rid}:{}", name.unwrap_or_default());
        let rid = |sid: &dtyp::Sid| sid.split_rid().expect("it has a RID").1;
        let mut groups = memberships.clone();
        groups.sort_by_key(|membership| rid(&membership.sid) != account.primary_group_id);
        let state = match account.flags.contains(AccountFlags::DISABLED) {
            true => "disabled",
            false => "enabled",
        };
        let groups: Vec<_> = groups.iter().map(|it| group(rid(&it.sid), it.name.as_deref())).collect();
        let row = [
            account.name.clone(),
            rid(&account.sid).to_string(),
            account.user_principal_name.clone().unwrap_or_default(),
            account.service_principal_names.join("|"),
            account.alt_security_identities.join("|"),
            state.to_owned(),
            groups.join("|"),
        ];
        text += &format!("{}\r\n", row.map(|field| quoted(&field)).join(","));
    }
    text
}

fn store(text: &str) -> (Result<CsvStore, StoreError>, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("accounts.csv");
    std::fs::write(&path, text).expect("the folder can be written");
    (CsvStore::open(domain(), path, ','), folder)
}

account_store::read_only_store_battery!(|records: &[Record]| {
    let (store, folder) = store(&csv(records));
    (store.expect("a good file"), folder)
});

#[test]
fn files_that_break_a_rule_are_refused_with_their_line() {
    let account = |rid: u32| {
        let sid = domain().sid.with_rid(rid).expect("room for a RID");
        csv(&[Record { account: Account::new("a", sid), memberships: vec![] }])
    };
    let head = COLUMNS.join(",");
    for (text, why) in [
        (String::new(), "the file is empty"),
        ("name,rid\n".to_owned(), "line 1: the columns are"),
        (format!("{head}\na,1000\n"), "line 2: 2 fields instead of 7"),
        (format!("{head}\na,1000,,,,enabled,513\na,1001,,,,enabled,513\n"), "line 3: "),
        (format!("{head}\na,500,,,,enabled,513\n"), "line 2: 500 is the RID of a built-in account"),
        (format!("{head}\na,1000,,,,Enabled,513\n"), "line 2: the state is \"Enabled\""),
        (format!("{head}\na,1000,,,,enabled,1000\n"), "line 2: "),
        (account(1000), "line 2: \"\" is not a RID"),
    ] {
        let (store, _folder) = store(&text);
        let error = store.err().expect("it is refused").to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_file_that_changes_is_read_again_and_a_broken_one_answers_nothing() {
    use account_store::AccountStore;
    let line = |name: &str| format!("{}\n{name},1000,,,,enabled,513\n", COLUMNS.join(","));
    let (store, folder) = store(&line("a"));
    let store = store.expect("a good file");
    let before = store.revision().expect("it answers");
    store.refresh();
    assert_eq!(store.revision().expect("it answers"), before, "nothing changed");
    let write =
        |text: &str| std::fs::write(folder.path().join("accounts.csv"), text).expect("it can be written");
    write("nonsense");
    store.refresh();
    assert!(matches!(store.revision(), Err(StoreError::Unavailable(_))));
    write(&line("b"));
    store.refresh();
    assert_ne!(store.revision().expect("it answers"), before);
}
