//! `cargo xtask report`: tables and a plot of what benches printed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plotters::prelude::*;
use serde_json::Value;

/// Calls per second (or GFLOP/s) by workload, framework and mode; of several runs the median.
type Rates = BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>;

/// The modes, and what they are called in tables.
const MODES: [(&str, &str); 6] = [
    ("a", "one thread"),
    ("b", "one model, all cores"),
    ("c", "two threads, one core each"),
    ("d", "two threads, defaults"),
    ("e", "behind a mutex"),
    ("f", "eight threads"),
];

/// Prints a table for each workload; writes a plot where `svg` says so; compares motet with what it
/// did in `against`.
pub fn report(
    records: &[PathBuf],
    against: Option<&Path>,
    svg: Option<&Path>,
) -> Result<(), String> {
    let rates = read(records)?;
    let before = against.map(|path| read(&[path.to_owned()])).transpose()?;
    for (workload, frameworks) in &rates {
        println!("\n### {workload}\n");
        println!(
            "| framework | {} | motet against it |",
            MODES.map(|(_, name)| name).join(" | ")
        );
        println!("|{}", "---|".repeat(MODES.len() + 2));
        let motet = frameworks.get("motet");
        for (framework, modes) in frameworks {
            let cell = |(mode, _)| modes.get(mode).map_or("-".to_owned(), |&rate| number(rate));
            let ratio = motet.and_then(|motet| Some(motet.get("a")? / modes.get("a")?));
            println!(
                "| {framework} | {} | {} |",
                MODES.map(cell).join(" | "),
                ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
            );
        }
        let old = before
            .as_ref()
            .and_then(|before| before.get(workload)?.get("motet"));
        if let (Some(old), Some(new)) = (old, motet) {
            for (mode, name) in MODES {
                if let (Some(old), Some(new)) = (old.get(mode), new.get(mode)) {
                    println!("\nmotet, {name}: {:.2} times the saved run", new / old);
                }
            }
        }
    }
    match svg {
        Some(path) => plot(&rates, path),
        None => Ok(()),
    }
}

fn number(rate: f64) -> String {
    match rate {
        rate if rate >= 1000.0 => format!("{rate:.0}"),
        rate if rate >= 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.2}"),
    }
}

fn read(paths: &[PathBuf]) -> Result<Rates, String> {
    let mut runs: BTreeMap<[String; 3], Vec<f64>> = BTreeMap::new();
    for path in paths {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        for line in text.lines() {
            let Ok(record) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let rate = record["thr"].as_f64().or(record["gflops"].as_f64());
            let key = ["workload", "framework", "mode"].map(|name| record[name].as_str());
            if let ([Some(workload), Some(framework), Some(mode)], Some(rate)) = (key, rate) {
                let key = [workload, framework, mode].map(str::to_owned);
                runs.entry(key).or_default().push(rate);
            }
        }
    }
    let mut rates = Rates::new();
    for ([workload, framework, mode], mut values) in runs {
        values.sort_by(f64::total_cmp);
        let of_framework = rates
            .entry(workload)
            .or_default()
            .entry(framework)
            .or_default();
        // Of an even number the mean of both in the middle.
        let [low, high] = [(values.len() - 1) / 2, values.len() / 2].map(|i| values[i]);
        of_framework.insert(mode, (low + high) / 2.0);
    }
    Ok(rates)
}

/// For each workload a bar for each framework: its speed on one thread, motet's being 1.
fn plot(rates: &Rates, path: &Path) -> Result<(), String> {
    let mut bars: Vec<(String, f64, bool)> = Vec::new();
    for (workload, frameworks) in rates {
        let Some(&motet) = frameworks.get("motet").and_then(|modes| modes.get("a")) else {
            continue;
        };
        for (framework, modes) in frameworks {
            if let Some(rate) = modes.get("a") {
                let name = format!("{workload} {framework}");
                bars.push((name, rate / motet, framework == "motet"));
            }
        }
    }
    let draw = || -> Result<(), Box<dyn std::error::Error>> {
        let height = 80 + 18 * bars.len() as u32;
        let area = SVGBackend::new(path, (760, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let most = bars.iter().map(|&(_, share, _)| share).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .caption("speed on one thread, motet = 1", ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(25)
            .y_label_area_size(180)
            .build_cartesian_2d(0.0..most * 1.05, (0..bars.len()).into_segmented())?;
        let label = |at: &SegmentValue<usize>| match at {
            SegmentValue::CenterOf(bar) => bars.get(*bar).map_or("", |(name, ..)| name).to_owned(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(bars.len())
            .y_label_formatter(&label)
            .draw()?;
        chart.draw_series(bars.iter().enumerate().map(|(bar, &(_, share, ours))| {
            let color = if ours {
                RGBColor(200, 80, 40)
            } else {
                RGBColor(120, 140, 160)
            };
            let corners = [
                (0.0, SegmentValue::Exact(bar)),
                (share, SegmentValue::Exact(bar + 1)),
            ];
            let mut bar = Rectangle::new(corners, color.filled());
            bar.set_margin(2, 2, 0, 0);
            bar
        }))?;
        Ok(area.present()?)
    };
    draw().map_err(|e| format!("{}: {e}", path.display()))
}
