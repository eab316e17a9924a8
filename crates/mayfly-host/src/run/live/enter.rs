//! The process itself: `mayfly enter`, an order on standard input. It has one thread.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use mayfly_core::run::MountSource;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{
    Gid, Pid, Signal, Uid, fchdir, getppid, pivot_root, set_parent_process_death_signal,
};
use rustix::thread::{
    LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::guest::{Guest, Way};
use super::order::{Act, Answer, Order};
use super::table::{Identity, mounts_at};
use crate::run::paths::LXC_PATH;
use crate::run::show::{Look, explained, open, show_dataset, show_opened};
use crate::sys::mount::{NO_DEV, READ_ONLY};
use crate::sys::ns::unshare_mounts;

/// What becomes `/`, in this process's own mount namespace. Any directory will do that every host has.
const TOP: &str = LXC_PATH;
/// Where the dataset is in it.
const SHOWN: &str = "/shown";
/// A guest that mounts over and over what is taken off is left alone after so many times.
const LAYERS: u32 = 64;

/// Carries out the order, and comes back to the caller never.
pub fn enter() -> ! {
    use std::io::Write as _;
    let done = Order::read(io::stdin())
        .and_then(|order| carry_out(&order))
        .and_then(|answer| {
            let text = serde_json::to_vec(&answer)?;
            io::stdout().write_all(&text)
        });
    std::process::exit(match done {
        Ok(()) => 0,
        Err(e) => {
            let _ = writeln!(io::stderr(), "{e}");
            1
        }
    })
}

fn carry_out(order: &Order) -> io::Result<Answer> {
    tie(order)?;
    let Some(mut guest) = Guest::open(order)? else {
        return Ok(Answer::Over {});
    };
    unshare_mounts().map_err(|e| explained("cannot make a mount namespace", &e))?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    if let Act::Hide {
        let_go: Some((supervisor, at)),
    } = &order.act
    {
        let_go(*supervisor, at).map_err(|e| explained(&format!("cannot let go of {at}"), &e))?;
    }
    let identity = show_alone(order, &guest)?;
    leave_host().map_err(|e| explained("cannot leave the host's tree", &e))?;
    let at = guest.mounts_at(&order.target)?;
    let is_there = at.iter().any(|entry| entry.identity == identity);
    let as_wanted = at
        .iter()
        .any(|entry| entry.identity == identity && entry.read_only == order.read_only);
    match order.act {
        Act::Show {} if as_wanted => Ok(Answer::Unchanged {}),
        Act::Hide { .. } if !is_there => Ok(Answer::Unchanged {}),
        Act::Show {} => show(order, &guest),
        Act::Hide { .. } => hide(order, &mut guest, &identity),
    }
}

/// It dies with whoever asked; who is gone by now has killed it.
fn tie(order: &Order) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match getppid().map(Pid::as_raw_pid) {
        Some(parent) if parent == order.parent => Ok(()),
        _ => Err(io::Error::other("whoever asked is gone")),
    }
}

/// Has the supervisor's mount namespace let go of the dataset that it showed at the start: nothing there needs it any more,
/// and what is mounted anywhere is not destroyed.
fn let_go(supervisor: i32, at: &str) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = |of: &str| openat(CWD, format!("/proc/{of}/ns/mnt"), flags, Mode::empty());
    let theirs = match namespace(&supervisor.to_string()) {
        // With it its namespace is gone.
        Err(Errno::NOENT | Errno::SRCH) => return Ok(()),
        opened => opened?,
    };
    let own = namespace("self")?;
    move_into_link_name_space(theirs.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let gone = unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Mount))?;
    match gone {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Shows the dataset on a tmpfs, with the guest's ids and the attributes of mounts from a start, and says what it is.
fn show_alone(order: &Order, guest: &Guest) -> io::Result<Identity> {
    let found = match &order.source {
        MountSource::Directory { path } => {
            let opened = open(Path::new(path), OFlags::DIRECTORY);
            Some(opened.map_err(|e| explained(&format!("cannot open {path}"), &e))?)
        }
        MountSource::Zfs { .. } => None,
    };
    let mut table = File::open("/proc/self/mountinfo")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("mayfly", TOP, "tmpfs", flags, c"mode=755,size=1m")?;
    let at = format!("{TOP}{SHOWN}");
    let at = Path::new(&at);
    fs::create_dir(at)?;
    let look = Look {
        attributes: NO_DEV | if order.read_only { READ_ONLY } else { 0 },
        ids: Some(guest.users.as_fd()),
    };
    match (&order.source, &found) {
        (MountSource::Zfs { dataset }, _) => show_dataset(dataset, at, look)?,
        (MountSource::Directory { path }, Some(found)) => show_opened(found, at, look)
            .map_err(|e| explained(&format!("cannot show {path}"), &e))?,
        (MountSource::Directory { .. }, None) => {}
    }
    let shown = mounts_at(&mut table, at)?.pop();
    let shown = shown.ok_or_else(|| io::Error::other("the dataset is in no mount table"))?;
    Ok(shown.identity)
}

/// Makes the tmpfs `/`; the host's tree is nowhere any more.
fn leave_host() -> io::Result<()> {
    std::env::set_current_dir(TOP)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}

/// Becomes root of the guest's user namespace.
fn become_guest(order: &Order, guest: &Guest) -> io::Result<()> {
    move_into_link_name_space(guest.users.as_fd(), Some(LinkNameSpaceType::User))?;
    set_thread_groups(&[])?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Changing ids has untied it.
    tie(order)
}

fn enter_mounts(guest: &Guest) -> io::Result<()> {
    move_into_link_name_space(guest.mounts.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(|e| explained("cannot enter the guest's mount namespace", &e.into()))
}

fn show(order: &Order, guest: &Guest) -> io::Result<Answer> {
    become_guest(order, guest).map_err(|e| explained("cannot become the guest's root", &e))?;
    // What is copied into a namespace of the guest's own users keeps its attributes for good.
    unshare_mounts().map_err(|e| explained("the guest may have no more mount namespaces", &e))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = open_tree(CWD, SHOWN, flags)
        .map_err(|e| explained("cannot take the mount in hand", &e.into()))?;
    enter_mounts(guest)?;
    let target = match guest.walk(&order.target, true)? {
        Way::To(target) => target,
        Way::Barred(why) => return Ok(Answer::Refused { why }),
    };
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match move_mount(&tree, "", &target, "", both) {
        Ok(()) => Ok(Answer::Changed {}),
        Err(Errno::NOENT) => Ok(Answer::Refused {
            why: format!("{} was removed at that moment", order.target),
        }),
        Err(Errno::NOSPC) => Ok(Answer::Refused {
            why: "the guest has as many mounts as the kernel allows".to_owned(),
        }),
        Err(e) => Err(explained("cannot put the mount in place", &e.into())),
    }
}

fn hide(order: &Order, guest: &mut Guest, identity: &Identity) -> io::Result<Answer> {
    become_guest(order, guest).map_err(|e| explained("cannot become the guest's root", &e))?;
    enter_mounts(guest)?;
    for _ in 0..LAYERS {
        let at = guest.mounts_at(&order.target)?;
        if !at.iter().any(|entry| entry.identity == *identity) {
            return Ok(Answer::Changed {});
        }
        let target = match guest.walk(&order.target, false)? {
            Way::To(target) => target,
            Way::Barred(why) => return Ok(Answer::Refused { why }),
        };
        // What is mounted over it goes first; what merely hides the way to it does not.
        let id = mount_of(&target)?;
        if !at.iter().any(|entry| entry.id == id) {
            let why = format!(
                "the guest has mounted something on the way to {}",
                order.target
            );
            return Ok(Answer::Refused { why });
        }
        fchdir(&target)?;
        unmount(".", UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|e| explained(&format!("cannot unmount {}", order.target), &e.into()))?;
    }
    Ok(Answer::Refused {
        why: format!(
            "the guest mounts again and again at {}, {LAYERS} mounts were taken off",
            order.target
        ),
    })
}

fn mount_of(opened: &OwnedFd) -> io::Result<u64> {
    let seen = statx(opened, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(seen.stx_mnt_id)
}
