//! Outcomes as tables, CSV and JSON. Times are in milliseconds, rates per second.

use std::collections::BTreeMap;
use std::time::Duration;

use bitnetc::engine::Latency;
use serde_json::{Value, json};

use super::burst::Burst;
use super::request::{Answer, Ending};
use super::run::{Arrivals, Outcome};
use crate::bench::table::{Column, Table, TableStyle};

/// Sums over the answers of a test.
struct Sums {
    prompt_tokens: u64,
    cached_tokens: u64,
    generated_tokens: u64,
    seconds: f64,
}

impl Sums {
    fn of(outcome: &Outcome) -> Self {
        let sum = |count: fn(&Answer) -> u64| outcome.answers().map(count).sum();
        Self {
            prompt_tokens: sum(|a| a.prompt_tokens),
            cached_tokens: sum(|a| a.cached_tokens),
            generated_tokens: sum(|a| a.generated_tokens),
            seconds: outcome.duration.as_secs_f64().max(1e-9),
        }
    }

    fn rate(&self, count: u64) -> f64 {
        count as f64 / self.seconds
    }
}

impl Outcome {
    /// How many requests each status refused.
    pub fn refusals(&self) -> BTreeMap<u16, u32> {
        let mut refusals = BTreeMap::new();
        for ending in &self.endings {
            if let Ending::Refused { status, .. } = ending {
                *refusals.entry(*status).or_default() += 1;
            }
        }
        refusals
    }

    /// The status and the words of the first refusal.
    pub fn first_refusal(&self) -> Option<(u16, &str)> {
        self.endings.iter().find_map(|ending| match ending {
            Ending::Refused { status, message } => Some((*status, message.as_str())),
            _ => None,
        })
    }

    /// Why requests failed.
    pub fn failures(&self) -> impl Iterator<Item = &str> {
        self.endings.iter().filter_map(|ending| match ending {
            Ending::Failed(why) => Some(why.as_str()),
            _ => None,
        })
    }

    fn ttft(&self) -> Option<Latency> {
        Latency::of(&self.answers().map(|answer| answer.ttft).collect::<Vec<_>>())
    }

    fn gaps(&self) -> Option<Latency> {
        Latency::of(&self.answers().flat_map(|answer| answer.gaps.iter().copied()).collect::<Vec<_>>())
    }

    fn totals(&self) -> Option<Latency> {
        Latency::of(&self.answers().map(|answer| answer.total).collect::<Vec<_>>())
    }

    /// What the rows of a table are called.
    fn name(&self) -> String {
        match self.test.arrivals {
            Arrivals::Closed(clients) => clients.to_string(),
            Arrivals::Poisson(rate) => format!("{rate}/s"),
        }
    }
}

fn ms(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

/// Milliseconds for people.
fn shown(time: Duration) -> String {
    match ms(time) {
        t if t < 10.0 => format!("{t:.2}"),
        t if t < 100.0 => format!("{t:.1}"),
        t => format!("{t:.0}"),
    }
}

fn percentiles(latency: Option<Latency>) -> [String; 4] {
    latency.map_or_else(Default::default, |l| [l.p50, l.p90, l.p99, l.max].map(shown))
}

fn json_percentiles(latency: Option<Latency>) -> Value {
    latency.map_or(
        Value::Null,
        |l| json!({ "p50": ms(l.p50), "p90": ms(l.p90), "p99": ms(l.p99), "max": ms(l.max) }),
    )
}

fn tests_table() -> Table {
    let column = |title: &str, width| Column::right(title).at_least(width);
    Table::new(vec![
        column("clients", 7),
        column("requests", 8),
        column("refused", 7),
        column("tokens/s", 8),
        column("prompt tokens/s", 8),
        column("cached", 6),
        column("ttft ms p50", 11),
        column("p90", 7),
        column("p99", 7),
        column("max", 7),
        column("gap ms p50", 10),
        column("p90", 7),
        column("p99", 7),
        column("max", 7),
    ])
}

/// What stands before the rows of a table.
pub fn head(style: TableStyle) -> String {
    tests_table().head(style)
}

/// The row of a test.
pub fn row(style: TableStyle, outcome: &Outcome) -> String {
    let sums = Sums::of(outcome);
    let refusals = outcome.refusals();
    let failed = outcome.failures().count();
    let refused = refusals.iter().map(|(status, count)| format!("{count}×{status}"));
    let refused: Vec<String> = refused.chain((failed > 0).then(|| format!("{failed} failed"))).collect();
    let share = 100.0 * sums.cached_tokens as f64 / sums.prompt_tokens.max(1) as f64;
    let mut cells = vec![
        outcome.name(),
        outcome.endings.len().to_string(),
        if refused.is_empty() { "0".to_owned() } else { refused.join(", ") },
        format!("{:.1}", sums.rate(sums.generated_tokens)),
        format!("{:.1}", sums.rate(sums.prompt_tokens)),
        format!("{share:.0} %"),
    ];
    cells.extend(percentiles(outcome.ttft()));
    cells.extend(percentiles(outcome.gaps()));
    tests_table().row(style, &cells)
}

/// The first line of CSV.
pub const CSV_HEAD: &str = "arrivals,clients,requests_per_second,requests,answered,refused,failed,duration_ms,tokens_per_second,\
                            prompt_tokens,cached_tokens,generated_tokens,ttft_p50_ms,ttft_p90_ms,ttft_p99_ms,ttft_max_ms,\
                            gap_p50_ms,gap_p90_ms,gap_p99_ms,gap_max_ms\n";

/// A line of CSV.
pub fn csv_row(outcome: &Outcome) -> String {
    let sums = Sums::of(outcome);
    let four = |latency: Option<Latency>| match latency {
        Some(l) => [l.p50, l.p90, l.p99, l.max].map(|time| ms(time).to_string()).join(","),
        None => ",,,".to_owned(),
    };
    let arrivals = match outcome.test.arrivals {
        Arrivals::Closed(clients) => format!("closed,{clients},"),
        Arrivals::Poisson(rate) => format!("poisson,,{rate}"),
    };
    format!(
        "{arrivals},{},{},{},{},{},{},{},{},{},{},{}\n",
        outcome.endings.len(),
        outcome.answers().count(),
        outcome.refusals().values().sum::<u32>(),
        outcome.failures().count(),
        ms(outcome.duration),
        sums.rate(sums.generated_tokens),
        sums.prompt_tokens,
        sums.cached_tokens,
        sums.generated_tokens,
        four(outcome.ttft()),
        four(outcome.gaps()),
    )
}

/// A test as JSON.
pub fn json_test(outcome: &Outcome) -> Value {
    let sums = Sums::of(outcome);
    let (arrivals, clients, rate) = match outcome.test.arrivals {
        Arrivals::Closed(clients) => ("closed", Some(clients), None),
        Arrivals::Poisson(rate) => ("poisson", None, Some(rate)),
    };
    let refused: serde_json::Map<String, Value> =
        outcome.refusals().iter().map(|(status, count)| (status.to_string(), json!(count))).collect();
    json!({
        "arrivals": arrivals,
        "clients": clients,
        "target_requests_per_second": rate,
        "prompt_lengths": outcome.test.mix.prompt.to_string(),
        "answer_lengths": outcome.test.mix.answer.to_string(),
        "shared_prefix_tokens": outcome.test.shared_prefix,
        "temperature": outcome.test.temperature,
        "seed": outcome.test.seed,
        "requests": outcome.endings.len(),
        "answered": outcome.answers().count(),
        "refused": refused,
        "failed": outcome.failures().collect::<Vec<_>>(),
        "interrupted": outcome.interrupted,
        "duration_ms": ms(outcome.duration),
        "requests_per_second": sums.rate(outcome.answers().count() as u64),
        "tokens_per_second": sums.rate(sums.generated_tokens),
        "prompt_tokens_per_second": sums.rate(sums.prompt_tokens),
        "prompt_tokens": sums.prompt_tokens,
        "cached_tokens": sums.cached_tokens,
        "generated_tokens": sums.generated_tokens,
        "first_token_ms": json_percentiles(outcome.ttft()),
        "gap_ms": json_percentiles(outcome.gaps()),
        "request_ms": json_percentiles(outcome.totals()),
    })
}

impl Burst {
    /// The median time to the first token of the long prompt: alone, and while the streams decode.
    pub fn first_token(&self) -> (Option<Duration>, Option<Duration>) {
        let median = |times: &[Duration]| Latency::of(times).map(|l| l.p50);
        (median(&self.alone), median(&self.beside))
    }

    /// The second of [`Burst::first_token`] as a multiple of the first.
    pub fn ratio(&self) -> Option<f64> {
        let (alone, beside) = self.first_token();
        Some(beside?.as_secs_f64() / alone?.as_secs_f64().max(1e-9))
    }

    /// The measurement as JSON.
    pub fn json(&self) -> Value {
        let (alone, beside) = self.first_token();
        json!({
            "streams": self.options.streams,
            "prompt_tokens": self.options.prompt_tokens,
            "repetitions": self.beside.len(),
            "first_token_alone_ms": alone.map(ms),
            "first_token_beside_ms": beside.map(ms),
            "first_token_ratio": self.ratio(),
            "gap_before_ms": json_percentiles(Latency::of(&self.gaps_before)),
            "gap_during_ms": json_percentiles(Latency::of(&self.gaps_during)),
            "streams_ended_early": self.ended_early,
            "interrupted": self.interrupted,
        })
    }

    /// The measurement as tables.
    pub fn tables(&self, style: TableStyle) -> String {
        let right = |title: &str| Column::right(title);
        let mut gaps = Table::new(vec![
            Column::left(format!("gaps of {} streams, ms", self.options.streams)),
            right("p50"),
            right("p90"),
            right("p99"),
            right("max"),
            right("gaps"),
        ]);
        let rows = [("before the prompt", &self.gaps_before), ("while it is computed", &self.gaps_during)];
        for (name, times) in rows {
            let mut cells = vec![name.to_owned()];
            cells.extend(percentiles(Latency::of(times)));
            cells.push(times.len().to_string());
            gaps.push(cells);
        }
        let title = format!("prompt of {} tokens, ms to the first token", self.options.prompt_tokens);
        let mut first = Table::new(vec![Column::left(title), right("median")]);
        let (alone, beside) = self.first_token();
        for (name, time) in [("alone", alone), ("with the streams", beside)] {
            first.push(vec![name.to_owned(), time.map(shown).unwrap_or_default()]);
        }
        let ratio = self.ratio().map(|r| format!("{r:.2}")).unwrap_or_default();
        first.push(vec!["ratio".to_owned(), ratio]);
        let mut text = gaps.render(style) + "\n" + &first.render(style);
        if self.ended_early > 0 {
            text += &format!(
                "\n{} of the streams ended before the prompt had its first token: ask for longer answers\n",
                self.ended_early
            );
        }
        text
    }
}
