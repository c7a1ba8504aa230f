//! Measured values beside their budgets.

use std::fmt;

/// The rows so far.
#[derive(Default)]
pub(crate) struct Table(Vec<(String, f64, &'static str, Option<f64>)>);

impl Table {
    /// Adds a row, and tells it at once: the whole takes minutes.
    pub(crate) fn row(&mut self, what: &str, value: f64, unit: &'static str, budget: Option<f64>) {
        eprintln!("{what}: {value:.2} {unit}");
        self.0.push((what.to_owned(), value, unit, budget));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | measured | budget | |\n| --- | ---: | ---: | --- |")?;
        for (what, value, unit, budget) in &self.0 {
            let (budget, verdict) = match budget {
                Some(budget) if value <= budget => (format!("{budget} {unit}"), "within"),
                Some(budget) => (format!("{budget} {unit}"), "OVER"),
                None => (String::new(), ""),
            };
            writeln!(f, "| {what} | {value:.2} {unit} | {budget} | {verdict} |")?;
        }
        Ok(())
    }
}
