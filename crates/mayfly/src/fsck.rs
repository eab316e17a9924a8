//! `mayfly fsck`: looks a node over, through its daemon where one runs, else by itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mayfly_api::{FindingView, FsckView, paths};

use crate::cli::{Failure, Screen, escape, socket_path};
use crate::node::{self, StateDir};

/// What `mayfly fsck` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct FsckArgs {
    /// Mend what can be proven; say what is left to you
    #[arg(long)]
    pub(crate) repair: bool,
    /// The directory of everything that the node keeps; else the one that the socket is in
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// The state directory that a command is about: the one that was named, or that of the socket.
pub(crate) fn state_dir_of(given: Option<PathBuf>, socket: Option<PathBuf>) -> PathBuf {
    let of_socket = |socket: &Path| {
        let named = socket.file_name().is_some_and(|name| name == paths::SOCKET);
        socket.parent().filter(|_| named).map(Path::to_path_buf)
    };
    given
        .or_else(|| of_socket(&socket_path(socket)))
        .unwrap_or_else(|| PathBuf::from(crate::DEFAULT_STATE_DIR))
}

/// Looks the node over. Called before any other thread exists. Status 1 where something is wrong.
pub(crate) fn run(
    args: FsckArgs,
    json: bool,
    socket: Option<PathBuf>,
) -> Result<ExitCode, Failure> {
    let dir = state_dir_of(args.state_dir.clone(), socket.clone());
    let state = StateDir::new(&dir)?;
    let view = match state.try_lock() {
        // Nobody else: this process is the node's for a while.
        Ok(Some(lock)) => alone(&state, lock, args.repair)?,
        Ok(None) | Err(_) => {
            let socket = args.state_dir.map_or(socket, |_| Some(state.socket()));
            crate::cli::fsck(socket, args.repair)?
        }
    };
    let clean = view.findings.is_empty() && view.not_mended.is_empty();
    Screen { json }.show(&view, render)?;
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn alone(state: &StateDir, lock: node::Lock, repair: bool) -> anyhow::Result<FsckView> {
    let (daemon, trouble) = node::open_to_look(state, lock)?;
    let report = match trouble {
        None => daemon.engine.fsck(repair)?,
        Some(why) => daemon.engine.fsck_without_state(&why)?,
    };
    Ok(mayfly_server::fsck_view(report))
}

fn render(view: &FsckView) -> String {
    let mut text = String::new();
    for found in &view.mended {
        tell(&mut text, "mended", found);
        if let Some(repair) = &found.repair {
            text.push_str(&format!("  done: {}\n", escape(repair)));
        }
    }
    for failed in &view.not_mended {
        tell(&mut text, "not mended", &failed.finding);
        text.push_str(&format!("  why: {}\n", escape(&failed.why)));
    }
    for found in &view.findings {
        tell(&mut text, "found", found);
        if let Some(repair) = &found.repair {
            text.push_str(&format!("  --repair would: {}\n", escape(repair)));
        }
        if let Some(hint) = &found.operator {
            text.push_str(&format!("  you: {}\n", escape(hint)));
        }
    }
    if view.findings.is_empty() && view.not_mended.is_empty() {
        text.push_str("nothing is wrong\n");
    }
    text
}

fn tell(text: &mut String, what: &str, found: &FindingView) {
    text.push_str(&format!(
        "{what}: {}: {} [{}]\n",
        escape(&found.object),
        escape(&found.meaning),
        found.code
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(repair: Option<&str>, operator: Option<&str>) -> FindingView {
        FindingView {
            code: "mirror.missing".into(),
            object: "/vps/100".into(),
            meaning: "a lost document could not be rebuilt".into(),
            repair: repair.map(Into::into),
            operator: operator.map(Into::into),
        }
    }

    #[test]
    fn a_finding_says_what_it_is_and_who_mends_it() {
        let view = FsckView {
            findings: vec![
                finding(Some("write the mirror of /vps/100"), None),
                finding(None, Some("look at it")),
            ],
            mended: vec![finding(Some("write it"), None)],
            not_mended: vec![],
        };
        assert_eq!(
            render(&view),
            "\
mended: /vps/100: a lost document could not be rebuilt [mirror.missing]
  done: write it
found: /vps/100: a lost document could not be rebuilt [mirror.missing]
  --repair would: write the mirror of /vps/100
found: /vps/100: a lost document could not be rebuilt [mirror.missing]
  you: look at it
"
        );
        assert_eq!(render(&FsckView::default()), "nothing is wrong\n");
    }

    #[test]
    fn the_node_is_the_one_that_was_named_or_that_of_the_socket() {
        let dir = |given: Option<&str>, socket: &str| {
            state_dir_of(given.map(Into::into), Some(socket.into()))
        };
        assert_eq!(dir(Some("/a"), "/b/api.sock"), Path::new("/a"));
        assert_eq!(dir(None, "/b/api.sock"), Path::new("/b"));
        assert_eq!(dir(None, "/b/other"), Path::new(crate::DEFAULT_STATE_DIR));
    }
}
