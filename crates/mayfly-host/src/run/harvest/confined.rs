//! The confined process: `mayfly harvest`, an order on standard input. It has one thread, and becomes the helper.
//!
//! What is seen in the end: a tmpfs that cannot be written, in it the helper, the root (read-only) and the datasets, all
//! with the guest's ids, without devices, and only the helper executable. No `/proc`, no network, no message queues. What is
//! left of root are the rights over the guest's own files, as in the guest itself; no other process can be made.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::OFlags;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::process::{
    Gid, Pid, Resource, Rlimit, Signal, Uid, getppid, getrlimit, pivot_root,
    set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{
    CapabilitySet, LinkNameSpaceType, move_into_link_name_space,
    remove_capability_from_bounding_set, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::child::{NOT_CONFINED, REPORT_BYTES};
use super::order::{Order, Source};
use crate::run::paths::LXC_PATH;
use crate::run::show::{Look, explained, open, show_dataset, show_opened};
use crate::sys::mount::{NO_DEV, NO_EXEC, NO_SUID, READ_ONLY, set_attributes};
use crate::sys::ns::{create_user_namespace, unshare_for_harvest};
use crate::sys::process::close_on_exec_all;

/// What becomes `/`, in this process's own mount namespace. Any directory will do that every host has.
const TOP: &str = LXC_PATH;
const HELPER: &str = "/mayfly-guest";
const ROOT: &str = "/root";

/// What the helper may take: a record and its report are some megabytes, and a file is read in pieces.
const MEMORY_BYTES: u64 = 256 << 20;
const CPU_SECONDS: u64 = 20;
const FILES: u64 = 64;
/// A copied file is 16 MiB at most, a record the half of it.
const FILE_BYTES: u64 = 64 << 20;
const _: () = assert!(FILE_BYTES >= REPORT_BYTES);

/// What root keeps: whose file it is does not matter to it. `LEASE` and the ids are for the question who has a file open.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::LEASE)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// Confines this process and becomes the helper; comes back to the caller never.
pub fn harvest() -> ! {
    // Whoever started this has tied it to itself; who is gone by now has killed it.
    let parent = getppid();
    let Err(e) = Order::read(io::stdin())
        .map_err(io::Error::other)
        .and_then(|order| become_helper(&order, parent));
    {
        use io::Write as _;
        let _ = writeln!(io::stderr(), "{e}");
    }
    std::process::exit(NOT_CONFINED)
}

fn become_helper(order: &Order, parent: Option<Pid>) -> io::Result<Infallible> {
    let ids = create_user_namespace(order.ids.first, order.ids.count)
        .map_err(|e| explained("cannot make a user namespace", &e))?;
    unshare_for_harvest().map_err(|e| explained("cannot make namespaces", &e))?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    // The guest's root is a stranger to the new tree's owner, and has to pass.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    show_all(order, &ids)?;
    enter().map_err(|e| explained("cannot leave the host's tree", &e))?;
    become_guest(&ids).map_err(|e| explained("cannot become the guest's root", &e))?;
    limit().map_err(|e| explained("cannot set limits", &e))?;
    close_on_exec_all()?;
    // Changing ids has untied it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != parent {
        return Err(io::Error::other("whoever asked is gone"));
    }
    let mut command = arguments(order);
    Err(explained("cannot execute the helper", &command.exec()))
}

/// One source and its place in the new tree; open, where it is a directory.
struct Shown<'a> {
    source: &'a Source,
    read_only: bool,
    at: String,
    found: Option<OwnedFd>,
}

/// Builds the new tree. Everything is opened first, because the new tree covers what may be one of the sources.
fn show_all(order: &Order, ids: &OwnedFd) -> io::Result<()> {
    let mut shown = vec![Shown::open(&order.root, true, in_top(ROOT))?];
    for (index, one) in order.datasets.iter().enumerate() {
        let at = in_top(&place(index));
        shown.push(Shown::open(&one.source, one.read_only, at)?);
    }
    let helper = named(&order.helper, OFlags::empty())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("mayfly", TOP, "tmpfs", flags, c"mode=755,size=1m")?;
    for one in &shown {
        one.show(ids)?;
    }
    let target = in_top(HELPER);
    File::create(&target)?;
    let look = Look::with(READ_ONLY | NO_SUID | NO_DEV);
    show_opened(&helper, Path::new(&target), look)
        .map_err(|e| explained("cannot show the helper", &e))?;
    let top = open(Path::new(TOP), OFlags::DIRECTORY)?;
    set_attributes(top.as_fd(), READ_ONLY, 0)
}

impl<'a> Shown<'a> {
    fn open(source: &'a Source, read_only: bool, at: String) -> io::Result<Self> {
        let found = match source {
            Source::Directory { path } | Source::Mapped { path } => {
                Some(named(path, OFlags::DIRECTORY)?)
            }
            Source::Zfs { .. } => None,
        };
        Ok(Self {
            source,
            read_only,
            at,
            found,
        })
    }

    fn show(&self, ids: &OwnedFd) -> io::Result<()> {
        let target = Path::new(&self.at);
        fs::create_dir(target)?;
        let is_mapped = matches!(self.source, Source::Mapped { .. });
        let read_only = if self.read_only { READ_ONLY } else { 0 };
        let look = Look {
            attributes: NO_SUID | NO_DEV | NO_EXEC | read_only,
            ids: (!is_mapped).then(|| ids.as_fd()),
        };
        match (self.source, &self.found) {
            (Source::Zfs { dataset }, _) => show_dataset(dataset, target, look),
            (Source::Directory { path } | Source::Mapped { path }, Some(found)) => {
                show_opened(found, target, look)
                    .map_err(|e| explained(&format!("cannot show {path}"), &e))
            }
            (_, None) => Ok(()),
        }
    }
}

fn named(path: &str, kind: OFlags) -> io::Result<OwnedFd> {
    open(Path::new(path), kind).map_err(|e| explained(&format!("cannot open {path}"), &e))
}

fn in_top(path: &str) -> String {
    format!("{TOP}{path}")
}

/// Where a dataset is in the new tree.
fn place(dataset: usize) -> String {
    format!("/{dataset}")
}

/// Makes the new tree `/`; the old one is nowhere any more.
fn enter() -> io::Result<()> {
    std::env::set_current_dir(TOP)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}

/// Becomes root of the user namespace, with [`KEPT`] and nothing that could be had again.
fn become_guest(ids: &OwnedFd) -> io::Result<()> {
    // How many processes the guest itself has is of no concern: with too many the kernel would execute nothing.
    let maximum = getrlimit(Resource::Nproc).maximum;
    let most = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nproc, most)?;
    move_into_link_name_space(ids.as_fd(), Some(LinkNameSpaceType::User))?;
    set_thread_groups(&[])?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if KEPT.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // There is no such capability.
            Err(rustix::io::Errno::INVAL) => {}
            done => done?,
        }
    }
    set_no_new_privs(true)?;
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(())
}

fn limit() -> io::Result<()> {
    for (resource, most) in [
        (Resource::As, MEMORY_BYTES),
        (Resource::Cpu, CPU_SECONDS),
        (Resource::Nofile, FILES),
        (Resource::Fsize, FILE_BYTES),
        (Resource::Core, 0),
        // Not even one more: what it started would not end with it.
        (Resource::Nproc, 0),
    ] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)?;
    }
    Ok(())
}

fn arguments(order: &Order) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "this process becomes it; whoever started this one waits, with a deadline"
    )]
    let mut command = Command::new(HELPER);
    command.env_clear();
    command.args(["harvest", "--root", ROOT, "--run", order.run.as_str()]);
    command.args(["--storage", order.storage.as_str()]);
    command.args(["--when", &order.when.word()]);
    for (index, dataset) in order.datasets.iter().enumerate() {
        command.args(["--at", &format!("{}={}", dataset.target, place(index))]);
    }
    command
}
