//! What processes cost, in the first half of the time and in the second.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use minitunnel_e2e::Result;

/// Memory of the second half that is no growth: pages that are touched late, and what an allocator keeps.
const SLACK_KB: u64 = 1_500;
/// As many connections as changes of services may be on their way at a time, and some that are about to end.
const SLACK_FILES: usize = 8 + 4;

/// The peaks of one process in one half.
#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    /// Memory that is no part of a file: the share of a program's file depends on who else runs it.
    own_kb: u64,
    kb: u64,
    files: usize,
}

/// The peaks by the program's name: of the first half and of the second.
#[derive(Debug, Default)]
pub(crate) struct Costs(BTreeMap<&'static str, [Peak; 2]>);

impl Costs {
    /// Looks at a process, by its folder in a `/proc`.
    pub(crate) fn sample(
        &mut self,
        second_half: bool,
        name: &'static str,
        folder: &Path,
    ) -> Result {
        // It may have ended since it was found.
        let Ok(rollup) = fs::read_to_string(folder.join("smaps_rollup")) else {
            return Ok(());
        };
        let kb = |name: &str| -> Result<u64> {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let kb = line.and_then(|line| line.trim().strip_suffix(" kB"));
            Ok(kb.context("an odd smaps_rollup")?.trim().parse()?)
        };
        let files = fs::read_dir(folder.join("fd"))?.count();
        let peak = &mut self.0.entry(name).or_default()[usize::from(second_half)];
        peak.own_kb = peak.own_kb.max(kb("Pss_Anon:")?);
        peak.kb = peak.kb.max(kb("Pss:")?);
        peak.files = peak.files.max(files);
        Ok(())
    }

    /// That the second half needed no more than the first.
    pub(crate) fn are_flat(&self) -> Result {
        for (name, [first, second]) in &self.0 {
            let flat = second.own_kb <= first.own_kb + first.own_kb / 10 + SLACK_KB
                && second.files <= first.files + SLACK_FILES;
            // A helper that was not there in the first half can't be compared.
            ensure!(flat || first.files == 0, "the {name} grows: {self}");
        }
        Ok(())
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, [first, second]) in &self.0 {
            writeln!(
                f,
                "{name:8} PSS at most {:5} kB; of it not of files {:5} kB, then {:5} kB; open files {:2}, then {:2}",
                first.kb.max(second.kb),
                first.own_kb,
                second.own_kb,
                first.files,
                second.files
            )?;
        }
        Ok(())
    }
}
