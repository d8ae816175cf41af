//! Linear algebra on each matrix of a batch: (..., M, N), with K the smaller of M and N.
//!
//! Most takes float32 and float64; what has an answer for complex64 takes it as well.

use std::ops::RangeInclusive;

use super::state::operation;
use super::{Lowered, Operation};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernel::{Kernel, Linalg, Triangle};
use crate::shape::{Shape, Spec};

operation! {
    /// The triangular factor of a symmetric positive definite matrix: the lower L of `A = L L^T`,
    /// or the upper U of `A = U^T U`. Reads that triangle of A alone.
    Cholesky {
        /// U rather than L.
        upper: bool,
    }
}

operation! {
    /// Complex eigenvalues (..., M) in no particular order, and where asked for unit eigenvectors
    /// (..., M, M) as columns.
    Eig {
        /// Whether the eigenvectors are an output.
        vectors: bool,
    }
}

operation! {
    /// Ascending real eigenvalues (..., M) of a symmetric or Hermitian matrix, and where asked for
    /// orthonormal eigenvectors (..., M, M) as columns.
    Eigh {
        /// The triangle that is read.
        uplo: Triangle,
        /// Whether the eigenvectors are an output.
        vectors: bool,
    }
}

operation! {
    /// The inverse of a square matrix, or of one triangle of it.
    Inverse {
        /// Whether a triangle is inverted; the rest is not read, and zero in the result.
        triangular: bool,
        /// The upper triangle rather than the lower.
        upper: bool,
    }
}

operation! {
    /// LU with rows exchanged: U (M x N) with the multipliers of L below its diagonal; the row that
    /// each step exchanges with its own (K, uint32); and the row of A that became each row (M,
    /// uint32).
    LUF;
}

operation! {
    /// Q (M x K) with orthonormal columns and the upper triangular R (K x N), `A = Q R`, with the
    /// signs of LAPACK's Householder reflections.
    QRF;
}

operation! {
    /// Singular values in descending order, with full U before and Vt after them where asked for.
    SVD {
        /// Whether U and Vt are outputs.
        compute_uv: bool => since (0, 23, 2) or true,
    }
}

const REAL: &[Dtype] = &[Dtype::Float32, Dtype::Float64];
const ANY: &[Dtype] = &[Dtype::Float32, Dtype::Float64, Dtype::Complex64];

/// An input: matrices behind batch dimensions.
struct Matrices<'a> {
    batch: &'a [usize],
    rows: usize,
    columns: usize,
    dtype: Dtype,
}

impl<'a> Matrices<'a> {
    fn of<O: Operation>(input: &'a Spec, dtypes: &[Dtype]) -> Result<Matrices<'a>> {
        match *input.shape {
            [ref batch @ .., rows, columns] if dtypes.contains(&input.dtype) => Ok(Matrices {
                batch,
                rows,
                columns,
                dtype: input.dtype,
            }),
            _ => {
                let names: Vec<String> = dtypes.iter().map(Dtype::to_string).collect();
                Err(O::error(format!(
                    "got {input}, expected matrices of {}",
                    names.join(" or ")
                )))
            }
        }
    }

    fn square<O: Operation>(input: &'a Spec, dtypes: &[Dtype]) -> Result<Matrices<'a>> {
        let matrices = Matrices::of::<O>(input, dtypes)?;
        match matrices.rows == matrices.columns {
            true => Ok(matrices),
            false => Err(O::error(format!("got {input}, expected square matrices"))),
        }
    }

    /// An output of these dimensions for each matrix.
    fn output(&self, dims: &[usize], dtype: Dtype) -> Spec {
        let shape: Shape = self.batch.iter().chain(dims).copied().collect();
        Spec::new(shape, dtype)
    }

    /// The dtype of lengths and of the eigenvalues of what is Hermitian.
    fn real(&self) -> Dtype {
        match self.dtype {
            Dtype::Complex64 => Dtype::Float32,
            dtype => dtype,
        }
    }
}

fn lowered(linalg: Linalg) -> Result<Lowered> {
    Ok(Lowered::Kernel(Kernel::Linalg(linalg)))
}

/// `op` on matrices of these shapes, in each dtype.
fn samples<O: Operation>(op: O, shapes: &[&[usize]], dtypes: &[Dtype]) -> Vec<(O, Vec<Spec>)> {
    let uses = shapes.iter().flat_map(|&shape| {
        dtypes
            .iter()
            .map(move |&dtype| vec![Spec::new(shape, dtype)])
    });
    uses.map(|inputs| (op.clone(), inputs)).collect()
}

const SQUARE: &[&[usize]] = &[&[3, 3], &[2, 4, 4], &[0, 0]];
const OBLONG: &[&[usize]] = &[&[5, 3], &[3, 5], &[2, 4, 4], &[2, 3, 0]];

impl Operation for Cholesky {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        Matrices::square::<Self>(&inputs[0], REAL)?;
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        lowered(Linalg::Cholesky(Triangle::new(self.upper)))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let of = |upper| samples(Cholesky { upper }, SQUARE, REAL);
        [of(false), of(true)].concat()
    }
}

impl Operation for Eig {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let x = Matrices::square::<Self>(&inputs[0], ANY)?;
        let values = x.output(&[x.rows], Dtype::Complex64);
        let vectors = x.output(&[x.rows, x.rows], Dtype::Complex64);
        Ok(match self.vectors {
            true => vec![values, vectors],
            false => vec![values],
        })
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        lowered(Linalg::Eig)
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let of = |vectors| samples(Eig { vectors }, SQUARE, ANY);
        [of(true), of(false)].concat()
    }
}

impl Operation for Eigh {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let x = Matrices::square::<Self>(&inputs[0], ANY)?;
        let values = x.output(&[x.rows], x.real());
        Ok(match self.vectors {
            true => vec![values, inputs[0].clone()],
            false => vec![values],
        })
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        lowered(Linalg::Eigh(self.uplo))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let of = |uplo, vectors| samples(Eigh { uplo, vectors }, SQUARE, ANY);
        [
            of(Triangle::Lower, true),
            of(Triangle::Upper, true),
            of(Triangle::Lower, false),
        ]
        .concat()
    }
}

impl Operation for Inverse {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        Matrices::square::<Self>(&inputs[0], REAL)?;
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        let triangle = Triangle::new(self.upper);
        lowered(Linalg::Inverse(self.triangular.then_some(triangle)))
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let of = |triangular, upper| samples(Inverse { triangular, upper }, SQUARE, REAL);
        [of(false, false), of(true, false), of(true, true)].concat()
    }
}

impl Operation for LUF {
    const STORED: bool = false;

    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let x = Matrices::of::<Self>(&inputs[0], REAL)?;
        Ok(vec![
            inputs[0].clone(),
            x.output(&[x.rows.min(x.columns)], Dtype::Uint32),
            x.output(&[x.rows], Dtype::Uint32),
        ])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        lowered(Linalg::Lu)
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        samples(LUF, OBLONG, REAL)
    }
}

impl Operation for QRF {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let x = Matrices::of::<Self>(&inputs[0], REAL)?;
        let k = x.rows.min(x.columns);
        Ok(vec![
            x.output(&[x.rows, k], x.dtype),
            x.output(&[k, x.columns], x.dtype),
        ])
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        lowered(Linalg::Qr)
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        samples(QRF, OBLONG, REAL)
    }
}

impl Operation for SVD {
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn infer(&self, inputs: &[Spec], _: Option<&[Spec]>) -> Result<Vec<Spec>> {
        let x = Matrices::of::<Self>(&inputs[0], ANY)?;
        let (m, n) = (x.rows, x.columns);
        let values = x.output(&[m.min(n)], x.real());
        Ok(match self.compute_uv {
            true => vec![
                x.output(&[m, m], x.dtype),
                values,
                x.output(&[n, n], x.dtype),
            ],
            false => vec![values],
        })
    }

    fn lower(&self, _: &[Spec], _: &[Spec]) -> Result<Lowered> {
        lowered(Linalg::Svd)
    }

    fn samples() -> Vec<(Self, Vec<Spec>)> {
        let of = |compute_uv| samples(SVD { compute_uv }, OBLONG, ANY);
        [of(true), of(false)].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shapes and dtypes of the outputs for one input.
    fn outputs(op: impl Operation, shape: &[usize], dtype: Dtype) -> Option<Vec<String>> {
        let outputs = op.infer(&[Spec::new(shape, dtype)], None).ok()?;
        Some(outputs.iter().map(Spec::to_string).collect())
    }

    #[test]
    fn outputs_follow_the_batch() {
        let f32 = |op| outputs(op, &[2, 5, 3], Dtype::Float32).unwrap();
        assert_eq!(
            f32(SVD { compute_uv: true }),
            ["float32(2,5,5)", "float32(2,3)", "float32(2,3,3)"]
        );
        assert_eq!(f32(SVD { compute_uv: false }), ["float32(2,3)"]);
        assert_eq!(
            outputs(QRF, &[2, 5, 3], Dtype::Float64).unwrap(),
            ["float64(2,5,3)", "float64(2,3,3)"]
        );
        assert_eq!(
            outputs(QRF, &[3, 5], Dtype::Float32).unwrap(),
            ["float32(3,3)", "float32(3,5)"]
        );
        assert_eq!(
            outputs(LUF, &[2, 5, 3], Dtype::Float32).unwrap(),
            ["float32(2,5,3)", "uint32(2,3)", "uint32(2,5)"]
        );
        let inverse = Inverse {
            triangular: false,
            upper: false,
        };
        assert_eq!(
            outputs(inverse, &[7, 4, 4], Dtype::Float32).unwrap(),
            ["float32(7,4,4)"]
        );
    }

    #[test]
    fn complex_spectra() {
        let (uplo, vectors) = (Triangle::Lower, true);
        let complex = Dtype::Complex64;
        assert_eq!(
            outputs(Eigh { uplo, vectors }, &[2, 2], complex).unwrap(),
            ["float32(2)", "complex64(2,2)"]
        );
        assert_eq!(
            outputs(SVD { compute_uv: false }, &[2, 3], complex).unwrap(),
            ["float32(2)"]
        );
        for dtype in [Dtype::Float32, Dtype::Float64, complex] {
            assert_eq!(
                outputs(Eig { vectors }, &[2, 2], dtype).unwrap(),
                ["complex64(2)", "complex64(2,2)"]
            );
        }
    }

    #[test]
    fn what_is_no_matrix_or_has_no_answer_is_refused() {
        let inverse = |triangular| Inverse {
            triangular,
            upper: false,
        };
        for (shape, dtype) in [
            (&[3][..], Dtype::Float32),
            (&[2, 2], Dtype::Float16),
            (&[2, 2], Dtype::Int32),
            (&[2, 2], Dtype::Complex64),
        ] {
            assert_eq!(outputs(QRF, shape, dtype), None);
            assert_eq!(outputs(LUF, shape, dtype), None);
            assert_eq!(outputs(inverse(true), shape, dtype), None);
            assert_eq!(outputs(Cholesky { upper: true }, shape, dtype), None);
        }
        let oblong = Spec::new([2, 3], Dtype::Float32);
        let error = inverse(false).infer(&[oblong], None).unwrap_err();
        assert!(error.to_string().contains("square"), "{error}");
    }
}
