//! A copy of the stores of a configuration in a folder, and back.
//!
//! The folder has the databases, the files of accounts, the key file, the configuration, and a list of them
//! with their hashes. What is elsewhere, or has a back-up of its own, is named and not copied.

use super::{database, open_whole, section};
use crate::config::{Config, StoreKind};
use account_store::file_access::{database_files, write_new};
use account_store::sqlite::SqliteStore;
use anyhow::{Context, bail};
use aws_lc_rs::digest;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// The list of the files.
const LIST: &str = "backup.json";
/// Its version.
const VERSION: u32 = 1;
/// It is short.
const LIST_LEN_MAX: u64 = 1 << 20;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    /// An SQLite database.
    Database,
    /// JSON Lines of `kind = "memory"`.
    Accounts,
    /// The key file.
    Key,
    /// The configuration. It is not restored: it says where the others go.
    Configuration,
}

/// A file that a configuration names.
#[derive(Debug)]
struct Named {
    role: Role,
    section: String,
    path: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    role: Role,
    /// The section of the configuration that names it.
    section: String,
    /// Its name in the folder.
    file: String,
    sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    rcmpd_backup: u32,
    /// The SID of the domain.
    domain: String,
    made: String,
    files: Vec<Listed>,
}

/// What was copied, and what was not.
#[derive(Debug, Default, Serialize)]
pub struct Copied {
    /// Files that were made.
    pub files: Vec<PathBuf>,
    /// What is needed as well.
    pub not_copied: Vec<String>,
}

/// The files of the stores, each once.
fn named(config: &Config) -> anyhow::Result<Vec<Named>> {
    let store = section(config)?;
    let mut files: Vec<Named> = Vec::new();
    let mut add = |role, section: &str, path: &Path| {
        if files.iter().all(|file| file.path != path) {
            files.push(Named { role, section: section.to_owned(), path: path.to_owned() });
        }
    };
    for (section, kind) in store.kinds() {
        match kind {
            StoreKind::Sqlite(path) => add(Role::Database, &section, path),
            StoreKind::Memory(path) => add(Role::Accounts, &section, path),
            StoreKind::Postgres(_)
            | StoreKind::Profile(_)
            | StoreKind::Ldap(_)
            | StoreKind::Socket(_)
            | StoreKind::Several(_)
            | StoreKind::Added(..) => {}
        }
    }
    store.machines.iter().for_each(|path| add(Role::Database, "channels", path));
    add(Role::Key, "channels", &store.key);
    Ok(files)
}

/// What is needed beside these files.
fn elsewhere(config: &Config, copied: &[Named], without_key: bool) -> anyhow::Result<Vec<String>> {
    let store = section(config)?;
    let mut needed = Vec::new();
    if without_key && store.key.exists() {
        needed.push(format!(
            "{}, the key file: copy it to another place than this back-up",
            store.key.display()
        ));
    }
    for (section, kind) in store.kinds() {
        match kind {
            StoreKind::Postgres(postgres) => {
                needed.push(format!("{} ({section}): use pg_dump", database::place(postgres)));
            }
            StoreKind::Ldap(_) => needed.push(format!("the accounts of the directory ({section})")),
            StoreKind::Socket(_) => needed.push(format!("the accounts of the program ({section})")),
            StoreKind::Added(kind, _) => {
                needed.push(format!("the accounts of kind = \"{kind}\" ({section})"))
            }
            StoreKind::Sqlite(_) | StoreKind::Memory(_) | StoreKind::Profile(_) | StoreKind::Several(_) => {}
        }
    }
    let is_copied = |path: &Path| {
        path == store.key
            || copied
                .iter()
                .any(|file| file.path == path || database_files(&file.path).iter().any(|it| it == path))
    };
    let mut others: Vec<_> = config.named_files().filter(|path| path.exists() && !is_copied(path)).collect();
    others.sort();
    others.dedup();
    needed.extend(others.into_iter().map(|path| path.display().to_string()));
    Ok(needed)
}

/// Copies a file to a new one, for `owner` if there is one, and returns the hash of the copy. A copy that
/// fails is removed.
fn copy(from: &Path, to: &Path, owner: Option<(u32, u32)>) -> anyhow::Result<String> {
    let context = || format!("cannot copy {} to {}", from.display(), to.display());
    let source = File::open(from).with_context(context)?;
    let mut options = OpenOptions::new();
    let mut target = options.write(true).create_new(true).mode(0o600).open(to).with_context(context)?;
    // By the descriptor: who may write to the folder can put another file at the path.
    let given = owner.map_or(Ok(()), |(uid, gid)| fchown(&target, Some(uid), Some(gid)));
    let copied = given
        .and_then(|()| hash_of_all(source, |part| target.write_all(part)))
        .and_then(|hash| target.sync_all().map(|()| hash));
    if copied.is_err() {
        let _ = fs::remove_file(to);
    }
    copied.with_context(context)
}

fn hash_of(path: &Path) -> anyhow::Result<String> {
    let hash = File::open(path).and_then(|file| hash_of_all(file, |_| Ok(())));
    hash.with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a file to its end, and gives each part on. Returns the SHA-256 in hexadecimal.
fn hash_of_all(mut file: File, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<String> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(dtyp::hex(hash.finish().as_ref())),
            len => {
                hash.update(&buffer[..len]);
                each(&buffer[..len])?;
            }
        }
    }
}

/// Makes a folder with a copy. The service may run meanwhile.
pub fn back_up(
    config: &Config,
    config_file: &Path,
    folder: &Path,
    without_key: bool,
) -> anyhow::Result<Copied> {
    let files = named(config)?;
    let not_copied = elsewhere(config, &files, without_key)?;
    DirBuilder::new()
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let mut copied = Copied { not_copied, ..Copied::default() };
    let made = fill(config, config_file, folder, files, without_key, &mut copied);
    if made.is_err() {
        // What is there was made here: the folder is new.
        let _ = fs::remove_dir_all(folder);
    }
    made.map(|()| copied)
}

fn fill(
    config: &Config,
    config_file: &Path,
    folder: &Path,
    files: Vec<Named>,
    without_key: bool,
    copied: &mut Copied,
) -> anyhow::Result<()> {
    let own = Named { role: Role::Configuration, section: String::new(), path: config_file.to_owned() };
    let mut listed: Vec<Listed> = Vec::new();
    for Named { role, section, path } in files.into_iter().chain([own]) {
        if role == Role::Key && without_key {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("file");
        let is_taken = |name: &str| name == LIST || listed.iter().any(|other| other.file == name);
        let mut names =
            std::iter::once(name.to_owned()).chain((2..).map(|number| format!("{number}-{name}")));
        let file = names.find(|name| !is_taken(name)).context("there is a free name")?;
        let to = folder.join(&file);
        let sha256 = match role {
            Role::Database => {
                SqliteStore::open(&path, None)
                    .and_then(|store| store.copy_to(&to))
                    .with_context(|| format!("cannot copy {}", path.display()))?;
                hash_of(&to)?
            }
            Role::Accounts | Role::Key | Role::Configuration => copy(&path, &to, None)?,
        };
        copied.files.push(to);
        listed.push(Listed { role, section, file, sha256 });
    }
    let list = List {
        rcmpd_backup: VERSION,
        domain: config.domain.sid.to_string(),
        made: crate::clock::now().to_string(),
        files: listed,
    };
    let path = folder.join(LIST);
    write_new(&path, &serde_json::to_vec_pretty(&list)?, 0o600)
        .with_context(|| format!("cannot write {}", path.display()))?;
    copied.files.push(path);
    Ok(())
}

/// Reads the list of a copy.
fn list(folder: &Path) -> anyhow::Result<List> {
    let path = folder.join(LIST);
    let context = || format!("{} is no list of a back-up", path.display());
    let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = Vec::new();
    file.take(LIST_LEN_MAX).read_to_end(&mut text).with_context(context)?;
    let list: List = serde_json::from_slice(&text).with_context(context)?;
    if list.rcmpd_backup != VERSION {
        bail!(
            "{} has version {}, and this program knows version {VERSION}",
            path.display(),
            list.rcmpd_backup
        );
    }
    let is_plain =
        |name: &str| !name.is_empty() && Path::new(name).file_name().is_some_and(|own| own == name);
    match list.files.iter().find(|file| !is_plain(&file.file)) {
        Some(file) => bail!("{}: {:?} is not the name of a file in the folder", path.display(), file.file),
        None => Ok(list),
    }
}

/// Puts the files of a copy where the configuration names them. No file that exists is changed, except that a
/// key file that is there already has to be the same.
pub async fn restore(config: &Config, folder: &Path) -> anyhow::Result<Copied> {
    let list = list(folder)?;
    let domain = config.domain.sid.to_string();
    if list.domain != domain {
        bail!("the back-up is of domain {}, and [domain] has the SID {domain}", list.domain);
    }
    let mut planned = Vec::new();
    for Named { role, section, path } in named(config)? {
        let of_path = |listed: &&Listed| listed.role == role && listed.section == section;
        let Some(listed) = list.files.iter().find(of_path) else {
            if role == Role::Key && path.exists() {
                continue;
            }
            let shown = path.display();
            bail!("the back-up has no file for {shown} ({section}); nothing was restored");
        };
        let from = folder.join(&listed.file);
        if hash_of(&from)? != listed.sha256 {
            bail!("{} is not as it was written; nothing was restored", from.display());
        }
        if role == Role::Key && path.exists() && hash_of(&path)? == listed.sha256 {
            continue;
        }
        let beside = if role == Role::Database { database_files(&path).to_vec() } else { vec![path.clone()] };
        if let Some(taken) = beside.iter().find(|path| path.symlink_metadata().is_ok()) {
            bail!("{} exists, and no file is replaced: stop the service and move it away", taken.display());
        }
        planned.push((from, path, listed.sha256.clone()));
    }
    let mut restored = Copied::default();
    let done = put(config, planned, &mut restored).await;
    if done.is_err() {
        for path in restored.files.iter().flat_map(|path| database_files(path)) {
            let _ = fs::remove_file(path);
        }
    }
    done.map(|()| restored)
}

async fn put(
    config: &Config,
    planned: Vec<(PathBuf, PathBuf, String)>,
    restored: &mut Copied,
) -> anyhow::Result<()> {
    for (from, to, sha256) in planned {
        // The service, which owns the folder, could not read what is root's.
        let folder = crate::config::base(&to).metadata().ok().filter(|_| geteuid().is_root());
        let hash = copy(&from, &to, folder.map(|folder| (folder.uid(), folder.gid())))?;
        restored.files.push(to);
        if hash != sha256 {
            bail!("{} was changed while it was read; nothing was restored", from.display());
        }
    }
    // What cannot be used is not restored.
    if section(config)?.machines.is_some() {
        open_whole(config).await.context("the back-up cannot be used; nothing was restored")?;
    }
    Ok(())
}
