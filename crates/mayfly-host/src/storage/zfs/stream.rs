//! The port of snapshots and streams.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use mayfly_core::error::LookFailed;
use mayfly_core::names::{PoolPath, SnapshotName};
use mayfly_core::ports::{HostResult, Outcome, Snapshots};
use mayfly_core::snapshots::{
    NewSnapshot, Partial, ReceiveSpec, ResumeToken, SendSpec, SnapshotMark, SnapshotSeen,
};

use super::pool::ZfsPool;

impl Snapshots for ZfsPool {
    fn snapshot(&self, new: &NewSnapshot) -> HostResult<Outcome> {
        self.make_snapshots(new)
    }

    fn snapshots(&self, dataset: &PoolPath) -> Result<Vec<SnapshotSeen>, LookFailed> {
        self.list_snapshots(dataset)
    }

    fn remove_snapshot(
        &self,
        dataset: &PoolPath,
        name: &SnapshotName,
        mark: &SnapshotMark,
    ) -> HostResult<Outcome> {
        self.remove_own_snapshot(dataset, name, mark)
    }

    fn send(&self, what: &SendSpec, into: BorrowedFd<'_>, limit: Duration) -> HostResult<()> {
        self.send_snapshot(what, into, limit)
    }

    fn send_rest(
        &self,
        what: &SendSpec,
        token: &ResumeToken,
        into: BorrowedFd<'_>,
        limit: Duration,
    ) -> HostResult<()> {
        self.send_what_is_missing(what, token, into, limit)
    }

    fn receive(
        &self,
        spec: &ReceiveSpec,
        from: BorrowedFd<'_>,
        limit: Duration,
    ) -> HostResult<Outcome> {
        self.receive_stream(spec, from, limit)
    }

    fn partial(&self, dataset: &PoolPath) -> Result<Partial, LookFailed> {
        self.look_at_partial(dataset)
    }

    fn abort_receive(&self, dataset: &PoolPath) -> HostResult<Outcome> {
        self.abort_received(dataset)
    }
}
