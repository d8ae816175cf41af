//! Products that are computed together: their tiles are shared out among threads as those of one.

use std::ops::Range;

use motet_core::backend::{Launch, Step};
use motet_core::error::Result;
use motet_core::kernel::Part;
use motet_core::shape::Layout;
use motet_core::tensor::Tensor;
use smallvec::SmallVec;

use super::constant::ConstantStep;
use super::unexpected;
use crate::elementwise::Operands;

/// Several products with constant matrices.
pub(super) struct JoinedStep {
    products: Vec<JoinedProduct>,
    tiles: usize,
    /// Nanoseconds that a tile takes on average, about.
    ns: usize,
}

/// A product, and which of all operands and tiles are its own.
struct JoinedProduct {
    step: ConstantStep,
    inputs: Range<usize>,
    outputs: Range<usize>,
    tiles: Range<usize>,
}

impl JoinedStep {
    /// A step for products that can be [joined](super::joins).
    ///
    /// # Errors
    /// Memory for a packed matrix.
    pub(super) fn new(
        parts: &[Part],
        inputs: &[Layout],
        outputs: &[Layout],
        constants: &[Option<Tensor>],
    ) -> Result<JoinedStep> {
        let mut products = Vec::with_capacity(parts.len());
        let (mut first_input, mut first_output, mut tiles, mut ns) = (0, 0, 0, 0usize);
        for part in parts {
            let inputs_of = first_input..first_input + part.inputs;
            let outputs_of = first_output..first_output + part.outputs;
            let slice = (
                inputs.get(inputs_of.clone()),
                outputs.get(outputs_of.clone()),
            );
            let (Some(inputs), Some(outputs)) = slice else {
                return Err(unexpected("operands"));
            };
            let constants = constants.get(inputs_of.clone()).unwrap_or_default();
            let step = super::constant_step(&part.kernel, inputs, outputs, constants)?;
            let step = step.ok_or_else(|| unexpected("part of a joined kernel"))?;
            let own = tiles..tiles + step.tiling().tiles();
            ns = ns.saturating_add(own.len().saturating_mul(step.tiling().ns));
            (first_input, first_output, tiles) = (inputs_of.end, outputs_of.end, own.end);
            products.push(JoinedProduct {
                step,
                inputs: inputs_of,
                outputs: outputs_of,
                tiles: own,
            });
        }
        Ok(JoinedStep {
            products,
            tiles,
            ns: ns / tiles.max(1),
        })
    }
}

impl Step for JoinedStep {
    fn reads(&self, input: usize) -> bool {
        let mut products = self.products.iter();
        let own = products.find(|product| product.inputs.contains(&input));
        own.is_none_or(|product| product.step.reads(input - product.inputs.start))
    }

    fn writes_over(&self, input: usize, output: usize) -> bool {
        let mut products = self.products.iter();
        let own = products.find(|p| p.inputs.contains(&input) && p.outputs.contains(&output));
        own.is_some_and(|product| {
            let (input, output) = (input - product.inputs.start, output - product.outputs.start);
            product.step.writes_over(input, output)
        })
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let mut operands = SmallVec::<[_; 4]>::new();
        operands.resize_with(self.products.len(), Operands::default);
        let mut bound = SmallVec::<[_; 4]>::new();
        for (product, operands) in self.products.iter().zip(&mut operands) {
            let own = Launch {
                inputs: &launch.inputs[product.inputs.clone()],
                outputs: &launch.outputs[product.outputs.clone()],
                ..*launch
            };
            bound.push(product.step.bind(&own, operands)?);
        }
        launch.pool.for_each_tile(self.tiles, self.ns, &|tile| {
            let number = self.products.partition_point(|p| p.tiles.end <= tile);
            bound[number].tile(tile - self.products[number].tiles.start);
        });
        Ok(())
    }
}
