//! What goes to standard output and to the terminal. Text that may come from a guest is made harmless first.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::Failure;

/// Where answers go.
pub(crate) struct Screen {
    pub(crate) json: bool,
}

impl Screen {
    /// Prints a value as JSON where that was asked for, else the text made of it.
    pub(crate) fn show<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let mut json = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
            json.push('\n');
            return self.print(&json);
        }
        self.print(&text(value))
    }

    /// Prints text as it is.
    pub(super) fn print(&self, text: &str) -> Result<(), Failure> {
        self.print_raw(text.as_bytes())
    }

    /// Prints bytes as they are.
    pub(super) fn print_raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Tells someone who watches how things go; nobody watches where standard error is no terminal.
    pub(super) fn tell(&self, line: &str) {
        if self.is_watched() {
            // Who cannot be told is not told.
            let _ = writeln!(io::stderr(), "{}", escape(line));
        }
    }

    /// Whether someone watches how things go.
    pub(super) fn is_watched(&self) -> bool {
        io::stderr().is_terminal()
    }
}

/// Whether a character turns the direction of writing.
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text on one line in which nothing acts on a terminal or turns the direction of writing.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns(c) {
            escaped.extend(c.escape_debug());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Console output for a terminal that is not the guest's: lines and colours stay, all that moves, erases, turns, asks or
/// renames goes. Fed in pieces, which may cut a sequence or a character anywhere.
#[derive(Debug, Default)]
pub(super) struct Tame {
    state: Sequence,
    /// The beginning of a character.
    cut: Vec<u8>,
}

#[derive(Debug, Default)]
enum Sequence {
    #[default]
    None,
    Escape,
    /// `ESC [` and what followed.
    Control(String),
    /// `ESC ]`, `ESC P` and the like: until BEL or `ESC \`.
    Text {
        escape: bool,
    },
    /// `ESC (` and the like take one more character.
    One,
}

impl Tame {
    /// What of the next piece may be shown.
    pub(super) fn feed(&mut self, piece: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.cut);
        bytes.extend_from_slice(piece);
        let mut shown = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            chunk.valid().chars().for_each(|c| self.take(c, &mut shown));
            let invalid = chunk.invalid();
            // What could become a character with the next piece waits for it.
            if chunks.peek().is_none() && !invalid.is_empty() && could_go_on(invalid) {
                self.cut = invalid.to_vec();
            } else if !invalid.is_empty() {
                self.take(char::REPLACEMENT_CHARACTER, &mut shown);
            }
        }
        shown
    }

    fn take(&mut self, c: char, shown: &mut String) {
        self.state = match std::mem::take(&mut self.state) {
            Sequence::None => match c {
                '\x1b' => Sequence::Escape,
                '\n' | '\t' => {
                    shown.push(c);
                    Sequence::None
                }
                c => {
                    if !c.is_control() && !turns(c) {
                        shown.push(c);
                    }
                    Sequence::None
                }
            },
            Sequence::Escape => match c {
                '[' => Sequence::Control(String::new()),
                ']' | 'P' | 'X' | '^' | '_' => Sequence::Text { escape: false },
                ' '..='/' => Sequence::One,
                '\x1b' => Sequence::Escape,
                _ => Sequence::None,
            },
            Sequence::Control(mut rest) => match c {
                '\x1b' => Sequence::Escape,
                '\x40'..='\x7e' => {
                    let colour = rest
                        .chars()
                        .all(|c| c.is_ascii_digit() || c == ';' || c == ':');
                    if c == 'm' && colour && rest.len() <= 32 {
                        shown.push_str(&format!("\x1b[{rest}m"));
                    }
                    Sequence::None
                }
                _ => {
                    if rest.len() <= 32 {
                        rest.push(c);
                    }
                    Sequence::Control(rest)
                }
            },
            Sequence::Text { escape } => match c {
                '\x07' => Sequence::None,
                '\\' if escape => Sequence::None,
                // A text that never ends must not hide what follows for ever.
                '\n' => {
                    shown.push('\n');
                    Sequence::None
                }
                c => Sequence::Text {
                    escape: c == '\x1b',
                },
            },
            Sequence::One => Sequence::None,
        };
    }
}

fn could_go_on(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_harmless_on_a_terminal() {
        assert_eq!(
            escape("grüße\x1b]0;x\x07\r\n\u{202e}"),
            "grüße\\u{1b}]0;x\\u{7}\\r\\n\\u{202e}"
        );
        assert_eq!(escape("it's \"so\" \\ and 日本"), "it's \"so\" \\ and 日本");
    }

    #[test]
    fn consoles_keep_lines_and_colours_only() {
        let said = b"\x1b[2J\x1b[H[\x1b[0;32m  OK  \x1b[0m] up\r\n\x1b]0;title\x07\x1b(Bx\x08\x07\x1b[6n\x1bc\tend\xc2\x9b31m";
        assert_eq!(
            Tame::default().feed(said),
            "[\x1b[0;32m  OK  \x1b[0m] up\nx\tend31m"
        );
    }

    #[test]
    fn a_cut_anywhere_changes_nothing() {
        let said = "a\x1b[1;31mgrün日\x1b]2;x\x1b\\\x1b[5Az\r\n".as_bytes();
        let whole = Tame::default().feed(said);
        assert_eq!(whole, "a\x1b[1;31mgrün日z\n");
        for at in 0..said.len() {
            let mut tame = Tame::default();
            let parts = tame.feed(&said[..at]) + &tame.feed(&said[at..]);
            assert_eq!(parts, whole, "cut at {at}");
        }
    }

    #[test]
    fn broken_text_is_replaced_and_does_not_hide_the_rest() {
        assert_eq!(Tame::default().feed("a\u{202e}b".as_bytes()), "ab");
        assert_eq!(Tame::default().feed(b"a\xff\xfeb"), "a\u{fffd}\u{fffd}b");
        assert_eq!(Tame::default().feed(b"\x1b]never ends\nseen"), "\nseen");
        let mut tame = Tame::default();
        assert_eq!(tame.feed(b"\xe6\x97"), "");
        assert_eq!(tame.feed(b"x"), "\u{fffd}x");
    }
}
