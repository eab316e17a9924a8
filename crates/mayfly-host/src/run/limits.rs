//! The limits of a run that goes on: the files that LXC writes when it starts, written again.
//!
//! They are in the payload's cgroup, in whichever hierarchy has the controller; the guest's root owns none of them. The
//! cgroup is found by the run's own name. All files are read before the first is written, and where one cannot be
//! written, those before it get back what they had.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::ids::{NodeId, RunId, VpsId};
use mayfly_core::ports::{HostError, HostResult, Outcome};
use mayfly_core::run::Limits;

use super::cgroups::{Hierarchy, gone, observe_hierarchies};
use super::lxc_config::CPU_PERIOD_US;
use super::paths::{node_cgroup, run_name};

/// How often memory is asked back before a limit below it is refused.
const RECLAIMS: u32 = 10;

/// Changes the limits of a run. One whose cgroup is not there is over, and has none. `swap_at_start` is what the run was
/// started with: a kernel that counts no swap was not told of it then either.
pub(super) fn set_limits(
    (node, vps, run): (&NodeId, VpsId, &RunId),
    want: &Limits,
    swap_at_start: Bytes,
) -> HostResult<Outcome> {
    let hierarchies = observe_hierarchies()
        .map_err(|error| LookFailed::new(format!("the cgroups of VPS {vps}"), error))?;
    let below = Path::new(&node_cgroup(node))
        .join(run_name(vps, run))
        .join("payload");
    let payload = Payload::find(vps, &hierarchies, &below)?;
    payload.set(&mut Cgroupfs, want, swap_at_start)
}

/// Reads and writes of cgroup files; the tests have a kernel of their own.
trait Files {
    fn read(&mut self, file: &Path) -> io::Result<String>;
    fn write(&mut self, file: &Path, value: &str) -> io::Result<()>;
    fn is_there(&mut self, dir: &Path) -> io::Result<bool>;
}

struct Cgroupfs;

impl Files for Cgroupfs {
    fn read(&mut self, file: &Path) -> io::Result<String> {
        Ok(fs::read_to_string(file)?.trim().to_owned())
    }

    fn write(&mut self, file: &Path, value: &str) -> io::Result<()> {
        // Never made: a file that the kernel does not offer is missing.
        let mut file = fs::OpenOptions::new().write(true).open(file)?;
        file.write_all(value.as_bytes())
    }

    fn is_there(&mut self, dir: &Path) -> io::Result<bool> {
        dir.try_exists()
    }
}

/// The payload's cgroup in the hierarchy of one controller.
#[derive(Clone, Debug)]
struct Place {
    dir: PathBuf,
    v2: bool,
}

#[derive(Clone, Debug)]
struct Payload {
    vps: VpsId,
    memory: Place,
    pids: Place,
    cpu: Place,
}

/// One file of a limit.
#[derive(Clone, Debug)]
struct File {
    /// The limit, as it is typed.
    limit: &'static str,
    path: PathBuf,
    want: String,
}

impl File {
    fn new(limit: &'static str, place: &Place, file: &str, want: String) -> Self {
        Self {
            limit,
            path: place.dir.join(file),
            want,
        }
    }

    /// Whether that is what it holds. Sizes are kept in whole pages.
    fn holds(&self, value: &str) -> bool {
        match self.limit {
            "memory" | "swap" => pages(value) == pages(&self.want),
            _ => value == self.want,
        }
    }
}

impl Payload {
    fn find(vps: VpsId, hierarchies: &[Hierarchy], below: &Path) -> HostResult<Self> {
        let place = |controller: &str| {
            let has = |h: &&Hierarchy| {
                let all = h.v1.as_deref();
                all.is_some_and(|all| all.iter().any(|c| c == controller))
            };
            hierarchies
                .iter()
                .find(has)
                // Which controllers v2 has is seen by its files.
                .or_else(|| hierarchies.iter().find(|h| h.v1.is_none()))
                .map(|found| Place {
                    dir: found.base.join(below),
                    v2: found.v1.is_none(),
                })
                .ok_or_else(|| {
                    let what = format!("the cgroups of VPS {vps}");
                    LookFailed::new(
                        what,
                        format!("no hierarchy has the controller {controller}"),
                    )
                })
        };
        Ok(Self {
            vps,
            memory: place("memory")?,
            pids: place("pids")?,
            cpu: place("cpu")?,
        })
    }

    fn set(
        &self,
        files: &mut impl Files,
        want: &Limits,
        swap_at_start: Bytes,
    ) -> HostResult<Outcome> {
        if self.is_over(files)? {
            return Ok(Outcome::Unchanged);
        }
        let mut changes = Vec::new();
        for file in self.files(want) {
            match files.read(&file.path) {
                Ok(had) if file.holds(&had) => {}
                Ok(had) => changes.push((file, had)),
                Err(e) if gone(&e) && self.is_over(files)? => return Ok(Outcome::Unchanged),
                Err(e) if gone(&e) && file.limit == "swap" => {
                    self.check_uncounted(want.swap_bytes, swap_at_start)?;
                }
                Err(e) => return Err(self.failed(&file, &e)),
            }
        }
        order(&mut changes);
        let mut done: Vec<&(File, String)> = Vec::new();
        for change in &changes {
            if let Err(error) = self.write(files, &change.0, &change.1) {
                return match self.is_over(files) {
                    // It ended meanwhile, and all that was written is gone with it.
                    Ok(true) => Ok(Outcome::Unchanged),
                    _ => Err(self.put_back(files, &done, error)),
                };
            }
            done.push(change);
        }
        Ok(if changes.is_empty() {
            Outcome::Unchanged
        } else {
            Outcome::Changed
        })
    }

    /// Whether the run is over: no process is in a cgroup that is not there.
    fn is_over(&self, files: &mut impl Files) -> HostResult<bool> {
        for place in [&self.memory, &self.pids, &self.cpu] {
            let there = files
                .is_there(&place.dir)
                .map_err(|e| LookFailed::new(place.dir.display().to_string(), e))?;
            if !there {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The files and what they are to hold, memory first: only that can be refused for what the guest does.
    fn files(&self, want: &Limits) -> Vec<File> {
        let quota = want
            .cpu_percent
            .map(|percent| u64::from(percent) * CPU_PERIOD_US / 100);
        let size = |bytes: Option<Bytes>, none: &str| {
            bytes.map_or_else(|| none.to_owned(), |bytes| bytes.0.to_string())
        };
        let (memory, swap) = (want.memory_bytes, want.swap_bytes);
        let mut files = if self.memory.v2 {
            let place = &self.memory;
            vec![
                File::new("memory", place, "memory.max", size(memory, "max")),
                File::new(
                    "swap",
                    place,
                    "memory.swap.max",
                    size(memory.and(Some(swap)), "max"),
                ),
            ]
        } else {
            let place = &self.memory;
            let both = memory.map(|memory| memory.saturating_add(swap));
            vec![
                File::new("memory", place, "memory.limit_in_bytes", size(memory, "-1")),
                File::new(
                    "swap",
                    place,
                    "memory.memsw.limit_in_bytes",
                    size(both, "-1"),
                ),
            ]
        };
        let processes = want.processes.map_or("max".to_owned(), |n| n.to_string());
        files.push(File::new("processes", &self.pids, "pids.max", processes));
        if self.cpu.v2 {
            let quota = quota.map_or("max".to_owned(), |us| us.to_string());
            let both = format!("{quota} {CPU_PERIOD_US}");
            files.push(File::new("cpus", &self.cpu, "cpu.max", both));
        } else {
            let quota = quota.map_or("-1".to_owned(), |us| us.to_string());
            let period = CPU_PERIOD_US.to_string();
            files.push(File::new("cpus", &self.cpu, "cpu.cfs_period_us", period));
            files.push(File::new("cpus", &self.cpu, "cpu.cfs_quota_us", quota));
        }
        files
    }

    fn write(&self, files: &mut impl Files, file: &File, had: &str) -> HostResult<()> {
        let lower = pages(&file.want) < pages(had);
        // v2 takes any limit and kills until it holds. v1 asks back by itself, and refuses.
        if self.memory.v2 && file.limit == "memory" && lower {
            self.make_room(files, file)?;
        }
        match files.write(&file.path, &file.want) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && lower => {
                let used = match file.limit {
                    "memory" => "memory.usage_in_bytes",
                    _ => "memory.memsw.usage_in_bytes",
                };
                let used = self.size(files, used)?;
                Err(self.in_use(file, used))
            }
            done => done.map_err(|e| self.failed(file, &e)),
        }
    }

    /// Puts back what was written, the last first, and tells what could not be. Memory that a guest has taken meanwhile
    /// keeps the new limit: nothing is killed for the sake of the old one.
    fn put_back(
        &self,
        files: &mut impl Files,
        done: &[&(File, String)],
        error: HostError,
    ) -> HostError {
        let mut stuck = Vec::new();
        for (file, had) in done.iter().rev() {
            let back = File {
                want: had.clone(),
                ..file.clone()
            };
            if let Err(why) = self.write(files, &back, &file.want) {
                stuck.push(format!(
                    "{} is not back at {had}: {why}",
                    file.path.display()
                ));
            }
        }
        if stuck.is_empty() {
            return error;
        }
        HostError::failed(error.to_string(), stuck.join("; "))
    }

    /// Asks back what the guest can give up: caches, and what may go into its swap.
    fn make_room(&self, files: &mut impl Files, file: &File) -> HostResult<()> {
        let want = file.want.parse().unwrap_or(u64::MAX);
        let reclaim = self.memory.dir.join("memory.reclaim");
        for _ in 0..RECLAIMS {
            let used = self.size(files, "memory.current")?;
            if used <= want {
                return Ok(());
            }
            // An error says that it was not all found: what is left is looked at.
            let _ = files.write(&reclaim, &(used - want).to_string());
        }
        match self.size(files, "memory.current")? {
            used if used <= want => Ok(()),
            used => Err(self.in_use(file, used)),
        }
    }

    fn size(&self, files: &mut impl Files, file: &str) -> HostResult<u64> {
        let path = self.memory.dir.join(file);
        let look = |why: &dyn std::fmt::Display| LookFailed::new(path.display().to_string(), why);
        let text = files.read(&path).map_err(|e| look(&e))?;
        Ok(text.parse().map_err(|e| look(&e))?)
    }

    fn in_use(&self, file: &File, used: u64) -> HostError {
        let vps = self.vps;
        let want = Bytes(file.want.parse().unwrap_or(u64::MAX));
        let what = match file.limit {
            "memory" => "memory",
            _ => "memory and swap together",
        };
        Refusal::new(
            Code::LimitBelowUse,
            format!(
                "VPS {vps} uses {} of {what} that it cannot give up, more than a limit of {want}",
                Bytes(used)
            ),
            format!(
                "end what uses it, or ask for {}M at least; or stop it first: its next start has the new limit",
                used.div_ceil(1 << 20)
            ),
        )
        .into()
    }

    /// A kernel that counts no swap leaves it without a limit, as at the start.
    fn check_uncounted(&self, swap: Bytes, at_start: Bytes) -> HostResult<()> {
        if swap == Bytes(0) || swap == at_start {
            return Ok(());
        }
        Err(Refusal::new(
            Code::HostUnsuitable,
            format!(
                "the swap of VPS {} cannot be limited: the kernel counts no swap by cgroup",
                self.vps
            ),
            "boot the host with swapaccount=1, or leave swap out",
        )
        .into())
    }

    fn failed(&self, file: &File, why: &dyn std::fmt::Display) -> HostError {
        HostError::failed(
            format!("setting the limit of {} of VPS {}", file.limit, self.vps),
            format!("{}: {why}", file.path.display()),
        )
    }
}

/// Swap goes before memory where it grows, else after it. On v1 it is counted with the memory and may never be below it;
/// on v2 memory finds room in new swap.
fn order(changes: &mut [(File, String)]) {
    let of = |limit| changes.iter().position(|(file, _)| file.limit == limit);
    let (Some(memory), Some(swap)) = (of("memory"), of("swap")) else {
        return;
    };
    let (file, had) = &changes[swap];
    let grows = pages(&file.want) > pages(had);
    if grows {
        changes.swap(memory, swap);
    }
}

/// The number of pages of a size, or of no limit: the kernel shows the largest number for that, and takes `-1` or `max`.
/// Where pages are larger than these, a limit that is no multiple of one is written once more than needed.
fn pages(value: &str) -> u64 {
    let most = i64::MAX.unsigned_abs();
    value.parse().unwrap_or(most).min(most) >> 12
}

#[cfg(test)]
mod tests;
