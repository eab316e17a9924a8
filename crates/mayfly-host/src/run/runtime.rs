//! The port [`Runtime`], on supervisors and LXC.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::features::{Feature, FeatureSeen};
use mayfly_core::health::Health;
use mayfly_core::ids::{NodeId, RunId, VpsId};
use mayfly_core::names::PoolPath;
use mayfly_core::observed::Evidence as Sign;
use mayfly_core::persist::record::Taken;
use mayfly_core::ports::{HarvestOrder, HostError, HostResult, Outcome, Runtime};
use mayfly_core::run::{Limits, RunEnd, RunMount, RunPhase, RunSpec, RunState};

use super::apparmor::forget_compiled;
use super::client::{self, CallError, FileError, Node};
use super::evidence::{Evidence, LookError};
use super::features;
use super::grace::Grace;
use super::harvest::dead;
use super::limits;
use super::live::{self, Act, Entered, Order};
use super::paths::{RunDir, container_name, node_cgroup, parse_run_name, run_name};
use super::state::read_spec;
use crate::clock::unix_ms;

/// A fresh init that lives this long is taken for alive: one that finds no inotify instance or no cgroup dies within
/// a few milliseconds.
const SETTLE: Duration = Duration::from_millis(100);
/// How long killing and sweeping may take.
const SWEEP: Duration = Duration::from_secs(30);
/// How often, and after how long, what is alive is looked at again before a launch is refused for it.
const LOOKS: u32 = 10;
/// How long a supervisor may take to tell its state.
const TOLD: Duration = Duration::from_secs(10);
const RELOOK: Duration = Duration::from_millis(20);
/// A watcher asks again after so long.
const WATCH: Duration = Duration::from_secs(3600);

/// Where a node's runs are, and what they are made with.
#[derive(Clone, Debug)]
pub struct RuntimePlaces {
    /// The runs.
    pub node: Node,
    /// The program that has the subcommands `supervise` and `harvest`.
    pub program: PathBuf,
    /// The static guest helper.
    pub guest_helper: PathBuf,
    /// The directory of console rings, one directory a VPS.
    pub consoles: PathBuf,
}

/// Runs on this host.
pub struct LxcRuntime {
    places: RuntimePlaces,
    watched: Arc<Mutex<BTreeSet<(VpsId, RunId)>>>,
    /// When supervisors that told no end were heard to die.
    heard: Arc<Mutex<BTreeMap<(VpsId, RunId), u64>>>,
    ends: Mutex<Receiver<(VpsId, RunId, RunEnd)>>,
    tell: Sender<(VpsId, RunId, RunEnd)>,
    grace: Grace,
}

impl LxcRuntime {
    /// A runtime that watches nothing yet.
    pub fn new(places: RuntimePlaces) -> Self {
        let (tell, ends) = channel();
        Self {
            places,
            watched: Arc::default(),
            heard: Arc::default(),
            ends: Mutex::new(ends),
            tell,
            grace: Grace::default(),
        }
    }

    pub(super) fn node(&self) -> &NodeId {
        &self.places.node.node
    }

    /// This program and the guest's helper.
    pub fn programs(&self) -> (&Path, &Path) {
        (&self.places.program, &self.places.guest_helper)
    }

    /// The directory of a run.
    pub fn run_dir(&self, vps: VpsId, run: &RunId) -> RunDir {
        self.places.node.run_dir(vps, run)
    }

    /// The directory of the console ring of a VPS.
    pub fn console_dir(&self, vps: VpsId) -> PathBuf {
        self.places.consoles.join(vps.to_string())
    }

    /// Changes one mount of a run; one that is over has none.
    fn enter(
        &self,
        vps: VpsId,
        run: &RunId,
        mount: &RunMount,
        act: impl Fn((&RunState, &RunSpec)) -> Act,
    ) -> HostResult<Outcome> {
        let action = || format!("changing the mount at {} of VPS {vps}", mount.target);
        let state = self.state(vps, run)?;
        let living = state.filter(|state| state.phase == RunPhase::Running);
        let Some((init, state)) = living.and_then(|state| Some((state.init_pid?, state))) else {
            return Ok(Outcome::Unchanged);
        };
        let spec = read_spec(&self.run_dir(vps, run))
            .map_err(|error| HostError::failed(action(), error))?;
        let node = node_cgroup(&self.places.node.node);
        let cgroup = format!("/{node}/{}/payload", run_name(vps, run));
        let order = Order::new(
            (init, cgroup, spec.ids),
            mount.source.clone(),
            (mount.target.clone(), mount.read_only),
            act((&state, &spec)),
        );
        match live::enter_guest(&self.places.program, &order) {
            Ok(Entered::Done(outcome)) => Ok(outcome),
            Ok(Entered::Refused(why)) => Err(Refusal::new(
                Code::MountPointRefused,
                format!("VPS {vps}: {}", why.escape_debug()),
                "change that inside, or stop the VPS first",
            )
            .into()),
            Err(why) => Err(HostError::failed(action(), why.escape_debug())),
        }
    }

    /// Refuses a run that was not given its features: a supervisor of an older version passes over what it does not know.
    fn check_given(&self, vps: VpsId, run: &RunId, state: &RunState) -> HostResult<()> {
        let action = || format!("looking at the features of VPS {vps}");
        let spec = read_spec(&self.run_dir(vps, run))
            .map_err(|error| HostError::failed(action(), error))?;
        match spec.features == state.features {
            true => Ok(()),
            false => Err(HostError::failed(
                action(),
                "its supervisor is of another version, which does not know them: restart the daemon",
            )),
        }
    }

    /// Refuses while anything but `run` itself is alive. Gives a sign that the run itself is, where it is.
    fn refuse_others(&self, vps: VpsId, run: &RunId) -> HostResult<Option<Evidence>> {
        for attempt in 1.. {
            let mut signs = self.places.node.observe_evidence(vps).map_err(look)?;
            signs.retain(Evidence::is_alive);
            // Its own mounts are seen through processes that are its own by supervisor or cgroup.
            let is_own = |sign: &Evidence| match sign {
                Evidence::Supervisor { run: of, .. } | Evidence::Process { run: of, .. } => {
                    of == run
                }
                Evidence::Mount { .. } | Evidence::Held { .. } => false,
            };
            let own: BTreeSet<i32> = signs
                .iter()
                .filter(|sign| is_own(sign))
                .map(Evidence::pid)
                .collect();
            match signs
                .iter()
                .find(|sign| !is_own(sign) && !own.contains(&sign.pid()))
            {
                None => return Ok(signs.into_iter().next()),
                // A process that the run forked between the look at cgroups and that at mounts is known by the next.
                Some(Evidence::Mount { .. }) if !own.is_empty() && attempt < LOOKS => {
                    std::thread::sleep(RELOOK)
                }
                Some(sign) => return Err(still_alive(vps, &sign.to_string()).into()),
            }
        }
        Ok(None)
    }
}

fn look(error: LookError) -> LookFailed {
    let mut why = String::new();
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = source {
        why = if why.is_empty() {
            error.to_string()
        } else {
            format!("{why}: {error}")
        };
        source = error.source();
    }
    LookFailed::new("what is alive of a VPS", why)
}

/// A sign that comes from a mount table.
fn mounted(sign: Evidence) -> Option<Sign> {
    match sign {
        Evidence::Mount { pid, dataset, .. } => Some(Sign::Mounted { pid, dataset }),
        Evidence::Held {
            pid,
            dataset,
            command,
        } => Some(Sign::Held {
            pid,
            dataset,
            command,
        }),
        Evidence::Supervisor { .. } | Evidence::Process { .. } => None,
    }
}

fn still_alive(vps: VpsId, sign: &str) -> Refusal {
    Refusal::new(
        Code::StillAlive,
        format!("something of VPS {vps} is alive: {sign}"),
        format!("end it: mayfly stop {vps} --force"),
    )
}

fn start_failed(vps: VpsId, end: Option<&RunEnd>) -> HostError {
    let why = match end {
        Some(RunEnd::FailedToStart { detail } | RunEnd::Crashed { detail }) => detail.clone(),
        Some(other) => format!("it ended at once ({other:?})"),
        None => "it ended without saying why".into(),
    };
    HostError::Refused(Refusal::new(
        Code::VpsStartFailed,
        format!("VPS {vps} did not start: {why}"),
        format!("see what it printed: mayfly logs {vps}"),
    ))
}

fn call_failed(action: &str, error: CallError) -> HostError {
    let why = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    HostError::failed(action, why)
}

impl Runtime for LxcRuntime {
    fn evidence(&self, vps: VpsId) -> Result<Vec<Sign>, LookFailed> {
        let mut signs = Vec::new();
        let mut processes: BTreeMap<RunId, usize> = BTreeMap::new();
        for sign in self.places.node.observe_evidence(vps).map_err(look)? {
            match sign {
                Evidence::Supervisor { pid, run } => signs.push(Sign::Supervisor { pid, run }),
                Evidence::Process { run, .. } => *processes.entry(run).or_default() += 1,
                other => signs.extend(mounted(other)),
            }
        }
        let cgroup = |run| {
            format!(
                "{}/{}",
                node_cgroup(&self.places.node.node),
                run_name(vps, run)
            )
        };
        signs.extend(processes.iter().map(|(run, count)| Sign::Processes {
            cgroup: cgroup(run),
            count: *count,
        }));
        Ok(signs)
    }

    fn holders(&self, datasets: &[PoolPath]) -> Result<BTreeMap<PoolPath, Vec<Sign>>, LookFailed> {
        let mut found: BTreeMap<PoolPath, Vec<Sign>> = BTreeMap::new();
        for (dataset, sign) in self.places.node.observe_holders(datasets).map_err(look)? {
            found.entry(dataset).or_default().extend(mounted(sign));
        }
        Ok(found)
    }

    fn vpses_with_evidence(&self) -> Result<Vec<VpsId>, LookFailed> {
        let runs = self.places.node.observe_runs().map_err(look)?;
        let mut ids: Vec<VpsId> = runs.into_iter().map(|(vps, _)| vps).collect();
        ids.dedup();
        Ok(ids)
    }

    fn records(&self) -> Result<Vec<(VpsId, RunId)>, LookFailed> {
        Ok(self
            .places
            .node
            .observe_runs()
            .map_err(look)?
            .into_iter()
            .collect())
    }

    fn state(&self, vps: VpsId, run: &RunId) -> Result<Option<RunState>, LookFailed> {
        match client::read_state(&self.run_dir(vps, run)) {
            Ok(state) => Ok(Some(state)),
            Err(FileError::Unreadable { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            // As good as lost. What is alive of the run is found without it.
            Err(error @ FileError::Damaged { .. }) => {
                tracing::warn!(%vps, %run, %error, "the state of a run is lost");
                Ok(None)
            }
            Err(error) => Err(LookFailed::new(format!("run {run} of VPS {vps}"), error)),
        }
    }

    fn feature(&self, feature: Feature) -> Result<FeatureSeen, LookFailed> {
        features::look(feature)
    }

    fn expect_launch(&self) {
        self.grace.begin();
    }

    fn launch(&self, spec: &RunSpec) -> HostResult<Outcome> {
        let dir = self.run_dir(spec.vps, &spec.run);
        let supervised = || {
            client::is_supervised(&dir)
                .map_err(|e| LookFailed::new(dir.lock().display().to_string(), e))
        };
        // One that a daemon which is dead by now had just begun: it tells its state at once.
        let end = Instant::now() + TOLD;
        while self.state(spec.vps, &spec.run)?.is_none() && supervised()? {
            if Instant::now() > end {
                return Err(still_alive(spec.vps, "a supervisor that tells nothing").into());
            }
            std::thread::sleep(RELOOK);
        }
        self.grace.begin();
        let own = self.refuse_others(spec.vps, &spec.run)?;
        if let Some(state) = self.state(spec.vps, &spec.run)? {
            // A run is launched once: what was begun on this root is over, and a second init would find a used root.
            if state.phase == RunPhase::Ended || own.is_none() {
                return Err(start_failed(spec.vps, state.end.as_ref()));
            }
            self.watch(spec.vps, &spec.run)?;
            return Ok(Outcome::Unchanged);
        }
        if let Some(sign) = own {
            // Its record is lost: nobody could watch over it.
            return Err(still_alive(spec.vps, &sign.to_string()).into());
        }
        if let Some(plug) = &spec.network {
            crate::network::remove_stale_card(&plug.card)?;
        }
        let mut spec = spec.clone();
        spec.guest_helper = self.places.guest_helper.display().to_string();
        spec.console_dir = self.console_dir(spec.vps).display().to_string();
        let action = || format!("starting run {} of VPS {}", spec.run, spec.vps);
        client::create_run(&dir, &spec).map_err(|error| HostError::failed(action(), error))?;
        client::spawn_supervisor(&self.places.program, &dir)
            .map_err(|error| HostError::failed(action(), error))?;
        self.watch(spec.vps, &spec.run)?;
        Ok(Outcome::Changed)
    }

    fn set_limits(&self, vps: VpsId, run: &RunId, limits: &Limits) -> HostResult<Outcome> {
        let at_start = read_spec(&self.run_dir(vps, run)).map(|spec| spec.limits.swap_bytes);
        limits::set_limits(
            (&self.places.node.node, vps, run),
            limits,
            at_start.unwrap_or_default(),
        )
    }

    fn show_mount(&self, vps: VpsId, run: &RunId, mount: &RunMount) -> HostResult<Outcome> {
        self.enter(vps, run, mount, |_| Act::Show {})
    }

    fn hide_mount(&self, vps: VpsId, run: &RunId, mount: &RunMount) -> HostResult<Outcome> {
        let dir = self.run_dir(vps, run);
        self.enter(vps, run, mount, |(state, spec)| {
            let mut from_start = spec.mounts.iter();
            let index =
                from_start.position(|one| one.target == mount.target && one.source == mount.source);
            let at = index.map(|index| dir.dataset(index).display().to_string());
            Act::Hide {
                let_go: at.map(|at| (state.supervisor_pid, at)),
            }
        })
    }

    fn await_init(&self, vps: VpsId, run: &RunId, deadline: Duration) -> HostResult<Outcome> {
        let dir = self.run_dir(vps, run);
        let wished = |end: &Option<RunEnd>| end.as_ref().is_some_and(RunEnd::is_the_guests_wish);
        match client::wait_started(&dir, deadline) {
            Ok(state) if state.phase == RunPhase::Running => self.check_given(vps, run, &state)?,
            Ok(state) if wished(&state.end) => return Ok(Outcome::Unchanged),
            Ok(state) => return Err(start_failed(vps, state.end.as_ref())),
            Err(CallError::Gone(_)) => return Err(start_failed(vps, None)),
            Err(error) => {
                return Err(call_failed(
                    &format!("waiting for the init of VPS {vps}"),
                    error,
                ));
            }
        }
        match client::ended_at_once(&dir, SETTLE, SWEEP) {
            Ok(None) => Ok(Outcome::Unchanged),
            Ok(Some(state)) if wished(&state.end) => Ok(Outcome::Unchanged),
            Ok(Some(state)) => Err(start_failed(vps, state.end.as_ref())),
            Err(CallError::Gone(_)) => Err(start_failed(vps, None)),
            Err(error) => Err(call_failed(
                &format!("waiting for the init of VPS {vps}"),
                error,
            )),
        }
    }

    fn health(&self, vps: VpsId, run: &RunId) -> Result<Health, LookFailed> {
        self.ask_health(vps, run)
    }

    fn stop(&self, vps: VpsId, run: &RunId, timeout: Duration, force: bool) -> HostResult<Outcome> {
        let dir = self.run_dir(vps, run);
        if self
            .state(vps, run)?
            .is_none_or(|state| state.phase == RunPhase::Ended)
        {
            return Ok(Outcome::Unchanged);
        }
        match client::stop(&dir, timeout, force)
            .and_then(|_| client::wait_ended(&dir, timeout + SWEEP))
        {
            Ok(_) => Ok(Outcome::Changed),
            // What it left is for the sweep.
            Err(CallError::Gone(_)) => Ok(Outcome::Unchanged),
            Err(error) => Err(call_failed(&format!("stopping VPS {vps}"), error)),
        }
    }

    fn sweep(&self, vps: VpsId) -> HostResult<Outcome> {
        // What follows is often a start: of a restart the kernel had forgotten an earlier wait by now.
        self.grace.begin();
        match self.places.node.sweep(vps, SWEEP) {
            Ok(report) if report.ended.is_empty() && report.closed.is_empty() => {
                Ok(Outcome::Unchanged)
            }
            Ok(report) => {
                tracing::info!(%vps, ended = report.ended.len(), "swept up what a run had left");
                Ok(Outcome::Changed)
            }
            Err(troubles) => {
                let all: Vec<String> = troubles.iter().map(ToString::to_string).collect();
                Err(still_alive(vps, &all.join("; ")).into())
            }
        }
    }

    fn forget(&self, vps: VpsId, keep: Option<&RunId>, console: bool) -> HostResult<Outcome> {
        let mut outcome = Outcome::Unchanged;
        let failed = |at: &Path, error: io::Error| {
            HostError::failed(format!("removing {}", at.display()), error)
        };
        let runs = &self.places.node.runs;
        for entry in fs::read_dir(runs).map_err(|error| failed(runs, error))? {
            let entry = entry.map_err(|error| failed(runs, error))?;
            let Some((of, run)) = entry.file_name().to_str().and_then(parse_run_name) else {
                continue;
            };
            if of == vps && Some(&run) != keep {
                let key = (vps, run.clone());
                self.heard
                    .lock()
                    .expect("no thread panics with it")
                    .remove(&key);
                remove(&entry.path()).map_err(|error| failed(&entry.path(), error))?;
                outcome = Outcome::Changed;
            }
        }
        if console {
            let dir = self.console_dir(vps);
            remove(&dir).map_err(|error| failed(&dir, error))?;
            // Nothing of it is kept for a next start: there is none.
            let container = container_name(&self.places.node.node, vps);
            forget_compiled(&container)
                .map_err(|error| HostError::failed("removing its AppArmor profile", error))?;
        }
        Ok(outcome)
    }

    fn harvest(&self, order: &HarvestOrder) -> HostResult<Taken> {
        let (vps, run) = (order.vps, &order.run);
        let root = PoolPath::temporary_root(vps, run);
        let signs = self.evidence(vps)?;
        let concerns = |sign: &&Sign| sign.is_alive() && sign.concerns(vps, run, &root);
        if let Some(sign) = signs.iter().find(concerns) {
            return Err(still_alive(vps, &sign.to_string()).into());
        }
        let state = self.state(vps, run)?;
        let heard = self.heard.lock().expect("no thread panics with it");
        let heard_unix_ms = heard.get(&(vps, run.clone())).copied();
        drop(heard);
        dead::harvest(
            order,
            (state.as_ref(), heard_unix_ms, &self.run_dir(vps, run)),
            self.programs(),
        )
    }

    fn next_end(&self, timeout: Duration) -> Option<(VpsId, RunId, RunEnd)> {
        self.ends
            .lock()
            .expect("no thread panics with it")
            .recv_timeout(timeout)
            .ok()
    }

    fn watch(&self, vps: VpsId, run: &RunId) -> HostResult<()> {
        let key = (vps, run.clone());
        if !self
            .watched
            .lock()
            .expect("no thread panics with it")
            .insert(key.clone())
        {
            return Ok(());
        }
        let (dir, tell, watched, heard) = (
            self.run_dir(vps, run),
            self.tell.clone(),
            Arc::clone(&self.watched),
            Arc::clone(&self.heard),
        );
        std::thread::Builder::new()
            .name("watch".into())
            .stack_size(256 << 10)
            .spawn(move || {
                let (end, died_unix_ms) = watch_until_end(&dir);
                if let Some(at) = died_unix_ms {
                    heard
                        .lock()
                        .expect("no thread panics with it")
                        .insert(key.clone(), at);
                }
                watched
                    .lock()
                    .expect("no thread panics with it")
                    .remove(&key);
                // Nobody listens any more when the daemon ends.
                let _ = tell.send((key.0, key.1, end));
            })
            .map_err(|error| HostError::failed(format!("watching VPS {vps}"), error))?;
        Ok(())
    }
}

/// How a run ended; and when, in milliseconds since 1970, where its supervisor died and was heard to.
fn watch_until_end(dir: &RunDir) -> (RunEnd, Option<u64>) {
    let crashed = |detail: &str| RunEnd::Crashed {
        detail: detail.into(),
    };
    loop {
        // One that is dead already when the watch begins died at a time that nobody heard of.
        let lives = client::status(dir).is_ok();
        match client::wait_ended(dir, WATCH) {
            Ok(state) => {
                let silent = || crashed("it ended without saying why");
                return (state.end.unwrap_or_else(silent), None);
            }
            Err(CallError::Gone(_)) => {
                let died_unix_ms = lives.then(unix_ms);
                return (crashed("its supervisor was killed"), died_unix_ms);
            }
            // The record went with the VPS.
            Err(CallError::State(_)) => return (crashed("its record is gone"), None),
            Err(CallError::Late(_)) => {}
            Err(error) => {
                tracing::warn!(dir = %dir.path().display(), %error, "a run cannot be watched; trying again");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

/// Removes a directory of ours: no guest can write into it.
fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
