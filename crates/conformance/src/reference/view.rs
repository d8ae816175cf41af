//! Views: which element of the input each element of the output is.

use motet_core::ops::View;
use motet_core::shape::Spec;

use super::{number, places};
use crate::value::{Expected, Value};

/// The elements of a view.
pub(super) fn look(view: &View, input: &Value, output: &Spec) -> Vec<Expected> {
    let shape = &input.spec.shape;
    let at = |place: Vec<usize>| input.elements[number(shape, &place)].into();
    match view {
        View::Identity | View::Reshape => input.elements.iter().map(|&e| e.into()).collect(),
        View::Transpose(axes) => {
            let from = |place: Vec<usize>| {
                let mut from = vec![0; place.len()];
                for (&axis, place) in axes.iter().zip(place) {
                    from[axis] = place;
                }
                from
            };
            places(&output.shape).map(from).map(at).collect()
        }
        View::Broadcast => {
            let added = output.shape.len() - shape.len();
            let from = |place: Vec<usize>| {
                let kept = place[added..].iter().zip(shape.iter());
                kept.map(|(&place, &dim)| if dim == 1 { 0 } else { place })
                    .collect()
            };
            places(&output.shape).map(from).map(at).collect()
        }
        View::Slice { start, strides } => {
            let from = |place: Vec<usize>| {
                let steps = place.iter().zip(start).zip(strides);
                steps
                    .map(|((&place, &start), &stride)| {
                        start.wrapping_add_signed(place as isize * stride)
                    })
                    .collect()
            };
            places(&output.shape).map(from).map(at).collect()
        }
        View::AsStrided { strides, offset } => {
            let from = |place: Vec<usize>| {
                let steps = place.iter().zip(strides);
                let step: isize = steps.map(|(&place, &stride)| place as isize * stride).sum();
                input.elements[offset.wrapping_add_signed(step)].into()
            };
            places(&output.shape).map(from).collect()
        }
        View::Bitcast => {
            let tensor = input.tensor().expect("it came from one");
            let bytes = motet_io::row_major(&tensor);
            let seen = motet_io::from_row_major(output, &bytes).expect("the sizes agree");
            Value::of(&seen)
                .elements
                .into_iter()
                .map(Expected::from)
                .collect()
        }
    }
}
