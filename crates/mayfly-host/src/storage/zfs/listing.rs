//! What `zfs get` prints: JSON from 2.3 on, a table before.
//!
//! An answer that is cut off, or has anything that is not understood, is an error as a whole: half a list would read as
//! "the rest is absent".

use std::collections::BTreeMap;

use serde::Deserialize;

/// A dataset or snapshot with the properties that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Its whole name.
    pub(super) name: String,
    /// Properties that it has.
    pub(super) properties: BTreeMap<String, Property>,
}

/// A property's value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Property {
    pub(super) value: String,
    pub(super) source: Source,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Set on this very dataset.
    Local,
    /// From a dataset above it.
    Inherited,
    /// It came with a stream.
    Received,
    /// Nobody set it, or it is no setting at all.
    None,
}

/// An answer that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer of `zfs get` makes no sense: {0}")]
pub(super) struct BadListing(String);

impl Row {
    /// A property that has a value.
    pub(super) fn get(&self, name: &str) -> Option<&Property> {
        self.properties.get(name)
    }

    /// A number of bytes, which every dataset has.
    pub(super) fn number(&self, name: &str) -> Result<u64, BadListing> {
        let value = self.get(name).map(|p| p.value.as_str());
        value.and_then(|v| v.parse().ok()).ok_or_else(|| {
            let value = value.unwrap_or("nothing");
            bad(format!("{name} of {} is {value}", self.name))
        })
    }
}

fn bad(why: impl AsRef<str>) -> BadListing {
    BadListing(crate::runner::escaped(why.as_ref()))
}

/// An answer that says of a dataset both that it is there and that it is not, or neither.
pub(super) fn contradicts_itself(name: &str) -> BadListing {
    bad(format!("it does not tell whether {name} is there"))
}

fn text(bytes: &[u8]) -> Result<&str, BadListing> {
    std::str::from_utf8(bytes).map_err(|_| bad("it is not UTF-8"))
}

/// Reads `zfs get -H -p -o name,property,value,source`.
pub(super) fn from_table(bytes: &[u8]) -> Result<Vec<Row>, BadListing> {
    let text = text(bytes)?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(bad("its last line is cut off"));
    }
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, property, value, source] = fields[..] else {
            return Err(bad(format!("`{line}` has not four fields")));
        };
        let source = match source {
            "local" => Source::Local,
            "received" => Source::Received,
            "-" | "default" | "temporary" | "none" => Source::None,
            from if from.starts_with("inherited from ") => Source::Inherited,
            other => return Err(bad(format!("`{other}` is no source"))),
        };
        if rows.last().is_none_or(|row| row.name != name) {
            rows.push(Row {
                name: name.to_owned(),
                properties: BTreeMap::new(),
            });
        }
        let absent = value == "-" && source == Source::None;
        if let (Some(row), false) = (rows.last_mut(), absent) {
            let value = value.to_owned();
            row.properties
                .insert(property.to_owned(), Property { value, source });
        }
    }
    Ok(rows)
}

#[derive(Deserialize)]
struct Answer {
    output_version: AnswerVersion,
    datasets: BTreeMap<String, Dataset>,
}

#[derive(Deserialize)]
struct AnswerVersion {
    vers_major: u32,
}

#[derive(Deserialize)]
struct Dataset {
    name: String,
    properties: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Value {
    value: serde_json::Value,
    source: ValueSource,
}

#[derive(Deserialize)]
struct ValueSource {
    r#type: String,
}

/// Reads `zfs get -j`, with numbers as texts (`-p`) or as numbers.
pub(super) fn from_json(bytes: &[u8]) -> Result<Vec<Row>, BadListing> {
    let answer: Answer = serde_json::from_slice(bytes)
        .map_err(|e| bad(format!("no JSON of the known form: {e}")))?;
    if answer.output_version.vers_major != 0 {
        let version = answer.output_version.vers_major;
        return Err(bad(format!("its form is of version {version}")));
    }
    answer.datasets.into_values().map(row).collect()
}

fn row(dataset: Dataset) -> Result<Row, BadListing> {
    let mut properties = BTreeMap::new();
    for (name, got) in dataset.properties {
        let source = match got.source.r#type.as_str() {
            "LOCAL" => Source::Local,
            "INHERITED" => Source::Inherited,
            "RECEIVED" => Source::Received,
            "NONE" | "DEFAULT" | "TEMPORARY" => Source::None,
            other => return Err(bad(format!("`{other}` is no source"))),
        };
        let value = match got.value {
            serde_json::Value::String(value) => value,
            serde_json::Value::Number(number) => number.to_string(),
            other => return Err(bad(format!("{name} is {other}"))),
        };
        if value != "-" || source != Source::None {
            properties.insert(name, Property { value, source });
        }
    }
    Ok(Row {
        name: dataset.name,
        properties,
    })
}

#[cfg(test)]
mod tests;
