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
    let text: Vec<i32> = format!("{:64}", "two voices")
        .bytes()
        .map(i32::from)
        .collect();
    let text = Array::from_slice(&text, [1, 64])?;

    let classes = call(&detector, &image)?;
    let vector = call(&encoder, &text)?;

    // Each thread on its own default stream.
    both(
        || repeat(&detector, &image, &classes),
        || repeat(&encoder, &text, &vector),
    )?;
    println!("two models, two threads: {CALLS} calls each, all as on one thread");

    // Both threads on one stream: their calls run in turn.
    let stream = motet::new_stream(Device::CPU)?;
    let (on_detector, on_encoder) = (detector.on(&stream), encoder.on(&stream));
    both(
        || repeat(&on_detector, &image, &classes),
        || repeat(&on_encoder, &text, &vector),
    )?;
    println!("two models, one stream: {CALLS} calls each, all as on one thread");

    // One model, shared by reference.
    both(
        || repeat(&detector, &image, &classes),
        || repeat(&detector, &image, &classes),
    )?;
    println!("one model, two threads: {CALLS} calls each, all as on one thread");
    Ok(())
}

fn call(model: &Function, input: &Array) -> motet::Result<Vec<f32>> {
    model.call(std::slice::from_ref(input))?[0].to_vec()
}

fn repeat(model: &Function, input: &Array, expected: &[f32]) -> motet::Result<()> {
    for _ in 0..CALLS {
        assert_eq!(call(model, input)?, expected);
    }
    Ok(())
}

fn both(
    a: impl FnOnce() -> motet::Result<()> + Send,
    b: impl FnOnce() -> motet::Result<()> + Send,
) -> motet::Result<()> {
    std::thread::scope(|s| {
        let (a, b) = (s.spawn(a), s.spawn(b));
        a.join()
            .expect("thread a panicked")
            .and(b.join().expect("thread b panicked"))
    })
}
