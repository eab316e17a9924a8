//! The network as a lasting goal: it comes before the runs that need it, comes back, and goes on request.

use std::sync::{Arc, Mutex};

use mayfly_core::documents::{Lifecycle, OperationState};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::fake::FakeHost;
use mayfly_core::network::{Forward, NodeNetwork};
use mayfly_engine::{Engine, Intent};

use crate::world::{Death, World, create, create_as, doc, settle, vps};

fn plugged() -> World {
    let mut world = World::on(FakeHost::new(), &Arc::new(Mutex::default()));
    world.network = Some(NodeNetwork {
        bridge: "mayfly0".parse().unwrap(),
        subnet: "10.77.0.0/29".parse().unwrap(),
        prefix: "fd4d:6179:666c:7900::/64".parse().unwrap(),
    });
    world
}

fn did(engine: &Engine, intent: Intent) -> Result<(), Refusal> {
    let to = (!matches!(intent, Intent::Create { .. })).then(vps);
    let op = engine.submit(to, intent, "test")?;
    settle(engine);
    let op = engine.operation(op.id.as_str()).unwrap();
    match op.error {
        None => {
            assert_eq!(op.state, OperationState::Done);
            Ok(())
        }
        Some(error) => Err(error),
    }
}

fn forward(text: &str) -> Intent {
    let forward: Forward = text.parse().unwrap();
    Intent::PortAdd { forward }
}

#[test]
fn the_network_is_there_before_the_first_run() {
    let world = plugged();
    let engine = world.engine(Death::Never);
    did(&engine, create("debian-12-impermanence", true)).unwrap();
    let calls = world.host.calls();
    let at = |what: &str| calls.iter().position(|call| call.starts_with(what));
    assert!(at("apply the network") < at("launch"), "{calls:#?}");
    let own = doc(&engine).network.unwrap();
    let plan = world.host.network().unwrap();
    assert!(plan.dhcp_hosts.contains(&own.mac.to_string()) && plan.firewall.contains("10.77.0.2"));
}

#[test]
fn a_start_is_refused_with_the_cure_where_the_network_cannot_be_made() {
    let world = plugged();
    let engine = world.engine(Death::Never);
    did(&engine, create("debian-12-impermanence", false)).unwrap();
    let why = Refusal::new(
        Code::HostUnsuitable,
        "no dnsmasq",
        "apt install dnsmasq-base",
    );
    world.host.break_network(Some(why));
    let refused = did(&engine, Intent::Start).unwrap_err();
    assert_eq!(refused.code, Code::NetworkUnavailable);
    assert_eq!(refused.hint, "apt install dnsmasq-base");
    assert!(engine.network_trouble().is_some());
    assert!(doc(&engine).run.is_none() && doc(&engine).lifecycle == Lifecycle::Ready);
    assert_eq!(
        did(&engine, forward("80:80")).unwrap_err().code,
        Code::NetworkUnavailable
    );
    world.host.break_network(None);
    did(&engine, Intent::Start).unwrap();
    assert!(engine.network_trouble().is_none());
}

#[test]
fn what_was_torn_down_by_hand_comes_back() {
    let world = plugged();
    let engine = world.engine(Death::Never);
    did(&engine, create("debian-12-impermanence", true)).unwrap();
    world.host.tear_network_down();
    engine.look_after_network().unwrap();
    assert!(world.host.network().is_some());
}

#[test]
fn vpses_from_before_get_an_address_when_the_daemon_starts() {
    let mut world = plugged();
    let network = world.network.take();
    did(
        &world.engine(Death::Never),
        create("debian-12-impermanence", true),
    )
    .unwrap();
    world.network = network;
    let engine = world.engine(Death::Never);
    assert!(doc(&engine).network.is_none());
    engine.recover().unwrap();
    settle(&engine);
    assert_eq!(doc(&engine).network.unwrap().ipv4.to_string(), "10.77.0.2");
    // Another one, at the same time as many others: nobody gets the same.
    for id in [200_u32, 201] {
        did(&engine, create_as(id.try_into().ok(), "debian-12", false)).unwrap();
    }
    let all = engine.vpses().unwrap();
    let addresses: std::collections::BTreeSet<_> = all
        .iter()
        .map(|doc| doc.network.clone().unwrap().ipv4)
        .collect();
    assert_eq!(addresses.len(), 3);
}

#[test]
fn a_full_subnet_refuses_the_next_vps() {
    let world = plugged();
    let engine = world.engine(Death::Never);
    for id in 200_u32..205 {
        did(&engine, create_as(id.try_into().ok(), "debian-12", false)).unwrap();
    }
    let refused = did(&engine, create("debian-12", false)).unwrap_err();
    assert_eq!(refused.code, Code::NetworkFull);
}

#[test]
fn a_port_of_the_host_leads_to_one_vps() {
    let world = plugged();
    let engine = world.engine(Death::Never);
    did(&engine, create("debian-12", false)).unwrap();
    did(&engine, create_as(200.try_into().ok(), "debian-12", false)).unwrap();
    did(&engine, forward("8080:80")).unwrap();
    assert!(
        world
            .host
            .network()
            .unwrap()
            .firewall
            .contains("dport 8080")
    );
    let other = engine.submit(200.try_into().ok(), forward("8080:81"), "test");
    assert_eq!(other.unwrap_err().code, Code::PortTaken);
    // One that waits for its turn has it as well.
    engine
        .submit(Some(vps()), forward("9090:90"), "test")
        .unwrap();
    let other = engine.submit(200.try_into().ok(), forward("9090:90"), "test");
    assert_eq!(other.unwrap_err().code, Code::PortTaken);
    settle(&engine);
    let remove = |host_port| Intent::PortRemove {
        host_port,
        protocol: Default::default(),
    };
    did(&engine, remove(8080)).unwrap();
    assert!(
        !world
            .host
            .network()
            .unwrap()
            .firewall
            .contains("dport 8080")
    );
    assert_eq!(
        did(&engine, remove(8080)).unwrap_err().code,
        Code::PortNotFound
    );
}

#[test]
fn the_network_is_removed_when_nobody_is_plugged_in() {
    let world = plugged();
    let engine = world.engine(Death::Never);
    did(&engine, create("debian-12-impermanence", true)).unwrap();
    assert_eq!(
        engine.remove_network().unwrap_err().code,
        Code::NetworkInUse
    );
    let stop = Intent::Stop {
        timeout_ms: 1000,
        force: true,
        discard: false,
    };
    did(&engine, stop).unwrap();
    engine.remove_network().unwrap();
    assert!(world.host.network().is_none() && engine.network().is_none());
    assert!(doc(&engine).network.is_some());
    did(&engine, Intent::Start).unwrap();
    assert!(world.host.network().is_none());
}
