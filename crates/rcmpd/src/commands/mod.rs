//! Carrying out what was typed. Each command returns its exit code; an `Err` is told on standard error and exits with 1.

mod account;
mod audit;
mod check_proxy;
mod domain;
mod group;
mod lookup;
mod machine;
mod map;
mod mapping;
mod proxy_config;
mod transfer;

use crate::cli::{Cli, Command, ConfigArg, MethodArg};
use crate::config::{self, Config, ConfigError, Telemetry};
use crate::output::{self, visible};
use clap::CommandFactory;
use rcmp_service::explain::shell_path;
use rcmp_service::message::MappingFlags;
use serde_json::json;
use std::io::Write;
use std::process::ExitCode;

/// Runs a command.
pub fn run(cli: Cli) -> ExitCode {
    if let Err(error) = leave_no_core() {
        output::message(&format!("cannot turn core dumps off: {error}"));
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::message(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dispatch(cli.command)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::failure(&error);
            // A program that reads JSON reads it in every case.
            if std::env::args_os().any(|argument| argument == "--json") {
                output::json(&json!({ "error": format!("{error:#}"), "exit_code": 1 }));
            }
            ExitCode::FAILURE
        }
    }
}

/// Turns core dumps off: memory holds passwords, keys and tokens. A limit of 0 is not enough where the kernel hands dumps to a program,
/// and a process that cannot be dumped cannot be traced by other processes of its user either.
fn leave_no_core() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

async fn dispatch(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Quickstart { dir, port, json } => {
            let made = crate::quickstart::make(&dir, port).await?;
            let shown = |path: &std::path::Path| visible(&shell_path(&path.display().to_string()));
            let (config, dir) = (shown(&made.config), shown(&dir));
            match json.json {
                true => output::json(&json!({ "config": made.config, "files": made.files })),
                false => output::lines(&format!(
                    "A demo domain is in {dir}.\n\nServe it:\n  rcmpd serve -c {config}\n\nElsewhere, ask who a certificate is:\n  \
                     rcmpd map {dir}/certs/alice.pem -c {config}     by the name and the SID in it\n  \
                     rcmpd map {dir}/certs/bob.pem -c {config}       by issuer and serial number\n  \
                     rcmpd map {dir}/certs/web01.pem -c {config}     a machine\n  \
                     rcmpd map {dir}/certs/carol.pem -c {config}     refused: names are all it has\n  \
                     rcmpd map {dir}/certs/mallory.pem -c {config}   nobody\n\nSee why:\n  \
                     rcmpd explain {dir}/certs/carol.pem -c {config}"
                )),
            }
            Ok(0)
        }
        Command::Serve { config } => {
            let path = config.config;
            let config = load(&path)?;
            let exporter = crate::telemetry::init(&config.telemetry)?;
            let served = crate::serve::run(&path, config).await;
            exporter.finish().await;
            served.map(|()| 0)
        }
        Command::Map(args) => map::map(args).await,
        Command::Explain { certificate, config, methods, chain, url, json } => {
            let (chain, url) = (chain.as_deref(), url.as_deref());
            map::explain(&certificate, chain, &config.config, flags(&methods), url, json.json).await
        }
        Command::CheckConfig { config, json } => Ok(check_config(&config, json.json).await),
        Command::Account(command) => account::run(command).await,
        Command::Group(command) => group::run(command).await,
        Command::Machine(command) => machine::run(command).await,
        Command::Domain(command) => domain::run(command).await,
        Command::Mapping(command) => mapping::run(command).await,
        Command::Import { file, replace, config, json } => {
            transfer::import(&file, replace, &load(&config.config)?, json.json).await
        }
        Command::Export { file, config, json } => {
            transfer::export(&file, &load(&config.config)?, json.json).await
        }
        Command::Audit(command) => audit::run(command),
        Command::ProxyConfig(args) => proxy_config::run(&args),
        Command::Page { listen, unix, anywhere } => {
            let exporter = crate::telemetry::init(&Telemetry { log: "info".to_owned(), json: false })?;
            let served = crate::check_proxy::serve_page(listen, unix.as_deref(), anywhere).await;
            exporter.finish().await;
            served.map(|()| 0)
        }
        Command::CheckProxy(args) => Ok(check_proxy::run(args).await),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "rcmpd", &mut std::io::stdout());
            Ok(0)
        }
        Command::Man => {
            let mut command = Cli::command();
            command.build();
            let mut page = Vec::new();
            clap_mangen::Man::new(command.clone()).render(&mut page)?;
            manual(&command, &mut page)?;
            std::io::stdout().write_all(&page)?;
            Ok(0)
        }
    }
}

/// Appends what each subcommand takes, with what comes after it in its help.
fn manual(command: &clap::Command, page: &mut Vec<u8>) -> anyhow::Result<()> {
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let man = clap_mangen::Man::new(command.clone());
        let name = command.get_bin_name().unwrap_or(command.get_name());
        writeln!(page, ".SH {}", name.to_uppercase())?;
        let mut sections = Vec::new();
        man.render_description_section(&mut sections)?;
        man.render_synopsis_section(&mut sections)?;
        if command.get_arguments().next().is_some() {
            man.render_options_section(&mut sections)?;
        }
        man.render_extra_section(&mut sections)?;
        // Sections of a command are subsections of the page.
        page.extend_from_slice(String::from_utf8_lossy(&sections).replace(".SH ", ".SS ").as_bytes());
        manual(command, page)?;
    }
    Ok(())
}

fn load(path: &std::path::Path) -> anyhow::Result<Config> {
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

async fn check_config(config: &ConfigArg, as_json: bool) -> u8 {
    let error = match config::load(&config.config) {
        Ok(checked) => return check_named(config, &checked, as_json).await,
        Err(error) => error,
    };
    if as_json {
        let problems: Vec<_> = error
            .places()
            .unwrap_or_default()
            .into_iter()
            .map(|(line, column, problem)| {
                json!({ "line": line, "column": column, "problem": problem.what, "help": problem.help })
            })
            .collect();
        output::json(&json!({ "good": false, "problems": problems, "error": error.to_string() }));
    } else {
        output::message_lines(&error.to_string());
    }
    match error {
        ConfigError::Unreadable { .. } => 2,
        ConfigError::Wrong { .. } => 1,
    }
}

/// The second half of a check: everything that the file names is there and can be used.
async fn check_named(config: &ConfigArg, named: &Config, as_json: bool) -> u8 {
    let found = crate::findings::check(named).await;
    let (problems, warnings) = (&found.problems, &found.warnings);
    if as_json {
        let told =
            problems.iter().map(|text| json!({ "line": null, "column": null, "problem": text, "help": "" }));
        let mut value = json!({ "good": problems.is_empty(), "problems": told.collect::<Vec<_>>(), "warnings": warnings });
        if !problems.is_empty() {
            value["error"] = json!(problems.join("\n"));
        }
        output::json(&value);
    } else {
        let say =
            |text: &str| output::message_lines(&visible(&format!("{}: {text}", config.config.display())));
        warnings.iter().for_each(|text| say(&format!("warning: {text}")));
        problems.iter().for_each(|text| say(text));
        if problems.is_empty() {
            output::line(&format!("{}: good", config.config.display()));
        }
    }
    u8::from(!problems.is_empty())
}
