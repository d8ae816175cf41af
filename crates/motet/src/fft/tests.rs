//! Transforms against their definitions, and against results of MLX 0.32.4.

use std::f64::consts::TAU;

use num_complex::{Complex32, Complex64};

use super::*;
use crate::{Operand, Shape};

/// Numbers that look random, in -1..1.
fn noise(shape: impl Into<Shape>) -> Array {
    let shape = shape.into();
    let number = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0;
    let data: Vec<f32> = (0..shape.size()).map(number).collect();
    Array::from_slice(&data, shape).unwrap()
}

fn complex(a: &Array) -> Vec<Complex64> {
    let values = astype(a, Dtype::Complex64).unwrap().to_vec::<Complex32>();
    let wide = |z: Complex32| Complex64::new(z.re.into(), z.im.into());
    values.unwrap().into_iter().map(wide).collect()
}

/// The definition, of one row.
fn dft(row: &[Complex64], inverse: bool) -> Vec<Complex64> {
    let n = row.len() as f64;
    let sign = if inverse { 1.0 } else { -1.0 };
    let scale = if inverse { n } else { 1.0 };
    let frequency = |k: usize| -> Complex64 {
        let term = |(j, x): (usize, &Complex64)| {
            x * Complex64::from_polar(1.0, sign * TAU * (j * k) as f64 / n)
        };
        row.iter().enumerate().map(term).sum::<Complex64>() / scale
    };
    (0..row.len()).map(frequency).collect()
}

fn assert_close(got: &[Complex64], want: &[Complex64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).norm() < 1e-5, "{got} {want}");
    }
}

#[test]
fn rows_are_cut_off_and_filled_up() {
    for n in [1, 4, 6, 9] {
        let x = noise([2, 6]);
        let rows: Vec<Vec<Complex64>> = complex(&x)
            .chunks(6)
            .map(|row| {
                let mut row = row.to_vec();
                row.resize(n, Complex64::ZERO);
                row
            })
            .collect();
        let whole: Vec<_> = rows.iter().flat_map(|row| dft(row, false)).collect();
        assert_close(&complex(&fft(&x, n, -1, Norm::Backward).unwrap()), &whole);
        let half = |row: &Vec<Complex64>| dft(row, false)[..n / 2 + 1].to_vec();
        let half: Vec<_> = rows.iter().flat_map(half).collect();
        let spectrum = rfft(&x, n, 1, Norm::Backward).unwrap();
        assert_close(&complex(&spectrum), &half);
        let back: Vec<_> = rows.iter().flat_map(|row| dft(row, true)).collect();
        assert_close(&complex(&ifft(&x, n, -1, Norm::Backward).unwrap()), &back);
        let again = irfft(&spectrum, n, -1, Norm::Backward).unwrap();
        assert_eq!(again.dtype(), Dtype::Float32);
        assert_close(&complex(&again), &rows.concat());
    }
}

#[test]
fn several_axes_are_one_after_the_other() {
    let x = noise([3, 4, 5]);
    let one = |x: &Array, axis| fft(x, None, axis, Norm::Backward).unwrap();
    let want = complex(&one(&one(&x, 0), 2));
    let got = fftn(&x, &[], [2, 0], Norm::Backward).unwrap();
    assert_close(&complex(&got), &want);
    let two = fft2(&x, None, [0, -1], Norm::Backward).unwrap();
    assert_close(&complex(&two), &want);
    let all = fftn(&x, &[], .., Norm::Backward).unwrap();
    assert_close(&complex(&all), &complex(&one(&got, 1)));
    let back = ifftn(&all, &[], .., Norm::Backward).unwrap();
    assert_close(&complex(&back), &complex(&x));
    let real = rfftn(&x, &[3, 4], [0, 1], Norm::Backward).unwrap();
    assert_eq!(**real.shape(), [3, 3, 5]);
    let back = irfftn(&real, &[3, 4], [0, 1], Norm::Backward).unwrap();
    assert_close(&complex(&back), &complex(&x));
    let odd = rfft2(&x, None, [1, 2], Norm::Backward).unwrap();
    let back = irfft2(&odd, [4, 5], [1, 2], Norm::Backward).unwrap();
    assert_close(&complex(&back), &complex(&x));
}

#[test]
fn norms_divide() {
    let x = noise([8]);
    let plain = complex(&fft(&x, None, -1, Norm::Backward).unwrap());
    for (norm, by) in [(Norm::Ortho, 8f64.sqrt()), (Norm::Forward, 8.0)] {
        let got = fft(&x, None, -1, norm).unwrap();
        let want: Vec<_> = plain.iter().map(|z| z / by).collect();
        assert_close(&complex(&got), &want);
        assert_close(&complex(&ifft(&got, None, -1, norm).unwrap()), &complex(&x));
        let half = rfft(&x, None, -1, norm).unwrap();
        assert_close(
            &complex(&irfft(&half, None, -1, norm).unwrap()),
            &complex(&x),
        );
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let x = noise([2, 3]);
    assert!(fft(&x, 0, -1, Norm::Backward).is_err());
    assert!(fft(&x, usize::MAX, -1, Norm::Backward).is_err());
    assert!(fft(&x, None, 2, Norm::Backward).is_err());
    assert!(fft2(&x, None, [1, -1], Norm::Backward).is_err());
    assert!(fftn(&x, &[2], .., Norm::Backward).is_err());
    assert!(irfft(&noise([1]), None, -1, Norm::Backward).is_err());
    assert!(fft(&noise([0]), None, -1, Norm::Backward).is_err());
    let scalar = Array::from(1.0f32);
    assert_eq!(
        fftn(&scalar, &[], .., Norm::Backward)
            .unwrap()
            .shape()
            .len(),
        0
    );
    assert!(fft(&scalar, None, 0, Norm::Backward).is_err());
    assert!(fftfreq(0, 1.0).is_err() && rfftfreq(3, 0.0).is_err());
    assert!(fftfreq(usize::MAX, 1.0).is_err());
}

#[test]
fn frequencies_and_shifts() {
    let odd = fftfreq(5, 1.0).unwrap();
    let want = [0.0, 0.2, 0.4, -0.4, -0.2];
    for (got, want) in odd.to_vec::<f32>().unwrap().into_iter().zip(want) {
        assert!((got - want).abs() < 1e-7);
    }
    let x = Array::from_slice(&[0, 1, 2, 3, 4, 5], [2, 3]).unwrap();
    let values = |x: Result<Array>| x.unwrap().to_vec::<i32>().unwrap();
    assert_eq!(values(fftshift(&x, ..)), [5, 3, 4, 2, 0, 1]);
    assert_eq!(values(fftshift(&x, [1, 1])), [1, 2, 0, 4, 5, 3]);
    let moved = fftshift(&x, ..).unwrap();
    assert_eq!(values(ifftshift(&moved, ..)), [0, 1, 2, 3, 4, 5]);
    assert!(fftshift(&x, 2).is_err());
}

/// Frames of a row, taken and transformed by hand.
fn frames(row: &[f64], size: usize, hop: usize, window: &[f64]) -> Vec<Vec<Complex64>> {
    let start = (size - window.len()) / 2;
    let weight = |i: usize| i.checked_sub(start).and_then(|i| window.get(i)).copied();
    let frame = |first: usize| {
        let part = row[first..first + size].iter().enumerate();
        let part: Vec<_> = part
            .map(|(i, x)| Complex64::from(x * weight(i).unwrap_or(0.0)))
            .collect();
        dft(&part, false)
    };
    (0..=row.len() - size).step_by(hop).map(frame).collect()
}

#[test]
fn short_time_transforms_take_frames() {
    let x = noise([2, 32]);
    let window = [0.1, 0.5, 1.0, 0.8, 0.4, 0.2];
    let narrow: Vec<f32> = window.iter().map(|&w| w as f32).collect();
    let given = Array::from_slice(&narrow, [6]).unwrap();
    for (size, hop, center) in [(8, 2, true), (9, 3, true), (7, 1, false)] {
        let half = if center { size / 2 } else { 0 };
        let options = Stft {
            n_fft: size,
            hop_length: Some(hop),
            window: Some(given.clone()),
            center,
            ..Stft::default()
        };
        let got = stft(&x, options.clone()).unwrap();
        let both = stft(
            &x,
            Stft {
                onesided: Some(false),
                ..options.clone()
            },
        )
        .unwrap();
        let [_, kept, count] = got.shape()[..] else {
            panic!()
        };
        assert_eq!((kept, both.shape()[1]), (size / 2 + 1, size));
        let (got, both) = (complex(&got), complex(&both));
        for (batch, row) in complex(&x).chunks(32).enumerate() {
            // Mirrored at both ends.
            let at = |i: isize| {
                let i = i.unsigned_abs();
                row[if i < 32 { i } else { 62 - i }].re
            };
            let padded: Vec<f64> = (0..32 + 2 * half)
                .map(|i| at(i as isize - half as isize))
                .collect();
            let want = frames(&padded, size, hop, &window);
            assert_eq!(want.len(), count);
            for (t, frame) in want.iter().enumerate() {
                for (k, want) in frame.iter().enumerate() {
                    let at = |rows: usize| (batch * rows + k) * count + t;
                    assert!((both[at(size)] - want).norm() < 1e-5);
                    assert!(k >= kept || (got[at(kept)] - want).norm() < 1e-5);
                }
            }
        }
    }
}

#[test]
fn signals_come_back_from_their_frames() {
    let x = noise([2, 32]);
    let window = ops::hamming(8).unwrap();
    for (center, onesided, norm) in [
        (true, true, Norm::Backward),
        (false, true, Norm::Ortho),
        (true, false, Norm::Forward),
    ] {
        let there = Stft {
            n_fft: 8,
            window: Some(window.clone()),
            center,
            norm,
            onesided: Some(onesided),
            ..Stft::default()
        };
        let back = Istft {
            window: Some(window.clone()),
            center,
            norm,
            onesided,
            ..Istft::default()
        };
        let spectrum = stft(&x, there).unwrap();
        let again = istft(&spectrum, back.clone()).unwrap();
        assert_eq!(again.dtype(), Dtype::Float32);
        assert_close(&complex(&again), &complex(&x));
        for length in [0, 20, 50] {
            let options = Istft {
                length: Some(length),
                ..back.clone()
            };
            let cut = istft(&spectrum, options).unwrap();
            assert_eq!(cut.shape()[1], length);
            // What lies behind the signal, where there is more, is made of its mirror image.
            let kept = length.min(32);
            let (cut, want) = (resize(&cut, 1, kept), resize(&again, 1, kept));
            assert_close(&complex(&cut.unwrap()), &complex(&want.unwrap()));
        }
    }
}

#[test]
fn frames_that_do_not_fit_are_refused() {
    let x = noise([32]);
    let with = |change: &dyn Fn(&mut Stft)| {
        let mut options = Stft {
            n_fft: 8,
            ..Stft::default()
        };
        change(&mut options);
        stft(&x, options).is_ok()
    };
    assert!(with(&|_| ()) && with(&|o| o.win_length = Some(6)));
    assert!(!with(&|o| o.n_fft = 0) && !with(&|o| o.hop_length = Some(0)));
    assert!(!with(&|o| o.n_fft = 3) && !with(&|o| o.n_fft = usize::MAX));
    assert!(!with(&|o| o.win_length = Some(9)));
    assert!(!with(&|o| o.window = Some(noise([1, 8]))));
    assert!(!with(&|o| (o.n_fft, o.center) = (33, false)));
    let some = |shape: &[usize], hop_length| {
        let options = Istft {
            hop_length,
            ..Istft::default()
        };
        istft(&noise(shape), options).is_ok()
    };
    assert!(some(&[5, 3], None) && some(&[2, 5, 3], Some(7)));
    assert!(!some(&[5], None) && !some(&[1, 3], None) && !some(&[5, 0], None));
    assert!(!some(&[5, 3], Some(0)) && !some(&[5, 3], Some(usize::MAX)));
    assert!(stft(&Array::from(1.0f32), Stft::default()).is_err());
    let constant = PadMode::Constant(Operand::Float(2.0));
    let options = Stft {
        n_fft: 8,
        pad_mode: constant,
        ..Stft::default()
    };
    let first = complex(&stft(&noise([32]), options).unwrap())[0].re;
    let sum: f64 = complex(&noise([32]))[..4].iter().map(|z| z.re).sum();
    assert!((first - sum - 8.0).abs() < 1e-5);
}
