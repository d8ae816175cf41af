//! Timelines in the trace event format of Chrome, which Perfetto (ui.perfetto.dev) opens.

use std::io::{self, Write};

use motet_core::trace::{Cause, Event, Timeline, What};
use serde_json::{Value, json};

/// Writes a timeline as Chrome trace JSON, an event a line: complete events (`X`) in the categories
/// `evaluation`, `command`, `step`, `tiles`, `build` and `wait`, on named threads. An arrow leads to
/// the end of a wait for a stream from the command that ended it.
///
/// # Errors
/// What `writer` reports.
pub fn write_chrome_json(timeline: &Timeline, mut writer: impl Write) -> io::Result<()> {
    let about = json!({
        "recorded_us": timeline.length.as_secs_f64() * 1e6,
        "lost_events": timeline.lost,
    });
    write!(
        writer,
        "{{\"displayTimeUnit\":\"ns\",\"otherData\":{about},\"traceEvents\":["
    )?;
    let process = metadata("process_name", 0, "name", "motet".into());
    write!(writer, "\n{process}")?;
    for (thread, events) in timeline.threads.iter().enumerate() {
        let name = events.name.as_str().into();
        let name = metadata("thread_name", thread, "name", name);
        let order = metadata("thread_sort_index", thread, "sort_index", thread.into());
        write!(writer, ",\n{name},\n{order}")?;
        for event in &events.events {
            write!(writer, ",\n{}", complete(thread, event))?;
        }
    }
    for (id, arrow) in arrows(timeline).enumerate() {
        for end in arrow.ends(id) {
            write!(writer, ",\n{end}")?;
        }
    }
    writeln!(writer, "\n]}}")
}

/// From the last command of a stream that ended in a wait for it to that wait's end.
fn arrows(timeline: &Timeline) -> impl Iterator<Item = Arrow> {
    let each = || {
        let threads = timeline.threads.iter().enumerate();
        threads.flat_map(|(thread, t)| t.events.iter().map(move |event| (thread, event)))
    };
    let command = |(thread, event): (usize, &Event)| match event.what {
        What::Command { stream, .. } => Some((stream, event.end, thread)),
        _ => None,
    };
    let mut ends: Vec<(u64, u64, usize)> = each().filter_map(command).collect();
    ends.sort_unstable();
    each().filter_map(move |(thread, wait)| {
        let What::Wait(Cause::Turn(stream) | Cause::Fence(stream)) = wait.what else {
            return None;
        };
        let after = ends.partition_point(|&(s, end, _)| (s, end) <= (stream, wait.end));
        let &(s, end, from) = ends.get(after.checked_sub(1)?)?;
        (s == stream && end > wait.start && from != thread).then_some(Arrow {
            from: (from, end),
            to: (thread, wait.end),
        })
    })
}

/// Threads and times.
struct Arrow {
    from: (usize, u64),
    to: (usize, u64),
}

impl Arrow {
    fn ends(&self, id: usize) -> [Value; 2] {
        [("s", self.from), ("f", self.to)].map(|(phase, (thread, time))| {
            // It binds to what is around it: just before the end.
            json!({
                "ph": phase, "bp": "e", "id": id, "name": "ends the wait", "cat": "wait",
                "pid": 1, "tid": thread + 1, "ts": micros(time.saturating_sub(1)),
            })
        })
    }
}

fn metadata(name: &str, thread: usize, key: &str, value: Value) -> Value {
    json!({"ph": "M", "pid": 1, "tid": thread + 1, "name": name, "args": {key: value}})
}

fn complete(thread: usize, event: &Event) -> Value {
    json!({
        "ph": "X", "pid": 1, "tid": thread + 1,
        "ts": micros(event.start), "dur": micros(event.duration()),
        "name": event.what.to_string(), "cat": event.what.category(), "args": arguments(&event.what),
    })
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn arguments(what: &What) -> Value {
    match what {
        What::Command { stream, .. } => json!({"stream": stream}),
        What::Step { label, step } => {
            let about = label.step(*step);
            json!({
                "function": label.name(), "step": step,
                "kernel": about.map(|about| &about.class),
                "signature": about.map(|about| &about.signature),
            })
        }
        What::Tiles { label, step, tiles } => {
            json!({"function": label.name(), "step": step, "tiles": tiles})
        }
        What::Wait(cause) => {
            let stream = match cause {
                Cause::Turn(stream) | Cause::Fence(stream) => Some(stream),
                _ => None,
            };
            json!({"cause": cause.name(), "stream": stream})
        }
        _ => json!({}),
    }
}
