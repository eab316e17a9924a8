//! The btrfs ioctls, by hand: subvolumes, simple quotas, and the tree of tree roots.
//!
//! The structs follow `linux/btrfs.h`; their sizes are part of the ioctl numbers and are checked when this compiles.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};

/// The inode of every subvolume's top directory, and the lowest id that a subvolume may have.
pub(crate) const FIRST_FREE: u64 = 256;
/// `f_type` of btrfs in statfs.
pub(crate) const MAGIC: u64 = 0x9123_683e;

const LAST_FREE: u64 = u64::MAX - 255;
const ROOT_TREE: u64 = 1;
const ROOT_ITEM: u32 = 132;
const ROOT_BACKREF: u32 = 144;
const ROOT_REF: u32 = 156;
const SPEC_BY_ID: u64 = 1 << 4;
const LIMIT_MAX_REFERENCED: u64 = 1;
const QUOTA_ENABLE_SIMPLE: u64 = 4;

const WRITE: u64 = 1;
const READ: u64 = 2;

const fn request<T>(direction: u64, number: u64) -> u64 {
    (direction << 30) | ((size_of::<T>() as u64) << 16) | (0x94 << 8) | number
}

#[repr(C)]
struct VolArgs {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}
const _: () = assert!(size_of::<VolArgs>() == 4096);

#[repr(C)]
struct SubvolInfoArgs {
    id: u64,
    name: [u8; 256],
    parent: u64,
    dir: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    transids: [u64; 4],
    times: [[u64; 2]; 4],
    reserved: [u64; 8],
}
const _: () = assert!(size_of::<SubvolInfoArgs>() == 504);

#[repr(C)]
struct FsInfoArgs {
    max_id: u64,
    devices: u64,
    fsid: [u8; 16],
    rest: [u8; 992],
}
const _: () = assert!(size_of::<FsInfoArgs>() == 1024);

#[repr(C)]
struct QuotaCtlArgs {
    command: u64,
    status: u64,
}
const _: () = assert!(size_of::<QuotaCtlArgs>() == 16);

#[repr(C)]
struct QgroupCreateArgs {
    create: u64,
    id: u64,
}
const _: () = assert!(size_of::<QgroupCreateArgs>() == 16);

#[repr(C)]
struct QgroupLimitArgs {
    id: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved: [u64; 2],
}
const _: () = assert!(size_of::<QgroupLimitArgs>() == 48);

#[repr(C)]
struct InoLookupArgs {
    tree: u64,
    inode: u64,
    name: [u8; 4080],
}
const _: () = assert!(size_of::<InoLookupArgs>() == 4096);

const SEARCH_ROOM: usize = 64 << 10;

/// The header of a search, whose number does not count the buffer that follows it.
#[repr(C)]
struct SearchHeader {
    tree: u64,
    min_object: u64,
    max_object: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    items: u32,
    unused: u32,
    unused_too: [u64; 4],
    room: u64,
}
const _: () = assert!(size_of::<SearchHeader>() == 112);

#[repr(C)]
struct SearchArgs {
    header: SearchHeader,
    found: [u8; SEARCH_ROOM],
}
const _: () = assert!(size_of::<SearchArgs>() == 112 + SEARCH_ROOM);

const SUBVOL_CREATE_V2: u64 = request::<VolArgs>(WRITE, 24);
const SNAP_CREATE_V2: u64 = request::<VolArgs>(WRITE, 23);
const SNAP_DESTROY_V2: u64 = request::<VolArgs>(WRITE, 63);
const GET_SUBVOL_INFO: u64 = request::<SubvolInfoArgs>(READ, 60);
const FS_INFO: u64 = request::<FsInfoArgs>(READ, 31);
const QUOTA_CTL: u64 = request::<QuotaCtlArgs>(READ | WRITE, 40);
const QGROUP_CREATE: u64 = request::<QgroupCreateArgs>(WRITE, 42);
const QGROUP_LIMIT: u64 = request::<QgroupLimitArgs>(READ, 43);
const TREE_SEARCH_V2: u64 = request::<SearchHeader>(READ | WRITE, 17);
const INO_LOOKUP: u64 = request::<InoLookupArgs>(READ | WRITE, 18);

fn ioctl<T>(fd: impl AsFd, number: u64, args: &mut T) -> Result<()> {
    // SAFETY: every caller in this file pairs `number` with the repr(C) struct that the kernel reads and writes for
    // it (the size is in the number, or, for a search, in `room`), and `args` is borrowed for the whole call.
    let done = unsafe {
        libc::ioctl(
            fd.as_fd().as_raw_fd(),
            number as libc::Ioctl,
            std::ptr::from_mut(args),
        )
    };
    if done < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}

fn vol_args(name: &str) -> Result<Box<VolArgs>> {
    let mut args = Box::new(VolArgs {
        fd: 0,
        transid: 0,
        flags: 0,
        unused: [0; 4],
        name: [0; 4040],
    });
    if name.is_empty() || name.len() > 255 || name.contains(['/', '\0']) {
        return Err(Errno::INVAL);
    }
    args.name[..name.len()].copy_from_slice(name.as_bytes());
    Ok(args)
}

/// Makes an empty subvolume `name` in the directory `dir`.
pub(crate) fn create_subvolume(dir: impl AsFd, name: &str) -> Result<()> {
    ioctl(dir, SUBVOL_CREATE_V2, &mut *vol_args(name)?)
}

/// Makes a writable snapshot of the subvolume `source` as `name` in the directory `dir`.
pub(crate) fn create_snapshot(source: impl AsFd, dir: impl AsFd, name: &str) -> Result<()> {
    let mut args = vol_args(name)?;
    args.fd = source.as_fd().as_raw_fd().into();
    ioctl(dir, SNAP_CREATE_V2, &mut *args)
}

/// Deletes the subvolume `id`, wherever it lies in the file system of `fd`. Ids are never used again, so this cannot
/// hit another one. `ENOTEMPTY` when it holds others.
pub(crate) fn destroy_subvolume(fd: impl AsFd, id: u64) -> Result<()> {
    let mut args = vol_args("-")?;
    args.flags = SPEC_BY_ID;
    args.name = [0; 4040];
    args.name[..8].copy_from_slice(&id.to_ne_bytes());
    ioctl(fd, SNAP_DESTROY_V2, &mut *args)
}

/// Id and uuid of the subvolume that `fd` lies in.
pub(crate) fn subvolume_of(fd: impl AsFd) -> Result<(u64, [u8; 16])> {
    // SAFETY: the struct consists of integers and arrays of them, for which all zeros is a value.
    let mut args: SubvolInfoArgs = unsafe { std::mem::zeroed() };
    ioctl(fd, GET_SUBVOL_INFO, &mut args)?;
    Ok((args.id, args.uuid))
}

/// The uuid of the file system, as sysfs names it.
pub(crate) fn filesystem_uuid(fd: impl AsFd) -> Result<[u8; 16]> {
    let mut args = Box::new(FsInfoArgs {
        max_id: 0,
        devices: 0,
        fsid: [0; 16],
        rest: [0; 992],
    });
    ioctl(fd, FS_INFO, &mut *args)?;
    Ok(args.fsid)
}

/// Turns simple quotas on. They change the on-disk format: kernels before 6.7 cannot mount it any more.
pub(crate) fn enable_simple_quotas(fd: impl AsFd) -> Result<()> {
    ioctl(
        fd,
        QUOTA_CTL,
        &mut QuotaCtlArgs {
            command: QUOTA_ENABLE_SIMPLE,
            status: 0,
        },
    )
}

/// Limits what is charged to the subvolume `id`.
pub(crate) fn set_limit(fd: impl AsFd, id: u64, max_referenced: u64) -> Result<()> {
    let flags = LIMIT_MAX_REFERENCED;
    ioctl(
        fd,
        QGROUP_LIMIT,
        &mut QgroupLimitArgs {
            id,
            flags,
            max_referenced,
            max_exclusive: 0,
            reserved: [0; 2],
        },
    )
}

/// Removes the quota group of the subvolume `id`. `EBUSY` while the subvolume is there or bytes are charged to it.
pub(crate) fn destroy_qgroup(fd: impl AsFd, id: u64) -> Result<()> {
    ioctl(fd, QGROUP_CREATE, &mut QgroupCreateArgs { create: 0, id })
}

/// The subvolume that the directory `fd` lies in, and the path of it there, without slashes at its ends.
pub(crate) fn place_of(fd: impl AsFd, inode: u64) -> Result<(u64, Vec<u8>)> {
    let fd = fd.as_fd();
    let (tree, _) = subvolume_of(fd)?;
    Ok((tree, path_in(fd, tree, inode)?))
}

/// The path of a directory in the subvolume `tree`, without slashes at its ends; empty for the top.
pub(crate) fn path_in(fd: impl AsFd, tree: u64, inode: u64) -> Result<Vec<u8>> {
    if inode == FIRST_FREE {
        return Ok(Vec::new());
    }
    let mut args = Box::new(InoLookupArgs {
        tree,
        inode,
        name: [0; 4080],
    });
    ioctl(fd, INO_LOOKUP, &mut *args)?;
    let end = args
        .name
        .iter()
        .position(|b| *b == 0)
        .unwrap_or(args.name.len());
    Ok(args.name[..end]
        .strip_suffix(b"/")
        .unwrap_or(&args.name[..end])
        .to_vec())
}

/// A subvolume, by the directory entry that leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The subvolume.
    pub(crate) id: u64,
    /// The subvolume that holds the entry.
    pub(crate) parent: u64,
    /// The inode of the directory in that one.
    pub(crate) dir: u64,
    /// The entry's name.
    pub(crate) name: Vec<u8>,
}

/// The subvolumes whose entries lie directly in the subvolume `id`, at any depth of directories.
pub(crate) fn children(fd: impl AsFd, id: u64) -> Result<Vec<Entry>> {
    let mut all = Vec::new();
    search(
        fd,
        (id, ROOT_REF, 0),
        (id, ROOT_REF, u64::MAX),
        &mut |(_, kind, child), item| {
            if kind == ROOT_REF {
                all.push(entry(child, id, item)?);
            }
            Ok(())
        },
    )?;
    Ok(all)
}

/// All subvolumes of the file system, those that are being deleted left out.
pub(crate) fn all_subvolumes(fd: impl AsFd) -> Result<Vec<(Entry, [u8; 16])>> {
    let mut all = Vec::new();
    let mut last = None;
    search(
        fd,
        (FIRST_FREE, 0, 0),
        (LAST_FREE, u32::from(u8::MAX), u64::MAX),
        &mut |(id, kind, offset), item| {
            match (kind, last) {
                (ROOT_ITEM, _) => last = Some((id, root_uuid(item)?)),
                (ROOT_BACKREF, Some((of, uuid))) if of == id => {
                    all.push((entry(id, offset, item)?, uuid))
                }
                _ => {}
            }
            Ok(())
        },
    )?;
    Ok(all)
}

/// The uuid of a subvolume; `None` when there is none of this id, or it is being deleted: then its item is still there
/// for a while, and its entry is not.
pub(crate) fn uuid_of(fd: impl AsFd, id: u64) -> Result<Option<[u8; 16]>> {
    let (mut uuid, mut has_entry) = (None, false);
    search(
        fd,
        (id, ROOT_ITEM, 0),
        (id, ROOT_BACKREF, u64::MAX),
        &mut |(_, kind, _), item| {
            match kind {
                ROOT_ITEM => uuid = Some(root_uuid(item)?),
                ROOT_BACKREF => has_entry = true,
                _ => {}
            }
            Ok(())
        },
    )?;
    Ok(uuid.filter(|_| has_entry))
}

fn entry(id: u64, parent: u64, item: &[u8]) -> Result<Entry> {
    let length = number(item, 16, 2)? as usize;
    let name = item.get(18..18 + length).ok_or(Errno::IO)?.to_vec();
    Ok(Entry {
        id,
        parent,
        dir: number(item, 0, 8)?,
        name,
    })
}

fn root_uuid(item: &[u8]) -> Result<[u8; 16]> {
    item.get(247..263)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Errno::IO)
}

/// A little-endian number of `length` bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<u64> {
    let mut eight = [0; 8];
    eight[..length].copy_from_slice(bytes.get(at..at + length).ok_or(Errno::IO)?);
    Ok(u64::from_le_bytes(eight))
}

type Key = (u64, u32, u64);

/// Hands every item of the tree of tree roots from `min` to `max` to `take`, in order.
fn search(
    fd: impl AsFd,
    min: Key,
    max: Key,
    take: &mut dyn FnMut(Key, &[u8]) -> Result<()>,
) -> Result<()> {
    let fd = fd.as_fd();
    let mut from = min;
    let header = |from: Key| SearchHeader {
        tree: ROOT_TREE,
        min_object: from.0,
        max_object: max.0,
        min_type: from.1,
        max_type: max.1,
        min_offset: from.2,
        max_offset: max.2,
        min_transid: 0,
        max_transid: u64::MAX,
        items: u32::MAX,
        unused: 0,
        unused_too: [0; 4],
        room: SEARCH_ROOM as u64,
    };
    let mut args = Box::new(SearchArgs {
        header: header(from),
        found: [0; SEARCH_ROOM],
    });
    loop {
        args.header = header(from);
        ioctl(fd, TREE_SEARCH_V2, &mut *args)?;
        if args.header.items == 0 {
            return Ok(());
        }
        let mut at = 0;
        for _ in 0..args.header.items {
            let head = args.found.get(at..at + 32).ok_or(Errno::IO)?;
            // The header of an item is in the machine's own byte order, unlike the item.
            let word = |n: usize| u64::from_ne_bytes(head[n..n + 8].try_into().unwrap_or_default());
            let half = |n: usize| u32::from_ne_bytes(head[n..n + 4].try_into().unwrap_or_default());
            from = (word(8), half(24), word(16));
            let length = half(28) as usize;
            take(
                from,
                args.found.get(at + 32..at + 32 + length).ok_or(Errno::IO)?,
            )?;
            at += 32 + length;
        }
        from = match from {
            (object, kind, offset) if offset < u64::MAX => (object, kind, offset + 1),
            (object, kind, _) if kind < u32::from(u8::MAX) => (object, kind + 1, 0),
            (object, _, _) if object < u64::MAX => (object + 1, 0, 0),
            _ => return Ok(()),
        };
        if from > max {
            return Ok(());
        }
    }
}
