//! Loop devices: a file as a block device.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const CONFIGURE: u64 = 0x4c0a;
const GET_STATUS64: u64 = 0x4c05;
const CTL_GET_FREE: u64 = 0x4c82;
const AUTOCLEAR: u32 = 4;

#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}
const _: () = assert!(size_of::<Info>() == 232);

#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}
const _: () = assert!(size_of::<Config>() == 304);

/// An open loop device. It goes away when nothing has it open or mounted any more.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    /// Its node in /dev.
    pub(crate) path: PathBuf,
    /// Whether it was there before: something of an earlier process has the file mounted.
    pub(crate) was_there: bool,
    _open: OwnedFd,
}

fn ioctl<T>(file: &File, number: u64, args: *mut T) -> io::Result<i32> {
    // SAFETY: the callers in this file pair `number` with the repr(C) struct that the kernel uses for it (or null
    // where it takes none), and the pointer comes from a live exclusive borrow.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), number as libc::Ioctl, args) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done)
    }
}

fn zeroed() -> Info {
    // SAFETY: the struct consists of integers and arrays of them, for which all zeros is a value.
    unsafe { std::mem::zeroed() }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
}

/// The device that `backing` is attached to, if any.
///
/// Compared by device and inode, not by path: the one who attached it may have seen it under another path.
pub(crate) fn find(backing: &File) -> io::Result<Option<LoopDevice>> {
    let want = backing.metadata()?;
    for entry in std::fs::read_dir("/sys/block")? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("loop")) else {
            continue;
        };
        let path = Path::new("/dev").join(name);
        let file = match open(&path) {
            Ok(file) => file,
            // A device without a node, or one that is going away, is looked up in sysfs: free ones have no `loop`.
            Err(error) => match Path::new("/sys/block")
                .join(name)
                .join("loop")
                .try_exists()?
            {
                false => continue,
                true => return Err(error),
            },
        };
        let mut info = zeroed();
        match ioctl(&file, GET_STATUS64, &raw mut info) {
            Ok(_) if info.inode == want.ino() && info.device == want.dev() => {
                if info.offset != 0 || info.size_limit != 0 {
                    return Err(io::Error::other(format!(
                        "{} shows only a part of the file",
                        path.display()
                    )));
                }
                return Ok(Some(LoopDevice {
                    path,
                    was_there: true,
                    _open: file.into(),
                }));
            }
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Attaches `backing`, or finds the device that has it already: one file must never be behind two devices, because
/// the file system would take them for two copies of itself. The caller holds an exclusive lock on the file.
pub(crate) fn attach(backing: &File) -> io::Result<LoopDevice> {
    const TRIES: usize = 16;
    if let Some(there) = find(backing)? {
        return Ok(there);
    }
    let control = open(Path::new("/dev/loop-control"))?;
    for _ in 0..TRIES {
        let number = ioctl::<u8>(&control, CTL_GET_FREE, std::ptr::null_mut())?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path)?;
        let info = Info {
            flags: AUTOCLEAR,
            ..zeroed()
        };
        let mut config = Config {
            fd: backing.as_raw_fd() as u32,
            block_size: 0,
            info,
            reserved: [0; 8],
        };
        match ioctl(&device, CONFIGURE, &raw mut config) {
            Ok(_) => {
                return Ok(LoopDevice {
                    path,
                    was_there: false,
                    _open: device.into(),
                });
            }
            // Somebody else was faster with this one.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no free loop device after 16 tries"))
}
