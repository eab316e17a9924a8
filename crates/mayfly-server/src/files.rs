//! Files into a VPS and out of it, and its passwords: by programs that run inside, with its rights and under its limits.
//! What comes back from there is a guest's word.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use mayfly_api::{FilePlaced, MODE_HEADER, PasswordSet, SetPassword};
use mayfly_core::documents::VpsDoc;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::files::{FileHead, FilePut, Ground};
use mayfly_core::persist::path::TreePath;
use mayfly_core::plan::{Fate, fate_of_file};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::error::ApiError;
use crate::exec::running;
use crate::extract::{Body as JsonBody, Params, Path};
use crate::process::Piped;
use crate::router::{Answer, Routes};
use crate::{AppState, AttachCommand};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default()
        .routes(routes!(put, get))
        .routes(routes!(set_password))
}

const RAW: &str = "application/octet-stream";
/// What a program inside may say of what it did.
const TOLD_BYTES: u64 = 16 << 10;
/// What it may complain.
const COMPLAINT_BYTES: u64 = 2 << 10;
/// A piece of a file on its way.
const PIECE_BYTES: usize = 64 << 10;
/// How long a helper that has told all may take to end.
const LEAVE: Duration = Duration::from_secs(2);
/// The helper's status where nothing is there.
const ABSENT: i32 = 3;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Put {
    /// Absolute path inside the VPS. Links are followed, inside the VPS.
    path: String,
    /// The name of the file where `path` is a directory.
    name: Option<String>,
    /// Its mode, in octal; else that of the file that is there.
    mode: Option<String>,
    /// Its mode where there is none yet, in octal; else 0644.
    mode_if_new: Option<String>,
    /// User and group, such as `0:0`; else those of the file that is there, else root.
    owner: Option<String>,
}

/// Puts a file into a running VPS.
///
/// The body is the file, of any length: it is there as a whole or not at all, but where a mount is bound over the file itself,
/// which is written over. The answer tells whether it will be there after the next start.
#[utoipa::path(
    put,
    path = "/v1/vps/{vps}/file",
    params(Put),
    request_body(content_type = "application/octet-stream", description = "The file."),
    responses((status = 200, description = "What became of it.", body = FilePlaced)),
)]
pub(crate) async fn put(
    State(state): State<AppState>,
    Path(vps): Path<String>,
    Params(wish): Params<Put>,
    body: Body,
) -> Answer<FilePlaced> {
    check_path(&wish.path)?;
    let given = [
        ("--path", Some(wish.path)),
        ("--name", wish.name),
        ("--mode", wish.mode),
        ("--mode-if-new", wish.mode_if_new),
        ("--owner", wish.owner),
    ];
    let mut words = vec!["put".to_owned()];
    for (name, value) in given {
        let Some(value) = value else { continue };
        if value.contains('\0') {
            let hint = "leave it out";
            return Err(ApiError::invalid(format!("{name} holds a zero byte"), hint));
        }
        words.extend([name.to_owned(), value]);
    }
    let (doc, command) = helper(&state, vps, words).await?;
    let pieces = body.into_data_stream().map(|piece| piece.map(framed));
    // A body that was cut off has no last piece, and the helper does nothing.
    let last = stream::iter([Ok(Bytes::from_static(&[0; 4]))]);
    let ended = feed(&command, pieces.chain(last)).await?;
    let told = ended.done(&doc)?;
    let told: FilePut = serde_json::from_slice(&told).map_err(|e| nonsense(&doc, &e))?;
    let path = TreePath::parse(&told.path).map_err(|e| nonsense(&doc, &e))?;
    let fate = fate(&state, &doc, &path, told.ground).await?;
    Ok(Json(FilePlaced {
        path,
        bytes: told.bytes,
        stays: fate.stays,
        why: fate.why,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Get {
    /// Absolute path inside the VPS. Links are followed, inside the VPS.
    path: String,
}

/// A file of a running VPS.
///
/// Its mode is in the header `mayfly-file-mode`, in octal. An answer that ends before its length was cut off.
#[utoipa::path(
    get,
    path = "/v1/vps/{vps}/file",
    params(Get),
    responses((status = 200, description = "The file.", content_type = "application/octet-stream")),
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    Path(vps): Path<String>,
    Params(Get { path }): Params<Get>,
) -> Result<Response, ApiError> {
    check_path(&path)?;
    let words = vec!["get".to_owned(), "--path".to_owned(), path];
    let (doc, command) = helper(&state, vps, words).await?;
    let mut program = start(&command)?;
    drop(program.stdin.take());
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        let read = program.stdout.read(&mut byte).await;
        if read.map_err(ApiError::internal)? == 0 || line.len() as u64 > TOLD_BYTES {
            let ended = Ended::of(program, line).await?;
            return Err(match ended.done(&doc) {
                Ok(_) => nonsense(&doc, &"it told no length").into(),
                Err(refusal) => refusal.into(),
            });
        }
        if byte == *b"\n" {
            break;
        }
        line.push(byte[0]);
    }
    let head: FileHead = serde_json::from_slice(&line).map_err(|e| nonsense(&doc, &e))?;
    if head.bytes == 0 {
        program.leave(LEAVE).await;
        return Ok((headers(&head), Body::empty()).into_response());
    }
    let body = stream::unfold(Some((program, head.bytes)), async |under_way| {
        let (mut program, left) = under_way?;
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES))];
        let read = match program.stdout.read(&mut piece).await {
            Ok(0) => Err(std::io::Error::other("the file ended before its length")),
            Ok(n) => {
                piece.truncate(n);
                Ok(Bytes::from(piece))
            }
            Err(e) => Err(e),
        };
        let left = read.as_ref().map_or(0, |piece| left - piece.len() as u64);
        if left > 0 {
            return Some((read, Some((program, left))));
        }
        // Before the last piece: who has that may stop the VPS at once.
        program.leave(LEAVE).await;
        Some((read, None))
    });
    Ok((headers(&head), Body::from_stream(body)).into_response())
}

fn headers(head: &FileHead) -> [(&'static str, String); 3] {
    [
        (CONTENT_TYPE.as_str(), RAW.to_owned()),
        (CONTENT_LENGTH.as_str(), head.bytes.to_string()),
        (MODE_HEADER, format!("{:04o}", head.mode & 0o7777)),
    ]
}

/// Sets a password in a running VPS.
///
/// By the VPS's own `chpasswd`, which knows how its distribution keeps passwords. The answer tells whether it will hold after
/// the next start.
#[utoipa::path(
    post,
    path = "/v1/vps/{vps}/password",
    request_body = SetPassword,
    responses((status = 200, description = "It is set.", body = PasswordSet)),
)]
pub(crate) async fn set_password(
    State(state): State<AppState>,
    Path(vps): Path<String>,
    JsonBody(wish): JsonBody<SetPassword>,
) -> Answer<PasswordSet> {
    let SetPassword { user, password } = wish;
    let odd = |text: &str| text.is_empty() || text.chars().any(char::is_control);
    if odd(&user) || user.contains(':') || odd(&password) {
        return Err(ApiError::invalid(
            "a name or a password is empty, or has what no such word may have",
            "a name has no colon, and neither has line breaks or other control characters",
        ));
    }
    let (doc, command) = state
        .blocking(move |state| {
            let doc = running(state, &vps)?;
            let command = ["chpasswd".to_owned()];
            let command = state
                .consoles()
                .attach(&doc, &command, &Default::default(), false)?;
            Ok((doc, command))
        })
        .await?;
    let line = Bytes::from(format!("{user}:{password}\n"));
    let line = stream::iter([Ok::<_, std::convert::Infallible>(line)]);
    let ended = feed(&command, line).await?;
    if matches!(ended.status, 126 | 127) {
        return Err(Refusal::new(
            Code::FileRefused,
            format!("VPS {} has no chpasswd: {}", doc.title(), ended.complaint()),
            "install it there (Debian: passwd), or set the password inside",
        )
        .into());
    }
    ended.done(&doc)?;
    let shadow = TreePath::parse("/etc/shadow").map_err(ApiError::internal)?;
    let fate = fate(&state, &doc, &shadow, Ground::Root).await?;
    Ok(Json(PasswordSet {
        user,
        stays: fate.stays,
        why: fate.why,
    }))
}

/// A piece of a file as the helper reads it.
fn framed(piece: Bytes) -> Bytes {
    let mut framed = Vec::with_capacity(piece.len() + 8);
    // An empty one would be the last.
    for part in piece.chunks(PIECE_BYTES) {
        let length = u32::try_from(part.len()).unwrap_or_default();
        framed.extend(length.to_le_bytes());
        framed.extend(part);
    }
    framed.into()
}

fn check_path(path: &str) -> Result<(), ApiError> {
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(());
    }
    Err(ApiError::invalid(
        format!("{} is no absolute path", path.escape_debug()),
        "write it from the / of the VPS on, such as /etc/motd",
    ))
}

/// The helper in a VPS that runs.
async fn helper(
    state: &AppState,
    vps: String,
    words: Vec<String>,
) -> Result<(VpsDoc, AttachCommand), ApiError> {
    state
        .blocking(move |state| {
            let doc = running(state, &vps)?;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let command = state.consoles().attach_helper(&doc, &words)?;
            Ok((doc, command))
        })
        .await
}

async fn fate(
    state: &AppState,
    doc: &VpsDoc,
    path: &TreePath,
    ground: Ground,
) -> Result<Fate, ApiError> {
    let (id, path) = (doc.id.to_string(), path.clone());
    state
        .blocking(move |state| {
            let known = state.engine().persistence(&id)?;
            Ok(fate_of_file(&known.doc, &known.listing, &path, ground))
        })
        .await
}

fn start(command: &AttachCommand) -> Result<Piped, ApiError> {
    Piped::start(command)
        .map_err(|e| ApiError::internal(format!("{}: {e}", command.program.display())))
}

/// Runs a program with this as its input. A client that goes away takes it along.
async fn feed<E: std::fmt::Display>(
    command: &AttachCommand,
    input: impl futures_util::Stream<Item = Result<Bytes, E>>,
) -> Result<Ended, ApiError> {
    let mut program = start(command)?;
    let stdin = program.stdin.take();
    let feeding = async {
        let Some(mut stdin) = stdin else {
            return Ok::<(), ApiError>(());
        };
        let mut input = std::pin::pin!(input);
        while let Some(piece) = input.next().await {
            let piece = piece.map_err(|e| {
                let message = format!("the body did not come to its end: {e}");
                ApiError::invalid(message, "send it again")
            })?;
            // A program that reads no more has its reasons, and tells them.
            if stdin.write_all(&piece).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let mut told = Vec::new();
    let telling = async {
        let _ = read_some(&mut program.stdout, TOLD_BYTES, &mut told).await;
        Ok(())
    };
    tokio::try_join!(feeding, telling)?;
    Ended::of(program, told).await
}

/// Reads so much, and lets the rest go by.
async fn read_some(
    from: &mut (impl AsyncRead + Unpin),
    limit: u64,
    into: &mut Vec<u8>,
) -> std::io::Result<()> {
    (&mut *from).take(limit).read_to_end(into).await?;
    tokio::io::copy(from, &mut tokio::io::sink()).await?;
    Ok(())
}

/// A program that is over.
struct Ended {
    status: i32,
    told: Vec<u8>,
    complaint: Vec<u8>,
}

impl Ended {
    async fn of(mut program: Piped, told: Vec<u8>) -> Result<Self, ApiError> {
        let mut complaint = Vec::new();
        let _ = read_some(&mut program.stderr, COMPLAINT_BYTES, &mut complaint).await;
        let status = program.end().await.map_err(ApiError::internal)?;
        Ok(Self {
            status,
            told,
            complaint,
        })
    }

    /// What it complained of, in one line that does nothing to a terminal.
    fn complaint(&self) -> String {
        let text = String::from_utf8_lossy(&self.complaint);
        let text = text.trim().escape_debug().to_string();
        match text.is_empty() {
            true => format!("status {}", self.status),
            false => text,
        }
    }

    /// What it told, where it did what it was to do.
    fn done(self, doc: &VpsDoc) -> Result<Vec<u8>, Refusal> {
        let why = || format!("VPS {}: {}", doc.title(), self.complaint());
        match self.status {
            0 => Ok(self.told),
            ABSENT => Err(Refusal::new(
                Code::FileNotFound,
                why(),
                format!("see what is there: mayfly exec {} -- ls -la /", doc.id),
            )),
            _ => Err(Refusal::new(
                Code::FileRefused,
                why(),
                format!("look inside: mayfly exec {} -- sh", doc.id),
            )),
        }
    }
}

/// The VPS said what makes no sense.
fn nonsense(doc: &VpsDoc, why: &impl std::fmt::Display) -> Refusal {
    Refusal::new(
        Code::FileRefused,
        format!("VPS {} told nothing usable of the file: {why}", doc.title()),
        format!("look inside: mayfly exec {} -- sh", doc.id),
    )
}
