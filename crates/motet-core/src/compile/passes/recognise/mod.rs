//! Recognition of computations that were written as chains of small operations: an export on a CPU
//! has them, since MLX's `fast` functions are chains there. One kernel takes the place of each.
//!
//! A file per form. Each looks, with a [`Matcher`], at what a step's result is made of, and says what
//! to do instead. The chain's own steps go with what is dead; what else uses them keeps them.

use super::dead_code;
use crate::compile::ir::{Ir, Kind, Step, Value};
use crate::kernel::Kernel;
use crate::ops::View;
use crate::program::{Binary, Program, Unary, expr};
use crate::shape::{Shape, Spec};

mod attention;
mod convolution;
mod matcher;
mod norm;
mod pool;
mod quantized;
mod rope;
mod rotate;
mod softmax;

use matcher::Matcher;

/// Writes to `rewrite` what computes the root, where it has the form that this looks for.
type Recogniser = fn(&Matcher<'_>, Value, &mut Rewrite) -> Option<()>;

/// All forms, those first that are part of others.
pub(crate) fn recognise(ir: Ir) -> Ir {
    let forms: &[Recogniser] = &[
        softmax::softmax,
        softmax::log_sum_exp,
        norm::norm,
        rope::rope,
        attention::attention,
        rotate::rotate,
        pool::pool,
        convolution::convolution,
        quantized::dequantize,
        quantized::product,
    ];
    forms.iter().fold(ir, |ir, form| with(ir, *form))
}

fn with(ir: Ir, form: Recogniser) -> Ir {
    let matcher = Matcher::new(&ir);
    let mut rewrite = Rewrite {
        values: ir.values.clone(),
        steps: Vec::new(),
    };
    let mut replaced = Vec::new();
    // From the end: what is part of a form that was found is not looked at by itself.
    let mut live = vec![false; ir.values.len()];
    ir.outputs.iter().for_each(|&v| live[v] = true);
    for (number, step) in ir.steps.iter().enumerate().rev() {
        if !step.outputs.iter().any(|&v| live[v]) {
            continue;
        }
        let found = match step.outputs[..] {
            [root] => form(&matcher, root, &mut rewrite),
            _ => None,
        };
        let steps = std::mem::take(&mut rewrite.steps);
        let kept = match found {
            Some(()) => &steps[..],
            None => std::slice::from_ref(step),
        };
        for &input in kept.iter().flat_map(|step| &step.inputs) {
            // Not what the new steps make themselves.
            if let Some(live) = live.get_mut(input) {
                *live = true;
            }
        }
        if found.is_some() {
            replaced.push((number, steps));
        }
    }
    let mut steps = Vec::with_capacity(ir.steps.len());
    for (number, step) in ir.steps.into_iter().enumerate() {
        match replaced.pop_if(|(at, _)| *at == number) {
            Some((_, instead)) => steps.extend(instead),
            None => steps.push(step),
        }
    }
    dead_code(Ir {
        values: rewrite.values,
        steps,
        ..ir
    })
}

/// The steps that take the place of one, and the values between them.
struct Rewrite {
    values: Vec<Spec>,
    steps: Vec<Step>,
}

impl Rewrite {
    fn spec(&self, value: Value) -> &Spec {
        &self.values[value]
    }

    fn value(&mut self, spec: Spec) -> Value {
        self.values.push(spec);
        self.values.len() - 1
    }

    fn step(&mut self, name: &str, kind: Kind, inputs: &[Value], output: Value) {
        self.steps.push(Step {
            name: name.to_owned(),
            kind,
            inputs: inputs.into(),
            outputs: [output].into_iter().collect(),
        });
    }

    /// A new value that a kernel makes.
    fn kernel(&mut self, name: &str, kernel: Kernel, inputs: &[Value], spec: Spec) -> Value {
        let output = self.value(spec);
        self.step(name, Kind::Kernel(kernel), inputs, output);
        output
    }

    /// A function of one value.
    fn unary(&mut self, op: Unary, x: Value) -> Value {
        let spec = self.spec(x).clone();
        let program = Program::from_expr(&expr::unary(op, expr::x()), &[spec.dtype]);
        self.kernel(&format!("{op:?}"), Kernel::Elementwise(program), &[x], spec)
    }

    /// A function of two values of one shape and dtype.
    fn binary(&mut self, op: Binary, x: Value, y: Value) -> Value {
        let spec = self.spec(x).clone();
        let function = expr::binary(op, expr::x(), expr::y());
        let program = Program::from_expr(&function, &[spec.dtype; 2]);
        self.kernel(
            &format!("{op:?}"),
            Kernel::Elementwise(program),
            &[x, y],
            spec,
        )
    }

    /// The kernel that makes the root.
    fn root(&mut self, name: &str, kernel: Kernel, inputs: &[Value], root: Value) {
        self.step(name, Kind::Kernel(kernel), inputs, root);
    }

    /// The kernel that makes the root in another shape.
    fn root_as(&mut self, name: &str, kernel: Kernel, inputs: &[Value], spec: Spec, root: Value) {
        if *self.spec(root) == spec {
            return self.root(name, kernel, inputs, root);
        }
        let result = self.kernel(name, kernel, inputs, spec);
        self.step("View", Kind::View(View::Reshape), &[result], root);
    }

    /// Another way to see a value.
    fn view(&mut self, view: View, input: Value, shape: Shape) -> Value {
        let output = self.value(Spec::new(shape, self.spec(input).dtype));
        self.step("View", Kind::View(view), &[input], output);
        output
    }

    /// The value in this shape, itself if it has it.
    fn reshaped(&mut self, value: Value, shape: &[usize]) -> Value {
        match *self.spec(value).shape == *shape {
            true => value,
            false => self.view(View::Reshape, value, Shape::new(shape)),
        }
    }
}
