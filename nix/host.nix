# A node on NixOS: what the Debian package's unit does, and the node made at its first start.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.mayfly;

  network =
    if cfg.bridge == null then
      [ "--no-network" ]
    else
      [
        "--bridge"
        cfg.bridge
      ]
      ++ lib.optionals (cfg.subnet != null) [
        "--subnet"
        cfg.subnet
      ];
in
{
  options.services.mayfly = {
    enable = lib.mkEnableOption "Mayfly, which hosts VPSes whose root lives for one boot";

    package = lib.mkOption {
      type = lib.types.package;
      description = "The package with `mayfly`, `mayfly-guest` and `halt-with-host`.";
    };

    stateDir = lib.mkOption {
      type = lib.types.path;
      default = "/var/lib/mayfly";
      description = "The directory of everything that the node keeps, its socket included.";
    };

    pool = lib.mkOption {
      type = lib.types.strMatching "(loop:/[^,]*,size=[^,]*(,sparse)?|btrfs:/.*|zfs:[^/]+(/.*)?)";
      example = "zfs:tank/ct";
      description = ''
        Where datasets are kept: `loop:FILE,size=20G`, `btrfs:DIR` or `zfs:DATASET`. It counts when the node is made, at
        the first start; a node that is there keeps its pool.
      '';
    };

    bridge = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = "mayfly0";
      description = "The bridge of the node's network, made when the node is made; null for a node without a network.";
    };

    subnet = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      example = "10.77.0.0/16";
      description = "The subnet of the node's network; null for one that is free.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.variables.MAYFLY_SOCKET = "${cfg.stateDir}/api.sock";

    # LXC's own programs are looked for in the system's path, not in the unit's.
    virtualisation.lxc.enable = true;

    # NixOS' firewall drops what comes to the host from the bridge; what may come is in Mayfly's own rules.
    networking.firewall.trustedInterfaces = lib.optional (cfg.bridge != null) cfg.bridge;

    systemd.services.mayfly = {
      description = "Mayfly, VPSes whose root lives for one boot";
      wantedBy = [ "multi-user.target" ];
      after = [
        "local-fs.target"
        "network.target"
        "zfs-import.target"
        "zfs.target"
        "apparmor.service"
      ];
      path = [
        pkgs.lxc
        pkgs.btrfs-progs
        pkgs.util-linux
        pkgs.gnutar
        pkgs.gzip
        pkgs.xz
        pkgs.zstd
        pkgs.squashfsTools
        pkgs.iproute2
        pkgs.nftables
        pkgs.dnsmasq
      ]
      ++ lib.optional (lib.hasPrefix "zfs:" cfg.pool) config.boot.zfs.package;

      # A new generation of the system restarts the daemon; VPSes run on.
      serviceConfig = {
        Type = "notify";
        # It says so when the API answers; on a big node it looks at all VPSes first.
        TimeoutStartSec = "10min";
        ExecStartPre = pkgs.writeShellScript "mayfly-init" ''
          [ -e ${lib.escapeShellArg "${cfg.stateDir}/node.json"} ] ||
            exec ${cfg.package}/bin/mayfly init ${
              lib.escapeShellArgs (
                [
                  "--pool"
                  cfg.pool
                  "--state-dir"
                  cfg.stateDir
                ]
                ++ network
              )
            }
        '';
        ExecStart = lib.escapeShellArgs [
          "${cfg.package}/bin/mayfly"
          "serve"
          "--state-dir"
          cfg.stateDir
        ];
        Restart = "on-failure";
        RestartSec = 1;
        # The supervisors of VPSes move to cgroups of their own and outlive the daemon. One that has not moved yet must
        # outlive it as well.
        KillMode = "process";
        # Where the host goes down, and only there, VPSes are halted: after the daemon, which would start them again.
        ExecStopPost = "${cfg.package}/lib/mayfly/halt-with-host";
        TimeoutStopSec = "3min";
        LimitNOFILE = 1048576;
        TasksMax = "infinity";
        OOMPolicy = "continue";
      };
    };
  };
}
