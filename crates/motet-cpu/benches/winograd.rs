//! What Winograd's filtering gains over the direct way, by size: convolutions of 3x3 in both ways, in turns, as
//! a ratio of the fastest calls. `cargo bench -p motet-cpu --bench winograd [-- THREADS]`
//!
//! The direct way is that of the same convolution in three dimensions, the last of them 1. Weights come from the
//! outer caches or from memory, as in a model: the calls go round many layers. Sizes that the backend leaves to the
//! direct way have a ratio of 1; to measure them, let `WinogradStep::pays` be true.

use std::sync::Arc;
use std::time::{Duration, Instant};

use motet_core::backend::{Backend, Launch, Location, Step};
use motet_core::dtype::Dtype;
use motet_core::kernel::{Convolution, Kernel};
use motet_core::memory::{Buffer, heap};
use motet_core::pool::Pool;
use motet_core::shape::{Axes, Shape, Spec};
use motet_core::tensor::Tensor;
use motet_cpu::Cpu;

/// Bytes of weights in all layers, as long as these are not too many.
const WEIGHTS: usize = 40 << 20;
const LAYERS: usize = 12;
const ROUNDS: usize = 20;

/// Layers of one size, with memory that all of them use.
struct Layers {
    steps: Vec<Box<dyn Step>>,
    x: Tensor,
    out: Tensor,
    scratch: Arc<Buffer>,
}

fn zeros(spec: &Spec) -> Tensor {
    let tensor = Tensor::allocate(spec, heap()).unwrap();
    // SAFETY: nobody else knows the buffer, which has these bytes.
    unsafe { tensor.buffer.as_ptr().write_bytes(0, tensor.buffer.len()) };
    tensor
}

impl Layers {
    /// Layers with these batch, rows, columns, channels and features, in two or three dimensions.
    fn new([batch, side, channels, features]: [usize; 4], dims: usize) -> Layers {
        let spec = |outer: usize, side: usize, inner: usize| {
            let mut shape = vec![outer, side, side];
            shape.resize(dims + 1, 1);
            shape.push(inner);
            Spec::new(Shape::new(&shape), Dtype::Float32)
        };
        let mut padding = Axes::from_elem(1, 2);
        padding.resize(dims, 0);
        let kernel = Kernel::Convolution(Convolution {
            strides: Axes::from_elem(1, dims),
            padding_low: padding.clone(),
            padding_high: padding,
            kernel_dilation: Axes::from_elem(1, dims),
            input_dilation: Axes::from_elem(1, dims),
            groups: 1,
            flip: false,
        });
        let (x, w) = (spec(batch, side, channels), spec(features, 3, channels));
        let out = spec(batch, side, features);
        let layers = (WEIGHTS / w.bytes()).clamp(2, LAYERS);
        let layer = |_| {
            let layouts = [x.layout(), w.layout()];
            let constants = [None, Some(zeros(&w))];
            Cpu.prepare(&kernel, &layouts, &[out.layout()], &constants)
                .unwrap()
        };
        let steps: Vec<_> = (0..layers).map(layer).collect();
        Layers {
            x: zeros(&x),
            out: zeros(&out),
            scratch: Arc::new(heap().allocate(steps[0].scratch_bytes()).unwrap()),
            steps,
        }
    }

    /// The time of a call of each layer.
    fn round(&self, pool: &Pool) -> Duration {
        let place = |buffer| Location { buffer, offset: 0 };
        let launch = Launch {
            inputs: &[place(&self.x.buffer), place(&self.x.buffer)],
            outputs: &[place(&self.out.buffer)],
            scratch: place(&self.scratch),
            pool,
        };
        let start = Instant::now();
        for step in &self.steps {
            step.launch(&launch).unwrap();
        }
        start.elapsed() / self.steps.len() as u32
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(1);
    let pool = Pool::new(threads);
    println!("batch  side  channels  features  direct us  winograd us  ratio");
    for channels in [16, 32, 64, 128, 256, 512] {
        for (batch, side) in [
            (1, 4),
            (1, 7),
            (1, 12),
            (1, 14),
            (1, 20),
            (1, 28),
            (1, 56),
            (8, 7),
        ] {
            let sizes = [batch, side, channels, channels];
            let [direct, winograd] = [3, 2].map(|dims| Layers::new(sizes, dims));
            let mut least = [Duration::MAX; 2];
            for _ in 0..ROUNDS {
                for (least, layers) in least.iter_mut().zip([&direct, &winograd]) {
                    *least = layers.round(&pool).min(*least);
                }
            }
            let [direct, winograd] = least.map(|time| time.as_secs_f64() * 1e6);
            println!(
                "{batch:5}  {side:4}  {channels:8}  {channels:8}  {direct:9.0}  {winograd:11.0}  {:5.2}",
                direct / winograd
            );
        }
    }
}
