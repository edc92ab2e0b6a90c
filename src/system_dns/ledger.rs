//! What was changed, what was there before, and the way back: written before anything is changed.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use super::decision::{Manager, Notice, PATHS, Plan};

/// Where it lies, below the root directory.
pub const FOLDER: &str = "var/lib/dot-proxy/system-dns";
/// Where it is prepared.
const PREPARED: &str = "var/lib/dot-proxy/system-dns.new";
/// The list of changes.
const LIST: &str = "changes.toml";

/// One file that was changed, or may have been.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// One of [`PATHS`].
    pub path: &'static str,
    /// Written by us, and not by the manager because of us.
    pub ours: bool,
    /// Whether there was a file or a link before.
    pub existed: bool,
}

/// What a changed file is now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// As before.
    Original,
    /// As we wrote it.
    Ours,
    /// Something else: somebody has changed it.
    Foreign,
}

/// The record of one enabling.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ledger {
    root: PathBuf,
    /// Who managed DNS.
    pub manager: Manager,
    /// Where lookups were sent.
    pub servers: Vec<IpAddr>,
    /// The files, in the order of their changes.
    pub changes: Vec<Change>,
    /// Who was told.
    pub notices: Vec<Notice>,
    /// Folders that did not exist, the outermost first.
    folders: Vec<String>,
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl Ledger {
    /// Reads the record, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, cannot be understood, or others than root could have written it.
    pub fn open(root: &Path) -> io::Result<Option<Ledger>> {
        let path = root.join(FOLDER).join(LIST);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path, &error)),
        };
        trusted(root)?;
        let understood = understood(root, &text);
        understood.map(Some).ok_or_else(|| {
            let path = path.display();
            io::Error::other(format!(
                "{path} cannot be understood: it was changed, or written by another release of dot-proxy"
            ))
        })
    }

    /// Writes the record of what is going to be done, with copies of everything.
    ///
    /// # Errors
    /// The first file that cannot be read or written; nothing is changed then.
    pub fn begin(root: &Path, plan: &Plan, servers: &[IpAddr]) -> io::Result<Ledger> {
        let mut ledger = Ledger {
            root: root.to_owned(),
            manager: plan.manager,
            servers: servers.to_vec(),
            changes: Vec::new(),
            notices: plan.notices.clone(),
            folders: Vec::new(),
        };
        let prepared = root.join(PREPARED);
        // left by an enabling that ended before anything was changed
        let _ = fs::remove_dir_all(&prepared);
        for path in [prepared.parent().unwrap_or(root), &prepared] {
            new_folder(path).map_err(|error| at(path, &error))?;
        }
        trusted(root)?;
        let files = plan.files.iter().map(|file| (file.path, Some(file)));
        for (number, (path, file)) in files.chain(plan.watched.iter().map(|&path| (path, None))).enumerate() {
            let real = root.join(path);
            let existed =
                copy(&real, &prepared.join(format!("{number}.original"))).map_err(|error| at(&real, &error))?;
            if let Some(file) = file {
                ledger.note_missing_folders(path);
                let copy = prepared.join(format!("{number}.ours"));
                let model = fs::symlink_metadata(&real).ok().filter(|_| existed).filter(fs::Metadata::is_file);
                let (mode, owner) =
                    model.map_or((file.mode, None), |model| (model.mode(), Some((model.uid(), model.gid()))));
                fresh(&copy, file.content.as_bytes(), mode & 0o7777, owner).map_err(|error| at(&copy, &error))?;
            }
            ledger.changes.push(Change { path, ours: file.is_some(), existed });
        }
        let list = prepared.join(LIST);
        fresh(&list, ledger.text().as_bytes(), 0o644, None).map_err(|error| at(&list, &error))?;
        let folder = root.join(FOLDER);
        fs::rename(&prepared, &folder).map_err(|error| at(&folder, &error))?;
        sync_parent(&folder)?;
        Ok(ledger)
    }

    fn note_missing_folders(&mut self, path: &str) {
        let folders: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
        for folder in folders.iter().rev().filter(|folder| !self.root.join(folder).exists()) {
            let folder = folder.to_string_lossy().into_owned();
            if !self.folders.contains(&folder) {
                self.folders.push(folder);
            }
        }
    }

    fn copy_of(&self, number: usize, kind: &str) -> PathBuf {
        self.root.join(FOLDER).join(format!("{number}.{kind}"))
    }

    /// Makes all changes.
    ///
    /// # Errors
    /// The first that cannot be made; [`Ledger::undo`] takes back those before it.
    pub fn apply(&self) -> io::Result<()> {
        for folder in &self.folders {
            let path = self.root.join(folder);
            new_folder(&path).map_err(|error| at(&path, &error))?;
        }
        for (number, change) in self.changes.iter().enumerate().filter(|(_, change)| change.ours) {
            let path = self.root.join(change.path);
            put(&self.copy_of(number, "ours"), &path).map_err(|error| at(&path, &error))?;
        }
        Ok(())
    }

    /// What the file of a change is now.
    pub fn state(&self, number: usize) -> State {
        let Some(change) = self.changes.get(number) else { return State::Foreign };
        let path = self.root.join(change.path);
        if change.ours && same(&path, &self.copy_of(number, "ours")) {
            State::Ours
        } else if change.existed && same(&path, &self.copy_of(number, "original"))
            || !change.existed && fs::symlink_metadata(&path).is_err()
        {
            State::Original
        } else {
            State::Foreign
        }
    }

    /// The files that somebody has changed since.
    pub fn foreign(&self) -> Vec<&Change> {
        let changes = self.changes.iter().enumerate().filter(|(_, change)| change.ours);
        changes.filter(|(number, _)| self.state(*number) == State::Foreign).map(|(_, change)| change).collect()
    }

    /// Puts back what is as we wrote it, and with `all` also what somebody has changed.
    ///
    /// # Errors
    /// The first file that cannot be put back.
    pub fn undo(&self, all: bool) -> io::Result<()> {
        for (number, change) in self.changes.iter().enumerate().filter(|(_, change)| change.ours).rev() {
            let state = self.state(number);
            if state == State::Ours || state == State::Foreign && all {
                self.restore(number).map_err(|error| at(&self.root.join(change.path), &error))?;
            }
        }
        for folder in self.folders.iter().rev() {
            // not if somebody has put something there
            let _ = fs::remove_dir(self.root.join(folder));
        }
        Ok(())
    }

    /// Puts one file back.
    ///
    /// # Errors
    /// If it cannot be written or removed.
    pub fn restore(&self, number: usize) -> io::Result<()> {
        let Some(change) = self.changes.get(number) else { return Ok(()) };
        let path = self.root.join(change.path);
        if change.existed {
            put(&self.copy_of(number, "original"), &path)
        } else {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => sync_parent(&path),
            }
        }
    }

    /// The copy of what was there before a change.
    pub fn original(&self, number: usize) -> io::Result<Vec<u8>> {
        fs::read(self.copy_of(number, "original"))
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// If the record cannot be removed.
    pub fn close(self) -> io::Result<()> {
        let folder = self.root.join(FOLDER);
        // the list first: without it the rest means nothing
        fs::remove_file(folder.join(LIST))
            .and_then(|()| fs::remove_dir_all(&folder))
            .map_err(|error| at(&folder, &error))?;
        // if nothing else of dot-proxy is in it
        let _ = folder.parent().map(fs::remove_dir);
        Ok(())
    }

    fn text(&self) -> String {
        let mut out =
            String::from("# written by `dot-proxy system-dns enable`, read by `dot-proxy system-dns disable`\n");
        let quoted = |words: Vec<String>| words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let manager = Manager::ALL.iter().position(|manager| *manager == self.manager).unwrap_or_default();
        let servers = quoted(self.servers.iter().map(ToString::to_string).collect());
        let names = Notice::ALL.iter().filter(|(notice, _)| self.notices.contains(notice));
        let notices = quoted(names.map(|(_, name)| (*name).to_owned()).collect());
        let _ = writeln!(out, "manager = {manager} # {}\nservers = [{servers}]\nnotices = [{notices}]", self.manager);
        let _ = writeln!(out, "folders = [{}]", quoted(self.folders.clone()));
        for change in &self.changes {
            let Change { path, ours, existed } = change;
            let _ = writeln!(out, "\n[[change]]\npath = \"{path}\"\nours = {ours}\nexisted = {existed}");
        }
        out
    }
}

/// Reads the list of changes. It names nothing that enabling does not touch: what root writes is not decided by a file.
fn understood(root: &Path, text: &str) -> Option<Ledger> {
    let table: toml::Table = toml::from_str(text).ok()?;
    let words = |key: &str| -> Option<Vec<String>> {
        table.get(key)?.as_array()?.iter().map(|word| Some(word.as_str()?.to_owned())).collect()
    };
    let change = |value: &toml::Value| {
        let path = value.get("path")?.as_str()?;
        let path = PATHS.iter().find(|known| **known == path)?;
        Some(Change { path, ours: value.get("ours")?.as_bool()?, existed: value.get("existed")?.as_bool()? })
    };
    let notice = |word: &String| Notice::ALL.iter().find(|(_, name)| name == word).map(|(notice, _)| *notice);
    let folders = words("folders")?;
    let known = |folder: &String| {
        PATHS.iter().any(|path| Path::new(path).ancestors().skip(1).any(|known| known == Path::new(folder)))
    };
    Some(Ledger {
        root: root.to_owned(),
        manager: *Manager::ALL.get(usize::try_from(table.get("manager")?.as_integer()?).ok()?)?,
        servers: words("servers")?.iter().map(|word| word.parse().ok()).collect::<Option<_>>()?,
        changes: table.get("change")?.as_array()?.iter().map(change).collect::<Option<_>>()?,
        notices: words("notices")?.iter().map(notice).collect::<Option<_>>()?,
        folders: folders.iter().all(known).then_some(folders)?,
    })
}

/// Whether only the owner of the root directory, root on a machine, can have written the record: what it holds is put
/// into `/etc` one day, and must not come from the service's user.
fn trusted(root: &Path) -> io::Result<()> {
    let owner = fs::metadata(root)?.uid();
    for folder in Path::new(FOLDER).ancestors().take(2) {
        let path = root.join(folder);
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if !found.is_dir() || found.uid() != owner || found.mode() & 0o022 != 0 {
            return Err(io::Error::other(format!(
                "{} is not a folder that root alone can change, and what is kept there would be put into /etc one day; \
                 `chown root:root` and `chmod 755` make it one",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Makes a folder, and those above it, unless it exists. Everybody may read it, whatever the caller's mask says: services
/// read their configuration as users of their own.
fn new_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), new_folder)?;
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// Copies a file with mode, owner and time, or a link as a link. Says whether there was one.
fn copy(from: &Path, to: &Path) -> io::Result<bool> {
    let found = match fs::symlink_metadata(from) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if found.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
        lchown(to, Some(found.uid()), Some(found.gid()))?;
    } else {
        fresh(to, &fs::read(from)?, found.mode() & 0o7777, Some((found.uid(), found.gid())))?;
        File::options().write(true).open(to)?.set_modified(found.modified()?)?;
    }
    Ok(true)
}

/// Writes a file that does not exist, and waits until it is on the disk.
fn fresh(path: &Path, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    if let Some((user, group)) = owner {
        chown(path, Some(user), Some(group))?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Makes `to` what `from` is: at one stroke, or in place where it is a mount of its own, as in containers.
fn put(from: &Path, to: &Path) -> io::Result<()> {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    // no program that reads a folder of configurations takes a name that begins with a dot
    let beside = to.with_file_name(format!(".{name}.dot-proxy-new"));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let moved = copy(from, &beside).and_then(|_| fs::rename(&beside, to));
    match moved {
        Ok(()) => sync_parent(to),
        Err(error) => {
            let _ = fs::remove_file(&beside);
            if error.kind() != io::ErrorKind::ResourceBusy {
                return Err(error);
            }
            let mut file = OpenOptions::new().write(true).truncate(true).open(to)?;
            file.write_all(&fs::read(from)?)?;
            file.sync_all()
        }
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Whether two files, or two links, have the same content, mode and owner.
fn same(one: &Path, other: &Path) -> bool {
    let (Ok(left), Ok(right)) = (fs::symlink_metadata(one), fs::symlink_metadata(other)) else { return false };
    if left.is_symlink() || right.is_symlink() {
        return matches!((fs::read_link(one), fs::read_link(other)), (Ok(one), Ok(other)) if one == other);
    }
    let rights = |found: &fs::Metadata| (found.mode(), found.uid(), found.gid());
    rights(&left) == rights(&right) && matches!((fs::read(one), fs::read(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
