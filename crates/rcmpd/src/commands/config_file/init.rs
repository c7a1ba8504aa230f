//! `rcmpd config init`: a few questions, and a small commented file.

use crate::cli::{ConfigInitArgs, InitWebServerArg, RoleArg};
use crate::config::{self, Config};
use crate::output;
use crate::quickstart::random_domain_sid;
use account_store::file_access;
use anyhow::{Context, bail};
use clap::ValueEnum;
use rcmp_service::explain::shell_path;
use serde_json::json;
use std::io::{BufRead, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where packages put the configuration, and where the service of a package may write.
const OF_PACKAGE: (&str, &str) = ("/etc/rcmpd", "/var/lib/rcmpd");

/// The longest answer: a line of a terminal.
const ANSWER_LEN_MAX: u64 = 4096;

pub(super) async fn run(args: ConfigInitArgs) -> anyhow::Result<u8> {
    let (file, as_json) = (args.file.clone(), args.json.json);
    if file.symlink_metadata().is_ok() {
        bail!("{} already exists and is not overwritten; choose another file", file.display());
    }
    let text = configuration(args)?;
    let checked = config::parse(&text, config::base(&file)).map_err(|problems| {
        config::ConfigError::Wrong { path: file.clone(), text: text.clone(), problems }
    })?;
    let written = file_access::write_new(&file, text.as_bytes(), 0o644);
    written.with_context(|| format!("cannot write {}", file.display()))?;
    let mut made = vec![file.clone()];
    let is_good = prepared(&file, &checked, &mut made).await;
    match as_json {
        true => output::json(&json!({ "files": made, "good": is_good })),
        false => made.iter().for_each(|file| output::line(&format!("Created {}", file.display()))),
    }
    Ok(u8::from(!is_good))
}

/// Makes the database, and says what the configuration lacks; whether that is nothing. In a folder of another
/// user, that user makes it: a file of root would be of no use to the service.
async fn prepared(file: &Path, config: &Config, made: &mut Vec<PathBuf>) -> bool {
    if let Some(user) = config.store.as_ref().and_then(|store| other_owner(&store.key)) {
        let file = shell_path(&file.display().to_string());
        output::warning(&format!(
            "the folder of the database belongs to {user}; make it by: runuser -u {user} -- rcmpd domain add -c {file}"
        ));
        return true;
    }
    let has_database = config.store.as_ref().is_some_and(|store| store.key.exists());
    if config.store.is_some() && !has_database {
        match crate::stores::create(config).await {
            Ok(files) => made.extend(files),
            Err(error) => output::warning(&format!("no database was created: {error:#}")),
        }
    }
    let found = crate::findings::check(config).await;
    found.warnings.iter().for_each(|warning| output::warning(&warning.text));
    found.problems.iter().for_each(|problem| output::message(&problem.text));
    found.problems.is_empty()
}

/// An answer: the option, what is typed at the terminal, or the default.
fn answer(given: Option<String>, option: &str, question: &str, default: &str) -> anyhow::Result<String> {
    if let Some(given) = given {
        return Ok(given);
    }
    if !std::io::stdin().is_terminal() {
        match default {
            "" => bail!("{question} is not known: give {option}"),
            default => return Ok(default.to_owned()),
        }
    }
    loop {
        let shown = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        output::prompt(&format!("{question}{shown}: "));
        let mut line = String::new();
        let read = std::io::Read::take(std::io::stdin().lock(), ANSWER_LEN_MAX).read_line(&mut line);
        if read.context("cannot read from the terminal")? == 0 {
            bail!("the input ended; nothing was written");
        }
        match (line.trim(), default) {
            ("", "") => {}
            ("", default) => return Ok(default.to_owned()),
            (line, _) => return Ok(line.to_owned()),
        }
    }
}

/// An answer that is one of several words.
fn choice<T: ValueEnum + Copy>(
    given: Option<T>,
    option: &str,
    question: &str,
    default: &str,
) -> anyhow::Result<T> {
    let word =
        |value: T| value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let words: Vec<String> = T::value_variants().iter().map(|value| word(*value)).collect();
    let question = format!("{question} ({})", words.join(", "));
    let text = answer(given.map(word), option, &question, default)?;
    T::from_str(&text, true).ok().with_context(|| format!("{text:?} is none of {}", words.join(", ")))
}

/// A text as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(texts: &[String]) -> String {
    toml::Value::from(texts.to_vec()).to_string()
}

/// The first label of a name, as NetBIOS has it.
fn netbios_of(name: &str) -> String {
    name.split('.').next().unwrap_or_default().chars().take(15).collect::<String>().to_uppercase()
}

/// A path as the file has it: one that is not absolute starts at this folder, and the file may be in another.
fn from_here(path: &Path) -> anyhow::Result<String> {
    let path =
        std::path::absolute(path).with_context(|| format!("cannot say where {} is", path.display()))?;
    Ok(path.display().to_string())
}

/// The user of a file's folder, unless that is the user of this command.
fn other_owner(file: &Path) -> Option<String> {
    let owner = file.parent()?.metadata().ok()?.uid();
    let user = || Some(uzers::get_user_by_uid(owner)?.name().to_string_lossy().into_owned());
    (owner != rustix::process::geteuid().as_raw()).then(user)?
}

/// What goes before the names of files that the service writes.
fn data_folder(file: &Path, given: Option<&Path>) -> anyhow::Result<String> {
    let (configuration, data) = OF_PACKAGE;
    let is_of_package = std::path::absolute(file)?.parent() == Some(Path::new(configuration));
    Ok(match given.or(is_of_package.then_some(Path::new(data))) {
        Some(folder) => format!("{}/", from_here(folder)?),
        None => String::new(),
    })
}

fn configuration(args: ConfigInitArgs) -> anyhow::Result<String> {
    let data = data_folder(&args.file, args.data.as_deref())?;
    let role = choice(args.role, "--role", "What does this machine do?", "")?;
    let dns = answer(args.dns, "--dns", "DNS name of the domain", "")?;
    let netbios = answer(args.netbios, "--netbios", "NetBIOS name of the domain", &netbios_of(&dns))?;
    let sid_question = "SID of the domain, or new for a domain that has none yet";
    let new = if role == RoleArg::Server { "new" } else { "" };
    let sid = match answer(args.sid, "--sid", sid_question, new)? {
        sid if sid.eq_ignore_ascii_case("new") => random_domain_sid()?.to_string(),
        sid => sid,
    };
    let host = rustix::system::uname();
    let host = netbios_of(&host.nodename().to_string_lossy());
    let server = answer(args.server, "--server", "NetBIOS name of this server", &host)?;
    let anchors = match &args.ca[..] {
        [] => {
            vec![from_here(Path::new(&answer(None, "--ca", "File with the CA of client certificates", "")?))?]
        }
        files => files.iter().map(|file| from_here(file)).collect::<anyhow::Result<_>>()?,
    };
    let (netbios, dns, sid, server) = (quoted(&netbios), quoted(&dns), quoted(&sid), quoted(&server));
    let mut text = format!(
        "# Written by `rcmpd config init`. `rcmpd config show` prints every key with its value.\n\n\
         [domain]\nnetbios = {netbios}\ndns     = {dns}\nsid     = {sid}\n\
         server  = {server}   # NetBIOS name of this server\n\n\
         [mapping]                # strong mappings of validated certificates, unless keys here say otherwise\n\
         anchors = {}   # the CAs that client certificates lead to\n",
        list(&anchors)
    );
    match role {
        RoleArg::Server => {
            let listen = answer(args.listen, "--listen", "Address of Netlogon", "127.0.0.1:11490")?;
            text.push_str(&format!(
                "\n[rpc]                    # questions over Netlogon\nlisten = [{}]\n\n\
                 [store]                  # `rcmpd account add` and `rcmpd import` fill it\n\
                 kind = \"sqlite\"\npath = {}\n",
                quoted(&listen),
                quoted(&format!("{data}accounts.db"))
            ));
        }
        RoleArg::Sidecar => {
            let ask = answer(args.ask, "--ask", "Service or domain controller to ask", "")?;
            let default = format!("{host}$");
            let machine = answer(args.machine, "--machine", "Machine account of this machine", &default)?;
            let secret = args.secret.map(|path| path.display().to_string());
            let secret = answer(secret, "--secret", "File with the password of that account", "")?;
            text.push_str(&format!(
                "\n[client]                 # which service maps the certificates\nserver  = {}\naccount = {}\nsecret  = {}\n",
                quoted(&ask),
                quoted(&machine),
                quoted(&format!("file:{}", from_here(Path::new(&secret))?))
            ));
        }
    }
    let default = if role == RoleArg::Server { "none" } else { "nginx" };
    let web_server = choice(args.web_server, "--web-server", "Web server on this machine?", default)?;
    if let Some((dialect, user, is_behind)) = listener(web_server) {
        let socket = args.socket.map(|path| path.display().to_string());
        let socket = answer(socket, "--socket", "Unix socket for it", "/run/rcmpd/sidecar.sock")?;
        let user = answer(args.web_user, "--web-user", "User of the web server", user)?;
        let source =
            if role == RoleArg::Sidecar { "source = \"remote\"        # [client] is asked\n" } else { "" };
        text.push_str(&format!(
            "\n[sidecar]                # `rcmpd proxy-config` prints the configuration of the web server\n{source}\n\
             [[sidecar.listen]]\ndialect = {}\nunix    = {}\npeers   = [{}]   # its processes may ask\n",
            quoted(dialect),
            quoted(&from_here(Path::new(&socket))?),
            quoted(&user)
        ));
        if is_behind {
            let upstream = answer(args.upstream, "--upstream", "Application", "http://127.0.0.1:8080")?;
            text.push_str(&format!("upstream = {}\n", quoted(&upstream)));
        }
    } else if role == RoleArg::Sidecar {
        bail!("a sidecar needs a web server: give --web-server");
    }
    let log = quoted(&format!("{data}audit.log"));
    text.push_str(&format!(
        "\n[audit]                  # who asked about which certificate, and what was decided\npath = {log}\n"
    ));
    Ok(text)
}

/// The dialect of a web server, its usual user, and whether the sidecar stands between it and the
/// application.
const fn listener(web_server: InitWebServerArg) -> Option<(&'static str, &'static str, bool)> {
    match web_server {
        InitWebServerArg::None => None,
        InitWebServerArg::Nginx => Some(("nginx", "www-data", false)),
        InitWebServerArg::Caddy => Some(("caddy", "caddy", false)),
        InitWebServerArg::Envoy => Some(("envoy-grpc", "envoy", false)),
        InitWebServerArg::Haproxy => Some(("haproxy", "haproxy", true)),
        InitWebServerArg::Apache => Some(("apache", "www-data", true)),
    }
}
