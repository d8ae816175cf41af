//! Two models, two threads, no lock in common: loaded once, compiled, each called from a thread of
//! its own; then both on one explicit stream; then one model shared by both threads.
//!
//! `cargo run --release -p motet --example two_models`

use motet::prelude::*;

const CALLS: usize = 200;

fn main() -> motet::Result<()> {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
    let detector = motet::import_function(format!("{models}/a.mlxfn"))?.compile();
    let encoder = motet::import_function(format!("{models}/b.mlxfn"))?.compile();
    let image = Array::from_slice(&[0.5f32; 32 * 32 * 3], [1, 32, 32, 3])?;
    let text = Array::from_slice(&format!("{:64}", "two voices").into_bytes(), [1, 64])?;
    let text = ops::astype(&text, Dtype::Int32)?;

    // Each thread on its own default stream.
    at_once([(&detector, &image), (&encoder, &text)])?;
    println!("two models, two threads: {CALLS} calls each, all as on one thread");

    // Both threads on one stream: their calls run in turn.
    let stream = motet::new_stream(Device::CPU)?;
    at_once([
        (&detector.on(&stream), &image),
        (&encoder.on(&stream), &text),
    ])?;
    println!("two models, one stream: {CALLS} calls each, all as on one thread");

    // One model, shared by reference.
    at_once([(&detector, &image), (&detector, &image)])?;
    println!("one model, two threads: {CALLS} calls each, all as on one thread");
    Ok(())
}

/// Calls each model from a thread of its own, again and again, and compares with a call alone.
fn at_once(jobs: [(&Function, &Array); 2]) -> motet::Result<()> {
    let call = |(model, input): (&Function, &Array)| -> motet::Result<Vec<f32>> {
        model.call(std::slice::from_ref(input))?[0].to_vec()
    };
    let alone = [call(jobs[0])?, call(jobs[1])?];
    std::thread::scope(|scope| {
        let run = |(job, alone)| {
            scope.spawn(move || -> motet::Result<()> {
                (0..CALLS).try_for_each(|_| call(job).map(|result| assert_eq!(&result, alone)))
            })
        };
        let threads: Vec<_> = jobs.into_iter().zip(&alone).map(run).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic");
        threads.into_iter().try_for_each(join)
    })
}
