//! Templates on their way into the pool: built in the staging area, moved into place whole.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::ids::Digest;
use mayfly_core::names::{DatasetName, PoolPath, TemplateName, TemplatePart};
use mayfly_core::observed::{Mark, Role};
use mayfly_core::ports::{HostResult, Outcome};
use rustix::fs::{Mode, RenameFlags, mkdirat, renameat_with};
use rustix::io::Errno;

use super::pool::{BtrfsPool, PRIVATE, STAGING, Subvolume, TEMPLATES, Uuid};
use crate::crash::crash_point;
use crate::storage::claims::Claim;
use crate::storage::contained::{DIRECTORY, open_below};
use crate::storage::records::Intent;
use crate::storage::refusals::{failed, not_ours, taken};
use crate::storage::{TemplatePool, TemplateStaging};

/// A template that is being built. Dropped without [`TemplateStaging::publish`], it is removed.
pub(super) struct Staging<'a> {
    pool: &'a BtrfsPool,
    claim: Claim<'a>,
    base: Subvolume,
    parts: BTreeMap<TemplatePart, Uuid>,
    published: bool,
}

impl TemplatePool for BtrfsPool {
    fn begin_template<'a>(
        &'a self,
        name: &TemplateName,
    ) -> HostResult<Box<dyn TemplateStaging + 'a>> {
        self.check_room(&format!("building template {name}"))?;
        // The `=` keeps it apart from the datasets that are being made.
        let claim = self.claim(&format!("template={name}"))?;
        self.remove_staged(&claim.staged)?;
        self.intents
            .write_intent(&claim.staged, &Intent::new(self.node.clone(), None))?;
        crash_point("template.after_intent");
        let begun = self
            .stage_empty(&self.staging, &claim.staged)
            .map_err(|e| failed(format!("beginning to build template {name}"), e));
        match begun {
            Ok(base) => {
                crash_point("template.after_base");
                let parts = BTreeMap::from([(TemplatePart::Base, base.uuid)]);
                Ok(Box::new(Staging {
                    pool: self,
                    claim,
                    base,
                    parts,
                    published: false,
                }))
            }
            Err(error) => {
                if let Err(left) = self.remove_staged(&claim.staged) {
                    tracing::warn!(template = %name, %left, "what was begun is left in the staging area");
                }
                Err(error)
            }
        }
    }
}

impl TemplateStaging for Staging<'_> {
    fn part(&mut self, part: &TemplatePart) -> HostResult<PathBuf> {
        // On the pool's mount, which is nosuid and nodev.
        let inner = match part {
            TemplatePart::Base => String::new(),
            TemplatePart::Dataset(name) => inner_path(name),
        };
        if !self.parts.contains_key(part) {
            let made = self
                .make(&inner)
                .map_err(|e| failed(format!("making part `{inner}` of a template"), e))?;
            self.parts.insert(part.clone(), made.uuid);
            crash_point("template.after_part");
        }
        Ok(self
            .pool
            .path()
            .join(STAGING)
            .join(&self.claim.staged)
            .join(inner)
            .join(PRIVATE))
    }

    fn publish(mut self: Box<Self>, digest: &Digest) -> HostResult<Outcome> {
        let name = PoolPath::template(digest, &TemplatePart::Base);
        if self.there_already(&name)? {
            return Ok(Outcome::Unchanged);
        }
        let staged = format!("{STAGING}/{}", self.claim.staged);
        let parts: Vec<&Uuid> = self.parts.values().collect();
        if let Some(other) = self
            .pool
            .below(self.base.id, &staged)?
            .iter()
            .find(|one| !parts.contains(&&one.uuid))
        {
            let message = format!(
                "building the template made a subvolume of its own: {}",
                other.path
            );
            let hint = "change the recipe so that it makes directories only";
            return Err(Refusal::new(Code::TemplateBuildFailed, message, hint).into());
        }
        for (part, uuid) in &self.parts {
            let mark = Mark {
                node: self.pool.node.clone(),
                owner: None,
                role: Role::Template,
                run: None,
                made_as: PoolPath::template(digest, part),
                condemned_by: None,
                unharvested: false,
                contents: None,
            };
            self.pool.marks.write_mark(uuid, &mark)?;
        }
        crash_point("template.after_marks");
        // The contents must be safe before the name says that they are there.
        self.pool.sync()?;
        self.rename(&name)?;
        self.published = true;
        crash_point("template.after_rename");
        self.pool.sync()?;
        self.pool.intents.remove(&self.claim.staged)?;
        Ok(Outcome::Changed)
    }
}

impl Staging<'_> {
    fn make(&self, inner: &str) -> rustix::io::Result<Subvolume> {
        let (above, leaf) = inner.rsplit_once('/').unwrap_or(("", inner));
        let mut dir = self.base.fd.try_clone().map_err(|_| Errno::MFILE)?;
        for name in above.split('/').filter(|name| !name.is_empty()) {
            match mkdirat(&dir, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => dir = open_below(&dir, name, DIRECTORY)?,
                Err(errno) => return Err(errno),
            }
        }
        self.pool.stage_empty(&dir, leaf)
    }

    fn there_already(&self, name: &PoolPath) -> HostResult<bool> {
        let Some(there) = self.pool.subvolume(name)? else {
            return Ok(false);
        };
        let mark = self.pool.own_mark(name, &there.uuid)?;
        if mark.role == Role::Template && mark.made_as == *name && mark.condemned_by.is_none() {
            return Ok(true);
        }
        Err(not_ours(
            name,
            "its mark does not say that it is this template",
        ))
    }

    fn rename(&self, name: &PoolPath) -> HostResult<()> {
        let look = |e| LookFailed::new(TEMPLATES, e);
        let templates = open_below(&self.pool.top, TEMPLATES, DIRECTORY).map_err(look)?;
        let leaf = name.as_str().rsplit('/').next().unwrap_or_default();
        let _still = self.pool.hold_shape();
        match renameat_with(
            &self.pool.staging,
            &self.claim.staged,
            &templates,
            leaf,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(taken(name).into()),
            Err(errno) => Err(failed(format!("moving template {name} into place"), errno)),
        }
    }
}

/// Where a part lies below the base, as [`PoolPath::template`] has it.
fn inner_path(name: &DatasetName) -> String {
    if name.is_root() {
        ".root".to_owned()
    } else {
        name.to_string()
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        if let Err(left) = self.pool.remove_staged(&self.claim.staged) {
            tracing::warn!(staged = self.claim.staged, %left, "a cut-off template is left in the staging area");
        }
    }
}
