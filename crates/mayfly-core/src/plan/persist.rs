//! Changing what a VPS declares to stay: its own file is written anew, from the text that was read, and only over that.
//!
//! What is written has been read back by the code that the helper inside reads it with, and every path that was to be
//! added is found to stay.

use super::parts::no_such_dataset;
use super::places::mount_of;
use super::{Plan, Step};
use crate::documents::VpsDoc;
use crate::error::{Code, LookFailed, Refusal};
use crate::ids::Digest;
use crate::names::{GuestPath, PoolPath};
use crate::observed::Observed;
use crate::persist::change::{AddPath, PathKind, PersistChange};
use crate::persist::declare::{Method, Severity};
use crate::persist::edit::{Editor, Entry};
use crate::persist::limits;
use crate::persist::list::{Listed, Listing, list};
use crate::persist::own::{DeclaredSeen, FILES, Format, Found, OwnFile};
use crate::persist::path::TreePath;
use crate::persist::read::parse_toml;
use crate::persist::unite::{Kind, Origin};
use crate::ports::{FileEdit, TreePlan};
use crate::space::shown;

/// So many paths may be named at once.
const PATHS: usize = 256;

/// Below these the kernel or the init shows what it likes.
const SYSTEM: [&str; 4] = ["dev", "proc", "run", "sys"];

/// All of the change, or nothing; it holds from the next start on, whether the VPS runs or not.
pub fn plan_persist_change(
    doc: &VpsDoc,
    seen: &Observed,
    change: &PersistChange,
) -> Result<Plan, Refusal> {
    let Some(declared) = &seen.declared else {
        return Err(LookFailed::new("what the VPS declares", "it was not looked for").into());
    };
    let paths = change.add.len() + change.remove.len();
    if paths == 0 || paths > PATHS {
        return Err(Refusal::new(
            Code::Invalid,
            format!("{paths} paths are named, and it may be 1 to {PATHS} at once"),
            format!(
                "name one: mayfly persist add {} /etc/app.conf --file",
                doc.id
            ),
        ));
    }
    let (storage, place) = check_storage(doc)?;
    let mut draft = Draft::of(doc, &storage, declared)?;
    let before = draft.listing();
    for path in &change.remove {
        draft.remove(path)?;
    }
    for path in &change.add {
        draft.add(path)?;
    }
    draft.check(&before, change)?;
    let what = words_for(&draft.listed(change), &change.remove);
    let edit = FileEdit {
        path: place.file,
        before: draft.before.map(|text| Digest::of(text.as_bytes())),
        after: draft.editor.text(),
        what,
    };
    if edit.before == Some(Digest::of(edit.after.as_bytes())) {
        return Ok(Plan::default());
    }
    let tree = TreePlan {
        directories: place.directories,
        edits: vec![edit],
        ..TreePlan::default()
    };
    let step = Step::PrepareTree {
        dataset: place.dataset,
        tree,
    };
    Ok(Plan {
        steps: vec![step.final_because("the file is replaced whole, or not at all")],
    })
}

/// The own file in the pool.
struct Place {
    dataset: PoolPath,
    directories: Vec<GuestPath>,
    file: GuestPath,
}

/// The storage, which must be a dataset of its own that can be written.
fn check_storage(doc: &VpsDoc) -> Result<(TreePath, Place), Refusal> {
    let Some(storage) = &doc.storage else {
        return Err(Refusal::new(
            Code::PersistNoStorage,
            format!("VPS {} has no storage for declared paths", doc.title()),
            "make it from a template that has one, such as debian-12-impermanence",
        ));
    };
    let refuse = |why: String, hint: String| {
        let message = format!("VPS {}: {why}", doc.title());
        Err(Refusal::new(Code::PersistNoStorage, message, hint))
    };
    let named = TreePath::parse(storage.as_str()).ok();
    let Some((path, mount)) = named.and_then(|path| Some((path.clone(), mount_of(doc, &path)?)))
    else {
        return refuse(
            format!("nothing is mounted at its storage {storage}, so nothing would stay there"),
            format!(
                "mount a dataset there: mayfly mount add {} {storage}",
                doc.id
            ),
        );
    };
    if mount.read_only {
        return refuse(
            format!("its storage {storage} is read-only"),
            format!(
                "mount it anew: mayfly mount remove {} {}, then mayfly mount add",
                doc.id, mount.path
            ),
        );
    }
    if doc.dataset(&mount.dataset).is_none() {
        return Err(no_such_dataset(doc, &mount.dataset));
    }
    let inside = storage.below(&mount.path).unwrap_or_default();
    let file = format!("{inside}{}", FILES[0].0);
    let mut directories = Vec::new();
    let mut at = String::new();
    let (above, _) = file.rsplit_once('/').unwrap_or_default();
    for name in above.split('/').filter(|name| !name.is_empty()) {
        at = format!("{at}/{name}");
        directories.push(super::platform::path(&at));
    }
    let (_, name) = file.rsplit_once('/').unwrap_or_default();
    let place = Place {
        dataset: doc.pool_path(&mount.dataset),
        file: super::platform::path(&format!("{at}/{name}")),
        directories,
    };
    Ok((path, place))
}

/// The file as it is to be.
struct Draft<'a> {
    doc: &'a VpsDoc,
    storage: &'a TreePath,
    seen: DeclaredSeen,
    before: Option<String>,
    editor: Editor,
}

/// The file's text and the file in hand, where it can be changed.
fn take(doc: &VpsDoc, own: Option<&OwnFile>) -> Result<(Option<String>, Editor), Refusal> {
    let Some(own) = own else {
        return Ok((None, Editor::new()));
    };
    let refuse = |why: String, hint: String| {
        let message = format!("VPS {}: {} cannot be changed: {why}", doc.title(), own.path);
        Err(Refusal::new(Code::PersistNotEditable, message, hint))
    };
    let text = match (&own.text, own.format) {
        (Err(why), _) => {
            let hint = format!("inside the VPS, make {} a plain file of text", own.path);
            return refuse(why.clone(), hint);
        }
        (Ok(_), Format::Json) => {
            let hint = format!(
                "inside the VPS, edit it, or say the same in {} beside it, which counts instead",
                FILES[0].0
            );
            return refuse("it is JSON, and only TOML is edited".to_owned(), hint);
        }
        (Ok(text), Format::Toml) => text,
    };
    let mend = format!(
        "mend it inside the VPS; see `mayfly persist list {}`",
        doc.id
    );
    if text.len() > limits::EDIT_BYTES {
        let why = format!(
            "it has {} bytes, and 64 KiB are the most that is changed from outside",
            text.len()
        );
        return refuse(
            why,
            format!(
                "edit it inside the VPS; see `mayfly persist list {}`",
                doc.id
            ),
        );
    }
    // What is wrong with the file as a whole stands at no place in it. The parser is only given what nests as it may.
    let problems = parse_toml(text).problems;
    let whole = problems
        .iter()
        .find(|p| p.at.is_empty() && p.severity == Severity::Error);
    if let Some(problem) = whole {
        return refuse(problem.what.clone(), mend);
    }
    match Editor::parse(text) {
        Ok(editor) => Ok((Some(text.clone()), editor)),
        Err(why) => refuse(format!("it is not TOML: {why}"), mend),
    }
}

impl<'a> Draft<'a> {
    fn of(doc: &'a VpsDoc, storage: &'a TreePath, seen: &DeclaredSeen) -> Result<Self, Refusal> {
        let (before, editor) = take(doc, seen.own.as_ref())?;
        Ok(Self {
            doc,
            storage,
            seen: seen.clone(),
            before,
            editor,
        })
    }

    /// What the draft and all else declare.
    fn listing(&mut self) -> Listing {
        let path = self.storage.join(FILES[0].0);
        self.seen.own = Some(OwnFile {
            path: path.unwrap_or_else(|_| self.storage.clone()),
            format: Format::Toml,
            text: Ok(self.editor.text()),
        });
        list(&self.doc.manifest.layout.persistence, &self.seen)
    }

    fn refusal(&self, code: Code, what: String, hint: impl Into<String>) -> Refusal {
        Refusal::new(code, format!("VPS {}: {what}", self.doc.title()), hint)
    }

    fn put(&mut self, entry: &Entry) -> Result<(), Refusal> {
        self.editor.add(self.storage, entry).map_err(|why| {
            let hint = format!(
                "inside the VPS, mend the file; see mayfly persist list {}",
                self.doc.id
            );
            self.refusal(
                Code::PersistNotEditable,
                format!("its own file cannot be changed: {why}"),
                hint,
            )
        })
    }

    fn remove(&mut self, path: &TreePath) -> Result<(), Refusal> {
        let listing = self.listing();
        let see = format!("see `mayfly persist list {}`", self.doc.id);
        if listing.line(path).is_none() {
            let what = match listing.around(path) {
                Some(line) => format!(
                    "{path} is not declared itself; it lies in {}, which is",
                    line.declaration.path
                ),
                None => format!("{path} is not declared"),
            };
            return Err(self.refusal(Code::PersistNotFound, what, see));
        }
        self.editor.take_out(path, true, &self.seen.people);
        // What somebody else declares is taken away by saying so.
        let others: Vec<PathKind> = self
            .listing()
            .lines
            .iter()
            .filter(|l| l.declaration.path == *path)
            .map(|l| kind_of(l.declaration.kind))
            .collect();
        for kind in others {
            self.put(&Entry {
                path: path.clone(),
                kind,
                tier: None,
                method: None,
                enable: false,
            })?;
        }
        if self.listing().line(path).is_some() {
            let what = format!("{path} is declared in a way that cannot be taken out of the file");
            return Err(self.refusal(Code::PersistNotEditable, what, "take it out inside the VPS"));
        }
        Ok(())
    }

    fn add(&mut self, wish: &AddPath) -> Result<(), Refusal> {
        let path = &wish.path;
        self.check_path(path)?;
        let listing = self.listing();
        if let Some(line) = listing.line(path) {
            let what = format!(
                "{path} is declared already, by {}",
                shown_origin(line.declaration.origin)
            );
            let hint = format!(
                "to declare it otherwise: mayfly persist remove {} {path}, then add it again",
                self.doc.id
            );
            return Err(self.refusal(Code::PersistExists, what, hint));
        }
        if let Some(line) = listing.around(path).filter(|l| l.trouble().is_none()) {
            let what = format!(
                "{path} lies in {}, which is declared: it stays already",
                line.declaration.path
            );
            let hint = format!("see `mayfly persist list {}`", self.doc.id);
            return Err(self.refusal(Code::PersistExists, what, hint));
        }
        // Where it was taken away from what somebody else declares, it may be enough not to do that any more.
        self.editor.take_out(path, false, &self.seen.people);
        if wish.tier.is_none() && wish.method.is_none() {
            let listing = self.listing();
            let theirs = listing
                .line(path)
                .map(|line| kind_of(line.declaration.kind));
            if theirs.is_some_and(|theirs| wish.kind.is_none_or(|kind| kind == theirs)) {
                return Ok(());
            }
        }
        let kind = self.kind_of(wish)?;
        self.put(&Entry {
            path: path.clone(),
            kind,
            tier: wish.tier,
            method: wish.method.filter(|method| *method != Method::Auto),
            enable: true,
        })
    }

    fn kind_of(&self, wish: &AddPath) -> Result<PathKind, Refusal> {
        let path = &wish.path;
        match (wish.kind(), self.seen.found.get(path)) {
            (Some(PathKind::Directory), _) if wish.method.is_some() => Err(self.refusal(
                Code::Invalid,
                format!("{path} is to be a directory, and only a file has a method"),
                "leave out the method",
            )),
            (Some(kind), _) => Ok(kind),
            (None, Some(Found::Directory)) => Ok(PathKind::Directory),
            (None, Some(Found::File)) => Ok(PathKind::File),
            (None, _) => Err(self.refusal(
                Code::Invalid,
                format!("it cannot be told whether {path} is to be a directory or a file"),
                format!(
                    "say it: mayfly persist add {} {path} --directory, or --file",
                    self.doc.id
                ),
            )),
        }
    }

    /// Refuses what stays anyway, and what cannot.
    fn check_path(&self, path: &TreePath) -> Result<(), Refusal> {
        let first = path.names().next();
        if path.is_top() || first.is_some_and(|first| SYSTEM.contains(&first)) {
            let what = format!("{path} cannot be declared");
            let hint = "name another path; /, /dev, /proc, /run and /sys belong to the system";
            return Err(self.refusal(Code::PersistRefused, what, hint));
        }
        if let Some(mount) = mount_of(self.doc, path) {
            let dataset = shown(self.doc, &mount.dataset);
            let what = format!(
                "{path} lies in dataset {dataset}, which is mounted at {}: it stays anyway",
                mount.path
            );
            let hint = format!(
                "nothing is to be done; see `mayfly mount list {}`",
                self.doc.id
            );
            return Err(self.refusal(Code::PersistExists, what, hint));
        }
        let below = self
            .doc
            .mounts
            .iter()
            .find(|m| TreePath::parse(m.path.as_str()).is_ok_and(|at| at.is_in(path)));
        if let Some(mount) = below {
            let what = format!(
                "{path} would hide the dataset that is mounted at {}",
                mount.path
            );
            return Err(self.refusal(
                Code::PersistRefused,
                what,
                "declare what is needed of it, path by path",
            ));
        }
        Ok(())
    }

    fn listed(&mut self, change: &PersistChange) -> Vec<Listed> {
        let listing = self.listing();
        let lines = change
            .add
            .iter()
            .filter_map(|wish| listing.line(&wish.path));
        lines.cloned().collect()
    }

    /// What was added is there and stays, and nothing else has come to trouble by it.
    fn check(&mut self, before: &Listing, change: &PersistChange) -> Result<(), Refusal> {
        let size = self.editor.text().len();
        if size > limits::EDIT_BYTES {
            let what = format!(
                "its own file would have {size} bytes, and 64 KiB are the most that is changed from outside"
            );
            return Err(self.refusal(
                Code::PersistRefused,
                what,
                "declare a directory instead of all that is in it",
            ));
        }
        let after = self.listing();
        for AddPath { path, .. } in &change.add {
            let why = match after.line(path) {
                Some(line) => line.trouble(),
                None if after.disabled.contains(path) => Some("the file switches its storage off"),
                None => Some("the file leaves no room for it"),
            };
            if let Some(why) = why {
                let what = format!("{path} would not stay: {why}");
                let hint = format!("see `mayfly persist list {}`", self.doc.id);
                return Err(self.refusal(Code::PersistRefused, what, hint));
            }
        }
        for line in &after.lines {
            let Some(why) = line.trouble() else { continue };
            let declared = &line.declaration;
            let had_trouble = |l: &Listed| l.declaration == *declared && l.trouble().is_some();
            if !before.lines.iter().any(had_trouble) {
                let what = format!("{} would not stay any more: {why}", declared.path);
                let hint = format!("see `mayfly persist list {}`", self.doc.id);
                return Err(self.refusal(Code::PersistRefused, what, hint));
            }
        }
        Ok(())
    }
}

fn kind_of(kind: Kind) -> PathKind {
    if kind.is_directory() {
        PathKind::Directory
    } else {
        PathKind::File
    }
}

/// Who declares something, in words.
fn shown_origin(origin: Origin) -> String {
    match origin {
        Origin::Manifest => "its template".to_owned(),
        Origin::Preset(preset) => format!("the preset {}", preset.name()),
        Origin::Guest => "its own file".to_owned(),
    }
}

fn words_for(added: &[Listed], removed: &[TreePath]) -> String {
    let mut words: Vec<String> = Vec::new();
    for line in added {
        let declared = &line.declaration;
        words.push(format!(
            "declare {}, a {}",
            declared.path,
            kind_of(declared.kind).as_str()
        ));
    }
    words.extend(removed.iter().map(|path| format!("declare {path} no more")));
    words.join("; ")
}
