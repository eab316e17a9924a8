//! Why a VPS cannot be converted: everything is looked for before anything is said.

use super::convert::{OF_ONE_BOOT, kept, storage_mount};
use super::platform::path;
use crate::bytes::Bytes;
use crate::documents::{ConvertWant, VpsDoc};
use crate::error::{Code, Refusal};
use crate::observed::Observed;
use crate::space::shown;
use crate::template::RootKind;

/// Why it cannot be converted: all there is, with what helps.
#[derive(Default)]
pub(super) struct Reasons(Vec<(String, String)>);

impl Reasons {
    pub(super) fn add(&mut self, why: impl Into<String>, cure: impl Into<String>) {
        self.0.push((why.into(), cure.into()));
    }

    pub(super) fn unless(&mut self, done: Result<(), Refusal>) {
        if let Err(refusal) = done {
            self.add(refusal.message, refusal.hint);
        }
    }

    pub(super) fn of_the_run(&mut self, doc: &VpsDoc, seen: &Observed) {
        let Some(run) = doc.run.as_ref().filter(|_| seen.is_alive()) else {
            return self.add(
                "it does not run, so that there is nothing to compare its health with afterwards",
                format!("mayfly start {}", doc.id),
            );
        };
        if run.rescue.is_some() {
            return self.add(
                "a rescue system runs, not its own",
                format!("mayfly restart {}", doc.id),
            );
        }
        match &seen.health {
            Some(Ok(health)) if health.queued.is_empty() => {}
            Some(Ok(health)) => {
                let queued: Vec<&str> = health.queued.iter().take(5).map(String::as_str).collect();
                self.add(
                    format!("it is still on its way: {} is queued", queued.join(", ")),
                    "wait until `systemctl is-system-running` inside says so, then try again",
                );
            }
            Some(Err(why)) => self.add(
                format!("nobody can tell how it is: {why}"),
                "a system without systemd is converted by hand: see `mayfly feature set`, `mayfly dataset create` and `mayfly mount add`",
            ),
            None => {}
        }
    }

    pub(super) fn of_the_wish(&mut self, doc: &VpsDoc, want: &ConvertWant, kind: RootKind) {
        if want.on.root_quota_bytes < Bytes::mib(16) {
            let why = format!("a root quota of {} is too small", want.on.root_quota_bytes);
            self.add(why, "ask for 16M at least");
        }
        match doc.mounts.iter().find(|m| m.path == want.storage) {
            Some(mount) if !mount.dataset.is_root() || mount.read_only => self.add(
                format!(
                    "{} is to be where the root dataset is, and {} is mounted there{}",
                    want.storage,
                    shown(doc, &mount.dataset),
                    if mount.read_only { ", read-only" } else { "" }
                ),
                "choose another path: --persistent PATH",
            ),
            Some(_) => {}
            None => self.unless(super::mounts::check_mount(doc, &storage_mount(want))),
        }
        if let Some(other) = doc.storage.as_ref().filter(|one| **one != want.storage) {
            self.add(
                format!("its storage is {other} already"),
                format!("--persistent {other}"),
            );
        }
        let (all, store) = match kind {
            RootKind::Template => (kept(want), None),
            RootKind::Empty => (want.keep.clone(), Some(path("/nix"))),
        };
        for one in &all {
            if want.storage.below(one).is_some() && *one != want.storage {
                self.add(
                    format!(
                        "{} lies in {one}, which is to stay as a whole",
                        want.storage
                    ),
                    "choose another path: --persistent PATH",
                );
            }
            if store
                .as_ref()
                .is_some_and(|store| one.below(store).is_some())
            {
                self.add(
                    format!("{one} stays anyway: /nix is a dataset of its own"),
                    "leave it out",
                );
            }
        }
        for kept in &want.keep {
            let taken = OF_ONE_BOOT.map(path);
            if kept.is_top() || taken.iter().any(|one| kept.below(one).is_some()) {
                self.add(
                    format!("{kept} cannot stay: it belongs to the system"),
                    "name directories below it, or others",
                );
            } else if kept.below(&want.storage).is_some() {
                self.add(
                    format!(
                        "{kept} stays anyway: all that is below {} does",
                        want.storage
                    ),
                    "leave it out",
                );
            }
        }
    }

    pub(super) fn told(self, doc: &VpsDoc) -> Result<(), Refusal> {
        let (whys, mut cures): (Vec<_>, Vec<_>) = self.0.into_iter().unzip();
        if whys.is_empty() {
            return Ok(());
        }
        cures.dedup();
        Err(Refusal::new(
            Code::NotConvertible,
            format!(
                "VPS {} cannot be converted: {}",
                doc.title(),
                whys.join("; ")
            ),
            cures.join("; "),
        ))
    }
}
