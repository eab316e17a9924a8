//! Where templates are built: a place in the pool that becomes a template whole, or is gone.

use std::path::PathBuf;

use mayfly_core::ids::Digest;
use mayfly_core::names::{TemplateName, TemplatePart};
use mayfly_core::ports::{HostResult, Outcome, Storage};

/// A pool that templates can be built in.
pub trait TemplatePool: Storage {
    /// Begins to build a template: its base is there and empty. What an earlier build of this name left is removed; a
    /// second build of one name at a time is refused as busy.
    fn begin_template<'a>(
        &'a self,
        name: &TemplateName,
    ) -> HostResult<Box<dyn TemplateStaging + 'a>>;
}

/// A template that is being built. Dropped without [`TemplateStaging::publish`], it is removed.
pub trait TemplateStaging {
    /// The directory for the contents of one part, made when it is asked for first. Parents come before children.
    ///
    /// Setuid bits and device nodes can be written there, not used.
    fn part(&mut self, part: &TemplatePart) -> HostResult<PathBuf>;

    /// Marks all parts and moves them into place at once. A template of this digest that is there already stays, and
    /// what was built here is removed.
    fn publish(self: Box<Self>, digest: &Digest) -> HostResult<Outcome>;
}
