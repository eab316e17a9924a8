//! What is read of a configuration, and what is told to need evaluation.

use crate::doctor::{About, NixFacts, Role, read_nix};

const CONFIGURATION: &str = r#"
{ ... }:
{
  environment.persistence."/persistent" = {
    hideMounts = true;
    directories = [
      "/etc/nixos"
      "/var/log"
      { directory = "/var/lib/nixos"; mode = "0755"; }
    ];
    files = [ "/etc/machine-id" ];
  };
  nix.settings.experimental-features = [ "nix-command" "flakes" ];
}
"#;

fn module(text: &str) -> NixFacts {
    read_nix(text, Role::Module).unwrap()
}

fn paths(facts: &NixFacts) -> Vec<&str> {
    let kept = facts.kept.iter().flat_map(|kept| &kept.paths);
    kept.map(String::as_str).collect()
}

fn unsure(facts: &NixFacts) -> Vec<(usize, &str)> {
    let unsure = facts.unsure.iter();
    unsure.map(|u| (u.line, u.option.as_str())).collect()
}

#[test]
fn the_configuration_of_the_page_is_read() {
    let facts = module(CONFIGURATION);
    assert_eq!(
        (facts.kept[0].name.as_str(), facts.kept[0].line),
        ("/persistent", 4)
    );
    let wanted = [
        "/etc/nixos",
        "/var/log",
        "/var/lib/nixos",
        "/etc/machine-id",
    ];
    assert_eq!(paths(&facts), wanted);
    assert_eq!((facts.flakes, unsure(&facts)), (Some(true), Vec::new()));
}

#[test]
fn names_may_be_in_sets_or_in_one_path() {
    let facts = module(
        r#"{ lib, ... }: with lib; {
          config = { environment = { persistence = {
            "/a".directories = [ "/x" ] ++ ([ "/y" ]);
            "/b" = { enable = false; files = [ { file = "/z"; } ]; };
            home = { persistentStoragePath = "/c"; users.me.directories = [ "d" ]; };
          }; }; };
          nix.extraOptions = ''
            keep-outputs = true
            experimental-features = nix-command flakes
          '';
          services.openssh = { enable = true; hostKeys = [ { path = "/a/key"; type = "ed25519"; } ]; };
          fileSystems."/a".neededForBoot = true;
          imports = [ ./hardware.nix ./sub { environment.persistence."/a".files = [ "/w" ]; } ];
        }"#,
    );
    let names: Vec<_> = facts
        .kept
        .iter()
        .map(|k| (k.name.as_str(), k.disabled, k.users))
        .collect();
    assert_eq!(
        names,
        [
            ("/a", false, false),
            ("/b", true, false),
            ("home", false, true)
        ]
    );
    assert_eq!(facts.kept[2].storage.as_deref(), Some("/c"));
    assert_eq!(paths(&facts), ["/x", "/y", "/w", "/z"]);
    assert_eq!((facts.flakes, facts.sshd), (Some(true), Some(true)));
    assert_eq!(facts.host_keys, Some(vec!["/a/key".to_owned()]));
    assert_eq!(facts.file_systems, [("/a".to_owned(), 12)]);
    let imports = [("./hardware.nix".to_owned(), 13), ("./sub".to_owned(), 13)];
    assert_eq!(facts.imports, imports);
    assert_eq!(unsure(&facts), []);
}

#[test]
fn the_flake_of_the_page_is_read() {
    let flake = r#"{
  inputs = { nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11"; };
  outputs = { nixpkgs, mayfly, impermanence, ... }:
    let containerModule = "container_${x}"; in {
      nixosConfigurations.vps = nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [
          mayfly.nixosModules.${containerModule}
          impermanence.nixosModules.impermanence
          ./configuration.nix
          ({ pkgs, ... }: { services.openssh.enable = false; })
        ];
      };
    };
}"#;
    let facts = read_nix(flake, Role::Flake).unwrap();
    assert_eq!(facts.imports, [("./configuration.nix".to_owned(), 10)]);
    assert_eq!((facts.has_module, facts.sshd), (true, Some(false)));
    assert_eq!(unsure(&facts), []);

    let hidden = read_nix(
        "{ outputs = inputs: import ./outputs.nix inputs; }",
        Role::Flake,
    );
    assert_eq!(unsure(&hidden.unwrap()), [(1, "modules")]);
    let made = flake.replace("./configuration.nix", "./${file} self.lib.mine more");
    let facts = read_nix(&made, Role::Flake).unwrap();
    assert_eq!(unsure(&facts), [(10, "modules")], "told once a line");
}

#[test]
fn what_needs_evaluation_is_told_with_its_line_and_not_guessed() {
    let facts = module(
        r#"{ config, lib, ... }:
let storage = "/persistent"; environment.persistence."/no".files = [ "/no" ]; in
{
  environment.persistence.${storage}.directories = [ "/a" ];
  environment.persistence."/p".directories = [ "/b" "${storage}/c" ] ++ lib.optional true "/d";
  environment.persistence."/q" = lib.mkIf config.x { files = [ "/e" ]; };
  environment.persistence."/r".enable = config.x;
  nix = lib.mkMerge [ ];
  services = { openssh = x // { enable = true; }; inherit (config) other; };
  inherit (import ./p.nix) environment;
  imports = [ ../x.nix <nixpkgs/y> ./sub/z.nix (import ./w.nix) "${modulesPath}/v.nix" ];
  fileSystems = import ./f.nix;
}"#,
    );
    assert_eq!(paths(&facts), ["/b"]);
    assert_eq!((facts.flakes, facts.sshd), (None, None));
    assert_eq!(
        unsure(&facts),
        [
            (4, "environment.persistence.${…}.directories"),
            (5, "environment.persistence.\"/p\".directories"),
            (6, "environment.persistence.\"/q\""),
            (7, "environment.persistence.\"/r\".enable"),
            (8, "nix"),
            (9, "services.openssh"),
            (10, "environment"),
            (11, "imports"),
            (12, "fileSystems"),
        ]
    );
    let imports: Vec<_> = facts
        .imports
        .iter()
        .map(|(file, _)| file.as_str())
        .collect();
    assert_eq!(imports, ["../x.nix", "./sub/z.nix"]);
}

#[test]
fn what_is_unsure_says_what_it_could_be_about() {
    for (text, wanted) in [
        ("{ nix = x; }", About::Flakes),
        ("{ nix.settings = x; }", About::Flakes),
        ("{ services = x; }", About::Ssh),
        ("{ environment = x; }", About::Persistence),
        ("{ preservation.preserveAt = x; }", About::Persistence),
        ("{ fileSystems = x; }", About::FileSystems),
        ("{ imports = x; }", About::Everything),
        ("{ ${x} = 1; }", About::Everything),
        ("{ config = lib.mkIf x { }; }", About::Everything),
        ("{ ... }: lib.mkMerge [ { } ]", About::Everything),
        ("{ ... }: { } // { }", About::Everything),
        (
            "{ lib, ... }: if lib.x then { } else { }",
            About::Everything,
        ),
    ] {
        let about: Vec<_> = module(text).unsure.iter().map(|u| u.about).collect();
        assert_eq!(about, [wanted], "{text}");
    }
    for text in [
        "{ }",
        "{ services.nginx = x; }",
        "{ options = x; networking = f { }; }",
        "{ inherit (x) y; }",
    ] {
        assert_eq!(module(text).unsure, [], "{text}");
    }
}
