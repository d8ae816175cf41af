//! What holds for every primitive, tried on all samples.

use std::collections::HashSet;

use super::*;
use crate::dtype::Dtype;
use crate::error::ErrorKind;
use crate::shape::Layout;

fn decode(name: &str, bytes: &[u8], version: Version) -> Result<Primitive> {
    let mut reader = Reader::new(bytes);
    let primitive = Primitive::decode(name, &mut reader, version)?;
    assert_eq!(reader.remaining(), 0, "{name} left bytes");
    Ok(primitive)
}

#[test]
fn all_names_of_mlx_are_known() {
    let samples = Primitive::samples();
    let stored = samples.iter().map(|sample| &sample.primitive);
    let names: HashSet<&str> = stored
        .filter(|primitive| primitive.is_stored())
        .map(Primitive::name)
        .collect();
    // CustomKernel is MLX's other one.
    assert_eq!(names.len(), 115);
    let unknown = decode("Xyz", &[], Version::NEWEST).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::File);
    assert!(unknown.to_string().contains("Xyz"));
}

#[test]
fn custom_kernels_are_refused_by_name() {
    let mut bytes = Vec::new();
    Writer(&mut bytes).string("my_kernel");
    let error = decode("CustomKernel", &bytes, Version::NEWEST).unwrap_err();
    assert!(error.to_string().contains("my_kernel"));
}

#[test]
fn every_primitive_has_samples() {
    let sampled: HashSet<&str> = Primitive::samples()
        .iter()
        .map(|s| s.primitive.name())
        .collect();
    for name in Primitive::NAMES {
        assert!(sampled.contains(name), "{name}");
    }
}

#[test]
fn states_round_trip_and_never_end_early() {
    for Sample { primitive, .. } in Primitive::samples() {
        let bytes = primitive.encoded();
        if !primitive.is_stored() {
            let error = decode(primitive.name(), &bytes, Version::NEWEST).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::File, "{primitive:?}");
            continue;
        }
        let again = decode(primitive.name(), &bytes, Version::NEWEST).unwrap();
        assert_eq!(again, primitive);
        assert_eq!(format!("{again:?}"), format!("{primitive:?}"));
        for cut in 0..bytes.len() {
            let error = decode(primitive.name(), &bytes[..cut], Version::NEWEST).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::File, "{primitive:?}");
        }
    }
}

#[test]
fn equality_looks_at_name_and_parameters() {
    let sort = |axis| Primitive::from(sort::Sort { axis });
    assert_eq!(sort(1), sort(1));
    assert_ne!(sort(1), sort(0));
    assert_ne!(sort(1), Primitive::from(sort::ArgSort { axis: 1 }));
    let nan = |start| {
        Primitive::from(assemble::Arange {
            start,
            stop: 1.0,
            step: 1.0,
        })
    };
    assert_eq!(nan(f64::NAN), nan(f64::NAN));
    assert_eq!(HashSet::from([sort(1), sort(0), sort(1)]).len(), 2);
}

#[test]
fn samples_are_legal_and_lower_to_what_was_inferred() {
    for Sample { primitive, inputs } in Primitive::samples() {
        let outputs = primitive.infer(&inputs, None).unwrap();
        assert_eq!(primitive.infer(&inputs, Some(&outputs)).unwrap(), outputs);
        match primitive.lower(&inputs, &outputs).unwrap() {
            Lowered::Kernel(Kernel::Elementwise(program)) => {
                assert!(program.inputs.len() <= inputs.len());
                for (dtype, input) in program.inputs.iter().zip(&inputs) {
                    assert_eq!(*dtype, input.dtype, "{primitive:?}");
                }
                for (i, output) in outputs.iter().enumerate() {
                    assert_eq!(program.output_dtype(i), output.dtype, "{primitive:?}");
                }
            }
            Lowered::Kernel(_) => {}
            Lowered::Views(views) => {
                assert_eq!(views.len(), outputs.len());
                for ((input, view), output) in views.iter().zip(&outputs) {
                    let (layout, offset) = view.apply(&inputs[*input].layout(), output).unwrap();
                    assert_eq!(layout.spec(), *output, "{primitive:?}");
                    assert_inside(&layout, offset, &inputs[*input]);
                }
            }
        }
    }
}

fn assert_inside(layout: &Layout, offset: isize, input: &Spec) {
    if !layout.shape.contains(&0) {
        let (low, high) = layout.extent().unwrap();
        assert!(low + offset >= 0 && high + offset < input.bytes() as isize);
    }
}

#[test]
fn wrong_arity_is_refused() {
    for Sample { primitive, inputs } in Primitive::samples() {
        let open = [
            "BlockMaskedMM",
            "Broadcast",
            "BroadcastAxes",
            "Concatenate",
            "Depends",
        ];
        if open.contains(&primitive.name()) {
            assert!(primitive.infer(&[], None).is_err());
            continue;
        }
        // Two more than any sample has: one may be optional.
        let mut more = inputs.clone();
        more.extend(vec![Spec::new([], Dtype::Float32); 2]);
        let error = primitive.infer(&more, None).unwrap_err();
        assert!(error.to_string().contains("inputs, expected"), "{error}");
        if !inputs.is_empty() {
            assert!(
                primitive.infer(&inputs[1..], None).is_err(),
                "{primitive:?}"
            );
        }
    }
}

#[test]
fn recorded_specs_have_to_agree() {
    for Sample { primitive, inputs } in Primitive::samples() {
        let outputs = primitive.infer(&inputs, None).unwrap();
        let mut longer = outputs.clone();
        longer[0].shape.dims_mut().insert(0, 2);
        assert!(
            primitive.infer(&inputs, Some(&longer)).is_err(),
            "{primitive:?}"
        );
        if primitive.name() != "Depends" {
            let more = [&outputs[..], &outputs[..]].concat();
            assert!(
                primitive.infer(&inputs, Some(&more)).is_err(),
                "{primitive:?}"
            );
        }
        assert!(primitive.infer(&inputs, Some(&[])).is_err() || primitive.name() == "Depends");
    }
}

/// No shapes, dtypes or counts that a file combines make a rule panic.
#[test]
fn no_inputs_make_a_rule_panic() {
    let strange = [
        Spec::new([], Dtype::Float32),
        Spec::new([0], Dtype::Complex64),
        Spec::new([1, 1, 1, 1], Dtype::Uint32),
        Spec::new([i32::MAX as usize, 0, 3], Dtype::Bool),
        Spec::new([2, 64], Dtype::Float16),
        Spec::new([i32::MAX as usize], Dtype::Int64),
    ];
    for Sample { primitive, inputs } in Primitive::samples() {
        for spec in &strange {
            for place in 0..inputs.len() {
                let mut inputs = inputs.clone();
                inputs[place] = spec.clone();
                let recorded = [spec.clone()];
                for recorded in [None, Some(&recorded[..])] {
                    if let Ok(outputs) = primitive.infer(&inputs, recorded) {
                        // Unsupported is an answer; a panic is none.
                        let _ = primitive.lower(&inputs, &outputs);
                    }
                }
            }
        }
    }
}

fn state(write: impl Fn(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut Writer(&mut bytes));
    bytes
}

#[test]
fn older_layouts_are_read() {
    let at = Version::new;
    let old = |name, version, write: &dyn Fn(&mut Writer<'_>)| {
        decode(name, &state(write), version).unwrap()
    };
    let svd = linalg::SVD { compute_uv: true };
    assert_eq!(old("SVD", at(0, 23, 1), &|_| ()), svd.into());
    let fft = old("FFT", at(0, 32, 3), &|w| {
        w.vec_u64(&[1]);
        w.bool(true);
        w.bool(true);
    });
    let expected = transform::FFT {
        axes: vec![1],
        inverse: true,
        real: true,
        odd_out: false,
    };
    assert_eq!(fft, expected.into());
    let update = old("SliceUpdate", at(0, 31, 1), &|w| {
        w.vec_i32(&[0]);
        w.vec_i32(&[4]);
        w.vec_i32(&[2]);
    });
    let expected = slicing::SliceUpdate {
        op: crate::kernel::Update::Set,
        start: vec![0],
        end: vec![4],
        strides: vec![2],
    };
    assert_eq!(update, expected.into());
    for (name, affine) in [
        ("QuantizedMatmul", "QuantizedMatmul"),
        ("AffineQuantize", "Quantize"),
    ] {
        let primitive = old(name, at(0, 28, 9), &|w| {
            w.i32(64);
            w.i32(4);
            w.bool(true);
        });
        assert_eq!(primitive.name(), affine);
        assert!(format!("{primitive:?}").contains("group_size: 64, bits: 4, mode: Affine"));
    }
}

#[test]
fn the_three_orders_of_convolution_states_are_one() {
    let (strides, low, high, kernel, input) = (&[2], &[1], &[3], &[4], &[5]);
    let read = |version, vectors: &[&[i32]]| {
        let bytes = state(|w| {
            vectors.iter().for_each(|vector| w.vec_i32(vector));
            w.i32(6);
            w.bool(true);
        });
        decode("Convolution", &bytes, version).unwrap()
    };
    let newest = read(Version::new(0, 26, 2), &[strides, low, high, kernel, input]);
    let middle = read(Version::new(0, 26, 1), &[low, high, strides, kernel, input]);
    assert_eq!(newest, middle);
    let Primitive::Convolution(convolution) =
        read(Version::new(0, 25, 1), &[low, strides, kernel, input])
    else {
        panic!("not a convolution");
    };
    let p = convolution.parameters;
    assert_eq!(
        (p.strides[0], p.padding_low[0], p.padding_high[0]),
        (2, 1, 1)
    );
    assert_eq!(
        (p.kernel_dilation[0], p.input_dilation[0], p.groups, p.flip),
        (4, 5, 6, true)
    );
}
