//! Linear algebra by `faer`: a tile per matrix of a batch.
//!
//! [`factors`] has what is done after a known number of steps, [`spectra`] what iterates. Each
//! function takes one matrix, refuses what its algorithm cannot take, and writes the outputs of
//! that matrix in order. Elements that are NaN or infinite are an error, LU apart, whose
//! determinants they make NaN.

use std::sync::Mutex;

use faer::traits::ComplexField;
use faer::{MatMut, MatRef};
use motet_core::backend::{Launch, Location, Step};
use motet_core::dtype::{Dtype, Element};
use motet_core::error::{Error, ErrorKind, Result};
use motet_core::kernel::{Kernel, Linalg, Triangle};
use motet_core::shape::Layout;
use num_complex::Complex32;

use crate::number::Number;
use crate::operand::{Output, input};

mod factors;
mod spectra;
#[cfg(test)]
mod tests;

/// Inputs are read row-major.
pub(crate) fn accepts(_: &Kernel, _: usize, layout: &Layout) -> bool {
    layout.is_contiguous()
}

/// Prepares a computation.
pub(crate) fn prepare(
    kernel: &Kernel,
    inputs: &[Layout],
    outputs: &[Layout],
) -> Result<Box<dyn Step>> {
    let (Kernel::Linalg(op), [x]) = (kernel, inputs) else {
        return Err(Error::invalid("linalg", "expected one input"));
    };
    let step: Option<Box<dyn Step>> = match x.dtype {
        Dtype::Float32 => LinalgStep::boxed(real::<f32>(*op), x, outputs)?,
        Dtype::Float64 => LinalgStep::boxed(real::<f64>(*op), x, outputs)?,
        Dtype::Complex64 => LinalgStep::boxed(any::<Complex32>(*op), x, outputs)?,
        _ => None,
    };
    step.ok_or_else(|| Error::unsupported("linalg", format!("no {op:?} of {}", x.dtype)))
}

/// An element of matrices.
trait Scalar: Number + ComplexField<Real: Number + Into<f64>> {}
impl<T: Number + ComplexField<Real: Number + Into<f64>>> Scalar for T {}

/// Computes the outputs of one matrix.
type Run<T> = Box<dyn Fn(MatRef<'_, T>, Parts<'_>) -> Result<()> + Send + Sync>;

/// What exists for real dtypes.
fn real<T: Scalar>(op: Linalg) -> Option<Run<T>> {
    Some(match op {
        Linalg::Cholesky(triangle) => Box::new(move |x, out| factors::cholesky(x, triangle, out)),
        Linalg::Inverse(None) => Box::new(factors::inverse),
        Linalg::Inverse(Some(triangle)) => {
            Box::new(move |x, out| factors::triangular_inverse(x, triangle, out))
        }
        Linalg::Lu => Box::new(factors::lu),
        Linalg::Qr => Box::new(factors::qr),
        _ => return any(op),
    })
}

/// What exists for complex dtypes as well.
fn any<T: Scalar>(op: Linalg) -> Option<Run<T>> {
    Some(match op {
        Linalg::Eig => Box::new(spectra::eig),
        Linalg::Eigh(triangle) => Box::new(move |x, out| spectra::eigh(x, triangle, out)),
        Linalg::Svd => Box::new(spectra::svd),
        _ => return None,
    })
}

/// The outputs of one matrix, in order.
struct Parts<'a> {
    places: &'a [Location<'a>],
    layouts: &'a [Layout],
    batch: usize,
    batches: usize,
}

impl<'a> Parts<'a> {
    /// Whether one output is left.
    fn is_last(&self) -> bool {
        self.layouts.len() == 1
    }

    /// The next output.
    fn next<T: Element>(&mut self) -> Result<&'a mut [T]> {
        let split = (self.places.split_first(), self.layouts.split_first());
        let (Some((place, places)), Some((layout, layouts))) = split else {
            return Err(unfit());
        };
        (self.places, self.layouts) = (places, layouts);
        let output = Output::new(place, layout)?;
        let size = output.len() / self.batches;
        // SAFETY: each matrix has a range of its own in every output, and is one tile's, which
        // takes every output once.
        Ok(unsafe { output.part(self.batch * size..(self.batch + 1) * size) })
    }

    /// The next output, a matrix.
    fn next_matrix<T: Element>(&mut self, rows: usize, columns: usize) -> Result<MatMut<'a, T>> {
        let part = self.next::<T>()?;
        match part.len() == rows * columns {
            true => Ok(MatMut::from_row_major_slice_mut(part, rows, columns)),
            false => Err(unfit()),
        }
    }
}

fn unfit() -> Error {
    Error::new(
        ErrorKind::Internal,
        "linalg",
        "the outputs do not fit the input",
    )
}

/// Refuses a matrix with elements, of those that count, that are infinite or NaN.
fn check_finite<T: Scalar>(
    op: &str,
    x: MatRef<'_, T>,
    counts: impl Fn(usize, usize) -> bool,
) -> Result<()> {
    for (i, row) in x.row_iter().enumerate() {
        for (j, x) in row.iter().enumerate() {
            if counts(i, j) && !faer::traits::math_utils::is_finite(x) {
                return Err(Error::invalid(
                    op,
                    format!("element ({i}, {j}) of a matrix is {x:?}, expected finite numbers"),
                ));
            }
        }
    }
    Ok(())
}

/// Whether a triangle has the element in row `i` and column `j`.
fn has(triangle: Triangle, i: usize, j: usize) -> bool {
    match triangle {
        Triangle::Lower => j <= i,
        Triangle::Upper => i <= j,
    }
}

struct LinalgStep<T> {
    run: Run<T>,
    x: Layout,
    outputs: Vec<Layout>,
    batches: usize,
    rows: usize,
    columns: usize,
}

impl<T: Scalar> LinalgStep<T> {
    /// A step, where there is something to run.
    fn boxed(run: Option<Run<T>>, x: &Layout, outputs: &[Layout]) -> Result<Option<Box<dyn Step>>> {
        let Some((batch, &[rows, columns])) = x.shape.split_last_chunk::<2>() else {
            return Err(Error::invalid(
                "linalg",
                format!("got shape {}, expected matrices", x.shape),
            ));
        };
        Ok(run.map(|run| {
            Box::new(LinalgStep {
                run,
                x: x.clone(),
                outputs: outputs.to_vec(),
                batches: batch.iter().product(),
                rows,
                columns,
            }) as Box<dyn Step>
        }))
    }
}

impl<T: Scalar> Step for LinalgStep<T> {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let x = input::<T>(&launch.inputs[0], &self.x)?;
        let (rows, columns, size) = (self.rows, self.columns, self.rows * self.columns);
        let cost = size.saturating_mul(rows.min(columns)).saturating_mul(10);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        launch.pool.for_each_tile(self.batches, cost, &|batch| {
            let matrix = &x[batch * size..][..size];
            let parts = Parts {
                places: launch.outputs,
                layouts: &self.outputs,
                batch,
                batches: self.batches,
            };
            let matrix = MatRef::from_row_major_slice(matrix, rows, columns);
            if let Err(error) = (self.run)(matrix, parts) {
                *failed.lock().unwrap_or_else(|poison| poison.into_inner()) = Some(error);
            }
        });
        let failed = failed.into_inner();
        match failed.unwrap_or_else(|poison| poison.into_inner()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
