//! Texts that are to cost their reader its stack, its time or its memory.

use std::time::{Duration, Instant};

use crate::doctor::{FILE_BYTES, NixFacts, Role, read_nix};

/// In a build without optimisation, on a busy machine.
const LONGEST: Duration = Duration::from_secs(30);

#[track_caller]
fn read(text: &str) -> Result<NixFacts, String> {
    let began = Instant::now();
    let read = read_nix(text, Role::Module);
    let _ = read_nix(text, Role::Flake);
    let start: String = text.chars().take(20).collect();
    assert!(
        began.elapsed() < LONGEST,
        "{start:?}: {:?}",
        began.elapsed()
    );
    read
}

/// Whatever it says of it: it comes back.
#[test]
fn no_text_is_a_stack_overflow_or_takes_for_ever() {
    let pieces = [
        "(",
        "[",
        "[(] a ",
        "[)",
        "++;",
        "-;",
        "{a=",
        "{",
        "\"${",
        "''${",
        "!",
        "-",
        "a:",
        "a: ",
        "a:b ",
        "a ",
        "a+",
        "a++",
        "a->",
        "a.b ",
        "a.",
        "with a;",
        "assert a;",
        "let a=1;in ",
        "let a=",
        "if a then b else ",
        "if ",
        "a ? b ",
        "a or ",
        "rec{a=",
        "a@{b}:",
        "{a}:",
        "{a?",
        "inherit(",
        "let{a=",
        "<a>",
        "/a${",
        "1 ",
        "a//",
        "a|>",
        "a<|",
        "x=[a];",
        "}",
        "]",
        ")",
        "\"",
        "''",
        "/*",
        "#",
        "\\",
        "$",
        "\u{0}",
        "a==",
        "(a)",
        "[a]",
        "\"a\"",
        "${",
        "~/a${",
        "https:a",
        "...",
        "a.${",
        "{a=1;}",
        "__curPos ",
        "imports=[(",
        "{imports=[",
        "config.config.",
        "a\n",
        "/**/",
    ];
    // The longest that is read, with what is put around it below.
    let bytes = FILE_BYTES - 64;
    for piece in pieces {
        let whole = piece.repeat(bytes / piece.len());
        let _ = read(&whole);
        let _ = read(&format!("[ {whole} ]"));
        let _ = read(&format!("{{ imports = [ {whole} ]; }}"));
        let _ = read(&format!("{{ x = {}; }}", piece.repeat(60)));
    }
}

#[test]
fn what_is_too_much_is_refused_with_the_reason() {
    let why = |text: &str| read(text).unwrap_err();
    assert!(why(&"a ".repeat(FILE_BYTES)).contains("longer than 262144"));
    assert!(why(&"(".repeat(1000)).contains("too deeply"));
    assert!(why(&"a".repeat(FILE_BYTES)).contains("words"));
    assert!(why("{ a = ").contains("no Nix"));
    assert!(why("{ }\u{0}").contains("no Nix"));
}

/// Long and flat is what configurations are.
#[test]
fn what_people_write_is_read_at_its_full_length() {
    let key = format!("\"ssh-rsa {}\"\n", "A".repeat(716));
    let text = format!(
        "{{ a = with b; [ {} ]; k = [ {} ]; s = ''{}''; {} }}",
        "pkgs.c ".repeat(5000),
        key.repeat(60),
        "echo ${x} $y\n".repeat(2000),
        "d.e.f = g h i;\n".repeat(5000)
    );
    assert!(text.len() > FILE_BYTES / 2, "{}", text.len());
    read(&text).unwrap();
}

/// Names and places are kept in bounds, and reading stays linear in them.
#[test]
fn long_names_and_many_places_stay_small() {
    let long = "n".repeat(1500);
    let many = "p.files = [ x ];\n".repeat(6000);
    let facts = read(&format!(
        "{{ environment.persistence = {{ \"{long}\" = {{ {many} }}; {many} }}; }}"
    ))
    .unwrap();
    let told: usize = facts.unsure.iter().map(|u| u.option.len()).sum();
    assert!(
        told < 4096 && facts.unsure_more > 1000,
        "{told} {}",
        facts.unsure_more
    );
    let paths = "\"/a\" ".repeat(20_000);
    let facts = read(&format!(
        "{{ environment.persistence.\"/p\".files = [ {paths} ]; }}"
    ))
    .unwrap();
    assert_eq!(facts.kept[0].paths.len(), 4096);
    let many: String = (0..1500)
        .map(|n| format!("\"/{n}\".files = [ ];\nfileSystems.\"/{n}\" = {{ }};\n"))
        .collect();
    let facts = read(&format!(
        "{{ environment.persistence = {{ {many} }}; {many} }}"
    ))
    .unwrap();
    assert_eq!((facts.kept.len(), facts.file_systems.len()), (64, 64));
}
