//! Arrays print as MLX prints them: `data/display.txt` is what MLX printed for `data/display.npz`,
//! made by `tools/make_array_tests.py`.

use std::path::Path;

use motet::prelude::*;

#[test]
fn arrays_print_as_in_mlx() {
    let data = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data"));
    let arrays = motet_io::read(&data.join("display.npz")).unwrap();
    let printed = std::fs::read_to_string(data.join("display.txt")).unwrap();
    let mut compared = 0;
    for entry in printed.trim_end().split("\n\n") {
        let (name, expected) = entry.split_once(":\n").unwrap();
        let array = Array::from_tensor(arrays[name].clone());
        assert_eq!(array.to_string(), expected, "{name}");
        compared += 1;
    }
    assert_eq!(compared, arrays.len());
}

#[test]
fn strided_values_print_in_row_major_order() {
    let rows = Array::from([[1, 2, 3], [4, 5, 6]]);
    let permutation = vec![1, 0];
    let columns = motet_core::ops::shape::Transpose { permutation };
    let columns = &ops::apply(columns, &[rows]).unwrap()[0];
    let expected = "array([[1, 4],\n       [2, 5],\n       [3, 6]], dtype=int32)";
    assert_eq!(columns.to_string(), expected);
}

#[test]
fn a_failed_array_prints_its_error_and_debug_computes_nothing() {
    let x = Array::from([1.0f32, 2.0]);
    let index = Array::from([7]);
    let gather = motet_core::ops::indexing::GatherAxis { axis: 0 };
    let failed = &ops::apply(gather, &[x, index]).unwrap()[0];
    assert_eq!(format!("{failed:?}"), "Array(float32(1))");
    let printed = failed.to_string();
    assert!(
        printed.starts_with("array(error: [GatherAxis]"),
        "{printed}"
    );
    assert!(printed.ends_with(", dtype=float32)"), "{printed}");
}
