//! Up to where plans are given up.

use super::hands::Hands;
use super::{dataset, id, restart, run, start, stop};
use crate::documents::Request;
use crate::plan::{Asks, Cut, Plan, Step, StepKind};

fn at(plan: &Plan, kind: StepKind) -> usize {
    let found = plan.steps.iter().position(|p| p.step.kind() == kind);
    found.unwrap_or_else(|| panic!("no {kind:?} in {:#?}", plan.lines()))
}

/// At which steps it gives way to somebody, and to a forced stop.
fn given_up(plan: &Plan) -> [Vec<usize>; 2] {
    [Asks::Somebody, Asks::ForcedStop].map(|who| {
        let all = 0..plan.steps.len();
        all.filter(|at| plan.gives_way(*at, who)).collect()
    })
}

fn hands(template: &str) -> Hands {
    let mut hands = Hands::new();
    hands.create(id(11327), template, Some(run(1)));
    hands
}

#[test]
fn a_start_is_given_up_until_its_init_lives() {
    let mut hands = hands("debian-12-impermanence");
    hands.ask(id(11327), &stop()).unwrap();
    let plan = hands.plan(id(11327), &start(2)).unwrap();
    let waits = at(&plan, StepKind::AwaitInit);
    let until: Vec<usize> = (0..=waits).collect();
    assert_eq!(given_up(&plan), [until.clone(), until]);
    assert!(plan.steps.len() > waits + 1, "there is an old root to bury");
    let cut = plan.steps[waits].step.cut(Asks::Somebody);
    assert_eq!(
        cut,
        Cut::KillRun {
            vps: id(11327),
            run: run(2)
        }
    );
}

#[test]
fn a_halting_guest_is_killed_only_for_somebody_in_a_hurry() {
    let hands = hands("debian-12-impermanence");
    let plan = hands.plan(id(11327), &stop()).unwrap();
    let halt = at(&plan, StepKind::EndRun);
    assert_eq!(given_up(&plan), [Vec::new(), (0..=halt).collect()]);
    let step = &plan.steps[halt].step;
    assert_eq!(step.cut(Asks::Somebody), Cut::Itself);
    assert!(matches!(step.cut(Asks::ForcedStop), Cut::KillRun { .. }));
    let plan = hands.plan(id(11327), &restart(2)).unwrap();
    let until: Vec<usize> = (0..=at(&plan, StepKind::AwaitInit)).collect();
    assert_eq!(given_up(&plan), [until.clone(), until]);
}

#[test]
fn a_destroy_is_never_given_up_and_a_new_dataset_before_its_last_step() {
    let mut hands = hands("debian-12-impermanence");
    hands.ask(id(11327), &stop()).unwrap();
    let destroy = Request::Destroy { now: true };
    let plan = hands.plan(id(11327), &destroy).unwrap();
    assert!(given_up(&plan).iter().all(Vec::is_empty));
    let less = Request::DatasetSet {
        name: super::name(""),
        quota_bytes: crate::bytes::Bytes::gib(1),
    };
    hands.ask(id(11327), &less).unwrap();
    let plan = hands
        .plan(id(11327), &dataset("srv", 1, Some("/srv")))
        .unwrap();
    assert_eq!(
        given_up(&plan),
        [(0..plan.steps.len() - 1).collect(), Vec::new()]
    );
}

#[test]
fn a_template_is_given_up_while_it_is_built() {
    let hands = Hands::new();
    let build = Request::TemplateBuild {
        recipe: "debian-12".into(),
        name: "other".parse().unwrap(),
        mirror: None,
        replace: false,
    };
    let plan = hands.plan(id(11327), &build).unwrap();
    let built = at(&plan, StepKind::BuildTemplate);
    assert!(plan.gives_way(built, Asks::Somebody));
    assert_eq!(plan.steps[built].step.cut(Asks::Somebody), Cut::Tell);
}

#[test]
fn what_no_journal_tells_of_yet_may_have_been_done() {
    let mut hands = hands("debian-12-impermanence");
    hands.ask(id(11327), &stop()).unwrap();
    let plan = hands.plan(id(11327), &start(2)).unwrap();
    let launch = at(&plan, StepKind::Launch);
    // Launch and the wait are journalled with what comes after them, which may be half done.
    let reached = plan.may_have_reached(launch);
    assert!(reached > at(&plan, StepKind::AwaitInit), "{reached}");
    assert_eq!(plan.may_have_reached(plan.steps.len()), plan.steps.len());
    let quota = Plan {
        steps: vec![
            Step::SetQuota {
                dataset: crate::names::PoolPath::grave("1"),
                quota_bytes: crate::bytes::Bytes(1),
            }
            .final_because("a test");
            2
        ],
    };
    assert_eq!(quota.may_have_reached(0), 1);
}
