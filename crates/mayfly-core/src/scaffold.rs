//! What a NixOS in a VPS begins with: its flake, its configuration, and the module that it needs of us, as files beside each
//! other. Nothing else is needed but nixpkgs and the impermanence module.

use crate::names::GuestPath;

/// A release of NixOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NixosRelease {
    /// NixOS 25.11.
    V25_11,
    /// NixOS unstable.
    Unstable,
}

impl NixosRelease {
    /// The branch of nixpkgs.
    fn branch(self) -> &'static str {
        match self {
            Self::V25_11 => "nixos-25.11",
            Self::Unstable => "nixos-unstable",
        }
    }
}

/// The directory of our module beside the flake.
pub const MODULES: &str = "mayfly";

/// Our modules, by name.
const MODULE_FILES: [(&str, &str); 3] = [
    ("flake.nix", include_str!("../../../nix/guest/flake.nix")),
    (
        "container.nix",
        include_str!("../../../nix/guest/container.nix"),
    ),
    (
        "container_25_11.nix",
        include_str!("../../../nix/guest/container_25_11.nix"),
    ),
];

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaffold {
    /// Which NixOS.
    pub release: NixosRelease,
    /// Where a dataset of the VPS is mounted that keeps what is declared.
    pub persistent: GuestPath,
    /// Where our modules come from; none for a copy of them beside the flake.
    pub modules: Option<String>,
}

impl Scaffold {
    /// Files by their names below the directory of the configuration.
    pub fn files(&self) -> Vec<(String, String)> {
        let mut files = vec![
            ("flake.nix".to_owned(), self.flake()),
            ("configuration.nix".to_owned(), self.configuration()),
        ];
        if self.modules.is_none() {
            let ours =
                MODULE_FILES.map(|(name, text)| (format!("{MODULES}/{name}"), text.to_owned()));
            files.extend(ours);
        }
        files
    }

    fn flake(&self) -> String {
        let branch = self.release.branch();
        let ours = self
            .modules
            .clone()
            .unwrap_or_else(|| format!("path:./{MODULES}"));
        let ours = quoted(&ours);
        // As on a system that is upgraded by the branch alone, the module follows the release.
        let (choice, module) = match self.release {
            NixosRelease::V25_11 => (
                "    let\n      containerModule = \"container_${builtins.replaceStrings [ \".\" ] [ \"_\" ] nixpkgs.lib.trivial.release}\";\n    in\n",
                "${containerModule}",
            ),
            NixosRelease::Unstable => ("", "containerUnstable"),
        };
        format!(
            r#"{{
  inputs = {{
    mayfly.url = {ours};
    nixpkgs.url = "github:NixOS/nixpkgs/{branch}";
    impermanence.url = "github:nix-community/impermanence";
  }};

  outputs =
    {{ nixpkgs, mayfly, impermanence, ... }}:
{choice}    {{
      nixosConfigurations.vps = nixpkgs.lib.nixosSystem {{
        system = "x86_64-linux";
        modules = [
          mayfly.nixosModules.{module}
          impermanence.nixosModules.impermanence
          ./configuration.nix
        ];
      }};
    }};
}}
"#
        )
    }

    fn configuration(&self) -> String {
        let storage = quoted(self.persistent.as_str());
        let key = |kind: &str| quoted(&format!("{}/etc/ssh/ssh_host_{kind}_key", self.persistent));
        let (ed25519, rsa) = (key("ed25519"), key("rsa"));
        // Which release unstable is on the way to is not known here, and it is to be said once and for all.
        let version = match self.release {
            NixosRelease::V25_11 => "  system.stateVersion = \"25.11\";\n",
            NixosRelease::Unstable => {
                "  # The release that this system is installed as, for good: nixos-version tells it.\n  # system.stateVersion = \"…\";\n"
            }
        };
        format!(
            r#"{{ ... }}:
{{
  # What survives a restart. A dataset of the VPS is mounted there before the first process; fileSystems has no entry for it.
  environment.persistence.{storage} = {{
    hideMounts = true;
    directories = [
      "/etc/nixos"
      "/var/log"
      "/var/lib/nixos"
    ];
    files = [
      "/etc/machine-id"
    ];
  }};

  # The VPS is the same host after a restart: its keys are made there, and used there.
  services.openssh = {{
    enable = true;
    hostKeys = [
      {{
        path = {ed25519};
        type = "ed25519";
      }}
      {{
        path = {rsa};
        type = "rsa";
        bits = 4096;
      }}
    ];
  }};

  # Whoever may log in has to be named here: what is set inside goes with the root.
  # users.users.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 …" ];

  nix.settings.experimental-features = [ "nix-command" "flakes" ];

{version}}}
"#
        )
    }
}

/// A text of Nix.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace("${", "\\${"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaffold(release: NixosRelease, modules: Option<&str>) -> Scaffold {
        Scaffold {
            release,
            persistent: "/persistent".parse().unwrap(),
            modules: modules.map(str::to_owned),
        }
    }

    fn file(scaffold: &Scaffold, name: &str) -> String {
        let files = scaffold.files();
        files
            .into_iter()
            .find(|(known, _)| known == name)
            .unwrap()
            .1
    }

    #[test]
    fn our_modules_are_beside_it_or_come_from_elsewhere() {
        let here = scaffold(NixosRelease::V25_11, None);
        let names: Vec<String> = here.files().into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "flake.nix",
                "configuration.nix",
                "mayfly/flake.nix",
                "mayfly/container.nix",
                "mayfly/container_25_11.nix"
            ]
        );
        assert!(file(&here, "flake.nix").contains("mayfly.url = \"path:./mayfly\";"));
        let there = scaffold(NixosRelease::Unstable, Some("git+file:///srv/\"${x}"));
        assert_eq!(there.files().len(), 2);
        let flake = file(&there, "flake.nix");
        assert!(
            flake.contains(r#"mayfly.url = "git+file:///srv/\"\${x}";"#),
            "{flake}"
        );
        assert!(
            flake.contains("nixos-unstable\"")
                && flake.contains("mayfly.nixosModules.containerUnstable\n"),
            "{flake}"
        );
    }
}
