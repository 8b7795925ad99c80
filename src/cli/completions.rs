//! `aether completions`: what a shell needs to complete verbs and flags.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::generate;
use clap_complete::shells::{Bash, Fish, Zsh};

/// Print completions for a shell
#[derive(Args)]
#[command(after_help = r#"Install:
  aether completions bash > ~/.local/share/bash-completion/completions/aether
  aether completions zsh > "${fpath[1]}/_aether"
  aether completions fish > ~/.config/fish/completions/aether.fish"#)]
pub struct Completions {
    shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    pub fn run(self) -> anyhow::Result<()> {
        let mut command = super::Cli::command();
        // To memory first: a reader that goes away is no reason to panic.
        let mut script = Vec::new();
        match self.shell {
            Shell::Bash => generate(Bash, &mut command, "aether", &mut script),
            Shell::Zsh => generate(Zsh, &mut command, "aether", &mut script),
            Shell::Fish => generate(Fish, &mut command, "aether", &mut script),
        }
        super::print(&script)
    }
}
