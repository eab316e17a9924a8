//! Features of a VPS, impermanence among them.

use std::collections::BTreeMap;

use mayfly_core::bytes::Bytes;
use mayfly_core::documents::VpsDoc;
use mayfly_core::features::{Feature, FeatureSeen, LimitsChange, Switches};
use mayfly_core::template::RootKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `PATCH /v1/vps/{v}/features`: absent means unchanged. All of it is changed, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetFeatures {
    /// A new root for every start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impermanence: Option<SetImpermanence>,
    /// Containers in the guest whose root is a user of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nesting: Option<bool>,
    /// `/dev/net/tun`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tun: Option<bool>,
    /// `/dev/fuse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuse: Option<bool>,
    /// `/dev/kvm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvm: Option<bool>,
    /// `/dev/ppp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppp: Option<bool>,
    /// Limits that change with them.
    #[serde(default, skip_serializing_if = "LimitsChange::is_nothing")]
    pub limits: LimitsChange,
}

impl SetFeatures {
    /// Where the wish for a feature is.
    pub fn switch(&mut self, feature: Feature) -> &mut Option<bool> {
        match feature {
            Feature::Nesting => &mut self.nesting,
            Feature::Tun => &mut self.tun,
            Feature::Fuse => &mut self.fuse,
            Feature::Kvm => &mut self.kvm,
            Feature::Ppp => &mut self.ppp,
        }
    }

    /// The features that are only on or off, where something is wanted of them.
    pub fn switches(&self) -> Switches {
        let all = [
            (Feature::Nesting, self.nesting),
            (Feature::Tun, self.tun),
            (Feature::Fuse, self.fuse),
            (Feature::Kvm, self.kvm),
            (Feature::Ppp, self.ppp),
        ];
        let wanted = |(feature, on): (Feature, Option<bool>)| Some((feature, on?));
        all.into_iter().filter_map(wanted).collect()
    }
}

/// The feature `impermanence`, as it is wanted. What is not given stays as it is, or comes from the template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetImpermanence {
    /// Whether it is on.
    pub on: bool,
    /// What one temporary root may hold.
    #[serde(default)]
    pub root_quota_bytes: Option<Bytes>,
    /// What it is made from.
    #[serde(default)]
    pub root_kind: Option<RootKind>,
}

/// What a feature is on one VPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeatureState {
    /// On.
    On,
    /// Off.
    Off,
    /// Off, and the host cannot give it.
    Unavailable,
}

/// A feature of one VPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeatureView {
    /// Its name.
    pub name: String,
    /// What it is.
    pub state: FeatureState,
    /// How it is set, or why the host cannot give it, in words.
    pub detail: String,
}

impl FeatureView {
    /// All features of a VPS, as the host can give them at this moment.
    pub fn all(doc: &VpsDoc, host: &BTreeMap<Feature, FeatureSeen>) -> Vec<Self> {
        let rest = host
            .iter()
            .map(|(feature, seen)| Self::of(doc, *feature, seen));
        std::iter::once(Self::impermanence(doc))
            .chain(rest)
            .collect()
    }

    fn of(doc: &VpsDoc, feature: Feature, seen: &FeatureSeen) -> Self {
        let lack = seen.lack(feature).map(|(why, _)| why);
        let (state, detail) = match (doc.features.contains(&feature), lack) {
            (true, None) => (FeatureState::On, String::new()),
            (true, Some(why)) => (FeatureState::On, format!("{why}: it does not start")),
            (false, None) => (FeatureState::Off, String::new()),
            (false, Some(why)) => (FeatureState::Unavailable, why),
        };
        Self {
            name: feature.name().into(),
            state,
            detail,
        }
    }

    fn impermanence(doc: &VpsDoc) -> Self {
        let (state, detail) = match &doc.impermanence {
            None => (FeatureState::Off, String::new()),
            Some(on) => {
                let kind = match on.root_kind {
                    RootKind::Empty => "empty",
                    RootKind::Template => "template",
                };
                let detail = format!("root quota {}, root kind {kind}", on.root_quota_bytes);
                (FeatureState::On, detail)
            }
        };
        Self {
            name: "impermanence".into(),
            state,
            detail,
        }
    }
}
