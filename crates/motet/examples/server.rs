//! A server in small: requests to two models are tasks of an async runtime, each with a timeout.
//!
//! `cargo run --release -p motet --example server`

use std::time::Duration;

use motet::prelude::*;
use tokio::time::timeout;

/// Computes on motet's threads; the executor's are free meanwhile. When the timeout drops this, what
/// has not been computed is not computed.
async fn answer(model: Function, input: Array) -> motet::Result<Vec<f32>> {
    let outputs = model.call(&[input])?;
    motet::eval_async(&outputs).await?;
    outputs[0].to_vec()
}

#[tokio::main]
async fn main() -> motet::Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
    let image = Array::from_slice(&[0.5f32; 32 * 32 * 3], [1, 32, 32, 3])?;
    let text = Array::from_slice(&[32i32; 64], [1, 64])?;
    let mut models = Vec::new();
    for (name, input) in [("a", image), ("b", text)] {
        // A stream for each model: neither waits for the other.
        let stream = motet::new_stream(Device::CPU)?;
        let model = motet::import_function(format!("{folder}/{name}.mlxfn"))?;
        let model = model.compile().on(&stream);
        // The first call makes the plan: not under a request's timeout.
        model.call(std::slice::from_ref(&input))?[0].eval()?;
        models.push((name, model, input));
    }

    let requests: Vec<_> = (0..20u64)
        .map(|number| {
            let (name, model, input) = models[number as usize % 2].clone();
            let limit = Duration::from_micros(300 * (number + 1));
            let request = tokio::spawn(timeout(limit, answer(model, input)));
            (number, name, limit, request)
        })
        .collect();
    for (number, name, limit, request) in requests {
        match request.await.expect("the task does not panic") {
            Ok(result) => println!("request {number} to {name}: {} numbers", result?.len()),
            Err(_) => println!("request {number} to {name}: not done in {limit:?}"),
        }
    }
    Ok(())
}
