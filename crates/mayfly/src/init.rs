//! `mayfly init`: a new node.

use std::path::PathBuf;
use std::process::ExitCode;

use mayfly_core::bytes::Bytes;
use mayfly_core::documents::PoolSpec;

use crate::network::NetworkArgs;
use crate::node::{self, StateDir};

const EXAMPLES: &str = "\
Examples:
  mayfly init --pool loop:/var/lib/mayfly/pool.img,size=20G     a btrfs in a file, made for it
  mayfly init --pool btrfs:/srv/ct                              a directory of a mounted btrfs
  mayfly init --pool zfs:tank/ct                                a dataset of a zpool";

/// What `mayfly init` is told.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InitArgs {
    /// Where datasets are kept.
    #[arg(
        long,
        value_name = "POOL",
        value_parser = parse_pool,
        help = "Where datasets are kept: loop:FILE,size=20G[,sparse], btrfs:DIR or zfs:DATASET"
    )]
    pub(crate) pool: PoolSpec,
    /// The directory of everything that the node keeps
    #[arg(long, value_name = "DIR", default_value = crate::DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Makes the node.
pub(crate) fn run(args: InitArgs, json: bool) -> anyhow::Result<ExitCode> {
    let state = StateDir::new(&args.state_dir)?;
    let node = node::init(&state, args.pool, &args.network.into())?;
    if json {
        println!("{}", serde_json::to_string_pretty(&node)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("node {} in {}", node.id, state.path().display());
    if let Some(network) = &node.network {
        println!(
            "  network {}: {} and {}",
            network.bridge, network.subnet, network.prefix
        );
    }
    println!(
        "  next: mayfly serve --state-dir {}",
        state.path().display()
    );
    Ok(ExitCode::SUCCESS)
}

/// The smallest file that a btrfs with room for a template fits into.
const SMALLEST: Bytes = Bytes::mib(256);

/// Parses what `--pool` takes.
pub(crate) fn parse_pool(text: &str) -> Result<PoolSpec, String> {
    let forms = "write loop:FILE,size=20G[,sparse], btrfs:DIR or zfs:DATASET";
    match text.split_once(':') {
        Some(("loop", rest)) => parse_loop(rest),
        Some(("btrfs", directory)) => Ok(PoolSpec::Btrfs {
            directory: absolute(directory)?,
        }),
        Some(("zfs", dataset)) => parse_zfs(dataset),
        _ => Err(format!(
            "`{}` names no kind of pool: {forms}",
            text.escape_debug()
        )),
    }
}

fn parse_zfs(dataset: &str) -> Result<PoolSpec, String> {
    if dataset.is_empty() {
        return Err("the dataset is missing: zfs:tank/ct".to_owned());
    }
    if dataset.starts_with('/') {
        return Err(format!(
            "`{}` is a path: a dataset is named without the slash in front, zfs:tank/ct",
            dataset.escape_debug()
        ));
    }
    Ok(PoolSpec::Zfs {
        dataset: dataset.to_owned(),
    })
}

fn parse_loop(text: &str) -> Result<PoolSpec, String> {
    let mut parts = text.split(',');
    let file = absolute(parts.next().unwrap_or_default())?;
    let (mut size, mut sparse) = (None, false);
    for part in parts {
        match part.split_once('=') {
            Some(("size", bytes)) if size.is_none() => {
                size = Some(bytes.parse::<Bytes>().map_err(|e| e.to_string())?);
            }
            None if part == "sparse" && !sparse => sparse = true,
            _ => {
                return Err(format!(
                    "`{}` is not understood: a loop pool has size=SIZE and sparse",
                    part.escape_debug()
                ));
            }
        }
    }
    match size {
        None => Err("a loop pool needs its size: loop:FILE,size=20G".to_owned()),
        Some(size) if size < SMALLEST => Err(format!(
            "a pool of {size} is too small: {SMALLEST} at least"
        )),
        Some(size_bytes) => Ok(PoolSpec::Loop {
            file,
            size_bytes,
            sparse,
        }),
    }
}

/// The path as the daemon will find it, wherever it is started.
fn absolute(path: &str) -> Result<String, String> {
    if path.is_empty() {
        return Err("the path is missing".to_owned());
    }
    let absolute =
        std::path::absolute(path).map_err(|e| format!("`{}`: {e}", path.escape_debug()))?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|_| format!("`{}` is not UTF-8", path.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_named_by_kind_and_place() {
        assert_eq!(
            parse_pool("loop:/srv/pool.img,size=20G"),
            Ok(PoolSpec::Loop {
                file: "/srv/pool.img".into(),
                size_bytes: Bytes::gib(20),
                sparse: false
            })
        );
        assert_eq!(
            parse_pool("loop:/srv/pool.img,sparse,size=512M"),
            Ok(PoolSpec::Loop {
                file: "/srv/pool.img".into(),
                size_bytes: Bytes::mib(512),
                sparse: true
            })
        );
        assert_eq!(
            parse_pool("btrfs:/srv/pool"),
            Ok(PoolSpec::Btrfs {
                directory: "/srv/pool".into()
            })
        );
    }

    #[test]
    fn a_relative_path_becomes_absolute() {
        let Ok(PoolSpec::Btrfs { directory }) = parse_pool("btrfs:pool") else {
            panic!("refused")
        };
        assert!(directory.starts_with('/') && directory.ends_with("/pool"));
    }

    #[test]
    fn what_is_no_pool_is_refused_with_the_reason() {
        let why = |text: &str| parse_pool(text).expect_err(text);
        assert!(why("zfs:").contains("dataset is missing"));
        assert!(why("zfs:/tank/ct").contains("is a path"));
        assert!(why("/srv/pool").contains("write loop:"));
        assert!(why("loop:/p").contains("needs its size"));
        assert!(why("loop:/p,size=20X").contains("not a size"));
        assert!(why("loop:/p,size=20M").contains("too small"));
        assert!(why("loop:/p,size=20G,size=30G").contains("not understood"));
        assert!(why("loop:/p,size=20G,thin").contains("not understood"));
        assert!(why("loop:,size=20G").contains("path is missing"));
        assert!(why("btrfs:").contains("path is missing"));
    }
}
