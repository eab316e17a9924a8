//! Templates on their way into the pool: built in the staging area, moved into place whole.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::Digest;
use mayfly_core::names::{PoolPath, TemplateName, TemplatePart};
use mayfly_core::observed::{Mark, Role};
use mayfly_core::ports::{HostError, HostResult, Outcome};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use super::create::BASE;
use super::marks;
use super::mount::{PRIVATE, mount_detached};
use super::pool::{BUILD, ZfsPool};
use crate::crash::crash_point;
use crate::storage::claims::Claim;
use crate::storage::records::Intent;
use crate::storage::refusals::not_ours;
use crate::storage::{TemplatePool, TemplateStaging};

const BUILDING: [&str; 1] = ["mountpoint=legacy"];

/// A template that is being built. Dropped without [`TemplateStaging::publish`], it is removed.
struct Staging<'a> {
    pool: &'a ZfsPool,
    claim: Claim<'a>,
    /// Datasets by their names below the base, and where they are mounted; a name that only holds others is mounted too.
    datasets: BTreeMap<String, PathBuf>,
    published: bool,
}

impl TemplatePool for ZfsPool {
    fn begin_template<'a>(
        &'a self,
        name: &TemplateName,
    ) -> HostResult<Box<dyn TemplateStaging + 'a>> {
        self.check_room(&format!("building template {name}"))?;
        let claim = self.claims.claim(&format!("template:{name}"))?;
        self.remove_staged(&claim.staged)?;
        self.intents
            .write_intent(&claim.staged, &Intent::new(self.node.clone(), None))?;
        crash_point("template.after_intent");
        // From here on, whatever fails, what was begun goes with this.
        let mut staging = Staging {
            pool: self,
            claim,
            datasets: BTreeMap::new(),
            published: false,
        };
        staging.make("")?;
        crash_point("template.after_base");
        Ok(Box::new(staging))
    }
}

/// Where a part lies below the base, as [`PoolPath::template`] has it.
fn inner_path(part: &TemplatePart) -> String {
    match part {
        TemplatePart::Base => String::new(),
        TemplatePart::Dataset(name) if name.is_root() => ".root".to_owned(),
        TemplatePart::Dataset(name) => name.to_string(),
    }
}

fn below(whole: String, inner: &str) -> String {
    if inner.is_empty() {
        whole
    } else {
        format!("{whole}/{inner}")
    }
}

impl TemplateStaging for Staging<'_> {
    fn part(&mut self, part: &TemplatePart) -> HostResult<PathBuf> {
        let inner = inner_path(part);
        if !self.datasets.contains_key(&inner) {
            // Every dataset on the way has to be one that Mayfly made.
            let ends = inner.match_indices('/').map(|(end, _)| end);
            for end in ends.chain([inner.len()]) {
                if !self.datasets.contains_key(&inner[..end]) {
                    self.make(&inner[..end])?;
                }
            }
            crash_point("template.after_part");
        }
        Ok(self.datasets[&inner].join(PRIVATE))
    }

    fn publish(mut self: Box<Self>, digest: &Digest) -> HostResult<Outcome> {
        let pool = self.pool;
        let name = PoolPath::template(digest, &TemplatePart::Base);
        if self.there_already(&name)? {
            return Ok(Outcome::Unchanged);
        }
        self.unmount(UnmountFlags::NOFOLLOW)?;
        let staged = pool.staged(&self.claim.staged);
        for row in pool.tree(&staged)?.into_iter().flatten() {
            let inner = row.name[staged.len()..].trim_start_matches('/');
            if !self.datasets.contains_key(inner) {
                return Err(not_ours(&row.name, "the building did not make it"));
            }
            let made_as = PoolPath::from_pool(&below(name.as_str().to_owned(), inner))
                .ok_or_else(|| not_ours(&row.name, "it has no plain name"))?;
            let mark = Mark {
                node: pool.node.clone(),
                owner: None,
                role: Role::Template,
                run: None,
                made_as,
                condemned_by: None,
                unharvested: false,
                contents: None,
            };
            // What clones are made from never changes again.
            pool.zfs
                .run(["set", &marks::written(&mark)?, "readonly=on", &row.name])
                .map_err(|f| f.of_change(&format!("marking template {name}"), &row.name))?;
        }
        crash_point("template.after_marks");
        let snapshot = format!("{staged}@{BASE}");
        pool.zfs
            .run(["snapshot", "-r", &snapshot])
            .map_err(|f| f.of_change(&format!("keeping template {name}"), &snapshot))?;
        pool.put_into_place(&staged, &name)?;
        self.published = true;
        crash_point("template.after_rename");
        pool.intents.remove(&self.claim.staged)?;
        Ok(Outcome::Changed)
    }
}

impl Staging<'_> {
    /// Makes one dataset and mounts it where it can be filled.
    fn make(&mut self, inner: &str) -> HostResult<()> {
        let staged = &self.claim.staged;
        let whole = below(self.pool.staged(staged), inner);
        let action = format!("making part `{inner}` of a template");
        self.pool
            .make_empty(&action, &whole, &BUILDING.map(str::to_owned))?;
        // One flat directory for each: nothing is mounted inside of what is built.
        let place = format!("{staged}:{}", inner.replace('/', ":"));
        let at = self.pool.at.join(BUILD).join(place);
        let failed = |e: std::io::Error| HostError::failed(&*action, e);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&at)
            .map_err(failed)?;
        let mount = mount_detached(&whole).map_err(|e| failed(e.into()))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&mount, "", CWD, &at, flags).map_err(|e| failed(e.into()))?;
        self.datasets.insert(inner.to_owned(), at);
        Ok(())
    }

    fn unmount(&self, flags: UnmountFlags) -> HostResult<()> {
        for at in self.datasets.values() {
            match unmount(at, flags) {
                // Done before.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(rustix::io::Errno::BUSY) => {
                    return Err(Refusal::new(
                        Code::TemplateBuildFailed,
                        format!(
                            "a program that was started by the recipe is still in {}",
                            at.display()
                        ),
                        "change the recipe so that it leaves nothing running",
                    )
                    .into());
                }
                Err(errno) => {
                    return Err(HostError::failed(
                        format!("unmounting {}", at.display()),
                        errno,
                    ));
                }
            }
        }
        Ok(())
    }

    fn there_already(&self, name: &PoolPath) -> HostResult<bool> {
        let Some(row) = self.pool.row(&self.pool.whole(name))? else {
            return Ok(false);
        };
        let mark = self.pool.own_mark(&row)?;
        if mark.role == Role::Template && mark.made_as == *name && mark.condemned_by.is_none() {
            return Ok(true);
        }
        Err(not_ours(
            name,
            "its mark does not say that it is this template",
        ))
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        let removed = self
            .unmount(UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .and_then(|()| {
                if self.published {
                    return Ok(());
                }
                self.pool.remove_staged(&self.claim.staged)
            });
        if let Err(left) = removed {
            tracing::warn!(staged = self.claim.staged, %left, "a cut-off template is left in the staging area");
        }
        for at in self.datasets.values() {
            // Empty, and in nobody's way where it stays.
            if let Err(error) = std::fs::remove_dir(at) {
                tracing::debug!(at = %at.display(), %error, "a mount point stays");
            }
        }
    }
}
