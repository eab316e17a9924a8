//! Golden text, and what addresses are.

use std::path::Path;

use super::*;
use crate::documents::VpsDoc;

fn node() -> NodeId {
    "0123456789abcdef".parse().unwrap()
}

fn network() -> NodeNetwork {
    NodeNetwork {
        bridge: "mayfly0".parse().unwrap(),
        subnet: "10.77.0.0/16".parse().unwrap(),
        prefix: "fd4d:6179:666c:7900::/64".parse().unwrap(),
    }
}

/// A document with what the network needs of it.
fn doc(id: u32, others: &[VpsDoc]) -> VpsDoc {
    let text = format!(
        r#"{{"schema": 5, "id": {id}, "hostname": "web{id}", "incarnation": "0123456789abcdef0123456789abcdef",
        "node": "0123456789abcdef", "template": "debian-12", "base": {{"template": "{0}"}},
        "manifest": {{"distribution": "debian", "version": "12", "architecture": "amd64", "init": "/sbin/init",
            "halt_signal": 37, "root_kind": "template"}},
        "storage": null, "disk_bytes": 1, "datasets": [], "mounts": [], "impermanence": null, "limits": {{}},
        "ids": {{"first": 1048576, "count": 262144}}, "lifecycle": {{"state": "ready"}}, "desired": "stopped",
        "on_crash": "restart", "crashes": [], "run": null, "last_root": null}}"#,
        "0".repeat(64)
    );
    let mut doc: VpsDoc = serde_json::from_str(&text).unwrap();
    doc.network = free_network(&node(), &network(), doc.id, others);
    doc
}

fn two() -> Vec<VpsDoc> {
    let mut first = doc(100, &[]);
    first.network.as_mut().unwrap().ports = ["8080:80", "5353:53/udp"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    let second = doc(11327, &[first.clone()]);
    vec![first, second]
}

#[track_caller]
fn golden(file: &str, got: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/network")
        .join(file);
    if std::env::var_os("MAYFLY_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, got).unwrap();
    }
    let want = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        got,
        want,
        "{} differs; look, then MAYFLY_BLESS=1",
        file.display()
    );
}

#[test]
fn the_plan_of_two_is_as_it_was() {
    let plan = network_plan(&node(), &network(), &two());
    golden("firewall.nft", &plan.firewall);
    golden("dnsmasq.conf", &plan.dnsmasq);
    golden("dhcp-hosts", &plan.dhcp_hosts);
    golden("names", &plan.names);
    assert_eq!(
        (&*plan.ipv4, &*plan.ipv6),
        ("10.77.0.1/16", "fd4d:6179:666c:7900::1/64")
    );
}

#[test]
fn a_node_without_vpses_has_no_empty_elements() {
    let plan = network_plan(&node(), &network(), &[]);
    assert!(!plan.firewall.contains("elements"), "{}", plan.firewall);
}

#[test]
fn a_port_is_one_vpss_whatever_documents_say() {
    let mut both = two();
    both[1].network.as_mut().unwrap().ports = vec!["8080:81".parse().unwrap()];
    let plan = network_plan(&node(), &network(), &both);
    assert!(plan.firewall.contains(":80\n") && !plan.firewall.contains(":81\n"));
}

#[test]
fn addresses_are_the_lowest_that_are_free_and_stay() {
    let all = two();
    let of = |doc: &VpsDoc| doc.network.clone().unwrap().ipv4.to_string();
    assert_eq!([of(&all[0]), of(&all[1])], ["10.77.0.2", "10.77.0.3"]);
    // A network of the same subnet with another prefix: the address stays, although a lower one is free.
    let again = free_network(&node(), &network(), all[1].id, &all[1..]).unwrap();
    assert_eq!(again.ipv4.to_string(), "10.77.0.3");
    // The first is gone; its address is free, that of the second is not.
    assert_eq!(of(&doc(500, &all[1..])), "10.77.0.2");
    let small = NodeNetwork {
        subnet: "192.168.7.0/29".parse().unwrap(),
        ..network()
    };
    let mut made: Vec<VpsDoc> = Vec::new();
    for id in 100..105 {
        let mut next = doc(id, &[]);
        next.network = free_network(&node(), &small, next.id, &made);
        assert!(next.network.is_some() && !needs_address(&small, &next));
        assert!(needs_address(&network(), &next));
        made.push(next);
    }
    assert_eq!(
        free_network(&node(), &small, 105.try_into().unwrap(), &made),
        None
    );
}

#[test]
fn a_vps_of_another_subnet_is_not_plugged_in() {
    let elsewhere = NodeNetwork {
        subnet: "10.78.0.0/16".parse().unwrap(),
        ..network()
    };
    let plan = network_plan(&node(), &elsewhere, &two());
    assert_eq!(plan.dhcp_hosts, "");
}

#[test]
fn the_names_of_cards_fit_and_differ() {
    let longest = card_name(&node(), VpsId::LAST.try_into().unwrap());
    assert!(longest.len() <= 15, "{longest}");
    assert!(longest.starts_with(&card_prefix(&node())));
    let other: NodeId = "0123456789abcdf0".parse().unwrap();
    assert_ne!(card_prefix(&node()), card_prefix(&other));
}

#[test]
fn subnets_are_private_and_whole() {
    for good in [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.7.0/29",
        "100.64.0.0/10",
    ] {
        assert_eq!(good.parse::<Subnet>().unwrap().to_string(), good);
    }
    for bad in [
        "10.77.0.1/16",
        "8.8.8.0/24",
        "10.0.0.0/7",
        "192.168.0.0/30",
        "10.0.0.0",
        "172.16.0.0/8",
        "192.168.0.0/15",
        "x/16",
        "10.77.0.0/-1",
    ] {
        assert!(bad.parse::<Subnet>().is_err(), "{bad}");
    }
    let host = Subnet::of_host("10.77.3.9".parse().unwrap(), 24);
    assert!(host.overlaps(network().subnet) && network().subnet.overlaps(host));
    assert!(!host.overlaps("10.78.0.0/16".parse().unwrap()));
    for default in DEFAULT_SUBNETS {
        default.parse::<Subnet>().unwrap();
    }
    DEFAULT_BRIDGE.parse::<BridgeName>().unwrap();
}

#[test]
fn what_goes_into_configurations_is_plain() {
    for bad in [
        "",
        "0br",
        "br 0",
        "br\"",
        "br\n",
        "Br0",
        "a234567890123456",
        "br;drop",
    ] {
        assert!(bad.parse::<BridgeName>().is_err(), "{bad}");
    }
    for bad in [
        "fd00::1/64",
        "fe80::/64",
        "fd00::/63",
        "2001:db8::/64",
        "fd00::",
    ] {
        assert!(bad.parse::<Prefix6>().is_err(), "{bad}");
    }
    let prefix = Prefix6::from_random([1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(prefix.to_string().parse(), Ok(prefix));
    let mac = Mac::of(&node(), "100");
    assert_eq!(mac.to_string().parse(), Ok(mac));
    assert_ne!(mac, Mac::of(&node(), "101"));
    for bad in [
        "02:00:00:00:00",
        "02:00:00:00:00:00:00",
        "02:00:00:00:00:0g",
        "020000000000",
    ] {
        assert!(bad.parse::<Mac>().is_err(), "{bad}");
    }
}

#[test]
fn forwards_are_read_as_they_are_typed() {
    for (text, shown) in [("8080:80", "8080:80/tcp"), ("1:65535/udp", "1:65535/udp")] {
        assert_eq!(text.parse::<Forward>().unwrap().to_string(), shown);
    }
    for bad in [
        "8080",
        "0:80",
        "80:0",
        "80:65536",
        "80:80/sctp",
        ":80",
        "80:",
        "80:80/",
    ] {
        assert!(bad.parse::<Forward>().is_err(), "{bad}");
    }
}

#[test]
fn keys_are_public_keys() {
    let key = format!("ssh-ed25519 {} me@here", "A".repeat(68));
    let keys: SshKeys = format!("# mine\n\n  {key}  \n").parse().unwrap();
    assert_eq!(keys.as_str(), format!("{key}\n"));
    for bad in [
        "",
        "# nothing",
        "ssh-ed25519",
        "command=\"x\" ssh-ed25519 AAAA",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "hello",
    ] {
        assert!(bad.parse::<SshKeys>().is_err(), "{bad}");
    }
}
