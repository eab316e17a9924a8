//! What is remembered of runs, with the real plans.

use super::hands::Hands;
use super::{id, restart, run, start, stop};
use crate::documents::{OperationDoc, OperationState, Request, SCHEMA, VpsDoc};
use crate::error::{Code, Refusal};
use crate::history::{
    Happened, HistoryDoc, HowEnded, KEEP, KEEP_FAILURES, ended_by_destroy, forgotten, happened,
    is_worth_a_look,
};
use crate::ids::{OperationId, RunId};
use crate::plan::Plan;
use crate::run::RunEnd;

/// A VPS that runs as run 1, and what is remembered of it.
struct Told {
    hands: Hands,
    past: Vec<HistoryDoc>,
    at: u64,
}

impl Told {
    fn new() -> Self {
        let mut hands = Hands::new();
        let plan = hands.create(id(11327), "debian-12-impermanence", Some(run(1)));
        let mut told = Self {
            hands,
            past: Vec::new(),
            at: 0,
        };
        told.over(&start(1), Some(plan), "uid 0", None);
        told
    }

    fn doc(&self) -> VpsDoc {
        self.hands.doc(id(11327)).clone()
    }

    fn operation(
        &mut self,
        request: &Request,
        plan: Option<Plan>,
        by: &str,
        error: Option<Refusal>,
    ) -> OperationDoc {
        self.at += 10;
        OperationDoc {
            schema: SCHEMA,
            id: OperationId::at(self.at, [0; 4]),
            vps: Some(id(11327)),
            request: request.clone(),
            by: by.to_owned(),
            state: if error.is_some() {
                OperationState::Failed
            } else {
                OperationState::Done
            },
            created_unix_ms: self.at,
            ended_unix_ms: Some(self.at + 5),
            plan,
            steps_done: 0,
            undo_down_to: 0,
            steps_ms: Vec::new(),
            cancelled_by: None,
            notes: Vec::new(),
            progress: String::new(),
            error,
        }
    }

    fn over(&mut self, request: &Request, plan: Option<Plan>, by: &str, error: Option<Refusal>) {
        let op = self.operation(request, plan, by, error);
        if is_worth_a_look(&op) {
            let new = happened(&op, &self.doc(), &self.past);
            self.past.extend(new);
        }
    }

    /// Carries it out and remembers it.
    fn done(&mut self, request: &Request, by: &str) {
        let plan = self.hands.ask(id(11327), request).unwrap();
        self.over(request, Some(plan), by, None);
    }

    fn ends(&mut self, of: RunId, end: RunEnd) {
        let request = Request::RunEnded {
            run: of,
            end,
            next: run(99),
            boot_ms: self.at,
        };
        self.done(&request, "mayfly");
    }

    fn last(&self) -> &Happened {
        &self.past.last().unwrap().what
    }

    /// The run and how it ended, of every end.
    fn ends_told(&self) -> Vec<(RunId, HowEnded)> {
        let end = |entry: &HistoryDoc| match &entry.what {
            Happened::Ended { run, how, .. } => Some((run.clone(), *how)),
            _ => None,
        };
        self.past.iter().filter_map(end).collect()
    }
}

fn refusal(message: &str) -> Refusal {
    Refusal::new(Code::VpsRunning, message, "look")
}

#[test]
fn starts_and_stops_are_told_once_with_their_roots() {
    let mut told = Told::new();
    let root = told.doc().run.unwrap().root;
    assert!(
        matches!(told.last(), Happened::Started { run: r, root: at, base: Some(_), after_crash: None } if *r == run(1) && *at == root)
    );
    told.done(&restart(2), "uid 0");
    assert_eq!(told.past.len(), 3);
    assert!(
        matches!(&told.past[1].what, Happened::Ended { run: r, root: Some(at), how: HowEnded::Stopped, starts_again: false, .. } if *r == run(1) && *at == root)
    );
    assert!(matches!(told.last(), Happened::Started { run: r, .. } if *r == run(2)));
    told.done(&stop(), "uid 0");
    assert_eq!(
        told.ends_told(),
        [(run(1), HowEnded::Stopped), (run(2), HowEnded::Stopped)]
    );
    // Whatever comes next tells no end again.
    told.over(&start(3), None, "uid 0", Some(refusal("no room")));
    told.done(&start(4), "uid 0");
    assert_eq!(told.past.len(), 6);
    let times: Vec<u64> = told.past.iter().map(|entry| entry.unix_ms).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn a_crash_is_counted_and_its_restart_says_after_which() {
    let mut told = Told::new();
    for n in 1..=3_u8 {
        let detail = "init was killed by signal 9".to_owned();
        told.hands.host.guest_crash(id(11327));
        told.ends(run(n), RunEnd::Crashed { detail });
        let counted = usize::from(n);
        assert!(
            matches!(told.last(), Happened::Ended { how: HowEnded::Crashed, detail: Some(d), starts_again: true, crash: Some(c), .. } if d.contains("signal 9") && *c == counted)
        );
        told.done(&start(n + 1), "mayfly");
        assert!(
            matches!(told.last(), Happened::Started { after_crash: Some(c), .. } if *c == counted)
        );
    }
    told.hands.host.guest_crash(id(11327));
    let detail = String::new();
    told.ends(run(4), RunEnd::Crashed { detail });
    assert!(matches!(
        told.last(),
        Happened::Ended {
            detail: None,
            starts_again: false,
            crash: Some(4),
            ..
        }
    ));
    // Who starts it by hand does not start it for a crash; nor is a reboot one.
    told.done(&start(5), "uid 0");
    assert!(matches!(
        told.last(),
        Happened::Started {
            after_crash: None,
            ..
        }
    ));
    told.hands.host.guest_reboot(id(11327));
    told.ends(run(5), RunEnd::Reboot);
    assert!(matches!(
        told.last(),
        Happened::Ended {
            how: HowEnded::Reboot,
            starts_again: true,
            crash: None,
            ..
        }
    ));
    told.done(&start(6), "mayfly");
    assert!(matches!(
        told.last(),
        Happened::Started {
            after_crash: None,
            ..
        }
    ));
    told.hands.host.guest_poweroff(id(11327));
    told.ends(run(6), RunEnd::PowerOff);
    assert!(matches!(
        told.last(),
        Happened::Ended {
            how: HowEnded::PowerOff,
            starts_again: false,
            ..
        }
    ));
}

#[test]
fn a_run_that_was_over_before_its_end_was_settled_is_told_by_whoever_found_it() {
    let mut told = Told::new();
    told.hands.host.guest_crash(id(11327));
    told.done(&start(2), "uid 0");
    assert_eq!(told.ends_told(), [(run(1), HowEnded::FoundOver)]);
    assert!(matches!(told.last(), Happened::Started { run: r, .. } if *r == run(2)));
}

#[test]
fn a_run_of_before_anything_was_remembered_has_an_end_all_the_same() {
    let mut told = Told::new();
    told.past.clear();
    told.done(&stop(), "uid 0");
    assert_eq!(told.ends_told(), [(run(1), HowEnded::Stopped)]);
}

#[test]
fn a_run_that_goes_on_is_not_told_over() {
    let mut told = Told::new();
    let plan = told.hands.plan(id(11327), &stop()).unwrap();
    told.over(
        &stop(),
        Some(plan),
        "uid 0",
        Some(refusal("it does not end")),
    );
    assert_eq!(told.ends_told(), []);
    assert!(
        matches!(told.last(), Happened::Failed { run: None, error } if error.code == Code::VpsRunning)
    );
}

#[test]
fn the_end_by_a_destroy_is_read_off_the_operation() {
    let mut told = Told::new();
    let request = Request::Destroy { now: false };
    let before = told.doc();
    let plan = told.hands.ask(id(11327), &request).unwrap();
    let op = told.operation(&request, Some(plan), "uid 0", None);
    let end = ended_by_destroy(&op).unwrap();
    assert_eq!(end.incarnation, before.incarnation);
    assert!(
        matches!(end.what, Happened::Ended { run: r, how: HowEnded::Stopped, root: Some(at), .. } if r == run(1) && at == before.run.unwrap().root)
    );
    let refused = told.operation(&request, None, "uid 0", Some(refusal("not ours")));
    assert_eq!(ended_by_destroy(&refused), None);
}

#[test]
fn what_is_tried_again_for_ever_is_told_once_and_long_texts_are_cut() {
    let mut told = Told::new();
    for _ in 0..3 {
        told.over(&stop(), None, "mayfly", Some(refusal("busy")));
    }
    assert_eq!(told.past.len(), 2);
    told.over(&stop(), None, "mayfly", Some(refusal(&"ä".repeat(10_000))));
    let Happened::Failed { error, .. } = told.last() else {
        panic!()
    };
    assert_eq!(error.message.chars().count(), 601);
}

#[test]
fn little_is_remembered_and_failures_push_no_run_out() {
    let mut told = Told::new();
    let started = told.past[0].clone();
    told.over(&stop(), None, "uid 0", Some(refusal("no")));
    let failure = told.past[1].clone();
    let mut past = vec![started.clone()];
    for _ in 0..500 {
        let gone = forgotten(&past, std::slice::from_ref(&failure));
        for at in gone.into_iter().rev() {
            past.remove(at);
        }
        past.push(failure.clone());
    }
    assert_eq!((past.len(), &past[0]), (KEEP_FAILURES + 1, &started));
    for _ in 0..500 {
        let new = [started.clone(), started.clone()];
        for at in forgotten(&past, &new).into_iter().rev() {
            past.remove(at);
        }
        past.extend(new);
    }
    assert_eq!(past, vec![started; KEEP]);
}
