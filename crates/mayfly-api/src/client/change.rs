//! Changes that can be asked for. The same value asks for the change or for its plan.

use hyper::Method;
use mayfly_core::ids::OperationId;
use mayfly_core::names::{DatasetName, GuestPath, TemplateName};
use mayfly_core::network::{Forward, Protocol};
use serde::Serialize;

use crate::{
    AddMount, BuildTemplate, ChangePersistence, ConvertVps, CreateDataset, CreateVps,
    ImportTemplate, PullTemplate, ReinstallVps, RescueVps, RestartVps, SetDataset, SetFeatures,
    SetVps, StopVps, paths,
};

/// A request for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    method: Method,
    path: String,
    body: Option<String>,
}

impl Change {
    /// Makes a VPS.
    pub fn create(body: &CreateVps) -> Self {
        Self::with_body(Method::POST, paths::VPSES.to_owned(), body)
    }

    /// Starts a VPS.
    pub fn start(vps: &str) -> Self {
        Self::bare(Method::POST, paths::of_vps(vps, "start"))
    }

    /// Stops it.
    pub fn stop(vps: &str, body: &StopVps) -> Self {
        Self::with_body(Method::POST, paths::of_vps(vps, "stop"), body)
    }

    /// Stops and starts it.
    pub fn restart(vps: &str, body: &RestartVps) -> Self {
        Self::with_body(Method::POST, paths::of_vps(vps, "restart"), body)
    }

    /// Boots another system with its datasets in reach.
    pub fn rescue(vps: &str, body: &RescueVps) -> Self {
        Self::with_body(Method::POST, paths::of_vps(vps, "rescue"), body)
    }

    /// Replaces its contents by those of a template.
    pub fn reinstall(vps: &str, body: &ReinstallVps) -> Self {
        Self::with_body(Method::POST, paths::of_vps(vps, "reinstall"), body)
    }

    /// Puts back what the last reinstall replaced.
    pub fn reinstall_undo(vps: &str, reinstall: &OperationId, force: bool) -> Self {
        let path = paths::of_vps(vps, &format!("reinstall/{reinstall}"));
        Self::bare(Method::DELETE, forced(path, force))
    }

    /// Gives up what this reinstall, and those before it, have put aside.
    pub fn reinstall_forget(vps: &str, reinstall: &OperationId, force: bool) -> Self {
        let path = paths::of_vps(vps, &format!("replaced/{reinstall}"));
        Self::bare(Method::DELETE, forced(path, force))
    }

    /// Makes it impermanent, with everything that takes.
    pub fn convert(vps: &str, body: &ConvertVps) -> Self {
        Self::with_body(Method::POST, paths::of_vps(vps, "conversion"), body)
    }

    /// Makes one that was converted persistent again.
    pub fn revert(vps: &str) -> Self {
        Self::bare(Method::DELETE, paths::of_vps(vps, "conversion"))
    }

    /// Changes what it is.
    pub fn set(vps: &str, body: &SetVps) -> Self {
        Self::with_body(Method::PATCH, paths::vps(vps), body)
    }

    /// Destroys it with all its data; with `now` it is over only when the space is free.
    pub fn destroy(vps: &str, now: bool) -> Self {
        let path = paths::vps(vps);
        Self::bare(
            Method::DELETE,
            if now {
                paths::with(&path, "now", "true")
            } else {
                path
            },
        )
    }

    /// Makes a dataset.
    pub fn create_dataset(vps: &str, body: &CreateDataset) -> Self {
        Self::with_body(Method::POST, paths::of_vps(vps, "datasets"), body)
    }

    /// Changes a dataset.
    pub fn set_dataset(vps: &str, name: &DatasetName, body: &SetDataset) -> Self {
        Self::with_body(Method::PATCH, paths::dataset(vps, name), body)
    }

    /// Destroys a dataset with its data; with `force` its mounts go with it.
    pub fn destroy_dataset(vps: &str, name: &DatasetName, force: bool) -> Self {
        Self::bare(Method::DELETE, forced(paths::dataset(vps, name), force))
    }

    /// Shows a dataset at a path.
    pub fn add_mount(vps: &str, body: &AddMount) -> Self {
        Self::with_body(Method::POST, paths::of_vps(vps, "mounts"), body)
    }

    /// Shows it no more.
    pub fn remove_mount(vps: &str, path: &GuestPath) -> Self {
        Self::bare(Method::DELETE, paths::mount(vps, path))
    }

    /// Has a port of the host lead to it.
    pub fn add_port(vps: &str, body: &Forward) -> Self {
        Self::with_body(Method::POST, paths::of_vps(vps, "ports"), body)
    }

    /// Has it lead there no more.
    pub fn remove_port(vps: &str, host_port: u16, protocol: Protocol) -> Self {
        Self::bare(Method::DELETE, paths::port(vps, host_port, protocol))
    }

    /// Declares paths to stay, or declares them no more.
    pub fn change_persistence(vps: &str, body: &ChangePersistence) -> Self {
        Self::with_body(Method::PATCH, paths::of_vps(vps, "persistence"), body)
    }

    /// Switches features.
    pub fn set_features(vps: &str, body: &SetFeatures) -> Self {
        Self::with_body(Method::PATCH, paths::of_vps(vps, "features"), body)
    }

    /// Builds a template.
    pub fn build_template(body: &BuildTemplate) -> Self {
        Self::with_body(Method::POST, paths::TEMPLATES.to_owned(), body)
    }

    /// Makes a template of files on the node.
    pub fn import_template(name: &TemplateName, body: &ImportTemplate) -> Self {
        Self::with_body(Method::POST, paths::template(name.as_str()), body)
    }

    /// Makes a template of a server's image.
    pub fn pull_template(name: &TemplateName, body: &PullTemplate) -> Self {
        Self::with_body(Method::POST, paths::pull(name.as_str()), body)
    }

    /// Removes a template.
    pub fn remove_template(name: &TemplateName) -> Self {
        Self::bare(Method::DELETE, paths::template(name.as_str()))
    }

    pub(super) fn method(&self) -> Method {
        self.method.clone()
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn body(&self) -> Option<String> {
        self.body.clone()
    }

    fn bare(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            body: None,
        }
    }

    fn with_body(method: Method, path: String, body: &impl Serialize) -> Self {
        let body = serde_json::to_string(body).expect("a request is plain data");
        Self {
            method,
            path,
            body: Some(body),
        }
    }
}

/// The address of a change that is insisted on, or not.
fn forced(path: String, force: bool) -> String {
    match force {
        true => paths::with(&path, "force", "true"),
        false => path,
    }
}
