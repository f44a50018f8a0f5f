use std::path::{Path, PathBuf};

/// A program of the helper's is not where it should be.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} is neither at {} nor at {}: run installers/linux/install",
    .beside.display(),
    .installed.display()
)]
pub struct NoHelper {
    name: &'static str,
    beside: PathBuf,
    installed: PathBuf,
}

/// The helper's program, for one of minitunnel's others: beside it, where a build puts both, or in `../libexec`, where
/// `installers/linux/install` does.
///
/// # Errors
///
/// If it is at neither place.
pub fn find_helper(program: &Path) -> Result<PathBuf, NoHelper> {
    find(program, "minitunnel-helper")
}

/// The program that runs a command with a helper of its own, at the same places.
///
/// # Errors
///
/// If it is at neither place.
pub fn find_keeper(program: &Path) -> Result<PathBuf, NoHelper> {
    find(program, "minitunnel-keep")
}

fn find(program: &Path, name: &'static str) -> Result<PathBuf, NoHelper> {
    let beside = program.with_file_name(name);
    let prefix = program.parent().and_then(Path::parent);
    let installed = prefix.unwrap_or(Path::new("/")).join("libexec").join(name);
    if beside.is_file() {
        Ok(beside)
    } else if installed.is_file() {
        Ok(installed)
    } else {
        Err(NoHelper {
            name,
            beside,
            installed,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_is_beside_the_program_or_in_libexec_or_both_places_are_named() {
        for (find, name) in [
            (
                find_helper as fn(&Path) -> Result<PathBuf, NoHelper>,
                "minitunnel-helper",
            ),
            (find_keeper, "minitunnel-keep"),
        ] {
            let prefix = tempfile::tempdir().unwrap();
            let program = prefix.path().join("bin/minitunnel");
            let beside = prefix.path().join("bin").join(name);
            let installed = prefix.path().join("libexec").join(name);
            let said = find(&program).unwrap_err().to_string();
            for place in [&beside, &installed] {
                assert!(said.contains(place.to_str().unwrap()), "{said}");
            }
            for place in [installed, beside] {
                fs::create_dir(place.parent().unwrap()).unwrap();
                fs::write(&place, "").unwrap();
                assert_eq!(find(&program).unwrap(), place);
            }
        }
    }
}
