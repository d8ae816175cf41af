//! `motet trace` and `motet bench --trace`: the files have what ran, and the picture is in order.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use common::{BAD_FILE, USAGE, fails, models, succeeds};
use roxmltree::{Document, Node};
use serde_json::Value;

fn model(name: &str) -> String {
    let path = models().join(format!("{name}.mlxfn"));
    path.to_str().unwrap().to_owned()
}

/// The complete events of a file, by thread.
fn events(path: &str) -> BTreeMap<u64, Vec<Value>> {
    let json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(json["otherData"]["lost_events"], 0);
    let mut threads: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for event in json["traceEvents"].as_array().unwrap() {
        if event["ph"] == "X" {
            let thread = event["tid"].as_u64().unwrap();
            threads.entry(thread).or_default().push(event.clone());
        }
    }
    threads
}

fn commands<'a>(events: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a Value> {
    let is = move |e: &&Value| e["cat"] == "command" && e["name"] == name;
    events.iter().filter(is)
}

#[test]
fn two_models_on_two_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = |file: &str| folder.path().join(file).to_str().unwrap().to_owned();
    let (a, b, json, svg) = (model("a"), model("b"), path("t.json"), path("t.svg"));
    let printed = succeeds(&[
        "trace", &a, &b, "--calls", "3", "--json", &json, "--svg", &svg,
    ]);
    for part in [
        "3 calls",
        "cores computed",
        "caller 1",
        "caller 2",
        "steps that took most",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let threads = events(&json);
    let calls_of = |name| {
        let counts = threads
            .iter()
            .map(|(&thread, e)| (thread, commands(e, name).count()));
        counts.filter(|&(_, count)| count > 0).collect::<Vec<_>>()
    };
    let (of_a, of_b) = (calls_of("a"), calls_of("b"));
    assert_eq!((of_a.len(), of_b.len()), (1, 1));
    assert_eq!((of_a[0].1, of_b[0].1), (3, 3));
    assert!(of_a[0].0 != of_b[0].0);
    for events in threads.values() {
        let mut within: Vec<f64> = Vec::new();
        for event in events {
            let start = event["ts"].as_f64().unwrap();
            let end = start + event["dur"].as_f64().unwrap();
            // Microseconds with three digits, added up.
            let rounding = 1e-3;
            while within
                .last()
                .is_some_and(|&outer| outer <= start + rounding)
            {
                within.pop();
            }
            assert!(
                within.last().is_none_or(|&outer| end <= outer + rounding),
                "{event}"
            );
            within.push(end);
        }
    }
    check_picture(&fs::read_to_string(&svg).unwrap(), "a, b on 2 threads");
}

#[test]
fn one_thread_and_many() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("t.svg").to_str().unwrap().to_owned();
    let (tiny, b) = (model("tiny"), model("b"));
    succeeds(&["trace", &tiny, "--calls", "1", "--svg", &svg]);
    check_picture(&fs::read_to_string(&svg).unwrap(), "tiny on 1 thread");
    let many = [
        "trace",
        &tiny,
        &b,
        "--threads",
        "32",
        "--seconds",
        "0.05",
        "--svg",
        &svg,
    ];
    succeeds(&many);
    let lanes = check_picture(&fs::read_to_string(&svg).unwrap(), "on 32 threads");
    assert!(lanes >= 32, "{lanes} rows");
    let most = [
        "trace",
        &tiny,
        "--threads",
        "100",
        "--calls",
        "2",
        "--svg",
        &svg,
    ];
    succeeds(&most);
    let picture = fs::read_to_string(&svg).unwrap();
    check_picture(&picture, "on 100 threads");
    assert!(picture.contains("threads that did less"));
}

#[test]
fn bench_records_what_it_measures() {
    let folder = tempfile::tempdir().unwrap();
    let path = |file: &str| folder.path().join(file).to_str().unwrap().to_owned();
    let (tiny, json, svg) = (model("tiny"), path("t.json"), path("t.svg"));
    let bench = |file: &str| {
        let arguments = [
            "bench",
            &tiny,
            "--threads",
            "2",
            "--seconds",
            "0.1",
            "--trace",
            file,
        ];
        succeeds(&arguments);
    };
    bench(&json);
    let threads = events(&json);
    assert_eq!(threads.len(), 2);
    assert!(
        threads
            .values()
            .all(|events| commands(events, "tiny").count() > 0)
    );
    bench(&svg);
    check_picture(
        &fs::read_to_string(&svg).unwrap(),
        "motet bench: tiny on 2 threads",
    );
}

#[test]
fn wrong_use_is_explained() {
    let tiny = model("tiny");
    fails(&["trace"], USAGE, "MODEL");
    fails(
        &["trace", &tiny, &tiny, "--threads", "1"],
        USAGE,
        "at least as many",
    );
    fails(&["trace", &tiny, "--calls", "0"], USAGE, "--calls");
    fails(
        &["trace", &tiny, "--calls", "1", "--seconds", "1"],
        USAGE,
        "cannot be used with",
    );
    fails(&["trace", "nowhere.mlxfn"], BAD_FILE, "nowhere.mlxfn");
    for option in ["--svg", "--json"] {
        fails(
            &["trace", &tiny, option, "nowhere/t"],
            BAD_FILE,
            "nowhere/t",
        );
    }
}

fn number(node: Node<'_, '_>, name: &str) -> f64 {
    let text = node.attribute(name);
    let text = text.unwrap_or_else(|| panic!("{node:?} has no {name}"));
    text.parse().unwrap()
}

/// Asserts that bars of a row do not overlap, nor texts, and that all is inside the picture.
/// Returns the number of rows.
fn check_picture(svg: &str, title: &str) -> usize {
    let document = Document::parse(svg).unwrap();
    let root = document.root_element();
    let (width, height) = (number(root, "width"), number(root, "height"));
    let elements = || root.descendants().filter(Node::is_element);
    let mut rows: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for bar in elements().filter(|e| e.attribute("class") == Some("bar")) {
        let (x, y) = (number(bar, "x"), number(bar, "y"));
        let (to, below) = (x + number(bar, "width"), y + number(bar, "height"));
        assert!(
            x >= 0.0 && y >= 0.0 && to <= width && below <= height,
            "{bar:?}"
        );
        assert!(
            bar.first_element_child()
                .is_some_and(|e| e.has_tag_name("title"))
        );
        rows.entry(y.to_string()).or_default().push((x, to));
    }
    for bars in rows.values_mut() {
        bars.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Positions are rounded to a thousandth of a pixel.
        assert!(bars.iter().zip(&bars[1..]).all(|(a, b)| a.1 <= b.0 + 0.002));
    }
    let mut boxes: Vec<[f64; 4]> = Vec::new();
    let mut texts = BTreeSet::new();
    for text in elements().filter(|e| e.has_tag_name("text")) {
        let content = text.text().unwrap();
        texts.insert(content.to_owned());
        let (size, x, y) = (
            number(text, "font-size"),
            number(text, "x"),
            number(text, "y"),
        );
        let wide = content.chars().count() as f64 * size * 0.602;
        let left = match text.attribute("text-anchor").unwrap() {
            "start" => x,
            "middle" => x - wide / 2.0,
            _ => x - wide,
        };
        let own = [left, left + wide, y - size * 0.75, y + size * 0.2];
        assert!(
            own[0] >= 0.0 && own[1] <= width && own[3] <= height,
            "{content}"
        );
        let apart =
            |o: &[f64; 4]| own[0] >= o[1] || own[1] <= o[0] || own[2] >= o[3] || own[3] <= o[2];
        assert!(boxes.iter().all(apart), "{content} overlaps another text");
        boxes.push(own);
    }
    assert!(texts.iter().any(|text| text.contains(title)), "{texts:?}");
    // Hatchings that are used are defined.
    for used in elements().filter_map(|e| e.attribute("fill")) {
        if let Some(id) = used
            .strip_prefix("url(#")
            .and_then(|id| id.strip_suffix(')'))
        {
            assert!(elements().any(|e| e.has_tag_name("pattern") && e.attribute("id") == Some(id)));
        }
    }
    rows.len()
}
