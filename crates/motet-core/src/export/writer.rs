//! Writes `.mlxfn` files: what MLX's `import_function` reads, in the newest layout that is known.
//!
//! Ids are the places of values in the order in which the file defines them, counted through all
//! functions; constants keep theirs wherever they occur again, by which they are stored once.
#![cfg(not(loom))]

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::export::codec::{Version, Writer};
use crate::export::reader::ExportedFile;
use crate::graph::{Graph, Node, ValueId};
use crate::ops::Primitive;
use crate::ops::elementwise::AsType;
use crate::shape::Layout;
use crate::tensor::Tensor;

impl ExportedFile {
    /// A file without functions.
    pub fn new(shapeless: bool, metadata: &str) -> ExportedFile {
        ExportedFile {
            version: Version::NEWEST.to_string(),
            shapeless,
            metadata: metadata.to_owned(),
            functions: Vec::new(),
        }
    }

    /// Writes the functions as a file of the newest version, whatever this one's is.
    ///
    /// # Errors
    /// [`Unsupported`](crate::error::ErrorKind::Unsupported) where MLX cannot store a primitive;
    /// [`File`](crate::error::ErrorKind::File) where `out` cannot be written to.
    pub fn write(&self, out: &mut dyn Write) -> Result<()> {
        let mut writer = FileWriter {
            out,
            pending: Vec::new(),
            values: 0,
            constants: HashMap::new(),
            stored: HashSet::new(),
        };
        writer.header(self)?;
        for (index, function) in self.functions.iter().enumerate() {
            let in_function = |e: Error| e.context("export", format!("function {index}"));
            writer.function(function).map_err(in_function)?;
        }
        Ok(())
    }

    /// Writes the file at `path`. It appears there when it is whole: where writing fails, what was
    /// there before stays.
    ///
    /// # Errors
    /// As [`write`](ExportedFile::write).
    pub fn save(&self, path: &Path) -> Result<()> {
        static SAVED: AtomicU64 = AtomicU64::new(0);
        let number = SAVED.fetch_add(1, Ordering::Relaxed);
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}-{number}.part", std::process::id()));
        let part = path.with_file_name(name);
        let written = File::create_new(&part)
            .map_err(cannot_write)
            .and_then(|file| {
                let mut out = BufWriter::new(file);
                self.write(&mut out)?;
                out.flush().map_err(cannot_write)
            })
            .and_then(|()| fs::rename(&part, path).map_err(cannot_write));
        written.map_err(|e| {
            // Nothing is there to remove where it could not be made.
            let _ = fs::remove_file(&part);
            e.context(path.display().to_string(), "the file is not written")
        })
    }
}

/// A file that is being written.
struct FileWriter<'a> {
    out: &'a mut dyn Write,
    /// Bytes that were not given to `out` yet.
    pending: Vec<u8>,
    /// The number of values in the functions before this one.
    values: u64,
    /// The ids of the constants so far.
    constants: HashMap<(usize, usize, Layout), u64>,
    /// The constants whose elements are in the file.
    stored: HashSet<u64>,
}

impl FileWriter<'_> {
    fn header(&mut self, file: &ExportedFile) -> Result<()> {
        let count = i32::try_from(file.functions.len())
            .map_err(|_| Error::invalid("export", "there are too many functions for a file"))?;
        let mut w = Writer(&mut self.pending);
        w.string(&Version::NEWEST.to_string());
        w.i32(count);
        w.bool(file.shapeless);
        w.string(&file.metadata);
        self.flush()
    }

    fn function(&mut self, graph: &Graph) -> Result<()> {
        let ids = self.ids(graph);
        let of = |values: &[ValueId]| -> Vec<u64> { values.iter().map(|&v| ids[v]).collect() };
        let mut w = Writer(&mut self.pending);
        w.u64(graph.keywords.len() as u64);
        graph.keywords.iter().for_each(|name| w.string(name));
        w.vec_u64(&of(&graph.inputs));
        w.u64(graph.inputs.len() as u64);
        graph
            .inputs
            .iter()
            .for_each(|&value| w.spec(&graph.values[value]));
        w.vec_u64(&of(&graph.outputs));

        let used: HashSet<ValueId> = graph.used().collect();
        let inputs = graph.inputs.iter().filter(|value| used.contains(value));
        let inputs: Vec<u64> = inputs.map(|&value| ids[value]).collect();
        w.u64((inputs.len() + graph.constants.len() + graph.nodes.len()) as u64);
        for id in inputs {
            w.u64(id);
            w.bool(false);
            w.bool(false);
        }
        // Values are numbered in the order in which they are defined.
        let mut constants = graph.constants.iter().peekable();
        for node in &graph.nodes {
            while let Some((value, tensor)) =
                constants.next_if(|(value, _)| *value < node.outputs[0])
            {
                self.constant(ids[*value], tensor)?;
            }
            self.node(node, graph, &of)?;
        }
        for (value, tensor) in constants {
            self.constant(ids[*value], tensor)?;
        }
        self.flush()
    }

    /// The ids of all values of a function.
    fn ids(&mut self, graph: &Graph) -> Vec<u64> {
        let first = self.values;
        self.values += graph.values.len() as u64;
        let mut ids: Vec<u64> = (first..self.values).collect();
        for (value, tensor) in &graph.constants {
            ids[*value] = *self
                .constants
                .entry(tensor.identity())
                .or_insert(ids[*value]);
        }
        ids
    }

    fn constant(&mut self, id: u64, tensor: &Tensor) -> Result<()> {
        let mut w = Writer(&mut self.pending);
        w.u64(id);
        w.bool(false);
        w.bool(true);
        if self.stored.insert(id) {
            w.spec(&tensor.spec());
            self.flush()?;
            let tensor = tensor.contiguous()?;
            self.out
                .write_all(&tensor.row_major())
                .map_err(cannot_write)?;
        }
        Ok(())
    }

    fn node(
        &mut self,
        node: &Node,
        graph: &Graph,
        ids: &impl Fn(&[ValueId]) -> Vec<u64>,
    ) -> Result<()> {
        if !node.primitive.is_stored() {
            return Err(Error::unsupported(
                node.primitive.name(),
                "MLX's files have no such primitive, so it cannot be written to one",
            ));
        }
        let outputs = ids(&node.outputs);
        let specs = node.outputs.iter().map(|&value| &graph.values[value]);
        let primitive = as_mlx_runs_it(node, graph);
        let mut w = Writer(&mut self.pending);
        w.u64(outputs[0]);
        w.bool(true);
        w.vec_u64(&ids(&node.inputs));
        // The stream: its index, its device's type (the CPU) and index.
        w.i32(node.lane as i32);
        w.i32(0);
        w.i32(0);
        w.string(primitive.name());
        primitive.encode(w.0);
        w.u64(outputs.len() as u64 - 1);
        if outputs.len() == 1 {
            specs.for_each(|spec| w.spec(spec));
        } else {
            w.vec_u64(&outputs);
            w.u64(outputs.len() as u64);
            specs.clone().for_each(|spec| w.shape(&spec.shape));
            w.u64(outputs.len() as u64);
            specs.for_each(|spec| w.dtype(spec.dtype));
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        self.out.write_all(&self.pending).map_err(cannot_write)?;
        self.pending.clear();
        Ok(())
    }
}

/// MLX crashes on a reduction over dimensions of one alone, and never writes it: what is left of it is
/// the conversion to the dtype of the result.
fn as_mlx_runs_it<'a>(node: &'a Node, graph: &Graph) -> Cow<'a, Primitive> {
    let [input, output] = [node.inputs.first(), node.outputs.first()]
        .map(|value| value.map(|&value| &graph.values[value]));
    match (&node.primitive, input, output) {
        (Primitive::Reduce(_), Some(input), Some(output))
            if input.shape == output.shape && !graph.shapeless =>
        {
            let dtype = output.dtype;
            Cow::Owned(AsType { dtype }.into())
        }
        (primitive, ..) => Cow::Borrowed(primitive),
    }
}

fn cannot_write(error: io::Error) -> Error {
    Error::file("export", format!("cannot write the file: {error}"))
}

#[cfg(test)]
mod tests;
