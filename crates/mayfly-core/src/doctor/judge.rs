//! What there is to say of a VPS: one rule after the other, over what was looked at.
//!
//! That something is not said is a finding only where all was read that could say it; else nobody can tell, and that is told.

use std::collections::BTreeSet;

use super::facts::{About, Kept, NixFacts, NixosLook, Place};
use super::{Finding, Severity, Topic};
use crate::documents::VpsDoc;
use crate::persist::list::Listing;
use crate::persist::path::TreePath;
use crate::plan::{mount_of, storage_inactive};

const MACHINE_ID: &str = "/etc/machine-id";
const NIXOS_ACCOUNTS: &str = "/var/lib/nixos";
const CONFIGURATION: &str = "/etc/nixos";
const LOGS: &str = "/var/log";
const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
const STORE: &str = "/nix";

/// So many findings of one kind are told.
const SAME: usize = 20;

/// What is known of a VPS.
#[derive(Clone, Copy, Debug)]
pub struct Looked<'a> {
    /// It.
    pub doc: &'a VpsDoc,
    /// What is declared in Mayfly's own way.
    pub listing: &'a Listing,
    /// Its configuration, where it is a NixOS.
    pub nixos: Option<&'a NixosLook>,
    /// Whether it has an SSH server; none where that cannot be told. Of NixOS its configuration tells.
    pub sshd: Option<bool>,
}

/// Judges it. Pure; what matters most comes first.
pub fn judge(looked: &Looked<'_>) -> Vec<Finding> {
    let mut judge = Judge {
        doc: looked.doc,
        listing: looked.listing,
        nixos: looked.nixos,
        stays: stays(looked),
        found: Vec::new(),
    };
    judge.feature();
    judge.storage();
    judge.declarations();
    match looked.nixos {
        Some(nixos) => judge.nixos(nixos),
        None => judge.other(looked.sshd),
    }
    let mut found = judge.found;
    found.sort_by_key(|finding| (finding.severity, finding.topic));
    found
}

/// What is declared to stay, and does.
fn stays(looked: &Looked<'_>) -> Vec<TreePath> {
    let own = looked.listing.lines.iter();
    let own = own.filter(|line| line.trouble().is_none());
    let mut all: Vec<TreePath> = own.map(|line| line.declaration.path.clone()).collect();
    for (_, kept) in entries(looked.nixos) {
        let storage = storage_of(kept);
        if !kept.disabled && storage.is_some_and(|at| storage_inactive(looked.doc, &at).is_none()) {
            all.extend(kept.paths.iter().filter_map(|p| TreePath::parse(p).ok()));
        }
    }
    all
}

/// All entries of `environment.persistence`, with the file that each is in.
fn entries(nixos: Option<&NixosLook>) -> impl Iterator<Item = (&str, &Kept)> {
    let facts = nixos.into_iter().flat_map(NixosLook::facts);
    facts.flat_map(|(file, facts)| facts.kept.iter().map(move |kept| (file, kept)))
}

fn storage_of(kept: &Kept) -> Option<TreePath> {
    TreePath::parse(kept.storage.as_ref().unwrap_or(&kept.name)).ok()
}

struct Judge<'a> {
    doc: &'a VpsDoc,
    listing: &'a Listing,
    nixos: Option<&'a NixosLook>,
    stays: Vec<TreePath>,
    found: Vec<Finding>,
}

impl Judge<'_> {
    fn say(
        &mut self,
        severity: Severity,
        topic: Topic,
        object: impl Into<String>,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let finding = Finding {
            severity,
            topic,
            object: object.into(),
            reason: reason.into(),
            hint: hint.into(),
        };
        let same = self.found.iter().filter(|f| f.topic == topic).count();
        if same < SAME && !self.found.contains(&finding) {
            self.found.push(finding);
        }
    }

    fn vps(&self) -> String {
        format!("VPS {}", self.doc.title())
    }

    /// Whether a path survives a start.
    fn keeps(&self, path: &TreePath) -> bool {
        mount_of(self.doc, path).is_some() || self.stays.iter().any(|kept| path.is_in(kept))
    }

    fn keeps_named(&self, path: &str) -> bool {
        TreePath::parse(path).is_ok_and(|path| self.keeps(&path))
    }

    fn feature(&mut self) {
        if self.doc.impermanence.is_some() {
            return;
        }
        let hint = format!(
            "all else that is told here counts from then on; when it is mended: mayfly feature set {} impermanence=on",
            self.doc.id
        );
        let reason = "impermanence is off: what is in `/` stays anyway";
        self.say(Severity::Note, Topic::FeatureOff, self.vps(), reason, hint);
    }

    /// Whether each storage that anybody names is a dataset that can be written.
    fn storage(&mut self) {
        let mut named: Vec<(TreePath, String)> = Vec::new();
        let own = self.doc.storage.as_ref();
        let own = own.and_then(|path| TreePath::parse(path.as_str()).ok());
        if let Some(own) = &own {
            named.push((own.clone(), format!("storage {own}")));
        } else if self.nixos.is_none() {
            let hint = "make the VPS from a template that has a storage, such as debian-12-impermanence, or keep data in a dataset that is mounted";
            let reason = "it has no storage, so no path of it can be declared to stay";
            self.say(
                Severity::Warning,
                Topic::NoStorage,
                self.vps(),
                reason,
                hint,
            );
        }
        for line in &self.listing.lines {
            let storage = &line.declaration.storage;
            named.push((storage.clone(), format!("storage {storage}")));
        }
        for (file, kept) in entries(self.nixos).filter(|(_, kept)| !kept.disabled) {
            let object = Place {
                file: file.to_owned(),
                line: kept.line,
            }
            .to_string();
            let Some(storage) = storage_of(kept) else {
                continue;
            };
            if let Some(own) = own.as_ref().filter(|own| **own != storage) {
                let reason = format!(
                    "environment.persistence keeps paths in {storage}, and the storage of the VPS is {own}"
                );
                let hint = format!("name {own} there, unless both are meant");
                self.say(
                    Severity::Warning,
                    Topic::StorageDiffers,
                    &object,
                    reason,
                    hint,
                );
            }
            named.push((storage, object));
        }
        let mut seen = BTreeSet::new();
        for (storage, object) in named {
            if seen.insert(storage.clone()) {
                self.one_storage(&storage, object);
            }
        }
    }

    fn one_storage(&mut self, storage: &TreePath, object: String) {
        let id = self.doc.id;
        match mount_of(self.doc, storage) {
            None => {
                let reason = format!(
                    "what is declared in {storage} does not stay: no dataset is mounted there, so it is part of `/`"
                );
                let hint = format!(
                    "mount one there: mayfly mount add {id} {storage}, or another one of its datasets: mayfly mount add {id}/NAME {storage}"
                );
                self.say(
                    Severity::Problem,
                    Topic::StorageNotMounted,
                    object,
                    reason,
                    hint,
                );
            }
            Some(mount) if mount.read_only => {
                let reason = format!("{storage} is read-only: nothing new can be kept in it");
                let hint = format!(
                    "mount it anew: mayfly mount remove {id} {0}, then mayfly mount add {id} {0}",
                    mount.path
                );
                self.say(
                    Severity::Problem,
                    Topic::StorageReadOnly,
                    object,
                    reason,
                    hint,
                );
            }
            Some(_) => {}
        }
    }

    /// What is declared in Mayfly's own way, and whether anything is declared at all.
    fn declarations(&mut self) {
        let see = format!("see all of it: mayfly persist list {}", self.doc.id);
        for line in &self.listing.lines {
            // That a storage is no mount is told once, of the storage.
            let storage = &line.declaration.storage;
            let inactive = storage_inactive(self.doc, storage).is_some();
            if let Some(why) = line.trouble().filter(|_| !inactive) {
                let object = line.declaration.path.as_str();
                let reason = format!("it is declared and will not stay: {why}");
                self.say(
                    Severity::Problem,
                    Topic::DeclarationRefused,
                    object,
                    reason,
                    &see,
                );
            }
        }
        for problem in self.listing.problems.iter() {
            let object = if problem.at.is_empty() {
                "declarations"
            } else {
                &problem.at
            };
            self.say(
                Severity::Warning,
                Topic::DeclarationRefused,
                object,
                &problem.what,
                &see,
            );
        }
        let other = self.doc.mounts.iter().any(|mount| {
            let system = self.nixos.is_some() && mount.path.as_str() == STORE;
            let storage = Some(&mount.path) == self.doc.storage.as_ref();
            !system && !storage
        });
        let users = entries(self.nixos).any(|(_, kept)| kept.users && !kept.disabled);
        if self.stays.is_empty() && !other && !users {
            let reason =
                "nothing is declared to stay: each start forgets all that is in no mounted dataset";
            let hint = match self.nixos {
                Some(_) => {
                    "say it in environment.persistence; mayfly nixos scaffold writes an example"
                        .to_owned()
                }
                None => format!("declare it: mayfly persist add {} PATH", self.doc.id),
            };
            self.absent(
                About::Persistence,
                Severity::Warning,
                Topic::NothingDeclared,
                self.vps(),
                reason,
                hint,
            );
        }
    }

    /// What holds because nothing says otherwise; where something could say it that was not read, nobody can tell.
    fn absent(
        &mut self,
        about: About,
        severity: Severity,
        topic: Topic,
        object: impl Into<String>,
        reason: &str,
        hint: impl Into<String>,
    ) {
        if self.nixos.is_some_and(|nixos| nixos.is_unsure_of(about)) {
            let reason = format!("as far as it could be read without evaluation: {reason}");
            self.say(Severity::Unknown, topic, object, reason, hint);
        } else {
            self.say(severity, topic, object, reason, hint);
        }
    }

    /// What most systems want to keep.
    fn wants(&mut self, path: &str, kind: &str, severity: Severity, topic: Topic, reason: &str) {
        if self.keeps_named(path) {
            return;
        }
        let hint = match self.nixos {
            Some(_) => {
                format!("add \"{path}\" to the {kind} of environment.persistence, and rebuild")
            }
            None => {
                let word = if kind == "directories" {
                    "--directory"
                } else {
                    "--method copy"
                };
                format!(
                    "declare it: mayfly persist add {} {path} {word}",
                    self.doc.id
                )
            }
        };
        self.absent(About::Persistence, severity, topic, path, reason, hint);
    }

    fn other(&mut self, sshd: Option<bool>) {
        if sshd == Some(false) {
            return;
        }
        let reason = match sshd {
            Some(_) => {
                "the SSH host keys are others after each start, and whoever connects is warned"
            }
            None => {
                "if there is an SSH server, its host keys are others after each start, and whoever connects is warned"
            }
        };
        let severity = if sshd.is_some() {
            Severity::Warning
        } else {
            Severity::Note
        };
        self.wants(HOST_KEY, "files", severity, Topic::SshHostKeysLost, reason);
    }

    fn nixos(&mut self, nixos: &NixosLook) {
        self.store();
        self.files(nixos);
        self.configuration(nixos);
        self.wants(
            MACHINE_ID,
            "files",
            Severity::Warning,
            Topic::MachineIdLost,
            "it is another one after each start, and the journal begins anew",
        );
        self.wants(
            NIXOS_ACCOUNTS,
            "directories",
            Severity::Warning,
            Topic::AccountsLost,
            "users and groups may have other numbers after a start, and lose their files",
        );
        self.wants(
            LOGS,
            "directories",
            Severity::Note,
            Topic::LogsLost,
            "logs begin anew at each start",
        );
        self.host_keys(nixos);
        self.flakes(nixos);
        for (file, facts) in nixos.facts() {
            self.mounted_twice(file, facts);
            self.unsure(file, facts);
        }
        self.module(nixos);
    }

    fn store(&mut self) {
        let mounted = TreePath::parse(STORE).is_ok_and(|path| mount_of(self.doc, &path).is_some());
        if !mounted {
            let id = self.doc.id;
            let reason =
                "the Nix store is part of `/`: with an empty root there is no system to start";
            let hint = format!(
                "mayfly dataset create {id}/nix --quota 20G --mount {STORE} in a rescue system, and move the store there: mv /mnt/vps/nix/* /nix/"
            );
            self.say(Severity::Problem, Topic::StoreInRoot, STORE, reason, hint);
        }
    }

    fn files(&mut self, nixos: &NixosLook) {
        for file in &nixos.files {
            if let Err(why) = &file.read {
                let reason = format!("it was not read: {why}");
                let hint =
                    "what it says counts for nothing here; make it a plain file beside the others";
                self.say(
                    Severity::Unknown,
                    Topic::ConfigurationUnreadable,
                    &file.name,
                    reason,
                    hint,
                );
            }
        }
    }

    fn configuration(&mut self, nixos: &NixosLook) {
        if nixos.directory.is_none() {
            let reason = "no flake.nix and no configuration.nix was found there, nor in a storage";
            let hint = "mayfly nixos scaffold writes both, to be put there; a configuration that is elsewhere is not read";
            self.say(
                Severity::Warning,
                Topic::ConfigurationUnreadable,
                CONFIGURATION,
                reason,
                hint,
            );
            return;
        }
        self.wants(
            CONFIGURATION,
            "directories",
            Severity::Problem,
            Topic::ConfigurationLost,
            "what is changed in the configuration is gone after the next start",
        );
    }

    fn host_keys(&mut self, nixos: &NixosLook) {
        let sshd = nixos.facts().filter_map(|(_, facts)| facts.sshd).last();
        if sshd == Some(false) && !nixos.is_unsure_of(About::Ssh) {
            return;
        }
        let keys = nixos
            .facts()
            .filter_map(|(_, facts)| facts.host_keys.as_ref());
        let keys: Vec<&String> = keys.flatten().collect();
        let kept = match keys.is_empty() {
            true => self.keeps_named(HOST_KEY),
            false => keys.iter().any(|key| self.keeps_named(key)),
        };
        if kept {
            return;
        }
        let object = keys.first().map_or(HOST_KEY, |key| key.as_str()).to_owned();
        let storage = self
            .doc
            .storage
            .as_ref()
            .map_or("/persistent", |path| path.as_str());
        let hint = format!(
            "keep them in the storage: services.openssh.hostKeys = [ {{ path = \"{storage}{HOST_KEY}\"; type = \"ed25519\"; }} ]"
        );
        let about = if nixos.is_unsure_of(About::Ssh) {
            About::Ssh
        } else {
            About::Persistence
        };
        let reason =
            "the SSH host keys are others after each start, and whoever connects is warned";
        self.absent(
            about,
            Severity::Warning,
            Topic::SshHostKeysLost,
            object,
            reason,
            hint,
        );
    }

    fn flakes(&mut self, nixos: &NixosLook) {
        let on = nixos.facts().any(|(_, facts)| facts.flakes == Some(true));
        if on || nixos.directory.is_none() {
            return;
        }
        let reason = "flakes are not among the features of Nix, and a rebuild from a flake fails";
        let hint = "set nix.settings.experimental-features = [ \"nix-command\" \"flakes\" ]";
        self.absent(
            About::Flakes,
            Severity::Warning,
            Topic::FlakesOff,
            "nix.settings",
            reason,
            hint,
        );
    }

    /// Mounts are the host's, and in place before the first process.
    fn mounted_twice(&mut self, file: &str, facts: &NixFacts) {
        for (path, line) in &facts.file_systems {
            let mounted = TreePath::parse(path).is_ok_and(|path| {
                path.is_top()
                    || self
                        .doc
                        .mounts
                        .iter()
                        .any(|m| m.path.as_str() == path.as_str())
            });
            if mounted {
                let object = Place {
                    file: file.to_owned(),
                    line: *line,
                }
                .to_string();
                let reason =
                    format!("it mounts {path}, which is in place before the first process");
                let hint =
                    format!("take fileSystems.\"{path}\" out, neededForBoot too: it is not needed");
                self.say(Severity::Warning, Topic::MountedTwice, object, reason, hint);
            }
        }
    }

    fn unsure(&mut self, file: &str, facts: &NixFacts) {
        for place in &facts.unsure {
            let object = Place {
                file: file.to_owned(),
                line: place.line,
            }
            .to_string();
            let reason = format!("{} needs evaluation", place.option);
            let hint = "see inside what it comes to: nix eval, or nixos-option";
            self.say(
                Severity::Unknown,
                Topic::NeedsEvaluation,
                object,
                reason,
                hint,
            );
        }
        if facts.unsure_more > 0 {
            let reason = format!("{} more places need evaluation", facts.unsure_more);
            let hint = "see inside what they come to: nix eval, or nixos-option";
            self.say(
                Severity::Unknown,
                Topic::NeedsEvaluation,
                file,
                reason,
                hint,
            );
        }
    }

    /// Whether something brings the option that is set.
    fn module(&mut self, nixos: &NixosLook) {
        let has = nixos.facts().any(|(_, facts)| facts.has_module);
        let first = entries(Some(nixos)).next();
        let Some((file, kept)) = first.filter(|_| !has) else {
            return;
        };
        let object = Place {
            file: file.to_owned(),
            line: kept.line,
        }
        .to_string();
        let reason = "no module that has this option is imported, and the system cannot be built";
        let hint = "add impermanence.nixosModules.impermanence to the modules of the flake";
        self.absent(
            About::Everything,
            Severity::Warning,
            Topic::ModuleMissing,
            object,
            reason,
            hint,
        );
    }
}
