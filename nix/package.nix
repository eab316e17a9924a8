# Mayfly from the source around this directory. The helper is linked statically: it runs inside guests of any distribution.
{
  lib,
  rustPlatform,
  glibc,
}:
rustPlatform.buildRustPackage {
  pname = "mayfly";
  version = (lib.importTOML ../Cargo.toml).workspace.package.version;

  src = lib.cleanSource ./..;
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [
    "-p"
    "mayfly"
  ];
  # The tests make namespaces, mounts and containers, as root.
  doCheck = false;

  buildInputs = [ glibc.static ];
  postBuild = ''
    target=x86_64-unknown-linux-gnu
    RUSTFLAGS="-C target-feature=+crt-static" \
      cargo build --offline --profile guest --locked -p mayfly-guest --target "$target"
  '';
  # The helper is looked for beside the program.
  postInstall = ''
    install -m 755 "target/$target/guest/mayfly-guest" "$out/bin/mayfly-guest"
    install -D -m 755 packaging/halt-with-host "$out/lib/mayfly/halt-with-host"
  '';

  meta = {
    description = "Hosts VPSes whose root filesystem lives for one boot";
    license = lib.licenses.asl20;
    platforms = [ "x86_64-linux" ];
    mainProgram = "mayfly";
  };
}
