//! Features of a VPS.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use mayfly_api::{Change, FeatureState, FeatureView, SetFeatures, SetImpermanence};
use mayfly_core::bytes::Bytes;
use mayfly_core::error::Code;
use mayfly_core::template::RootKind;

use super::change::ChangeArgs;
use super::table::table;
use super::words::parse_vps;
use super::{Context, Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum FeatureVerb {
    /// Switch features; a VPS that runs is restarted
    Set(SetArgs),
    /// The features of a VPS
    List {
        /// Id or host name
        #[arg(value_parser = parse_vps)]
        vps: String,
    },
}

const EXAMPLES: &str = "\
Examples:
  mayfly feature set web impermanence=on --root-quota 5G
  mayfly feature set web impermanence=off";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SetArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// What to switch, such as impermanence=on
    #[arg(required = true, value_name = "FEATURE=on|off", value_parser = parse_switch)]
    switches: Vec<(Feature, bool)>,
    /// What one temporary root may hold [default: as it is, else 10G]
    #[arg(long, value_name = "SIZE")]
    root_quota: Option<Bytes>,
    /// What temporary roots are made from [default: as it is, else the template's]
    #[arg(long, value_name = "KIND")]
    root_kind: Option<Kind>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Feature {
    Impermanence,
    Nesting,
    Tun,
    Fuse,
    Kvm,
    Ppp,
}

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

fn parse_switch(text: &str) -> Result<(Feature, bool), String> {
    let names = || {
        Feature::value_variants()
            .iter()
            .filter_map(ValueEnum::to_possible_value)
    };
    let (name, value) = text
        .split_once('=')
        .ok_or("write FEATURE=on or FEATURE=off")?;
    let feature = Feature::from_str(name, false).map_err(|_| {
        let known: Vec<_> = names().map(|n| n.get_name().to_owned()).collect();
        format!(
            "there is no feature `{}`; there are {}",
            name.escape_debug(),
            known.join(", ")
        )
    })?;
    match value {
        "on" => Ok((feature, true)),
        "off" => Ok((feature, false)),
        other => Err(format!("`{}` is neither on nor off", other.escape_debug())),
    }
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
    for (feature, on) in &args.switches {
        let place = match feature {
            Feature::Impermanence => {
                let impermanence = SetImpermanence {
                    on: *on,
                    root_quota_bytes: args.root_quota,
                    root_kind: args.root_kind.map(Into::into),
                };
                if wish.impermanence.replace(impermanence).is_some() {
                    return Err(twice(*feature));
                }
                continue;
            }
            Feature::Nesting => &mut wish.nesting,
            Feature::Tun => &mut wish.tun,
            Feature::Fuse => &mut wish.fuse,
            Feature::Kvm => &mut wish.kvm,
            Feature::Ppp => &mut wish.ppp,
        };
        if place.replace(*on).is_some() {
            return Err(twice(*feature));
        }
    }
    if wish.impermanence.is_none() && (args.root_quota.is_some() || args.root_kind.is_some()) {
        return Err(Failure::refused(
            Code::Invalid,
            "--root-quota and --root-kind are about impermanence, which is not among what is to be set",
            "add impermanence=on",
        ));
    }
    Ok(wish)
}

fn twice(feature: Feature) -> Failure {
    let name = feature
        .to_possible_value()
        .map(|n| n.get_name().to_owned())
        .unwrap_or_default();
    Failure::refused(Code::Invalid, format!("{name} is set twice"), "say it once")
}

fn render_list(all: &[FeatureView]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|f| {
            let state = match f.state {
                FeatureState::On => "on",
                FeatureState::Off => "off",
                FeatureState::NotBuilt => "not built",
            };
            vec![f.name.clone(), state.to_owned(), f.detail.clone()]
        })
        .collect();
    table(&["feature", "state", "detail"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(switches: &[&str]) -> SetArgs {
        SetArgs {
            vps: "web1".into(),
            switches: switches.iter().map(|s| parse_switch(s).unwrap()).collect(),
            root_quota: None,
            root_kind: None,
            change: ChangeArgs::default(),
        }
    }

    #[test]
    fn switches_are_on_or_off() {
        assert_eq!(
            parse_switch("impermanence=on"),
            Ok((Feature::Impermanence, true))
        );
        assert_eq!(parse_switch("tun=off"), Ok((Feature::Tun, false)));
        for bad in ["impermanence", "impermanence=1", "Tun=on", "ipv6=on", "=on"] {
            assert!(parse_switch(bad).is_err(), "{bad} was taken");
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
        with.switches = args(&["fuse=on"]).switches;
        assert!(features(&with).is_err());
        assert!(features(&args(&["tun=on", "tun=off"])).is_err());
    }

    #[test]
    fn what_is_not_built_is_shown_as_such() {
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
            feature("nesting", FeatureState::NotBuilt, ""),
        ];
        assert_eq!(
            render_list(&all),
            "\
FEATURE       STATE      DETAIL
impermanence  on         root quota 10G, root kind template
nesting       not built
"
        );
    }
}
