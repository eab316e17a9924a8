//! Modes of directories as `mkdir --mode` takes them: octal, or symbolic from `a=rwx`.

/// What a clause without `u`, `g`, `o` or `a` leaves out, as under the umask of an activation script.
const UMASK: u32 = 0o022;

/// The bits that `text` means for a new directory; none where it is no mode.
pub fn parse_mode(text: &str) -> Option<u32> {
    if text.is_empty() || text.len() > 64 || !text.is_ascii() {
        return None;
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return u32::from_str_radix(text, 8)
            .ok()
            .filter(|bits| *bits <= 0o7777);
    }
    text.split(',').try_fold(0o777, apply_clause)
}

/// The bits of one class (`u` 6, `g` 3, `o` 0), with its set-id or sticky bit.
fn clause_who(text: &str) -> (u32, bool, &str) {
    let end = text.find(|c| !"ugoa".contains(c)).unwrap_or(text.len());
    let who = text[..end].chars().fold(0, |who, c| {
        who | match c {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            _ => 0o7777,
        }
    });
    if who == 0 {
        (0o7777, true, text)
    } else {
        (who, false, &text[end..])
    }
}

fn apply_clause(mode: u32, text: &str) -> Option<u32> {
    let (who, masked, mut rest) = clause_who(text);
    let mut mode = mode;
    if rest.is_empty() {
        return None;
    }
    while let Some(operator) = rest.chars().next() {
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let mut bits = permissions(&rest[..end], mode)? & who;
        if masked {
            bits &= !UMASK;
        }
        rest = &rest[end..];
        mode = match operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            '=' => (mode & !who) | bits,
            _ => return None,
        };
    }
    Some(mode)
}

fn permissions(text: &str, mode: u32) -> Option<u32> {
    if let "u" | "g" | "o" = text {
        let shift = match text {
            "u" => 6,
            "g" => 3,
            _ => 0,
        };
        return Some(((mode >> shift) & 7) * 0o111);
    }
    text.chars().try_fold(0, |bits, c| {
        Some(
            bits | match c {
                'r' => 0o444,
                'w' => 0o222,
                'x' | 'X' => 0o111,
                's' => 0o6000,
                't' => 0o1000,
                _ => return None,
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_mkdir() {
        for (text, bits) in [
            ("0755", 0o755),
            ("700", 0o700),
            ("2775", 0o2775),
            ("1777", 0o1777),
            ("u=rwx,g=rx,o=", 0o750),
            ("u=rwx,g=,o=", 0o700),
            ("a=rx", 0o555),
            ("go-w", 0o755),
            ("g=u,o=", 0o770),
            ("u=rwx,go=u-w", 0o755),
            ("g+s", 0o2777),
            ("u+s,g-s", 0o4777),
            ("ug=rw-x", 0o667),
            ("u=rwx,g=rx+w", 0o777),
            ("-w", 0o577),
            ("=rx", 0o555),
        ] {
            assert_eq!(parse_mode(text), Some(bits), "{text}");
        }
        for text in [
            "",
            "9",
            "77777",
            "rwx",
            "u",
            "u=q",
            "0x1f",
            "u=rwx,,o=",
            "é=r",
            "u=é",
        ] {
            assert_eq!(parse_mode(text), None, "{text}");
        }
    }
}
