//! Features of a VPS.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use mayfly_api::{Change, FeatureState, FeatureView, SetFeatures, SetImpermanence};
use mayfly_core::bytes::Bytes;
use mayfly_core::error::Code;
use mayfly_core::features::{Feature, LimitsChange};
use mayfly_core::template::RootKind;

use super::change::ChangeArgs;
use super::set::{self, Setting, parse_setting};
use super::table::table;
use super::words::parse_vps;
use super::{Context, Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum FeatureVerb {
    /// Switch features, and limits with them; a VPS that runs is restarted
    Set(SetArgs),
    /// The features of a VPS, and what the host lacks for others
    List {
        /// Id or host name
        #[arg(value_parser = parse_vps)]
        vps: String,
    },
}

const EXAMPLES: &str = "\
Examples:
  mayfly feature set web impermanence=on --root-quota 5G
  mayfly feature set web tun=on fuse=on memory=4G
  mayfly feature set web impermanence=off

Limits (memory, swap, cpus, processes) may be set along with features. All of it is set, or nothing: where the
VPS does not start with it, it is started as it was. What the host cannot give is refused; see `mayfly feature list`.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SetArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// What to switch, such as impermanence=on; and limits, such as memory=4G
    #[arg(required = true, value_name = "FEATURE=on|off", value_parser = parse_word)]
    words: Vec<Word>,
    /// What one temporary root may hold [default: as it is, else 10G]
    #[arg(long, value_name = "SIZE")]
    root_quota: Option<Bytes>,
    /// What temporary roots are made from [default: as it is, else the template's]
    #[arg(long, value_name = "KIND")]
    root_kind: Option<Kind>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// One thing to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Impermanence(bool),
    Switch(Feature, bool),
    Limit(Setting),
}

const LIMITS: [&str; 4] = ["memory", "swap", "cpus", "processes"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Nothing but a skeleton: the system is in a dataset (NixOS)
    Empty,
    /// A clone of the VPS's base
    Template,
}

impl From<Kind> for RootKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Empty => Self::Empty,
            Kind::Template => Self::Template,
        }
    }
}

fn parse_word(text: &str) -> Result<Word, String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("write FEATURE=on or FEATURE=off")?;
    if LIMITS.contains(&name) {
        return parse_setting(text).map(Word::Limit);
    }
    let feature = match name {
        "impermanence" => None,
        _ => Some(name.parse::<Feature>().map_err(|why| {
            let limits = LIMITS.join(", ");
            format!("{why} and impermanence; limits that can be set with them are {limits}")
        })?),
    };
    let on = match value {
        "on" => true,
        "off" => false,
        other => return Err(format!("`{}` is neither on nor off", other.escape_debug())),
    };
    Ok(match feature {
        None => Word::Impermanence(on),
        Some(feature) => Word::Switch(feature, on),
    })
}

pub(super) async fn run(context: &Context, verb: FeatureVerb) -> Result<ExitCode, Failure> {
    match verb {
        FeatureVerb::List { vps } => {
            context
                .screen
                .show(&context.client.features(&vps).await?, |all| {
                    render_list(all)
                })?;
            Ok(ExitCode::SUCCESS)
        }
        FeatureVerb::Set(args) => {
            let body = features(&args)?;
            let done = format!("features of VPS {} are set", args.vps);
            args.change
                .carry_out(context, &Change::set_features(&args.vps, &body), |_| done)
                .await
        }
    }
}

fn features(args: &SetArgs) -> Result<SetFeatures, Failure> {
    let mut wish = SetFeatures::default();
    let mut limits = Vec::new();
    for word in &args.words {
        let said_before = match word {
            Word::Impermanence(on) => {
                let impermanence = SetImpermanence {
                    on: *on,
                    root_quota_bytes: args.root_quota,
                    root_kind: args.root_kind.map(Into::into),
                };
                let before = wish.impermanence.replace(impermanence);
                before.map(|_| "impermanence")
            }
            Word::Switch(feature, on) => {
                let before = wish.switch(*feature).replace(*on);
                before.map(|_| feature.name())
            }
            Word::Limit(setting) => {
                limits.push(setting.clone());
                None
            }
        };
        if let Some(name) = said_before {
            return Err(Failure::refused(
                Code::Invalid,
                format!("{name} is set twice"),
                "say it once",
            ));
        }
    }
    let limits = set::wish(&limits)?;
    wish.limits = LimitsChange {
        memory_bytes: limits.memory_bytes,
        swap_bytes: limits.swap_bytes,
        cpu_percent: limits.cpu_percent,
        processes: limits.processes,
    };
    if wish.impermanence.is_none() && (args.root_quota.is_some() || args.root_kind.is_some()) {
        return Err(Failure::refused(
            Code::Invalid,
            "--root-quota and --root-kind are about impermanence, which is not among what is to be set",
            "add impermanence=on",
        ));
    }
    if wish.impermanence.is_none() && wish.switches().is_empty() {
        return Err(Failure::refused(
            Code::Invalid,
            "there is no feature among what is to be set",
            format!(
                "limits alone change without a restart: mayfly set {} …",
                args.vps
            ),
        ));
    }
    Ok(wish)
}

fn render_list(all: &[FeatureView]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|f| {
            let state = match f.state {
                FeatureState::On => "on",
                FeatureState::Off => "off",
                FeatureState::Unavailable => "unavailable",
            };
            vec![f.name.clone(), state.to_owned(), f.detail.clone()]
        })
        .collect();
    table(&["feature", "state", "detail"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> SetArgs {
        SetArgs {
            vps: "web1".into(),
            words: words.iter().map(|s| parse_word(s).unwrap()).collect(),
            root_quota: None,
            root_kind: None,
            change: ChangeArgs::default(),
        }
    }

    #[test]
    fn switches_are_on_or_off() {
        assert_eq!(parse_word("impermanence=on"), Ok(Word::Impermanence(true)));
        assert_eq!(parse_word("tun=off"), Ok(Word::Switch(Feature::Tun, false)));
        for bad in [
            "impermanence",
            "impermanence=1",
            "Tun=on",
            "ipv6=on",
            "=on",
            "memory=on",
            "disk=10G",
        ] {
            assert!(parse_word(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn quota_and_kind_go_with_impermanence() {
        let mut with = args(&["impermanence=on", "fuse=on"]);
        with.root_quota = Some(Bytes::gib(5));
        with.root_kind = Some(Kind::Empty);
        let wish = features(&with).unwrap();
        let on = wish.impermanence.unwrap();
        assert_eq!(
            (on.on, on.root_quota_bytes, on.root_kind),
            (true, Some(Bytes::gib(5)), Some(RootKind::Empty))
        );
        assert_eq!((wish.fuse, wish.tun), (Some(true), None));
        with.words = args(&["fuse=on"]).words;
        assert!(features(&with).is_err());
        assert!(features(&args(&["tun=on", "tun=off"])).is_err());
    }

    #[test]
    fn limits_go_with_features_and_not_alone() {
        let wish = features(&args(&["tun=on", "memory=4G", "cpus=none"])).unwrap();
        assert_eq!(wish.limits.memory_bytes, Some(Bytes::gib(4)));
        assert_eq!(wish.limits.cpu_percent, Some(None));
        assert_eq!(wish.limits.processes, None);
        assert!(features(&args(&["memory=4G"])).is_err());
        assert!(features(&args(&["tun=on", "memory=4G", "memory=2G"])).is_err());
    }

    #[test]
    fn what_the_host_lacks_is_shown_as_such() {
        let feature = |name: &str, state, detail: &str| FeatureView {
            name: name.into(),
            state,
            detail: detail.into(),
        };
        let all = [
            feature(
                "impermanence",
                FeatureState::On,
                "root quota 10G, root kind template",
            ),
            feature("ppp", FeatureState::Unavailable, "the host has no /dev/ppp"),
        ];
        assert_eq!(
            render_list(&all),
            "\
FEATURE       STATE        DETAIL
impermanence  on           root quota 10G, root kind template
ppp           unavailable  the host has no /dev/ppp
"
        );
    }
}
