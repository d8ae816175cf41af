//! Indexing as in MLX: `data/indexing.json` has random indices with what MLX takes and sets by them,
//! made by `tools/make_array_tests.py`. What MLX leaves open or refuses is here by hand.

use motet::prelude::*;
use motet::{IndexItem, Result};
use serde_json::Value;

fn integers(value: &Value) -> Vec<i32> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_i64().unwrap() as i32).collect()
}

fn array(value: &Value) -> Array {
    let shape = integers(&value["shape"])
        .into_iter()
        .map(|dim| dim as usize);
    Array::from_vec(integers(&value["data"]), shape.collect::<Vec<_>>()).unwrap()
}

fn item(value: &Value) -> IndexItem {
    match value {
        Value::Number(position) => position.as_i64().unwrap().into(),
        Value::String(name) if name == "new" => NewAxis.into(),
        Value::String(_) => Ellipsis.into(),
        Value::Array(slice) => {
            let by = slice[2].as_i64().unwrap();
            let slice = match (slice[0].as_i64(), slice[1].as_i64()) {
                (Some(start), Some(end)) => step(start..end, by),
                (Some(start), None) => step(start.., by),
                (None, Some(end)) => step(..end, by),
                (None, None) => step(.., by),
            };
            slice.into()
        }
        indices => array(indices).into(),
    }
}

#[test]
fn parts_are_those_that_mlx_takes_and_sets() {
    let text = include_str!("data/indexing.json");
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    assert!(cases.len() >= 200, "{}", cases.len());
    for case in &cases {
        let shape: Vec<usize> = integers(&case["shape"])
            .iter()
            .map(|&d| d as usize)
            .collect();
        let x = Array::from_vec((0..shape.iter().product::<usize>() as i32).collect(), shape);
        let x = x.unwrap();
        let index: Vec<IndexItem> = case["index"].as_array().unwrap().iter().map(item).collect();
        let expected = array(&case["part"]);
        let part = x.index(index.clone()).unwrap();
        assert_eq!(part.shape(), expected.shape(), "{case}");
        assert_eq!(
            part.to_vec::<i32>().unwrap(),
            expected.to_vec::<i32>().unwrap(),
            "{case}"
        );

        let values = array(&case["values"]);
        let at = || x.at(index.clone());
        let changed = [
            ("set", x.index_set(index.clone(), &values)),
            ("add", at().add(&values)),
            ("subtract", at().subtract(&values)),
            ("multiply", at().multiply(&values)),
            ("maximum", at().maximum(&values)),
            ("minimum", at().minimum(&values)),
        ];
        for (name, changed) in changed {
            let changed = changed.unwrap_or_else(|error| panic!("{name}: {error}: {case}"));
            assert_eq!(changed.shape(), x.shape());
            assert_eq!(
                changed.to_vec::<i32>().unwrap(),
                integers(&case[name]),
                "{name}: {case}"
            );
        }
    }
}

fn sample() -> Array {
    array!([[0, 1, 2], [3, 4, 5]])
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("refused").to_string()
}

#[test]
fn what_does_not_fit_is_an_error() {
    let x = sample();
    let floats = array!([0.0]);
    let bools = array!([true, false]);
    let unsigned = array!([1u64]);
    let signed = array!([1i8]);
    let cases = [
        (
            message(x.index((0, 0, 0))),
            "got more items than the array has dimensions",
        ),
        (
            message(x.index(2)),
            "position 2 is out of range for axis 0 of size 2",
        ),
        (
            message(x.index((.., -4))),
            "position -4 is out of range for axis 1 of size 3",
        ),
        (message(x.index(i64::MIN)), "is out of range"),
        (message(x.index(usize::MAX)), "is out of range"),
        (message(x.index((Ellipsis, Ellipsis))), "got two ellipses"),
        (
            message(x.index(step(.., 0))),
            "the step of the range for axis 0 is 0",
        ),
        (message(x.index(&floats)), "expected integers"),
        (message(x.index(&bools)), "index_set takes bools"),
        (
            message(x.index(([0, 1], [0, 1, 2]))),
            "do not broadcast together",
        ),
        (
            message(x.index((&unsigned, &signed))),
            "no integer dtype in common",
        ),
        (
            message(x.index_set((0, &bools), 5)),
            "index_set takes bools",
        ),
        (message(x.index_set(0, array!([1, 2]))), "expected (3)"),
        (
            message(x.index_set((.., 0), array!([[1], [2]]))),
            "expected (2)",
        ),
        (
            message(x.index_set(array!([true; 3]), 5)),
            "the first dimensions of (2,3)",
        ),
        (message(x.at(0).divide(2)), "expected floats"),
        (message(array!(1).index(0)), "got more items"),
    ];
    for (message, expected) in cases {
        assert!(message.starts_with("[index] "), "{message}");
        assert!(message.contains(expected), "{message} has not {expected}");
    }
}

#[test]
fn index_arrays_are_checked_when_they_are_used() {
    let x = sample();
    for index in [[0, 2], [-3, 0]] {
        let part = x.index(index).unwrap();
        assert!(
            message(part.eval()).contains("out of range"),
            "{}",
            message(part.eval())
        );
        assert!(x.index_set(index, 7).unwrap().eval().is_err());
        assert!(x.at((index, 1..)).add(7).unwrap().eval().is_err());
    }
}

#[test]
fn bools_set_where_they_are_true() {
    let x = sample();
    let mask = array!([[true, false, true], [false, true, false]]);
    let set = |mask: &Array, values: Array| x.index_set(mask, values).unwrap();
    let flat = |array: Array| array.to_vec::<i32>().unwrap();
    // As MLX gives.
    assert_eq!(flat(set(&mask, array!(9))), [9, 1, 9, 3, 9, 5]);
    assert_eq!(flat(set(&mask, array!(2.7))), [2, 1, 2, 3, 2, 5]);
    assert_eq!(flat(set(&mask, array!([7, 8, 9]))), [7, 1, 8, 3, 9, 5]);
    assert_eq!(flat(set(&mask, array!([7, 8, 9, 10]))), [7, 1, 8, 3, 9, 5]);
    let rows = array!([true, false]);
    assert_eq!(flat(set(&rows, array!([7, 8, 9]))), [7, 8, 9, 3, 4, 5]);
    assert_eq!(flat(set(&rows, array!([[7, 8, 9]]))), [7, 8, 9, 3, 4, 5]);
    let both = array!([true, true]);
    assert_eq!(flat(set(&both, array!([[7], [9]]))), [7, 7, 7, 9, 9, 9]);
    assert_eq!(flat(set(&array!(true), array!(5))), [5; 6]);
    let none = array!([[false; 3]; 2]);
    assert_eq!(flat(set(&none, array!([7, 8]))), [0, 1, 2, 3, 4, 5]);
    let nothing = Array::from_slice(&[0i32; 0], [0]).unwrap();
    assert_eq!(flat(set(&none, nothing)), [0, 1, 2, 3, 4, 5]);
    // Too few.
    assert!(set(&mask, array!([7, 8])).eval().is_err());
    assert!(x.index_set(&mask, &x).is_err());
}

#[test]
fn halves_and_bools_are_taken_and_set() {
    let x = ops::astype(&array!([1.0, 2.0, 3.0]), Dtype::Bfloat16).unwrap();
    let y = x.index_set(1.., 0.5).unwrap();
    assert_eq!(y.to_string(), "array([1, 0.5, 0.5], dtype=bfloat16)");
    let y = x.at([0, 0]).divide(2).unwrap();
    assert_eq!(y.to_string(), "array([0.25, 2, 3], dtype=bfloat16)");
    let flags = array!([true, false, true]).index(step(.., -2)).unwrap();
    assert_eq!(flags.to_vec::<bool>().unwrap(), [true, true]);
}
