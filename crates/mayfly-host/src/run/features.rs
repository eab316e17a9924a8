//! Features of a VPS on this host: what it has for them, and what a run gets of them.
//!
//! A device of a feature is a node of the run's own, on a tmpfs that the supervisor mounts for it: the host's node belongs
//! to users of the host and keeps the mode that the host gave it. A guest can make no node itself, and cannot change which
//! device a node is, so there is no list of allowed devices beside it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

use mayfly_core::error::LookFailed;
use mayfly_core::features::{Device, Feature, FeatureSeen};
use mayfly_core::run::RunSpec;
use rustix::fs::{CWD, FileType, Mode, chmod, makedev, mknodat};
use rustix::mount::{MountFlags, mount};

use super::paths::RunDir;
use super::show::explained;

/// Settings that keep every process of a guest from making user namespaces, where they are 0.
const NESTING_SETTINGS: [&str; 2] = [
    "user/max_user_namespaces",
    "kernel/unprivileged_userns_clone",
];

/// What the host has for a feature. Opening the device is the proof: it has the kernel load the driver where it can.
pub(super) fn look(feature: Feature) -> Result<FeatureSeen, LookFailed> {
    look_below(Path::new("/dev"), Path::new("/proc/sys"), feature)
}

fn look_below(dev: &Path, settings: &Path, feature: Feature) -> Result<FeatureSeen, LookFailed> {
    let failed = |error: io::Error| {
        let what = format!("what the host has for feature {feature}");
        LookFailed::new(what, error.to_string())
    };
    match feature.device() {
        Some(device) => look_at_device(&dev.join(device.name), &device).map_err(failed),
        None => look_at_settings(settings).map_err(failed),
    }
}

fn look_at_device(path: &Path, device: &Device) -> io::Result<FeatureSeen> {
    let found = match fs::symlink_metadata(path) {
        Err(e) if is_absent(&e) => return Ok(FeatureSeen::NoDevice),
        other => other?,
    };
    let another = |what: &str| FeatureSeen::AnotherDevice { what: what.into() };
    if !found.file_type().is_char_device() {
        return Ok(another("no character device"));
    }
    let number = found.rdev();
    if number != makedev(device.major, device.minor) {
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        return Ok(another(&format!("device {major}:{minor}")));
    }
    let opened = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    match opened {
        Ok(_) => Ok(FeatureSeen::Usable),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {
            Ok(FeatureSeen::NoDriver)
        }
        Err(e) if is_absent(&e) => Ok(FeatureSeen::NoDevice),
        // A device that nobody may open is none for a guest either, and no reason to know nothing of the others.
        Err(e) => Ok(another(&format!("a device that cannot be opened ({e})"))),
    }
}

/// A kernel without such a setting does not forbid anything by it.
fn look_at_settings(settings: &Path) -> io::Result<FeatureSeen> {
    for name in NESTING_SETTINGS {
        let value = match fs::read_to_string(settings.join(name)) {
            Err(e) if is_absent(&e) => continue,
            other => other?,
        };
        if value.trim() == "0" {
            let setting = format!("{}=0", name.replace('/', "."));
            return Ok(FeatureSeen::Forbidden { setting });
        }
    }
    Ok(FeatureSeen::Usable)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The devices that a run gets.
fn devices(spec: &RunSpec) -> impl Iterator<Item = (Feature, Device)> {
    let all = spec.features.iter();
    all.filter_map(|feature| Some((*feature, feature.device()?)))
}

/// Mounts a tmpfs in the run's mount namespace and makes the nodes in it, owned by the guest's root.
pub(super) fn create_devices(spec: &RunSpec, dir: &RunDir) -> io::Result<()> {
    if devices(spec).next().is_none() {
        return Ok(());
    }
    let place = dir.devices();
    fs::create_dir_all(&place)?;
    mount(
        "mayfly",
        &place,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"mode=0711,size=64k,nr_inodes=16"),
    )
    .map_err(|e| explained("cannot mount a place for devices", &e.into()))?;
    for (feature, device) in devices(spec) {
        let node = node(dir, feature);
        let number = makedev(device.major, device.minor);
        mknodat(CWD, &node, FileType::CharacterDevice, Mode::empty(), number)
            .map_err(|e| explained(&format!("cannot make a device for {feature}"), &e.into()))?;
        chown(&node, Some(spec.ids.first), Some(spec.ids.first))?;
        chmod(&node, Mode::from_raw_mode(device.mode))?;
    }
    Ok(())
}

fn node(dir: &RunDir, feature: Feature) -> PathBuf {
    dir.devices().join(feature.name())
}

/// What LXC mounts in the guest for its features.
///
/// In a user namespace below the guest's own, the kernel lets a proc or sysfs be mounted only where one is in sight with
/// nothing over it; those at /proc and /sys have read-only parts over them. Their place is the one where others have them.
pub(super) fn mount_entries(spec: &RunSpec, dir: &RunDir) -> Vec<String> {
    let node = |(feature, device): (Feature, Device)| {
        let from = node(dir, feature);
        format!(
            "{} dev/{} none bind,create=file 0 0",
            from.display(),
            device.name
        )
    };
    let mut entries: Vec<String> = devices(spec).map(node).collect();
    if spec.features.contains(&Feature::Nesting) {
        let kinds = [("proc", "proc"), ("sysfs", "sys")];
        entries.extend(kinds.map(|(kind, at)| {
            format!("{kind} dev/.lxc/{at} {kind} nosuid,nodev,noexec,create=dir 0 0")
        }));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_device_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let look = |feature| look_below(dir.path(), dir.path(), feature).unwrap();
        assert_eq!(look(Feature::Kvm), FeatureSeen::NoDevice);
        assert_eq!(look(Feature::Tun), FeatureSeen::NoDevice);
        fs::write(dir.path().join("kvm"), "").unwrap();
        assert!(matches!(
            look(Feature::Kvm),
            FeatureSeen::AnotherDevice { what } if what == "no character device"
        ));
        // A link is not followed: who may make one on the host is root, and who follows it would open anything.
        std::os::unix::fs::symlink("/dev/null", dir.path().join("fuse")).unwrap();
        assert!(matches!(
            look(Feature::Fuse),
            FeatureSeen::AnotherDevice { .. }
        ));
        // What lies at the place of a directory is no device, and no failed look.
        fs::write(dir.path().join("net"), "").unwrap();
        assert_eq!(look(Feature::Tun), FeatureSeen::NoDevice);
    }

    #[test]
    fn another_device_of_that_name_is_refused() {
        let found =
            look_at_device(Path::new("/dev/null"), &Feature::Kvm.device().unwrap()).unwrap();
        assert_eq!(
            found,
            FeatureSeen::AnotherDevice {
                what: "device 1:3".into()
            }
        );
    }

    #[test]
    fn a_setting_that_forbids_namespaces_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let look = || look_below(dir.path(), dir.path(), Feature::Nesting).unwrap();
        assert_eq!(look(), FeatureSeen::Usable);
        fs::create_dir(dir.path().join("kernel")).unwrap();
        let setting = dir.path().join("kernel/unprivileged_userns_clone");
        fs::write(&setting, "0\n").unwrap();
        assert_eq!(
            look(),
            FeatureSeen::Forbidden {
                setting: "kernel.unprivileged_userns_clone=0".into()
            }
        );
        fs::write(&setting, "1\n").unwrap();
        assert_eq!(look(), FeatureSeen::Usable);
    }
}
