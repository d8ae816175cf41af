//! Winograd's filtering against sums in float64, and against the direct way.

use motet_core::backend::{Launch, Location};
use motet_core::kernel::{Convolution, Fused};
use motet_core::memory::heap;
use motet_core::pool::Pool;
use motet_core::program::{Program, expr};
use motet_core::shape::{Axes, Shape};

use super::transform::{self, INPUTS, OUTPUTS, PLACES, TAPS};
use super::*;
use crate::simd::Simd;
use crate::target::Target;
use crate::testing::{launch, location, noise, tensor, values};

/// The largest error, relative to the largest sum of the absolute values of an output's terms: half of what the
/// conformance suite allows. With a single channel there are errors of half of it.
const ERROR: f64 = 1e-6;

/// The sizes of a convolution by 3x3.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    /// The first one is that of planes, which the kernel leaves apart.
    input: [usize; 3],
    /// Before and after, in both other dimensions.
    padding: [[usize; 2]; 2],
    channels: usize,
    features: usize,
    flip: bool,
}

impl Case {
    /// One of a network: padded so that the output is as large as the input.
    fn same(side: usize, channels: usize) -> Case {
        Case {
            batch: 1,
            input: [1, side, side],
            padding: [[1, 1]; 2],
            channels,
            features: channels,
            flip: false,
        }
    }

    fn output(&self) -> [usize; 3] {
        let [planes, rows, columns] = self.input;
        let side = |side: usize, padding: [usize; 2]| side + padding[0] + padding[1] + 1 - TAPS;
        [
            planes,
            side(rows, self.padding[0]),
            side(columns, self.padding[1]),
        ]
    }

    fn x(&self) -> Vec<usize> {
        [&[self.batch], &self.input[..], &[self.channels]].concat()
    }

    fn w(&self) -> Vec<usize> {
        vec![self.features, 1, TAPS, TAPS, self.channels]
    }

    fn out(&self) -> Vec<usize> {
        [&[self.batch], &self.output()[..], &[self.features]].concat()
    }

    fn kernel(&self) -> Kernel {
        let [rows, columns] = self.padding;
        let one = Axes::from_elem(1, 3);
        Kernel::Convolution(Convolution {
            strides: one.clone(),
            padding_low: Axes::from_slice(&[0, rows[0], columns[0]]),
            padding_high: Axes::from_slice(&[0, rows[1], columns[1]]),
            kernel_dilation: one.clone(),
            input_dilation: one,
            groups: 1,
            flip: self.flip,
        })
    }

    fn operands(&self) -> [Tensor; 2] {
        let make = |shape: &[usize], seed| tensor(shape, &noise(shape.iter().product(), seed));
        [make(&self.x(), 1), make(&self.w(), 2)]
    }

    fn parts(&self) -> (Geometry, Layout, Target) {
        let kernel = self.kernel();
        let layouts = [self.x(), self.w(), self.out()]
            .map(|shape| Spec::new(Shape::new(&shape), Dtype::Float32).layout());
        let [x, _, out] = layouts.clone();
        let parts = parts(&kernel, &layouts[..2], std::slice::from_ref(&out)).unwrap();
        let geometry = Geometry::new(&kernel, &layouts[..2], &[out]).unwrap();
        (geometry, x, parts.target)
    }

    /// The step, whether it pays or not.
    fn step(&self, w: &Tensor) -> WinogradStep {
        let (geometry, x, target) = self.parts();
        assert!(WinogradStep::takes(&geometry, &x, w), "{self:?}");
        WinogradStep::new(geometry, &x, w, target).unwrap()
    }

    fn direct(&self, w: &Tensor) -> ConstantStep {
        let (geometry, x, target) = self.parts();
        ConstantStep::new(geometry, &x, w, target).unwrap()
    }

    fn run(&self, step: &dyn Step, operands: &[Tensor; 2]) -> Vec<f32> {
        let out = [Spec::new(Shape::new(&self.out()), Dtype::Float32)];
        values(&launch(step, &operands.each_ref(), &out).unwrap()[0])
    }

    /// Each output's sum, and that of its terms' absolute values.
    fn reference(&self, [x, w]: &[Tensor; 2]) -> Vec<[f64; 2]> {
        let (x, w) = (values::<f32>(x), values::<f32>(w));
        let ([planes, rows, columns], channels) = (self.input, self.channels);
        let [_, out_rows, out_columns] = self.output();
        let mut sums = Vec::new();
        for plane in 0..self.batch * planes {
            for (row, column) in
                (0..out_rows).flat_map(|row| (0..out_columns).map(move |column| (row, column)))
            {
                for feature in 0..self.features {
                    let mut sum = [0.0; 2];
                    for tap in 0..TAPS * TAPS {
                        let row = (row + tap / TAPS).wrapping_sub(self.padding[0][0]);
                        let column = (column + tap % TAPS).wrapping_sub(self.padding[1][0]);
                        if row >= rows || column >= columns {
                            continue;
                        }
                        let tap = if self.flip {
                            TAPS * TAPS - 1 - tap
                        } else {
                            tap
                        };
                        let x = &x[((plane * rows + row) * columns + column) * channels..];
                        let w = &w[(feature * TAPS * TAPS + tap) * channels..];
                        for (&x, &w) in x[..channels].iter().zip(w) {
                            let term = f64::from(x) * f64::from(w);
                            sum = [sum[0] + term, sum[1] + term.abs()];
                        }
                    }
                    sums.push(sum);
                }
            }
        }
        sums
    }
}

#[test]
fn transforms_agree_with_sums_for_all_instructions() {
    // Whole vectors, and what is left of them.
    let (channels, features) = (37, 21);
    let x = noise(PLACES * channels, 1);
    let w = noise(TAPS * TAPS * channels * features, 2);
    let weight = |tap: usize, channel: usize, feature: usize| {
        w[(tap * channels + channel) * features + feature]
    };
    for simd in Simd::all() {
        let from: [_; PLACES] = std::array::from_fn(|place| x[place * channels..].as_ptr());
        let mut tile = vec![f32::NAN; PLACES * channels];
        // SAFETY: each place has these channels, and there are so many places.
        unsafe { transform::input(simd, &from, channels, tile.as_mut_ptr(), channels) };
        let mut products = vec![0.0; PLACES * features];
        for (channel, feature) in (0..channels).flat_map(|c| (0..features).map(move |f| (c, f))) {
            let tap = |i: usize, j: usize| weight(i * TAPS + j, channel, feature);
            for (place, w) in transform::weights(tap).into_iter().enumerate() {
                products[place * features + feature] += tile[place * channels + channel] * w;
            }
        }
        let (rows, columns) = (OUTPUTS, OUTPUTS - 1);
        let mut out = vec![f32::NAN; OUTPUTS * OUTPUTS * features];
        // SAFETY: as above; there is memory for all outputs.
        unsafe {
            let (from, to) = (products.as_ptr(), out.as_mut_ptr());
            let steps = [features, OUTPUTS * features];
            transform::output(simd, from, to, features, steps, [rows, columns]);
        }
        for (number, got) in out.into_iter().enumerate() {
            let (place, feature) = (number / features, number % features);
            let (row, column) = (place / OUTPUTS, place % OUTPUTS);
            if column >= columns {
                assert!(got.is_nan(), "only what is inside is stored");
                continue;
            }
            let mut sum = [0.0; 2];
            for tap in 0..TAPS * TAPS {
                let place = (row + tap / TAPS) * INPUTS + column + tap % TAPS;
                for channel in 0..channels {
                    let x = x[place * channels + channel];
                    let term = f64::from(x) * f64::from(weight(tap, channel, feature));
                    sum = [sum[0] + term, sum[1] + term.abs()];
                }
            }
            let error = (f64::from(got) - sum[0]).abs();
            assert!(
                error <= ERROR * sum[1],
                "{simd:?} {row} {column} {feature}: {error}"
            );
        }
    }
}

#[test]
fn results_agree_with_sums_for_all_sizes() {
    let mut random = noise(4000, 3).into_iter();
    let mut pick = |from: &[usize]| {
        let place = (random.next().unwrap() + 1.0) / 2.0 * from.len() as f32;
        from[place as usize]
    };
    for number in 0..60 {
        let sides = [3, 4, 5, 6, 7, 9, 14, 30];
        let case = Case {
            batch: pick(&[1, 1, 2, 3]),
            input: [pick(&[1, 1, 2]), pick(&sides), pick(&sides)],
            padding: [0; 2].map(|_| [0; 2].map(|_| pick(&[0, 1, 1, 2, 3, 6]))),
            // More channels than lines that are multiplied before the next panel.
            channels: if number == 0 {
                530
            } else {
                pick(&[1, 3, 16, 17, 40])
            },
            features: pick(&[1, 5, 16, 33, 70]),
            flip: pick(&[0, 1]) == 1,
        };
        let operands = case.operands();
        let got = case.run(&case.step(&operands[1]), &operands);
        let expected = case.reference(&operands);
        assert_eq!(got.len(), expected.len());
        let largest = expected.iter().map(|sum| sum[1]).fold(0.0, f64::max);
        for (got, [sum, _]) in got.into_iter().zip(expected) {
            let error = (f64::from(got) - sum).abs();
            assert!(
                error <= ERROR * largest,
                "{case:?}: {got} {sum} of {largest}"
            );
        }
    }
}

#[test]
fn rounding_is_at_most_four_times_that_of_the_direct_way() {
    for case in [Case::same(12, 16), Case::same(12, 64), Case::same(12, 200)] {
        let operands = case.operands();
        let expected = case.reference(&operands);
        let square = |step: &dyn Step| -> f64 {
            let got = case.run(step, &operands).into_iter().zip(&expected);
            got.map(|(got, [sum, _])| (f64::from(got) - sum).powi(2))
                .sum()
        };
        let [winograd, direct] = [
            square(&case.step(&operands[1])),
            square(&case.direct(&operands[1])),
        ];
        let ratio = (winograd / direct).sqrt();
        assert!(ratio <= 4.0, "{case:?}: {ratio}");
    }
}

#[test]
fn programs_run_on_outputs() {
    let case = Case {
        batch: 2,
        input: [1, 15, 14],
        features: 70,
        ..Case::same(0, 16)
    };
    let [x, w] = case.operands();
    let plain = case.run(&case.step(&w), &[x.clone(), w.clone()]);
    let other = tensor(&case.out(), &noise(plain.len(), 3));
    let spec = Spec::new(Shape::new(&case.out()), Dtype::Float32);
    let fused = Kernel::Fused(Box::new(Fused {
        kernel: case.kernel(),
        inputs: 2,
        program: Program::from_expr(&(expr::x() - expr::y()), &[Dtype::Float32; 2]),
        result: spec.clone(),
    }));
    let layouts = [&x, &w, &other].map(|tensor| tensor.layout.clone());
    let target = parts(&fused, &layouts, &[spec.layout()]).unwrap().target;
    let (geometry, ..) = case.parts();
    let step = WinogradStep::new(geometry, &x.layout, &w, target).unwrap();
    let got = launch(&step, &[&x, &w, &other], &[spec]).unwrap();
    let others = values::<f32>(&other);
    for ((got, plain), other) in values::<f32>(&got[0]).iter().zip(plain).zip(others) {
        assert_eq!(*got, plain - other);
    }
}

#[test]
fn threads_do_not_change_results() {
    let case = Case::same(30, 48);
    let [x, w] = case.operands();
    let step = case.step(&w);
    let spec = Spec::new(Shape::new(&case.out()), Dtype::Float32);
    let result = |threads: usize| {
        let out = Tensor::allocate(&spec, heap()).unwrap();
        let scratch = heap().allocate(step.scratch_bytes()).unwrap();
        let launch = Launch {
            inputs: &[&x, &w].map(location),
            outputs: &[location(&out)],
            scratch: Location {
                buffer: &scratch,
                offset: 0,
            },
            pool: &Pool::new(threads),
        };
        step.launch(&launch).unwrap();
        let bits = values::<f32>(&out).into_iter().map(f32::to_bits);
        bits.collect::<Vec<_>>()
    };
    let alone = result(1);
    assert!(alone == result(2) && alone == result(7));
}

#[test]
fn the_way_is_chosen_by_size() {
    let scratch = |case: &Case| {
        let [x, w] = case.operands();
        let layouts = [x.layout, w.layout.clone()];
        let out = Spec::new(Shape::new(&case.out()), Dtype::Float32).layout();
        let step = prepare(&case.kernel(), &layouts, &[out], &[None, Some(w.clone())]).unwrap();
        let ways = [
            case.step(&w).scratch_bytes(),
            case.direct(&w).scratch_bytes(),
        ];
        assert_ne!(ways[0], ways[1]);
        step.scratch_bytes() == ways[0]
    };
    // Layers of networks for images: many tiles, and hardly any.
    assert!(scratch(&Case::same(28, 64)) && scratch(&Case::same(14, 128)));
    assert!(!scratch(&Case::same(4, 512)) && !scratch(&Case::same(28, 3)));
    // A kernel that leaves positions out is none of ours.
    let case = Case::same(28, 64);
    let [_, w] = case.operands();
    let (mut geometry, x, _) = case.parts();
    geometry.dims[1].stride = 2;
    assert!(!WinogradStep::takes(&geometry, &x, &w));
}
