//! What was measured, as a table and as JSON.

use std::fmt;
use std::fs;
use std::num::NonZero;
use std::time::Duration;

use minitunnel_e2e::Result;
use serde_json::{Value, json};

use crate::stats::median_and_worst;

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Figure {
    name: &'static str,
    unit: &'static str,
    limit: Limit,
    runs: Vec<Reading>,
}

/// The most that a figure may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    /// So much.
    Fixed(f64),
    /// So much more than the bare side.
    Beyond(f64),
    /// So many times the bare side.
    Times(f64),
    /// There is none: it is told to compare with.
    None,
}

/// What one run gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    pub(crate) ours: f64,
    /// What it is compared with.
    pub(crate) bare: f64,
    pub(crate) samples: usize,
}

impl Reading {
    /// One sample with nothing to compare it with.
    pub(crate) fn of(ours: f64) -> Self {
        Self {
            ours,
            bare: f64::NAN,
            samples: 1,
        }
    }
}

impl Figure {
    pub(crate) fn new(name: &'static str, unit: &'static str, limit: Limit) -> Self {
        Self {
            name,
            unit,
            limit,
            runs: Vec::new(),
        }
    }

    /// Takes in a run.
    pub(crate) fn add(&mut self, reading: Reading) {
        eprintln!("  {}: {}", self.name, self.show(reading));
        self.runs.push(reading);
    }

    fn show(&self, reading: Reading) -> String {
        let Reading { ours, bare, .. } = reading;
        // Three digits are what a run is good for.
        let digits = |value: f64| match value {
            value if value >= 100.0 => format!("{value:.0}"),
            value if value >= 10.0 => format!("{value:.1}"),
            // A number of things, but for what is measured.
            value if self.unit.is_empty() => format!("{value:.0}"),
            value if value < 0.1 => format!("{value:.4}"),
            value => format!("{value:.2}"),
        };
        let mut text = digits(ours);
        if !self.unit.is_empty() {
            text += &format!(" {}", self.unit);
        }
        if !bare.is_nan() {
            text += &match self.limit {
                Limit::Beyond(_) => format!(" = {} + {:.2}", digits(bare), ours - bare),
                _ => format!(" = {} x {:.2}", digits(bare), ours / bare),
            };
        }
        text
    }
}

impl Limit {
    /// What is compared with the limit: lower is better.
    fn score(self, reading: &Reading) -> f64 {
        match self {
            Self::Fixed(_) | Self::None => reading.ours,
            Self::Beyond(_) => reading.ours - reading.bare,
            Self::Times(_) => reading.ours / reading.bare,
        }
    }

    fn is_met(self, reading: &Reading) -> Option<bool> {
        match self {
            Self::Fixed(most) | Self::Beyond(most) | Self::Times(most) => {
                Some(self.score(reading) <= most)
            }
            Self::None => None,
        }
    }

    fn words(self, unit: &str) -> String {
        match self {
            Self::Fixed(most) => format!("{most} {unit}"),
            Self::Beyond(most) => format!("bare + {most} {unit}"),
            Self::Times(most) => format!("bare x {most}"),
            Self::None => "-".to_owned(),
        }
    }
}

/// All figures, and where they were measured.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Vec<(&'static str, String)>,
    figures: Vec<Figure>,
    took: Duration,
}

impl Report {
    /// Nothing measured yet.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            machine: machine()?,
            figures: Vec::new(),
            took: Duration::ZERO,
        })
    }

    pub(crate) fn add(&mut self, figures: Vec<Figure>, took: Duration) {
        self.figures.extend(figures);
        self.took += took;
    }

    pub(crate) fn json(&self) -> Value {
        let machine: serde_json::Map<_, _> = self
            .machine
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        // JSON has no word for what is not a number; `null` says that there is nothing to compare with.
        let reading = |reading: &Reading| json!({ "ours": reading.ours, "bare": reading.bare, "samples": reading.samples });
        let figures: Vec<Value> = self
            .figures
            .iter()
            .filter_map(|figure| {
                let (median, worst) =
                    median_and_worst(&figure.runs, |run| figure.limit.score(run))?;
                Some(json!({
                    "figure": figure.name,
                    "unit": figure.unit,
                    "limit": figure.limit.words(figure.unit),
                    "median": reading(&median),
                    "worst": reading(&worst),
                    "met": figure.limit.is_met(&median),
                    "met_by_worst": figure.limit.is_met(&worst),
                    "runs": figure.runs.iter().map(reading).collect::<Vec<_>>(),
                }))
            })
            .collect();
        json!({ "machine": machine, "seconds": self.took.as_secs(), "figures": figures })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.machine {
            writeln!(f, "{name}: {value}")?;
        }
        writeln!(
            f,
            "Ours = bare side x ratio, or + difference. Met is decided by the median run.\n"
        )?;
        let head = [
            "figure",
            "at most",
            "median run",
            "worst run",
            "runs of",
            "met",
        ];
        let mut lines = vec![head.map(str::to_owned)];
        for figure in &self.figures {
            let score = |run: &Reading| figure.limit.score(run);
            let Some((median, worst)) = median_and_worst(&figure.runs, score) else {
                continue;
            };
            let met = match (figure.limit.is_met(&median), figure.limit.is_met(&worst)) {
                (Some(true), Some(true)) => "yes",
                (Some(true), _) => "yes (worst: no)",
                (Some(false), _) => "NO",
                (None, _) => "-",
            };
            lines.push([
                figure.name.to_owned(),
                figure.limit.words(figure.unit),
                figure.show(median),
                figure.show(worst),
                format!("{} x {}", figure.runs.len(), median.samples),
                met.to_owned(),
            ]);
        }
        let width = |column: usize| {
            let cells = lines.iter().map(|line| line[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        for line in &lines {
            let cells = line.iter().zip(widths);
            let text: String = cells
                .map(|(cell, width)| format!("{cell:<width$}  "))
                .collect();
            writeln!(f, "{}", text.trim_end())?;
        }
        writeln!(f, "\n{} s in all", self.took.as_secs())
    }
}

/// What the numbers depend on.
fn machine() -> Result<Vec<(&'static str, String)>> {
    let first = |file: &str, field: &str| -> Result<String> {
        let text = fs::read_to_string(file)?;
        let line = text.lines().find(|line| line.starts_with(field));
        let value = line.and_then(|line| line.split_once(':'));
        Ok(value
            .map_or("unknown", |(_, value)| value.trim())
            .to_owned())
    };
    let kernel = rustix::system::uname();
    let cores = std::thread::available_parallelism().map_or(0, NonZero::get);
    let profile = if cfg!(debug_assertions) {
        "debug: the limits are for release builds"
    } else {
        "release"
    };
    Ok(vec![
        ("processor", first("/proc/cpuinfo", "model name")?),
        ("cores", cores.to_string()),
        ("memory", first("/proc/meminfo", "MemTotal")?),
        ("kernel", kernel.release().to_string_lossy().into_owned()),
        ("build", profile.to_owned()),
        // How busy the machine was with something else.
        (
            "load before",
            fs::read_to_string("/proc/loadavg")?.trim().to_owned(),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(limit: Limit, runs: &[(f64, f64)]) -> Figure {
        let runs = runs.iter().map(|&(ours, bare)| Reading {
            ours,
            bare,
            samples: 1000,
        });
        Figure {
            name: "service created",
            unit: "ms",
            limit,
            runs: runs.collect(),
        }
    }

    fn report(figure: Figure) -> Report {
        Report {
            machine: vec![("cores", "2".to_owned())],
            figures: vec![figure],
            took: Duration::from_secs(7),
        }
    }

    #[test]
    fn ratio_is_judged_by_its_median_run_and_shows_the_worst() {
        let runs = [(12.0, 10.0), (15.0, 10.0), (11.0, 10.0)];
        let report = report(figure(Limit::Times(1.3), &runs));
        let line = "service created  bare x 1.3  12.0 ms = 10.0 x 1.20  15.0 ms = 10.0 x 1.50  3 x 1000  yes (worst: no)";
        assert!(report.to_string().contains(line), "{report}");
        let json = report.json();
        assert_eq!(json["figures"][0]["met"], true);
        assert_eq!(json["figures"][0]["met_by_worst"], false);
        assert_eq!(json["figures"][0]["median"]["ours"], 12.0);
    }

    #[test]
    fn missed_difference_says_no() {
        let report = report(figure(Limit::Beyond(1.5), &[(7.6, 6.0)]));
        let line = "service created  bare + 1.5 ms  7.60 ms = 6.00 + 1.60  7.60 ms = 6.00 + 1.60  1 x 1000  NO";
        assert!(report.to_string().contains(line), "{report}");
    }

    #[test]
    fn fixed_limit_has_nothing_to_compare_with() {
        let report = report(figure(Limit::Fixed(10.0), &[(10.0, f64::NAN)]));
        assert_eq!(report.json()["figures"][0]["median"]["bare"], Value::Null);
        assert_eq!(report.json()["figures"][0]["met"], true);
    }
}
