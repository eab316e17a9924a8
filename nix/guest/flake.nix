{
  description = "What a NixOS needs inside a Mayfly VPS";

  # Modules alone: they take nixpkgs from the system that they are put into.
  outputs =
    { ... }:
    {
      nixosModules = {
        container_25_11 = ./container_25_11.nix;
        containerUnstable = ./container.nix;
        default = ./container.nix;
      };
    };
}
