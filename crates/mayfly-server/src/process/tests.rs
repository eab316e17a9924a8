use std::time::Instant;

use super::*;

fn shell(script: &str) -> AttachCommand {
    AttachCommand {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
    }
}

fn how(tty: bool) -> ExecStart {
    ExecStart {
        command: vec![],
        tty,
        rows: 40,
        cols: 132,
        env: Default::default(),
    }
}

async fn run(script: &str, tty: bool, typed: &[u8]) -> (i32, Vec<u8>, Vec<u8>) {
    let (out, mut frames) = mpsc::channel(4);
    let (process, input) = Process::start(&shell(script), &how(tty), &out).unwrap();
    drop(out);
    input
        .send(Input::Bytes(Bytes::copy_from_slice(typed)))
        .await
        .unwrap();
    let _ = input.send(Input::Eof).await;
    let collect = tokio::spawn(async move {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(Message::Binary(frame)) = frames.recv().await {
            if frame[0] == STDOUT {
                &mut stdout
            } else {
                &mut stderr
            }
            .extend_from_slice(&frame[1..]);
        }
        (stdout, stderr)
    });
    let code = process.finished().await.unwrap();
    let (stdout, stderr) = collect.await.unwrap();
    (code, stdout, stderr)
}

#[tokio::test]
async fn pipes_keep_the_streams_apart_and_the_status() {
    let (code, stdout, stderr) = run("cat; echo no >&2; exit 7", false, b"typed\0raw\xff").await;
    assert_eq!(
        (code, stdout.as_slice(), stderr.as_slice()),
        (7, b"typed\0raw\xff".as_slice(), b"no\n".as_slice())
    );
    assert_eq!(run("kill -9 $$", false, b"").await.0, 137);
}

#[tokio::test]
async fn all_output_comes_before_the_end() {
    let (code, stdout, _) = run("head -c 3000000 /dev/zero", false, b"").await;
    assert_eq!((code, stdout.len()), (0, 3_000_000));
}

#[tokio::test]
async fn what_is_left_in_the_background_does_not_hold_the_end() {
    let began = Instant::now();
    let (code, stdout, _) = run("echo up; sleep 60 & exit 3", false, b"").await;
    assert_eq!((code, stdout.as_slice()), (3, b"up\n".as_slice()));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_terminal_is_the_programs_own_and_has_its_size() {
    let (code, stdout, _) = run(
        "stty size; tty >/dev/tty && read x && echo got $x",
        true,
        b"hello\r",
    )
    .await;
    let text = String::from_utf8_lossy(&stdout);
    assert!(
        code == 0
            && text.contains("40 132")
            && text.contains("/dev/pts/")
            && text.contains("got hello"),
        "{text}"
    );
}

#[tokio::test]
async fn a_dropped_process_dies_with_its_descendants() {
    for tty in [false, true] {
        let (out, mut frames) = mpsc::channel(4);
        let (process, _input) =
            Process::start(&shell("sh -c 'echo $$; exec sleep 60'; :"), &how(tty), &out).unwrap();
        let Some(Message::Binary(frame)) = frames.recv().await else {
            panic!("nothing was printed")
        };
        let pid: i32 = std::str::from_utf8(&frame[1..])
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert!(parent_of(pid).is_some());
        drop(process);
        let began = Instant::now();
        while std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|s| !s.contains(") Z "))
        {
            assert!(
                began.elapsed() < Duration::from_secs(5),
                "process {pid} lives"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[test]
fn a_hostile_program_name_does_not_hide_the_parent() {
    assert_eq!(parse_parent("77 (a) S 1 (b) R 42 77 77 0"), Some(42));
    assert_eq!(parse_parent("77 (sh"), None);
}
