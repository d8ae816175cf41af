//! Files that MLX and numpy wrote are read, and what motet writes is read back. The files in `data`
//! are made by `tools/make_array_tests.py`, which with `--check target/tmp` also has MLX and numpy
//! read what the tests here write.

use std::path::{Path, PathBuf};

use motet::prelude::*;
use motet::{Arrays, ErrorKind, Metadata};

fn data(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data")).join(name)
}

fn assert_same(a: &Arrays, b: &Arrays) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, x) in a {
        let bytes = |x: &Array| motet_io::row_major(&x.tensor().unwrap()).into_owned();
        assert_eq!(format!("{x:?}"), format!("{:?}", b[name]), "{name}");
        assert_eq!(bytes(x), bytes(&b[name]), "{name}");
    }
}

#[test]
fn all_formats_hold_all_arrays() {
    // Left there, for the script.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let arrays = motet::load(data("display.npz")).unwrap();
    let metadata = Metadata::from([("made by".to_owned(), "motet".to_owned())]);
    motet::savez(folder.join("motet"), &[], &arrays).unwrap();
    motet::savez_compressed(folder.join("small.npz"), &[], &arrays).unwrap();
    let mut for_mlx = arrays.clone();
    for_mlx.retain(|_, array| array.dtype() != Dtype::Float64);
    motet::save_safetensors(folder.join("motet"), &for_mlx, &metadata).unwrap();
    assert_same(&motet::load(folder.join("motet.npz")).unwrap(), &arrays);
    assert_same(&motet::load(folder.join("small.npz")).unwrap(), &arrays);
    let (loaded, told) = motet::load_safetensors(folder.join("motet.safetensors")).unwrap();
    assert_same(&loaded, &for_mlx);
    assert_eq!(told, metadata);
    for (name, array) in &arrays {
        motet::save(folder.join(name), array).unwrap();
        let loaded = motet::load(folder.join(format!("{name}.npy"))).unwrap();
        let expected = Arrays::from([("arr_0".to_owned(), array.clone())]);
        assert_same(&loaded, &expected);
    }
}

#[test]
fn files_of_mlx_and_numpy_are_read() {
    let expected = Array::from([[0, 3], [1, 4], [2, 5]]);
    let expected = Arrays::from([("arr_0".to_owned(), expected)]);
    for name in [
        "mlx_transposed.npy",
        "numpy_fortran.npy",
        "numpy_big_endian.npy",
    ] {
        assert_same(&motet::load(data(name)).unwrap(), &expected);
    }
    assert_same(
        &motet::load(data("numpy_compressed.npz")).unwrap(),
        &expected,
    );
    let (arrays, metadata) = motet::load_safetensors(data("mlx.safetensors")).unwrap();
    assert_eq!(
        arrays["half"].to_string(),
        "array([0, 1, 2], dtype=bfloat16)"
    );
    assert_eq!(arrays["z"].to_string(), "array([1+2j], dtype=complex64)");
    assert_eq!(metadata, Metadata::from([("k".to_owned(), "v".to_owned())]));
    let (_, metadata) = motet::load_safetensors(data("mlx_no_metadata.safetensors")).unwrap();
    assert!(metadata.is_empty());
}

#[test]
fn a_file_can_be_replaced_while_it_is_mapped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let arrays = Arrays::from([("w".to_owned(), Array::from([1.5f32; 4096]))]);
    motet::save_safetensors(&path, &arrays, &Metadata::new()).unwrap();
    let loaded = motet::load(&path).unwrap();
    let doubled = Arrays::from([("w".to_owned(), &loaded["w"] + &loaded["w"])]);
    motet::save_safetensors(&path, &doubled, &Metadata::new()).unwrap();
    assert_eq!(*loaded["w"].as_slice::<f32>().unwrap(), [1.5; 4096]);
    assert_eq!(
        *motet::load(&path).unwrap()["w"].as_slice::<f32>().unwrap(),
        [3.0; 4096]
    );
    // Nothing is left beside it.
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn names_that_do_not_fit_are_errors() {
    let x = Array::from([1]);
    let taken = Arrays::from([("arr_0".to_owned(), x.clone())]);
    let error = motet::savez("never", std::slice::from_ref(&x), &taken).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error
            .to_string()
            .starts_with("[savez] got an array named 'arr_0'")
    );
    let error = motet::save("no/such/folder/x", &x).unwrap_err();
    assert!(
        error.to_string().contains("no/such/folder/x.npy"),
        "{error}"
    );
    assert_eq!(motet::load("x").unwrap_err().kind(), ErrorKind::File);
}
