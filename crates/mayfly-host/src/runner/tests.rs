use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::Instant;

use rustix::process::{Pid, Signal};

use super::*;

fn sh(script: &str) -> Command {
    Command::new(&Tool::find("sh").unwrap()).args(["-c", script])
}

#[test]
fn tools_are_found_by_absolute_path() {
    assert!(Tool::find("sh").unwrap().path().is_absolute());
    for absent in ["", "../bin/sh", "/bin/sh", "no-such-program-here"] {
        assert_eq!(Tool::find(absent), Err(ToolMissing(absent.to_owned())));
    }
}

#[test]
fn output_is_kept_and_input_is_fed() {
    let much = vec![b'x'; 1 << 20];
    let done = Runner::default()
        .run(&Command::new(&Tool::find("cat").unwrap()).input(much.clone()))
        .unwrap();
    assert_eq!(done.stdout, much);
    assert_eq!(
        Runner::default().run(&sh("cat; echo warned >&2")).unwrap(),
        Output {
            stdout: vec![],
            stderr: "warned\n".to_owned()
        }
    );
}

#[test]
fn a_program_that_reads_nothing_is_no_failure() {
    assert_eq!(
        Runner::default()
            .run(&sh("echo done").input(vec![0; 1 << 20]))
            .unwrap()
            .text(),
        "done\n"
    );
}

#[test]
fn the_environment_is_cleared() {
    let seen = Runner::default()
        .run(
            &Command::new(&Tool::find("env").unwrap())
                .env("A", "1")
                .pass_env(&["HOME", "NO_SUCH_VARIABLE"]),
        )
        .unwrap()
        .text();
    let mut names: Vec<_> = seen
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .filter(|name| *name != "HOME")
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["A", "LC_ALL", "PATH"]);
}

#[test]
fn a_failure_tells_argv_status_and_stderr() {
    let failed = Runner::default()
        .run(&sh("echo one >&2; printf 'a\\033[2Jb\\n' >&2; exit 3"))
        .unwrap_err();
    assert_eq!(failed.end, RunEnd::Status(3));
    let told = failed.to_string();
    assert!(told.ends_with("exit status 3: one; a\\u{1b}[2Jb"), "{told}");
    assert!(matches!(
        Runner::default().run(&sh("kill -9 $$")).unwrap_err().end,
        RunEnd::Signal(9)
    ));
    let nowhere = Runner::default()
        .run(&sh("true").dir("/no/such/directory"))
        .unwrap_err();
    assert_eq!(nowhere.end, RunEnd::NotRun(io::ErrorKind::NotFound));
}

#[test]
fn stderr_is_bounded_at_both_ends() {
    let failed = Runner::default()
        .run(&sh(
            "echo first >&2; head -c 1000000 /dev/zero | tr '\\0' x >&2; echo last >&2; exit 1",
        ))
        .unwrap_err();
    assert!(failed.stderr.len() < 20_000, "{}", failed.stderr.len());
    assert!(failed.stderr.starts_with("first\n") && failed.stderr.ends_with("last\n"));
    assert!(failed.stderr.contains("bytes left out"));
}

#[test]
fn the_deadline_kills_what_it_started_too() {
    let begun = Instant::now();
    let failed = Runner::default()
        .run(&sh("sleep 61 & sleep 62; wait").deadline(Duration::from_millis(200)))
        .unwrap_err();
    assert_eq!(failed.end, RunEnd::Deadline(Duration::from_millis(200)));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_is_not_wanted_any_more_is_killed_or_not_even_started() {
    let cancel = Cancel::default();
    let runner = Runner::wanted_until(&cancel);
    assert_eq!(runner.run(&sh("echo done")).unwrap().text(), "done\n");
    let begun = Instant::now();
    let canceller = {
        let cancel = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            cancel.set();
        })
    };
    let failed = runner.run(&sh("sleep 61 & sleep 62; wait")).unwrap_err();
    assert_eq!(failed.end, RunEnd::Unwanted);
    assert!(begun.elapsed() < Duration::from_secs(5));
    canceller.join().unwrap();
    let mark = tempfile::tempdir().unwrap();
    let touch = format!("touch {}/started", mark.path().display());
    assert_eq!(runner.run(&sh(&touch)).unwrap_err().end, RunEnd::Unwanted);
    assert!(!mark.path().join("started").try_exists().unwrap());
}

#[test]
fn a_background_process_that_keeps_the_pipe_does_not_hold_us() {
    let begun = Instant::now();
    let done = Runner::default().run(&sh("sleep 60 & echo $!")).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20));
    let left: i32 = done.text().trim().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn too_much_output_is_a_failure_and_never_cut() {
    let failed = Runner::default()
        .run(&sh("head -c 100000 /dev/zero").output_limit(50_000))
        .unwrap_err();
    assert_eq!(failed.end, RunEnd::TooMuchOutput(50_000));
}

#[test]
fn streams_come_in_pieces() {
    let (mut out, mut err) = (0, Vec::new());
    let done = Runner::default()
        .run_streaming(
            &sh("head -c 1000000 /dev/zero; echo note >&2"),
            &mut |piece| out += piece.len(),
            &mut |piece| err.extend_from_slice(piece),
        )
        .unwrap();
    assert_eq!(
        (out, err.as_slice(), done.stdout.len()),
        (1_000_000, &b"note\n"[..], 0)
    );
}

#[test]
fn descriptors_are_given_as_input_and_output() {
    let cat = Command::new(&Tool::find("cat").unwrap());
    let mut source = tempfile::tempfile().unwrap();
    let much: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    source.write_all(&much).unwrap();
    io::Seek::rewind(&mut source).unwrap();
    let mut target = tempfile::tempfile().unwrap();
    let done = Runner::default()
        .run_on(&cat, Some(source.as_fd()), Some(target.as_fd()))
        .unwrap();
    assert_eq!(done.stdout, b"");
    io::Seek::rewind(&mut target).unwrap();
    let mut copied = Vec::new();
    target.read_to_end(&mut copied).unwrap();
    assert!(copied == much);
    // Without one for its output, that is kept; without one for its input, it has the command's.
    io::Seek::rewind(&mut source).unwrap();
    let kept = Runner::default()
        .run_on(&cat, Some(source.as_fd()), None)
        .unwrap();
    assert!(kept.stdout == much);
    let fed = Runner::default()
        .run_on(&cat.input("fed"), None, None)
        .unwrap();
    assert_eq!(fed.text(), "fed");
}

#[test]
fn a_reader_that_goes_away_ends_the_writer() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let failed = Runner::default()
        .run_on(&sh("exec cat /dev/zero"), None, Some(writer.as_fd()))
        .unwrap_err();
    assert!(
        matches!(failed.end, RunEnd::Signal(13) | RunEnd::Status(_)),
        "{failed}"
    );
}

#[test]
fn the_deadline_holds_for_streams() {
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    let failed = Runner::default()
        .run_on(
            &sh("exec cat /dev/zero").deadline(Duration::from_millis(200)),
            None,
            Some(writer.as_fd()),
        )
        .unwrap_err();
    assert_eq!(failed.end, RunEnd::Deadline(Duration::from_millis(200)));
}
