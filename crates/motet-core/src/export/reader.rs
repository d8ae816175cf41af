//! Reads `.mlxfn` files: the stream of bytes that MLX's `export_function` writes, from 0.22 on.
//!
//! A file is hostile until it is read: every count is bounded by the bytes that are left before
//! anything is allocated, every id must be defined before it is used, and every node's recorded
//! outputs must be what its primitive makes of its inputs. Whatever passes is safe to execute.
//!
//! Constants stay in the mapped file, at whatever address: the format does not align them. Who reads
//! them asks for the aligned form ([`readable`](crate::compile::constants::readable)).
#![cfg(not(loom))]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::Mmap;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::export::codec::{Reader, Version};
use crate::graph::{Graph, Node, ValueId};
use crate::memory::{Buffer, heap};
use crate::ops::Primitive;
use crate::shape::Spec;
use crate::tensor::Tensor;

/// The first version of MLX that writes these files.
const OLDEST: Version = Version::new(0, 22, 0);

/// The version that added the metadata to the header.
const METADATA: Version = Version::new(0, 32, 1);

/// The fewest bytes of a function: five counts.
const FUNCTION_BYTES: usize = 40;

/// The fewest bytes of a tape entry: an id and two flags.
const ENTRY_BYTES: usize = 10;

/// What a `.mlxfn` file holds.
pub struct ExportedFile {
    /// The version of MLX that wrote it.
    pub version: String,
    /// Whether inputs need match in dtype and rank only.
    pub shapeless: bool,
    /// What the user wrote into it; empty in files of MLX before 0.32.1.
    pub metadata: String,
    /// The functions, in the order in which a call tries them.
    pub functions: Vec<Arc<Graph>>,
}

impl ExportedFile {
    /// Reads the file at `path`, and keeps it mapped as long as a constant of it lives. It must
    /// not be changed in place meanwhile; replacing or deleting it is fine.
    ///
    /// # Errors
    /// [`ErrorKind::File`](crate::error::ErrorKind::File) where it cannot be read or is damaged, [`Unsupported`](crate::error::ErrorKind::Unsupported) where
    /// it needs an operation that is not implemented.
    pub fn open(path: &Path) -> Result<ExportedFile> {
        let origin = path.display().to_string();
        let failed = |e: std::io::Error| Error::file(&origin, format!("cannot open the file: {e}"));
        let file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(Error::file(
                &origin,
                "cannot open the file: it is not a regular file",
            ));
        }
        // SAFETY: the mapping is private and read-only. Whoever changes a file that is in use
        // changes numbers only: nothing read from it after parsing is an index or a length, and
        // booleans are copied.
        let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(failed)?);
        read(&map, Buffer::mapped(Arc::clone(&map)), &origin)
    }

    /// Reads the bytes of a file, of which errors speak as `origin`.
    ///
    /// # Errors
    /// As [`ExportedFile::open`].
    pub fn parse(bytes: Vec<u8>, origin: &str) -> Result<ExportedFile> {
        let bytes = Arc::new(bytes);
        let address = NonNull::from(&bytes[..]).cast();
        // SAFETY: the bytes stay where they are and as they are as long as the vector lives, which
        // the buffer shares, and nobody has `&mut` to it.
        let buffer = unsafe { Buffer::foreign(address, bytes.len(), Box::new(Arc::clone(&bytes))) };
        read(&bytes, buffer, origin)
    }
}

impl fmt::Display for ExportedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapeless = if self.shapeless { ", shapeless" } else { "" };
        writeln!(f, "MLX {}{shapeless}", self.version)?;
        for (index, function) in self.functions.iter().enumerate() {
            writeln!(f, "function {index}:\n{function}")?;
        }
        Ok(())
    }
}

/// Reads `bytes`, which are those of `buffer`.
fn read(bytes: &[u8], buffer: Buffer, origin: &str) -> Result<ExportedFile> {
    let buffer = Arc::new(buffer);
    let mut reader = Reader::new(bytes);
    let (text, version) = version(&mut reader).map_err(|e| e.in_file(origin, "header"))?;
    let parse = |version| {
        let mut parser = Parser {
            reader: reader.clone(),
            origin,
            version,
            buffer: &buffer,
            constants: HashMap::new(),
        };
        let file = parser.file(&text)?;
        Ok((file, parser.reader.remaining()))
    };
    let own = parse(version);
    // A development build has the layout of its version or the one before; the right one fits to
    // the last byte. Releases may have bytes after the last function, as MLX allows.
    if text.contains(".dev") && !matches!(own, Ok((_, 0))) {
        let older = parse(before(version));
        if own.is_err() && older.is_ok() || matches!(older, Ok((_, 0))) {
            return older.map(|(file, _)| file);
        }
    }
    own.map(|(file, _)| file).map_err(|e: Error| {
        if version <= Version::NEWEST {
            return e;
        }
        let known = Version::NEWEST;
        e.context(
            origin,
            format!("MLX {version} wrote it; files up to MLX {known} are known"),
        )
    })
}

fn version(reader: &mut Reader<'_>) -> Result<(String, Version)> {
    let text = reader.string()?;
    let version = Version::parse(&text)?;
    if version < OLDEST {
        return Err(reader.error(format!(
            "got version {text}, the first of the format is {OLDEST}"
        )));
    }
    Ok((text, version))
}

/// A version with the layout that `version` succeeds, if it brought a new one.
fn before(version: Version) -> Version {
    let Version {
        major,
        minor,
        patch,
    } = version;
    match (minor, patch) {
        (0, 0) => Version::new(major.saturating_sub(1), u32::MAX, u32::MAX),
        (_, 0) => Version::new(major, minor - 1, u32::MAX),
        _ => Version::new(major, minor, patch - 1),
    }
}

/// A pass over a file in one layout.
struct Parser<'a> {
    reader: Reader<'a>,
    origin: &'a str,
    version: Version,
    buffer: &'a Arc<Buffer>,
    /// The constants so far. They keep their id across functions; nothing else does.
    constants: HashMap<u64, Tensor>,
}

/// A function that is being read.
struct Scope {
    graph: Graph,
    /// The values defined so far. The first definition of an id holds.
    ids: HashMap<u64, ValueId>,
    /// The lane of each stream: its index, its device's type and index.
    lanes: HashMap<[i32; 3], usize>,
}

impl Scope {
    fn define(&mut self, id: u64, spec: Spec) -> ValueId {
        let value = self.graph.values.len();
        self.graph.values.push(spec);
        self.ids.entry(id).or_insert(value);
        value
    }

    fn resolve(&self, what: &str, index: usize, id: u64) -> Result<ValueId> {
        self.ids.get(&id).copied().ok_or_else(|| {
            damaged(format!(
                "{what} {index} has id {id:#x}, which nothing before it defines"
            ))
        })
    }
}

impl Parser<'_> {
    fn file(&mut self, version: &str) -> Result<ExportedFile> {
        let (count, shapeless, metadata) =
            header(&mut self.reader, self.version).map_err(|e| e.in_file(self.origin, "header"))?;
        let mut functions = Vec::with_capacity(count);
        for index in 0..count {
            functions.push(Arc::new(self.function(index, shapeless)?));
        }
        Ok(ExportedFile {
            version: version.to_owned(),
            shapeless,
            metadata,
            functions,
        })
    }

    fn function(&mut self, function: usize, shapeless: bool) -> Result<Graph> {
        let origin = self.origin;
        let (mut scope, outputs, length) = signature(&mut self.reader, shapeless)
            .map_err(|e| e.in_file(origin, format!("function {function}, its signature")))?;
        for entry in 0..length {
            let start = self.reader.position();
            self.entry(&mut scope).map_err(|e| {
                let place = format!("function {function}, tape entry {entry}, from byte {start}");
                e.in_file(origin, place)
            })?;
        }
        for (index, &id) in outputs.iter().enumerate() {
            let value = scope.resolve("output", index, id).map_err(|e| {
                // MLX merges equal multi-output operations wrongly and then loses outputs.
                let end = self.reader.position();
                let hint = "MLX loses outputs of operations that occur twice; call it once";
                e.in_file(
                    origin,
                    format!("function {function}, which ends at byte {end}; {hint}"),
                )
            })?;
            scope.graph.outputs.push(value);
        }
        Ok(scope.graph)
    }

    fn entry(&mut self, scope: &mut Scope) -> Result<()> {
        let id = self.reader.u64()?;
        if self.reader.bool()? {
            return self.node(id, scope);
        }
        if self.reader.bool()? {
            return self.constant(id, scope);
        }
        // The inputs are the first values.
        match scope.ids.get(&id) {
            Some(&value) if value < scope.graph.inputs.len() => Ok(()),
            _ => Err(damaged(format!(
                "id {id:#x} should be an input and is none"
            ))),
        }
    }

    fn node(&mut self, id: u64, scope: &mut Scope) -> Result<()> {
        let r = &mut self.reader;
        let mut inputs = Vec::new();
        for (index, id) in r.vec_u64()?.into_iter().enumerate() {
            inputs.push(scope.resolve("input", index, id)?);
        }
        let lane = lane(r, &mut scope.lanes)?;
        let name = r.string()?;
        let primitive = Primitive::decode(&name, r, self.version)?;
        let (ids, recorded) = recorded_outputs(r, id)?;
        if !scope.graph.shapeless {
            let specs: Vec<Spec> = inputs
                .iter()
                .map(|&id| scope.graph.values[id].clone())
                .collect();
            primitive.infer(&specs, Some(&recorded))?;
        }
        let outputs = ids
            .into_iter()
            .zip(recorded)
            .map(|(id, spec)| scope.define(id, spec))
            .collect();
        scope.graph.nodes.push(Node {
            primitive,
            inputs,
            outputs,
            lane,
        });
        Ok(())
    }

    fn constant(&mut self, id: u64, scope: &mut Scope) -> Result<()> {
        let tensor = match self.constants.entry(id) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(new) => {
                let spec = self.reader.spec()?;
                let offset = self.reader.position();
                let bytes = self.reader.bytes(spec.bytes())?;
                new.insert(constant(self.buffer, bytes, offset, &spec)?)
                    .clone()
            }
        };
        if !scope.ids.contains_key(&id) {
            let value = scope.define(id, tensor.spec());
            scope.graph.constants.push((value, tensor));
        }
        Ok(())
    }
}

/// What follows the version: the number of functions, whether they are shapeless, the metadata.
fn header(r: &mut Reader<'_>, version: Version) -> Result<(usize, bool, String)> {
    let count = r.i32()?;
    let shapeless = r.bool()?;
    let metadata = if version >= METADATA {
        r.string()?
    } else {
        String::new()
    };
    let most = r.remaining() / FUNCTION_BYTES;
    match usize::try_from(count) {
        Ok(count) if count <= most => Ok((count, shapeless, metadata)),
        _ => Err(r.error(format!("got {count} functions, there is room for {most}"))),
    }
}

/// What a function starts with, up to its tape: its names and inputs, the ids of its outputs, the
/// length of the tape.
fn signature(r: &mut Reader<'_>, shapeless: bool) -> Result<(Scope, Vec<u64>, usize)> {
    let mut scope = Scope {
        graph: Graph {
            values: Vec::new(),
            inputs: Vec::new(),
            keywords: Vec::new(),
            constants: Vec::new(),
            nodes: Vec::new(),
            outputs: Vec::new(),
            shapeless,
        },
        ids: HashMap::new(),
        lanes: HashMap::new(),
    };
    let keywords = list(r, 8, Reader::string)?;
    let ids = r.vec_u64()?;
    let specs = list(r, 13, Reader::spec)?;
    if ids.len() != specs.len() {
        return Err(r.error(format!(
            "got {} input ids for {} inputs",
            ids.len(),
            specs.len()
        )));
    }
    if keywords.len() > ids.len() {
        return Err(r.error(format!(
            "got {} keywords for {} inputs",
            keywords.len(),
            ids.len()
        )));
    }
    if !keywords.is_sorted_by(|a, b| a < b) {
        return Err(r.error(format!(
            "keywords are not in ascending order: got {keywords:?}"
        )));
    }
    for (id, spec) in ids.into_iter().zip(specs) {
        let value = scope.define(id, spec);
        scope.graph.inputs.push(value);
    }
    scope.graph.keywords = keywords;
    let outputs = r.vec_u64()?;
    Ok((scope, outputs, r.count(ENTRY_BYTES)?))
}

/// The ids and specs of all outputs of a node, in the primitive's order.
fn recorded_outputs(r: &mut Reader<'_>, id: u64) -> Result<(Vec<u64>, Vec<Spec>)> {
    let siblings = r.u64()?;
    if siblings == 0 {
        return Ok((vec![id], vec![r.spec()?]));
    }
    let ids = r.vec_u64()?;
    let shapes = list(r, 8, Reader::shape)?;
    let dtypes = list(r, 5, Reader::dtype)?;
    let lengths = [ids.len(), shapes.len(), dtypes.len()];
    if lengths
        .iter()
        .any(|&length| length as u64 != siblings.saturating_add(1))
    {
        return Err(r.error(format!(
            "got {} ids, {} shapes, {} dtypes for an output with {siblings} siblings",
            lengths[0], lengths[1], lengths[2]
        )));
    }
    if !ids.contains(&id) {
        return Err(r.error(format!("id {id:#x} is not among the outputs")));
    }
    let specs: Vec<Spec> = shapes
        .into_iter()
        .zip(dtypes)
        .map(|(shape, dtype)| Spec { shape, dtype })
        .collect();
    for spec in &specs {
        spec.shape.check(spec.dtype)?;
    }
    Ok((ids, specs))
}

fn lane(r: &mut Reader<'_>, lanes: &mut HashMap<[i32; 3], usize>) -> Result<usize> {
    let stream = [r.i32()?, r.i32()?, r.i32()?];
    if !matches!(stream[1], 0 | 1) {
        return Err(r.error(format!(
            "stream has device type {}, expected 0 or 1",
            stream[1]
        )));
    }
    let next = lanes.len();
    Ok(*lanes.entry(stream).or_insert(next))
}

/// A counted list of items that take at least `least` bytes each.
fn list<'a, T>(
    r: &mut Reader<'a>,
    least: usize,
    read: impl Fn(&mut Reader<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..r.count(least)?).map(|_| read(r)).collect()
}

fn damaged(message: String) -> Error {
    Error::file("mlxfn", message)
}

/// A constant whose `bytes` lie at `offset` in the file.
fn constant(file: &Arc<Buffer>, bytes: &[u8], offset: usize, spec: &Spec) -> Result<Tensor> {
    // Kernels read a bool as `bool`, which in a mapped file anything might turn into another byte.
    if spec.dtype != Dtype::Bool {
        return Ok(Tensor {
            buffer: Arc::clone(file),
            offset,
            layout: spec.layout(),
        });
    }
    let tensor = Tensor::allocate(spec, heap())?;
    let address = tensor.buffer.as_ptr();
    // SAFETY: the new buffer has this many bytes, is not shared yet and does not overlap the file.
    let copied = unsafe {
        address.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        std::slice::from_raw_parts_mut(address, bytes.len())
    };
    for byte in copied {
        *byte = (*byte != 0).into();
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests;
