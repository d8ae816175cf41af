//! Linear algebra: what results have to fulfil, since signs, phases and orders are open.

use motet_core::dtype::Dtype;
use motet_core::kernel::{Linalg, Triangle};
use num_complex::Complex64;

use crate::Verdict;
use crate::value::{Value, tolerance};

/// What is wrong with what was computed of the matrices in `x`.
pub(super) fn check(linalg: Linalg, x: &Value, got: &[Value]) -> Verdict {
    let rank = x.spec.shape.len();
    let dtypes = got.iter().chain([x]).map(|value| value.spec.dtype);
    let coarser = |a: &Dtype, b: &Dtype| tolerance(*a).total_cmp(&tolerance(*b));
    let dtype = dtypes.max_by(coarser).unwrap_or(Dtype::Float64);
    let batches: usize = x.spec.shape[..rank - 2].iter().product();
    for batch in 0..batches {
        let of = |value| Matrix::of(value, rank, batch, batches, dtype);
        let outputs: Vec<Matrix> = got.iter().map(of).collect();
        let checked = check_one(linalg, &of(x), &outputs.iter().collect::<Vec<_>>());
        checked.map_err(|error| format!("matrix {batch}: {error}"))?;
    }
    Ok(())
}

fn check_one(linalg: Linalg, a: &Matrix, got: &[&Matrix]) -> Verdict {
    match (linalg, got) {
        (Linalg::Cholesky(triangle), [factor]) => {
            factor.vanishes_beside(triangle)?;
            let product = match triangle {
                Triangle::Lower => factor.times(&factor.adjoint()),
                Triangle::Upper => factor.adjoint().times(factor),
            };
            a.mirrored(triangle)
                .is_near("the product of the factors", &product)
        }
        (Linalg::Eig, [values]) => spectrum(a, values),
        (Linalg::Eig, [values, vectors]) => eigen(a, values, vectors),
        (Linalg::Eigh(triangle), [values, vectors @ ..]) => {
            let a = a.mirrored(triangle);
            if !values.data.is_sorted_by(|x, y| x.re <= y.re) {
                return Err(format!("eigenvalues {:?} do not ascend", values.data));
            }
            match vectors {
                [vectors] => {
                    vectors.has_orthonormal_columns()?;
                    eigen(&a, values, vectors)
                }
                _ => spectrum(&a, values),
            }
        }
        (Linalg::Inverse(triangle), [inverse]) => {
            let a = triangle.map_or_else(|| a.clone(), |triangle| a.triangle(triangle));
            triangle.map_or(Ok(()), |triangle| inverse.vanishes_beside(triangle))?;
            let one = Matrix::identity(a.rows);
            one.is_near("the product with the inverse", &a.times(inverse))
        }
        (Linalg::Lu, [factors, swaps, rows]) => {
            let k = a.rows.min(a.columns);
            let lower = Matrix::new(a.rows, k, |i, j| match i.cmp(&j) {
                std::cmp::Ordering::Greater => factors.at(i, j),
                std::cmp::Ordering::Equal => Complex64::ONE,
                std::cmp::Ordering::Less => Complex64::ZERO,
            });
            let upper = Matrix::new(k, a.columns, |i, j| match i <= j {
                true => factors.at(i, j),
                false => Complex64::ZERO,
            });
            let number = |number: &Complex64| number.re as usize;
            let mut order: Vec<usize> = (0..a.rows).collect();
            let swaps = swaps.data.iter().map(number).enumerate();
            swaps.for_each(|(step, with)| order.swap(step, with));
            let rows: Vec<usize> = rows.data.iter().map(number).collect();
            if rows != order {
                return Err(format!(
                    "rows {rows:?} are not what the exchanges make: {order:?}"
                ));
            }
            let swapped = Matrix::new(a.rows, a.columns, |i, j| a.at(rows[i], j));
            swapped.is_near("the product of the factors", &a.like(lower).times(&upper))
        }
        (Linalg::Qr, [q, r]) => {
            q.has_orthonormal_columns()?;
            r.vanishes_beside(Triangle::Upper)?;
            a.is_near("the product of the factors", &q.times(r))
        }
        (Linalg::Svd, [values]) => {
            // The squares of the values are the eigenvalues of the product with the adjoint.
            descends(values)?;
            let squares = Matrix::new(1, values.columns, |_, j| values.data[j] * values.data[j]);
            let product = match a.rows <= a.columns {
                true => a.times(&a.adjoint()),
                false => a.adjoint().times(a),
            };
            spectrum(&product, &squares)
        }
        (Linalg::Svd, [u, values, vt]) => {
            descends(values)?;
            u.has_orthonormal_columns()?;
            vt.has_orthonormal_columns()?;
            let scaled = Matrix::new(a.rows, a.columns, |i, j| {
                values.data.get(j).map_or(Complex64::ZERO, |value| {
                    u.at(i, j.min(u.columns - 1)) * value
                })
            });
            a.is_near("the product of the factors", &scaled.times(vt))
        }
        _ => Err(format!("{linalg:?} has {} outputs", got.len())),
    }
}

fn descends(values: &Matrix) -> Verdict {
    let values: Vec<f64> = values.data.iter().map(|value| value.re).collect();
    match values.is_sorted_by(|a, b| a >= b) && values.iter().all(|&value| value >= 0.0) {
        true => Ok(()),
        false => Err(format!("singular values {values:?} do not descend")),
    }
}

/// Whether `a` times each vector is the vector times its value, and no vector is too short.
fn eigen(a: &Matrix, values: &Matrix, vectors: &Matrix) -> Verdict {
    let scaled = Matrix::new(a.rows, a.rows, |i, j| vectors.at(i, j) * values.data[j]);
    for column in 0..a.rows {
        let length: f64 = (0..a.rows)
            .map(|row| vectors.at(row, column).norm_sqr())
            .sum();
        if (length - 1.0).abs() > vectors.rounding() {
            return Err(format!("vector {column} has the square length {length}"));
        }
    }
    scaled.is_near("the product with the vectors", &a.times(vectors))
}

/// Whether the values and their squares add up to the traces of the matrix and of its square.
fn spectrum(a: &Matrix, values: &Matrix) -> Verdict {
    let trace = |m: &Matrix| (0..m.rows).map(|i| m.at(i, i)).sum::<Complex64>();
    let sum: Complex64 = values.data.iter().sum();
    let squares: Complex64 = values.data.iter().map(|value| value * value).sum();
    let size = a.largest() * a.rows as f64;
    let near = |what, wanted: Complex64, got: Complex64, scale: f64| {
        let bound = a.rounding() * scale;
        match (got - wanted).norm() <= bound {
            true => Ok(()),
            false => Err(format!("{what} is {got}, expected {wanted} within {bound}")),
        }
    };
    near("the sum of the eigenvalues", trace(a), sum, size)?;
    near(
        "the sum of their squares",
        trace(&a.times(a)),
        squares,
        size * size,
    )
}

/// A matrix of complex numbers; vectors are rows.
#[derive(Clone)]
struct Matrix {
    rows: usize,
    columns: usize,
    data: Vec<Complex64>,
    /// The coarsest dtype that numbers were rounded to.
    dtype: Dtype,
}

impl Matrix {
    /// One of a batch. A value of fewer dimensions than the input has holds vectors.
    fn of(value: &Value, rank: usize, batch: usize, batches: usize, dtype: Dtype) -> Matrix {
        let shape = &value.spec.shape;
        let columns = shape[shape.len() - 1];
        let rows = if shape.len() == rank {
            shape[rank - 2]
        } else {
            1
        };
        let size = value.elements.len() / batches;
        let elements = &value.elements[batch * size..][..size];
        Matrix {
            rows,
            columns,
            data: elements.iter().map(|e| e.complex()).collect(),
            dtype,
        }
    }

    fn new(rows: usize, columns: usize, at: impl Fn(usize, usize) -> Complex64) -> Matrix {
        let mut data = Vec::with_capacity(rows * columns);
        for i in 0..rows {
            data.extend((0..columns).map(|j| at(i, j)));
        }
        Matrix {
            rows,
            columns,
            data,
            dtype: Dtype::Float64,
        }
    }

    fn identity(size: usize) -> Matrix {
        let one = |i, j| {
            if i == j {
                Complex64::ONE
            } else {
                Complex64::ZERO
            }
        };
        Matrix::new(size, size, one)
    }

    fn at(&self, row: usize, column: usize) -> Complex64 {
        self.data[row * self.columns + column]
    }

    /// `make`, of numbers that were rounded as this one's were.
    fn like(&self, made: Matrix) -> Matrix {
        let dtype = self.dtype;
        Matrix { dtype, ..made }
    }

    fn adjoint(&self) -> Matrix {
        self.like(Matrix::new(self.columns, self.rows, |i, j| {
            self.at(j, i).conj()
        }))
    }

    fn times(&self, other: &Matrix) -> Matrix {
        let sum = |i, j| {
            (0..self.columns)
                .map(|k| self.at(i, k) * other.at(k, j))
                .sum()
        };
        self.like(Matrix::new(self.rows, other.columns, sum))
    }

    /// One triangle, zeros beside it.
    fn triangle(&self, triangle: Triangle) -> Matrix {
        let at = |i, j| {
            if is_in(triangle, i, j) {
                self.at(i, j)
            } else {
                Complex64::ZERO
            }
        };
        self.like(Matrix::new(self.rows, self.columns, at))
    }

    /// The Hermitian matrix that one triangle stands for.
    fn mirrored(&self, triangle: Triangle) -> Matrix {
        let at = |i, j| match (i == j, is_in(triangle, i, j)) {
            (true, _) => self.at(i, j).re.into(),
            (false, true) => self.at(i, j),
            (false, false) => self.at(j, i).conj(),
        };
        self.like(Matrix::new(self.rows, self.columns, at))
    }

    fn largest(&self) -> f64 {
        self.data.iter().map(|x| x.norm()).fold(0.0, f64::max)
    }

    /// What a few sums may lose, relative to the numbers that are added.
    fn rounding(&self) -> f64 {
        20.0 * tolerance(self.dtype)
    }

    /// Whether `got` is this matrix.
    fn is_near(&self, what: &str, got: &Matrix) -> Verdict {
        let rounding = self.rounding().max(got.rounding());
        let bound = rounding * self.largest().max(1.0) * self.rows.max(1) as f64;
        let mut pairs = self.data.iter().zip(&got.data);
        match pairs.find(|(wanted, got)| (**got - **wanted).norm() > bound || got.is_nan()) {
            Some((wanted, got)) => Err(format!("{what} has {got} for {wanted}, within {bound}")),
            None => Ok(()),
        }
    }

    fn vanishes_beside(&self, triangle: Triangle) -> Verdict {
        let outside = |at| !is_in(triangle, at / self.columns, at % self.columns);
        match (0..self.data.len()).any(|at| outside(at) && self.data[at] != Complex64::ZERO) {
            true => Err(format!("it is not zero beside the {triangle:?} triangle")),
            false => Ok(()),
        }
    }

    fn has_orthonormal_columns(&self) -> Verdict {
        let product = self.adjoint().times(self);
        Matrix::identity(self.columns).is_near("the product of columns", &product)
    }
}

fn is_in(triangle: Triangle, row: usize, column: usize) -> bool {
    match triangle {
        Triangle::Lower => column <= row,
        Triangle::Upper => row <= column,
    }
}
