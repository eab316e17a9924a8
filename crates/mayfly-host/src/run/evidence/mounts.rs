//! Who has datasets of a pool mounted, read from `/proc`.
//!
//! Mount tables are the guests' to fill: a hundred thousand mounts, at paths without end. They are read line by line,
//! every field cut at a bound, and what is kept of a table is one entry for each dataset. Some cost the kernel minutes to
//! write (10 ms a mount were seen, for mounts that were propagated into each other): once a look has taken too long,
//! tables of guests are not read any more. A guest's processes are told by their host ids, which are its own: those of
//! another VPS cannot be this one's, and those of this one are alive whatever they see.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read as _};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mayfly_core::ids::VpsId;

use super::LookError;
use super::spaces;
use crate::run::proc_text::read_text;
use crate::storage::KernelIdentity;

/// What is kept of one field of a mount table. Names of datasets are shorter, and they come first in theirs.
const FIELD_LIMIT: usize = 4096;
/// What is kept of one line.
const LINE_LIMIT: usize = 32 << 10;
/// How much of a command is shown.
const COMMAND_LIMIT: usize = 80;
/// How much of a process's arguments is looked at.
const ARGUMENTS_LIMIT: u64 = 64 << 10;

/// After so long no tables of guests are read any more.
const BUDGET: Duration = Duration::from_millis(300);

/// What is asked of all mount tables.
pub(super) struct Question<'a> {
    /// Whether a dataset is looked for.
    pub(super) wanted: &'a dyn Fn(&str) -> bool,
    /// The VPS whose guests have a host id, where one has.
    pub(super) owner: &'a dyn Fn(u32) -> Result<Option<VpsId>, LookError>,
    /// The VPS whose processes are an answer in themselves.
    pub(super) about: Option<VpsId>,
}

/// One process that has one dataset mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) pid: i32,
    /// By its present name in the pool.
    pub(super) dataset: String,
    /// One of the places; `/` where it is among them.
    pub(super) at: String,
    /// What it runs, where it is certainly a process of the host that has nothing to do with the run.
    pub(super) holder: Option<String>,
}

/// A thread: where namespaces differ, they differ by thread.
type Thread = (i32, i32);

/// Threads that see the same mounts: one mount namespace, and one root in it.
type Views = BTreeMap<(PathBuf, PathBuf), Vec<Thread>>;

/// Whose a process is.
enum Whose {
    /// Nobody's: it has ended.
    Nobodys,
    /// The guest's, the run's, or in doubt.
    Theirs,
    /// The host's; what it runs.
    Hosts(String),
}

/// A look at all mount tables.
pub(super) struct Mounts<'a> {
    proc: PathBuf,
    pool: &'a KernelIdentity,
    budget: Duration,
    /// Whether the namespaces themselves are asked first.
    asks_spaces: bool,
}

impl<'a> Mounts<'a> {
    /// The tables of this host.
    pub(super) fn of_host(pool: &'a KernelIdentity) -> Self {
        Self {
            proc: "/proc".into(),
            pool,
            budget: BUDGET,
            asks_spaces: true,
        }
    }

    /// Who has a wanted dataset mounted in another mount namespace than the caller's own. Of several processes with the
    /// same view one is named where it is theirs, and all where they are the host's.
    pub(super) fn observe(&self, question: &Question<'_>) -> Result<Vec<Seen>, LookError> {
        if self.asks_spaces && spaces::show_nothing(self.pool, question.wanted) {
            return Ok(Vec::new());
        }
        let own_mounts = self.read_link("self/ns/mnt")?;
        let own_users = self.read_link("self/ns/user")?;
        let own_first = self.own_first_mount()?;
        let views = self.views(&own_mounts)?;
        let end = Instant::now() + self.budget;
        let mut found = Vec::new();
        for threads in views.values() {
            let mut table = self.first_table(threads, question, Some(end))?;
            if table.as_ref().is_none_or(|table| table.cut) && Instant::now() >= end {
                match self.owner(threads, &own_users, question)? {
                    None => table = self.first_table(threads, question, None)?,
                    Some((_, vps)) if question.about != Some(vps) => continue,
                    Some((pid, _)) => {
                        let mut table = table.unwrap_or_default();
                        if table.datasets.is_empty() {
                            table.datasets.insert("?".into(), "?".into());
                        }
                        found.extend(table.seen_by(pid, None));
                        continue;
                    }
                }
            }
            let Some(table) = table else {
                continue;
            };
            // Mount ids are unique on the host: the same first mount is the same namespace.
            if table.first.is_some() && table.first == own_first {
                continue;
            }
            if !table.datasets.is_empty() {
                self.name(threads, &own_users, &table, &mut found)?;
            }
        }
        Ok(found)
    }

    /// The VPS whose guest's a view is, by a process of it that is in a user namespace of its own and has its host ids.
    fn owner(
        &self,
        threads: &[Thread],
        own_users: &Path,
        question: &Question<'_>,
    ) -> Result<Option<(i32, VpsId)>, LookError> {
        for &thread in threads {
            if fs::read_link(self.file(thread, "ns/user")).is_ok_and(|users| users != own_users) {
                let status = read_text(self.file(thread, "status")).unwrap_or_default();
                if let Some(user) = parse_user(&status) {
                    if let Some(vps) = (question.owner)(user)? {
                        return Ok(Some((thread.0, vps)));
                    }
                }
            }
        }
        Ok(None)
    }

    fn own_first_mount(&self) -> Result<Option<String>, LookError> {
        let file = self.proc.join("self/mountinfo");
        let mut first = None;
        File::open(&file)
            .and_then(|table| {
                for_each_line(BufReader::new(table), |line| {
                    first = Some(first_field(line).to_owned());
                    ControlFlow::Break(())
                })
            })
            .map_err(|e| LookError::at(&file, &e))?;
        Ok(first)
    }

    fn views(&self, own: &Path) -> Result<Views, LookError> {
        let mut views = Views::new();
        for name in LookError::list(&self.proc)? {
            let Ok(pid) = name.parse::<i32>() else {
                continue;
            };
            for thread in self.threads(pid)? {
                let link = self.file(thread, "ns/mnt");
                let (space, root) = match fs::read_link(&link) {
                    Ok(space) if space == own => continue,
                    Ok(space) => (space, fs::read_link(self.file(thread, "root"))),
                    // A process with more capabilities than this one hides the link, but not its mounts.
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => (link, Err(e)),
                    Err(e) if process_gone(&e) => continue,
                    Err(e) => return Err(LookError::at(&link, &e)),
                };
                let root = match root {
                    Ok(root) => root,
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => PathBuf::new(),
                    // A guest may have its root where no path leads any more: then its view is nobody else's.
                    Err(e) if is_too_deep(&e) => self.file(thread, "root"),
                    Err(e) if process_gone(&e) => continue,
                    Err(e) => return Err(LookError::at(&self.file(thread, "root"), &e)),
                };
                views.entry((space, root)).or_default().push(thread);
            }
        }
        Ok(views)
    }

    /// The threads of a process; most have one, which is told without a list of them.
    fn threads(&self, pid: i32) -> Result<Vec<Thread>, LookError> {
        let tasks = self.proc.join(format!("{pid}/task"));
        match fs::metadata(&tasks) {
            Ok(seen) if seen.nlink() == 3 => return Ok(vec![(pid, pid)]),
            Ok(_) => {}
            Err(e) if process_gone(&e) => return Ok(Vec::new()),
            Err(e) => return Err(LookError::at(&tasks, &e)),
        }
        let names = match fs::read_dir(&tasks) {
            Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()),
            Err(e) if process_gone(&e) => return Ok(Vec::new()),
            Err(e) => return Err(LookError::at(&tasks, &e)),
        };
        Ok(names
            .filter_map(|name| Some((pid, name.parse().ok()?)))
            .collect())
    }

    /// The table of the first thread that has one, as far as it can be read until `end`. A thread that is ending has no
    /// mount namespace any more, and shows an empty table.
    fn first_table(
        &self,
        threads: &[Thread],
        question: &Question<'_>,
        end: Option<Instant>,
    ) -> Result<Option<Table>, LookError> {
        let late = || end.is_some_and(|end| Instant::now() >= end);
        for &thread in threads {
            if late() {
                return Ok(None);
            }
            let file = self.file(thread, "mountinfo");
            match self.read_table(&file, question.wanted, &late) {
                Ok(table) if table.first.is_none() => {}
                Ok(table) => return Ok(Some(table)),
                Err(e) if process_gone(&e) => {}
                Err(e) => return Err(LookError::at(&file, &e)),
            }
        }
        Ok(None)
    }

    fn read_table(
        &self,
        file: &Path,
        wanted: &dyn Fn(&str) -> bool,
        late: &dyn Fn() -> bool,
    ) -> io::Result<Table> {
        let reader = BufReader::with_capacity(64 << 10, File::open(file)?);
        let mut table = Table::default();
        for_each_line(reader, |line| {
            table.note(line, self.pool, wanted);
            table.cut = late();
            if table.cut {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        Ok(table)
    }

    /// Adds whoever is in a view that shows something.
    fn name(
        &self,
        threads: &[Thread],
        own_users: &Path,
        table: &Table,
        found: &mut Vec<Seen>,
    ) -> Result<(), LookError> {
        let mut holders: BTreeMap<i32, String> = BTreeMap::new();
        for &thread in threads {
            match self.whose(thread, own_users)? {
                Whose::Nobodys => {}
                Whose::Hosts(command) => drop(holders.insert(thread.0, command)),
                Whose::Theirs => {
                    found.extend(table.seen_by(thread.0, None));
                    return Ok(());
                }
            }
        }
        for (pid, command) in holders {
            found.extend(table.seen_by(pid, Some(&command)));
        }
        Ok(())
    }

    /// A guest's process is in a user namespace below that of its run: guests cannot leave theirs. In the daemon's own are
    /// supervisors and LXC's programs, which are known by what they run, and the rest of the host. In doubt it is theirs.
    fn whose(&self, thread: Thread, own_users: &Path) -> Result<Whose, LookError> {
        let link = self.file(thread, "ns/user");
        match fs::read_link(&link) {
            Ok(users) if users == own_users => {}
            Ok(_) => return Ok(Whose::Theirs),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(Whose::Theirs),
            Err(e) if process_gone(&e) => return Ok(Whose::Nobodys),
            Err(e) => return Err(LookError::at(&link, &e)),
        }
        let link = self.file(thread, "exe");
        let program = match fs::read_link(&link) {
            Ok(program) => program,
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied || is_too_deep(&e) => {
                return Ok(Whose::Theirs);
            }
            // A thread of the kernel has none, and one that has ended.
            Err(e) if process_gone(&e) => return Ok(Whose::Nobodys),
            Err(e) => return Err(LookError::at(&link, &e)),
        };
        let file = self.file(thread, "cmdline");
        let mut arguments = Vec::new();
        match File::open(&file).and_then(|f| f.take(ARGUMENTS_LIMIT).read_to_end(&mut arguments)) {
            Ok(_) => {}
            Err(e) if process_gone(&e) => return Ok(Whose::Nobodys),
            Err(e) => return Err(LookError::at(&file, &e)),
        }
        Ok(whose_program(&program, &arguments))
    }

    fn file(&self, (pid, thread): Thread, name: &str) -> PathBuf {
        self.proc.join(format!("{pid}/task/{thread}/{name}"))
    }

    fn read_link(&self, name: &str) -> Result<PathBuf, LookError> {
        let link = self.proc.join(name);
        fs::read_link(&link).map_err(|e| LookError::at(&link, &e))
    }
}

/// What a process of the daemon's own user namespace is. One of LXC's programs, or a supervisor, may be a run's, whatever
/// became of its records and cgroups.
fn whose_program(program: &Path, arguments: &[u8]) -> Whose {
    let arguments: Vec<_> = arguments
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .filter(|one| !one.is_empty())
        .collect();
    let program = program
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    let is_lxc = |name: &str| name.starts_with("lxc-") || name.starts_with("[lxc ");
    let first = arguments.first().map_or("", |one| &**one);
    let called = first.rsplit('/').next().unwrap_or_default();
    if is_lxc(&program)
        || is_lxc(called)
        || is_lxc(first)
        || arguments.iter().any(|one| *one == "supervise")
    {
        return Whose::Theirs;
    }
    let command = if arguments.is_empty() {
        program.into_owned()
    } else {
        arguments.join(" ")
    };
    Whose::Hosts(command.chars().take(COMMAND_LIMIT).collect())
}

/// What one mount table shows.
#[derive(Debug, Default)]
struct Table {
    /// The id of its first mount; none where it is empty.
    first: Option<String>,
    /// Whether there was no time for the rest of it.
    cut: bool,
    /// The wanted datasets, and where.
    datasets: BTreeMap<String, String>,
}

impl Table {
    fn note(&mut self, line: &str, pool: &KernelIdentity, wanted: &dyn Fn(&str) -> bool) {
        if self.first.is_none() {
            self.first = Some(first_field(line).to_owned());
        }
        let Some(shown) = pool.shown_in(line) else {
            return;
        };
        let dataset = dataset_of(&shown.what);
        if !wanted(dataset) {
            return;
        }
        match self.datasets.get_mut(dataset) {
            None => drop(
                self.datasets
                    .insert(dataset.to_owned(), shown.at.to_owned()),
            ),
            Some(at) if shown.at == "/" => shown.at.clone_into(at),
            Some(_) => {}
        }
    }

    fn seen_by(&self, pid: i32, holder: Option<&str>) -> impl Iterator<Item = Seen> {
        self.datasets.iter().map(move |(dataset, at)| Seen {
            pid,
            dataset: dataset.clone(),
            at: at.clone(),
            holder: holder.map(str::to_owned),
        })
    }
}

/// The dataset whose contents, or a part of them, are shown: no dataset has a part called `private` in its name.
pub(super) fn dataset_of(what: &str) -> &str {
    let mut length = 0;
    for part in what.split('/') {
        if part == "private" {
            return what[..length].trim_end_matches('/');
        }
        length += part.len() + 1;
    }
    what
}

/// Calls `each` with every line, whose fields are cut at a bound: a path may be as long as a guest likes to make it.
fn for_each_line(
    mut reader: impl BufRead,
    mut each: impl FnMut(&str) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut line = Vec::with_capacity(1024);
    let mut field = 0;
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            // The kernel ends every line.
            return Ok(());
        }
        for &byte in bytes {
            match byte {
                b'\n' => {
                    if each(&String::from_utf8_lossy(&line)).is_break() {
                        return Ok(());
                    }
                    line.clear();
                    field = 0;
                    continue;
                }
                b' ' => field = 0,
                _ => field += 1,
            }
            if field <= FIELD_LIMIT && line.len() < LINE_LIMIT {
                line.push(byte);
            }
        }
        let used = bytes.len();
        reader.consume(used);
    }
}

fn first_field(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// The real user of `/proc/PID/status`, as the reader's user namespace has it.
fn parse_user(status: &str) -> Option<u32> {
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().next()?.parse().ok()
}

/// A path longer than the kernel shows.
fn is_too_deep(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::ENAMETOOLONG)
}

/// A process that ended, or is a zombie: what it had is gone.
fn process_gone(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::EINVAL)
    )
}

#[cfg(test)]
mod tests;
