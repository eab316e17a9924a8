//! The supervisor alone, for tests: `supervise supervise RUN_DIR`, and `supervise harvest`.

fn main() {
    let mut args = std::env::args_os().skip(1);
    match (args.next().as_deref().and_then(|a| a.to_str()), args.next()) {
        (Some("supervise"), Some(dir)) => mayfly_host::run::supervise::supervise(dir.as_ref()),
        (Some("harvest"), None) => mayfly_host::run::harvest::harvest(),
        _ => std::process::exit(2),
    }
}
