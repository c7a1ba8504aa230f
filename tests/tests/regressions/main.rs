//! What the fuzzer starts from and what it once found: every file goes through its target's oracle.

use rcmpd_fuzz::{
    ap_req, association, blob, ccache, certificate, chain, context, cookie, crl, dialect, foreign, keytab,
    ldap, message, name, ndr, negotiation, ntlm, ocsp, pac, path, pdu, pem, proof, rcmp, sealed, sessions,
    soap, socket, spnego, ticket,
};
use std::path::Path;

/// Runs the oracle on each file of a target, in both places; returns how many there were.
fn replay(target: &str, check: fn(&[u8])) -> usize {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [tests.join("../fuzz/corpus").join(target), tests.join("regressions").join(target)];
    let mut files = 0;
    for entry in places.iter().filter_map(|place| place.read_dir().ok()).flatten() {
        let path = entry.expect("the directory can be read").path();
        // Said first, so that a failure names its file.
        println!("{}", path.display());
        check(&std::fs::read(&path).expect("the file can be read"));
        files += 1;
    }
    files
}

macro_rules! targets {
    ($($target:ident)*) => {
        const TARGETS: &[&str] = &[$(stringify!($target)),*];
    $(
        #[test]
        fn $target() {
            assert!(replay(stringify!($target), $target::check) > 0, "a target has a corpus");
        }
    )*};
}

targets!(ap_req association blob ccache certificate chain context cookie crl dialect foreign keytab ldap message name ndr negotiation ntlm ocsp pac path pdu pem proof rcmp sealed sessions soap socket spnego ticket);

#[test]
fn every_folder_is_that_of_a_target() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    for place in ["../fuzz/corpus", "regressions"] {
        for folder in tests.join(place).read_dir().expect("it is there") {
            let folder = folder.expect("the directory can be read").file_name().into_string().expect("UTF-8");
            assert!(tests.join(format!("../fuzz/targets/{folder}.rs")).exists(), "{place}/{folder}");
            assert!(TARGETS.contains(&folder.as_str()), "{folder} is not run here");
        }
    }
}
