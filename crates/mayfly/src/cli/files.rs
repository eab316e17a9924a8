//! Files into a VPS and out of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use futures_util::stream;
use mayfly_api::PutFile;
use mayfly_core::error::Code;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Bytes;

use super::screen::escape;
use super::words::parse_vps;
use super::{Context, Failure};

const PUSH_EXAMPLES: &str = "\
Examples:
  mayfly push web nginx.conf /etc/nginx/nginx.conf
  mayfly push web id_ed25519.pub /root/.ssh/authorized_keys --mode 600
  pg_dump app | mayfly push web - /persistent/app.sql";

#[derive(Debug, Args)]
#[command(after_help = PUSH_EXAMPLES)]
pub(crate) struct PushArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// The file here; - is standard input
    file: PathBuf,
    /// Where in the VPS, or the directory into which it goes
    path: String,
    /// Its mode, in octal [default: that of the file that is there, else of the one here]
    #[arg(long, value_parser = parse_mode)]
    mode: Option<u32>,
    /// User and group, by number [default: those of the file that is there, else 0:0]
    #[arg(long, value_name = "UID:GID", value_parser = parse_owner)]
    owner: Option<(u32, u32)>,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// The file in the VPS
    path: String,
    /// Where here, or the directory into which it goes; - is standard output
    file: PathBuf,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "write it in octal, such as 640".to_owned())
}

fn parse_owner(text: &str) -> Result<(u32, u32), String> {
    let ids = text.split_once(':');
    let ids = ids.and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
    ids.ok_or_else(|| "write numbers, such as 1000:1000".to_owned())
}

/// Pieces of a file that are read ahead.
const AHEAD: usize = 4;
const PIECE_BYTES: usize = 64 << 10;

pub(super) async fn push(context: &Context, args: PushArgs) -> Result<ExitCode, Failure> {
    let (name, mode, source): (_, _, Box<dyn io::Read + Send>) = match args.file.as_os_str() == "-"
    {
        true => (None, None, Box::new(io::stdin())),
        false => {
            let file = File::open(&args.file).map_err(|e| unreadable(&args.file, &e))?;
            let seen = file.metadata().map_err(|e| unreadable(&args.file, &e))?;
            if seen.is_dir() {
                return Err(Failure::refused(
                    Code::Invalid,
                    format!("{} is a directory", args.file.display()),
                    format!(
                        "push its files one by one, or: tar c -C {} . | mayfly exec {} -- tar x -C {}",
                        args.file.display(),
                        args.vps,
                        args.path
                    ),
                ));
            }
            let name = args.file.file_name().and_then(|name| name.to_str());
            let mode = seen.permissions().mode() & 0o777;
            (name.map(str::to_owned), Some(mode), Box::new(file))
        }
    };
    let wish = PutFile {
        path: args.path,
        name,
        mode: args.mode,
        mode_if_new: mode,
        owner: args.owner,
    };
    let pieces = stream::unfold(read_ahead(source), async |mut pieces| {
        Some((pieces.recv().await?, pieces))
    });
    let placed = context.client.put_file(&args.vps, &wish, pieces).await?;
    context.screen.show(&placed, |placed| {
        let path = escape(placed.path.as_str());
        let mut text = format!("{path}: {} bytes\n", placed.bytes);
        text.push_str(&fate(placed.stays, &placed.why));
        if !placed.stays {
            text.push_str(&format!(
                "  to keep it: mayfly persist add {} {path} --file, and push it again after the restart\n",
                args.vps
            ));
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Whether something is there after the next start, in a line.
pub(super) fn fate(stays: bool, why: &str) -> String {
    let why = escape(why);
    match stays {
        true => format!("  it stays: {why}\n"),
        false => format!("  it is gone with the next start: {why}\n"),
    }
}

/// Reads on a thread of its own: standard input cannot be waited for in any other way.
fn read_ahead(mut from: Box<dyn io::Read + Send>) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let read = match from.read(&mut piece) {
                Ok(0) => return,
                Ok(n) => {
                    piece.truncate(n);
                    Ok(piece.into())
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

pub(super) async fn pull(context: &Context, args: PullArgs) -> Result<ExitCode, Failure> {
    let mut pulled = context.client.pull_file(&args.vps, &args.path).await?;
    if args.file.as_os_str() == "-" {
        while let Some(piece) = pulled.next_bytes().await? {
            context.screen.print_raw(&piece)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let to = match args.file.is_dir() {
        true => {
            let name = Path::new(&args.path).file_name().ok_or_else(|| {
                let message = format!("{} names no file", args.path);
                Failure::refused(Code::Invalid, message, "name a file, such as /etc/motd")
            })?;
            args.file.join(name)
        }
        false => args.file,
    };
    let beside = beside(&to);
    let unwritten = |e: io::Error| {
        let message = format!("{} cannot be written: {e}", to.display());
        Failure::refused(Code::Invalid, message, "name another place")
    };
    let write = async {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            // What a VPS says sets no user's id here.
            .mode(pulled.mode & 0o777)
            .open(&beside)
            .map_err(unwritten)?;
        let mut bytes = 0;
        while let Some(piece) = pulled.next_bytes().await? {
            file.write_all(&piece).map_err(unwritten)?;
            bytes += piece.len();
        }
        file.sync_all().map_err(unwritten)?;
        fs::rename(&beside, &to).map_err(unwritten)?;
        Ok(bytes)
    };
    let done: Result<usize, Failure> = write.await;
    if done.is_err() {
        // The failure is what is told.
        let _ = fs::remove_file(&beside);
    }
    let bytes = done?;
    let told = serde_json::json!({"file": to.display().to_string(), "bytes": bytes});
    context
        .screen
        .show(&told, |_| format!("{}: {bytes} bytes\n", to.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// A name beside `to`, for what is not whole yet.
fn beside(to: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(to.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    to.with_file_name(name)
}

fn unreadable(file: &Path, e: &io::Error) -> Failure {
    Failure::refused(
        Code::Invalid,
        format!("{} cannot be read: {e}", file.display()),
        "name a file that can be",
    )
}
