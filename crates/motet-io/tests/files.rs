//! What is written is read back, and what is damaged is an error that names the file.

use std::fs;
use std::path::Path;

use motet_core::dtype::Dtype;
use motet_core::error::ErrorKind;
use motet_core::shape::{Shape, Spec, Strides};
use motet_io::{NPY_NAME, Tensors, from_row_major, read, row_major, write};

/// A tensor of every dtype, with odd sizes so that some data in the file is unaligned.
fn samples() -> Tensors {
    let sample = |dtype: Dtype| {
        let spec = Spec::new([1, 3], dtype);
        let bytes: Vec<u8> = (0..spec.bytes())
            .map(|i| {
                if dtype == Dtype::Bool {
                    i as u8 % 2
                } else {
                    7 * i as u8 + 1
                }
            })
            .collect();
        (
            format!("in.{dtype}"),
            from_row_major(&spec, &bytes).unwrap(),
        )
    };
    let mut tensors: Tensors = Dtype::ALL.into_iter().map(sample).collect();
    let scalar = from_row_major(&Spec::new([], Dtype::Float32), &1.5f32.to_ne_bytes());
    tensors.insert("scalar".into(), scalar.unwrap());
    let empty = from_row_major(&Spec::new([2, 0], Dtype::Int64), &[]);
    tensors.insert("empty".into(), empty.unwrap());
    tensors
}

fn assert_equal(a: &Tensors, b: &Tensors) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, tensor) in a {
        assert_eq!(tensor.spec(), b[name].spec(), "{name}");
        assert_eq!(row_major(tensor), row_major(&b[name]), "{name}");
    }
}

#[test]
fn every_dtype_survives_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = samples();
    for name in ["t.safetensors", "t.npz"] {
        let path = folder.path().join(name);
        write(&path, &tensors).unwrap();
        assert_equal(&read(&path).unwrap(), &tensors);
    }
    for tensor in tensors.values() {
        let one = Tensors::from([(NPY_NAME.to_owned(), tensor.clone())]);
        let path = folder.path().join("t.npy");
        write(&path, &one).unwrap();
        assert_equal(&read(&path).unwrap(), &one);
    }
    assert!(write(&folder.path().join("t.npy"), &tensors).is_err());
}

#[test]
fn strided_tensors_are_written_in_row_major_order() {
    let data: Vec<u8> = (0..6).collect();
    let mut tensor = from_row_major(&Spec::new([2, 3], Dtype::Uint8), &data).unwrap();
    tensor.layout.shape = Shape::new(&[3, 2]);
    tensor.layout.strides = Strides::from_slice(&[1, 3]);
    assert_eq!(&*row_major(&tensor), &[0, 3, 1, 4, 2, 5]);
    let reversed = tensor.layout.clone();
    tensor.offset = 5;
    tensor.layout.strides = reversed.strides.iter().map(|stride| -stride).collect();
    assert_eq!(&*row_major(&tensor), &[5, 2, 4, 1, 3, 0]);
}

/// An npy file of version 1 with this header text.
fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn read_npy(folder: &Path, bytes: &[u8]) -> Result<motet_core::tensor::Tensor, ErrorKind> {
    let path = folder.join("x.npy");
    fs::write(&path, bytes).unwrap();
    match read(&path) {
        Ok(tensors) => Ok(tensors[NPY_NAME].clone()),
        Err(error) => {
            assert!(error.to_string().contains("x.npy"), "{error}");
            Err(error.kind())
        }
    }
}

#[test]
fn npy_in_other_orders() {
    let folder = tempfile::tempdir().unwrap();
    let header = "{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }\n";
    let data: Vec<u8> = [1i16, 4, 2, 5, 3, 6]
        .iter()
        .flat_map(|x| x.to_be_bytes())
        .collect();
    let tensor = read_npy(folder.path(), &npy(header, &data)).unwrap();
    let expected: Vec<u8> = (1i16..=6).flat_map(i16::to_ne_bytes).collect();
    assert_eq!(*row_major(&tensor), *expected);
}

#[test]
fn hostile_npy_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let header = |descr: &str, shape: &str| {
        let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
        npy(&text, &[0; 8])
    };
    let cases = [
        (header("'<f4'", "(3,)"), ErrorKind::File),
        (header("'<f4'", "(4611686018427387904, 8)"), ErrorKind::File),
        (header("'<f4'", "(99999999999999999999,)"), ErrorKind::File),
        (header("'<f4'", "(-1,)"), ErrorKind::File),
        (header("'|b1'", "(8,)"), ErrorKind::File),
        (header("'<U4'", "(2,)"), ErrorKind::Unsupported),
        (header("[('a', '<f4')]", "(2,)"), ErrorKind::Unsupported),
        (
            b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(),
            ErrorKind::File,
        ),
        (b"\x93NUM".to_vec(), ErrorKind::File),
        (Vec::new(), ErrorKind::File),
        (vec![0; 64], ErrorKind::File),
    ];
    for (i, (mut bytes, expected)) in cases.into_iter().enumerate() {
        if i == 4 {
            *bytes.last_mut().unwrap() = 2;
        }
        assert_eq!(
            read_npy(folder.path(), &bytes).err(),
            Some(expected),
            "case {i}"
        );
    }
}

#[test]
fn damaged_safetensors_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    write(&path, &samples()).unwrap();
    let whole = fs::read(&path).unwrap();
    for len in [0, 4, 8, 20, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        let error = read(&path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::File);
        assert!(error.to_string().contains("t.safetensors"), "{error}");
    }
    let header = r#"{"x":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.push(2);
    fs::write(&path, &bytes).unwrap();
    assert!(
        read(&path)
            .err()
            .unwrap()
            .to_string()
            .contains("tensor 'x'")
    );
}

#[test]
fn unknown_and_missing_files_are_errors() {
    for name in [
        "nowhere.safetensors",
        "nowhere.npz",
        "nowhere.npy",
        "nowhere.txt",
    ] {
        let error = read(Path::new(name)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::File);
        assert!(error.to_string().contains(name), "{error}");
    }
}
