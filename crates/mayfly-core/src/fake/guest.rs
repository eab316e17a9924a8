//! What guests do, and what befalls them.

use super::tree::Node;
use super::world::{Leak, Run, World};
use super::{FakeHost, StartFault};
use crate::bytes::Bytes;
use crate::ids::VpsId;
use crate::names::PoolPath;
use crate::run::RunEnd;

/// What a guest gets instead of what it wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestError {
    /// There is no living guest.
    NotRunning,
    /// Something on the way is not there, or is no directory.
    NotFound,
    /// The dataset's quota is used up.
    QuotaExceeded,
    /// The pool is full.
    NoSpace,
    /// The mount is read-only.
    ReadOnly,
}

impl World {
    fn guest(&self, vps: VpsId) -> Result<Run, GuestError> {
        let alive = self.runs.values().filter(|r| r.vps == vps && r.guest);
        alive
            .max_by_key(|r| r.pid)
            .cloned()
            .ok_or(GuestError::NotRunning)
    }

    fn guest_put(&mut self, vps: VpsId, path: &str, node: Node) -> Result<(), GuestError> {
        let run = self.guest(vps)?;
        // The directories on the way are followed where they are links, and made where they are not there.
        let (above, leaf) = path.rsplit_once('/').ok_or(GuestError::NotFound)?;
        let mut at = String::new();
        for part in above.split('/').filter(|p| !p.is_empty()) {
            let next = format!("{}/{part}", at.trim_end_matches('/'));
            at = match run.view.resolve(&next, |uid, p| self.node_at(uid, p)) {
                Ok(there) => there,
                Err(_) => next,
            };
        }
        let full = format!("{}/{leaf}", at.trim_end_matches('/'));
        let (uid, inside, read_only) = run.view.place(&full);
        if read_only {
            return Err(GuestError::ReadOnly);
        }
        let uid = uid.ok_or(GuestError::NotFound)?;
        let text = match &node {
            Node::File { text, .. } => Some(text.clone()),
            _ => None,
        };
        self.put_into(uid, &inside, node)?;
        if let Some(text) = text {
            self.note_copy(&run, uid, &inside, &text);
        }
        Ok(())
    }

    /// Puts something into a dataset, with the directories above it, where quota and pool have room for it.
    pub(super) fn put_into(
        &mut self,
        uid: u64,
        inside: &str,
        node: Node,
    ) -> Result<(), GuestError> {
        let (free, full) = (self.free(), self.full);
        let dataset = self.by_uid_mut(uid).ok_or(GuestError::NotFound)?;
        let before = dataset.tree.used();
        let mut tree = dataset.tree.clone();
        let text = match &node {
            Node::File { text, .. } => Some(text.clone()),
            _ => None,
        };
        tree.put(inside, node);
        let more = tree.used().saturating_sub(before);
        if dataset.quota.is_some_and(|quota| tree.used() > quota) {
            return Err(GuestError::QuotaExceeded);
        }
        if full || more > free {
            return Err(GuestError::NoSpace);
        }
        dataset.tree = tree;
        self.deposit(uid, inside, text.as_deref());
        Ok(())
    }
}

impl FakeHost {
    /// The guest writes a file, with the directories above it. It lands in the dataset that is mounted there.
    pub fn guest_write(&self, vps: VpsId, path: &str, text: &str) -> Result<(), GuestError> {
        self.world().guest_put(vps, path, Node::file(text))
    }

    /// The guest writes a file of that many bytes.
    pub fn guest_fill(&self, vps: VpsId, path: &str, size: Bytes) -> Result<(), GuestError> {
        let node = Node::File {
            text: "…".into(),
            size,
            executable: false,
            own: true,
        };
        self.world().guest_put(vps, path, node)
    }

    /// The guest makes an executable file.
    pub fn guest_install(&self, vps: VpsId, path: &str) -> Result<(), GuestError> {
        self.world().guest_put(vps, path, Node::program())
    }

    /// The guest makes a symlink.
    pub fn guest_link(&self, vps: VpsId, path: &str, to: &str) -> Result<(), GuestError> {
        self.world().guest_put(vps, path, Node::Link(to.to_owned()))
    }

    /// The guest removes a file, or a directory with all that is in it.
    pub fn guest_remove(&self, vps: VpsId, path: &str) -> Result<(), GuestError> {
        let mut world = self.world();
        let run = world.guest(vps)?;
        let (uid, inside, read_only) = run.view.place(path);
        if read_only {
            return Err(GuestError::ReadOnly);
        }
        let uid = uid.ok_or(GuestError::NotFound)?;
        let dataset = world.by_uid_mut(uid).ok_or(GuestError::NotFound)?;
        let below = format!("{inside}/");
        let goes = |one: &String| *one == inside || one.starts_with(&below);
        let gone: Vec<String> = dataset
            .tree
            .0
            .keys()
            .filter(|one| goes(one))
            .cloned()
            .collect();
        dataset.tree.0.retain(|one, _| !goes(one));
        for path in gone {
            world.deposit(uid, &path, None);
        }
        Ok(())
    }

    /// What the living guest reads there; none where there is no guest, or no file.
    pub fn guest_read(&self, vps: VpsId, path: &str) -> Option<String> {
        let world = self.world();
        let run = world.guest(vps).ok()?;
        let at = run
            .view
            .resolve(path, |uid, p| world.node_at(uid, p))
            .ok()?;
        let (uid, inside, _) = run.view.place(&at);
        match world.node_at(uid, &inside)? {
            Node::File { text, .. } => Some(text),
            _ => None,
        }
    }

    /// What is in a file of a dataset, whether anything runs or not; no link is followed.
    pub fn read(&self, dataset: &PoolPath, path: &str) -> Option<String> {
        match self.world().datasets.get(dataset)?.tree.get(path)? {
            Node::File { text, .. } => Some(text.clone()),
            _ => None,
        }
    }

    /// All paths of a dataset.
    pub fn paths(&self, dataset: &PoolPath) -> Vec<String> {
        self.world()
            .datasets
            .get(dataset)
            .map(|d| d.tree.0.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Puts a file into a dataset from outside, as an administrator would.
    ///
    /// # Panics
    /// When there is no such dataset.
    pub fn plant(&self, dataset: &PoolPath, path: &str, text: &str) {
        let mut world = self.world();
        let seen = world
            .datasets
            .get_mut(dataset)
            .expect("the dataset that a test plants into is there");
        seen.tree.put(path, Node::file(text));
        let uid = seen.uid;
        world.deposit(uid, path, Some(text));
    }

    /// Puts a symlink into a dataset from outside.
    ///
    /// # Panics
    /// When there is no such dataset.
    pub fn plant_link(&self, dataset: &PoolPath, path: &str, to: &str) {
        let mut world = self.world();
        let seen = world
            .datasets
            .get_mut(dataset)
            .expect("the dataset that a test plants into is there");
        seen.tree.put(path, Node::Link(to.to_owned()));
    }

    /// The guest powers itself off.
    pub fn guest_poweroff(&self, vps: VpsId) {
        self.change_run(vps, |world, run| {
            world.end(&(vps, run.run.clone()), RunEnd::PowerOff)
        });
    }

    /// The guest asks for a reboot; its supervisor makes a full stop of that.
    pub fn guest_reboot(&self, vps: VpsId) {
        self.change_run(vps, |world, run| {
            world.end(&(vps, run.run.clone()), RunEnd::Reboot)
        });
    }

    /// The guest's init dies.
    pub fn guest_crash(&self, vps: VpsId) {
        let end = RunEnd::Crashed {
            detail: "init died".into(),
        };
        self.change_run(vps, |world, run| world.end(&(vps, run.run.clone()), end));
    }

    /// `kill -9` of lxc-start: the guest dies with it, the supervisor sweeps and tells.
    pub fn kill_lxc_start(&self, vps: VpsId) {
        let end = RunEnd::Crashed {
            detail: "lxc-start was killed".into(),
        };
        self.change_run(vps, |world, run| world.end(&(vps, run.run.clone()), end));
    }

    /// `kill -9` of the supervisor: the guest lives on, its record says that it runs, and whoever watches learns.
    pub fn kill_supervisor(&self, vps: VpsId) {
        self.change_run(vps, |world, run| {
            let key = (vps, run.run.clone());
            if let Some(run) = world.runs.get_mut(&key) {
                run.supervisor = false;
            }
            world.tell(
                &key,
                RunEnd::Crashed {
                    detail: "the supervisor died".into(),
                },
            );
        });
    }

    /// The guest lives on without a supervisor and without any record.
    pub fn orphan(&self, vps: VpsId) {
        self.kill_supervisor(vps);
        self.change_run(vps, |world, run| {
            if let Some(run) = world.runs.get_mut(&(vps, run.run.clone())) {
                run.record = false;
            }
        });
    }

    /// A process that is in no cgroup of the VPS has one of its datasets mounted, until [`FakeHost::drop_strays`].
    pub fn stray_mount(&self, vps: VpsId, dataset: &PoolPath) {
        let mut world = self.world();
        let uid = world
            .datasets
            .get(dataset)
            .expect("the dataset that a stray process mounts is there")
            .uid;
        world.strays.push((vps, uid));
    }

    /// Those processes end.
    pub fn drop_strays(&self) {
        self.world().strays.clear();
    }

    /// A process of the host copies the mount namespace of the present run and keeps it, whatever becomes of the run, until
    /// [`FakeHost::end_leaks`]. Answers with its process id.
    pub fn leak_namespace(&self, vps: VpsId) -> i32 {
        let mut pid = 0;
        self.change_run(vps, |world, run| {
            pid = world.new_pids();
            let mounts = run.view.mounts.iter().map(|(_, uid, _)| *uid);
            world.leaks.push(Leak {
                pid,
                command: "sleep 1000".into(),
                hidden: false,
                shown: run.view.root.into_iter().chain(mounts).collect(),
            });
        });
        pid
    }

    /// Those processes keep their namespaces by open files from now on, and live in others: no look finds them.
    pub fn hide_leaks(&self) {
        for leak in &mut self.world().leaks {
            leak.hidden = true;
        }
    }

    /// Those processes end.
    pub fn end_leaks(&self) {
        self.world().leaks.clear();
    }

    /// The guest does not halt when asked to, or does again.
    pub fn stubborn(&self, vps: VpsId, stubborn: bool) {
        let mut world = self.world();
        if stubborn {
            world.stubborn.insert(vps)
        } else {
            world.stubborn.remove(&vps)
        };
    }

    /// No signal ends the guest's processes, or one does again.
    pub fn unkillable(&self, vps: VpsId, unkillable: bool) {
        let mut world = self.world();
        if unkillable {
            world.unkillable.insert(vps)
        } else {
            world.unkillable.remove(&vps)
        };
    }

    /// What goes wrong at the next start of a VPS; several are for several starts.
    pub fn fail_start(&self, vps: VpsId, fault: StartFault) {
        self.world().faults.entry(vps).or_default().push_back(fault);
    }

    /// Whether the console's ring of a VPS is there.
    pub fn has_console(&self, vps: VpsId) -> bool {
        self.world().consoles.contains(&vps)
    }
}
