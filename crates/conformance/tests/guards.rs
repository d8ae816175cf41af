//! What a hostile file can say, line by line: files with it are refused, and what only shows when a
//! function runs (indices, divisors, sizes of what broadcasts stand for) is an error or a defined
//! value. What the reader checks of its own (counts, ids, dtypes, recorded shapes) is tested beside
//! it.

use std::sync::Arc;

use conformance::modes::{eager, exported, graph, planned};
use conformance::programs;
use motet::{Array, ErrorKind};
use motet_core::array::Array as Lazy;
use motet_core::compile::plan::Plan;
use motet_core::dtype::{Dtype, Element};
use motet_core::error::Error;
use motet_core::export::codec::{Reader, Version, Writer};
use motet_core::export::reader::ExportedFile;
use motet_core::graph::{Graph, Node};
use motet_core::kernel::{self, Quantization, QuantizationMode, Reduction, Update};
use motet_core::ops::elementwise::*;
use motet_core::ops::{
    Primitive, assemble, broadcast, convolution, dynamic_slice, fast, indexing, matmul, quantized,
    random, reduce, shape, slicing, sort, transform,
};
use motet_core::shape::{Shape, Spec};
use motet_core::tensor::Tensor;

fn f32s(shape: &[usize]) -> Spec {
    Spec::new(shape, Dtype::Float32)
}

fn tensor<T: Element>(shape: &[usize], data: &[T]) -> Tensor {
    Array::from_slice(data, shape).unwrap().tensor().unwrap()
}

fn numbers<T: Element>(tensor: &Tensor) -> Vec<T> {
    Lazy::from_tensor(tensor.clone()).to_vec().unwrap()
}

/// A function of one node, whatever that is: nothing of it is checked here.
fn one_node(primitive: Primitive, inputs: &[Spec], outputs: &[Spec]) -> Graph {
    let made: Vec<usize> = (inputs.len()..inputs.len() + outputs.len()).collect();
    Graph {
        values: [inputs, outputs].concat(),
        inputs: (0..inputs.len()).collect(),
        keywords: Vec::new(),
        constants: Vec::new(),
        nodes: vec![Node {
            primitive,
            inputs: (0..inputs.len()).collect(),
            outputs: made.clone(),
            lane: 0,
        }],
        outputs: made,
        shapeless: false,
    }
}

fn bytes(graph: Graph) -> Vec<u8> {
    let mut file = ExportedFile::new(graph.shapeless, "");
    file.functions.push(Arc::new(graph));
    let mut bytes = Vec::new();
    file.write(&mut bytes).unwrap();
    bytes
}

/// A file with this node is refused, with an error that names file, place and primitive.
#[track_caller]
fn refused(primitive: impl Into<Primitive>, inputs: &[Spec], outputs: &[Spec]) {
    let primitive = primitive.into();
    let name = primitive.name();
    let file = bytes(one_node(primitive, inputs, outputs));
    let error = ExportedFile::parse(file, "hostile.mlxfn")
        .err()
        .expect(name);
    assert_eq!(error.kind(), ErrorKind::File, "{error}");
    let text = error.to_string();
    for part in ["hostile.mlxfn", "tape entry", name] {
        assert!(text.contains(part), "{text} does not say {part}");
    }
}

/// Each way to run a primitive gives an error that says this.
#[track_caller]
fn fails(primitive: impl Into<Primitive>, inputs: &[Tensor], says: &str) {
    let primitive = primitive.into();
    let graph = graph(&primitive, inputs, false).unwrap();
    let compiled = planned(&graph, inputs, true);
    for error in [eager(&primitive, inputs).err(), compiled.err()] {
        let error = error.unwrap_or_else(|| panic!("{primitive:?} does not fail"));
        assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// What a primitive gives, the same in each way to run it.
#[track_caller]
fn gives<T: Element + PartialEq + std::fmt::Debug>(
    primitive: impl Into<Primitive>,
    inputs: &[Tensor],
    expected: &[T],
) {
    let primitive = primitive.into();
    let graph = graph(&primitive, inputs, false).unwrap();
    for result in [eager(&primitive, inputs), planned(&graph, inputs, true)] {
        assert_eq!(numbers::<T>(&result.unwrap()[0]), expected, "{primitive:?}");
    }
}

#[test]
fn number_of_inputs() {
    let x = f32s(&[2]);
    refused(Add, std::slice::from_ref(&x), std::slice::from_ref(&x));
    refused(Exp, &[x.clone(), x.clone()], std::slice::from_ref(&x));
    let gather = indexing::Gather {
        axes: vec![0; 3],
        slice_sizes: Shape::new(&[1]),
    };
    refused(gather, std::slice::from_ref(&x), &[f32s(&[1])]);
    refused(
        assemble::Concatenate { axis: 0 },
        &[],
        std::slice::from_ref(&x),
    );
}

#[test]
fn axes_and_permutations() {
    let (x, y) = ([f32s(&[2, 3])], [f32s(&[3, 2])]);
    for permutation in [vec![0, 0], vec![0, 2], vec![1], vec![0, i32::MIN]] {
        refused(shape::Transpose { permutation }, &x, &y);
    }
    for axes in [vec![2], vec![-3], vec![1, -1], vec![i32::MAX]] {
        let op = Reduction::Sum;
        refused(
            reduce::Reduce {
                op,
                axes: axes.clone(),
            },
            &x,
            &[f32s(&[2, 1])],
        );
        refused(shape::Squeeze { axes: axes.clone() }, &x, &[f32s(&[2])]);
        if axes != [2] {
            refused(shape::ExpandDims { axes }, &x, &[f32s(&[2, 3, 1])]);
        }
    }
    for axis in [2, -3, i32::MIN, i32::MAX] {
        refused(sort::Sort { axis }, &x, &x);
        refused(assemble::Concatenate { axis }, &x, &x);
        refused(
            slicing::Split {
                indices: vec![1],
                axis,
            },
            &x,
            &x,
        );
    }
    for axes in [vec![2], vec![u64::MAX], vec![1 << 32], vec![0, 0], vec![]] {
        let fft = transform::FFT {
            axes,
            inverse: false,
            real: false,
            odd_out: false,
        };
        let x = [Spec::new([2, 3], Dtype::Complex64)];
        refused(fft, &x, &x);
    }
}

#[test]
fn recorded_output_shape_and_dtype() {
    let x = [f32s(&[2, 3])];
    refused(Exp, &x, &[f32s(&[2, 4])]);
    refused(Exp, &x, &[f32s(&[6])]);
    refused(Exp, &x, &[Spec::new([2, 3], Dtype::Float64)]);
    refused(Exp, &x, &[x[0].clone(), x[0].clone()]);
    refused(shape::Reshape { shape: vec![3, 2] }, &x, &x);
}

#[test]
fn starts_strides_splits_pads_and_offsets() {
    let x = [f32s(&[4])];
    let slice = |start, stride| slicing::Slice {
        start: vec![start],
        end: vec![4],
        strides: vec![stride],
    };
    for (start, stride, count) in [
        (0, 1, 5),
        (3, 1, 2),
        (3, -1, 5),
        (0, i32::MAX, 2),
        (3, i32::MIN, 2),
        (i32::MIN, 1, 1),
        (i32::MAX, 1, 1),
        (0, 0, 2),
    ] {
        refused(slice(start, stride), &x, &[f32s(&[count])]);
        let slicing::Slice {
            start,
            end,
            strides,
        } = slice(start, stride);
        let update = slicing::SliceUpdate {
            op: Update::Sum,
            start,
            end,
            strides,
        };
        refused(update, &[f32s(&[4]), f32s(&[count])], &x);
    }
    for indices in [vec![5], vec![-1], vec![3, 2], vec![i32::MAX]] {
        let parts = vec![f32s(&[2]); indices.len() + 1];
        refused(slicing::Split { indices, axis: 0 }, &x, &parts);
    }
    let pad = |low, high| assemble::Pad {
        axes: vec![0],
        low: vec![low],
        high: vec![high],
    };
    let with_value = [f32s(&[4]), f32s(&[])];
    for (low, high) in [(-1, 1), (1, -1), (i32::MIN, 0), (i32::MAX, i32::MAX)] {
        refused(pad(low, high), &with_value, &x);
    }
    for (dims, stride, offset) in [
        (2, 4, 0),
        (2, -1, 0),
        (1, 0, 4),
        (1, 0, u64::MAX),
        (2, i64::MAX, 1),
        (2, i64::MIN, 3),
        (5, 1, 0),
    ] {
        let shape = Shape::new(&[dims]);
        let strides = vec![stride];
        refused(
            slicing::AsStrided {
                shape,
                strides,
                offset,
            },
            &x,
            &[f32s(&[dims])],
        );
    }
}

#[test]
fn gather_and_scatter_indices() {
    let x = tensor(&[3, 2], &[1f32, 2., 3., 4., 5., 6.]);
    let wide = Shape::new(&[1, 2]);
    for index in [3, -4, i64::from(i32::MAX), i64::MIN, i64::MAX] {
        let gather = indexing::Gather {
            axes: vec![0],
            slice_sizes: wide.clone(),
        };
        fails(gather, &[x.clone(), tensor(&[1], &[index])], "index");
        let index = tensor(&[1, 2], &[0, index]);
        fails(
            indexing::GatherAxis { axis: 0 },
            &[x.clone(), index.clone()],
            "index",
        );
        let updates = tensor(&[1, 2], &[7f32, 8.]);
        for op in [Update::Set, Update::Sum] {
            let op = indexing::AxisUpdate(op);
            let scatter = indexing::ScatterAxis { op, axis: 0 };
            fails(
                scatter,
                &[x.clone(), index.clone(), updates.clone()],
                "index",
            );
        }
    }
    for index in [3u64, u64::MAX, 1 << 32] {
        let scatter = indexing::Scatter {
            op: Update::Set,
            axes: vec![0],
        };
        let updates = tensor(&[1, 1, 2], &[7f32, 8.]);
        fails(
            scatter,
            &[x.clone(), tensor(&[1], &[index]), updates],
            "index",
        );
    }
    // A block that starts inside and ends outside.
    let gather = indexing::Gather {
        axes: vec![0],
        slice_sizes: Shape::new(&[2, 1]),
    };
    fails(gather, &[x.clone(), tensor(&[1], &[2u8])], "index");
    let scatter = indexing::Scatter {
        op: Update::Max,
        axes: vec![0],
    };
    let updates = tensor(&[1, 2, 1], &[7f32, 8.]);
    fails(scatter, &[x, tensor(&[1], &[2i8]), updates], "index");
}

#[test]
fn dynamic_starts_masks_and_gathered_matrices() {
    let x = tensor(&[3, 2], &[1f32, 2., 3., 4., 5., 6.]);
    let slice_sizes = Shape::new(&[2, 2]);
    for start in [2, 3, i64::from(i32::MAX), i64::MIN, i64::MAX] {
        let slice = dynamic_slice::DynamicSlice {
            axes: vec![0],
            slice_sizes: slice_sizes.clone(),
        };
        let start = tensor(&[1], &[start]);
        fails(slice, &[x.clone(), start.clone()], "DynamicSlice");
        let update = tensor(&[2, 2], &[0f32; 4]);
        let update = [x.clone(), update, start];
        fails(
            dynamic_slice::DynamicSliceUpdate { axes: vec![0] },
            &update,
            "DynamicSlice",
        );
    }
    // Fewer elements than places for them.
    let row = tensor(&[1, 3], &[1f32, 2., 3.]);
    let mask = tensor(&[1, 3], &[true, true, true]);
    fails(
        indexing::MaskedScatter,
        &[row, mask, tensor(&[1, 2], &[7f32, 8.])],
        "MaskedScatter",
    );
    let a = tensor(&[2, 1, 2], &[1f32, 2., 3., 4.]);
    let b = tensor(&[2, 2, 1], &[1f32, 2., 3., 4.]);
    for (lhs, rhs) in [(2u32, 0u32), (0, 2), (u32::MAX, 0)] {
        let product = matmul::GatherMM {
            left_sorted: true,
            right_sorted: true,
        };
        let inputs = [
            a.clone(),
            b.clone(),
            tensor(&[1], &[lhs]),
            tensor(&[1], &[rhs]),
        ];
        fails(product, &inputs, "GatherMM");
    }
}

#[test]
fn widths_block_sizes_and_rotated_elements() {
    for width in [0, 3, 8, -1, i32::MIN] {
        let shape = Shape::new(&[4]);
        let key = [Spec::new([2], Dtype::Uint32)];
        let bits = [Spec::new([4], Dtype::Uint32)];
        refused(random::RandomBits { shape, width }, &key, &bits);
    }
    for block_size in [0, -32, 1, i32::MAX] {
        let inputs = [f32s(&[2, 2]), f32s(&[2, 2]), f32s(&[1, 1])];
        refused(
            matmul::BlockMaskedMM { block_size },
            &inputs,
            &[f32s(&[2, 2])],
        );
    }
    for dims in [0, 3, 6, -2, i32::MIN, i32::MAX] {
        let rope = fast::RoPE {
            dims,
            traditional: false,
            base: 1e4,
            scale: 1.0,
            forward: true,
        };
        let x = f32s(&[1, 2, 4]);
        refused(rope, &[x.clone(), Spec::new([], Dtype::Int32)], &[x]);
    }
}

#[test]
fn bombs() {
    // A scalar as two terabytes, then something that needs them.
    let (dims, huge) = ([1 << 20, 1 << 19], Shape::new(&[1 << 20, 1 << 19]));
    let spec = f32s(&dims);
    let mut bomb = one_node(
        broadcast::Broadcast { shape: huge }.into(),
        &[f32s(&[])],
        std::slice::from_ref(&spec),
    );
    let mut values = bomb.values.clone();
    let chain: [(Primitive, Spec); 4] = [
        (Exp.into(), spec.clone()),
        (
            sort::ArgSort { axis: 0 }.into(),
            Spec::new(dims, Dtype::Uint32),
        ),
        (
            shape::Reshape {
                shape: vec![1 << 19, 1 << 20],
            }
            .into(),
            f32s(&[1 << 19, 1 << 20]),
        ),
        (Negative.into(), f32s(&[1 << 19, 1 << 20])),
    ];
    for (primitive, output) in chain {
        let input = if primitive.name() == "Negative" {
            values.len() - 1
        } else {
            1
        };
        values.push(output);
        bomb.nodes.push(Node {
            primitive,
            inputs: vec![input],
            outputs: vec![values.len() - 1],
            lane: 0,
        });
    }
    bomb.values = values;
    let parse = |outputs: &[usize]| {
        let mut graph = ExportedFile::parse(bytes(bomb_with(&bomb, outputs)), "bomb").unwrap();
        graph.functions.remove(0)
    };
    let x = [tensor(&[], &[1f32])];
    for output in [2, 3, 5] {
        let graph = parse(&[output]);
        let compiled = Plan::build(&graph, &[f32s(&[])], true).err();
        for error in [compiled, programs::eager(&graph, &x).err()] {
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Memory));
        }
    }
    // What is only looked at costs nothing.
    let graph = parse(&[1, 4]);
    assert_eq!(
        planned(&graph, &x, true).unwrap()[1].spec(),
        f32s(&[1 << 19, 1 << 20])
    );
}

fn bomb_with(bomb: &Graph, outputs: &[usize]) -> Graph {
    let node = |node: &Node| Node {
        primitive: node.primitive.clone(),
        inputs: node.inputs.clone(),
        outputs: node.outputs.clone(),
        lane: 0,
    };
    Graph {
        values: bomb.values.clone(),
        inputs: bomb.inputs.clone(),
        keywords: Vec::new(),
        constants: Vec::new(),
        nodes: bomb.nodes.iter().map(node).collect(),
        outputs: outputs.to_vec(),
        shapeless: false,
    }
}

#[test]
fn shapes_that_make_memory() {
    let most = i32::MAX as usize;
    let memory = |primitive: Primitive, inputs: &[Tensor], outputs: &[Spec]| {
        let specs: Vec<Spec> = inputs.iter().map(Tensor::spec).collect();
        let file = bytes(one_node(primitive, &specs, outputs));
        let graph = &ExportedFile::parse(file, "large").unwrap().functions[0];
        let compiled = planned(graph, inputs, true).err();
        for error in [compiled, programs::eager(graph, inputs).err()] {
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Memory));
        }
    };
    // No machine that tests run on has so much: 2^31 numbers of 8 bytes, a thousand times.
    let huge = [1000, most];
    let pad = assemble::Pad {
        axes: vec![0, 1],
        low: vec![999, most as i32 - 1],
        high: vec![0, 0],
    };
    let one = tensor(&[1, 1], &[1f64]);
    let value = tensor(&[], &[0f64]);
    memory(
        pad.into(),
        &[one.clone(), value],
        &[Spec::new(huge, Dtype::Float64)],
    );
    let convolution = kernel::Convolution {
        strides: [1].into_iter().collect(),
        padding_low: [most].into_iter().collect(),
        padding_high: [0].into_iter().collect(),
        kernel_dilation: [1].into_iter().collect(),
        input_dilation: [1].into_iter().collect(),
        groups: 1,
        flip: false,
    };
    let x = tensor(&[1000, 1, 1], &[1f64; 1000]);
    let convolution = convolution::Convolution {
        parameters: Box::new(convolution),
    };
    memory(
        convolution.into(),
        &[x, tensor(&[1, 2, 1], &[1f64; 2])],
        &[Spec::new([1000, most, 1], Dtype::Float64)],
    );
    let gather = indexing::Gather {
        axes: vec![],
        slice_sizes: Shape::new(&[1, 1]),
    };
    gives::<f64>(gather, std::slice::from_ref(&one), &[1.0]);
}

#[test]
fn arange() {
    let output = [f32s(&[4])];
    for (start, stop, step) in [
        (0.0, 4.0, 0.0),
        (f64::NAN, 4.0, 1.0),
        (0.0, f64::INFINITY, 1.0),
        (0.0, 4.0, f64::NAN),
        (0.0, 4.0, f64::NEG_INFINITY),
        (0.0, 5.0, 1.0),
        (4.0, 0.0, 1.0),
        (0.0, f64::MAX, f64::MIN_POSITIVE),
    ] {
        refused(assemble::Arange { start, stop, step }, &[], &output);
    }
}

#[test]
fn convolution() {
    let sample = |change: &dyn Fn(&mut kernel::Convolution)| {
        let mut parameters = kernel::Convolution {
            strides: [1].into_iter().collect(),
            padding_low: [0].into_iter().collect(),
            padding_high: [0].into_iter().collect(),
            kernel_dilation: [1].into_iter().collect(),
            input_dilation: [1].into_iter().collect(),
            groups: 1,
            flip: false,
        };
        change(&mut parameters);
        let parameters = Box::new(parameters);
        let inputs = [f32s(&[1, 9, 4]), f32s(&[6, 3, 4])];
        refused(
            convolution::Convolution { parameters },
            &inputs,
            &[f32s(&[1, 7, 6])],
        );
    };
    sample(&|p| p.strides[0] = 0);
    sample(&|p| p.kernel_dilation[0] = 0);
    sample(&|p| p.input_dilation[0] = 0);
    sample(&|p| p.groups = 0);
    sample(&|p| p.groups = 3);
    sample(&|p| p.groups = i32::MAX as usize);
    sample(&|p| p.strides.push(1));
    sample(&|p| p.padding_low[0] = i32::MAX as usize);
    sample(&|p| p.kernel_dilation[0] = i32::MAX as usize);
    sample(&|p| p.input_dilation[0] = i32::MAX as usize);
    // What is negative in a file.
    for field in 0..5 {
        let mut state = Vec::new();
        let mut writer = Writer(&mut state);
        (0..5).for_each(|vector| writer.vec_i32(&[if vector == field { -1 } else { 1 }]));
        writer.i32(1);
        writer.bool(false);
        let decoded = Primitive::decode("Convolution", &mut Reader::new(&state), Version::NEWEST);
        assert_eq!(decoded.map_err(|error| error.kind()), Err(ErrorKind::File));
    }
}

#[test]
fn quantised() {
    let affine = |group_size, bits| Quantization {
        group_size,
        bits,
        mode: QuantizationMode::Affine,
    };
    let x = [f32s(&[2, 64])];
    let packed = [
        Spec::new([2, 8], Dtype::Uint32),
        f32s(&[2, 1]),
        f32s(&[2, 1]),
    ];
    for (group_size, bits) in [
        (0, 4),
        (64, 0),
        (64, 7),
        (64, 32),
        (48, 4),
        (i32::MAX as usize, 4),
    ] {
        let quantization = affine(group_size, bits);
        let pack = |dequantize| quantized::Quantize {
            quantization,
            dequantize,
        };
        refused(pack(false), &x, &packed);
        refused(pack(true), &packed, &x);
        let multiply = quantized::QuantizedMatmul {
            quantization,
            transpose: true,
        };
        let inputs = [&x[..], &packed].concat();
        refused(multiply, &inputs, &[f32s(&[2, 2])]);
    }
    // Groups that do not divide a row, and scales of another shape.
    let quantization = affine(64, 4);
    let pack = quantized::Quantize {
        quantization,
        dequantize: false,
    };
    refused(pack, &[f32s(&[2, 65])], &packed);
    for place in 0..3 {
        let mut wrong = packed.clone();
        wrong[place].shape.dims_mut()[1] += 1;
        let inputs = [&x[..], &wrong].concat();
        let multiply = quantized::QuantizedMatmul {
            quantization,
            transpose: true,
        };
        refused(multiply, &inputs, &[f32s(&[2, 2])]);
    }
}

#[test]
fn kth() {
    let x = [f32s(&[4])];
    for kth in [4, -5, i32::MAX, i32::MIN] {
        refused(sort::Partition { kth, axis: 0 }, &x, &x);
        let indices = [Spec::new([4], Dtype::Uint32)];
        refused(sort::ArgPartition { kth, axis: 0 }, &x, &indices);
    }
}

#[test]
fn integer_division() {
    let a = tensor(&[4], &[7i32, i32::MIN, i32::MIN, 0]);
    let b = tensor(&[4], &[0i32, -1, 0, 0]);
    let pair = [a, b];
    gives(Divide, &pair, &[0, i32::MIN, 0, 0]);
    gives(FloorDivide, &pair, &[0, i32::MIN, 0, 0]);
    gives(Remainder, &pair, &[0; 4]);
    gives(DivMod, &pair, &[0, i32::MIN, 0, 0]);
    let pair = [tensor(&[2], &[i64::MIN, 3]), tensor(&[2], &[-1i64, 0])];
    gives(FloorDivide, &pair, &[i64::MIN, 0]);
    gives(Remainder, &pair, &[0i64; 2]);
    let pair = [tensor(&[2], &[i8::MIN, 3]), tensor(&[2], &[-1i8, 0])];
    gives(Divide, &pair, &[i8::MIN, 0]);
    gives(
        Remainder,
        &[tensor(&[2], &[5u8, 0]), tensor(&[2], &[0u8, 0])],
        &[0u8; 2],
    );
}

#[test]
fn shift_amounts() {
    let pair = [
        tensor(&[4], &[-5i32; 4]),
        tensor(&[4], &[32, -1, i32::MAX, 31]),
    ];
    let (left, right) = (BitwiseOp::LeftShift, BitwiseOp::RightShift);
    gives(BitwiseBinary { op: left }, &pair, &[0, 0, 0, i32::MIN]);
    gives(BitwiseBinary { op: right }, &pair, &[-1; 4]);
    let pair = [tensor(&[3], &[200u8; 3]), tensor(&[3], &[8u8, 255, 7])];
    gives(BitwiseBinary { op: left }, &pair, &[0u8; 3]);
    gives(BitwiseBinary { op: right }, &pair, &[0u8, 0, 1]);
}

#[test]
fn long_chains() {
    const LENGTH: usize = 100_000;
    let work = || {
        let mut graph = one_node(Negative.into(), &[f32s(&[2])], &[f32s(&[2])]);
        for id in 2..=LENGTH {
            graph.values.push(f32s(&[2]));
            let node = Node {
                primitive: Negative.into(),
                inputs: vec![id - 1],
                outputs: vec![id],
                lane: 0,
            };
            graph.nodes.push(node);
        }
        graph.outputs = vec![LENGTH];
        let graph = exported(graph).unwrap().unwrap();
        let x = [tensor(&[2], &[1f32, -2.0])];
        // Fusion makes groups of it; both come back to where they started.
        for fuse in [false, true] {
            assert_eq!(
                numbers::<f32>(&planned(&graph, &x, fuse).unwrap()[0]),
                [1.0, -2.0]
            );
        }
        let mut array = Array::from_tensor(x[0].clone());
        for _ in 0..LENGTH {
            array = motet::ops::apply(Negative, &[array]).unwrap().remove(0);
        }
        let unevaluated = motet::ops::apply(Negative, &[array.clone()]).unwrap();
        assert_eq!(array.to_vec::<f32>().unwrap(), [1.0, -2.0]);
        drop(unevaluated);
    };
    let thread = std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(work);
    thread.unwrap().join().unwrap();
}

#[test]
fn strings_and_metadata() {
    let text = "\0\u{202e}${jndi} \u{1F3B5}".repeat(100);
    let mut bytes = Vec::new();
    ExportedFile::new(false, &text).write(&mut bytes).unwrap();
    assert_eq!(
        ExportedFile::parse(bytes.clone(), "m").unwrap().metadata,
        text
    );
    let at = bytes.iter().position(|&byte| byte == 0xF0).unwrap();
    bytes[at] = 0xFF;
    let error = ExportedFile::parse(bytes, "m").err().unwrap();
    assert_eq!(error.kind(), ErrorKind::File);
    assert!(error.to_string().contains("UTF-8"), "{error}");
}

/// Errors are for people: they name what was asked and what is there.
#[test]
fn errors_of_indices_are_legible() {
    let x = tensor(&[3], &[1f32, 2., 3.]);
    let gather = indexing::Gather {
        axes: vec![0],
        slice_sizes: Shape::new(&[1]),
    };
    let error: Error = eager(&gather.into(), &[x, tensor(&[1], &[7i32])])
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(
        text.contains("Gather") && text.contains('7') && text.contains('3'),
        "{text}"
    );
}
