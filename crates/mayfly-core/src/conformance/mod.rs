//! What every implementation of the storage ports does, whatever lies below it: one suite that the fake, btrfs and
//! OpenZFS pass.
//!
//! An implementation's test gives a [`Rig`] over an empty pool and calls [`check`]. The suite uses nothing but the ports,
//! and the rig for what no port does: planting things by hand, writing as a guest would, holding a dataset in use.
//! What an implementation has no such thing for is answered with [`Cannot`] and its reason; the report names each of
//! these cases, and the test says which of them it expects, so that none is ever skipped in silence.
//!
//! Every case runs on an empty pool, twice: once as it stands, once with each changing call done a second time, which
//! must find nothing to do, or refuse for the same reason. It ends with everything buried and reaped through the port,
//! so a case that leaves something which cannot be got rid of fails as well.
#![allow(clippy::unwrap_used, reason = "a suite of tests may fail by panicking")]

mod burial;
mod clones;
mod copies;
mod create;
mod exchange;
pub mod given;
mod looks;
mod marks;
mod mirrors;
mod quotas;
mod reaping;
mod rig;
mod scene;
mod streams;
mod trees;

pub use self::rig::{Can, Cannot, Clones, Held, Planted, PutError, Rig, Rights, Thing};
use self::scene::Case;
pub use self::scene::Report;

macro_rules! cases {
    ($($module:ident: $($name:ident)*;)*) => {
        &[$($((stringify!($name), $module::$name)),*),*]
    };
}

const CASES: &[(&str, Case)] = cases! {
    create:
        a_dataset_is_made_once_with_mark_and_quota
        another_mark_under_the_name_is_a_refusal
        a_mark_that_does_not_fit_is_a_refusal
        a_dataset_lies_in_one_of_the_same_owner
        what_is_made_belongs_to_the_guests_root
        a_name_is_free_again_after_the_burial;
    clones:
        a_clone_of_a_template_has_its_contents_and_a_mark_of_its_own
        a_clone_shares_no_changes
        a_clone_of_a_part_has_none_of_the_other_parts
        the_bytes_of_the_base_are_not_charged
        a_persistent_dataset_is_cloned_without_what_lies_below_it
        there_is_no_clone_of_nothing
        a_template_with_clones_outlives_them;
    quotas:
        a_quota_holds_and_harms_nobody_else
        a_quota_goes_up_and_down_but_not_below_use
        files_of_the_platform_obey_the_quota
        there_is_no_quota_of_nothing;
    exchange:
        contents_change_places_and_what_lies_below_stays
        contents_of_a_subdataset_change_places
        quotas_go_with_contents_that_change_places
        only_a_vps_s_own_contents_change_places
        an_unknown_dataset_below_stops_the_exchange
        what_was_put_aside_is_buried_with_proof
        an_exchange_that_is_cut_off_is_finished_or_put_back;
    copies:
        a_tree_is_copied_whole_and_once
        a_copy_leaves_out_what_it_is_told_to
        a_copy_goes_only_into_what_is_empty
        only_a_vps_s_own_trees_are_copied
        a_copy_follows_nothing
        a_copy_that_does_not_fit_leaves_nothing
        a_copy_that_is_not_wanted_ends
        a_base_is_cloned_once_it_is_whole
        a_directory_is_taken_out_and_put_back
        what_was_taken_out_counts_until_it_is_destroyed
        only_a_vps_s_own_directories_are_taken_out
        a_clone_has_nothing_of_what_was_taken_out
        a_copy_that_is_cut_off_begins_anew;
    burial:
        burying_moves_and_condemns
        burying_takes_all_below_along
        a_burial_is_into_the_graveyard
        a_grave_is_not_used_twice
        an_unknown_dataset_below_stops_the_burial
        a_dataset_below_of_another_owner_stops_the_burial
        a_dataset_below_of_another_role_stops_the_burial
        an_unreadable_mark_below_stops_the_burial
        burying_while_it_is_in_use_works
        foreign_snapshots_do_not_keep_a_root
        a_burial_that_is_cut_off_is_finished;
    reaping:
        a_grave_goes_with_all_below_it
        what_nobody_condemned_stops_the_reaper
        what_has_no_mark_stops_the_reaper
        an_unreadable_mark_stops_the_reaper
        the_mark_of_another_node_stops_the_reaper
        what_is_in_use_is_busy_and_stays_provable
        something_in_use_below_keeps_the_whole_grave
        a_reaping_that_is_cut_off_is_finished;
    marks:
        a_dataset_without_a_mark_is_left_alone
        a_mark_that_came_with_the_data_proves_nothing
        a_mark_that_cannot_be_read_is_not_the_same_as_none
        a_mark_of_another_node_is_left_alone
        an_older_proof_does_not_outlive_its_mark
        a_root_is_kept_until_it_was_harvested;
    looks:
        a_look_sees_what_an_observation_sees
        what_is_absent_is_certainly_absent
        what_is_cut_off_stays_in_the_staging_area
        what_no_record_speaks_of_is_told_and_left;
    mirrors:
        a_mirror_comes_back_as_it_was_put
        a_mirror_may_be_large_and_the_pool_full_of_them
        the_generation_only_rises;
    trees:
        trees_are_prepared_once
        what_a_guest_planted_is_never_followed
        files_take_the_place_of_what_is_no_directory
        devices_and_pipes_are_not_touched
        files_are_read_without_following_anything
        a_file_is_changed_only_as_it_was_read
        an_init_is_found_in_the_assembled_datasets
        an_init_is_found_in_a_template_that_shows_twice
        an_init_is_resolved_as_the_guest_would
        an_init_without_an_end_is_none
        a_pipe_is_no_init;
    streams:
        a_group_is_snapshotted_at_once_or_not_at_all
        a_snapshot_stays_as_it_was
        only_snapshots_of_our_own_are_removed
        a_stream_becomes_a_dataset_and_follows_its_changes
        what_the_receiver_wrote_is_not_overwritten
        a_stream_goes_where_it_belongs
        what_is_no_stream_is_refused
        an_interrupted_stream_is_gone_on_with
        an_aborted_receive_leaves_nothing
        only_our_own_snapshots_are_sent
        a_sender_without_a_reader_fails
        nothing_of_a_mark_comes_from_a_stream;
};

/// The cases that need the port of snapshots, for a storage that does not have it.
pub const OF_SNAPSHOTS: [&str; 12] = [
    "a_group_is_snapshotted_at_once_or_not_at_all",
    "a_snapshot_stays_as_it_was",
    "only_snapshots_of_our_own_are_removed",
    "a_stream_becomes_a_dataset_and_follows_its_changes",
    "what_the_receiver_wrote_is_not_overwritten",
    "a_stream_goes_where_it_belongs",
    "what_is_no_stream_is_refused",
    "an_interrupted_stream_is_gone_on_with",
    "an_aborted_receive_leaves_nothing",
    "only_our_own_snapshots_are_sent",
    "a_sender_without_a_reader_fails",
    "nothing_of_a_mark_comes_from_a_stream",
];

/// All cases, on the empty pool of `rig`; leaves it empty.
///
/// # Panics
/// Where the implementation does not do what it should.
pub fn check(rig: &dyn Rig) -> Report {
    scene::run(rig, CASES, &[false, true])
}

/// What is done with each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// As it stands, and once more with each changing call done a second time.
    Both,
    /// The latter alone, for a storage whose calls take long: what this leaves out is what a first call does that a second
    /// one mends.
    Repeated,
}

/// Every `of`th case from the case `part` on: the suite in processes beside each other.
///
/// # Panics
/// Where the implementation does not do what it should.
pub fn check_part(rig: &dyn Rig, part: usize, of: usize, passes: Passes) -> Report {
    let cases: Vec<_> = CASES.iter().skip(part).step_by(of).copied().collect();
    match passes {
        Passes::Both => scene::run(rig, &cases, &[false, true]),
        Passes::Repeated => scene::run(rig, &cases, &[true]),
    }
}

/// One case by its name, for whoever hunts something down.
///
/// # Panics
/// Where the implementation does not do what it should, or there is no such case.
pub fn check_one(rig: &dyn Rig, name: &str) -> Report {
    let case = CASES
        .iter()
        .position(|(one, _)| *one == name)
        .expect("the case that was asked for exists");
    scene::run(rig, &CASES[case..=case], &[false, true])
}
