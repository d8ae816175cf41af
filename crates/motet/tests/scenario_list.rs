//! Looks whether each of the situations in `docs/scenarios.md` has the tests that it names.

use std::collections::BTreeMap;
use std::path::Path;

/// How many situations there are.
const SITUATIONS: u32 = 46;

#[test]
fn every_situation_has_the_tests_that_its_row_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("../../docs/scenarios.md")).unwrap();
    let rows: BTreeMap<u32, &str> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let number = cells.next()?.parse().ok()?;
            Some((number, cells.nth(2)?))
        })
        .collect();
    assert!(rows.keys().copied().eq(1..=SITUATIONS));
    for (number, tests) in rows {
        // The file names stand between backquotes.
        let files: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!files.is_empty(), "{number} has no test");
        for file in files {
            let source = std::fs::read_to_string(root.join("tests").join(file)).unwrap();
            let test = format!("fn s{number:02}_");
            assert!(
                source.contains(&test),
                "{file} has no test of situation {number}"
            );
        }
    }
}
