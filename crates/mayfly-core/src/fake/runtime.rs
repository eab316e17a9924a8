//! The runs of a fake host.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::tree::View;
use super::world::{POOL, Run, World};
use super::{FakeHost, Reach};
use crate::error::{Code, LookFailed, Refusal};
use crate::features::{Feature, FeatureSeen};
use crate::health::Health;
use crate::ids::{RunId, VpsId};
use crate::names::PoolPath;
use crate::observed::{Evidence, InitSeen, MarkSeen, Role};
use crate::persist::record::Taken;
use crate::ports::{HarvestOrder, HostError, HostResult, Outcome, Runtime};
use crate::run::{Limits, MountSource, PROTOCOL, RunEnd, RunMount, RunPhase, RunSpec, RunState};

/// What goes wrong at the next start of a VPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFault {
    /// No supervisor can be started.
    LaunchFails,
    /// The supervisor gives up before the guest's init is reached.
    EndsBeforeInit,
    /// The guest's init is never reached, and the supervisor waits.
    Hangs,
    /// Init is reached and dies at once.
    InitDies,
    /// Init is reached and powers the guest off at once.
    PowersOff,
}

/// The dataset that a source names.
pub(super) fn dataset_of(source: &MountSource) -> Option<PoolPath> {
    let MountSource::Directory { path } = source else {
        return None;
    };
    let name = path
        .strip_prefix(POOL)?
        .strip_prefix('/')?
        .strip_suffix("/private")?;
    PoolPath::from_pool(name)
}

fn still_alive<T>(vps: VpsId, sign: &Evidence) -> HostResult<T> {
    let message = format!("something of VPS {vps} is alive: {sign}");
    Err(Refusal::new(
        Code::StillAlive,
        message,
        format!("mayfly stop {vps} --force"),
    )
    .into())
}

fn failed_to_start(detail: String) -> RunEnd {
    RunEnd::FailedToStart { detail }
}

impl World {
    fn launch(&mut self, spec: &RunSpec, reach: Reach) -> HostResult<Outcome> {
        let (vps, key) = (spec.vps, (spec.vps, spec.run.clone()));
        self.can_look(&format!("evidence of {vps}"))?;
        if let Some(run) = self.runs.get(&key).filter(|r| r.record) {
            // A run is launched once: a second init would find a used root.
            if !run.supervisor {
                let action = format!("starting run {} of {vps}", spec.run);
                return Err(HostError::failed(action, "it is over already"));
            }
            self.watched.insert(key);
            return Ok(Outcome::Unchanged);
        }
        if let Some(sign) = self.evidence(vps).iter().find(|sign| sign.is_alive()) {
            return still_alive(vps, sign);
        }
        let fault = self
            .faults
            .get_mut(&vps)
            .and_then(std::collections::VecDeque::pop_front);
        let action = format!("starting the supervisor of run {} of {vps}", spec.run);
        if fault == Some(StartFault::LaunchFails) {
            return Err(HostError::failed(action, "it ended at once"));
        }
        let view = self
            .view_of(spec)
            .map_err(|why| HostError::failed(action, why))?;
        let run = Run {
            vps,
            run: spec.run.clone(),
            spec: spec.clone(),
            view,
            pid: self.new_pids(),
            supervisor: reach == Reach::Whole,
            guest: false,
            cgroup: true,
            phase: RunPhase::Starting,
            written_end: None,
            record: reach == Reach::Whole,
        };
        self.runs.insert(key.clone(), run.clone());
        if reach == Reach::HalfWay {
            return Ok(Outcome::Changed);
        }
        self.consoles.insert(vps);
        self.watched.insert(key.clone());
        match (fault, self.why_no_boot(&run)) {
            (Some(StartFault::Hangs), _) => {}
            (Some(StartFault::EndsBeforeInit), _) => self.end(
                &key,
                failed_to_start("the guest could not be set up".into()),
            ),
            (_, Some(why)) => self.end(&key, failed_to_start(why)),
            (fault, None) => {
                self.note_shared(&run);
                self.place(&run);
                if let Some(run) = self.runs.get_mut(&key) {
                    run.guest = true;
                    run.phase = RunPhase::Running;
                }
                if fault == Some(StartFault::PowersOff) {
                    self.end(&key, RunEnd::PowerOff);
                }
                if fault == Some(StartFault::InitDies) {
                    self.end(
                        &key,
                        RunEnd::Crashed {
                            detail: "init died".into(),
                        },
                    );
                }
            }
        }
        Ok(Outcome::Changed)
    }

    fn view_of(&self, spec: &RunSpec) -> Result<View, String> {
        let name = |source: &MountSource| {
            dataset_of(source).ok_or_else(|| format!("{source:?} is no dataset"))
        };
        let root = name(&spec.root)?;
        let mut mounts = Vec::new();
        for mount in &spec.mounts {
            mounts.push((name(&mount.source)?, mount.target.clone(), mount.read_only));
        }
        self.view(Some(&root), &mounts)
            .map_err(|name| format!("there is no dataset {name}"))
    }

    /// Mount points must be real directories of what is mounted above them at that moment, and init must resolve.
    fn why_no_boot(&self, run: &Run) -> Option<String> {
        let mut view = View {
            root: run.view.root,
            mounts: Vec::new(),
        };
        for mount in &run.view.mounts {
            let at = mount.0.as_str();
            match view.resolve(at, |uid, path| self.node_at(uid, path)) {
                Ok(there) if there == at => {}
                Ok(there) => return Some(format!("mount point {at} leads to {there}")),
                Err(why) => return Some(format!("mount point {at}: {why}")),
            }
            view.mounts.push(mount.clone());
        }
        match view.init(&run.spec.init, |uid, path| self.node_at(uid, path)) {
            InitSeen::Found => None,
            InitSeen::Missing { path } => {
                Some(format!("init {}: {path} is not there", run.spec.init))
            }
            InitSeen::NotExecutable { what } => Some(format!("init {} is {what}", run.spec.init)),
        }
    }

    /// What must never be, although no kernel refuses it.
    fn note_shared(&mut self, run: &Run) {
        let mut found = Vec::new();
        let who = format!("run {} of {}", run.run, run.vps);
        for other in self
            .runs
            .values()
            .filter(|r| r.guest && (r.vps, &r.run) != (run.vps, &run.run))
        {
            if other.view.root == run.view.root {
                found.push(format!(
                    "two inits on one root: {who} and run {} of {}",
                    other.run, other.vps
                ));
            }
            let shared = |uid: &u64| other.view.mounts.iter().any(|(_, one, _)| one == uid);
            if other.vps != run.vps && run.view.mounts.iter().any(|(_, uid, _)| shared(uid)) {
                found.push(format!(
                    "one dataset in two VPSes: {who} and run {} of {}",
                    other.run, other.vps
                ));
            }
        }
        let root = run.view.root.and_then(|uid| self.by_uid_mut(uid));
        if let Some(root) = root {
            if let MarkSeen::Local(mark) = &root.mark {
                if mark.condemned_by.is_some() {
                    found.push(format!("{who} began on a condemned root"));
                }
                let reused = mark.role == Role::Temporary
                    && root.lived_in.as_ref().is_some_and(|r| *r != run.run);
                if reused {
                    found.push(format!("{who} began on the root of another run"));
                }
            }
            root.lived_in = Some(run.run.clone());
        }
        self.catastrophes.extend(found);
    }

    fn stop(
        &mut self,
        key: &(VpsId, RunId),
        timeout: Duration,
        force: bool,
        reach: Reach,
    ) -> HostResult<Outcome> {
        self.can_look(&format!("state of run {} of {}", key.1, key.0))?;
        let Some(run) = self.runs.get(key) else {
            return Ok(Outcome::Unchanged);
        };
        // Without a supervisor there is nobody to ask; the sweep ends what is left.
        if !run.supervisor || reach == Reach::HalfWay {
            return Ok(Outcome::Unchanged);
        }
        if self.unkillable.contains(&key.0) {
            return Err(HostError::Busy {
                object: format!("run {}", key.1),
                why: "its processes do not end".into(),
            });
        }
        let halts = !force && run.guest && !self.stubborn.contains(&key.0);
        if !halts && !force {
            self.advance(u64::try_from(timeout.as_millis()).unwrap_or(0));
        }
        self.end(
            key,
            if halts {
                RunEnd::PowerOff
            } else {
                RunEnd::Killed
            },
        );
        Ok(Outcome::Changed)
    }

    fn sweep(&mut self, vps: VpsId, reach: Reach) -> HostResult<Outcome> {
        self.can_look(&format!("evidence of {vps}"))?;
        let keys: Vec<_> = self
            .runs
            .keys()
            .filter(|(of, _)| *of == vps)
            .cloned()
            .collect();
        if self.unkillable.contains(&vps) && self.runs.values().any(|r| r.vps == vps && r.guest) {
            return Err(HostError::Busy {
                object: format!("VPS {vps}"),
                why: "its processes do not end".into(),
            });
        }
        let mut outcome = Outcome::Unchanged;
        for key in keys {
            let Some(run) = self.runs.get_mut(&key) else {
                continue;
            };
            if run.is_alive() || run.cgroup {
                outcome = Outcome::Changed;
            }
            let died = run.supervisor;
            run.supervisor = false;
            run.guest = false;
            run.cgroup = run.cgroup && reach == Reach::HalfWay;
            if died {
                self.tell(
                    &key,
                    RunEnd::Crashed {
                        detail: "the supervisor died".into(),
                    },
                );
            }
        }
        if self.strays.iter().any(|(of, _)| *of == vps) {
            let why = "a process outside its cgroups has a dataset mounted".into();
            return Err(HostError::Busy {
                object: format!("VPS {vps}"),
                why,
            });
        }
        Ok(outcome)
    }
}

impl Runtime for FakeHost {
    fn evidence(&self, vps: VpsId) -> Result<Vec<Evidence>, LookFailed> {
        self.look_at(format!("evidence of {vps}"), |world| world.evidence(vps))
    }

    fn holders(
        &self,
        datasets: &[PoolPath],
    ) -> Result<BTreeMap<PoolPath, Vec<Evidence>>, LookFailed> {
        self.look_at("holders".into(), |world| world.holders(datasets))
    }

    fn vpses_with_evidence(&self) -> Result<Vec<VpsId>, LookFailed> {
        self.look_at("evidence".into(), |world| {
            let runs = world
                .runs
                .values()
                .filter(|r| r.is_alive() || r.cgroup)
                .map(|r| r.vps);
            let mut ids: Vec<_> = runs
                .chain(world.strays.iter().map(|(vps, _)| *vps))
                .collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        })
    }

    fn records(&self) -> Result<Vec<(VpsId, RunId)>, LookFailed> {
        self.look_at("the records of runs".into(), |world| {
            let there = world.runs.iter().filter(|(_, r)| r.record || r.cgroup);
            there.map(|(key, _)| key.clone()).collect()
        })
    }

    fn state(&self, vps: VpsId, run: &RunId) -> Result<Option<RunState>, LookFailed> {
        self.look_at(format!("state of run {run} of {vps}"), |world| {
            let run = world.runs.get(&(vps, run.clone())).filter(|r| r.record)?;
            let begun = run.phase != RunPhase::Starting;
            Some(RunState {
                protocol: PROTOCOL,
                phase: run.phase,
                supervisor_pid: run.pid,
                supervisor_start_ticks: run.pid.unsigned_abs().into(),
                lxc_pid: begun.then_some(run.pid + 1),
                init_pid: begun.then_some(run.pid + 2),
                launch_us: begun.then_some(29_000),
                end: run.written_end.clone(),
                in_order: false,
                ended_unix_ms: None,
                features: run.spec.features.clone(),
                persistence: None,
            })
        })
    }

    fn feature(&self, feature: Feature) -> Result<FeatureSeen, LookFailed> {
        self.look_at(format!("feature {feature}"), |world| {
            let seen = world.features.get(&feature);
            seen.cloned().unwrap_or(FeatureSeen::Usable)
        })
    }

    fn launch(&self, spec: &RunSpec) -> HostResult<Outcome> {
        let done = self.mutate(
            format!("launch run {} of {}", spec.run, spec.vps),
            |world, reach| world.launch(spec, reach),
        );
        self.shared.changed.notify_all();
        done
    }

    fn set_limits(&self, vps: VpsId, run: &RunId, limits: &Limits) -> HostResult<Outcome> {
        let key = (vps, run.clone());
        self.mutate(format!("limit run {run} of {vps}"), |world, reach| {
            world.set_limits(&key, limits, reach)
        })
    }

    fn show_mount(&self, vps: VpsId, run: &RunId, mount: &RunMount) -> HostResult<Outcome> {
        let key = (vps, run.clone());
        let what = format!("show {} in run {run} of {vps}", mount.target);
        self.mutate(what, |world, reach| world.show_mount(&key, mount, reach))
    }

    fn hide_mount(&self, vps: VpsId, run: &RunId, mount: &RunMount) -> HostResult<Outcome> {
        let key = (vps, run.clone());
        let what = format!("hide {} in run {run} of {vps}", mount.target);
        self.mutate(what, |world, reach| world.hide_mount(&key, mount, reach))
    }

    fn await_init(&self, vps: VpsId, run: &RunId, deadline: Duration) -> HostResult<Outcome> {
        let mut world = self.world();
        let action = format!("waiting for the init of run {run} of {vps}");
        if self.is_dead(&world) {
            return Err(HostError::failed(action, super::DIED));
        }
        let refuse = |why: String| {
            let message = format!("VPS {vps} did not start: {why}");
            Err(Refusal::new(Code::VpsStartFailed, message, format!("mayfly logs {vps}")).into())
        };
        let seen = world
            .runs
            .get(&(vps, run.clone()))
            .filter(|r| r.record)
            .cloned();
        match seen {
            None => Err(HostError::failed(action, "there is no such run")),
            Some(Run { guest: true, .. }) => Ok(Outcome::Unchanged),
            Some(Run {
                written_end: Some(end),
                ..
            }) if end.is_the_guests_wish() => Ok(Outcome::Unchanged),
            Some(Run {
                written_end: Some(end),
                ..
            }) => refuse(format!("{end:?}")),
            Some(Run {
                supervisor: false, ..
            }) => refuse("its supervisor died".into()),
            Some(_) => {
                world.advance(u64::try_from(deadline.as_millis()).unwrap_or(0));
                refuse(format!(
                    "init was not reached within {} s",
                    deadline.as_secs()
                ))
            }
        }
    }

    fn health(&self, vps: VpsId, run: &RunId) -> Result<Health, LookFailed> {
        let what = format!("the health of run {run} of {vps}");
        self.look_at(what.clone(), |world| {
            world.health(&(vps, run.clone()), &what)
        })?
    }

    fn stop(&self, vps: VpsId, run: &RunId, timeout: Duration, force: bool) -> HostResult<Outcome> {
        let key = (vps, run.clone());
        let done = self.mutate(format!("stop run {run} of {vps}"), |world, reach| {
            world.stop(&key, timeout, force, reach)
        });
        self.shared.changed.notify_all();
        done
    }

    fn sweep(&self, vps: VpsId) -> HostResult<Outcome> {
        let done = self.mutate(format!("sweep {vps}"), |world, reach| {
            world.sweep(vps, reach)
        });
        self.shared.changed.notify_all();
        done
    }

    fn forget(&self, vps: VpsId, keep: Option<&RunId>, console: bool) -> HostResult<Outcome> {
        self.mutate(format!("forget the ended runs of {vps}"), |world, _| {
            let before = (world.runs.len(), world.consoles.len());
            world
                .runs
                .retain(|(of, run), r| *of != vps || r.is_alive() || r.cgroup || keep == Some(run));
            if console {
                world.consoles.remove(&vps);
            }
            let same = before == (world.runs.len(), world.consoles.len());
            Ok(if same {
                Outcome::Unchanged
            } else {
                Outcome::Changed
            })
        })
    }

    fn harvest(&self, order: &HarvestOrder) -> HostResult<Taken> {
        self.mutate(
            format!("harvest run {} of {}", order.run, order.vps),
            |world, reach| world.harvest(order, reach),
        )
    }

    fn next_end(&self, timeout: Duration) -> Option<(VpsId, RunId, RunEnd)> {
        let until = Instant::now() + timeout;
        let mut world = self.world();
        loop {
            if !self.is_dead(&world) {
                if let Some(end) = world.ends.pop_front() {
                    return Some(end);
                }
            }
            let left = until
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())?;
            let waited = self.shared.changed.wait_timeout(world, left);
            world = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn watch(&self, vps: VpsId, run: &RunId) -> HostResult<()> {
        let mut world = self.world();
        let action = format!("watching run {run} of {vps}");
        if self.is_dead(&world) {
            return Err(HostError::failed(action, super::DIED));
        }
        let key = (vps, run.clone());
        let Some(seen) = world.runs.get(&key).filter(|r| r.record).cloned() else {
            return Err(HostError::failed(action, "there is no such run"));
        };
        world.watched.insert(key.clone());
        if !seen.supervisor {
            let died = RunEnd::Crashed {
                detail: "the supervisor died".into(),
            };
            world.tell(&key, seen.written_end.unwrap_or(died));
            drop(world);
            self.shared.changed.notify_all();
        }
        Ok(())
    }
}
