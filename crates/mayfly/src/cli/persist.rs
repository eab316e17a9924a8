//! What a VPS declares to stay.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use mayfly_api::{
    Change, ChangePersistence, DeclarationView, OriginView, PersistenceView, VpsState, VpsView,
};
use mayfly_core::persist::change::{AddPath, PathKind};
use mayfly_core::persist::declare::{Method, Severity, Tier};
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::report::{State, Summary};

use super::change::ChangeArgs;
use super::screen::escape;
use super::table::table;
use super::words::parse_vps;
use super::{Context, Failure};

const EXAMPLES: &str = "\
Examples:
  mayfly persist add web /var/lib/postgresql/     with a slash at its end it is a directory
  mayfly persist add web /etc/app.conf --method copy
  mayfly persist add web /var/cache/app --directory --tier cache";

#[derive(Debug, Subcommand)]
pub(crate) enum PersistVerb {
    /// Declare paths; from the next start on what is stored for them is there
    Add(AddArgs),
    /// All that a VPS declares, and who declares it
    List {
        /// Id or host name
        #[arg(value_parser = parse_vps)]
        vps: String,
    },
    /// Declare paths no more; what is stored for them stays in the storage
    Remove {
        /// Id or host name
        #[arg(value_parser = parse_vps)]
        vps: String,
        /// What is declared
        #[arg(value_name = "PATH", required = true, value_parser = parse_path)]
        paths: Vec<Typed>,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AddArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// Absolute paths inside the VPS
    #[arg(value_name = "PATH", required = true, value_parser = parse_path)]
    paths: Vec<Typed>,
    /// What they are worth: kept and backed up, kept, or never reported as loss [default: data]
    #[arg(long, value_enum)]
    tier: Option<TierWord>,
    /// How files are made to stay [default: auto]
    #[arg(long, value_enum, conflicts_with = "directory")]
    method: Option<MethodWord>,
    /// They are directories
    #[arg(long, conflicts_with = "file")]
    directory: bool,
    /// They are files
    #[arg(long)]
    file: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TierWord {
    Data,
    Cache,
    Ignore,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MethodWord {
    Auto,
    Symlink,
    Copy,
}

/// A path as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    path: TreePath,
    /// Whether it ends with a slash: then it is meant to be a directory.
    slash: bool,
}

fn parse_path(text: &str) -> Result<Typed, String> {
    let path = TreePath::try_from(text.to_owned()).map_err(str::to_owned)?;
    Ok(Typed {
        slash: text.ends_with('/') && !path.is_top(),
        path,
    })
}

impl AddArgs {
    fn wishes(&self) -> Vec<AddPath> {
        let tier = self.tier.map(|tier| match tier {
            TierWord::Data => Tier::Data,
            TierWord::Cache => Tier::Cache,
            TierWord::Ignore => Tier::Ignore,
        });
        let method = self.method.map(|method| match method {
            MethodWord::Auto => Method::Auto,
            MethodWord::Symlink => Method::Symlink,
            MethodWord::Copy => Method::Copy,
        });
        let wish = |typed: &Typed| AddPath {
            path: typed.path.clone(),
            kind: match (self.directory || typed.slash, self.file) {
                (true, _) => Some(PathKind::Directory),
                (false, true) => Some(PathKind::File),
                (false, false) => None,
            },
            tier,
            method,
        };
        self.paths.iter().map(wish).collect()
    }
}

pub(super) async fn run(context: &Context, verb: PersistVerb) -> Result<ExitCode, Failure> {
    match verb {
        PersistVerb::Add(args) => {
            let body = ChangePersistence {
                add: args.wishes(),
                remove: Vec::new(),
            };
            let vps = context.client.vps(&args.vps).await?;
            let change = Change::change_persistence(&args.vps, &body);
            args.change
                .carry_out(context, &change, |_| added(&args.vps, &vps, &body.add))
                .await
        }
        PersistVerb::List { vps } => {
            let found = context.client.persistence(&vps).await?;
            context.screen.show(&found, render_list)?;
            Ok(ExitCode::SUCCESS)
        }
        PersistVerb::Remove { vps, paths, change } => {
            let body = ChangePersistence {
                add: Vec::new(),
                remove: paths.into_iter().map(|typed| typed.path).collect(),
            };
            // Where the stored data is, nobody declares afterwards.
            let before = context.client.persistence(&vps).await?;
            let request = Change::change_persistence(&vps, &body);
            change
                .carry_out(context, &request, |_| removed(&vps, &before, &body.remove))
                .await
        }
    }
}

/// What is to be known of what was declared just now.
fn added(typed: &str, vps: &VpsView, paths: &[AddPath]) -> String {
    let named: Vec<_> = paths.iter().map(|wish| wish.path.as_str()).collect();
    let mut text = format!("declared: {}\n", named.join(", "));
    if vps.impermanence.is_none() {
        text.push_str("it holds once impermanence is on: until then all of `/` stays\n");
        return text;
    }
    let runs = matches!(vps.state, VpsState::Running | VpsState::Starting);
    let verb = if runs { "restart" } else { "start" };
    text.push_str(&format!(
        "it holds from the next start on: mayfly {verb} {typed}\n"
    ));
    match (&vps.storage, runs) {
        (Some(storage), true) => {
            let words: Vec<_> = named.iter().map(|path| quoted(path)).collect();
            text.push_str(&format!(
                "what is there now is not moved and goes with the temporary root, unless it is copied before: \
                 mayfly exec {typed} -- cp -a --parents {} {storage}\n",
                words.join(" ")
            ));
        }
        _ => text.push_str("what the last root has there is not moved, and goes with that root\n"),
    }
    text
}

fn removed(typed: &str, before: &PersistenceView, paths: &[TreePath]) -> String {
    let named: Vec<_> = paths.iter().map(TreePath::as_str).collect();
    let mut text = format!(
        "declared no more: {}\nit holds from the next start of {typed} on\n",
        named.join(", ")
    );
    for line in before
        .declarations
        .iter()
        .filter(|line| paths.contains(&line.path))
    {
        let stored = line.path.below(&line.storage);
        text.push_str(&format!("what is stored stays at {stored}\n"));
    }
    text
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,=".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn render_list(found: &PersistenceView) -> String {
    let mut text = String::new();
    if let Some(why) = &found.inactive {
        text.push_str(&format!("nothing is done for it: {}\n\n", escape(why)));
    }
    let rows: Vec<_> = found.declarations.iter().map(row).collect();
    text.push_str(&table(
        &["path", "what", "tier", "storage", "declared by", "note"],
        &rows,
    ));
    let mut lines: Vec<String> = Vec::new();
    lines.extend(
        found
            .disabled
            .iter()
            .map(|path| format!("taken away: {path}")),
    );
    if let Some(storage) = &found.accounts {
        lines.push(format!("users and groups are kept in {storage}"));
    }
    for problem in &found.problems {
        let word = match problem.severity {
            Severity::Error => "problem",
            Severity::Warning => "warning",
        };
        lines.push(format!("{word}: {}: {}", problem.at, problem.what));
    }
    if found.problems_omitted > 0 {
        lines.push(format!("and {} problems more", found.problems_omitted));
    }
    if let Some(last) = &found.last_start {
        lines.push(format!("at the last start: {}", summary(last)));
        lines.extend(last.troubles.iter().map(|trouble| format!("  {trouble}")));
    }
    if !lines.is_empty() {
        text.push('\n');
    }
    for line in lines {
        text.push_str(&escape(&line));
        text.push('\n');
    }
    text
}

fn row(line: &DeclarationView) -> Vec<String> {
    let what = match line.method {
        None => line.kind.as_str().to_owned(),
        Some(Method::Auto) => "file".to_owned(),
        Some(Method::Symlink) => "file, symlink".to_owned(),
        Some(Method::Copy) => "file, copy".to_owned(),
    };
    let tier = match line.tier {
        Tier::Data => "data",
        Tier::Cache => "cache",
        Tier::Ignore => "ignore",
    };
    let by = match (line.origin, &line.preset) {
        (OriginView::Manifest, _) => "template".to_owned(),
        (OriginView::Preset, Some(preset)) => format!("preset {preset}"),
        (OriginView::Preset, None) => "preset".to_owned(),
        (OriginView::File, _) => "own file".to_owned(),
    };
    let note = match (&line.trouble, &line.within) {
        (Some(why), _) => format!("will not stay: {why}"),
        (None, Some(at)) => format!("in {at}"),
        (None, None) => String::new(),
    };
    vec![
        line.path.to_string(),
        what,
        tier.to_owned(),
        line.storage.to_string(),
        by,
        note,
    ]
}

/// How it went at a start, in a line.
pub(super) fn summary(told: &Summary) -> String {
    let counted = match (told.staying, told.troubled) {
        (stay, 0) => format!("{stay} stay"),
        (stay, 1) => format!("{stay} stay, 1 does not as it should"),
        (stay, troubled) => format!("{stay} stay, {troubled} do not as they should"),
    };
    let why = told.why.as_deref().unwrap_or_default();
    match (told.state, why) {
        (State::Applied, _) => format!("applied, {counted}"),
        (State::Degraded, "") => format!("degraded, {counted}"),
        (State::Degraded, why) => format!("degraded, {counted}: {why}"),
        (State::Inactive, "") => "inactive".to_owned(),
        (State::Inactive, why) => format!("inactive: {why}"),
    }
}

#[cfg(test)]
mod tests;
