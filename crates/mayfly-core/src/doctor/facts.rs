//! What is known of a NixOS configuration that was read and not evaluated.

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, below the directory of the configuration.
    pub file: String,
    /// The line, from 1 on.
    pub line: usize,
}

impl std::fmt::Display for Place {
    /// As editors take it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What stays in one storage, by `environment.persistence` or `preservation.preserveAt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The name that the entry has: the storage, unless it names another one.
    pub name: String,
    /// The other storage.
    pub storage: Option<String>,
    /// Where it was first met, as a line.
    pub line: usize,
    /// Directories and files.
    pub paths: Vec<String>,
    /// Whether something of a user's home stays as well.
    pub users: bool,
    /// Switched off.
    pub disabled: bool,
}

/// What an expression that was not evaluated could say something of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Of anything: it is a module, or a list of them.
    Everything,
    /// Of what stays.
    Persistence,
    /// Of the features of Nix.
    Flakes,
    /// Of SSH and its host keys.
    Ssh,
    /// Of what is mounted.
    FileSystems,
}

/// A place that says something only when it is evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsure {
    /// The line, from 1 on.
    pub line: usize,
    /// The option.
    pub option: String,
    /// What it could say something of.
    pub about: About,
}

/// What one file says in so many words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NixFacts {
    /// What stays.
    pub kept: Vec<Kept>,
    /// Whether flakes are among the features of Nix; none where nothing is said.
    pub flakes: Option<bool>,
    /// Where SSH host keys are; none where nothing is said.
    pub host_keys: Option<Vec<String>>,
    /// Whether there is an SSH server; none where nothing is said.
    pub sshd: Option<bool>,
    /// What is mounted by the configuration: path and line.
    pub file_systems: Vec<(String, usize)>,
    /// Files that it imports, as they are written, with the line: `./hardware.nix`.
    pub imports: Vec<(String, usize)>,
    /// Whether it imports a module that has the options of what stays.
    pub has_module: bool,
    /// What needs evaluation.
    pub unsure: Vec<Unsure>,
    /// So many more places need it.
    pub unsure_more: usize,
}

/// One file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Its name, below the directory of the configuration.
    pub name: String,
    /// What it says, or why it was not read.
    pub read: Result<NixFacts, String>,
}

/// A configuration as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NixosLook {
    /// The directory that it was found in, as the guest names it; none where there is none.
    pub directory: Option<String>,
    /// The files.
    pub files: Vec<ConfigFile>,
}

impl NixosLook {
    /// The facts, with the name of their file.
    pub(super) fn facts(&self) -> impl Iterator<Item = (&str, &NixFacts)> {
        self.files.iter().filter_map(|file| {
            let facts = file.read.as_ref().ok()?;
            Some((file.name.as_str(), facts))
        })
    }

    /// Whether something that was not evaluated or not read could say something of this.
    pub(super) fn is_unsure_of(&self, about: About) -> bool {
        self.files.iter().any(|file| match &file.read {
            Err(_) => true,
            Ok(facts) => {
                facts.unsure_more > 0
                    || facts
                        .unsure
                        .iter()
                        .any(|u| u.about == about || u.about == About::Everything)
            }
        })
    }
}
