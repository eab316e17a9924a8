//! What became of each declaration at a boot, for `boot.json` and `mayfly show`.

use serde::{Deserialize, Serialize};

use super::declare::{Problem, Tier};

/// The version of [`Report`] that is written.
pub const VERSION: u32 = 1;

/// How all of it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All that is declared stays.
    Applied,
    /// Something that is declared does not stay.
    Degraded,
    /// Nothing was to be done here.
    Inactive,
}

/// How one declaration went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It stays, since now.
    Applied,
    /// It stays already.
    Already,
    /// It stays, and its directory is root's alone until its owner is known.
    Pending,
    /// It does not stay.
    Refused,
    /// Its storage is not used in this run.
    Inactive,
}

/// How a path stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// A bind mount.
    Bind,
    /// A symbolic link.
    Symlink,
    /// A copy, taken back at the end.
    Copy,
    /// It lies in a directory that stays.
    Inside,
}

/// One declaration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The path.
    pub path: String,
    /// The storage.
    pub storage: String,
    /// Whether it is a directory.
    pub directory: bool,
    /// What it is worth.
    pub tier: Tier,
    /// How it went.
    pub fate: Fate,
    /// How it stays.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub how: Option<How>,
    /// Why it is not simply applied.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which version this is.
    pub version: u32,
    /// How all of it went.
    pub state: State,
    /// Why it is inactive as a whole, or that nobody knows how it went.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// The declarations, troubled ones first where not all find room.
    pub declarations: Vec<Line>,
    /// How many more there are.
    #[serde(default)]
    pub omitted: usize,
    /// Paths that are declared and taken away again.
    #[serde(default)]
    pub disabled: Vec<String>,
    /// What made no sense or should be looked at.
    pub problems: Vec<Problem>,
    /// How many more problems there are.
    #[serde(default)]
    pub problems_omitted: usize,
    /// How long it took.
    pub took_ms: u64,
}

/// So many troubles are told in a [`Summary`], and so long is each at most.
const TROUBLES: usize = 5;
const TROUBLE_BYTES: usize = 240;

/// A report in a few words, for whoever only wants to know whether to look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Summary {
    /// How all of it went.
    pub state: State,
    /// Why it is inactive as a whole, or that nobody knows how it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How many declarations stay.
    pub staying: usize,
    /// How many declarations do not, or not yet as they should.
    pub troubled: usize,
    /// What is wrong, in words, the first few of it; the guest's boot.json has all.
    #[serde(default)]
    pub troubles: Vec<String>,
}

impl Summary {
    /// The summary as JSON in one line of printable ASCII, `room` bytes at most: where it does not fit, the last troubles
    /// are left out, and then of the reason what does not.
    pub fn to_line(&self, room: usize) -> String {
        let mut short = self.clone();
        loop {
            let line = ascii(&serde_json::to_string(&short).unwrap_or_default());
            if line.len() <= room {
                return line;
            }
            if short.troubles.pop().is_some() {
                continue;
            }
            match short.why.take() {
                Some(why) if !why.is_empty() => {
                    let half = why.chars().count() / 2;
                    short.why = Some(why.chars().take(half).collect());
                }
                _ => return String::new(),
            }
        }
    }
}

/// JSON that has the same meaning and no byte that a terminal or a line knows.
fn ascii(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    for c in json.chars() {
        if c == ' ' || c.is_ascii_graphic() {
            line.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    line
}

/// What the texts of a report may have together, so that boot.json stays below its limit of 1 MiB.
const ROOM_BYTES: usize = 512 << 10;

impl Report {
    /// The report of an application that came to no report of its own, because of `why`.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self {
            state: State::Degraded,
            ..Self::inactive(why)
        }
    }

    /// A report of nothing, because of `why`.
    pub fn inactive(why: impl Into<String>) -> Self {
        Self {
            version: VERSION,
            state: State::Inactive,
            why: Some(why.into()),
            declarations: Vec::new(),
            omitted: 0,
            disabled: Vec::new(),
            problems: Vec::new(),
            problems_omitted: 0,
            took_ms: 0,
        }
    }

    /// The report in a few words.
    pub fn summary(&self) -> Summary {
        let is_troubled =
            |line: &&Line| matches!(line.fate, Fate::Refused | Fate::Inactive | Fate::Pending);
        let troubled = self.declarations.iter().filter(is_troubled);
        let of_lines = troubled.clone().map(|line| {
            let why = line.why.as_deref().unwrap_or("its owner is not known yet");
            format!("{}: {why}", line.path)
        });
        let of_problems = self
            .problems
            .iter()
            .map(|p| format!("{}: {}", p.at, p.what));
        let short = |text: String| {
            let mut end = text.len().min(TROUBLE_BYTES);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text[..end].to_owned()
        };
        let count = troubled.count();
        Summary {
            state: self.state,
            why: self.why.clone().map(short),
            // What was left out for want of room went well.
            staying: self.declarations.len() + self.omitted - count,
            troubled: count,
            troubles: of_lines
                .chain(of_problems)
                .take(TROUBLES)
                .map(short)
                .collect(),
        }
    }

    /// Leaves out what does not find room: of a thousand declarations those that went well.
    pub fn fit(&mut self) {
        let size = |line: &Line| {
            // Texts are escaped when they are written: six bytes for one at the worst.
            let texts = [Some(&line.path), Some(&line.storage), line.why.as_ref()];
            160 + texts
                .into_iter()
                .flatten()
                .map(|t| escaped(t))
                .sum::<usize>()
        };
        let total: usize = self.declarations.iter().map(size).sum();
        if total > ROOM_BYTES {
            let all = self.declarations.len();
            self.declarations
                .sort_by_key(|line| !matches!(line.fate, Fate::Refused | Fate::Pending));
            let mut room = ROOM_BYTES;
            let kept = self.declarations.iter().take_while(|line| {
                let fits = size(line) <= room;
                room = room.saturating_sub(size(line));
                fits
            });
            let kept = kept.count();
            self.declarations.truncate(kept);
            self.omitted += all - kept;
        }
        let all = self.disabled.len();
        self.disabled.truncate(64);
        self.omitted += all - self.disabled.len();
    }
}

fn escaped(text: &str) -> usize {
    text.chars()
        .map(|c| {
            if c.is_control() {
                6
            } else if matches!(c, '"' | '\\') {
                2
            } else {
                c.len_utf8()
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(why: Option<&str>, troubles: &[&str]) -> Summary {
        Summary {
            state: State::Degraded,
            why: why.map(str::to_owned),
            staying: 3,
            troubled: troubles.len(),
            troubles: troubles.iter().map(|t| (*t).to_owned()).collect(),
        }
    }

    #[test]
    fn a_line_says_the_same_as_its_summary() {
        let all = summary(
            Some("ž \u{9b}31m\u{7f}\u{202e}"),
            &["/a \"b\"\\: it\nis 🦀", "/c"],
        );
        let line = all.to_line(2_000);
        assert!(
            line.bytes().all(|b| b == b' ' || b.is_ascii_graphic()),
            "{line}"
        );
        assert_eq!(serde_json::from_str::<Summary>(&line).unwrap(), all);
    }

    #[test]
    fn a_line_that_is_too_long_stays_json() {
        let (long, wide) = ("x".repeat(240), "\u{1}🦀".repeat(40));
        let all = summary(Some(&wide), &[&long, &wide, &long, &wide, &wide]);
        for room in [2_000, 1_200, 500, 300, 120] {
            let line = all.to_line(room);
            assert!(line.len() <= room, "{room}: {line}");
            let read: Summary = serde_json::from_str(&line).unwrap();
            assert_eq!((read.staying, read.troubled), (3, 5));
            assert!(all.troubles.starts_with(&read.troubles));
        }
    }
}
