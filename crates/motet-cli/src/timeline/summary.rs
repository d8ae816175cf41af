//! A recorded run as text.

use std::collections::HashMap;
use std::fmt::Write;

use motet::trace::{Timeline, What};

use crate::timeline::{busy, functions, span, time, totals};

/// How many of the most expensive steps are shown.
const STEPS: usize = 10;

/// Calls by model, what threads did, and the steps that took most.
pub fn text(timeline: &Timeline) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, timeline);
    text
}

fn write(text: &mut String, timeline: &Timeline) -> std::fmt::Result {
    let steps = Steps::of(timeline);
    writeln!(text, "{}", totals(timeline))?;
    for (name, calls) in functions(timeline) {
        let all: u64 = calls.iter().sum();
        let in_steps = steps.of_function.get(name).copied().unwrap_or(0);
        writeln!(
            text,
            "  {name:<16} {:>6} calls   median {:>8}   longest {:>8}   {:>3.0} % in steps",
            calls.len(),
            time(calls[calls.len() / 2]),
            time(calls[calls.len() - 1]),
            percent(in_steps, all)
        )?;
    }
    let (start, end) = span(timeline);
    writeln!(text, "threads")?;
    for thread in &timeline.threads {
        let share = percent(busy(thread), end - start);
        write!(text, "  {:<16} {share:>3.0} % computing", thread.name)?;
        let mut waits: Vec<(&str, usize, u64)> = Vec::new();
        for event in &thread.events {
            let What::Wait(cause) = event.what else {
                continue;
            };
            match waits.iter_mut().find(|wait| wait.0 == cause.name()) {
                Some(wait) => *wait = (wait.0, wait.1 + 1, wait.2 + event.duration()),
                None => waits.push((cause.name(), 1, event.duration())),
            }
        }
        for (cause, count, nanos) in waits {
            write!(text, "   {count} waits ({cause}) {}", time(nanos))?;
        }
        writeln!(text)?;
    }
    if !steps.most.is_empty() {
        writeln!(text, "steps that took most, of all time in steps")?;
    }
    for step in steps.most.iter().take(STEPS) {
        writeln!(
            text,
            "  {:>4.1} %   {:>5} times {:>8}   {} {}: {} {}",
            percent(step.nanos, steps.all),
            step.count,
            time(step.nanos / step.count),
            step.function,
            step.number,
            step.name,
            shortened(step.signature)
        )?;
    }
    Ok(())
}

struct Steps<'a> {
    all: u64,
    of_function: HashMap<&'a str, u64>,
    /// Most expensive first.
    most: Vec<StepTotal<'a>>,
}

struct StepTotal<'a> {
    function: &'a str,
    number: usize,
    name: &'a str,
    signature: &'a str,
    count: u64,
    nanos: u64,
}

impl<'a> Steps<'a> {
    fn of(timeline: &'a Timeline) -> Steps<'a> {
        let mut totals: HashMap<(&str, usize, &str), StepTotal<'a>> = HashMap::new();
        let mut of_function = HashMap::new();
        for event in timeline.threads.iter().flat_map(|t| &t.events) {
            let What::Step { label, step } = &event.what else {
                continue;
            };
            let Some(about) = label.step(*step) else {
                continue;
            };
            let function = label.name();
            *of_function.entry(function).or_insert(0) += event.duration();
            // One function may have plans for several shapes.
            let key = (function, *step, &*about.signature);
            let total = totals.entry(key).or_insert(StepTotal {
                function,
                number: *step,
                name: &about.name,
                signature: &about.signature,
                count: 0,
                nanos: 0,
            });
            total.count += 1;
            total.nanos += event.duration();
        }
        let mut most: Vec<StepTotal> = totals.into_values().collect();
        most.sort_by_key(|step| (std::cmp::Reverse(step.nanos), step.function, step.number));
        Steps {
            all: most.iter().map(|step| step.nanos).sum(),
            of_function,
            most,
        }
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// So much of a text as fits a line.
fn shortened(text: &str) -> String {
    const MOST: usize = 72;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
