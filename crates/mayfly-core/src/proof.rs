//! The proofs without which nothing is destroyed. Each is made from a mark that was read back just now; a name is
//! never enough, and "could not tell" is a refusal.

use crate::error::{Code, LookFailed, Refusal};
use crate::ids::{Incarnation, NodeId, OperationId, VpsId};
use crate::names::PoolPath;
use crate::observed::{Evidence, Mark, MarkSeen, Role};

/// Proof that a dataset is a temporary root which this node made for this incarnation of a VPS, and that nothing of
/// the VPS is alive on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EphemeralRoot(PoolPath);

/// Proof that a dataset holds persistent data of a VPS whose destruction was confirmed by an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmedDestroy(PoolPath);

/// Proof that a dataset lies in the graveyard and was condemned there by an operation of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned(PoolPath);

/// What may be moved to the graveyard, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Burial {
    dataset: PoolPath,
    by: OperationId,
}

impl Burial {
    /// The burial of a proven temporary root.
    pub fn of_root(root: EphemeralRoot, by: OperationId) -> Self {
        Self {
            dataset: root.0,
            by,
        }
    }

    /// The burial of persistent data.
    pub fn of_data(data: ConfirmedDestroy, by: OperationId) -> Self {
        Self {
            dataset: data.0,
            by,
        }
    }

    /// What is buried.
    pub fn dataset(&self) -> &PoolPath {
        &self.dataset
    }

    /// The operation that answers for it.
    pub fn by(&self) -> &OperationId {
        &self.by
    }
}

/// Proof that nothing of a VPS is alive, for a dataset of it and what is to take its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    dataset: PoolPath,
    aside: PoolPath,
    owner: (VpsId, Incarnation),
    contents: Option<OperationId>,
}

impl Exchange {
    /// `evidence` are the signs of life of the VPS as of just now. Whose the two datasets are is for the storage to see,
    /// from the marks that it reads back.
    pub fn prove(
        dataset: &PoolPath,
        aside: &PoolPath,
        (vps, incarnation): (VpsId, &Incarnation),
        contents: Option<&OperationId>,
        evidence: &[Evidence],
    ) -> Result<Self, Refusal> {
        nothing_alive(dataset, vps, evidence)?;
        Ok(Self {
            dataset: dataset.clone(),
            aside: aside.clone(),
            owner: (vps, incarnation.clone()),
            contents: contents.cloned(),
        })
    }

    /// The persistent dataset.
    pub fn dataset(&self) -> &PoolPath {
        &self.dataset
    }

    /// The name of what is not its contents.
    pub fn aside(&self) -> &PoolPath {
        &self.aside
    }

    /// Which of the two is to be the dataset, by what its mark says of its contents.
    pub fn is_wanted(&self, mark: &Mark) -> bool {
        mark.contents == self.contents
    }

    /// What the mark of one of the two says when it has its place: at the dataset's name, or aside.
    pub fn settled(&self, mark: &Mark) -> Mark {
        let (role, name) = match self.is_wanted(mark) {
            true => (Role::Persistent, &self.dataset),
            false => (Role::Replaced, &self.aside),
        };
        Mark {
            role,
            made_as: name.clone(),
            ..mark.clone()
        }
    }

    /// Refuses a dataset, found under `name`, that is neither of the two.
    pub fn check(&self, name: &PoolPath, mark: &Mark) -> Result<(), Refusal> {
        let role = match mark.role {
            Role::Persistent => mark.made_as == self.dataset,
            Role::Replaced => mark.made_as == self.aside,
            Role::Temporary | Role::Template | Role::Base => false,
        };
        match role && mark.owner.as_ref() == Some(&self.owner) && mark.condemned_by.is_none() {
            true => Ok(()),
            false => Err(not_ours(
                name,
                "its mark does not say that it may change places",
            )),
        }
    }

    /// Refuses a dataset below one of the two that is not the VPS's own.
    pub fn check_below(&self, name: &str, mark: &Mark) -> Result<(), Refusal> {
        let ours = mark.owner.as_ref() == Some(&self.owner) && mark.role == Role::Persistent;
        match ours && mark.condemned_by.is_none() {
            true => Ok(()),
            false => Err(Refusal::new(
                Code::NotOurs,
                format!("dataset {name} is left alone: its mark does not say that it is the VPS's"),
                "move it out of the pool, then try again",
            )),
        }
    }

    /// What is answered where the two are not what was to change places.
    pub fn not_these(&self) -> Refusal {
        not_ours(
            &self.dataset,
            &format!(
                "neither it nor {} has the contents that it is to have",
                self.aside
            ),
        )
    }
}

fn not_ours(name: &PoolPath, why: &str) -> Refusal {
    Refusal::new(
        Code::NotOurs,
        format!("dataset {name} is left alone: {why}"),
        "look at it with `mayfly pool show`; if it is yours, move it out of the pool or remove it by hand",
    )
}

fn local<'a>(name: &PoolPath, seen: &'a MarkSeen, node: &NodeId) -> Result<&'a Mark, Refusal> {
    match seen {
        MarkSeen::Local(mark) if mark.node == *node => Ok(mark),
        MarkSeen::Local(_) => Err(not_ours(name, "its mark names another node")),
        MarkSeen::NotLocal => Err(not_ours(name, "its mark came with the data")),
        MarkSeen::Unset => Err(not_ours(name, "it has no mark")),
        MarkSeen::Unreadable(why) => {
            Err(LookFailed::new(format!("the mark of {name}"), why).into())
        }
    }
}

fn owned<'a>(
    name: &PoolPath,
    seen: &'a MarkSeen,
    node: &NodeId,
    (vps, incarnation): (VpsId, &Incarnation),
) -> Result<&'a Mark, Refusal> {
    let mark = local(name, seen, node)?;
    match &mark.owner {
        Some((id, life)) if *id == vps && life == incarnation => Ok(mark),
        Some((id, _)) if *id == vps => Err(not_ours(
            name,
            "its mark names an earlier VPS of this number",
        )),
        Some(_) => Err(not_ours(name, "its mark names another VPS")),
        None => Err(not_ours(name, "its mark names no VPS")),
    }
}

/// Refuses what is done to a dataset only while nothing of its VPS is alive.
pub fn nothing_alive(name: &PoolPath, vps: VpsId, evidence: &[Evidence]) -> Result<(), Refusal> {
    match evidence.iter().find(|e| e.is_alive()) {
        None => Ok(()),
        Some(sign) => Err(Refusal::new(
            Code::StillAlive,
            format!("dataset {name} is in use: {sign}"),
            format!("stop the VPS first: mayfly stop {vps} --force"),
        )),
    }
}

impl EphemeralRoot {
    /// `seen` is the mark as read back just now, `evidence` the signs of life of the VPS as of just now. A root with copies
    /// of declared files that were not taken back yet holds persistent data.
    pub fn prove(
        name: &PoolPath,
        seen: &MarkSeen,
        node: &NodeId,
        owner: (VpsId, &Incarnation),
        evidence: &[Evidence],
    ) -> Result<Self, Refusal> {
        match owned(name, seen, node, owner)? {
            mark if mark.unharvested => Err(Refusal::new(
                Code::HarvestFailed,
                format!(
                    "dataset {name} is kept: copies of declared files in it were not taken back yet"
                ),
                format!(
                    "start the VPS, which tries it again and says why it fails; to give them up: mayfly stop {} --discard --force",
                    owner.0
                ),
            )),
            _ => Self::prove_given_up(name, seen, node, owner, evidence),
        }
    }

    /// The same, also where copies were not taken back: for whoever destroys the VPS, or gave them up in so many words.
    pub fn prove_given_up(
        name: &PoolPath,
        seen: &MarkSeen,
        node: &NodeId,
        owner: (VpsId, &Incarnation),
        evidence: &[Evidence],
    ) -> Result<Self, Refusal> {
        let mark = owned(name, seen, node, owner)?;
        if mark.role != Role::Temporary {
            return Err(not_ours(
                name,
                "its mark does not say that it is a temporary root",
            ));
        }
        if mark.made_as != *name {
            return Err(not_ours(name, "its mark was made for another name"));
        }
        let run = mark
            .run
            .as_ref()
            .ok_or_else(|| not_ours(name, "its mark names no run"))?;
        let of_this_root: Vec<_> = evidence
            .iter()
            .filter(|e| e.concerns(owner.0, run, name))
            .cloned()
            .collect();
        nothing_alive(name, owner.0, &of_this_root)?;
        Ok(Self(name.clone()))
    }
}

impl ConfirmedDestroy {
    /// As for a root, but for data: only the executor of a confirmed destroy, or the undo of a create, asks for it.
    pub fn prove(
        name: &PoolPath,
        seen: &MarkSeen,
        node: &NodeId,
        owner: (VpsId, &Incarnation),
        evidence: &[Evidence],
    ) -> Result<Self, Refusal> {
        let mark = owned(name, seen, node, owner)?;
        if matches!(mark.role, Role::Replaced | Role::Base) && mark.made_as == *name {
            // No run began on it since it was put aside, and none was alive then; and none ever begins on a base: a run of the
            // VPS is none of it.
            let signs = evidence
                .iter()
                .filter(|e| e.concerns_replaced(owner.0, name));
            nothing_alive(name, owner.0, &signs.cloned().collect::<Vec<_>>())?;
            return Ok(Self(name.clone()));
        }
        if mark.role != Role::Persistent || mark.made_as != *name {
            return Err(not_ours(
                name,
                "its mark does not say that it is this dataset",
            ));
        }
        nothing_alive(name, owner.0, evidence)?;
        Ok(Self(name.clone()))
    }

    /// The same for a part of a template that no VPS and no root needs any more; the caller has checked that.
    pub fn prove_template(
        name: &PoolPath,
        seen: &MarkSeen,
        node: &NodeId,
    ) -> Result<Self, Refusal> {
        let mark = local(name, seen, node)?;
        if mark.role != Role::Template || mark.made_as != *name {
            return Err(not_ours(
                name,
                "its mark does not say that it is this template",
            ));
        }
        Ok(Self(name.clone()))
    }
}

impl Condemned {
    /// `seen` is the mark as read back just now.
    pub fn prove(name: &PoolPath, seen: &MarkSeen, node: &NodeId) -> Result<Self, Refusal> {
        let mark = local(name, seen, node)?;
        if !name.is_grave() || mark.condemned_by.is_none() {
            return Err(not_ours(name, "no operation condemned it"));
        }
        Ok(Self(name.clone()))
    }

    /// What may be destroyed.
    pub fn dataset(&self) -> &PoolPath {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RunId;

    fn node(n: u8) -> NodeId {
        NodeId::from_random([n; 8])
    }

    fn life(n: u8) -> Incarnation {
        Incarnation::from_random([n; 16])
    }

    fn vps() -> VpsId {
        11327.try_into().unwrap()
    }

    fn mark() -> Mark {
        let run = RunId::from_random([1; 3]);
        Mark {
            node: node(1),
            owner: Some((vps(), life(1))),
            role: Role::Temporary,
            made_as: PoolPath::temporary_root(vps(), &run),
            run: Some(run),
            condemned_by: None,
            unharvested: false,
            contents: None,
        }
    }

    fn prove(change: impl FnOnce(&mut Mark)) -> Result<EphemeralRoot, Refusal> {
        let name = mark().made_as;
        let mut mark = mark();
        change(&mut mark);
        EphemeralRoot::prove(
            &name,
            &MarkSeen::Local(mark),
            &node(1),
            (vps(), &life(1)),
            &[],
        )
    }

    #[test]
    fn only_a_local_mark_of_this_node_and_incarnation_proves_a_temporary_root() {
        assert!(prove(|_| {}).is_ok());
        assert!(prove(|m| m.node = node(2)).is_err());
        assert!(prove(|m| m.owner = Some((vps(), life(2)))).is_err());
        assert!(prove(|m| m.owner = None).is_err());
        assert!(prove(|m| m.role = Role::Persistent).is_err());
        assert!(prove(|m| m.run = None).is_err());
        assert!(prove(|m| m.made_as = PoolPath::grave("x")).is_err());
    }

    #[test]
    fn a_mark_that_cannot_be_read_is_not_the_same_as_none() {
        let name = mark().made_as;
        let prove = |seen| {
            EphemeralRoot::prove(&name, &seen, &node(1), (vps(), &life(1)), &[])
                .unwrap_err()
                .code
        };
        assert_eq!(prove(MarkSeen::Unset), Code::NotOurs);
        assert_eq!(prove(MarkSeen::NotLocal), Code::NotOurs);
        assert_eq!(
            prove(MarkSeen::Unreadable("EIO".into())),
            Code::CouldNotLook
        );
    }

    #[test]
    fn a_root_in_use_is_not_destroyed() {
        let alive = [Evidence::Processes {
            cgroup: "x".into(),
            count: 1,
        }];
        let name = mark().made_as;
        let got = EphemeralRoot::prove(
            &name,
            &MarkSeen::Local(mark()),
            &node(1),
            (vps(), &life(1)),
            &alive,
        );
        assert_eq!(got.unwrap_err().code, Code::StillAlive);
    }

    #[test]
    fn who_merely_holds_a_root_does_not_keep_it_from_being_given_up() {
        let name = mark().made_as;
        let held = Evidence::Held {
            pid: 4711,
            dataset: name.as_str().to_owned(),
            command: "sleep 1000".into(),
        };
        let mounted = Evidence::Mounted {
            pid: 4711,
            dataset: name.as_str().to_owned(),
        };
        let prove = |signs: &[Evidence]| {
            let seen = MarkSeen::Local(mark());
            EphemeralRoot::prove(&name, &seen, &node(1), (vps(), &life(1)), signs)
        };
        assert!(prove(std::slice::from_ref(&held)).is_ok());
        // One who may be the guest's counts, whoever else is there.
        assert_eq!(prove(&[held, mounted]).unwrap_err().code, Code::StillAlive);
    }

    #[test]
    fn an_old_root_can_be_proven_while_the_next_run_lives() {
        let name = mark().made_as;
        let other = RunId::from_random([2; 3]);
        let prove = |sign| {
            EphemeralRoot::prove(
                &name,
                &MarkSeen::Local(mark()),
                &node(1),
                (vps(), &life(1)),
                &[sign],
            )
        };
        let cgroup = |run: &RunId| Evidence::Processes {
            cgroup: format!("mayfly-x/11327.{run}/payload"),
            count: 1,
        };
        let mounted = |dataset: &str| Evidence::Mounted {
            pid: 1,
            dataset: dataset.into(),
        };
        assert!(
            prove(Evidence::Supervisor {
                pid: 1,
                run: other.clone()
            })
            .is_ok()
        );
        assert!(prove(cgroup(&other)).is_ok());
        assert!(prove(mounted("/p/11327.impermanence-020202/private")).is_ok());
        assert!(prove(cgroup(&RunId::from_random([1; 3]))).is_err());
        assert!(prove(mounted("/p/11327.impermanence-010101/private")).is_err());
        assert!(prove(mounted("/somewhere")).is_err());
    }

    #[test]
    fn the_graveyard_is_emptied_of_condemned_datasets_only() {
        let grave = PoolPath::grave("x");
        let mut mark = mark();
        assert!(Condemned::prove(&grave, &MarkSeen::Local(mark.clone()), &node(1)).is_err());
        mark.condemned_by = Some(OperationId::at(1, [0; 4]));
        assert!(Condemned::prove(&grave, &MarkSeen::Local(mark.clone()), &node(1)).is_ok());
        assert!(
            Condemned::prove(
                &mark.made_as.clone(),
                &MarkSeen::Local(mark.clone()),
                &node(1)
            )
            .is_err()
        );
        assert!(Condemned::prove(&grave, &MarkSeen::Local(mark), &node(2)).is_err());
    }
}
