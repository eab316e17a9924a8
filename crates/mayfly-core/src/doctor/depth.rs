//! What a text of Nix may cost its reader, counted before it is parsed: whoever parses and whoever drops what was parsed goes
//! down as many calls as it nests, and a guest's text may be made of nothing but open brackets.
//!
//! The depth is an upper bound. Brackets and strings nest while they are open; what an operator, a function or a keyword
//! begins goes on to the end of the entry, or of what is around it.

use rnix::SyntaxKind::{self, *};
use rnix::tokenize;

/// Deeper is not read. What people write stays far below.
const DEEPEST: usize = 400;

/// The tokenizer looks ahead over all of a word that may be a path, at each token of it again: the squares of the lengths
/// of the words, together. A key of SSH on a line of its own costs a hundredth of it.
const STEPS: usize = 64 << 20;

/// Whether the words of a text are short enough for the tokenizer.
pub(super) fn has_short_words(text: &str) -> bool {
    let words = text.split(char::is_whitespace);
    words.map(|word| word.len() * word.len()).sum::<usize>() <= STEPS
}

/// What is open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    /// A list, whose items are side by side.
    List,
    /// A text, whose pieces are.
    Text,
    /// Anything else.
    Other,
}

/// One level of brackets.
struct Level {
    open: Open,
    /// What ends it; nothing does outside of all brackets.
    closes: Option<SyntaxKind>,
    /// What began in the present entry.
    entry: usize,
    /// What goes on behind a semicolon.
    lasting: usize,
}

impl Level {
    fn new(open: Open, closes: Option<SyntaxKind>) -> Self {
        Self {
            open,
            closes,
            entry: 0,
            lasting: 0,
        }
    }
}

/// Whether the text surely nests no deeper than what can be read.
pub(super) fn is_shallow(text: &str) -> bool {
    let mut outer: Vec<Level> = Vec::new();
    let mut level = Level::new(Open::Other, None);
    // Of all levels around the present one.
    let mut around = 0;
    for (kind, _) in tokenize(text) {
        match kind {
            TOKEN_WHITESPACE | TOKEN_COMMENT => continue,
            TOKEN_L_PAREN | TOKEN_L_BRACE | TOKEN_L_BRACK | TOKEN_STRING_START
            | TOKEN_INTERPOL_START => {
                around += 1 + level.entry + level.lasting;
                let open = match kind {
                    TOKEN_L_BRACK => Open::List,
                    TOKEN_STRING_START => Open::Text,
                    _ => Open::Other,
                };
                let closes = Some(match kind {
                    TOKEN_L_PAREN => TOKEN_R_PAREN,
                    TOKEN_L_BRACK => TOKEN_R_BRACK,
                    TOKEN_STRING_START => TOKEN_STRING_END,
                    TOKEN_INTERPOL_START => TOKEN_INTERPOL_END,
                    _ => TOKEN_R_BRACE,
                });
                let inner = Level::new(open, closes);
                outer.push(std::mem::replace(&mut level, inner));
            }
            TOKEN_R_PAREN | TOKEN_R_BRACE | TOKEN_R_BRACK | TOKEN_STRING_END
            | TOKEN_INTERPOL_END => {
                // What closes nothing, or something else, is no Nix, and the reader would go on as if nothing had been closed.
                let Some(before) = outer.pop().filter(|_| level.closes == Some(kind)) else {
                    return false;
                };
                level = before;
                around -= 1 + level.entry + level.lasting;
                began(&mut level, kind);
            }
            TOKEN_SEMICOLON | TOKEN_COMMA => level.entry = 0,
            _ => began(&mut level, kind),
        }
        if around + level.entry + level.lasting > DEEPEST {
            return false;
        }
    }
    true
}

fn began(level: &mut Level, kind: SyntaxKind) {
    match kind {
        TOKEN_WITH | TOKEN_ASSERT | TOKEN_LET | TOKEN_IF | TOKEN_COLON | TOKEN_AT => {
            level.lasting += 1;
        }
        // The names of a path are side by side.
        TOKEN_DOT | TOKEN_STRING_CONTENT | TOKEN_ASSIGN => {}
        TOKEN_INTERPOL_END if level.open == Open::Text => {}
        TOKEN_IDENT | TOKEN_STRING_END | TOKEN_R_PAREN | TOKEN_R_BRACE | TOKEN_R_BRACK
        | TOKEN_PATH_ABS | TOKEN_PATH_REL | TOKEN_PATH_HOME | TOKEN_PATH_SEARCH | TOKEN_URI
        | TOKEN_INTEGER | TOKEN_FLOAT
            if level.open == Open::List => {}
        _ => level.entry += 1,
    }
}
