//! What a NixOS configuration says in so many words. Nothing is evaluated: what would have to be is told as such.
//!
//! A module is a set, behind the functions, `let` and `with` that it begins with; an option is found by the names that lead to
//! it, whether they are written in one path or in sets in each other. Whatever stands where a set or a literal would have to
//! (`lib.mkIf …`, a name, an update) needs evaluation. Of a flake, the lists of modules are read.

use rnix::SyntaxNode;
use rnix::ast::{
    Attr, AttrSet, AttrpathValue, BinOpKind, Entry, Expr, HasEntry as _, InterpolPart, List, Str,
};
use rowan::ast::AstNode as _;

use super::FILE_BYTES;
use super::depth::{has_short_words, is_shallow};
use super::facts::{About, Kept, NixFacts, Unsure};

/// So many places that need evaluation are told of one file.
const UNSURE: usize = 20;
/// So many things of one kind are taken from one file.
const MANY: usize = 4096;
/// So many storages and mounts are taken from one file.
const FEW: usize = 64;
/// A name or a path that is longer is none that could be meant.
const TEXT: usize = 1024;
/// For the parser, which goes down a few calls for each level.
const STACK: usize = 64 << 20;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `flake.nix`.
    Flake,
    /// A module.
    Module,
}

/// Reads a file. A guest's text: bounded in length, in what its words cost and in depth, and read in a thread of its own, so
/// that whatever becomes of that is an error here.
///
/// # Errors
///
/// Why it was not read.
pub fn read_nix(text: &str, role: Role) -> Result<NixFacts, String> {
    if text.len() > FILE_BYTES {
        return Err(format!("it is longer than {FILE_BYTES} bytes"));
    }
    if !has_short_words(text) {
        return Err("its words are too long to be read".to_owned());
    }
    let text = text.to_owned();
    std::thread::Builder::new()
        .name("nix".to_owned())
        .stack_size(STACK)
        .spawn(move || read(&text, role))
        .map_err(|error| format!("it cannot be read now: {error}"))?
        .join()
        .unwrap_or_else(|_| Err("it cannot be read as Nix".to_owned()))
}

fn read(text: &str, role: Role) -> Result<NixFacts, String> {
    if !is_shallow(text) {
        return Err("it nests too deeply to be read".to_owned());
    }
    let parsed = rnix::Root::parse(text);
    if let Some(error) = parsed.errors().first() {
        let why: String = error.to_string().chars().take(200).collect();
        return Err(format!("it is no Nix: {why}"));
    }
    let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
    let mut reader = Reader {
        newlines: newlines.map(|(at, _)| at).collect(),
        facts: NixFacts::default(),
    };
    match (parsed.tree().expr(), role) {
        (None, _) => return Err("it is empty".to_owned()),
        (Some(_), Role::Flake) => reader.flake(&parsed.syntax()),
        (Some(expr), Role::Module) => reader.module(expr),
    }
    Ok(reader.facts)
}

/// Names that lead to an option, outermost first; none for one that needs evaluation.
type Names = Vec<Option<String>>;

struct Reader {
    /// Where lines end.
    newlines: Vec<usize>,
    facts: NixFacts,
}

impl Reader {
    /// All lists of modules, whichever system they are of.
    fn flake(&mut self, top: &SyntaxNode) {
        let mut any = false;
        for entry in top.descendants().filter_map(AttrpathValue::cast) {
            let names = names_of(&entry);
            let last = names.last().and_then(Option::as_deref);
            if let (Some("modules"), Some(value)) = (last, entry.value()) {
                any = true;
                self.modules(&value, "modules");
            }
        }
        if !any {
            self.unsure(top, "modules", About::Everything);
        }
    }

    fn module(&mut self, expr: Expr) {
        match body_of(expr) {
            Some(Expr::AttrSet(set)) => self.set(&set, &Vec::new()),
            Some(other) => self.unsure(other.syntax(), "the module", About::Everything),
            None => {}
        }
    }

    fn set(&mut self, set: &AttrSet, around: &Names) {
        for entry in set.entries() {
            match entry {
                Entry::Inherit(inherit) => {
                    for attr in inherit.attrs() {
                        let mut names = around.clone();
                        names.push(name_of(&attr));
                        if about(&names).is_some() {
                            self.unsure_names(attr.syntax(), &names);
                        }
                    }
                }
                Entry::AttrpathValue(entry) => {
                    let mut names = around.clone();
                    names.extend(names_of(&entry));
                    if names
                        .first()
                        .is_some_and(|n| n.as_deref() == Some("config"))
                    {
                        names.remove(0);
                    }
                    if let Some(value) = entry.value() {
                        self.option(&names, &value);
                    }
                }
            }
        }
    }

    /// What is behind the names is an option, leads to one, or is of no concern.
    fn option(&mut self, names: &Names, value: &Expr) {
        if about(names).is_none() {
            return;
        }
        let Some(known) = names
            .iter()
            .map(Option::as_deref)
            .collect::<Option<Vec<_>>>()
        else {
            return self.unsure_names(value.syntax(), names);
        };
        match known.as_slice() {
            ["imports"] => self.modules(value, "imports"),
            ["environment", "persistence", name, rest @ ..]
            | ["preservation", "preserveAt", name, rest @ ..] => {
                self.kept_option(names, name, rest, value);
            }
            [
                "nix",
                "settings",
                "experimental-features" | "extra-experimental-features",
            ] => {
                self.features(names, value);
            }
            ["nix", "extraOptions"] => match literal_text(value) {
                Some(text) if text.lines().any(sets_flakes) => self.facts.flakes = Some(true),
                Some(_) => {}
                None => self.unsure_names(value.syntax(), names),
            },
            ["services", "openssh", "enable"] => match literal_bool(value) {
                Some(on) => self.facts.sshd = Some(on),
                None => self.unsure_names(value.syntax(), names),
            },
            ["services", "openssh", "hostKeys"] => {
                let keys = self.paths(names, value, "path");
                let known = self.facts.host_keys.get_or_insert_default();
                known.extend(keys.into_iter().take(MANY.saturating_sub(known.len())));
            }
            ["fileSystems", path, ..] => {
                let path = (*path).to_owned();
                let line = self.line(value.syntax());
                let all = &mut self.facts.file_systems;
                if all.len() < FEW && all.iter().all(|(known, _)| *known != path) {
                    all.push((path, line));
                }
            }
            // Whatever else leads to them.
            _ => match strip(value.clone()) {
                Some(Expr::AttrSet(set)) => self.set(&set, names),
                _ => self.unsure_names(value.syntax(), names),
            },
        }
    }

    fn kept_option(&mut self, names: &Names, name: &str, rest: &[&str], value: &Expr) {
        match rest {
            [] => match strip(value.clone()) {
                Some(Expr::AttrSet(set)) => {
                    self.kept(name, value);
                    self.set(&set, names);
                }
                _ => self.unsure_names(value.syntax(), names),
            },
            [what @ ("directories" | "files")] => {
                let key = if *what == "files" {
                    "file"
                } else {
                    "directory"
                };
                let paths = self.paths(names, value, key);
                if let Some(kept) = self.kept(name, value) {
                    let room = MANY.saturating_sub(kept.paths.len());
                    kept.paths.extend(paths.into_iter().take(room));
                }
            }
            ["enable"] => match literal_bool(value) {
                Some(on) => {
                    if let Some(kept) = self.kept(name, value) {
                        kept.disabled = !on;
                    }
                }
                None => self.unsure_names(value.syntax(), names),
            },
            ["persistentStoragePath"] => match literal_path(value) {
                Some(storage) => {
                    if let Some(kept) = self.kept(name, value) {
                        kept.storage = Some(storage);
                    }
                }
                None => self.unsure_names(value.syntax(), names),
            },
            ["users", ..] => {
                if let Some(kept) = self.kept(name, value) {
                    kept.users = true;
                }
            }
            _ => {}
        }
    }

    fn kept(&mut self, name: &str, at: &Expr) -> Option<&mut Kept> {
        let found = self.facts.kept.iter().position(|kept| kept.name == name);
        if found.is_none() && self.facts.kept.len() < FEW {
            let line = self.line(at.syntax());
            self.facts.kept.push(Kept {
                name: name.to_owned(),
                storage: None,
                line,
                paths: Vec::new(),
                users: false,
                disabled: false,
            });
        }
        match found {
            Some(at) => self.facts.kept.get_mut(at),
            None => self.facts.kept.iter_mut().rfind(|kept| kept.name == name),
        }
    }

    fn line(&self, at: &SyntaxNode) -> usize {
        let start = usize::from(at.text_range().start());
        self.newlines.partition_point(|end| *end < start) + 1
    }

    fn unsure_names(&mut self, at: &SyntaxNode, names: &Names) {
        let about = about(names).unwrap_or(About::Everything);
        self.unsure(at, &shown(names), about);
    }

    fn unsure(&mut self, at: &SyntaxNode, option: &str, about: About) {
        if self.facts.unsure.len() >= UNSURE {
            self.facts.unsure_more += 1;
            return;
        }
        let new = Unsure {
            line: self.line(at),
            option: option.to_owned(),
            about,
        };
        if !self.facts.unsure.contains(&new) {
            self.facts.unsure.push(new);
        }
    }

    /// The paths of a list: texts, or sets with the path under `key`.
    fn paths(&mut self, names: &Names, value: &Expr, key: &str) -> Vec<String> {
        let mut paths = Vec::new();
        for item in self.items(value, &shown(names), about(names)) {
            let path = match strip(item.clone()) {
                Some(Expr::AttrSet(set)) => entry_of(&set, key).and_then(|v| literal_path(&v)),
                _ => literal_path(&item),
            };
            match path {
                Some(path) => paths.push(path),
                None => self.unsure_names(item.syntax(), names),
            }
        }
        paths
    }

    /// The items of lists, put together with `++`.
    fn items(&mut self, value: &Expr, option: &str, about: Option<About>) -> Vec<Expr> {
        let (mut items, mut left) = (Vec::new(), vec![value.clone()]);
        while let Some(part) = left.pop() {
            match strip(part.clone()) {
                Some(Expr::List(list)) => items.extend(List::items(&list)),
                Some(Expr::BinOp(op)) if op.operator() == Some(BinOpKind::Concat) => {
                    left.extend(op.rhs());
                    left.extend(op.lhs());
                }
                // The items are looked up in a set by name: they are known all the same.
                Some(Expr::With(with)) => left.extend(with.body()),
                _ => self.unsure(part.syntax(), option, about.unwrap_or(About::Everything)),
            }
        }
        items
    }

    fn features(&mut self, names: &Names, value: &Expr) {
        let words = match literal_text(value) {
            Some(text) => text.split_whitespace().map(str::to_owned).collect(),
            None => self.paths(names, value, ""),
        };
        let on = words.iter().any(|word| word == "flakes");
        self.facts.flakes = Some(on || self.facts.flakes == Some(true));
    }

    /// Files beside this one, modules written out, and what inputs of the flake give, which is not ours to read.
    fn modules(&mut self, value: &Expr, option: &str) {
        for item in self.items(value, option, None) {
            let stripped = strip(item.clone());
            if let Some(Expr::AttrSet(_) | Expr::Lambda(_)) = stripped {
                self.module(item);
                continue;
            }
            let text = short_text(item.syntax()).unwrap_or_default();
            if text.contains("impermanence") || text.contains("preservation") {
                self.facts.has_module = true;
            }
            match stripped {
                Some(Expr::PathRel(path)) if !text.is_empty() && !text.contains('$') => {
                    let line = self.line(item.syntax());
                    if self.facts.imports.len() < MANY {
                        let text = path.syntax().text().to_string();
                        self.facts.imports.push((text, line));
                    }
                }
                Some(Expr::Select(_)) if text.contains("nixosModule") => {}
                _ => self.unsure(item.syntax(), option, About::Everything),
            }
        }
    }
}

/// What names of an option could say something of, be they its beginning or go beyond it; none where it is of no concern.
fn about(names: &Names) -> Option<About> {
    const OPTIONS: [(&[&str], About); 9] = [
        (&["imports"], About::Everything),
        (&["environment", "persistence"], About::Persistence),
        (&["preservation", "preserveAt"], About::Persistence),
        (&["nix", "settings", "experimental-features"], About::Flakes),
        (
            &["nix", "settings", "extra-experimental-features"],
            About::Flakes,
        ),
        (&["nix", "extraOptions"], About::Flakes),
        (&["services", "openssh", "enable"], About::Ssh),
        (&["services", "openssh", "hostKeys"], About::Ssh),
        (&["fileSystems"], About::FileSystems),
    ];
    let could_be = |option: &[&str]| {
        let mut both = names.iter().zip(option);
        both.all(|(name, wanted)| name.as_deref().is_none_or(|name| name == *wanted))
    };
    let mut found = OPTIONS.iter().filter(|(option, _)| could_be(option));
    let first = found.next()?.1;
    let same = found.all(|(_, about)| *about == first);
    Some(if same { first } else { About::Everything })
}

/// Names as they are written.
fn shown(names: &Names) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-'".contains(c);
    let shown = names.iter().map(|name| match name {
        None => "${…}".to_owned(),
        Some(name) if !name.is_empty() && name.chars().all(plain) => name.clone(),
        Some(name) => format!("\"{}\"", name.chars().take(128).collect::<String>()),
    });
    shown.collect::<Vec<_>>().join(".")
}

fn sets_flakes(line: &str) -> bool {
    let Some((name, words)) = line.split_once('=') else {
        return false;
    };
    let known = ["experimental-features", "extra-experimental-features"].contains(&name.trim());
    known && words.split_whitespace().any(|word| word == "flakes")
}

/// What a module comes to: behind its arguments, and behind what it defines before.
fn body_of(mut expr: Expr) -> Option<Expr> {
    loop {
        expr = match expr {
            Expr::Paren(paren) => paren.expr()?,
            Expr::Lambda(lambda) => lambda.body()?,
            Expr::LetIn(with) => with.body()?,
            Expr::With(with) => with.body()?,
            Expr::Assert(assert) => assert.body()?,
            other => return Some(other),
        };
    }
}

fn names_of(entry: &AttrpathValue) -> Names {
    let path = entry.attrpath().into_iter().flat_map(|path| path.attrs());
    path.map(|attr| name_of(&attr)).collect()
}

fn name_of(attr: &Attr) -> Option<String> {
    let text = short_text(attr.syntax())?;
    match attr {
        Attr::Ident(_) => Some(text),
        Attr::Str(text) => text_of(text),
        Attr::Dynamic(_) => None,
    }
}

/// What is written there, if it is no longer than what could be meant.
fn short_text(node: &SyntaxNode) -> Option<String> {
    let text = node.text();
    (usize::from(text.len()) <= TEXT).then(|| text.to_string())
}

fn entry_of(set: &AttrSet, name: &str) -> Option<Expr> {
    set.attrpath_values()
        .find(|entry| names_of(entry) == [Some(name.to_owned())])
        .and_then(|entry| entry.value())
}

/// Without the parentheses around it.
fn strip(mut value: Expr) -> Option<Expr> {
    while let Expr::Paren(paren) = value {
        value = paren.expr()?;
    }
    Some(value)
}

fn text_of(text: &Str) -> Option<String> {
    let mut whole = String::new();
    for part in text.normalized_parts() {
        match part {
            InterpolPart::Literal(text) => whole.push_str(&text),
            InterpolPart::Interpolation(_) => return None,
        }
    }
    Some(whole)
}

fn literal_text(value: &Expr) -> Option<String> {
    match strip(value.clone())? {
        Expr::Str(text) => text_of(&text),
        Expr::PathAbs(path) => short_text(path.syntax()).filter(|text| !text.contains('$')),
        _ => None,
    }
}

fn literal_path(value: &Expr) -> Option<String> {
    literal_text(value).filter(|text| text.len() <= TEXT)
}

fn literal_bool(value: &Expr) -> Option<bool> {
    match short_text(strip(value.clone())?.syntax())?.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}
