//! The command line: words in, requests to the daemon, text or JSON out. One file per group of verbs.

mod change;
mod console;
mod dataset;
mod doctor;
mod events;
mod exec;
mod failure;
mod feature;
mod files;
mod history;
mod impermanence;
mod logs;
mod manual;
mod mount;
mod network;
mod node;
mod operation;
mod passwd;
mod persist;
mod reinstall;
mod rescue;
mod screen;
mod set;
mod ssh;
mod table;
mod template;
mod terminal;
mod vps;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use mayfly_api::{Client, FsckView, paths};

pub(crate) use self::failure::{Failure, exit_with_usage};
pub(crate) use self::manual::{completions, manual};
pub(crate) use self::screen::{Screen, escape};
use crate::DEFAULT_STATE_DIR;
use crate::fsck::FsckArgs;
use crate::init::InitArgs;
use crate::nixos::NixosVerb;
use crate::recover::RecoverArgs;
use crate::serve::ServeArgs;

/// VPSes whose root filesystem lives for one boot
#[derive(Debug, Parser)]
#[command(
    name = "mayfly",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_long_help = manual::AFTERWORD
)]
pub(crate) struct Cli {
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The node's socket; else MAYFLY_SOCKET, else /var/lib/mayfly/api.sock
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a node: its state directory and its pool
    Init(InitArgs),
    /// Run a node
    Serve(ServeArgs),
    /// The life of one run
    #[command(hide = true)]
    Supervise(SuperviseArgs),
    /// Take copies back from one root; the order comes on standard input
    #[command(hide = true)]
    Harvest,
    /// Change one mount of a run that goes on; the order comes on standard input
    #[command(hide = true)]
    Enter,
    /// What is wrong with the node: its pool, what is alive on its host, its state
    Fsck(FsckArgs),
    /// Rebuild a lost, damaged or outdated state from the pool; no daemon may run
    Recover(RecoverArgs),
    /// The node at a glance
    Status,
    /// Where the node keeps datasets
    #[command(subcommand)]
    Pool(node::PoolVerb),
    /// What VPSes are made from
    #[command(subcommand)]
    Template(template::TemplateVerb),
    /// Make a VPS
    Create(vps::CreateArgs),
    /// All VPSes
    List,
    /// All about one VPS
    Show(VpsArgs),
    /// Start a VPS: with impermanence on a new root
    Start(vps::StartArgs),
    /// Stop a VPS; its last root stays until the next start
    Stop(vps::StopArgs),
    /// Stop a VPS and start it
    Restart(vps::RestartArgs),
    /// Boot another system in a VPS, with its datasets in reach, until the next restart or stop
    Rescue(rescue::RescueArgs),
    /// Replace the system or the data of a VPS by a template's, or undo that
    Reinstall(reinstall::ReinstallArgs),
    /// Change what a VPS is and may take of the host, also while it runs
    Set(set::SetArgs),
    /// Destroy a VPS with all its data
    Destroy(vps::DestroyArgs),
    /// Run a program in a VPS; the exit status is the program's
    Exec(exec::ExecArgs),
    /// Put a file into a running VPS, whole or not at all, and tell whether it will stay
    Push(files::PushArgs),
    /// Take a file out of a running VPS
    Pull(files::PullArgs),
    /// Set a password in a running VPS, and tell whether it will stay
    Passwd(passwd::PasswdArgs),
    /// Log in to a VPS as root, by SSH
    Ssh(ssh::SshArgs),
    /// The console of a VPS: from before its init, through reboots
    Console(VpsArgs),
    /// What happened to a VPS's runs, and what its console printed
    Logs(logs::LogsArgs),
    /// What of a VPS is kept
    #[command(subcommand)]
    Dataset(dataset::DatasetVerb),
    /// Where in a VPS its datasets are
    #[command(subcommand)]
    Mount(mount::MountVerb),
    /// Ports of the host that lead to a VPS
    #[command(subcommand)]
    Port(network::PortVerb),
    /// The network of the node
    #[command(subcommand)]
    Network(network::NetworkVerb),
    /// Paths of a VPS that stay when it gets a new root
    #[command(subcommand)]
    Persist(persist::PersistVerb),
    /// Make a persistent VPS impermanent in one operation, or take that back
    #[command(subcommand)]
    Impermanence(impermanence::ImpermanenceVerb),
    /// What a VPS should be asked about before its next start loses something
    #[command(after_help = doctor::ABOUT)]
    Doctor(VpsArgs),
    /// What a NixOS in a VPS is made of; needs no daemon
    #[command(subcommand)]
    Nixos(NixosVerb),
    /// Switches of a VPS
    #[command(subcommand)]
    Feature(feature::FeatureVerb),
    /// Requested changes and how far they are
    #[command(subcommand)]
    Operation(operation::OperationVerb),
    /// What changes, as it happens
    Events(events::EventsArgs),
    /// Completions for a shell, on standard output
    Completions(manual::CompletionsArgs),
    /// Write the man pages into a directory
    #[command(hide = true)]
    Manual(manual::ManualArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SuperviseArgs {
    /// The directory of the run
    pub(crate) run_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VpsArgs {
    /// Id or host name
    #[arg(value_name = "VPS", value_parser = words::parse_vps)]
    pub(crate) vps: String,
}

/// What every verb has at hand.
struct Context {
    client: Client,
    screen: Screen,
}

/// Carries out a verb that needs the daemon.
pub(crate) fn run(verb: Verb, json: bool, socket: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let context = Context {
        client: Client::new(socket_path(socket)),
        screen: Screen { json },
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(dispatch(verb, &context));
    // A thread that waits for someone to type does not hold the end.
    runtime.shutdown_background();
    done
}

/// Has the daemon look its node over.
pub(crate) fn fsck(socket: Option<PathBuf>, repair: bool) -> Result<FsckView, Failure> {
    let client = Client::new(socket_path(socket));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(client.fsck(repair))?)
}

pub(crate) fn socket_path(given: Option<PathBuf>) -> PathBuf {
    let named = std::env::var_os("MAYFLY_SOCKET")
        .filter(|name| !name.is_empty())
        .map(PathBuf::from);
    given
        .or(named)
        .unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR).join(paths::SOCKET))
}

async fn dispatch(verb: Verb, context: &Context) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Init(_)
        | Verb::Serve(_)
        | Verb::Supervise(_)
        | Verb::Harvest
        | Verb::Enter
        | Verb::Fsck(_)
        | Verb::Recover(_)
        | Verb::Nixos(_)
        | Verb::Completions(_)
        | Verb::Manual(_) => Err(Failure::mistake("a verb without a daemon got here")),
        Verb::Status => node::status(context).await,
        Verb::Pool(verb) => node::pool(context, verb).await,
        Verb::Template(verb) => template::run(context, verb).await,
        Verb::Create(args) => vps::create(context, args).await,
        Verb::List => vps::list(context).await,
        Verb::Show(args) => vps::show(context, &args.vps).await,
        Verb::Start(args) => vps::start(context, args).await,
        Verb::Stop(args) => vps::stop(context, args).await,
        Verb::Restart(args) => vps::restart(context, args).await,
        Verb::Rescue(args) => rescue::rescue(context, args).await,
        Verb::Reinstall(args) => reinstall::reinstall(context, args).await,
        Verb::Set(args) => set::run(context, args).await,
        Verb::Destroy(args) => vps::destroy(context, args).await,
        Verb::Exec(args) => exec::run(context, args).await,
        Verb::Push(args) => files::push(context, args).await,
        Verb::Pull(args) => files::pull(context, args).await,
        Verb::Passwd(args) => passwd::run(context, args).await,
        Verb::Console(args) => console::console(context, &args.vps).await,
        Verb::Logs(args) => logs::run(context, args).await,
        Verb::Dataset(verb) => dataset::run(context, verb).await,
        Verb::Mount(verb) => mount::run(context, verb).await,
        Verb::Port(verb) => network::port(context, verb).await,
        Verb::Network(verb) => network::run(context, verb).await,
        Verb::Ssh(args) => ssh::run(context, args).await,
        Verb::Persist(verb) => persist::run(context, verb).await,
        Verb::Doctor(args) => doctor::run(context, &args.vps).await,
        Verb::Feature(verb) => feature::run(context, verb).await,
        Verb::Impermanence(verb) => impermanence::run(context, verb).await,
        Verb::Operation(verb) => operation::run(context, verb).await,
        Verb::Events(args) => events::run(context, args).await,
    }
}

#[cfg(test)]
mod tests;
