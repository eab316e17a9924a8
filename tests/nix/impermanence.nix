# Stands for the flake of the impermanence module: the option, with what the module makes of what is written.
{
  nixosModules.impermanence =
    { lib, ... }:
    let
      directory = item: if builtins.isString item then { directory = item; } else item;
      file = item: if builtins.isString item then { file = item; } else item;
      storage =
        name: written:
        {
          enable = true;
          hideMounts = false;
          persistentStoragePath = name;
        }
        // written
        // {
          directories = map directory (written.directories or [ ]);
          files = map file (written.files or [ ]);
        };
    in
    {
      options.environment.persistence = lib.mkOption {
        type = lib.types.anything;
        default = { };
        apply = lib.mapAttrs storage;
      };
    };
}
