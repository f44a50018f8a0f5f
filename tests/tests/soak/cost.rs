//! What processes cost, in the first half of their lives and in the second.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use minitunnel_e2e::Result;

/// Connections of the second half that are no growth: as many as changes of services may be on their way at a time stay for the
/// next ones.
const SLACK_FILES: u64 = 8;
/// Memory that is none either: that of these connections, pages that are touched late, and what an allocator keeps.
const SLACK_KB: u64 = 640;
/// A process of which there are fewer looks is not compared.
const LOOKS: usize = 6;

/// What a process has at a moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Memory that is no part of a file: the share of a program's file depends on who else runs it.
    own_kb: u64,
    kb: u64,
    files: u64,
}

/// All looks at each process, by the program's name and the process's folder in a `/proc`: a process that is killed takes what
/// it leaked along.
#[derive(Debug, Default)]
pub(crate) struct Costs(BTreeMap<(&'static str, PathBuf), Vec<Look>>);

impl Costs {
    /// Looks at a process.
    pub(crate) fn look(&mut self, name: &'static str, folder: &Path) -> Result {
        // It may have ended since it was found.
        let Ok(rollup) = fs::read_to_string(folder.join("smaps_rollup")) else {
            return Ok(());
        };
        let kb = |name: &str| -> Result<u64> {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let kb = line.and_then(|line| line.trim().strip_suffix(" kB"));
            Ok(kb.context("an odd smaps_rollup")?.trim().parse()?)
        };
        let Ok(files) = fs::read_dir(folder.join("fd")) else {
            return Ok(());
        };
        let look = Look {
            own_kb: kb("Pss_Anon:")?,
            kb: kb("Pss:")?,
            files: u64::try_from(files.count())?,
        };
        let process = (name, folder.to_owned());
        self.0.entry(process).or_default().push(look);
        Ok(())
    }

    /// That this one process was looked at as often, and that no process needed more in the second half of its life than in the
    /// first.
    pub(crate) fn are_flat(&self, lived: &Path, looks: usize) -> Result {
        let process = self.0.iter().find(|((_, folder), _)| folder == lived);
        let seen = process.map_or(0, |(_, looks)| looks.len());
        ensure!(
            seen >= looks.max(LOOKS),
            "{} was looked at {seen} times instead of {looks}",
            lived.display()
        );
        for ((name, _), looks) in &self.0 {
            let Some([first, second]) = halves(looks) else {
                continue;
            };
            let flat = second.own_kb <= first.own_kb + SLACK_KB
                && second.files <= first.files + SLACK_FILES;
            ensure!(flat, "the {name} grows: {self}");
        }
        Ok(())
    }
}

/// The medians of both halves, of enough looks: what a process needs for a moment is no growth.
fn halves(looks: &[Look]) -> Option<[Look; 2]> {
    let middle = looks.len() / 2;
    (looks.len() >= LOOKS).then(|| [median(&looks[..middle]), median(&looks[middle..])])
}

fn median(looks: &[Look]) -> Look {
    let of = |field: fn(&Look) -> u64| {
        let mut values: Vec<u64> = looks.iter().map(field).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    Look {
        own_kb: of(|look| look.own_kb),
        kb: of(|look| look.kb),
        files: of(|look| look.files),
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((name, _), looks) in &self.0 {
            let Some([first, second]) = halves(looks) else {
                continue;
            };
            writeln!(
                f,
                "{name:8} {:3} looks: PSS {:5} kB; of it not of files {:5} kB, then {:5} kB; open files {:2}, then {:2}",
                looks.len(),
                second.kb,
                first.own_kb,
                second.own_kb,
                first.files,
                second.files
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(looks: impl IntoIterator<Item = (u64, u64)>) -> Costs {
        let looks = looks.into_iter().map(|(own_kb, files)| Look {
            own_kb,
            kb: own_kb,
            files,
        });
        Costs([(("session", "/proc/1".into()), looks.collect())].into())
    }

    #[test]
    fn process_that_leaks_memory_or_files_is_found_and_a_moments_need_is_none() {
        let process = Path::new("/proc/1");
        let flat = |costs: Costs| costs.are_flat(process, 20).is_ok();
        assert!(flat(costs((0..20).map(|_| (5_000, 20)))));
        assert!(flat(costs((0..20).map(|n| (5_000 + n % 2 * 9_000, 20)))));
        // 80 kB, or a file, more at every look.
        assert!(!flat(costs((0..20).map(|n| (5_000 + 80 * n, 20)))));
        assert!(!flat(costs((0..20).map(|n| (5_000, 20 + n)))));
        // Nobody looked, or at another process.
        assert!(!flat(costs((0..19).map(|_| (5_000, 20)))));
        assert!(
            costs((0..20).map(|_| (1, 1)))
                .are_flat(Path::new("/proc/2"), 20)
                .is_err()
        );
    }
}
