#![expect(
    clippy::disallowed_methods,
    reason = "a shell is asked, and nothing is changed"
)]

use std::collections::BTreeSet;
use std::process::{Command as Program, Stdio};

use super::*;

/// Every verb and every word that leads to one, with its spaces; hidden ones are nobody's.
fn verbs(command: &Command, all: &mut Vec<(String, Command)>, before: &str) {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let words = format!("{before}{}", verb.get_name());
        verbs(verb, all, &format!("{words} "));
        all.push((words, verb.clone()));
    }
}

fn all_verbs() -> Vec<(String, Command)> {
    let mut command = Cli::command();
    command.build();
    let mut all = Vec::new();
    verbs(&command, &mut all, "");
    all
}

/// Verbs that change nothing on the node, or make no operation: `init` and `serve` are the node itself.
const WITHOUT_PLAN: [&str; 30] = [
    "completions",
    "console",
    "dataset list",
    "doctor",
    "events",
    "exec",
    "feature list",
    "fsck",
    "init",
    "list",
    "logs",
    "mount list",
    "network remove",
    "nixos scaffold",
    "persist list",
    "operation cancel",
    "operation list",
    "operation show",
    "operation watch",
    "passwd",
    "pool show",
    "port list",
    "pull",
    "push",
    "serve",
    "show",
    "ssh",
    "status",
    "template list",
    "template show",
];

/// Verbs that destroy data that somebody wanted to keep.
const ASKING: [&str; 3] = ["dataset destroy", "destroy", "reinstall"];

fn has(verb: &Command, long: &str) -> bool {
    verb.get_arguments().any(|arg| arg.get_long() == Some(long))
}

#[test]
fn every_change_has_a_plan_and_need_not_be_waited_for() {
    for (words, verb) in all_verbs() {
        assert!(has(&verb, "json"), "{words} has no --json");
        if verb.has_subcommands() {
            continue;
        }
        // It works where there is no daemon, so there is no operation to leave to it.
        if words == "recover" {
            assert!(has(&verb, "dry-run"), "{words} has no --dry-run");
            continue;
        }
        let changes = !WITHOUT_PLAN.contains(&words.as_str());
        for flag in ["dry-run", "no-wait"] {
            assert_eq!(
                has(&verb, flag),
                changes,
                "{words}, --{flag}: flatten ChangeArgs, or say here that it makes no operation"
            );
        }
        assert_eq!(
            has(&verb, "yes"),
            ASKING.contains(&words.as_str()),
            "{words}, --yes"
        );
    }
}

#[test]
fn every_verb_and_option_says_what_it_is() {
    for (words, verb) in all_verbs() {
        let about = verb
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(
            !about.is_empty() && !about.ends_with('.'),
            "{words}: `{about}`"
        );
        for arg in verb.get_arguments() {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                !help.is_empty() && !help.ends_with('.'),
                "{words}, {}: `{help}`",
                arg.get_id()
            );
        }
    }
}

#[test]
fn each_verb_has_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("man1");
    manual(&ManualArgs { dir: dir.clone() }).unwrap();
    let pages: BTreeSet<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut wanted: BTreeSet<_> = all_verbs()
        .into_iter()
        .map(|(words, _)| format!("mayfly-{}.1", words.replace(' ', "-")))
        .collect();
    wanted.insert("mayfly.1".to_owned());
    assert_eq!(pages, wanted);
    let page = std::fs::read_to_string(dir.join("mayfly-dataset-create.1")).unwrap();
    for words in [".TH mayfly-dataset-create 1", "quota", "SIZE", "dry\\-run"] {
        assert!(page.contains(words), "no {words} in\n{page}");
    }
}

#[test]
fn bash_takes_the_completions_and_finds_verbs_and_options() {
    let script = String::from_utf8(script(Known::Bash)).unwrap();
    for (typed, wanted) in [
        ("mayfly sta", "status start"),
        ("mayfly dataset cr", "create"),
        ("mayfly stop --dis", "--discard"),
        ("mayfly feature set web1 --root-kind te", "template"),
    ] {
        let words: Vec<_> = typed.split(' ').collect();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let asked = format!(
            "{script}\nCOMP_WORDS=({typed}); COMP_CWORD={}; _mayfly mayfly {last} {before}; echo \"${{COMPREPLY[*]}}\"",
            words.len() - 1
        );
        let out = Program::new("/bin/bash")
            .args(["--norc", "-c", &asked])
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let said = String::from_utf8(out.stdout).unwrap();
        assert_eq!(said.trim(), wanted, "{typed}");
    }
}

#[test]
fn other_shells_get_every_verb() {
    for shell in [Known::Zsh, Known::Fish] {
        let script = String::from_utf8(script(shell)).unwrap();
        for (words, _) in all_verbs() {
            let last = words.rsplit(' ').next().unwrap_or_default();
            assert!(script.contains(last), "{shell:?} does not know {words}");
        }
    }
}
