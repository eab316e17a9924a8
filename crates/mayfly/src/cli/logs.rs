//! What happened to a VPS: the events of its runs, and what its console printed.
//!
//! The two are kept apart, so that no guest can forge an event: events go to standard error and the console's bytes to
//! standard output, all events before a line of their own and the console after it. Where only one of them is asked for it
//! is on standard output.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Args;
use mayfly_api::{EventLine, RunEventView};
use mayfly_core::documents::OperationState;
use mayfly_core::error::Code;
use serde::Serialize;

use super::screen::Tame;
use super::words::parse_vps;
use super::{Context, Failure, events, history};

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// Go on with what comes
    #[arg(long, short)]
    follow: bool,
    /// Only what happened to its runs, on standard output
    #[arg(long, conflicts_with = "console")]
    events: bool,
    /// Only what the console printed
    #[arg(long)]
    console: bool,
}

/// Both as JSON. The console's bytes are text here: what is none is replaced.
#[derive(Serialize)]
struct Both {
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<RunEventView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    console: Option<String>,
}

/// Between events and console.
const CONSOLE: &str = "--- console ---";

pub(super) async fn run(context: &Context, args: LogsArgs) -> Result<ExitCode, Failure> {
    let (client, screen) = (&context.client, &context.screen);
    if args.follow && screen.json && !args.events {
        return Err(Failure::refused(
            Code::Invalid,
            "what a console prints from now on is no JSON",
            format!(
                "leave out --json, or: mayfly logs {} --events --follow --json",
                args.vps
            ),
        ));
    }
    let mut from = None;
    let mut told = None;
    if !args.console {
        let history = client.history(&args.vps).await?;
        from = Some(history.revision);
        told = Some(history.events);
    }
    if screen.json && !args.follow {
        let console = match args.events {
            true => None,
            false => Some(client.log(&args.vps).await?),
        };
        let both = Both {
            events: told,
            console: console.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        };
        screen.show(&both, |_| String::new())?;
        return Ok(ExitCode::SUCCESS);
    }
    let events = Events {
        context,
        alone: args.events,
    };
    let told = told.unwrap_or_default();
    for event in &told {
        events.tell(event)?;
    }
    if args.events {
        if args.follow {
            events.follow(&args.vps, from).await?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !told.is_empty() {
        events.say(CONSOLE)?;
    }
    let mut console = Console::new(context);
    if !args.follow {
        console.print(&client.log(&args.vps).await?)?;
    } else if args.console {
        console.follow(&args.vps).await?;
    } else {
        tokio::select! {
            over = console.follow(&args.vps) => over?,
            over = events.follow(&args.vps, from) => over?,
        }
    }
    console.end()?;
    Ok(ExitCode::SUCCESS)
}

/// Where events go.
struct Events<'a> {
    context: &'a Context,
    /// Whether there is nothing else.
    alone: bool,
}

impl Events<'_> {
    fn tell(&self, event: &RunEventView) -> Result<(), Failure> {
        if !self.context.screen.json {
            return self.say(&history::line(event));
        }
        let line = serde_json::to_string(event).map_err(io::Error::other)?;
        self.say(&line)
    }

    fn say(&self, line: &str) -> Result<(), Failure> {
        if self.alone {
            return self.context.screen.print(&format!("{line}\n"));
        }
        // Who cannot be told is not told: the console goes on.
        let _ = writeln!(io::stderr(), "{line}");
        Ok(())
    }

    /// Tells what happens after that revision, until the VPS is destroyed.
    async fn follow(&self, vps: &str, from: Option<u64>) -> Result<(), Failure> {
        let mut lines = self.context.client.events(from, Some(vps)).await?;
        while let Some(line) = lines.next_line().await? {
            let event = match serde_json::from_str(&line) {
                Ok(EventLine::Event(event)) => event,
                Ok(EventLine::Last(body)) => return Err(body.error.into()),
                // A newer node may have more to tell.
                Err(_) => continue,
            };
            if let Some(run) = &event.run {
                self.tell(run)?;
            }
            let Some(op) = &event.operation else { continue };
            if let Some(failure) = history::failure(op) {
                self.tell(&failure)?;
            }
            if op.verb == "destroy" && op.state == OperationState::Done {
                return Ok(());
            }
        }
        Err(events::ended())
    }
}

/// Where the console goes: on a terminal without what would act on it.
struct Console<'a> {
    context: &'a Context,
    tame: Option<Tame>,
}

impl<'a> Console<'a> {
    fn new(context: &'a Context) -> Self {
        let tame = io::stdout().is_terminal().then(Tame::default);
        Self { context, tame }
    }

    fn print(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match &mut self.tame {
            Some(tame) => self.context.screen.print(&tame.feed(bytes)),
            None => self.context.screen.print_raw(bytes),
        }
    }

    async fn follow(&mut self, vps: &str) -> Result<(), Failure> {
        let mut pieces = self.context.client.follow_log(vps).await?;
        while let Some(piece) = pieces.next_bytes().await? {
            self.print(&piece)?;
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Failure> {
        if self.tame.is_some() {
            // Colours of the guest end here.
            self.context.screen.print("\x1b[0m")?;
        }
        Ok(())
    }
}
