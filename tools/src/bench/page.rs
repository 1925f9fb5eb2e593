//! A report as one HTML page: the roofline, speed over depth, threads and batch size, percentiles of a token, and two runs side
//! by side.
//!
//! Invariant: the page shows what the JSON report holds and computes nothing that is not in it.

use serde_json::{Value, json};

use super::compare::{BaselineError, series};
use crate::page::Page;

const SCRIPT: &str = concat!(include_str!("page/charts.js"), include_str!("page/main.js"));
const STYLE: &str = include_str!("page/page.css");

fn kind(title: &str) -> Page<'_> {
    Page { title, command: "bitnetc bench --json", style: STYLE, script: SCRIPT }
}

/// A report that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// A report of another form.
    #[error(transparent)]
    Report(#[from] BaselineError),
    /// Data that cannot be written.
    #[error("cannot write the page: {0}")]
    Json(#[from] serde_json::Error),
}

/// What identifies each test of a report.
fn keys(report: &Value) -> Result<Vec<String>, BaselineError> {
    let tests = report["tests"].as_array().map(Vec::as_slice).unwrap_or_default();
    tests.iter().map(|test| series(test).map(|series| series.key)).collect()
}

/// The page of a report, `bitnetc.bench/2`, beside the earlier one that it was compared with.
///
/// # Errors
/// A report of another form.
pub fn page(report: &Value, baseline: Option<&Value>) -> Result<String, PageError> {
    let model = report["tests"][0]["model"].as_str().unwrap_or("nothing");
    let data = json!({
        "run": report,
        "keys": keys(report)?,
        "baseline": baseline,
        "baseline_keys": baseline.map(keys).transpose()?,
    });
    Ok(kind(&format!("{model} – bitnetc bench")).render(&data)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_makes_text_only() {
        crate::page::assert_makes_text_only(&kind(""));
    }

    #[test]
    fn a_report_of_another_form_has_no_page() {
        assert!(page(&json!({ "tests": [] }), None).is_ok());
        assert!(page(&json!({ "tests": [{}] }), None).is_err());
        assert!(page(&json!({ "tests": [] }), Some(&json!({ "tests": [{ "model": "x" }] }))).is_err());
    }
}
