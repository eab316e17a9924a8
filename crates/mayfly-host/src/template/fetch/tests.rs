//! Servers that do what they should not. Each is a thread on the loopback that answers every request by its path.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};

use super::*;

const CONTENTS: &[u8] = b"what an image is made of, as far as this test is concerned";

/// An address at which `answer` writes what it likes to whoever asks for a path.
fn serve(answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> RemoteUrl {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|l| !l.is_empty()))
            {}
            answer(first.split(' ').nth(1).unwrap(), &mut stream);
        }
    });
    url.parse().unwrap()
}

fn say(stream: &mut TcpStream, text: &str) {
    let _ = stream.write_all(text.replace('\n', "\r\n").as_bytes());
}

fn source(remote: &RemoteUrl) -> PullSource {
    PullSource {
        remote: remote.clone(),
        image: "debian/12".into(),
        plain_http: false,
    }
}

fn patience() -> Patience {
    Patience {
        idle: Duration::from_millis(400),
        text: Duration::from_secs(3),
        file: Duration::from_secs(3),
    }
}

fn wanted() -> RemoteFile {
    RemoteFile {
        path: "f".into(),
        bytes: CONTENTS.len() as u64,
        sha256: Digest::of(CONTENTS),
    }
}

/// What comes of fetching the file from that server, and what was written.
fn fetch(remote: &RemoteUrl, cancel: &Cancel) -> (Result<(), Refusal>, Vec<u8>) {
    let source = source(remote);
    let fetcher = Fetcher::new(&source, cancel, patience());
    let mut file = tempfile::tempfile().unwrap();
    let to = file.try_clone().unwrap();
    let url = remote.below("f").unwrap();
    let got = fetcher.while_wanted(|| fetcher.file(&url, &wanted(), to, &mut |_| {}));
    let mut written = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut written).unwrap();
    (got, written)
}

/// The refusal of what a server answers with: header lines, then the body.
fn refusal_of(head: &'static str, body: &'static [u8]) -> Refusal {
    let remote = serve(move |_, stream| {
        say(stream, head);
        let _ = stream.write_all(body);
    });
    fetch(&remote, &Cancel::default()).0.unwrap_err()
}

#[test]
fn a_file_is_the_one_that_was_told_of() {
    for head in [
        "HTTP/1.1 200 OK\nContent-Length: 58\n\n",
        // Without a length, the end of the connection is the end of the file.
        "HTTP/1.1 200 OK\nConnection: close\n\n",
    ] {
        let remote = serve(move |_, stream| {
            say(stream, head);
            let _ = stream.write_all(CONTENTS);
        });
        let (got, written) = fetch(&remote, &Cancel::default());
        got.unwrap();
        assert_eq!(written, CONTENTS);
    }
}

#[test]
fn another_file_is_refused() {
    let close = "HTTP/1.1 200 OK\nConnection: close\n\n";
    let refusal = refusal_of(
        close,
        b"What an image is made of, as far as this test is concerned",
    );
    assert_eq!(refusal.code, Code::TemplateWrongDigest);
    let cases: [(&str, &[u8], &str); 7] = [
        (
            "HTTP/1.1 200 OK\nContent-Length: 59\n\n",
            b"",
            "it has 59 bytes, and the index says 58",
        ),
        (
            "HTTP/1.1 200 OK\nContent-Length: 58\nConnection: close\n\n",
            b"what",
            "too early",
        ),
        (close, b"what", "only 4 bytes"),
        (close, &[b'x'; 1000], "more bytes"),
        ("HTTP/1.1 404 Not Found\nContent-Length: 0\n\n", b"", "404"),
        ("HTTP/1.1 500 No\nContent-Length: 0\n\n", b"", "500"),
        ("what is that?\n\n", b"", "was not fetched"),
    ];
    for (head, body, why) in cases {
        let refusal = refusal_of(head, body);
        assert_eq!(refusal.code, Code::TemplatePullFailed, "{head}");
        assert!(refusal.message.contains(why), "{}", refusal.message);
        assert!(!refusal.hint.is_empty());
    }
}

#[test]
fn redirects_are_followed_in_bounds() {
    let remote = serve(|path, stream| match path {
        "/f" => say(
            stream,
            "HTTP/1.1 302 Found\nLocation: d/g\nContent-Length: 0\n\n",
        ),
        "/d/g" => say(
            stream,
            "HTTP/1.1 307 There\nLocation: /h?x\nContent-Length: 0\n\n",
        ),
        _ => {
            say(stream, "HTTP/1.1 200 OK\nContent-Length: 58\n\n");
            let _ = stream.write_all(CONTENTS);
        }
    });
    fetch(&remote, &Cancel::default()).0.unwrap();
    let cases = [
        ("/f", "more than 5 times"),
        (
            "http://images.example/f",
            "neither https nor the same server",
        ),
        ("http://127.0.0.1:1/f", "neither https nor the same server"),
        ("file:///etc/passwd", "neither https:// nor http://"),
        ("https://u:p@images.example/f", "a user or a password"),
    ];
    for (location, why) in cases {
        let remote = serve(move |_, stream| {
            say(
                stream,
                &format!("HTTP/1.1 302 Found\nLocation: {location}\nContent-Length: 0\n\n"),
            );
        });
        let refusal = fetch(&remote, &Cancel::default()).0.unwrap_err();
        assert_eq!(refusal.code, Code::TemplatePullFailed);
        assert!(
            refusal.message.contains(why),
            "{location}: {}",
            refusal.message
        );
    }
}

/// A server that begins to answer and then says nothing more, or a byte now and then.
fn stalling(pause: Duration) -> RemoteUrl {
    serve(move |_, stream| {
        say(stream, "HTTP/1.1 200 OK\nContent-Length: 58\n\n");
        for byte in CONTENTS {
            std::thread::sleep(pause);
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_server_that_does_not_go_on_is_given_up() {
    let began = Instant::now();
    let refusal = fetch(&stalling(Duration::from_secs(60)), &Cancel::default())
        .0
        .unwrap_err();
    assert!(
        refusal.message.contains("does not go on"),
        "{}",
        refusal.message
    );
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    // One that says a little all the time has its end as well.
    let began = Instant::now();
    let refusal = fetch(&stalling(Duration::from_millis(200)), &Cancel::default())
        .0
        .unwrap_err();
    assert!(
        refusal.message.contains("does not go on"),
        "{}",
        refusal.message
    );
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(2) && took < Duration::from_secs(5),
        "{took:?}"
    );
    // And so has one that takes the connection and says nothing.
    let silent = serve(|_, _| std::thread::sleep(Duration::from_secs(60)));
    assert!(fetch(&silent, &Cancel::default()).0.is_err());
}

#[test]
fn what_is_not_wanted_any_more_ends_at_once() {
    let cancel = Cancel::default();
    let remote = stalling(Duration::from_secs(60));
    let long = Patience {
        idle: Duration::from_secs(60),
        ..patience()
    };
    let source = source(&remote);
    let fetcher = Fetcher::new(&source, &cancel, long);
    let asked = cancel.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        asked.set();
    });
    let began = Instant::now();
    let url = remote.below("f").unwrap();
    let to = tempfile::tempfile().unwrap();
    let got = fetcher.while_wanted(|| fetcher.file(&url, &wanted(), to, &mut |_| {}));
    assert!(got.is_err());
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_text_has_its_bound() {
    let endless = serve(|_, stream| {
        say(stream, "HTTP/1.1 200 OK\nConnection: close\n\n");
        while stream.write_all(&[b' '; 1 << 16]).is_ok() {}
    });
    let (source, cancel) = (source(&endless), Cancel::default());
    let fetcher = Fetcher::new(&source, &cancel, patience());
    let refusal = fetcher
        .text(&endless.below("i").unwrap(), 1 << 20)
        .unwrap_err();
    assert!(
        refusal.message.contains("more than 1M"),
        "{}",
        refusal.message
    );
}
