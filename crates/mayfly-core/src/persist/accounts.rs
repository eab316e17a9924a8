//! Users and groups of a base, united with those that a VPS had before (the preset `accounts`).
//!
//! Packages draw numbers when they are installed, so the same package gets another number in another order, and files that
//! stayed then belong to somebody else. Here **what was kept always keeps its number and its record**: files on disk know
//! only numbers. A user or group that only the base has keeps its number unless a kept one has it; then it gets a free
//! one, and that is told. root is always 0, and is the one in the base's first line or nobody.
//!
//! A user or group that was removed from the VPS and is part of the base comes back with the base.

use std::collections::{BTreeMap, BTreeSet};

use super::limits;

/// The six files, as texts. A file that is absent is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// /etc/passwd
    pub passwd: String,
    /// /etc/group
    pub group: String,
    /// /etc/shadow
    pub shadow: String,
    /// /etc/gshadow
    pub gshadow: String,
    /// /etc/subuid
    pub subuid: String,
    /// /etc/subgid
    pub subgid: String,
}

/// A user or group of the base whose number was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Whether it is a group.
    pub group: bool,
    /// Its name.
    pub name: String,
    /// The number that it has in the base, and that files of the base have.
    pub from: u32,
    /// Its number from now on.
    pub to: u32,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// The united files.
    pub files: Files,
    /// Whose numbers changed.
    pub moved: Vec<Moved>,
    /// What was left out, for a person.
    pub notes: Vec<String>,
}

/// Unites `base` and `kept`. Pure; merging the result with `kept` again changes nothing.
pub fn merge(base: &Files, kept: &Files) -> Merged {
    let mut merged = Merged::default();
    let old_groups = Table::parse(&kept.group, &GROUP, "group", Some(&mut merged.notes));
    let new_groups = Table::parse(&base.group, &GROUP, "group", None);
    let old_users = Table::parse(&kept.passwd, &PASSWD, "passwd", Some(&mut merged.notes));
    let new_users = Table::parse(&base.passwd, &PASSWD, "passwd", None);
    let gids = numbers(&new_groups, &old_groups, true, &mut merged);
    let uids = numbers(&new_users, &old_users, false, &mut merged);
    // A user of the base names its group by number: by the one that this group has now.
    let base_gids: BTreeMap<u32, u32> = new_groups
        .records
        .iter()
        .filter_map(|g| Some((g.number, *gids.get(&g.name)?)))
        .rev()
        .collect();
    merged.files.passwd = unite(&new_users, &old_users, |record, is_kept| {
        let mut fields = record.fields.clone();
        fields[2] = uids.get(&record.name).unwrap_or(&record.number).to_string();
        let base_gid = fields[3].parse().ok().and_then(|gid| base_gids.get(&gid));
        match base_gid {
            _ if record.name == "root" => fields[3] = "0".to_owned(),
            Some(gid) if !is_kept => fields[3] = gid.to_string(),
            _ => {}
        }
        fields.join(":")
    });
    merged.files.group = unite(&new_groups, &old_groups, |record, is_kept| {
        let mut fields = record.fields.clone();
        fields[2] = gids.get(&record.name).unwrap_or(&record.number).to_string();
        if is_kept {
            let base = new_groups
                .get(&record.name)
                .map_or("", |base| &base.fields[3]);
            fields[3] = members(&record.fields[3], base, &old_users);
        }
        fields.join(":")
    });
    let users = |name: &str| new_users.get(name).is_some() || old_users.get(name).is_some();
    let groups = |name: &str| new_groups.get(name).is_some() || old_groups.get(name).is_some();
    merged.files.shadow = secrets(&base.shadow, &kept.shadow, 9, users);
    merged.files.gshadow = secrets(&base.gshadow, &kept.gshadow, 4, groups);
    merged.files.subuid = ranges(&base.subuid, &kept.subuid, "subuid", &mut merged.notes);
    merged.files.subgid = ranges(&base.subgid, &kept.subgid, "subgid", &mut merged.notes);
    merged.notes.truncate(limits::PROBLEMS);
    merged
}

/// How many fields the lines of a file have.
struct Form {
    fields: usize,
}

const PASSWD: Form = Form { fields: 7 };
const GROUP: Form = Form { fields: 4 };

struct Record {
    name: String,
    number: u32,
    fields: Vec<String>,
}

struct Table {
    records: Vec<Record>,
    by_name: BTreeMap<String, usize>,
    /// Lines that are no records (NIS), as they are.
    other: Vec<String>,
}

impl Table {
    fn parse(text: &str, form: &Form, file: &str, mut notes: Option<&mut Vec<String>>) -> Self {
        let mut table = Self {
            records: Vec::new(),
            by_name: BTreeMap::new(),
            other: Vec::new(),
        };
        for line in text.lines().filter(|line| !line.is_empty()) {
            match parse_line(line, form) {
                Some(record) if !table.by_name.contains_key(&record.name) => {
                    table
                        .by_name
                        .insert(record.name.clone(), table.records.len());
                    table.records.push(record);
                }
                Some(_) => {}
                None if line.starts_with(['#', '+', '-']) => table.other.push(line.to_owned()),
                None => {
                    if let Some(notes) = &mut notes {
                        notes.push(format!(
                            "a line of the kept {file} is none: `{}`",
                            super::declare::cut(line)
                        ));
                    }
                }
            }
        }
        table
    }

    fn get(&self, name: &str) -> Option<&Record> {
        self.by_name.get(name).map(|at| &self.records[*at])
    }
}

fn parse_line(line: &str, form: &Form) -> Option<Record> {
    let fields: Vec<String> = line.split(':').map(str::to_owned).collect();
    let name = fields.first()?.clone();
    let well =
        fields.len() == form.fields && is_name(&name) && line.chars().all(|c| !c.is_control());
    if !well {
        return None;
    }
    let number: u32 = fields[2].parse().ok().filter(|n| *n != u32::MAX)?;
    if form.fields == 7
        && fields[3]
            .parse::<u32>()
            .ok()
            .filter(|n| *n != u32::MAX)
            .is_none()
    {
        return None;
    }
    // root is 0 in the base and in what is kept, or the line is somebody's mischief.
    if name == "root" && number != 0 {
        return None;
    }
    Some(Record {
        name,
        number,
        fields,
    })
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= limits::NAME_BYTES && !name.starts_with(['+', '-', '#'])
}

/// The number of every name.
fn numbers(base: &Table, kept: &Table, group: bool, merged: &mut Merged) -> BTreeMap<String, u32> {
    let mut numbers: BTreeMap<String, u32> = kept
        .records
        .iter()
        .map(|r| (r.name.clone(), r.number))
        .collect();
    let taken_by_kept: BTreeSet<u32> = numbers.values().copied().collect();
    // A number that two names share in the base is shared on purpose.
    let shared: BTreeSet<u32> = base
        .records
        .iter()
        .filter(|r| numbers.get(&r.name) == Some(&r.number))
        .map(|r| r.number)
        .collect();
    let mut taken: BTreeSet<u32> = base.records.iter().map(|r| r.number).collect();
    taken.extend(&taken_by_kept);
    let mut free = Free {
        system: 999,
        human: 1_000,
        taken,
    };
    // Names that share a number move together.
    let mut moved: BTreeMap<u32, u32> = BTreeMap::new();
    for record in &base.records {
        if numbers.contains_key(&record.name) {
            continue;
        }
        let number = record.number;
        let collides = number != 0 && taken_by_kept.contains(&number) && !shared.contains(&number);
        let to = if collides {
            moved
                .get(&number)
                .copied()
                .or_else(|| free.draw(number))
                .unwrap_or(number)
        } else {
            number
        };
        if to != number {
            moved.insert(number, to);
            merged.moved.push(Moved {
                group,
                name: record.name.clone(),
                from: number,
                to,
            });
        } else if collides {
            merged.notes.push(format!(
                "{} shares the number {number}: there is no free one",
                record.name
            ));
        }
        numbers.insert(record.name.clone(), to);
    }
    numbers
}

/// Numbers that nobody has: downwards for system accounts, as Debian and NixOS draw them, upwards for people.
struct Free {
    system: u32,
    human: u32,
    taken: BTreeSet<u32>,
}

impl Free {
    fn draw(&mut self, like: u32) -> Option<u32> {
        let number = if like < 1_000 {
            while self.system >= 100 && self.taken.contains(&self.system) {
                self.system -= 1;
            }
            (self.system >= 100).then_some(self.system)
        } else {
            while self.human < 60_000 && self.taken.contains(&self.human) {
                self.human += 1;
            }
            (self.human < 60_000).then_some(self.human)
        };
        self.taken.extend(number);
        number
    }
}

/// The base's records in the base's order, kept ones in the place of their namesakes, then those that only were kept.
fn unite(base: &Table, kept: &Table, render: impl Fn(&Record, bool) -> String) -> String {
    let mut text = String::new();
    let mut add = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    for record in &base.records {
        match kept.get(&record.name) {
            Some(kept) => add(&render(kept, true)),
            None => add(&render(record, false)),
        }
    }
    for record in kept.records.iter().filter(|r| base.get(&r.name).is_none()) {
        add(&render(record, true));
    }
    // NIS entries come last, and the base's count.
    base.other.iter().for_each(|line| add(line));
    text
}

/// Who is in a kept group: whom it had, and those of the base's members that are new with the base.
fn members(kept: &str, base: &str, old_users: &Table) -> String {
    let mut all: Vec<&str> = kept.split(',').filter(|m| !m.is_empty()).collect();
    let had: BTreeSet<&str> = all.iter().copied().collect();
    let new = base
        .split(',')
        .filter(|m| !m.is_empty() && old_users.get(m).is_none());
    all.extend(new.filter(|m| !had.contains(m)));
    all.join(",")
}

/// Lines by name: the kept ones, then the base's, and none of nobody.
fn secrets(base: &str, kept: &str, fields: usize, known: impl Fn(&str) -> bool) -> String {
    let parse = |text: &str| -> Vec<(String, String)> {
        let well = |line: &&str| {
            line.split(':').count() == fields && line.chars().all(|c| !c.is_control())
        };
        let named = |line: &str| Some((line.split(':').next()?.to_owned(), line.to_owned()));
        text.lines()
            .filter(well)
            .filter_map(named)
            .filter(|(name, _)| is_name(name))
            .collect()
    };
    let (base, kept) = (parse(base), parse(kept));
    let by_name: BTreeMap<&String, &String> = kept.iter().rev().map(|(n, l)| (n, l)).collect();
    let mut text = String::new();
    let mut done = BTreeSet::new();
    for (name, line) in base.iter().chain(&kept) {
        if known(name) && done.insert(name) {
            text.push_str(by_name.get(name).unwrap_or(&line));
            text.push('\n');
        }
    }
    text
}

/// Ranges of subordinate numbers: all kept ones, and those of the base's that are in nobody's way.
fn ranges(base: &str, kept: &str, file: &str, notes: &mut Vec<String>) -> String {
    let parse = |text: &str| -> Vec<(String, u64, u64)> {
        let parsed = text.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, start, count] = fields[..] else {
                return None;
            };
            let (start, count) = (start.parse::<u32>().ok()?, count.parse::<u32>().ok()?);
            let well = is_name(name) && name.chars().all(|c| !c.is_control()) && count != 0;
            well.then(|| (name.to_owned(), u64::from(start), u64::from(count)))
        });
        parsed.collect()
    };
    let (base, kept) = (parse(base), parse(kept));
    let mut spans: Vec<(u64, u64)> = kept
        .iter()
        .map(|(_, start, count)| (*start, start + count))
        .collect();
    spans.sort_unstable();
    // The furthest end so far, so that one look tells whether anything reaches into a range.
    let mut reach = 0;
    let reaches: Vec<(u64, u64)> = spans
        .into_iter()
        .map(|(start, end)| {
            reach = reach.max(end);
            (start, reach)
        })
        .collect();
    let in_the_way = |start: u64, end: u64| {
        let before = reaches.partition_point(|(at, _)| *at < end);
        before != 0 && reaches[before - 1].1 > start
    };
    let names: BTreeSet<&String> = kept.iter().map(|(name, _, _)| name).collect();
    let mut text = String::new();
    for (name, start, count) in &kept {
        text.push_str(&format!("{name}:{start}:{count}\n"));
    }
    for (name, start, count) in base.iter().filter(|(name, _, _)| !names.contains(name)) {
        if in_the_way(*start, start + count) {
            notes.push(format!(
                "{file} of {name} is in the way of a kept range and is left out"
            ));
        } else {
            text.push_str(&format!("{name}:{start}:{count}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests;
