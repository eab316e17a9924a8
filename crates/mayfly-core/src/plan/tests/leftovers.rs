//! What may be done about things that no document speaks of.

use proptest::prelude::*;

use super::hands::Hands;
use super::{id, run, start, stop};
use crate::bytes::Bytes;
use crate::ids::{Incarnation, NodeId, OperationId};
use crate::names::PoolPath;
use crate::observed::{DatasetSeen, Mark, MarkSeen, PoolSeen, Role};
use crate::plan::{Busy, Leftovers, Step, sort_leftovers};

fn sort(hands: &Hands, pool: &PoolSeen, busy: &[u32]) -> Leftovers {
    let busy = Busy {
        vpses: busy.iter().map(|n| id(*n)).collect(),
        ..Busy::default()
    };
    let context = hands.context();
    sort_leftovers(
        pool,
        &hands.docs(),
        &hands.template_docs(),
        &busy,
        &Default::default(),
        &context.node,
        &context.operation,
    )
}

fn stopped() -> Hands {
    let mut hands = Hands::new();
    hands.create(id(100), "debian-12-impermanence", Some(run(1)));
    hands.ask(id(100), &stop()).unwrap();
    hands
}

#[test]
fn what_is_known_is_no_leftover() {
    let mut hands = stopped();
    hands.create(id(101), "nixos-shaped", Some(run(2)));
    let pool = crate::ports::Storage::observe(&hands.host).unwrap();
    assert_eq!(sort(&hands, &pool, &[]), Leftovers::default());
}

#[test]
fn a_root_that_no_document_names_is_buried_unless_its_vps_is_busy() {
    let mut hands = stopped();
    let root = hands
        .vpses
        .get_mut(&id(100))
        .unwrap()
        .last_root
        .take()
        .unwrap();
    let pool = crate::ports::Storage::observe(&hands.host).unwrap();
    assert!(
        matches!(&sort(&hands, &pool, &[]).burials[..], [Step::BuryRoot { root: found, .. }] if *found == root)
    );
    let busy = sort(&hands, &pool, &[100]);
    assert!(busy.passed_over.contains(&root));
    assert_eq!(busy.burials, []);
    assert_eq!(busy.reports, [] as [String; 0]);
    hands.vpses.clear();
    let left = sort(&hands, &pool, &[]);
    assert!(
        left.burials.is_empty() && left.reports.len() == 2,
        "nobody is known who could give it up: {left:?}"
    );
}

#[test]
fn a_new_vps_of_the_number_does_not_touch_what_its_predecessor_left() {
    let mut hands = stopped();
    hands.vpses.get_mut(&id(100)).unwrap().incarnation = Incarnation::from_random([9; 16]);
    let pool = crate::ports::Storage::observe(&hands.host).unwrap();
    let left = sort(&hands, &pool, &[]);
    assert!(
        left.burials.is_empty() && left.reports.len() == 2,
        "{left:?}"
    );
}

#[test]
fn templates_that_no_record_names_are_buried_unless_a_vps_has_them_as_base() {
    let mut hands = stopped();
    hands.templates.clear();
    let pool = crate::ports::Storage::observe(&hands.host).unwrap();
    let burials = sort(&hands, &pool, &[]).burials;
    let top = PoolPath::from_pool("templates/2525252525252525").unwrap();
    assert!(
        matches!(&burials[..], [Step::BuryTemplate { dataset, .. }] if *dataset == top),
        "{burials:?}"
    );
}

#[test]
fn a_half_way_burial_is_finished_and_its_grave_emptied() {
    let mut hands = stopped();
    hands.ask(id(100), &start(2)).unwrap();
    hands.ask(id(100), &stop()).unwrap();
    hands.clean_up();
    hands.vpses.get_mut(&id(100)).unwrap().last_root = None;
    let pool = crate::ports::Storage::observe(&hands.host).unwrap();
    let step = sort(&hands, &pool, &[]).burials.remove(0);
    hands.host.crash_half_way(1);
    assert!(hands.perform(&step).is_err());
    hands.host = hands.host.restart_daemon();
    assert_eq!(hands.host.orphans(&hands.docs()).len(), 1);
    hands.assert_sound();
}

fn marks() -> impl Strategy<Value = MarkSeen> {
    let roles = prop_oneof![
        Just(Role::Persistent),
        Just(Role::Temporary),
        Just(Role::Template)
    ];
    let local = (
        roles,
        0..2u8,
        0..4u32,
        0..2u8,
        any::<bool>(),
        any::<bool>(),
        0..6usize,
    )
        .prop_map(|(role, node, vps, life, has_run, condemned, made_as)| {
            let ours = Hands::new().host.node();
            MarkSeen::Local(Mark {
                node: if node == 0 {
                    ours
                } else {
                    NodeId::from_random([7; 8])
                },
                owner: (vps < 3)
                    .then(|| (id(100 + vps), Incarnation::from_random([100 + life; 16]))),
                role,
                run: has_run.then(|| run(1)),
                made_as: PoolPath::from_pool(NAMES[made_as]).unwrap(),
                condemned_by: condemned.then(|| OperationId::at(1, [0; 4])),
                unharvested: false,
                contents: None,
            })
        });
    prop_oneof![
        1 => Just(MarkSeen::Unset),
        1 => Just(MarkSeen::NotLocal),
        1 => Just(MarkSeen::Unreadable("EIO".into())),
        8 => local,
    ]
}

const NAMES: [&str; 6] = [
    "100",
    "100.impermanence-c5a801",
    "101.impermanence-c5a801",
    "trash/x",
    "templates/0123456789abcdef",
    "other",
];

proptest! {
    /// Nothing is given up whose mark is not exactly ours, and what a document needs is never given up.
    #[test]
    fn only_what_is_proven_ours_is_given_up(seen in proptest::collection::vec((0..NAMES.len(), marks()), 1..12)) {
        let hands = stopped();
        let pool = PoolSeen {
            datasets: seen
                .into_iter()
                .map(|(name, mark)| (PoolPath::from_pool(NAMES[name]).unwrap(), DatasetSeen { mark, quota: None, used: None, snapshots: Vec::new(), origin: None }))
                .collect(),
            capacity: Bytes::gib(1),
            free: Bytes(0),
        };
        let left = sort(&hands, &pool, &[]);
        let mark = |name: &PoolPath| match &pool.datasets[name].mark {
            MarkSeen::Local(mark) if mark.node == hands.host.node() => mark.clone(),
            other => panic!("{name} with {other:?} is given up"),
        };
        for grave in &left.graves {
            prop_assert!(grave.is_grave() && mark(grave).condemned_by.is_some());
        }
        for step in &left.burials {
            match step {
                Step::BuryRoot { vps, incarnation, root, .. } => {
                    let mark = mark(root);
                    prop_assert_eq!(mark.role, Role::Temporary);
                    prop_assert!(mark.run.is_some() && mark.made_as == *root);
                    prop_assert_eq!(mark.owner, Some((*vps, incarnation.clone())));
                    let doc = &hands.vpses[vps];
                    prop_assert!(doc.incarnation == *incarnation && doc.last_root.as_ref() != Some(root));
                }
                Step::BuryTemplate { dataset, .. } => {
                    let mark = mark(dataset);
                    prop_assert!(mark.role == Role::Template && mark.made_as == *dataset);
                }
                other => panic!("{other} is no burial of a leftover"),
            }
        }
    }
}
