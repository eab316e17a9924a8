//! Changing a declaration file: what is not changed keeps its order, its comments and its spelling.
//!
//! The file is a guest's and may be written in any way that TOML has: lists or tables, inline or not. The text must have
//! passed [`parse_toml`](super::read::parse_toml) first, which knows how deep it may nest.

use toml_edit::{
    Array, ArrayOfTables, DocumentMut, InlineTable, Item, RawString, Table, TableLike, Value,
};

use super::change::PathKind;
use super::declare::{Method, Tier};
use super::path::TreePath;
use super::people::People;
use super::unite::home_of;

/// The first line of a file that is made.
const HEAD: &str = "# What stays when this VPS gets a new root. `mayfly persist` changes this file, and so may you.\n";

/// An entry to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path.
    pub path: TreePath,
    /// What it is.
    pub kind: PathKind,
    /// What it is worth.
    pub tier: Option<Tier>,
    /// How a file is made to stay.
    pub method: Option<Method>,
    /// False takes away what somebody else declares.
    pub enable: bool,
}

/// A file under change.
#[derive(Clone, Debug)]
pub struct Editor {
    document: DocumentMut,
}

impl Editor {
    /// A file that is not there yet.
    pub fn new() -> Self {
        let mut document = DocumentMut::new();
        document.set_trailing(HEAD);
        Self { document }
    }

    /// Takes a file in hand.
    ///
    /// # Errors
    ///
    /// Why it is no TOML.
    pub fn parse(text: &str) -> Result<Self, String> {
        let document = text.parse::<DocumentMut>();
        let document = document.map_err(|e| e.message().to_owned())?;
        Ok(Self { document })
    }

    /// The file as it is now.
    pub fn text(&self) -> String {
        self.document.to_string()
    }

    /// Adds an entry to what is said of `storage`, behind all others.
    ///
    /// # Errors
    ///
    /// What of the file is in the way.
    pub fn add(&mut self, storage: &TreePath, entry: &Entry) -> Result<(), String> {
        let spelled =
            self.document.iter().map(|(name, _)| name).find(|name| {
                name.starts_with('/') && TreePath::parse(name).as_ref() == Ok(storage)
            });
        let name = spelled.map_or_else(|| storage.to_string(), str::to_owned);
        if spelled.is_none() {
            self.begin_storage(&name);
        }
        let settings = self
            .document
            .get_mut(&name)
            .and_then(Item::as_table_like_mut);
        let Some(settings) = settings else {
            return Err(format!("`{name}` is no table of settings"));
        };
        let (list, key) = words(entry.kind);
        let inline = settings.get(list).is_none_or(Item::is_value);
        if inline {
            let array = settings
                .entry(list)
                .or_insert_with(|| Item::Value(Value::Array(Array::new())));
            let Some(array) = array.as_array_mut() else {
                return Err(format!("`{name}.{list}` is no list"));
            };
            push(array, value_of(entry, key));
            return Ok(());
        }
        match settings
            .get_mut(list)
            .and_then(Item::as_array_of_tables_mut)
        {
            Some(tables) => {
                let mut table = Table::new();
                for (key, value) in fields(entry, key) {
                    table.insert(key, Item::Value(value));
                }
                tables.push(table);
                Ok(())
            }
            None => Err(format!("`{name}.{list}` is no list")),
        }
    }

    /// A new table at the end; what stood behind the last one, comments above all, stays before it.
    fn begin_storage(&mut self, name: &str) {
        let mut table = Table::new();
        let before = plain(self.document.trailing());
        self.document.set_trailing("");
        let gap = match (before.is_empty(), self.document.iter().next().is_some()) {
            (true, true) => "\n",
            (true, false) => "",
            (false, _) if before.ends_with("\n\n") || before == "\n" => "",
            (false, _) if before.ends_with('\n') => "\n",
            (false, _) => "\n\n",
        };
        table.decor_mut().set_prefix(format!("{before}{gap}"));
        self.document.insert(name, Item::Table(table));
    }

    /// Takes out the entries of `path` that are enabled, or those that are not; all users' and storages' are looked
    /// through. Answers with how many there were.
    pub fn take_out(&mut self, path: &TreePath, enabled: bool, people: &People) -> usize {
        let mut taken = 0;
        for (name, item) in self.document.iter_mut() {
            if !name.get().starts_with('/') {
                continue;
            }
            let Some(settings) = item.as_table_like_mut() else {
                continue;
            };
            taken += take_out_of(settings, &TreePath::top(), path, enabled);
            let users = settings.get_mut("users").and_then(Item::as_table_like_mut);
            for (user, item) in users.into_iter().flat_map(|users| users.iter_mut()) {
                let Some(settings) = item.as_table_like_mut() else {
                    continue;
                };
                let said = settings.get("home").and_then(Item::as_str);
                let said = said.and_then(|home| TreePath::try_from(home.to_owned()).ok());
                let home = home_of(user.get(), said.as_ref(), people);
                taken += take_out_of(settings, &home, path, enabled);
            }
        }
        taken
    }
}

impl Default for Editor {
    fn default() -> Self {
        Self::new()
    }
}

/// The list that an entry of that kind stands in, and the key that has its path.
fn words(kind: PathKind) -> (&'static str, &'static str) {
    match kind {
        PathKind::Directory => ("directories", "directory"),
        PathKind::File => ("files", "file"),
    }
}

fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn fields(entry: &Entry, key: &'static str) -> Vec<(&'static str, Value)> {
    let mut all = vec![(key, Value::from(entry.path.as_str()))];
    if let Some(tier) = &entry.tier {
        all.push(("tier", Value::from(word(tier))));
    }
    if let Some(method) = &entry.method {
        all.push(("method", Value::from(word(method))));
    }
    if !entry.enable {
        all.push(("enable", Value::from(false)));
    }
    all
}

/// The path alone where there is nothing else to say.
fn value_of(entry: &Entry, key: &'static str) -> Value {
    let mut fields = fields(entry, key);
    if fields.len() == 1 {
        return fields.remove(0).1;
    }
    let table: InlineTable = fields.into_iter().collect();
    Value::InlineTable(table)
}

fn plain(raw: &RawString) -> String {
    raw.as_str().unwrap_or_default().to_owned()
}

/// Space and comments around a value.
fn around(value: &Value) -> (String, String) {
    let decor = value.decor();
    let text = |raw: Option<&RawString>| raw.map(plain).unwrap_or_default();
    (text(decor.prefix()), text(decor.suffix()))
}

/// Adds a value to a list: in a line of its own, unless the others stand in one.
fn push(array: &mut Array, mut value: Value) {
    let last = array.len().checked_sub(1);
    let mut tail = plain(array.trailing());
    let mut indent = "    ".to_owned();
    let mut lines = last.is_none();
    for one in array.iter() {
        let (prefix, _) = around(one);
        if let Some((_, behind)) = prefix.rsplit_once('\n') {
            lines = true;
            indent = behind.to_owned();
        }
    }
    if let Some(last) = last.and_then(|at| array.get_mut(at)) {
        // Without a comma behind it, the last value has what follows it.
        let (_, suffix) = around(last);
        tail = format!("{suffix}{tail}");
        last.decor_mut().set_suffix("");
    }
    lines |= tail.contains('\n');
    let closing = tail.rsplit_once('\n').map_or("", |(_, behind)| behind);
    let closing = format!("\n{closing}");
    let tail = tail.trim_end();
    let prefix = match (lines, last) {
        (true, _) => format!("{tail}\n{indent}"),
        (false, None) => String::new(),
        (false, Some(_)) => " ".to_owned(),
    };
    value.decor_mut().set_prefix(prefix);
    value.decor_mut().set_suffix("");
    array.push_formatted(value);
    array.set_trailing_comma(lines);
    array.set_trailing(if lines { closing.as_str() } else { "" });
}

/// Takes a value out of a list; comments before it stay.
fn pull(array: &mut Array, at: usize) {
    let gone = array.remove(at);
    let (prefix, suffix) = around(&gone);
    let kept = if prefix.contains('#') {
        prefix.trim_end_matches([' ', '\t']).to_owned()
    } else {
        String::new()
    };
    let behind = if suffix.contains('#') {
        suffix
    } else {
        String::new()
    };
    let before = format!("{kept}{behind}");
    match array.get_mut(at) {
        Some(next) => {
            let (prefix, _) = around(next);
            let joined = join(&before, &prefix);
            next.decor_mut().set_prefix(joined);
            if at == 0 && !array.iter().any(|v| around(v).0.contains('\n')) {
                // The first of a line stands at its bracket.
                if let Some(first) = array.get_mut(0) {
                    first.decor_mut().set_prefix("");
                }
            }
        }
        None => {
            let trailing = plain(array.trailing());
            array.set_trailing(join(&before, &trailing));
            if array.is_empty() {
                array.set_trailing_comma(false);
            }
        }
    }
}

fn join(before: &str, after: &str) -> String {
    match before.strip_suffix('\n') {
        Some(line)
            if after.contains('\n')
                && after
                    .trim_start_matches([' ', '\t'])
                    .starts_with(['\n', '\r']) =>
        {
            format!("{line}{after}")
        }
        _ => format!("{before}{after}"),
    }
}

fn take_out_of(
    settings: &mut dyn TableLike,
    base: &TreePath,
    path: &TreePath,
    enabled: bool,
) -> usize {
    let mut taken = 0;
    for kind in [PathKind::Directory, PathKind::File] {
        let (list, key) = words(kind);
        match settings.get_mut(list) {
            Some(Item::Value(Value::Array(array))) => {
                for at in (0..array.len()).rev() {
                    if array
                        .get(at)
                        .is_some_and(|v| is_of(v, key, base, path, enabled))
                    {
                        pull(array, at);
                        taken += 1;
                    }
                }
            }
            Some(Item::ArrayOfTables(tables)) => {
                taken += take_out_tables(tables, key, base, path, enabled);
            }
            _ => {}
        }
    }
    taken
}

fn take_out_tables(
    tables: &mut ArrayOfTables,
    key: &str,
    base: &TreePath,
    path: &TreePath,
    enabled: bool,
) -> usize {
    let before = tables.len();
    tables.retain(|table| !is_table_of(table, key, base, path, enabled));
    before - tables.len()
}

fn is_of(value: &Value, key: &str, base: &TreePath, path: &TreePath, enabled: bool) -> bool {
    match value {
        Value::String(text) => enabled && base.join(text.value()).as_ref() == Ok(path),
        Value::InlineTable(table) => is_table_of(table, key, base, path, enabled),
        _ => false,
    }
}

fn is_table_of(
    table: &dyn TableLike,
    key: &str,
    base: &TreePath,
    path: &TreePath,
    enabled: bool,
) -> bool {
    let named = table.get(key).and_then(Item::as_str);
    let said = table.get("enable").and_then(Item::as_bool).unwrap_or(true);
    said == enabled && named.is_some_and(|text| base.join(text).as_ref() == Ok(path))
}

#[cfg(test)]
mod tests;
