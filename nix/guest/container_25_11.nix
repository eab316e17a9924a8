# For NixOS 25.11. It is the common module, and says so where it finds itself in another release.
{ lib, ... }:
{
  imports = [ ./container.nix ];

  warnings = lib.optional (
    lib.trivial.release != "25.11"
  ) "This is the module for NixOS 25.11 in a Mayfly VPS, and the system is ${lib.trivial.release}.";
}
