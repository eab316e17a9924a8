//! The doctor's look, over the socket.

use mayfly_core::doctor::{Severity, Topic};
use mayfly_core::error::Code;
use mayfly_core::names::PoolPath;

use crate::harness::{Node, create, refused};

#[tokio::test]
async fn a_vps_is_looked_over_and_nothing_is_changed() {
    let node = Node::start().await;
    node.template("nixos-shaped").await;
    node.done(&create("nixos-shaped", true)).await;
    let id = node.client.vps("web1").await.unwrap().id;
    let data = PoolPath::from_pool(&id.to_string()).unwrap();
    let text = "{\n  nix.settings.experimental-features = [ \"flakes\" ];\n  environment.persistence.${x} = { };\n}";
    node.host.plant(&data, "/etc/nixos/configuration.nix", text);
    let before = node.client.vps("web1").await.unwrap();
    let told = node.client.doctor("web1").await.unwrap();
    assert_eq!((told.id, told.impermanent), (before.id, true));
    assert_eq!(told.configuration.as_deref(), Some("/persistent/etc/nixos"));
    assert_eq!(told.files, ["flake.nix", "configuration.nix"]);
    let found = |topic: Topic| told.findings.iter().find(|f| f.topic == topic);
    let place = &found(Topic::NeedsEvaluation).unwrap().object;
    assert!(
        place.starts_with("flake.nix:") || place == "configuration.nix:3",
        "{told:?}"
    );
    assert_eq!(
        found(Topic::MachineIdLost).unwrap().severity,
        Severity::Unknown
    );
    assert_eq!(node.client.vps("web1").await.unwrap(), before);
    let why = refused(node.client.doctor("nobody").await);
    assert_eq!(why.code, Code::VpsNotFound);
}
