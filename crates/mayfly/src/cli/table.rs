//! Aligned text.

use jiff::Timestamp;

use super::screen::escape;

/// Rows under headings, two spaces apart. Cells are made harmless here.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let heading = headings.iter().map(|h| h.to_uppercase()).collect();
    let all: Vec<Vec<String>> = std::iter::once(heading)
        .chain(rows.iter().map(|r| r.iter().map(|c| escape(c)).collect()))
        .collect();
    align(&all)
}

/// Words and what they are, one a line.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let rows: Vec<Vec<String>> = facts
        .iter()
        .map(|(word, fact)| vec![format!("{word}:"), escape(fact)])
        .collect();
    align(&rows)
}

fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|r| r.get(column))
            .map(|c| c.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A cell for what is not there.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

/// A moment in UTC, to the second.
pub(super) fn moment(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or_else(
        || "-".to_owned(),
        |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
    )
}

/// The time since then, in its two largest units.
pub(super) fn since(unix_ms: u64, now_unix_ms: u64) -> String {
    let seconds = now_unix_ms.saturating_sub(unix_ms) / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, m) => format!("{m}m {}s", seconds % 60),
        (0, h, m) => format!("{h}h {m}m"),
        (d, h, _) => format!("{d}d {h}h"),
    }
}

/// Milliseconds since 1970.
pub(super) fn now_unix_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [
            vec!["100".into(), "web1".into(), "-".into()],
            vec!["11327".into(), "ä".into(), String::new()],
        ];
        assert_eq!(
            table(&["id", "name", "state"], &rows),
            "ID     NAME  STATE\n100    web1  -\n11327  ä\n"
        );
        assert_eq!(
            facts(&[("id", "7".into()), ("state", "a\nb".into())]),
            "id:     7\nstate:  a\\nb\n"
        );
    }

    #[test]
    fn times_are_for_people() {
        assert_eq!(moment(1_763_837_000_000), "2025-11-22 18:43:20Z");
        assert_eq!(since(0, 59_999), "59s");
        assert_eq!(since(0, 3_599_000), "59m 59s");
        assert_eq!(since(0, 7_260_000), "2h 1m");
        assert_eq!(since(0, 90_000_000), "1d 1h");
        assert_eq!(since(5_000, 0), "0s");
    }
}
