//! Mount namespaces and what is mounted in them, as the kernel tells it without any process: since Linux 6.12.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

const GET_INFO: libc::Ioctl = request(10);
const GET_NEXT: libc::Ioctl = request(11);
const GET_PREVIOUS: libc::Ioctl = request(12);

const STATMOUNT: libc::c_long = 457;
const LISTMOUNT: libc::c_long = 458;

/// Stands for the root of a namespace where a mount is asked for.
const TOP: u64 = u64::MAX;
const WITH_DEVICE: u64 = 0x1;
const WITH_PARENT: u64 = 0x2;
const WITH_ROOT: u64 = 0x8;

/// Where the strings of an answer begin, and the places in it.
const STRINGS: usize = 512;
const MASK: usize = 8;
const DEVICE: usize = 16;
const PARENT: usize = 48;
const ROOT: usize = 104;
/// Room for an answer with the longest path that the kernel tells.
const ANSWER: usize = STRINGS + 8192;
/// So many mounts are listed by one call.
const BATCH: usize = 4096;

/// A request of namespaces that takes a [`SpaceInfo`].
const fn request(number: u64) -> libc::Ioctl {
    const READ: u64 = 2 << 30;
    (READ | (size_of::<SpaceInfo>() as u64) << 16 | 0xb7 << 8 | number) as libc::Ioctl
}

/// `struct mnt_ns_info`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SpaceInfo {
    size: u32,
    mounts: u32,
    id: u64,
}

/// `struct mnt_id_req`.
#[repr(C)]
struct MountRequest {
    size: u32,
    spare: u32,
    mount: u64,
    param: u64,
    space: u64,
}

/// One mount namespace.
pub(crate) struct MountSpace {
    fd: OwnedFd,
    /// Its number, which no other gets.
    pub(crate) id: u64,
    /// How many mounts it has, the one below its root included.
    pub(crate) count: u32,
}

/// One mount.
pub(crate) struct MountSeen {
    /// The major and the minor number of its file system.
    pub(crate) device: (u32, u32),
    /// The mount that it is mounted on.
    pub(crate) parent: u64,
}

impl MountSpace {
    /// That of the caller.
    pub(crate) fn own() -> io::Result<Self> {
        let mut space = Self {
            fd: File::open("/proc/thread-self/ns/mnt")?.into(),
            id: 0,
            count: 0,
        };
        space.count_again()?;
        Ok(space)
    }

    /// Reads how many mounts it has now.
    pub(crate) fn count_again(&mut self) -> io::Result<()> {
        let (_, info) = self.ask(GET_INFO)?;
        (self.id, self.count) = (info.id, info.mounts);
        Ok(())
    }

    /// The one with the next smaller number.
    pub(crate) fn before(&self) -> io::Result<Option<Self>> {
        self.other(GET_PREVIOUS)
    }

    /// The one with the next larger number: whatever is made meanwhile comes later still.
    pub(crate) fn after(&self) -> io::Result<Option<Self>> {
        self.other(GET_NEXT)
    }

    fn other(&self, which: libc::Ioctl) -> io::Result<Option<Self>> {
        match self.ask(which) {
            Ok((fd, info)) => {
                // SAFETY: the kernel has just made this descriptor for the caller, and nobody else knows of it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                let (id, count) = (info.id, info.mounts);
                Ok(Some(Self { fd, id, count }))
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn ask(&self, what: libc::Ioctl) -> io::Result<(i32, SpaceInfo)> {
        let mut info = SpaceInfo::default();
        // SAFETY: each of the three requests writes one SpaceInfo, whose size is in its number, and it lives for the call.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), what, &raw mut info) };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok((done, info))
        }
    }

    /// The numbers of its mounts, as far as they can be reached from its root; no other mount ever gets one of them.
    pub(crate) fn list(&self) -> io::Result<Vec<u64>> {
        let mut all: Vec<u64> = Vec::new();
        let mut batch = vec![0u64; BATCH];
        loop {
            let request = self.request(TOP, all.last().copied().unwrap_or(0));
            // SAFETY: the request has the size that is in it, the batch has room for as many numbers as are asked for, and
            // both live for the call.
            let done = unsafe {
                libc::syscall(LISTMOUNT, &raw const request, batch.as_mut_ptr(), BATCH, 0)
            };
            let count = usize::try_from(done).map_err(|_| io::Error::last_os_error())?;
            all.extend_from_slice(&batch[..count]);
            if count < BATCH {
                return Ok(all);
            }
        }
    }

    fn request(&self, mount: u64, param: u64) -> MountRequest {
        MountRequest {
            size: size_of::<MountRequest>() as u32,
            spare: 0,
            mount,
            param,
            space: self.id,
        }
    }

    /// One of its mounts; none where it is gone.
    pub(crate) fn look(&self, mount: u64, room: &mut Answer) -> io::Result<Option<MountSeen>> {
        if !self.fill(mount, WITH_DEVICE | WITH_PARENT, room)? {
            return Ok(None);
        }
        Ok(Some(MountSeen {
            device: (room.half(DEVICE), room.half(DEVICE + 4)),
            parent: room.word(PARENT),
        }))
    }

    /// What a mount shows of its file system, as a path there; none where it is gone.
    pub(crate) fn root_of<'a>(
        &self,
        mount: u64,
        room: &'a mut Answer,
    ) -> io::Result<Option<&'a [u8]>> {
        Ok(self.fill(mount, WITH_ROOT, room)?.then(|| room.text(ROOT)))
    }

    /// Asks for all of `what`. False where the mount is gone.
    fn fill(&self, mount: u64, what: u64, room: &mut Answer) -> io::Result<bool> {
        let request = self.request(mount, what);
        // SAFETY: the request has the size that is in it, the kernel writes at most as many bytes as it is told, and both
        // live for the call.
        let done = unsafe {
            libc::syscall(
                STATMOUNT,
                &raw const request,
                room.0.as_mut_ptr(),
                room.0.len(),
                0,
            )
        };
        if done != 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT) => Ok(false),
                _ => Err(error),
            };
        }
        if room.word(MASK) & what == what {
            Ok(true)
        } else {
            Err(io::Error::other(
                "the kernel does not tell enough of mounts",
            ))
        }
    }
}

/// Room for what the kernel tells of one mount.
pub(crate) struct Answer(Vec<u8>);

impl Answer {
    pub(crate) fn new() -> Self {
        Self(vec![0; ANSWER])
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    fn half(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    /// A string, by the place where its own place is.
    fn text(&self, at: usize) -> &[u8] {
        let from = STRINGS + self.half(at) as usize;
        let rest = self.0.get(from..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}
