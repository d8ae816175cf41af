//! Attention against its definition in float64.

use half::f16;
use motet_core::memory::heap;
use motet_core::pool::Pool;
use motet_core::shape::Spec;
use motet_core::tensor::Tensor;

use super::*;
use crate::testing::{launch, noise, run, tensor, values};

/// Sizes and options of a case, and its numbers.
#[derive(Clone)]
struct Case {
    batch: usize,
    heads: [usize; 2],
    lengths: [usize; 2],
    features: [usize; 2],
    causal: bool,
    /// Added to the scores, for each of (batch, head, query, key).
    mask: Option<Vec<f32>>,
    sinks: Option<Vec<f32>>,
}

impl Case {
    fn new(heads: [usize; 2], lengths: [usize; 2], causal: bool) -> Case {
        let features = [8, 5];
        let (mask, sinks) = (None, None);
        Case {
            batch: 2,
            heads,
            lengths,
            features,
            causal,
            mask,
            sinks,
        }
    }

    fn shapes(&self) -> [[usize; 4]; 3] {
        let ([heads, kv], [queries, keys]) = (self.heads, self.lengths);
        let [features, values] = self.features;
        [
            [self.batch, heads, queries, features],
            [self.batch, kv, keys, features],
            [self.batch, kv, keys, values],
        ]
    }

    fn operands(&self) -> [Vec<f32>; 3] {
        let mut seed = 0;
        self.shapes().map(|shape| {
            seed += 1;
            noise(shape.iter().product(), seed)
        })
    }

    fn kernel(&self, appended: bool) -> Kernel {
        Kernel::Attention {
            scale: 0.7,
            causal: self.causal,
            appended,
            mask: self.mask.is_some(),
            sinks: self.sinks.is_some(),
        }
    }

    fn scores(&self) -> [usize; 4] {
        let ([heads, _], [queries, keys]) = (self.heads, self.lengths);
        [self.batch, heads, queries, keys]
    }

    fn out(&self, dtype: Dtype) -> [Spec; 1] {
        let [[batch, heads, queries, _], _, [.., values]] = self.shapes();
        [Spec::new([batch, heads, queries, values], dtype)]
    }

    /// The definition.
    fn reference(&self, [q, k, v]: &[Vec<f32>; 3]) -> Vec<f64> {
        let ([heads, kv], [queries, keys]) = (self.heads, self.lengths);
        let [features, values] = self.features;
        let mut result = Vec::new();
        for row in 0..self.batch * heads * queries {
            let (head, query) = (row / queries, row % queries);
            let shared = head / heads * kv + head % heads / (heads / kv);
            let mut scores: Vec<f64> = (0..keys)
                .map(|key| {
                    let dot = (0..features).map(|i| {
                        let k = k[(shared * keys + key) * features + i];
                        f64::from(q[row * features + i]) * f64::from(k)
                    });
                    let mark = self
                        .mask
                        .as_ref()
                        .map_or(0.0, |mask| mask[row * keys + key]);
                    // Where keys end queries end.
                    match self.causal && key + queries > query + keys {
                        true => f64::from(f32::MIN),
                        false => dot.sum::<f64>() * f64::from(0.7f32) + f64::from(mark),
                    }
                })
                .collect();
            scores.extend(
                self.sinks
                    .as_ref()
                    .map(|sinks| f64::from(sinks[head % heads])),
            );
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            result.extend((0..values).map(|i| {
                let value = |key: usize| f64::from(v[(shared * keys + key) * values + i]);
                (0..keys).map(|key| weights[key] * value(key)).sum::<f64>() / sum
            }));
        }
        result
    }

    /// Runs it on float32 with this mask, which stands for `self.mask`.
    fn run(&self, operands: &[Tensor; 3], mask: Option<&Tensor>) -> Vec<f32> {
        let [q, k, v] = operands;
        let sinks = self
            .sinks
            .as_ref()
            .map(|sinks| tensor(&[sinks.len()], sinks));
        let inputs: Vec<&Tensor> = [q, k, v].into_iter().chain(mask).chain(&sinks).collect();
        values(&run(&self.kernel(false), &inputs, &self.out(Dtype::Float32)).unwrap()[0])
    }

    /// As [`run`](Case::run), with the first `first` keys and values as one piece and the rest as
    /// another.
    fn run_in_pieces(
        &self,
        operands: &[Tensor; 3],
        mask: Option<&Tensor>,
        first: usize,
    ) -> Vec<f32> {
        let piece = |tensor: &Tensor, from: usize, len: usize| {
            let mut layout = tensor.layout.clone();
            layout.shape.dims_mut()[2] = len;
            let bytes = from * layout.strides[2] as usize * 4;
            tensor.view(layout, bytes as isize).unwrap()
        };
        let [q, k, v] = operands;
        let rest = self.lengths[1] - first;
        let further = [k, v].map(|x| piece(x, first, rest));
        let [k, v] = [k, v].map(|x| piece(x, 0, first));
        let sinks = self
            .sinks
            .as_ref()
            .map(|sinks| tensor(&[sinks.len()], sinks));
        let pieces = [q, &k, &v].into_iter().chain(&further);
        let inputs: Vec<&Tensor> = pieces.chain(mask).chain(&sinks).collect();
        values(&run(&self.kernel(true), &inputs, &self.out(Dtype::Float32)).unwrap()[0])
    }

    fn tensors(&self, operands: &[Vec<f32>; 3]) -> [Tensor; 3] {
        let shapes = self.shapes();
        [0, 1, 2].map(|i| tensor(&shapes[i], &operands[i]))
    }

    /// Runs it and compares with the definition.
    fn check(&self, mask: Option<&Tensor>) {
        let operands = self.operands();
        let tensors = self.tensors(&operands);
        let want = self.reference(&operands);
        close(&self.run(&tensors, mask), &want, 2e-6);
        // The same in two pieces, as a cache and what is appended to it.
        let keys = self.lengths[1];
        for first in [0, 1, keys / 2, keys - 1] {
            close(&self.run_in_pieces(&tensors, mask, first), &want, 2e-6);
        }
    }
}

fn close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((f64::from(*got) - want).abs() <= tolerance, "{got} {want}");
    }
}

#[test]
fn heads_lengths_and_causality_follow_the_definition() {
    for heads in [[1, 1], [6, 2], [4, 1]] {
        for lengths in [
            [1, 1],
            [1, 300],
            [5, 9],
            [70, 70],
            [40, 600],
            [9, 5],
            [70, 3],
        ] {
            for causal in [false, true] {
                Case::new(heads, lengths, causal).check(None);
            }
        }
    }
}

#[test]
fn masks_broadcast_and_hide() {
    let mut case = Case::new([6, 2], [7, 300], false);
    let [_, heads, queries, keys] = case.scores();
    let columns = noise(keys, 9);
    for causal in [false, true] {
        case.causal = causal;
        case.mask = Some(columns.repeat(2 * heads * queries));
        case.check(Some(&tensor(&[keys], &columns)));
        case.check(Some(&tensor(&[1, 1, 1, keys], &columns)));
        // One mark for each query, in a layout that is not row-major.
        let marks = noise(heads * queries, 8);
        let mark = |i: usize| marks[i / keys % queries * heads + i / keys / queries % heads];
        case.mask = Some((0..2 * heads * queries * keys).map(mark).collect());
        let mut strided = tensor(&[queries, heads], &marks);
        strided.layout.shape = [heads, queries, 1].into();
        strided.layout.strides = [1, heads as isize, 1][..].into();
        case.check(Some(&strided));
        // Booleans hide as minus infinity does.
        let keep: Vec<bool> = noise(queries * keys, 7).iter().map(|&x| x > 0.3).collect();
        let added: Vec<f32> = keep
            .iter()
            .map(|&k| if k { 0.0 } else { f32::NEG_INFINITY })
            .collect();
        case.mask = Some(added.repeat(2 * heads));
        case.check(Some(&tensor(&[queries, keys], &keep)));
    }
}

#[test]
fn sinks_take_weight_from_all_keys() {
    for (lengths, causal) in [([5, 9], false), ([70, 300], true), ([9, 5], true)] {
        let mut case = Case::new([6, 2], lengths, causal);
        case.sinks = Some(noise(6, 5));
        case.check(None);
        let [queries, keys] = lengths;
        let columns = noise(keys, 9);
        case.mask = Some(columns.repeat(2 * 6 * queries));
        case.check(Some(&tensor(&[keys], &columns)));
    }
}

#[test]
fn rows_without_any_key() {
    let mut case = Case::new([2, 2], [3, 300], false);
    let operands = case.operands();
    let tensors = case.tensors(&operands);
    // Hidden by booleans: the mean of all values.
    let want = {
        let mut same = case.clone();
        same.mask = Some(vec![f32::MIN; 2 * 2 * 3 * 300]);
        same.reference(&operands)
    };
    case.mask = Some(Vec::new());
    close(
        &case.run(&tensors, Some(&tensor(&[1], &[false]))),
        &want,
        2e-6,
    );
    // Hidden by minus infinity: undefined, as the softmax of such a row is.
    let infinite = tensor(&[1], &[f32::NEG_INFINITY]);
    assert!(
        case.run(&tensors, Some(&infinite))
            .iter()
            .all(|x| x.is_nan())
    );
    // A sink takes it all.
    case.sinks = Some(vec![0.0; 2]);
    let got = case.run(&tensors, Some(&tensor(&[1], &[false])));
    assert!(got.iter().all(|&x| x == 0.0));
    // No keys at all: zero.
    let none = Case::new([2, 2], [3, 0], false);
    assert!(
        none.run(&none.tensors(&none.operands()), None)
            .iter()
            .all(|&x| x == 0.0)
    );
}

#[test]
fn hidden_values_leave_no_trace() {
    let mut case = Case::new([1, 1], [1, 600], false);
    let [q, k, mut v] = case.operands();
    for batch in v.chunks_mut(600 * case.features[1]) {
        batch[..300 * case.features[1]].fill(f32::MAX);
    }
    let keep: Vec<bool> = (0..600).map(|key| key >= 300).collect();
    let added = keep
        .iter()
        .map(|&k| if k { 0.0 } else { f32::NEG_INFINITY });
    case.mask = Some(added.collect::<Vec<f32>>().repeat(2));
    let operands = [q, k, v];
    let got = case.run(&case.tensors(&operands), Some(&tensor(&[600], &keep)));
    close(&got, &case.reference(&operands), 2e-6);
}

#[test]
fn heads_between_lengths_and_half_types() {
    let case = Case::new([4, 2], [6, 9], true);
    let operands = case.operands().map(|values| -> Vec<f32> {
        values
            .into_iter()
            .map(|x| f16::from_f32(x).to_f32())
            .collect()
    });
    let want = case.reference(&operands);
    // Memory holds (batch, length, heads, features).
    let mut tensors = case.tensors(&operands).map(|t| {
        let halves: Vec<f16> = values::<f32>(&t).into_iter().map(f16::from_f32).collect();
        let [batch, heads, length, features] = t.layout.shape[..] else {
            panic!()
        };
        let mut moved = halves.clone();
        for (i, &half) in halves.iter().enumerate() {
            let (row, i) = (i / features, i % features);
            let (t, h, b) = (row % length, row / length % heads, row / length / heads);
            moved[((b * length + t) * heads + h) * features + i] = half;
        }
        let mut t = tensor(&[batch, length, heads, features], &moved);
        t.layout.strides.swap(1, 2);
        t.layout.shape = [batch, heads, length, features].into();
        t
    });
    let inputs: Vec<&Tensor> = tensors.iter().collect();
    let got = run(&case.kernel(false), &inputs, &case.out(Dtype::Float16)).unwrap();
    let got: Vec<f32> = values::<f16>(&got[0])
        .into_iter()
        .map(f16::to_f32)
        .collect();
    close(&got, &want, 5e-4);
    let wide = case.tensors(&operands).map(|t| {
        let data: Vec<f64> = values::<f32>(&t).into_iter().map(f64::from).collect();
        tensor(&t.layout.shape, &data)
    });
    let inputs: Vec<&Tensor> = wide.iter().collect();
    let got = run(&case.kernel(false), &inputs, &case.out(Dtype::Float64)).unwrap();
    for (got, want) in values::<f64>(&got[0]).iter().zip(&want) {
        assert!((got - want).abs() < 1e-14);
    }
    // Columns apart in memory are not read in place.
    tensors[0].layout.strides[3] = 2;
    assert!(!accepts(&case.kernel(false), 0, &tensors[0].layout));
}

#[test]
fn heads_side_by_side_are_the_same_rows_elsewhere() {
    for (heads, lengths) in [([6, 2], [1, 9]), ([4, 4], [3, 9]), ([6, 2], [70, 70])] {
        let case = Case::new(heads, lengths, true);
        let tensors = case.tensors(&case.operands());
        let inputs: Vec<&Tensor> = tensors.iter().collect();
        let layouts: Vec<Layout> = tensors.iter().map(|t| t.layout.clone()).collect();
        let spec = &case.out(Dtype::Float32)[0];
        let kernel = case.kernel(false);
        let apart = values::<f32>(&run(&kernel, &inputs, std::slice::from_ref(spec)).unwrap()[0]);
        let mut beside = spec.layout();
        let [heads, length, features] = [1, 2, 3].map(|axis| spec.shape[axis]);
        let strides = [heads * length * features, features, heads * features, 1];
        beside.strides = strides.map(|stride| stride as isize)[..].into();
        assert!(writes(&kernel, &beside));
        let step = prepare(&kernel, &layouts, &[beside.clone()]).unwrap();
        let out = launch(&*step, &inputs, std::slice::from_ref(spec)).unwrap();
        let beside = out[0].view(beside, 0).unwrap();
        assert_eq!(values::<f32>(&beside), apart);
        // Not features apart from each other.
        let turned = Layout {
            strides: strides.map(|stride| stride as isize + 1)[..].into(),
            ..spec.layout()
        };
        assert!(!writes(&kernel, &turned));
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let case = Case::new([4, 2], [100, 300], true);
    let tensors = case.tensors(&case.operands());
    let layouts: Vec<Layout> = tensors.iter().map(|t| t.layout.clone()).collect();
    let spec = &case.out(Dtype::Float32)[0];
    let step = prepare(&case.kernel(false), &layouts, &[spec.layout()]).unwrap();
    let attend = |threads: usize| {
        let out = Tensor::allocate(spec, heap()).unwrap();
        let inputs: Vec<_> = tensors.iter().map(crate::testing::location).collect();
        let launch = Launch {
            inputs: &inputs,
            outputs: &[crate::testing::location(&out)],
            scratch: crate::testing::location(&out),
            pool: &Pool::new(threads),
        };
        step.launch(&launch).unwrap();
        let bits = values::<f32>(&out).into_iter().map(f32::to_bits);
        bits.collect::<Vec<u32>>()
    };
    let alone = attend(1);
    assert!(alone == attend(2) && alone == attend(7));
}
