//! The port [`Templates`]: from a recipe to marked datasets of the pool.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::Digest;
use mayfly_core::names::{PoolPath, TemplateName, TemplatePart};
use mayfly_core::ports::{BuiltTemplate, HostError, HostResult, Templates};
use mayfly_core::template::Layout;

use super::{Source, build_tree, builtin, builtin_names, digest_tree, load_source, split_tree};
use sha2::{Digest as _, Sha256};

use crate::runner::Runner;
use crate::storage::TemplatePool;

/// Builds templates in the staging area of a pool, one at a time.
pub struct TemplateWorks {
    pool: Arc<dyn TemplatePool>,
}

impl TemplateWorks {
    /// Works that put templates into `pool`.
    pub fn new(pool: Arc<dyn TemplatePool>) -> Self {
        Self { pool }
    }
}

impl Templates for TemplateWorks {
    fn build(
        &self,
        recipe: &str,
        mirror: Option<&str>,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<BuiltTemplate> {
        let source = find(recipe)?;
        let runner = Runner;
        let layout = &source.recipe.manifest.layout;
        // Only one template is built at a time, so that one name in the staging area is enough.
        let name: TemplateName = "build".parse().expect("a constant name is valid");
        let mut staging = self.pool.begin_template(&name)?;
        let base = staging.part(&TemplatePart::Base)?;
        build_tree(&runner, &source, &base, mirror, progress)
            .map_err(|error| build_failed(recipe, &error))?;
        progress("taking the digest");
        let tree = digest_tree(&runner, &base).map_err(|error| build_failed(recipe, &error))?;
        let digest = digest_with_layout(&tree, layout);
        progress("splitting it into datasets");
        let mut targets: BTreeMap<TemplatePart, PathBuf> = BTreeMap::new();
        for dataset in layout
            .mounts
            .iter()
            .filter(|m| !m.path.is_top())
            .map(|m| &m.dataset)
        {
            let part = TemplatePart::Dataset(dataset.clone());
            targets.insert(part.clone(), staging.part(&part)?);
        }
        split_tree(&runner, &base, layout, &targets)
            .map_err(|error| build_failed(recipe, &error))?;
        progress("putting it into the pool");
        staging.publish(&digest)?;
        let size_bytes = self.size(&digest, targets.keys())?;
        Ok(BuiltTemplate {
            digest,
            size_bytes,
            manifest: source.recipe.manifest.clone(),
        })
    }
}

impl TemplateWorks {
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

fn build_failed(recipe: &str, error: &dyn Error) -> HostError {
    let mut message = format!("template {} was not built: {error}", recipe.escape_debug());
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    let hint = "nothing of it was kept; mend the cause and build again";
    HostError::Refused(Refusal::new(Code::TemplateBuildFailed, message, hint))
}
