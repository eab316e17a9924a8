{
  description = "Mayfly: VPSes whose root filesystem lives for one boot";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs =
    { self, nixpkgs, ... }:
    let
      system = "x86_64-linux";
      guest = (import ./guest/flake.nix).outputs { };
      package = nixpkgs.legacyPackages.${system}.callPackage ./package.nix { };
    in
    {
      # For a NixOS inside a VPS: container_25_11, containerUnstable. For a node: mayfly.
      nixosModules = guest.nixosModules // {
        mayfly =
          { lib, ... }:
          {
            imports = [ ./host.nix ];
            services.mayfly.package = lib.mkDefault self.packages.${system}.mayfly;
          };
      };

      packages.${system} = {
        mayfly = package;
        default = package;
      };
    };
}
