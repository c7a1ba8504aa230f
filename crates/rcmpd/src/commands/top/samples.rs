//! Metrics of some moments, what they count in a second, and quantiles of durations.

use crate::telemetry::sample;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long samples are kept: rates and quantiles are over at most this time.
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// So many samples are kept, even if they come faster than expected.
const SAMPLES_MAX: usize = 128;
/// The services that this program reads have some hundred series.
const SERIES_MAX: usize = 100_000;

/// The metrics of one moment.
#[derive(Debug)]
pub(super) struct Scrape {
    at: Instant,
    series: Vec<Series>,
}

#[derive(Debug)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Series {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| &**value)
    }

    fn is(&self, name: &str, labels: Labels<'_>) -> bool {
        self.name == name && labels.iter().all(|(label, value)| self.label(label) == Some(value))
    }
}

/// Labels that a series has to have.
pub(super) type Labels<'l> = &'l [(&'l str, &'l str)];

impl Scrape {
    /// Reads the text format of Prometheus. Lines that cannot be read are left out.
    pub(super) fn new(text: &str, at: Instant) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(sample);
        let series = samples.filter_map(|sample| {
            let labels = sample.labels.into_iter().map(|(name, value)| (name.to_owned(), value));
            let value = sample.value.parse().ok()?;
            Some(Series { name: sample.name.to_owned(), labels: labels.collect(), value })
        });
        Self { at, series: series.take(SERIES_MAX).collect() }
    }

    /// The sum of the series with a name and these labels; `None` if there are none.
    pub(super) fn value(&self, name: &str, labels: Labels<'_>) -> Option<f64> {
        let values = self.series.iter().filter(|series| series.is(name, labels)).map(|series| series.value);
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// The values that a label has, each once.
    pub(super) fn values_of(&self, name: &str, label: &str) -> Vec<String> {
        let mut values: Vec<_> = self.series.iter().filter(|series| series.name == name).collect();
        let mut values: Vec<_> =
            values.drain(..).filter_map(|series| series.label(label).map(str::to_owned)).collect();
        values.sort();
        values.dedup();
        values
    }
}

/// The metrics of the last minute, the newest last.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<Scrape>);

impl Samples {
    pub(super) fn push(&mut self, scrape: Scrape) {
        let begins = scrape.at.checked_sub(MINUTE);
        self.0.push_back(scrape);
        // One that is older than a minute stays, so that the minute is whole.
        while self.0.len() > SAMPLES_MAX || self.0.get(1).is_some_and(|next| Some(next.at) <= begins) {
            self.0.pop_front();
        }
    }

    /// Forgets all: the service started again, and its counters with it.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn newest(&self) -> Option<&Scrape> {
        self.0.back()
    }

    /// The newest sample, and one that is as old as the window, or nearly.
    fn ends(&self, window: Duration) -> Option<(&Scrape, &Scrape)> {
        let newest = self.0.back()?;
        let before = self.0.iter().rev().skip(1);
        let oldest = before.take_while(|scrape| newest.at.duration_since(scrape.at) <= window).last();
        Some((oldest.or_else(|| self.0.iter().rev().nth(1))?, newest))
    }

    /// How much counters rose in a second, over a window; `None` before there are two samples.
    pub(super) fn rate(&self, name: &str, labels: Labels<'_>, window: Duration) -> Option<f64> {
        let (old, new) = self.ends(window)?;
        let time = new.at.duration_since(old.at).as_secs_f64();
        (time > 0.0).then(|| rise(old, new, name, labels) / time)
    }

    /// How much counters rose in the last minute; all that they count, if there is no earlier sample.
    pub(super) fn rise(&self, name: &str, labels: Labels<'_>) -> f64 {
        match self.ends(MINUTE) {
            Some((old, new)) => rise(old, new, name, labels),
            None => self.newest().and_then(|new| new.value(name, labels)).unwrap_or(0.0),
        }
    }

    /// The quantiles of a histogram over the last minute, in the unit of the histogram. `None` if nothing was
    /// observed. Within a bucket, values are assumed to be evenly spread.
    pub(super) fn quantiles<const N: usize>(&self, name: &str, of: [f64; N]) -> Option<[Quantile; N]> {
        let bucket = format!("{name}_bucket");
        let newest = self.newest()?;
        let mut buckets: Vec<(f64, f64)> = newest
            .values_of(&bucket, "le")
            .iter()
            .filter_map(|bound| {
                let value = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
                Some((value, self.rise(&bucket, &[("le", bound)])))
            })
            .collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let total = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        Some(of.map(|quantile| quantile_of(&buckets, quantile * total)))
    }
}

/// A quantile of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Quantile {
    /// About this value.
    About(f64),
    /// More than the bound of the last bucket.
    Above(f64),
}

/// The value at a rank. Buckets are ascending, and each counts what is in the smaller ones, too.
fn quantile_of(buckets: &[(f64, f64)], rank: f64) -> Quantile {
    let (mut low, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank && bound.is_finite() {
            let within = if *count > below { (rank - below) / (count - below) } else { 1.0 };
            return Quantile::About(low + (bound - low) * within);
        }
        if bound.is_finite() {
            (low, below) = (*bound, *count);
        }
    }
    Quantile::Above(low)
}

/// Counters that were not there before were 0.
fn rise(old: &Scrape, new: &Scrape, name: &str, labels: Labels<'_>) -> f64 {
    let value = |scrape: &Scrape| scrape.value(name, labels).unwrap_or(0.0);
    (value(new) - value(old)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(texts: &[(u64, &str)]) -> Samples {
        let (mut samples, start) = (Samples::default(), Instant::now());
        for (second, text) in texts {
            samples.push(Scrape::new(text, start + Duration::from_secs(*second)));
        }
        samples
    }

    #[test]
    fn rates_are_over_the_window_and_count_new_series_from_zero() {
        let samples = samples(&[
            (0, "# TYPE a counter\na_total{x=\"1\"} 100\n"),
            (50, "a_total{x=\"1\"} 150\n"),
            (60, "a_total{x=\"1\"} 160\na_total{x=\"2\",y=\"b\"} 30\nnonsense\n"),
        ]);
        let ten = Duration::from_secs(10);
        assert_eq!(samples.rate("a_total", &[("x", "1")], ten), Some(1.0));
        assert_eq!(samples.rate("a_total", &[("x", "2")], ten), Some(3.0));
        assert_eq!(samples.rate("a_total", &[], MINUTE), Some(1.5));
        assert_eq!(samples.rate("b_total", &[], MINUTE), Some(0.0));
        assert_eq!(samples.newest().and_then(|newest| newest.value("b_total", &[])), None);
    }

    #[test]
    fn there_is_no_rate_before_two_samples() {
        let mut samples = samples(&[(0, "a_total 1\n")]);
        assert_eq!(samples.rate("a_total", &[], MINUTE), None);
        samples.clear();
        assert!(samples.newest().is_none() && samples.quantiles("d", [0.5]).is_none());
    }

    #[test]
    fn samples_older_than_a_minute_are_dropped() {
        let texts: Vec<_> = (0..200).map(|second| (second, "a_total 1\n")).collect();
        assert_eq!(samples(&texts).0.len(), 61);
        let many: Vec<_> = (0..200).map(|_| (0, "a_total 1\n")).collect();
        assert_eq!(samples(&many).0.len(), SAMPLES_MAX);
    }

    /// The expected values are those of Prometheus' `histogram_quantile`, by its documentation: linear within
    /// a bucket, from 0 in the first one, and the highest bound for the last one.
    #[test]
    fn quantiles_are_interpolated_within_their_bucket() {
        let text = |counts: [u32; 3]| {
            format!(
                "d_bucket{{le=\"0.1\"}} {}\nd_bucket{{le=\"1.0\"}} {}\nd_bucket{{le=\"+Inf\"}} {}\n",
                counts[0], counts[1], counts[2]
            )
        };
        let (before, after) = (text([5, 5, 5]), text([15, 25, 26]));
        let samples = samples(&[(0, &before), (10, &after)]);
        let quantiles = samples.quantiles("d", [0.25, 0.5, 1.0]).expect("21 observations");
        let expected = [
            Quantile::About(0.1 * 5.25 / 10.0),
            Quantile::About(0.1 + 0.9 * (10.5 - 10.0) / 10.0),
            Quantile::Above(1.0),
        ];
        for (quantile, expected) in quantiles.into_iter().zip(expected) {
            match (quantile, expected) {
                (Quantile::About(one), Quantile::About(other)) => assert!((one - other).abs() < 1e-9),
                (one, other) => assert_eq!(one, other),
            }
        }
    }
}
