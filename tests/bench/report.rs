//! The figures: medians with their spread, what they are held against, and how that is printed.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

/// Repetitions of one measurement.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Samples {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Samples(values)
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(values: I) -> Samples {
        values
            .into_iter()
            .map(|value| value.as_secs_f64() * 1000.0)
            .collect()
    }
}

impl Samples {
    /// The value that so many thousandths of them do not exceed.
    pub fn quantile(&self, thousandths: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let at = (self.0.len() * thousandths)
            .div_ceil(1000)
            .saturating_sub(1)
            .min(last);
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }

    pub fn median(&self) -> f64 {
        self.quantile(500)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    unit: &'static str,
    samples: Samples,
    /// What it is held against, and that one's figure.
    against: Option<(&'static str, Samples)>,
    ratio: Option<f64>,
    target: Option<Target>,
}

/// What the figure, or its ratio where there is one, has to be.
#[derive(Clone, Copy)]
pub enum Target {
    AtMost(f64),
    Between(f64, f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Target::AtMost(most) => value <= most,
            Target::Between(least, most) => (least..=most).contains(&value),
        }
    }

    fn text(self) -> String {
        match self {
            Target::AtMost(most) => format!("<= {most}"),
            Target::Between(least, most) => format!("{least} to {most}"),
        }
    }
}

impl Report {
    pub fn figure(&mut self, name: impl Into<String>, unit: &'static str, samples: Samples) {
        self.add(name.into(), unit, samples, None, None);
    }

    pub fn bounded(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        samples: Samples,
        target: Target,
    ) {
        self.add(name.into(), unit, samples, None, Some(target));
    }

    /// Two that were measured in turn.
    pub fn pair(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        samples: Samples,
        against: (&'static str, Samples),
        target: Option<Target>,
    ) {
        self.add(name.into(), unit, samples, Some(against), target);
    }

    fn add(
        &mut self,
        name: String,
        unit: &'static str,
        samples: Samples,
        against: Option<(&'static str, Samples)>,
        target: Option<Target>,
    ) {
        let ratio = against
            .as_ref()
            .map(|(_, other)| samples.median() / other.median());
        let row = Row {
            name,
            unit,
            samples,
            against,
            ratio,
            target,
        };
        println!("{}", row.text());
        self.rows.push(row);
    }

    pub fn table(&self) -> String {
        let mut table = String::from(
            "| what | median (10 % to 90 %) | against | ratio | target |\n|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let [figure, against, ratio, target] = row.cells();
            let _ = writeln!(
                table,
                "| {} | {figure} | {against} | {ratio} | {target} |",
                row.name
            );
        }
        table
    }

    pub fn json(&self) -> Value {
        self.rows.iter().map(Row::json).collect()
    }
}

impl Row {
    fn text(&self) -> String {
        let [figure, against, ratio, target] = self.cells();
        format!(
            "{:<58} {figure:<30} {against:<34} {ratio:<7} {target}",
            self.name
        )
    }

    fn cells(&self) -> [String; 4] {
        let against = self
            .against
            .as_ref()
            .map(|(name, samples)| format!("{name} {} {}", number(samples.median()), self.unit));
        let value = self.ratio.unwrap_or(self.samples.median());
        let target = self.target.map(|target| {
            let met = if target.is_met(value) {
                "met"
            } else {
                "NOT MET"
            };
            format!("{} {met}", target.text())
        });
        let spread = if self.samples.count() > 1 {
            let (low, high) = (self.samples.quantile(100), self.samples.quantile(900));
            format!(" ({} to {})", number(low), number(high))
        } else {
            String::new()
        };
        [
            format!("{} {}{spread}", number(self.samples.median()), self.unit),
            against.unwrap_or_default(),
            self.ratio
                .map(|ratio| format!("{ratio:.3}"))
                .unwrap_or_default(),
            target.unwrap_or_default(),
        ]
    }

    fn json(&self) -> Value {
        let against = self.against.as_ref().map(|(name, samples)| {
            json!({"what": name, "median": samples.median(), "samples": samples.0})
        });
        let value = self.ratio.unwrap_or(self.samples.median());
        json!({
            "what": self.name,
            "unit": self.unit,
            "median": self.samples.median(),
            "samples": self.samples.0,
            "against": against,
            "ratio": self.ratio,
            "target": self.target.map(Target::text),
            "met": self.target.map(|target| target.is_met(value)),
        })
    }
}

/// Three digits that matter, and no more zeros than that.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
