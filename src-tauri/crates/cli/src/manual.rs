//! `completions` and `man`: what shells and man(1) read, made from the commands themselves.

use std::{io, path::PathBuf};

use anyhow::Context as _;
use clap::CommandFactory;
use clap_complete::{
    CompletionCandidate,
    env::{CompleteEnv, EnvCompleter, Shells},
};
use minitunnel_engine::{
    minikube::{Environment, Home, read_profiles},
    settings,
};

use crate::{
    exit::{Exit, Failure},
    out::{raw, say},
};

/// The variable by which a shell's completions ask this program.
const VARIABLE: &str = "COMPLETE";

/// zsh loads its file at the first Tab, and runs it as the function `_minitunnel` to complete that one; run otherwise
/// (by `source`) it has nothing to complete.
const AUTOLOADED: &str = r#"
if [[ $funcstack[1] = _minitunnel ]]; then _clap_dynamic_completer_minitunnel "$@"; fi
"#;

/// Which shell's completions to print.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// bash, zsh, fish, elvish or powershell.
    shell: String,
}

/// Where the manual pages go.
#[derive(Debug, clap::Args)]
pub(crate) struct Manual {
    /// A folder that is there.
    folder: PathBuf,
}

/// Answers a shell that completes a command line, and ends the program then.
pub(crate) fn answer_shell() {
    CompleteEnv::with_factory(crate::Arguments::command)
        .var(VARIABLE)
        .complete();
}

/// Prints what makes a shell complete `minitunnel`.
pub(crate) fn completions(arguments: &Completions) -> anyhow::Result<Exit> {
    let shells = Shells::builtins();
    let Some(shell) = shells.completer(&arguments.shell) else {
        let known: Vec<_> = shells.names().collect();
        let message = format!(
            "there are no completions for {}: name one of {}",
            arguments.shell,
            known.join(", ")
        );
        let exit = Exit::Usage;
        return Err(Failure { exit, message }.into());
    };
    raw(&script(shell)?);
    Ok(Exit::Done)
}

fn script(shell: &dyn EnvCompleter) -> anyhow::Result<String> {
    let name = "minitunnel";
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, name, name, name, &mut script)?;
    if shell.name() == "zsh" {
        script.extend_from_slice(AUTOLOADED.as_bytes());
    }
    Ok(String::from_utf8(script)?)
}

/// Writes a manual page for each command.
pub(crate) fn manual(arguments: &Manual) -> anyhow::Result<Exit> {
    let folder = &arguments.folder;
    let written = write_pages(folder);
    written.with_context(|| format!("the manual can't be written to {}", folder.display()))?;
    say!("the manual is in {}", folder.display());
    Ok(Exit::Done)
}

fn write_pages(folder: &std::path::Path) -> io::Result<()> {
    // `--help` tells the same: pages for it are of no use.
    let command = crate::Arguments::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder)
}

/// The profiles that there are, for a shell to complete.
pub(crate) fn profiles() -> Vec<CompletionCandidate> {
    let lookup = |name: &str| std::env::var_os(name);
    let settings = settings::path(lookup).map(|path| settings::read(&path).settings);
    let environment = Environment::from_lookup(lookup).with(&settings.unwrap_or_default());
    let Ok(home) = Home::find(&environment) else {
        return Vec::new();
    };
    let names = read_profiles(&home).readable.into_keys();
    names
        .map(|name| CompletionCandidate::new(name.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_that_is_shown_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        write_pages(folder.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(page("minitunnel.1").contains("Exit codes"));
        assert!(page("minitunnel-up.1").contains("NAMESPACE/SERVICE"));
        assert!(!folder.path().join("minitunnel-session.1").exists());
    }

    #[test]
    fn zsh_completes_at_the_first_tab() {
        let shells = Shells::builtins();
        let script = script(shells.completer("zsh").unwrap()).unwrap();
        let (defined, called) = script.split_once("compdef _clap").unwrap();
        assert!(defined.contains("function _clap_dynamic_completer_minitunnel()"));
        assert!(called.contains("_clap_dynamic_completer_minitunnel \"$@\""));
        let bash = self::script(shells.completer("bash").unwrap()).unwrap();
        assert!(!bash.contains("funcstack"));
    }
}
