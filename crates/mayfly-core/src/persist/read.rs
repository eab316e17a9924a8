//! From a TOML file of a guest, or the module's structure as JSON, to typed declarations.
//!
//! Both become one tree of values, and that is read by hand instead of by derived code: one entry that makes no sense is
//! left out and told, and does not take the other thousand with it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::declare::{
    DirectoryItem, FileItem, Method, Problems, Settings, SomePerms, Source, Tier, UserSettings,
};
use super::limits;
use super::mode::parse_mode;
use super::path::TreePath;
use super::presets::Preset;

/// What the module computes from the rest and puts beside it.
const DERIVED: [&str; 7] = [
    "home",
    "enableDebugging",
    "assertions",
    "defaultPerms",
    "dirPath",
    "filePath",
    "inInitrd",
];

/// Reads a declaration file.
pub fn parse_toml(text: &str) -> Source {
    parse(text, |text| {
        // The parser follows dots and brackets by recursion, so what nests too deep is refused before it sees it.
        if nests_too_deep(text) {
            return Err("a line of the file nests too deep; nothing of it is read".to_owned());
        }
        toml::from_str(text).map_err(|e| format!("the file is not TOML: {}", first_line(&e)))
    })
}

/// Reads the module's structure as JSON.
pub fn parse_json(text: &str) -> Source {
    parse(text, |text| {
        serde_json::from_str(text).map_err(|e| format!("the file is not JSON: {}", first_line(&e)))
    })
}

fn parse(text: &str, value: impl Fn(&str) -> Result<Value, String>) -> Source {
    let read = if text.len() > limits::FILE_BYTES {
        Err("the file is larger than 256 KiB; nothing of it is read".to_owned())
    } else {
        value(text)
    };
    read.map_or_else(
        |why| {
            let mut source = Source::default();
            source.problems.error("", why);
            source
        },
        |value| parse_value(&value),
    )
}

fn first_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    match (lines.first(), lines.last()) {
        (Some(first), Some(last)) if first != last => format!("{first}: {last}"),
        _ => text.trim().to_owned(),
    }
}

/// Whether a key has more dots, or the file more open brackets, than declarations need. Strings are not told apart, so
/// that no trick of quoting hides a key; only whole lines of comment are.
fn nests_too_deep(text: &str) -> bool {
    let mut depth = 0usize;
    for line in text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        for b in line.bytes() {
            match b {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > limits::NESTING {
                return true;
            }
        }
        // A list of a thousand paths may well stand in one line; what counts is one key.
        let mut parts = line.split(['=', ',', ']', '{']);
        if parts.any(|part| part.bytes().filter(|b| *b == b'.').count() > 4 * limits::NESTING) {
            return true;
        }
    }
    false
}

/// Reads a tree of values: storage to settings.
pub fn parse_value(value: &Value) -> Source {
    let mut reader = Reader::default();
    let storages = reader.storages(value);
    Source {
        storages,
        problems: reader.problems,
    }
}

#[derive(Default)]
struct Reader {
    problems: Problems,
    declarations: usize,
}

/// The settings that a reader takes out of a table one by one; what remains is unknown.
struct Table<'a> {
    at: String,
    rest: BTreeMap<&'a str, &'a Value>,
}

impl<'a> Table<'a> {
    fn new(at: &str, map: &'a Map<String, Value>) -> Self {
        let rest = map
            .iter()
            .map(|(k, v)| (k.as_str(), v))
            .filter(|(_, v)| !v.is_null())
            .collect();
        Self {
            at: at.to_owned(),
            rest,
        }
    }

    fn take(&mut self, key: &str) -> Option<&'a Value> {
        self.rest.remove(key)
    }

    fn key(&self, key: &str) -> String {
        if self.at.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.at)
        }
    }
}

impl Reader {
    fn storages(&mut self, value: &Value) -> BTreeMap<TreePath, Settings> {
        let mut storages = BTreeMap::new();
        let Some(map) = value.as_object() else {
            self.problems.error("", "it must be a table of storages");
            return storages;
        };
        for (name, value) in map {
            let path = match name.starts_with('/').then(|| TreePath::parse(name)) {
                Some(Ok(path)) => path,
                Some(Err(why)) => {
                    self.problems
                        .error(name, format!("it is no storage: {why}"));
                    continue;
                }
                None => {
                    self.problems
                        .error(name, "it is no storage: those are absolute paths");
                    continue;
                }
            };
            let Some(map) = value.as_object() else {
                self.problems.error(name, "it must be a table of settings");
                continue;
            };
            let settings = self.settings(&mut Table::new(name, map));
            if storages.insert(path, settings).is_some() {
                self.problems
                    .error(name, "this storage was named before under another spelling");
            }
        }
        storages
    }

    fn settings(&mut self, table: &mut Table<'_>) -> Settings {
        let settings = Settings {
            enable: self.boolean(table, "enable"),
            storage: self.path(table, "persistentStoragePath"),
            hide: self.boolean(table, "hideMounts"),
            trash: self.boolean(table, "allowTrash"),
            warnings: self.boolean(table, "enableWarnings"),
            defaults: self.boolean(table, "defaults"),
            like_module: self.boolean(table, "likeModule"),
            strict: self.boolean(table, "strict"),
            presets: self.presets(table),
            directories: self.directories(table),
            files: self.files(table),
            users: self.users(table),
        };
        self.leftovers(table);
        settings
    }

    fn users(&mut self, table: &mut Table<'_>) -> BTreeMap<String, UserSettings> {
        let mut users = BTreeMap::new();
        let at = table.key("users");
        let Some(value) = table.take("users") else {
            return users;
        };
        let Some(map) = value.as_object() else {
            self.problems.error(at, "it must be a table of users");
            return users;
        };
        for (name, value) in map {
            let at = format!("{at}.{name}");
            if let Err(why) = check_name(name) {
                self.problems.error(at, why);
                continue;
            }
            let Some(map) = value.as_object() else {
                self.problems.error(at, "it must be a table of settings");
                continue;
            };
            let mut table = Table::new(&at, map);
            let user = UserSettings {
                home: self.path(&mut table, "home"),
                directories: self.directories(&mut table),
                files: self.files(&mut table),
            };
            self.leftovers(&mut table);
            users.insert(name.clone(), user);
        }
        users
    }

    fn presets(&mut self, table: &mut Table<'_>) -> BTreeMap<Preset, bool> {
        let at = table.key("presets");
        let mut presets = BTreeMap::new();
        let mut add = |name: &str, on: bool, problems: &mut Problems| match Preset::named(name) {
            Some(preset) => {
                presets.insert(preset, on);
            }
            None => problems.error(&at, format!("there is no preset `{name}`: base, accounts")),
        };
        match table.take("presets") {
            None => {}
            Some(Value::Array(names)) => {
                for name in names {
                    add(name.as_str().unwrap_or_default(), true, &mut self.problems);
                }
            }
            Some(Value::Object(map)) => {
                for (name, on) in map {
                    match on.as_bool() {
                        Some(on) => add(name, on, &mut self.problems),
                        None => self
                            .problems
                            .error(&at, format!("`{name}` must be true or false")),
                    }
                }
            }
            Some(_) => self.problems.error(
                &at,
                "it must be a list of names, or a table of names and true or false",
            ),
        }
        presets
    }

    fn directories(&mut self, table: &mut Table<'_>) -> Vec<DirectoryItem> {
        self.items(table, "directories", |reader, at, value| {
            let mut table = reader.item(at, value, "directory")?;
            let item = DirectoryItem {
                directory: reader.text(&mut table, "directory")?,
                perms: reader.perms(&mut table),
                storage: reader.path(&mut table, "persistentStoragePath"),
                hide: reader.boolean(&mut table, "hideMount"),
                trash: reader.boolean(&mut table, "allowTrash"),
                tier: reader.word(&mut table, "tier", "data, cache, ignore"),
                enable: reader.boolean(&mut table, "enable").unwrap_or(true),
            };
            reader.leftovers(&mut table);
            Some(item)
        })
    }

    fn files(&mut self, table: &mut Table<'_>) -> Vec<FileItem> {
        self.items(table, "files", |reader, at, value| {
            let mut table = reader.item(at, value, "file")?;
            let item = FileItem {
                file: reader.text(&mut table, "file")?,
                parent: reader.parent(&mut table),
                storage: reader.path(&mut table, "persistentStoragePath"),
                method: reader.word::<Method>(&mut table, "method", "auto, symlink, copy"),
                tier: reader.word::<Tier>(&mut table, "tier", "data, cache, ignore"),
                enable: reader.boolean(&mut table, "enable").unwrap_or(true),
            };
            reader.leftovers(&mut table);
            Some(item)
        })
    }

    fn items<T>(
        &mut self,
        table: &mut Table<'_>,
        key: &str,
        mut read: impl FnMut(&mut Self, String, &Value) -> Option<T>,
    ) -> Vec<T> {
        let at = table.key(key);
        let Some(value) = table.take(key) else {
            return Vec::new();
        };
        let Some(values) = value.as_array() else {
            self.problems.error(at, "it must be a list");
            return Vec::new();
        };
        let mut items = Vec::new();
        for (number, value) in values.iter().enumerate() {
            if self.declarations == limits::DECLARATIONS {
                let more = values.len() - number;
                self.problems.error(
                    &at,
                    format!("there are more than 4096 declarations; {more} are left out"),
                );
                break;
            }
            self.declarations += 1;
            items.extend(read(self, format!("{at}[{number}]"), value));
        }
        items
    }

    /// A table, or a text that stands for a table with that one key.
    fn item<'a>(&mut self, at: String, value: &'a Value, key: &'static str) -> Option<Table<'a>> {
        match value {
            Value::Object(map) => Some(Table::new(&at, map)),
            Value::String(_) => Some(Table {
                at,
                rest: BTreeMap::from([(key, value)]),
            }),
            _ => {
                self.problems
                    .error(at, format!("it must be a path, or a table with `{key}`"));
                None
            }
        }
    }

    fn parent(&mut self, table: &mut Table<'_>) -> SomePerms {
        let at = table.key("parentDirectory");
        match table.take("parentDirectory") {
            None => SomePerms::default(),
            Some(Value::Object(map)) => {
                let mut table = Table::new(&at, map);
                let perms = self.perms(&mut table);
                for known in [
                    "directory",
                    "persistentStoragePath",
                    "hideMount",
                    "allowTrash",
                ] {
                    table.take(known);
                }
                self.leftovers(&mut table);
                perms
            }
            Some(_) => {
                self.problems
                    .error(at, "it must be a table with user, group, mode");
                SomePerms::default()
            }
        }
    }

    fn perms(&mut self, table: &mut Table<'_>) -> SomePerms {
        let at = table.key("mode");
        let mode = self.optional_text(table, "mode").and_then(|text| {
            let mode = parse_mode(&text);
            if mode.is_none() {
                self.problems
                    .error(at, format!("`{text}` is no mode; the default is taken"));
            }
            mode
        });
        SomePerms {
            user: self.name(table, "user"),
            group: self.name(table, "group"),
            mode,
        }
    }

    fn name(&mut self, table: &mut Table<'_>, key: &str) -> Option<String> {
        let at = table.key(key);
        let name = match table.rest.get(key) {
            Some(Value::Number(number)) => {
                let text = number.to_string();
                table.take(key);
                text
            }
            _ => self.optional_text(table, key)?,
        };
        match check_name(&name) {
            Ok(()) => Some(name),
            Err(why) => {
                self.problems.error(at, why);
                None
            }
        }
    }

    fn text(&mut self, table: &mut Table<'_>, key: &str) -> Option<String> {
        let text = self.optional_text(table, key);
        if text.is_none() {
            self.problems.error(&table.at, format!("it has no `{key}`"));
        }
        text
    }

    fn optional_text(&mut self, table: &mut Table<'_>, key: &str) -> Option<String> {
        match table.take(key)? {
            Value::String(text) if text.len() <= limits::PATH_BYTES => Some(text.clone()),
            Value::String(_) => {
                self.problems
                    .error(table.key(key), "it is longer than 1024 bytes");
                None
            }
            _ => {
                self.problems.error(table.key(key), "it must be a text");
                None
            }
        }
    }

    fn path(&mut self, table: &mut Table<'_>, key: &str) -> Option<TreePath> {
        let at = table.key(key);
        let text = self.optional_text(table, key)?;
        match TreePath::try_from(text) {
            Ok(path) => Some(path),
            Err(why) => {
                self.problems.error(at, why);
                None
            }
        }
    }

    fn boolean(&mut self, table: &mut Table<'_>, key: &str) -> Option<bool> {
        let at = table.key(key);
        let value = table.take(key)?;
        if value.as_bool().is_none() {
            self.problems.error(at, "it must be true or false");
        }
        value.as_bool()
    }

    fn word<T: Default + for<'de> serde::Deserialize<'de>>(
        &mut self,
        table: &mut Table<'_>,
        key: &str,
        words: &str,
    ) -> T {
        let at = table.key(key);
        let Some(value) = table.take(key) else {
            return T::default();
        };
        serde_json::from_value(value.clone()).unwrap_or_else(|_| {
            self.problems
                .error(at, format!("it must be one of {words}; the first is taken"));
            T::default()
        })
    }

    fn leftovers(&mut self, table: &mut Table<'_>) {
        for key in std::mem::take(&mut table.rest).into_keys() {
            if !DERIVED.contains(&key) {
                self.problems
                    .warn(table.key(key), "this is not known here, and means nothing");
            }
        }
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > limits::NAME_BYTES {
        return Err("a name has 1 to 256 bytes");
    }
    if name.chars().any(|c| c.is_control() || c == ':' || c == '/') {
        return Err("a name has no `:`, no `/` and no control characters");
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
