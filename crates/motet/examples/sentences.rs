//! Ranks sentences by their similarity to a query, with two sentence encoders on two threads.
//!
//! Needs the model that `cargo xtask real` exports to `target/real`:
//! `cargo run --release -p motet --example sentences -- "how do I bake bread?"`

use std::path::Path;

use motet::prelude::*;
use tokenizers::Tokenizer;

const SENTENCES: [&str; 8] = [
    "Knead the dough and let it rise for an hour.",
    "The cat sleeps on the window sill.",
    "Each voice of a motet sings a text of its own.",
    "Put the loaf into a hot oven.",
    "Two threads may evaluate one graph at the same time.",
    "It will rain in the mountains tomorrow.",
    "Several melodies sound together without waiting for each other.",
    "Processors share memory through their caches.",
];

/// The lengths that the model was exported for; shorter sentences are padded.
const LENGTHS: [usize; 4] = [16, 32, 64, 128];

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/real"));
    if !folder.join("minilm.mlxfn").exists() {
        return Err("target/real/minilm.mlxfn is not there: run `cargo xtask real` first".into());
    }
    let query = std::env::args().nth(1);
    let query = query.unwrap_or_else(|| "How do I bake bread?".to_owned());

    let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))?;
    tokenizer.with_padding(None);
    // Two encoders, as two applications in one process would have them: nothing is shared.
    let load = || motet::import_function(folder.join("minilm.mlxfn")).map(|f| f.compile());
    let (first, second) = (load()?, load()?);

    let query_embedding = embed(&first, &tokenizer, &query)?;
    let (left, right) = SENTENCES.split_at(SENTENCES.len() / 2);
    let embed_all = |model: &Function, sentences: &[&str]| {
        let each = sentences.iter().map(|s| embed(model, &tokenizer, s));
        each.collect::<Result<Vec<_>, Failure>>()
    };
    let embeddings = std::thread::scope(|s| {
        let left = s.spawn(|| embed_all(&first, left));
        let right = s.spawn(|| embed_all(&second, right));
        let mut all = left.join().expect("the first encoder panicked")?;
        all.extend(right.join().expect("the second encoder panicked")?);
        Ok::<_, Failure>(all)
    })?;

    let mut ranked: Vec<(f32, &str)> = embeddings
        .iter()
        .map(|embedding| {
            embedding
                .iter()
                .zip(&query_embedding)
                .map(|(a, b)| a * b)
                .sum()
        })
        .zip(SENTENCES)
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("{query}");
    for (similarity, sentence) in ranked {
        println!("{similarity:7.3}  {sentence}");
    }
    Ok(())
}

/// The sentence's embedding, of length one.
fn embed(model: &Function, tokenizer: &Tokenizer, text: &str) -> Result<Vec<f32>, Failure> {
    let encoding = tokenizer.encode(text, true)?;
    let tokens = encoding.get_ids().len();
    let length = LENGTHS.into_iter().find(|&length| length >= tokens);
    let length = length.ok_or("the sentence has more than 128 tokens")?;
    let mut ids: Vec<i32> = encoding.get_ids().iter().map(|&id| id as i32).collect();
    let mut mask = vec![1; tokens];
    ids.resize(length, 0);
    mask.resize(length, 0);
    let ids = Array::from_slice(&ids, [1, length])?;
    let mask = Array::from_slice(&mask, [1, length])?;
    Ok(model.call(&[ids, mask])?[0].to_vec()?)
}
