//! Decides where every value lies: views are folded into places, copies put in where a kernel or a
//! view cannot take a layout.

use std::collections::HashMap;

use smallvec::{SmallVec, smallvec};

use crate::backend::Backend;
use crate::compile::executor::see;
use crate::compile::ir::{Ir, Kind, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Kernel;
use crate::ops::View;
use crate::shape::{Layout, Spec};
use crate::tensor::Tensor;

/// Copies of constants are made at build time if they are at most this many times as large as
/// what they copy.
const PACKED_GROWTH: usize = 4;

/// The memory that a value lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Root {
    /// An input of the call, row-major.
    Input(usize),
    /// A tensor of the plan, at whatever address.
    Constant(usize),
    /// Memory of a call that a kernel writes, row-major.
    Temporary(usize),
}

/// Where and how a value lies: `offset` bytes from the root's first element.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) root: Root,
    pub(crate) offset: usize,
    pub(crate) layout: Layout,
}

/// A kernel and the places of its operands.
pub(crate) struct PlacedKernel {
    pub(crate) name: String,
    pub(crate) kernel: Kernel,
    pub(crate) inputs: SmallVec<[Place; 4]>,
    pub(crate) outputs: SmallVec<[Place; 1]>,
}

/// An [`Ir`] with all values in places and no views left.
pub(crate) struct Placed {
    pub(crate) kernels: Vec<PlacedKernel>,
    pub(crate) constants: Vec<Tensor>,
    /// The bytes of each temporary.
    pub(crate) temporaries: Vec<usize>,
    pub(crate) inputs: Vec<Spec>,
    /// The alignment that each input's views need.
    pub(crate) alignments: Vec<usize>,
    pub(crate) outputs: Vec<Place>,
}

/// `pack` makes a row-major copy of a constant.
pub(crate) fn place(
    ir: Ir,
    backend: &dyn Backend,
    pack: &dyn Fn(&Tensor) -> Result<Tensor>,
) -> Result<Placed> {
    let specs: Vec<Spec> = ir.inputs.iter().map(|&v| ir.values[v].clone()).collect();
    let mut placer = Placer {
        places: vec![None; ir.values.len()],
        copies: HashMap::new(),
        pack,
        placed: Placed {
            kernels: Vec::with_capacity(ir.steps.len()),
            constants: Vec::new(),
            temporaries: Vec::new(),
            alignments: specs.iter().map(|spec| spec.dtype.size()).collect(),
            inputs: specs,
            outputs: Vec::new(),
        },
    };
    for (index, &value) in ir.inputs.iter().enumerate() {
        placer.places[value] = Some(Place {
            root: Root::Input(index),
            offset: 0,
            layout: ir.values[value].layout(),
        });
    }
    for (value, tensor) in &ir.constants {
        placer.places[*value] = Some(placer.placed.constant(tensor.clone()));
    }
    for step in ir.steps {
        match step.kind {
            Kind::View(view) => {
                let (&[input], &[output]) = (&step.inputs[..], &step.outputs[..]) else {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        step.name,
                        "a view is one of one",
                    ));
                };
                let place = placer.view(&step.name, &view, input, &ir.values[output])?;
                placer.places[output] = Some(place);
            }
            Kind::Kernel(kernel) => {
                let mut inputs = SmallVec::new();
                for (index, &input) in step.inputs.iter().enumerate() {
                    let place = placer.place_of(input)?;
                    let accepted = backend.accepts(&kernel, index, &place.layout);
                    inputs.push(if accepted {
                        place
                    } else {
                        placer.row_major(place)?
                    });
                }
                let mut outputs = SmallVec::new();
                for &output in &step.outputs {
                    let place = placer.placed.temporary(&ir.values[output]);
                    placer.places[output] = Some(place.clone());
                    outputs.push(place);
                }
                placer.placed.kernels.push(PlacedKernel {
                    name: step.name,
                    kernel,
                    inputs,
                    outputs,
                });
            }
        }
    }
    for &output in &ir.outputs {
        let place = placer.place_of(output)?;
        placer.placed.outputs.push(place);
    }
    Ok(placer.placed)
}

/// The error of a view that reaches outside of what it views.
pub(crate) fn outside(name: &str) -> Error {
    Error::invalid(name, "the view reaches outside of the array's memory")
}

/// The error of a view that a row-major layout does not allow.
pub(crate) fn not_viewable(name: &str) -> Error {
    Error::new(ErrorKind::Internal, name, "no view of a row-major array")
}

struct Placer<'a> {
    places: Vec<Option<Place>>,
    /// Row-major copies that there are already.
    copies: HashMap<Place, Place>,
    pack: &'a dyn Fn(&Tensor) -> Result<Tensor>,
    placed: Placed,
}

impl Placer<'_> {
    fn place_of(&self, value: Value) -> Result<Place> {
        self.places[value].clone().ok_or_else(|| {
            Error::invalid("plan", format!("value {value} is used before it is made"))
        })
    }

    fn view(&mut self, name: &str, view: &View, input: Value, output: &Spec) -> Result<Place> {
        let place = self.place_of(input)?;
        if let Some(seen) = self.placed.see(name, view, &place, output)? {
            return Ok(seen);
        }
        let copy = self.row_major(place)?;
        let seen = self.placed.see(name, view, &copy, output)?;
        seen.ok_or_else(|| not_viewable(name))
    }

    /// A row-major copy: of a constant now, else by a step.
    fn row_major(&mut self, place: Place) -> Result<Place> {
        if let Some(copy) = self.copies.get(&place) {
            return Ok(copy.clone());
        }
        let spec = place.layout.spec();
        let copy = match self.placed.packable(&place) {
            Some(tensor) => {
                let packed = (self.pack)(&tensor)?;
                self.placed.constant(packed)
            }
            None => {
                let copy = self.placed.temporary(&spec);
                self.placed.kernels.push(PlacedKernel {
                    name: "Copy".to_owned(),
                    kernel: Kernel::Copy,
                    inputs: smallvec![place.clone()],
                    outputs: smallvec![copy.clone()],
                });
                copy
            }
        };
        self.copies.insert(place, copy.clone());
        Ok(copy)
    }
}

impl Placed {
    /// The constant that a place shows; `None` where it shows none.
    pub(crate) fn shown(&self, place: &Place) -> Option<Tensor> {
        let Root::Constant(index) = place.root else {
            return None;
        };
        self.constants[index].view(place.layout.clone(), place.offset as isize)
    }

    fn constant(&mut self, tensor: Tensor) -> Place {
        let layout = tensor.layout.clone();
        self.constants.push(tensor);
        Place {
            root: Root::Constant(self.constants.len() - 1),
            offset: 0,
            layout,
        }
    }

    fn temporary(&mut self, spec: &Spec) -> Place {
        self.temporaries.push(spec.bytes());
        Place {
            root: Root::Temporary(self.temporaries.len() - 1),
            offset: 0,
            layout: spec.layout(),
        }
    }

    /// The constant that a place shows, if a copy of it should be kept in the plan.
    fn packable(&self, place: &Place) -> Option<Tensor> {
        let Root::Constant(index) = place.root else {
            return None;
        };
        let shown = self.shown(place)?;
        let bytes = self.constants[index]
            .spec()
            .bytes()
            .saturating_mul(PACKED_GROWTH);
        (place.layout.spec().bytes() <= bytes).then_some(shown)
    }

    /// The view of a place, or `None` where its layout or alignment does not allow it.
    fn see(
        &mut self,
        name: &str,
        view: &View,
        place: &Place,
        output: &Spec,
    ) -> Result<Option<Place>> {
        if let Root::Constant(_) = place.root {
            let shown = self.shown(place).ok_or_else(|| outside(name))?;
            let seen = see(name, view, &shown, output)?;
            return Ok(seen.map(|tensor| self.constant(tensor)));
        }
        let Some((layout, bytes)) = view.apply(&place.layout, output) else {
            return Ok(None);
        };
        let offset = place.offset.checked_add_signed(bytes);
        let seen = offset.map(|offset| Place {
            root: place.root,
            offset,
            layout,
        });
        let seen = seen
            .filter(|seen| self.holds(seen))
            .ok_or_else(|| outside(name))?;
        let size = seen.layout.dtype.size();
        if !seen.offset.is_multiple_of(size) {
            return Ok(None);
        }
        if let Root::Input(index) = seen.root {
            self.alignments[index] = self.alignments[index].max(size);
        }
        Ok(Some(seen))
    }

    /// Whether a place lies within its root.
    fn holds(&self, place: &Place) -> bool {
        let bytes = match place.root {
            Root::Input(index) => self.inputs[index].bytes(),
            Root::Temporary(index) => self.temporaries[index],
            Root::Constant(_) => return true,
        };
        if place.layout.shape.size() == 0 {
            return true;
        }
        let Some((low, high)) = place.layout.extent() else {
            return false;
        };
        let first = place.offset.checked_add_signed(low);
        let last = place.offset.checked_add_signed(high);
        first.is_some() && last.is_some_and(|last| last < bytes)
    }
}
