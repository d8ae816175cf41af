//! A recorded run as a picture: a lane per thread, time from left to right.
//!
//! A lane has two rows: what the thread did (models in colours, waits hatched by cause), and the
//! steps of plans. Widths of texts are known, as the font is of fixed pitch; what does not fit is
//! left to the titles that a pointer shows.

use std::fmt::Write;

use motet::trace::{Cause, Event, ThreadEvents, Timeline, What};

use crate::timeline::{busy, functions, pieces, span, time, totals};

const WIDTH: f64 = 1200.0;
/// Where time begins and ends.
const LEFT: f64 = 150.0;
const RIGHT: f64 = WIDTH - 30.0;
/// A lane, and its rows' places in it.
const LANE: f64 = 42.0;
const BAR: (f64, f64) = (4.0, 18.0);
const STEP: (f64, f64) = (24.0, 10.0);
/// A line of the legend.
const LINE: f64 = 20.0;
/// The most lanes in a picture.
const LANES: usize = 64;
/// What is narrower is drawn together with its neighbours.
const DUST: f64 = 1.0;

/// Colours of models that people tell apart whatever colours they see (Okabe and Ito), with those of
/// the text on them. Yellow is for building.
const COLOURS: [(&str, &str); 6] = [
    ("#0072b2", "#fff"),
    ("#e69f00", "#111"),
    ("#009e73", "#111"),
    ("#cc79a7", "#111"),
    ("#56b4e9", "#111"),
    ("#d55e00", "#111"),
];

/// Hatchings of waits: how often lines come, at which angle, and whether there are crossing ones.
const HATCHES: [(&str, &str, f64, f64, bool); 5] = [
    ("core", "waits for a core", 5.0, 45.0, false),
    (
        "turn",
        "waits: another thread runs the stream",
        5.0,
        -45.0,
        false,
    ),
    ("fence", "waits for another stream", 6.0, 45.0, true),
    ("plan", "waits for a plan", 4.0, 0.0, false),
    ("helpers", "waits for helpers", 3.0, 90.0, false),
];

/// The picture as an SVG document.
pub fn draw(timeline: &Timeline, title: &str) -> String {
    let (start, end) = span(timeline);
    let mut picture = Picture {
        body: String::new(),
        start,
        scale: (RIGHT - LEFT) / (end - start).max(1) as f64,
        functions: functions(timeline),
    };
    picture.text((LEFT, 30.0), 17.0, "#111", "start", title);
    picture.text((LEFT, 50.0), 12.0, "#444", "start", &totals(timeline));
    let mut y = picture.legend(timeline, 70.0) + 26.0;
    let lanes = shown(timeline);
    let bottom = y + lanes.len() as f64 * LANE;
    picture.axis(y, bottom, end - start);
    for (index, thread) in lanes.iter().enumerate() {
        if index > 0 && thread.worker && !lanes[index - 1].worker {
            picture.line((20.0, y), (RIGHT, y), "#999");
        }
        picture.lane(thread, y, end - start);
        y += LANE;
    }
    let left_out = timeline.threads.len() - lanes.len();
    if left_out > 0 {
        y += LINE;
        let note = format!("and {left_out} threads that did less");
        picture.text((LEFT, y), 12.0, "#444", "start", &note);
    }
    let height = y + 16.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\">\n{}\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n{}</svg>\n",
        hatches(),
        picture.body
    )
}

/// The threads that have a lane: the busiest, in their order.
fn shown(timeline: &Timeline) -> Vec<&ThreadEvents> {
    let mut by_work: Vec<usize> = (0..timeline.threads.len()).collect();
    by_work.sort_by_key(|&index| std::cmp::Reverse(busy(&timeline.threads[index])));
    by_work.truncate(LANES);
    by_work.sort_unstable();
    by_work
        .iter()
        .map(|&index| &timeline.threads[index])
        .collect()
}

fn hatches() -> String {
    let hatch = |(cause, _, distance, angle, crossed): &(&str, &str, f64, f64, bool)| {
        let across = match crossed {
            true => format!("M0 0H{distance}"),
            false => String::new(),
        };
        format!(
            "<pattern id=\"{cause}\" width=\"{distance}\" height=\"{distance}\" \
             patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate({angle})\">\
             <rect width=\"{distance}\" height=\"{distance}\" fill=\"#f4f4f4\"/>\
             <path d=\"M0 0V{distance}{across}\" stroke=\"#444\" stroke-width=\"1.4\"/></pattern>\n"
        )
    };
    format!(
        "<defs>\n{}</defs>\n",
        HATCHES.iter().map(hatch).collect::<String>()
    )
}

/// How a bar looks.
#[derive(Clone, Copy, PartialEq)]
enum Paint {
    /// The number of the function or operation; steps are paler, every other one more so.
    Model(usize, Shade),
    Build,
    Evaluation,
    Wait(&'static str),
}

#[derive(Clone, Copy, PartialEq)]
enum Shade {
    Full,
    Step,
    OtherStep,
}

impl Paint {
    fn fill(self) -> String {
        match self {
            Paint::Model(number, shade) => {
                let opacity = match shade {
                    Shade::Full => 1.0,
                    Shade::Step => 0.6,
                    Shade::OtherStep => 0.35,
                };
                let (colour, _) = COLOURS[number % COLOURS.len()];
                format!("fill=\"{colour}\" fill-opacity=\"{opacity}\"")
            }
            Paint::Build => "fill=\"#f0e442\"".to_owned(),
            Paint::Evaluation => "fill=\"#d0d0d0\"".to_owned(),
            Paint::Wait(cause) => format!("fill=\"url(#{cause})\""),
        }
    }

    fn text(self) -> &'static str {
        match self {
            Paint::Model(number, Shade::Full) => COLOURS[number % COLOURS.len()].1,
            _ => "#111",
        }
    }
}

struct Picture<'a> {
    body: String,
    start: u64,
    /// Pixels for a nanosecond.
    scale: f64,
    functions: Vec<(&'a str, Vec<u64>)>,
}

/// What is drawn in a row.
struct Bar {
    from: f64,
    to: f64,
    paint: Paint,
    label: String,
    title: String,
}

impl Picture<'_> {
    fn x(&self, time: u64) -> f64 {
        LEFT + (time - self.start) as f64 * self.scale
    }

    fn model(&self, name: &str) -> usize {
        let known = self.functions.iter().position(|(own, _)| *own == name);
        known.unwrap_or(0)
    }

    fn paint(&self, event: &Event) -> Paint {
        match &event.what {
            What::Command { label, .. } | What::Tiles { label, .. } => {
                Paint::Model(self.model(label.name()), Shade::Full)
            }
            What::Step { label, step } => {
                let shade = [Shade::Step, Shade::OtherStep][step % 2];
                Paint::Model(self.model(label.name()), shade)
            }
            What::Build(_) => Paint::Build,
            What::Wait(cause) => Paint::Wait(cause.name()),
            _ => Paint::Evaluation,
        }
    }

    fn lane(&mut self, thread: &ThreadEvents, y: f64, all: u64) {
        let share = 100.0 * busy(thread) as f64 / all.max(1) as f64;
        let name: String = thread.name.chars().take(16).collect();
        self.text((LEFT - 10.0, y + 17.0), 12.0, "#111", "end", &name);
        let share = format!("{share:.0} % computing");
        self.text((LEFT - 10.0, y + 33.0), 10.0, "#444", "end", &share);
        let bar = |start, end, event: &Event| Bar {
            from: self.x(start),
            to: self.x(end),
            paint: self.paint(event),
            label: match &event.what {
                What::Wait(_) | What::Evaluation => String::new(),
                What::Tiles { label, .. } => label.name().to_owned(),
                what => what.to_string(),
            },
            title: describe(event),
        };
        let upper = pieces(thread)
            .into_iter()
            .map(|p| bar(p.start, p.end, p.event));
        let upper = settle(upper.collect());
        // Tiles that a worker does show the step that it helps.
        let in_steps = |event: &&Event| {
            let help = thread.worker && matches!(event.what, What::Tiles { .. });
            help || matches!(event.what, What::Step { .. })
        };
        let lower = thread.events.iter().filter(in_steps);
        let lower = lower.map(|event| {
            let mut bar = bar(event.start, event.end, event);
            if let What::Tiles { label, step, .. } = &event.what {
                bar.paint = Paint::Model(self.model(label.name()), Shade::Step);
                bar.label = label
                    .step(*step)
                    .map_or(String::new(), |about| about.name.clone());
            }
            bar
        });
        let lower = settle(disjoint(lower.collect()));
        upper
            .iter()
            .for_each(|bar| self.bar(bar, y + BAR.0, BAR.1, 11.0));
        lower
            .iter()
            .for_each(|bar| self.bar(bar, y + STEP.0, STEP.1, 8.5));
    }

    fn bar(&mut self, bar: &Bar, y: f64, height: f64, size: f64) {
        let width = bar.to - bar.from;
        let edge = if width > 3.0 {
            " stroke=\"#fff\" stroke-width=\"0.6\""
        } else {
            ""
        };
        let _ = writeln!(
            self.body,
            "<rect class=\"bar\" x=\"{:.3}\" y=\"{y}\" width=\"{:.3}\" height=\"{height}\" \
             {}{edge}><title>{}</title></rect>",
            bar.from,
            width,
            bar.paint.fill(),
            escaped(&bar.title)
        );
        if !bar.label.is_empty() && text_width(&bar.label, size) + 4.0 <= width {
            let middle = (bar.from + bar.to) / 2.0;
            let base = y + height / 2.0 + size * 0.36;
            self.text((middle, base), size, bar.paint.text(), "middle", &bar.label);
        }
    }

    /// What colours and hatchings mean, for those that there are; returns where it ends.
    fn legend(&mut self, timeline: &Timeline, mut y: f64) -> f64 {
        let mut entries: Vec<(Paint, String)> = Vec::new();
        for (number, (name, calls)) in self.functions.iter().enumerate().take(24) {
            let median = time(calls[calls.len() / 2]);
            let text = format!("{name}: {} calls, median {median}", calls.len());
            entries.push((Paint::Model(number, Shade::Full), text));
        }
        let has = |is: &dyn Fn(&What) -> bool| {
            let mut events = timeline.threads.iter().flat_map(|t| &t.events);
            events.any(|event| is(&event.what))
        };
        if has(&|what| matches!(what, What::Build(_))) {
            entries.push((Paint::Build, "builds a plan".to_owned()));
        }
        if has(&|what| matches!(what, What::Evaluation)) {
            entries.push((Paint::Evaluation, "schedules, wakes up".to_owned()));
        }
        for (cause, text, ..) in HATCHES {
            if has(&|what| matches!(what, What::Wait(c) if c.name() == cause)) {
                entries.push((Paint::Wait(cause), text.to_owned()));
            }
        }
        let mut x = LEFT;
        for (paint, text) in entries {
            let width = 24.0 + text_width(&text, 11.0) + 20.0;
            if x + width > RIGHT && x > LEFT {
                (x, y) = (LEFT, y + LINE);
            }
            let _ = writeln!(
                self.body,
                "<rect x=\"{x:.2}\" y=\"{y}\" width=\"18\" height=\"12\" stroke=\"#999\" \
                 stroke-width=\"0.5\" {}/>",
                paint.fill()
            );
            self.text((x + 24.0, y + 10.0), 11.0, "#111", "start", &text);
            x += width;
        }
        y + LINE
    }

    /// Times above the lanes, and lines through them.
    fn axis(&mut self, top: f64, bottom: f64, all: u64) {
        let step = tick(all, (RIGHT - LEFT) / 100.0);
        let mut at = 0;
        while at <= all {
            let x = self.x(self.start + at);
            self.line((x, top - 4.0), (x, bottom), "#ddd");
            let label = match at {
                0 => "0".to_owned(),
                at => tick_label(at, step),
            };
            self.text((x, top - 9.0), 10.0, "#444", "middle", &label);
            at += step;
        }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.body,
            "<line x1=\"{x1:.2}\" y1=\"{y1}\" x2=\"{x2:.2}\" y2=\"{y2}\" stroke=\"{colour}\"/>"
        );
    }

    fn text(&mut self, (x, y): (f64, f64), size: f64, colour: &str, anchor: &str, text: &str) {
        // What is too long for the picture is cut.
        let most = ((WIDTH - x) / text_width("m", size)) as usize;
        let text: String = text.chars().take(most).collect();
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.2}\" y=\"{y:.2}\" font-size=\"{size}\" fill=\"{colour}\" \
             text-anchor=\"{anchor}\">{}</text>",
            escaped(&text)
        );
    }
}

/// Bars of a row that do not overlap: of those within others, the outer ones.
fn disjoint(mut bars: Vec<Bar>) -> Vec<Bar> {
    let mut end = f64::MIN;
    bars.retain(|bar| {
        let apart = bar.from >= end;
        end = end.max(bar.to);
        apart
    });
    bars
}

/// Draws runs of bars that are too narrow to be seen as one bar each, in the paint that most of it
/// has.
fn settle(bars: Vec<Bar>) -> Vec<Bar> {
    let mut settled = Vec::new();
    let mut dust: Vec<Bar> = Vec::new();
    for bar in bars {
        let from = dust.first().map_or(bar.from, |first| first.from);
        let gap = dust.last().map_or(0.0, |last| bar.from - last.to);
        let wide = bar.to - bar.from >= DUST;
        if wide || gap > DUST || bar.to - from > 2.0 * DUST {
            settled.extend(together(std::mem::take(&mut dust)));
        }
        match wide {
            true => settled.push(bar),
            false => dust.push(bar),
        }
    }
    settled.extend(together(dust));
    settled
}

fn together(dust: Vec<Bar>) -> Option<Bar> {
    let mut widths: Vec<(Paint, f64)> = Vec::new();
    for bar in &dust {
        match widths.iter_mut().find(|(paint, _)| *paint == bar.paint) {
            Some((_, width)) => *width += bar.to - bar.from,
            None => widths.push((bar.paint, bar.to - bar.from)),
        }
    }
    let &(paint, _) = widths.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let (first, last) = (dust.first()?, dust.last()?);
    let title = match dust.len() {
        1 => first.title.clone(),
        count => format!("{count} short ones, the first: {}", first.title),
    };
    Some(Bar {
        from: first.from,
        to: last.to,
        paint,
        label: String::new(),
        title,
    })
}

/// What a pointer shows.
fn describe(event: &Event) -> String {
    let took = time(event.duration());
    match &event.what {
        What::Step { label, step } => {
            let about = label.step(*step);
            let signature = about.map_or("", |about| &about.signature);
            let class = about.map_or("", |about| &about.class);
            format!(
                "{took}: {} step {step}, {} ({class})\n{signature}",
                label.name(),
                event.what
            )
        }
        What::Tiles { label, step, tiles } => {
            let name = label.name();
            format!(
                "{took}: {tiles} tiles of {name} step {step}, {}",
                event.what
            )
        }
        What::Command { stream, .. } => format!("{took}: {} on stream {stream}", event.what),
        What::Wait(Cause::Core) => format!("{took}: {}, as many threads compute", event.what),
        what => format!("{took}: {what}"),
    }
}

/// A round number of nanoseconds, so that there are at most so many ticks.
fn tick(all: u64, most: f64) -> u64 {
    let least = all as f64 / most;
    let mut step = 1u64;
    for factor in [2, 5, 10].iter().cycle() {
        let decade = 10u64.pow(step.ilog10());
        if step as f64 >= least {
            break;
        }
        step = decade * factor;
    }
    step
}

/// A multiple of `step` with as few digits as it needs.
fn tick_label(at: u64, step: u64) -> String {
    let (unit, name) = match step {
        0..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "us"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    format!("{} {name}", at / unit)
}

fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.61
}

fn escaped(text: &str) -> String {
    let safe = text.replace('&', "&amp;").replace('<', "&lt;");
    let safe = safe.replace('>', "&gt;").replace('"', "&quot;");
    // Other control characters are not allowed in XML at all.
    safe.replace(|c: char| c.is_control() && c != '\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_not_too_many() {
        for (all, expected) in [(0, 1), (99, 10), (1_000, 100), (1_234_567, 200_000)] {
            assert_eq!(tick(all, 10.0), expected, "{all}");
        }
        assert_eq!(tick_label(200_000, 200_000), "200 us");
        assert_eq!(tick_label(2_000_000, 500_000), "2000 us");
    }

    #[test]
    fn short_bars_are_drawn_together() {
        let bar = |from: f64, to: f64, number| Bar {
            from,
            to,
            paint: Paint::Model(number, Shade::Full),
            label: String::new(),
            title: String::new(),
        };
        // Ten calls of 0.3 pixels with gaps of 0.1, then a long one.
        let short =
            (0..10).map(|i| bar(f64::from(i) * 0.4, f64::from(i) * 0.4 + 0.3, i as usize % 2));
        let bars = settle(short.chain([bar(4.0, 9.0, 2)]).collect());
        let last = bars.last().unwrap();
        assert_eq!((last.from, last.to), (4.0, 9.0));
        assert!(bars.len() <= 4, "{} bars", bars.len());
        assert!(bars.iter().zip(&bars[1..]).all(|(a, b)| a.to <= b.from));
        assert_eq!((bars[0].from, bars[bars.len() - 2].to), (0.0, 3.9));
    }

    #[test]
    fn text_is_safe_in_xml() {
        assert_eq!(
            escaped("a<b> & \"c\"\u{1}"),
            "a&lt;b&gt; &amp; &quot;c&quot; "
        );
    }
}
