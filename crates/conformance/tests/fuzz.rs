//! The fuzz targets on the corpus, and on seeded changes of it. `MOTET_FUZZ_SECONDS` and
//! `MOTET_FUZZ_SEED` run it for longer and elsewhere.

use std::time::{Duration, Instant};

use conformance::allocation::{Counted, peak_of};
use conformance::fuzz::{Body, MEMORY, TARGETS, corpus, mutated};
use conformance::noise::Noise;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// What a body may take beside arrays: the file as it was read, plans, scratch lists.
const BESIDE: usize = 48 << 20;

fn run(target: &str, body: Body, bytes: &[u8]) {
    let outcome = std::panic::catch_unwind(|| peak_of(|| body(bytes)));
    let peak = match outcome {
        Ok(peak) if peak <= MEMORY + BESIDE => return,
        Ok(peak) => format!("took {} MB", peak >> 20),
        Err(_) => "panicked".into(),
    };
    let file = std::env::temp_dir().join(format!("motet-fuzz-{target}"));
    std::fs::write(&file, bytes).unwrap();
    panic!("{target} {peak}; the bytes are in {}", file.display());
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// The coverage-guided targets run the same bodies.
#[test]
fn targets_are_those_of_cargo_fuzz() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/fuzz_targets");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), TARGETS.len());
    for (name, _) in TARGETS {
        let source = std::fs::read_to_string(format!("{folder}/{name}.rs")).unwrap();
        assert!(
            source.contains(&format!("conformance::fuzz::{name}(bytes)")),
            "{name}"
        );
    }
}

/// One test: the memory of all threads is counted together.
#[test]
fn targets_survive_the_corpus_and_its_changes() {
    let corpora: Vec<Vec<Vec<u8>>> = TARGETS
        .iter()
        .map(|(name, _)| corpus(name).unwrap())
        .collect();
    for ((target, body), files) in TARGETS.iter().zip(&corpora) {
        files.iter().for_each(|bytes| run(target, *body, bytes));
    }
    let seconds = Duration::from_secs(setting("MOTET_FUZZ_SECONDS").unwrap_or(20));
    let mut noise = Noise::new(setting("MOTET_FUZZ_SEED").unwrap_or(1));
    let start = Instant::now();
    let mut runs = [0; TARGETS.len()];
    while start.elapsed() < seconds {
        for (index, (target, body)) in TARGETS.iter().enumerate() {
            let files = &corpora[index];
            // A rule is some choices and has no format.
            let bytes = match *target {
                "rules" => (0..32).map(|_| noise.bits() as u8).collect(),
                _ => {
                    let (file, other) = (noise.below(files.len()), noise.below(files.len()));
                    mutated(&files[file], &files[other], &mut noise)
                }
            };
            run(target, *body, &bytes);
            runs[index] += 1;
        }
    }
    println!("{runs:?}");
}
