//! The node and its pool.

use std::process::ExitCode;

use clap::Subcommand;
use mayfly_api::{NodeView, PoolView, ShareView};
use mayfly_core::documents::PoolSpec;

use super::screen::escape;
use super::table::{facts, or_dash, table};
use super::{Context, Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum PoolVerb {
    /// Room, datasets, and what waits to be destroyed
    Show,
}

pub(super) async fn status(context: &Context) -> Result<ExitCode, Failure> {
    context
        .screen
        .show(&context.client.node().await?, render_node)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn pool(context: &Context, verb: PoolVerb) -> Result<ExitCode, Failure> {
    let PoolVerb::Show = verb;
    context
        .screen
        .show(&context.client.pool().await?, render_pool)?;
    Ok(ExitCode::SUCCESS)
}

fn render_node(node: &NodeView) -> String {
    let mut vpses = format!("{}, {} running", node.vpses, node.running);
    if node.needs_operator > 0 {
        vpses.push_str(&format!(", {} need an operator", node.needs_operator));
    }
    let mut text = facts(&[
        ("node", node.id.to_string()),
        ("version", node.version.clone()),
        ("pool", pool_name(&node.pool)),
        (
            "network",
            node.network.as_ref().map_or_else(
                || "none".to_owned(),
                |own| format!("{}, {} and {}", own.bridge, own.subnet, own.prefix),
            ),
        ),
        (
            "space",
            node.space
                .as_ref()
                .map_or_else(|| "could not be looked at".to_owned(), space),
        ),
        ("vpses", vpses),
        ("templates", node.templates.to_string()),
        ("operations", format!("{} under way", node.operations)),
    ]);
    list_below(&mut text, "trouble", &node.trouble);
    text
}

fn render_pool(pool: &PoolView) -> String {
    let mut text = facts(&[
        ("pool", pool_name(&pool.pool)),
        ("space", space(&pool.space)),
    ]);
    if !pool.datasets.is_empty() {
        let rows: Vec<_> = pool
            .datasets
            .iter()
            .map(|d| {
                vec![
                    d.dataset.clone(),
                    d.role.clone(),
                    or_dash(d.quota_bytes),
                    or_dash(d.used_bytes),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&table(&["dataset", "role", "quota", "used"], &rows));
    }
    list_below(&mut text, "waiting to be destroyed", &pool.waiting);
    list_below(&mut text, "left alone", &pool.reports);
    text
}

fn list_below(text: &mut String, heading: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    text.push_str(&format!("\n{heading}:\n"));
    for item in items {
        text.push_str(&format!("  {}\n", escape(item)));
    }
}

fn space(space: &ShareView) -> String {
    format!(
        "{} free of {}, {} promised ({} %)",
        space.free_bytes, space.capacity_bytes, space.promised_bytes, space.promised_percent
    )
}

/// The pool as `--pool` names it.
fn pool_name(spec: &PoolSpec) -> String {
    match spec {
        PoolSpec::Loop {
            file,
            size_bytes,
            sparse,
        } => {
            format!(
                "loop:{file},size={size_bytes}{}",
                if *sparse { ",sparse" } else { "" }
            )
        }
        PoolSpec::Btrfs { directory } => format!("btrfs:{directory}"),
        PoolSpec::Zfs { dataset } => format!("zfs:{dataset}"),
    }
}

#[cfg(test)]
mod tests {
    use mayfly_api::PoolDatasetView;
    use mayfly_core::bytes::Bytes;

    use super::*;

    const SPACE: ShareView = ShareView {
        capacity_bytes: Bytes::gib(20),
        free_bytes: Bytes::gib(15),
        promised_bytes: Bytes::gib(30),
        promised_percent: 150,
    };

    #[test]
    fn status_says_what_is_wrong() {
        let node = NodeView {
            id: "0123456789abcdef".parse().unwrap(),
            version: "0.1.0".into(),
            pool: PoolSpec::Loop {
                file: "/srv/pool.img".into(),
                size_bytes: Bytes::gib(20),
                sparse: true,
            },
            vpses: 3,
            running: 2,
            needs_operator: 1,
            templates: 1,
            operations: 0,
            space: Some(SPACE),
            network: None,
            trouble: vec!["a root of nobody: x".into()],
        };
        assert_eq!(
            render_node(&node),
            "\
node:        0123456789abcdef
version:     0.1.0
pool:        loop:/srv/pool.img,size=20G,sparse
network:     none
space:       15G free of 20G, 30G promised (150 %)
vpses:       3, 2 running, 1 need an operator
templates:   1
operations:  0 under way

trouble:
  a root of nobody: x
"
        );
    }

    #[test]
    fn the_pool_is_listed_with_what_waits() {
        let pool = PoolView {
            pool: PoolSpec::Btrfs {
                directory: "/srv/pool".into(),
            },
            space: SPACE,
            datasets: vec![PoolDatasetView {
                dataset: "100.impermanence-c5a8b7".into(),
                role: "temporary".into(),
                quota_bytes: Some(Bytes::gib(10)),
                used_bytes: None,
            }],
            waiting: vec!["trash/x".into()],
            reports: vec![],
        };
        assert_eq!(
            render_pool(&pool),
            "\
pool:   btrfs:/srv/pool
space:  15G free of 20G, 30G promised (150 %)

DATASET                  ROLE       QUOTA  USED
100.impermanence-c5a8b7  temporary  10G    -

waiting to be destroyed:
  trash/x
"
        );
    }
}
