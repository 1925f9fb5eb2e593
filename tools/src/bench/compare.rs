//! Whether a build is slower than a report of an earlier one says: a verdict that noise does not turn.
//!
//! Two sets of samples are compared by a permutation test: how often would a difference of means as large as this one
//! come about if the samples of both were dealt out at random? It knows nothing of distributions and works from five
//! samples on each side. A difference counts where that is seldom ([`SELDOM`]) and where it is as large as the caller
//! asks ([`Comparison::threshold`]); and, because a shared machine may itself be slower today, only if the share of the
//! machine's limit that each sample had, with the limit measured right around it, says so too.
//!
//! The baseline is what `bitnetc bench --json` wrote.
//!
//! Invariants: the same numbers give the same verdict; a test without partner gets none.

use bitnetc_ir::random::SplitMix;
use serde_json::{Value, json};

use super::table::{Column, Table, TableStyle};

/// The p-value below which a difference counts as significant.
pub const SELDOM: f64 = 0.01;

/// Deals of a permutation test where not all can be tried.
const DEALS: u32 = 20_000;

/// The number of deals up to which all are tried.
const ALL_DEALS: u64 = 60_000;

/// What came out for one test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Slower by more than the threshold, beyond noise.
    Slower,
    /// Faster by more than the threshold, beyond noise.
    Faster,
    /// No difference that is as large as the threshold and no accident.
    Same,
    /// Too few samples, or so much noise that a difference as large as the threshold could hide in it.
    Unclear,
}

impl Verdict {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Slower => "slower",
            Verdict::Faster => "faster",
            Verdict::Same => "same",
            Verdict::Unclear => "unclear",
        }
    }
}

/// The numbers of a test that are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What the test is: model, options, test, threads, depth.
    pub key: String,
    /// Tokens per second.
    pub rates: Vec<f64>,
    /// Share of the machine's limit, as measured around each sample.
    pub shares: Vec<f64>,
}

/// Two series side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// What the test is.
    pub key: String,
    /// Mean tokens per second: of the baseline, and now.
    pub rates: (f64, f64),
    /// Now over the baseline, less 1.
    pub change: f64,
    /// The same for the shares of the machine's limit.
    pub share_change: f64,
    /// Odds that the change of rates is an accident.
    pub odds: f64,
    /// The least change that counts.
    pub threshold: f64,
    /// What follows.
    pub verdict: Verdict,
}

/// A baseline that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaselineError {
    /// No JSON.
    #[error("not a report of `bitnetc bench --json`: {0}")]
    Json(String),
    /// JSON of something else.
    #[error("not a report of `bitnetc bench --json`: {0} is missing or has the wrong type")]
    Field(String),
}

/// A report that was written earlier, `bitnetc.bench/2`.
///
/// # Errors
/// A text that is no JSON.
pub fn report(text: &str) -> Result<Value, BaselineError> {
    serde_json::from_str(text).map_err(|e| BaselineError::Json(e.to_string()))
}

/// The series of a report.
///
/// # Errors
/// JSON that is no such report.
pub fn baseline(report: &Value) -> Result<Vec<Series>, BaselineError> {
    let missing = |what: &str| BaselineError::Field(what.to_owned());
    if report["schema"] != "bitnetc.bench/2" {
        return Err(missing("schema bitnetc.bench/2"));
    }
    report["tests"].as_array().ok_or_else(|| missing("tests"))?.iter().map(series).collect()
}

/// The series of one test of a report.
///
/// # Errors
/// A field that is missing.
pub fn series(test: &Value) -> Result<Series, BaselineError> {
    let missing = |what: &str| BaselineError::Field(format!("tests[].{what}"));
    let numbers = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
    let rates = numbers(&test["samples"]).filter(|r| !r.is_empty()).ok_or_else(|| missing("samples"))?;
    let limit = test["limit"].as_str().ok_or_else(|| missing("limit"))?;
    let (per_token, rate) = match limit {
        "bandwidth" => (&test["bytes_per_token"], "read_bytes_per_second"),
        "int8" => (&test["macs_per_token"], "int8_macs_per_second"),
        _ => return Err(missing("limit")),
    };
    let per_token = per_token.as_f64().ok_or_else(|| missing("bytes_per_token"))?;
    let rounds = test["limit_samples"].as_array().ok_or_else(|| missing("limit_samples"))?;
    let limits: Option<Vec<f64>> = rounds.iter().map(|round| round[rate].as_f64()).collect();
    let limits = limits.filter(|l| l.len() > rates.len()).ok_or_else(|| missing("limit_samples"))?;
    let shares =
        limits.windows(2).zip(&rates).map(|(around, rate)| rate * per_token / around[0].max(around[1]));
    let mut key = String::new();
    for field in ["model", "test", "threads", "depth", "chunk"] {
        let value = &test[field];
        match (value.as_str(), value.as_u64()) {
            (Some(text), _) => key += &format!("{text} "),
            (None, Some(number)) => key += &format!("{field}={number} "),
            (None, None) => return Err(missing(field)),
        }
    }
    for (name, value) in test["options"].as_object().ok_or_else(|| missing("options"))? {
        key += &format!("{name}={} ", value.as_str().unwrap_or_default());
    }
    Ok(Series { key: key.trim_end().to_owned(), shares: shares.collect(), rates })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Number of ways to choose `k` of `n`, or more than any limit here.
fn ways(n: u64, k: u64) -> u64 {
    (0..k).try_fold(1u64, |all, i| Some(all.checked_mul(n - i)? / (i + 1))).unwrap_or(u64::MAX)
}

/// The odds that chance alone puts the means of `a` and `b` so far apart, in either direction.
fn odds(a: &[f64], b: &[f64]) -> f64 {
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    let total: f64 = all.iter().sum();
    let (n, k) = (all.len(), a.len());
    let apart = |sum_of_a: f64| (sum_of_a / k as f64 - (total - sum_of_a) / (n - k) as f64).abs();
    // Rounding must not make a deal that is the given one look different from it.
    let seen = apart(a.iter().sum()) * (1.0 - 1e-9);
    if ways(n as u64, k as u64) <= ALL_DEALS {
        let (mut far, mut deals) = (0u64, 0u64);
        let mut chosen: Vec<usize> = (0..k).collect();
        loop {
            far += u64::from(apart(chosen.iter().map(|&i| all[i]).sum()) >= seen);
            deals += 1;
            // The next choice in lexicographic order.
            let Some(at) = (0..k).rev().find(|&i| chosen[i] < n - k + i) else { break };
            chosen[at] += 1;
            (at + 1..k).for_each(|i| chosen[i] = chosen[i - 1] + 1);
        }
        return far as f64 / deals as f64;
    }
    let mut rng = SplitMix::new(1);
    let mut dealt = all;
    let mut far = 0u32;
    for _ in 0..DEALS {
        for i in 0..k {
            let other = i + rng.below(n - i);
            dealt.swap(i, other);
        }
        far += u32::from(apart(dealt[..k].iter().sum()) >= seen);
    }
    f64::from(far + 1) / f64::from(DEALS + 1)
}

/// Half the width of the range in which the mean of `values` lies, as a share of it: two standard errors.
fn uncertainty(values: &[f64]) -> f64 {
    let middle = mean(values);
    let squares: f64 = values.iter().map(|v| (v - middle) * (v - middle)).sum();
    let n = values.len() as f64;
    2.0 * (squares / (n - 1.0).max(1.0) / n).sqrt() / middle.abs().max(f64::MIN_POSITIVE)
}

/// Compares the series of the same test. `threshold`: the least change that counts, as a share.
pub fn compare(old: &Series, new: &Series, threshold: f64) -> Comparison {
    let rates = (mean(&old.rates), mean(&new.rates));
    let (change, share_change) = (rates.1 / rates.0 - 1.0, mean(&new.shares) / mean(&old.shares) - 1.0);
    let chance = odds(&old.rates, &new.rates);
    let sure = chance < SELDOM && odds(&old.shares, &new.shares) < SELDOM;
    let hidden = uncertainty(&old.rates).hypot(uncertainty(&new.rates)) > threshold;
    let few =
        1.0 / ways((old.rates.len() + new.rates.len()) as u64, old.rates.len() as u64) as f64 >= SELDOM / 2.0;
    let verdict = match () {
        () if sure && change <= -threshold && share_change <= -threshold => Verdict::Slower,
        () if sure && change >= threshold && share_change >= threshold => Verdict::Faster,
        () if few || hidden => Verdict::Unclear,
        () => Verdict::Same,
    };
    Comparison { key: new.key.clone(), rates, change, share_change, odds: chance, threshold, verdict }
}

/// A run beside its baseline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparisons {
    /// The tests of the run that the baseline has too, in order.
    pub compared: Vec<Comparison>,
    /// The tests of the run that the baseline does not have.
    pub not_compared: Vec<String>,
}

/// Compares every new series that has a partner in the baseline.
pub fn compare_all(old: &[Series], new: &[Series], threshold: f64) -> Comparisons {
    let mut all = Comparisons::default();
    for series in new {
        match old.iter().find(|o| o.key == series.key) {
            Some(partner) => all.compared.push(compare(partner, series, threshold)),
            None => all.not_compared.push(series.key.clone()),
        }
    }
    all
}

/// The comparisons as a table, and after it the tests that were not compared.
pub fn table(style: TableStyle, comparisons: &Comparisons) -> String {
    let right = ["baseline t/s", "now t/s", "ratio", "paired ratio", "odds of chance"].map(Column::right);
    let columns = std::iter::once(Column::left("test")).chain(right).chain([Column::left("verdict")]);
    let mut table = Table::new(columns.collect());
    for c in &comparisons.compared {
        table.push(vec![
            c.key.clone(),
            format!("{:.2}", c.rates.0),
            format!("{:.2}", c.rates.1),
            format!("{:.3}", 1.0 + c.change),
            format!("{:.3}", 1.0 + c.share_change),
            format!("{:.3}", c.odds),
            c.verdict.name().to_owned(),
        ]);
    }
    let mut text = format!("\n{}", table.render(style));
    if !comparisons.not_compared.is_empty() {
        text += "\nNot compared, because the baseline does not have these tests:\n\n";
        comparisons.not_compared.iter().for_each(|key| text += &format!("- {key}\n"));
    }
    text
}

/// The tests that were compared as JSON.
pub fn json(comparisons: &Comparisons) -> Value {
    let one = |c: &Comparison| {
        json!({
            "test": c.key,
            "baseline_tokens_per_second": c.rates.0,
            "tokens_per_second": c.rates.1,
            "change": c.change,
            "share_change": c.share_change,
            "odds": c.odds,
            "threshold": c.threshold,
            "verdict": c.verdict.name(),
        })
    };
    comparisons.compared.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rates: &[f64], shares: &[f64]) -> Series {
        Series { key: "x".to_owned(), rates: rates.to_vec(), shares: shares.to_vec() }
    }

    fn verdict(old: &Series, new: &Series) -> Verdict {
        compare(old, new, 0.03).verdict
    }

    #[test]
    fn odds_are_those_of_counting() {
        // Of the 20 ways to deal six cards to two hands of three, two put all the low ones on one side.
        assert_eq!(odds(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 0.1);
        assert_eq!(odds(&[1.0, 1.0], &[1.0, 1.0]), 1.0);
        // So many that they are drawn: what no deal reaches is seldom, what every one does is not.
        let low: Vec<f64> = (0..30).map(f64::from).collect();
        let high: Vec<f64> = (100..130).map(f64::from).collect();
        assert!(odds(&low, &high) < 0.001);
        assert!(odds(&low, &low) > 0.9);
    }

    #[test]
    fn slower_is_slower_only_beyond_noise_and_on_an_equal_machine() {
        let old = of(&[10.0, 10.1, 9.9, 10.0, 10.05], &[0.8, 0.81, 0.79, 0.8, 0.805]);
        let slow = of(&[9.0, 9.1, 8.9, 9.0, 9.05], &[0.72, 0.73, 0.71, 0.72, 0.725]);
        assert_eq!(verdict(&old, &slow), Verdict::Slower);
        assert_eq!(verdict(&slow, &old), Verdict::Faster);
        assert_eq!(verdict(&old, &old), Verdict::Same);
        // The machine gave less, and the engine took the same share of it.
        let machine = of(&slow.rates, &old.shares);
        assert_eq!(verdict(&old, &machine), Verdict::Same);
        // Two per cent are below the threshold.
        let little: Vec<f64> = old.rates.iter().map(|r| r * 0.98).collect();
        assert_eq!(verdict(&old, &of(&little, &little)), Verdict::Same);
        let noisy = of(&[7.0, 13.0, 9.0, 11.0, 8.0], &[0.6, 1.0, 0.7, 0.9, 0.6]);
        assert_eq!(verdict(&old, &noisy), Verdict::Unclear);
        // Four samples on each side can show nothing.
        let four = |s: &Series| of(&s.rates[..4], &s.shares[..4]);
        assert_eq!(verdict(&four(&old), &four(&slow)), Verdict::Unclear);
    }

    #[test]
    fn reports_are_read_with_what_identifies_a_test() {
        let test = json!({
            "model": "m", "test": "tg8", "threads": 2, "depth": 0, "chunk": 128, "options": {"head": "q8"},
            "samples": [10.0, 12.0], "limit": "bandwidth", "bytes_per_token": 2.0, "macs_per_token": 1.0,
            "limit_samples": [
                {"read_bytes_per_second": 40.0}, {"read_bytes_per_second": 20.0}, {"read_bytes_per_second": 48.0},
            ],
        });
        let text = json!({"schema": "bitnetc.bench/2", "tests": [test]}).to_string();
        let read = baseline(&report(&text).unwrap()).unwrap();
        assert_eq!(read[0].key, "m tg8 threads=2 depth=0 chunk=128 head=q8");
        assert_eq!((&read[0].rates[..], &read[0].shares[..]), (&[10.0, 12.0][..], &[0.5, 0.5][..]));
        let other = Series { key: "other".to_owned(), ..read[0].clone() };
        let both = compare_all(&read, &[read[0].clone(), other], 0.03);
        assert_eq!((both.compared.len(), &both.not_compared[..]), (1, &["other".to_owned()][..]));
        let text = table(TableStyle::Aligned, &both);
        assert!(
            text.contains(&read[0].key) && text.ends_with("does not have these tests:\n\n- other\n"),
            "{text}"
        );
        assert!(!table(TableStyle::Aligned, &compare_all(&read, &read, 0.03)).contains("Not compared"));
        for broken in
            ["", "{}", r#"{"schema":"bitnetc.bench/2"}"#, r#"{"schema":"bitnetc.bench/2","tests":[{}]}"#]
        {
            let message = report(broken).and_then(|report| baseline(&report)).unwrap_err().to_string();
            assert!(message.starts_with("not a report of `bitnetc bench --json`"), "{message}");
        }
    }
}
