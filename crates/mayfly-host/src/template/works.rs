//! The port [`Templates`]: from a recipe or an archive to marked datasets of the pool.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::Digest;
use mayfly_core::names::{PoolPath, TemplateName, TemplatePart};
use mayfly_core::ports::{BuiltTemplate, Cancel, HostError, HostResult, ImportSource, Templates};
use mayfly_core::remote::PullSource;
use mayfly_core::template::{Layout, Manifest, check_architecture, debian_architecture};

use sha2::{Digest as _, Sha256};

use super::pull::pull;
use super::{
    Source, build_tree, builtin, builtin_names, digest_tree, import, load_source, scrub_tree,
    split_tree,
};
use crate::crash::crash_point;
use crate::runner::Runner;
use crate::storage::{TemplatePool, TemplateStaging};

/// Builds templates in the staging area of a pool, one at a time.
pub struct TemplateWorks {
    pool: Arc<dyn TemplatePool>,
    downloads: PathBuf,
}

impl TemplateWorks {
    /// Works that put templates into `pool`; what is pulled lies in the directory `downloads` meanwhile, which is theirs.
    pub fn new(pool: Arc<dyn TemplatePool>, downloads: PathBuf) -> Self {
        Self { pool, downloads }
    }
}

impl Templates for TemplateWorks {
    fn build(
        &self,
        recipe: &str,
        mirror: Option<&str>,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<BuiltTemplate> {
        let source = find(recipe)?;
        check_architecture(&source.recipe.manifest.architecture, host_architecture())?;
        let runner = Runner::wanted_until(cancel);
        let layout = &source.recipe.manifest.layout;
        let mut staging = self.pool.begin_template(&staging_name())?;
        let base = staging.part(&TemplatePart::Base)?;
        build_tree(&runner, &source, &base, mirror, progress)
            .map_err(|error| build_failed(recipe, &error))?;
        progress("taking the digest");
        let tree = digest_tree(&runner, &base).map_err(|error| build_failed(recipe, &error))?;
        let digest = digest_with_layout(&tree, layout);
        let manifest = source.recipe.manifest.clone();
        let failed = |error: &dyn Error| build_failed(recipe, error);
        self.finish(staging, &base, digest, manifest, &failed, progress)
    }

    fn import(
        &self,
        source: &ImportSource,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<BuiltTemplate> {
        let runner = Runner::wanted_until(cancel);
        let room = self.pool.observe()?.free;
        let mut checked = import::check(&runner, source, room, progress)?;
        let mut staging = self.pool.begin_template(&staging_name())?;
        let base = staging.part(&TemplatePart::Base)?;
        progress("unpacking");
        checked.unpack(&runner, &base)?;
        crash_point("import.after_unpack");
        let manifest = checked.manifest(&base)?;
        check_architecture(&manifest.architecture, host_architecture())?;
        let failed = |error: &dyn Error| import_failed(&source.archive, error);
        scrub_tree(&base, manifest.layout.storage.as_ref()).map_err(|e| failed(&e))?;
        let digest = if manifest.layout == Layout::default() {
            checked.digest().clone()
        } else {
            digest_with_layout(checked.digest(), &manifest.layout)
        };
        self.finish(staging, &base, digest, manifest, &failed, progress)
    }

    fn pull(
        &self,
        source: &PullSource,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<BuiltTemplate> {
        let architecture = host_architecture();
        let pulled = pull(&self.downloads, source, architecture, cancel, progress)?;
        self.import(&pulled.source, cancel, progress)
    }
}

impl TemplateWorks {
    /// Splits the tree, and puts its parts into the pool.
    fn finish<'a>(
        &'a self,
        mut staging: Box<dyn TemplateStaging + 'a>,
        base: &Path,
        digest: Digest,
        manifest: Manifest,
        failed: &dyn Fn(&dyn Error) -> HostError,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<BuiltTemplate> {
        progress("splitting it into datasets");
        let mut targets: BTreeMap<TemplatePart, PathBuf> = BTreeMap::new();
        for dataset in manifest
            .layout
            .mounts
            .iter()
            .filter(|m| !m.path.is_top())
            .map(|m| &m.dataset)
        {
            let part = TemplatePart::Dataset(dataset.clone());
            targets.insert(part.clone(), staging.part(&part)?);
        }
        split_tree(&Runner::default(), base, &manifest.layout, &targets)
            .map_err(|error| failed(&error))?;
        progress("putting it into the pool");
        staging.publish(&digest)?;
        let size_bytes = self.size(&digest, targets.keys())?;
        Ok(BuiltTemplate {
            digest,
            size_bytes,
            manifest,
        })
    }

    fn size<'a>(
        &self,
        digest: &Digest,
        parts: impl Iterator<Item = &'a TemplatePart>,
    ) -> HostResult<Bytes> {
        let mut size = Bytes(0);
        for part in parts.chain([&TemplatePart::Base]) {
            let name = PoolPath::template(digest, part);
            let used = self.pool.look(&name)?.and_then(|seen| seen.used);
            size = size.saturating_add(used.unwrap_or_default());
        }
        Ok(size)
    }
}

/// What programs this host runs, in Debian's words.
fn host_architecture() -> &'static str {
    debian_architecture(std::env::consts::ARCH)
}

/// One tree may be split in more than one way, and each way is a template of its own: the digest of a built template is
/// the sha256 of its canonical tar's sha256 and its layout.
fn digest_with_layout(tree: &Digest, layout: &Layout) -> Digest {
    let layout = serde_json::to_vec(layout).expect("a layout has nothing that JSON lacks");
    let sum = Sha256::new()
        .chain_update(tree.as_str())
        .chain_update(layout)
        .finalize();
    Digest::from_random(sum.into())
}

fn find(recipe: &str) -> HostResult<Source> {
    if recipe.starts_with('/') {
        return load_source(Path::new(recipe)).map_err(|error| build_failed(recipe, &error));
    }
    builtin(recipe).ok_or_else(|| {
        let known: Vec<&str> = builtin_names().collect();
        let recipe = recipe.escape_debug();
        HostError::Refused(Refusal::new(
            Code::TemplateNotFound,
            format!("there is no built-in recipe {recipe}"),
            format!(
                "choose one of {}, or give the path of a recipe",
                known.join(", ")
            ),
        ))
    })
}

/// Only one template is made at a time, so that one name in the staging area is enough.
fn staging_name() -> TemplateName {
    "build".parse().expect("a constant name is valid")
}

fn import_failed(archive: &str, error: &dyn Error) -> HostError {
    let message = format!("{} is refused: {}", archive.escape_debug(), told(error));
    let hint =
        "nothing of it was kept; see the section on templates in the guide for what is taken";
    HostError::Refused(Refusal::new(Code::TemplateBadArchive, message, hint))
}

fn build_failed(recipe: &str, error: &dyn Error) -> HostError {
    let message = format!(
        "template {} was not built: {}",
        recipe.escape_debug(),
        told(error)
    );
    let hint = "nothing of it was kept; mend the cause and build again";
    HostError::Refused(Refusal::new(Code::TemplateBuildFailed, message, hint))
}

/// An error with its causes.
fn told(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}
