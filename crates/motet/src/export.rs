//! Exporting functions: closures traced and written to `.mlxfn` files, which motet and MLX import.

mod plain;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use motet_core::array::Array;
use motet_core::compile::trace::{Signature, trace};
use motet_core::error::{Error, Result};
use motet_core::export::reader::ExportedFile;
use motet_core::shape::Spec;

use plain::plain;

/// Keyword inputs by name.
pub type Keywords = BTreeMap<String, Array>;

/// Traces `f` with inputs like these and writes it to a file. MLX's `export_function`.
///
/// `f` is called once, with placeholders of the inputs' shapes and dtypes; it cannot evaluate what
/// depends on them. Arrays that it captures are stored as constants where they have a value, and
/// with all that makes them where they are lazy. [`exporter`] has options and more signatures.
///
/// # Errors
/// What `f` returns; [`Unsupported`](crate::ErrorKind::Unsupported) for an operation that the
/// format cannot say; where the file cannot be written, which then is as it was.
///
/// ```
/// # use motet::{Array, ops};
/// # let path = std::env::temp_dir().join(format!("motet-doc-{}.mlxfn", std::process::id()));
/// let weight = Array::from_slice(&[3.0f32, 4.0], [2])?;
/// let scale = |x: &[Array]| Ok(vec![ops::multiply(&x[0], &weight)?]);
/// let example = Array::from_slice(&[1.0f32, 2.0], [2])?;
/// motet::export_function(&path, scale, &[example.clone()])?;
///
/// let imported = motet::import_function(&path)?;
/// assert_eq!(imported.call(&[example])?[0].to_vec::<f32>()?, [3.0, 8.0]);
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), motet::Error>(())
/// ```
pub fn export_function(
    path: impl AsRef<Path>,
    f: impl Fn(&[Array]) -> Result<Vec<Array>> + Send + Sync,
    inputs: &[Array],
) -> Result<()> {
    let f = |inputs: &[Array], _: &Keywords| f(inputs);
    let mut exporter = exporter(path, f, ExportOptions::default());
    exporter.call(inputs)?;
    exporter.close()
}

/// How functions are exported.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Inputs of calls need only match in dtype and number of dimensions. What `f` takes from a
    /// shape by itself stays as it was when it was traced.
    pub shapeless: bool,
    /// Text that is stored with the functions.
    pub metadata: String,
}

/// A file that gets a signature of `f` for each call of the exporter. MLX's `exporter`.
///
/// ```
/// # use motet::{Array, ExportOptions, Keywords, ops};
/// # let path = std::env::temp_dir().join(format!("motet-doc-e-{}.mlxfn", std::process::id()));
/// let sum = |x: &[Array], keywords: &Keywords| {
///     let bias = keywords.get("bias").unwrap_or(&x[0]);
///     Ok(vec![ops::add(&x[0], bias)?])
/// };
/// let (one, two) = (Array::from_slice(&[1.0f32], [1])?, Array::from_slice(&[2.0f32; 2], [2])?);
/// let mut exporter = motet::exporter(&path, sum, ExportOptions::default());
/// exporter.call(&[one.clone()])?;
/// exporter.call_with(&[one.clone()], &[("bias", two.clone())])?;
/// exporter.close()?;
///
/// let imported = motet::import_function(&path)?;
/// assert_eq!(imported.call(&[one.clone()])?[0].to_vec::<f32>()?, [2.0]);
/// let biased = imported.call_with(&[one], &[("bias", two)])?;
/// assert_eq!(biased[0].to_vec::<f32>()?, [3.0, 3.0]);
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), motet::Error>(())
/// ```
pub fn exporter<'f>(
    path: impl AsRef<Path>,
    f: impl Fn(&[Array], &Keywords) -> Result<Vec<Array>> + Send + Sync + 'f,
    options: ExportOptions,
) -> Exporter<'f> {
    Exporter {
        path: path.as_ref().to_owned(),
        function: Box::new(f),
        file: ExportedFile::new(options.shapeless, &options.metadata),
    }
}

/// Collects signatures of a function for a file, which [`close`](Exporter::close) writes. Dropped
/// without, it leaves no file.
#[must_use = "the file is written by close"]
pub struct Exporter<'f> {
    path: PathBuf,
    function: Box<Exported<'f>>,
    file: ExportedFile,
}

type Exported<'f> = dyn Fn(&[Array], &Keywords) -> Result<Vec<Array>> + Send + Sync + 'f;

impl Exporter<'_> {
    /// Traces the function with inputs like these.
    ///
    /// # Errors
    /// What the function returns; where it was traced with such inputs before.
    pub fn call(&mut self, inputs: &[Array]) -> Result<()> {
        self.call_with(inputs, &[])
    }

    /// Traces the function with positional and keyword inputs like these.
    ///
    /// # Errors
    /// As [`call`](Exporter::call); where a keyword occurs twice.
    pub fn call_with(&mut self, inputs: &[Array], keywords: &[(&str, Array)]) -> Result<()> {
        let named: BTreeMap<&str, &Array> = keywords.iter().map(|(k, v)| (*k, v)).collect();
        if named.len() != keywords.len() {
            return Err(Error::invalid("export", "a keyword occurs twice"));
        }
        let arrays = inputs.iter().chain(named.values().copied());
        let specs: Vec<Spec> = arrays.map(|array| array.spec().clone()).collect();
        let names: Vec<&str> = named.into_keys().collect();
        let functions = &mut self.file.functions;
        if functions.iter().any(|graph| graph.takes(&specs, &names)) {
            return Err(Error::invalid(
                "export",
                format!("the function was exported with this signature before: {specs:?}"),
            ));
        }
        let signature = Signature {
            inputs: specs,
            keywords: names.iter().map(|&name| name.to_owned()).collect(),
            shapeless: self.file.shapeless,
        };
        let graph = trace(signature, |placeholders| {
            let (positional, keywords) = placeholders.split_at(inputs.len());
            let names = names.iter().map(|&name| name.to_owned());
            let keywords = names.zip(keywords.iter().cloned()).collect();
            (self.function)(positional, &keywords)
        })?;
        functions.push(Arc::new(graph));
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an operation that the format cannot say;
    /// where the file cannot be written, which then is as it was.
    pub fn close(self) -> Result<()> {
        save(&self.file, &self.path)
    }
}

/// Writes a file that MLX can run on a CPU.
pub(crate) fn save(file: &ExportedFile, path: &Path) -> Result<()> {
    let functions = file.functions.iter().map(plain);
    ExportedFile {
        functions: functions.collect::<Result<_>>()?,
        metadata: file.metadata.clone(),
        version: file.version.clone(),
        shapeless: file.shapeless,
    }
    .save(path)
}
