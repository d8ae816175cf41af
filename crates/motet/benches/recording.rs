//! What recording costs a model: calls with and without, in turns, as a ratio.
//! `cargo bench -p motet --bench recording -- MODEL.mlxfn`

use std::time::{Duration, Instant};

use motet::prelude::*;

/// Calls in one window: a recording of a tiny model has room for a hundred thousand.
const CALLS: usize = 10_000;
const WINDOWS: usize = 60;

fn main() {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny.mlxfn");
    let mut arguments = std::env::args().skip(1);
    let path = arguments.find(|argument| !argument.starts_with("--"));
    let function = motet::import_function(path.as_deref().unwrap_or(here)).unwrap();
    let function = function.compile();
    let graph = &function.signatures()[0];
    let zeros = |&value: &usize| {
        let spec = &graph.values[value];
        ops::zeros(spec.shape.clone(), spec.dtype).unwrap()
    };
    let inputs: Vec<Array> = graph.inputs.iter().map(zeros).collect();
    eval(&inputs).unwrap();
    let window = || {
        let begin = Instant::now();
        for _ in 0..CALLS {
            eval(&function.call(&inputs).unwrap()).unwrap();
        }
        begin.elapsed()
    };
    window();
    let (mut without, mut with) = (Duration::MAX, Duration::MAX);
    let mut ratios = Vec::new();
    for _ in 0..WINDOWS {
        let off = window();
        let recording = motet::trace::start().unwrap();
        let on = window();
        let timeline = recording.stop();
        assert_eq!(timeline.lost, 0);
        (without, with) = (without.min(off), with.min(on));
        ratios.push(on.as_secs_f64() / off.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "{}: {:?} a call without, {:?} with a recording; {:.3} times, {:.3} in the median window",
        function.name(),
        without / CALLS as u32,
        with / CALLS as u32,
        with.as_secs_f64() / without.as_secs_f64(),
        ratios[WINDOWS / 2],
    );
}
