//! What a VPS is and may take of the host.

use std::process::ExitCode;

use clap::Args;
use mayfly_api::{Change, SetVps};
use mayfly_core::bytes::Bytes;
use mayfly_core::change::SetAutostart;
use mayfly_core::documents::{AutostartWhen, OnCrash, Track};
use mayfly_core::error::Code;
use mayfly_core::names::TemplateName;

use super::change::ChangeArgs;
use super::words::{parse_cpus, parse_vps};
use super::{Context, Failure};

const KNOWN: &str = "memory, swap, cpus, processes, disk, on-crash, autostart, base and track";

const EXAMPLES: &str = "\
What can be set; all of it is changed, or nothing:
  memory=4G      memory; caches are given up for less, and what more is in use is a refusal
  swap=1G        swap on top of the memory; 0 for none
  cpus=1.5       CPUs; none for all of them
  processes=500  processes and threads; those that there are stay
  disk=200G      disk space that its datasets share; not below their quotas together
  on-crash=stop  after a crash; restart (the default) starts it again, at most 3 times in 5 minutes
  autostart=on,priority=10
                 when the host has booted: on, off, or last (the default: it is as it was); higher priorities
                 come first
  base=TEMPLATE  what roots are cloned from, from the next start on
  track=latest   each start takes what that template is then; pinned for what it is now
";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SetArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// What to set, such as memory=4G
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = parse_setting)]
    settings: Vec<Setting>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    Memory(Bytes),
    Swap(Bytes),
    Cpus(Option<u32>),
    Processes(u32),
    Disk(Bytes),
    OnCrash(OnCrash),
    Autostart(SetAutostart),
    Base(TemplateName),
    Track(Track),
}

impl Setting {
    fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Swap(_) => "swap",
            Self::Cpus(_) => "cpus",
            Self::Processes(_) => "processes",
            Self::Disk(_) => "disk",
            Self::OnCrash(_) => "on-crash",
            Self::Autostart(_) => "autostart",
            Self::Base(_) => "base",
            Self::Track(_) => "track",
        }
    }
}

pub(super) fn parse_setting(text: &str) -> Result<Setting, String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("write NAME=VALUE, such as memory=4G")?;
    let size = || match value {
        "none" => Err(format!("{name} always has a limit: write a size")),
        _ => value.parse::<Bytes>().map_err(|e| e.to_string()),
    };
    match name {
        "memory" => size().map(Setting::Memory),
        "swap" => size().map(Setting::Swap),
        "cpus" if value == "none" => Ok(Setting::Cpus(None)),
        "cpus" => parse_cpus(value).map(|percent| Setting::Cpus(Some(percent))),
        "processes" if value == "none" => {
            Err("processes always have a limit: write a number".to_owned())
        }
        "processes" => value.parse().map(Setting::Processes).map_err(|_| {
            let value = value.escape_debug();
            format!("`{value}` is not a number of processes: write 500")
        }),
        "disk" => size().map(Setting::Disk),
        "on-crash" => parse_on_crash(value).map(Setting::OnCrash),
        "autostart" => parse_autostart(value).map(Setting::Autostart),
        "base" => value
            .parse()
            .map(Setting::Base)
            .map_err(|e: mayfly_core::names::BadName| e.to_string()),
        "track" => match value {
            "pinned" => Ok(Setting::Track(Track::Pinned)),
            "latest" => Ok(Setting::Track(Track::Latest)),
            _ => Err(format!(
                "`{}` is neither pinned nor latest",
                value.escape_debug()
            )),
        },
        _ => {
            let name = name.escape_debug();
            Err(format!("there is no `{name}` to set; there are {KNOWN}"))
        }
    }
}

fn parse_on_crash(value: &str) -> Result<OnCrash, String> {
    match value {
        "restart" => Ok(OnCrash::Restart),
        "stop" => Ok(OnCrash::Stop),
        _ => Err("write on-crash=restart or on-crash=stop".to_owned()),
    }
}

/// `on`, or `on,priority=10`.
fn parse_autostart(value: &str) -> Result<SetAutostart, String> {
    let (when, priority) = match value.split_once(",priority=") {
        Some((when, priority)) => (when, Some(priority)),
        None => (value, None),
    };
    let when = match when {
        "on" => AutostartWhen::On,
        "off" => AutostartWhen::Off,
        "last" => AutostartWhen::Last,
        _ => return Err("write autostart=on, off or last, or autostart=on,priority=10".to_owned()),
    };
    let priority = priority.map(str::parse).transpose().map_err(|_| {
        let (least, most) = (i16::MIN, i16::MAX);
        format!("a priority is a number from {least} to {most}, such as autostart=on,priority=10")
    })?;
    Ok(SetAutostart { when, priority })
}

pub(super) async fn run(context: &Context, args: SetArgs) -> Result<ExitCode, Failure> {
    let body = wish(&args.settings)?;
    let names: Vec<_> = args.settings.iter().map(Setting::name).collect();
    let are = if names.len() == 1 && names != ["cpus"] && names != ["processes"] {
        "is"
    } else {
        "are"
    };
    let done = format!("{} of VPS {} {are} set", listed(&names), args.vps);
    args.change
        .carry_out(context, &Change::set(&args.vps, &body), |_| done)
        .await
}

pub(super) fn wish(settings: &[Setting]) -> Result<SetVps, Failure> {
    let mut body = SetVps::default();
    for setting in settings {
        let twice = match setting {
            Setting::Memory(bytes) => body.memory_bytes.replace(*bytes).is_some(),
            Setting::Swap(bytes) => body.swap_bytes.replace(*bytes).is_some(),
            Setting::Cpus(percent) => body.cpu_percent.replace(*percent).is_some(),
            Setting::Processes(number) => body.processes.replace(*number).is_some(),
            Setting::Disk(bytes) => body.disk_bytes.replace(*bytes).is_some(),
            Setting::OnCrash(what) => body.on_crash.replace(*what).is_some(),
            Setting::Autostart(wish) => body.autostart.replace(*wish).is_some(),
            Setting::Base(name) => body.base.replace(name.clone()).is_some(),
            Setting::Track(track) => body.track.replace(*track).is_some(),
        };
        if twice {
            let name = setting.name();
            let message = format!("{name} is set twice");
            return Err(Failure::refused(Code::Invalid, message, "say it once"));
        }
    }
    Ok(body)
}

/// `memory, swap and cpus`.
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(words: &str) -> Vec<Setting> {
        words
            .split(' ')
            .map(|word| parse_setting(word).unwrap())
            .collect()
    }

    #[test]
    fn what_is_typed_is_what_is_asked_for() {
        let body = wish(&settings(
            "memory=4G swap=0 cpus=1.5 processes=500 disk=200G on-crash=stop autostart=on,priority=-3 base=debian-13 track=latest",
        ))
        .unwrap();
        let want = SetVps {
            memory_bytes: Some(Bytes::gib(4)),
            swap_bytes: Some(Bytes(0)),
            cpu_percent: Some(Some(150)),
            processes: Some(500),
            disk_bytes: Some(Bytes::gib(200)),
            on_crash: Some(OnCrash::Stop),
            autostart: Some(SetAutostart {
                when: AutostartWhen::On,
                priority: Some(-3),
            }),
            base: Some("debian-13".parse().unwrap()),
            track: Some(Track::Latest),
        };
        assert_eq!(body, want);
        let free = wish(&settings("cpus=none")).unwrap();
        assert_eq!(
            serde_json::to_string(&free).unwrap(),
            r#"{"cpu_percent":null}"#
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "memory",
            "memory=",
            "memory=none",
            "memory=-1",
            "swap=none",
            "cpus=0",
            "cpus=all",
            "processes=none",
            "processes=-1",
            "processes=many",
            "base=",
            "base=a/b",
            "track=newest",
            "ram=4G",
            "disk=none",
            "on-crash=reboot",
            "autostart=yes",
            "autostart=on,priority=high",
            "autostart=on,10",
            "=4G",
            "Memory=4G",
        ] {
            assert!(parse_setting(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn what_is_set_twice_is_a_mistake() {
        assert!(wish(&settings("memory=4G memory=5G")).is_err());
    }
}
