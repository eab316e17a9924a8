# Stands for nixpkgs, with as much of its library and of its module system as Mayfly's modules use. It is not nixpkgs: options
# that nobody declared are taken as they come, and types are looked at where they are simple.
release:
let
  inherit (builtins)
    attrNames
    concatLists
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    head
    isAttrs
    isFunction
    isList
    isPath
    isString
    length
    listToAttrs
    map
    mapAttrs
    match
    ;

  lib = rec {
    trivial = {
      inherit release;
    };
    inherit
      concatMap
      elem
      filter
      mapAttrs
      ;
    inherit (builtins) attrValues any;

    mkOverride = priority: content: {
      _type = "override";
      inherit priority content;
    };
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    mkIf = condition: content: {
      _type = "if";
      inherit condition content;
    };
    mkOption = option: option // { _type = "option"; };
    mkEnableOption =
      _:
      mkOption {
        type = types.bool;
        default = false;
      };
    types = {
      bool = builtins.isBool;
      str = isString;
      path = value: isPath value || isString value;
      package = isAttrs;
      nullOr = type: value: value == null || type value;
      strMatching = regex: value: isString value && match regex value != null;
      anything = _: true;
    };

    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
    concatMapStrings = f: list: concatStringsSep "" (map f list);
    stringAfter = deps: text: { inherit deps text; };
    escapeShellArg =
      text:
      if match "[[:alnum:],._+:@%/-]+" text != null then
        text
      else
        "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] text}'";
    escapeShellArgs = texts: concatStringsSep " " (map escapeShellArg texts);
    cleanSource = path: path;
    importTOML = path: builtins.fromTOML (builtins.readFile path);
    licenses.asl20.spdxId = "Apache-2.0";

    nixosSystem =
      { modules, system }:
      let
        given = {
          inherit config lib pkgs;
        };
        # Modules are flattened as they come; each is a set of imports, options and definitions.
        flat =
          module:
          let
            loaded = if isPath module then import module else module;
            set = if isFunction loaded then loaded given else loaded;
            own = removeAttrs set [
              "imports"
              "options"
              "config"
            ];
          in
          concatMap flat (set.imports or [ ])
          ++ [
            {
              options = set.options or { };
              config = set.config or own;
            }
          ];
        all = concatMap flat modules;
        defaults = map (module: defaultsOf module.options) all;
        options = foldl' deep { } (map (module: module.options) all);
        config = mergeSets options (defaults ++ map (module: module.config) all);
        pkgs = packages system;
      in
      {
        inherit config options;
      };
  };

  isTyped = value: isAttrs value && value ? _type;
  isSet = value: isAttrs value && !(isTyped value) && (value.type or null) != "derivation";

  deep =
    left: right:
    left
    // mapAttrs (
      name: value: if left ? ${name} && !(isTyped value) then deep left.${name} value else value
    ) right;

  # The defaults of options, as definitions of the lowest priority.
  defaultsOf =
    options:
    mapAttrs (
      _: option:
      if option._type or "" == "option" then
        if option ? default then
          lib.mkOverride 1500 option.default
        else
          {
            _type = "none";
          }
      else
        defaultsOf option
    ) options;

  # A condition around a set is one around each of its entries: so the names of a set never depend on it.
  push =
    value:
    if (value._type or "") == "if" && isSet (push value.content) then
      mapAttrs (_: lib.mkIf value.condition) (push value.content)
    else if (value._type or "") == "override" && isSet value.content then
      mapAttrs (_: lib.mkOverride value.priority) value.content
    else
      value;

  mergeSets =
    options: sets:
    let
      pushed = map push sets;
      names = attrNames (listToAttrs (
        map (name: {
          inherit name;
          value = null;
        }) (concatMap attrNames pushed)
      ));
    in
    listToAttrs (
      map (name: {
        inherit name;
        value = merge name (options.${name} or { }) (
          map (set: set.${name}) (filter (set: set ? ${name}) pushed)
        );
      }) names
    );

  # Definitions that count, with their priorities.
  active =
    definition:
    if (definition._type or "") == "if" then
      if definition.condition then active definition.content else [ ]
    else if (definition._type or "") == "none" then
      [ ]
    else if (definition._type or "") == "override" then
      map (found: found // { inherit (definition) priority; }) (active definition.content)
    else
      [
        {
          priority = 100;
          value = definition;
        }
      ];

  merge =
    name: option: definitions:
    let
      isOption = (option._type or "") == "option";
      sets = map push definitions;
      found = concatMap active definitions;
      first = foldl' (least: one: if one.priority < least then one.priority else least) 9999 (
        map (one: { inherit (one) priority; }) found
      );
      lowest = foldl' (least: one: if one.priority < least then one.priority else least) 9999 found;
      winners = map (one: one.value) (filter (one: one.priority == lowest) found);
      value =
        if found == [ ] then
          throw "nobody defines ${name}"
        else if isSet (head winners) then
          mergeSets { } winners
        else if isList (head winners) then
          concatLists winners
        else if length winners > 1 && !(builtins.all (other: other == head winners) winners) then
          throw "${name} is defined twice, and not the same"
        else
          head winners;
      checked =
        if option ? type && !(option.type value) then throw "${name} is no such thing" else value;
    in
    if isOption then
      (option.apply or (x: x)) checked
    else if builtins.any isSet sets then
      mergeSets option (filter isSet sets)
    else
      value;

  # A package is where it would be, and never built.
  package = name: {
    type = "derivation";
    inherit name;
    outPath = "/nix/store/${name}";
  };
  packages = system: {
    lxc = package "lxc";
    btrfs-progs = package "btrfs-progs";
    util-linux = package "util-linux";
    gnutar = package "gnutar";
    gzip = package "gzip";
    xz = package "xz";
    zstd = package "zstd";
    squashfsTools = package "squashfs";
    iproute2 = package "iproute2";
    nftables = package "nftables";
    dnsmasq = package "dnsmasq";
    writeShellScript = _: text: text;
    # The very arguments, to be looked at.
    callPackage =
      file: given:
      import file (
        {
          inherit lib;
          glibc.static = package "glibc-static";
          rustPlatform.buildRustPackage = arguments: package "mayfly" // { inherit arguments; };
        }
        // given
      );
  };
in
{
  inherit lib;
  legacyPackages.x86_64-linux = packages "x86_64-linux";
}
