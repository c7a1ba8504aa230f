//! What is installed by other means than `make install`: the Debian package and the image for containers.
//! That they install, run, upgrade and purge is tested by `make test-packages`.

use rcmpd_tests::peers;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn text(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn package(folder: &Path) -> PathBuf {
    let mut build = Command::new(deploy("debian/build"));
    build.arg(rcmpd_tests::binary()).arg(folder).env("DPKG_DEB_COMPRESSOR_TYPE", "none");
    build.env("DEBFULLNAME", "Packager").env("DEBEMAIL", "packager@contoso.example");
    PathBuf::from(text(build.env("SOURCE_DATE_EPOCH", "1700000000")).trim())
}

#[test]
fn debian_package_has_what_dpkg_needs_and_is_the_same_twice() {
    let folder = tempfile::tempdir().unwrap();
    let first = package(&folder.path().join("first"));
    let second = package(&folder.path().join("second"));
    assert!(fs::read(&first).unwrap() == fs::read(second).unwrap(), "two builds differ");

    let field = |name: &str| text(Command::new("dpkg-deb").arg("--field").arg(&first).arg(name));
    assert_eq!(field("Package").trim(), "rcmpd");
    assert_eq!(field("Maintainer").trim(), "Packager <packager@contoso.example>");
    assert!(field("Depends").contains("libc6 (>= "), "{}", field("Depends"));
    let listed = text(Command::new("dpkg-deb").arg("--contents").arg(&first));
    for path in [
        "./usr/bin/rcmpd",
        "./usr/lib/systemd/system/rcmpd.service",
        "./usr/share/man/man1/rcmpd-map.1.gz",
        "./usr/share/doc/rcmpd/copyright",
        "./usr/share/doc/rcmpd/docs/tutorial.md",
        "./usr/share/doc/rcmpd/rcmpd.cdx.json",
    ] {
        let line =
            listed.lines().find(|line| line.ends_with(path)).unwrap_or_else(|| panic!("{path}: {listed}"));
        assert!(line.contains(" root/root "), "{line}");
    }
    // Whatever the modes in the checkout are.
    for line in listed.lines() {
        let is_usual =
            ["drwxr-xr-x ", "-rwxr-xr-x ", "-rw-r--r-- "].iter().any(|mode| line.starts_with(mode));
        assert!(is_usual, "{line}");
    }

    let control = folder.path().join("control");
    text(Command::new("dpkg-deb").arg("--control").arg(&first).arg(&control));
    assert_eq!(fs::read_to_string(control.join("conffiles")).unwrap(), "/etc/logrotate.d/rcmpd\n");
    for script in ["postinst", "prerm", "postrm"] {
        text(Command::new("sh").arg("-n").arg(control.join(script)));
    }
    // An upgrade keeps all that a purge removes.
    let script = control.join("postrm");
    assert!(run(Command::new(script).arg("upgrade").arg("9.0")).status.success());
}

/// The digests of an OCI layout are those of its blobs (image-spec, section "Content Descriptors").
#[test]
fn image_is_an_oci_layout_and_takes_no_program_that_needs_a_loader() {
    let folder = tempfile::tempdir().unwrap();
    let image = |program: &Path| {
        let mut build = Command::new(deploy("container/image"));
        run(build.arg(program).arg(folder.path().join("image")).env("SOURCE_DATE_EPOCH", "1700000000"))
    };
    let refused = image(&rcmpd_tests::binary());
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("make static"), "{refused:?}");

    let (source, program) = (folder.path().join("static.c"), folder.path().join("static"));
    fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    text(Command::new("gcc").arg("-static").arg("-o").arg(&program).arg(&source));
    let built = image(&program);
    assert!(built.status.success(), "{built:?}");

    let image = folder.path().join("image");
    let json = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    assert_eq!(json(&image.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
        let path = image.join("blobs/sha256").join(&digest);
        let data = fs::read(&path).unwrap();
        let real: String = Sha256::digest(&data).iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!((real, data.len() as u64), (digest, descriptor["size"].as_u64().unwrap()));
        path
    };
    let manifest = json(&blob(&json(&image.join("index.json"))["manifests"][0]));
    let config = json(&blob(&manifest["config"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    // The Dockerfile makes the same image.
    let dockerfile = fs::read_to_string(deploy("container/Dockerfile")).unwrap();
    let after = |word: &str| {
        let line = dockerfile.lines().rev().find_map(|line| line.strip_prefix(word)).expect(word);
        line.trim().to_owned()
    };
    let list = |word: &str| serde_json::from_str::<Value>(&after(word)).unwrap();
    let made = serde_json::json!({
        "User": after("USER "), "WorkingDir": after("WORKDIR "), "StopSignal": after("STOPSIGNAL "),
        "Env": [after("ENV ")], "Entrypoint": list("ENTRYPOINT "), "Cmd": list("CMD "),
    });
    for (key, value) in made.as_object().unwrap() {
        assert_eq!(config["config"][key], *value, "{key}");
    }
    let listed = text(Command::new("tar").arg("-tvzf").arg(blob(&manifest["layers"][0])));
    assert!(listed.contains("usr/bin/rcmpd") && listed.contains("-rwxr-xr-x 0/0"), "{listed}");
}

/// The crates that rustc read for the program: the places of panics name their files in cargo's registry.
fn crates_in(program: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(program);
    let paths = text.split("/registry/src/index.crates.io-").skip(1);
    let names = paths.filter_map(|path| path.split_once('/')?.1.split_once('/')).map(|(name, _)| name);
    let is_name =
        |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte));
    names.filter(is_name).map(str::to_owned).collect()
}

#[test]
fn bill_of_materials_is_valid_and_has_each_crate_of_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rcmpd.cdx.json");
    let write = || {
        text(Command::new(deploy("sbom")).arg(&file).env("SOURCE_DATE_EPOCH", "1700000000"));
        fs::read_to_string(&file).unwrap()
    };
    let first = write();
    assert!(first == write(), "two runs differ");
    let bom: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(peers::cyclonedx_errors(&bom), serde_json::json!([]));
    // The schema rejects something.
    let mut wrong = bom.clone();
    wrong["components"][0]["type"] = "crate".into();
    assert_ne!(peers::cyclonedx_errors(&wrong), serde_json::json!([]));
    let components = bom["components"].as_array().unwrap();
    let named: BTreeSet<String> = components
        .iter()
        .map(|it| format!("{}-{}", it["name"].as_str().unwrap(), it["version"].as_str().unwrap()))
        .collect();
    let built = crates_in(&fs::read(rcmpd_tests::binary()).unwrap());
    assert!(built.len() > 100, "{built:?}");
    assert_eq!(built.difference(&named).collect::<Vec<_>>(), Vec::<&String>::new());
    // What others publish has its checksum of the registry.
    let of_registry = components.iter().filter(|it| it["hashes"][0]["content"].is_string()).count();
    assert!(of_registry > 200, "{of_registry}");
}
