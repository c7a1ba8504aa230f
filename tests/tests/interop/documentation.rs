//! The command blocks of README, CONTRIBUTING and `docs/`, run as they are printed. `tests/run_docs.py` says
//! how a page marks them.

use rcmpd_tests::peers::tool;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// A test for each page, and the pages with the number of their blocks that are not run. Such a block has its
/// reason above it, in a comment.
macro_rules! pages {
    ($($name:ident: $page:literal, $not_run:literal;)*) => {
        const PAGES: &[(&str, usize)] = &[$(($page, $not_run)),*];

        mod commands_run_as_printed {
            $(
                #[test]
                fn $name() {
                    super::run($page, $not_run);
                }
            )*
        }
    };
}

pages! {
    readme: "README.md", 2;
    contributing: "CONTRIBUTING.md", 2;
    index: "docs/README.md", 0;
    accounts: "docs/accounts.md", 0;
    alerts: "docs/alerts.md", 0;
    audit_log: "docs/audit-log.md", 0;
    backup: "docs/backup.md", 0;
    certificates: "docs/certificates.md", 0;
    commands: "docs/commands.md", 0;
    concepts: "docs/concepts.md", 0;
    configuration: "docs/configuration.md", 0;
    directories: "docs/directories.md", 0;
    domains: "docs/domains.md", 0;
    embedding: "docs/embedding.md", 0;
    glossary: "docs/glossary.md", 0;
    headers: "docs/headers.md", 0;
    import_accounts: "docs/import-accounts.md", 0;
    importing_rules: "docs/importing-rules.md", 0;
    install: "docs/install.md", 5;
    kerberos: "docs/kerberos.md", 1;
    master_secret: "docs/master-secret.md", 0;
    tlsnego: "docs/tlsnego.md", 0;
    metrics: "docs/metrics.md", 0;
    operating: "docs/operating.md", 0;
    postgres: "docs/postgres.md", 0;
    replicas: "docs/replicas.md", 0;
    several_stores: "docs/several-stores.md", 0;
    socket_store: "docs/socket-store.md", 0;
    smart_cards: "docs/smart-cards.md", 0;
    status_page: "docs/status-page.md", 0;
    tutorial: "docs/tutorial.md", 0;
    web_servers: "docs/web-servers.md", 4;
    write_your_own_store: "docs/write-your-own-store.md", 1;
}

/// The most blocks that are not run, on all pages together: those that build the product, change the machine,
/// or need a server that tests make for themselves. Four of them need root and systemd: the test of the Debian
/// package runs them in its chroot.
const NOT_RUN_MAX: usize = 15;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn run(page: &str, not_run: usize) {
    let binary = rcmpd_tests::binary();
    let inherited = std::env::var("PATH").unwrap();
    let path = format!("{}:{inherited}:/usr/sbin:/sbin", binary.parent().unwrap().display());
    let done = Command::new("python3")
        .args(["tests/run_docs.py", page, &not_run.to_string()])
        .env("PATH", path)
        .current_dir(root())
        .output()
        .unwrap();
    let (told, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{told}{errors}");
}

#[test]
fn every_page_is_run_and_few_blocks_are_left_out() {
    let mut found = BTreeSet::from(["README.md".to_owned(), "CONTRIBUTING.md".to_owned()]);
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            found.insert(format!("docs/{name}"));
        }
    }
    let listed: BTreeSet<String> = PAGES.iter().map(|(page, _)| (*page).to_owned()).collect();
    assert_eq!(found, listed);
    assert!(PAGES.iter().map(|(_, not_run)| not_run).sum::<usize>() <= NOT_RUN_MAX);
}

/// Without a network, and the same twice. Each link of the site leads somewhere, and no page loads anything
/// from another host.
#[test]
fn the_site_is_built_offline_and_its_links_lead_somewhere() {
    let folder = tempfile::tempdir().unwrap();
    let sites = ["first", "second"].map(|name| folder.path().join(name));
    let run = |command: &mut Command| {
        let done = command.current_dir(root()).output().unwrap();
        let (told, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        (done.status.success(), format!("{told}{errors}"))
    };
    for site in &sites {
        let mut build = Command::new("unshare");
        build.args(["--map-root-user", "--net", "docs/site/build"]).arg(tool("mdbook")).arg(site);
        build.arg(rcmpd_tests::binary());
        let (is_built, told) = run(&mut build);
        assert!(is_built, "{told}");
    }
    let check = || run(Command::new("python3").arg("tests/check_site.py").arg(&sites[0]));
    let page = std::fs::read_to_string(sites[0].join("options.html")).unwrap();
    for has in ["rcmpd store verify", "rcmpd tlsnego session cancel", "--prune-max", "Exit codes"] {
        assert!(page.contains(has), "{has}");
    }
    let (is_good, told) = check();
    assert!(is_good && told.contains(" links"), "{told}");
    let (are_equal, told) = run(Command::new("diff").arg("-rq").args(&sites));
    assert!(are_equal, "{told}");
    // The check finds what is wrong.
    std::fs::remove_file(sites[0].join("alerts.html")).unwrap();
    assert!(!check().0);
}
