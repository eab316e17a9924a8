//! Templates.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use mayfly_api::{BuildTemplate, Change, ImportTemplate, PullTemplate, TemplateView};
use mayfly_core::error::Code;
use mayfly_core::ids::Digest;
use mayfly_core::names::TemplateName;
use mayfly_core::remote::RemoteUrl;
use mayfly_core::template::RootKind;

use super::change::ChangeArgs;
use super::table::{facts, moment, table};
use super::{Context, Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateVerb {
    /// Build a template with the host's own package mirror
    Build(BuildArgs),
    /// Make a template of a root file system: tar (gz, xz, zst), squashfs, or an image of LXC or Incus
    Import(ImportArgs),
    /// Make a template of an image server's image (simplestreams, which those of LXC and Incus speak)
    Pull(PullArgs),
    /// All templates
    List,
    /// All about one template
    Show {
        /// Its name
        name: TemplateName,
    },
    /// Remove a template that nothing is made from
    Remove {
        /// Its name
        name: TemplateName,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// A built-in recipe (debian-12, debian-12-impermanence, debian-13 …) or a file with one
    recipe: String,
    /// The template's name [default: the recipe's]
    #[arg(long)]
    name: Option<TemplateName>,
    /// The package mirror [default: the host's]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Give a template of that name these contents; VPSes keep what they have unless they follow it
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The template's name
    name: TemplateName,
    /// The archive, a file on the node
    file: String,
    /// A manifest (TOML), or the metadata archive of an LXC or Incus image
    metadata: Option<String>,
    /// What the files' sha256 must be
    #[arg(long, value_name = "sha256:HEX", value_parser = parse_digest)]
    digest: Option<Digest>,
    /// Give a template of that name these contents; VPSes keep what they have unless they follow it
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The image server's address
    #[arg(value_name = "REMOTE", value_parser = parse_remote)]
    remote: RemoteUrl,
    /// The template's name; or the image's, and then the template is called so with `-` for each `/`
    name: String,
    /// The image as the server calls it, such as debian/12/default [default: NAME]
    #[arg(long, visible_alias = "product")]
    image: Option<String>,
    /// Also ask a server by plain http that is not this host
    #[arg(long)]
    plain_http: bool,
    /// Give a template of that name these contents; VPSes keep what they have unless they follow it
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

fn parse_remote(text: &str) -> Result<RemoteUrl, String> {
    text.parse()
}

fn parse_digest(text: &str) -> Result<Digest, String> {
    let wrong = || "write sha256: and 64 hex digits".to_owned();
    let hex = text.strip_prefix("sha256:").ok_or_else(wrong)?;
    hex.parse().map_err(|_| wrong())
}

pub(super) async fn run(context: &Context, verb: TemplateVerb) -> Result<ExitCode, Failure> {
    match verb {
        TemplateVerb::Build(args) => return build(context, args).await,
        TemplateVerb::Import(args) => return import(context, args).await,
        TemplateVerb::Pull(args) => return pull(context, args).await,
        TemplateVerb::List => context
            .screen
            .show(&context.client.templates().await?, |all| render_list(all))?,
        TemplateVerb::Show { name } => context
            .screen
            .show(&context.client.template(&name).await?, render_one)?,
        TemplateVerb::Remove { name, change } => {
            let removed = format!("template {name} is removed");
            return change
                .carry_out(context, &Change::remove_template(&name), |_| removed)
                .await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn build(context: &Context, args: BuildArgs) -> Result<ExitCode, Failure> {
    let BuildArgs {
        recipe,
        name,
        mirror,
        replace,
        change,
    } = args;
    let (recipe, named) = resolve_recipe(&recipe)?;
    let name = match name.or(named) {
        Some(name) => name,
        None => {
            return Err(Failure::refused(
                Code::Invalid,
                format!("recipe {recipe} has no name that a template could bear"),
                "name the template: --name NAME",
            ));
        }
    };
    let built = format!("template {name} is built");
    let body = BuildTemplate {
        recipe,
        name: Some(name),
        mirror,
        replace,
    };
    change
        .carry_out(context, &Change::build_template(&body), |_| built)
        .await
}

async fn import(context: &Context, args: ImportArgs) -> Result<ExitCode, Failure> {
    let imported = format!("template {} is imported", args.name);
    let body = ImportTemplate {
        archive: on_the_node(&args.file)?,
        metadata: args.metadata.as_deref().map(on_the_node).transpose()?,
        digest: args.digest,
        replace: args.replace,
    };
    args.change
        .carry_out(context, &Change::import_template(&args.name, &body), |_| {
            imported
        })
        .await
}

async fn pull(context: &Context, args: PullArgs) -> Result<ExitCode, Failure> {
    let called = args.name.replace('/', "-");
    let name: TemplateName = called.parse().map_err(|why| {
        let hint = "name the template, and the image beside it: NAME --image IMAGE";
        Failure::refused(Code::Invalid, format!("{why}"), hint)
    })?;
    let pulled = format!("template {name} is pulled");
    let body = PullTemplate {
        remote: args.remote,
        image: args.image.unwrap_or(args.name),
        plain_http: args.plain_http,
        replace: args.replace,
    };
    args.change
        .carry_out(context, &Change::pull_template(&name, &body), |_| pulled)
        .await
}

/// A file's absolute path, which is what the daemon finds it by.
fn on_the_node(file: &str) -> Result<String, Failure> {
    let file = std::path::absolute(file)?;
    file.into_os_string().into_string().map_err(|file| {
        Failure::refused(
            Code::Invalid,
            format!("{} is not UTF-8", file.to_string_lossy().escape_debug()),
            "rename the file",
        )
    })
}

/// The recipe as the daemon finds it, and the name that it suggests. What has a slash is a file.
fn resolve_recipe(recipe: &str) -> Result<(String, Option<TemplateName>), Failure> {
    if !recipe.contains('/') {
        return Ok((recipe.to_owned(), recipe.parse().ok()));
    }
    let file = std::path::absolute(recipe)?;
    let stem = file
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let name = stem.parse().ok();
    Ok((on_the_node(recipe)?, name))
}

fn render_list(all: &[TemplateView]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|t| {
            vec![
                t.name.to_string(),
                format!("{} {}", t.manifest.distribution, t.manifest.version),
                root_kind(t.manifest.root_kind).to_owned(),
                if t.manifest.layout.impermanence {
                    "on"
                } else {
                    "off"
                }
                .to_owned(),
                t.size_bytes.to_string(),
                moment(t.created_unix_ms),
                t.digest.short().to_owned(),
            ]
        })
        .collect();
    table(
        &[
            "name",
            "system",
            "root kind",
            "impermanence",
            "size",
            "made",
            "digest",
        ],
        &rows,
    )
}

fn render_one(t: &TemplateView) -> String {
    let layout = &t.manifest.layout;
    let mut rows = vec![
        ("name", t.name.to_string()),
        ("digest", t.digest.to_string()),
        ("size", t.size_bytes.to_string()),
        ("made", moment(t.created_unix_ms)),
        (
            "system",
            format!(
                "{} {} ({})",
                t.manifest.distribution, t.manifest.version, t.manifest.architecture
            ),
        ),
        ("init", t.manifest.init.to_string()),
        ("root kind", root_kind(t.manifest.root_kind).to_owned()),
        (
            "impermanence",
            if layout.impermanence { "on" } else { "off" }.to_owned(),
        ),
    ];
    if let Some(storage) = &layout.storage {
        rows.push(("storage", storage.to_string()));
    }
    for dataset in &layout.datasets {
        rows.push((
            "dataset",
            format!("{}, quota {}", dataset.name, String::from(dataset.quota)),
        ));
    }
    for mount in &layout.mounts {
        let dataset = if mount.dataset.is_root() {
            "the root dataset".to_owned()
        } else {
            mount.dataset.to_string()
        };
        rows.push((
            "mount",
            format!(
                "{dataset} at {}{}",
                mount.path,
                if mount.read_only { ", read-only" } else { "" }
            ),
        ));
    }
    facts(&rows)
}

/// The word for a kind of root.
pub(super) fn root_kind(kind: RootKind) -> &'static str {
    match kind {
        RootKind::Empty => "empty",
        RootKind::Template => "template",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> TemplateView {
        serde_json::from_value(serde_json::json!({
            "name": "debian-12-impermanence", "digest": "ab".repeat(32), "size_bytes": 216_u64 << 20,
            "created_unix_ms": 1_763_837_000_000_u64,
            "manifest": {
                "distribution": "debian", "version": "12", "architecture": "amd64", "root_kind": "template",
                "layout": {
                    "dataset": [{ "name": "srv", "quota": "30%" }],
                    "mount": [{ "path": "/persistent" }, { "dataset": "srv", "path": "/srv", "read_only": true }],
                    "impermanence": true, "storage": "/persistent"
                }
            }
        }))
        .unwrap()
    }

    #[test]
    fn templates_are_a_table() {
        assert_eq!(
            render_list(&[template()]),
            "\
NAME                    SYSTEM     ROOT KIND  IMPERMANENCE  SIZE  MADE                  DIGEST
debian-12-impermanence  debian 12  template   on            216M  2025-11-22 18:43:20Z  abababababababab
"
        );
    }

    #[test]
    fn one_template_shows_its_layout() {
        let text = render_one(&template());
        assert!(text.contains("dataset:       srv, quota 30%\n"), "{text}");
        assert!(
            text.contains("mount:         the root dataset at /persistent\n"),
            "{text}"
        );
        assert!(
            text.contains("mount:         srv at /srv, read-only\n"),
            "{text}"
        );
    }

    #[test]
    fn a_recipe_with_a_slash_is_a_file() {
        let (recipe, name) = resolve_recipe("debian-12").unwrap();
        assert_eq!(
            (recipe.as_str(), name.unwrap().as_str()),
            ("debian-12", "debian-12")
        );
        let (recipe, name) = resolve_recipe("/etc/mayfly/web.toml").unwrap();
        assert_eq!(
            (recipe.as_str(), name.unwrap().as_str()),
            ("/etc/mayfly/web.toml", "web")
        );
        let (recipe, _) = resolve_recipe("./web.toml").unwrap();
        assert!(recipe.starts_with('/'), "{recipe}");
    }
}
