# What a NixOS needs inside a Mayfly VPS: an unprivileged LXC container whose root may be new at each start, whose datasets
# are mounted before its first process, and whose card is set up by the host.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  accounts = "/var/lib/nixos";

  # Where the impermanence module keeps the numbers of users and groups; its items are texts or sets.
  storages = lib.filter (storage: storage.enable or true) (
    lib.attrValues (
      lib.mapAttrs (name: storage: { path = storage.persistentStoragePath or name; } // storage) (
        config.environment.persistence or { }
      )
    )
  );
  keepsAccounts =
    storage: lib.any (item: (item.directory or item) == accounts) (storage.directories or [ ]);
  kept = lib.filter keepsAccounts storages;
in
{
  config = {
    # No kernel, no initrd, no boot loader: the host starts the system profile.
    boot.isContainer = true;

    # Names come by utsname, which the host has set; an empty one leaves it alone.
    networking.hostName = lib.mkDefault "";

    # The host answers DHCP with the VPS's own address. /etc/resolv.conf is the guest's.
    networking.useDHCP = lib.mkDefault true;
    networking.useHostResolvConf = lib.mkForce false;

    # Nobody in the guest may mount it, and a unit that always fails would hide one that does not.
    systemd.mounts = [
      {
        where = "/sys/kernel/debug";
        enable = false;
      }
    ];

    # `mayfly console` is /dev/console.
    systemd.services.console-getty.enable = lib.mkDefault true;

    services.openssh.enable = lib.mkDefault true;
    # A socket that makes host keys at the first connection would keep the first one waiting.
    services.openssh.startWhenNeeded = lib.mkOverride 500 false;

    # Users and groups are made before systemd mounts what is declared, and there is no initrd to do it earlier: without their
    # numbers at hand they would be given new ones at each start.
    system.activationScripts = lib.mkIf (kept != [ ]) {
      mayflyAccounts = lib.stringAfter [ "specialfs" ] (
        lib.concatMapStrings (
          storage:
          let
            from = lib.escapeShellArg "${storage.path}${accounts}";
          in
          ''
            if ! ${pkgs.util-linux}/bin/mountpoint -q ${accounts}; then
              mkdir -p ${from} ${accounts}
              ${pkgs.util-linux}/bin/mount --bind ${from} ${accounts}
            fi
          ''
        ) kept
      );
      users.deps = [ "mayflyAccounts" ];
    };
  };
}
