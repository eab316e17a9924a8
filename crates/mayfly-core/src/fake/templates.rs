//! Templates of a fake host, and recipes that it can build.

use std::collections::BTreeMap;

use super::tree::{Node, Tree};
use super::world::{Dataset, World};
use super::{FakeHost, Reach};
use crate::bytes::Bytes;
use crate::documents::{SCHEMA, TemplateDoc};
use crate::error::{Code, Refusal};
use crate::ids::Digest;
use crate::names::{PoolPath, TemplateName, TemplatePart};
use crate::observed::{Mark, MarkSeen, Role};
use crate::ports::{BuiltTemplate, Cancel, HostError, HostResult, ImportSource, Templates};
use crate::remote::PullSource;
use crate::template::{Layout, LayoutDataset, LayoutMount, Manifest, Quota, RootKind};

/// A recipe, and what a build of it puts into the pool.
#[derive(Clone, Debug)]
pub struct FakeRecipe {
    /// What a build answers with.
    pub built: BuiltTemplate,
    /// Its parts: paths that end in `/` are directories, texts that begin with `-> ` symlinks, and `#!` programs.
    pub parts: Vec<(TemplatePart, Vec<(&'static str, &'static str)>)>,
}

fn manifest(distribution: &str, version: &str, root_kind: RootKind, layout: Layout) -> Manifest {
    Manifest {
        distribution: distribution.into(),
        version: version.into(),
        architecture: "amd64".into(),
        init: "/sbin/init".parse().expect("a constant path is valid"),
        halt_signal: 37,
        root_kind,
        layout,
    }
}

fn mount(dataset: &str, path: &str) -> LayoutMount {
    LayoutMount {
        dataset: dataset.parse().expect("a constant name is valid"),
        path: path.parse().expect("a constant path is valid"),
        read_only: false,
    }
}

impl FakeRecipe {
    /// `debian-12`: a persistent root.
    pub fn debian() -> Self {
        let manifest = manifest("debian", "12", RootKind::Template, Layout::default());
        let files = vec![
            ("/etc/", ""),
            ("/etc/debian_version", "12.0"),
            ("/etc/machine-id", ""),
            ("/home/", ""),
            ("/lib", "-> usr/lib"),
            ("/sbin", "-> usr/sbin"),
            ("/usr/lib/systemd/systemd", "#!"),
            ("/usr/sbin/init", "-> /lib/systemd/systemd"),
            ("/var/log/", ""),
        ];
        Self {
            built: BuiltTemplate {
                digest: Digest::from_random([0xde; 32]),
                size_bytes: Bytes::mib(216),
                manifest,
            },
            parts: vec![(TemplatePart::Base, files)],
        }
    }

    /// `debian-12-impermanence`: the same files, so the same digest, and another layout.
    pub fn debian_impermanence() -> Self {
        let mut recipe = Self::debian();
        recipe.built.manifest.layout = Layout {
            datasets: Vec::new(),
            mounts: vec![mount("", "/persistent")],
            impermanence: true,
            storage: Some("/persistent".parse().expect("a constant path is valid")),
            persistence: Default::default(),
        };
        recipe
    }

    /// `nixos-shaped`: an empty root, the store in the dataset `nix`, the root dataset at `/persistent`.
    pub fn nixos_shaped() -> Self {
        let nix = "nix".parse().expect("a constant name is valid");
        let layout = Layout {
            datasets: vec![LayoutDataset {
                name: nix,
                quota: Quota::Fixed(Bytes::gib(20)),
            }],
            mounts: vec![mount("nix", "/nix"), mount("", "/persistent")],
            impermanence: true,
            storage: Some("/persistent".parse().expect("a constant path is valid")),
            persistence: Default::default(),
        };
        let store = vec![
            ("/store/system/init", "#!"),
            ("/var/nix/profiles/system", "-> system-1-link"),
            ("/var/nix/profiles/system-1-link", "-> /nix/store/system"),
        ];
        let etc = vec![
            ("/etc/nixos/configuration.nix", "{ }"),
            ("/etc/nixos/flake.nix", "{ }"),
        ];
        let part =
            |name: &str| TemplatePart::Dataset(name.parse().expect("a constant name is valid"));
        Self {
            built: BuiltTemplate {
                digest: Digest::from_random([0x25; 32]),
                size_bytes: Bytes::mib(400),
                manifest: manifest("nixos", "25.11", RootKind::Empty, layout),
            },
            parts: vec![
                (TemplatePart::Base, Vec::new()),
                (part("nix"), store),
                (part(""), etc),
            ],
        }
    }

    /// The recipes that a new fake host knows, by name.
    pub fn built_in() -> BTreeMap<String, Self> {
        BTreeMap::from([
            ("debian-12".to_owned(), Self::debian()),
            (
                "debian-12-impermanence".to_owned(),
                Self::debian_impermanence(),
            ),
            ("nixos-shaped".to_owned(), Self::nixos_shaped()),
        ])
    }

    /// The document of a template that was built from this.
    pub fn document(&self, name: &TemplateName) -> TemplateDoc {
        TemplateDoc {
            schema: SCHEMA,
            name: name.clone(),
            digest: self.built.digest.clone(),
            size_bytes: self.built.size_bytes,
            created_unix_ms: 1_700_000_000_000,
            manifest: self.built.manifest.clone(),
        }
    }
}

fn tree_of(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::default();
    for (path, text) in files {
        match (path.strip_suffix('/'), text.strip_prefix("-> ")) {
            (Some(directory), _) => tree.put(directory, Node::Directory),
            (None, Some(to)) => tree.put(path, Node::Link(to.to_owned())),
            (None, None) if *text == "#!" => tree.put(path, Node::program()),
            (None, None) => tree.put(path, Node::file(text)),
        }
    }
    tree
}

impl World {
    /// All parts appear at once, as the rename of the highest one makes them.
    fn put_template(&mut self, recipe: &FakeRecipe) {
        for (part, files) in &recipe.parts {
            let name = PoolPath::template(&recipe.built.digest, part);
            if self.datasets.contains_key(&name) {
                continue;
            }
            let mark = Mark {
                node: self.node.clone(),
                owner: None,
                role: Role::Template,
                run: None,
                made_as: name.clone(),
                condemned_by: None,
                unharvested: false,
                contents: None,
            };
            let (uid, mark) = (self.new_uid(), MarkSeen::Local(mark));
            let tree = tree_of(files);
            let dataset = Dataset {
                uid,
                mark,
                quota: None,
                tree,
                origin: None,
                by_hand: false,
                lived_in: None,
                snapshots: Vec::new(),
                beside: Default::default(),
            };
            self.datasets.insert(name, dataset);
        }
    }
}

impl FakeHost {
    /// Makes a recipe known, or replaces it.
    pub fn add_recipe(&self, name: &str, recipe: FakeRecipe) {
        self.world().recipes.insert(name.to_owned(), recipe);
    }

    /// Puts a template into the pool and answers with its document, as an earlier build left them.
    ///
    /// # Panics
    /// When the recipe is not known, or its name is not one of a template.
    pub fn add_template(&self, recipe: &str) -> TemplateDoc {
        let mut world = self.world();
        let known = world
            .recipes
            .get(recipe)
            .cloned()
            .expect("the recipe is known");
        world.put_template(&known);
        known.document(
            &recipe
                .parse()
                .expect("the recipe's name is one of a template"),
        )
    }
}

impl Templates for FakeHost {
    fn build(
        &self,
        recipe: &str,
        _mirror: Option<&str>,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<BuiltTemplate> {
        // Not under the lock: the listener may look at the host.
        progress("fetching packages");
        refuse_unwanted(cancel)?;
        let built = self.put(format!("build {recipe}"), recipe)?;
        progress("in the pool");
        Ok(built)
    }

    /// An archive is a recipe that is known by the archive's path, and its digest is the recipe's.
    fn import(
        &self,
        source: &ImportSource,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<BuiltTemplate> {
        progress("reading the archive");
        refuse_unwanted(cancel)?;
        let known = self.world().recipes.get(&source.archive).cloned();
        let digest = known.map(|known| known.built.digest);
        if source.digest.is_some() && digest.is_some() && digest != source.digest {
            return Err(Refusal::new(
                Code::TemplateWrongDigest,
                format!("{} is another archive", source.archive),
                "fetch it again",
            )
            .into());
        }
        self.put(format!("import {}", source.archive), &source.archive)
    }

    /// An image is a recipe that is known by its name on the server.
    fn pull(
        &self,
        source: &PullSource,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<BuiltTemplate> {
        progress("fetching the index");
        refuse_unwanted(cancel)?;
        self.put(format!("pull {}", source.image), &source.image)
    }
}

fn refuse_unwanted(cancel: &Cancel) -> HostResult<()> {
    if cancel.is_set() {
        return Err(HostError::failed(
            "fetching packages",
            "it is not wanted any more",
        ));
    }
    Ok(())
}

impl FakeHost {
    fn put(&self, what: String, recipe: &str) -> HostResult<BuiltTemplate> {
        self.mutate(what, |world, reach| {
            let Some(known) = world.recipes.get(recipe).cloned() else {
                let message = format!("there is no recipe {recipe}");
                return Err(Refusal::new(
                    Code::TemplateBuildFailed,
                    message,
                    "see `mayfly template recipes`",
                )
                .into());
            };
            if world.free() == Bytes(0) {
                return Err(Refusal::new(
                    Code::PoolFull,
                    "no room for a template",
                    "enlarge the pool",
                )
                .into());
            }
            // One at a time, so one place is enough.
            if reach == Reach::HalfWay {
                world.staging.insert("template+".to_owned(), true);
            } else {
                world.staging.remove("template+");
                world.put_template(&known);
            }
            Ok(known.built)
        })
    }
}
