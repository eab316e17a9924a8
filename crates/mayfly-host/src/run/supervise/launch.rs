//! Everything before the event loop: files, namespaces, lxc-start.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mayfly_core::run::RunSpec;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

use super::console::Console;
use super::mounts;
use crate::crash::crash_point;
use crate::run::apparmor::create_search_path;
use crate::run::lxc_config::{HostTraits, render_lxc_config, render_post_stop};
use crate::run::paths::{LXC_PATH, RunDir, container_name};
use crate::run::seccomp::render_seccomp;
use crate::run::show::explained;
use crate::run::state::replace_for_this_boot;
use crate::sys::mount::map_ids;
use crate::sys::ns;
use crate::sys::process::spawn_tied;

/// Where distributions put LXC's programs.
const PROGRAM_DIRECTORIES: [&str; 6] = [
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/bin",
    "/run/current-system/sw/bin",
];

/// The absolute path of one of LXC's programs.
pub(crate) fn find_program(name: &str) -> io::Result<std::path::PathBuf> {
    PROGRAM_DIRECTORIES
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "{name} is in none of {}: install LXC",
                    PROGRAM_DIRECTORIES.join(", ")
                ),
            )
        })
}

/// What runs, and what must stay open while it does.
pub(super) struct Launched {
    pub(super) lxc: Child,
    _user_namespace: OwnedFd,
}

/// Makes the run's namespaces and starts lxc-start in them.
pub(super) fn launch(spec: &RunSpec, dir: &RunDir, console: &Console) -> io::Result<Launched> {
    let lxc_start = find_program("lxc-start")?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir.mounts())?;
    let report = serde_json::to_vec_pretty(&spec.boot_report)?;
    write_for_guest(&dir.boot_report(), &report, spec)?;
    if let Some(persistence) = &spec.persistence {
        write_for_guest(&dir.persistence(), &serde_json::to_vec(persistence)?, spec)?;
    }
    mounts::enter(spec, dir)?;
    crash_point("supervise.after_mounts");
    let user_namespace = ns::create_user_namespace(spec.ids.first, spec.ids.count)
        .map_err(|e| explained("cannot make the user namespace", &e))?;
    crash_point("supervise.after_user_namespace");
    map_root(&dir.root(), &user_namespace)
        .map_err(|e| explained("cannot map the ids of the root", &e))?;
    let host = HostTraits::observe();
    let config = render_lxc_config(spec, dir, &ns::path_of(&user_namespace), host);
    fs::write(dir.lxc_config(), config)?;
    fs::write(dir.seccomp(), render_seccomp())?;
    fs::write(dir.post_stop(), render_post_stop())?;
    let programs = create_search_path(dir, host.apparmor)?;
    #[expect(
        clippy::disallowed_methods,
        reason = "lxc-start lives as long as the run and is tied to this process"
    )]
    let mut command = Command::new(lxc_start);
    command
        .args(["-F", "-C", "-P", LXC_PATH, "-n"])
        .arg(container_name(&spec.node, spec.vps))
        .arg("-f")
        .arg(dir.lxc_config())
        // Version 6 does not take these from the configuration. The reason of an end is logged at this level only.
        .args(["-l", "DEBUG", "-o"])
        .arg(dir.lxc_log())
        .arg("-s")
        .arg(format!(
            "lxc.console.path={}",
            console.slave_path().display()
        ))
        .env_clear()
        .env("PATH", programs)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    crash_point("supervise.before_lxc_start");
    let lxc = spawn_tied(&mut command).map_err(|e| explained("cannot execute lxc-start", &e))?;
    crash_point("supervise.after_lxc_start");
    Ok(Launched {
        lxc,
        _user_namespace: user_namespace,
    })
}

/// Writes a file that the guest's root may read, and nobody else of the guest.
fn write_for_guest(path: &Path, text: &[u8], spec: &RunSpec) -> io::Result<()> {
    replace_for_this_boot(path, text)?;
    chown(path, Some(0), Some(spec.ids.first))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o640))
}

/// Shows the root with the guest's ids. LXC could do that as well, but its version 6 does so only for user namespaces that
/// it has made itself.
fn map_root(root: &Path, user_namespace: &OwnedFd) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mapped = open_tree(CWD, root, flags)?;
    map_ids(mapped.as_fd(), user_namespace.as_fd())?;
    unmount(root, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(&mapped, "", CWD, root, flags)?)
}
