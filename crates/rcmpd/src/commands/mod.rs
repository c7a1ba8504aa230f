//! Runs commands. Each command returns its exit code; an `Err` is reported on standard error and exits with
//! the code of its kind.

mod account;
mod admin_port;
mod audit;
mod check_proxy;
mod config_file;
mod doctor;
mod domain;
mod group;
mod lookup;
mod machine;
mod man;
mod map;
mod mapping;
mod proxy_config;
mod replica;
mod sidecar;
mod sso;
mod status;
mod store;
mod tlsnego;
mod top;
mod transfer;

use crate::checked::Found;
use crate::cli::{self, Cli, Command, ConfigFileArg, FormatArg, MethodArg, Parsed, WrongUse};
use crate::config::{self, Config, ConfigError, Telemetry};
use crate::output::{self, visible};
use crate::quickstart;
use crate::socket_activation::PassedSockets;
use crate::stated_time::StatedTime;
use account_import::Format;
use clap::CommandFactory;
use pem_file::input;
use rcmp_service::explain::shell_path;
use rcmp_service::message::MappingFlags;
use serde_json::json;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A given file cannot be read or used.
const UNUSABLE: u8 = 6;
/// A server that cannot be reached in time.
const UNREACHABLE: u8 = 4;

/// Why a command failed, with an exit code of its own.
#[derive(Debug)]
struct Failed {
    code: u8,
    why: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Failed {}

fn failed(code: u8, why: impl fmt::Display) -> anyhow::Error {
    Failed { code, why: why.to_string() }.into()
}

/// The exit code of a failure. A configuration that cannot be read has the same one for every command.
fn exit_code(error: &anyhow::Error) -> u8 {
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(Failed { code, .. }), _) => *code,
        (_, Some(error)) => exit_code_of(error),
        _ => 1,
    }
}

fn exit_code_of(error: &ConfigError) -> u8 {
    match error {
        ConfigError::Unreadable { .. } => 2,
        ConfigError::Wrong { .. } => 1,
    }
}

/// Ends a command. Output that could not be written is a failure.
fn end(code: u8) -> ExitCode {
    match output::finish() {
        Ok(()) => ExitCode::from(code),
        Err(error) => {
            output::message(&format!("cannot write to standard output: {error}"));
            ExitCode::from(code.max(1))
        }
    }
}

/// Reports why a command failed: on standard error, and also as JSON with `--json`.
fn end_failed(error: &anyhow::Error, as_json: bool) -> ExitCode {
    let code = exit_code(error);
    output::failure(error);
    // A program that reads JSON reads one value in every case.
    if as_json && !output::has_json() {
        output::json(&json!({ "error": crate::output::chain(error), "exit_code": code }));
    }
    end(code)
}

/// Ends a command that was not understood, or asked for help.
pub fn wrong_use(WrongUse { error, as_json }: &WrongUse) -> ExitCode {
    output::usage(error);
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if code != 0 && *as_json {
        let text = error.render().to_string();
        let text = text.trim_end().strip_prefix("error: ").unwrap_or(&text);
        output::json(&json!({ "error": text, "exit_code": code }));
    }
    end(code)
}

/// Runs a command.
pub fn run(Parsed { cli, as_json }: Parsed) -> ExitCode {
    if let Err(error) = leave_no_core() {
        return end_failed(&anyhow::Error::from(error).context("cannot turn core dumps off"), as_json);
    }
    // The environment can be changed safely while there is one thread.
    let passed_sockets = match &cli.command {
        Command::Serve { .. } => PassedSockets::of_environment(),
        _ => Ok(PassedSockets::default()),
    };
    let passed_sockets = match passed_sockets {
        Ok(passed_sockets) => passed_sockets,
        Err(error) => return end_failed(&error, as_json),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end_failed(&anyhow::Error::from(error).context("cannot start"), as_json),
    };
    let has_timeout = matches!(cli.command, Command::Map(_));
    let outcome = runtime.block_on(dispatch(cli.command, passed_sockets));
    match has_timeout {
        // A thread that still waits for a resolver does not keep the command beyond its time.
        true => runtime.shutdown_background(),
        // Other threads finish what they do: databases are closed.
        false => drop(runtime),
    }
    match outcome {
        Ok(code) => end(code),
        Err(error) => end_failed(&error, as_json),
    }
}

/// Turns core dumps off: memory holds passwords, keys and tokens. A limit of 0 is not enough where the kernel
/// hands dumps to a program, and a process that cannot be dumped cannot be traced by other processes of its
/// user either.
fn leave_no_core() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

async fn dispatch(command: Command, passed_sockets: PassedSockets) -> anyhow::Result<u8> {
    match command {
        Command::Quickstart { dir, port, sso, tlsnego, json } => {
            let made = quickstart::make(&dir, port, quickstart::Parts { sso, tlsnego }).await?;
            match json.json {
                true => output::json(&json!({ "config": made.config, "files": made.files })),
                false => output::lines(&next_steps(&made.config, &dir, port, (sso, tlsnego))),
            }
            Ok(0)
        }
        Command::Serve { config } => serve(&config, passed_sockets).await,
        Command::Map(args) => map::map(args).await,
        Command::Explain { certificate, config, methods, chain, url, json } => {
            let (chain, url) = (chain.as_deref(), url.as_deref());
            let methods = methods.as_deref().map(flags);
            map::explain(&certificate, chain, &config.config, methods, url, json.json).await
        }
        Command::Doctor(args) => doctor::run(args).await,
        Command::Status(args) => status::run(&args).await,
        Command::Top(args) => top::run(&args).await,
        Command::CheckConfig { config, json } => Ok(check_config(&config_file(&config)?, json.json).await),
        Command::Config(command) => config_file::run(command).await,
        Command::Account(command) => account::run(command).await,
        Command::Group(command) => group::run(command).await,
        Command::Machine(command) => machine::run(command).await,
        Command::Store(command) => store::run(command).await,
        Command::Domain(command) => domain::run(command).await,
        Command::Mapping(command) => mapping::run(command).await,
        Command::Import { file, format, replace, keep_disabled, prune, prune_max, dry_run, config, json } => {
            let format = match format {
                None => Format::of_file(&file),
                Some(FormatArg::Jsonl) => None,
                Some(FormatArg::Csv) => Some(Format::Csv),
                Some(FormatArg::Ldif) => Some(Format::Ldif),
            };
            let prune_max = prune.then_some(prune_max);
            let how = transfer::How { format, replace, keep_disabled, prune_max, is_dry_run: dry_run };
            transfer::import(&file, how, &load(&config.config)?, json.json).await
        }
        Command::Export { file, config, json } => {
            transfer::export(&file, &load(&config.config)?, json.json).await
        }
        Command::Audit(command) => audit::run(command),
        Command::Sso(command) => sso::run(command).await,
        Command::Replica(command) => replica::run(command).await,
        Command::Sidecar(command) => sidecar::run(command),
        Command::Tlsnego(command) => tlsnego::run(command).await,
        Command::ProxyConfig(args) => proxy_config::run(&args),
        Command::Page { listen, unix, anywhere } => page(listen, unix.as_deref(), anywhere).await,
        Command::CheckProxy(args) => Ok(check_proxy::run(args).await),
        Command::Completions { shell } => Ok(completions(shell)),
        Command::Man { command, dir } => {
            man::run(Cli::command(), &command, dir.as_deref())?;
            Ok(0)
        }
        Command::Version => {
            output::line(&format!("rcmpd {}", cli::VERSION));
            Ok(0)
        }
    }
}

/// What can be done with a new demo domain.
fn next_steps(config: &Path, dir: &Path, port: Option<u16>, (sso, tlsnego): (bool, bool)) -> String {
    let shown = |path: &Path| visible(&shell_path(&path.display().to_string()));
    let (config, dir) = (shown(config), shown(dir));
    let mut steps = format!(
        "Created a demo domain in {dir}.\n\nServe it:\n  rcmpd serve -c {config}\n\nIn another terminal, ask for the account of a certificate:\n  \
         rcmpd map {dir}/certs/alice.pem -c {config}     by the name and the SID in it\n  \
         rcmpd map {dir}/certs/bob.pem -c {config}       by issuer and serial number\n  \
         rcmpd map {dir}/certs/web01.pem -c {config}     a machine\n  \
         rcmpd map {dir}/certs/carol.pem -c {config}     refused: it has only names\n  \
         rcmpd map {dir}/certs/mallory.pem -c {config}   no account\n\nSee why:\n  \
         rcmpd explain {dir}/certs/carol.pem -c {config}"
    );
    if sso {
        let at = quickstart::sso_port(port);
        steps.push_str(&format!(
            "\n\nGet the master secret, as a node of the farm does. bob is no SSO administrator: with --user bob\n\
             (and his password file) the server answers SSO_E_ACCESSDENIED:\n  \
             rcmpd sso secret get --server 127.0.0.1:{at} --user alice \\\n      \
             --password-file {dir}/users/alice.password --output master.key"
        ));
    }
    if tlsnego {
        let at = quickstart::tlsnego_port(port);
        steps.push_str(&format!(
            "\n\nCall the service at port {} through the gateway, and see each message:\n  \
             rcmpd tlsnego call http://127.0.0.1:{at}/service --action urn:echo --body BODY.xml \\\n      \
             --user alice --password-file {dir}/users/alice.password --ca {dir}/certs/ca.pem --trace",
            at.saturating_add(1)
        ));
    }
    steps
}

async fn serve(config: &ConfigFileArg, passed_sockets: PassedSockets) -> anyhow::Result<u8> {
    let path = config_file(config)?;
    if input::is_standard(&path) {
        return Err(failed(2, "serve needs a file, which it reads again at SIGHUP"));
    }
    let config = load(&path)?;
    let (exporter, log_filter) = crate::telemetry::init(&config.telemetry, config.audit.otlp.is_some())?;
    let telemetry = (log_filter, exporter.exported());
    let served = crate::serve::run(&path, config, telemetry, passed_sockets).await;
    exporter.finish().await;
    served.map(|()| 0)
}

async fn page(listen: Option<SocketAddr>, unix: Option<&Path>, anywhere: bool) -> anyhow::Result<u8> {
    let telemetry = Telemetry { log: "info".to_owned(), json: false, otlp: config::Otlp::default() };
    let (exporter, _) = crate::telemetry::init(&telemetry, false)?;
    let served = proxy_check::serve_page(listen, unix, anywhere).await;
    exporter.finish().await;
    served.map(|()| 0)
}

fn completions(shell: clap_complete::Shell) -> u8 {
    if output::is_terminal() {
        output::message("this is a file for the shell; `rcmpd completions --help` says where it goes");
    }
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rcmpd", &mut script);
    if shell == clap_complete::Shell::Bash {
        script.extend_from_slice(NAMES_FOR_BASH.as_bytes());
    }
    output::file(&script);
    0
}

/// Completes the names after `account show` and the like, which come from the store. They are data: nothing
/// in them is expanded.
const NAMES_FOR_BASH: &str = r#"
_rcmpd_with_names() {
    _rcmpd "$@"
    local cur=${COMP_WORDS[COMP_CWORD]} name
    [[ $COMP_CWORD -eq 3 && $cur != -* && -n $RCMPD_CONFIG ]] || return 0
    case "${COMP_WORDS[1]} ${COMP_WORDS[2]}" in
        account\ show | account\ set | account\ remove) ;;
        group\ show | group\ set | group\ remove) ;;
        machine\ show | machine\ set | machine\ remove) ;;
        *) return 0 ;;
    esac
    COMPREPLY=()
    while IFS= read -r name; do
        [[ $name == "$cur"* ]] && COMPREPLY+=("$(printf %q "$name")")
    done < <("${COMP_WORDS[0]}" "${COMP_WORDS[1]}" list -- "$cur" 2>/dev/null | sed -e 1d -e 's/^ //' -e 's/  .*//')
}
complete -F _rcmpd_with_names -o bashdefault -o default rcmpd
"#;

/// The configuration file of a command that takes it in more than one way.
fn config_file(config: &ConfigFileArg) -> anyhow::Result<PathBuf> {
    config.path().ok_or_else(|| failed(2, "no configuration: give FILE or -c FILE, or set RCMPD_CONFIG; there is no ./rcmpd.toml and no /etc/rcmpd/rcmpd.toml that belongs to this user or to root"))
}

fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(config::load(path)?)
}

/// The flags of a request that asks for these methods.
fn flags(methods: &[MethodArg]) -> MappingFlags {
    methods.iter().fold(MappingFlags(0), |flags, method| {
        flags.with(match method {
            MethodArg::Upn => MappingFlags::UPN,
            MethodArg::Subject => MappingFlags::SUBJECT,
            MethodArg::Issuer => MappingFlags::ISSUER,
            MethodArg::IssuerChain => MappingFlags::ISSUER.with(MappingFlags::ISSUER_CHAIN),
        })
    })
}

async fn check_config(config: &Path, as_json: bool) -> u8 {
    let error = match config::load(config) {
        Ok(checked) => return check_named(config, &checked, as_json).await,
        Err(error) => error,
    };
    let code = exit_code_of(&error);
    if as_json {
        let problems: Vec<_> = error
            .places()
            .unwrap_or_default()
            .into_iter()
            .map(|(line, column, problem)| {
                json!({ "line": line, "column": column, "problem": problem.what, "help": problem.help })
            })
            .collect();
        output::json(
            &json!({ "good": false, "problems": problems, "error": error.to_string(), "exit_code": code }),
        );
    }
    output::message_lines(&error.to_string());
    code
}

/// The second half of a check: everything that the file names is there and can be used.
async fn check_named(config: &Path, named: &Config, as_json: bool) -> u8 {
    let found = crate::findings::check(named).await;
    let times = crate::stated_time::stated_times(named);
    let texts = |found: Vec<Found>| found.into_iter().map(|found| found.text).collect();
    let (problems, warnings): (Vec<String>, Vec<String>) = (texts(found.problems), texts(found.warnings));
    if as_json {
        let told =
            problems.iter().map(|text| json!({ "line": null, "column": null, "problem": text, "help": "" }));
        let mut value = json!({ "good": problems.is_empty(), "problems": told.collect::<Vec<_>>(), "warnings": warnings });
        value["refused_after"] = times.iter().map(StatedTime::json).collect();
        if !problems.is_empty() {
            value["error"] = json!(problems.join("\n"));
            value["exit_code"] = json!(1);
        }
        output::json(&value);
    }
    let say = |text: &str| output::message_lines(&visible(&format!("{}: {text}", config.display())));
    if !as_json {
        warnings.iter().for_each(|text| say(&format!("warning: {text}")));
    }
    problems.iter().for_each(|text| say(text));
    if !as_json && problems.is_empty() {
        output::line(&format!("{}: good", config.display()));
        times.iter().for_each(|time| output::line(&format!("{}: {}", config.display(), time.text())));
    }
    u8::from(!problems.is_empty())
}
