//! Figures with their targets and limits, as a table and as JSON.
//!
//! In: figures as they are seen. Out: at the end of a run, the table on standard output and a
//! file. Invariant: a target that is missed says so, in both.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::options::{Options, is_release};
use crate::{Outcome, machine};

/// What a figure should be.
#[derive(Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// One measured value.
pub struct Figure {
    name: String,
    unit: &'static str,
    measured: f64,
    target: Option<Target>,
    limit: Option<f64>,
}

impl Figure {
    /// A value that was seen, in this unit.
    pub fn new(name: impl Into<String>, unit: &'static str, measured: f64) -> Figure {
        Figure { name: name.into(), unit, measured, target: None, limit: None }
    }

    /// It should be at least this.
    pub fn at_least(mut self, value: f64) -> Figure {
        self.target = Some(Target::AtLeast(value));
        self
    }

    /// It should be at most this.
    pub fn at_most(mut self, value: f64) -> Figure {
        self.target = Some(Target::AtMost(value));
        self
    }

    /// What this machine allows at best, measured in the same run.
    pub fn limit(mut self, value: f64) -> Figure {
        self.limit = Some(value);
        self
    }

    fn is_met(&self) -> Option<bool> {
        self.target.map(|target| match target {
            Target::AtLeast(value) => self.measured >= value,
            Target::AtMost(value) => self.measured <= value,
        })
    }

    fn cells(&self) -> [String; 5] {
        let target = match self.target {
            Some(Target::AtLeast(value)) => format!(">= {}", show(value)),
            Some(Target::AtMost(value)) => format!("<= {}", show(value)),
            None => String::new(),
        };
        let verdict = match self.is_met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        [
            format!("{}, {}", self.name, self.unit),
            show(self.measured),
            target,
            self.limit.map_or(String::new(), show),
            verdict.to_owned(),
        ]
    }

    fn json(&self) -> Value {
        let mut figure = json!({
            "name": self.name,
            "unit": self.unit,
            "measured": rounded(self.measured),
        });
        match self.target {
            Some(Target::AtLeast(value)) => figure["target_at_least"] = json!(value),
            Some(Target::AtMost(value)) => figure["target_at_most"] = json!(value),
            None => {}
        }
        if let Some(limit) = self.limit {
            figure["limit"] = rounded(limit);
        }
        if let Some(met) = self.is_met() {
            figure["met"] = json!(met);
        }
        figure
    }
}

/// One run of one measurement.
pub struct Report {
    name: &'static str,
    load_before: f64,
    durable_millis: [f64; 2],
    figures: Vec<Figure>,
    notes: Vec<String>,
    versions: Value,
}

impl Report {
    /// Notes the state of the machine before the run.
    pub fn begin(name: &'static str, options: &Options) -> Outcome<Report> {
        let load_before = machine::load();
        let durable = machine::durable_write(options.work_dir()?.path())?;
        eprintln!("hw-bench: {name}, scale {}", options.scale);
        Ok(Report {
            name,
            load_before,
            durable_millis: [durable.at(0.5), durable.at(0.99)],
            figures: Vec::new(),
            notes: Vec::new(),
            versions: json!({"revision": machine::revision()}),
        })
    }

    /// Adds a figure, and shows it at once on standard error.
    pub fn figure(&mut self, figure: Figure) {
        let [name, measured, _, _, verdict] = figure.cells();
        eprintln!("hw-bench:   {}", format!("{name}: {measured} {verdict}").trim_end());
        self.figures.push(figure);
    }

    /// Adds a sentence about how something was measured or what was seen beside it.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Names the version of a part.
    pub fn version(&mut self, part: &str, version: &str) {
        self.versions[part] = json!(version);
    }

    /// Milliseconds of a durable write of 4 KiB on this machine, in the middle.
    pub fn durable_write_millis(&self) -> f64 {
        self.durable_millis[0]
    }

    /// Prints the table and writes the file.
    pub fn finish(self, options: &Options) -> Outcome<()> {
        println!("{}", self.table(options));
        let path = options.results()?.join(format!("{}.json", self.name));
        let text = serde_json::to_string_pretty(&self.json(options))?;
        std::fs::write(&path, text + "\n")?;
        eprintln!("hw-bench: written to {}", path.display());
        Ok(())
    }

    fn table(&self, options: &Options) -> String {
        let heading = ["figure", "measured", "target", "limit", ""].map(str::to_owned);
        let rows: Vec<[String; 5]> =
            std::iter::once(heading).chain(self.figures.iter().map(Figure::cells)).collect();
        let mut widths = [0; 5];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = format!("\n{} (scale {})\n", self.name, options.scale);
        for row in &rows {
            let mut line = format!("  {:<w$}", row[0], w = widths[0]);
            for (cell, width) in row[1..4].iter().zip(&widths[1..4]) {
                let _ = write!(line, "  {cell:>width$}");
            }
            let _ = write!(line, "  {}", row[4]);
            let _ = writeln!(out, "{}", line.trim_end());
        }
        let [middle, slow] = self.durable_millis;
        let _ =
            writeln!(out, "  durable write of 4 KiB here: p50 {middle:.2} ms, p99 {slow:.2} ms");
        for note in &self.notes {
            let _ = writeln!(out, "  note: {note}");
        }
        out
    }

    fn json(&self, options: &Options) -> Value {
        json!({
            "measurement": self.name,
            "date": today(),
            "scale": options.scale,
            "build": if is_release() { "release" } else { "debug" },
            "machine": machine::describe(),
            "durable_write_ms": {
                "p50": rounded(self.durable_millis[0]),
                "p99": rounded(self.durable_millis[1]),
            },
            "load_average": {
                "before": rounded(self.load_before),
                "after": rounded(machine::load()),
            },
            "versions": self.versions,
            "figures": self.figures.iter().map(Figure::json).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

/// Three figures of precision below a thousand, whole numbers with separators above.
fn show(value: f64) -> String {
    match value.abs() {
        v if v.is_nan() => "-".to_owned(),
        v if v >= 1000.0 => {
            let digits = format!("{v:.0}");
            let mut out = String::from(if value < 0.0 { "-" } else { "" });
            for (place, digit) in digits.chars().enumerate() {
                if place > 0 && (digits.len() - place).is_multiple_of(3) {
                    out.push(',');
                }
                out.push(digit);
            }
            out
        }
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn rounded(value: f64) -> Value {
    match value.abs() {
        v if !v.is_finite() => Value::Null,
        v if v >= 1000.0 => json!(value.round()),
        _ => json!((value * 1000.0).round() / 1000.0),
    }
}

/// The date in UTC as year-month-day.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    civil(i64::try_from(seconds / 86_400).unwrap_or(0))
}

/// Days since 1970 as a date. Eras of 400 years have 146,097 days and begin on 1 March, so that
/// the leap day is the last one of its year.
fn civil(days: i64) -> String {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        for (days, date) in
            [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_453, "2025-12-31")]
        {
            assert_eq!(civil(days), date);
        }
    }

    #[test]
    fn a_missed_target_says_so() {
        let missed = Figure::new("rows", "rows/s", 1234.5).at_least(2000.0).limit(5000.0);
        assert_eq!(missed.cells(), ["rows, rows/s", "1,234", ">= 2,000", "5,000", "MISSED"]);
        assert_eq!(missed.json()["met"], json!(false));
        let met = Figure::new("cpu", "us", 3.25).at_most(15.0);
        assert_eq!(met.cells(), ["cpu, us", "3.25", "<= 15.0", "", "met"]);
        assert_eq!(Figure::new("x", "s", 1.0).json().get("met"), None);
    }

    #[test]
    fn numbers_are_read_in_groups_of_three() {
        let shown = [1_234_567.0, 1000.0, 999.4, 12.34, 0.5, f64::NAN].map(show);
        assert_eq!(shown, ["1,234,567", "1,000", "999", "12.3", "0.50", "-"]);
    }
}
