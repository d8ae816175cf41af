//! Singular value decompositions by `faer`: full U, S and Vt, or S alone, of each matrix.

use std::marker::PhantomData;
use std::sync::Mutex;

use faer::MatRef;
use faer::traits::ComplexField;
use motet_core::backend::{Launch, Step};
use motet_core::dtype::Dtype;
use motet_core::error::{Error, Result};
use motet_core::kernel::Kernel;
use motet_core::shape::Layout;

use crate::number::Number;
use crate::operand::{Output, input};

/// Inputs are read row-major.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.is_contiguous()
}

/// Prepares a decomposition.
pub(crate) fn prepare(_: &Kernel, inputs: &[Layout], outputs: &[Layout]) -> Result<Box<dyn Step>> {
    let [x] = inputs else {
        return Err(Error::invalid("SVD", "expected one input"));
    };
    let Some((batch, &[m, n])) = x.shape.split_last_chunk::<2>() else {
        return Err(Error::invalid(
            "SVD",
            format!("got shape {}, expected matrices", x.shape),
        ));
    };
    let is = |layout: &Layout, matrix: &[usize]| {
        layout.dtype == x.dtype && *layout.shape == [batch, matrix].concat()[..]
    };
    let fits = match outputs {
        [s] => is(s, &[m.min(n)]),
        [u, s, vt] => is(u, &[m, m]) && is(s, &[m.min(n)]) && is(vt, &[n, n]),
        _ => false,
    };
    if !fits {
        return Err(Error::invalid(
            "SVD",
            format!("the outputs do not fit the input {}", x.shape),
        ));
    }
    Ok(match x.dtype {
        Dtype::Float32 => Box::new(SvdStep::<f32>::new(batch, m, n, x, outputs)),
        Dtype::Float64 => Box::new(SvdStep::<f64>::new(batch, m, n, x, outputs)),
        dtype => {
            return Err(Error::unsupported(
                "SVD",
                format!("no decomposition of {dtype}"),
            ));
        }
    })
}

struct SvdStep<T> {
    x: Layout,
    outputs: Vec<Layout>,
    batches: usize,
    m: usize,
    n: usize,
    dtype: PhantomData<fn() -> T>,
}

impl<T> SvdStep<T> {
    fn new(batch: &[usize], m: usize, n: usize, x: &Layout, outputs: &[Layout]) -> SvdStep<T> {
        SvdStep {
            x: x.clone(),
            outputs: outputs.to_vec(),
            batches: batch.iter().product(),
            m,
            n,
            dtype: PhantomData,
        }
    }
}

impl<T: Number + ComplexField<Real = T>> SvdStep<T> {
    /// Decomposes one matrix; `outputs` are S, or U, S and Vt.
    fn decompose(&self, x: &[T], outputs: &mut [&mut [T]]) -> Result<()> {
        let (m, n) = (self.m, self.n);
        if m == 0 || n == 0 {
            // Nothing to decompose: any orthogonal matrices will do.
            if let [u, _, vt] = outputs {
                identity(u, m);
                identity(vt, n);
            }
            return Ok(());
        }
        if !x.iter().all(faer::traits::math_utils::is_finite) {
            return Err(no_convergence(
                "the matrix has elements that are infinite or NaN",
            ));
        }
        let matrix = MatRef::from_row_major_slice(x, m, n);
        let failed = |_| no_convergence("too many iterations");
        match outputs {
            [u, s, vt] => {
                let svd = matrix.svd().map_err(failed)?;
                for (i, u) in u.iter_mut().enumerate() {
                    *u = svd.U()[(i / m, i % m)];
                }
                for (i, s) in s.iter_mut().enumerate() {
                    *s = svd.S()[i];
                }
                for (i, vt) in vt.iter_mut().enumerate() {
                    *vt = svd.V()[(i % n, i / n)];
                }
            }
            outputs => {
                let values = matrix.singular_values().map_err(failed)?;
                outputs.iter_mut().for_each(|s| s.copy_from_slice(&values));
            }
        }
        Ok(())
    }
}

fn no_convergence(why: &str) -> Error {
    Error::invalid("SVD", format!("the decomposition does not converge: {why}"))
}

fn identity<T: Number>(matrix: &mut [T], size: usize) {
    matrix.fill(T::ZERO);
    matrix
        .iter_mut()
        .step_by(size + 1)
        .for_each(|x| *x = T::ONE);
}

impl<T: Number + ComplexField<Real = T>> Step for SvdStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let x = input::<T>(&launch.inputs[0], &self.x)?;
        let outputs = launch.outputs.iter().zip(&self.outputs);
        let outputs: Vec<Output<'_, T>> = outputs
            .map(|(place, layout)| Output::new(place, layout))
            .collect::<Result<_>>()?;
        let (matrix, batches) = (self.m * self.n, self.batches);
        let cost = matrix.saturating_mul(self.m.min(self.n)).saturating_mul(10);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        launch.pool.for_each_tile(batches, cost, &|batch| {
            let mut parts: Vec<&mut [T]> = outputs
                .iter()
                .map(|out| {
                    let size = out.len() / batches;
                    // SAFETY: the outputs of a matrix are written by one tile.
                    unsafe { out.part(batch * size..(batch + 1) * size) }
                })
                .collect();
            if let Err(error) = self.decompose(&x[batch * matrix..][..matrix], &mut parts) {
                *failed.lock().unwrap_or_else(|poison| poison.into_inner()) = Some(error);
            }
        });
        match failed
            .into_inner()
            .unwrap_or_else(|poison| poison.into_inner())
        {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use motet_core::shape::Spec;

    use super::*;
    use crate::testing::{noise, run, tensor, values};

    /// Checks U and Vt for orthogonality, S for order, and their product against the input.
    fn check<T: Number + ComplexField<Real = T>>(
        shape: [usize; 3],
        x: &[T],
        to: impl Fn(T) -> f64,
        tolerance: f64,
    ) {
        let [batch, m, n] = shape;
        let k = m.min(n);
        let specs = [[batch, m, m].to_vec(), vec![batch, k], vec![batch, n, n]];
        let specs = specs.map(|shape| Spec::new(shape, T::DTYPE));
        let x_tensor = tensor(&shape, x);
        let out = run(&Kernel::Svd, &[&x_tensor], &specs).unwrap();
        let alone = run(&Kernel::Svd, &[&x_tensor], &specs[1..2]).unwrap();
        let wide = |i: usize| {
            values::<T>(&out[i])
                .into_iter()
                .map(&to)
                .collect::<Vec<_>>()
        };
        let (u, s, vt) = (wide(0), wide(1), wide(2));
        for (a, b) in values::<T>(&alone[0]).into_iter().zip(&s) {
            assert!((to(a) - b).abs() < tolerance);
        }
        let orthogonal = |q: &[f64], size: usize| {
            for (i, j) in (0..size).flat_map(|i| (0..size).map(move |j| (i, j))) {
                let dot: f64 = (0..size).map(|l| q[i * size + l] * q[j * size + l]).sum();
                assert!((dot - f64::from(u8::from(i == j))).abs() < tolerance);
            }
        };
        for b in 0..batch {
            let (u, vt) = (&u[b * m * m..][..m * m], &vt[b * n * n..][..n * n]);
            let s = &s[b * k..][..k];
            orthogonal(u, m);
            orthogonal(vt, n);
            assert!(s.is_sorted_by(|a, b| a >= b) && s.iter().all(|&s| s >= 0.0));
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let got: f64 = (0..k).map(|l| u[i * m + l] * s[l] * vt[l * n + j]).sum();
                assert!((got - to(x[(b * m + i) * n + j])).abs() < tolerance);
            }
        }
    }

    #[test]
    fn factors_multiply_to_the_matrix() {
        for shape in [
            [2, 5, 3],
            [1, 4, 9],
            [3, 6, 6],
            [1, 1, 1],
            [2, 3, 0],
            [0, 2, 2],
        ] {
            let x = noise(shape.iter().product(), 1);
            let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            check::<f32>(shape, &x, f64::from, 1e-5);
            check::<f64>(shape, &wide, |x| x, 1e-12);
        }
        check::<f64>([1, 3, 3], &[0.0; 9], |x| x, 1e-12);
    }

    #[test]
    fn what_cannot_be_decomposed_is_an_error() {
        let out = [Spec::new([2], Dtype::Float32)];
        for bad in [f32::NAN, f32::INFINITY] {
            let x = tensor(&[2, 2], &[1.0, bad, 0.0, 1.0]);
            assert!(run(&Kernel::Svd, &[&x], &out).is_err());
        }
        let x = Spec::new([2, 2], Dtype::Float16).layout();
        let s = Spec::new([2], Dtype::Float16).layout();
        assert!(prepare(&Kernel::Svd, &[x], &[s]).is_err());
    }
}
