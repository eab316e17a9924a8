use clap::CommandFactory as _;
use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("mayfly").chain(line.split_whitespace()))
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_is_as_reviewed() {
    let mut command = Cli::command().term_width(100);
    let help = command.render_help().to_string();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/help.txt");
    if std::env::var_os("MAYFLY_BLESS").is_some() {
        std::fs::write(golden, &help).unwrap();
    }
    assert_eq!(
        help,
        std::fs::read_to_string(golden).unwrap(),
        "MAYFLY_BLESS=1 takes it as it is"
    );
}

#[test]
fn the_fixed_words_are_understood() {
    for line in [
        "init --pool loop:/srv/pool.img,size=20G --state-dir /srv/node",
        "serve --state-dir /srv/node",
        "supervise /srv/node/runs/100.c5a8b7",
        "harvest",
        "enter",
        "status",
        "pool show --json",
        "template build debian-12 --name d12 --mirror http://mirror.example/debian",
        "template list",
        "template show d12",
        "template remove d12 --dry-run",
        "create web1 --template debian-12 --id 11327 --disk 120G --memory 2G --cpus 2 --impermanence --start",
        "create --template debian-12",
        "list --json",
        "--json list",
        "--socket /srv/node/api.sock show web1",
        "start 11327 --no-wait",
        "stop 11327 --force --timeout 60s --discard",
        "restart 11327 --force",
        "set 11327 memory=4G swap=1G cpus=2 processes=500 --dry-run",
        "set web1 cpus=none --no-wait",
        "set 11327 memory=4G cpus=4 disk=200G autostart=on,priority=10 on-crash=restart base=x track=pinned",
        "destroy 11327 --now --yes",
        "init --pool btrfs:/srv/ct --bridge br7 --subnet 10.9.0.0/24",
        "init --pool btrfs:/srv/ct --no-network",
        "port add web1 8080:80",
        "port add 11327 5353:53/udp --dry-run",
        "port list web1 --json",
        "doctor web1 --json",
        "nixos scaffold --release 25.11 DIR",
        "nixos scaffold --release unstable --persistent /keep --mayfly path:/srv/mayfly/nix DIR --json",
        "port remove web1 8080",
        "port remove web1 5353/udp --no-wait",
        "network remove",
        "ssh web1",
        "ssh web1 -- uptime --pretty",
        "exec 11327 -- cat /etc/hostname --json",
        "console 11327",
        "logs 11327 -f",
        "persist add 11327 /etc/app.conf /srv/data/ --tier cache --no-wait",
        "persist add web1 /etc/app.conf --method copy --file --dry-run",
        "persist add web1 /srv/data --directory",
        "persist list 11327 --json",
        "persist remove 11327 /etc/app.conf /srv/data --if-busy refuse",
        "dataset create 11327/nix --quota 20G --mount /nix",
        "dataset list 11327",
        "dataset set 11327/nix quota=30G",
        "dataset set 11327 quota=30G",
        "dataset destroy 11327/nix --force --yes",
        "mount add 11327/nix /nix --read-only",
        "mount add 11327 /persistent",
        "mount list 11327",
        "mount remove 11327 /nix",
        "feature set 11327 impermanence=on --root-quota 10G --root-kind template",
        "feature set 11327 impermanence=off",
        "feature set 11327 nesting=on tun=on fuse=off kvm=on ppp=off memory=4G",
        "feature list 11327",
        "operation list",
        "operation show 019a",
        "operation watch 019a",
        "events --since 7",
        "completions zsh",
    ] {
        if let Err(e) = parse(line) {
            panic!("{line}: {e}");
        }
    }
}

#[test]
fn what_follows_the_dashes_belongs_to_the_program() {
    let Cli {
        json,
        verb: Verb::Exec(_),
        ..
    } = parse("exec web1 -- cat --json -y").unwrap()
    else {
        panic!()
    };
    assert!(!json);
}

#[test]
fn nonsense_is_a_usage_error() {
    for line in [
        "",
        "create",
        "create Web_1 --template d12",
        "create web1 --template d12 --memory 2X",
        "create web1 --template d12 --id 7",
        "stop web1 --timeout 60",
        "set web1",
        "set web1 memory=none",
        "set web1 ram=4G",
        "exec web1",
        "exec web1 ls",
        "dataset create web1 --quota 1G",
        "dataset create web1/private --quota 1G",
        "dataset set web1/nix size=1G",
        "mount add web1/nix nix",
        "feature set web1",
        "feature set web1 ipv6=on",
        "start web1 --dry-run --no-wait",
        "init",
        "init --pool zfs:/tank/ct",
        "lost web1",
        "rescue web1",
        "reinstall web1",
        "reinstall web1 --undo --template d12",
        "reinstall web1 --undo --forget",
        "reinstall web1 --template d12 --force",
        "reinstall web1 --template d12 --scope home",
        "pool",
        "completions powershell",
    ] {
        let error = parse(line)
            .err()
            .unwrap_or_else(|| panic!("`{line}` was taken"));
        let help = matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        );
        assert!(!help && error.exit_code() == 2, "{line}: {error}");
    }
}

#[test]
fn the_socket_is_named_or_the_default() {
    assert_eq!(
        socket_path(Some("/srv/x.sock".into())),
        PathBuf::from("/srv/x.sock")
    );
}
