//! `motet trace`: which model ran on which thread when, and what threads waited for.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use motet::trace::{ThreadEvents, Timeline, start, write_chrome_json};

use crate::failure::Outcome;
use crate::output::{say, write_file};
use crate::subject::{Subject, Which, call_from_threads, parse_seconds};
use crate::timeline::{summary, svg};

/// Record a run of models called from several threads at once as a timeline
///
/// Thread t calls model t modulo the number of models. Prints a summary: calls, waits, and the
/// steps that took most.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Calls of each thread
    #[arg(long, default_value_t = CALLS as u32, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
    /// Call for so many seconds instead
    #[arg(long, conflicts_with = "calls", value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// Write Chrome trace JSON, which ui.perfetto.dev opens
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// How often each thread calls its model: so few that a picture shows steps.
pub const CALLS: usize = 5;

/// Records, prints and writes.
pub fn trace(args: &Args) -> Outcome {
    let (subjects, threads) = args.which.load()?;
    let timeline = record(&subjects, threads, |calls, elapsed| match args.seconds {
        Some(seconds) => elapsed.as_secs_f64() >= seconds,
        None => calls >= args.calls as usize,
    })?;
    say(summary::text(&timeline).trim_end());
    let title = title("trace", &subjects, threads);
    if let Some(path) = &args.json {
        write_file(path, |file| write_chrome_json(&timeline, file))?;
    }
    if let Some(path) = &args.svg {
        write_file(path, |file| {
            write!(file, "{}", svg::draw(&timeline, &title))
        })?;
    }
    Ok(())
}

/// Calls the models from threads until it is `over` for each, and records that.
pub fn record(
    subjects: &[Subject],
    threads: usize,
    over: impl Fn(usize, Duration) -> bool + Sync,
) -> Outcome<Timeline> {
    let recording = start()?;
    call_from_threads(subjects, threads, over, None)?;
    let mut timeline = recording.stop();
    // In the order of their numbers, of which longer ones are larger.
    let order = |thread: &ThreadEvents| (thread.worker, thread.name.len(), thread.name.clone());
    timeline.threads.sort_by_key(order);
    Ok(timeline)
}

/// Writes a timeline in the form that the file's name asks for.
pub fn write(path: &Path, timeline: &Timeline, title: &str) -> Outcome {
    let is_svg = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("svg"));
    write_file(path, |file| match is_svg {
        true => write!(file, "{}", svg::draw(timeline, title)),
        false => write_chrome_json(timeline, file),
    })
}

/// What was run, for people.
pub fn title(command: &str, subjects: &[Subject], threads: usize) -> String {
    let names: Vec<&str> = subjects.iter().map(|subject| &*subject.name).collect();
    let threads = match threads {
        1 => "1 thread".to_owned(),
        more => format!("{more} threads"),
    };
    format!("motet {command}: {} on {threads}", names.join(", "))
}
